//! Mounting and unmounting, and what is mounted.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, MsFlags, umount2};

use crate::host::{Done, StepError};

/// One line of the kernel's mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    /// Where.
    pub(super) point: PathBuf,
    /// The device number of its file system.
    number: String,
    /// Its type.
    pub(super) kind: String,
    /// What was mounted, as it was said then.
    pub(super) source: PathBuf,
    /// Whether it can be written to. A file system under which a write failed
    /// turns read-only by itself, and stays so until it is mounted anew.
    pub(super) writable: bool,
}

impl Mounted {
    /// Whether this is the file system on a device.
    pub(super) fn is_of(&self, device: &Path) -> bool {
        let Ok(number) = fs::metadata(device).map(|meta| meta.rdev()) else {
            return false;
        };
        // BTRFS has a device number of its own: there the source tells.
        self.number == format!("{}:{}", libc::major(number), libc::minor(number))
            || fs::metadata(&self.source).is_ok_and(|meta| meta.rdev() == number)
    }
}

/// The kernel's mount table, in the order of mounting.
pub(super) fn table() -> Result<Vec<Mounted>, String> {
    let infos = procfs::process::Process::myself()
        .and_then(|me| me.mountinfo())
        .map_err(|error| format!("/proc/self/mountinfo: {error}"))?;
    // Since Linux 6.14 ext4 says the latter two, and no longer the first.
    const READ_ONLY: [&str; 3] = ["ro", "emergency_ro", "shutdown"];
    let mounted = infos.0.into_iter().map(|info| Mounted {
        writable: !READ_ONLY.iter().any(|option| {
            info.mount_options.contains_key(*option) || info.super_options.contains_key(*option)
        }),
        point: unescape(&info.mount_point.to_string_lossy()),
        number: info.majmin,
        kind: info.fs_type,
        source: unescape(&info.mount_source.unwrap_or_default()),
    });
    Ok(mounted.collect())
}

/// The kernel writes spaces and the like as `\040`.
fn unescape(text: &str) -> PathBuf {
    let mut parts = text.split('\\');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                out.push_str(&part[3..]);
            }
            None => {
                out.push('\\');
                out.push_str(part);
            }
        }
    }
    PathBuf::from(out)
}

/// A path as the mount table has it: without links.
pub(super) fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// What is mounted at a path, the last one over all others.
pub(super) fn at(path: &Path) -> Result<Option<Mounted>, String> {
    let path = real(path);
    let mut table = table()?;
    table.reverse();
    Ok(table.into_iter().find(|mounted| mounted.point == path))
}

/// Mounts a device's file system.
pub(super) fn mount(device: &Path, point: &Path, kind: &str) -> Result<(), StepError> {
    let flags = MsFlags::MS_NOATIME;
    nix::mount::mount(Some(device), point, Some(kind), flags, None::<&str>).map_err(|error| {
        StepError::machine(format!(
            "mounting {} ({kind}) at {}: {error}",
            device.display(),
            point.display()
        ))
    })
}

/// Shows a folder at a second place.
pub(super) fn bind(from: &Path, to: &Path) -> Result<(), StepError> {
    let none = None::<&str>;
    nix::mount::mount(Some(from), to, none, MsFlags::MS_BIND, none).map_err(|error| {
        StepError::machine(format!(
            "binding {} to {}: {error}",
            from.display(),
            to.display()
        ))
    })
}

/// Unmounts what is at a path; nothing there is fine. Where it is in use for longer than
/// somebody looks at it, the error says by whom.
pub(super) fn unmount(point: &Path) -> Result<(), StepError> {
    const LOOK: Duration = Duration::from_millis(500);
    let began = Instant::now();
    while at(point).map_err(StepError::machine)?.is_some() {
        match umount2(point, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Unmounted since we looked: what happens at one place of a shared
            // mount happens at the others.
            Err(Errno::EINVAL | Errno::ENOENT)
                if at(point).map_err(StepError::machine)?.is_none() => {}
            Err(Errno::EBUSY) if began.elapsed() < LOOK => {
                std::thread::sleep(LOOK / 20);
            }
            Err(error) => {
                let mut message = format!("unmounting {}: {error}", point.display());
                let holders = holders(&real(point));
                if error == Errno::EBUSY && !holders.is_empty() {
                    message.push_str(&format!("; in use by {}", holders.join(", ")));
                }
                return Err(StepError::machine(message));
            }
        }
    }
    Ok(())
}

/// Unmounts everything below a path, the last one first; what is at the path
/// itself stays. Says whether anything was there.
pub(super) fn unmount_below(path: &Path) -> Result<Done, StepError> {
    let mut done = Done::Already;
    while let Some(point) = below(path).map_err(StepError::machine)? {
        unmount(&point)?;
        done = Done::Changed;
    }
    Ok(done)
}

/// The last mount below a path.
pub(super) fn below(path: &Path) -> Result<Option<PathBuf>, String> {
    let path = real(path);
    let last = table()?
        .into_iter()
        .rev()
        .map(|mounted| mounted.point)
        .find(|point| *point != path && point.starts_with(&path));
    Ok(last)
}

/// Who uses something beneath a path: processes, and mounts within.
fn holders(path: &Path) -> Vec<String> {
    const ENOUGH: usize = 8;
    let mut found: Vec<String> = table()
        .unwrap_or_default()
        .into_iter()
        .filter(|mounted| mounted.point != path && mounted.point.starts_with(path))
        .map(|mounted| format!("a mount at {}", mounted.point.display()))
        .collect();
    let processes = procfs::process::all_processes().into_iter().flatten();
    for process in processes.flatten() {
        let folder = PathBuf::from(format!("/proc/{}", process.pid));
        let links = ["cwd", "root", "exe"].map(|link| folder.join(link));
        let open = fs::read_dir(folder.join("fd")).into_iter().flatten();
        let open = open.flatten().map(|entry| entry.path());
        let holds = links
            .into_iter()
            .chain(open)
            .any(|link| fs::read_link(link).is_ok_and(|target| target.starts_with(path)));
        if holds {
            let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
            let name = name.trim_end().escape_debug().to_string();
            found.push(format!("{name} (pid {})", process.pid));
        }
    }
    found.truncate(ENOUGH);
    found
}

const IMMUTABLE: libc::c_long = 0x10;
nix::ioctl_read!(get_flags, b'f', 1, libc::c_long);
nix::ioctl_write_ptr!(set_flags, b'f', 2, libc::c_long);

/// Whether an error says that the file system knows no such thing.
pub(super) fn cannot(error: &std::io::Error) -> bool {
    let number = error.raw_os_error();
    matches!(number, Some(libc::ENOTTY | libc::EOPNOTSUPP | libc::ENOSYS))
}

/// Makes a folder such that nothing can be written into it, or undoes that.
/// Mounting over it works either way.
pub(super) fn set_immutable(folder: &Path, immutable: bool) -> std::io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let folder = fs::File::open(folder)?;
    let mut flags: libc::c_long = 0;
    // SAFETY: the descriptor is open, and the kernel writes at most a long.
    unsafe { get_flags(folder.as_raw_fd(), &mut flags) }?;
    let wanted = if immutable {
        flags | IMMUTABLE
    } else {
        flags & !IMMUTABLE
    };
    if wanted != flags {
        // SAFETY: the descriptor is open, and the kernel reads at most a long.
        unsafe { set_flags(folder.as_raw_fd(), &wanted) }?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_escapes_are_undone() {
        assert_eq!(unescape(r"/a\040b\134c"), Path::new(r"/a b\c"));
        assert_eq!(unescape(r"/a\x"), Path::new(r"/a\x"));
    }

    #[test]
    fn the_mount_table_has_a_root() {
        assert!(at(Path::new("/")).unwrap().is_some());
        assert!(at(Path::new("/nowhere")).unwrap().is_none());
    }
}
