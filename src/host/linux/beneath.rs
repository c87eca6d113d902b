//! A folder in which nothing leads out: every path is opened without following
//! a symbolic link, because what lies inside an image is not to be trusted.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::files;
use crate::model::RelPath;

/// An opened folder.
pub(super) struct Beneath(OwnedFd);

/// A regular file as it lies there.
pub(super) struct Found {
    pub(super) bytes: Vec<u8>,
    pub(super) executable: bool,
}

impl Beneath {
    /// Opens the folder itself.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(Self(open(path, flags, Mode::empty())?))
    }

    fn open(&self, path: &str, flags: OFlag, mode: u32) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let mut how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
            .resolve(resolve);
        if flags.contains(OFlag::O_CREAT) {
            how = how.mode(Mode::from_bits_truncate(mode));
        }
        openat2(self.0.as_fd(), path, how)
    }

    /// A folder below; `None` where there is none, or a link stands in its way.
    pub(super) fn folder(&self, path: &str) -> io::Result<Option<Beneath>> {
        match self.open(path, OFlag::O_DIRECTORY, 0) {
            Ok(folder) => Ok(Some(Beneath(folder))),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A folder below, made with all above it where it is missing.
    pub(super) fn make_folder(&self, path: &str) -> io::Result<Beneath> {
        let mut end = 0;
        while end < path.len() {
            end += 1;
            end += path[end..].find('/').unwrap_or(path.len() - end);
            let (above, name) = path[..end].rsplit_once('/').unwrap_or((".", &path[..end]));
            let above = self.open(above, OFlag::O_DIRECTORY, 0)?;
            match mkdirat(above.as_fd(), name, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Beneath(self.open(path, OFlag::O_DIRECTORY, 0)?))
    }

    /// The names in this folder.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let here = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        let mut names = Vec::new();
        for entry in std::fs::read_dir(here)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    /// A regular file; `None` where there is none, or something else.
    pub(super) fn read(&self, path: &str) -> io::Result<Option<Found>> {
        // Without O_NONBLOCK a pipe under this name would hold us for ever.
        let file = match self.open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENXIO) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        (&file).read_to_end(&mut bytes)?;
        Ok(Some(Found {
            bytes,
            executable: meta.permissions().mode() & 0o100 != 0,
        }))
    }

    /// Writes a file so that it is seen either as before or whole.
    pub(super) fn write(&self, path: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
        let (above, name) = path.rsplit_once('/').unwrap_or((".", path));
        let made;
        let folder = if above == "." {
            self
        } else {
            made = self.make_folder(above)?;
            &made
        };
        for name in folder.names()? {
            if files::is_abandoned(&name) {
                let _ = unlinkat(folder.0.as_fd(), name.as_str(), UnlinkatFlags::NoRemoveDir);
            }
        }
        let temporary = format!("{}{}", files::unfinished(), uuid::Uuid::new_v4().simple());
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let mut file = File::from(folder.open(&temporary, flags, mode)?);
        let written = file
            .write_all(bytes)
            .and_then(|()| {
                // The mode at creation went through the umask.
                file.set_permissions(std::fs::Permissions::from_mode(mode))
            })
            .and_then(|()| file.sync_all())
            .and_then(|()| {
                let (from, to) = (temporary.as_str(), name);
                Ok(renameat(folder.0.as_fd(), from, folder.0.as_fd(), to)?)
            });
        if written.is_err() {
            let _ = unlinkat(
                folder.0.as_fd(),
                temporary.as_str(),
                UnlinkatFlags::NoRemoveDir,
            );
        }
        written?;
        folder.sync()
    }

    /// Removes a file, and the folders that it leaves empty.
    pub(super) fn remove(&self, path: &RelPath) -> io::Result<()> {
        let mut path = path.clone();
        let mut kind = UnlinkatFlags::NoRemoveDir;
        loop {
            let text = path.as_str();
            let (above, name) = text.rsplit_once('/').unwrap_or((".", text));
            let removed = self
                .open(above, OFlag::O_DIRECTORY, 0)
                .and_then(|above| unlinkat(above.as_fd(), name, kind));
            match removed {
                Ok(()) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                // A folder that is in use by others stays; the file must go.
                Err(_) if matches!(kind, UnlinkatFlags::RemoveDir) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            let Some(parent) = path.parent() else {
                return Ok(());
            };
            path = parent;
            kind = UnlinkatFlags::RemoveDir;
        }
    }

    /// Makes the names in this folder last.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(nix::unistd::fsync(self.0.as_fd())?)
    }
}
