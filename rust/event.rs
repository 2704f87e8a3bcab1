//! `ServerSentEvent` and `format_sse_event`: Python arguments in, checked fields out.

use std::cell::{Cell, RefCell};
use std::sync::OnceLock;

use pyo3::exceptions::{PyRecursionError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{IntoPyDict, PyBytes, PyDict, PyInt, PyString, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit};

use crate::cpython::{ConstructorSlots, KeywordClass, RecursiveCall, frame_bytes};
use crate::json::{self, Json};
use crate::once::{Once, OnceImported, intern};
use sserpent_wire::frame::{self, Data, FieldError, Fields, Frame};

/// The Python exception for a field that breaks a rule.
pub fn refusal(error: FieldError) -> PyErr {
    PyValueError::new_err(error.to_string())
}

#[doc = doc!("ServerSentEvent")]
#[pyclass(frozen, subclass, module = "sserpent", weakref)]
pub struct ServerSentEvent {
    data: Option<Py<PyAny>>,
    raw_data: Option<Py<PyString>>,
    event: Option<Py<PyString>>,
    id: Option<Py<PyString>>,
    retry: Option<Milliseconds>,
    comment: Option<Py<PyString>>,
    /// An event of this class itself with the fields that the `__init__` of a subclass has given.
    by_init: OnceLock<Py<ServerSentEvent>>,
}

#[pymethods]
impl ServerSentEvent {
    #[new]
    #[pyo3(
        signature = (*arguments, data=None, raw_data=None, event=None, id=None, retry=None, comment=None),
        text_signature = "(*, data=None, raw_data=None, event=None, id=None, retry=None, comment=None)"
    )]
    fn from_arguments(
        arguments: &Bound<'_, PyTuple>,
        data: Option<Bound<'_, PyAny>>,
        raw_data: Option<Bound<'_, PyAny>>,
        event: Option<Bound<'_, PyAny>>,
        id: Option<Bound<'_, PyAny>>,
        retry: Option<Bound<'_, PyAny>>,
        comment: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        if !arguments.is_empty() {
            return Err(PyTypeError::new_err(
                "ServerSentEvent() takes no positional arguments: name the text, data= to send it \
                 as JSON, or raw_data= to send it as it is",
            ));
        }
        Self::new(data, raw_data, event, id, retry, comment)
    }

    #[pyo3(signature = (*arguments, **fields))]
    fn __init__(
        slf: &Bound<'_, Self>,
        arguments: Bound<'_, PyTuple>,
        fields: Option<Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        static FIELDS_OF_INIT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = slf.py();
        if slf.is_exact_instance_of::<Self>() {
            return Ok(());
        }
        let fields = fields.unwrap_or_else(|| PyDict::new(py));
        let given = FIELDS_OF_INIT
            .imported(py, "sserpent._core.subclasses", "fields_of_init")?
            .call1((py.get_type::<Self>(), slf, arguments, fields))?;
        if !given.is_none() {
            let given = given.cast_into_exact::<Self>()?.unbind();
            // Once: an event that is in use does not change.
            if let Err(refused) = slf.get().by_init.set(given) {
                drop(refused);
            }
        }
        Ok(())
    }

    #[classmethod]
    #[pyo3(signature = (**options))]
    fn __init_subclass__(
        cls: &Bound<'_, PyType>,
        options: Option<Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let py = cls.py();
        let options = options.unwrap_or_else(|| PyDict::new(py));
        py.import("sserpent._core.subclasses")?
            .getattr("prepare")?
            .call1((py.get_type::<Self>(), cls, options))?;
        Ok(())
    }

    #[doc = doc!("ServerSentEvent.data")]
    #[getter]
    pub fn data<'py>(&self, py: Python<'py>) -> Option<&Bound<'py, PyAny>> {
        self.given().data.as_ref().map(|data| data.bind(py))
    }

    #[doc = doc!("ServerSentEvent.raw_data")]
    #[getter]
    pub fn raw_data<'py>(&self, py: Python<'py>) -> Option<&Bound<'py, PyString>> {
        self.given().raw_data.as_ref().map(|text| text.bind(py))
    }

    #[doc = doc!("ServerSentEvent.event")]
    #[getter]
    pub fn event<'py>(&self, py: Python<'py>) -> Option<&Bound<'py, PyString>> {
        self.given().event.as_ref().map(|text| text.bind(py))
    }

    #[doc = doc!("ServerSentEvent.id")]
    #[getter]
    fn id<'py>(&self, py: Python<'py>) -> Option<&Bound<'py, PyString>> {
        self.given().id.as_ref().map(|text| text.bind(py))
    }

    #[doc = doc!("ServerSentEvent.comment")]
    #[getter]
    fn comment<'py>(&self, py: Python<'py>) -> Option<&Bound<'py, PyString>> {
        self.given().comment.as_ref().map(|text| text.bind(py))
    }

    #[doc = doc!("ServerSentEvent.encode")]
    fn encode<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyBytes>> {
        Self::with_fields(slf, |fields| to_bytes(slf.py(), fields))
    }

    #[doc = doc!("ServerSentEvent.retry")]
    #[getter]
    fn retry<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyInt>> {
        let retry = self.given().retry.as_ref();
        retry.map(|retry| retry.to_python(py))
    }

    fn __repr__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let _nested = ShownInside::enter()?;
        // Joined by Python, since a `repr` of the user's may have lone surrogates.
        let mut fields = Vec::with_capacity(6);
        for (name, value) in slf.get().fields(py) {
            if let Some(value) = value {
                let name = PyString::new(py, name).add(intern!(py, "="))?;
                fields.push(name.add(value.bind(py).repr()?)?);
            }
        }
        let fields = intern!(py, ", ").call_method1("join", (fields,))?;
        intern!(py, "{}({})").call_method1("format", (slf.get_type().name()?, fields))
    }

    fn __eq__(slf: &Bound<'_, Self>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let Ok(other) = other.cast::<Self>() else {
            return Ok(py.NotImplemented());
        };
        let equal =
            slf.get_type().is(other.get_type()) && slf.get().key(py)?.eq(other.get().key(py)?)?;
        Ok(equal.into_pyobject(py)?.to_owned().into_any().unbind())
    }

    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        // Nothing on the way from an event to one in its data counts calls: tuples do not.
        let _nested = RecursiveCall::enter(py)?;
        self.key(py)?.hash()
    }

    /// For annotations: `ServerSentEvent[Item]`, `ServerSentEvent[Item, Literal["name"]]`.
    #[classmethod]
    #[pyo3(signature = (parameters, /))]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        parameters: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let alias = cls.py().import("types")?.getattr("GenericAlias")?;
        alias.call1((cls, parameters))
    }

    fn __getnewargs_ex__<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyAny>)> {
        static ARGUMENTS_OF_NEW: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = slf.py();
        let fields = slf.get().fields(py).into_py_dict(py)?;
        let arguments = ARGUMENTS_OF_NEW
            .imported(py, "sserpent._core.subclasses", "arguments_of_new")?
            .call1((slf.get_type(), fields))?;
        Ok((PyTuple::empty(py), arguments))
    }

    fn __reduce_ex__<'py>(slf: &Bound<'py, Self>, protocol: i32) -> PyResult<Bound<'py, PyAny>> {
        reduced(slf, protocol)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // The other fields hold str and int, which refer to nothing.
        visit.call(&self.data)?;
        self.by_init.get().map_or(Ok(()), |event| visit.call(event))
    }
}

impl KeywordClass for ServerSentEvent {
    fn names(py: Python<'_>) -> &'static [Py<PyString>; 6] {
        static NAMES: PyOnceLock<[Py<PyString>; 6]> = PyOnceLock::new();
        NAMES.once(py, || {
            ["data", "raw_data", "event", "id", "retry", "comment"]
                .map(|name| PyString::intern(py, name).unbind())
        })
    }

    fn construct(
        [data, raw_data, event, id, retry, comment]: [Option<Bound<'_, PyAny>>; 6],
    ) -> PyResult<Self> {
        Self::new(data, raw_data, event, id, retry, comment)
    }

    fn slots() -> &'static PyOnceLock<ConstructorSlots> {
        static SLOTS: PyOnceLock<ConstructorSlots> = PyOnceLock::new();
        &SLOTS
    }
}

impl ServerSentEvent {
    fn new(
        data: Option<Bound<'_, PyAny>>,
        raw_data: Option<Bound<'_, PyAny>>,
        event: Option<Bound<'_, PyAny>>,
        id: Option<Bound<'_, PyAny>>,
        retry: Option<Bound<'_, PyAny>>,
        comment: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let raw_data = text("raw_data", raw_data)?;
        let event = checked_text("event", event, frame::check_event)?;
        let id = checked_text("id", id, frame::check_id)?;
        let retry = milliseconds(retry)?;
        let comment = text("comment", comment)?;
        if data.is_some() && raw_data.is_some() {
            return Err(PyValueError::new_err(
                "Cannot set both 'data' and 'raw_data' on the same ServerSentEvent. \
                 Use 'data' for JSON-serialized payloads or 'raw_data' for pre-formatted strings.",
            ));
        }
        Ok(Self {
            data: data.map(Bound::unbind),
            raw_data: raw_data.map(Bound::unbind),
            event: event.map(Bound::unbind),
            id: id.map(Bound::unbind),
            retry,
            comment: comment.map(Bound::unbind),
            by_init: OnceLock::new(),
        })
    }

    /// The event that has the fields.
    fn given(&self) -> &Self {
        self.by_init.get().map_or(self, Py::get)
    }

    fn fields(&self, py: Python<'_>) -> [(&'static str, Option<Py<PyAny>>); 6] {
        let given = self.given();
        let any = |text: &Option<Py<PyString>>| text.as_ref().map(|t| t.clone_ref(py).into_any());
        [
            ("data", given.data.as_ref().map(|data| data.clone_ref(py))),
            ("raw_data", any(&given.raw_data)),
            ("event", any(&given.event)),
            ("id", any(&given.id)),
            (
                "retry",
                self.retry(py).map(|retry| retry.into_any().unbind()),
            ),
            ("comment", any(&given.comment)),
        ]
    }

    fn key<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.fields(py).into_iter().map(|(_, value)| value))
    }

    fn has_any(&self) -> bool {
        self.data.is_some()
            || self.raw_data.is_some()
            || self.event.is_some()
            || self.id.is_some()
            || self.retry.is_some()
            || self.comment.is_some()
    }

    /// As `with_own_fields`; raises for an event that was to get its fields in an `__init__`.
    pub fn with_fields<R>(
        slf: &Bound<'_, Self>,
        use_fields: impl FnOnce(&Fields<'_>) -> PyResult<R>,
    ) -> PyResult<R> {
        let event = slf.get();
        if !event.has_any() && event.by_init.get().is_none() {
            slf.py()
                .import("sserpent._core.subclasses")?
                .getattr("check_begun")?
                .call1((slf.get_type(),))?;
        }
        event.with_own_fields(slf.py(), use_fields)
    }

    /// Gets the JSON of `data`, then hands the finished fields to `use_fields`.
    pub fn with_own_fields<R>(
        &self,
        py: Python<'_>,
        use_fields: impl FnOnce(&Fields<'_>) -> PyResult<R>,
    ) -> PyResult<R> {
        let given = self.given();
        let json = match (&given.raw_data, &given.data) {
            (None, Some(data)) => Some(json::event_data_json(data.bind(py))?),
            _ => None,
        };
        let data = match (&given.raw_data, &json) {
            (Some(raw), _) => Some(Data::Text(raw.to_str(py)?)),
            (None, Some(json)) => Some(json.as_data()?),
            (None, None) => None,
        };
        given.with_data(py, data, use_fields)
    }

    /// Hands the fields to `use_fields`, with other data.
    pub fn with_data<R>(
        &self,
        py: Python<'_>,
        data: Option<Data<'_>>,
        use_fields: impl FnOnce(&Fields<'_>) -> PyResult<R>,
    ) -> PyResult<R> {
        let given = self.given();
        with_fields(
            py,
            data,
            [
                given.event.as_ref(),
                given.id.as_ref(),
                given.comment.as_ref(),
            ],
            given.retry.as_ref(),
            use_fields,
        )
    }
}

/// The event that an item is, ours or FastAPI's; None if it is none.
pub fn of<'py>(item: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, ServerSentEvent>>> {
    if let Ok(event) = item.cast::<ServerSentEvent>() {
        return Ok(Some(event.clone()));
    }
    if json::is_fastapi_event(item)? {
        return Bound::new(item.py(), from_fastapi(item)?).map(Some);
    }
    Ok(None)
}

/// An event of FastAPI's class, checked: FastAPI before 0.136.2 does not check its fields.
pub fn from_fastapi<'py>(event: &Bound<'py, PyAny>) -> PyResult<ServerSentEvent> {
    let py = event.py();
    let field = |name: &Bound<'py, PyString>| -> PyResult<Option<Bound<'py, PyAny>>> {
        let value = event.getattr(name)?;
        Ok((!value.is_none()).then_some(value))
    };
    ServerSentEvent::new(
        field(intern!(py, "data"))?,
        field(intern!(py, "raw_data"))?,
        field(intern!(py, "event"))?,
        field(intern!(py, "id"))?,
        field(intern!(py, "retry"))?,
        field(intern!(py, "comment"))?,
    )
}

impl Drop for ServerSentEvent {
    fn drop(&mut self) {
        if let Some(data) = self.data.take() {
            let_go(data);
        }
    }
}

/// How many events may be dropped within each other: as many as CPython's containers are.
const MAX_NESTED_DROPS: u32 = 50;

thread_local! {
    static NESTED_DROPS: Cell<u32> = const { Cell::new(0) };
    /// The data of the events at the limit. Empty unless a drop is under way.
    static LEFT: RefCell<Vec<Py<PyAny>>> = const { RefCell::new(Vec::new()) };
}

/// Drops the data of an event that is dropped. Events nested in each other's data would take a
/// stretch of the stack for each, so a long chain is dropped piece by piece. CPython does that for
/// its containers, <https://docs.python.org/3/c-api/gcsupport.html>, but not for PyO3's classes.
fn let_go(data: Py<PyAny>) {
    let nested = NESTED_DROPS.get();
    if nested == MAX_NESTED_DROPS {
        // Where a thread that ends has no list any more, the data is dropped here and now.
        let _ = LEFT.try_with(|left| left.borrow_mut().push(data));
        return;
    }
    NESTED_DROPS.set(nested + 1);
    drop(data);
    if nested == 0 {
        while let Ok(Some(data)) = LEFT.try_with(|left| left.borrow_mut().pop()) {
            drop(data);
        }
    }
    NESTED_DROPS.set(nested);
}

/// Returns what an object is pickled as. Protocols below 2 know nothing of `__getnewargs_ex__`.
pub fn reduced<'py>(object: &Bound<'py, PyAny>, protocol: i32) -> PyResult<Bound<'py, PyAny>> {
    let base = object.py().get_type::<PyAny>();
    base.call_method1("__reduce_ex__", (object, protocol.max(2)))
}

fn with_fields<R>(
    py: Python<'_>,
    data: Option<Data<'_>>,
    [event, id, comment]: [Option<&Py<PyString>>; 3],
    retry: Option<&Milliseconds>,
    use_fields: impl FnOnce(&Fields<'_>) -> PyResult<R>,
) -> PyResult<R> {
    fn utf8<'a>(py: Python<'_>, text: Option<&'a Py<PyString>>) -> PyResult<Option<&'a str>> {
        text.map(|text| text.to_str(py)).transpose()
    }

    let mut buffer = itoa::Buffer::new();
    let digits;
    let retry = match retry {
        None => None,
        Some(Milliseconds::Few(retry)) => Some(buffer.format(*retry)),
        Some(Milliseconds::Many(retry)) => {
            digits = retry.bind(py).str()?;
            Some(digits.to_str()?)
        }
    };
    use_fields(&Fields {
        comment: utf8(py, comment)?,
        event: utf8(py, event)?,
        data,
        id: utf8(py, id)?,
        retry,
    })
}

fn to_bytes<'py>(py: Python<'py>, fields: &Fields<'_>) -> PyResult<Bound<'py, PyBytes>> {
    let frame = Frame::new(fields).map_err(refusal)?;
    frame_bytes(py, &frame)
}

#[doc = doc!("format_sse_event")]
#[pyfunction]
#[pyo3(signature = (*, data_str=None, event=None, id=None, retry=None, comment=None))]
pub fn format_sse_event<'py>(
    py: Python<'py>,
    data_str: Option<Bound<'py, PyAny>>,
    event: Option<Bound<'py, PyAny>>,
    id: Option<Bound<'py, PyAny>>,
    retry: Option<Bound<'py, PyAny>>,
    comment: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyBytes>> {
    let data = text("data_str", data_str)?.map(Bound::unbind);
    let event = checked_text("event", event, frame::check_event)?.map(Bound::unbind);
    let id = checked_text("id", id, frame::check_id)?.map(Bound::unbind);
    let retry = milliseconds(retry)?;
    let comment = text("comment", comment)?.map(Bound::unbind);
    let data = data.as_ref().map(|data| data.to_str(py)).transpose()?;
    with_fields(
        py,
        data.map(Data::Text),
        [event.as_ref(), id.as_ref(), comment.as_ref()],
        retry.as_ref(),
        |fields| to_bytes(py, fields),
    )
}

/// A text argument as an exact str that UTF-8 can encode.
pub fn text<'py>(
    field: &'static str,
    value: Option<Bound<'py, PyAny>>,
) -> PyResult<Option<Bound<'py, PyString>>> {
    checked_text(field, value, |_| Ok(()))
}

/// A text argument that also keeps a rule of its field. The rule is checked here, and not only by
/// the framing, so that the first bad argument is the one that is named.
fn checked_text<'py>(
    field: &'static str,
    value: Option<Bound<'py, PyAny>>,
    check: impl FnOnce(&str) -> Result<(), FieldError>,
) -> PyResult<Option<Bound<'py, PyString>>> {
    let Some(value) = value else { return Ok(None) };
    let value = match value.cast_into_exact::<PyString>() {
        Ok(exact) => match exact.to_str() {
            Ok(value) => {
                check(value).map_err(refusal)?;
                return Ok(Some(exact));
            }
            Err(_) => exact.into_any(),
        },
        Err(error) => error.into_inner(),
    };
    let converted = convert_text(field, &value)?;
    check(converted.to_str()?).map_err(refusal)?;
    Ok(Some(converted))
}

/// The slow way, which both backends share, of a value that is no exact str or that UTF-8 cannot
/// encode: it converts what pydantic converts and words the refusal.
#[cold]
fn convert_text<'py>(
    field: &'static str,
    value: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyString>> {
    static TEXT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let converted = TEXT
        .imported(value.py(), "sserpent._core.conversion", "text")?
        .call1((field, value))?;
    Ok(converted.cast_into::<PyString>()?)
}

/// A reconnection time.
enum Milliseconds {
    /// Up to 49 days.
    Few(u32),
    /// Anything that Python's integers hold.
    Many(Py<PyInt>),
}

impl Milliseconds {
    fn to_python<'py>(&self, py: Python<'py>) -> Bound<'py, PyInt> {
        match self {
            Self::Few(few) => few.into_pyobject(py).unwrap_or_else(|never| match never {}),
            Self::Many(many) => many.bind(py).clone(),
        }
    }
}

/// The `retry` argument as a non-negative int. The slow way is shared, as for text.
fn milliseconds(value: Option<Bound<'_, PyAny>>) -> PyResult<Option<Milliseconds>> {
    static MILLISECONDS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let Some(value) = value else { return Ok(None) };
    if value.is_exact_instance_of::<PyInt>() {
        if let Ok(few) = value.extract() {
            return Ok(Some(Milliseconds::Few(few)));
        }
    }
    let converted = MILLISECONDS
        .imported(value.py(), "sserpent._core.conversion", "milliseconds")?
        .call1((value,))?
        .cast_into::<PyInt>()?;
    Ok(Some(match converted.extract() {
        Ok(few) => Milliseconds::Few(few),
        Err(_) => Milliseconds::Many(converted.unbind()),
    }))
}

impl Json<'_> {
    pub fn as_data(&self) -> PyResult<Data<'_>> {
        Ok(match self {
            Self::Written(json) => Data::Json(json),
            Self::Compact(bytes) => Data::Json(bytes.as_bytes()),
            Self::Text(text) => Data::Text(text.to_str()?),
        })
    }
}

/// How many events show each other. CPython counts calls, from 3.12 on up to a number of them for
/// which the stack is too small if they are ours.
struct ShownInside;

thread_local! {
    static SHOWN: Cell<u32> = const { Cell::new(0) };
}
const MAX_SHOWN: u32 = 1_000;

impl ShownInside {
    fn enter() -> PyResult<Self> {
        let shown = SHOWN.get();
        if shown == MAX_SHOWN {
            return Err(PyRecursionError::new_err(
                "events are nested too deeply to be shown",
            ));
        }
        SHOWN.set(shown + 1);
        Ok(Self)
    }
}

impl Drop for ShownInside {
    fn drop(&mut self) {
        SHOWN.set(SHOWN.get() - 1);
    }
}
