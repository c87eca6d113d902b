use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{Digest, Rediaccfile, RelPath};

/// A file that a manifest brings along.
#[derive(Clone, PartialEq, Eq)]
pub struct FileEntry {
    bytes: Arc<Vec<u8>>,
    digest: Digest,
    executable: bool,
}

impl FileEntry {
    /// A file with its digest.
    pub fn new(bytes: Vec<u8>, executable: bool) -> Self {
        Self {
            digest: Digest::of(&bytes),
            bytes: bytes.into(),
            executable,
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The digest of its bytes.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Whether its executable bit is set.
    pub fn executable(&self) -> bool {
        self.executable
    }
}

impl fmt::Debug for FileEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

/// The files of one project, by path in the project's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSet {
    files: BTreeMap<RelPath, FileEntry>,
    digest: Digest,
}

impl FileSet {
    /// A set with its digest.
    pub fn new(files: BTreeMap<RelPath, FileEntry>) -> Self {
        let digest = Self::digest_of(
            files
                .iter()
                .map(|(path, file)| (path, &file.digest, file.executable)),
        );
        Self { files, digest }
    }

    /// The digest of a set, from the digests of its files in the order of their
    /// paths. What lies on the machine is measured by the same function.
    pub fn digest_of<'a>(files: impl Iterator<Item = (&'a RelPath, &'a Digest, bool)>) -> Digest {
        let mut fields: Vec<Vec<u8>> = Vec::new();
        for (path, digest, executable) in files {
            fields.push(path.as_str().as_bytes().to_vec());
            fields.push(digest.as_str().as_bytes().to_vec());
            fields.push(vec![u8::from(executable)]);
        }
        Digest::of_fields(fields.iter().map(Vec::as_slice))
    }

    /// The files.
    pub fn files(&self) -> &BTreeMap<RelPath, FileEntry> {
        &self.files
    }

    /// The Rediaccfile among them.
    pub fn rediaccfile(&self) -> Option<Rediaccfile> {
        let mut files = self.files.iter();
        let (path, file) = files.find(|(path, _)| Rediaccfile::is_called(path.as_str()))?;
        let text = String::from_utf8_lossy(file.bytes());
        Some(Rediaccfile::read(path.as_str(), &text))
    }

    /// The digest of paths, contents and executable bits.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}
