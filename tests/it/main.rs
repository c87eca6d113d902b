//! All integration tests in one program: each more would link the whole tree again.

/// What touches a real machine: as root, one after the other.
mod host {
    mod agent;
    mod aside;
    mod authority;
    mod conformance;
    mod cost;
    mod crash;
    mod daemons;
    mod datastore;
    mod device;
    mod fork;
    mod full;
    mod hooks;
    mod https;
    mod lab;
    mod lost;
    mod operator;
    mod progress;
    mod proxy;
    mod quickstart;
    mod retire;
    mod router;
    mod service;
    mod storage;
    mod story;
    mod stuck;
    mod trials;
    mod updates;
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
    mod many;
    mod nspawn;
    mod story;
    mod units;
}
/// A virtual machine: all that a server has.
mod machine {
    mod boot;
    mod cost;
    mod luks;
    mod power;
    mod reference;
    mod story;
    mod tpm;
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
mod router;
mod schema;
mod secure;
mod service;
mod sim;
mod speak;
mod terminal;
