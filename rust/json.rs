//! The JSON of an item or an event's data: pydantic-core's where FastAPI asks pydantic, else the
//! writer's.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit, intern};

use crate::cpython::{Keywords, MAX_KEYWORDS, is_instance};
use class::{Treatment, treatment_of};

pub use writer::json_of as item_json;

mod class;
mod writer;

/// JSON text on its way into a `data` field.
pub enum Json<'py> {
    /// Ours, without a raw line break.
    Written(Vec<u8>),
    /// Written by a serializer, without indentation: holds no raw line break.
    Compact(Bound<'py, PyBytes>),
    /// Written by a user's `model_dump_json`: may hold anything.
    Text(Bound<'py, PyString>),
}

/// Whether `item` is FastAPI's own event class or a subclass of it.
pub fn is_fastapi_event(item: &Bound<'_, PyAny>) -> PyResult<bool> {
    static EVENT: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let class = EVENT.import(
        item.py(),
        "sserpent._core.conversion",
        "FastAPIServerSentEvent",
    )?;
    Ok(is_instance(item, class))
}

/// The JSON of `ServerSentEvent.data`: `model_dump_json()` of what has it, else as an item
/// without annotation.
pub fn event_data_json<'py>(value: &Bound<'py, PyAny>) -> PyResult<Json<'py>> {
    let py = value.py();
    if is_builtin(value) {
        return item_json(value, false).map(Json::Written);
    }
    if let Treatment::Model(model) = &*treatment_of(&value.get_type())? {
        if model.has_own_dump_json(value) {
            let json = model_dump_json_options(py)?.call(model.to_json.bind(py), value)?;
            return json_bytes(json).map(Json::Compact);
        }
    }
    match value.getattr_opt(intern!(py, "model_dump_json"))? {
        Some(dump) => json_text(dump.call0()?).map(Json::Text),
        None => item_json(value, false).map(Json::Written),
    }
}

fn model_dump_json_options(py: Python<'_>) -> PyResult<&Keywords> {
    static OPTIONS: PyOnceLock<Keywords> = PyOnceLock::new();
    OPTIONS.get_or_try_init(py, || {
        let options = py
            .import("sserpent._core.conversion")?
            .getattr("MODEL_DUMP_JSON_OPTIONS")?;
        Keywords::new(options.cast::<PyDict>()?)
    })
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
    value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyDict>()
        || value.is_exact_instance_of::<PyList>()
        || value.is_exact_instance_of::<PyTuple>()
        || value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyFloat>()
        || value.is_exact_instance_of::<PyBool>()
        || value.is_none()
}

#[doc = doc!("ItemSchema")]
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
        if self.is_valid(item) {
            return self.written(item);
        }
        let validate = self.validate.bind(item.py());
        self.written(&self.validate_options.call(validate, item)?)
    }

    pub fn written<'py>(&self, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let to_json = self.to_json.bind(value.py());
        json_bytes(self.json_options.call(to_json, value)?)
    }

    fn is_valid(&self, item: &Bound<'_, PyAny>) -> bool {
        let valid_class = self.valid_class.as_ref();
        valid_class.is_some_and(|class| item.is_exact_instance(class.bind(item.py())))
    }
}
