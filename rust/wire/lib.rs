//! The wire format of event streams. Knows nothing of Python.
#![forbid(unsafe_code)]

pub mod blocks;
mod ends;
pub mod frame;
pub mod json;
pub mod object;
pub mod parse;
