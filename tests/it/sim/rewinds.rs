//! The data of a repository goes back to a snapshot, and what was there is kept.

use std::collections::BTreeSet;

use jiff::Timestamp;
use renet::host::sim::Fault;
use renet::manifest::MovedFrom;
use renet::model::{
    Act, Danger, Digest, FileSet, Guid, Lineage, MadeBy, NetworkId, Object, OnFailure, Part, Patch,
    Rewind, RunState, Size, Snapshot, Step,
};

use super::world::*;

/// A repository of two projects, whose first has that revision and takes its data back
/// where it fails.
fn at(revision: u8) -> Folder {
    let mut repo = Repo::with(&[0, 1]).at(0, revision).at(1, 2);
    repo.on_failure = OnFailure::RollbackWithData;
    folder(1).with(0, repo)
}

/// At rest with a first revision; the one after it never gets well.
fn before_a_bad_update() -> Lab {
    let lab = Lab::at_rest(&at(0));
    lab.host.world().broken.insert("i:1".to_owned());
    lab
}

fn digest(folder: &Folder, project: &str) -> Digest {
    let manifests = folder.manifests();
    let service = &manifests.services[&(name("r0"), name(project))];
    FileSet::digest(&service.files).clone()
}

/// The digest of the first project's files in the image, or in a snapshot.
fn files(lab: &Lab, snapshot: Option<Timestamp>) -> Digest {
    let guid = lab.guid("r0");
    let world = lab.host.world();
    let repo = match snapshot {
        Some(at) => world.snapshots[&(guid, at)].clone(),
        None => (*world.actual.repository(guid).unwrap()).clone(),
    };
    repo.files.known().unwrap()[&name("p0")].digest.clone()
}

/// When the image was kept whose place another took; there is at most one.
fn kept(lab: &Lab) -> Option<Timestamp> {
    let repo = lab.repo_of(lab.guid("r0"));
    let all = repo.snapshots.known().into_iter().flatten();
    let mut kept = all.filter(|(_, snapshot)| snapshot.made_by == MadeBy::Rewind);
    let first = kept.next().map(|(at, _)| *at);
    assert!(kept.next().is_none(), "more than one is kept");
    first
}

fn is_over(lab: &Lab) -> bool {
    let guid = lab.guid("r0");
    let record = lab.record(guid).unwrap();
    record.rewind.is_none() && record.unfinished.is_none() && lab.repo_of(guid).replaced.is_absent()
}

#[test]
fn an_update_that_fails_takes_its_data_back() {
    let lab = before_a_bad_update();
    let source = lab.source(&at(1));
    let shown = lab.look(&source);
    // What the failure would cost is shown before: every project stops for it.
    let guid = lab.guid("r0");
    let danger = &shown.plan.danger;
    assert!(danger.contains(&Danger::TakesBack(guid)), "{danger:?}");
    let stops = |project: &str| {
        let mut all = danger.iter();
        all.any(|danger| matches!(danger, Danger::Stops(_, stops, _) if stops.as_str() == project))
    };
    assert!(stops("p0") && stops("p1"), "{danger:?}");

    let report = lab.run_shown(&source, &shown).unwrap();
    let service = Object::Service(guid, name("p0"));
    assert_eq!(reason(&report, &service), "StepFailed");
    let order = [
        "Snapshot",
        "Begin",
        "Rewind",
        "Unmount",
        "Replace",
        "KeepReplaced",
        "Rewound",
    ];
    let places: Vec<usize> = order.iter().map(|step| place(&report, step)).collect();
    assert!(places.is_sorted(), "{:?}", done(&report));
    assert_eq!(files(&lab, None), digest(&at(0), "p0"));
    // What the failed one left is not lost.
    let at_failure = kept(&lab).expect("the replaced image is kept");
    assert_eq!(files(&lab, Some(at_failure)), digest(&at(1), "p0"));
    assert!(is_over(&lab));
    assert_eq!(lab.published().len(), 2);
    assert!(lab.run(&at(1)).unwrap().performed.is_empty());
    // A newer revision goes well, and what was kept stays.
    assert!(lab.run(&at(2)).unwrap().in_sync());
    assert_eq!(kept(&lab), Some(at_failure));
}

#[test]
fn one_that_was_killed_anywhere_ends_and_loses_nothing() {
    for step in 0..40 {
        for fault in Fault::ALL {
            let lab = before_a_bad_update();
            lab.faults(&[(step, fault)]);
            lab.run(&at(1));
            lab.host.world().faults.clear();
            lab.host.world().revive();
            lab.run(&at(1)).unwrap();
            let case = format!("{step} {fault:?}");
            assert_eq!(files(&lab, None), digest(&at(0), "p0"), "{case}");
            let at_failure = kept(&lab).expect(&case);
            assert_eq!(
                files(&lab, Some(at_failure)),
                digest(&at(1), "p0"),
                "{case}"
            );
            assert!(is_over(&lab), "{case}");
            assert!(lab.run(&at(1)).unwrap().performed.is_empty(), "{case}");
        }
    }
}

#[test]
fn where_the_one_before_fails_too_the_data_goes_back_once() {
    let hooked = |revision| {
        let mut folder = at(revision);
        folder.repo(0).hook = Some(ALL);
        folder
    };
    for never in [vec![1], vec![0, 1]] {
        let lab = Lab::at_rest(&hooked(0));
        for revision in never {
            let text = hook_text(ALL, revision);
            let broken = Digest::of(text.as_bytes()).to_string();
            lab.host.world().broken.insert(broken);
        }
        let report = lab.run(&hooked(1)).unwrap();
        let replaced = done(&report).into_iter().filter(|step| *step == "Replace");
        assert_eq!(replaced.count(), 1, "{:?}", done(&report));
        assert!(is_over(&lab));
        let report = lab.run(&hooked(1)).unwrap();
        assert!(report.performed.is_empty(), "{:?}", done(&report));
    }
}

/// Killed when the record says that the data goes back, and nothing else is done.
fn begun() -> Lab {
    for after in 0..60 {
        let lab = before_a_bad_update();
        lab.faults(&[(after, Fault::CrashAfter)]);
        lab.run(&at(1));
        lab.host.world().faults.clear();
        lab.host.world().revive();
        if lab.record(lab.guid("r0")).unwrap().rewind.is_some() {
            return lab;
        }
    }
    panic!("it never begins")
}

#[test]
fn what_began_ends_whatever_the_manifests_say() {
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
    let without = folder(1).with(0, Repo::with(&[1]).at(1, 2));
    // Which is no rename.
    let mut another = folder(1).with(7, Repo::with(&[]));
    another.repo(7).moved_from = Some(MovedFrom::Nothing);
    for next in [
        state(RunState::Offline),
        state(RunState::Stopped),
        stays,
        without,
        another,
    ] {
        let lab = begun();
        let shown = lab.look(&lab.pruning(&next, None));
        let hash = shown.plan.blocked.values().find_map(|why| match why {
            renet::model::Blocked::PruneBlocked { confirm, .. } => Some(confirm.clone()),
            _ => None,
        });
        lab.run_source(&lab.pruning(&next, hash.as_deref()), Default::default());
        assert!(is_over(&lab), "{next:?}");
        assert!(kept(&lab).is_some(), "{next:?}");
    }
}

#[test]
fn nothing_opens_it_before_it_is_over() {
    let lab = begun();
    let guid = lab.guid("r0");
    lab.host.world().reboot();
    lab.run(&Folder::default());
    assert!(lab.act(guid, Act::Mount { network: None }).is_some());
    assert!(is_over(&lab));
    assert_eq!(files(&lab, None), digest(&at(0), "p0"));
}

#[test]
fn a_snapshot_of_the_time_by_which_it_is_to_be_kept_is_not_taken_for_it() {
    for later in 0..20 {
        let lab = begun();
        let guid = lab.guid("r0");
        let keep = lab.record(guid).unwrap().rewind.unwrap().keep;
        {
            let mut world = lab.host.world();
            let copy = (*world.actual.repository(guid).unwrap()).clone();
            world.snapshots.insert((guid, keep), copy);
            let made_by = MadeBy::Command;
            let size = Size::bytes(1);
            let repo = world.actual.repo_mut(guid);
            let mut all = repo.snapshots.known().cloned().unwrap_or_default();
            all.insert(keep, Snapshot { size, made_by });
            repo.snapshots = Part::Known(all);
        }
        lab.faults(&[(later, Fault::CrashAfter)]);
        lab.run(&at(1));
        lab.host.world().faults.clear();
        lab.host.world().revive();
        lab.run(&at(1)).unwrap();
        assert!(is_over(&lab), "{later}");
        assert_eq!(files(&lab, None), digest(&at(0), "p0"), "{later}");
        let at_failure = kept(&lab).expect("the replaced image is kept");
        assert_ne!(at_failure, keep, "{later}");
        assert_eq!(files(&lab, Some(at_failure)), digest(&at(1), "p0"));
        assert!(lab.run(&at(1)).unwrap().performed.is_empty(), "{later}");
    }
}

/// A snapshot, and then another revision that is well.
fn after_an_update() -> (Lab, Guid, Timestamp) {
    let lab = Lab::at_rest(&at(0));
    let guid = lab.guid("r0");
    let moment = Snapshot::moment(lab.now());
    assert!(lab.act(guid, Act::Snapshot(moment)).unwrap().in_sync());
    assert!(lab.run(&at(2)).unwrap().in_sync());
    (lab, guid, moment)
}

fn rewind(lab: &Lab, to: Timestamp, project: Option<&str>) -> Act {
    Act::Rewind {
        project: project.map(name),
        rewind: Rewind {
            to,
            keep: Snapshot::moment(lab.now()) + jiff::SignedDuration::from_secs(7),
        },
        up: true,
    }
}

#[test]
fn a_command_takes_the_data_back_once_and_starts_what_ran() {
    let (lab, guid, moment) = after_an_update();
    let act = rewind(&lab, moment, None);
    let report = lab.act(guid, act.clone()).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    assert_eq!(files(&lab, None), digest(&at(0), "p0"));
    assert_eq!(files(&lab, kept(&lab)), digest(&at(2), "p0"));
    assert!(lab.repo_of(guid).daemon.known().is_some());
    assert!(lab.act(guid, act).unwrap().performed.is_empty());
    // The manifests are as they were: so becomes the repository.
    assert!(lab.run(&at(2)).unwrap().in_sync());
    assert_eq!(files(&lab, None), digest(&at(2), "p0"));
}

#[test]
fn a_revision_that_is_left_aside_does_not_come_back_by_itself() {
    let (lab, guid, moment) = after_an_update();
    let act = rewind(&lab, moment, Some("p0"));
    assert!(lab.act(guid, act).unwrap().in_sync());
    let report = lab.run(&at(2)).unwrap();
    assert_eq!(
        reason(&report, &Object::Service(guid, name("p0"))),
        "RevisionFailed"
    );
    assert_eq!(files(&lab, None), digest(&at(0), "p0"));
    let running = |lab: &Lab| lab.published().len();
    assert_eq!(running(&lab), 2);
}

#[test]
fn what_is_half_out_of_the_trash_comes_out_of_it_first() {
    let whole = folder(1).with(1, Repo::with(&[0]).deleted_without_manifest());
    let lab = Lab::at_rest(&whole);
    let guid = lab.guid("r1");
    let moment = Snapshot::moment(lab.now());
    assert!(lab.act(guid, Act::Snapshot(moment)).unwrap().in_sync());
    lab.prune(&folder(1)).unwrap();
    // It is live again, and its image still where it was.
    lab.faults(&[(1, Fault::FailBefore)]);
    lab.run(&whole);
    lab.host.world().faults.clear();
    assert!(lab.record(guid).unwrap().is_live());
    assert!(lab.repo_of(guid).storage.file.is_absent());
    let report = lab.act(guid, rewind(&lab, moment, None)).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    assert!(place(&report, "Untrash") < place(&report, "Replace"));
}

#[test]
fn a_copy_that_goes_back_to_before_it_was_cleared_is_cleared_again() {
    let lab = Lab::at_rest(&at(0));
    let (called, parent) = (name("copy"), lab.guid("r0"));
    let copy = lab.ids.guid(&called);
    let fork = Act::Fork {
        name: called,
        network: NetworkId::try_from(4096).unwrap(),
        lineage: Lineage::of(parent),
        expires: None,
        autostart: false,
    };
    let moment = Snapshot::moment(lab.now());
    let up = Act::Up { network: None };
    for act in [fork, Act::Snapshot(moment), up] {
        assert!(lab.act(copy, act).unwrap().in_sync());
    }
    let report = lab.act(copy, rewind(&lab, moment, None)).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    // The parent's containers, which the snapshot holds, never ran in it.
    assert!(place(&report, "CleanFork") < place(&report, "StartDaemon"));
    assert!(
        lab.repo_of(copy)
            .containers
            .known()
            .is_none_or(|all| all.is_empty())
    );
}

#[test]
fn a_snapshot_in_the_moment_of_an_image_to_be_kept_is_never_written_over() {
    let (lab, guid, moment) = after_an_update();
    assert!(lab.act(guid, Act::Close).unwrap().in_sync());
    let act = rewind(&lab, moment, None);
    let Act::Rewind { rewind: said, .. } = act else {
        unreachable!()
    };
    // It ends between the new image and the old one's safety.
    lab.faults(&[(1, Fault::FailAfter)]);
    lab.act(guid, act);
    lab.host.world().faults.clear();
    assert!(!lab.repo_of(guid).replaced.is_absent());
    lab.act(guid, Act::Snapshot(said.keep));
    let stone = lab.stone(guid);
    let delete = Act::Delete {
        stone,
        permit: None,
    };
    assert!(lab.act(guid, delete).unwrap().in_sync());
    let repo = lab.repo_of(guid);
    let all = repo.snapshots.known().unwrap();
    let kept = all.values().filter(|one| one.made_by == MadeBy::Rewind);
    assert_eq!(kept.count(), 1, "{all:?}");
    assert_eq!(all[&said.keep].made_by, MadeBy::Command);
}

#[test]
fn to_what_is_not_there_nothing_goes_back() {
    let (lab, guid, moment) = after_an_update();
    let other = moment - jiff::SignedDuration::from_hours(1);
    let report = lab.act(guid, rewind(&lab, other, None)).unwrap();
    assert_eq!(reason(&report, &Object::Repository(guid)), "Unresolved");
    assert!(report.performed.is_empty());
}

#[test]
fn behind_what_is_closed_the_worst_is_shown() {
    // planner.md, counter-example 9.
    let lab = before_a_bad_update();
    let guid = lab.guid("r0");
    assert!(lab.act(guid, Act::Close).unwrap().in_sync());
    let shown = lab.look(&lab.source(&at(1)));
    assert!(shown.plan.danger.contains(&Danger::TakesBack(guid)));
    let report = lab.run_shown(&lab.source(&at(1)), &shown).unwrap();
    assert!(done(&report).contains(&"Replace"), "{:?}", done(&report));
    assert!(is_over(&lab));
}

#[test]
fn after_a_reboot_nothing_ran_that_could_lose_what_it_wrote() {
    let lab = before_a_bad_update();
    lab.host.world().reboot();
    let shown = lab.look(&lab.source(&at(1)));
    let report = lab.run_shown(&lab.source(&at(1)), &shown).unwrap();
    assert!(done(&report).contains(&"Replace"), "{:?}", done(&report));
    assert!(is_over(&lab));
}

#[test]
fn no_image_is_replaced_that_is_open_or_that_nobody_asked_for() {
    let (lab, guid, with) = after_an_update();
    let keep = with + jiff::SignedDuration::from_secs(1);
    let replace = Step::Replace { guid, with, keep };
    let ask = Step::Record(guid, Patch::Rewind(Rewind { to: with, keep }));
    let shut = Act::Close;
    let refused = |lab: &Lab| {
        let seen = lab.look(&lab.source(&at(2))).actual;
        replace.ready(&seen).unwrap_err()
    };
    assert!(format!("{:?}", refused(&lab)).contains("no record asks"));
    ask.effect(&mut lab.host.world().actual);
    let open: BTreeSet<String> = BTreeSet::from([format!("{:?}", refused(&lab))]);
    assert!(open.iter().all(|why| why.contains("daemon")), "{open:?}");
    lab.host.world().actual.repo_mut(guid).daemon = Default::default();
    assert!(format!("{:?}", refused(&lab)).contains("mounted"));
    lab.host.world().actual.repo_mut(guid).storage.mount = Default::default();
    assert!(format!("{:?}", refused(&lab)).contains("attached"));
    lab.act(guid, shut).unwrap();
}
