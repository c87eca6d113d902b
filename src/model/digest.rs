use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest, 64 lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(Arc<str>);

impl Digest {
    /// The digest of one run of bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(hex(&Sha256::digest(bytes)).into())
    }

    /// The digest of several fields. Each is preceded by its length (8 bytes,
    /// little endian), so that no two lists of fields look the same.
    pub fn of_fields<'a>(fields: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hasher = Sha256::new();
        for field in fields {
            hasher.update((field.len() as u64).to_le_bytes());
            hasher.update(field);
        }
        Self(hex(&hasher.finalize()).into())
    }

    /// The digest of several digests.
    pub fn of_all<'a>(digests: impl IntoIterator<Item = &'a Digest>) -> Self {
        Self::of_fields(digests.into_iter().map(|digest| digest.as_str().as_bytes()))
    }

    /// A digest of the first digits alone, which a person can type.
    pub fn shortened(&self) -> Self {
        Self(self.short().into())
    }

    /// Whether a person may have typed a shortened digest.
    pub fn is_short(text: &str) -> bool {
        text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    }

    /// What a person typed.
    pub fn typed(text: &str) -> Self {
        Self(text.into())
    }

    /// All 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits: enough for people and for tags.
    pub fn short(&self) -> &str {
        &self.0[..self.0.len().min(12)]
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_is_the_plain_sha256_of_the_bytes() {
        assert_eq!(
            Digest::of(b"abc").as_str(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn fields_cannot_run_into_each_other() {
        let one = Digest::of_fields([b"ab".as_slice(), b"c"]);
        let two = Digest::of_fields([b"a".as_slice(), b"bc"]);
        assert_ne!(one, two);
    }
}
