//! The key that opens a repository at boot.
//!
//! Where the machine has a TPM, what lies on the disk is the key as that chip sealed it:
//! the disk alone opens nothing. Without one it is the key itself, for root alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use zeroize::Zeroizing;

use super::passphrase::Passphrase;
use super::program::{Program, is_installed};
use crate::host::StepError;

/// Its length in bytes. What the chip sealed is longer.
const LENGTH: usize = 256;
/// What the kernel lets several programs use at once.
const TPM: &str = "/dev/tpmrm0";
/// What the sealed key is called, so that it is taken for nothing else. The same for
/// all: a copy takes over the key of its parent.
const NAME: &str = "--name=renet-boot-key";

/// Makes a random one, and writes it as it may lie on the disk.
pub(super) async fn make(path: &Path) -> Result<Passphrase, StepError> {
    let mut key = Zeroizing::new(vec![0; LENGTH]);
    let random = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut key));
    random.map_err(|error| wrong(path, error))?;
    let key = Passphrase::random(key);
    let sealed = match has_chip() {
        true => seal(&key).await,
        false => None,
    };
    let bytes = sealed.as_deref().unwrap_or(key.bytes());
    write(path, bytes).map_err(|error| wrong(path, error))?;
    Ok(key)
}

fn has_chip() -> bool {
    Path::new(TPM).exists() && is_installed("systemd-creds")
}

/// The key as the chip seals it. One that cannot (a library is missing, it is locked)
/// leaves the machine no worse off than one without.
async fn seal(key: &Passphrase) -> Option<Vec<u8>> {
    // Bound to the chip alone: an update of the firmware changes its measurements,
    // and what was to come back at boot would not.
    let seal = Program::new("systemd-creds")
        .args(["encrypt", "--with-key=tpm2", "--tpm2-pcrs=", NAME])
        .args(["-", "-"]);
    match seal.secret(key).run().await {
        Ok(output) => Some(output.stdout),
        Err(error) => {
            tracing::warn!(%error, "the TPM does not seal; a key for boot is kept for root alone");
            None
        }
    }
}

/// Reads one.
pub(super) async fn read(path: &Path) -> Result<Passphrase, StepError> {
    let bytes = Zeroizing::new(fs::read(path).map_err(|error| wrong(path, error))?);
    if bytes.len() == LENGTH {
        return Ok(Passphrase::random(bytes));
    }
    let unseal = Program::new("systemd-creds").args(["decrypt", NAME]);
    let unsealed = unseal.arg(path).arg("-").run().await.map_err(|error| {
        let cure = "with `--password-stdin` its passphrase opens it; `renet repository \
                    autostart disable`, then `enable`, makes another key";
        let message = format!("{}: {}; {cure}", path.display(), error.message);
        StepError { message, ..error }
    })?;
    Ok(Passphrase::random(Zeroizing::new(unsealed.stdout)))
}

/// Takes over that of another repository.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), StepError> {
    let copy = || write(to, &Zeroizing::new(fs::read(from)?));
    copy().map_err(|error| wrong(to, error))
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if let Some(folder) = path.parent() {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(folder)?;
    }
    super::files::write_atomic(path, bytes, 0o600)
}

/// Overwrites and removes one; none is fine. The datastore may keep the old bytes
/// somewhere: what counts is the slot.
pub(super) fn discard(path: &Path) -> Result<(), StepError> {
    let discard = || -> io::Result<()> {
        let mut file = match OpenOptions::new().write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        file.write_all(&vec![0; length])?;
        file.sync_all()?;
        fs::remove_file(path)
    };
    discard().map_err(|error| wrong(path, error))
}

fn wrong(path: &Path, error: io::Error) -> StepError {
    StepError::machine(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::host::linux::files::presence;
    use crate::model::Part;

    #[tokio::test]
    async fn a_key_lies_there_for_root_alone_until_it_is_discarded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/own.key");
        assert_eq!(presence(&path), Part::Absent);
        let key = make(&path).await.unwrap();
        assert_eq!(presence(&path), Part::Known(()));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(read(&path).await.unwrap().is(&key));
        let other = folder.path().join("keys/copy.key");
        copy(&path, &other).unwrap();
        assert!(read(&other).await.unwrap().is(&key));
        discard(&path).unwrap();
        discard(&path).unwrap();
        assert_eq!(presence(&path), Part::Absent);
        // What no chip sealed is refused with what helps.
        fs::write(&path, "nothing that was sealed").unwrap();
        let error = read(&path).await.unwrap_err();
        assert!(error.message.contains("autostart disable"), "{error}");
    }
}
