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

/// What a file system says of itself.
pub(super) struct Superblock {
    pub(super) uuid: Uuid,
    /// How much of all its devices it spans.
    pub(super) total: Size,
    /// How many devices it has.
    pub(super) devices: u64,
}

/// The superblock of the file system in a file or on a device; `None` where there is none.
pub(super) fn superblock(file: &Path) -> io::Result<Option<Superblock>> {
    let mut block = [0_u8; 0x90];
    match File::open(file)?.read_exact_at(&mut block, SUPERBLOCK) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    if &block[0x40..0x48] != MAGIC {
        return Ok(None);
    }
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&block[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    Ok(Some(Superblock {
        uuid: Uuid::from_slice(&block[0x20..0x30]).map_err(io::Error::other)?,
        total: Size::bytes(number(0x70)),
        devices: number(0x88),
    }))
}

/// The UUID of the file system in a file or on a device.
pub(super) fn identity(file: &Path) -> Part<Uuid> {
    match superblock(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Part::Absent,
        Err(error) => Part::Unknown(format!("{}: {error}", file.display())),
        Ok(None) => Part::Unknown(format!("{}: no btrfs is in it", file.display())),
        Ok(Some(seen)) => Part::Known(seen.uuid),
    }
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

/// Makes a file system in a file or on a device, over nothing that it recognises.
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
