//! Sends pending frames in the turn of the caller.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict};
use pyo3::{PyTraverseError, PyVisit};

use crate::buffer::Buffer;
use crate::cpython::Sent;
use crate::meter::Meter;
use crate::once::{Once, intern};
use crate::stepping::sent_as;

#[doc = doc!("BaseSender")]
#[pyclass(frozen, subclass, module = "sserpent._core.compiled")]
pub struct BaseSender {
    #[doc = doc!("BaseSender.pending")]
    #[pyo3(get)]
    pending: Py<PyAny>,
    loop_: Py<PyAny>,
    /// The loop's, bound once.
    time: Py<PyAny>,
    #[doc = doc!("BaseSender.context")]
    #[pyo3(get)]
    context: Py<PyAny>,
    current_tasks: Py<PyAny>,
    state: Mutex<State>,
}

struct State {
    send: Py<PyAny>,
    in_progress: Option<Py<PyAny>>,
    is_open: bool,
    cancellations: u32,
    sent_at: f64,
}

#[pymethods]
impl BaseSender {
    #[new]
    #[pyo3(signature = (send, pending, loop_, context, current_tasks))]
    #[pyo3(text_signature = "(send, pending, loop, context, current_tasks)")]
    fn new(
        send: Py<PyAny>,
        pending: Py<PyAny>,
        loop_: Bound<'_, PyAny>,
        context: Py<PyAny>,
        current_tasks: Py<PyAny>,
    ) -> PyResult<Self> {
        let time = loop_.getattr(intern!(loop_.py(), "time"))?;
        Ok(Self {
            pending,
            context,
            current_tasks,
            state: Mutex::new(State {
                send,
                in_progress: None,
                is_open: false,
                cancellations: 0,
                sent_at: time.call0()?.extract()?,
            }),
            time: time.unbind(),
            loop_: loop_.unbind(),
        })
    }

    #[doc = doc!("BaseSender.flush")]
    pub fn flush(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, sender) = (slf.py(), slf.get());
        let send = {
            let state = sender.lock();
            if state.in_progress.is_some() {
                return Ok(());
            }
            state.is_open.then(|| state.send.clone_ref(py))
        };
        let Some(send) = send else {
            slf.call_method0(intern!(py, "_flush_closed"))?;
            return Ok(());
        };
        let taken = sender.take(py)?;
        if taken.as_bytes().is_empty() {
            return Ok(());
        }
        let message = body_message(py)?;
        message.set_item(intern!(py, "body"), taken)?;
        let sending = send.bind(py).call1((message,))?;
        sender.set_in_progress(Some(sending.clone().unbind()));
        let outcome = sent_as(
            slf,
            sender.current_tasks.bind(py),
            sender.loop_.bind(py),
            sender.context.bind(py),
            &sending,
            None,
        );
        match outcome {
            Ok(Sent::Returned(_)) => {
                if !sender.note_end(py)? {
                    slf.call_method0(intern!(py, "_finish"))?;
                }
            }
            Ok(Sent::Yielded(awaited)) => {
                slf.call_method1(intern!(py, "_wait_for"), (awaited,))?;
            }
            Err(error) => {
                slf.call_method1(intern!(py, "_failed"), (error,))?;
            }
        }
        Ok(())
    }

    #[doc = doc!("BaseSender.loop")]
    #[getter]
    fn r#loop(&self, py: Python<'_>) -> Py<PyAny> {
        self.loop_.clone_ref(py)
    }

    #[doc = doc!("BaseSender.send")]
    #[getter]
    fn send(&self, py: Python<'_>) -> Py<PyAny> {
        self.lock().send.clone_ref(py)
    }

    #[setter]
    fn set_send(&self, send: Py<PyAny>) {
        let replaced = std::mem::replace(&mut self.lock().send, send);
        drop(replaced); // after the lock: that may run Python code
    }

    #[doc = doc!("BaseSender.in_progress")]
    #[getter]
    fn in_progress(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let state = self.lock();
        state.in_progress.as_ref().map(|send| send.clone_ref(py))
    }

    #[setter]
    fn set_in_progress(&self, send: Option<Py<PyAny>>) {
        let replaced = std::mem::replace(&mut self.lock().in_progress, send);
        drop(replaced); // as above
    }

    #[doc = doc!("BaseSender.is_open")]
    #[getter]
    fn is_open(&self) -> bool {
        self.lock().is_open
    }

    #[setter]
    fn set_is_open(&self, is_open: bool) {
        self.lock().is_open = is_open;
    }

    #[doc = doc!("BaseSender.cancellations")]
    #[getter]
    fn cancellations(&self) -> u32 {
        self.lock().cancellations
    }

    #[setter]
    fn set_cancellations(&self, cancellations: u32) {
        self.lock().cancellations = cancellations;
    }

    #[doc = doc!("BaseSender.sent_at")]
    #[getter]
    fn sent_at(&self) -> f64 {
        self.lock().sent_at
    }

    #[setter]
    fn set_sent_at(&self, sent_at: f64) {
        self.lock().sent_at = sent_at;
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.pending)?;
        visit.call(&self.loop_)?;
        visit.call(&self.time)?;
        visit.call(&self.context)?;
        visit.call(&self.current_tasks)?;
        match self.state.try_lock() {
            Ok(state) => {
                visit.call(&state.send)?;
                visit.call(&state.in_progress)
            }
            Err(_) => Ok(()),
        }
    }
}

impl BaseSender {
    pub fn is_busy(&self) -> bool {
        self.lock().in_progress.is_some()
    }

    /// In one step for the core's own classes.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let pending = self.pending.bind(py);
        if let Ok(buffer) = pending.cast_exact::<Buffer>() {
            Ok(buffer.get().take(py))
        } else if let Ok(meter) = pending.cast_exact::<Meter>() {
            meter.get().take(py)
        } else {
            let taken = pending.call_method0(intern!(py, "take"))?;
            Ok(taken.cast_into::<PyBytes>()?)
        }
    }

    /// Returns false where the `send` was cancelled.
    fn note_end(&self, py: Python<'_>) -> PyResult<bool> {
        let now = self.time.bind(py).call0()?.extract()?;
        let ended = {
            let mut state = self.lock();
            if state.cancellations > 0 {
                return Ok(false);
            }
            state.sent_at = now;
            state.in_progress.take()
        };
        drop(ended); // after the lock: that may run Python code
        Ok(true)
    }

    /// Held for a move at most, never while Python code can run.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ASGI message for a part of the body, but for the part. A copy takes half of what it takes to
/// make a dict.
fn body_message(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    static MESSAGE: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let message = MESSAGE.try_once(py, || -> PyResult<_> {
        let message = PyDict::new(py);
        message.set_item(intern!(py, "type"), "http.response.body")?;
        message.set_item(intern!(py, "body"), py.None())?;
        message.set_item(intern!(py, "more_body"), true)?;
        Ok(message.unbind())
    })?;
    message.bind(py).copy()
}
