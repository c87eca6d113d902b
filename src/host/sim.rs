//! A simulated machine: a complete world, changed by `Step::effect` and by
//! faults, and seen through one function, [`veil`]. The same trait as the real
//! one, so that whole runs can be tried ten thousand times a second.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::{Blame, ComposeDoor, ComposeInput, ComposeOutput, Cx, Done, Host, Scope, StepError};
use crate::model::{
    Actual, ContainerState, Daemon, Digest, Guid, Health, Made, Name, Part, Repository, Step,
    Volume, refines,
};

/// What goes wrong at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails and changes nothing.
    FailBefore,
    /// It fails inside and leaves its residue.
    FailInside,
    /// It fails although it is done.
    FailAfter,
    /// renet dies before it.
    CrashBefore,
    /// renet dies inside it.
    CrashInside,
    /// renet dies right after it.
    CrashAfter,
}

/// The simulated machine and everything about it that no `observe` can show.
#[derive(Debug, Default)]
pub struct World {
    /// The machine, complete: nothing in it is hidden.
    pub actual: Actual,
    /// Parts that cannot be read now.
    pub unreadable: BTreeSet<Unreadable>,
    /// Images (as services name them) that never get well.
    pub broken: BTreeSet<String>,
    /// Faults, by how many steps from now they come.
    pub faults: BTreeMap<usize, Fault>,
    /// What each image holds; a number that is never given twice.
    pub contents: BTreeMap<Guid, u64>,
    /// Addresses at which a service was once well.
    pub ever_well: BTreeSet<std::net::Ipv4Addr>,
    /// How often each kind of step was performed.
    pub performed: BTreeMap<String, usize>,
    /// Broken promises: any entry is a bug.
    pub violations: Vec<String>,
    /// How long steps take; without it no time passes.
    pub pace: Option<fn(&Step) -> Duration>,
    /// Repositories on which whoever works on them panics.
    pub cursed: BTreeSet<Guid>,
    /// Repositories on which a step is being performed.
    acting: BTreeSet<Guid>,
    next_id: u64,
    steps: usize,
}

/// A part that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unreadable {
    /// A torn record.
    Record(Guid),
    /// A daemon that does not answer.
    Daemon(Guid),
    /// The slots file.
    Slots(Guid),
    /// The published route table.
    Published,
}

/// Hides what cannot be seen in the state the machine is in: the only place
/// that says so.
pub fn veil(actual: &mut Actual) {
    let store = &mut actual.datastore;
    let mounted = store.storage.mount.known().is_some();
    if !mounted {
        let there = !store.storage.file.is_absent();
        fn close<T>(there: bool, part: &mut Part<T>) {
            *part = if there { Part::Hidden } else { Part::Absent };
        }
        close(there, &mut store.layout);
        close(there, &mut actual.machine);
        close(there, &mut actual.repositories);
        return;
    }
    let Part::Known(all) = &mut actual.repositories else {
        return;
    };
    for repo in all.values_mut() {
        let image = !repo.storage.file.is_absent() || !repo.trash.is_absent();
        if repo.storage.mount.known().is_none() {
            fn close<T>(image: bool, part: &mut Part<T>) {
                *part = if image { Part::Hidden } else { Part::Absent };
            }
            close(image, &mut repo.slots);
            close(image, &mut repo.files);
        }
        if !matches!(repo.daemon, Part::Known(Daemon { serving: true, .. })) {
            let left = image || !repo.daemon.is_absent();
            repo.images = if left { Part::Hidden } else { Part::Absent };
            repo.containers = if left { Part::Hidden } else { Part::Absent };
        }
    }
    all.retain(|_, repo| !repo.is_nothing());
}

/// What is seen of a repository that is not in scope.
fn outline(repo: &mut Repository) {
    repo.storage.device = Part::Hidden;
    repo.storage.mount = Part::Hidden;
    repo.slots = Part::Hidden;
    repo.files = Part::Hidden;
    repo.daemon = Part::Hidden;
    repo.images = Part::Hidden;
    repo.containers = Part::Hidden;
}

/// The simulated host.
#[derive(Debug, Default)]
pub struct SimHost {
    world: Mutex<World>,
    /// Told when a fault kills renet.
    pub crash: tokio::sync::Notify,
}

impl SimHost {
    /// A machine with nothing on it.
    pub fn new() -> Self {
        Self::default()
    }

    /// The world, to look at or to change.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    /// The machine as one would see it if everything could be read.
    fn veiled(&self) -> Actual {
        let mut actual = self.actual.clone();
        veil(&mut actual);
        actual
    }

    /// What renet can see.
    pub fn seen(&self) -> Actual {
        let mut actual = self.veiled();
        for part in &self.unreadable {
            let why = || "cannot be read".to_owned();
            if *part == Unreadable::Published {
                actual.published = Part::Unknown(why());
            }
            let Part::Known(all) = &mut actual.repositories else {
                continue;
            };
            match part {
                Unreadable::Record(guid) => {
                    if let Some(repo) = all.get_mut(guid).filter(|repo| !repo.record.is_absent()) {
                        repo.record = Part::Unknown(why());
                    }
                }
                Unreadable::Daemon(guid) => {
                    if let Some(repo) = all.get_mut(guid).filter(|repo| !repo.daemon.is_absent()) {
                        repo.daemon = Part::Unknown(why());
                        repo.images = Part::Unknown(why());
                        repo.containers = Part::Unknown(why());
                    }
                }
                Unreadable::Slots(guid) => {
                    if let Some(repo) = all
                        .get_mut(guid)
                        .filter(|repo| repo.slots.known().is_some())
                    {
                        repo.slots = Part::Unknown(why());
                    }
                }
                Unreadable::Published => {}
            }
        }
        actual
    }

    fn fresh(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// What the step really does.
    fn happen(&mut self, step: &Step) {
        match step {
            // These only close: what is behind stays what it was.
            Step::Unmount(volume) => self.actual.storage_mut(*volume).mount = Part::Absent,
            Step::StopDaemon { guid, .. } => {
                let repo = self.actual.repo_mut(*guid);
                repo.daemon = Part::Absent;
                for container in containers(repo) {
                    if container.state == ContainerState::Running {
                        container.state = ContainerState::Exited(143);
                    }
                }
            }
            _ => step.effect(&mut self.actual),
        }
        if let Step::Format {
            volume: Volume::Image(guid),
            ..
        } = step
        {
            let content = self.fresh();
            if self.contents.insert(*guid, content).is_some() {
                self.violations
                    .push(format!("image {guid} was made over another"));
            }
        }
        self.settle(step);
    }

    /// Gives new containers their ids, and lets time pass for them.
    fn settle(&mut self, step: &Step) {
        let mut next = self.next_id;
        let Step::Up { guid, project, .. } = step else {
            if let Step::Wait { project, .. } = step {
                self.ever_well
                    .extend(project.services.values().map(|service| service.address));
            }
            return;
        };
        let broken = &self.broken;
        let repo = self.actual.repo_mut(*guid);
        let all = repo
            .containers
            .known_mut()
            .and_then(|all| all.get_mut(&project.name));
        for (name, container) in all.into_iter().flatten() {
            if container.id != Made::New {
                continue;
            }
            next += 1;
            container.id = Made::Is(next.to_string());
            container.started = Made::Is(next.to_string());
            let sick = broken.contains(&project.services[name].image);
            container.health = if sick {
                Health::Unhealthy
            } else {
                Health::Starting
            };
        }
        self.next_id = next;
    }

    fn check_before(&mut self, step: &Step) {
        let seen = self.seen();
        let repo_of = |guid: &Guid| {
            seen.repositories
                .known()
                .and_then(|all| all.get(guid))
                .cloned()
                .unwrap_or_default()
        };
        match step {
            Step::PublishRoutes(table) => {
                for (name, entry) in table {
                    if !self.ever_well.contains(entry.backend.ip()) {
                        self.violations
                            .push(format!("route {name} leads to what never ran"));
                    }
                }
            }
            Step::Format { volume, .. } => {
                let storage = self.actual.storage(*volume);
                if storage.is_ok_and(|storage| !storage.file.is_absent()) {
                    self.violations
                        .push(format!("format of {volume} over data"));
                }
            }
            Step::WriteFiles { guid, .. } | Step::WriteSlots(guid, _)
                if repo_of(guid).storage.mount.known().is_none() =>
            {
                self.violations
                    .push(format!("wrote into the closed {guid}"));
            }
            Step::Up { guid, project, .. } => {
                let record = repo_of(guid).record;
                if !record
                    .known()
                    .is_some_and(|record| record.projects.contains(&project.name))
                {
                    self.violations
                        .push(format!("started {project:?} without owning it"));
                }
            }
            _ => {}
        }
        let guid = step.object().repository();
        let unknown = guid.map(|guid| repo_of(&guid).record.is_unknown());
        if unknown == Some(true) {
            self.violations
                .push(format!("{step} on a repository with an unreadable record"));
        }
    }
}

fn containers(repo: &mut Repository) -> impl Iterator<Item = &mut crate::model::Container> {
    repo.containers
        .known_mut()
        .into_iter()
        .flat_map(BTreeMap::values_mut)
        .flat_map(BTreeMap::values_mut)
}

/// The variant's name, for counting.
fn kind(step: &Step) -> String {
    let text = format!("{step:?}");
    text.split(|c: char| !c.is_alphanumeric())
        .next()
        .unwrap_or_default()
        .to_owned()
}

enum Outcome {
    Done(Done),
    Failed(StepError),
    Died,
}

impl World {
    /// How long the step takes; what cannot get well is waited for to the end.
    fn takes(&self, step: &Step, cx: &Cx) -> Option<Duration> {
        let pace = self.pace?;
        let cursed = step.object().repository();
        assert!(
            !cursed.is_some_and(|guid| self.cursed.contains(&guid)),
            "cursed"
        );
        let never = |project: &crate::model::ProjectSpec| {
            let mut services = project.services.values();
            services.any(|service| self.broken.contains(&service.image))
        };
        match step {
            Step::Wait { project, .. } if never(project) => Some(cx.wait),
            _ => Some(pace(step)),
        }
    }

    fn perform(&mut self, step: &Step) -> Outcome {
        let fault = self.faults.remove(&self.steps);
        self.steps += 1;
        *self.performed.entry(kind(step)).or_default() += 1;
        let seen = self.seen();
        match step.holds(&seen) {
            Ok(true) => return Outcome::Done(Done::Already),
            Ok(false) => {}
            Err(_) => return Outcome::Failed(StepError::machine("refused: it cannot be seen")),
        }
        if step.ready(&seen).is_err() {
            return Outcome::Failed(StepError::machine("refused: not ready"));
        }
        self.check_before(step);
        let failed = |blame| {
            Outcome::Failed(StepError {
                blame,
                program: Some("sim (exit 1)".to_owned()),
                message: "injected".to_owned(),
            })
        };
        let residue = |world: &mut World| {
            let left = step.residue(&world.actual).into_iter().next();
            if let Some(left) = left {
                world.actual = left;
                world.settle(step);
            }
        };
        match fault {
            Some(Fault::CrashBefore) => return Outcome::Died,
            Some(Fault::FailBefore) => return failed(Blame::Machine),
            Some(Fault::FailInside) => {
                residue(self);
                return failed(Blame::Machine);
            }
            Some(Fault::CrashInside) => {
                residue(self);
                return Outcome::Died;
            }
            Some(Fault::FailAfter | Fault::CrashAfter) | None => {}
        }
        if let Step::Wait { project, .. } = step
            && project
                .services
                .values()
                .any(|service| self.broken.contains(&service.image))
        {
            return failed(Blame::Revision);
        }
        let mut predicted = self.veiled();
        self.happen(step);
        step.effect(&mut predicted);
        if let Err(why) = refines(&self.veiled(), &predicted) {
            self.violations.push(format!("{step}: {why}"));
        }
        match fault {
            Some(Fault::FailAfter) => failed(Blame::Machine),
            Some(Fault::CrashAfter) => Outcome::Died,
            _ => Outcome::Done(Done::Changed),
        }
    }

    /// The machine loses power and comes back.
    pub fn reboot(&mut self) {
        let close = |storage: &mut crate::model::Storage| {
            storage.device = Part::Absent;
            storage.mount = Part::Absent;
        };
        close(&mut self.actual.datastore.storage);
        self.actual.proxy = Part::Absent;
        for repo in self.repositories() {
            close(&mut repo.storage);
            repo.daemon = Part::Absent;
            for container in containers(repo) {
                container.state = ContainerState::Exited(137);
            }
        }
    }

    /// Every repository, to change it behind renet's back.
    pub fn repositories(&mut self) -> impl Iterator<Item = &mut Repository> {
        self.actual
            .repositories
            .known_mut()
            .into_iter()
            .flat_map(BTreeMap::values_mut)
    }

    /// Every container of a repository, to change it behind renet's back.
    pub fn containers(&mut self) -> impl Iterator<Item = &mut crate::model::Container> {
        self.repositories().flat_map(containers)
    }

    /// Forgets a failed revision's mark, as `--retry` would not need.
    pub fn failed(&self) -> BTreeMap<(Guid, Name), Digest> {
        let all = self.actual.repositories.known();
        all.into_iter()
            .flatten()
            .filter_map(|(guid, repo)| Some((guid, repo.record.known()?)))
            .flat_map(|(guid, record)| {
                record
                    .failed
                    .iter()
                    .map(|(name, hash)| ((*guid, name.clone()), hash.clone()))
            })
            .collect()
    }
}

impl Host for SimHost {
    async fn observe(&self, scope: Scope) -> Actual {
        let mut seen = self.world().seen();
        for (guid, repo) in seen.repositories.known_mut().into_iter().flatten() {
            if !scope.covers(*guid) {
                outline(repo);
            }
        }
        seen
    }

    async fn perform(&self, step: &Step, cx: &Cx) -> Result<Done, StepError> {
        let _alone = Acting::on(self, step);
        let takes = self.world().takes(step, cx);
        if let Some(takes) = takes {
            tokio::time::sleep(takes).await;
        }
        let outcome = self.world().perform(step);
        match outcome {
            Outcome::Done(done) => Ok(done),
            Outcome::Failed(error) => Err(error),
            Outcome::Died => {
                self.crash.notify_one();
                std::future::pending().await
            }
        }
    }
}

/// Two steps on one repository at once are a broken promise; a wait is none.
struct Acting<'a>(&'a SimHost, Option<Guid>);

impl<'a> Acting<'a> {
    fn on(host: &'a SimHost, step: &Step) -> Self {
        let guid = step.object().repository().filter(|_| !step.only_waits());
        if let Some(guid) = guid {
            let mut world = host.world();
            if !world.acting.insert(guid) {
                let what = format!("{step}: something else is being done to {guid}");
                world.violations.push(what);
            }
        }
        Self(host, guid)
    }
}

impl Drop for Acting<'_> {
    fn drop(&mut self) {
        if let Some(guid) = self.1 {
            self.0.world().acting.remove(&guid);
        }
    }
}

impl ComposeDoor for SimHost {
    async fn config(&self, input: &ComposeInput) -> Result<Value, String> {
        let file = input
            .files
            .files()
            .get(&input.compose_file)
            .ok_or_else(|| format!("{}: no such file", input.compose_file))?;
        // YAML is a superset of JSON: simulated projects are written as JSON.
        let mut config: Value =
            serde_json::from_slice(&file.bytes).map_err(|error| error.to_string())?;
        let services = config["services"].as_object_mut().into_iter().flatten();
        for build in services.filter_map(|(_, service)| service.get_mut("build")) {
            if build["context"] == "." {
                let place = format!("/mnt/rediacc/mounts/{}/{}", input.guid, input.project);
                build["context"] = Value::String(place);
            }
        }
        Ok(config)
    }

    async fn hashes(
        &self,
        _input: &ComposeInput,
        text: &str,
    ) -> Result<BTreeMap<String, String>, String> {
        let text: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let services = text["services"].as_object().ok_or("no services")?;
        let hash = |service: &Value| Digest::of(service.to_string().as_bytes()).to_string();
        Ok(services
            .iter()
            .map(|(name, service)| (name.clone(), hash(service)))
            .collect())
    }

    fn recall(&self, _key: &Digest) -> Option<ComposeOutput> {
        None
    }

    fn remember(&self, _key: &Digest, _output: &ComposeOutput) {}
}
