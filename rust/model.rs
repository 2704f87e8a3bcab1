//! The classes of pydantic models, each looked at once: four attribute look-ups for each event would
//! take as long as the rest of the framing.

use std::sync::{Mutex, PoisonError};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyType};

use crate::cpython::{dict_of, is_instance, version_of};

/// A class of models, as it was when it was looked at.
pub struct Model<'py> {
    /// `to_json` of the class's serializer.
    pub to_json: Bound<'py, PyAny>,
    has_own_dump: bool,
    has_own_dump_json: bool,
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

impl Model<'_> {
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

/// The class of `value`, or `None` if it is no model, or one whose class has no serializer yet.
pub fn model_of<'py>(value: &Bound<'py, PyAny>, base: &BaseModel) -> Option<Model<'py>> {
    let class = value.get_type();
    let version = version_of(&class);
    if let Some(model) = find(&class, version) {
        return Some(model);
    }
    if !is_instance(value, base.class.bind(value.py())) {
        return None;
    }
    let model = look_at(&class, base).ok()?;
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

fn look_at<'py>(class: &Bound<'py, PyType>, base: &BaseModel) -> PyResult<Model<'py>> {
    let py = class.py();
    let is_own = |name: &Bound<'_, PyString>, original: &Py<PyAny>| {
        class
            .getattr(name)
            .is_ok_and(|function| function.is(original))
    };
    Ok(Model {
        to_json: class
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
