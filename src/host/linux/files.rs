//! Files that are either whole or not there.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::Part;

/// What the names of unfinished files begin with, up to whose they are.
const UNFINISHED: &str = ".tmp-renet-";

/// A name for a file that this process has not finished.
pub(super) fn unfinished() -> String {
    format!("{UNFINISHED}{}-", std::process::id())
}

/// Whether a process that is gone left this unfinished file behind.
pub(super) fn is_abandoned(name: &str) -> bool {
    let rest = name.strip_prefix(UNFINISHED);
    rest.and_then(|rest| rest.split_once('-'))
        .is_some_and(|(pid, _)| is_gone(pid))
}

/// Whether no process has this id.
pub(super) fn is_gone(pid: &str) -> bool {
    pid.parse::<u32>()
        .is_ok_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

/// Clears what a killed process left: it is rubbish to whoever writes here.
pub(super) fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_abandoned) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// Writes a file so that it is seen either as before or whole: under a
/// temporary name (`.tmp-renet-…`) in the same folder, then renamed. The folders
/// above it are made.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace(path, bytes, mode, File::sync_all)?;
    sync_folder(above(path)?)
}

/// Writes a file that may be lost as [`write_atomic`] does, but nobody waits for the disk:
/// a power cut may leave it empty.
pub fn write_unsynced(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace(path, bytes, mode, |_| Ok(()))
}

fn replace(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    settle: fn(&File) -> io::Result<()>,
) -> io::Result<()> {
    let folder = above(path)?;
    fs::create_dir_all(folder)?;
    sweep(folder)?;
    let mut file = tempfile::Builder::new()
        .prefix(&unfinished())
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(folder)?;
    file.write_all(bytes)?;
    // The mode at creation went through the umask.
    file.as_file()
        .set_permissions(Permissions::from_mode(mode))?;
    settle(file.as_file())?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn above(path: &Path) -> io::Result<&Path> {
    path.parent()
        .ok_or_else(|| io::Error::other("a file needs a folder"))
}

/// Appends a line to a log; one that grew beyond `largest` bytes is kept once,
/// as `….1`.
pub fn append_line(path: &Path, line: &str, largest: u64) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    if fs::metadata(path).is_ok_and(|meta| meta.len() > largest) {
        let mut kept = path.as_os_str().to_owned();
        kept.push(".1");
        fs::rename(path, kept)?;
    }
    let mut file = File::options().append(true).create(true).open(path)?;
    file.write_all(format!("{line}\n").as_bytes())
}

/// Removes a file; none is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes a new file that only its owner may read.
pub fn create_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)
}

/// Makes the names in a folder last.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// What a file takes on its file system, in bytes.
pub fn allocated(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    const BLOCK: u64 = 512;
    let meta = fs::symlink_metadata(path).ok()?;
    Some(meta.blocks() * BLOCK)
}

/// How large a file system is, in bytes.
pub fn total(path: &Path) -> io::Result<u64> {
    let seen = nix::sys::statvfs::statvfs(path)?;
    Ok(seen.blocks().saturating_mul(seen.fragment_size()))
}

/// What can be written to a file system, in bytes.
pub fn available(path: &Path) -> io::Result<u64> {
    let seen = nix::sys::statvfs::statvfs(path)?;
    Ok(seen.blocks_available().saturating_mul(seen.fragment_size()))
}

/// Reads a JSON file. One that is empty, torn or unreadable is unknown, never absent.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Part<T> {
    let unknown = |why: String| Part::Unknown(format!("{}: {why}", path.display()));
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Part::Absent,
        Err(error) => unknown(error.to_string()),
        Ok(bytes) if bytes.is_empty() => unknown("it is empty".to_owned()),
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(value) => Part::Known(value),
            Err(error) => unknown(error.to_string()),
        },
    }
}

/// Writes a JSON file with [`write_atomic`].
pub fn write_json(path: &Path, value: &impl Serialize, mode: u32) -> io::Result<()> {
    write_atomic(path, &json(value)?, mode)
}

/// Writes a JSON file with [`write_unsynced`].
pub fn write_json_unsynced(path: &Path, value: &impl Serialize, mode: u32) -> io::Result<()> {
    write_unsynced(path, &json(value)?, mode)
}

fn json(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Whether something is there, by any kind.
pub(super) fn presence(path: &Path) -> Part<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Part::Absent,
        Err(error) => Part::Unknown(format!("{}: {error}", path.display())),
        Ok(_) => Part::Known(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_file_is_unknown_and_a_missing_one_absent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/x.json");
        assert_eq!(read_json::<u32>(&path), Part::Absent);
        write_json(&path, &7, 0o600).unwrap();
        assert_eq!(read_json::<u32>(&path), Part::Known(7));
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        for torn in ["", "{\"a\":"] {
            fs::write(&path, torn).unwrap();
            assert!(read_json::<serde_json::Value>(&path).is_unknown());
        }
        let count = || fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(count(), 1, "temporary files stay behind");
        // What another left that was killed goes; what one still writes stays.
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        for pid in [child.id(), std::process::id()] {
            fs::write(path.with_file_name(format!(".tmp-renet-{pid}-x")), "").unwrap();
        }
        write_json(&path, &8, 0o600).unwrap();
        assert_eq!(count(), 2);
    }
}
