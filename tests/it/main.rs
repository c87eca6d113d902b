//! All integration tests in one program: each more would link the whole tree again.

/// What touches a real machine: as root, one after the other.
mod host {
    mod conformance;
    mod quickstart;
    mod storage;
    mod story;
}
/// The parts that the agent is made of.
mod agent {
    mod controller;
    mod folder;
    mod laws;
    mod queue;
}
mod manifest;
mod rooms;
mod sim;
