//! What is known of the classes of pydantic models, looked up once for each class: four attribute
//! look-ups for each event would take as long as the rest of the framing.

use std::sync::{Mutex, PoisonError};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyType};

use crate::cpython::{is_instance, version_of};

/// A class of models, as it was when it was looked at.
pub struct Model<'py> {
    /// `to_json` of the class's serializer.
    pub to_json: Bound<'py, PyAny>,
    /// Whether the class has pydantic's own `model_dump`.
    pub has_own_dump: bool,
    /// Whether the class has pydantic's own `model_dump_json`.
    pub has_own_dump_json: bool,
}

/// pydantic's base class, and the methods that a class may have overridden.
pub struct BaseModel {
    pub class: Py<PyType>,
    pub model_dump: Py<PyAny>,
    pub model_dump_json: Py<PyAny>,
}

struct Known {
    class: Py<PyType>,
    /// CPython gives a class another version when any attribute of it or of a base is set.
    version: u32,
    to_json: Py<PyAny>,
    has_own_dump: bool,
    has_own_dump_json: bool,
}

/// Enough for the classes that take turns in the streams of an application. Each is kept alive.
const MAX_KNOWN: usize = 16;

static KNOWN: Mutex<Vec<Known>> = Mutex::new(Vec::new());

/// What is known of the class of `value`, or `None` if it is no model, or one that has no
/// serializer yet.
pub fn model_of<'py>(value: &Bound<'py, PyAny>, base: &BaseModel) -> Option<Model<'py>> {
    let py = value.py();
    let class = value.get_type();
    let version = version_of(&class);
    if let Some(model) = find(&class, version) {
        return Some(model);
    }
    if !is_instance(value, base.class.bind(py)) {
        return None;
    }
    let model = look_at(value, base).ok()?;
    if version != 0 {
        let known = Known {
            class: class.unbind(),
            version,
            to_json: model.to_json.clone().unbind(),
            has_own_dump: model.has_own_dump,
            has_own_dump_json: model.has_own_dump_json,
        };
        // Dropped after the lock: that may run Python code.
        drop(remember(known));
    }
    Some(model)
}

fn look_at<'py>(value: &Bound<'py, PyAny>, base: &BaseModel) -> PyResult<Model<'py>> {
    let py = value.py();
    // Asked of the instance: asking the class of a model goes through its metaclass's
    // `__getattr__`, which takes several times as long.
    let is_own = |name: &Bound<'_, PyString>, original: &Py<PyAny>| {
        value
            .getattr(name)
            .and_then(|bound| bound.getattr(intern!(py, "__func__")))
            .is_ok_and(|function| function.is(original))
    };
    Ok(Model {
        to_json: value
            .getattr(intern!(py, "__pydantic_serializer__"))?
            .getattr(intern!(py, "to_json"))?,
        has_own_dump: is_own(intern!(py, "model_dump"), &base.model_dump),
        has_own_dump_json: is_own(intern!(py, "model_dump_json"), &base.model_dump_json),
    })
}

fn find<'py>(class: &Bound<'py, PyType>, version: u32) -> Option<Model<'py>> {
    let all = lock();
    let known = all
        .iter()
        .find(|known| known.class.as_ptr() == class.as_ptr() && known.version == version)?;
    Some(Model {
        to_json: known.to_json.bind(class.py()).clone(),
        has_own_dump: known.has_own_dump,
        has_own_dump_json: known.has_own_dump_json,
    })
}

fn remember(known: Known) -> Option<Known> {
    let mut all = lock();
    let same = all
        .iter()
        .position(|each| each.class.as_ptr() == known.class.as_ptr());
    let replaced = match same {
        Some(index) => Some(all.swap_remove(index)),
        None if all.len() == MAX_KNOWN => Some(all.remove(0)),
        None => None,
    };
    all.push(known);
    replaced
}

/// Held while pointers are compared, never while Python code can run.
fn lock() -> std::sync::MutexGuard<'static, Vec<Known>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}
