use jiff::Timestamp;

use super::{Guid, Name, Record, Tombstone};

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

    /// A rule keeps so many snapshots, and so many newer ones of it are there.
    pub fn outnumbered(guid: Guid, newer: usize, keep: usize) -> Option<Self> {
        (keep > 0 && newer >= keep).then_some(Self {
            guid,
            reason: "its rule keeps newer ones",
        })
    }

    /// An update made the snapshot, and is settled: it went well, or a newer one made
    /// another.
    pub fn settled(guid: Guid, at: Timestamp, newest: bool, record: &Record) -> Option<Self> {
        let under_way = record.unfinished.as_ref();
        let needed = under_way.is_some_and(|one| one.snapshot == at)
            || record.rewind.is_some_and(|rewind| rewind.to == at);
        let failed = newest && !record.failed.is_empty();
        (!needed && !failed).then_some(Self {
            guid,
            reason: "the update that made it is over",
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
