//! How FastAPI's encoder and pydantic treat the instances of a class, asked once for each class.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyTuple, PyType};

use crate::cpython::{dict_of, version_of};
use crate::once::{OnceImported, intern};
use sserpent_wire::json;

/// How FastAPI's encoder treats an instance; see `treatment.py`.
pub enum Treatment {
    /// Dumps it.
    Model(Model),
    /// Encodes a dict of its fields.
    Dataclass(Vec<Field>),
    /// Takes the attribute of this name.
    Enum(Py<PyString>),
    /// Takes `str()` of it.
    Path,
    /// Leaves it as it is: a subclass of str, int or float.
    Scalar,
    /// Takes None instead.
    Undefined,
    /// Encodes the keys and values.
    Mapping { has_own_items: bool },
    /// Encodes what it iterates over.
    Sequence,
    /// Looks for an encoder of its type.
    Leaf,
    /// Something that its class does not decide.
    Other,
}

/// A class of pydantic models.
pub struct Model {
    /// Of the class's serializer.
    pub to_python: Py<PyAny>,
    /// Of the class's serializer.
    pub to_json: Py<PyAny>,
    /// Whether the JSON of its serializer is that of its dump, unless `json::is_doubtful`.
    pub writes_plain_json: bool,
    has_own_dump: bool,
    has_own_dump_json: bool,
}

impl Model {
    /// Whether `value.model_dump`, of an instance of the class, is pydantic's.
    pub fn has_own_dump(&self, value: &Bound<'_, PyAny>) -> bool {
        self.has_own_dump && !is_attribute(value, intern!(value.py(), "model_dump"))
    }

    /// Whether `value.model_dump_json`, of an instance of the class, is pydantic's.
    pub fn has_own_dump_json(&self, value: &Bound<'_, PyAny>) -> bool {
        self.has_own_dump_json && !is_attribute(value, intern!(value.py(), "model_dump_json"))
    }
}

/// Whether the instance itself has an attribute of the name, which comes before its class's method.
fn is_attribute(value: &Bound<'_, PyAny>, name: &Bound<'_, PyString>) -> bool {
    dict_of(value)
        .and_then(|attributes| attributes.contains(name))
        .unwrap_or(true)
}

/// A field of a dataclass.
pub struct Field {
    pub name: Py<PyString>,
    /// The name in JSON, and the colon.
    pub key: Vec<u8>,
}

struct Known {
    class: Py<PyType>,
    /// CPython gives a class another version when any attribute of it or of a base is set.
    version: u32,
    treatment: Arc<Treatment>,
}

/// More than take turns in the streams of an application: to ask takes longer than to write a model.
/// Each class is kept alive, also one that was made for a single request.
const MAX_KNOWN: usize = 256;

/// As many classes are found at once. Those behind them come closer each time that they are found.
const NEAR: usize = 16;

static KNOWN: Mutex<Vec<Known>> = Mutex::new(Vec::new());

/// How the instances of a class are treated.
pub fn treatment_of(class: &Bound<'_, PyType>) -> PyResult<Arc<Treatment>> {
    let version = version_of(class);
    if let Some(treatment) = find(class, version) {
        return Ok(treatment);
    }
    let treatment = Arc::new(ask(class)?);
    if version != 0 {
        let known = Known {
            class: class.clone().unbind(),
            version,
            treatment: treatment.clone(),
        };
        // Dropped after the lock: that may run Python code.
        drop(remember(known));
    }
    Ok(treatment)
}

fn ask(class: &Bound<'_, PyType>) -> PyResult<Treatment> {
    static TREATMENT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = class.py();
    let answer = TREATMENT
        .imported(py, "sserpent._core.treatment", "treatment")?
        .call1((class,))?
        .cast_into::<PyTuple>()?;
    let name = answer.get_item(0)?.cast_into::<PyString>()?;
    let detail = |index| answer.get_item(index);
    Ok(match name.to_str()? {
        "model" => Treatment::Model(Model {
            to_python: detail(1)?.unbind(),
            to_json: detail(2)?.unbind(),
            has_own_dump: detail(3)?.extract()?,
            has_own_dump_json: detail(4)?.extract()?,
            writes_plain_json: detail(5)?.extract()?,
        }),
        "dataclass" => Treatment::Dataclass(fields(&detail(1)?)?),
        "enum" => Treatment::Enum(detail(1)?.cast_into::<PyString>()?.unbind()),
        "path" => Treatment::Path,
        "scalar" => Treatment::Scalar,
        "undefined" => Treatment::Undefined,
        "mapping" => Treatment::Mapping {
            has_own_items: detail(1)?.extract()?,
        },
        "sequence" => Treatment::Sequence,
        "leaf" => Treatment::Leaf,
        _ => Treatment::Other,
    })
}

fn fields(names: &Bound<'_, PyAny>) -> PyResult<Vec<Field>> {
    let mut fields = Vec::new();
    for name in names.try_iter()? {
        let name = name?.cast_into::<PyString>()?;
        let mut key = Vec::new();
        json::string(&mut key, name.to_str()?);
        key.push(b':');
        fields.push(Field {
            name: PyString::intern(name.py(), name.to_str()?).unbind(),
            key,
        });
    }
    Ok(fields)
}

fn find(class: &Bound<'_, PyType>, version: u32) -> Option<Arc<Treatment>> {
    let mut all = lock();
    let index = all
        .iter()
        .position(|known| known.class.as_ptr() == class.as_ptr() && known.version == version)?;
    let treatment = all[index].treatment.clone();
    if index > NEAR {
        all.swap(index, index / 2);
    }
    Some(treatment)
}

fn remember(known: Known) -> Option<Known> {
    let mut all = lock();
    let same = all
        .iter()
        .position(|each| each.class.as_ptr() == known.class.as_ptr());
    let replaced = match same {
        Some(index) => Some(all.swap_remove(index)),
        None if all.len() == MAX_KNOWN => all.pop(),
        None => None,
    };
    all.push(known);
    replaced
}

/// Held while pointers are compared, never while Python code can run.
fn lock() -> MutexGuard<'static, Vec<Known>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}
