//! A passphrase or a key, as long as it is in memory.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;

use nix::sys::memfd::{MFdFlags, memfd_create};
use zeroize::Zeroizing;

/// Longer than any passphrase, in bytes; shorter than what would hurt.
const LONGEST: u64 = 64 * 1024;

/// A passphrase or a key. It prints nothing of itself, and is wiped when dropped.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl Passphrase {
    /// One as it was typed or written: the line end that closes it does not count.
    ///
    /// # Errors
    ///
    /// Where nothing is left.
    pub fn new(bytes: Vec<u8>) -> Result<Self, &'static str> {
        let mut bytes = Zeroizing::new(bytes);
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        match bytes.is_empty() {
            true => Err("the passphrase is empty"),
            false => Ok(Self(bytes)),
        }
    }

    /// Bytes of which every one counts.
    pub(super) fn random(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// Whether another is the same.
    pub fn is(&self, other: &Passphrase) -> bool {
        *self.0 == *other.0
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> &Zeroizing<Vec<u8>> {
        &self.0
    }

    /// Reads one to its end.
    ///
    /// # Errors
    ///
    /// Where it cannot be read, is empty, or longer than any passphrase.
    pub fn read(from: impl io::Read) -> io::Result<Self> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 1));
        from.take(LONGEST + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > LONGEST {
            return Err(io::Error::other("it is longer than any passphrase"));
        }
        Self::new(std::mem::take(&mut *bytes)).map_err(io::Error::other)
    }
}

/// A file that is in memory alone, for a program that wants a path.
pub(super) struct InMemory(OwnedFd);

impl InMemory {
    pub(super) fn of(secret: &Passphrase) -> io::Result<Self> {
        let memory = memfd_create(c"key", MFdFlags::MFD_CLOEXEC)?;
        File::from(memory.try_clone()?).write_all(secret.bytes())?;
        Ok(Self(memory))
    }

    /// Where other programs of root's find it.
    pub(super) fn path(&self) -> PathBuf {
        let (pid, fd) = (std::process::id(), self.0.as_raw_fd());
        format!("/proc/{pid}/fd/{fd}").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_is_cut_and_every_other_byte_counts() {
        let read = |text: &str| Passphrase::new(text.into()).map(|it| it.bytes().to_vec());
        for (text, is) in [
            ("a\n", "a"),
            ("a\r\n", "a"),
            ("a\n\n", "a\n"),
            (" a ", " a "),
        ] {
            assert_eq!(read(text).unwrap(), is.as_bytes(), "{text:?}");
        }
        for empty in ["", "\n", "\r\n"] {
            assert!(read(empty).is_err(), "{empty:?}");
        }
        assert!(Passphrase::read(io::repeat(b'x')).is_err());
    }

    #[test]
    fn what_is_in_memory_has_a_path_for_as_long_as_it_is() {
        let secret = Passphrase::new(b"canary".to_vec()).unwrap();
        let memory = InMemory::of(&secret).unwrap();
        let path = memory.path();
        assert_eq!(std::fs::read(&path).unwrap(), b"canary");
        drop(memory);
        assert!(std::fs::read(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound));
    }
}
