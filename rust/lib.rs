//! The compiled core of sserpent.
//!
//! `python/sserpent/_core/` is the specification of this module, file by file: same names,
//! signatures, bytes, errors and messages. A change lands in both, with one test over both.
//!
//! No lock is held and no borrow is live while Python code can run, so the module is sound
//! without the GIL.

#[macro_use]
mod docs;

mod base_sender;
mod buffer;
mod cpython;
mod declared;
mod event;
mod json;
mod meter;
mod once;
mod parse;
mod pump;
mod rules;
mod stepping;

#[pyo3::pymodule(gil_used = false)]
mod compiled {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::base_sender::BaseSender;
    #[pymodule_export]
    use super::buffer::Buffer;
    use super::cpython::install_constructor;
    #[pymodule_export]
    use super::declared::DeclaredEvents;
    #[pymodule_export]
    use super::event::{ServerSentEvent, format_sse_event};
    #[pymodule_export]
    use super::json::ItemSchema;
    #[pymodule_export]
    use super::meter::Meter;
    #[pymodule_export]
    use super::parse::{EventStreamParser, EventTooLarge, MessageEvent};
    #[pymodule_export]
    use super::pump::Pump;
    #[pymodule_export]
    use super::rules::ItemRules;
    #[pymodule_export]
    use super::stepping::{step, step_as};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        install_constructor::<ServerSentEvent>(module.py());
        // Users import it from there.
        module
            .getattr("format_sse_event")?
            .setattr("__module__", "sserpent")
    }
}
