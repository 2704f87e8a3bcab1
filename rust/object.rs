//! Three things of CPython's that PyO3 has no safe and equally fast form of. All `unsafe` of the
//! crate is here.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};

/// Keyword arguments made ready once for many calls.
pub struct Keywords {
    names: Py<PyTuple>,
    values: Vec<Py<PyAny>>,
}

/// More keyword arguments than pydantic's serializers take.
const MAX_KEYWORDS: usize = 16;

impl Keywords {
    pub fn new(arguments: &Bound<'_, PyDict>) -> PyResult<Self> {
        if arguments.len() > MAX_KEYWORDS {
            return Err(pyo3::exceptions::PyTypeError::new_err(format!(
                "at most {MAX_KEYWORDS} keyword arguments can be bound, not {}",
                arguments.len()
            )));
        }
        // A key that is no str would break the vectorcall protocol that `call` relies on.
        let mut names = Vec::with_capacity(arguments.len());
        for key in arguments.keys() {
            names.push(key.cast_into::<PyString>()?);
        }
        Ok(Self {
            names: PyTuple::new(arguments.py(), names)?.unbind(),
            values: arguments.values().iter().map(Bound::unbind).collect(),
        })
    }

    /// `callable(argument, **self)`, without building a dict for each call.
    pub fn call<'py>(
        &self,
        callable: &Bound<'py, PyAny>,
        argument: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut stack = [std::ptr::null_mut(); MAX_KEYWORDS + 2];
        stack[1] = argument.as_ptr();
        for (slot, value) in stack[2..].iter_mut().zip(&self.values) {
            *slot = value.as_ptr();
        }
        // SAFETY: `stack[1..]` holds one positional argument and then as many values as `names`
        // has entries (at most MAX_KEYWORDS, checked in `new`), all alive for the call because
        // `argument` and `self` are borrowed. The entry before the first argument is ours to
        // lend, as PY_VECTORCALL_ARGUMENTS_OFFSET says. The result is a new reference or NULL
        // with an exception set.
        unsafe {
            let result = ffi::PyObject_Vectorcall(
                callable.as_ptr(),
                stack.as_ptr().add(1),
                1 | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
                self.names.as_ptr(),
            );
            Bound::from_owned_ptr_or_err(callable.py(), result)
        }
    }

    pub fn traverse(&self, visit: pyo3::PyVisit<'_>) -> Result<(), pyo3::PyTraverseError> {
        visit.call(&self.names)?;
        self.values.iter().try_for_each(|value| visit.call(value))
    }
}

/// Whether `class` is in the method resolution order of `object`'s type: `isinstance` without
/// `__instancecheck__`, which pydantic's metaclass answers in Python.
pub fn is_instance(object: &Bound<'_, PyAny>, class: &Bound<'_, PyType>) -> bool {
    // SAFETY: both are valid type objects for the whole call; PyType_IsSubtype reads their MRO
    // and runs no Python code.
    unsafe { ffi::PyType_IsSubtype(ffi::Py_TYPE(object.as_ptr()), class.as_type_ptr()) != 0 }
}

/// Whether `predicate` holds for every entry. Unlike PyO3's iterator it does not panic when
/// another thread changes the dict meanwhile.
pub fn all_entries(
    dict: &Bound<'_, PyDict>,
    mut predicate: impl FnMut(&Bound<'_, PyAny>, &Bound<'_, PyAny>) -> bool,
) -> bool {
    let py = dict.py();
    with_critical_section(dict, || {
        let mut position = 0;
        let (mut key, mut value) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: `dict` is a dict, locked where there is no GIL. PyDict_Next checks `position`
        // against the dict as it is at each call, and hands out borrowed references, which are
        // made owned before anything else can run.
        while unsafe { ffi::PyDict_Next(dict.as_ptr(), &mut position, &mut key, &mut value) } != 0 {
            // SAFETY: PyDict_Next answered non-zero, so both point to live objects.
            let (key, value) = unsafe {
                (
                    Bound::from_borrowed_ptr(py, key),
                    Bound::from_borrowed_ptr(py, value),
                )
            };
            if !predicate(&key, &value) {
                return false;
            }
        }
        true
    })
}
