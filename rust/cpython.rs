//! The parts of CPython that PyO3 has no safe and equally fast form of. All `unsafe` of the crate is
//! here.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyBytes, PyDict, PyIterator, PyString, PyTuple, PyType};
use pyo3::{PyClass, PyClassInitializer, ffi};

use crate::once::{Once, OnceImported};
use sserpent_wire::frame::{Frame, Sink};

/// Keyword arguments made ready once for many calls.
pub struct Keywords {
    names: Py<PyTuple>,
    values: Vec<Py<PyAny>>,
}

/// More keyword arguments than pydantic's validators and serializers take.
const MAX_KEYWORDS: usize = 16;

impl Keywords {
    pub fn new(arguments: &Bound<'_, PyDict>) -> PyResult<Self> {
        if arguments.len() > MAX_KEYWORDS {
            return Err(PyTypeError::new_err(format!(
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
/// `__instancecheck__`, which pydantic's metaclass has in Python.
pub fn is_instance(object: &Bound<'_, PyAny>, class: &Bound<'_, PyType>) -> bool {
    // SAFETY: both are valid type objects for the whole call; PyType_IsSubtype reads their MRO
    // and runs no Python code.
    unsafe { ffi::PyType_IsSubtype(ffi::Py_TYPE(object.as_ptr()), class.as_type_ptr()) != 0 }
}

/// A number that changes whenever an attribute of the class, or of a base, is set; 0 where CPython
/// keeps no number at the moment.
pub fn version_of(class: &Bound<'_, PyType>) -> u32 {
    // SAFETY: the type object is alive, and the field is an aligned u32 that CPython itself reads
    // and writes while other threads run.
    unsafe {
        let version = &raw mut (*class.as_type_ptr()).tp_version_tag;
        AtomicU32::from_ptr(version).load(Ordering::Relaxed)
    }
}

/// The next entry of a dict, which may change between two calls: unlike PyO3's iterator this does
/// not panic then, and may leave entries out. `position` starts at 0 and is otherwise left alone.
pub fn next_entry<'py>(
    dict: &Bound<'py, PyDict>,
    position: &mut ffi::Py_ssize_t,
) -> Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let py = dict.py();
    let (mut key, mut value) = (std::ptr::null_mut(), std::ptr::null_mut());
    with_critical_section(dict, || {
        // SAFETY: `dict` is a dict, locked where there is no GIL. PyDict_Next checks `position`
        // against the dict as it is. It hands out borrowed references to live objects, which are
        // made owned before anything else can run.
        unsafe {
            let found = ffi::PyDict_Next(dict.as_ptr(), position, &raw mut key, &raw mut value);
            (found != 0).then(|| {
                (
                    Bound::from_borrowed_ptr(py, key),
                    Bound::from_borrowed_ptr(py, value),
                )
            })
        }
    })
}

/// A call that counts towards CPython's limit of nested calls, until it is dropped. For code of ours
/// that may come back to itself without a call of Python code in between.
pub struct RecursiveCall<'py>(PhantomData<Python<'py>>);

impl Drop for RecursiveCall<'_> {
    fn drop(&mut self) {
        // SAFETY: `enter` made the one call that this one undoes, on this thread: `Python` cannot
        // be sent to another.
        unsafe { ffi::Py_LeaveRecursiveCall() }
    }
}

impl<'py> RecursiveCall<'py> {
    /// Raises `RecursionError` where the limit is reached.
    pub fn enter(py: Python<'py>) -> PyResult<Self> {
        // SAFETY: the thread is attached, and the text ends with NUL.
        match unsafe { ffi::Py_EnterRecursiveCall(c" while calling a Python object".as_ptr()) } {
            0 => Ok(Self(PhantomData)),
            _ => Err(PyErr::fetch(py)),
        }
    }
}

/// The `__dict__` of an object, without asking its class for an attribute of that name.
pub fn dict_of<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
    // SAFETY: the object is alive; the result is a new reference or NULL with an exception set.
    let dict = unsafe {
        let dict = ffi::PyObject_GenericGetDict(object.as_ptr(), std::ptr::null_mut());
        Bound::from_owned_ptr_or_err(object.py(), dict)?
    };
    Ok(dict.cast_into()?)
}

/// How many keyword arguments a `KeywordClass` takes.
const KEYWORDS: usize = 6;

/// A class whose constructor takes keyword arguments only, all of them optional.
pub trait KeywordClass: PyClass + Into<PyClassInitializer<Self>> {
    fn names(py: Python<'_>) -> &'static [Py<PyString>; KEYWORDS];
    /// `None` in Python is an argument left out.
    fn construct(arguments: [Option<Bound<'_, PyAny>>; KEYWORDS]) -> PyResult<Self>;
    /// Where `install_constructor` keeps the class's slots.
    fn slots() -> &'static PyOnceLock<ConstructorSlots>;
}

/// The addresses of the functions that `type` calls for a new object.
#[derive(PartialEq, Eq)]
pub struct ConstructorSlots {
    new: usize,
    init: usize,
}

impl ConstructorSlots {
    /// # Safety
    /// `class` is a class that is alive.
    unsafe fn of(class: *mut ffi::PyTypeObject) -> Self {
        // SAFETY: the fields are aligned pointers, or NULL, that CPython itself reads and writes
        // while other threads run.
        unsafe {
            let new = AtomicUsize::from_ptr((&raw mut (*class).tp_new).cast());
            let init = AtomicUsize::from_ptr((&raw mut (*class).tp_init).cast());
            Self {
                new: new.load(Ordering::Relaxed),
                init: init.load(Ordering::Relaxed),
            }
        }
    }
}

/// Lets calls of the class itself go straight to `construct`, without a dict of the arguments,
/// unless someone sets another `__new__` or `__init__` on it. Subclasses keep the ordinary way:
/// CPython does not inherit this slot.
pub fn install_constructor<T: KeywordClass>(py: Python<'_>) {
    let class = py.get_type::<T>().as_type_ptr();
    // SAFETY: `class` is a heap type of this module's, which nobody else uses yet: the module is
    // being initialised. The slot is a plain function pointer, read when the class is called.
    unsafe {
        T::slots().once(py, || ConstructorSlots::of(class));
        (*class).tp_vectorcall = Some(construct::<T>);
    }
}

/// `tp_vectorcall`, <https://docs.python.org/3/c-api/call.html#the-vectorcall-protocol>.
unsafe extern "C" fn construct<T: KeywordClass>(
    class: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: usize,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: CPython calls a slot from an attached thread.
    let py = unsafe { Python::assume_attached() };
    let made = std::panic::catch_unwind(|| {
        // SAFETY: by the protocol `arguments` holds the positional ones, as many as `count` says
        // without its flag, then one for each entry of the tuple `names`, or none if it is NULL.
        // All of them, and the class, are alive for the call.
        unsafe {
            if T::slots().get(py) == Some(&ConstructorSlots::of(class.cast())) {
                if let Some(values) = keyword_arguments::<T>(py, arguments, count, names) {
                    return Ok(Py::new(py, T::construct(values)?)?.into_ptr());
                }
            }
            call_with_dict(py, class, arguments, count, names)
        }
    });
    match made {
        Ok(Ok(object)) => object,
        Ok(Err(error)) => raise(py, error),
        Err(_) => raise(py, PyRuntimeError::new_err("the constructor panicked")),
    }
}

/// Sets the error, for a slot that PyO3 knows nothing of. PyO3 puts aside what is dropped where it
/// has not attached the thread itself, such as the message of an error, until it attaches one again:
/// until the next call of ours, which may be long in coming. So it attaches the thread here, where
/// that costs nothing to those who are not refused.
#[cold]
fn raise(py: Python<'_>, error: PyErr) -> *mut ffi::PyObject {
    let mut error = Some(error);
    Python::try_attach(|py| error.take().map(|error| error.restore(py)));
    if let Some(error) = error {
        error.restore(py); // the interpreter is ending
    }
    std::ptr::null_mut()
}

/// The arguments in the order of the class's names, or `None` if they do not fit: the ordinary
/// way then words the error, or accepts a name that is no interned string.
///
/// # Safety
/// The arguments are those of a vectorcall.
unsafe fn keyword_arguments<T: KeywordClass>(
    py: Python<'_>,
    arguments: *const *mut ffi::PyObject,
    count: usize,
    names: *mut ffi::PyObject,
) -> Option<[Option<Bound<'_, PyAny>>; KEYWORDS]> {
    let mut values = [const { None }; KEYWORDS];
    // SAFETY: as the caller promises; each index is within the tuple's length.
    unsafe {
        if ffi::PyVectorcall_NARGS(count) != 0 {
            return None;
        }
        if names.is_null() {
            return Some(values);
        }
        let expected = T::names(py);
        for index in 0..ffi::PyTuple_GET_SIZE(names) {
            let name = ffi::PyTuple_GET_ITEM(names, index);
            let position = expected.iter().position(|each| each.as_ptr() == name)?;
            let value = Bound::from_borrowed_ptr(py, *arguments.offset(index));
            values[position] = (!value.is_none()).then_some(value);
        }
    }
    Some(values)
}

/// The ordinary way, as CPython calls a class without `tp_vectorcall`.
///
/// # Safety
/// The arguments are those of a vectorcall of `class`.
unsafe fn call_with_dict(
    py: Python<'_>,
    class: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: usize,
    names: *mut ffi::PyObject,
) -> PyResult<*mut ffi::PyObject> {
    let keywords = PyDict::new(py);
    let positional;
    // SAFETY: as the caller promises; `type`'s `tp_call` returns a new reference, or NULL with an
    // exception set.
    unsafe {
        let count = ffi::PyVectorcall_NARGS(count);
        positional = PyTuple::new(
            py,
            (0..count).map(|index| Bound::from_borrowed_ptr(py, *arguments.offset(index))),
        )?;
        if !names.is_null() {
            for index in 0..ffi::PyTuple_GET_SIZE(names) {
                keywords.set_item(
                    Bound::from_borrowed_ptr(py, ffi::PyTuple_GET_ITEM(names, index)),
                    Bound::from_borrowed_ptr(py, *arguments.offset(count + index)),
                )?;
            }
        }
        let Some(call) = ffi::PyType_Type.tp_call else {
            return Err(PyRuntimeError::new_err("type has no tp_call"));
        };
        let made = call(class, positional.as_ptr(), keywords.as_ptr());
        Bound::from_owned_ptr_or_err(py, made).map(Bound::into_ptr)
    }
}

/// The outcome of running a generator or coroutine to its next suspension.
pub enum Sent<'py> {
    /// It suspended, and waits for this.
    Yielded(Bound<'py, PyAny>),
    /// It has ended with this.
    Returned(Bound<'py, PyAny>),
}

impl<'py> Sent<'py> {
    /// Returns what it waits for; the default if it has ended.
    pub fn yielded_or(self, default: &Bound<'py, PyAny>) -> Bound<'py, PyAny> {
        match self {
            Self::Yielded(awaited) => awaited,
            Self::Returned(_) => default.clone(),
        }
    }
}

/// Runs a generator or coroutine to its next suspension. Its end is no exception here, as it would
/// be for a `send` method.
pub fn send_none<'py>(coroutine: &Bound<'py, PyAny>) -> PyResult<Sent<'py>> {
    let py = coroutine.py();
    let mut result = std::ptr::null_mut();
    // SAFETY: `coroutine` is alive for the call. PyIter_Send sets `result` to a new reference, or
    // sets an exception and says so.
    let (sent, result) = unsafe {
        let sent = ffi::PyIter_Send(coroutine.as_ptr(), ffi::Py_None(), &raw mut result);
        (sent, Bound::from_owned_ptr_or_opt(py, result))
    };
    match (sent, result) {
        (ffi::PySendResult::PYGEN_NEXT, Some(awaited)) => Ok(Sent::Yielded(awaited)),
        (ffi::PySendResult::PYGEN_RETURN, Some(returned)) => Ok(Sent::Returned(returned)),
        _ => Err(PyErr::fetch(py)),
    }
}

/// Returns the string of the bytes if all of them are ASCII. `PyUnicode_FromStringAndSize` and its
/// kin look at each byte again.
pub fn ascii_string<'py>(py: Python<'py>, bytes: &[u8]) -> Option<Bound<'py, PyString>> {
    // The empty string and those of one character are shared, and not to be written to.
    if bytes.len() < 2 {
        return is_ascii(bytes)
            .then(|| PyString::new(py, std::str::from_utf8(bytes).unwrap_or_default()));
    }
    let length = ffi::Py_ssize_t::try_from(bytes.len()).ok()?;
    // Block by block, so that each is still in the processor's cache when it is copied.
    let mut blocks = bytes.chunks(16_384);
    let mut block = blocks.next().filter(|block| is_ascii(block))?;
    // SAFETY: `PyUnicode_New` returns a new reference to a string that nobody else has seen, or null
    // with an error set. With 127 as the largest character it is a compact ASCII string, whose data
    // are one byte for each character, and a zero byte behind them, which is written already. The
    // blocks are as long as the bytes together. One that is dropped before all are written is freed
    // without a look at its data.
    unsafe {
        let string = Bound::from_owned_ptr_or_opt(py, ffi::PyUnicode_New(length, 127));
        let Some(string) = string else {
            ffi::PyErr_Clear();
            return None;
        };
        let mut data = ffi::PyUnicode_1BYTE_DATA(string.as_ptr());
        loop {
            std::ptr::copy_nonoverlapping(block.as_ptr(), data, block.len());
            data = data.add(block.len());
            let Some(next) = blocks.next() else {
                return Some(string.cast_into_unchecked());
            };
            block = Some(next).filter(|block| is_ascii(block))?;
        }
    }
}

/// Whether all bytes are ASCII. For the lengths of events this takes a third of the time of
/// `bytes.is_ascii()`: the compiler makes vectors of a loop that does not end early.
fn is_ascii(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |all, byte| all | byte) < 0x80
}

/// The bytes of a frame, written where they stay. `PyBytes::new_with` would write zeros there first.
pub fn frame_bytes<'py>(py: Python<'py>, frame: &Frame<'_>) -> PyResult<Bound<'py, PyBytes>> {
    // SAFETY: the result is a new reference to a bytes object that nobody else has seen, or NULL
    // with an exception set. It has memory of as many bytes, which may be written to until the
    // object is used, and the zero byte behind them. All of them are written before that.
    unsafe {
        let size = frame.size();
        let bytes = ffi::PyBytes_FromStringAndSize(std::ptr::null(), size.try_into()?);
        let bytes = Bound::from_owned_ptr_or_err(py, bytes)?;
        let memory = ffi::PyBytes_AS_STRING(bytes.as_ptr()).cast_mut().cast();
        let mut unwritten = Unwritten(std::slice::from_raw_parts_mut(memory, size));
        frame.write(&mut unwritten);
        unwritten.0.fill(MaybeUninit::new(b'\n'));
        Ok(bytes.cast_into_unchecked())
    }
}

/// Memory that has not been written to.
struct Unwritten<'a>(&'a mut [MaybeUninit<u8>]);

impl Sink for Unwritten<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let (here, behind) = std::mem::take(&mut self.0).split_at_mut(bytes.len());
        // SAFETY: `here` has the length of `bytes`, and is nobody else's.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), here.as_mut_ptr().cast(), here.len());
        }
        self.0 = behind;
    }
}

/// A slot of <https://docs.python.org/3/c-api/typeobj.html#async-object-structures>.
fn async_slot(
    object: &Bound<'_, PyAny>,
    slot: impl FnOnce(&ffi::PyAsyncMethods) -> Option<ffi::unaryfunc>,
) -> Option<ffi::unaryfunc> {
    // SAFETY: the object keeps its type alive, and a type its slots. They are set before the type
    // has objects; a class of Python's has them all, as functions that look for the method.
    unsafe { (*ffi::Py_TYPE(object.as_ptr())).tp_as_async.as_ref() }.and_then(slot)
}

fn call_slot<'py>(object: &Bound<'py, PyAny>, slot: ffi::unaryfunc) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the slot is the object's own, and the object is alive for the call. The result is a
    // new reference or NULL with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(object.py(), slot(object.as_ptr())) }
}

/// Whether an object has `__anext__`.
pub fn is_async_iterator(object: &Bound<'_, PyAny>) -> bool {
    async_slot(object, |slots| slots.am_anext).is_some()
}

/// Returns what `await anext(iterator)` steps.
#[inline]
pub fn steps_of_next<'py>(iterator: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    match async_slot(iterator, |slots| slots.am_anext) {
        Some(anext) => steps_of(&call_slot(iterator, anext)?),
        None => Err(PyTypeError::new_err("'iterator' has no __anext__ any more")),
    }
}

/// Returns what `await` steps.
#[inline]
pub fn steps_of<'py>(awaitable: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let Some(am_await) = async_slot(awaitable, |slots| slots.am_await) else {
        return awaited_by_python(awaitable);
    };
    let steps = call_slot(awaitable, am_await)?;
    if steps.is(awaitable) || steps.cast::<PyIterator>().is_ok() {
        return Ok(steps);
    }
    Err(no_iterator(&steps))
}

#[cold]
fn awaited_by_python<'py>(awaitable: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static AWAITED: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    AWAITED
        .imported(awaitable.py(), "sserpent._core.stepping", "awaited")?
        .call1((awaitable,))
}

#[cold]
fn no_iterator(steps: &Bound<'_, PyAny>) -> PyErr {
    match steps.get_type().name() {
        Ok(kind) => PyTypeError::new_err(format!(
            "__await__() returned non-iterator of type '{kind}'"
        )),
        Err(error) => error,
    }
}

/// Calls a function in a context, an instance of `contextvars.Context`.
pub fn in_context<T>(
    context: &Bound<'_, PyAny>,
    function: impl FnOnce() -> PyResult<T>,
) -> PyResult<T> {
    // SAFETY: the context is alive; CPython refuses what is no context, or has been entered.
    if unsafe { ffi::PyContext_Enter(context.as_ptr()) } != 0 {
        return Err(PyErr::fetch(context.py()));
    }
    let result = function();
    // SAFETY: as above; this is the context that was entered last.
    if unsafe { ffi::PyContext_Exit(context.as_ptr()) } != 0 {
        return Err(PyErr::fetch(context.py()));
    }
    result
}
