//! Counts what a stream takes of its events, for metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use memchr::memchr_iter;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use pyo3::{PyTraverseError, PyVisit};

use crate::buffer::Buffer;
use crate::once::intern;

#[doc = doc!("Meter")]
#[pyclass(frozen, module = "sserpent._core.compiled")]
pub struct Meter {
    pending: Py<PyAny>,
    on_first_event: Py<PyAny>,
    takes: AtomicU64,
    events: AtomicU64,
    bytes: AtomicU64,
}

#[pymethods]
impl Meter {
    #[new]
    fn new(pending: Py<PyAny>, on_first_event: Py<PyAny>) -> Self {
        Self {
            pending,
            on_first_event,
            takes: AtomicU64::new(0),
            events: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    #[doc = doc!("Meter.take")]
    pub fn take<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let pending = self.pending.bind(py);
        let (taken, found) = if let Ok(buffer) = pending.cast_exact::<Buffer>() {
            buffer.get().take_counted(py)
        } else {
            let taken = pending
                .call_method0(intern!(py, "take"))?
                .cast_into::<PyBytes>()?;
            let found = blank_lines(taken.as_bytes());
            (taken, found)
        };
        let size = taken.as_bytes().len() as u64;
        if size > 0 {
            self.takes.fetch_add(1, Relaxed);
            self.bytes.fetch_add(size, Relaxed);
            if self.events.fetch_add(found, Relaxed) == 0 && found > 0 {
                self.on_first_event.call0(py)?;
            }
        }
        Ok(taken)
    }

    #[doc = doc!("Meter.at_line_start")]
    #[getter]
    fn at_line_start<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.pending.bind(py).getattr(intern!(py, "at_line_start"))
    }

    #[doc = doc!("Meter.pending")]
    #[getter]
    fn pending<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.pending.bind(py).getattr(intern!(py, "pending"))
    }

    #[doc = doc!("Meter.counted")]
    #[getter]
    fn counted(&self) -> (u64, u64, u64) {
        (
            self.takes.load(Relaxed),
            self.events.load(Relaxed),
            self.bytes.load(Relaxed),
        )
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.pending)?;
        visit.call(&self.on_first_event)
    }
}

/// How many events these are: each block of an event stream ends with a blank line, and nothing
/// within one has one.
fn blank_lines(stream: &[u8]) -> u64 {
    let mut count = 0;
    let mut second = usize::MAX;
    for newline in memchr_iter(b'\n', stream) {
        if newline == second {
            count += 1;
            second = usize::MAX;
        } else {
            second = newline + 1;
        }
    }
    count
}
