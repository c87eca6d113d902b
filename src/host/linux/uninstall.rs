//! Taking a root of its own off the machine: everything stopped, unmounted and
//! detached, so that its folder can be removed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::storage::{self, Place};
use super::{LinuxHost, disk, dockerd, freeze, loop_device, luks, mount, proxy, records};
use crate::host::{Done, Host as _, Scope, StepError};
use crate::model::{Backing, Guid, NetworkId, Volume};

/// What was done, and what could not be.
#[derive(Default)]
struct Tally {
    done: Vec<String>,
    failed: Vec<StepError>,
}

impl Tally {
    fn note(&mut self, what: impl Into<String>, result: Result<Done, StepError>) {
        match result {
            Ok(Done::Changed) => self.done.push(what.into()),
            Ok(Done::Already) => {}
            Err(error) => self.failed.push(error),
        }
    }
}

/// Stops, unmounts and detaches whatever is of this root, however little of it
/// is left; says what was done. The machine's own root is refused.
pub async fn uninstall(host: &LinuxHost) -> Result<Vec<String>, Vec<StepError>> {
    let layout = &host.layout;
    if mount::real(layout.root()) == Path::new("/") {
        return Err(vec![StepError::machine(
            "only a root of its own can be uninstalled, not the machine's",
        )]);
    }
    let mut tally = Tally::default();
    tally.note("stopped the proxy", proxy::stop(layout).await);
    let forgotten = proxy::forget_images(layout).await;
    tally.note("removed the proxy's image", forgotten);
    // Who waits for a frozen file system cannot be stopped.
    for guid in records::guids(layout).unwrap_or_default() {
        if freeze::observe(layout, guid).known().is_some() {
            let thawed = freeze::thaw_now(layout, guid);
            tally.note(format!("let the writers of {guid} go on"), thawed);
        }
    }
    reopen(host, &mut tally);
    for (guid, network) in daemons(host).await {
        let what = format!("stopped the daemon of network {network}");
        tally.note(what, dockerd::stop(layout, guid, network).await);
    }

    // Noted before the unmounting: after it the kernel no longer knows the way
    // from a root to its devices.
    let point = layout.datastore();
    let mut images = devices(&mount::real(&point));
    for guid in records::guids(layout).unwrap_or_default() {
        images.extend(loop_device::find(&layout.image(guid)).ok().flatten());
    }
    let below = mount::unmount_below(&point);
    tally.note("unmounted the repositories", below);
    for guid in records::guids(layout).unwrap_or_default() {
        for name in [luks::name(guid), luks::new_name(guid)] {
            let closed = luks::close(&name).await;
            tally.note(format!("closed {name}"), closed);
        }
    }
    for device in images {
        detach(&mut tally, &device).await;
    }
    // Not earlier: on a mounted path it would reach the mounted folder instead.
    for folder in guarded(host) {
        // A datastore that turned read-only goes with its file all the same.
        if let Err(error) = mount::set_immutable(&folder, false)
            && error.kind() != std::io::ErrorKind::ReadOnlyFilesystem
        {
            let error = StepError::machine(format!("{}: {error}", folder.display()));
            tally.failed.push(error);
        }
    }
    let unmounted = mount::unmount_below(layout.root());
    tally.note("unmounted the datastore", unmounted);
    let point = layout.datastore();
    if point.is_dir()
        && let Err(error) = mount::set_immutable(&point, false)
        && !mount::cannot(&error)
    {
        let error = StepError::machine(format!("{}: {error}", point.display()));
        tally.failed.push(error);
    }
    let mut left = devices(&mount::real(layout.root()));
    match &host.backing {
        Backing::File(file) => match loop_device::find(file) {
            Ok(device) => left.extend(device),
            Err(why) => tally.failed.push(StepError::machine(why)),
        },
        // It is not renet's to detach, also where it is a loop device.
        Backing::Device(path) => drop(left.remove(&mount::real(path))),
    }
    for device in left {
        detach(&mut tally, &device).await;
    }
    if tally.failed.is_empty() {
        Ok(tally.done)
    } else {
        Err(tally.failed)
    }
}

/// A datastore that was taken from under its images (`umount -l`) is mounted
/// again: only through it can they be found.
fn reopen(host: &LinuxHost, tally: &mut Tally) {
    let place = Place::of(host, Volume::Datastore);
    let seen = storage::observe(&place);
    // A device is there also while nobody uses it.
    let used = !place.on_disk || disk::is_used(&place.file);
    if used && seen.device.known().is_some() && seen.mount.is_absent() {
        tally.note("mounted the datastore again", storage::mount(&place));
    }
}

async fn detach(tally: &mut Tally, device: &Path) {
    let detached = loop_device::detach(device).await.map(|()| Done::Changed);
    tally.note(format!("detached {}", device.display()), detached);
}

/// Every loop device over a file beneath a folder, or mounted beneath it.
fn devices(folder: &Path) -> BTreeSet<PathBuf> {
    let mut devices: BTreeSet<PathBuf> = loop_device::beneath(folder).into_iter().collect();
    let mounted = mount::table().unwrap_or_default();
    devices.extend(
        mounted
            .into_iter()
            .filter(|mounted| mounted.point != folder && mounted.point.starts_with(folder))
            .map(|mounted| mounted.source)
            .filter(|source| source.starts_with("/dev") && is_loop(source)),
    );
    devices
}

fn is_loop(device: &Path) -> bool {
    let name = device.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("loop"))
}

/// The networks of the records, and those that left something behind.
async fn daemons(host: &LinuxHost) -> Vec<(Guid, NetworkId)> {
    let actual = host.observe(Scope::All).await;
    let all = actual.repositories.known().into_iter().flatten();
    let mut found: Vec<(Guid, NetworkId)> = all
        .filter_map(|(guid, repo)| Some((*guid, repo.record.known()?.network)))
        .collect();
    let entries = fs::read_dir(host.layout.run()).into_iter().flatten();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| {
            let name = name.strip_prefix("docker-")?;
            let id: u32 = name.split('.').next()?.parse().ok()?;
            NetworkId::try_from(id).ok()
        });
        if let Some(id) = id
            && found.iter().all(|(_, network)| *network != id)
        {
            // Its record cannot be read: nobody knows whose it was.
            found.push((Guid::new(Uuid::nil()), id));
        }
    }
    found
}

/// The folders that were made immutable, while their datastore is mounted.
fn guarded(host: &LinuxHost) -> Vec<PathBuf> {
    let layout = &host.layout;
    let list = |folder: PathBuf| {
        let entries = fs::read_dir(folder).into_iter().flatten();
        entries.flatten().map(|entry| entry.path())
    };
    let interim = list(layout.datastore().join("interim"));
    let shown = interim.map(|folder| folder.join("docker/data"));
    list(layout.mounts())
        .chain(shown)
        .filter(|folder| folder.is_dir())
        .collect()
}
