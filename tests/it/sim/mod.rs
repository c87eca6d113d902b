//! Whole runs on the simulated machine: from any state it can reach, with any
//! fault and a crash anywhere, `apply` converges or is blocked for a public
//! reason, and the next run does nothing.

mod copies;
mod counterexamples;
mod depends;
mod device;
mod histories;
mod hooks;
mod oracle;
mod retirement;
mod rewinds;
mod stories;
mod trials;
mod updates;
pub mod world;
