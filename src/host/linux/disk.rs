//! A block device as the datastore: it has no loop device, and is formatted where it
//! has no signature at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::libc;
use serde::Deserialize;
use uuid::Uuid;

use super::btrfs;
use super::program::Program;
use crate::host::{Done, StepError};
use crate::model::{Disk, Part, Size};

/// What `wipefs --json` prints.
#[derive(Deserialize)]
struct Listed {
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    #[serde(rename = "type")]
    kind: String,
}

/// The device itself, where the path is a link like `/dev/disk/by-id/…`, and its size.
fn find(path: &Path) -> Result<(PathBuf, Size), String> {
    let why = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => format!("{}: there is no such device", path.display()),
        _ => format!("{}: {error}", path.display()),
    };
    let real = fs::canonicalize(path).map_err(why)?;
    let kind = fs::metadata(&real).map_err(why)?.file_type();
    if !kind.is_block_device() {
        return Err(format!("{}: not a block device", path.display()));
    }
    let end = File::open(&real).and_then(|mut device| device.seek(SeekFrom::End(0)));
    Ok((real, Size::bytes(end.map_err(why)?)))
}

/// The device as it is found, without a look at what is on it.
pub(super) fn observe(path: &Path) -> Part<Disk> {
    match find(path) {
        Ok((_, size)) => Part::Known(Disk {
            path: path.to_owned(),
            size,
            refused: None,
        }),
        Err(why) => Part::Unknown(why),
    }
}

/// The device with a BTRFS on it, by its size. Absent where there is no such device, and
/// where no BTRFS is on it.
pub(super) fn file(path: &Path) -> Part<Size> {
    let Ok((real, size)) = find(path) else {
        return Part::Absent;
    };
    let wrong = |what: String| Part::Unknown(format!("{}: {what}", path.display()));
    match btrfs::superblock(&real) {
        Err(error) => wrong(error.to_string()),
        Ok(None) => Part::Absent,
        Ok(Some(seen)) if seen.devices != 1 => wrong(format!(
            "its btrfs spans {} devices, and a datastore lies on one alone",
            seen.devices
        )),
        Ok(Some(seen)) if seen.total > size => wrong(format!(
            "the device was cut short: its file system spans {}, and {size} are there",
            seen.total
        )),
        Ok(Some(_)) => Part::Known(size),
    }
}

/// Waits for a device that comes late after a boot; for the longest it may take.
pub(super) async fn wait(path: &Path) {
    const PATIENCE: Duration = Duration::from_secs(30);
    const BETWEEN: Duration = Duration::from_millis(200);
    let until = Instant::now() + PATIENCE;
    while !path.exists() && Instant::now() < until {
        tokio::time::sleep(BETWEEN).await;
    }
}

/// Why no datastore can be made on a device that has no BTRFS on it; `None` where it is
/// blank.
pub(super) async fn refused(path: &Path) -> Option<String> {
    let (real, size) = find(path).ok()?;
    match btrfs::superblock(&real) {
        Ok(None) => obstacle(path, &real, size).await.err(),
        Ok(Some(_)) | Err(_) => None,
    }
}

async fn obstacle(path: &Path, real: &Path, size: Size) -> Result<(), String> {
    let shown = path.display();
    let least = Size::SMALLEST_DATASTORE;
    if size < least {
        return Err(format!(
            "{shown} has {size}, and a datastore at least {least}"
        ));
    }
    let listed = Program::new("wipefs")
        .args(["--no-act", "--json", "--output", "TYPE", "--"])
        .arg(real)
        .run()
        .await
        .map_err(|error| format!("{shown}: {error}"))?;
    let found = signatures(&listed.stdout).map_err(|error| format!("{shown}: wipefs: {error}"))?;
    match found.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "{shown} holds {}, and no datastore is ever made over anything; if that can go, \
             `wipefs --all {shown}` removes its signatures",
            found.join(" and ")
        )),
    }
}

/// Every kind of signature once. Some versions of `wipefs` print nothing for none.
fn signatures(listed: &[u8]) -> Result<Vec<String>, serde_json::Error> {
    if listed.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let listed: Listed = serde_json::from_slice(listed)?;
    let kinds = listed.signatures.into_iter().map(|one| one.kind);
    let mut kinds: Vec<String> = kinds.collect();
    kinds.sort();
    kinds.dedup();
    Ok(kinds)
}

/// Makes a BTRFS on a blank device that nobody uses. A kill inside leaves it blank, or
/// with all of the file system on it: the magic is written last.
pub(super) async fn format(path: &Path, uuid: Uuid) -> Result<Done, StepError> {
    let (real, size) = find(path).map_err(StepError::machine)?;
    obstacle(path, &real, size)
        .await
        .map_err(StepError::machine)?;
    // `mkfs.btrfs` looks by itself, and says less.
    if is_used(&real) {
        let why = format!("{}: something uses this device", path.display());
        return Err(StepError::machine(why));
    }
    btrfs::format(&real, uuid).await?;
    Ok(Done::Changed)
}

/// Whether a file system, a volume or a program holds a device for itself.
pub(super) fn is_used(path: &Path) -> bool {
    let mut exclusive = OpenOptions::new();
    let opened = exclusive.read(true).custom_flags(libc::O_EXCL).open(path);
    opened.is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_block_device_is_told_from_what_is_missing() {
        let missing = observe(Path::new("/dev/renet-no-such-device"));
        let Part::Unknown(why) = missing else {
            panic!("{missing:?}");
        };
        assert!(why.contains("no such device"), "{why}");
        let Part::Unknown(why) = observe(Path::new("/dev/null")) else {
            panic!("/dev/null was taken for a disk");
        };
        assert!(why.contains("not a block device"), "{why}");
        assert_eq!(file(Path::new("/dev/null")), Part::Absent);
    }

    #[test]
    fn signatures_are_read_from_what_wipefs_prints() {
        let kinds = |text: &str| signatures(text.as_bytes()).unwrap();
        assert!(kinds("").is_empty());
        assert!(kinds("{\n \"signatures\": [\n\n ]\n}").is_empty());
        let two = r#"{"signatures": [{"type": "gpt"}, {"type": "PMBR"}, {"type": "gpt"}]}"#;
        assert_eq!(kinds(two), ["PMBR", "gpt"]);
        // What cannot be read is never taken for nothing.
        assert!(signatures(b"{}").is_err());
        assert!(signatures(b"offset type").is_err());
    }
}
