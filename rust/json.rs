//! The bridge to the installed pydantic-core, and to FastAPI's encoder for what pydantic-core
//! would write otherwise than FastAPI.

use memchr::memmem;
use pyo3::exceptions::{PyException, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit, intern};

use crate::cpython::{Keywords, MAX_KEYWORDS, all_entries, is_instance};
use crate::model::{BaseModel, model_of};

/// JSON text on its way into a `data` field.
pub enum Json<'py> {
    /// Written by a serializer, without indentation: holds no raw line break.
    Compact(Bound<'py, PyBytes>),
    /// Written by a user's `model_dump_json`: may hold anything.
    Text(Bound<'py, PyString>),
}

/// How deep the walk goes before it leaves a value to FastAPI's encoder, which knows how to fail
/// on values that contain themselves.
const MAX_DEPTH: usize = 64;

/// The parts of pydantic and FastAPI that `conversion` names.
struct Pydantic {
    base_model: BaseModel,
    to_json: Py<PyAny>,
    to_json_options: Keywords,
    by_alias: Keywords,
    model_dump_json_options: Keywords,
    json_as_fastapi: Py<PyAny>,
    fastapi_event: Py<PyType>,
}

fn pydantic(py: Python<'_>) -> PyResult<&Pydantic> {
    static PYDANTIC: PyOnceLock<Pydantic> = PyOnceLock::new();
    PYDANTIC.get_or_try_init(py, || {
        let conversion = py.import("sserpent._core.conversion")?;
        let class = |name: &str| -> PyResult<Py<PyType>> {
            Ok(conversion.getattr(name)?.cast_into::<PyType>()?.unbind())
        };
        let by_alias = PyDict::new(py);
        by_alias.set_item("by_alias", true)?;
        let to_json_options = by_alias.copy()?;
        to_json_options.set_item("inf_nan_mode", "null")?;
        Ok(Pydantic {
            base_model: BaseModel {
                class: class("BaseModel")?,
                model_dump: conversion.getattr("MODEL_DUMP")?.unbind(),
                model_dump_json: conversion.getattr("MODEL_DUMP_JSON")?.unbind(),
            },
            to_json: conversion.getattr("to_json")?.unbind(),
            to_json_options: Keywords::new(&to_json_options)?,
            by_alias: Keywords::new(&by_alias)?,
            model_dump_json_options: Keywords::new(
                conversion
                    .getattr("MODEL_DUMP_JSON_OPTIONS")?
                    .cast::<PyDict>()?,
            )?,
            json_as_fastapi: conversion.getattr("json_as_fastapi")?.unbind(),
            fastapi_event: class("FastAPIServerSentEvent")?,
        })
    })
}

/// Whether `item` is FastAPI's own event class or a subclass of it.
pub fn is_fastapi_event(item: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = item.py();
    Ok(is_instance(item, pydantic(py)?.fastapi_event.bind(py)))
}

/// The JSON of `ServerSentEvent.data`: `model_dump_json()` of what has it, else as an item
/// without annotation.
pub fn event_data_json<'py>(value: &Bound<'py, PyAny>) -> PyResult<Json<'py>> {
    let py = value.py();
    if is_builtin(value) {
        return item_json(value).map(Json::Compact);
    }
    let known = pydantic(py)?;
    if let Some(model) = model_of(value, &known.base_model).filter(|m| m.has_own_dump_json(value)) {
        let json = known
            .model_dump_json_options
            .call(&model.to_json, value)
            .and_then(json_bytes);
        if let Some(json) = unless_failed(py, json)? {
            return Ok(Json::Compact(json));
        }
    }
    match value.getattr_opt(intern!(py, "model_dump_json"))? {
        Some(dump) => json_text(dump.call0()?).map(Json::Text),
        None => item_json(value).map(Json::Compact),
    }
}

/// The JSON of an item that has no declared type: pydantic-core's where it and FastAPI's encoder
/// agree, else FastAPI's.
pub fn item_json<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let py = value.py();
    let known = pydantic(py)?;
    // An error on the fast way decides nothing: FastAPI's encoder accepts more (lone surrogates)
    // and is the one whose refusals users know.
    let json = match walk(value, known, 0) {
        Walk::Plain => {
            let json = known
                .to_json_options
                .call(known.to_json.bind(py), value)
                .and_then(json_bytes);
            unless_failed(py, json)?.filter(|json| !has_huge_integer(json.as_bytes()))
        }
        Walk::HasModels => {
            let json = models(value, known).and_then(json_bytes);
            unless_failed(py, json)?
                .filter(|json| !has_huge_integer(json.as_bytes()) && !is_doubtful(json.as_bytes()))
        }
        Walk::Other => None,
    };
    json.map_or_else(|| json_as_fastapi(value, known), Ok)
}

/// The result of the fast way, or `None` where it failed. Any other exception passes through.
fn unless_failed<T>(py: Python<'_>, fast: PyResult<T>) -> PyResult<Option<T>> {
    match fast {
        Ok(json) => Ok(Some(json)),
        Err(error) if is_failure(py, &error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_failure(py: Python<'_>, error: &PyErr) -> bool {
    // pydantic-core panics, with what is no Exception, when a dict changes while it is read.
    let panics = || -> PyResult<bool> {
        let kind = error.get_type(py);
        Ok(kind.module()? == "pyo3_runtime" && kind.name()? == "PanicException")
    };
    error.is_instance_of::<PyException>(py) || panics().unwrap_or(false)
}

fn models<'py>(value: &Bound<'py, PyAny>, known: &Pydantic) -> PyResult<Bound<'py, PyAny>> {
    let py = value.py();
    match model_of(value, &known.base_model) {
        Some(model) => known.by_alias.call(&model.to_json, value),
        None => known.to_json_options.call(known.to_json.bind(py), value),
    }
}

/// Models are dumped first and cleaned afterwards by FastAPI: keys that start with `_sa` vanish,
/// and NaN and infinities become null whatever `ser_json_inf_nan` says. Where the text may hold
/// one of these, FastAPI decides.
fn is_doubtful(json: &[u8]) -> bool {
    let marks = [&b"\"_sa"[..], b"NaN", b"Infinity"];
    marks.iter().any(|mark| memmem::find(json, mark).is_some())
}

/// Whether the text may hold an integer of more digits than `sys.get_int_max_str_digits()`, which
/// is 640 at least: FastAPI's encoder refuses these. So many digits fill a whole block of 320.
fn has_huge_integer(json: &[u8]) -> bool {
    json.len() > 640
        && json
            .chunks_exact(320)
            .any(|block| block.iter().all(u8::is_ascii_digit))
}

fn json_as_fastapi<'py>(
    value: &Bound<'py, PyAny>,
    known: &Pydantic,
) -> PyResult<Bound<'py, PyBytes>> {
    json_bytes(known.json_as_fastapi.bind(value.py()).call1((value,))?)
}

fn json_bytes(json: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyBytes>> {
    json.cast_into_exact::<PyBytes>()
        .map_err(|error| wrong_type("JSON must be bytes", &error.into_inner()))
}

fn json_text(json: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyString>> {
    json.cast_into::<PyString>().map_err(|error| {
        wrong_type(
            "model_dump_json() must return a string",
            &error.into_inner(),
        )
    })
}

pub fn wrong_type(rule: &str, value: &Bound<'_, PyAny>) -> PyErr {
    match value.get_type().name() {
        Ok(name) => PyTypeError::new_err(format!("{rule}, not {name}")),
        Err(error) => error,
    }
}

fn is_builtin(value: &Bound<'_, PyAny>) -> bool {
    is_scalar(value)
        || value.is_exact_instance_of::<PyDict>()
        || value.is_exact_instance_of::<PyList>()
        || value.is_exact_instance_of::<PyTuple>()
}

fn is_scalar(value: &Bound<'_, PyAny>) -> bool {
    value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyFloat>()
        || value.is_exact_instance_of::<PyBool>()
        || value.is_none()
}

/// The kinds of values, in the order in which the kind of a part makes that of the whole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Walk {
    /// JSON's own types only: pydantic-core and FastAPI agree.
    Plain,
    /// Also pydantic models: they agree but for what `is_doubtful` names.
    HasModels,
    /// Anything else is FastAPI's encoder's.
    Other,
}

/// One look at each part. Exact types only: a subclass may be an Enum, which FastAPI replaces by
/// its value. Runs no Python code.
fn walk(value: &Bound<'_, PyAny>, known: &Pydantic, depth: usize) -> Walk {
    if is_scalar(value) {
        return Walk::Plain;
    }
    if depth == MAX_DEPTH {
        return Walk::Other;
    }
    let mut found = Walk::Plain;
    let mut add = |part: &Bound<'_, PyAny>| {
        found = found.max(walk(part, known, depth + 1));
        found != Walk::Other
    };
    if let Ok(dict) = value.cast_exact::<PyDict>() {
        if !all_entries(dict, |key, value| is_plain_key(key) && add(value)) {
            return Walk::Other;
        }
    } else if let Ok(list) = value.cast_exact::<PyList>() {
        if !list.iter().all(|part| add(&part)) {
            return Walk::Other;
        }
    } else if let Ok(tuple) = value.cast_exact::<PyTuple>() {
        if !tuple.iter().all(|part| add(&part)) {
            return Walk::Other;
        }
    } else if model_of(value, &known.base_model).is_some_and(|model| model.has_own_dump(value)) {
        return Walk::HasModels;
    } else {
        return Walk::Other;
    }
    found
}

/// FastAPI drops keys that start with `_sa` (SQLAlchemy's state).
fn is_plain_key(key: &Bound<'_, PyAny>) -> bool {
    key.cast_exact::<PyString>()
        .is_ok_and(|key| key.to_str().is_ok_and(|key| !key.starts_with("_sa")))
}

/// A declared item type: how its values are validated and serialized.
///
/// Args:
///     validate: Called with the item and `validate_options`; returns the value to serialize.
///     validate_options: Keyword arguments for `validate`, 16 at most.
///     to_json: Called with that value and `json_options`; returns compact JSON in UTF-8, without
///         raw line breaks, as pydantic-core writes it.
///     json_options: Keyword arguments for `to_json`, 16 at most.
///     valid_class: A class whose own instances, not those of its subclasses, `validate` would
///         return as they are; they are not validated.
///
/// Raises:
///     TypeError: an argument has the wrong type; the message names it.
///     ValueError: there are more than 16 options.
#[pyclass(frozen, module = "sserpent._core.compiled")]
pub struct ItemSchema {
    validate: Py<PyAny>,
    validate_options: Keywords,
    to_json: Py<PyAny>,
    json_options: Keywords,
    valid_class: Option<Py<PyType>>,
}

#[pymethods]
impl ItemSchema {
    #[new]
    #[pyo3(signature = (validate, validate_options, to_json, json_options, valid_class=None))]
    fn new(
        validate: Bound<'_, PyAny>,
        validate_options: Bound<'_, PyAny>,
        to_json: Bound<'_, PyAny>,
        json_options: Bound<'_, PyAny>,
        valid_class: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        Ok(Self {
            validate: validate.unbind(),
            validate_options: keywords("validate_options", &validate_options)?,
            to_json: to_json.unbind(),
            json_options: keywords("json_options", &json_options)?,
            valid_class: valid_class.map(checked_valid_class).transpose()?,
        })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.validate)?;
        visit.call(&self.to_json)?;
        visit.call(&self.valid_class)?;
        self.validate_options.traverse(visit)?;
        self.json_options.traverse(visit)
    }
}

fn keywords(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Keywords> {
    let Ok(options) = value.cast::<PyDict>() else {
        return Err(wrong_type(&format!("'{name}' must be a dict"), value));
    };
    let options = options.copy()?;
    if options.len() > MAX_KEYWORDS {
        return Err(PyValueError::new_err(format!(
            "'{name}' must have at most {MAX_KEYWORDS} entries, not {}",
            options.len()
        )));
    }
    for key in options.keys() {
        if !key.is_instance_of::<PyString>() {
            return Err(wrong_type(&format!("'{name}' must have str keys"), &key));
        }
    }
    Keywords::new(&options)
}

fn checked_valid_class(value: Bound<'_, PyAny>) -> PyResult<Py<PyType>> {
    match value.cast_into::<PyType>() {
        Ok(class) => Ok(class.unbind()),
        Err(error) => Err(wrong_type(
            "'valid_class' must be a class or None",
            &error.into_inner(),
        )),
    }
}

impl ItemSchema {
    pub fn json_of<'py>(&self, item: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let py = item.py();
        let to_json = self.to_json.bind(py);
        if self.is_valid(item) {
            return json_bytes(self.json_options.call(to_json, item)?);
        }
        let value = self.validate_options.call(self.validate.bind(py), item)?;
        json_bytes(self.json_options.call(to_json, &value)?)
    }

    fn is_valid(&self, item: &Bound<'_, PyAny>) -> bool {
        let valid_class = self.valid_class.as_ref();
        valid_class.is_some_and(|class| item.is_exact_instance(class.bind(item.py())))
    }
}
