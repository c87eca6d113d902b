//! A simulated machine with folders of manifests small enough to be drawn at
//! random, and what is asked of both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use renet::execute::{LocalLocks, Options, Report, Shown, Silent, Wave, look, look_for, run};
use renet::host::sim::{Acting, Fault, SimHost, kind};
use renet::manifest::{
    ForkOf, Machine, MachineDatastore, Manifests, MovedFrom, Origin, Proxy, Route, Service,
};
use renet::model::{
    Act, Asked, Blocked, DeletionPolicy, Digest, Disk, Environment, FileEntry, FileSet, Gone, Guid,
    Layout, Name, NetworkId, Object, OnFailure, Owner, Part, Pbkdf, ProjectSpec, Prune, Record,
    ResourceLimits, RunState, Schedule, Seal, SecretRef, Size, StoreAct, Suspension, Tombstone,
};
use renet::plan::GRACE;
use renet::resolve::{Ids, Source};

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub fn owner() -> Owner {
    source_of("/etc/rediacc/desired")
}

pub fn source_of(path: &str) -> Owner {
    Owner {
        source: path.to_owned(),
    }
}

/// A folder.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    pub machine: Option<&'static str>,
    pub repositories: BTreeMap<u8, Repo>,
}

#[derive(Clone, Debug)]
pub struct Repo {
    pub size: u64,
    pub state: RunState,
    /// Project → revision of its image.
    pub projects: BTreeMap<u8, u8>,
    /// Which project depends on which.
    pub depends: BTreeSet<(u8, u8)>,
    pub route: bool,
    /// The Rediaccfile of its project 0.
    pub hook: Option<&'static str>,
    pub policy: DeletionPolicy,
    pub protected: bool,
    pub limits: ResourceLimits,
    pub moved_from: Option<MovedFrom>,
    pub guid: Option<Guid>,
    pub sealed: bool,
    pub autostart: Option<bool>,
    /// A snapshot every so many hours, and how many are kept.
    pub snapshots: Option<(i64, usize)>,
    pub on_failure: OnFailure,
    /// Whether its changes are tried on a copy first.
    pub fork_first: bool,
    /// The repository that this is a copy of, and for how many hours.
    pub fork: Option<(u8, Option<i64>)>,
}

/// Where the passphrases of all are.
pub fn passphrase() -> SecretRef {
    SecretRef::File("/etc/rediacc/keys/all".into())
}

impl Repo {
    /// Running, with these projects in their first revision, and routes to them.
    pub fn with(projects: &[u8]) -> Self {
        Self {
            size: 64,
            state: RunState::Running,
            projects: projects.iter().map(|project| (*project, 0)).collect(),
            depends: BTreeSet::new(),
            route: true,
            hook: None,
            policy: DeletionPolicy::Retain,
            protected: false,
            limits: ResourceLimits::default(),
            moved_from: None,
            guid: None,
            sealed: false,
            autostart: None,
            snapshots: None,
            on_failure: OnFailure::default(),
            fork_first: false,
            fork: None,
        }
    }

    /// With that project in that revision.
    pub fn at(mut self, project: u8, revision: u8) -> Self {
        self.projects.insert(project, revision);
        self
    }

    pub fn sealed(mut self) -> Self {
        self.sealed = true;
        self
    }

    pub fn hooked(mut self, text: &'static str) -> Self {
        self.hook = Some(text);
        self
    }

    pub fn tried_first(mut self) -> Self {
        self.fork_first = true;
        self
    }

    pub fn copy_of(mut self, parent: u8) -> Self {
        self.fork = Some((parent, None));
        self
    }

    pub fn with_snapshots(mut self, hours: i64, keep: usize) -> Self {
        self.snapshots = Some((hours, keep));
        self
    }

    fn origin(&self) -> Origin {
        match self.fork {
            Some((parent, hours)) => Origin::Fork(ForkOf {
                repository: name(&format!("r{parent}")),
                tag: None,
                ttl: hours.map(SignedDuration::from_hours),
            }),
            None => Origin::Blank(self.sealed.then(|| Seal {
                passphrase: passphrase(),
                pbkdf: Pbkdf::default(),
            })),
        }
    }

    /// Each project depends on the next one.
    pub fn in_chain(mut self) -> Self {
        let projects = self.projects.keys();
        let next = self.projects.keys().skip(1);
        self.depends = projects.copied().zip(next.copied()).collect();
        self
    }

    fn depends_on(&self, project: u8) -> BTreeSet<Name> {
        let depends = self.depends.iter();
        let on = depends.filter(|(of, on)| *of == project && self.projects.contains_key(on));
        on.map(|(_, on)| name(&format!("p{on}"))).collect()
    }

    pub fn deleted_without_manifest(mut self) -> Self {
        self.policy = DeletionPolicy::Delete;
        self
    }
}

/// So many repositories, each with one project and a route to it.
pub fn folder(repositories: u8) -> Folder {
    Folder {
        machine: Some("m1"),
        repositories: (0..repositories).map(|id| (id, Repo::with(&[0]))).collect(),
    }
}

impl Folder {
    pub fn without(&self, id: u8) -> Self {
        let mut less = self.clone();
        less.repositories.remove(&id);
        less
    }

    pub fn with(&self, id: u8, repo: Repo) -> Self {
        let mut more = self.clone();
        more.repositories.insert(id, repo);
        more
    }

    pub fn repo(&mut self, id: u8) -> &mut Repo {
        self.repositories.get_mut(&id).unwrap()
    }

    pub fn manifests(&self) -> Manifests {
        let machine = self.machine.map(|called| Machine {
            name: name(called),
            datastore: Some(MachineDatastore::File {
                size: Size::mib(4096),
                path: None,
            }),
            proxy: Proxy {
                http: 8088,
                ..Proxy::default()
            },
            overcommit: None,
            base_domain: None,
            variables: BTreeMap::new(),
        });
        let mut manifests = Manifests {
            machine: machine.map(Into::into),
            ..Manifests::default()
        };
        for (id, repo) in &self.repositories {
            let repository = name(&format!("r{id}"));
            manifests.repositories.insert(
                repository.clone(),
                renet::manifest::Repository {
                    name: repository.clone(),
                    size: Some(Size::mib(repo.size)),
                    origin: repo.origin(),
                    autostart: repo.autostart,
                    snapshots: repo.snapshots.map(|(hours, keep)| Schedule {
                        every: SignedDuration::from_hours(hours),
                        keep,
                    }),
                    state: repo.state,
                    guid: repo.guid,
                    network_id: None,
                    deletion_policy: repo.policy,
                    protected: repo.protected,
                    limits: repo.limits,
                    moved_from: repo.moved_from.clone(),
                }
                .into(),
            );
            for (id, revision) in &repo.projects {
                let (service, project) = (format!("s{id}"), name(&format!("p{id}")));
                manifests.services.insert(
                    (repository.clone(), project.clone()),
                    Service {
                        repository: repository.clone(),
                        name: project.clone(),
                        files: files(&service, *revision, repo.hook.filter(|_| *id == 0)),
                        compose_file: "compose.yml".parse().unwrap(),
                        services: vec![service.clone()],
                        environment: Environment::default(),
                        depends_on: repo.depends_on(*id),
                        healthy_within: ProjectSpec::HEALTHY_WITHIN,
                        on_failure: repo.on_failure,
                        fork_first: repo.fork_first,
                        limits: BTreeMap::new(),
                    }
                    .into(),
                );
                if repo.route {
                    let route = name(&format!("{repository}-{project}"));
                    manifests.routes.insert(
                        route.clone(),
                        Route {
                            host: format!("{route}.test").parse().unwrap(),
                            name: route,
                            repository: repository.clone(),
                            service,
                            port: 80,
                            tls: None,
                        }
                        .into(),
                    );
                }
            }
        }
        manifests
    }
}

/// The three functions.
pub const ALL: &str = "prep() { :; }; up() { :; }; down() { :; }";

/// The text of a Rediaccfile in one of its revisions.
pub fn hook_text(text: &str, revision: u8) -> String {
    format!("{text} # {revision}")
}

fn files(service: &str, revision: u8, hook: Option<&str>) -> Arc<FileSet> {
    let text = format!(r#"{{"services": {{"{service}": {{"image": "i:{revision}"}}}}}}"#);
    let mut files = BTreeMap::from([("compose.yml", text)]);
    files.extend(hook.map(|text| ("Rediaccfile", hook_text(text, revision))));
    let files = files.into_iter().map(|(path, text)| {
        let file = FileEntry::new(text.into_bytes(), false);
        (path.parse().unwrap(), file)
    });
    Arc::new(FileSet::new(files.collect()))
}

pub struct Lab {
    pub host: SimHost,
    pub layout: Layout,
    pub ids: Ids,
}

thread_local! {
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().build().unwrap();
}

impl Lab {
    pub fn new() -> Self {
        let host = SimHost::new();
        {
            let mut world = host.world();
            world.actual.now = "2026-01-01T00:00:00Z".parse().unwrap();
            world.actual.datastore.free = Part::Known(Size::mib(2048));
            world.actual.secrets = BTreeMap::from([(passphrase(), Part::Known(()))]);
        }
        Self {
            host,
            layout: Layout::new("/").unwrap(),
            ids: Ids::fixed(NetworkId::FIRST),
        }
    }

    /// A machine that has come to rest with that folder.
    pub fn at_rest(folder: &Folder) -> Self {
        let lab = Self::new();
        let report = lab.run(folder).unwrap();
        assert!(report.in_sync(), "{:?}", report.last.plan);
        lab
    }

    /// A machine whose datastore is to lie on a blank block device.
    pub fn on_disk() -> Self {
        let lab = Self::new();
        lab.give_disk();
        lab
    }

    /// Gives it a blank block device, which every Machine names from now on.
    pub fn give_disk(&self) {
        self.host.world().actual.datastore.disk = Part::Known(Disk {
            path: "/dev/disk".into(),
            size: Size::mib(4096),
            refused: None,
        });
    }

    /// Makes the block device larger, whatever is on it.
    pub fn grow_disk(&self, more: Size) {
        let store = &mut self.host.world().actual.datastore;
        if let Part::Known(disk) = &mut store.disk {
            disk.size = Size::bytes(disk.size.as_bytes() + more.as_bytes());
            for part in [&mut store.storage.file, &mut store.storage.device] {
                if let Part::Known(size) = part {
                    *size = disk.size;
                }
            }
        }
    }

    /// What the folder says of this machine.
    fn manifests(&self, folder: &Folder) -> Manifests {
        let mut manifests = folder.manifests();
        if let Part::Known(disk) = &self.host.world().actual.datastore.disk
            && let Some(machine) = &manifests.machine
        {
            let datastore = Some(MachineDatastore::Device(disk.path.clone()));
            let machine = Machine {
                datastore,
                ..(**machine).clone()
            };
            manifests.machine = Some(machine.into());
        }
        manifests
    }

    pub fn source(&self, folder: &Folder) -> Source {
        Source {
            owner: owner(),
            manifests: Arc::new(self.manifests(folder)),
            layout: self.layout.clone(),
            asked: Asked::default(),
            acts: BTreeMap::new(),
            store: None,
        }
    }

    pub fn pruning(&self, folder: &Folder, confirm: Option<&str>) -> Source {
        let mut source = self.source(folder);
        source.asked.prune = Prune::Retire(confirm.map(Digest::typed));
        source
    }

    pub fn command(&self, guid: Guid, act: Act) -> Source {
        Source {
            owner: source_of("command"),
            manifests: Arc::default(),
            layout: self.layout.clone(),
            asked: Asked::default(),
            acts: BTreeMap::from([(guid, act)]),
            store: None,
        }
    }

    /// `None` when renet was killed.
    pub fn run(&self, folder: &Folder) -> Option<Report> {
        self.run_source(&self.source(folder), Options::default())
    }

    /// Prunes too. `None` when renet was killed.
    pub fn prune(&self, folder: &Folder) -> Option<Report> {
        self.run_source(&self.pruning(folder, None), Options::default())
    }

    /// What the command line does with a command on one repository.
    pub fn act(&self, guid: Guid, act: Act) -> Option<Report> {
        let source = self.command(guid, act);
        self.run_command(&source, guid)
    }

    /// What the command line does with a command on a route or the machine.
    pub fn suspend(&self, object: Object, suspension: Option<Suspension>) -> Option<Report> {
        let nobody = Guid::new(uuid::Uuid::nil());
        let mut source = self.source(&Folder::default());
        source.owner = source_of("command");
        source.asked.suspend = BTreeMap::from([(object, suspension)]);
        self.run_command(&source, nobody)
    }

    /// From the look that was shown.
    fn run_command(&self, source: &Source, only: Guid) -> Option<Report> {
        let look = look_for(&self.host, source, &self.ids, only, None);
        let shown = RUNTIME.with(|runtime| runtime.block_on(look));
        never_not_ready(&shown);
        let options = Options {
            shown: Some(Shown::of(&shown.plan)),
            only: Some(only),
            first: Some(Box::new(shown)),
            ..Options::default()
        };
        self.run_source(source, options)
    }

    /// What the command line does with a command on the datastore.
    pub fn store(&self, act: StoreAct) -> Option<Report> {
        let mut source = self.source(&Folder::default());
        source.owner = source_of("command");
        source.store = Some(act);
        let options = Options {
            only: Some(Guid::new(uuid::Uuid::nil())),
            ..Options::default()
        };
        self.run_source(&source, options)
    }

    /// Runs exactly what was shown.
    pub fn run_shown(&self, source: &Source, shown: &Wave) -> Option<Report> {
        let options = Options {
            shown: Some(Shown::of(&shown.plan)),
            ..Options::default()
        };
        self.run_source(source, options)
    }

    pub fn look(&self, source: &Source) -> Wave {
        let wave = RUNTIME.with(|runtime| runtime.block_on(look(&self.host, source, &self.ids)));
        never_not_ready(&wave);
        shown_whole(&wave);
        wave
    }

    pub fn run_source(&self, source: &Source, options: Options) -> Option<Report> {
        self.host.world().begin(Acting {
            owner: source.owner.clone(),
            take_over: source.asked.take_over,
            retry: source.asked.retry,
            command: !source.acts.is_empty()
                || source.store.is_some()
                || !source.asked.suspend.is_empty(),
            told: source.acts.keys().copied().collect(),
        });
        let locks = LocalLocks::default();
        let report = RUNTIME.with(|runtime| runtime.block_on(async {
            tokio::select! {
                biased;
                report = run(&self.host, &locks, source, &self.ids, &options, &Silent) => Some(report),
                () = self.host.crash.notified() => None,
            }
        }));
        let world = self.host.world();
        assert!(world.violations.is_empty(), "{:#?}", world.violations);
        if let Some(report) = &report {
            never_not_ready(&report.last);
        }
        report
    }

    /// Faults, by how many steps from now they come.
    pub fn faults(&self, faults: &[(usize, Fault)]) {
        let mut world = self.host.world();
        let now = world.steps();
        world.faults = faults
            .iter()
            .map(|(at, fault)| (now + at, *fault))
            .collect();
    }

    /// The live repository of that name.
    pub fn guid(&self, called: &str) -> Guid {
        self.find(called, true)
            .unwrap_or_else(|| panic!("there is no live {called}"))
    }

    /// The live repository of that name, or a deleted one.
    pub fn find(&self, called: &str, live: bool) -> Option<Guid> {
        let world = self.host.world();
        let all = world.actual.repositories.known()?;
        all.iter()
            .find(|(_, repo)| {
                repo.record
                    .known()
                    .is_some_and(|record| record.name == name(called) && record.is_live() == live)
            })
            .map(|(guid, _)| *guid)
    }

    pub fn repo_of(&self, guid: Guid) -> renet::model::Repository {
        (*self.host.world().actual.repository(guid).unwrap()).clone()
    }

    pub fn record(&self, guid: Guid) -> Option<Record> {
        self.repo_of(guid).record.known().cloned()
    }

    pub fn content(&self, guid: Guid) -> Option<u64> {
        self.host.world().contents.get(&guid).copied()
    }

    pub fn contents(&self) -> BTreeMap<Guid, u64> {
        self.host.world().contents.clone()
    }

    pub fn now(&self) -> Timestamp {
        self.host.world().actual.now
    }

    pub fn later(&self, hours: i64) {
        self.host.world().actual.now += SignedDuration::from_hours(hours);
    }

    pub fn published(&self) -> BTreeSet<String> {
        let world = self.host.world();
        let published = world.actual.published.known().into_iter().flatten();
        published.map(|(name, _)| name.to_string()).collect()
    }

    pub fn suspension(&self) -> Suspension {
        Suspension {
            by: "root, repository down".to_owned(),
            since: self.now(),
            until: None,
            reason: None,
        }
    }

    /// What `repository delete` says.
    pub fn stone(&self, guid: Guid) -> Tombstone {
        Tombstone {
            at: self.now(),
            by: "root, repository delete".to_owned(),
            why: Gone::Command,
            due: self.now() + GRACE,
            held: self
                .record(guid)
                .is_some_and(|record| record.owner.is_some()),
            purged: false,
        }
    }

    pub fn delete(&self, guid: Guid) -> Act {
        Act::Delete {
            stone: self.stone(guid),
            permit: None,
        }
    }

    /// All records are gone, and what renet remembers of the machine.
    pub fn lose_records(&self) {
        let mut world = self.host.world();
        world.actual.machine = Part::Absent;
        for repo in world.repositories() {
            if repo.record.known().is_some_and(Record::is_uncleaned_fork) {
                repo.containers = Part::Absent;
            }
            repo.record = Part::Absent;
            repo.mirror = Part::Absent;
        }
    }
}

pub fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// What people are shown holds every step once, with its cause, and all that is
/// in the way.
fn shown_whole(wave: &Wave) {
    let changes = wave.changes();
    let steps = changes.objects.iter().flat_map(|change| &change.steps);
    assert!(steps.clone().all(|step| !step.because.is_empty()));
    assert_eq!(steps.count(), wave.plan.steps.len());
    let blocked = changes.objects.iter().filter(|one| one.blocked.is_some());
    let loud = wave.plan.blocked.values().filter(|why| !why.is_quiet());
    assert_eq!(blocked.count(), loud.count());
    assert_eq!(changes.in_sync, changes.objects.is_empty());
}

/// `NotReady` is a bug of the planner.
pub fn never_not_ready(wave: &Wave) {
    for (object, why) in &wave.plan.blocked {
        assert!(!matches!(why, Blocked::NotReady(_)), "{object:?}: {why:?}");
    }
}

/// The kinds of the steps that changed something, in order.
pub fn done(report: &Report) -> Vec<&'static str> {
    let performed = report.performed.iter();
    performed.map(|performed| kind(&performed.step)).collect()
}

/// The reason why nothing is done for the object.
pub fn reason<'a>(report: &'a Report, object: &Object) -> &'a str {
    match report.last.plan.blocked.get(object) {
        Some(why) => why.reason(),
        None => "",
    }
}

/// Where `first` comes among the steps done.
pub fn place(report: &Report, step: &str) -> usize {
    done(report)
        .iter()
        .position(|kind| *kind == step)
        .unwrap_or_else(|| panic!("no {step} in {:?}", done(report)))
}
