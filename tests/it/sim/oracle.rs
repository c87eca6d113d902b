//! The script's plan against a search over the same questions: never longer, and
//! it reaches the goal. The search knows no policy and no order; it is only asked
//! how far away the goal is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use renet::host::sim::veil;
use renet::model::{
    Actual, Asked, Daemon, DeletionPolicy, Desired, Guid, Header, Mount, NetworkId, Origin, Part,
    Patch, Pbkdf, Record, Repository, RepositorySpec, ResourceLimits, RunState, Seal, Size, Slots,
    Step, Volume,
};
use renet::plan::{Limits, Share, plan};

use super::world::*;

const SMALL: Size = Size::mib(64);
const LARGE: Size = Size::mib(128);

fn guid() -> Guid {
    Guid::new(uuid::Uuid::from_u128(7))
}

/// Every step that has to do with an image and its daemon.
fn moves(sealed: bool) -> Vec<Step> {
    let (guid, network) = (guid(), NetworkId::FIRST);
    let volume = Volume::Image(guid);
    vec![
        Step::ClearStaging(volume),
        Step::Format {
            volume,
            size: LARGE,
            uuid: guid.as_uuid(),
            seal: sealed.then(|| Seal {
                passphrase: passphrase(),
                pbkdf: Pbkdf::default(),
            }),
        },
        Step::Open {
            guid,
            with: vec![passphrase()],
        },
        Step::GrowMapper(guid),
        Step::Close(guid),
        Step::Record(guid, Patch::Created),
        Step::GrowFile {
            volume,
            size: LARGE,
        },
        Step::Attach(volume),
        Step::GrowDevice(volume),
        Step::Mount(volume),
        Step::GrowFs(volume),
        Step::Unmount(volume),
        Step::Detach(volume),
        Step::StartDaemon { guid, network },
        Step::StopDaemon { guid, network },
    ]
}

fn is_goal(actual: &Actual, state: RunState) -> bool {
    let repo = &actual.repositories.known().unwrap()[&guid()];
    let storage = &repo.storage;
    let whole = storage.staging.is_absent()
        && storage.file.known().is_some_and(|size| *size >= LARGE)
        && repo.record.known().is_some_and(|record| record.created);
    let closed = storage.device.is_absent()
        && storage.mapper.is_absent()
        && storage.mount.is_absent()
        && repo.daemon.is_absent();
    let sealed = storage.is_sealed() == Ok(true);
    let open = storage.device == storage.file
        && (!sealed || storage.mapper.known().copied() == storage.mapped().unwrap())
        && storage.mount.known().map(|mount| mount.size) == storage.top().unwrap()
        && repo.daemon
            == Part::Known(Daemon {
                serving: true,
                supervised: true,
                limits: Some(ResourceLimits::default()),
            });
    whole
        && if state == RunState::Offline {
            closed
        } else {
            open
        }
}

/// How many steps the goal is away.
fn distance(start: &Actual, state: RunState, sealed: bool) -> usize {
    let moves = moves(sealed);
    let mut seen: Vec<Actual> = vec![start.clone()];
    let mut queue = VecDeque::from([(start.clone(), 0)]);
    while let Some((here, steps)) = queue.pop_front() {
        if is_goal(&here, state) {
            return steps;
        }
        for step in &moves {
            if step.holds(&here) != Ok(false) || step.ready(&here).is_err() {
                continue;
            }
            let mut there = here.clone();
            step.effect(&mut there);
            if !seen.contains(&there) {
                seen.push(there.clone());
                queue.push_back((there, steps + 1));
            }
        }
    }
    panic!("no way leads to the goal");
}

fn desired(state: RunState, sealed: bool) -> Desired {
    let spec = RepositorySpec {
        guid: guid(),
        name: name("r0"),
        network: NetworkId::FIRST,
        size: LARGE,
        origin: Origin::Blank(sealed.then(|| Seal {
            passphrase: passphrase(),
            pbkdf: Pbkdf::default(),
        })),
        passphrase: sealed.then(passphrase),
        autostart: None,
        snapshots: None,
        state,
        policy: DeletionPolicy::Retain,
        protected: false,
        limits: ResourceLimits::default(),
        is_new: false,
        slots: Slots::default(),
        declared: BTreeSet::new(),
        projects: BTreeMap::new(),
        tries: BTreeMap::new(),
    };
    Desired {
        labelled: false,
        owner: owner(),
        machine: None,
        overcommit: None,
        datastore: None,
        proxy: None,
        repositories: BTreeMap::from([(guid(), spec)]),
        routes: BTreeMap::new(),
        unresolved: Vec::new(),
        trials: BTreeMap::new(),
        spent: BTreeSet::new(),
        names: BTreeMap::new(),
        acts: BTreeMap::new(),
        store: None,
        asked: Asked::default(),
    }
}

/// Every state of an image and its daemon that the machine can be in.
fn states(sealed: bool) -> Vec<Actual> {
    let empty = {
        let lab = Lab::at_rest(&folder(0));
        lab.host.world().actual.clone()
    };
    // What carries the file system.
    let below = 2 + usize::from(sealed);
    let left = |serving, supervised| Daemon {
        serving,
        supervised,
        limits: Some(ResourceLimits::default()),
    };
    let limited = Daemon {
        limits: Some(ResourceLimits {
            cpus: Some(50),
            ..ResourceLimits::default()
        }),
        ..left(true, true)
    };
    let daemons = [
        Part::Absent,
        Part::Known(Daemon::LEFT),
        Part::Known(left(true, false)),
        Part::Known(left(true, true)),
        Part::Known(limited),
    ];
    let mut states = Vec::new();
    for created in [false, true] {
        for staging in [Part::Absent, Part::Known(())] {
            for depth in 0..=below + 1 {
                for sizes in 0..8_u8 {
                    let size = |bit: u8| if sizes >> bit & 1 == 1 { LARGE } else { SMALL };
                    let (file, device, mount) = (size(0), size(1), size(2));
                    let stale = device <= file && mount <= device;
                    let less = |size: Size| match sealed {
                        true => Size::bytes(size.as_bytes() - Header::OFFSET.as_bytes()),
                        false => size,
                    };
                    let made = depth > 0 || !created;
                    if !stale || !made || depth > 1 && !created {
                        continue;
                    }
                    for daemon in &daemons {
                        // Nothing serves what is not mounted; of one something may be left.
                        let serves = daemon.known().is_some_and(|daemon| daemon.serving);
                        if depth < below && !daemon.is_absent() || depth <= below && serves {
                            continue;
                        }
                        let mut record = Record::new(name("r0"), NetworkId::FIRST);
                        record.owner = Some(owner());
                        record.created = created;
                        let mut repo = Repository {
                            record: Part::Known(record),
                            mirror: Part::Known(Slots::default()),
                            daemon: daemon.clone(),
                            ..Repository::default()
                        };
                        repo.storage.staging = staging.clone();
                        if depth > 0 {
                            repo.storage.file = Part::Known(file);
                            repo.storage.header = Part::Known(Header::new(sealed));
                        }
                        if depth > 1 {
                            repo.storage.device = Part::Known(device);
                        }
                        if sealed && depth > 2 {
                            repo.storage.mapper = Part::Known(less(device));
                        }
                        if depth > below {
                            let size = less(mount);
                            repo.storage.mount = Part::Known(Mount { size });
                        }
                        let mut actual = empty.clone();
                        *actual.repo_mut(guid()) = repo;
                        states.push(actual);
                    }
                }
            }
        }
    }
    states
}

#[test]
fn the_scripts_way_to_the_goal_is_never_longer_than_a_searchs() {
    for sealed in [false, true] {
        never_longer(sealed);
    }
}

fn never_longer(sealed: bool) {
    let states = states(sealed);
    assert!(states.len() > 60, "{}", states.len());
    for start in &states {
        for state in [RunState::Running, RunState::Offline] {
            let mut world = start.clone();
            let mut taken = Vec::new();
            // What one plan could not see the next one does.
            for _ in 0..6 {
                let mut seen = world.clone();
                veil(&mut seen);
                let plan = plan(
                    &desired(state, sealed),
                    &seen,
                    &Limits::NONE,
                    Share::Repository(guid()),
                );
                assert!(
                    plan.blocked.is_empty(),
                    "{:?} from {start:#?}",
                    plan.blocked
                );
                for step in plan.steps {
                    // Only closes: what is behind stays what it was.
                    let before = world.repo_mut(guid()).clone();
                    step.effect(&mut world);
                    let repo = world.repo_mut(guid());
                    if matches!(step, Step::Unmount(_) | Step::StopDaemon { .. }) {
                        repo.slots = before.slots;
                        repo.files = before.files;
                        repo.images = before.images;
                        repo.containers = before.containers;
                    }
                    if !matches!(
                        step,
                        Step::Record(_, Patch::Policy(_) | Patch::Protect(_) | Patch::Limit(_))
                    ) {
                        taken.push(step);
                    }
                }
            }
            assert!(is_goal(&world, state), "{taken:?} from {start:#?}");
            let least = distance(start, state, sealed);
            assert!(
                taken.len() <= least,
                "{} steps, {least} would do: {taken:?} from {start:#?}",
                taken.len()
            );
        }
    }
}
