use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use super::{Guid, Part, Size, Stop};

/// A file with a file system in it: the datastore's backing file (BTRFS), or a
/// repository's image (ext4). Both grow through the same layers. The datastore may be a
/// block device instead, which has no layer below its file system.
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

/// What the datastore lies on, by the path that people gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// A file, which a loop device shows.
    File(PathBuf),
    /// A block device, or a link to one. A file is never made in its place.
    Device(PathBuf),
}

impl Backing {
    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            Backing::File(path) | Backing::Device(path) => path,
        }
    }
}

/// The block device that the datastore lies on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its path as people gave it.
    pub path: PathBuf,
    /// Its size.
    pub size: Size,
    /// Why no datastore can be made on it, where it holds none: it is too small, or has
    /// some signature.
    pub refused: Option<String>,
}

/// The layers of a [`Volume`], from the file up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Storage {
    /// A half-made file under its temporary name: rubbish.
    pub staging: Part<()>,
    /// The file, with its apparent size; or the block device with a BTRFS on it.
    pub file: Part<Size>,
    /// What the file begins with; of an image, wherever it lies.
    pub header: Part<Header>,
    /// The loop device over the file, with the size it shows; of a block device with a
    /// BTRFS on it that device, used or not.
    pub device: Part<Size>,
    /// The decrypted mapping over the device, with the size it shows.
    pub mapper: Part<Size>,
    /// All writers wait: a fork that was killed left it so.
    pub frozen: Part<()>,
    /// The mounted file system.
    pub mount: Part<Mount>,
}

/// What an image begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Header {
    /// The file system itself.
    Plain,
    /// LUKS2.
    Luks {
        /// Where the encrypted data begins.
        offset: Size,
        /// The key slots in use.
        slots: BTreeSet<u8>,
    },
}

impl Header {
    /// Where the data of what renet encrypts begins: LUKS2's own default.
    pub const OFFSET: Size = Size::mib(16);
    /// The slot of the passphrase.
    pub const PASSPHRASE_SLOT: u8 = 0;
    /// The slot of the key for boot.
    pub const KEY_SLOT: u8 = 1;

    /// Of an image that was just made.
    pub fn new(sealed: bool) -> Self {
        match sealed {
            true => Header::Luks {
                offset: Self::OFFSET,
                slots: BTreeSet::from([Self::PASSPHRASE_SLOT]),
            },
            false => Header::Plain,
        }
    }

    /// Whether the key for boot has its slot.
    pub fn has_key(&self) -> bool {
        matches!(self, Header::Luks { slots, .. } if slots.contains(&Self::KEY_SLOT))
    }
}

impl Storage {
    /// Whether what is in the file is encrypted.
    pub fn is_sealed(&self) -> Result<bool, Stop> {
        Ok(matches!(self.header.get()?, Some(Header::Luks { .. })))
    }

    /// The size of what carries the file system: the mapping, or the device.
    pub fn top(&self) -> Result<Option<Size>, Stop> {
        let top = match self.is_sealed()? {
            true => &self.mapper,
            false => &self.device,
        };
        Ok(top.get()?.copied())
    }

    /// The size that the mapping over the device has when it fills it.
    pub fn mapped(&self) -> Result<Option<Size>, Stop> {
        let offset = match self.header.get()? {
            Some(Header::Luks { offset, .. }) => offset.as_bytes(),
            _ => 0,
        };
        let device = self.device.get()?;
        Ok(device.map(|size| Size::bytes(size.as_bytes().saturating_sub(offset))))
    }
}

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// How much of its device the file system spans.
    pub size: Size,
}
