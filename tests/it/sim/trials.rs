//! Changes that are tried on a copy before their repository is touched (`forkFirst`).

use std::collections::{BTreeMap, BTreeSet};

use renet::execute::{Options, Report, Shown};
use renet::host::sim::Fault;
use renet::model::{
    ContainerState, Danger, Guid, Made, Object, OnFailure, Part, RunState, Suspension,
};

use super::world::*;

/// A repository of two projects, both tried first, the first in that revision.
fn at(revision: u8) -> Folder {
    let repo = Repo::with(&[0, 1]).at(0, revision).tried_first();
    folder(1).with(0, repo)
}

fn service(lab: &Lab, project: &str) -> Object {
    Object::Service(lab.guid("r0"), name(project))
}

fn break_revision(lab: &Lab, revision: u8) {
    lab.host.world().broken.insert(format!("i:{revision}"));
}

/// What runs in the repository itself: each container, and since which start.
fn running(lab: &Lab) -> BTreeMap<String, (Made<String>, Made<String>)> {
    let repo = lab.repo_of(lab.guid("r0"));
    let all = repo.containers.known().into_iter().flatten();
    let each = all.flat_map(|(_, containers)| containers);
    let running = each.filter(|(_, one)| one.state == ContainerState::Running);
    running
        .map(|(name, one)| (name.clone(), (one.id.clone(), one.started.clone())))
        .collect()
}

fn copy(lab: &Lab) -> Option<Guid> {
    lab.find("r0-trial", true)
}

/// The steps done to the repository itself, without notes in its record.
fn touched(lab: &Lab, report: &Report) -> Vec<String> {
    let own = lab.guid("r0");
    let steps = report.performed.iter().map(|one| &one.step);
    let own = steps.filter(|step| step.object().repository() == Some(own));
    let changing = own.filter(|step| !step.writes_record());
    changing.map(ToString::to_string).collect()
}

#[test]
fn a_change_that_is_well_on_a_copy_comes_after_it() {
    let lab = Lab::at_rest(&at(0));
    let report = lab.run(&at(1)).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    let own = lab.guid("r0");
    let places: Vec<(usize, bool)> = report
        .performed
        .iter()
        .enumerate()
        .filter(|(_, one)| renet::host::sim::kind(&one.step) == "Up")
        .map(|(place, one)| (place, one.step.object().repository() == Some(own)))
        .collect();
    // Both projects come up on the copy; then one of them changes.
    let on_copy = places.iter().filter(|(_, is_own)| !is_own).count();
    assert_eq!(on_copy, 2, "{:?}", done(&report));
    assert!(places.last().unwrap().1, "{:?}", done(&report));
    assert_eq!(places.iter().filter(|(_, is_own)| *is_own).count(), 1);
    // Nothing of the copy is left.
    assert_eq!(copy(&lab), None);
    assert_eq!(lab.contents().len(), 1);
    assert!(lab.record(own).unwrap().trials.is_empty());
    assert!(lab.run(&at(1)).unwrap().performed.is_empty());
}

#[test]
fn a_change_that_fails_on_a_copy_touches_nothing() {
    for on_failure in [
        OnFailure::Rollback,
        OnFailure::Stop,
        OnFailure::RollbackWithData,
    ] {
        let at = |revision| {
            let mut folder = at(revision);
            folder.repo(0).on_failure = on_failure;
            folder
        };
        let lab = Lab::at_rest(&at(0));
        break_revision(&lab, 1);
        let before = running(&lab);
        let source = lab.source(&at(1));
        let shown = lab.look(&source);
        let report = lab.run_shown(&source, &shown).unwrap();
        let service = service(&lab, "p0");
        let why = &report.last.plan.blocked[&service];
        assert_eq!(why.reason(), "RevisionFailed", "{why}");
        assert!(why.to_string().contains("on a copy"), "{why}");
        assert!(why.to_string().contains("wait until well"), "{why}");
        assert_eq!(touched(&lab, &report), Vec::<String>::new());
        assert_eq!(running(&lab), before);
        assert_eq!(copy(&lab), None);
        let again = lab.run(&at(1)).unwrap();
        assert!(again.performed.is_empty(), "{:?}", done(&again));
        let why = &again.last.plan.blocked[&service];
        assert!(why.to_string().contains("wait until well"), "{why}");
        // What runs is looked after meanwhile.
        for container in lab.host.world().containers() {
            container.state = ContainerState::Exited(1);
        }
        let mended = lab.run(&at(1)).unwrap();
        assert!(done(&mended).contains(&"Up"), "{:?}", done(&mended));
        assert_eq!(running(&lab).len(), before.len());
        // Asked for, it is tried once more.
        let before = running(&lab);
        let mut retry = lab.source(&at(1));
        retry.asked.retry = true;
        let report = lab.run_source(&retry, Options::default()).unwrap();
        let forks = done(&report).into_iter().filter(|step| *step == "Fork");
        assert_eq!(forks.count(), 1, "{:?}", done(&report));
        assert_eq!(running(&lab), before);
        assert_eq!(copy(&lab), None);
        // A newer one is tried, and comes.
        let report = lab.run(&at(2)).unwrap();
        assert!(report.in_sync(), "{:?}", report.last.plan);
        assert_ne!(running(&lab), before);
    }
}

#[test]
fn what_it_will_stop_is_shown_before_the_trial() {
    // planner.md, counter-example 11.
    let lab = Lab::at_rest(&at(0));
    let source = lab.source(&at(1));
    let shown = lab.look(&source);
    let guid = lab.guid("r0");
    let stops = Danger::Stops(guid, name("p0"), "s0".to_owned());
    assert_eq!(shown.plan.danger, BTreeSet::from([stops]));
    assert!(shown.plan.more.contains(&service(&lab, "p0")));
    let report = lab.run_shown(&source, &shown).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    // A saved plan holds nothing but that it is tried; the rest follows from it.
    let source = lab.source(&at(2));
    let shown = lab.look(&source);
    let options = Options {
        shown: Some(Shown {
            steps: Some(shown.plan.steps.clone()),
            ..Shown::of(&shown.plan)
        }),
        ..Options::default()
    };
    let report = lab.run_source(&source, options).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
}

#[test]
fn what_was_never_well_and_what_only_died_needs_no_trial() {
    let lab = Lab::new();
    let report = lab.run(&at(0)).unwrap();
    assert!(!done(&report).contains(&"Fork"), "{:?}", done(&report));
    for container in lab.host.world().containers() {
        container.state = ContainerState::Exited(1);
    }
    let report = lab.run(&at(0)).unwrap();
    assert!(!done(&report).contains(&"Fork"), "{:?}", done(&report));
}

#[test]
fn one_that_was_killed_anywhere_ends_and_leaves_no_copy() {
    for (broken, most) in [(false, 60), (true, 50)] {
        for step in 0..most {
            for fault in Fault::ALL {
                let case = format!("{broken} {step} {fault:?}");
                let lab = Lab::at_rest(&at(0));
                if broken {
                    break_revision(&lab, 1);
                }
                let before = running(&lab);
                lab.faults(&[(step, fault)]);
                lab.run(&at(1));
                lab.host.world().faults.clear();
                lab.host.world().revive();
                let report = lab.run(&at(1)).unwrap();
                let settled = match broken {
                    true => reason(&report, &service(&lab, "p0")) == "RevisionFailed",
                    false => report.in_sync(),
                };
                assert!(settled, "{case}: {:?}", report.last.plan);
                assert_eq!(running(&lab) == before, broken, "{case}");
                assert_eq!(copy(&lab), None, "{case}");
                assert_eq!(lab.contents().len(), 1, "{case}");
                assert!(lab.run(&at(1)).unwrap().performed.is_empty(), "{case}");
            }
        }
    }
}

/// Killed when the copy is made, and nothing runs on it yet.
fn begun() -> Lab {
    for after in 0..60 {
        let lab = Lab::at_rest(&at(0));
        lab.faults(&[(after, Fault::CrashAfter)]);
        lab.run(&at(1));
        lab.host.world().faults.clear();
        lab.host.world().revive();
        let made = copy(&lab).is_some_and(|copy| lab.content(copy).is_some());
        if made {
            return lab;
        }
    }
    panic!("it never begins")
}

#[test]
fn a_trial_ends_whatever_the_manifests_say() {
    let state = |state| {
        let mut folder = at(1);
        folder.repo(0).state = state;
        folder
    };
    let mut plainly = at(1);
    plainly.repo(0).fork_first = false;
    let without = folder(1).with(0, Repo::with(&[1]).tried_first());
    for next in [
        at(0),
        at(2),
        state(RunState::Offline),
        state(RunState::Stopped),
        plainly,
        without,
    ] {
        let lab = begun();
        let report = lab.prune(&next).unwrap();
        assert!(report.in_sync(), "{next:?}: {:?}", report.last.plan);
        assert_eq!(copy(&lab), None, "{next:?}");
        assert_eq!(lab.contents().len(), 1, "{next:?}");
        assert!(lab.record(lab.guid("r0")).unwrap().trials.is_empty());
    }
}

#[test]
fn a_newer_change_is_tried_on_a_newer_copy() {
    let lab = begun();
    let old = lab.content(copy(&lab).unwrap());
    break_revision(&lab, 1);
    let report = lab.run(&at(2)).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    assert!(done(&report).contains(&"Fork"), "{:?}", done(&report));
    let left: Vec<_> = lab.contents().into_values().map(Some).collect();
    assert!(!left.contains(&old));
}

#[test]
fn nobody_elses_pass_ends_a_trial() {
    let lab = begun();
    let mut other = lab.pruning(&folder(0), None);
    other.owner = source_of("/home/other");
    lab.run_source(&other, Options::default()).unwrap();
    assert!(copy(&lab).is_some());
    // Nor does one that could not read everything.
    let mut partly = lab.source(&folder(0));
    partly.asked.prune = renet::model::Prune::Incomplete;
    lab.run_source(&partly, Options::default()).unwrap();
    assert!(copy(&lab).is_some());
}

#[test]
fn a_manifest_of_its_name_does_not_take_a_trial_over() {
    let lab = begun();
    let manifests = |lab: &Lab| {
        let mut source = lab.source(&at(1).with(7, Repo::with(&[])));
        let manifests = std::sync::Arc::make_mut(&mut source.manifests);
        let mut other = manifests.repositories.remove(&name("r7")).unwrap();
        other.name = name("r0-trial");
        manifests.repositories.insert(name("r0-trial"), other);
        source
    };
    let trial = copy(&lab).unwrap();
    for _ in 0..2 {
        lab.run_source(&manifests(&lab), Options::default())
            .unwrap();
    }
    let report = lab
        .run_source(&manifests(&lab), Options::default())
        .unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    let other = copy(&lab).unwrap();
    assert_ne!(other, trial);
    assert_eq!(lab.record(other).unwrap().trial_of(), None);
}

#[test]
fn what_is_left_alone_is_not_tried() {
    let lab = begun();
    let guid = lab.guid("r0");
    let suspension = Suspension {
        by: "root".to_owned(),
        since: lab.now(),
        until: None,
        reason: None,
    };
    let act = renet::model::Act::Suspend(suspension);
    assert!(lab.act(guid, act).unwrap().in_sync());
    let report = lab.run(&at(1)).unwrap();
    assert!(touched(&lab, &report).is_empty());
    assert_eq!(copy(&lab), None);
    assert!(lab.act(guid, renet::model::Act::Resume).unwrap().in_sync());
    assert!(lab.run(&at(1)).unwrap().in_sync());
}

#[test]
fn a_trial_that_cannot_be_is_waited_for_and_said() {
    // Twice as much is more than there is.
    let at = |revision| {
        let mut folder = at(revision);
        folder.repo(0).size = 2500;
        folder
    };
    let lab = Lab::at_rest(&at(0));
    let before = running(&lab);
    let report = lab.run(&at(1)).unwrap();
    let blocked = &report.last.plan.blocked;
    let why = blocked.get(&service(&lab, "p0"));
    let why = why.unwrap_or_else(|| panic!("{:?} {:?}", done(&report), report.last.plan));
    assert_eq!(why.reason(), "DependencyBlocked", "{why}");
    assert!(why.to_string().contains("r0-trial"), "{why}");
    assert!(!report.in_sync());
    assert_eq!(running(&lab), before);
    assert!(lab.run(&at(1)).unwrap().performed.is_empty());
}

#[test]
fn single_objects_are_tried_too() {
    let lab = Lab::at_rest(&at(0));
    let mut source = lab.source(&at(1));
    source.asked.only = BTreeSet::from(["service/r0/p0".parse().unwrap()]);
    let report = lab.run_source(&source, Options::default()).unwrap();
    assert!(done(&report).contains(&"Fork"), "{:?}", done(&report));
    assert_eq!(copy(&lab), None);
}

#[test]
fn both_of_a_chain_are_tried_on_one_copy() {
    let chain = |revision: u8| {
        let repo = Repo::with(&[0, 1]).at(0, revision).at(1, revision);
        folder(1).with(0, repo.in_chain().tried_first())
    };
    let lab = Lab::at_rest(&chain(0));
    let source = lab.source(&chain(1));
    let shown = lab.look(&source);
    let report = lab.run_shown(&source, &shown).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    let forks = done(&report).into_iter().filter(|step| *step == "Fork");
    assert_eq!(forks.count(), 1, "{:?}", done(&report));
    assert_eq!(copy(&lab), None);
}

#[test]
fn how_a_trial_ended_is_noted_once_though_its_parent_is_held_up() {
    let parent = Repo::with(&[]);
    let fork = |revision| Repo {
        fork: Some((0, None)),
        ..Repo::with(&[0]).at(0, revision).tried_first()
    };
    let at = |revision| folder(1).with(0, parent.clone()).with(2, fork(revision));
    let lab = Lab::at_rest(&at(0));
    break_revision(&lab, 1);
    // The copy is there, and nothing was tried on it yet.
    for step in [2, 0] {
        lab.faults(&[(step, Fault::FailBefore)]);
        lab.run(&at(1));
    }
    lab.host.world().faults.clear();
    let copy = lab.find("r2-trial", true).unwrap();
    // Whose copy the parent is, nobody knows any more.
    let guid = lab.guid("r0");
    {
        let mut world = lab.host.world();
        let repo = world.actual.repo_mut(guid);
        repo.record = Part::Absent;
        repo.mirror = Part::Absent;
    }
    let report = lab.run(&at(1)).unwrap();
    let held = &report.last.plan.blocked[&Object::Repository(lab.guid("r2"))];
    assert_eq!(held.reason(), "Immutable", "{held}");
    let said = lab.record(copy).unwrap().trials;
    assert!(format!("{said:?}").contains("injected"), "{said:?}");
    let again = lab.run(&at(1)).unwrap();
    assert!(again.performed.is_empty(), "{:?}", done(&again));
    assert_eq!(lab.record(copy).unwrap().trials, said);
}
