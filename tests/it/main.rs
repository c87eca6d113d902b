//! All integration tests in one program: each more would link the whole tree again.

/// What touches a real machine: as root, one after the other.
mod host {
    mod agent;
    mod aside;
    mod conformance;
    mod crash;
    mod datastore;
    mod fork;
    mod full;
    mod lab;
    mod lost;
    mod quickstart;
    mod retire;
    mod service;
    mod storage;
    mod story;
    mod stuck;
}
/// The agent: its parts, and the whole of it.
mod agent {
    mod controller;
    mod folder;
    mod laws;
    mod queue;
    mod week;
    mod whole;
}
/// A container: systemd on this kernel.
mod container {
    mod nspawn;
    mod story;
}
/// A virtual machine: all that a server has.
mod machine {
    mod luks;
    mod story;
    mod vm;
}
mod cli;
mod corpus;
mod desired;
mod dice;
mod guest;
mod hostile;
mod loader;
mod manifest;
mod rooms;
mod schema;
mod service;
mod sim;
mod speak;
mod terminal;
