//! The buffer between a stream's generator and its connection.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use pyo3::{PyTraverseError, PyVisit};

use crate::event::{self, ServerSentEvent};
use crate::json::{self, ItemSchema};
use sserpent_wire::frame::{self, Data, FieldError, Fields};

/// An idle stream keeps no more than this of a buffer that a burst made large.
const MAX_IDLE_CAPACITY: usize = 1024;

/// See the stub for the Python documentation.
#[pyclass(frozen, module = "sserpent._core.compiled")]
pub struct Buffer {
    item_schema: Option<Py<ItemSchema>>,
    max_pending: usize,
    max_age: Duration,
    pending: Mutex<Pending>,
}

struct Pending {
    stream: Vec<u8>,
    /// Since when the generator has run without a hand-over, as far as is known: from the oldest
    /// pending event, or from the last `restart_age`.
    since: Option<Instant>,
}

#[pymethods]
impl Buffer {
    #[new]
    #[pyo3(signature = (item_schema=None, *, max_pending=65_536, max_age=0.002))]
    fn new(
        item_schema: Option<Py<ItemSchema>>,
        max_pending: usize,
        max_age: f64,
    ) -> PyResult<Self> {
        let max_age = Duration::try_from_secs_f64(max_age).map_err(|_| {
            PyValueError::new_err("'max_age' must be a finite, non-negative number of seconds")
        })?;
        Ok(Self {
            item_schema,
            max_pending,
            max_age,
            pending: Mutex::new(Pending {
                stream: Vec::new(),
                since: Some(Instant::now()),
            }),
        })
    }

    fn push(&self, item: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = item.py();
        let mut due = false;
        let mut append = |fields: &Fields<'_>| {
            due = self.append(fields).map_err(event::refusal)?;
            Ok(())
        };
        if let Ok(event) = item.cast::<ServerSentEvent>() {
            event.get().with_fields(py, append)?;
        } else if json::is_fastapi_event(item)? {
            event::with_foreign_fields(item, append)?;
        } else {
            let json = match &self.item_schema {
                Some(schema) => schema.get().json_of(item)?,
                None => json::of_item(item)?,
            };
            append(&Fields {
                data: Some(Data::Json(json.as_bytes())),
                ..Fields::default()
            })?;
        }
        Ok(due)
    }

    fn take<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let stream = {
            let mut pending = self.lock();
            pending.since = None;
            std::mem::take(&mut pending.stream)
        };
        let bytes = PyBytes::new(py, &stream);
        if stream.capacity() <= MAX_IDLE_CAPACITY {
            self.give_back(stream);
        }
        bytes
    }

    fn restart_age(&self) {
        self.lock().since = Some(Instant::now());
    }

    #[getter]
    fn pending(&self) -> usize {
        self.lock().stream.len()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.item_schema)
    }
}

impl Buffer {
    /// Appends one event; whether it is time to hand the pending bytes over.
    fn append(&self, fields: &Fields<'_>) -> Result<bool, FieldError> {
        let mut pending = self.lock();
        frame::append_event(&mut pending.stream, fields)?;
        let now = Instant::now();
        let since = *pending.since.get_or_insert(now);
        Ok(pending.stream.len() >= self.max_pending || now.duration_since(since) >= self.max_age)
    }

    /// Reuses a small allocation, unless another thread has pushed meanwhile.
    fn give_back(&self, mut stream: Vec<u8>) {
        stream.clear();
        let mut pending = self.lock();
        if pending.stream.capacity() == 0 {
            pending.stream = stream;
        }
    }

    /// Held for a copy at most, never while Python code can run, so it cannot deadlock with the
    /// GIL. Nothing that runs under it can panic halfway, so a poisoned lock is still sound.
    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
