//! The compiled core of sserpent.
//!
//! `python/sserpent/_core/` is the specification of this module, file by file: same names,
//! signatures, bytes, errors and messages. A change lands in both, with one test over both.
//!
//! No lock is held and no borrow is live while Python code can run, so the module is sound
//! without the GIL.

mod buffer;
mod cpython;
mod event;
mod json;
mod model;
mod parse;
mod stepping;

#[pyo3::pymodule(gil_used = false)]
mod compiled {
    #[pymodule_export]
    use super::buffer::Buffer;
    #[pymodule_export]
    use super::event::{ServerSentEvent, format_sse_event};
    #[pymodule_export]
    use super::json::ItemSchema;
    #[pymodule_export]
    use super::parse::{EventStreamParser, EventTooLarge, MessageEvent};
    #[pymodule_export]
    use super::stepping::step;

    #[pymodule_init]
    fn init(py: pyo3::Python<'_>) {
        super::cpython::install_constructor::<ServerSentEvent>(py);
    }
}
