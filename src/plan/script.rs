use std::collections::BTreeSet;

use super::retire::Retirement;
use super::{Limits, Plan, Share};
use crate::model::{
    Actual, Blocked, Danger, Desired, Guid, MachineRecord, Name, Object, Origin, Part, Patch,
    ProjectSpec, Record, Repository, RouteRecord, Shared, Step, Stop, Suspension,
};

/// Plans a share of everything.
pub fn plan(desired: &Desired, observed: &Actual, limits: &Limits, share: Share) -> Plan {
    let mut script = Script {
        desired,
        limits,
        retirement: Retirement::of(desired, observed, limits),
        scratch: observed.clone(),
        plan: Plan::default(),
        exempt: false,
    };
    if let Some(why) = script.all_suspended() {
        script.nothing(&why, share);
        return script.plan;
    }
    let unresolved = desired.unresolved.iter();
    let unresolved = unresolved.filter(|(object, _)| share.covers(object));
    for (object, why) in unresolved {
        if script.is_meant(object) {
            script.plan.blocked.insert(object.clone(), why.clone());
        }
    }
    let standing = limits.standing.iter();
    let standing = standing.map(|(object, why)| (object.clone(), why.clone()));
    script.plan.blocked.extend(standing);
    if share.covers(&Object::Datastore) && script.group(Object::Datastore, Script::datastore) {
        script.group(Object::Machine, Script::machine);
    }
    for (object, suspension) in &desired.asked.suspend {
        if share.covers(object) {
            let suspend = |script: &mut Script| script.suspend(object, suspension.as_ref());
            script.exempt(|script| script.group(object.clone(), suspend));
        }
    }
    for guid in script.parents_first() {
        if share.covers(&Object::Repository(guid)) {
            script.one(guid);
        }
    }
    if share.covers(&Object::Proxy) {
        script.routes(observed);
    }
    script.say_held_trials();
    script.note_retired(share);
    script.plan
}

pub(super) struct Script<'a> {
    pub(super) desired: &'a Desired,
    pub(super) limits: &'a Limits<'a>,
    pub(super) retirement: Retirement,
    /// What the machine will be after the steps so far. What this plan made, it
    /// knows: the copy is never veiled again.
    pub(super) scratch: Actual,
    pub(super) plan: Plan,
    /// Whether what is planned now is due whoever owns it, or was told by a
    /// command: then neither owner nor suspension hold it.
    exempt: bool,
}

/// As much of the scratch copy as one group can change.
pub(super) enum Saved {
    All(Box<Actual>),
    Repository(Guid, Option<Shared<Repository>>, Box<Part<MachineRecord>>),
    Route(Name, Option<Box<RouteRecord>>),
}

impl Script<'_> {
    /// Why the whole machine is left alone, unless a command speaks. Behind a closed
    /// datastore nobody knows.
    fn all_suspended(&self) -> Option<Blocked> {
        let seen = self.scratch.machine.known();
        let machine = seen.filter(|_| !self.desired.is_command())?;
        let suspension = machine.suspended.as_ref()?;
        let holds = suspension.holds_at(self.scratch.now);
        holds.then(|| Blocked::Suspended(suspension.clone()))
    }

    /// Nothing is done for anything, and all of it says why.
    fn nothing(&mut self, why: &Blocked, share: Share) {
        let objects = self.desired.objects().chain([Object::Machine]);
        let objects = objects.filter(|object| share.covers(object) && self.is_meant(object));
        let blocked = objects.map(|object| (object, why.clone()));
        self.plan.blocked = blocked.collect();
    }

    /// Notes whether a route, or the machine, is to be left alone.
    fn suspend(&mut self, object: &Object, suspension: Option<&Suspension>) -> Result<(), Stop> {
        let suspension = suspension.cloned();
        self.want(match object {
            Object::Route(name) => Step::SuspendRoute(name.clone(), suspension),
            _ => match self.base_blocked() {
                Some(why) => return Err(Stop::Block(why)),
                None => Step::SuspendMachine(suspension),
            },
        })
    }

    /// All repositories, each after the one of which it becomes a copy.
    fn parents_first(&self) -> Vec<Guid> {
        let parent = |guid: &Guid| match &self.desired.repositories.get(guid)?.origin {
            Origin::Fork { lineage, .. } => Some(lineage.parent),
            Origin::Blank(_) => None,
        };
        let depth = |guid: &Guid| {
            // Forks of forks; no manifest can be its own ancestor for ever.
            let ancestors = std::iter::successors(parent(guid), parent);
            ancestors.take(self.desired.repositories.len()).count()
        };
        let mut guids: Vec<Guid> = self.guids().into_iter().collect();
        guids.sort_by_key(depth);
        guids
    }

    /// Every repository that is declared, remembered, or spoken of.
    fn guids(&self) -> BTreeSet<Guid> {
        let seen = self.scratch.repositories.known().into_iter().flatten();
        let spoken = self.desired.acts.keys();
        let declared = self.desired.repositories.keys();
        seen.map(|(guid, _)| guid)
            .chain(spoken)
            .chain(declared)
            .copied()
            .collect()
    }

    /// Whether it is among what is asked for.
    pub(super) fn is_meant(&self, object: &Object) -> bool {
        // A trial belongs to what is tried.
        let trials = &self.desired.trials;
        let parent = |guid| trials.get(guid).copied();
        let object = match object {
            Object::Repository(guid) => parent(guid).map(Object::Repository),
            Object::Service(guid, project) => {
                parent(guid).map(|guid| Object::Service(guid, project.clone()))
            }
            _ => None,
        }
        .unwrap_or_else(|| object.clone());
        let name = object
            .repository()
            .and_then(|guid| self.desired.names.get(&guid));
        self.desired.asked.means(&object, name)
    }

    /// Everything about one repository.
    fn one(&mut self, guid: Guid) {
        let object = Object::Repository(guid);
        // Who waits for a frozen file system cannot even be killed: whoever owns it.
        if self.base_blocked().is_none() && self.is_frozen(guid) {
            let thaw = |script: &mut Self| script.want(Step::Thaw(guid));
            self.exempt(|script| script.group(object.clone(), thaw));
        }
        if !self.is_meant(&object) {
            return;
        }
        if let Some(why) = self.base_blocked() {
            if self.desired.repositories.contains_key(&guid)
                || self.desired.acts.contains_key(&guid)
            {
                self.plan.blocked.entry(object).or_insert(why);
            }
            return;
        }
        let spec = self.desired.repositories.get(&guid);
        if let Some(act) = self.desired.acts.get(&guid) {
            self.exempt(|script| script.group(object, |script| script.act(guid, act)));
        } else if let Some(spec) = spec.filter(|_| !self.is_over(guid)) {
            self.whole_repository(spec);
        } else if self.desired.spent.contains(&guid) {
            self.group(object, |script| script.end_copy(guid));
        } else if self.retirement.repositories.contains(&guid) && !self.is_over(guid) {
            self.retire(guid);
        } else {
            // A manifest that is held back does not hold back what is due.
            let held = self.plan.blocked.remove(&object);
            self.exempt(|script| {
                script.group(object.clone(), |script| script.housekeeping(guid));
            });
            if let Some(why) = held {
                self.plan.blocked.entry(object).or_insert(why);
            }
        }
    }

    fn is_frozen(&self, guid: Guid) -> bool {
        let repo = self.repo(guid);
        repo.is_ok_and(|repo| repo.storage.frozen.known().is_some())
    }

    /// What everything stands on and cannot be had.
    pub(super) fn base_blocked(&self) -> Option<Blocked> {
        let on = |on: &str| Some(Blocked::DependencyBlocked { on: on.to_owned() });
        match self.plan.blocked.get(&Object::Datastore) {
            // What was told to stay closed keeps everything in it so.
            Some(why) if why.is_quiet() => return Some(why.clone()),
            Some(_) => return on("the datastore"),
            None => {}
        }
        match self.plan.blocked.get(&Object::Machine) {
            Some(Blocked::Immutable { .. }) => on("the machine's name"),
            _ => None,
        }
    }

    fn exempt<T>(&mut self, part: impl FnOnce(&mut Self) -> T) -> T {
        self.exempt = true;
        let done = part(self);
        self.exempt = false;
        done
    }

    /// Runs a part of the script: all of its steps are kept, or none. Returns
    /// whether it reached its end.
    pub(super) fn group(
        &mut self,
        object: Object,
        part: impl FnOnce(&mut Self) -> Result<(), Stop>,
    ) -> bool {
        if self.plan.blocked.contains_key(&object) {
            return false;
        }
        if let Some(why) = self.limits.tried.get(&object) {
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
                let guid = object.repository();
                if let Some(guid) = guid.filter(|guid| !self.is_trial(*guid)) {
                    // Without a daemon nothing runs that could be stopped.
                    if !self.repo(guid).is_ok_and(|repo| repo.daemon.is_absent()) {
                        self.plan.danger.insert(Danger::StopsUnseen(guid));
                    }
                    let takes_back = self.desired.may_take_back(guid);
                    let takes_back = takes_back.then_some(Danger::TakesBack(guid));
                    self.plan.danger.extend(takes_back);
                }
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

    pub(super) fn save(&self, object: &Object) -> Saved {
        if let Object::Route(name) = object {
            let routes = self.scratch.routes.known();
            let route = routes.and_then(|routes| routes.get(name));
            return Saved::Route(name.clone(), route.cloned().map(Box::new));
        }
        match object.repository() {
            Some(guid) => Saved::Repository(
                guid,
                self.scratch
                    .repositories
                    .known()
                    .and_then(|all| all.get(&guid))
                    .cloned(),
                Box::new(self.scratch.machine.clone()),
            ),
            None => Saved::All(Box::new(self.scratch.clone())),
        }
    }

    pub(super) fn restore(&mut self, saved: Saved) {
        match saved {
            Saved::All(actual) => self.scratch = *actual,
            Saved::Route(name, route) => {
                if let Part::Known(all) = &mut self.scratch.routes {
                    match route {
                        Some(route) => all.insert(name, *route),
                        None => all.remove(&name),
                    };
                }
            }
            Saved::Repository(guid, repo, machine) => {
                self.scratch.machine = *machine;
                if let Part::Known(all) = &mut self.scratch.repositories {
                    match repo {
                        Some(repo) => all.insert(guid, repo),
                        None => all.remove(&guid),
                    };
                }
            }
        }
    }

    /// Adds a step unless it holds.
    pub(super) fn want(&mut self, step: Step) -> Result<(), Stop> {
        if step.holds(&self.scratch)? {
            return Ok(());
        }
        self.gate(&step)?;
        step.ready(&self.scratch)?;
        // What is there to try changes costs nobody anything.
        let object = step.object();
        if !object.repository().is_some_and(|guid| self.is_trial(guid)) {
            self.plan.danger.extend(step.danger(&self.scratch));
        }
        step.effect(&mut self.scratch);
        self.plan.steps.push(step);
        Ok(())
    }

    /// Nothing of a repository changes for a source that does not own it, while
    /// it is suspended, or against its protection.
    fn gate(&self, step: &Step) -> Result<(), Stop> {
        let object = step.object();
        if let Object::Route(name) = &object {
            return self.gate_route(name);
        }
        let Some(guid) = object.repository() else {
            return Ok(());
        };
        let Some(record) = self.record(guid)? else {
            return Ok(());
        };
        if record.protected && matches!(step, Step::Record(_, Patch::Delete(Some(_)))) {
            return Err(Stop::Block(Blocked::Protected));
        }
        if self.exempt {
            return Ok(());
        }
        let ours = record.owner.is_none_or(|owner| owner == self.desired.owner);
        if !ours && !self.desired.asked.take_over {
            let owner = self.record(guid)?.and_then(|record| record.owner);
            let owner = owner.map(|owner| owner.source).unwrap_or_default();
            return Err(Stop::Block(Blocked::OwnedElsewhere { owner }));
        }
        let project = match &object {
            Object::Service(_, project) => record.suspended_projects.get(project),
            _ => None,
        };
        let now = self.scratch.now;
        let mut suspensions = record.suspended.iter().chain(project);
        if let Some(suspension) = suspensions.find(|suspension| suspension.holds_at(now)) {
            return Err(Stop::Block(Blocked::Suspended(suspension.clone())));
        }
        match step {
            Step::Up { guid, project, .. } => self.gate_start(*guid, project),
            _ => Ok(()),
        }
    }

    /// What dies again and again is not started for a while.
    fn gate_start(&self, guid: Guid, project: &ProjectSpec) -> Result<(), Stop> {
        let key = (guid, project.name.clone());
        let crash = self.desired.asked.crashing.get(&key);
        let Some(crash) = crash.filter(|crash| crash.revision == project.hash) else {
            return Ok(());
        };
        let repo = self.repo(guid)?;
        let containers = repo.containers.get()?;
        let containers = containers.and_then(|all| all.get(&project.name));
        let mut ended = containers.into_iter().flatten();
        let how = ended.find_map(|(name, one)| Some(format!("{name} {}", one.ended_badly()?)));
        Err(Stop::Block(Blocked::CrashLooping {
            how: how.unwrap_or_else(|| "its containers are gone".to_owned()),
            starts: crash.starts,
            until: crash.until,
        }))
    }

    fn gate_route(&self, name: &Name) -> Result<(), Stop> {
        let known = self.scratch.routes.get()?;
        let suspended = known.and_then(|routes| routes.get(name)?.suspended.as_ref());
        match suspended.filter(|suspension| suspension.holds_at(self.scratch.now)) {
            Some(suspension) if !self.exempt => {
                Err(Stop::Block(Blocked::Suspended(suspension.clone())))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn repo(&self, guid: Guid) -> Result<Shared<Repository>, Stop> {
        self.scratch.repository(guid)
    }

    pub(super) fn record(&self, guid: Guid) -> Result<Option<Record>, Stop> {
        let none = Repository::default();
        Ok(self.scratch.repo(guid, &none)?.record.get()?.cloned())
    }
}
