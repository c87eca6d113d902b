//! A real Linux machine.

pub mod files;
pub mod program;
