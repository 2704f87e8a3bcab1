//! The wire format of event streams. Knows nothing of Python.
#![forbid(unsafe_code)]

pub mod frame;
pub mod json;
pub mod parse;
