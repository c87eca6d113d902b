//! Snapshots of repositories: a read-only subvolume for each, which holds the image
//! as it was and shares its blocks.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use jiff::Timestamp;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::{LinuxHost, btrfs, files, image_files};
use crate::host::{Done, StepError};
use crate::model::{DataLossPermit, Guid, Layout, MadeBy, Part, Size, Snapshot, Snapshots};

/// In a snapshot that was not asked for, what made it.
const MADE_BY: [(MadeBy, &str); 3] = [
    (MadeBy::Rule, "scheduled"),
    (MadeBy::Update, "update"),
    (MadeBy::Rewind, "rewind"),
];

fn wrong(path: &Path, why: impl std::fmt::Display) -> StepError {
    StepError::machine(format!("{}: {why}", path.display()))
}

/// The snapshots of a repository.
pub(super) fn observe(layout: &Layout, guid: Guid) -> Part<Snapshots> {
    let store = layout.datastore();
    let look = || -> io::Result<Snapshots> {
        let mut all = Snapshots::new();
        for entry in fs::read_dir(&store)? {
            let entry = entry?;
            let name = entry.file_name();
            let found = name.to_str().and_then(Snapshot::of_folder);
            let Some((_, at)) = found.filter(|(of, _)| *of == guid) else {
                continue;
            };
            let image = fs::symlink_metadata(entry.path().join(guid.to_string()))?;
            let snapshot = Snapshot {
                size: Size::bytes(image.len()),
                made_by: MADE_BY
                    .into_iter()
                    .find(|(_, mark)| entry.path().join(mark).exists())
                    .map_or(MadeBy::Command, |(made_by, _)| made_by),
            };
            all.insert(at, snapshot);
        }
        Ok(all)
    };
    match look() {
        Ok(all) if all.is_empty() => Part::Absent,
        Ok(all) => Part::Known(all),
        Err(error) => Part::Unknown(format!("{}: {error}", store.display())),
    }
}

/// Makes a snapshot of an image; what fails leaves nothing behind.
pub(super) async fn make(
    host: &LinuxHost,
    guid: Guid,
    at: Timestamp,
    made_by: MadeBy,
) -> Result<Done, StepError> {
    let meanwhile = host.layout.fork_snapshot(guid);
    let copy = async |file: &File| image_files::copy_image(host, guid, &meanwhile, file).await;
    commit(host, guid, at, made_by, copy).await
}

/// Keeps an image whose place another took as a snapshot.
pub(super) async fn keep_replaced(
    host: &LinuxHost,
    guid: Guid,
    at: Timestamp,
) -> Result<Done, StepError> {
    let replaced = host.layout.replaced_image(guid);
    let kept = match observe(&host.layout, guid) {
        Part::Unknown(why) => return Err(StepError::machine(why)),
        all => all.known().is_some_and(|all| Snapshot::is_rewind(all, at)),
    };
    // It may have been kept already, and not gone yet.
    if !kept {
        let copy = async |file: &File| image_files::share(&replaced, file).await;
        commit(host, guid, at, MadeBy::Rewind, copy).await?;
    }
    let remove = || -> io::Result<()> {
        fs::remove_file(&replaced)?;
        files::sync_folder(&host.layout.repositories())
    };
    remove().map_err(|error| wrong(&replaced, error))?;
    Ok(Done::Changed)
}

/// Makes a snapshot under a temporary name, committed by rename.
async fn commit(
    host: &LinuxHost,
    guid: Guid,
    at: Timestamp,
    made_by: MadeBy,
    copy: impl AsyncFnOnce(&File) -> Result<(), StepError>,
) -> Result<Done, StepError> {
    let layout = &host.layout;
    let (staging, to) = (layout.new_snapshot(guid), layout.snapshot(guid, at));
    let made = async {
        btrfs::make_subvolume(&staging).await?;
        let image = staging.join(guid.to_string());
        let file = files::create_private(&image).map_err(|error| wrong(&image, error))?;
        copy(&file).await?;
        let commit = || -> io::Result<()> {
            file.sync_all()?;
            if let Some((_, mark)) = MADE_BY.iter().find(|(by, _)| *by == made_by) {
                File::create(staging.join(mark))?.sync_all()?;
            }
            files::sync_folder(&staging)
        };
        commit().map_err(|error| wrong(&staging, error))?;
        btrfs::make_read_only(&staging).await?;
        let rename = || -> io::Result<()> {
            renameat2(
                AT_FDCWD,
                &staging,
                AT_FDCWD,
                &to,
                RenameFlags::RENAME_NOREPLACE,
            )?;
            files::sync_folder(&layout.datastore())
        };
        rename().map_err(|error| wrong(&to, error))
    };
    if let Err(error) = made.await {
        let _ = btrfs::drop_subvolume(&layout.fork_snapshot(guid)).await;
        let _ = btrfs::drop_subvolume(&staging).await;
        return Err(error);
    }
    Ok(Done::Changed)
}

/// Destroys a snapshot.
pub(super) async fn drop(
    layout: &Layout,
    guid: Guid,
    at: Timestamp,
    permit: &DataLossPermit,
) -> Result<Done, StepError> {
    let path = layout.snapshot(guid, at);
    if permit.guid() != guid {
        return Err(wrong(&path, "the permit is for another repository"));
    }
    btrfs::drop_subvolume(&path).await?;
    Ok(Done::Changed)
}
