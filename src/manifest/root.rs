use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::problem::is_hostile;
use crate::model::{FileEntry, RelPath};

/// The largest manifest or compose file.
pub(super) const TEXT_LIMIT: usize = 1 << 20;

/// A folder that nothing is read outside of: no `..`, no link, no other kind of
/// file gets past the kernel's own resolution.
pub(super) struct Root {
    dir: File,
    given: PathBuf,
    trace: RefCell<Trace>,
    /// What was read already: projects bring along the same files.
    files: RefCell<HashMap<Stamp, FileEntry>>,
}

/// What lies in a folder.
pub(super) struct Entry {
    pub path: RelPath,
    pub kind: EntryKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    Folder,
    File,
    Link,
    /// A FIFO, socket or device.
    Other,
}

impl Root {
    /// Opens a folder, which may be a link itself.
    pub fn open(path: &Path, given: &Path) -> std::io::Result<Self> {
        Ok(Self {
            dir: File::open(path)?,
            given: given.to_owned(),
            trace: RefCell::default(),
            files: RefCell::default(),
        })
    }

    /// A file's path as the user would write it.
    pub fn shown(&self, path: &RelPath) -> PathBuf {
        self.given.join(path.as_str())
    }

    /// What was looked at since the last call, and how it was found.
    pub fn take_trace(&self) -> Trace {
        self.trace.take()
    }

    /// What lies at a path now; `None` is the folder itself.
    pub fn seen(&self, path: Option<&RelPath>) -> Seen {
        let file = self.open_at(path)?;
        Ok(Stamp::of(&metadata(&file)?))
    }

    /// Opens what lies at a path only so far that it can be looked at: opening a
    /// device can do things.
    fn open_at(&self, path: Option<&RelPath>) -> Result<File, Errno> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        // The kernel asks for another try where a rename crossed its path.
        for _ in 0..16 {
            match openat2(&self.dir, path.map_or(".", RelPath::as_str), how) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => return Err(error),
                Ok(fd) => return Ok(File::from(fd)),
            }
        }
        Err(Errno::EAGAIN)
    }

    /// What lies at a path, held fast: whatever takes its place later, this is it.
    fn hold(&self, path: Option<&RelPath>) -> Result<(File, Metadata), Refusal> {
        let opened = self.open_at(path).and_then(|file| {
            let meta = metadata(&file)?;
            Ok((file, meta))
        });
        let seen = opened.as_ref().map(|(_, meta)| Stamp::of(meta));
        let seen = seen.map_err(|error| *error);
        self.trace.borrow_mut().push((path.cloned(), seen));
        opened.map_err(Refusal::of)
    }

    /// What kind of thing lies at a path.
    pub fn kind(&self, path: &RelPath) -> Result<EntryKind, Refusal> {
        let (_, meta) = self.hold(Some(path))?;
        Ok(kind_of(&meta.file_type()))
    }

    /// Reads a regular file of at most `limit` bytes.
    pub fn read(&self, path: &RelPath, limit: usize) -> Result<FileEntry, Refusal> {
        let (held, meta) = self.hold(Some(path))?;
        match kind_of(&meta.file_type()) {
            EntryKind::File => {}
            EntryKind::Folder => {
                return Err(Refusal::new("is a folder, not a file", "name a file"));
            }
            EntryKind::Link => return Err(Refusal::link()),
            EntryKind::Other => return Err(Refusal::special()),
        }
        let large = || {
            let limit = limit >> 20;
            Refusal::new(format!("is larger than {limit} MiB"), "make it smaller")
        };
        if meta.len() > limit as u64 {
            return Err(large());
        }
        let stamp = Stamp::of(&meta);
        if let Some(file) = self.files.borrow().get(&stamp) {
            return Ok(file.clone());
        }
        let file = File::open(itself(&held)).map_err(Refusal::io)?;
        let mut bytes = Vec::with_capacity(meta.len() as usize + 1);
        // It may have grown.
        file.take(limit as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(Refusal::io)?;
        if bytes.len() > limit {
            return Err(large());
        }
        let file = FileEntry::new(bytes, meta.mode() & 0o111 != 0);
        self.files.borrow_mut().insert(stamp, file.clone());
        Ok(file)
    }

    /// What lies in a folder, by name; `None` is the folder itself.
    pub fn list(&self, folder: Option<&RelPath>) -> Result<Vec<Entry>, Refusal> {
        let (held, _) = self.hold(folder)?;
        let mut entries = Vec::new();
        for entry in fs::read_dir(itself(&held)).map_err(Refusal::io)? {
            let entry = entry.map_err(Refusal::io)?;
            let name = entry.file_name();
            let plain = name.to_str().filter(|name| !name.contains(is_hostile));
            let path: Option<RelPath> = plain.and_then(|name| name.parse().ok());
            let Some(path) = path else {
                return Err(Refusal::new(
                    format!("holds a file with an odd name, {name:?}"),
                    "rename it: UTF-8 without control characters",
                ));
            };
            let path = folder.map_or_else(|| path.clone(), |folder| path.beneath(folder));
            let kind = kind_of(&entry.file_type().map_err(Refusal::io)?);
            entries.push(Entry { path, kind });
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }
}

/// A way to the very thing that is held open.
fn itself(held: &File) -> String {
    format!("/proc/self/fd/{}", held.as_raw_fd())
}

/// What was looked at, and how it was found.
pub(super) type Trace = Vec<(Option<RelPath>, Seen)>;

/// What lies at a path, or why that cannot be said.
pub(super) type Seen = Result<Stamp, Errno>;

/// Tells a file or folder from what it was: any change of its content changes this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    mode: u32,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            mode: meta.mode(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Whether it may have been changed again after it was looked at, at `now`, so soon
    /// that the clock of the file system did not tell the two apart.
    pub fn is_racy(&self, now: SystemTime) -> bool {
        /// The coarsest clock of a file system.
        const TICK: i64 = 2;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let last = self.modified.max(self.changed).0;
        last + TICK >= i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
    }
}

fn metadata(file: &File) -> Result<Metadata, Errno> {
    let meta = file.metadata();
    meta.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))
}

fn kind_of(kind: &fs::FileType) -> EntryKind {
    if kind.is_dir() {
        EntryKind::Folder
    } else if kind.is_file() {
        EntryKind::File
    } else if kind.is_symlink() {
        EntryKind::Link
    } else {
        EntryKind::Other
    }
}

/// Why something was not read, as the end of a sentence about it, and the cure.
#[derive(Debug)]
pub(super) struct Refusal {
    pub why: String,
    pub cure: String,
    /// Nothing lies there.
    pub missing: bool,
}

impl Refusal {
    pub fn new(why: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            cure: cure.into(),
            missing: false,
        }
    }

    /// About a link.
    pub fn link() -> Self {
        Self::new(
            "is a symbolic link or lies behind one",
            "links are not followed: put the file itself there",
        )
    }

    /// About a FIFO, socket or device.
    pub fn special() -> Self {
        Self::new(
            "is a FIFO, socket or device",
            "only files and folders are read: remove it",
        )
    }

    fn io(error: std::io::Error) -> Self {
        error.raw_os_error().map_or_else(
            || Self::new(error.to_string(), ""),
            |raw| Self::of(Errno::from_raw(raw)),
        )
    }

    fn of(error: Errno) -> Self {
        match error {
            Errno::ELOOP => Self::link(),
            Errno::EXDEV => Self::new("leads out of the folder", "move it into the folder"),
            Errno::ENOENT | Errno::ENOTDIR => Self {
                missing: true,
                ..Self::new("does not exist", "create it, or correct the path")
            },
            Errno::EACCES | Errno::EPERM => {
                Self::new("cannot be read: permission denied", "make it readable")
            }
            Errno::ENOSYS => Self::new("cannot be opened safely", "renet needs Linux 5.6 or later"),
            error => Self::new(
                format!("cannot be read: {}", error.desc()),
                "read it by hand to see why",
            ),
        }
    }
}
