//! The wire format of event streams. Knows nothing of Python.
#![forbid(unsafe_code)]

mod ends;
pub mod frame;
pub mod json;
pub mod parse;
