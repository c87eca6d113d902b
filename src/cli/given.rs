//! What `-f` names: a folder of manifests, or one file of a folder.

use std::path::Path;

use super::Failure;
use crate::manifest::{self, Folder, OneFile};

/// What was named, as read.
pub enum Given {
    /// A folder.
    Folder(Folder),
    /// One file of its folder.
    File(OneFile),
}

impl Given {
    /// Reads it.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Err(Failure::usage(
                "`-f -` is not read: what is applied is owned by the folder that it lies in, \
                 and standard input lies in none; write it into a file there, and name that",
            ));
        }
        if !path.is_file() {
            return Ok(Self::Folder(manifest::load(path)));
        }
        let shown = path.display();
        let one = manifest::load_file(path);
        one.map(Self::File).ok_or_else(|| {
            Failure::usage(format!(
                "`{shown}` is no manifest: name a *.yaml or *.yml file that is no link, or a folder"
            ))
        })
    }
}
