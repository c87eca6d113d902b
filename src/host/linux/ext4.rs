//! An image's file system.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use uuid::Uuid;

use super::program::Program;
use crate::host::StepError;
use crate::model::Size;

/// Its type, as the kernel names it.
pub(super) const KIND: &str = "ext4";

const SUPERBLOCK: u64 = 1024;
const MAGIC: u32 = 0xEF53;
const LONG: Duration = Duration::from_secs(600);

/// Whether an ext4 begins in a file.
pub(super) fn is_in(file: &File) -> bool {
    let mut magic = [0_u8; 2];
    file.read_exact_at(&mut magic, SUPERBLOCK + 0x38)
        .is_ok_and(|()| u32::from(u16::from_le_bytes(magic)) == MAGIC)
}

/// How much of its device a file system spans, read from the device.
pub(super) fn size(device: &Path, device_size: Size) -> Result<Size, String> {
    let mut block = [0_u8; 1024];
    File::open(device)
        .and_then(|device| device.read_exact_at(&mut block, SUPERBLOCK))
        .map_err(|error| format!("{}: {error}", device.display()))?;
    spans(&block, device_size).ok_or_else(|| format!("{}: no ext4 is on it", device.display()))
}

fn spans(block: &[u8; 1024], device: Size) -> Option<Size> {
    const WIDE: u32 = 0x80;
    let short = |at: usize| u32::from(u16::from_le_bytes([block[at], block[at + 1]]));
    let long = |at: usize| short(at) | short(at + 2) << 16;
    if short(0x38) != MAGIC {
        return None;
    }
    let bits = 10_u32.checked_add(long(0x18)).filter(|bits| *bits <= 16)?;
    let wide = long(0x60) & WIDE != 0;
    let high = if wide { long(0x150) } else { 0 };
    let blocks = u64::from(high) << 32 | u64::from(long(0x4));
    let size = blocks.checked_shl(bits)?;
    // A last group too small for its own tables and 50 blocks is left out by
    // mkfs and resize2fs alike: less than that cannot be filled.
    let tables = (u64::from(long(0x28)) * u64::from(short(0x58))) >> bits;
    let descriptors = u64::from(short(0xCE)) + (size >> 27) / 64 + 1;
    let least = (tables + descriptors + 3 + 50) << bits;
    // More than there is: its device was cut short.
    let Some(lacking) = device.as_bytes().checked_sub(size) else {
        return Some(Size::bytes(size));
    };
    Some(if lacking < least {
        device
    } else {
        Size::bytes(size)
    })
}

/// Makes a file system in a file.
pub(super) async fn format(file: &Path, uuid: Uuid) -> Result<(), StepError> {
    // One block size whatever the size at birth, because images grow; nothing
    // kept for root, because root is not who fills it.
    let format = Program::new("mkfs.ext4")
        .args(["-q", "-F", "-b", "4096", "-m", "0", "-E", "nodiscard", "-U"])
        .arg(uuid.to_string());
    format.arg("--").arg(file).limit(LONG).run().await?;
    Ok(())
}

/// Lets a mounted file system fill its device.
pub(super) async fn grow(device: &Path) -> Result<(), StepError> {
    let grow = Program::new("resize2fs").arg(device);
    grow.limit(LONG).run().await?;
    Ok(())
}

/// Grows a file system that is not mounted, which has to be checked before.
pub(super) async fn grow_closed(device: &Path) -> Result<(), StepError> {
    check(device).await?;
    grow(device).await
}

/// Checks a file system that is not mounted, and corrects what needs no choice.
pub(super) async fn check(device: &Path) -> Result<(), StepError> {
    const CORRECTED: i32 = 1;
    remember_journal(device).await?;
    let check = Program::new("e2fsck").args(["-f", "-p"]).arg(device);
    check.limit(LONG).succeeds_with(CORRECTED).run().await?;
    Ok(())
}

/// Notes that the journal is to be replayed, where it holds something and the file
/// system says that it needs no recovery: Linux 6.12 leaves it so where the last writes
/// before an unmount failed, as on a full disk. Then e2fsck replays it only where
/// somebody is there to be asked, and the kernel's mount would throw it away.
async fn remember_journal(device: &Path) -> Result<(), StepError> {
    if needs_recovery(device)? {
        return Ok(());
    }
    let shown = Program::new("dumpe2fs").arg("-h").arg(device).run().await?;
    let shown = String::from_utf8_lossy(&shown.stdout);
    let mut starts = shown
        .lines()
        .filter_map(|line| line.strip_prefix("Journal start:"));
    if starts.all(|start| start.trim() == "0") {
        return Ok(());
    }
    let set = Program::new("debugfs").args(["-w", "-R", "feature needs_recovery"]);
    let said = set.arg(device).run().await?;
    // It succeeds whatever came of it.
    match needs_recovery(device)? {
        true => Ok(()),
        false => Err(StepError::machine(format!(
            "{}: its journal cannot be replayed: {}",
            device.display(),
            String::from_utf8_lossy(&said.stderr).trim()
        ))),
    }
}

fn needs_recovery(device: &Path) -> Result<bool, StepError> {
    const INCOMPATIBLE: u64 = 0x60;
    const RECOVER: u8 = 4;
    let mut features = [0_u8; 1];
    File::open(device)
        .and_then(|device| device.read_exact_at(&mut features, SUPERBLOCK + INCOMPATIBLE))
        .map_err(|error| StepError::machine(format!("{}: {error}", device.display())))?;
    Ok(features[0] & RECOVER != 0)
}

/// Looks whether a file system that is not mounted is sound; changes nothing.
pub(super) async fn look(device: &Path) -> Result<(), StepError> {
    let look = Program::new("e2fsck").args(["-f", "-n"]).arg(device);
    look.limit(LONG).run().await?;
    Ok(())
}

/// Whether the kernel noted an error in it.
pub(super) fn has_errors(device: &Path) -> bool {
    const STATE: u64 = 0x3A;
    const ERRORS: u8 = 2;
    let mut state = [0_u8; 1];
    File::open(device)
        .and_then(|device| device.read_exact_at(&mut state, SUPERBLOCK + STATE))
        .is_ok_and(|()| state[0] & ERRORS != 0)
}

/// Whether the kernel lets us grow a mounted file system: root in a container
/// often may not.
pub(super) fn may_grow_mounted() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    procfs::process::Process::myself()
        .and_then(|me| me.status())
        .is_ok_and(|status| status.capeff >> CAP_SYS_RESOURCE & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_new_file_system_spans_its_file_whatever_the_size() {
        let folder = tempfile::tempdir().unwrap();
        for mib in [64, 65, 128, 129, 135, 200, 257] {
            let path = folder.path().join(mib.to_string());
            let size_wanted = Size::mib(mib);
            let file = File::create(&path).unwrap();
            file.set_len(size_wanted.as_bytes()).unwrap();
            format(&path, Uuid::from_u128(7)).await.unwrap();
            assert_eq!(size(&path, size_wanted).unwrap(), size_wanted);
            let shorter = Size::mib(mib - 1);
            assert!(size(&path, shorter).unwrap() > shorter, "{mib}");
            let larger = Size::mib(mib + 64);
            assert!(size(&path, larger).unwrap() < larger, "{mib}");
        }
        assert!(size(Path::new("/dev/zero"), Size::mib(64)).is_err());
    }
}
