//! What renet remembers, beside the images and on the machine.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use serde_json::Value;

use super::files::{self, read_json, write_json};
use super::{btrfs, mount};
use crate::host::{Done, StepError};
use crate::model::{
    Guid, Layout, MachineRecord, Name, Owner, Part, Patch, Record, Slots, Suspension,
    slots_are_distinct, slots_from_json, slots_json,
};

pub(super) const MODE: u32 = 0o644;

pub(super) fn failed(path: &Path) -> impl Fn(io::Error) -> StepError + '_ {
    move |error| StepError::machine(format!("{}: {error}", path.display()))
}

/// A part as a step needs it: what could not be read is never written over.
pub(super) fn readable<T>(part: Part<T>) -> Result<Option<T>, StepError> {
    match part {
        Part::Known(value) => Ok(Some(value)),
        Part::Absent => Ok(None),
        Part::Hidden => Err(StepError::machine("it is behind something closed")),
        Part::Unknown(why) => Err(StepError::machine(why)),
    }
}

/// A repository's record.
pub(super) fn record(layout: &Layout, guid: Guid) -> Part<Record> {
    read_json(&layout.record(guid))
}

/// The machine's record.
pub(super) fn machine(layout: &Layout) -> Part<MachineRecord> {
    read_json(&layout.machine())
}

/// The slots' mirror.
pub(super) fn mirror(layout: &Layout, guid: Guid) -> Part<Slots> {
    let path = layout.mirror(guid);
    slots(&path, read_json(&path))
}

/// Slots out of what was read at `path`.
pub(super) fn slots(path: &Path, read: Part<Value>) -> Part<Slots> {
    match read {
        Part::Known(root) => match slots_from_json(&root) {
            Ok(slots) => Part::Known(slots),
            Err(why) => Part::Unknown(format!("{}: {why}", path.display())),
        },
        Part::Absent => Part::Absent,
        Part::Hidden => Part::Hidden,
        Part::Unknown(why) => Part::Unknown(why),
    }
}

/// Every repository that has a record, an image, a half-made image or a mount.
pub(super) fn guids(layout: &Layout) -> Result<BTreeSet<Guid>, String> {
    let mut guids = BTreeSet::new();
    for name in names(&layout.state())? {
        let Ok(guid) = name.parse::<Guid>() else {
            continue;
        };
        // An empty folder is nothing: a crash before the record was written.
        if layout.record(guid).exists() || layout.mirror(guid).exists() {
            guids.insert(guid);
        }
    }
    for name in names(&layout.repositories())? {
        let beside = name.strip_prefix(".new-");
        let beside = beside.or_else(|| name.strip_prefix(".replaced-"));
        guids.extend(beside.unwrap_or(&name).parse::<Guid>());
    }
    for name in names(&layout.datastore())? {
        let of_fork = name.strip_prefix(".fork-").map(str::parse::<Guid>);
        guids.extend(of_fork.and_then(Result::ok));
    }
    for name in names(&layout.trash_folder())? {
        guids.extend(name.parse::<Guid>());
    }
    let mounts = mount::real(&layout.mounts());
    let mounted = mount::table()?.into_iter().map(|mounted| mounted.point);
    guids.extend(mounted.filter_map(|point| {
        let name = point.strip_prefix(&mounts).ok()?.to_str()?.to_owned();
        name.parse::<Guid>().ok()
    }));
    Ok(guids)
}

fn names(folder: &Path) -> Result<Vec<String>, String> {
    let why = |error: io::Error| format!("{}: {error}", folder.display());
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(why)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(why)?.file_name().into_string());
    }
    Ok(names)
}

/// The datastore's folders, as [`lay_out`] makes them.
pub(super) fn laid_out(layout: &Layout) -> Part<()> {
    let look = || -> io::Result<bool> {
        let folders = folders(layout);
        Ok(btrfs::is_subvolume(&layout.repositories())?
            && folders.iter().all(|(path, _)| path.is_dir()))
    };
    match look() {
        Ok(true) => Part::Known(()),
        Ok(false) => Part::Absent,
        Err(error) => Part::Unknown(format!("{}: {error}", layout.repositories().display())),
    }
}

fn folders(layout: &Layout) -> [(std::path::PathBuf, u32); 5] {
    let at = |name| layout.datastore().join(name);
    [
        (layout.mounts(), 0o755),
        (at("interim"), 0o755),
        (at("immovable"), 0o755),
        (layout.state(), 0o755),
        (at(".credentials"), 0o700),
    ]
}

/// Makes the datastore's subvolume and folders.
pub(super) async fn lay_out(layout: &Layout) -> Result<Done, StepError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let images = layout.repositories();
    if !btrfs::is_subvolume(&images).map_err(failed(&images))? {
        btrfs::make_subvolume(&images).await?;
    }
    for (path, mode) in folders(layout) {
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(true).mode(mode).create(&path);
        made.map_err(failed(&path))?;
    }
    Ok(Done::Changed)
}

/// Notes the machine's name and who declares it.
pub(super) fn claim_machine(
    layout: &Layout,
    name: &Name,
    owner: &Owner,
    overcommit: Option<u32>,
) -> Result<Done, StepError> {
    let mut record = readable(machine(layout))?.unwrap_or_default();
    record.name = Some(name.clone());
    record.owner = Some(owner.clone());
    record.overcommit = overcommit;
    write_machine(layout, &record)
}

/// Notes who said that the machine is to be left alone, or that nobody does.
pub(super) fn suspend_machine(
    layout: &Layout,
    suspension: Option<&Suspension>,
) -> Result<Done, StepError> {
    let mut record = readable(machine(layout))?.unwrap_or_default();
    record.suspended = suspension.cloned();
    write_machine(layout, &record)
}

fn write_machine(layout: &Layout, record: &MachineRecord) -> Result<Done, StepError> {
    let path = layout.machine();
    keep_previous(&path)?;
    write_json(&path, record, MODE).map_err(failed(&path))?;
    Ok(Done::Changed)
}

/// The generation before stays readable beside the file: it is that very file under
/// another name, so that nothing has to reach the disk again.
pub(super) fn keep_previous(path: &Path) -> Result<(), StepError> {
    let mut previous = path.to_owned().into_os_string();
    previous.push(".prev");
    let staging = path.with_file_name(format!("{}previous", files::unfinished()));
    let keep = || -> io::Result<()> {
        files::remove(&staging)?;
        match fs::hard_link(path, &staging) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        fs::rename(&staging, &previous)?;
        // Where both are the same file already, a rename leaves both.
        files::remove(&staging)
    };
    keep().map_err(failed(path))
}

/// Writes a new repository's record, under the machine's lock.
pub(super) fn reserve(layout: &Layout, guid: Guid, new: &Record) -> Result<Done, StepError> {
    let (name, network) = (&new.name, new.network);
    for other in guids(layout).map_err(StepError::machine)? {
        // While any record cannot be read, nobody knows what is taken.
        let Some(record) = readable(record(layout, other))? else {
            continue;
        };
        let taken = if other == guid {
            "it has a record".to_owned()
        } else if record.is_live() && record.name == *name {
            format!("the name {name} was taken by {other}")
        } else if record.holds_network() == Some(network) {
            format!("network {network} was taken by {} ({other})", record.name)
        } else {
            continue;
        };
        return Err(StepError::race(taken));
    }
    clear_halves(layout).map_err(failed(&layout.state()))?;
    // First: after a crash in between a network is skipped, never given twice.
    let mut machine = readable(machine(layout))?.unwrap_or_default();
    let next = machine.next_network.max(network.next());
    if machine.next_network != next {
        machine.next_network = next;
        write_machine(layout, &machine)?;
    }
    let path = layout.record(guid);
    write_json(&path, new, MODE).map_err(failed(&path))?;
    Ok(Done::Changed)
}

/// Removes the folders of reservations that were killed before their record was
/// there. Under the machine's lock nobody else is about to write one.
fn clear_halves(layout: &Layout) -> io::Result<()> {
    for name in names(&layout.state()).map_err(io::Error::other)? {
        let Ok(guid) = name.parse::<Guid>() else {
            continue;
        };
        if !layout.record(guid).exists() {
            let folder = layout.state().join(name);
            files::sweep(&folder)?;
            // What else lies in it is not ours to judge.
            let _ = fs::remove_dir(folder);
        }
    }
    Ok(())
}

/// Changes a record.
pub(super) fn patch(layout: &Layout, guid: Guid, patch: &Patch) -> Result<Done, StepError> {
    let path = layout.record(guid);
    let record = readable(record(layout, guid))?;
    let mut record = record.ok_or_else(|| StepError::machine(format!("{guid} has no record")))?;
    if patch.holds(&record) {
        return Ok(Done::Already);
    }
    patch.apply(&mut record);
    keep_previous(&path)?;
    write_json(&path, &record, MODE).map_err(failed(&path))?;
    Ok(Done::Changed)
}

/// Forgets a repository of which nothing is left but its record: that, the
/// mirror, its daemon's folder and its mount points.
pub(super) fn forget(layout: &Layout, guid: Guid) -> Result<Done, StepError> {
    let record = readable(record(layout, guid))?;
    for point in [layout.mount(guid), layout.docker_data(guid)] {
        if mount::at(&point).map_err(StepError::machine)?.is_some() {
            return Err(failed(&point)(io::Error::other("still mounted")));
        }
        if point.is_dir() {
            mount::set_immutable(&point, false).map_err(failed(&point))?;
        }
        remove_empty(&point, &layout.datastore()).map_err(failed(&point))?;
    }
    if let Some(record) = record {
        let log = layout.docker_lib(record.network);
        match fs::remove_dir_all(&log) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(&log)(error));
            }
            _ => {}
        }
    }
    // The record goes last: until then the rest can be found again.
    let folder = layout.state().join(guid.to_string());
    fs::remove_dir_all(&folder).map_err(failed(&folder))?;
    files::sync_folder(&layout.state()).map_err(failed(&folder))?;
    Ok(Done::Changed)
}

/// Removes a folder and those above it up to `root`, as far as they are empty.
fn remove_empty(folder: &Path, root: &Path) -> io::Result<()> {
    let mut folder = folder;
    // `mounts` and `interim` themselves stay.
    while folder.parent().is_some_and(|above| above != root) {
        match fs::remove_dir(folder) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        folder = folder.parent().unwrap_or(root);
    }
    Ok(())
}

/// Writes the slots outside the image.
pub(super) fn write_mirror(layout: &Layout, guid: Guid, slots: &Slots) -> Result<Done, StepError> {
    let path = layout.mirror(guid);
    let existing = readable(read_json(&path))?;
    write_json(&path, &with_slots(existing, slots)?, MODE).map_err(failed(&path))?;
    Ok(Done::Changed)
}

/// The file of the slots with these in it, unless somebody else gave one of them away
/// meanwhile.
pub(super) fn with_slots(existing: Option<Value>, slots: &Slots) -> Result<Value, StepError> {
    let all = slots_json(existing, slots);
    let distinct = slots_from_json(&all).and_then(|slots| slots_are_distinct(&slots));
    distinct.map_err(StepError::race)?;
    Ok(all)
}
