use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use renet::host::sim::{Fault, Unreadable};
use renet::model::{Blocked, ContainerState, Daemon, Object, Part, RunState};

use super::world::*;

#[derive(Clone, Debug)]
enum Op {
    Edit(Folder),
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

fn apply_drift(lab: &Lab, which: u8, drift: Drift) {
    let mut world = lab.host.world();
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
        ..Repo::with(&[])
    })
}

fn world() -> impl Strategy<Value = Folder> {
    prop::collection::btree_map(0..3_u8, repo(), 1..3).prop_map(|repositories| Folder {
        machine: Some("m1"),
        repositories,
    })
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
fn history(first: &Folder, ops: &[Op]) -> BTreeMap<&'static str, usize> {
    let lab = Lab::new();
    let mut wanted = first.clone();
    for op in ops {
        match op {
            Op::Edit(next) => wanted = next.clone(),
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
            Op::Drift(which, drift) => apply_drift(&lab, *which, *drift),
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
    strategy: impl Strategy<Value = (Folder, Vec<Op>)>,
    fast: u32,
    floors: &[(&str, usize)],
) {
    let performed = RefCell::new(BTreeMap::<&'static str, usize>::new());
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
