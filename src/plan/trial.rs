//! Changes that are tried on a copy before their repository is touched (`forkFirst`).
//!
//! What is to be tried is noted in the repository's record. The copy is planned as any
//! repository; how the trial ended is noted in its record, and heeded here. Until then
//! the last revision that was well runs on.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::script::Script;
use super::stand_in::StandIns;
use crate::model::{
    Blocked, Danger, Digest, Gone, Guid, Name, Object, Patch, ProjectSpec, Record, RepositorySpec,
    Step, Stop, Tombstone, Trial, Verdict,
};

impl Script<'_> {
    /// Whether the repository is there to try changes of another.
    pub(super) fn is_trial(&self, guid: Guid) -> bool {
        let repo = self.repo(guid).ok();
        let record = repo.as_ref().and_then(|repo| repo.record.known());
        record.is_some_and(|record| record.trial_of().is_some())
    }

    /// Notes what is to be tried first, and what came of it; the projects that wait for
    /// that.
    pub(super) fn try_first(&mut self, spec: &RepositorySpec) -> BTreeSet<Name> {
        let mut waiting = BTreeSet::new();
        if self.is_trial(spec.guid) {
            return waiting;
        }
        let record = self.record(spec.guid).ok().flatten();
        let noted = |name| {
            record
                .as_ref()
                .is_some_and(|record| record.trials.contains_key(name))
        };
        for (name, project) in &spec.projects {
            let service = Object::Service(spec.guid, name.clone());
            if !project.fork_first && !noted(name) || !self.is_meant(&service) {
                continue;
            }
            let mut waits = false;
            self.group(service.clone(), |script| {
                waits = script.waits_for_trial(spec, project)?;
                Ok(())
            });
            if waits {
                self.plan.more.insert(service);
                waiting.insert(name.clone());
            }
        }
        waiting
    }

    fn waits_for_trial(
        &mut self,
        spec: &RepositorySpec,
        project: &Arc<ProjectSpec>,
    ) -> Result<bool, Stop> {
        let guid = spec.guid;
        let (name, revision) = (&project.name, &project.hash);
        let Some(record) = self.record(guid)? else {
            return Ok(false);
        };
        let note = |trial| Step::Record(guid, Patch::Try(name.clone(), trial));
        let verdict = |verdict| {
            let revision = revision.clone();
            note(Some(Trial { revision, verdict }))
        };
        let well = record.verdict(name, revision) == Some(&Verdict::Well);
        let is_change = self.is_change(guid, project)?;
        if is_change && well {
            return Ok(false);
        }
        if !is_change || self.is_up(spec, project) {
            self.want(note(None))?;
            return Ok(false);
        }
        let said = self.said_by_trial(guid, name, revision);
        let pending = record.verdict(name, revision) == Some(&Verdict::Pending);
        if self.counts_as_failed(guid, &record, project) {
            if pending {
                self.want(match said {
                    Some(Verdict::Failed(how)) => verdict(Verdict::Failed(how)),
                    _ => note(None),
                })?;
            }
            return Ok(false);
        }
        if !pending {
            // What is left of a trial before is no answer to this one.
            if said.is_none_or(|said| said == Verdict::Pending) {
                self.want(verdict(Verdict::Pending))?;
            }
            return Ok(true);
        }
        match said {
            Some(Verdict::Well) => {
                self.want(verdict(Verdict::Well))?;
                Ok(false)
            }
            Some(Verdict::Failed(how)) => {
                self.want(Step::Record(
                    guid,
                    Patch::Failed(name.clone(), revision.clone()),
                ))?;
                self.want(verdict(Verdict::Failed(how)))?;
                Ok(true)
            }
            Some(Verdict::Pending) | None => Ok(true),
        }
    }

    /// Whether the project would become another revision than the one that was well
    /// last, and that is to be tried first.
    fn is_change(&self, guid: Guid, project: &Arc<ProjectSpec>) -> Result<bool, Stop> {
        if !project.fork_first {
            return Ok(false);
        }
        let repo = self.repo(guid)?;
        let kept = repo.revisions.get()?.and_then(|all| all.get(&project.name));
        let newest = kept.and_then(|kept| kept.last());
        Ok(newest.is_some_and(|newest| newest.hash != project.hash))
    }

    /// Whether this revision may run in its repository only after it was well on a copy,
    /// and was not.
    pub(super) fn is_kept_out(
        &self,
        record: &Record,
        project: &Arc<ProjectSpec>,
        guid: Guid,
    ) -> bool {
        self.is_change(guid, project) == Ok(true)
            && record.verdict(&project.name, &project.hash) != Some(&Verdict::Well)
    }

    /// How a trial failed whose revision stays out.
    pub(super) fn failed_on_trial(&self, guid: Guid, project: &Name) -> Option<String> {
        match self.record(guid).ok()??.trials.remove(project)?.verdict {
            Verdict::Failed(how) => Some(how),
            Verdict::Pending | Verdict::Well => None,
        }
    }

    /// What the copy's record says of a revision.
    fn said_by_trial(&self, of: Guid, project: &Name, revision: &Digest) -> Option<Verdict> {
        let all = self.scratch.repositories.known()?.values();
        let records = all.filter_map(|repo| repo.record.known());
        let mut trials = records.filter(|record| record.is_live() && record.trial_of() == Some(of));
        trials.find_map(|record| record.verdict(project, revision).cloned())
    }

    /// What it will cost when the trial ends well: that is shown before it begins.
    pub(super) fn foresee(&mut self, spec: &RepositorySpec, project: &Arc<ProjectSpec>) {
        let service = Object::Service(spec.guid, project.name.clone());
        let saved = self.save(&service);
        let steps = self.plan.steps.len();
        let danger = self.plan.danger.clone();
        let ended = self.project(spec, project, &StandIns::default());
        self.plan.steps.truncate(steps);
        self.restore(saved);
        // What is in its way now costs nothing.
        if matches!(ended, Err(Stop::Block(_))) {
            self.plan.danger = danger;
        } else if ended.is_err() {
            self.plan.danger.insert(Danger::StopsUnseen(spec.guid));
        }
    }

    /// Notes in a copy's record what the trial is of.
    pub(super) fn begin_trial(&mut self, spec: &RepositorySpec) -> Result<(), Stop> {
        let record = self.record(spec.guid)?;
        for (project, revision) in &spec.tries {
            let noted = record
                .as_ref()
                .and_then(|record| record.verdict(project, revision));
            if noted.is_none() {
                self.judge(spec.guid, project, revision, Verdict::Pending)?;
            }
        }
        Ok(())
    }

    /// Notes in a copy's record how the trial ended. The first word of a failure stands:
    /// a later run knows no more than that it failed.
    pub(super) fn end_trial(&mut self, spec: &RepositorySpec) {
        let record = self.record(spec.guid).ok().flatten();
        let said = |name, revision| record.as_ref()?.verdict(name, revision);
        for (name, revision) in &spec.tries {
            if matches!(said(name, revision), Some(Verdict::Failed(_))) {
                continue;
            }
            let Some(project) = spec.projects.get(name) else {
                continue;
            };
            let service = Object::Service(spec.guid, name.clone());
            if self.plan.more.contains(&service) {
                continue;
            }
            let verdict = match (
                self.failed_how(spec.guid, project),
                self.is_up(spec, project),
            ) {
                (Some(how), _) => Verdict::Failed(how),
                (None, true) if !self.plan.blocked.contains_key(&service) => Verdict::Well,
                _ => continue,
            };
            self.group(Object::Repository(spec.guid), |script| {
                script.judge(spec.guid, name, revision, verdict)
            });
        }
    }

    fn judge(
        &mut self,
        guid: Guid,
        project: &Name,
        revision: &Digest,
        verdict: Verdict,
    ) -> Result<(), Stop> {
        let revision = revision.clone();
        let trial = Some(Trial { revision, verdict });
        self.want(Step::Record(guid, Patch::Try(project.clone(), trial)))
    }

    /// How the copy's own revision failed, where it did.
    fn failed_how(&self, guid: Guid, project: &ProjectSpec) -> Option<String> {
        let service = Object::Service(guid, project.name.clone());
        let now = self.limits.undone.get(&service);
        if let Some((revision, why)) = now
            && *revision == project.hash
        {
            return Some(why.to_string());
        }
        let record = self.record(guid).ok()??;
        let failed = self.counts_as_failed(guid, &record, project);
        failed.then(|| "it did so in an earlier run".to_owned())
    }

    /// A copy on which nothing is to be tried any more goes at once.
    pub(super) fn end_copy(&mut self, guid: Guid) -> Result<(), Stop> {
        let now = self.scratch.now;
        let stone = Tombstone {
            at: now,
            by: self.desired.owner.source.clone(),
            why: Gone::Expired,
            due: now,
            held: false,
            purged: false,
        };
        self.mark_deleted(guid, stone)?;
        self.housekeeping(guid)
    }

    /// What waits for a trial that is held up itself waits for that.
    pub(super) fn say_held_trials(&mut self) {
        for (guid, parent) in &self.desired.trials {
            let spec = self.desired.repositories.get(guid);
            let wanted = spec.into_iter().flat_map(|spec| spec.tries.keys());
            let record = self.record(*guid).ok().flatten();
            let noted = record.iter().flat_map(|record| record.trials.keys());
            for project in wanted.chain(noted) {
                let own = Object::Service(*guid, project.clone());
                let service = Object::Service(*parent, project.clone());
                let blocked = &self.plan.blocked;
                let held =
                    blocked.contains_key(&own) || blocked.contains_key(&Object::Repository(*guid));
                if held && self.plan.more.remove(&service) {
                    let name = self.desired.name(*guid);
                    let on = format!("repository {name}, on which it is tried first");
                    let why = Blocked::DependencyBlocked { on };
                    self.plan.blocked.entry(service).or_insert(why);
                }
            }
        }
    }
}
