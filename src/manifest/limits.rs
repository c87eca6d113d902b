//! How much of the machine something may take: `limits:` of repositories and services.

use super::fields::Fields;
use super::tree::Node;
use super::values::{number, size};
use crate::model::{ResourceLimits, Size};

/// The least that each may be limited to.
pub(super) struct Least {
    pub(super) memory: Size,
    pub(super) pids: u32,
    /// For whom: `a container`.
    pub(super) of: &'static str,
}

/// More the kernel does not count.
const MOST_PIDS: u32 = 4_194_304;

/// Reads what is left of the fields.
pub(super) fn limits(fields: Fields, least: &Least) -> ResourceLimits {
    let limits = ResourceLimits {
        memory: fields.optional("memory", |node| size(node, least.memory, least.of)),
        cpus: fields.optional("cpus", cpus),
        pids: fields.optional("pids", |node| pids(node, least.pids)),
    };
    fields.finish();
    limits
}

fn pids(node: &Node, least: u32) -> Result<u32, String> {
    let cure = format!("write how many, from {least} to {MOST_PIDS}");
    let pids = number(node, &cure)?;
    let range = least..=MOST_PIDS;
    range.contains(&pids).then_some(pids).ok_or(cure)
}

/// A number of processors, in hundredths: systemd keeps whole percents.
fn cpus(node: &Node) -> Result<u32, String> {
    const RANGE: std::ops::RangeInclusive<f64> = 0.01..=1024.0;
    let cure = "write how many processors, from 0.01 to 1024, like `0.5` or `2`";
    let cpus: f64 = number(node, cure)?;
    match RANGE.contains(&cpus) {
        true => Ok((cpus * 100.0).round() as u32),
        false => Err(cure.to_owned()),
    }
}
