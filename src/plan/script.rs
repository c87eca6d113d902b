use std::collections::BTreeSet;

use super::{Plan, Tried, table};
use crate::model::{
    Actual, Blocked, Danger, Desired, Guid, Name, Object, Part, Patch, ProjectSpec, Record,
    Repository, RepositorySpec, RouteRecord, RunState, Size, Step, Stop, Volume,
};

/// Plans everything. `tried` are the objects on which a step failed in this run.
pub fn plan(desired: &Desired, observed: &Actual, tried: &Tried) -> Plan {
    let mut script = Script {
        desired,
        tried,
        scratch: observed.clone(),
        plan: Plan::default(),
    };
    for (object, why) in &desired.unresolved {
        script.plan.blocked.insert(object.clone(), why.clone());
    }
    if script.group(Object::Datastore, Script::datastore) {
        script.group(Object::Machine, Script::machine);
    }
    for spec in desired.repositories.values() {
        script.whole_repository(spec);
    }
    for name in desired.routes.keys() {
        script.group(Object::Route(name.clone()), |script| script.route(name));
    }
    script.group(Object::Proxy, |script| script.proxy(observed));
    script.plan
}

struct Script<'a> {
    desired: &'a Desired,
    tried: &'a Tried,
    /// What the machine will be after the steps so far. What this plan made, it
    /// knows: the copy is never veiled again.
    scratch: Actual,
    plan: Plan,
}

/// As much of the scratch copy as one group can change.
enum Saved {
    All(Box<Actual>),
    Repository(
        Guid,
        Option<Box<Repository>>,
        Box<Part<crate::model::MachineRecord>>,
    ),
}

impl Script<'_> {
    /// Runs a part of the script: all of its steps are kept, or none. Returns
    /// whether it reached its end.
    fn group(&mut self, object: Object, part: impl FnOnce(&mut Self) -> Result<(), Stop>) -> bool {
        if self.plan.blocked.contains_key(&object) {
            return false;
        }
        if let Some(why) = self.tried.get(&object) {
            self.plan.blocked.insert(object, why.clone());
            return false;
        }
        let saved = self.save(&object);
        let steps = self.plan.steps.len();
        let danger = self.plan.danger.clone();
        match part(self) {
            Ok(()) => true,
            Err(Stop::Hidden) => {
                // The worst that Desired may do behind it counts as shown.
                self.plan
                    .danger
                    .extend(object.repository().map(Danger::StopsUnseen));
                self.plan.more.insert(object);
                false
            }
            Err(Stop::Block(why)) => {
                self.plan.steps.truncate(steps);
                self.plan.danger = danger;
                self.restore(saved);
                self.plan.blocked.insert(object, why);
                false
            }
        }
    }

    fn save(&self, object: &Object) -> Saved {
        match object.repository() {
            Some(guid) => Saved::Repository(
                guid,
                self.scratch
                    .repositories
                    .known()
                    .and_then(|all| all.get(&guid))
                    .map(|repo| Box::new(repo.clone())),
                Box::new(self.scratch.machine.clone()),
            ),
            None => Saved::All(Box::new(self.scratch.clone())),
        }
    }

    fn restore(&mut self, saved: Saved) {
        match saved {
            Saved::All(actual) => self.scratch = *actual,
            Saved::Repository(guid, repo, machine) => {
                self.scratch.machine = *machine;
                if let Part::Known(all) = &mut self.scratch.repositories {
                    match repo {
                        Some(repo) => all.insert(guid, *repo),
                        None => all.remove(&guid),
                    };
                }
            }
        }
    }

    /// Adds a step unless it holds.
    fn want(&mut self, step: Step) -> Result<(), Stop> {
        if step.holds(&self.scratch)? {
            return Ok(());
        }
        self.gate(&step)?;
        step.ready(&self.scratch)?;
        self.plan.danger.extend(step.danger(&self.scratch));
        step.effect(&mut self.scratch);
        self.plan.steps.push(step);
        Ok(())
    }

    /// Nothing of a repository changes for a source that does not own it.
    fn gate(&self, step: &Step) -> Result<(), Stop> {
        let Some(guid) = step.object().repository() else {
            return Ok(());
        };
        let owner = self
            .repo(guid)?
            .record
            .get()?
            .and_then(|record| record.owner.clone());
        match owner {
            Some(owner) if owner != self.desired.owner => {
                Err(Stop::Block(Blocked::OwnedElsewhere {
                    owner: owner.source,
                }))
            }
            _ => Ok(()),
        }
    }

    fn repo(&self, guid: Guid) -> Result<Repository, Stop> {
        self.scratch.repository(guid)
    }

    fn datastore(&mut self) -> Result<(), Stop> {
        let seen = &self.scratch.datastore;
        let note = seen.note.get()?.copied();
        let file = seen.storage.file.get()?.copied();
        let identity = match seen.storage.file {
            Part::Absent => None,
            _ => seen.identity.get()?.copied(),
        };
        if let Some(note) = note
            && identity != Some(note)
        {
            let found = match identity {
                Some(other) => format!("{other} instead of {note}"),
                None => format!("{note} is gone"),
            };
            return Err(Stop::Block(Blocked::DatastoreMissing { found }));
        }
        if file.is_none() && self.desired.datastore.is_none() {
            return Err(Stop::Block(Blocked::NoDatastore));
        }
        let volume = Volume::Datastore;
        let spec = self.desired.datastore.clone();
        if let (None, Some(spec)) = (file, &spec) {
            self.want(Step::ClearStaging(volume))?;
            self.want(Step::Format {
                volume,
                size: spec.size,
                uuid: spec.uuid,
            })?;
        }
        if let Some(spec) = &spec {
            self.want(Step::GrowFile {
                volume,
                size: spec.size,
            })?;
            self.note_larger(Object::Datastore, volume, spec.size)?;
        }
        self.open(volume)?;
        self.want(Step::LayOut)?;
        let uuid = self.scratch.datastore.identity.get()?.copied();
        if let Some(uuid) = uuid {
            self.want(Step::NoteDatastore(uuid))?;
        }
        Ok(())
    }

    /// Attaches, mounts, and lets every layer see the size of the one below.
    fn open(&mut self, volume: Volume) -> Result<(), Stop> {
        self.want(Step::Attach(volume))?;
        self.want(Step::GrowDevice(volume))?;
        self.want(Step::Mount(volume))?;
        self.want(Step::GrowFs(volume))
    }

    fn note_larger(&mut self, object: Object, volume: Volume, wanted: Size) -> Result<(), Stop> {
        if let Some(is) = self.scratch.storage(volume)?.file.get()?
            && *is > wanted
        {
            let note = format!("{is} is larger than the {wanted} of its manifest; never shrunk");
            self.plan.notes.push((object, note));
        }
        Ok(())
    }

    fn machine(&mut self) -> Result<(), Stop> {
        let Some(name) = self.desired.machine.clone() else {
            return Ok(());
        };
        let machine = self.scratch.machine.get()?.cloned().unwrap_or_default();
        if let Some(owner) = machine.owner.filter(|owner| *owner != self.desired.owner) {
            return Err(Stop::Block(Blocked::OwnedElsewhere {
                owner: owner.source,
            }));
        }
        if let Some(is) = machine.name.filter(|is| *is != name) {
            return Err(Stop::Block(Blocked::Immutable {
                field: "the machine's name",
                is: is.to_string(),
                wanted: name.to_string(),
            }));
        }
        self.want(Step::ClaimMachine {
            name,
            owner: self.desired.owner.clone(),
        })
    }

    fn whole_repository(&mut self, spec: &RepositorySpec) {
        let object = Object::Repository(spec.guid);
        if self.plan.blocked.contains_key(&Object::Datastore) {
            let on = "the datastore".to_owned();
            self.plan
                .blocked
                .entry(object)
                .or_insert(Blocked::DependencyBlocked { on });
            return;
        }
        // A project that failed in this run keeps its repository's daemon alone:
        // stopping it under the failure would hide what went wrong.
        let reached = self.group(object.clone(), |script| script.repository(spec));
        if spec.state != RunState::Running {
            return;
        }
        for project in spec.projects.values() {
            let service = Object::Service(spec.guid, project.name.clone());
            if self.plan.blocked.contains_key(&object) {
                let on = format!("repository {}", spec.name);
                self.plan
                    .blocked
                    .entry(service)
                    .or_insert(Blocked::DependencyBlocked { on });
            } else if reached {
                self.group(service, |script| script.project(spec, project));
            } else {
                self.plan.more.insert(service);
            }
        }
    }

    fn record(&self, guid: Guid) -> Result<Option<Record>, Stop> {
        Ok(self.repo(guid)?.record.get()?.cloned())
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
            if record.created && self.repo(guid)?.storage.file.get()?.is_none() {
                return Err(Stop::Block(Blocked::ImageMissing));
            }
        } else {
            self.network_is_free(spec)?;
        }
        self.want(Step::Reserve {
            guid,
            name: spec.name.clone(),
            network: spec.network,
        })?;
        self.want(Step::Record(guid, Patch::Claim(self.desired.owner.clone())))?;
        // Before anything can refer to an address, the slot is fixed.
        self.want(Step::MirrorSlots(guid, spec.slots.clone()))?;
        self.want(Step::ClearStaging(volume))?;
        let grows = match self.repo(guid)?.storage.file.get()? {
            Some(is) => spec.size.as_bytes().saturating_sub(is.as_bytes()),
            None => spec.size.as_bytes(),
        };
        if grows > 0 {
            self.has_room(Size::bytes(grows))?;
        }
        self.want(Step::Format {
            volume,
            size: spec.size,
            uuid: guid.as_uuid(),
        })?;
        self.want(Step::Record(guid, Patch::Created))?;
        self.want(Step::GrowFile {
            volume,
            size: spec.size,
        })?;
        self.note_larger(Object::Repository(guid), volume, spec.size)?;
        if spec.state == RunState::Offline {
            return self.close(spec);
        }
        self.open(volume)?;
        self.want(Step::WriteSlots(guid, spec.slots.clone()))?;
        self.want(Step::StartDaemon {
            guid,
            network: spec.network,
        })?;
        if spec.state == RunState::Stopped {
            self.stop_projects(spec)?;
        }
        Ok(())
    }

    fn network_is_free(&self, spec: &RepositorySpec) -> Result<(), Stop> {
        let foreign = self.scratch.foreign_networks.get()?;
        if foreign.is_some_and(|foreign| foreign.contains(&spec.network)) {
            return Err(Stop::Block(Blocked::NetworkIdInUse {
                id: spec.network,
                by: "a program that listens there".to_owned(),
            }));
        }
        for (guid, repo) in self.scratch.repositories.get()?.into_iter().flatten() {
            let record = repo.record.get()?;
            if *guid != spec.guid
                && let Some(record) = record.filter(|record| record.network == spec.network)
            {
                return Err(Stop::Block(Blocked::NetworkIdInUse {
                    id: spec.network,
                    by: format!("repository {}", record.name),
                }));
            }
        }
        Ok(())
    }

    /// What all images promise, and a reserve, must fit the datastore.
    fn has_room(&self, wanted: Size) -> Result<(), Stop> {
        const RESERVE_PERCENT: u64 = 5; // BTRFS needs unallocated space to free any
        let Some(total) = self.scratch.datastore.storage.file.get()? else {
            return Ok(());
        };
        let mut promised = 0;
        for repo in self.scratch.repositories.get()?.into_iter().flatten() {
            if let Part::Known(size) = repo.1.storage.file {
                promised += size.as_bytes();
            }
        }
        let usable = total.as_bytes() / 100 * (100 - RESERVE_PERCENT);
        let free = usable.saturating_sub(promised);
        if wanted.as_bytes() > free {
            return Err(Stop::Block(Blocked::NoRoom {
                wanted,
                free: Size::bytes(free),
            }));
        }
        Ok(())
    }

    /// Takes down what renet started, and nothing else.
    fn stop_projects(&mut self, spec: &RepositorySpec) -> Result<(), Stop> {
        let guid = spec.guid;
        let owned: BTreeSet<Name> = self
            .record(guid)?
            .map(|record| record.projects)
            .unwrap_or_default();
        for project in owned {
            self.want(Step::Down {
                guid,
                network: spec.network,
                project: project.clone(),
            })?;
            self.want(Step::Record(guid, Patch::DisownProject(project)))?;
        }
        Ok(())
    }

    fn close(&mut self, spec: &RepositorySpec) -> Result<(), Stop> {
        let guid = spec.guid;
        let volume = Volume::Image(guid);
        self.want(Step::StopDaemon {
            guid,
            network: spec.network,
        })?;
        self.want(Step::Unmount(volume))?;
        self.want(Step::Detach(volume))
    }

    fn project(&mut self, spec: &RepositorySpec, project: &ProjectSpec) -> Result<(), Stop> {
        let (guid, network) = (spec.guid, spec.network);
        let arc = spec.projects[&project.name].clone();
        let up = Step::Up {
            guid,
            network,
            project: arc.clone(),
        };
        let wait = Step::Wait {
            guid,
            network,
            project: arc.clone(),
        };
        let failed = self
            .record(guid)?
            .and_then(|record| record.failed.get(&project.name).cloned());
        if failed.as_ref() == Some(&project.hash) {
            let well = up.holds(&self.scratch)? && wait.holds(&self.scratch)?;
            if !well && !self.desired.retry {
                return Err(Stop::Block(Blocked::RevisionFailed));
            }
        }
        self.want(Step::Record(guid, Patch::OwnProject(project.name.clone())))?;
        self.want(Step::WriteFiles {
            guid,
            project: arc.clone(),
        })?;
        self.want(Step::FetchImages {
            guid,
            network,
            project: arc,
        })?;
        self.want(up)?;
        self.want(wait)?;
        self.want(Step::Record(guid, Patch::Passed(project.name.clone())))
    }

    fn route(&mut self, name: &Name) -> Result<(), Stop> {
        let spec = &self.desired.routes[name];
        let repository = Object::Repository(spec.repository);
        if self.plan.blocked.contains_key(&repository) {
            let on = match self.desired.repositories.get(&spec.repository) {
                Some(repository) => format!("repository {}", repository.name),
                None => "its repository".to_owned(),
            };
            return Err(Stop::Block(Blocked::DependencyBlocked { on }));
        }
        let known = self
            .scratch
            .routes
            .get()?
            .and_then(|routes| routes.get(name));
        if let Some(route) = known.filter(|route| route.owner != self.desired.owner) {
            return Err(Stop::Block(Blocked::OwnedElsewhere {
                owner: route.owner.source.clone(),
            }));
        }
        let route = RouteRecord {
            owner: self.desired.owner.clone(),
            host: spec.host.clone(),
            repository: spec.repository,
            project: spec.project.clone(),
            service: spec.service.clone(),
            port: spec.port,
            address: spec.address,
        };
        self.want(Step::RecordRoute {
            name: name.clone(),
            route,
        })
    }

    fn proxy(&mut self, observed: &Actual) -> Result<(), Stop> {
        let any = self
            .scratch
            .routes
            .get()?
            .is_some_and(|routes| !routes.is_empty());
        if !any {
            return Ok(());
        }
        if let Some(spec) = &self.desired.proxy {
            self.want(Step::StartProxy(spec.clone()))?;
        }
        // From what was seen, never from what this plan hopes for.
        let busy: BTreeSet<Guid> = self
            .plan
            .steps
            .iter()
            .filter_map(|step| step.object().repository())
            .collect();
        if !busy.is_empty() {
            self.plan.more.insert(Object::Proxy);
        }
        // A route noted by this very plan is published by the next wave.
        self.want(Step::PublishRoutes(table(self.desired, observed, &busy)))
    }
}
