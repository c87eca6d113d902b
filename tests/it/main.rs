//! All integration tests in one program: each more would link the whole tree again.

/// What touches a real machine: as root, one after the other.
mod host {
    mod conformance;
    mod quickstart;
    mod storage;
    mod story;
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
mod manifest;
mod rooms;
mod sim;
