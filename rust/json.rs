//! The JSON of an item or an event's data: pydantic-core's where FastAPI asks pydantic, else the
//! writer's.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit};

use crate::cpython::{Keywords, is_instance};
use crate::once::{Once, OnceImported, intern};
use class::{Treatment, treatment_of};

pub use members::{Member, Noted, TwoMembers};
pub use writer::{json_of as item_json, json_with_members as item_json_with_members};

mod class;
mod members;
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
    let class = EVENT.imported(
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
    OPTIONS.try_once(py, || {
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
        validate: Py<PyAny>,
        validate_options: Bound<'_, PyDict>,
        to_json: Py<PyAny>,
        json_options: Bound<'_, PyDict>,
        valid_class: Option<Py<PyType>>,
    ) -> PyResult<Self> {
        Ok(Self {
            validate,
            validate_options: Keywords::new(&validate_options)?,
            to_json,
            json_options: Keywords::new(&json_options)?,
            valid_class,
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
