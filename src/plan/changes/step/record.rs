use std::collections::BTreeSet;

use super::super::{Action, Explained, Field};
use super::{View, drift, one, silent};
use crate::model::{
    Danger, DeletionPolicy, Digest, Gone, Guid, Name, Patch, Repository, Slots, Snapshot, Step,
    Verdict,
};

impl View<'_> {
    pub(super) fn patch(&self, guid: Guid, patch: &Patch) -> Explained {
        let record = self.with(guid, |repo| repo.record.known().cloned());
        let made =
            self.plans(&|step| matches!(step, Step::Reserve { guid: of, .. } if *of == guid));
        match patch {
            Patch::Claim(_) if made => Explained::default(),
            Patch::Claim(owner) => {
                let was = record.and_then(|record| record.owner);
                let note = if was.is_none() {
                    "adopted"
                } else {
                    "taken over"
                };
                let was = was.map(|owner| owner.source);
                Field::new("owner", was, Some(owner.source.clone()))
                    .note(note)
                    .into()
            }
            Patch::Release => {
                let was = record
                    .and_then(|record| record.owner)
                    .map(|owner| owner.source);
                Explained {
                    fields: vec![
                        Field::new("owner", was, None)
                            .note("left closed and unmanaged: deletionPolicy Retain"),
                    ],
                    action: Some(Action::Delete),
                    ..Explained::default()
                }
            }
            Patch::Rename(name) => one(
                "name",
                record.map(|record| record.name.to_string()),
                Some(name.to_string()),
            ),
            Patch::Policy(policy) => {
                let word = |policy: DeletionPolicy| format!("{policy:?}");
                let was = record.filter(|_| !made).map(|record| word(record.policy));
                one("deletionPolicy", was, Some(word(*policy)))
            }
            Patch::Fork(lineage) => one("forkOf", None, Some(self.desired.name(lineage.parent))),
            Patch::Network(network) => one(
                "network",
                record.map(|record| record.network.to_string()),
                Some(network.to_string()),
            ),
            Patch::Autostart(autostart) => {
                let was = record.filter(|_| !made);
                let was = was.map(|record| record.autostart.to_string());
                one("autostart", was, Some(autostart.to_string()))
            }
            Patch::Expire(at) => one("ends", None, Some(at.to_string())),
            Patch::Cleaned => Explained::default(),
            Patch::Protect(protected) => {
                let was = record
                    .filter(|_| !made)
                    .map(|record| record.protected.to_string());
                one("protected", was, Some(protected.to_string()))
            }
            Patch::Limit(limits) => {
                let was = record
                    .filter(|_| !made)
                    .map(|record| record.limits.to_string());
                one("limits", was, Some(limits.to_string()))
            }
            Patch::Suspend(by) | Patch::SuspendProject(_, by) => {
                let word = |suspended: bool| Some(suspended.to_string());
                one("suspended", word(by.is_none()), word(by.is_some()))
            }
            Patch::Delete(Some(stone)) => {
                let because = match stone.why {
                    Gone::Pruned => "its manifest is gone, and deletionPolicy is Delete",
                    Gone::Command => "a command says so",
                    Gone::Expired => "its time is over",
                };
                let size = self.with(guid, |repo| {
                    repo.storage.file.known().map(ToString::to_string)
                });
                let days = crate::plan::GRACE.as_hours() / 24;
                let note = format!(
                    "to the trash for {days} days; `renet repository restore` brings it back"
                );
                Explained {
                    fields: vec![Field::new("data", size, None).note(note)],
                    action: Some(Action::Delete),
                    because: Some(because.to_owned()),
                    ..Explained::default()
                }
            }
            Patch::Delete(None) => {
                let (from, to) = ("deleted".to_owned(), "back".to_owned());
                let mut part = one("state", Some(from), Some(to));
                part.because = Some("its manifest is back".to_owned());
                part
            }
            Patch::OwnProject(project, on) => {
                let before = |repo: &Repository| {
                    let record = repo.record.known();
                    record.and_then(|record| record.depends_on.get(project).cloned())
                };
                let before = self.with(guid, before).unwrap_or_default();
                let listed = |names: &BTreeSet<Name>| {
                    let names: Vec<&str> = names.iter().map(Name::as_str).collect();
                    (!names.is_empty()).then(|| names.join(", "))
                };
                let depends_on = Field::new("dependsOn", listed(&before), listed(on));
                let none = |repo: &Repository| {
                    let files = repo.files.known().and_then(|all| all.get(project));
                    let runs = repo.containers.known().and_then(|all| all.get(project));
                    files.is_none() && runs.is_none()
                };
                Explained {
                    fields: Vec::from_iter((before != *on).then_some(depends_on)),
                    action: self.with(guid, none).then_some(Action::Create),
                    ..Explained::default()
                }
            }
            Patch::Rewind(rewind) => {
                let size = self.with(guid, |repo| {
                    repo.storage.file.known().map(ToString::to_string)
                });
                let to = format!("as of {}", Snapshot::shown(rewind.to));
                let note = "what was written since is taken back, and kept as a snapshot";
                Explained {
                    fields: vec![Field::new("data", size, Some(to)).note(note)],
                    because: Some("an update failed, or a command says so".to_owned()),
                    ..Explained::default()
                }
            }
            Patch::Begin { .. } => silent("its manifest changed"),
            Patch::Try(project, Some(trial))
                if trial.verdict == Verdict::Pending
                    && record.is_none_or(|record| record.trial_of().is_none()) =>
            {
                self.tried_first(guid, project, &trial.revision)
            }
            Patch::Try(_, Some(_)) => silent("a change is tried on a copy first"),
            Patch::Try(_, None) => silent("nothing is tried any more"),
            Patch::Created
            | Patch::Unhold
            | Patch::Purged
            | Patch::DisownProject(_)
            | Patch::Failed(..)
            | Patch::End(_)
            | Patch::Rewound
            | Patch::Passed(_) => Explained::default(),
        }
    }

    /// A change of a project that comes up on a copy first, and what it stops when it is
    /// well there.
    fn tried_first(&self, guid: Guid, project: &Name, revision: &Digest) -> Explained {
        let newest = self.with(guid, |repo| {
            let kept = repo.revisions.known().and_then(|all| all.get(project));
            kept.and_then(|kept| kept.last().cloned())
        });
        let was = newest.map(|newest| newest.hash.short().to_owned());
        let note = "comes up on a copy first; nothing is touched before it is well there";
        let stops = self.plan.danger.iter().filter_map(|danger| match danger {
            Danger::Stops(of, stopped, service) if *of == guid && stopped == project => {
                let because = vec!["the change was well on the copy".to_owned()];
                Some(self.stopped(guid, service, because, true))
            }
            _ => None,
        });
        Explained {
            fields: vec![Field::new("revision", was, Some(revision.short().to_owned())).note(note)],
            stops: stops.collect(),
            because: Some("its manifest changed".to_owned()),
            ..Explained::default()
        }
    }

    /// The services that get an address.
    pub(super) fn addresses(&self, guid: Guid, slots: &Slots) -> Explained {
        let network = match self.desired.repositories.get(&guid) {
            Some(spec) => spec.network,
            None => return Explained::default(),
        };
        let had = self.with(guid, |repo| {
            repo.mirror.known().cloned().unwrap_or_default()
        });
        let new = slots
            .0
            .iter()
            .filter(|(service, slot)| had.0.get(*service) != Some(slot));
        let fields = new.map(|(service, slot)| {
            let was = had
                .0
                .get(service)
                .map(|slot| network.address(*slot).to_string());
            let address = network.address(*slot).to_string();
            Field::new(format!("address {service}"), was, Some(address))
        });
        Explained {
            fields: fields.collect(),
            because: Some("its services have addresses of their own".to_owned()),
            ..Explained::default()
        }
    }

    /// Inside the image the slots are what was mirrored just now, or somebody
    /// changed them there.
    pub(super) fn slots(&self, guid: Guid, slots: &Slots) -> Explained {
        let mirrors = |step: &Step| matches!(step, Step::MirrorSlots(of, _) if *of == guid);
        let seen = self.with(guid, |repo| repo.slots.known().cloned());
        match seen {
            Some(seen) if seen != *slots && !self.plans(&mirrors) => {
                drift(".rediacc.json", "not as mirrored", Some("as mirrored"))
            }
            _ => Explained::default(),
        }
    }
}
