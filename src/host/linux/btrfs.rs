//! The datastore's file system.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::time::Duration;

use uuid::Uuid;

use super::program::Program;
use crate::host::StepError;
use crate::model::{Part, Size};

/// Its type, as the kernel names it.
pub(super) const KIND: &str = "btrfs";

const SUPERBLOCK: u64 = 0x1_0000;
const MAGIC: &[u8; 8] = b"_BHRfS_M";
/// The inode of a subvolume's root.
const SUBVOLUME_INODE: u64 = 256;
const LONG: Duration = Duration::from_secs(600);

/// The UUID of the file system in a file.
pub(super) fn identity(file: &Path) -> Part<Uuid> {
    let mut block = [0_u8; 0x48];
    let read = File::open(file).and_then(|file| file.read_exact_at(&mut block, SUPERBLOCK));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Part::Absent,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => none(file),
        Err(error) => Part::Unknown(format!("{}: {error}", file.display())),
        Ok(()) if &block[0x40..0x48] != MAGIC => none(file),
        Ok(()) => Uuid::from_slice(&block[0x20..0x30]).map_or_else(|_| none(file), Part::Known),
    }
}

fn none(file: &Path) -> Part<Uuid> {
    Part::Unknown(format!("{}: no btrfs is in it", file.display()))
}

/// The kernel's answer about one device of a mounted file system.
#[repr(C)]
struct DeviceInfo {
    id: u64,
    uuid: [u8; 16],
    used: u64,
    total: u64,
    rest: [u64; 379],
    path: [u8; 1024],
}

nix::ioctl_readwrite!(device_info, 0x94, 30, DeviceInfo);

/// How much of its device a mounted file system spans. The kernel is asked: the
/// superblock is written later.
pub(super) fn size(mount: &Path, device: Size) -> Result<Size, String> {
    let why = |error: io::Error| format!("{}: {error}", mount.display());
    let folder = File::open(mount).map_err(why)?;
    // SAFETY: all-zero bytes are a valid DeviceInfo.
    let mut info: DeviceInfo = unsafe { std::mem::zeroed() };
    info.id = 1;
    // SAFETY: the descriptor is open, and DeviceInfo is the kernel's
    // btrfs_ioctl_dev_info_args.
    unsafe { device_info(folder.as_raw_fd(), &mut info) }.map_err(|error| why(error.into()))?;
    // It ends on a sector; what is less cannot be filled.
    let lacking = device.as_bytes().saturating_sub(info.total);
    Ok(if lacking < 4096 {
        device
    } else {
        Size::bytes(info.total)
    })
}

/// Whether a folder is a subvolume.
pub(super) fn is_subvolume(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
        Ok(meta) => Ok(meta.is_dir() && meta.ino() == SUBVOLUME_INODE),
    }
}

/// Makes a file system in a file.
pub(super) async fn format(file: &Path, uuid: Uuid) -> Result<(), StepError> {
    let format = Program::new("mkfs.btrfs").args(["-q", "-U", &uuid.to_string(), "--"]);
    format.arg(file).limit(LONG).run().await?;
    Ok(())
}

/// Makes a subvolume.
pub(super) async fn make_subvolume(path: &Path) -> Result<(), StepError> {
    let make = Program::new("btrfs").args(["subvolume", "create", "--"]);
    make.arg(path).run().await?;
    Ok(())
}

/// Makes a read-only snapshot of a subvolume.
pub(super) async fn snapshot(of: &Path, to: &Path) -> Result<(), StepError> {
    let make = Program::new("btrfs").args(["subvolume", "snapshot", "-r", "--"]);
    make.arg(of).arg(to).run().await?;
    Ok(())
}

/// Lets nobody write to a subvolume any more.
pub(super) async fn make_read_only(path: &Path) -> Result<(), StepError> {
    let set = Program::new("btrfs").args(["property", "set", "-t", "subvol", "--"]);
    set.arg(path).args(["ro", "true"]).run().await?;
    Ok(())
}

/// Removes a subvolume; none is fine.
pub(super) async fn drop_subvolume(path: &Path) -> Result<(), StepError> {
    match is_subvolume(path) {
        Ok(false) => return Ok(()),
        Ok(true) => {}
        Err(error) => {
            let error = format!("{}: {error}", path.display());
            return Err(StepError::machine(error));
        }
    }
    let delete = Program::new("btrfs").args(["subvolume", "delete", "--"]);
    delete.arg(path).run().await?;
    Ok(())
}

nix::ioctl_write_int!(clone_file, 0x94, 9);

/// Lets a file share all blocks of another.
pub(super) fn reflink(from: &File, to: &File) -> io::Result<()> {
    let from = u64::try_from(from.as_raw_fd()).map_err(io::Error::other)?;
    // SAFETY: both descriptors are open.
    unsafe { clone_file(to.as_raw_fd(), from) }?;
    Ok(())
}

/// Lets a mounted file system fill its device.
pub(super) async fn grow(mount: &Path) -> Result<(), StepError> {
    let grow = Program::new("btrfs").args(["filesystem", "resize", "max"]);
    grow.arg(mount).limit(LONG).run().await?;
    Ok(())
}
