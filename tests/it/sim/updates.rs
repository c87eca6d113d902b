//! Updates of projects: one that fails leaves what was there before.

use std::collections::BTreeSet;

use renet::execute::{Options, Report};
use renet::host::sim::Fault;
use renet::model::{
    Act, Blocked, ContainerState, Digest, FileSet, Made, MadeBy, Object, OnFailure, Part, RunState,
    Step,
};

use super::world::*;

/// The first repository with its first project in that revision.
fn at(revision: u8) -> Folder {
    folder(1).with(0, Repo::with(&[0]).at(0, revision))
}

fn service(lab: &Lab, project: &str) -> Object {
    Object::Service(lab.guid("r0"), name(project))
}

fn break_revision(lab: &Lab, revision: u8) {
    lab.host.world().broken.insert(format!("i:{revision}"));
}

/// The ids of all containers that run.
fn running(lab: &Lab) -> BTreeSet<String> {
    let mut world = lab.host.world();
    let running = world
        .containers()
        .filter(|container| container.state == ContainerState::Running);
    let ids = running.map(|container| match &container.id {
        Made::Is(id) => id.clone(),
        Made::New => String::new(),
    });
    ids.collect()
}

/// The digest of the project's files.
fn files(lab: &Lab, project: &str) -> Digest {
    let guid = lab.guid("r0");
    let repo = lab.host.world().actual.repository(guid).unwrap();
    repo.files.known().unwrap()[&name(project)].digest.clone()
}

fn digest(folder: &Folder, project: &str) -> Digest {
    let manifests = folder.manifests();
    let service = &manifests.services[&(name("r0"), name(project))];
    FileSet::digest(&service.files).clone()
}

#[test]
fn l24_a_failed_update_leaves_the_version_before_and_is_not_tried_again() {
    let lab = Lab::at_rest(&at(0));
    break_revision(&lab, 1);
    let report = lab.run(&at(1)).unwrap();
    let service = service(&lab, "p0");
    assert_eq!(reason(&report, &service), "StepFailed");
    assert_eq!(files(&lab, "p0"), digest(&at(0), "p0"));
    assert_eq!(running(&lab).len(), 1);
    // It is looked after like any other.
    let stays = |report: &Report| {
        let why = &report.last.plan.blocked[&service];
        assert_eq!(why.reason(), "RevisionFailed");
        assert!(why.to_string().contains("runs in its place"), "{why}");
    };
    let report = lab.run(&at(1)).unwrap();
    assert!(report.performed.is_empty(), "{:?}", done(&report));
    stays(&report);
    for container in lab.host.world().containers() {
        container.state = ContainerState::Exited(1);
    }
    let report = lab.run(&at(1)).unwrap();
    assert!(done(&report).contains(&"Up"), "{:?}", done(&report));
    assert_eq!(files(&lab, "p0"), digest(&at(0), "p0"));
    lab.host.world().reboot();
    let report = lab.run(&at(1)).unwrap();
    stays(&report);
    assert_eq!(running(&lab).len(), 1);
    // Asked for, it is tried once more, and what was there comes back again.
    let mut retry = lab.source(&at(1));
    retry.asked.retry = true;
    let report = lab.run_source(&retry, Options::default()).unwrap();
    let waits = done(&report).into_iter().filter(|step| *step == "Wait");
    assert_eq!(waits.count(), 2);
    assert_eq!(reason(&report, &service), "StepFailed");
    assert_eq!(files(&lab, "p0"), digest(&at(0), "p0"));
    // A newer one is tried, and then all is well.
    let report = lab.run(&at(2)).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    assert_eq!(files(&lab, "p0"), digest(&at(2), "p0"));
}

/// What made the snapshots that are there.
fn snapshots(lab: &Lab) -> Vec<MadeBy> {
    let guid = lab.guid("r0");
    let repo = lab.host.world().actual.repository(guid).unwrap();
    let all = repo.snapshots.known().into_iter().flatten();
    all.map(|(_, snapshot)| snapshot.made_by).collect()
}

fn is_settled(lab: &Lab) -> bool {
    let guid = lab.guid("r0");
    let repo = lab.host.world().actual.repository(guid).unwrap();
    repo.record.known().unwrap().unfinished.is_none()
}

#[test]
fn before_an_update_there_is_a_snapshot_and_after_it_none() {
    let lab = Lab::new();
    let report = lab.run(&at(0)).unwrap();
    // What was never there has nothing to lose.
    assert!(!done(&report).contains(&"Snapshot"));
    let report = lab.run(&at(1)).unwrap();
    let order = [
        "Snapshot",
        "Begin",
        "WriteFiles",
        "Up",
        "Wait",
        "KeepRevision",
        "End",
    ];
    let places: Vec<usize> = order.iter().map(|step| place(&report, step)).collect();
    assert!(places.is_sorted(), "{:?}", done(&report));
    assert!(snapshots(&lab).is_empty() && is_settled(&lab));
    // A container that ended is no update.
    for container in lab.host.world().containers() {
        container.state = ContainerState::Exited(1);
    }
    let report = lab.run(&at(1)).unwrap();
    assert!(!done(&report).contains(&"Snapshot"), "{:?}", done(&report));
}

#[test]
fn after_a_failed_update_its_snapshot_stays_until_all_is_well() {
    let lab = Lab::at_rest(&at(0));
    break_revision(&lab, 1);
    lab.run(&at(1)).unwrap();
    assert_eq!(snapshots(&lab), [MadeBy::Update]);
    assert!(is_settled(&lab));
    // Another that fails has a newer one, and one is enough.
    break_revision(&lab, 2);
    lab.run(&at(2)).unwrap();
    assert_eq!(snapshots(&lab), [MadeBy::Update]);
    assert!(lab.run(&at(0)).unwrap().in_sync());
    assert!(snapshots(&lab).is_empty());
}

#[test]
fn an_update_that_was_killed_anywhere_goes_on_with_the_snapshot_it_has() {
    for step in 0..12 {
        for fault in [Fault::CrashBefore, Fault::CrashInside, Fault::CrashAfter] {
            let lab = Lab::at_rest(&at(0));
            lab.faults(&[(step, fault)]);
            lab.run(&at(1));
            lab.host.world().faults.clear();
            lab.host.world().revive();
            let before = snapshots(&lab).len();
            assert!(before <= 1, "{step} {fault:?}");
            let report = lab.run(&at(1)).unwrap();
            assert!(report.in_sync(), "{step} {fault:?}: {:?}", report.last.plan);
            assert!(is_settled(&lab), "{step} {fault:?}");
            assert!(snapshots(&lab).is_empty(), "{step} {fault:?}");
        }
    }
}

#[test]
fn what_is_under_way_is_settled_whatever_the_manifests_say() {
    // planner.md, counter-examples 5 and 6.
    let gone = folder(1).with(0, Repo::with(&[]));
    let state = |state| {
        let mut folder = at(1);
        folder.repo(0).state = state;
        folder
    };
    let stays = {
        let mut folder = at(1);
        folder.repo(0).on_failure = OnFailure::Stop;
        folder
    };
    for next in [
        gone,
        state(RunState::Stopped),
        state(RunState::Offline),
        stays,
    ] {
        let lab = Lab::at_rest(&at(0));
        // Killed while it waits.
        let report = lab.run(&at(0)).unwrap();
        assert!(report.performed.is_empty());
        lab.faults(&[(4, Fault::CrashAfter)]);
        assert!(lab.run(&at(1)).is_none());
        assert!(!is_settled(&lab));
        lab.host.world().faults.clear();
        lab.host.world().revive();
        lab.prune(&next);
        assert!(is_settled(&lab), "{next:?}");
        assert!(snapshots(&lab).is_empty(), "{next:?}");
    }
}

#[test]
fn two_projects_that_change_at_once_share_a_snapshot_and_are_shown_at_once() {
    let both = |revision| {
        let repo = Repo::with(&[0, 1]);
        folder(1).with(0, repo.at(0, revision).at(1, revision))
    };
    let lab = Lab::at_rest(&both(0));
    let shown = lab.look(&lab.source(&both(1)));
    let ups = shown.plan.steps.iter();
    let ups = ups.filter(|step| matches!(step, Step::Up { .. }));
    assert_eq!(ups.count(), 2);
    let report = lab.run_shown(&lab.source(&both(1)), &shown).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    let made = done(&report).into_iter().filter(|step| *step == "Snapshot");
    assert_eq!(made.count(), 1, "{:?}", done(&report));
}

#[test]
fn one_that_is_to_stay_where_it_failed_does() {
    let stop = |revision| {
        let mut folder = at(revision);
        folder.repo(0).on_failure = OnFailure::Stop;
        folder
    };
    let lab = Lab::at_rest(&stop(0));
    break_revision(&lab, 1);
    lab.run(&stop(1)).unwrap();
    assert_eq!(files(&lab, "p0"), digest(&at(1), "p0"));
    let report = lab.run(&stop(1)).unwrap();
    assert!(report.performed.is_empty(), "{:?}", done(&report));
    let why = &report.last.plan.blocked[&service(&lab, "p0")];
    assert!(!why.to_string().contains("runs in its place"), "{why}");
    // Told so later, what was there comes back.
    lab.run(&at(1)).unwrap();
    assert_eq!(files(&lab, "p0"), digest(&at(0), "p0"));
}

#[test]
fn an_update_waits_for_one_that_failed_and_what_ran_with_it_does_not() {
    let both = |first: u8, second: u8| {
        let repo = Repo::with(&[0, 1]).in_chain();
        folder(1).with(0, repo.at(0, first).at(1, second))
    };
    let lab = Lab::at_rest(&both(0, 0));
    break_revision(&lab, 1);
    // p0 depends on p1.
    let report = lab.run(&both(2, 1)).unwrap();
    assert_eq!(reason(&report, &service(&lab, "p0")), "DependencyBlocked");
    assert_eq!(files(&lab, "p0"), digest(&both(0, 0), "p0"));
    for container in lab.host.world().containers() {
        container.state = ContainerState::Exited(1);
    }
    let report = lab.run(&both(0, 1)).unwrap();
    assert_eq!(reason(&report, &service(&lab, "p0")), "");
    assert_eq!(running(&lab).len(), 2);
}

#[test]
fn what_a_command_takes_back_stays_so() {
    let lab = Lab::at_rest(&at(0));
    assert!(lab.run(&at(1)).unwrap().in_sync());
    let act = || Act::Rollback(name("p0"));
    let guid = lab.guid("r0");
    let report = lab.act(guid, act()).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    assert_eq!(files(&lab, "p0"), digest(&at(0), "p0"));
    // L24: no pass undoes it, and asked for twice it is there already.
    for _ in 0..2 {
        let report = lab.run(&at(1)).unwrap();
        assert!(report.performed.is_empty(), "{:?}", done(&report));
        assert_eq!(reason(&report, &service(&lab, "p0")), "RevisionFailed");
        let report = lab.act(guid, act()).unwrap();
        assert!(report.performed.is_empty(), "{:?}", done(&report));
    }
    assert!(lab.run(&at(2)).unwrap().in_sync());
    assert_eq!(files(&lab, "p0"), digest(&at(2), "p0"));
}

#[test]
fn what_a_command_brings_back_and_never_gets_well_is_waited_for_once() {
    let lab = Lab::at_rest(&at(0));
    assert!(lab.run(&at(1)).unwrap().in_sync());
    break_revision(&lab, 0);
    let guid = lab.guid("r0");
    let report = lab.act(guid, Act::Rollback(name("p0"))).unwrap();
    let waits = done(&report).into_iter().filter(|step| *step == "Wait");
    assert_eq!(waits.count(), 1, "{:?}", done(&report));
    let why = &report.last.plan.blocked[&Object::Repository(guid)];
    assert!(matches!(why, Blocked::StepFailed { .. }), "{why}");
}

#[test]
fn nothing_comes_back_where_no_daemon_serves() {
    for hook in [None, Some(ALL)] {
        let with_hook = |revision| {
            let mut folder = at(revision);
            folder.repo(0).hook = hook;
            folder
        };
        let lab = Lab::at_rest(&with_hook(0));
        assert!(lab.run(&with_hook(1)).unwrap().in_sync());
        let guid = lab.guid("r0");
        assert!(lab.act(guid, Act::StopDaemon(None)).unwrap().in_sync());
        let report = lab.act(guid, Act::Rollback(name("p0"))).unwrap();
        assert!(
            !done(&report).contains(&"WriteFiles"),
            "{:?}",
            done(&report)
        );
        assert_eq!(files(&lab, "p0"), digest(&with_hook(1), "p0"));
    }
}

#[test]
fn nothing_comes_back_where_nothing_was() {
    let lab = Lab::at_rest(&at(0));
    let guid = lab.guid("r0");
    for project in ["p0", "p7"] {
        let report = lab.act(guid, Act::Rollback(name(project))).unwrap();
        assert!(report.performed.is_empty(), "{:?}", done(&report));
        let why = &report.last.plan.blocked[&Object::Repository(guid)];
        assert!(why.to_string().contains("no revision"), "{why}");
    }
}

#[test]
fn a_copy_brings_back_nothing_of_its_parent() {
    // What is kept there has the parent's addresses.
    let lab = Lab::at_rest(&at(0));
    break_revision(&lab, 1);
    let mut wanted = at(0);
    wanted
        .repositories
        .insert(1, Repo::with(&[0]).at(0, 1).copy_of(0));
    lab.run(&wanted).unwrap();
    let report = lab.run(&wanted).unwrap();
    let service = Object::Service(lab.guid("r1"), name("p0"));
    let why = &report.last.plan.blocked[&service];
    assert!(!why.to_string().contains("in its place"), "{why}");
}

#[test]
fn a_hook_that_fails_gives_way_to_the_one_before() {
    let hooked = |revision| {
        let repo = Repo::with(&[0]).hooked(ALL);
        folder(1).with(0, repo.at(0, revision))
    };
    let lab = Lab::at_rest(&hooked(0));
    let text = hook_text(ALL, 1);
    let broken = Digest::of(text.as_bytes()).to_string();
    lab.host.world().broken.insert(broken);
    let report = lab.run(&hooked(1)).unwrap();
    let service = service(&lab, "p0");
    assert_eq!(reason(&report, &service), "StepFailed");
    assert_eq!(files(&lab, "p0"), digest(&hooked(0), "p0"));
    assert_eq!(running(&lab).len(), 1);
    for _ in 0..2 {
        let report = lab.run(&hooked(1)).unwrap();
        assert!(report.performed.is_empty(), "{:?}", done(&report));
        assert_eq!(reason(&report, &service), "RevisionFailed");
    }
}

/// A revision that was kept before the records were lost has the addresses of the network
/// that the repository had then: it takes no place in another one.
#[test]
fn a_kept_revision_of_another_network_does_not_stand_in() {
    let lab = Lab::new();
    assert!(lab.run(&at(0)).unwrap().in_sync());
    let guid = lab.guid("r0");
    let network = |lab: &Lab| {
        let world = lab.host.world();
        let repo = world.actual.repository(guid).unwrap();
        repo.record.known().unwrap().network
    };
    let before = network(&lab);
    break_revision(&lab, 2);
    lab.host.world().reboot();
    lab.lose_records();
    // Somebody else has its addresses by now.
    lab.host.world().actual.foreign_networks = Part::Known([before].into());
    let mut wanted = at(2);
    wanted.repositories.get_mut(&0).unwrap().guid = Some(guid);
    let report = lab.run(&wanted).unwrap();
    assert_ne!(network(&lab), before);
    let ups = report.performed.iter().filter_map(|one| match &one.step {
        Step::Up {
            network, project, ..
        } => Some(project.is_of(*network)),
        _ => None,
    });
    let ups: Vec<bool> = ups.collect();
    assert!(!ups.is_empty() && ups.iter().all(|own| *own), "{ups:?}");
    assert!(!report.in_sync());
    // Mended, it gets well at its own.
    wanted.repositories.get_mut(&0).unwrap().projects = [(0, 1)].into();
    assert!(lab.run(&wanted).unwrap().in_sync());
}
