//! Tests against real things.

mod host {
    mod storage;
}
