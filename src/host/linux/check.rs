//! Whether what was written can still be read: BTRFS knows a checksum of every
//! block, and e2fsck the order of every image.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use nix::unistd::{Whence, lseek};

use super::program::Program;
use super::{LinuxHost, blocking, ext4, loop_device, luks, mount, records};
use crate::host::StepError;
use crate::model::{Guid, Header, Part, SecretRef, Size};

/// Reading a whole disk takes what it takes.
const LONG: Duration = Duration::from_secs(24 * 3600);
const CHUNK: usize = 1 << 20;

/// What is damaged, and whose it is; of the datastore itself where it is nobody's.
pub async fn datastore(host: &LinuxHost) -> Result<Vec<(Option<Guid>, String)>, StepError> {
    const FOUND: i32 = 3;
    let layout = &host.layout;
    let scrub = Program::new("btrfs").args(["scrub", "start", "-B", "-r"]);
    let scrub = scrub.arg(layout.datastore()).limit(LONG);
    let scrubbed = scrub.succeeds_with(FOUND).run().await?;
    let said = String::from_utf8_lossy(&scrubbed.stdout).into_owned();
    let summary = said
        .lines()
        .find_map(|line| line.trim().strip_prefix("Error summary:"))
        .map(str::trim);
    if summary.is_some_and(|summary| summary.starts_with("no errors found")) {
        return Ok(Vec::new());
    }
    let mut damaged = Vec::new();
    for guid in records::guids(layout).map_err(StepError::machine)? {
        for file in [layout.image(guid), layout.trash(guid)] {
            let bad = blocking(move || unreadable(&file)).await;
            let bad = bad
                .map_err(StepError::machine)?
                .map_err(StepError::machine)?;
            if bad > 0 {
                let what = format!("{} of its image cannot be read", Size::bytes(bad));
                damaged.push((Some(guid), what));
            }
        }
    }
    if damaged.is_empty() {
        let what = summary.unwrap_or("btrfs scrub did not end well").to_owned();
        damaged.push((None, what));
    }
    Ok(damaged)
}

/// How many bytes of a file cannot be read, to a megabyte; holes are not read.
fn unreadable(path: &Path) -> Result<u64, String> {
    let why = |error: io::Error| format!("{}: {error}", path.display());
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        other => other.map_err(why)?,
    };
    // What is in memory says nothing of the disk.
    // SAFETY: the descriptor is open.
    unsafe {
        use nix::libc::{POSIX_FADV_DONTNEED, posix_fadvise};
        posix_fadvise(file.as_raw_fd(), 0, 0, POSIX_FADV_DONTNEED);
    }
    let (mut bad, mut at) = (0, 0_u64);
    let mut chunk = vec![0; CHUNK];
    loop {
        let from = i64::try_from(at).map_err(|error| error.to_string())?;
        at = match lseek(&file, from, Whence::SeekData) {
            Ok(data) => u64::try_from(data).unwrap_or(at),
            Err(nix::errno::Errno::ENXIO) => return Ok(bad),
            Err(error) => return Err(why(error.into())),
        };
        match file.read_at(&mut chunk, at) {
            Ok(0) => return Ok(bad),
            Ok(read) => at += read as u64,
            Err(error) if error.raw_os_error() == Some(nix::libc::EIO) => {
                bad += CHUNK as u64;
                at += CHUNK as u64;
            }
            Err(error) => return Err(why(error)),
        }
    }
}

/// What is wrong with a repository. A closed one is checked throughout, by leave of
/// what opens it; of a mounted one its blocks, and what its kernel noted.
pub async fn repository(
    host: &LinuxHost,
    guid: Guid,
    with: Option<SecretRef>,
) -> Result<Vec<String>, StepError> {
    let image = host.layout.image(guid);
    let mut found = Vec::new();
    let file = image.clone();
    let bad = blocking(move || unreadable(&file)).await;
    let bad = bad
        .map_err(StepError::machine)?
        .map_err(StepError::machine)?;
    if bad > 0 {
        found.push(format!("{} of its image cannot be read", Size::bytes(bad)));
    }
    let sealed = match luks::header(&image) {
        Part::Unknown(why) => {
            found.push(why);
            return Ok(found);
        }
        header => matches!(header.known(), Some(Header::Luks { .. })),
    };
    let attached = loop_device::find(&image).map_err(StepError::machine)?;
    if attached.is_some() {
        let mounted = mount::at(&host.layout.mount(guid)).map_err(StepError::machine)?;
        let name = luks::path(&luks::name(guid));
        let top = if sealed { Some(name) } else { attached };
        if mounted.is_some() && top.is_some_and(|top| ext4::has_errors(&top)) {
            found.push("its file system has noted an error: close it and look again".to_owned());
        }
        return Ok(found);
    }
    let checked = match (sealed, with) {
        (false, _) => ext4::look(&image).await,
        (true, None) => return Ok(found),
        (true, Some(secret)) => sealed_check(host, guid, &image, &secret).await,
    };
    match checked {
        Ok(()) => {}
        Err(error)
            if error
                .program
                .as_deref()
                .is_some_and(|it| it.starts_with("e2fsck")) =>
        {
            found.push(error.message.lines().take(8).collect::<Vec<_>>().join("\n"));
        }
        Err(error) => return Err(error),
    }
    Ok(found)
}

async fn sealed_check(
    host: &LinuxHost,
    guid: Guid,
    image: &Path,
    secret: &SecretRef,
) -> Result<(), StepError> {
    let name = luks::check_name(guid);
    let slot = matches!(secret, SecretRef::Key(_)).then_some(Header::KEY_SLOT);
    let passphrase = host.secrets.read(secret, &host.layout).await?;
    let device = loop_device::attach(image).await?;
    let checked = async {
        luks::open(&device, &name, &passphrase, slot).await?;
        let looked = ext4::look(&luks::path(&name)).await;
        luks::close(&name).await?;
        looked
    };
    let checked = checked.await;
    loop_device::detach(&device).await?;
    checked
}
