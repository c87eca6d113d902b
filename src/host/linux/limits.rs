//! What all of a repository may take: its daemon and its containers share a slice,
//! and the kernel counts for that.

use std::fs;
use std::path::Path;

use super::systemd::{self, UnitFile};
use crate::model::{Layout, NetworkId, ResourceLimits, Size};

/// Where the one tree of control groups is.
const TREE: &str = "/sys/fs/cgroup";

/// The slice of one network. Without a dash: that would put it into a slice of
/// systemd's own making, which a shutdown stops before its containers.
pub(super) fn slice(network: NetworkId) -> String {
    format!("rediacc_{network}.slice")
}

/// Whether containers can be put into a slice: under systemd, with cgroup v2.
pub(super) fn has_slices(layout: &Layout) -> bool {
    systemd::rules(layout) && Path::new(TREE).join("cgroup.controllers").exists()
}

/// The limits that the kernel keeps for a network; `None` where it keeps none.
pub(super) fn kept(layout: &Layout, network: NetworkId) -> Option<ResourceLimits> {
    has_slices(layout).then(|| of(&Path::new(TREE).join(slice(network))))?
}

/// The limits of a group; `None` where not all of them are counted.
fn of(group: &Path) -> Option<ResourceLimits> {
    let read = |file: &str| fs::read_to_string(group.join(file)).ok();
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let cpus = read("cpu.max")?;
    let (quota, period) = cpus.trim().split_once(' ')?;
    let period = number(period)?.max(1);
    let cpus = number(quota).map(|quota| (quota * 100).div_ceil(period));
    Some(ResourceLimits {
        memory: number(&read("memory.max")?).map(Size::bytes),
        cpus: cpus.and_then(|cpus| cpus.try_into().ok()),
        pids: number(&read("pids.max")?).and_then(|pids| pids.try_into().ok()),
    })
}

/// The slice's unit. Its limits are told to systemd itself: what a unit's file says
/// anew does not reach the kernel while the unit runs.
pub(super) fn unit(network: NetworkId) -> UnitFile {
    let text = format!(
        "[Unit]
Description=Daemon and containers of network {network}
DefaultDependencies=no

[Slice]
# Counted also where nothing is limited.
MemoryAccounting=yes
CPUAccounting=yes
TasksAccounting=yes
"
    );
    UnitFile {
        name: slice(network),
        text,
    }
}

/// The same as systemd calls it: bytes, microseconds of a second, and processes.
pub(super) fn properties(limits: &ResourceLimits) -> [(&'static str, u64); 3] {
    const NONE: u64 = u64::MAX;
    let cpus = limits.cpus.map_or(NONE, |cpus| u64::from(cpus) * 10_000);
    [
        ("MemoryMax", limits.memory.map_or(NONE, Size::as_bytes)),
        ("CPUQuotaPerSecUSec", cpus),
        ("TasksMax", limits.pids.map_or(NONE, u64::from)),
    ]
}
