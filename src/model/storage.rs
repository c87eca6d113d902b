use std::fmt;

use super::{Guid, Part, Size};

/// A file with a file system in it: the datastore's backing file (BTRFS), or a
/// repository's image (ext4). Both grow through the same layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Volume {
    /// The datastore.
    Datastore,
    /// A repository's image.
    Image(Guid),
}

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Volume::Datastore => f.write_str("datastore"),
            Volume::Image(guid) => guid.fmt(f),
        }
    }
}

/// The layers of a [`Volume`], from the file up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Storage {
    /// A half-made file under its temporary name: rubbish.
    pub staging: Part<()>,
    /// The file, with its apparent size.
    pub file: Part<Size>,
    /// The loop device over the file, with the size it shows.
    pub device: Part<Size>,
    /// The mounted file system.
    pub mount: Part<Mount>,
}

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// How much of its device the file system spans.
    pub size: Size,
}
