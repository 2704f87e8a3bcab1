//! Stepping coroutines by hand.

use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::cpython::{Sent, in_context, send_none};
use crate::once::intern;

#[doc = doc!("step")]
#[pyfunction]
#[pyo3(signature = (coroutine, default, /))]
pub fn step<'py>(
    coroutine: &Bound<'py, PyAny>,
    default: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    Ok(send_none(coroutine)?.yielded_or(default))
}

#[doc = doc!("step_as")]
#[pyfunction]
#[pyo3(signature = (task, current_tasks, loop_, context, coroutine, default, error=None, /))]
#[pyo3(text_signature = "(task, current_tasks, loop, context, coroutine, default, error=None, /)")]
pub fn step_as<'py>(
    task: &Bound<'py, PyAny>,
    current_tasks: &Bound<'py, PyAny>,
    loop_: &Bound<'py, PyAny>,
    context: &Bound<'py, PyAny>,
    coroutine: &Bound<'py, PyAny>,
    default: &Bound<'py, PyAny>,
    error: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let sent = sent_as(task, current_tasks, loop_, context, coroutine, error)?;
    Ok(sent.yielded_or(default))
}

/// Does what `step_as` does, and returns also what the coroutine has returned.
pub fn sent_as<'py>(
    task: &Bound<'py, PyAny>,
    current_tasks: &Bound<'py, PyAny>,
    loop_: &Bound<'py, PyAny>,
    context: &Bound<'py, PyAny>,
    coroutine: &Bound<'py, PyAny>,
    error: Option<Bound<'py, PyAny>>,
) -> PyResult<Sent<'py>> {
    let current = exchange(current_tasks, loop_, Some(task))?;
    let sent = in_context(context, || match error {
        None => send_none(coroutine),
        Some(error) => throw(coroutine, PyTuple::new(coroutine.py(), [error])?),
    });
    exchange(current_tasks, loop_, current.as_ref())?;
    sent
}

/// Makes a task the current one of its event loop, and returns the one that was.
fn exchange<'py>(
    current_tasks: &Bound<'py, PyAny>,
    loop_: &Bound<'py, PyAny>,
    task: Option<&Bound<'py, PyAny>>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let Ok(dict) = current_tasks.cast_exact::<PyDict>() else {
        let current = current_tasks.call1((loop_, task))?;
        return Ok((!current.is_none()).then_some(current));
    };
    let current = dict.get_item(loop_)?;
    match task {
        Some(task) => dict.set_item(loop_, task)?,
        None if current.is_some() => dict.del_item(loop_)?,
        None => {}
    }
    Ok(current)
}

/// Throws an error into a coroutine; `error` has the arguments of its `throw`.
pub fn throw<'py>(steps: &Bound<'py, PyAny>, error: Bound<'py, PyTuple>) -> PyResult<Sent<'py>> {
    let py = steps.py();
    match steps.call_method1(intern!(py, "throw"), error) {
        Ok(awaited) => Ok(Sent::Yielded(awaited)),
        Err(error) if error.is_instance_of::<PyStopIteration>(py) => {
            let item = error.value(py).getattr(intern!(py, "value"))?;
            Ok(Sent::Returned(item))
        }
        Err(error) => Err(error),
    }
}
