//! Secrets, read at the moment of use and wiped afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::libc;

use super::key;
use super::passphrase::Passphrase;
use super::program::{Program, is_installed};
use crate::host::StepError;
use crate::model::{Layout, Part, SecretRef};

/// What may be asked for, and what was typed.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    asked: BTreeSet<SecretRef>,
    typed: Option<Arc<Passphrase>>,
}

impl Secrets {
    /// Those that manifests name.
    pub fn asked(asked: BTreeSet<SecretRef>) -> Self {
        Self { asked, typed: None }
    }

    /// The one that was typed.
    pub fn typed(passphrase: Passphrase) -> Self {
        Self::default().with_typed(passphrase)
    }

    /// The one that was typed, besides.
    pub fn with_typed(self, passphrase: Passphrase) -> Self {
        Self {
            typed: Some(Arc::new(passphrase)),
            ..self
        }
    }

    /// Whether one was typed.
    pub(super) fn has_typed(&self) -> bool {
        self.typed.is_some()
    }

    /// Whether each is at hand; nothing is run or decrypted to find out.
    pub(super) fn observe(&self, layout: &Layout) -> BTreeMap<SecretRef, Part<()>> {
        let typed = self.typed.iter().map(|_| SecretRef::Typed);
        let all = self.asked.iter().cloned().chain(typed);
        all.map(|secret| (secret.clone(), at_hand(&secret, layout)))
            .collect()
    }

    /// The secret itself.
    pub(super) async fn read(
        &self,
        secret: &SecretRef,
        layout: &Layout,
    ) -> Result<Passphrase, StepError> {
        let wrong = |why: &dyn fmt::Display| StepError::machine(format!("{secret}: {why}"));
        let bytes = match secret {
            SecretRef::Typed => {
                let typed = self.typed.as_deref().cloned();
                return typed.ok_or_else(|| wrong(&"nothing was typed"));
            }
            SecretRef::File(path) => return file(path).map_err(|error| wrong(&error)),
            SecretRef::Key(guid) => return key::read(&layout.key(*guid)).await,
            SecretRef::Credential(name) => {
                let (path, sealed) =
                    credential(name, layout).ok_or_else(|| wrong(&"there is none"))?;
                if !sealed {
                    return file(&path).map_err(|error| wrong(&error));
                }
                let decrypt = Program::new("systemd-creds").args(["decrypt", "--name", name]);
                decrypt.arg(&path).arg("-").run().await?.stdout
            }
            SecretRef::Age(path) => {
                let decrypt = Program::new("age").args(["--decrypt", "--identity"]);
                let decrypt = decrypt.arg(layout.age_identity()).arg("--").arg(path);
                decrypt.run().await?.stdout
            }
            SecretRef::Command(command) => {
                let Some((program, args)) = command.split_first() else {
                    return Err(wrong(&"it is empty"));
                };
                Program::new(program).args(args).run().await?.stdout
            }
        };
        Passphrase::new(bytes).map_err(|why| wrong(&why))
    }
}

/// Whether a secret is at hand.
fn at_hand(secret: &SecretRef, layout: &Layout) -> Part<()> {
    let there = |path: &Path| match open(path) {
        Ok(_) => Part::Known(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Part::Absent,
        Err(error) => Part::Unknown(format!("{}: {error}", path.display())),
    };
    match secret {
        SecretRef::Typed => Part::Known(()),
        SecretRef::File(path) => there(path),
        SecretRef::Key(guid) => there(&layout.key(*guid)),
        SecretRef::Credential(name) => match credential(name, layout) {
            Some((path, false)) => there(&path),
            Some((_, true)) => Part::Known(()),
            None => Part::Absent,
        },
        SecretRef::Age(path) => {
            let identity = layout.age_identity();
            if !is_installed("age") {
                Part::Unknown("`age` is not installed".to_owned())
            } else if !identity.exists() {
                Part::Unknown(format!("{}: there is no identity", identity.display()))
            } else if path.exists() {
                Part::Known(())
            } else {
                Part::Absent
            }
        }
        SecretRef::Command(_) => Part::Known(()),
    }
}

/// A file that root alone can read.
fn open(path: &Path) -> io::Result<File> {
    const OTHERS: u32 = 0o077;
    // A FIFO would wait for a writer.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if meta.mode() & OTHERS != 0 {
        return Err(io::Error::other("others can read it: `chmod 600` it"));
    }
    Ok(file)
}

/// What a file holds that root alone can read.
pub(super) fn file(path: &Path) -> io::Result<Passphrase> {
    Passphrase::read(open(path)?)
}

/// Where a systemd credential is, and whether it is encrypted.
fn credential(name: &str, layout: &Layout) -> Option<(PathBuf, bool)> {
    let given = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let given = given.map(|folder| (folder.join(name), false));
    let stores = [("etc/credstore", false), ("etc/credstore.encrypted", true)];
    let stores = stores.map(|(folder, sealed)| (layout.root().join(folder).join(name), sealed));
    let mut all = given.into_iter().chain(stores);
    all.find(|(path, _)| path.exists())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn l62_a_passphrase_does_not_print_itself() {
        let secret = Passphrase::new(b"canary".to_vec()).unwrap();
        let secrets = Secrets::typed(secret);
        assert!(!format!("{secrets:?}").contains("canary"));
    }

    #[test]
    fn a_file_that_others_can_read_is_no_secret() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "pw\n").unwrap();
        let layout = Layout::new("/tmp").unwrap();
        let secret = SecretRef::File(file.path().to_owned());
        let set = |mode| {
            file.as_file()
                .set_permissions(fs::Permissions::from_mode(mode))
        };
        set(0o644).unwrap();
        let Part::Unknown(why) = at_hand(&secret, &layout) else {
            panic!("taken for a secret");
        };
        assert!(why.contains("chmod 600"), "{why}");
        set(0o600).unwrap();
        assert_eq!(at_hand(&secret, &layout), Part::Known(()));
        let missing = SecretRef::File("/nowhere/at/all".into());
        assert_eq!(at_hand(&missing, &layout), Part::Absent);
    }
}
