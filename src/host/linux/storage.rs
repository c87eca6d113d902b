//! The layers of a volume, from the file up: the same functions for the
//! datastore and for images.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{LinuxHost, btrfs, disk, ext4, files, loop_device, luks, mount};
use crate::host::{Done, StepError};
use crate::model::{Backing, Header, Mount, Part, Size, Storage, Volume};

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
    pub(super) snapshots: Vec<PathBuf>,
    /// Where it lies once it is deleted.
    trash: Option<PathBuf>,
    /// Where it lies once another took its place.
    pub(super) replaced: Option<PathBuf>,
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

pub(super) fn wrong(path: &Path, why: impl std::fmt::Display) -> StepError {
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
    let mut seen = files::presence(&place.staging);
    for snapshot in &place.snapshots {
        if seen.is_absent() {
            seen = files::presence(snapshot);
        }
    }
    seen
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

/// Attaches a loop device.
pub(super) async fn attach(place: &Place) -> Result<Done, StepError> {
    loop_device::attach(&place.file).await?;
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
