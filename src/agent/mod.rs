//! The long-running reconciler, made of parts that can each be used alone.
//!
//! A [`Queue`] holds keys and when they are due; [`run`] has each worked on, never
//! twice at once, by the policy of [`Next`]; a [`Handle`] says from anywhere that a
//! key has work. [`changes`] says when a folder may have changed.

mod controller;
mod folder;
mod queue;

pub use controller::{Handle, Next, run};
pub use folder::changes;
pub use queue::{Backoff, Queue, random};
