//! The datastore: which one belongs to this machine, and what it keeps back.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::files::{self, read_json, write_json};
use super::records::{MODE, failed, laid_out, readable};
use super::{LinuxHost, behind, blocking, btrfs, disk, storage};
use crate::host::{Done, StepError};
use crate::model::{Backing, Datastore, Disk, Format, Layout, Part, Size, Suspension, Volume};

#[derive(Serialize, Deserialize)]
struct Note {
    format: Format,
    uuid: Uuid,
    /// Its backing file, where it is not the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    /// The block device that it lies on instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<PathBuf>,
    /// It was told to stay closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    closed: Option<Suspension>,
}

/// Which datastore belongs to this machine.
fn noted(layout: &Layout) -> Part<Uuid> {
    match read_json::<Note>(&layout.datastore_note()) {
        Part::Known(note) => Part::Known(note.uuid),
        Part::Absent => Part::Absent,
        Part::Hidden => Part::Hidden,
        Part::Unknown(why) => Part::Unknown(why),
    }
}

/// What this machine's datastore lies on: as it was noted, else the usual file.
pub(super) fn backing(layout: &Layout) -> Backing {
    let noted = match read_json::<Note>(&layout.datastore_note()) {
        Part::Known(Note {
            device: Some(device),
            ..
        }) => Some(Backing::Device(device)),
        Part::Known(note) => note.file.map(Backing::File),
        _ => None,
    };
    noted.unwrap_or_else(|| Backing::File(layout.backing_file()))
}

/// Whether the datastore was told to stay closed.
pub(super) fn closed(layout: &Layout) -> Part<Suspension> {
    match read_json::<Note>(&layout.datastore_note()) {
        Part::Known(note) => note.closed.into(),
        // The note itself says why.
        _ => Part::Absent,
    }
}

/// Notes that the datastore is to stay closed, or no longer.
pub(super) fn close(layout: &Layout, closed: Option<&Suspension>) -> Result<Done, StepError> {
    let path = layout.datastore_note();
    let note = readable(read_json::<Note>(&path))?;
    let note = note.ok_or_else(|| StepError::machine("no datastore was noted"))?;
    let note = Note {
        closed: closed.cloned(),
        ..note
    };
    write_json(&path, &note, MODE).map_err(failed(&path))?;
    Ok(Done::Changed)
}

/// The emergency reserve, with its size.
pub(super) fn reserve(layout: &Layout) -> Part<Size> {
    let path = layout.emergency();
    match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Part::Absent,
        Err(error) => Part::Unknown(format!("{}: {error}", path.display())),
        Ok(meta) => Part::Known(Size::bytes(meta.len())),
    }
}

/// Makes the emergency reserve; what fails leaves nothing of it.
pub(super) fn keep_reserve(layout: &Layout, size: Size) -> Result<Done, StepError> {
    use nix::fcntl::{FallocateFlags, fallocate};
    let path = layout.emergency();
    let make = || -> io::Result<()> {
        let file = fs::File::create(&path)?;
        let length = i64::try_from(size.as_bytes()).map_err(io::Error::other)?;
        fallocate(&file, FallocateFlags::empty(), 0, length)?;
        file.sync_all()
    };
    make().map_err(|error| {
        let _ = fs::remove_file(&path);
        failed(&path)(error)
    })?;
    Ok(Done::Changed)
}

/// Gives it back.
pub(super) fn give_reserve(layout: &Layout) -> Result<Done, StepError> {
    let path = layout.emergency();
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Done::Already),
        other => other.map_err(failed(&path))?,
    }
    // What was freed can be used when the file system has noted it.
    files::sync_folder(&layout.datastore()).map_err(failed(&path))?;
    Ok(Done::Changed)
}

/// Notes that this datastore belongs to this machine.
pub(super) fn write_note(
    layout: &Layout,
    uuid: Uuid,
    backing: &Backing,
) -> Result<Done, StepError> {
    let (file, device) = match backing {
        Backing::File(file) => (Some(file.clone()), None),
        Backing::Device(device) => (None, Some(device.clone())),
    };
    let path = layout.datastore_note();
    let note = Note {
        format: Format,
        uuid,
        file: file.filter(|file| *file != layout.backing_file()),
        device,
        closed: closed(layout).known().cloned(),
    };
    write_json(&path, &note, MODE).map_err(failed(&path))?;
    Ok(Done::Changed)
}

/// What is said of it where it cannot be looked at.
fn unseen(why: &str) -> Datastore {
    let mut datastore = Datastore::default();
    datastore.storage.file = Part::Unknown(why.to_owned());
    datastore.storage.mount = Part::Unknown(why.to_owned());
    datastore
}

/// Everything about the datastore.
pub(super) async fn observe(host: &LinuxHost) -> Datastore {
    let refused = match &host.backing {
        Backing::File(_) => None,
        Backing::Device(path) => disk::refused(path).await,
    };
    let host = host.clone();
    let seen = blocking(move || look(&host, refused)).await;
    seen.unwrap_or_else(|why| unseen(&why))
}

/// The same, where somebody else has found out whether a device is blank.
pub(super) fn look(host: &LinuxHost, refused: Option<String>) -> Datastore {
    let layout = &host.layout;
    let storage = storage::observe(&host.place(Volume::Datastore));
    let identity = match (&storage.file, &host.backing) {
        // What else may be on a device is no datastore.
        (Part::Absent, Backing::Device(_)) => Part::Absent,
        _ => btrfs::identity(host.backing.path()),
    };
    let mut disk = disk(host);
    if let Part::Known(disk) = &mut disk {
        disk.refused = refused;
    }
    let mut seen = Datastore {
        storage,
        disk,
        note: note(host, &identity),
        closed: closed(layout),
        identity,
        ..Datastore::default()
    };
    (seen.layout, seen.free) = match behind(&seen) {
        Part::Known(()) if storage::is_read_only(&host.place(Volume::Datastore)) => {
            (Part::Unknown(stuck_datastore(host)), free(layout))
        }
        Part::Known(()) => (laid_out(layout), free(layout)),
        Part::Absent => (Part::Absent, Part::Absent),
        Part::Hidden => (Part::Hidden, Part::Hidden),
        Part::Unknown(why) => (Part::Unknown(why.clone()), Part::Unknown(why)),
    };
    seen.reserve = match &seen.layout {
        Part::Known(()) => reserve(layout),
        Part::Hidden => Part::Hidden,
        _ => Part::Absent,
    };
    seen
}

/// The block device that it lies on, without a look at what is on it.
pub(super) fn disk(host: &LinuxHost) -> Part<Disk> {
    match &host.backing {
        Backing::File(_) => Part::Absent,
        Backing::Device(path) => disk::observe(path),
    }
}

/// Which datastore belongs to this machine. One that was moved is to be noted anew,
/// where it is now: commands read no manifest.
pub(super) fn note(host: &LinuxHost, identity: &Part<Uuid>) -> Part<Uuid> {
    let layout = &host.layout;
    match noted(layout) {
        note if note == *identity && backing(layout) != host.backing => Part::Absent,
        note => note,
    }
}

/// What helps a datastore on which a write failed.
fn stuck_datastore(host: &LinuxHost) -> String {
    let layout = &host.layout;
    let cure = match &host.backing {
        Backing::File(_) => "give the disk room".to_owned(),
        Backing::Device(path) => format!("see what the kernel says of {}", path.display()),
    };
    let way = match layout.is_machine() {
        true => "reboot",
        false => "run `renet uninstall` and `renet apply`",
    };
    format!(
        "{} turned read-only because a write below it failed; {cure}, then {way}",
        layout.datastore().display()
    )
}

fn free(layout: &Layout) -> Part<Size> {
    let path = layout.datastore();
    match files::available(&path) {
        Ok(bytes) => Part::Known(Size::bytes(bytes)),
        Err(error) => Part::Unknown(format!("{}: {error}", path.display())),
    }
}
