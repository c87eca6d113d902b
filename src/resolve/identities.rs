use std::collections::{BTreeMap, BTreeSet};

use super::Ids;
use crate::manifest::{self, Digested, MovedFrom};
use crate::model::{
    Actual, Blocked, Gone, Guid, Lineage, Name, NetworkId, Origin, Owner, Part, Record, Repository,
    SecretRef, Shared,
};

/// Who is who: guids and networks, from records or newly drawn.
pub(super) struct Identities<'a> {
    seen: &'a BTreeMap<Guid, Shared<Repository>>,
    declared: BTreeSet<&'a Name>,
    live: BTreeMap<&'a Name, Guid>,
    /// What copies are called that are there to try changes: no manifest means one.
    trials: BTreeSet<&'a Name>,
    /// The last deleted one of each name.
    deleted: BTreeMap<&'a Name, Guid>,
    unreadable: Option<String>,
    unknown_images: Vec<Guid>,
    taken: BTreeSet<NetworkId>,
    next: NetworkId,
    ids: &'a Ids,
}

impl<'a> Identities<'a> {
    /// `whose` tombstones concern the manifests; without it all do.
    pub(super) fn new(
        seen: &'a BTreeMap<Guid, Shared<Repository>>,
        actual: &Actual,
        declared: BTreeSet<&'a Name>,
        whose: Option<&Owner>,
        ids: &'a Ids,
    ) -> Self {
        let mut live = BTreeMap::new();
        let mut trials = BTreeSet::new();
        let mut deleted: BTreeMap<&Name, Guid> = BTreeMap::new();
        let mut taken = BTreeSet::new();
        let mut unreadable = None;
        let mut unknown_images = Vec::new();
        let died = |guid: &Guid| {
            let record = seen.get(guid).and_then(|repo| repo.record.known());
            record.and_then(|record| record.deleted.as_ref().map(|stone| stone.at))
        };
        for (guid, repo) in seen {
            match &repo.record {
                Part::Known(record) => {
                    taken.extend(record.holds_network());
                    // A tombstone holds no name but for the source that had it.
                    let ours = whose.is_none_or(|whose| record.owner.as_ref() == Some(whose));
                    if record.is_live() && record.trial_of().is_some() {
                        trials.insert(&record.name);
                    } else if record.is_live() {
                        live.insert(&record.name, *guid);
                    } else if ours
                        && deleted
                            .get(&record.name)
                            .is_none_or(|other| died(other) < died(guid))
                    {
                        deleted.insert(&record.name, *guid);
                    }
                }
                Part::Unknown(why) => unreadable = Some(why.clone()),
                Part::Absent | Part::Hidden if !repo.storage.file.is_absent() => {
                    unknown_images.push(*guid);
                    taken.extend(repo.stray_network);
                }
                Part::Absent | Part::Hidden => {}
            }
        }
        match &actual.foreign_networks {
            Part::Known(foreign) => taken.extend(foreign),
            Part::Unknown(why) => unreadable = Some(why.clone()),
            Part::Absent | Part::Hidden => {}
        }
        if let Part::Unknown(why) = &actual.machine {
            unreadable = Some(why.clone());
        }
        let counter = actual
            .machine
            .known()
            .and_then(|machine| machine.next_network);
        // Freed ids are not reused: the counter only goes up.
        let highest = taken.iter().next_back().and_then(|id| id.next());
        let next = counter.or(highest).unwrap_or(ids.first_network());
        let next = next.max(ids.first_network());
        Self {
            seen,
            declared,
            live,
            trials,
            deleted,
            unreadable,
            unknown_images,
            taken,
            next,
            ids,
        }
    }

    /// The repository's guid, and its network or why it has none.
    pub(super) fn settle(
        &mut self,
        manifest: &manifest::Repository,
    ) -> (Guid, Result<NetworkId, Blocked>) {
        if let Some(guid) = self.there(manifest) {
            return (guid, self.settle_there(manifest, guid));
        }
        if let Some((guid, why)) = self.gone(manifest) {
            return (guid, Err(why));
        }
        let guid = match manifest.guid {
            Some(guid) => guid,
            None => self.draw(&manifest.name),
        };
        (guid, self.settle_new(manifest, guid))
    }

    fn record(&self, guid: Guid) -> Option<&'a Record> {
        self.seen.get(&guid)?.record.known()
    }

    /// The repository that is called so, was called so before, or whose manifest
    /// is back.
    fn there(&self, manifest: &manifest::Repository) -> Option<Guid> {
        if let Some(guid) = self.live.get(&manifest.name) {
            return Some(*guid);
        }
        if let Some(MovedFrom::Name(old)) = &manifest.moved_from
            && !self.declared.contains(old)
            && let Some(guid) = self.live.get(old)
        {
            return Some(*guid);
        }
        let guid = *self.deleted.get(&manifest.name)?;
        let stone = self.record(guid)?.deleted.as_ref()?;
        (stone.why == Gone::Pruned && !stone.purged).then_some(guid)
    }

    /// What is gone by a command or by time stays gone.
    fn gone(&self, manifest: &manifest::Repository) -> Option<(Guid, Blocked)> {
        let guid = *self.deleted.get(&manifest.name)?;
        let stone = self.record(guid)?.deleted.as_ref()?;
        let why = match stone.why {
            _ if !stone.held => return None,
            Gone::Expired => Blocked::Expired { at: stone.at },
            Gone::Command | Gone::Pruned => Blocked::Deleted {
                at: stone.at,
                by: stone.by.clone(),
            },
        };
        Some((guid, why))
    }

    fn settle_there(
        &self,
        manifest: &manifest::Repository,
        guid: Guid,
    ) -> Result<NetworkId, Blocked> {
        if let Some(wanted) = manifest.guid.filter(|wanted| *wanted != guid) {
            return Err(Blocked::Immutable {
                field: "guid",
                is: guid.to_string(),
                wanted: wanted.to_string(),
            });
        }
        let called_so = self
            .record(guid)
            .is_some_and(|record| record.is_live() && record.name == manifest.name);
        if let Some(why) = self.unreadable.as_ref().filter(|_| !called_so) {
            return Err(Blocked::Unknown(format!(
                "no repository gets a name while a record cannot be read: {why}"
            )));
        }
        // A manifest that wants another one is stopped by the planner, which names both.
        let network = manifest
            .network_id
            .or(self.record(guid).map(|record| record.network));
        network.ok_or_else(|| Blocked::Unknown("no network".to_owned()))
    }

    /// A guid that nothing on the machine has.
    pub(super) fn draw(&mut self, name: &Name) -> Guid {
        loop {
            let guid = self.ids.guid(name);
            if !self.seen.contains_key(&guid) {
                return guid;
            }
            self.ids.used(name);
        }
    }

    fn settle_new(
        &mut self,
        manifest: &manifest::Repository,
        guid: Guid,
    ) -> Result<NetworkId, Blocked> {
        if let Some(why) = &self.unreadable {
            return Err(Blocked::Unknown(format!(
                "no new repository is made while a record cannot be read: {why}"
            )));
        }
        if let Some(record) = self.record(guid) {
            return Err(match &record.deleted {
                Some(stone) => Blocked::Deleted {
                    at: stone.at,
                    by: stone.by.clone(),
                },
                None => Blocked::Immutable {
                    field: "name",
                    is: record.name.to_string(),
                    wanted: manifest.name.to_string(),
                },
            });
        }
        if manifest.guid.is_none() && !self.unknown_images.is_empty() {
            return Err(Blocked::UnknownImage {
                images: self.unknown_images.clone(),
            });
        }
        let stray = self.seen.get(&guid).and_then(|repo| repo.stray_network);
        if let Some(network) = stray.or(manifest.network_id) {
            return Ok(network);
        }
        self.next_network()
    }

    /// What the image is made from, or was: where it is a copy, of which guid.
    /// `guids` are those of all that is declared.
    pub(super) fn origin(
        &self,
        manifest: &manifest::Repository,
        guid: Guid,
        guids: &BTreeMap<&Name, Guid>,
    ) -> Result<Origin, Blocked> {
        let fork = match &manifest.origin {
            manifest::Origin::Blank(seal) => return Ok(Origin::Blank(seal.clone())),
            manifest::Origin::Fork(fork) => fork,
        };
        let name = &fork.repository;
        let parent = guids.get(name).or(self.live.get(name)).copied();
        let was = self.record(guid).and_then(|record| record.lineage.as_ref());
        let parent = match (was, parent) {
            // The parent of a copy that was made may be gone.
            (Some(was), None) => was.parent,
            (_, Some(parent)) if parent == guid => {
                let itself = format!("it would be a copy of itself: {name} is what it was");
                return Err(Blocked::Unresolved(itself));
            }
            (_, Some(parent)) => parent,
            (None, None) => {
                let gone = format!("there is no repository {name} of which it could be a copy");
                return Err(Blocked::Unresolved(gone));
            }
        };
        Ok(Origin::Fork {
            lineage: Lineage {
                tag: fork.tag.clone(),
                ..Lineage::of(parent)
            },
            ttl: fork.ttl,
        })
    }

    /// What opens it: a copy opens with what opens its parent.
    pub(super) fn passphrase(
        &self,
        all: &BTreeMap<Name, Digested<manifest::Repository>>,
        of: &manifest::Repository,
    ) -> Option<SecretRef> {
        let mut of = of;
        for _ in 0..all.len() {
            match &of.origin {
                manifest::Origin::Blank(seal) => return Some(seal.as_ref()?.passphrase.clone()),
                manifest::Origin::Fork(fork) => of = all.get(&fork.repository)?,
            }
        }
        None
    }

    /// Whether a repository of the machine, or one that is declared, is called so.
    pub(super) fn is_called(&self, name: &Name) -> bool {
        self.live.contains_key(name) || self.trials.contains(name) || self.declared.contains(name)
    }

    /// The next network that nobody has; none while a record cannot be read.
    pub(super) fn next_network(&mut self) -> Result<NetworkId, Blocked> {
        if let Some(why) = &self.unreadable {
            return Err(Blocked::Unknown(why.clone()));
        }
        // Past the top, freed ones are given out again.
        for first in [self.next, self.ids.first_network()] {
            let mut candidate = Some(first);
            while let Some(id) = candidate {
                if self.taken.insert(id) {
                    self.next = id.next().unwrap_or(NetworkId::LAST);
                    return Ok(id);
                }
                candidate = id.next();
            }
        }
        Err(Blocked::Unresolved("no network id is left".to_owned()))
    }
}
