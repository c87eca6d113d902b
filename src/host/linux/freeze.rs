//! A mounted file system whose writers wait for a moment, whatever becomes of
//! whoever asked for it: another process freezes and thaws it, and does so at
//! once when the one that asked is gone.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::LinuxHost;
use super::program::Program;
use crate::host::{Done, StepError};
use crate::model::{Guid, Layout, Part};

/// How long writers wait at most, in milliseconds.
const LONGEST: u16 = 10_000;
const READY: &[u8] = b"frozen\n";

nix::ioctl_readwrite!(freeze, b'X', 119, i32);
nix::ioctl_readwrite!(thaw, b'X', 120, i32);

/// Says that a repository is frozen; gone when it is thawed.
fn marker(layout: &Layout, guid: Guid) -> PathBuf {
    layout.run().join("frozen").join(guid.to_string())
}

/// Whether a repository was left frozen, or is just now.
pub(super) fn observe(layout: &Layout, guid: Guid) -> Part<()> {
    match marker(layout, guid).exists() {
        true => Part::Known(()),
        false => Part::Absent,
    }
}

/// Does the work while nobody can write to the repository.
pub(super) async fn during<T>(
    host: &LinuxHost,
    guid: Guid,
    work: impl Future<Output = Result<T, StepError>>,
) -> Result<T, StepError> {
    let layout = &host.layout;
    let guard = Program::new(&host.binary)
        .arg("--root")
        .arg(layout.root())
        .args(["daemon", "freeze", "--guid", &guid.to_string()]);
    // Written out before, so that the writers wait for little.
    let mount = layout.mount(guid);
    let synced =
        super::blocking(move || -> io::Result<()> { Ok(nix::unistd::syncfs(File::open(mount)?)?) })
            .await;
    match synced {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(StepError::machine(format!("syncfs: {error}"))),
        Err(why) => return Err(StepError::machine(why)),
    }
    let held = guard.hold(READY).await?;
    let done = work.await;
    // It thaws when it hears no more of us. Had it thawed before, what was done
    // meanwhile is worth nothing.
    held.release().await?;
    done
}

/// What the guard does: freezes, says so, waits for its input to end, thaws.
pub fn guard(layout: &Layout, guid: Guid) -> io::Result<()> {
    let mount = layout.mount(guid);
    let marker = marker(layout, guid);
    let folder = File::open(&mount)?;
    if let Some(above) = marker.parent() {
        fs::create_dir_all(above)?;
    }
    fs::write(&marker, "")?;
    let mut none = 0;
    // SAFETY: the descriptor is open, and the kernel ignores the argument.
    if let Err(error) = unsafe { freeze(folder.as_raw_fd(), &mut none) } {
        fs::remove_file(&marker)?;
        return Err(error.into());
    }
    let waited = wait();
    let thawed = thaw_at(&folder);
    if thawed.is_ok() {
        fs::remove_file(&marker)?;
    }
    thawed.and(waited)
}

fn wait() -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(READY)?;
    stdout.flush()?;
    let mut stdin = io::stdin().lock();
    let mut ready = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    match poll(&mut ready, PollTimeout::from(LONGEST))? {
        0 => Err(io::Error::other("it took too long; the writers go on")),
        _ => stdin.read(&mut [0]).map(drop),
    }
}

fn thaw_at(folder: &File) -> io::Result<()> {
    let mut none = 0;
    // SAFETY: the descriptor is open, and the kernel ignores the argument.
    match unsafe { thaw(folder.as_raw_fd(), &mut none) } {
        Ok(_) | Err(Errno::EINVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Thaws what a guard left frozen that was itself killed.
pub(super) fn thaw_now(layout: &Layout, guid: Guid) -> Result<Done, StepError> {
    let mount = layout.mount(guid);
    let thaw = || -> io::Result<()> {
        thaw_at(&File::open(&mount)?)?;
        match fs::remove_file(marker(layout, guid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    };
    let wrong = |path: &Path, error: io::Error| {
        StepError::machine(format!("thawing {}: {error}", path.display()))
    };
    thaw().map_err(|error| wrong(&mount, error))?;
    Ok(Done::Changed)
}
