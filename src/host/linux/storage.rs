//! The layers of a volume, from the file up: the same functions for the
//! datastore and for images.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::libc;
use uuid::Uuid;

use super::{LinuxHost, btrfs, ext4, files, loop_device, mount};
use crate::host::{Done, StepError};
use crate::model::{DataLossPermit, Guid, Layout, Mount, Part, Size, Storage, Volume};

/// Where the layers of a volume are.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) volume: Volume,
    pub(super) file: PathBuf,
    pub(super) staging: PathBuf,
    pub(super) point: PathBuf,
    /// A folder inside that is shown at a second place while it is mounted.
    pub(super) bind: Option<(PathBuf, PathBuf)>,
}

impl Place {
    pub(super) fn of(host: &LinuxHost, volume: Volume) -> Self {
        let layout = &host.layout;
        match volume {
            Volume::Datastore => {
                let mut staging = host.backing_file.clone().into_os_string();
                staging.push(".new");
                Self {
                    volume,
                    file: host.backing_file.clone(),
                    staging: staging.into(),
                    point: layout.datastore(),
                    bind: None,
                }
            }
            Volume::Image(guid) => Self {
                volume,
                file: layout.image(guid),
                staging: layout.new_image(guid),
                point: layout.mount(guid),
                bind: Some((layout.docker_data_inside(guid), layout.docker_data(guid))),
            },
        }
    }

    fn kind(&self) -> &'static str {
        match self.volume {
            Volume::Datastore => btrfs::KIND,
            Volume::Image(_) => ext4::KIND,
        }
    }

    fn device(&self) -> Result<PathBuf, StepError> {
        let found = loop_device::find(&self.file).map_err(StepError::machine)?;
        found.ok_or_else(|| wrong(&self.file, "it is not attached"))
    }
}

fn wrong(path: &Path, why: impl std::fmt::Display) -> StepError {
    StepError::machine(format!("{}: {why}", path.display()))
}

/// Looks at every layer.
pub(super) fn observe(place: &Place) -> Storage {
    let file = file(&place.file);
    let device = match loop_device::find(&place.file) {
        Ok(device) => Part::from(device),
        Err(why) => Part::Unknown(why),
    };
    let size = match &device {
        Part::Known(device) => match loop_device::size(device) {
            Ok(size) => Part::Known(size),
            Err(why) => Part::Unknown(why),
        },
        Part::Unknown(why) => Part::Unknown(why.clone()),
        Part::Absent | Part::Hidden => Part::Absent,
    };
    let mount = mounted(place, device.known().map(PathBuf::as_path), size.known());
    Storage {
        staging: presence(&place.staging),
        file,
        device: size,
        mount,
    }
}

pub(super) fn file(path: &Path) -> Part<Size> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Part::Absent,
        Err(error) => Part::Unknown(format!("{}: {error}", path.display())),
        Ok(meta) if meta.is_file() => Part::Known(Size::bytes(meta.len())),
        Ok(_) => Part::Unknown(format!("{}: not a regular file", path.display())),
    }
}

/// The file alone, of a volume that is not looked at any further.
pub(super) fn outline(place: &Place) -> Storage {
    Storage {
        staging: presence(&place.staging),
        file: file(&place.file),
        device: Part::Hidden,
        mount: Part::Hidden,
    }
}

fn presence(path: &Path) -> Part<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Part::Absent,
        Err(error) => Part::Unknown(format!("{}: {error}", path.display())),
        Ok(_) => Part::Known(()),
    }
}

/// A volume counts as mounted when all of its mounts are there: what a crash
/// left halfway is mounted again, which adds what is missing.
fn mounted(place: &Place, device: Option<&Path>, size: Option<&Size>) -> Part<Mount> {
    let look = || -> Result<Option<Mount>, String> {
        let Some(found) = mount::at(&place.point)? else {
            return Ok(None);
        };
        let (Some(device), Some(size)) = (device, size) else {
            return Err(foreign(&place.point));
        };
        if !found.is_of(device) || found.kind != place.kind() {
            return Err(foreign(&place.point));
        }
        if let Some((_, shown)) = &place.bind {
            match mount::at(shown)? {
                None => return Ok(None),
                Some(found) if !found.is_of(device) => return Err(foreign(shown)),
                Some(_) => {}
            }
        }
        let size = match place.volume {
            Volume::Datastore => btrfs::size(&place.point, *size)?,
            Volume::Image(_) => ext4::size(device, *size)?,
        };
        Ok(Some(Mount { size }))
    };
    match look() {
        Ok(mount) => mount.into(),
        Err(why) => Part::Unknown(why),
    }
}

/// Whether what is mounted turned read-only.
pub(super) fn is_read_only(place: &Place) -> bool {
    mount::at(&place.point).is_ok_and(|found| found.is_some_and(|found| !found.writable))
}

fn foreign(point: &Path) -> String {
    format!("something else is mounted at {}", point.display())
}

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
    fs::remove_file(&trash).map_err(|error| wrong(&trash, error))?;
    Ok(Done::Changed)
}

/// Removes a half-made file.
pub(super) fn clear_staging(place: &Place) -> Result<Done, StepError> {
    match fs::remove_file(&place.staging) {
        Ok(()) => Ok(Done::Changed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Done::Already),
        Err(error) => Err(wrong(&place.staging, error)),
    }
}

/// Makes a file with a file system in it; what fails leaves nothing behind.
pub(super) async fn format(place: &Place, size: Size, uuid: Uuid) -> Result<Done, StepError> {
    let staging = &place.staging;
    let make = || -> io::Result<File> {
        if let Some(folder) = place.file.parent() {
            fs::create_dir_all(folder)?;
        }
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(staging)
    };
    let file = make().map_err(|error| wrong(staging, error))?;
    // From here on the staging file is ours to remove.
    let made = async {
        file.set_len(size.as_bytes())
            .map_err(|error| wrong(staging, error))?;
        match place.volume {
            Volume::Datastore => btrfs::format(staging, uuid).await?,
            Volume::Image(_) => ext4::format(staging, uuid).await?,
        }
        commit(&file, staging, &place.file).map_err(|error| wrong(&place.file, error))
    };
    if let Err(error) = made.await {
        let _ = fs::remove_file(staging);
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

/// Attaches a loop device.
pub(super) async fn attach(place: &Place) -> Result<Done, StepError> {
    loop_device::attach(&place.file).await?;
    Ok(Done::Changed)
}

/// Corrects what an error left in an image's file system, before it is mounted.
pub(super) async fn mend(place: &Place) -> Result<(), StepError> {
    let open = mount::at(&place.point)
        .map_err(StepError::machine)?
        .is_some();
    let device = place.device()?;
    if open || place.kind() != ext4::KIND || !ext4::has_errors(&device) {
        return Ok(());
    }
    // Its second place would have it open still.
    let elsewhere = mount::table().map_err(StepError::machine)?;
    match elsewhere.iter().any(|mounted| mounted.is_of(&device)) {
        true => Ok(()),
        false => ext4::check(&device).await,
    }
}

/// Lets the loop device see its file's size.
pub(super) async fn grow_device(place: &Place) -> Result<Done, StepError> {
    loop_device::grow(&place.device()?).await?;
    Ok(Done::Changed)
}

/// Lets the file system fill its device.
pub(super) async fn grow_fs(place: &Place) -> Result<Done, StepError> {
    match place.volume {
        Volume::Datastore => btrfs::grow(&place.point).await?,
        Volume::Image(_) if !ext4::may_grow_mounted() => return grow_closed(place).await,
        Volume::Image(_) => ext4::grow(&place.device()?).await?,
    }
    Ok(Done::Changed)
}

/// Grows an image that cannot grow while it is mounted, where nobody uses it.
/// A crash in between leaves it unmounted.
async fn grow_closed(place: &Place) -> Result<Done, StepError> {
    let used = |why: &dyn std::fmt::Display| {
        StepError::machine(format!(
            "without CAP_SYS_RESOURCE an image grows only while nobody uses it: {why}"
        ))
    };
    let device = place.device()?;
    // The layers of containers that run could be unmounted, and must not be.
    if let Some((inside, shown)) = &place.bind {
        for folder in [shown, inside] {
            if let Some(mounted) = mount::below(folder).map_err(StepError::machine)? {
                return Err(used(&format_args!("mounted: {}", mounted.display())));
            }
        }
    }
    close(place).map_err(|error| used(&error))?;
    let grown = ext4::grow_closed(&device).await;
    mount(place)?;
    grown.map(|()| Done::Changed)
}

/// Mounts the file system and shows its second place. What is there already
/// stays; what fails takes back what it mounted itself.
pub(super) fn mount(place: &Place) -> Result<Done, StepError> {
    let device = place.device()?;
    let fresh = match mount::at(&place.point).map_err(StepError::machine)? {
        Some(found) if found.is_of(&device) => false,
        Some(_) => return Err(StepError::machine(foreign(&place.point))),
        None => {
            prepare_point(place)?;
            mount::mount(&device, &place.point, place.kind())?;
            true
        }
    };
    let Some((inside, shown)) = &place.bind else {
        return Ok(Done::Changed);
    };
    let bound = show(inside, shown, &device);
    if bound.is_err() && fresh {
        let _ = mount::unmount(&place.point);
    }
    bound.map(|()| Done::Changed)
}

/// The mount point; for an image empty and such that nothing can be written
/// into it while the image is closed.
fn prepare_point(place: &Place) -> Result<(), StepError> {
    let point = &place.point;
    match place.volume {
        Volume::Datastore => fs::create_dir_all(point).map_err(|error| wrong(point, error)),
        Volume::Image(_) => guard(point),
    }
}

fn guard(point: &Path) -> Result<(), StepError> {
    let prepare = || -> io::Result<()> {
        fs::create_dir_all(point)?;
        if fs::read_dir(point)?.next().is_some() {
            return Err(io::Error::other(
                "the mount point is not empty: what lies in it would be hidden; move it away",
            ));
        }
        mount::set_immutable(point, true)
    };
    prepare().map_err(|error| wrong(point, error))
}

fn show(inside: &Path, shown: &Path, device: &Path) -> Result<(), StepError> {
    match mount::at(shown).map_err(StepError::machine)? {
        Some(found) if found.is_of(device) => return Ok(()),
        Some(_) => return Err(StepError::machine(foreign(shown))),
        None => {}
    }
    make_inside(inside).map_err(|error| wrong(inside, error))?;
    guard(shown)?;
    mount::bind(inside, shown)
}

/// Makes a folder inside the image, part by part, through no link that
/// somebody may have put there.
fn make_inside(inside: &Path) -> io::Result<()> {
    // `{mount}/.rediacc/docker/data`
    let mut root = inside;
    for _ in 0..3 {
        root = root.parent().unwrap_or(root);
    }
    let path = inside.strip_prefix(root).map_err(io::Error::other)?;
    let path = path.to_str().unwrap_or_default();
    super::beneath::Beneath::new(root)?.make_folder(path)?;
    Ok(())
}

/// Unmounts the second place, then the file system. Where it is in use it stays
/// as it was.
pub(super) fn unmount(place: &Place) -> Result<Done, StepError> {
    if let Some((inside, shown)) = &place.bind {
        // What a daemon that died left: its layers.
        mount::unmount_below(shown)?;
        mount::unmount_below(inside)?;
    }
    close(place)
}

fn close(place: &Place) -> Result<Done, StepError> {
    if let Some((_, shown)) = &place.bind {
        mount::unmount(shown)?;
    }
    if let Err(error) = mount::unmount(&place.point) {
        if let Some((inside, shown)) = &place.bind {
            let _ = mount::bind(inside, shown);
        }
        return Err(error);
    }
    Ok(Done::Changed)
}

/// Detaches the loop device. A mount from it that is left anywhere of ours (a
/// second place whose first was unmounted by hand) would keep it open.
pub(super) async fn detach(place: &Place) -> Result<Done, StepError> {
    let device = place.device()?;
    let ours = [
        Some(&place.point),
        place.bind.as_ref().map(|(_, shown)| shown),
    ];
    for point in ours.into_iter().flatten() {
        let found = mount::at(point).map_err(StepError::machine)?;
        if found.is_some_and(|found| found.is_of(&device)) {
            mount::unmount_below(point)?;
            mount::unmount(point)?;
        }
    }
    let elsewhere: Vec<String> = mount::table()
        .map_err(StepError::machine)?
        .into_iter()
        .filter(|mounted| mounted.is_of(&device))
        .map(|mounted| mounted.point.display().to_string())
        .collect();
    if !elsewhere.is_empty() {
        return Err(wrong(
            &place.file,
            format!("still mounted at {}", elsewhere.join(", ")),
        ));
    }
    loop_device::detach(&device).await?;
    Ok(Done::Changed)
}
