use std::sync::Arc;

use super::order::{Dependencies, in_order};
use super::script::Script;
use crate::model::{
    Blocked, Guid, Name, NetworkId, Object, Part, Patch, ProjectSpec, RepositorySpec, RunState,
    Step, Stop, Volume,
};

impl Script<'_> {
    pub(super) fn whole_repository(&mut self, spec: &RepositorySpec) {
        let object = Object::Repository(spec.guid);
        if let Some(why) = self.retirement.possible_rename(spec) {
            self.plan.blocked.entry(object).or_insert(why);
            return;
        }
        // A project that failed in this run keeps its repository's daemon alone:
        // stopping it under the failure would hide what went wrong.
        let reached = self.group(object.clone(), |script| script.repository(spec));
        if spec.state == RunState::Offline {
            return;
        }
        if reached {
            self.retire_projects(spec);
        }
        if spec.state != RunState::Running {
            return;
        }
        let projects = spec.projects.values();
        let depends_on: Dependencies = projects
            .map(|project| (project.name.clone(), project.depends_on.clone()))
            .collect();
        let mut later = Vec::new();
        for name in in_order(spec.projects.keys().cloned(), &depends_on) {
            let project = &spec.projects[&name];
            let service = Object::Service(spec.guid, name);
            if !self.is_meant(&service) {
                continue;
            }
            if let Some(why) = self.plan.blocked.get(&object) {
                let on = format!("repository {}", spec.name);
                let why = match why.is_quiet() {
                    true => why.clone(),
                    false => Blocked::DependencyBlocked { on },
                };
                self.plan.blocked.entry(service).or_insert(why);
            } else if !reached {
                self.plan.more.insert(service);
            } else if self.comes_later(spec, project, &later) {
                later.push(project);
            } else {
                self.group(service, |script| script.project(spec, project));
            }
        }
        // What starts now must not count on anything that is put off, not even on
        // an image that both run.
        for project in later {
            let service = Object::Service(spec.guid, project.name.clone());
            self.group(service, |script| script.project(spec, project));
        }
    }

    /// Whether the project starts when something has ended for which this plan
    /// waits.
    fn comes_later(
        &self,
        spec: &RepositorySpec,
        project: &ProjectSpec,
        later: &[&Arc<ProjectSpec>],
    ) -> bool {
        project.depends_on.iter().any(|on| {
            let object = Object::Service(spec.guid, on.clone());
            let mut steps = self.plan.steps.iter();
            later.iter().any(|late| late.name == *on)
                || steps.any(|step| step.only_waits() && step.object() == object)
        })
    }

    fn repository(&mut self, spec: &RepositorySpec) -> Result<(), Stop> {
        let guid = spec.guid;
        let volume = Volume::Image(guid);
        if let Some(record) = self.record(guid)? {
            if record.network != spec.network {
                return Err(Stop::Block(Blocked::Immutable {
                    field: "networkId",
                    is: record.network.to_string(),
                    wanted: spec.network.to_string(),
                }));
            }
        } else {
            self.network_is_free(guid, spec.network)?;
        }
        self.want(Step::Reserve {
            guid,
            name: spec.name.clone(),
            network: spec.network,
        })?;
        // Its manifest is back: so is the repository.
        self.want(Step::Record(guid, Patch::Delete(None)))?;
        self.bring_back(guid)?;
        self.want(Step::Record(guid, Patch::Claim(self.desired.owner.clone())))?;
        self.want(Step::Record(guid, Patch::Rename(spec.name.clone())))?;
        self.want(Step::Record(guid, Patch::Policy(spec.policy)))?;
        self.want(Step::Record(guid, Patch::Protect(spec.protected)))?;
        if let Some(autostart) = spec.autostart {
            let comes_back = autostart && spec.state != RunState::Offline;
            self.want(Step::Record(guid, Patch::Autostart(comes_back)))?;
        }
        // Which slots a closed image from before has is seen once it is open.
        let repo = self.repo(guid)?;
        let unseen = repo.mirror.is_absent() && repo.slots == Part::Hidden;
        if !unseen {
            // Before anything can refer to an address, the slot is fixed.
            self.want(Step::MirrorSlots(guid, spec.slots.clone()))?;
        }
        self.make(spec)?;
        self.want(Step::Record(guid, Patch::Created))?;
        self.grow_file(volume, spec.size)?;
        self.note_larger(Object::Repository(guid), volume, spec.size)?;
        if spec.state == RunState::Offline {
            return self.close(guid, spec.network);
        }
        self.open(volume, spec.passphrase.as_ref())?;
        self.settle_key(guid, spec.autostart, spec.passphrase.as_ref())?;
        if unseen {
            return Err(Stop::Hidden);
        }
        self.want(Step::WriteSlots(guid, spec.slots.clone()))?;
        self.clean(guid)?;
        self.want(Step::StartDaemon {
            guid,
            network: spec.network,
        })?;
        if spec.state == RunState::Stopped {
            self.stop_projects(guid, spec.network)?;
        }
        Ok(())
    }

    pub(super) fn name_is_free(&self, guid: Guid, name: &Name) -> Result<(), Stop> {
        for (other, repo) in self.scratch.repositories.get()?.into_iter().flatten() {
            let live = repo.record.get()?.filter(|record| record.is_live());
            if *other != guid && live.is_some_and(|record| record.name == *name) {
                let taken = format!("{name} is the name of another repository ({other})");
                return Err(Stop::Block(Blocked::Unresolved(taken)));
            }
        }
        Ok(())
    }

    pub(super) fn network_is_free(&self, of: Guid, network: NetworkId) -> Result<(), Stop> {
        let foreign = self.scratch.foreign_networks.get()?;
        if foreign.is_some_and(|foreign| foreign.contains(&network)) {
            return Err(Stop::Block(Blocked::NetworkIdInUse {
                id: network,
                by: "a program that listens there".to_owned(),
            }));
        }
        for (guid, repo) in self.scratch.repositories.get()?.into_iter().flatten() {
            let record = repo.record.get()?;
            if *guid != of
                && let Some(record) =
                    record.filter(|record| record.holds_network() == Some(network))
            {
                return Err(Stop::Block(Blocked::NetworkIdInUse {
                    id: network,
                    by: format!("repository {}", record.name),
                }));
            }
        }
        Ok(())
    }

    /// Takes down what renet started, and nothing else.
    pub(super) fn stop_projects(&mut self, guid: Guid, network: NetworkId) -> Result<(), Stop> {
        let owned = self.record(guid)?.map_or_else(Vec::new, |record| {
            in_order(record.projects, &record.depends_on)
        });
        for project in owned.into_iter().rev() {
            self.want(Step::Down {
                guid,
                network,
                project: project.clone(),
            })?;
            self.want(Step::Record(guid, Patch::DisownProject(project)))?;
        }
        Ok(())
    }

    fn project(&mut self, spec: &RepositorySpec, project: &Arc<ProjectSpec>) -> Result<(), Stop> {
        let (guid, network) = (spec.guid, spec.network);
        let (up, wait) = start(spec, project);
        let failed = self
            .record(guid)?
            .and_then(|record| record.failed.get(&project.name).cloned());
        if failed.as_ref() == Some(&project.hash) {
            let well = up.holds(&self.scratch)? && wait.holds(&self.scratch)?;
            if !well && !self.desired.asked.retry {
                return Err(Stop::Block(Blocked::RevisionFailed));
            }
        }
        if !up.holds(&self.scratch)? {
            self.dependencies_are_well(spec, project)?;
        }
        let depends_on = project.depends_on.clone();
        let own = Patch::OwnProject(project.name.clone(), depends_on);
        self.want(Step::Record(guid, own))?;
        self.want(Step::WriteFiles {
            guid,
            project: project.clone(),
        })?;
        self.want(Step::FetchImages {
            guid,
            network,
            project: project.clone(),
        })?;
        self.want(up)?;
        self.want(wait)?;
        self.want(Step::Record(guid, Patch::Passed(project.name.clone())))
    }

    /// Nothing is started before what it depends on is in sync and well.
    fn dependencies_are_well(
        &self,
        spec: &RepositorySpec,
        project: &ProjectSpec,
    ) -> Result<(), Stop> {
        for on in &project.depends_on {
            let object = Object::Service(spec.guid, on.clone());
            if self.plan.more.contains(&object) {
                return Err(Stop::Hidden);
            }
            let well = match spec.projects.get(on) {
                Some(on) if !self.plan.blocked.contains_key(&object) => {
                    let (up, wait) = start(spec, on);
                    up.holds(&self.scratch)? && wait.holds(&self.scratch)?
                }
                _ => false,
            };
            if !well {
                let on = format!("service {}/{on}", spec.name);
                return Err(Stop::Block(Blocked::DependencyBlocked { on }));
            }
        }
        Ok(())
    }
}

/// What starts the project, and what waits for it.
fn start(spec: &RepositorySpec, project: &Arc<ProjectSpec>) -> (Step, Step) {
    let (guid, network) = (spec.guid, spec.network);
    let up = Step::Up {
        guid,
        network,
        project: project.clone(),
    };
    let wait = Step::Wait {
        guid,
        network,
        project: project.clone(),
    };
    (up, wait)
}
