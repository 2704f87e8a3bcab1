//! Runs an async iterator into a buffer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::{PyException, PyRuntimeError, PyStopAsyncIteration, PyStopIteration};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3::{PyTraverseError, PyVisit};

use crate::base_sender::BaseSender;
use crate::buffer::Buffer;
use crate::cpython::{Sent, is_async_iterator, send_none, steps_of, steps_of_next};
use crate::json::wrong_type;
use crate::once::intern;
use crate::stepping::throw;

#[doc = doc!("Pump")]
#[pyclass(frozen, module = "sserpent._core.compiled")]
pub struct Pump {
    iterator: Py<PyAny>,
    buffer: Py<Buffer>,
    sender: Py<BaseSender>,
    explain: Py<PyAny>,
    position: Mutex<Position>,
    suspended: AtomicBool,
    stopping: AtomicBool,
}

#[derive(Default)]
struct Position {
    /// The steps that the iterator is suspended in; None at a yield.
    steps: Option<Py<PyAny>>,
    /// The arguments of `throw`, for the next step.
    error: Option<Py<PyTuple>>,
}

/// How far the iterator has come.
enum Run<'py> {
    /// It waits for this.
    Suspended(Bound<'py, PyAny>),
    /// It is at a yield, or still suspended, and the task has something to do.
    Paused,
    Ended,
}

#[pymethods]
impl Pump {
    #[new]
    fn new(
        iterator: Bound<'_, PyAny>,
        buffer: Py<Buffer>,
        sender: Py<BaseSender>,
        explain: Py<PyAny>,
    ) -> PyResult<Self> {
        if !is_async_iterator(&iterator) {
            return Err(wrong_type(
                "'iterator' must be an async iterator",
                &iterator,
            ));
        }
        Ok(Self {
            iterator: iterator.unbind(),
            buffer,
            sender,
            explain,
            position: Mutex::default(),
            suspended: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        })
    }

    #[doc = doc!("Pump.suspended")]
    #[getter]
    fn suspended(&self) -> bool {
        self.suspended.load(Ordering::Relaxed)
    }

    #[doc = doc!("Pump.at_yield")]
    #[getter]
    fn at_yield(&self) -> bool {
        self.lock().steps.is_none()
    }

    #[doc = doc!("Pump.stop")]
    fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    #[doc = doc!("Pump.throw_next")]
    #[pyo3(signature = (error, /))]
    fn throw_next(&self, error: Bound<'_, PyAny>) -> PyResult<()> {
        let error = PyTuple::new(error.py(), [error])?.unbind();
        let replaced = self.lock().error.replace(error);
        drop(replaced); // after the lock: that may run Python code
        Ok(())
    }

    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf.get().suspended.store(false, Ordering::Relaxed);
        slf
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let error = self.lock().error.take();
        if error.is_none() && !self.stopping.load(Ordering::Relaxed) && self.sender.get().is_busy()
        {
            return outcome(py, Ok(Run::Paused));
        }
        outcome(py, self.run(py, error.map(|error| error.into_bound(py))))
    }

    #[pyo3(signature = (*error))]
    fn throw<'py>(&self, error: Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        let py = error.py();
        outcome(py, self.run(py, Some(error)))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let suspended = self.lock().steps.take();
        let Some(steps) = suspended else {
            return Ok(());
        };
        match steps.into_bound(py).getattr_opt(intern!(py, "close"))? {
            Some(close) => close.call0().map(drop),
            None => Ok(()),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.iterator)?;
        visit.call(&self.buffer)?;
        visit.call(&self.sender)?;
        visit.call(&self.explain)?;
        match self.position.try_lock() {
            Ok(position) => {
                visit.call(&position.steps)?;
                visit.call(&position.error)
            }
            Err(_) => Ok(()),
        }
    }
}

impl Pump {
    /// Runs the iterator from where it is.
    fn run<'py>(&self, py: Python<'py>, error: Option<Bound<'py, PyTuple>>) -> PyResult<Run<'py>> {
        let iterator = self.iterator.bind(py);
        let suspended = self.lock().steps.take();
        let begun = match (suspended, error) {
            (Some(steps), error) => go_on(steps.into_bound(py), error),
            (None, None) => steps_of_next(iterator).map(start),
            (None, Some(error)) => steps_of_throw(iterator, error).map(start),
        };
        let (mut steps, mut sent) = match begun {
            Ok(begun) => begun,
            Err(error) => return ended_by(py, error),
        };
        loop {
            match sent {
                Ok(Sent::Yielded(awaited)) => {
                    let replaced = self.lock().steps.replace(steps.unbind());
                    drop(replaced); // after the lock: that may run Python code
                    self.suspended.store(true, Ordering::Relaxed);
                    if self.buffer.get().pending() > 0 {
                        BaseSender::flush(self.sender.bind(py))?;
                    }
                    return Ok(Run::Suspended(awaited));
                }
                Ok(Sent::Returned(item)) => {
                    if self.push(&item)? || self.stopping.load(Ordering::Relaxed) {
                        return Ok(Run::Paused);
                    }
                }
                Err(error) => return ended_by(py, error),
            }
            steps = match steps_of_next(iterator) {
                Ok(steps) => steps,
                Err(error) => return ended_by(py, error),
            };
            sent = send_none(&steps);
        }
    }

    fn push(&self, item: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = item.py();
        self.buffer.get().push(item).map_err(|error| {
            if !error.is_instance_of::<PyException>(py) {
                return error;
            }
            let cause = error.cause(py);
            match self.explain.call1(py, (error, item)) {
                Ok(explained) => {
                    let explained = PyErr::from_value(explained.into_bound(py));
                    explained.set_cause(py, cause);
                    explained
                }
                Err(failure) => failure,
            }
        })
    }

    /// Held for a move at most, never while Python code can run.
    fn lock(&self) -> MutexGuard<'_, Position> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns what `await` reads from a step.
fn outcome<'py>(py: Python<'py>, run: PyResult<Run<'py>>) -> PyResult<Bound<'py, PyAny>> {
    match run {
        Ok(Run::Suspended(awaited)) => Ok(awaited),
        Ok(Run::Paused) => Err(PyStopIteration::new_err(false)),
        Ok(Run::Ended) => Err(PyStopIteration::new_err(true)),
        // As https://peps.python.org/pep-0479/ has it: `await` would take it for an end.
        Err(error) if error.is_instance_of::<PyStopIteration>(py) => {
            let raised = PyRuntimeError::new_err("generator raised StopIteration");
            raised.set_cause(py, Some(error));
            Err(raised)
        }
        Err(error) => Err(error),
    }
}

/// How far an iterator is that has raised an error.
#[cold]
fn ended_by(py: Python<'_>, error: PyErr) -> PyResult<Run<'_>> {
    if error.is_instance_of::<PyStopAsyncIteration>(py) {
        return Ok(Run::Ended);
    }
    Err(error)
}

/// Steps of the iterator, and the outcome of the last one.
type Step<'py> = (Bound<'py, PyAny>, PyResult<Sent<'py>>);

fn start(steps: Bound<'_, PyAny>) -> Step<'_> {
    let sent = send_none(&steps);
    (steps, sent)
}

/// Goes on where the iterator is suspended.
fn go_on<'py>(steps: Bound<'py, PyAny>, error: Option<Bound<'py, PyTuple>>) -> PyResult<Step<'py>> {
    let sent = match error {
        None => send_none(&steps),
        Some(error) if steps.hasattr(intern!(steps.py(), "throw"))? => throw(&steps, error),
        // As `await` does with an iterator that is no generator.
        Some(error) => Err(PyErr::from_value(error.get_item(0)?)),
    };
    Ok((steps, sent))
}

/// The steps of `athrow`; raises the error itself where an iterator has none.
fn steps_of_throw<'py>(
    iterator: &Bound<'py, PyAny>,
    error: Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    match iterator.getattr_opt(intern!(iterator.py(), "athrow"))? {
        Some(athrow) => steps_of(&athrow.call1(error)?),
        None => Err(PyErr::from_value(error.get_item(0)?)),
    }
}
