//! The layers of a volume, from the file up: the same functions for the
//! datastore and for images.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::libc;
use uuid::Uuid;

use super::secrets::Passphrase;
use super::{LinuxHost, btrfs, disk, ext4, files, freeze, key, loop_device, luks, mount};
use crate::host::{Done, StepError};
use crate::model::{
    Backing, DataLossPermit, Guid, Header, Layout, Mount, Part, Seal, SecretRef, Size, Storage,
    Volume,
};

/// Where the layers of a volume are.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) volume: Volume,
    /// The file is a block device, or a link to one: nothing is made beside it.
    pub(super) on_disk: bool,
    pub(super) file: PathBuf,
    pub(super) staging: PathBuf,
    pub(super) point: PathBuf,
    /// What else may be half-made: the snapshot that lasts as long as an image is
    /// copied out of it, and one of its own that is being made.
    snapshots: Vec<PathBuf>,
    /// Where it lies once it is deleted.
    trash: Option<PathBuf>,
    /// Where it lies once another took its place.
    replaced: Option<PathBuf>,
    /// A folder inside that is shown at a second place while it is mounted.
    pub(super) bind: Option<(PathBuf, PathBuf)>,
}

impl Place {
    pub(super) fn of(host: &LinuxHost, volume: Volume) -> Self {
        let layout = &host.layout;
        match volume {
            Volume::Datastore => {
                let path = host.backing.path();
                let mut staging = path.to_owned().into_os_string();
                staging.push(".new");
                Self {
                    volume,
                    on_disk: matches!(host.backing, Backing::Device(_)),
                    file: path.to_owned(),
                    staging: staging.into(),
                    point: layout.datastore(),
                    snapshots: Vec::new(),
                    trash: None,
                    replaced: None,
                    bind: None,
                }
            }
            Volume::Image(guid) => Self {
                volume,
                on_disk: false,
                file: layout.image(guid),
                staging: layout.new_image(guid),
                point: layout.mount(guid),
                snapshots: vec![layout.fork_snapshot(guid), layout.new_snapshot(guid)],
                trash: Some(layout.trash(guid)),
                replaced: Some(layout.replaced_image(guid)),
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
        if self.on_disk {
            return Ok(mount::real(&self.file));
        }
        let found = loop_device::find(&self.file).map_err(StepError::machine)?;
        found.ok_or_else(|| wrong(&self.file, "it is not attached"))
    }

    /// What carries the file system: the mapping of an encrypted image, else the
    /// loop device.
    fn top(&self) -> Result<PathBuf, StepError> {
        let device = self.device()?;
        let Some(name) = self.mapping() else {
            return Ok(device);
        };
        match luks::observe(&name, Some(&device)) {
            Part::Known(_) => Ok(luks::path(&name)),
            Part::Unknown(why) => Err(StepError::machine(why)),
            _ if self.is_sealed() => Err(wrong(&self.file, "it is not open")),
            _ => Ok(device),
        }
    }

    fn is_sealed(&self) -> bool {
        matches!(luks::header(&self.file), Part::Known(Header::Luks { .. }))
    }

    /// The name of its mapping, if it is encrypted.
    fn mapping(&self) -> Option<String> {
        match self.volume {
            Volume::Datastore => None,
            Volume::Image(guid) => Some(luks::name(guid)),
        }
    }
}

fn wrong(path: &Path, why: impl std::fmt::Display) -> StepError {
    StepError::machine(format!("{}: {why}", path.display()))
}

/// Looks at every layer.
pub(super) fn observe(place: &Place) -> Storage {
    if place.on_disk {
        return observe_disk(place);
    }
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
    let mapping = place.mapping();
    let mapper = match (&mapping, &device) {
        (_, Part::Unknown(why)) => Part::Unknown(why.clone()),
        (Some(name), device) => luks::observe(name, device.known().map(PathBuf::as_path)),
        (None, _) => Part::Absent,
    };
    let mapped = mapping.as_deref().map(luks::path);
    let top = match (&mapper, mapped) {
        (Part::Known(size), Some(path)) => Some((path, *size)),
        _ => device.known().cloned().zip(size.known().copied()),
    };
    let mount = mounted(
        place,
        top.as_ref().map(|(path, size)| (path.as_path(), *size)),
    );
    Storage {
        staging: staging(place),
        file,
        header: header(place),
        device: size,
        mapper,
        frozen: Part::Absent,
        mount,
    }
}

/// A block device has no layers of its own.
fn observe_disk(place: &Place) -> Storage {
    let file = disk::file(&place.file);
    let device = mount::real(&place.file);
    let mount = match &file {
        Part::Unknown(why) => Part::Unknown(why.clone()),
        _ => mounted(place, file.known().map(|size| (device.as_path(), *size))),
    };
    Storage {
        device: file.clone(),
        file,
        mount,
        ..Storage::default()
    }
}

/// What an image begins with, also one in the trash.
fn header(place: &Place) -> Part<Header> {
    let Volume::Image(_) = place.volume else {
        return Part::Absent;
    };
    match (luks::header(&place.file), &place.trash) {
        (Part::Absent, Some(trash)) => luks::header(trash),
        (seen, _) => seen,
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
        staging: staging(place),
        file: file(&place.file),
        header: Part::Hidden,
        device: Part::Hidden,
        mapper: Part::Hidden,
        frozen: Part::Absent,
        mount: Part::Hidden,
    }
}

/// Whatever is half-made: the file, or what it is made from, whose removal a power
/// cut may have undone.
fn staging(place: &Place) -> Part<()> {
    let mut seen = presence(&place.staging);
    for snapshot in &place.snapshots {
        if seen.is_absent() {
            seen = presence(snapshot);
        }
    }
    seen
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
fn mounted(place: &Place, top: Option<(&Path, Size)>) -> Part<Mount> {
    let look = || -> Result<Option<Mount>, String> {
        let Some(found) = mount::at(&place.point)? else {
            return match top {
                Some((device, _)) if place.on_disk => elsewhere(device).map(|()| None),
                _ => Ok(None),
            };
        };
        let Some((device, size)) = top else {
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
            Volume::Datastore => btrfs::size(&place.point, size)?,
            Volume::Image(_) => ext4::size(device, size)?,
        };
        Ok(Some(Mount { size }))
    };
    match look() {
        Ok(mount) => mount.into(),
        Err(why) => Part::Unknown(why),
    }
}

/// Whoever mounted a device elsewhere uses it, or will.
fn elsewhere(device: &Path) -> Result<(), String> {
    let table = mount::table()?;
    match table.iter().find(|mounted| mounted.is_of(device)) {
        None => Ok(()),
        Some(mounted) => Err(format!(
            "{} is mounted at {}, where it is not the datastore: unmount it there",
            device.display(),
            mounted.point.display()
        )),
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

/// Attaches a loop device.
pub(super) async fn attach(place: &Place) -> Result<Done, StepError> {
    loop_device::attach(&place.file).await?;
    Ok(Done::Changed)
}

/// Attaches an encrypted image and opens it with the first that fits. Where none
/// does, it is as closed as before.
pub(super) async fn open(
    host: &LinuxHost,
    place: &Place,
    guid: Guid,
    with: &[SecretRef],
) -> Result<Done, StepError> {
    let device = loop_device::attach(&place.file).await?;
    let opened = unlock(host, &device, guid, with).await;
    if opened.is_err() {
        // Whoever attached it: nobody uses a device that was not open.
        let _ = loop_device::detach(&device).await;
    }
    opened.map(|()| Done::Changed)
}

async fn unlock(
    host: &LinuxHost,
    device: &Path,
    guid: Guid,
    with: &[SecretRef],
) -> Result<(), StepError> {
    let name = luks::name(guid);
    let mut last = StepError::machine("nothing that opens it is at hand");
    let mut stale = false;
    for secret in with {
        let is_key = matches!(secret, SecretRef::Key(_));
        let slot = is_key.then_some(Header::KEY_SLOT);
        let opened = match host.secrets.read(secret, &host.layout).await {
            Ok(passphrase) => luks::open(device, &name, &passphrase, slot).await,
            Err(error) => Err(error),
        };
        match opened {
            Ok(()) => {
                if stale {
                    // A key that no longer fits is made anew, in its own slot.
                    let killed = luks::kill_slot(device, Header::KEY_SLOT).await;
                    if killed.is_ok() {
                        let _ = key::discard(&host.layout.key(guid));
                    }
                }
                return Ok(());
            }
            Err(error) => {
                stale |= is_key && luks::is_wrong_passphrase(&error);
                last = error;
            }
        }
    }
    Err(last)
}

/// Makes the key for boot. The file comes first: a slot without a file is not ours.
pub(super) async fn enrol_key(
    host: &LinuxHost,
    place: &Place,
    guid: Guid,
    with: &[SecretRef],
) -> Result<Done, StepError> {
    let path = host.layout.key(guid);
    let slot = Header::KEY_SLOT;
    let taken = luks::header(&place.file)
        .known()
        .is_some_and(Header::has_key);
    if taken && !path.exists() {
        return Err(wrong(
            &place.file,
            format!("its key slot {slot} holds a key that renet does not know"),
        ));
    }
    let mut last = StepError::machine("nothing that opens it is at hand");
    for secret in with {
        let passphrase = match host.secrets.read(secret, &host.layout).await {
            Ok(passphrase) => passphrase,
            Err(error) => {
                last = error;
                continue;
            }
        };
        let key = key::make(&path).await?;
        let device = carrier(place)?;
        match luks::add_key(&device, slot, &key, &passphrase).await {
            Ok(()) => return Ok(Done::Changed),
            Err(error) => last = error,
        }
        let _ = key::discard(&path);
    }
    Err(last)
}

/// Takes over the key of another image.
pub(super) fn copy_key(layout: &Layout, guid: Guid, from: Guid) -> Result<Done, StepError> {
    key::copy(&layout.key(from), &layout.key(guid))?;
    Ok(Done::Changed)
}

/// Destroys the key for boot; the slot first.
pub(super) async fn drop_key(
    layout: &Layout,
    place: &Place,
    guid: Guid,
) -> Result<Done, StepError> {
    if luks::header(&place.file)
        .known()
        .is_some_and(Header::has_key)
    {
        luks::kill_slot(&carrier(place)?, Header::KEY_SLOT).await?;
    }
    key::discard(&layout.key(guid))?;
    Ok(Done::Changed)
}

/// What carries the header: the loop device while it is attached, so that both
/// show the same.
fn carrier(place: &Place) -> Result<PathBuf, StepError> {
    let found = loop_device::find(&place.file).map_err(StepError::machine)?;
    Ok(found.unwrap_or_else(|| place.file.clone()))
}

/// Closes the mapping.
pub(super) async fn close_mapping(guid: Guid) -> Result<Done, StepError> {
    luks::close(&luks::name(guid)).await
}

/// Lets the mapping fill its device.
pub(super) async fn grow_mapping(guid: Guid) -> Result<Done, StepError> {
    luks::grow(&luks::name(guid)).await?;
    Ok(Done::Changed)
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

/// Refuses an image that was cut short: mounting it would say nothing of that.
fn is_whole(place: &Place, device: &Path) -> Result<(), StepError> {
    let length = File::open(device).and_then(|mut device| {
        use std::io::Seek as _;
        device.seek(io::SeekFrom::End(0))
    });
    let length = Size::bytes(length.map_err(|error| wrong(device, error))?);
    let spans = ext4::size(device, length).map_err(StepError::machine)?;
    match spans > length {
        true => Err(wrong(
            &place.file,
            format!(
                "the image was cut short: its file system spans {spans}, and {length} are there"
            ),
        )),
        false => Ok(()),
    }
}

/// Corrects what an error left in an image's file system, before it is mounted.
pub(super) async fn mend(place: &Place) -> Result<(), StepError> {
    let open = mount::at(&place.point)
        .map_err(StepError::machine)?
        .is_some();
    let device = place.top()?;
    if !open && place.kind() == ext4::KIND {
        is_whole(place, &device)?;
    }
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
        Volume::Image(_) => ext4::grow(&place.top()?).await?,
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
    let device = place.top()?;
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
    let device = place.top()?;
    let fresh = match mount::at(&place.point).map_err(StepError::machine)? {
        Some(found) if found.is_of(&device) => false,
        Some(_) => return Err(StepError::machine(foreign(&place.point))),
        None => {
            guard(&place.point)?;
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

/// The mount point: empty, and such that nothing can be written into it while what
/// belongs there is closed.
fn guard(point: &Path) -> Result<(), StepError> {
    let prepare = || -> io::Result<()> {
        fs::create_dir_all(point)?;
        if fs::read_dir(point)?.next().is_some() {
            return Err(io::Error::other(
                "the mount point is not empty: what lies in it would be hidden; move it away",
            ));
        }
        match mount::set_immutable(point, true) {
            // Not every file system can; that of the datastore's own can.
            Err(error) if mount::cannot(&error) => Ok(()),
            done => done,
        }
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
