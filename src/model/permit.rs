use jiff::Timestamp;

use super::{Guid, Name, Tombstone};

/// Leave to destroy the data of one repository, for good. It can only be had
/// from what a person confirmed, or from a tombstone's own age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataLossPermit {
    guid: Guid,
    reason: &'static str,
}

impl DataLossPermit {
    /// The grace time of the tombstone is over.
    pub fn due(guid: Guid, stone: &Tombstone, now: Timestamp) -> Option<Self> {
        (stone.due <= now).then_some(Self {
            guid,
            reason: "its time in the trash is over",
        })
    }

    /// Somebody named the very repository.
    pub fn named(guid: Guid, name: &Name, said: &str) -> Option<Self> {
        (said == name.as_str()).then_some(Self {
            guid,
            reason: "confirmed by name",
        })
    }

    /// The repository.
    pub fn guid(&self) -> Guid {
        self.guid
    }

    /// Where the leave comes from.
    pub fn reason(&self) -> &'static str {
        self.reason
    }
}
