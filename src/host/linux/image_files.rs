//! The files in which volumes lie: made beside their place, moved, replaced, destroyed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use jiff::Timestamp;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::libc;
use uuid::Uuid;

use super::passphrase::Passphrase;
use super::storage::{Place, file, wrong};
use super::{LinuxHost, btrfs, disk, ext4, files, freeze, key, loop_device, luks, mount};
use crate::host::{Done, StepError};
use crate::model::{DataLossPermit, Guid, Layout, Part, Seal, Size, Volume};

/// Moves an image into the trash, which lies in the same subvolume: a rename
/// does not leave one.
pub(super) fn trash(layout: &Layout, guid: Guid) -> Result<Done, StepError> {
    let (image, trash) = (layout.image(guid), layout.trash(guid));
    closed(&image)?;
    move_image(&image, &trash)
}

/// Moves an image back from the trash.
pub(super) fn untrash(layout: &Layout, guid: Guid) -> Result<Done, StepError> {
    move_image(&layout.trash(guid), &layout.image(guid))
}

fn move_image(from: &Path, to: &Path) -> Result<Done, StepError> {
    let folder = |path: &Path| path.parent().unwrap_or(Path::new("/")).to_owned();
    let moved = || -> io::Result<()> {
        fs::create_dir_all(folder(to))?;
        renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE)?;
        files::sync_folder(&folder(to))?;
        files::sync_folder(&folder(from))
    };
    moved().map_err(|error| wrong(from, error))?;
    Ok(Done::Changed)
}

/// An image that is open anywhere is in use, whatever its mount point shows.
fn closed(image: &Path) -> Result<(), StepError> {
    match loop_device::find(image).map_err(StepError::machine)? {
        Some(device) => Err(wrong(image, format!("attached as {}", device.display()))),
        None => Ok(()),
    }
}

/// Lets a copy of a snapshot take the place of an image, which stays beside it: both
/// names are the same file until the moment of the change.
pub(super) async fn replace(
    host: &LinuxHost,
    place: &Place,
    guid: Guid,
    with: Timestamp,
) -> Result<Done, StepError> {
    let (image, staging) = (&place.file, &place.staging);
    let beside = host.layout.replaced_image(guid);
    closed(image)?;
    let snapshot = host.layout.snapshot(guid, with).join(guid.to_string());
    let made = async {
        let file = files::create_private(staging).map_err(|error| wrong(staging, error))?;
        share(&snapshot, &file).await?;
        let commit = || -> io::Result<()> {
            file.sync_all()?;
            fs::hard_link(image, &beside)?;
            files::sync_folder(&host.layout.repositories())?;
            fs::rename(staging, image)?;
            files::sync_folder(&host.layout.repositories())
        };
        commit().map_err(|error| wrong(image, error))
    };
    if let Err(error) = made.await {
        let _ = clear_staging(place).await;
        return Err(error);
    }
    Ok(Done::Changed)
}

/// The size of an image whose place another took. A second name of the image itself
/// is none: it is left from before the change.
pub(super) fn replaced(layout: &Layout, guid: Guid) -> Part<Size> {
    let beside = layout.replaced_image(guid);
    match is_second_name(&beside, &layout.image(guid)) {
        Ok(true) => Part::Absent,
        Ok(false) => file(&beside),
        Err(error) => Part::Unknown(format!("{}: {error}", beside.display())),
    }
}

fn is_second_name(beside: &Path, image: &Path) -> io::Result<bool> {
    let look = |path: &Path| match fs::symlink_metadata(path) {
        Ok(seen) => Ok(Some((seen.dev(), seen.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let beside = look(beside)?;
    Ok(beside.is_some() && beside == look(image)?)
}

/// Destroys an image in the trash.
pub(super) fn purge(
    layout: &Layout,
    guid: Guid,
    permit: &DataLossPermit,
) -> Result<Done, StepError> {
    let trash = layout.trash(guid);
    if permit.guid() != guid {
        return Err(wrong(&trash, "the permit is for another repository"));
    }
    closed(&trash)?;
    key::discard(&layout.key(guid))?;
    fs::remove_file(&trash).map_err(|error| wrong(&trash, error))?;
    Ok(Done::Changed)
}

/// Removes a half-made file, with what was opened of it to make it.
pub(super) async fn clear_staging(place: &Place) -> Result<Done, StepError> {
    if let Volume::Image(guid) = place.volume {
        luks::close(&luks::new_name(guid)).await?;
        if let Some(device) = loop_device::find(&place.staging).map_err(StepError::machine)? {
            loop_device::detach(&device).await?;
        }
    }
    for snapshot in &place.snapshots {
        btrfs::drop_subvolume(snapshot).await?;
    }
    if let Some(beside) = &place.replaced {
        let undo = || match is_second_name(beside, &place.file)? {
            true => fs::remove_file(beside),
            false => Ok(()),
        };
        undo().map_err(|error| wrong(beside, error))?;
    }
    match fs::remove_file(&place.staging) {
        Ok(()) => Ok(Done::Changed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Done::Already),
        Err(error) => Err(wrong(&place.staging, error)),
    }
}

/// Makes a file with a file system in it, or one on a blank device; what fails leaves
/// nothing behind.
pub(super) async fn format(
    host: &LinuxHost,
    place: &Place,
    size: Size,
    uuid: Uuid,
    seal: Option<&Seal>,
) -> Result<Done, StepError> {
    let passphrase = match seal {
        Some(seal) => {
            let secret = host.secrets.read(&seal.passphrase, &host.layout).await?;
            Some((seal, secret))
        }
        None => None,
    };
    if place.on_disk {
        return disk::format(&place.file, uuid).await;
    }
    let staging = &place.staging;
    staged(place, async |file| {
        file.set_len(size.as_bytes())
            .map_err(|error| wrong(staging, error))?;
        match (place.volume, &passphrase) {
            (Volume::Datastore, _) => btrfs::format(staging, uuid).await,
            (Volume::Image(_), None) => ext4::format(staging, uuid).await,
            (Volume::Image(guid), Some((seal, secret))) => {
                format_sealed(staging, guid, uuid, seal, secret).await
            }
        }
    })
    .await
}

async fn format_sealed(
    staging: &Path,
    guid: Guid,
    uuid: Uuid,
    seal: &Seal,
    secret: &Passphrase,
) -> Result<(), StepError> {
    let device = loop_device::attach(staging).await?;
    luks::format(&device, uuid, seal.pbkdf, secret).await?;
    let name = luks::new_name(guid);
    luks::open(&device, &name, secret, None).await?;
    ext4::format(&luks::path(&name), uuid).await?;
    luks::close(&name).await?;
    loop_device::detach(&device).await
}

/// Makes an image as a copy of another. While that one is mounted its writers wait
/// for a snapshot alone: sharing the blocks of a large image takes long, and is done
/// from there.
pub(super) async fn fork(
    host: &LinuxHost,
    place: &Place,
    guid: Guid,
    from: Guid,
    snapshot: Option<Timestamp>,
) -> Result<Done, StepError> {
    staged(place, async |file| match snapshot {
        Some(at) => {
            let folder = host.layout.snapshot(from, at);
            share(&folder.join(from.to_string()), file).await
        }
        None => copy_image(host, from, &host.layout.fork_snapshot(guid), file).await,
    })
    .await
}

/// Lets an empty file become a copy of an image as it is now. `snapshot` is there
/// meanwhile, where the image is mounted.
pub(super) async fn copy_image(
    host: &LinuxHost,
    of: Guid,
    snapshot: &Path,
    to: &File,
) -> Result<(), StepError> {
    let place = host.place(Volume::Image(of));
    let mounted = mount::at(&place.point).map_err(StepError::machine)?;
    if mounted.is_none() {
        return share(&place.file, to).await;
    }
    let images = host.layout.repositories();
    freeze::during(host, of, btrfs::snapshot(&images, snapshot)).await?;
    share(&snapshot.join(of.to_string()), to).await?;
    btrfs::drop_subvolume(snapshot).await
}

pub(super) async fn share(from: &Path, to: &File) -> Result<(), StepError> {
    let (source, copy) = (from.to_owned(), to.try_clone());
    let shared = super::blocking(move || btrfs::reflink(&File::open(source)?, &copy?)).await;
    shared
        .map_err(StepError::machine)?
        .map_err(|error| wrong(from, error))
}

/// Makes a file under its temporary name and commits it; what fails leaves nothing
/// behind.
async fn staged(
    place: &Place,
    fill: impl AsyncFnOnce(&File) -> Result<(), StepError>,
) -> Result<Done, StepError> {
    let staging = &place.staging;
    let make = || -> io::Result<File> {
        if let Some(folder) = place.file.parent() {
            fs::create_dir_all(folder)?;
        }
        files::create_private(staging)
    };
    let file = make().map_err(|error| wrong(staging, error))?;
    // From here on the staging file is ours to remove.
    let made = async {
        fill(&file).await?;
        commit(&file, staging, &place.file).map_err(|error| wrong(&place.file, error))
    };
    if let Err(error) = made.await {
        let _ = clear_staging(place).await;
        return Err(error);
    }
    Ok(Done::Changed)
}

fn commit(file: &File, from: &Path, to: &Path) -> io::Result<()> {
    file.sync_all()?;
    renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE)?;
    files::sync_folder(to.parent().unwrap_or(Path::new("/")))
}

/// Makes the file larger; never smaller.
pub(super) fn grow_file(place: &Place, size: Size) -> Result<Done, StepError> {
    let grow = || -> io::Result<Done> {
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&place.file)?;
        if file.metadata()?.len() >= size.as_bytes() {
            return Ok(Done::Already);
        }
        file.set_len(size.as_bytes())?;
        file.sync_all()?;
        Ok(Done::Changed)
    };
    grow().map_err(|error| wrong(&place.file, error))
}

/// Removes the containers that an image brought along from its parent, with their
/// writable layers' mounts; images and volumes stay.
pub(super) fn clean_fork(layout: &Layout, guid: Guid) -> Result<Done, StepError> {
    let data = layout.docker_data_inside(guid);
    for folder in ["containers", "image/overlay2/layerdb/mounts"] {
        let folder = data.join(folder);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(|error| wrong(&folder, error))?,
        };
        for entry in entries {
            let path = entry.map_err(|error| wrong(&folder, error))?.path();
            // A link is removed, never followed.
            fs::remove_dir_all(&path)
                .or_else(|_| fs::remove_file(&path))
                .map_err(|error| wrong(&path, error))?;
        }
    }
    Ok(Done::Changed)
}
