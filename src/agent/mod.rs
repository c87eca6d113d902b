//! The long-running reconciler, made of parts that can each be used alone.
//!
//! A [`Queue`] holds keys and when they are due.

mod queue;

pub use queue::{Backoff, Queue, random};
