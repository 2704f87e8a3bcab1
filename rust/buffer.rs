//! The buffer between a stream's generator and its connection.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use memchr::memmem;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyInt, PyMemoryView, PyString};
use pyo3::{PyTraverseError, PyVisit};

use crate::declared::DeclaredEvents;
use crate::event::{self, ServerSentEvent};
use crate::json::{self, ItemSchema, Json, Noted, TwoMembers};
use crate::rules::{ItemRules, Number};
use sserpent_wire::frame::{self, Data, FieldError, Fields};

/// An idle stream keeps no more than this of a buffer that a burst made large.
const MAX_IDLE_CAPACITY: usize = 1024;

/// Longer than any stream: a century, which can be added to any time.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

#[doc = doc!("Buffer")]
#[pyclass(frozen, module = "sserpent._core.compiled")]
pub struct Buffer {
    schema: Option<Schema>,
    max_pending: usize,
    max_age: Duration,
    framed: bool,
    rules: Option<Py<ItemRules>>,
    pending: Mutex<Pending>,
}

/// The declaration of a route's items.
#[derive(FromPyObject)]
enum Schema {
    Items(Py<ItemSchema>),
    Events(Py<DeclaredEvents>),
}

struct Pending {
    stream: Vec<u8>,
    /// How many events these are.
    events: u64,
    /// When the generator will have run for `max_age` without a hand-over, as far as is known:
    /// from the oldest pending event, or from the last `restart_age`.
    due_at: Option<Instant>,
    /// The last bytes that were taken, as far as they may be those of a blank line. Kept of what
    /// was framed already alone.
    last: Vec<u8>,
    /// Kept for rules alone.
    kept: Option<Box<Kept>>,
}

/// The events that a buffer remembers, for rules.
struct Kept {
    keeps_first: bool,
    first: Vec<u8>,
    /// The last event with data, unless that is pending.
    last: Vec<u8>,
    /// Where it is in what is pending.
    last_at: Option<Range<usize>>,
    count: u64,
    /// Whether an event was left out after `last`.
    has_left_out: bool,
}

#[pymethods]
impl Buffer {
    #[new]
    #[pyo3(
        signature = (
            item_schema = None,
            *,
            max_pending = Size(65_536),
            max_age = 0.002,
            framed = false,
            rules = None,
            count = 0,
        ),
        text_signature = "(item_schema=None, *, max_pending=65_536, max_age=0.002, framed=False, rules=None, count=0)"
    )]
    fn new(
        item_schema: Option<Schema>,
        max_pending: Size,
        max_age: f64,
        framed: bool,
        rules: Option<Py<ItemRules>>,
        count: u64,
    ) -> Self {
        let kept = rules.as_ref().map(|rules| {
            Box::new(Kept {
                keeps_first: rules.get().keeps_first,
                first: Vec::new(),
                last: Vec::new(),
                last_at: None,
                count,
                has_left_out: false,
            })
        });
        let max_age = Duration::try_from_secs_f64(max_age).map_or(LONGEST, |age| age.min(LONGEST));
        Self {
            schema: item_schema,
            max_pending: max_pending.0,
            max_age,
            framed,
            rules,
            pending: Mutex::new(Pending {
                stream: Vec::new(),
                events: 0,
                due_at: Some(Instant::now() + max_age),
                last: Vec::new(),
                kept,
            }),
        }
    }

    #[doc = doc!("Buffer.push")]
    pub fn push(&self, item: &Bound<'_, PyAny>) -> PyResult<bool> {
        if let Some(rules) = &self.rules {
            return self.push_by(rules.get(), item);
        }
        let py = item.py();
        if self.framed {
            if let Some(due) = self.push_ready(item, None)? {
                return Ok(due);
            }
        }
        let mut due = false;
        let mut append = |fields: &Fields<'_>| {
            due = self.append_fields(fields).map_err(event::refusal)?;
            Ok(())
        };
        if let Some(Schema::Events(declared)) = &self.schema {
            declared.get().with_fields(item, append)?;
        } else if let Ok(event) = item.cast::<ServerSentEvent>() {
            ServerSentEvent::with_fields(event, append)?;
        } else if json::is_fastapi_event(item)? {
            event::from_fastapi(item)?.with_own_fields(py, append)?;
        } else {
            let json = match &self.schema {
                Some(Schema::Items(schema)) => Json::Compact(schema.get().json_of(item)?),
                _ => Json::Written(json::item_json(item, false)?),
            };
            append(&Fields {
                data: Some(json.as_data()?),
                ..Fields::default()
            })?;
        }
        Ok(due)
    }

    #[doc = doc!("Buffer.append")]
    fn append(&self, event: &[u8]) {
        let mut pending = self.lock();
        pending.events += 1;
        pending.stream.extend_from_slice(event);
        self.is_due(&mut pending);
    }

    #[doc = doc!("Buffer.kept")]
    fn kept<'py>(&self, py: Python<'py>) -> (Bound<'py, PyBytes>, Bound<'py, PyBytes>, u64, bool) {
        let (first, last, count, has_left_out) = {
            let pending = self.lock();
            match &pending.kept {
                None => (Vec::new(), Vec::new(), 0, false),
                Some(kept) => (
                    kept.first.clone(),
                    kept.last_in(&pending.stream).to_vec(),
                    kept.count,
                    kept.has_left_out && kept.last_at.is_none(),
                ),
            }
        };
        let (first, last) = (PyBytes::new(py, &first), PyBytes::new(py, &last));
        (first, last, count, has_left_out)
    }

    #[doc = doc!("Buffer.take")]
    pub fn take<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        self.take_all(py, false).0
    }

    #[doc = doc!("Buffer.at_line_start")]
    #[getter]
    fn at_line_start(&self) -> bool {
        self.lock().last.last().is_none_or(|&last| last == b'\n')
    }

    #[doc = doc!("Buffer.at_event_start")]
    #[getter]
    fn at_event_start(&self) -> bool {
        if !self.framed {
            return true;
        }
        let pending = self.lock();
        let end = last_of(&pending.last, &pending.stream);
        let ends_event = |line_ends: &[u8]| end.ends_with(line_ends);
        matches!(&*end, b"" | b"\n" | b"\r" | b"\r\n")
            || ends_event(b"\n\n")
            || ends_event(b"\r\r")
            || ends_event(b"\n\r\n")
    }

    #[doc = doc!("Buffer.restart_age")]
    fn restart_age(&self) {
        self.lock().due_at = Some(Instant::now() + self.max_age);
    }

    #[doc = doc!("Buffer.pending")]
    #[getter]
    pub fn pending(&self) -> usize {
        self.lock().stream.len()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.rules)?;
        match &self.schema {
            None => Ok(()),
            Some(Schema::Items(schema)) => visit.call(schema),
            Some(Schema::Events(declared)) => visit.call(declared),
        }
    }
}

impl Kept {
    /// The last event with data, where `stream` is what is pending.
    fn last_in<'a>(&'a self, stream: &'a [u8]) -> &'a [u8] {
        match &self.last_at {
            Some(at) => stream.get(at.clone()).unwrap_or_default(),
            None => &self.last,
        }
    }

    /// Notes an event with data, which is the end of what is pending.
    fn note(&mut self, event: &[u8], end: usize) {
        self.last_at = Some(end - event.len()..end);
        if self.keeps_first && self.first.is_empty() {
            self.first = event.to_vec();
        }
    }

    /// Keeps what is about to be taken.
    fn keep(&mut self, stream: &[u8]) {
        if let Some(at) = self.last_at.take() {
            self.last.clear();
            self.last
                .extend_from_slice(stream.get(at).unwrap_or_default());
            self.has_left_out = false;
        }
    }

    /// Notes that an event was left out after the last one with data. `stream` holds the pending
    /// bytes.
    fn leave_out(&mut self, stream: &[u8]) {
        self.keep(stream);
        self.has_left_out = true;
    }
}

/// The last three bytes of a stream, of which an end was known before: a blank line has as many.
fn last_of(before: &[u8], taken: &[u8]) -> Vec<u8> {
    let taken = &taken[taken.len().saturating_sub(3)..];
    let before = &before[before.len().saturating_sub(3 - taken.len())..];
    [before, taken].concat()
}

/// How many events are in what is taken of a stream that was framed already: each block ends with a
/// blank line, which may have begun in what was taken before.
fn events_in(mut before: Vec<u8>, taken: &[u8]) -> u64 {
    let ended = blank_lines(&before);
    before.extend_from_slice(taken);
    blank_lines(&before) - ended
}

fn blank_lines(stream: &[u8]) -> u64 {
    let count = |line_ends: &[u8]| memmem::find_iter(stream, line_ends).count() as u64;
    count(b"\n\n") + count(b"\n\r\n") + count(b"\r\r")
}

/// A number of bytes; more than a `usize` holds is more than any buffer does.
struct Size(usize);

impl<'py> FromPyObject<'_, 'py> for Size {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let number = value.cast::<PyInt>()?;
        Ok(Self(number.extract().unwrap_or(usize::MAX)))
    }
}

impl Buffer {
    /// As `take`, and how many events these are.
    pub fn take_counted<'py>(&self, py: Python<'py>) -> (Bound<'py, PyBytes>, u64) {
        self.take_all(py, true)
    }

    fn take_all<'py>(&self, py: Python<'py>, counts: bool) -> (Bound<'py, PyBytes>, u64) {
        let (stream, events) = {
            let mut pending = self.lock();
            pending.due_at = None;
            let stream = std::mem::take(&mut pending.stream);
            if let Some(kept) = &mut pending.kept {
                kept.keep(&stream);
            }
            let mut events = std::mem::take(&mut pending.events);
            if self.framed {
                let last = last_of(&pending.last, &stream);
                let before = std::mem::replace(&mut pending.last, last);
                events = if counts {
                    events_in(before, &stream)
                } else {
                    0
                };
            }
            (stream, events)
        };
        let bytes = PyBytes::new(py, &stream);
        if stream.capacity() <= MAX_IDLE_CAPACITY {
            self.give_back(stream);
        }
        (bytes, events)
    }

    /// Appends one event; whether it is time to hand the pending bytes over.
    fn append_fields(&self, fields: &Fields<'_>) -> Result<bool, FieldError> {
        let mut pending = self.lock();
        frame::append_event(&mut pending.stream, fields)?;
        pending.events += 1;
        Ok(self.is_due(&mut pending))
    }

    fn is_due(&self, pending: &mut Pending) -> bool {
        let now = Instant::now();
        let due_at = *pending.due_at.get_or_insert_with(|| now + self.max_age);
        pending.stream.len() >= self.max_pending || now >= due_at
    }

    /// Appends an item that is framed already, and returns whether it is time to hand the pending
    /// bytes over; None for any other item.
    fn push_ready(
        &self,
        item: &Bound<'_, PyAny>,
        rules: Option<&ItemRules>,
    ) -> PyResult<Option<bool>> {
        if let Ok(text) = item.cast::<PyString>() {
            let Ok(text) = text.to_str() else {
                let rule = "text must be valid Unicode, without lone surrogates";
                return Err(PyValueError::new_err(rule));
            };
            return Ok(Some(self.append_ready(text.as_bytes(), rules)));
        }
        if let Ok(bytes) = item.cast::<PyBytes>() {
            return Ok(Some(self.append_ready(bytes.as_bytes(), rules)));
        }
        if !(item.is_instance_of::<PyByteArray>() || item.is_instance_of::<PyMemoryView>()) {
            return Ok(None);
        }
        let bytes = item.py().get_type::<PyBytes>().call1((item,))?;
        Ok(Some(
            self.append_ready(bytes.cast::<PyBytes>()?.as_bytes(), rules),
        ))
    }

    fn append_ready(&self, bytes: &[u8], rules: Option<&ItemRules>) -> bool {
        let (bytes, has_left_out) =
            rules.map_or((Cow::Borrowed(bytes), false), |rules| rules.without(bytes));
        let mut pending = self.lock();
        let pending = &mut *pending;
        pending.stream.extend_from_slice(&bytes);
        if let Some(kept) = &mut pending.kept {
            if !bytes.is_empty() {
                kept.count += blank_lines(&bytes);
                kept.note(&bytes, pending.stream.len());
            }
            if has_left_out {
                kept.leave_out(&pending.stream);
            }
        }
        self.is_due(pending)
    }

    /// Appends an item as the rules of a protocol have it.
    fn push_by(&self, rules: &ItemRules, item: &Bound<'_, PyAny>) -> PyResult<bool> {
        if self.framed {
            if let Some(due) = self.push_ready(item, Some(rules))? {
                return Ok(due);
            }
        }
        let number = if rules.asks_for_number() {
            self.lock().kept.as_ref().map_or(0, |kept| kept.count)
        } else {
            0
        };
        let converted = rules.converted(item, number)?;
        let item = converted.as_ref().unwrap_or(item);
        if converted.is_some() && item.is_none() {
            return Ok(self.is_due(&mut self.lock()));
        }
        if let Some(event) = event::of(item)? {
            if rules.leaves_out(event.get().raw_data(item.py())) {
                let mut pending = self.lock();
                let pending = &mut *pending;
                if let Some(kept) = &mut pending.kept {
                    kept.leave_out(&pending.stream);
                }
                return Ok(self.is_due(pending));
            }
            let append =
                |fields: &Fields<'_>| self.append_kept(fields, None).map_err(event::refusal);
            return match &self.schema {
                Some(Schema::Events(declared)) => declared.get().with_fields(&event, append),
                _ => ServerSentEvent::with_fields(&event, append),
            };
        }
        match &self.schema {
            None => {
                let mut noted = rules.noted();
                let json = json::item_json_with_members(item, rules.exclude_none, noted.as_mut())?;
                let members = noted.and_then(Noted::members);
                self.append_item(rules, item, &json, members, None, number)
            }
            Some(Schema::Items(schema)) => {
                let json = schema.get().json_of(item)?;
                self.append_item(rules, item, json.as_bytes(), None, None, number)
            }
            Some(Schema::Events(declared)) => declared.get().with_fields(item, |fields| {
                let json = match fields.data {
                    Some(Data::Json(json)) => json,
                    _ => b"",
                };
                self.append_item(rules, item, json, None, fields.event, number)
            }),
        }
    }

    /// Appends an item that is no event, by its JSON.
    fn append_item<'py>(
        &self,
        rules: &ItemRules,
        item: &Bound<'py, PyAny>,
        json: &[u8],
        known: Option<TwoMembers<'py>>,
        declared: Option<&str>,
        number: u64,
    ) -> PyResult<bool> {
        rules.check_object(json, item)?;
        let mut fields = Fields {
            event: declared,
            data: Some(Data::Json(json)),
            ..Fields::default()
        };
        if !rules.asks_for_members() {
            return self.append_kept(&fields, None).map_err(event::refusal);
        }
        let [named, numbered] = known.unwrap_or_else(|| rules.members_in(item.py(), json));
        let name = rules.name(json, named.as_ref(), item)?;
        fields.event = name.as_deref().or(declared);
        self.append_kept(&fields, rules.number(numbered.as_ref(), number))
            .map_err(event::refusal)
    }

    fn append_kept(
        &self,
        fields: &Fields<'_>,
        number: Option<Number<'_>>,
    ) -> Result<bool, FieldError> {
        let mut pending = self.lock();
        let pending = &mut *pending;
        let start = pending.stream.len();
        frame::append_event(&mut pending.stream, fields)?;
        if let (Some(number), Some(Data::Json(json))) = (number, fields.data) {
            let json_at = pending.stream.len() - json.len() - b"\n\n".len();
            number.write(&mut pending.stream, json_at);
        }
        pending.events += 1;
        if let Some(kept) = &mut pending.kept {
            kept.count += 1;
            if fields.data.is_some() {
                kept.note(&pending.stream[start..], pending.stream.len());
            }
        }
        Ok(self.is_due(pending))
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
