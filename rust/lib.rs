//! The compiled core of sserpent.
//!
//! `python/sserpent/_core_py.py` is the specification of this module: same names, signatures,
//! bytes, errors and messages. A change lands in both, with one test that runs over both.
//!
//! No lock is held and no borrow is live while Python code can run, so the module is sound
//! without the GIL.

mod encoder;
mod event;
pub mod frame;
mod json;
mod model;
mod object;

#[pyo3::pymodule(gil_used = false)]
mod _core_rs {
    #[pymodule_export]
    use super::encoder::Encoder;
    #[pymodule_export]
    use super::event::{ServerSentEvent, format_sse_event};
    #[pymodule_export]
    use super::json::ItemSchema;
    #[pymodule_export]
    use super::object::step;

    #[pymodule_init]
    fn init(py: pyo3::Python<'_>) {
        super::object::install_constructor::<ServerSentEvent>(py);
    }
}
