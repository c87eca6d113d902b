use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Digest, Name, ProjectSpec};

/// What of the revisions of each project is kept beside its files, oldest first.
pub type Revisions = BTreeMap<Name, Vec<Kept>>;

/// A revision of a project that was once well, with all that starting it again needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Which.
    pub hash: Digest,
    /// What it was; read only where one may have to run again.
    pub spec: Option<Arc<ProjectSpec>>,
}

impl Kept {
    /// How many revisions of a project are kept: what runs, and the one before.
    pub const COUNT: usize = 2;

    /// Adds the newest one, and lets those go that are too many.
    pub fn add(all: &mut Vec<Kept>, project: &Arc<ProjectSpec>) {
        all.retain(|kept| kept.hash != project.hash);
        all.push(Kept {
            hash: project.hash.clone(),
            spec: Some(project.clone()),
        });
        let surplus = all.len().saturating_sub(Self::COUNT);
        all.drain(..surplus);
    }
}

/// The revisions of each project that failed since it was last well.
pub type FailedRevisions = BTreeMap<Name, BTreeSet<Digest>>;

/// How many failed revisions of one project are remembered.
const MOST: usize = 32;

/// Remembers that a revision failed. Where that makes too many one is forgotten: it
/// may fail once more.
pub(super) fn note_failed(failed: &mut FailedRevisions, project: &Name, hash: &Digest) {
    let all = failed.entry(project.clone()).or_default();
    all.insert(hash.clone());
    while all.len() > MOST {
        let other = all.iter().find(|one| *one != hash).cloned();
        other.map(|other| all.remove(&other));
    }
}

/// Reads them also as they were written when one a project was remembered.
pub(super) fn read_failed<'de, D: Deserializer<'de>>(from: D) -> Result<FailedRevisions, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        One(Digest),
        Each(BTreeSet<Digest>),
    }
    let all = BTreeMap::<Name, Written>::deserialize(from)?;
    let each = all.into_iter().map(|(project, written)| match written {
        Written::One(hash) => (project, BTreeSet::from([hash])),
        Written::Each(all) => (project, all),
    });
    Ok(each.collect())
}

/// A revision of a project that is tried on a copy of its repository before that is
/// touched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// Which. The copy's own has another hash: its addresses are others.
    pub revision: Digest,
    /// What came of it.
    pub verdict: Verdict,
}

/// What came of a trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Nothing yet.
    Pending,
    /// It got well.
    Well,
    /// It failed, and how.
    Failed(String),
}

/// What becomes of a project whose new revision fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnFailure {
    /// The revision before comes back.
    #[default]
    Rollback,
    /// The revision before comes back, and all data of its repository with it.
    RollbackWithData,
    /// It stays where it failed.
    Stop,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_failed_revisions_the_last_is_never_forgotten() {
        let project: Name = "web".parse().unwrap();
        let mut failed = FailedRevisions::new();
        for number in 0..100u32 {
            let hash = Digest::of(&number.to_le_bytes());
            note_failed(&mut failed, &project, &hash);
            assert!(failed[&project].contains(&hash) && failed[&project].len() <= MOST);
        }
    }

    #[test]
    fn what_an_older_renet_remembered_is_read() {
        #[derive(Deserialize)]
        struct Read(#[serde(deserialize_with = "read_failed")] FailedRevisions);
        let Read(all) = serde_json::from_str(r#"{"web": "abc", "db": ["d", "e"]}"#).unwrap();
        let counts: Vec<usize> = all.values().map(BTreeSet::len).collect();
        assert_eq!(counts, [2, 1]);
    }
}
