//! renet turns one Linux server into what a folder of YAML manifests says it
//! is, and keeps it so.

#![forbid(unsafe_op_in_unsafe_fn)]

pub mod manifest;
pub mod model;
