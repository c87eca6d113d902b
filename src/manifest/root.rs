use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::model::RelPath;

/// The largest manifest or compose file.
pub(super) const TEXT_LIMIT: usize = 1 << 20;

/// A folder that nothing is read outside of: no `..`, no link, no other kind of
/// file gets past the kernel's own resolution.
pub(super) struct Root {
    dir: File,
    path: PathBuf,
    given: PathBuf,
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

/// A file's bytes and whether it can be executed.
pub(super) struct Content {
    pub bytes: Vec<u8>,
    pub executable: bool,
}

impl Root {
    /// Opens a folder, which may be a link itself.
    pub fn open(path: &Path, given: &Path) -> std::io::Result<Self> {
        Ok(Self {
            dir: File::open(path)?,
            path: path.to_owned(),
            given: given.to_owned(),
        })
    }

    /// A file's path as the user would write it.
    pub fn shown(&self, path: &RelPath) -> PathBuf {
        self.given.join(path.as_str())
    }

    fn open_at(&self, path: &str, flags: OFlag) -> Result<OwnedFd, Refusal> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        // The kernel asks for another try where a rename crossed its path.
        for _ in 0..16 {
            match openat2(&self.dir, path, how) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => return Err(Refusal::of(error)),
                Ok(fd) => return Ok(fd),
            }
        }
        Err(Refusal::of(Errno::EAGAIN))
    }

    /// What kind of thing lies at a path.
    pub fn kind(&self, path: &RelPath) -> Result<EntryKind, Refusal> {
        let file = File::from(self.open_at(path.as_str(), OFlag::O_PATH)?);
        let meta = file.metadata().map_err(Refusal::io)?;
        Ok(kind_of(&meta.file_type()))
    }

    /// Reads a regular file of at most `limit` bytes.
    pub fn read(&self, path: &RelPath, limit: usize) -> Result<Content, Refusal> {
        // Opening a device can do things: look before.
        match self.kind(path)? {
            EntryKind::File => {}
            EntryKind::Folder => {
                return Err(Refusal::new("is a folder, not a file", "name a file"));
            }
            _ => return Err(Refusal::special()),
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = File::from(self.open_at(path.as_str(), flags)?);
        let meta = file.metadata().map_err(Refusal::io)?;
        if !meta.is_file() {
            return Err(Refusal::special());
        }
        let mut bytes = Vec::new();
        file.take(limit as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(Refusal::io)?;
        if bytes.len() > limit {
            return Err(Refusal::new(
                format!("is larger than {} MiB", limit >> 20),
                "make it smaller",
            ));
        }
        Ok(Content {
            bytes,
            executable: meta.mode() & 0o111 != 0,
        })
    }

    /// What lies in a folder, by name; `None` is the folder itself.
    pub fn list(&self, folder: Option<&RelPath>) -> Result<Vec<Entry>, Refusal> {
        let path = match folder {
            None => self.path.clone(),
            Some(folder) => {
                self.open_at(folder.as_str(), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
                self.path.join(folder.as_str())
            }
        };
        let mut entries = Vec::new();
        for entry in fs::read_dir(path).map_err(Refusal::io)? {
            let entry = entry.map_err(Refusal::io)?;
            let name = entry.file_name();
            let path: Option<RelPath> = name.to_str().and_then(|name| name.parse().ok());
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
