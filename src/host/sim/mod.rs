//! A simulated machine: a complete world, changed by `Step::effect` and by
//! faults, and seen through one function, [`veil`]. The same trait as the real
//! one, so that whole runs can be tried ten thousand times a second.

mod checks;
mod compose;
mod kinds;
mod veil;

pub use kinds::{KINDS, kind};
pub use veil::veil;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use self::veil::outline;
use super::{Blame, Cx, Done, Host, Scope, StepError};
use crate::model::{
    Actual, Container, ContainerState, Digest, Function, Guid, Health, Hook, HookRun, Made, Name,
    NetworkId, Owner, Part, Repository, Step, Volume, refines,
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

/// The status of a container that a power cut ended.
const KILLED: i64 = 137;

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 6] = [
        Fault::FailBefore,
        Fault::FailInside,
        Fault::FailAfter,
        Fault::CrashBefore,
        Fault::CrashInside,
        Fault::CrashAfter,
    ];
}

/// The simulated machine and everything about it that no `observe` can show.
#[derive(Debug, Default)]
pub struct World {
    /// The machine, complete: nothing in it is hidden.
    pub actual: Actual,
    /// Parts that cannot be read now.
    pub unreadable: BTreeSet<Unreadable>,
    /// Images (as services name them) that never get well, and digests of Rediaccfiles
    /// that fail.
    pub broken: BTreeSet<String>,
    /// Faults, by how many steps from now they come.
    pub faults: BTreeMap<usize, Fault>,
    /// What was in each snapshot.
    pub snapshots: BTreeMap<(Guid, Timestamp), Repository>,
    /// What is in each image whose place another took.
    replaced: BTreeMap<Guid, Repository>,
    /// What each image holds; a number that is never given twice.
    pub contents: BTreeMap<Guid, u64>,
    /// Addresses at which a service was once well.
    pub ever_well: BTreeSet<std::net::Ipv4Addr>,
    /// How often each kind of step was performed.
    pub performed: BTreeMap<&'static str, usize>,
    /// How much was looked at in this run, look by look.
    pub looks: Vec<Scope>,
    /// Broken promises: any entry is a bug.
    pub violations: Vec<String>,
    /// How long steps take; without it no time passes.
    pub pace: Option<fn(&Step) -> Duration>,
    /// Repositories on which whoever works on them panics.
    pub cursed: BTreeSet<Guid>,
    /// Repositories on which a step is being performed.
    at_work: BTreeSet<Guid>,
    /// On whose behalf the present run works, where that is to be watched.
    pub acting: Option<Acting>,
    /// The network of each running daemon: it outlives a lost record.
    networks: BTreeMap<Guid, NetworkId>,
    /// Revisions that failed for good, and in which run.
    failing: BTreeMap<(Guid, Name, Digest), u64>,
    run: u64,
    /// renet was killed: nothing that it had begun goes on.
    dead: bool,
    next_id: u64,
    steps: usize,
}

/// On whose behalf a run works: what it may change.
#[derive(Clone, Debug)]
pub struct Acting {
    /// Its source.
    pub owner: Owner,
    /// Whether it may take what belongs to others.
    pub take_over: bool,
    /// Whether failed revisions are tried again.
    pub retry: bool,
    /// Whether a command is carried out.
    pub command: bool,
    /// The repositories that it named.
    pub told: BTreeSet<Guid>,
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
    /// A run begins; a second has passed since the one before.
    pub fn begin(&mut self, acting: Acting) {
        self.acting = Some(acting);
        self.run += 1;
        self.dead = false;
        self.looks.clear();
        self.actual.now += jiff::SignedDuration::from_secs(1);
    }

    /// renet was killed and is started again.
    pub fn revive(&mut self) {
        self.dead = false;
    }

    /// How many steps were performed so far.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The machine as one would see it if everything could be read.
    fn veiled(&self) -> Actual {
        let mut actual = self.actual.clone();
        if let Part::Known(all) = &mut actual.repositories {
            for (guid, repo) in all {
                // Who has a record has its network there.
                if repo.record.is_absent() && !repo.daemon.is_absent() {
                    repo.stray_network = self.networks.get(guid).copied();
                }
            }
        }
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
        let routed = (!step.may_route()).then(|| self.routed());
        let started = match step {
            Step::StartDaemon { guid, .. } => {
                let daemon = self.actual.repo_mut(*guid).daemon.known();
                !daemon.is_some_and(|daemon| daemon.serving)
            }
            _ => false,
        };
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
            Step::Hook {
                guid,
                hook,
                function,
                ..
            } => self.run_hook(*guid, hook, *function),
            Step::Replace { guid, .. } => {
                let was = self.actual.repo_mut(*guid).clone();
                self.replaced.insert(*guid, was);
                step.effect(&mut self.actual);
            }
            _ => step.effect(&mut self.actual),
        }
        match step {
            Step::Replace { guid, with, .. } => {
                let was = self.snapshots[&(*guid, *with)].clone();
                let repo = self.actual.repo_mut(*guid);
                repo.revisions = was.revisions.clone();
                copy_contents(was, repo);
            }
            Step::KeepReplaced { guid, at } => {
                if let Some(was) = self.replaced.remove(guid) {
                    self.snapshots.insert((*guid, *at), was);
                }
            }
            Step::Snapshot { guid, at, .. } => {
                let copied = self.actual.repo_mut(*guid).clone();
                self.snapshots.insert((*guid, *at), copied);
            }
            Step::DropSnapshot { guid, at, .. } => {
                self.snapshots.remove(&(*guid, *at));
            }
            Step::Fork {
                guid,
                from,
                snapshot: Some(at),
            } => {
                let was = self.snapshots[&(*from, *at)].clone();
                copy_contents(was, self.actual.repo_mut(*guid));
            }
            _ => {}
        }
        if let Step::Fork { guid, .. } | Step::Replace { guid, .. } = step {
            // To the daemon of the copy they look as after a power cut.
            for container in containers(self.actual.repo_mut(*guid)) {
                container.state = ContainerState::Exited(KILLED);
            }
        }
        match step {
            Step::Format {
                volume: Volume::Image(guid),
                ..
            }
            | Step::Fork { guid, .. } => {
                let content = self.fresh();
                if self.contents.insert(*guid, content).is_some() {
                    self.violations
                        .push(format!("image {guid} was made over another"));
                }
            }
            Step::Purge { guid, .. } => {
                self.contents.remove(guid);
            }
            Step::CleanFork(guid) => self.actual.repo_mut(*guid).containers = Part::Absent,
            Step::StartDaemon { guid, network } => {
                self.networks.insert(*guid, *network);
                // What did not stop by itself or by a command is started again.
                for container in containers(self.actual.repo_mut(*guid)) {
                    if started && container.state == ContainerState::Exited(KILLED) {
                        container.state = ContainerState::Running;
                        container.health = Health::Starting;
                    }
                }
            }
            Step::StopDaemon { guid, .. } => {
                self.networks.remove(guid);
            }
            _ => {}
        }
        self.settle(step);
        self.check_after(step);
        if routed.is_some_and(|routed| routed != self.routed()) {
            let wrong = format!("{step}: routes lead elsewhere after it");
            self.violations.push(wrong);
        }
    }

    /// What a hook does here: its project has one container, or none.
    fn run_hook(&mut self, guid: Guid, hook: &Hook, function: Function) {
        let id = self.fresh().to_string();
        let boot = self.actual.boot.clone();
        let repo = self.actual.repo_mut(guid);
        repo.containers.or_known(BTreeMap::new());
        if let Part::Known(all) = &mut repo.containers {
            match function {
                Function::Prep => {}
                Function::Up => {
                    let container = Container {
                        id: Made::Is(id.clone()),
                        started: Made::Is(id),
                        config_hash: hook.inputs.to_string(),
                        stale_image: false,
                        state: ContainerState::Running,
                        health: Health::Healthy,
                        last_line: None,
                        everywhere: BTreeSet::new(),
                    };
                    let own = BTreeMap::from([("hook".to_owned(), container)]);
                    all.insert(hook.project.clone(), own);
                }
                Function::Down => drop(all.remove(&hook.project)),
            }
        }
        let own = (function == Function::Up).then(|| format!("{}-hook-1", hook.project));
        let run = HookRun {
            inputs: hook.inputs.clone(),
            status: 0,
            boot,
            containers: own.into_iter().collect(),
        };
        if let Part::Known(record) = &mut repo.record {
            run.note(&hook.project, function, record);
        }
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
}

/// What is in an image.
fn copy_contents(from: Repository, to: &mut Repository) {
    to.storage.header = from.storage.header;
    to.slots = from.slots;
    to.files = from.files;
    to.hooks = from.hooks;
    to.images = from.images;
    to.containers = from.containers;
}

fn containers(repo: &mut Repository) -> impl Iterator<Item = &mut crate::model::Container> {
    repo.containers
        .known_mut()
        .into_iter()
        .flat_map(BTreeMap::values_mut)
        .flat_map(BTreeMap::values_mut)
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
            Step::Wait { project, .. } if never(project) => {
                Some(cx.limit(project).saturating_sub(cx.waited))
            }
            _ => Some(pace(step)),
        }
    }

    fn perform(&mut self, step: &Step) -> Outcome {
        if self.dead {
            return Outcome::Died;
        }
        let outcome = self.attempt(step);
        self.dead = matches!(outcome, Outcome::Died);
        outcome
    }

    fn attempt(&mut self, step: &Step) -> Outcome {
        let fault = self.faults.remove(&self.steps);
        self.steps += 1;
        *self.performed.entry(kind(step)).or_default() += 1;
        if fault.is_some() {
            // The note that a revision failed may be lost in this run.
            let run = self.run;
            self.failing.retain(|_, of| *of != run);
        }
        let seen = self.seen();
        match step.holds(&seen) {
            Ok(true) => return Outcome::Done(Done::Already),
            Ok(false) => {}
            Err(_) => return Outcome::Failed(StepError::machine("refused: it cannot be seen")),
        }
        if step.ready(&seen).is_err() {
            return Outcome::Failed(StepError::machine("refused: not ready"));
        }
        self.check_before(step, &seen);
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
                // What lives on lets the writers go on.
                for repo in self.repositories() {
                    repo.storage.frozen = Part::Absent;
                }
                return failed(Blame::Machine);
            }
            Some(Fault::CrashInside) => {
                residue(self);
                return Outcome::Died;
            }
            Some(Fault::FailAfter | Fault::CrashAfter) | None => {}
        }
        if let Step::Wait { guid, project, .. } = step
            && project
                .services
                .values()
                .any(|service| self.broken.contains(&service.image))
        {
            let failing = (*guid, project.name.clone(), project.hash.clone());
            self.failing.insert(failing, self.run);
            return failed(Blame::Revision);
        }
        if let Step::Hook {
            guid,
            hook,
            function,
            ..
        } = step
            && self.broken.contains(hook.text.as_str())
        {
            let run = HookRun {
                inputs: hook.inputs.clone(),
                status: 1,
                boot: self.actual.boot.clone(),
                containers: BTreeSet::new(),
            };
            if let Part::Known(record) = &mut self.actual.repo_mut(*guid).record {
                run.note(&hook.project, *function, record);
            }
            return failed(Blame::Revision);
        }
        let mut predicted = match self.unreadable.is_empty() {
            true => seen,
            false => self.veiled(),
        };
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
            storage.mapper = Part::Absent;
            storage.frozen = Part::Absent;
            storage.mount = Part::Absent;
        };
        let store = &mut self.actual.datastore;
        close(&mut store.storage);
        if store.disk.known().is_some() {
            store.storage.device = store.storage.file.clone();
        }
        self.actual.proxy = Part::Absent;
        self.actual.boot = self.fresh().to_string();
        self.networks.clear();
        for repo in self.repositories() {
            close(&mut repo.storage);
            repo.daemon = Part::Absent;
            for container in containers(repo) {
                container.state = ContainerState::Exited(KILLED);
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
            .map(|repo| &mut **repo)
    }

    /// Every container of a repository, to change it behind renet's back.
    pub fn containers(&mut self) -> impl Iterator<Item = &mut crate::model::Container> {
        self.repositories().flat_map(containers)
    }

    /// Forgets a failed revision's mark, as `--retry` would not need.
    pub fn failed(&self) -> BTreeMap<(Guid, Name), BTreeSet<Digest>> {
        let all = self.actual.repositories.known();
        all.into_iter()
            .flatten()
            .filter_map(|(guid, repo)| Some((guid, repo.record.known()?)))
            .flat_map(|(guid, record)| {
                record
                    .failed
                    .iter()
                    .map(|(name, failed)| ((*guid, name.clone()), failed.clone()))
            })
            .collect()
    }
}

impl Host for SimHost {
    async fn observe(&self, scope: Scope) -> Actual {
        let mut world = self.world();
        world.looks.push(scope);
        let mut seen = world.seen();
        drop(world);
        for (guid, repo) in seen.repositories.known_mut().into_iter().flatten() {
            if !scope.covers(*guid) {
                outline(repo);
            }
        }
        seen
    }

    async fn perform(&self, step: &Step, cx: &Cx) -> Result<Done, StepError> {
        let _alone = AtWork::on(self, step);
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
struct AtWork<'a>(&'a SimHost, Option<Guid>);

impl<'a> AtWork<'a> {
    fn on(host: &'a SimHost, step: &Step) -> Self {
        let guid = step.object().repository().filter(|_| !step.only_waits());
        if let Some(guid) = guid {
            let mut world = host.world();
            if !world.at_work.insert(guid) {
                let what = format!("{step}: something else is being done to {guid}");
                world.violations.push(what);
            }
        }
        Self(host, guid)
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        if let Some(guid) = self.1 {
            self.0.world().at_work.remove(&guid);
        }
    }
}
