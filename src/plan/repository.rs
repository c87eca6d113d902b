use std::collections::BTreeSet;
use std::sync::Arc;

use super::order::{Dependencies, in_order};
use super::script::Script;
use super::stand_in::StandIns;
use crate::model::{
    Blocked, Function, Guid, Hook, Name, NetworkId, Object, Part, Patch, ProjectSpec,
    RepositorySpec, RunState, Step, Stop, Volume,
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
        if spec.state != RunState::Running {
            let none = StandIns::default();
            self.settle(spec, &none);
            self.group(object.clone(), |script| script.drop_settled(spec.guid));
        }
        if spec.state == RunState::Offline {
            return;
        }
        if reached {
            self.retire_projects(spec);
        }
        if spec.state != RunState::Running {
            return;
        }
        let standing_in = match reached {
            true => {
                let waiting = self.try_first(spec);
                self.standing_in(spec, waiting)
            }
            false => StandIns::default(),
        };
        if reached {
            self.settle(spec, &standing_in);
            self.group(object.clone(), |script| script.drop_settled(spec.guid));
        }
        for name in standing_in.waiting() {
            self.foresee(spec, &spec.projects[name]);
        }
        let spec = &standing_in.take_their_places(spec);
        let projects = spec.projects.values();
        let depends_on: Dependencies = projects
            .map(|project| (project.name.clone(), project.depends_on.clone()))
            .collect();
        let unprepared = self.prepare_all(spec, reached, &standing_in);
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
            } else if self.is_held_up(spec, project, &unprepared) {
                // Said already.
            } else if self.comes_later(spec, project, &later) {
                later.push(project);
            } else {
                self.start_project(spec, project, &standing_in);
            }
        }
        // What starts now must not count on anything that is put off, not even on
        // an image that both run.
        for project in later {
            self.start_project(spec, project, &standing_in);
        }
        self.end_trial(spec);
    }

    fn start_project(
        &mut self,
        spec: &RepositorySpec,
        project: &Arc<ProjectSpec>,
        standing_in: &StandIns,
    ) {
        let service = Object::Service(spec.guid, project.name.clone());
        let before = self.plan.steps.len();
        let reached = self.group(service.clone(), |script| {
            script.project(spec, project, standing_in)
        });
        if reached && self.plan.steps.len() == before {
            let why = standing_in.why(self, &service);
            self.plan.blocked.extend(why.map(|why| (service, why)));
        }
    }

    /// Runs `prep` of every project that is about to start; the projects whose own
    /// could not run, or failed.
    fn prepare_all(
        &mut self,
        spec: &RepositorySpec,
        reached: bool,
        standing_in: &StandIns,
    ) -> BTreeSet<Name> {
        let mut unprepared = BTreeSet::new();
        for project in spec.projects.values().filter(|_| reached) {
            let service = Object::Service(spec.guid, project.name.clone());
            let Some(hook) = project.hook.clone() else {
                continue;
            };
            if !hook.defines(Function::Prep) || !self.is_meant(&service) {
                continue;
            }
            let prep = Step::Hook {
                guid: spec.guid,
                network: spec.network,
                hook: hook.clone(),
                revision: Some(project.hash.clone()),
                function: Function::Prep,
            };
            if prep.holds(&self.scratch) == Ok(true) {
                continue;
            }
            if !self.group(service, |script| {
                script.prepare(spec, project, hook, standing_in)
            }) {
                unprepared.insert(project.name.clone());
            }
        }
        unprepared
    }

    fn prepare(
        &mut self,
        spec: &RepositorySpec,
        project: &Arc<ProjectSpec>,
        hook: Arc<Hook>,
        standing_in: &StandIns,
    ) -> Result<(), Stop> {
        let starts = start(spec.guid, spec.network, project);
        if starts[0].holds(&self.scratch)? {
            return Ok(());
        }
        self.has_not_failed(spec, project, &starts)?;
        self.begin(spec.guid, project, standing_in)?;
        self.put_in_place(spec.guid, project)?;
        let revision = Some(&project.hash);
        self.run_hook(spec.guid, spec.network, hook, revision, Function::Prep)
    }

    /// Whether the project does not start because another is not prepared: that is
    /// said, or the next look finds out.
    fn is_held_up(
        &mut self,
        spec: &RepositorySpec,
        project: &Arc<ProjectSpec>,
        unprepared: &BTreeSet<Name>,
    ) -> bool {
        let mut others = unprepared.iter();
        let Some(first) = others.find(|name| **name != project.name) else {
            return false;
        };
        if start(spec.guid, spec.network, project)[0].holds(&self.scratch) == Ok(true) {
            return false;
        }
        let service = Object::Service(spec.guid, project.name.clone());
        let other = Object::Service(spec.guid, first.clone());
        if self.plan.more.contains(&other) {
            self.plan.more.insert(service);
        } else {
            let on = format!("prep of service {}/{first}", spec.name);
            let why = Blocked::DependencyBlocked { on };
            self.plan.blocked.entry(service).or_insert(why);
        }
        true
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
            trial_of: self.desired.trials.get(&guid).copied(),
        })?;
        self.begin_trial(spec)?;
        // Its manifest is back: so is the repository.
        self.want(Step::Record(guid, Patch::Delete(None)))?;
        self.bring_back(guid)?;
        self.rewind_failed(spec)?;
        self.finish_rewind(guid, spec.network)?;
        self.want(Step::Record(guid, Patch::Claim(self.desired.owner.clone())))?;
        self.want(Step::Record(guid, Patch::Rename(spec.name.clone())))?;
        self.want(Step::Record(guid, Patch::Policy(spec.policy)))?;
        self.want(Step::Record(guid, Patch::Protect(spec.protected)))?;
        self.want(Step::Record(guid, Patch::Limit(spec.limits)))?;
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
        self.note_limits(spec);
        if let Some(rule) = &spec.snapshots {
            self.keep_snapshots(guid, rule)?;
        }
        if spec.state == RunState::Stopped {
            self.stop_projects(guid, spec.network)?;
        }
        Ok(())
    }

    fn note_limits(&mut self, spec: &RepositorySpec) {
        let daemon = self.repo(spec.guid).ok();
        let daemon = daemon.and_then(|repo| repo.daemon.known().copied());
        let kept = daemon.is_none_or(|daemon| daemon.limits.is_some());
        if !spec.limits.is_none() && !kept {
            let note = "its limits are not kept here: that needs systemd and cgroup v2".to_owned();
            self.plan.notes.push((Object::Repository(spec.guid), note));
        }
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
            self.hook_down(guid, network, &project)?;
            self.want(Step::Down {
                guid,
                network,
                project: project.clone(),
            })?;
            self.want(Step::Record(guid, Patch::DisownProject(project)))?;
        }
        Ok(())
    }

    pub(super) fn project(
        &mut self,
        spec: &RepositorySpec,
        project: &Arc<ProjectSpec>,
        standing_in: &StandIns,
    ) -> Result<(), Stop> {
        let (guid, network) = (spec.guid, spec.network);
        let starts = start(spec.guid, spec.network, project);
        self.has_not_failed(spec, project, &starts)?;
        if !starts[0].holds(&self.scratch)? {
            self.dependencies_are_well(spec, project, standing_in)?;
        }
        if !self.all_hold(&starts)? {
            self.begin(guid, project, standing_in)?;
        }
        self.bring_up(guid, network, project)?;
        if standing_in.has(&project.name) {
            return self.want(Step::Record(guid, Patch::End(project.name.clone())));
        }
        self.want(Step::Record(guid, Patch::Passed(project.name.clone())))?;
        self.want(Step::KeepRevision {
            guid,
            project: project.clone(),
        })?;
        self.want(Step::Record(guid, Patch::End(project.name.clone())))
    }

    /// A revision that failed is not tried again.
    fn has_not_failed(
        &self,
        spec: &RepositorySpec,
        project: &ProjectSpec,
        starts: &[Step],
    ) -> Result<(), Stop> {
        let record = self.record(spec.guid)?;
        let failed = record.is_some_and(|record| record.has_failed(&project.name, &project.hash));
        let object = Object::Service(spec.guid, project.name.clone());
        match self.limits.undone.get(&object) {
            Some((revision, why)) if *revision == project.hash => Err(Stop::Block(why.clone())),
            _ if failed && !self.desired.asked.retry && !self.all_hold(starts)? => {
                Err(Stop::Block(Blocked::REVISION_FAILED))
            }
            _ => Ok(()),
        }
    }

    /// Its files are in place, its images are there, it runs and is well.
    pub(super) fn bring_up(
        &mut self,
        guid: Guid,
        network: NetworkId,
        project: &Arc<ProjectSpec>,
    ) -> Result<(), Stop> {
        self.put_in_place(guid, project)?;
        match project.starter() {
            Some(hook) => {
                let revision = Some(&project.hash);
                self.run_hook(guid, network, hook.clone(), revision, Function::Up)
            }
            None => {
                self.want(Step::FetchImages {
                    guid,
                    network,
                    project: project.clone(),
                })?;
                for step in start(guid, network, project) {
                    self.want(step)?;
                }
                Ok(())
            }
        }
    }

    fn put_in_place(&mut self, guid: Guid, project: &Arc<ProjectSpec>) -> Result<(), Stop> {
        let depends_on = project.depends_on.clone();
        let own = Patch::OwnProject(project.name.clone(), depends_on);
        self.want(Step::Record(guid, own))?;
        self.want(Step::WriteFiles {
            guid,
            project: project.clone(),
        })
    }

    /// Whether the project runs and is well.
    pub(super) fn is_up(&self, spec: &RepositorySpec, project: &Arc<ProjectSpec>) -> bool {
        let starts = start(spec.guid, spec.network, project);
        self.all_hold(&starts) == Ok(true)
    }

    fn all_hold(&self, steps: &[Step]) -> Result<bool, Stop> {
        for step in steps {
            if !step.holds(&self.scratch)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Nothing is started before what it depends on is in sync and well.
    fn dependencies_are_well(
        &self,
        spec: &RepositorySpec,
        project: &ProjectSpec,
        standing_in: &StandIns,
    ) -> Result<(), Stop> {
        let ran = self.ran_before(spec.guid, project)?;
        for on in &project.depends_on {
            let object = Object::Service(spec.guid, on.clone());
            // What ran with what stands in goes on with it.
            let stands_in = ran && standing_in.has(on);
            if !stands_in && self.plan.more.contains(&object) {
                return Err(Stop::Hidden);
            }
            let well = match spec.projects.get(on) {
                Some(on) if standing_in.has(&on.name) => {
                    ran && self.all_hold(&start(spec.guid, spec.network, on))?
                }
                Some(on) if !self.plan.blocked.contains_key(&object) => {
                    self.all_hold(&start(spec.guid, spec.network, on))?
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

/// What starts the project, and what waits for it. A hook does its own waiting.
fn start(guid: Guid, network: NetworkId, project: &Arc<ProjectSpec>) -> Vec<Step> {
    if let Some(hook) = project.starter() {
        return vec![Step::Hook {
            guid,
            network,
            hook: hook.clone(),
            revision: Some(project.hash.clone()),
            function: Function::Up,
        }];
    }
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
    vec![up, wait]
}
