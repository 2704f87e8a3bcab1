//! Stepping a coroutine by hand.

use pyo3::prelude::*;

use crate::cpython::{Sent, send_none};

/// See the stub for the Python documentation.
#[pyfunction]
#[pyo3(signature = (coroutine, default, /))]
pub fn step<'py>(
    coroutine: &Bound<'py, PyAny>,
    default: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    match send_none(coroutine)? {
        Sent::Yielded(awaited) => Ok(awaited),
        Sent::Returned => Ok(default.clone()),
    }
}
