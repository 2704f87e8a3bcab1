//! Stepping a coroutine by hand.

use pyo3::prelude::*;

use crate::cpython::{Sent, send_none};

/// Runs a coroutine to its next suspension.
///
/// Returns:
///     What it waits for; `default` if it has ended, whatever it returned.
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
