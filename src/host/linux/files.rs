//! Files that are either whole or not there.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::Part;

/// Writes a file so that it is seen either as before or whole: under a
/// temporary name (`.tmp-…`) in the same folder, then renamed. The folders
/// above it are made.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = path
        .parent()
        .ok_or_else(|| io::Error::other("a file needs a folder"))?;
    fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new()
        .prefix(".tmp-")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(folder)?;
    file.write_all(bytes)?;
    // The mode at creation went through the umask.
    file.as_file()
        .set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync_folder(folder)
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

/// Makes the names in a folder last.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
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
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    write_atomic(path, &bytes, mode)
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
        let left = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "temporary files stay behind");
    }
}
