//! renet turns one Linux server into what a folder of YAML manifests says it
//! is, and keeps it so.
//!
//! Data flows one way: `manifest` → `resolve` → [`model::Desired`];
//! [`host::Host::observe`] → [`model::Actual`]; `plan` compares the two into
//! steps; `execute` has the host perform them.

pub mod agent;
pub mod cli;
pub mod execute;
pub mod host;
pub mod manifest;
pub mod model;
pub mod plan;
pub mod resolve;
pub mod router;
