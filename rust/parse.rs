//! `EventStreamParser` and `MessageEvent`: the bytes of a stream in, its events out.

use std::borrow::Cow;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use pyo3::create_exception;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyInt, PyList, PyMemoryView, PyString, PyTuple};

use crate::cpython::ascii_string;
use crate::event::{reduced, text};
use crate::once::{OnceImported, intern};
use sserpent_wire::parse::{Parser, TooLarge};

create_exception!(
    sserpent.client,
    EventTooLarge,
    PyValueError,
    doc!("EventTooLarge")
);

#[doc = doc!("MessageEvent")]
#[pyclass(frozen, module = "sserpent.client")]
pub struct MessageEvent {
    event_type: Py<PyString>,
    data: Data,
    last_event_id: Py<PyString>,
}

/// The data, as bytes that are decoded when somebody asks; but as text from the start where the
/// text is ASCII and thus holds the bytes.
enum Data {
    Ascii(Py<PyString>),
    Other {
        bytes: Py<PyBytes>,
        text: OnceLock<Py<PyString>>,
    },
}

impl Data {
    fn new(py: Python<'_>, data: &[u8]) -> Self {
        match ascii_string(py, data) {
            Some(text) => Self::Ascii(text.unbind()),
            None => Self::Other {
                bytes: PyBytes::new(py, data).unbind(),
                text: OnceLock::new(),
            },
        }
    }

    fn text<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        match self {
            Self::Ascii(text) => text.bind(py),
            Self::Other { bytes, text } => {
                if let Some(text) = text.get() {
                    return text.bind(py);
                }
                // Made before the lock, so that nothing waits for it.
                let decoded = string(py, bytes.as_bytes(py));
                text.get_or_init(|| decoded.unbind()).bind(py)
            }
        }
    }

    fn bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        match self {
            Self::Ascii(text) => Ok(PyBytes::new(py, text.to_str(py)?.as_bytes())),
            Self::Other { bytes, .. } => Ok(bytes.bind(py).clone()),
        }
    }
}

#[pymethods]
impl MessageEvent {
    #[new]
    #[pyo3(signature = (data=None, *, r#type=None, last_event_id=None),
           text_signature = "(data='', *, type=None, last_event_id=None)")]
    fn new(
        py: Python<'_>,
        data: Option<Bound<'_, PyAny>>,
        r#type: Option<Bound<'_, PyAny>>,
        last_event_id: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let data = match data {
            None => Data::new(py, b""),
            Some(data) => match data.cast_into::<PyBytes>() {
                Ok(bytes) => Data::new(py, bytes.as_bytes()),
                Err(error) => match text("data", Some(error.into_inner()))? {
                    Some(text) => Data::new(py, text.to_str()?.as_bytes()),
                    None => Data::new(py, b""),
                },
            },
        };
        Ok(Self {
            event_type: text("type", r#type)?
                .unwrap_or_else(|| intern!(py, "message").clone())
                .unbind(),
            data,
            last_event_id: text("last_event_id", last_event_id)?
                .unwrap_or_else(|| intern!(py, "").clone())
                .unbind(),
        })
    }

    #[doc = doc!("MessageEvent.type")]
    #[getter]
    fn r#type<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        self.event_type.bind(py)
    }

    #[doc = doc!("MessageEvent.data")]
    #[getter]
    fn data<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        self.data.text(py)
    }

    #[doc = doc!("MessageEvent.data_bytes")]
    #[getter]
    fn data_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.data.bytes(py)
    }

    #[doc = doc!("MessageEvent.last_event_id")]
    #[getter]
    fn last_event_id<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        self.last_event_id.bind(py)
    }

    #[doc = doc!("MessageEvent.json")]
    fn json<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        static EVENT_JSON: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        EVENT_JSON
            .imported(slf.py(), "sserpent._core.decoding", "event_json")?
            .call1((slf,))
    }

    #[doc = doc!("MessageEvent.decode")]
    #[pyo3(signature = (item, /))]
    fn decode<'py>(
        slf: &Bound<'py, Self>,
        item: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        static DECODE_EVENT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        DECODE_EVENT
            .imported(slf.py(), "sserpent._core.decoding", "decode_event")?
            .call1((slf, item))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!(
            "MessageEvent({}, type={}, last_event_id={})",
            self.data(py).repr()?.to_str()?,
            self.r#type(py).repr()?.to_str()?,
            self.last_event_id(py).repr()?.to_str()?,
        ))
    }

    fn __eq__(slf: &Bound<'_, Self>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let Ok(other) = other.cast::<Self>() else {
            return Ok(py.NotImplemented());
        };
        let equal = slf.get().key(py)?.eq(other.get().key(py)?)?;
        Ok(equal.into_pyobject(py)?.to_owned().into_any().unbind())
    }

    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        self.key(py)?.hash()
    }

    fn __getnewargs_ex__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
        let arguments = PyDict::new(py);
        arguments.set_item("type", self.r#type(py))?;
        arguments.set_item("last_event_id", self.last_event_id(py))?;
        Ok((PyTuple::new(py, [self.data_bytes(py)?])?, arguments))
    }

    fn __reduce_ex__<'py>(slf: &Bound<'py, Self>, protocol: i32) -> PyResult<Bound<'py, PyAny>> {
        reduced(slf, protocol)
    }
}

impl MessageEvent {
    fn key<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        (
            self.data_bytes(py)?,
            self.r#type(py),
            self.last_event_id(py),
        )
            .into_pyobject(py)
    }
}

#[doc = doc!("EventStreamParser")]
#[pyclass(frozen, module = "sserpent.client")]
pub struct EventStreamParser {
    stream: Mutex<Stream>,
}

/// A parser, and the strings that it has made.
struct Stream {
    parser: Parser,
    /// The type of the last event that was no message, and its bytes: streams have few types.
    event_type: (Vec<u8>, Py<PyString>),
    last_event_id: Py<PyString>,
}

#[pymethods]
impl EventStreamParser {
    #[new]
    #[pyo3(signature = (max_event_size=Size(16_777_216), last_event_id=None),
           text_signature = "(max_event_size=16777216, last_event_id=None)")]
    fn new(
        py: Python<'_>,
        max_event_size: Size,
        last_event_id: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let last_event_id = id(py, last_event_id)?.unbind();
        let parser = Parser::new(max_event_size.0, last_event_id.to_str(py)?.as_bytes());
        Ok(Self {
            stream: Mutex::new(Stream {
                parser,
                event_type: (Vec::new(), intern!(py, "message").clone().unbind()),
                last_event_id,
            }),
        })
    }

    #[doc = doc!("EventStreamParser.feed")]
    #[pyo3(signature = (chunk, /))]
    fn feed<'py>(&self, chunk: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        let py = chunk.py();
        let copied;
        let chunk = if let Ok(bytes) = chunk.cast::<PyBytes>() {
            bytes
        } else {
            copied = copy(chunk)?;
            &copied
        };
        let mut events = Vec::new();
        let fed = self.lock().feed(py, chunk.as_bytes(), &mut events);
        match fed {
            Err(error) if events.is_empty() => Err(EventTooLarge::new_err(error.to_string())),
            _ => PyList::new(py, events),
        }
    }

    #[doc = doc!("EventStreamParser.last_event_id")]
    #[getter]
    fn last_event_id<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        string(py, self.lock().parser.last_event_id())
    }

    #[doc = doc!("EventStreamParser.reconnection_time")]
    #[getter]
    fn reconnection_time(&self) -> Option<u32> {
        self.lock().parser.reconnection_time()
    }
}

impl EventStreamParser {
    /// Held while bytes are read, and strings and bytes are made of them, which the garbage
    /// collector does not track: none of that runs Python code or lets go of the GIL.
    fn lock(&self) -> MutexGuard<'_, Stream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream {
    fn feed(
        &mut self,
        py: Python<'_>,
        chunk: &[u8],
        events: &mut Vec<MessageEvent>,
    ) -> Result<(), TooLarge> {
        let Self {
            parser,
            event_type,
            last_event_id,
        } = self;
        parser.feed(chunk, |event| {
            if let Some(id) = event.last_event_id {
                *last_event_id = string(py, id).unbind();
            }
            events.push(MessageEvent {
                event_type: type_of(py, event.event_type, event_type),
                data: Data::new(py, event.data),
                last_event_id: last_event_id.clone_ref(py),
            });
        })
    }
}

fn type_of(py: Python<'_>, event_type: &[u8], last: &mut (Vec<u8>, Py<PyString>)) -> Py<PyString> {
    if event_type.is_empty() {
        return intern!(py, "message").clone().unbind();
    }
    if last.0 != event_type {
        *last = (event_type.to_vec(), string(py, event_type).unbind());
    }
    last.1.clone_ref(py)
}

/// "Decode with UTF-8": what is malformed becomes U+FFFD.
fn string<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyString> {
    PyString::new(
        py,
        &match std::str::from_utf8(bytes) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => String::from_utf8_lossy(bytes),
        },
    )
}

/// The bytes of what is not bytes itself, as they are now.
fn copy<'py>(chunk: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    if chunk.is_instance_of::<PyByteArray>() || chunk.is_instance_of::<PyMemoryView>() {
        let copied = chunk.py().get_type::<PyBytes>().call1((chunk,))?;
        return Ok(copied.cast_into()?);
    }
    Err(PyTypeError::new_err(format!(
        "'chunk' must be bytes, bytearray or memoryview, not {}",
        chunk.get_type().name()?.to_str()?
    )))
}

/// A number of bytes, at least one; more than any memory has is as good as all of it.
struct Size(usize);

impl<'py> FromPyObject<'_, 'py> for Size {
    type Error = PyErr;

    fn extract(value: pyo3::Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let shown = if let Ok(number) = value.cast_exact::<PyInt>() {
            if number.gt(0)? {
                return Ok(Self(number.extract().unwrap_or(usize::MAX)));
            }
            number.repr()?
        } else {
            value.get_type().name()?
        };
        Err(PyValueError::new_err(format!(
            "'max_event_size' must be a positive integer of bytes, not {}",
            shown.to_str()?
        )))
    }
}

fn id<'py>(py: Python<'py>, value: Option<Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyString>> {
    let value = text("last_event_id", value)?.unwrap_or_else(|| intern!(py, "").clone());
    if value.to_str()?.contains(['\0', '\r', '\n']) {
        return Err(PyValueError::new_err(
            "SSE 'last_event_id' must be a single line without null characters",
        ));
    }
    Ok(value)
}
