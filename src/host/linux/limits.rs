//! What all of a repository may take: its daemon and its containers share a slice,
//! and the kernel counts for that.

use std::fs;
use std::path::Path;

use super::systemd::{self, Systemd, UnitFile};
use crate::host::StepError;
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

/// The limits that the kernel keeps for a network; `None` where it cannot keep all of
/// them, and where its daemon is in no slice.
pub(super) fn kept(layout: &Layout, network: NetworkId) -> Option<ResourceLimits> {
    let tree = Path::new(TREE);
    let keeps = systemd::rules(layout) && controls(tree);
    keeps.then(|| of(&tree.join(slice(network))))?
}

/// Whether all that can be limited can be in this tree.
fn controls(tree: &Path) -> bool {
    let all = fs::read_to_string(tree.join("cgroup.controllers")).unwrap_or_default();
    let has = |name: &str| all.split_whitespace().any(|one| one == name);
    ["memory", "cpu", "pids"].into_iter().all(has)
}

/// The limits of a group. What nobody limits may have no file there.
fn of(group: &Path) -> Option<ResourceLimits> {
    if !group.is_dir() {
        return None;
    }
    let read = |file: &str| fs::read_to_string(group.join(file)).ok();
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let cpus = read("cpu.max").and_then(|text| {
        let (quota, period) = text.trim().split_once(' ')?;
        let cpus = (number(quota)? * 100).div_ceil(number(period)?.max(1));
        u32::try_from(cpus).ok()
    });
    Some(ResourceLimits {
        memory: read("memory.max").and_then(|text| number(&text).map(Size::bytes)),
        cpus,
        pids: read("pids.max").and_then(|text| text.trim().parse().ok()),
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

/// Has systemd, and by it the kernel, keep these limits.
pub(super) async fn set(
    systemd: &Systemd,
    network: NetworkId,
    limits: &ResourceLimits,
) -> Result<(), StepError> {
    const NONE: u64 = u64::MAX;
    let cpus = limits.cpus.map_or(NONE, |cpus| u64::from(cpus) * 10_000);
    // In bytes, microseconds of a second, and processes.
    let properties = [
        ("MemoryMax", limits.memory.map_or(NONE, Size::as_bytes)),
        ("CPUQuotaPerSecUSec", cpus),
        ("TasksMax", limits.pids.map_or(NONE, u64::from)),
    ];
    systemd.set(&slice(network), &properties).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_keeps_what_its_files_say() {
        let tree = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(tree.path().join(file), text).unwrap();
        assert_eq!(of(&tree.path().join("none")), None);
        assert_eq!(of(tree.path()), Some(ResourceLimits::default()));
        write("memory.max", "536870912\n");
        write("cpu.max", "max 100000\n");
        write("pids.max", "max\n");
        let memory = ResourceLimits {
            memory: Some(Size::mib(512)),
            ..ResourceLimits::default()
        };
        assert_eq!(of(tree.path()), Some(memory));
        write("cpu.max", "25000 100000\n");
        write("pids.max", "1000\n");
        let all = ResourceLimits {
            cpus: Some(25),
            pids: Some(1000),
            ..memory
        };
        assert_eq!(of(tree.path()), Some(all));
        // A container of another system has none of them.
        assert!(!controls(tree.path()));
        write("cgroup.controllers", "cpuset cpu memory\n");
        assert!(!controls(tree.path()));
        write("cgroup.controllers", "cpuset cpu io memory pids\n");
        assert!(controls(tree.path()));
    }
}
