//! What goes: objects that their source no longer declares, and what is due by
//! its own record.

use std::collections::BTreeSet;

use jiff::SignedDuration;

use super::order::in_order;
use super::script::Script;
use super::{Limits, Share};
use crate::model::{
    Actual, Blocked, DataLossPermit, DeletionPolicy, Desired, Digest, Gone, Guid, Name, Object,
    Part, Patch, Prune, Record, RepositorySpec, Step, Stop, Tombstone, Volume,
};

/// How long an image stays in the trash.
pub const GRACE: SignedDuration = SignedDuration::from_hours(7 * 24);

/// A pass that would retire this many objects, and more than half of what its
/// source owns, must be confirmed.
const MANY: usize = 3;

/// What the source made and no longer declares, and whether it goes.
#[derive(Debug, Default)]
pub(super) struct Retirement {
    pub(super) repositories: BTreeSet<Guid>,
    projects: BTreeSet<(Guid, Name)>,
    routes: BTreeSet<Name>,
    /// Names of repositories that are gone from the manifests, and new in them.
    old: Vec<Name>,
    new: Vec<Name>,
    verdict: Verdict,
}

#[derive(Debug, Default)]
enum Verdict {
    /// It stays, and is named with this word.
    Stays(&'static str),
    /// It goes when the plan is confirmed.
    Held(Blocked),
    #[default]
    Goes,
}

impl Retirement {
    pub(super) fn of(desired: &Desired, seen: &Actual, limits: &Limits) -> Self {
        let mut found = Self::default();
        let Part::Known(all) = &seen.repositories else {
            return found;
        };
        // Who speaks of single objects speaks of them alone.
        if !desired.acts.is_empty() || !desired.asked.only.is_empty() {
            return found;
        }
        let mut owned = 0;
        let mut unreadable = !matches!(seen.routes, Part::Known(_) | Part::Absent);
        let unresolved: BTreeSet<&Object> = desired
            .unresolved
            .iter()
            .map(|(object, _)| object)
            .collect();
        for (guid, repo) in all {
            let Part::Known(record) = &repo.record else {
                unreadable |= repo.record.is_unknown();
                continue;
            };
            let ours = record.owner.as_ref() == Some(&desired.owner) && record.is_live();
            // A trial goes by itself.
            if !ours || record.trial_of().is_some() {
                continue;
            }
            // A copy brought its parent's files along.
            let files = repo.files.known().filter(|_| record.lineage.is_none());
            let projects = projects(record, files.into_iter().flat_map(|f| f.keys()));
            owned += 1 + projects.len();
            match desired.repositories.get(guid) {
                Some(spec) => {
                    let gone = projects.difference(&spec.declared).cloned();
                    found.projects.extend(gone.map(|project| (*guid, project)));
                }
                None if unresolved.contains(&Object::Repository(*guid)) => {}
                None => {
                    found.repositories.insert(*guid);
                    found.old.push(record.name.clone());
                    found
                        .projects
                        .extend(projects.into_iter().map(|project| (*guid, project)));
                }
            }
        }
        for (name, route) in seen.routes.known().into_iter().flatten() {
            if route.owner != desired.owner {
                continue;
            }
            owned += 1;
            if !desired.routes.contains_key(name)
                && !unresolved.contains(&Object::Route(name.clone()))
            {
                found.routes.insert(name.clone());
            }
        }
        for (guid, spec) in &desired.repositories {
            let there = all.get(guid).is_some_and(|repo| !repo.record.is_absent());
            if !there && !spec.is_new {
                found.new.push(spec.name.clone());
            }
        }
        found.verdict = found.judge(desired, unreadable, owned, limits);
        found
    }

    fn count(&self) -> usize {
        self.repositories.len() + self.projects.len() + self.routes.len()
    }

    fn judge(&self, desired: &Desired, unreadable: bool, owned: usize, limits: &Limits) -> Verdict {
        let confirmed = match &desired.asked.prune {
            Prune::Keep => return Verdict::Stays("`renet apply --prune` retires it"),
            Prune::Incomplete => {
                return Verdict::Stays("nothing is pruned while a manifest cannot be read");
            }
            Prune::Retire(confirmed) => confirmed,
        };
        let open = desired
            .unresolved
            .iter()
            .any(|(_, why)| !why.is_quiet() && !matches!(why, Blocked::Deleted { .. }));
        if open || unreadable {
            return Verdict::Stays("nothing is pruned while something could not be settled");
        }
        let nothing_left = desired.repositories.is_empty()
            && desired.routes.is_empty()
            && desired.unresolved.is_empty();
        let many = self.count() >= MANY && self.count() * 2 > owned;
        // What the first wave retires was decided then.
        if limits.retires.is_some_and(|retires| !retires.is_empty()) || !(many || nothing_left) {
            return Verdict::Goes;
        }
        let hash = self.hash(desired);
        let said = |digest: &Digest| !digest.as_str().is_empty() && *digest == hash;
        match confirmed {
            Some(digest) if said(digest) => Verdict::Goes,
            _ => Verdict::Held(Blocked::PruneBlocked {
                retired: self.count(),
                owned,
                confirm: hash.to_string(),
            }),
        }
    }

    /// Of this very plan: who retires what.
    fn hash(&self, desired: &Desired) -> Digest {
        let mut lines = vec![desired.owner.source.clone()];
        lines.extend(self.objects().map(|object| format!("{object:?}")));
        let digest = Digest::of_fields(lines.iter().map(String::as_bytes));
        Digest::shortened(&digest)
    }

    fn objects(&self) -> impl Iterator<Item = Object> {
        let repositories = self
            .repositories
            .iter()
            .map(|guid| Object::Repository(*guid));
        let projects = self.projects.iter();
        let projects = projects.map(|(guid, project)| Object::Service(*guid, project.clone()));
        let routes = self.routes.iter().map(|name| Object::Route(name.clone()));
        repositories.chain(projects).chain(routes)
    }

    /// A repository that is new while another is gone from the manifests may be
    /// the same under another name.
    pub(super) fn possible_rename(&self, spec: &RepositorySpec) -> Option<Blocked> {
        let suspect = !self.old.is_empty() && self.new.contains(&spec.name);
        suspect.then(|| self.rename())
    }

    fn rename(&self) -> Blocked {
        Blocked::PossibleRename {
            old: self.old.clone(),
            new: self.new.clone(),
        }
    }

    /// Why the object stays for now, if it does.
    fn holds_back(&self, object: &Object) -> Option<Blocked> {
        match &self.verdict {
            Verdict::Stays(_) => None,
            Verdict::Held(why) => Some(why.clone()),
            Verdict::Goes => {
                let of_repository = object
                    .repository()
                    .is_some_and(|guid| self.repositories.contains(&guid));
                (of_repository && !self.new.is_empty()).then(|| self.rename())
            }
        }
    }
}

/// The projects that renet started, or whose files it wrote.
fn projects<'a>(record: &'a Record, files: impl Iterator<Item = &'a Name>) -> BTreeSet<Name> {
    record.projects.iter().chain(files).cloned().collect()
}

impl Script<'_> {
    /// Retires the object, with what is in it, unless something holds it back.
    fn let_go(
        &mut self,
        object: Object,
        within: Vec<Object>,
        part: impl FnOnce(&mut Self) -> Result<(), Stop>,
    ) {
        if matches!(self.retirement.verdict, Verdict::Stays(_)) {
            return;
        }
        if let Some(why) = self.retirement.holds_back(&object) {
            self.plan.blocked.entry(object).or_insert(why);
            return;
        }
        let shown = self.limits.retires;
        let named = shown.is_none_or(|retires| retires.contains(&object));
        self.group(object.clone(), |script| {
            let before = script.plan.steps.len();
            let ended = part(script);
            // What is held for another reason says that one.
            match ended {
                Err(Stop::Block(why)) => Err(Stop::Block(why)),
                _ if !named && script.plan.steps.len() > before => {
                    Err(Stop::Block(Blocked::NotShown))
                }
                ended => ended,
            }
        });
        if !self.plan.blocked.contains_key(&object) {
            self.plan.retires.insert(object);
            self.plan.retires.extend(within);
        }
    }

    /// What stays although nobody declares it deserves a word.
    pub(super) fn note_retired(&mut self, share: Share) {
        let Verdict::Stays(word) = self.retirement.verdict else {
            return;
        };
        let notes: Vec<(Object, String)> = self
            .retirement
            .objects()
            .filter(|object| share.covers(object))
            .map(|object| (object, format!("no longer declared; {word}")))
            .collect();
        self.plan.notes.extend(notes);
    }

    /// A repository that its source no longer declares.
    pub(super) fn retire(&mut self, guid: Guid) {
        let projects = self.retirement.projects.iter();
        let projects = projects.filter(|(of, _)| *of == guid);
        let within = projects
            .map(|(guid, project)| Object::Service(*guid, project.clone()))
            .collect();
        self.let_go(Object::Repository(guid), within, |script| {
            let Some(record) = script.record(guid)? else {
                return Ok(());
            };
            match record.policy {
                DeletionPolicy::Retain => {
                    if record.protected {
                        return Err(Stop::Block(Blocked::Protected));
                    }
                    script.close(guid, record.network)?;
                    script.finish_rewind(guid, record.network)?;
                    for project in record.unfinished.iter().flat_map(|all| all.projects.keys()) {
                        script.want(Step::Record(guid, Patch::End(project.clone())))?;
                    }
                    for project in record.trials.keys() {
                        script.want(Step::Record(guid, Patch::Try(project.clone(), None)))?;
                    }
                    script.want(Step::Record(guid, Patch::Release))
                }
                DeletionPolicy::Delete => {
                    let stone = Tombstone {
                        at: script.scratch.now,
                        by: script.desired.owner.source.clone(),
                        why: Gone::Pruned,
                        due: script.scratch.now + GRACE,
                        held: false,
                        purged: false,
                    };
                    script.mark_deleted(guid, stone)?;
                    script.bury(guid)
                }
            }
        });
    }

    /// Projects that are gone from the manifests of a repository that is not.
    pub(super) fn retire_projects(&mut self, spec: &RepositorySpec) {
        let guid = spec.guid;
        let record = self.record(guid).ok().flatten();
        let depends_on = record.map(|record| record.depends_on).unwrap_or_default();
        let gone = self.retirement.projects.iter();
        let gone = gone.filter(|(of, _)| *of == guid);
        let gone = gone.map(|(_, project)| project.clone());
        for project in in_order(gone, &depends_on).into_iter().rev() {
            let object = Object::Service(guid, project.clone());
            self.let_go(object, Vec::new(), |script| {
                script.hook_down(guid, spec.network, &project)?;
                script.want(Step::Down {
                    guid,
                    network: spec.network,
                    project: project.clone(),
                })?;
                script.want(Step::EraseFiles {
                    guid,
                    project: project.clone(),
                })?;
                script.want(Step::Record(guid, Patch::Passed(project.clone())))?;
                script.want(Step::Record(guid, Patch::DisownProject(project)))
            });
        }
    }

    /// Routes that are gone from the manifests.
    pub(super) fn retire_routes(&mut self) {
        for name in self.retirement.routes.clone() {
            let object = Object::Route(name.clone());
            self.let_go(object, Vec::new(), |script| {
                script.want(Step::ForgetRoute(name))
            });
        }
    }

    /// Marks a repository as deleted; even that needs a little room.
    pub(super) fn mark_deleted(&mut self, guid: Guid, stone: Tombstone) -> Result<(), Stop> {
        self.make_room_to_free()?;
        self.want(Step::Record(guid, Patch::Delete(Some(stone))))
    }

    /// A repository that is marked as deleted: closed, and into the trash.
    pub(super) fn bury(&mut self, guid: Guid) -> Result<(), Stop> {
        if let Some(record) = self.record(guid)? {
            self.close(guid, record.network)?;
        }
        self.want(Step::ClearStaging(Volume::Image(guid)))?;
        self.keep_replaced(guid)?;
        self.want(Step::Trash(guid))
    }

    /// Whether a repository's own time is over.
    pub(super) fn is_over(&self, guid: Guid) -> bool {
        let now = self.scratch.now;
        self.record(guid).ok().flatten().is_some_and(|record| {
            let over = record.expires.is_some_and(|at| at <= now);
            over && record.is_live() && !record.protected
        })
    }

    /// What is due by a repository's own record, whoever declares it.
    pub(super) fn housekeeping(&mut self, guid: Guid) -> Result<(), Stop> {
        let Some(record) = self.record(guid)? else {
            // Half-made, and nobody remembers what for.
            let repo = self.repo(guid)?;
            let image = repo.storage.file.get()?.is_some() || repo.trash.get()?.is_some();
            return match image {
                true => Ok(()),
                false => self.want(Step::ClearStaging(Volume::Image(guid))),
            };
        };
        let now = self.scratch.now;
        if self.is_over(guid) {
            let stone = Tombstone {
                at: now,
                by: "its own time".to_owned(),
                why: Gone::Expired,
                due: now,
                held: record.owner.is_some(),
                purged: false,
            };
            self.mark_deleted(guid, stone)?;
        }
        let Some(stone) = self.record(guid)?.and_then(|record| record.deleted) else {
            return Ok(());
        };
        self.bury(guid)?;
        match DataLossPermit::due(guid, &stone, now) {
            Some(permit) => self.destroy(guid, permit),
            None => Ok(()),
        }
    }

    /// Frees what a deleted repository still holds.
    pub(super) fn destroy(&mut self, guid: Guid, permit: DataLossPermit) -> Result<(), Stop> {
        self.drop_snapshots(guid, &permit)?;
        self.want(Step::Purge { guid, permit })?;
        self.want(Step::Record(guid, Patch::Purged))?;
        // While a manifest of that name is held, the record says why.
        let declared = || {
            let object = Object::Repository(guid);
            self.desired.asked.prune == Prune::Incomplete
                || self.desired.repositories.contains_key(&guid)
                || self.desired.unresolved.iter().any(|(of, _)| *of == object)
        };
        let stays = self.record(guid)?.is_some_and(|record| {
            let held = record.deleted.is_some_and(|stone| stone.held);
            held && record.owner.is_some_and(|owner| {
                let ours = owner == self.desired.owner && self.desired.acts.is_empty();
                !ours || declared()
            })
        });
        if stays {
            return Ok(());
        }
        self.want(Step::DropRecord(guid))
    }
}
