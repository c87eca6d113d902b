//! What people read: plans (`changes`), what a run did (`outcome`), and colour
//! by meaning (`style`).

mod changes;
mod outcome;
pub mod style;
mod unified;

pub use changes::{changes, notes, plan, steps, warning, warnings};
pub use outcome::{Outcome, performed, report};
pub use unified::unified;

use std::time::Duration;

use super::output::count;
use crate::execute::Wave;
use crate::model::{Desired, Step};
use crate::plan::changes::Changes;

/// The columns of a terminal that nobody measured.
pub const WIDTH: usize = 80;

/// `diff`'s exit code: 0 in sync, 1 differs, 3 where a part cannot be read.
pub fn diff_code(changes: &Changes) -> u8 {
    let mut blocked = changes
        .objects
        .iter()
        .filter_map(|change| change.blocked.as_ref());
    match (blocked.any(|why| why.reason == "Unknown"), changes.in_sync) {
        (true, _) => 3,
        (false, true) => 0,
        (false, false) => 1,
    }
}

/// What goes on, in a few words.
pub fn short(desired: &Desired, step: &Step) -> String {
    let text = desired.line(step);
    let what = text.split("  ").next().unwrap_or_default();
    let label = desired.label(&step.object());
    format!("{} {what}", bare(&label))
}

/// An object without its kind: `shop/web`.
fn bare(label: &str) -> &str {
    label.split_once('/').map_or(label, |(_, name)| name)
}

/// `repository/shop` as `Repository shop`.
fn kind_and_name(label: &str) -> String {
    let (kind, name) = match label.split_once('/') {
        Some((kind, name)) => (kind, format!(" {name}")),
        None => (label, String::new()),
    };
    let mut letters = kind.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    format!("{}{}{name}", first.unwrap_or_default(), letters.as_str())
}

/// The one line of a run that had nothing to do.
pub fn in_sync(wave: &Wave, took: Duration) -> String {
    let desired = &wave.desired;
    let services: usize = desired
        .repositories
        .values()
        .map(|repo| repo.projects.len())
        .sum();
    format!(
        "In sync: {}, {}, {} (looked at {} in {:.2}s).",
        count(desired.repositories.len(), "repository"),
        count(services, "service"),
        count(desired.routes.len(), "route"),
        count(looked_at(wave), "thing"),
        took.as_secs_f64()
    )
}

/// How many parts of the machine were compared.
fn looked_at(wave: &Wave) -> usize {
    const DATASTORE_AND_PROXY: usize = 6; // file, device, mount, layout, proxy, table
    const REPOSITORY: usize = 7; // record, slots twice, file, device, mount, daemon
    const PROJECT: usize = 2; // files, images
    let repositories = &wave.desired.repositories;
    let projects = repositories
        .values()
        .flat_map(|repo| repo.projects.values());
    let (projects, services) = projects.fold((0, 0), |(projects, services), project| {
        (projects + 1, services + project.services.len())
    });
    DATASTORE_AND_PROXY
        + repositories.len() * REPOSITORY
        + projects * PROJECT
        + services
        + wave.desired.routes.len()
}
