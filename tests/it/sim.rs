//! Whole runs on the simulated machine: from any state it can reach, with any
//! fault and a crash anywhere, `apply` converges or is blocked for a public
//! reason, and the next run does nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use renet::execute::{LocalLocks, Options, Report, Shown, Silent, look, run};
use renet::host::sim::{Fault, SimHost, Unreadable};
use renet::manifest::{Machine, MachineDatastore, Manifests, Proxy, Repository, Route, Service};
use renet::model::{
    Asked, Blocked, ContainerState, Daemon, DeletionPolicy, FileEntry, FileSet, Layout,
    MachineRecord, Name, NetworkId, Object, Owner, Part, RunState, Size,
};
use renet::resolve::{Ids, Source};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// A folder, small enough to be drawn at random.
#[derive(Clone, Debug)]
pub struct World {
    pub repositories: BTreeMap<u8, Repo>,
}

#[derive(Clone, Debug)]
pub struct Repo {
    pub size: u64,
    pub state: RunState,
    /// Project → revision of its image.
    pub projects: BTreeMap<u8, u8>,
    pub route: bool,
}

impl World {
    pub fn manifests(&self) -> Manifests {
        let mut manifests = Manifests {
            machine: Some(Machine {
                name: name("m1"),
                datastore: Some(MachineDatastore {
                    size: Size::mib(4096),
                    backing_file: None,
                }),
                proxy: Proxy { http: 8088 },
            }),
            ..Manifests::default()
        };
        for (id, repo) in &self.repositories {
            let repository = name(&format!("r{id}"));
            manifests.repositories.insert(
                repository.clone(),
                Repository {
                    name: repository.clone(),
                    size: Size::mib(repo.size),
                    state: repo.state,
                    guid: None,
                    network_id: None,
                    deletion_policy: DeletionPolicy::Retain,
                    protected: false,
                    moved_from: None,
                },
            );
            for (project, revision) in &repo.projects {
                let (service, project) = (format!("s{project}"), name(&format!("p{project}")));
                manifests.services.insert(
                    (repository.clone(), project.clone()),
                    Service {
                        repository: repository.clone(),
                        name: project.clone(),
                        files: compose_file(&service, *revision),
                        compose_file: "compose.yml".parse().unwrap(),
                        services: vec![service.clone()],
                    },
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
                        },
                    );
                }
            }
        }
        manifests
    }
}

fn compose_file(service: &str, revision: u8) -> Arc<FileSet> {
    let text = format!(r#"{{"services": {{"{service}": {{"image": "i:{revision}"}}}}}}"#);
    let file = FileEntry {
        bytes: text.into_bytes().into(),
        executable: false,
    };
    Arc::new(FileSet::new(BTreeMap::from([(
        "compose.yml".parse().unwrap(),
        file,
    )])))
}

#[derive(Clone, Debug)]
enum Op {
    Edit(World),
    Run(Vec<(usize, Fault)>),
    Reboot,
    Break(u8),
    Drift(u8, Drift),
}

#[derive(Clone, Copy, Debug)]
enum Drift {
    Container,
    ContainerGone,
    Daemon,
    Supervisor,
    Umount,
    Routes,
    Proxy,
    Files,
    TornRecord,
    DeafDaemon,
    TornSlots,
    UnreadableRoutes,
}

struct Lab {
    host: SimHost,
    layout: Layout,
    runtime: tokio::runtime::Runtime,
}

impl Lab {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        Self {
            host: SimHost::new(),
            layout: Layout::new("/").unwrap(),
            runtime,
        }
    }

    fn source(&self, manifests: &Manifests) -> Source {
        Source {
            owner: owner(),
            manifests: Arc::new(manifests.clone()),
            layout: self.layout.clone(),
            asked: Asked::default(),
            acts: BTreeMap::new(),
        }
    }

    /// `None` when renet was killed.
    fn run(&self, manifests: &Manifests) -> Option<Report> {
        self.run_source(&self.source(manifests))
    }

    fn run_source(&self, source: &Source) -> Option<Report> {
        let (options, locks) = (Options::default(), LocalLocks::default());
        let ids = Ids::fixed(NetworkId::FIRST);
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                report = run(&self.host, &locks, source, &ids, &options, &Silent) => Some(report),
                () = self.host.crash.notified() => None,
            }
        })
    }

    fn drift(&self, which: u8, drift: Drift) {
        let mut world = self.host.world();
        let guids: Vec<_> = world
            .actual
            .repositories
            .known()
            .into_iter()
            .flat_map(|all| all.keys().copied())
            .collect();
        let Some(guid) = guids.get(usize::from(which) % guids.len().max(1)).copied() else {
            return;
        };
        match drift {
            Drift::TornRecord => world.unreadable.insert(Unreadable::Record(guid)),
            Drift::DeafDaemon => world.unreadable.insert(Unreadable::Daemon(guid)),
            Drift::TornSlots => world.unreadable.insert(Unreadable::Slots(guid)),
            Drift::UnreadableRoutes => world.unreadable.insert(Unreadable::Published),
            _ => false,
        };
        match drift {
            Drift::Routes => world.actual.published = Part::Absent,
            Drift::Proxy => world.actual.proxy = Part::Absent,
            _ => {}
        }
        let repo = world.actual.repo_mut(guid);
        match drift {
            Drift::Container | Drift::ContainerGone => {
                for containers in repo
                    .containers
                    .known_mut()
                    .into_iter()
                    .flat_map(BTreeMap::values_mut)
                {
                    if matches!(drift, Drift::ContainerGone) {
                        containers.clear();
                    }
                    for container in containers.values_mut() {
                        container.state = ContainerState::Exited(137);
                    }
                }
            }
            Drift::Daemon if repo.daemon.known().is_some() => {
                let left = Daemon {
                    serving: false,
                    supervised: false,
                };
                repo.daemon = Part::Known(left);
            }
            Drift::Supervisor => {
                if let Part::Known(daemon) = &mut repo.daemon {
                    daemon.supervised = false;
                }
            }
            Drift::Umount => repo.storage.mount = Part::Absent,
            Drift::Files => {
                for files in repo
                    .files
                    .known_mut()
                    .into_iter()
                    .flat_map(BTreeMap::values_mut)
                {
                    files.digest = renet::model::Digest::of(b"edited by hand");
                }
            }
            _ => {}
        }
    }
}

fn owner() -> Owner {
    Owner {
        source: "/etc/rediacc/desired".to_owned(),
    }
}

fn repo() -> impl Strategy<Value = Repo> {
    let state = prop_oneof![
        6 => Just(RunState::Running),
        1 => Just(RunState::Stopped),
        2 => Just(RunState::Offline),
    ];
    let projects = prop::collection::btree_map(0..2_u8, 0..3_u8, 0..3);
    (64..200_u64, state, projects, any::<bool>()).prop_map(|(size, state, projects, route)| Repo {
        size,
        state,
        projects,
        route,
    })
}

fn world() -> impl Strategy<Value = World> {
    prop::collection::btree_map(0..3_u8, repo(), 1..3)
        .prop_map(|repositories| World { repositories })
}

fn fault() -> impl Strategy<Value = Fault> {
    prop::sample::select(vec![
        Fault::FailBefore,
        Fault::FailInside,
        Fault::FailAfter,
        Fault::CrashBefore,
        Fault::CrashInside,
        Fault::CrashAfter,
    ])
}

fn op() -> impl Strategy<Value = Op> {
    let drift = prop::sample::select(vec![
        Drift::Container,
        Drift::ContainerGone,
        Drift::Daemon,
        Drift::Supervisor,
        Drift::Umount,
        Drift::Routes,
        Drift::Proxy,
        Drift::Files,
        Drift::TornRecord,
        Drift::DeafDaemon,
        Drift::TornSlots,
        Drift::UnreadableRoutes,
    ]);
    prop_oneof![
        2 => world().prop_map(Op::Edit),
        4 => prop::collection::vec((0..24_usize, fault()), 0..3).prop_map(Op::Run),
        1 => Just(Op::Reboot),
        1 => (0..3_u8).prop_map(Op::Break),
        4 => (any::<u8>(), drift).prop_map(|(which, drift)| Op::Drift(which, drift)),
    ]
}

/// What a fault-free plan may say, given nothing unreadable and one source.
fn is_public(object: &Object, why: &Blocked) -> bool {
    match why {
        Blocked::NotReady(_) | Blocked::Unknown(_) | Blocked::NotShown => false,
        Blocked::DependencyBlocked { .. } => !matches!(object, Object::Datastore | Object::Machine),
        _ => true,
    }
}

/// Plays a history, then lets it come to rest. Returns what was performed.
fn history(first: &World, ops: &[Op]) -> BTreeMap<String, usize> {
    let lab = Lab::new();
    let mut wanted = first.manifests();
    for op in ops {
        match op {
            Op::Edit(next) => wanted = next.manifests(),
            Op::Run(faults) => {
                {
                    let mut world = lab.host.world();
                    let now: usize = world.performed.values().sum();
                    world.faults = faults
                        .iter()
                        .map(|(at, fault)| (now + at, *fault))
                        .collect();
                }
                lab.run(&wanted);
                lab.host.world().faults.clear();
            }
            Op::Reboot => lab.host.world().reboot(),
            Op::Break(revision) => {
                lab.host.world().broken.insert(format!("i:{revision}"));
            }
            Op::Drift(which, drift) => lab.drift(*which, *drift),
        }
    }
    lab.host.world().unreadable.clear();

    let before = lab.host.world().failed();
    let attempts = |lab: &Lab| {
        lab.host
            .world()
            .performed
            .get("Up")
            .copied()
            .unwrap_or_default()
    };
    let report = lab.run(&wanted).expect("no fault is left");
    let blocked = &report.last.plan.blocked;
    for (object, why) in blocked {
        assert!(is_public(object, why), "{object:?}: {why:?}");
    }
    if blocked.is_empty() {
        assert!(
            report.in_sync(),
            "not in sync, and nothing is in the way: {:?}",
            report.last.plan
        );
    }
    // A failed step was at most a revision that cannot get well.
    for (object, why) in blocked {
        if let Blocked::StepFailed { step, error } = why {
            assert_eq!(step, "wait until well", "{object:?}: {error}");
        }
    }
    // The next run does nothing, whatever is blocked.
    let ups = attempts(&lab);
    let again = lab.run(&wanted).expect("no fault is left");
    assert!(
        again.performed.is_empty(),
        "second run: {:?}",
        again.performed
    );
    assert_eq!(attempts(&lab), ups);
    // L24: what had failed before and is wanted still was not tried again.
    for ((guid, project), hash) in before {
        let tried = report.performed.iter().any(|performed| {
            matches!(&performed.step, renet::model::Step::Up { guid: g, project: p, .. }
                if *g == guid && p.name == project && p.hash == hash)
        });
        assert!(!tried, "a failed revision of {project} was tried again");
    }
    let world = lab.host.world();
    assert!(world.violations.is_empty(), "{:#?}", world.violations);
    world.performed.clone()
}

/// How many cases: `RENET_LONG` runs ten times as many.
fn cases(fast: u32) -> u32 {
    if std::env::var_os("RENET_LONG").is_some() {
        fast * 10
    } else {
        fast
    }
}

fn seed() -> [u8; 32] {
    let seed = std::env::var("RENET_SEED").unwrap_or_default();
    let mut bytes = [7; 32];
    for (byte, digit) in bytes.iter_mut().zip(seed.bytes()) {
        *byte = digit;
    }
    bytes
}

fn runner(fast: u32) -> proptest::test_runner::TestRunner {
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
    let config = Config {
        cases: cases(fast),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed()))
}

fn check_histories(
    strategy: impl Strategy<Value = (World, Vec<Op>)>,
    fast: u32,
    floors: &[(&str, usize)],
) {
    let performed = std::cell::RefCell::new(BTreeMap::<String, usize>::new());
    let outcome = runner(fast).run(&strategy, |(first, ops)| {
        for (step, count) in history(&first, &ops) {
            *performed.borrow_mut().entry(step).or_default() += count;
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    let performed = performed.into_inner();
    for (step, floor) in floors {
        let count = performed.get(*step).copied().unwrap_or_default();
        assert!(
            count >= *floor,
            "{step} was performed only {count} times: {performed:?}"
        );
    }
}

#[test]
fn any_history_converges_or_is_blocked_for_a_public_reason() {
    let strategy = (world(), prop::collection::vec(op(), 0..10));
    let every_variant = [
        "ClearStaging",
        "Format",
        "GrowFile",
        "Attach",
        "GrowDevice",
        "Mount",
        "GrowFs",
        "Unmount",
        "Detach",
        "LayOut",
        "NoteDatastore",
        "ClaimMachine",
        "Reserve",
        "Record",
        "MirrorSlots",
        "WriteSlots",
        "StartDaemon",
        "StopDaemon",
        "WriteFiles",
        "FetchImages",
        "Up",
        "Wait",
        "Down",
        "RecordRoute",
        "StartProxy",
        "PublishRoutes",
    ];
    let floors: Vec<(&str, usize)> = every_variant.iter().map(|step| (*step, 50)).collect();
    check_histories(strategy, 25_000, &floors);
}

#[test]
fn an_update_with_faults_and_then_anything_converges() {
    let faulty = prop::collection::vec((0..30_usize, fault()), 1..3).prop_map(Op::Run);
    let strategy = (world(), world(), faulty, prop::collection::vec(op(), 0..3)).prop_map(
        |(first, second, faulty, rest)| {
            let mut ops = vec![Op::Run(Vec::new()), Op::Edit(second), faulty];
            ops.extend(rest);
            (first, ops)
        },
    );
    check_histories(
        strategy,
        25_000,
        &[("Up", 1000), ("GrowFs", 1000), ("Unmount", 100)],
    );
}

fn simple() -> World {
    let repo = Repo {
        size: 64,
        state: RunState::Running,
        projects: BTreeMap::from([(0, 0)]),
        route: true,
    };
    World {
        repositories: BTreeMap::from([(0, repo)]),
    }
}

#[test]
fn a_cold_start_is_shown_whole() {
    let lab = Lab::new();
    let wanted = simple().manifests();
    let source = lab.source(&wanted);
    let ids = Ids::fixed(NetworkId::FIRST);
    let shown = lab.runtime.block_on(look(&lab.host, &source, &ids));
    let names: Vec<String> = shown.plan.steps.iter().map(ToString::to_string).collect();
    for expected in [
        "create datastore",
        "create image",
        "start daemon",
        "up ",
        "note route",
        "start proxy",
    ] {
        assert!(
            names.iter().any(|step| step.starts_with(expected)),
            "{expected}: {names:#?}"
        );
    }
    let report = lab.run(&wanted).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    let published = lab.host.world().actual.published.clone();
    assert_eq!(published.known().unwrap().len(), 1);
}

#[test]
fn l23_a_second_apply_performs_no_step() {
    let lab = Lab::new();
    let wanted = simple().manifests();
    lab.run(&wanted).unwrap();
    assert!(lab.run(&wanted).unwrap().performed.is_empty());
}

#[test]
fn no_id_is_given_out_while_a_record_cannot_be_read() {
    let lab = Lab::new();
    let mut world = simple();
    lab.run(&world.manifests()).unwrap();
    let first = *lab.host.world().contents.keys().next().unwrap();
    lab.host
        .world()
        .unreadable
        .insert(Unreadable::Record(first));
    world.repositories.insert(1, world.repositories[&0].clone());
    let report = lab.run(&world.manifests()).unwrap();
    assert_eq!(lab.host.world().contents.len(), 1);
    assert!(
        report
            .last
            .plan
            .blocked
            .values()
            .any(|why| matches!(why, Blocked::Unknown(_)))
    );
}

#[test]
fn a_lost_record_does_not_look_like_a_new_repository() {
    let lab = Lab::new();
    let wanted = simple().manifests();
    lab.run(&wanted).unwrap();
    let guid = *lab.host.world().contents.keys().next().unwrap();
    lab.host.world().actual.repo_mut(guid).record = Part::Absent;
    let report = lab.run(&wanted).unwrap();
    assert!(report.performed.is_empty(), "{:?}", report.performed);
    let why = report.last.plan.blocked.values().next().unwrap();
    assert_eq!(*why, Blocked::UnknownImage { images: vec![guid] });

    let mut adopting = wanted;
    adopting.repositories.get_mut(&name("r0")).unwrap().guid = Some(guid);
    assert!(lab.run(&adopting).unwrap().in_sync());
}

#[test]
fn an_image_that_vanished_is_never_made_again() {
    let lab = Lab::new();
    let wanted = simple().manifests();
    lab.run(&wanted).unwrap();
    let guid = *lab.host.world().contents.keys().next().unwrap();
    lab.host.world().reboot();
    lab.host.world().actual.repo_mut(guid).storage.file = Part::Absent;
    let report = lab.run(&wanted).unwrap();
    let why = &report.last.plan.blocked[&Object::Repository(guid)];
    assert_eq!(*why, Blocked::ImageMissing);
}

#[test]
fn another_datastore_or_none_is_never_replaced() {
    let lab = Lab::new();
    let wanted = simple().manifests();
    lab.run(&wanted).unwrap();
    lab.host.world().reboot();
    lab.host.world().actual.datastore.identity = Part::Known(uuid::Uuid::nil());
    let other = lab.run(&wanted).unwrap();
    lab.host.world().actual.datastore.storage.file = Part::Absent;
    let none = lab.run(&wanted).unwrap();
    for report in [other, none] {
        let why = &report.last.plan.blocked[&Object::Datastore];
        assert!(matches!(why, Blocked::DatastoreMissing { .. }), "{why:?}");
        let on_storage = |performed: &renet::execute::Performed| {
            !matches!(performed.step.object(), Object::Proxy)
        };
        assert!(
            !report.performed.iter().any(on_storage),
            "{:?}",
            report.performed
        );
    }
}

#[test]
fn what_another_source_owns_is_left_alone() {
    let lab = Lab::new();
    let wanted = simple().manifests();
    lab.run(&wanted).unwrap();
    let mut source = lab.source(&wanted);
    source.owner = Owner {
        source: "/home/other".to_owned(),
    };
    let report = lab.run_source(&source).unwrap();
    assert!(report.performed.is_empty());
    let reasons: BTreeSet<&str> = report
        .last
        .plan
        .blocked
        .values()
        .map(Blocked::reason)
        .collect();
    assert!(reasons.contains("OwnedElsewhere"), "{reasons:?}");
}

#[test]
fn what_another_repository_hides_keeps_its_route() {
    // planner.md, counter-example 4: for others only `Absent` is absence.
    let lab = Lab::new();
    let mut world = simple();
    world.repositories.insert(1, world.repositories[&0].clone());
    lab.run(&world.manifests()).unwrap();
    let guid = *lab.host.world().contents.keys().next().unwrap();
    for part in [Unreadable::Record(guid), Unreadable::Daemon(guid)] {
        lab.host.world().unreadable.insert(part);
        lab.run(&world.manifests()).unwrap();
        assert_eq!(lab.host.world().actual.published.known().unwrap().len(), 2);
        lab.host.world().unreadable.clear();
    }
}

#[test]
fn a_revision_that_cannot_get_well_is_tried_once() {
    let lab = Lab::new();
    let wanted = simple().manifests();
    lab.host.world().broken.insert("i:0".to_owned());
    let first = lab.run(&wanted).unwrap();
    assert!(
        first
            .last
            .plan
            .blocked
            .values()
            .any(|why| why.reason() == "StepFailed")
    );
    let second = lab.run(&wanted).unwrap();
    assert!(second.performed.is_empty());
    assert!(
        second
            .last
            .plan
            .blocked
            .values()
            .any(|why| *why == Blocked::RevisionFailed)
    );
}

#[test]
fn after_a_power_loss_one_run_that_was_shown_brings_everything_back() {
    let lab = Lab::new();
    let wanted = simple().manifests();
    lab.run(&wanted).unwrap();
    lab.host.world().reboot();
    let source = lab.source(&wanted);
    let (ids, locks) = (Ids::fixed(NetworkId::FIRST), LocalLocks::default());
    let report = lab.runtime.block_on(async {
        let shown = look(&lab.host, &source, &ids).await;
        let options = Options {
            shown: Some(Shown::of(&shown.plan)),
            ..Options::default()
        };
        run(&lab.host, &locks, &source, &ids, &options, &Silent).await
    });
    assert!(report.in_sync(), "{:?}", report.last.plan);
}

#[test]
fn a_machine_of_another_name_changes_nothing() {
    let lab = Lab::new();
    let wanted = simple().manifests();
    lab.run(&wanted).unwrap();
    lab.host.world().actual.machine = Part::Known(MachineRecord {
        name: Some(name("m2")),
        ..MachineRecord::default()
    });
    let report = lab.run(&wanted).unwrap();
    assert!(report.performed.is_empty());
    assert_eq!(
        report.last.plan.blocked[&Object::Machine].reason(),
        "Immutable"
    );
}

#[test]
fn two_repositories_never_share_a_network() {
    let lab = Lab::new();
    let mut world = simple();
    world.repositories.insert(1, world.repositories[&0].clone());
    let mut wanted = world.manifests();
    lab.run(&wanted).unwrap();
    world.repositories.insert(2, world.repositories[&0].clone());
    wanted = world.manifests();
    wanted.repositories.get_mut(&name("r2")).unwrap().network_id = Some(NetworkId::FIRST);
    let report = lab.run(&wanted).unwrap();
    assert!(
        report
            .last
            .plan
            .blocked
            .values()
            .any(|why| why.reason() == "NetworkIdInUse")
    );
    assert_eq!(lab.host.world().contents.len(), 2);
}
