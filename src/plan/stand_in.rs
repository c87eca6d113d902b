//! What runs in the place of a revision that failed: the last one that was well.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::script::Script;
use crate::model::{
    Blocked, Function, Guid, Kept, Name, NetworkId, Object, OnFailure, Patch, ProjectSpec, Record,
    RepositorySpec, Step, Stop,
};

/// The revisions that take the places of others.
#[derive(Debug, Default)]
pub(super) struct StandIns {
    revisions: BTreeMap<Name, Arc<ProjectSpec>>,
    /// Those of them that stand in until a trial has ended.
    waiting: BTreeSet<Name>,
}

impl StandIns {
    /// The repository with these.
    pub(super) fn take_their_places(&self, spec: &RepositorySpec) -> RepositorySpec {
        let mut spec = spec.clone();
        // Until the one before was read there is nothing to run.
        spec.projects
            .retain(|name, _| !self.waiting.contains(name) || self.has(name));
        let all = self.revisions.iter();
        spec.projects
            .extend(all.map(|(name, project)| (name.clone(), project.clone())));
        spec
    }

    /// The projects whose own revision is tried on a copy.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Name> {
        self.waiting.iter()
    }

    pub(super) fn has(&self, project: &Name) -> bool {
        self.revisions.contains_key(project)
    }

    /// Why one stands in: what went wrong in this run, or that it did before.
    pub(super) fn why(&self, script: &Script<'_>, service: &Object) -> Option<Blocked> {
        let Object::Service(guid, name) = service else {
            return None;
        };
        if self.waiting.contains(name) {
            return None;
        }
        let stands_in = self.revisions.get(name)?;
        let now = script.limits.undone.get(service);
        Some(match now {
            Some((revision, why)) if *revision != stands_in.hash => why.clone(),
            _ => Blocked::RevisionFailed {
                runs: Some(stands_in.hash.short().to_owned()),
                trial: script.failed_on_trial(*guid, name),
            },
        })
    }
}

impl Script<'_> {
    /// The last revision that was well, for each project whose own failed.
    pub(super) fn standing_in(&self, spec: &RepositorySpec, waiting: BTreeSet<Name>) -> StandIns {
        let each = spec.projects.values();
        let each = each.filter_map(|project| {
            let waits = waiting.contains(&project.name);
            Some((project.name.clone(), self.before(spec, project, waits)?))
        });
        StandIns {
            revisions: each.collect(),
            waiting,
        }
    }

    /// Whether this very revision was well before: then what it depends on may be
    /// what it was with.
    pub(super) fn ran_before(&self, guid: Guid, project: &ProjectSpec) -> Result<bool, Stop> {
        let repo = self.repo(guid)?;
        let kept = repo.revisions.get()?.and_then(|all| all.get(&project.name));
        let newest = kept.and_then(|kept| kept.last());
        Ok(newest.is_some_and(|newest| newest.hash == project.hash))
    }

    /// What a command asks: the revision before the present one comes back, and the
    /// present one counts as failed.
    pub(super) fn take_back(
        &mut self,
        guid: Guid,
        network: NetworkId,
        project: &Name,
    ) -> Result<(), Stop> {
        let record = self.record(guid)?;
        let depends_on = record.and_then(|record| record.depends_on.get(project).cloned());
        let depends_on = depends_on.unwrap_or_default();
        for on in &depends_on {
            self.seems_well(guid, on)?;
        }
        let (before, noted) = self.leave_aside(guid, project)?;
        // It failed as well: whoever asks again may try it again.
        let service = Object::Service(guid, project.clone());
        if let Some((hash, why)) = self.limits.undone.get(&service)
            && *hash == before.hash
        {
            return Err(Stop::Block(why.clone()));
        }
        match &before.spec {
            Some(other) if !other.is_of(network) => {
                let why = format!(
                    "revision {} of {project} was made for the addresses of another network",
                    before.hash.short()
                );
                Err(Stop::Block(Blocked::Unresolved(why)))
            }
            // A hook could not even be planned without its daemon.
            Some(_) if !self.repo(guid)?.serves()? => Err(Stop::Hidden),
            Some(before) => {
                // After what it starts is as the manifest said last.
                let before = ProjectSpec {
                    depends_on,
                    ..(**before).clone()
                };
                self.bring_up(guid, network, &Arc::new(before))
            }
            None if noted => {
                let why = format!(
                    "revision {} of {project} cannot be read",
                    before.hash.short()
                );
                Err(Stop::Block(Blocked::Unresolved(why)))
            }
            // It is read when it is needed.
            None => Err(Stop::Hidden),
        }
    }

    /// As far as can be told without its manifest.
    fn seems_well(&self, guid: Guid, project: &Name) -> Result<(), Stop> {
        let repo = self.repo(guid)?;
        let containers = repo.containers.get()?.and_then(|all| all.get(project));
        let well = match containers {
            Some(containers) => containers.values().all(|container| container.is_well(true)),
            None => {
                let run = repo.hook_run(project, Function::Up)?;
                run.is_some_and(|run| run.status == 0)
            }
        };
        let on = format!("service {project}");
        match well {
            true => Ok(()),
            false => Err(Stop::Block(Blocked::DependencyBlocked { on })),
        }
    }

    /// The newest revision that was well counts as failed; the one before, and whether
    /// it was said already.
    pub(super) fn leave_aside(&mut self, guid: Guid, project: &Name) -> Result<(Kept, bool), Stop> {
        let repo = self.repo(guid)?;
        let kept = repo.revisions.get()?.and_then(|all| all.get(project));
        let Some([.., before, newest]) = kept.map(Vec::as_slice) else {
            let none = format!("no revision of {project} before the present one is kept");
            return Err(Stop::Block(Blocked::Unresolved(none)));
        };
        let step = Step::Record(guid, Patch::Failed(project.clone(), newest.hash.clone()));
        let noted = step.holds(&self.scratch)?;
        self.want(step)?;
        Ok((before.clone(), noted))
    }

    /// Whether the revision failed, and nobody asks to try it again.
    pub(super) fn counts_as_failed(
        &self,
        guid: Guid,
        record: &Record,
        project: &ProjectSpec,
    ) -> bool {
        let service = Object::Service(guid, project.name.clone());
        let again = self.desired.asked.retry && !self.limits.undone.contains_key(&service);
        !again && record.has_failed(&project.name, &project.hash)
    }

    fn before(
        &self,
        spec: &RepositorySpec,
        project: &Arc<ProjectSpec>,
        waits: bool,
    ) -> Option<Arc<ProjectSpec>> {
        let repo = self.repo(spec.guid).ok()?;
        let record = repo.record.known()?;
        // What never came further than a copy has nothing to stay.
        let stays =
            project.on_failure == OnFailure::Stop && !self.is_kept_out(record, project, spec.guid);
        if stays || !waits && !self.counts_as_failed(spec.guid, record, project) {
            return None;
        }
        let failed = |hash| record.has_failed(&project.name, hash);
        let kept = repo.revisions.known()?.get(&project.name)?;
        let mut newest_first = kept.iter().rev();
        let last = newest_first.find(|kept| kept.hash != project.hash && !failed(&kept.hash))?;
        let spec = last.spec.as_ref().filter(|kept| kept.is_of(spec.network))?;
        // After what it starts, and how long it may take, is for the manifest to say.
        Some(Arc::new(ProjectSpec {
            depends_on: project.depends_on.clone(),
            healthy_within: project.healthy_within,
            on_failure: project.on_failure,
            ..(**spec).clone()
        }))
    }
}
