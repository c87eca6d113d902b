//! Loop devices, found by the file that they show and never by a number.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::program::Program;
use crate::host::StepError;
use crate::model::Size;

/// Sectors of `/sys/block/*/size`, whatever the device's own are.
const SECTOR: u64 = 512;
const LOOP_MAJOR: u64 = 7;

/// One at a time in this process: between looking and attaching nobody may
/// attach the same file.
static ATTACHING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// What the kernel says of a loop device.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

nix::ioctl_read_bad!(loop_get_status, 0x4C05, LoopInfo);
nix::ioctl_none_bad!(loop_get_free, 0x4C82);

/// The numbers of all loop devices that are attached.
fn attached() -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("loop"));
        if let Some(number) = number.and_then(|number| number.parse().ok())
            && entry.path().join("loop/backing_file").exists()
        {
            numbers.push(number);
        }
    }
    Ok(numbers)
}

fn info(device: &Path) -> io::Result<LoopInfo> {
    let device = File::open(device)?;
    // SAFETY: all-zero bytes are a valid LoopInfo.
    let mut info: LoopInfo = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, and LoopInfo is the kernel's loop_info64.
    unsafe { loop_get_status(device.as_raw_fd(), &mut info) }?;
    Ok(info)
}

/// The device's node, made where nobody made it: a machine without udev has
/// nodes for the first few alone.
fn node(number: u32) -> io::Result<PathBuf> {
    let path = PathBuf::from(format!("/dev/loop{number}"));
    if !fs::metadata(&path).is_ok_and(|meta| meta.file_type().is_block_device()) {
        let mode = Mode::from_bits_truncate(0o660);
        let device = makedev(LOOP_MAJOR, u64::from(number));
        match mknod(&path, SFlag::S_IFBLK, mode, device) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(path)
}

/// The loop device over a file, by the file's device and inode.
pub(super) fn find(file: &Path) -> Result<Option<PathBuf>, String> {
    let why = |error: io::Error| format!("loop device of {}: {error}", file.display());
    let meta = match fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(why)?,
    };
    let mut found = None;
    for number in attached().map_err(why)? {
        let device = node(number).map_err(why)?;
        let info = match info(&device) {
            // Detached since we looked.
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => continue,
            other => other.map_err(why)?,
        };
        if (info.device, info.inode) != (meta.dev(), meta.ino()) {
            continue;
        }
        if let Some(first) = found.replace(device) {
            let second = found.unwrap_or_default();
            return Err(format!(
                "{} is attached twice, as {} and {}: two mounts would destroy it",
                file.display(),
                first.display(),
                second.display()
            ));
        }
    }
    Ok(found)
}

/// The size that a device shows.
pub(super) fn size(device: &Path) -> Result<Size, String> {
    let name = device.file_name().unwrap_or_default();
    let path = Path::new("/sys/block").join(name).join("size");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    text.trim()
        .parse::<u64>()
        .map(|sectors| Size::bytes(sectors * SECTOR))
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// The loop devices over files beneath a folder, by the kernel's name for them;
/// also those whose file is gone.
pub(super) fn beneath(folder: &Path) -> Vec<PathBuf> {
    let below = |number: &u32| {
        fs::read_to_string(format!("/sys/block/loop{number}/loop/backing_file"))
            .is_ok_and(|file| Path::new(file.trim_end()).starts_with(folder))
    };
    let numbers = attached().unwrap_or_default().into_iter().filter(below);
    numbers.filter_map(|number| node(number).ok()).collect()
}

/// Attaches a loop device to a file, or finds the one that is.
pub(super) async fn attach(file: &Path) -> Result<PathBuf, StepError> {
    const TRIES: u32 = 5;
    let _one = ATTACHING.lock().await;
    let mut last = StepError::machine("no loop device");
    for _ in 0..TRIES {
        if let Some(device) = find(file).map_err(StepError::machine)? {
            return Ok(device);
        }
        prepare_free()
            .map_err(|error| StepError::machine(format!("/dev/loop-control: {error}")))?;
        let attached = Program::new("losetup")
            .args(["--find", "--show", "--nooverlap", "--"])
            .arg(file)
            .run()
            .await;
        // Another process may take the free one first, and the next has no node.
        match attached {
            Ok(_) => {}
            Err(error) => last = error,
        }
    }
    match find(file).map_err(StepError::machine)? {
        Some(device) => Ok(device),
        None => Err(last),
    }
}

/// Asks for a free device and makes its node.
fn prepare_free() -> io::Result<()> {
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/loop-control")?;
    // SAFETY: the descriptor is open and the call takes no argument.
    let number = unsafe { loop_get_free(control.as_raw_fd()) }?;
    if let Ok(number) = u32::try_from(number) {
        node(number)?;
    }
    Ok(())
}

/// Lets a device see its file's size.
pub(super) async fn grow(device: &Path) -> Result<(), StepError> {
    Program::new("losetup").arg("-c").arg(device).run().await?;
    Ok(())
}

/// Detaches a device and waits until it is free: detaching one in use only
/// promises to do so later.
pub(super) async fn detach(device: &Path) -> Result<(), StepError> {
    const PATIENCE: Duration = Duration::from_secs(10);
    const BETWEEN: Duration = Duration::from_millis(20);
    let name = device.file_name().unwrap_or_default();
    let shown = Path::new("/sys/block").join(name).join("loop/backing_file");
    // Another file may get the device as soon as it is free: that is not waited for.
    let before = fs::read_to_string(&shown).unwrap_or_default();
    Program::new("losetup").arg("-d").arg(device).run().await?;
    let started = tokio::time::Instant::now();
    while fs::read_to_string(&shown).is_ok_and(|now| now == before) {
        if started.elapsed() > PATIENCE {
            return Err(StepError::machine(format!(
                "{} is still in use and cannot be detached",
                device.display()
            )));
        }
        tokio::time::sleep(BETWEEN).await;
    }
    Ok(())
}
