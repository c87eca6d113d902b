use std::collections::BTreeMap;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Unit};

use serde::Serialize;

use super::{Guid, Size};

/// The snapshots of one repository, by when they were made.
pub type Snapshots = BTreeMap<Timestamp, Snapshot>;

/// A copy of a repository's image as it was once; nothing changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// How large the image was.
    pub size: Size,
    /// What made it: that may drop it.
    pub made_by: MadeBy,
}

/// What made a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MadeBy {
    /// Somebody asked for it.
    Command,
    /// A rule of the manifest.
    Rule,
    /// An update of a project, before it began.
    Update,
    /// A rewind: it is the image whose place the one from before took.
    Rewind,
}

/// When snapshots are made by themselves, and how many of those are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Schedule {
    /// The time between two.
    pub every: SignedDuration,
    /// How many are kept.
    pub keep: usize,
}

const TIME: &str = "%Y%m%dT%H%M%SZ";
const PREFIX: &str = ".backup-";

impl Snapshot {
    /// The time by which a snapshot is known, in whole seconds: it stands in its name.
    pub fn moment(now: Timestamp) -> Timestamp {
        let options = jiff::TimestampRound::new().smallest(Unit::Second);
        let options = options.mode(jiff::RoundMode::Trunc);
        now.round(options).unwrap_or(now)
    }

    /// Whether a rewind kept an image as the snapshot of that time.
    pub fn is_rewind(all: &Snapshots, at: Timestamp) -> bool {
        all.get(&at)
            .is_some_and(|snapshot| snapshot.made_by == MadeBy::Rewind)
    }

    /// The time as it stands in names: `20261124T224033Z`.
    pub fn shown(at: Timestamp) -> String {
        at.strftime(TIME).to_string()
    }

    /// The time that stands in a name.
    pub fn parse(text: &str) -> Option<Timestamp> {
        let time = DateTime::strptime(TIME, text).ok()?;
        let time = time.to_zoned(TimeZone::UTC).ok()?;
        Some(time.timestamp())
    }

    /// The name of its folder in the datastore: `.backup-{time}-{guid}`.
    pub fn folder(guid: Guid, at: Timestamp) -> String {
        format!("{PREFIX}{}-{guid}", Snapshot::shown(at))
    }

    /// Of which repository a folder is a snapshot, and of when.
    pub fn of_folder(name: &str) -> Option<(Guid, Timestamp)> {
        let (time, guid) = name.strip_prefix(PREFIX)?.split_once('-')?;
        Some((guid.parse().ok()?, Snapshot::parse(time)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_says_of_what_it_is_a_snapshot_and_of_when() {
        let guid = Guid::new(uuid::Uuid::from_u128(7));
        let at: Timestamp = "2026-11-24T22:40:33.5Z".parse().unwrap();
        let at = Snapshot::moment(at);
        assert_eq!(Snapshot::shown(at), "20261124T224033Z");
        let name = Snapshot::folder(guid, at);
        assert_eq!(Snapshot::of_folder(&name), Some((guid, at)));
        for other in [".backup-", ".backup-x-y", ".backup-20261124T224033Z-", "a"] {
            assert_eq!(Snapshot::of_folder(other), None, "{other}");
        }
    }
}
