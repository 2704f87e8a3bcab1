//! Values that are made once, with nothing locked meanwhile.
//!
//! `PyOnceLock` locks itself while it makes a value, and lets other threads run in the meantime: if
//! one of them forks, the child waits for that lock for ever, because the thread that has it is not
//! in the child. Here a value is made first and set then. Two threads may each make one, of which
//! the first is kept.

use pyo3::PyTypeCheck;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// In place of `PyOnceLock`'s `get_or_init` and `get_or_try_init`.
pub trait Once<T> {
    fn once(&self, py: Python<'_>, make: impl FnOnce() -> T) -> &T;

    fn try_once<E>(&self, py: Python<'_>, make: impl FnOnce() -> Result<T, E>) -> Result<&T, E>;
}

impl<T> Once<T> for PyOnceLock<T> {
    fn once(&self, py: Python<'_>, make: impl FnOnce() -> T) -> &T {
        match self.get(py) {
            Some(value) => value,
            None => first(self, py, make()),
        }
    }

    fn try_once<E>(&self, py: Python<'_>, make: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
        match self.get(py) {
            Some(value) => Ok(value),
            None => Ok(first(self, py, make()?)),
        }
    }
}

/// Keeps a value, unless another thread was first, and returns what is kept.
#[expect(clippy::expect_used)] // which cannot fail: it has just been set
fn first<'a, T>(lock: &'a PyOnceLock<T>, py: Python<'_>, value: T) -> &'a T {
    drop(lock.set(py, value));
    lock.get(py).expect("it has just been set")
}

/// In place of `PyOnceLock`'s `import`.
pub trait OnceImported<T> {
    fn imported<'py>(&self, py: Python<'py>, module: &str, name: &str) -> PyResult<&Bound<'py, T>>;
}

impl<T: PyTypeCheck> OnceImported<T> for PyOnceLock<Py<T>> {
    fn imported<'py>(&self, py: Python<'py>, module: &str, name: &str) -> PyResult<&Bound<'py, T>> {
        let found = self.try_once(py, || -> PyResult<_> {
            Ok(py.import(module)?.getattr(name)?.cast_into()?.unbind())
        })?;
        Ok(found.bind(py))
    }
}

/// In place of PyO3's: a `str` that Python has once.
macro_rules! intern {
    ($py:expr, $text:expr) => {{
        static TEXT: pyo3::sync::PyOnceLock<pyo3::Py<pyo3::types::PyString>> =
            pyo3::sync::PyOnceLock::new();
        let make = || pyo3::types::PyString::intern($py, $text).unbind();
        $crate::once::Once::once(&TEXT, $py, make).bind($py)
    }};
}
pub(crate) use intern;
