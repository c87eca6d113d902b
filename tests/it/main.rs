//! All integration tests in one program: each more would link the whole tree again.

/// What touches a real machine: as root, one after the other.
mod host {
    mod conformance;
    mod crash;
    mod full;
    mod lab;
    mod lost;
    mod quickstart;
    mod retire;
    mod storage;
    mod story;
    mod stuck;
}
mod manifest;
mod rooms;
mod sim;
