//! The long-running reconciler, made of parts that can each be used alone.
//!
//! A [`Queue`] holds keys and when they are due; [`run`] has each worked on, never
//! twice at once, by the policy of [`Next`]; a [`Handle`] says from anywhere that a
//! key has work. [`changes`] says when a folder may have changed. An [`Agent`] puts
//! them together: it surveys folder and machine, and takes every repository with
//! work through its waves. What it does stands on a [`Board`], from which
//! [`persist`] writes it down and [`serve`] answers.

mod controller;
mod folder;
mod history;
mod queue;
mod reconcile;
mod socket;
mod starts;
mod status;

pub use controller::{Handle, Next, run};
pub use folder::changes;
pub use history::{Pass, PassResult, last_history};
pub use queue::{Backoff, Queue, random};
pub use reconcile::{Agent, Hint, Key, Policy, Request};
pub use socket::{Answer, Asked, Obstacle, ask, serve};
pub use status::{
    Board, Event, ObjectStatus, Status, Sync, last_events, last_status, note, persist,
};
