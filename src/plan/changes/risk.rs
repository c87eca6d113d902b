use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::model::{Actual, Desired, Guid, Part, Repository};

/// A repository whose data would go to the trash, and what else there is of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AtRisk {
    /// Its name.
    pub repository: String,
    /// The size of its image in bytes, where it was seen.
    pub bytes: Option<u64>,
    /// How many snapshots of it there are, where that was seen.
    pub snapshots: Option<usize>,
    /// The newest of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest_snapshot: Option<LastSnapshot>,
    /// The repositories that are copies of it: they stay.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forks: Vec<String>,
}

/// The newest snapshot of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastSnapshot {
    /// When it was made.
    pub made: Timestamp,
    /// How long ago that was, in seconds.
    pub age: i64,
    /// How large the image was then, in bytes.
    pub bytes: u64,
}

impl AtRisk {
    pub(super) fn of(desired: &Desired, actual: &Actual, guid: Guid) -> Self {
        let none = Repository::default();
        let repo = actual.repo(guid, &none).unwrap_or(&none);
        let newest = repo.snapshots.known().and_then(|all| all.last_key_value());
        Self {
            repository: desired.name(guid),
            bytes: repo.storage.file.known().map(|size| size.as_bytes()),
            snapshots: match &repo.snapshots {
                Part::Known(all) => Some(all.len()),
                Part::Absent => Some(0),
                Part::Hidden | Part::Unknown(_) => None,
            },
            newest_snapshot: newest.map(|(made, snapshot)| LastSnapshot {
                made: *made,
                age: actual.now.duration_since(*made).as_secs().max(0),
                bytes: snapshot.size.as_bytes(),
            }),
            forks: forks(desired, actual, guid),
        }
    }
}

fn forks(desired: &Desired, actual: &Actual, parent: Guid) -> Vec<String> {
    let all = actual.repositories.known().into_iter().flatten();
    let forks = all.filter(|(_, repo)| {
        let record = repo.record.known();
        let record = record.filter(|record| record.deleted.is_none());
        let lineage = record.and_then(|record| record.lineage.as_ref());
        lineage.is_some_and(|lineage| lineage.parent == parent)
    });
    forks.map(|(guid, _)| desired.name(*guid)).collect()
}
