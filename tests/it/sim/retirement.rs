//! What goes and what stays: prune, the trash, protection, suspension,
//! ownership, lost records.

use std::collections::{BTreeMap, BTreeSet};

use renet::execute::{Options, Report};
use renet::host::sim::{Fault, Unreadable};
use renet::manifest::MovedFrom;
use renet::model::{
    Act, Blocked, DataLossPermit, Guid, NetworkId, Object, Part, Prune, RunState, Suspension,
};
use renet::plan::GRACE;
use renet::resolve::free_network;

use super::world::*;

fn service(guid: Guid, project: &str) -> Object {
    Object::Service(guid, name(project))
}

fn confirm_of(report: &Report) -> String {
    let blocked = report.last.plan.blocked.values();
    let mut hashes = blocked.filter_map(|why| match why {
        Blocked::PruneBlocked { confirm, .. } => Some(confirm.clone()),
        _ => None,
    });
    hashes.next().expect("a plan to confirm")
}

/// Nothing is left to do for that source, and it says so a second time.
fn settled(lab: &Lab, report: &Report, wanted: &Folder) {
    assert!(report.in_sync(), "{:#?}", report.last.plan);
    let again = lab.prune(wanted).unwrap();
    assert!(again.performed.is_empty(), "{:?}", done(&again));
}

#[test]
fn without_prune_what_is_no_longer_declared_stays_and_is_named() {
    let lab = Lab::at_rest(&folder(2));
    let gone = lab.guid("r1");
    let report = lab.run(&folder(2).without(1)).unwrap();
    assert!(report.performed.is_empty(), "{:?}", done(&report));
    assert!(report.in_sync());
    let noted: BTreeSet<&Object> = report.last.plan.notes.iter().map(|(of, _)| of).collect();
    let route = Object::Route(name("r1-p0"));
    for object in [Object::Repository(gone), service(gone, "p0"), route] {
        assert!(noted.contains(&object), "{object:?}: {noted:?}");
    }
    assert_eq!(lab.published().len(), 2);
}

#[test]
fn prune_removes_one_project_and_its_route_and_nothing_else() {
    let both = folder(1).with(0, Repo::with(&[0, 1]));
    let lab = Lab::at_rest(&both);
    let guid = lab.guid("r0");
    let before = lab.repo_of(guid);
    let report = lab.prune(&folder(1)).unwrap();
    settled(&lab, &report, &folder(1));
    assert_eq!(
        done(&report).into_iter().collect::<BTreeSet<_>>(),
        BTreeSet::from([
            "Down",
            "EraseFiles",
            "DisownProject",
            "ForgetRoute",
            "PublishRoutes"
        ])
    );
    let after = lab.repo_of(guid);
    let kept = name("p0");
    let containers = |repo: &renet::model::Repository| repo.containers.known().cloned().unwrap();
    assert_eq!(containers(&after).len(), 1);
    assert_eq!(containers(&after)[&kept], containers(&before)[&kept]);
    assert_eq!(after.files.known().unwrap().len(), 1);
    assert_eq!(lab.published(), BTreeSet::from(["r0-p0".to_owned()]));
    // Its slot stays reserved.
    assert_eq!(after.slots, before.slots);
}

#[test]
fn retain_closes_and_releases_and_a_manifest_of_that_name_adopts_it_again() {
    let lab = Lab::at_rest(&folder(2));
    let guid = lab.guid("r1");
    let (content, before) = (lab.content(guid), lab.record(guid).unwrap());
    let less = folder(2).without(1);
    let report = lab.prune(&less).unwrap();
    settled(&lab, &report, &less);
    let repo = lab.repo_of(guid);
    assert!(repo.daemon.is_absent() && repo.storage.device.is_absent());
    let record = lab.record(guid).unwrap();
    assert_eq!(record.owner, None);
    assert_eq!(lab.published().len(), 1);

    // Name and network stay reserved.
    let other = less.with(2, Repo::with(&[0]));
    assert!(lab.prune(&other).unwrap().in_sync());
    let new = lab.record(lab.guid("r2")).unwrap();
    assert_ne!(new.network, record.network);

    let back = other.with(1, Repo::with(&[0]));
    let report = lab.prune(&back).unwrap();
    settled(&lab, &report, &back);
    assert!(done(&report).contains(&"Claim"));
    assert!(!done(&report).contains(&"Format"));
    assert_eq!(lab.guid("r1"), guid);
    assert_eq!(lab.content(guid), content);
    assert_eq!(lab.record(guid).unwrap().network, before.network);
    assert_eq!(lab.published().len(), 3);
}

fn two_with_one_deleted_without_manifest() -> Folder {
    folder(2).with(1, Repo::with(&[0]).deleted_without_manifest())
}

#[test]
fn l14_delete_is_a_tombstone_first_and_its_manifest_brings_it_back() {
    let both = two_with_one_deleted_without_manifest();
    let lab = Lab::at_rest(&both);
    let guid = lab.guid("r1");
    let content = lab.content(guid);
    let report = lab.prune(&both.without(1)).unwrap();
    settled(&lab, &report, &both.without(1));
    // The mark comes first: a crash leaves a deletion to finish, never a lost image.
    assert!(place(&report, "Delete") < place(&report, "StopDaemon"));
    assert!(place(&report, "Detach") < place(&report, "Trash"));
    assert!(!done(&report).contains(&"Purge"));
    let repo = lab.repo_of(guid);
    assert!(repo.storage.file.is_absent() && repo.trash.known().is_some());
    assert_eq!(lab.content(guid), content);

    // Without its manifest no later sync revives it.
    lab.later(24);
    assert!(lab.prune(&both.without(1)).unwrap().performed.is_empty());

    let report = lab.prune(&both).unwrap();
    settled(&lab, &report, &both);
    assert!(done(&report).contains(&"Untrash"));
    assert!(!done(&report).contains(&"Format"));
    assert_eq!(lab.guid("r1"), guid);
    assert_eq!(lab.content(guid), content);
}

#[test]
fn l14_a_tombstone_is_purged_when_it_is_due_and_not_a_moment_before() {
    let both = two_with_one_deleted_without_manifest();
    let lab = Lab::at_rest(&both);
    let guid = lab.guid("r1");
    let less = both.without(1);
    lab.prune(&less).unwrap();
    let due = lab.record(guid).unwrap().deleted.unwrap().due;
    assert_eq!(due, lab.record(guid).unwrap().deleted.unwrap().at + GRACE);
    // A run looks a second later.
    lab.host.world().actual.now = due - jiff::SignedDuration::from_secs(2);
    assert!(lab.prune(&less).unwrap().performed.is_empty());
    assert!(lab.content(guid).is_some());
    // Every apply frees what is due, pruning or not.
    let report = lab.run(&less).unwrap();
    assert_eq!(done(&report), ["Purge", "Purged", "DropRecord"]);
    settled(&lab, &report, &less);
    assert_eq!(lab.content(guid), None);
    assert_eq!(lab.record(guid), None);

    let back = lab.prune(&both).unwrap();
    settled(&lab, &back, &both);
    assert!(done(&back).contains(&"Format"));
}

#[test]
fn a_deleted_repository_holds_its_network_but_not_its_name_until_it_is_purged() {
    let both = two_with_one_deleted_without_manifest();
    let lab = Lab::at_rest(&both);
    let old = lab.guid("r1");
    lab.act(old, lab.delete(old)).unwrap();
    lab.act(old, Act::Resume).unwrap();
    let report = lab.run(&both).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    let new = lab.guid("r1");
    assert_ne!(new, old);
    let network = |guid| lab.record(guid).unwrap().network;
    assert_ne!(network(new), network(old));
}

#[test]
fn l13_protection_outlives_the_manifest_and_is_lifted_by_an_earlier_apply() {
    let mut both = two_with_one_deleted_without_manifest();
    both.repo(1).protected = true;
    let lab = Lab::at_rest(&both);
    let guid = lab.guid("r1");
    let report = lab.prune(&both.without(1)).unwrap();
    assert_eq!(reason(&report, &Object::Repository(guid)), "Protected");
    assert!(!report.in_sync());
    assert!(lab.repo_of(guid).storage.mount.known().is_some());

    let report = lab.act(guid, lab.delete(guid)).unwrap();
    assert_eq!(reason(&report, &Object::Repository(guid)), "Protected");
    assert!(report.performed.is_empty());

    both.repo(1).protected = false;
    assert!(lab.prune(&both).unwrap().in_sync());
    let report = lab.prune(&both.without(1)).unwrap();
    settled(&lab, &report, &both.without(1));
    assert!(lab.repo_of(guid).trash.known().is_some());
}

#[test]
fn l13_a_protected_repository_that_is_retained_is_not_closed_either() {
    let mut both = folder(2);
    both.repo(1).protected = true;
    let lab = Lab::at_rest(&both);
    let guid = lab.guid("r1");
    let report = lab.prune(&both.without(1)).unwrap();
    assert_eq!(reason(&report, &Object::Repository(guid)), "Protected");
    assert!(!report.last.plan.retires.contains(&Object::Repository(guid)));
    assert!(lab.record(guid).unwrap().owner.is_some());
}

#[test]
fn gone_by_command_stays_gone_until_it_is_restored() {
    let lab = Lab::at_rest(&folder(1));
    let guid = lab.guid("r0");
    let content = lab.content(guid);
    let report = lab.act(guid, lab.delete(guid)).unwrap();
    assert!(done(&report).contains(&"Trash"));
    let report = lab.run(&folder(1)).unwrap();
    assert_eq!(reason(&report, &Object::Repository(guid)), "Deleted");
    assert!(!report.in_sync());
    assert_eq!(lab.contents().len(), 1);

    let report = lab.act(guid, Act::Restore).unwrap();
    assert!(done(&report).contains(&"Untrash"));
    let repo = lab.repo_of(guid);
    assert!(repo.storage.file.known().is_some() && repo.storage.device.is_absent());
    assert_eq!(lab.record(guid).unwrap().owner, None);
    let report = lab.run(&folder(1)).unwrap();
    settled(&lab, &report, &folder(1));
    assert_eq!((lab.guid("r0"), lab.content(guid)), (guid, content));
}

#[test]
fn gone_by_command_stays_gone_until_a_new_one_is_asked_for() {
    let lab = Lab::at_rest(&folder(1));
    let old = lab.guid("r0");
    lab.act(old, lab.delete(old)).unwrap();
    lab.act(old, Act::Resume).unwrap();
    let report = lab.run(&folder(1)).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    assert_ne!(lab.guid("r0"), old);
    assert!(lab.content(old).is_some());
    // The old one goes when it is due, the new one stays.
    lab.later(8 * 24);
    let report = lab.run(&folder(1)).unwrap();
    assert_eq!(done(&report), ["Purge", "Purged", "DropRecord"]);
    assert_eq!(lab.contents().len(), 1);
}

#[test]
fn a_manifest_of_a_deleted_repository_does_not_keep_others_from_being_pruned() {
    let three = folder(3);
    let lab = Lab::at_rest(&three);
    let (deleted, pruned) = (lab.guid("r0"), lab.guid("r1"));
    lab.act(deleted, lab.delete(deleted)).unwrap();
    let report = lab.prune(&three.without(1)).unwrap();
    assert_eq!(
        lab.record(pruned).unwrap().owner,
        None,
        "{:?}",
        report.last.plan
    );
    assert_eq!(reason(&report, &Object::Repository(deleted)), "Deleted");
}

#[test]
fn restoring_does_not_take_a_name_that_another_has_now() {
    let lab = Lab::at_rest(&folder(1));
    let old = lab.guid("r0");
    lab.act(old, lab.delete(old)).unwrap();
    lab.act(old, Act::Resume).unwrap();
    lab.run(&folder(1)).unwrap();
    let report = lab.act(old, Act::Restore).unwrap();
    assert!(report.performed.is_empty(), "{:?}", done(&report));
    assert!(!report.in_sync());
    assert!(lab.repo_of(old).trash.known().is_some());
}

#[test]
fn a_delete_with_leave_destroys_at_once_and_the_manifest_still_stays_without() {
    let lab = Lab::at_rest(&folder(1));
    let guid = lab.guid("r0");
    let act = Act::Delete {
        stone: lab.stone(guid),
        permit: DataLossPermit::named(guid, &name("r0"), "r0"),
    };
    lab.act(guid, act).unwrap();
    assert!(lab.contents().is_empty());
    for _ in 0..2 {
        let report = lab.run(&folder(1)).unwrap();
        assert_eq!(reason(&report, &Object::Repository(guid)), "Deleted");
    }
    // Nothing is left to restore.
    let report = lab.act(guid, Act::Restore).unwrap();
    assert_eq!(reason(&report, &Object::Repository(guid)), "ImageMissing");
    lab.act(guid, Act::Resume).unwrap();
    let report = lab.run(&folder(1)).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    assert_eq!(lab.contents().len(), 1);
}

fn expires_now(lab: &Lab, guid: Guid) {
    let now = lab.now();
    let mut world = lab.host.world();
    if let Part::Known(record) = &mut world.actual.repo_mut(guid).record {
        record.expires = Some(now);
    }
}

#[test]
fn l40_gone_by_time_stays_gone_and_counts_as_in_sync() {
    let lab = Lab::at_rest(&folder(2));
    let guid = lab.guid("r1");
    expires_now(&lab, guid);
    for prune in [false, true] {
        let report = match prune {
            true => lab.prune(&folder(2)).unwrap(),
            false => lab.run(&folder(2)).unwrap(),
        };
        assert_eq!(reason(&report, &Object::Repository(guid)), "Expired");
        assert!(report.in_sync(), "{:#?}", report.last.plan);
        assert_eq!(lab.contents().len(), 1);
    }
    let report = lab.run(&folder(2)).unwrap();
    assert!(report.performed.is_empty(), "{:?}", done(&report));
    assert_eq!(lab.published().len(), 1);
    // Asked for, there is a new one.
    lab.act(guid, Act::Resume).unwrap();
    assert!(lab.run(&folder(2)).unwrap().in_sync());
    assert_ne!(lab.guid("r1"), guid);
}

#[test]
fn what_its_own_time_ended_is_forgotten_with_its_manifest() {
    let lab = Lab::at_rest(&folder(2));
    let guid = lab.guid("r1");
    expires_now(&lab, guid);
    lab.run(&folder(2)).unwrap();
    let report = lab.run(&folder(2).without(1)).unwrap();
    assert_eq!(lab.record(guid), None, "{:?}", done(&report));
}

#[test]
fn l13_a_protected_repository_does_not_expire() {
    let mut both = folder(2);
    both.repo(1).protected = true;
    let lab = Lab::at_rest(&both);
    let guid = lab.guid("r1");
    expires_now(&lab, guid);
    let report = lab.run(&both).unwrap();
    assert!(report.in_sync() && report.performed.is_empty());
    assert!(lab.content(guid).is_some());
}

#[test]
fn l18_nothing_starts_what_was_told_to_be_stopped() {
    let lab = Lab::at_rest(&folder(2));
    let guid = lab.guid("r1");
    for close in [false, true] {
        let suspension = lab.suspension();
        lab.act(guid, Act::Down { suspension, close }).unwrap();
        for _ in 0..2 {
            let report = lab.run(&folder(2)).unwrap();
            assert!(report.in_sync(), "{:?}", report.last.plan);
            assert!(!report.last.plan.blocked.is_empty());
        }
        let runs = |container: &&mut renet::model::Container| {
            container.state == renet::model::ContainerState::Running
        };
        let running = lab.host.world().containers().filter(runs).count();
        assert_eq!(running, 1, "closed: {close}");
        assert_eq!(lab.published().len(), 1);
        assert_eq!(lab.repo_of(guid).storage.mount.is_absent(), close);
        lab.act(guid, Act::Resume).unwrap();
        assert!(lab.run(&folder(2)).unwrap().in_sync());
        assert_eq!(lab.published().len(), 2);
    }
}

#[test]
fn l18_a_suspended_repository_is_not_retired_nor_changed() {
    let both = two_with_one_deleted_without_manifest();
    let lab = Lab::at_rest(&both);
    let guid = lab.guid("r1");
    lab.act(guid, Act::Suspend(lab.suspension())).unwrap();
    let report = lab.prune(&both.without(1)).unwrap();
    assert_eq!(reason(&report, &Object::Repository(guid)), "Suspended");
    assert!(report.in_sync());
    let mut changed = both;
    changed.repo(1).size = 128;
    changed.repo(1).projects = BTreeMap::from([(0, 1), (1, 0)]);
    let report = lab.prune(&changed).unwrap();
    let mut objects = report.performed.iter().map(|done| done.step.object());
    // A route is an object of its own.
    assert!(objects.all(|object| object.repository().is_none()));
    assert!(report.in_sync(), "{:?}", report.last.plan);
}

#[test]
fn l18_a_suspended_project_is_left_alone_and_its_siblings_are_not() {
    let both = folder(1).with(0, Repo::with(&[0, 1]));
    let lab = Lab::at_rest(&both);
    let guid = lab.guid("r0");
    let act = Act::SuspendProject(name("p0"), lab.suspension());
    lab.act(guid, act).unwrap();
    lab.host.world().containers().for_each(|container| {
        container.state = renet::model::ContainerState::Exited(137);
    });
    let report = lab.run(&both).unwrap();
    assert_eq!(reason(&report, &service(guid, "p0")), "Suspended");
    assert!(report.in_sync(), "{:?}", report.last.plan);
    assert_eq!(lab.published(), BTreeSet::from(["r0-p1".to_owned()]));
    lab.act(guid, Act::ResumeProject(name("p0"))).unwrap();
    assert!(lab.run(&both).unwrap().in_sync());
    assert_eq!(lab.published().len(), 2);
}

#[test]
fn l61_a_suspension_ends_by_itself_at_its_time() {
    let lab = Lab::at_rest(&folder(1));
    let guid = lab.guid("r0");
    let suspension = Suspension {
        until: Some(lab.now() + jiff::SignedDuration::from_hours(2)),
        ..lab.suspension()
    };
    let close = true;
    lab.act(guid, Act::Down { suspension, close }).unwrap();
    lab.later(1);
    assert!(lab.run(&folder(1)).unwrap().performed.is_empty());
    lab.later(1);
    let report = lab.run(&folder(1)).unwrap();
    assert!(report.in_sync());
    assert!(done(&report).contains(&"Up"));
}

#[test]
fn l18_a_repositorys_ended_suspension_starts_no_suspended_project() {
    let lab = Lab::at_rest(&folder(1));
    let guid = lab.guid("r0");
    let short = Suspension {
        until: Some(lab.now() + jiff::SignedDuration::from_hours(1)),
        ..lab.suspension()
    };
    lab.act(guid, Act::Suspend(short)).unwrap();
    let act = Act::SuspendProject(name("p0"), lab.suspension());
    lab.act(guid, act).unwrap();
    lab.host.world().containers().for_each(|container| {
        container.state = renet::model::ContainerState::Exited(137);
    });
    lab.later(2);
    let report = lab.run(&folder(1)).unwrap();
    assert_eq!(reason(&report, &service(guid, "p0")), "Suspended");
    assert!(!done(&report).contains(&"Up"), "{:?}", done(&report));
}

#[test]
fn l15_to_retire_more_than_half_needs_the_hash_of_that_very_plan() {
    let lab = Lab::at_rest(&folder(4));
    let wanted = folder(1);
    let report = lab.prune(&wanted).unwrap();
    assert!(report.performed.is_empty(), "{:?}", done(&report));
    let hash = confirm_of(&report);
    for id in 1..4 {
        let guid = lab.guid(&format!("r{id}"));
        let object = Object::Repository(guid);
        assert_eq!(reason(&report, &object), "PruneBlocked");
    }
    assert_eq!(lab.published().len(), 4);

    // Another plan's hash does not count, nor none.
    let other = confirm_of(
        &lab.prune(&folder(4).without(1).without(2).without(0))
            .unwrap(),
    );
    for wrong in [&*other, "", "000000000000"] {
        let source = lab.pruning(&wanted, Some(wrong));
        let report = lab.run_source(&source, Options::default()).unwrap();
        assert!(report.performed.is_empty(), "{wrong}: {:?}", done(&report));
    }
    let source = lab.pruning(&wanted, Some(&hash));
    let report = lab.run_source(&source, Options::default()).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    assert_eq!(lab.published().len(), 1);
    assert_eq!(lab.contents().len(), 4);
}

#[test]
fn l15_half_is_not_much_and_two_objects_are_not_many() {
    let lab = Lab::at_rest(&folder(2));
    assert!(lab.prune(&folder(1)).unwrap().in_sync());
    let mut bare = folder(2);
    for id in 0..2 {
        *bare.repo(id) = Repo::with(&[]);
    }
    let lab = Lab::at_rest(&bare);
    assert!(lab.prune(&bare.without(1)).unwrap().in_sync());
}

#[test]
fn l1_an_emptied_folder_retires_nothing_without_its_hash() {
    let mut bare = folder(1);
    *bare.repo(0) = Repo::with(&[]);
    for full in [bare, folder(1), folder(3)] {
        let lab = Lab::at_rest(&full);
        let empty = Folder::default();
        let report = lab.prune(&empty).unwrap();
        assert!(report.performed.is_empty(), "{:?}", done(&report));
        assert!(!report.in_sync());
        let source = lab.pruning(&empty, Some(&confirm_of(&report)));
        let report = lab.run_source(&source, Options::default()).unwrap();
        assert!(report.in_sync(), "{:?}", report.last.plan);
        assert!(lab.published().is_empty());
        assert_eq!(lab.contents().len(), full.repositories.len());
        let open = lab
            .host
            .world()
            .repositories()
            .any(|repo| !repo.daemon.is_absent());
        assert!(!open);
    }
}

#[test]
fn l3_nothing_is_pruned_while_a_manifest_cannot_be_read() {
    let lab = Lab::at_rest(&folder(3));
    let mut source = lab.source(&folder(3).without(1));
    source.asked.prune = Prune::Incomplete;
    let report = lab.run_source(&source, Options::default()).unwrap();
    assert!(report.performed.is_empty(), "{:?}", done(&report));
    assert!(!report.last.plan.notes.is_empty());
}

#[test]
fn l3_nothing_is_pruned_while_an_object_is_unresolved() {
    let lab = Lab::at_rest(&folder(3));
    let mut manifests = folder(3).without(1).manifests();
    // A project that compose refuses.
    let refused = manifests
        .services
        .get_mut(&(name("r2"), name("p0")))
        .unwrap();
    refused.compose_file = "missing.yml".parse().unwrap();
    let mut source = lab.pruning(&folder(3), None);
    source.manifests = std::sync::Arc::new(manifests);
    // Other work goes on, which makes later looks.
    lab.host.world().containers().for_each(|container| {
        container.state = renet::model::ContainerState::Exited(137);
    });
    let report = lab.run_source(&source, Options::default()).unwrap();
    let pruned = lab.guid("r1");
    assert!(lab.record(pruned).unwrap().owner.is_some());
    assert_eq!(reason(&report, &Object::Repository(pruned)), "");
    assert_eq!(
        reason(&report, &service(lab.guid("r2"), "p0")),
        "Unresolved"
    );
}

#[test]
fn l3_nothing_is_pruned_while_a_record_cannot_be_read() {
    let lab = Lab::at_rest(&folder(3));
    let torn = lab.guid("r2");
    lab.host.world().unreadable.insert(Unreadable::Record(torn));
    lab.prune(&folder(3).without(1)).unwrap();
    assert!(lab.record(lab.guid("r1")).unwrap().owner.is_some());
}

#[test]
fn one_gone_and_one_new_may_be_the_same_and_both_wait_for_a_word() {
    let before = folder(3);
    let lab = Lab::at_rest(&before);
    let old = lab.guid("r1");
    let mut after = before.without(1).with(7, Repo::with(&[0]));
    for prune in [true, false] {
        let report = match prune {
            true => lab.prune(&after).unwrap(),
            false => lab.run(&after).unwrap(),
        };
        assert_eq!(lab.contents().len(), 3);
        let mut reasons = report.last.plan.blocked.values().map(Blocked::reason);
        assert!(reasons.any(|reason| reason == "PossibleRename"));
        if prune {
            assert_eq!(reason(&report, &Object::Repository(old)), "PossibleRename");
        }
        assert!(lab.record(old).unwrap().owner.is_some());
    }

    // It is: the data stays with it.
    after.repo(7).moved_from = Some(MovedFrom::Name(name("r1")));
    let content = lab.content(old);
    let report = lab.prune(&after).unwrap();
    settled(&lab, &report, &after);
    assert_eq!(lab.guid("r7"), old);
    assert_eq!(lab.content(old), content);
    assert_eq!(lab.contents().len(), 3);
    // The word may stay, or go.
    after.repo(7).moved_from = None;
    assert!(lab.prune(&after).unwrap().performed.is_empty());
}

#[test]
fn one_gone_and_one_new_that_are_not_the_same_go_their_ways() {
    let before = folder(3);
    let lab = Lab::at_rest(&before);
    let old = lab.guid("r1");
    let mut after = before.without(1).with(7, Repo::with(&[0]));
    after.repo(7).moved_from = Some(MovedFrom::Nothing);
    let report = lab.prune(&after).unwrap();
    settled(&lab, &report, &after);
    assert_ne!(lab.guid("r7"), old);
    assert_eq!(lab.record(old).unwrap().owner, None);
    assert_eq!(lab.contents().len(), 4);
}

#[test]
fn two_manifests_cannot_both_be_what_one_repository_became() {
    let lab = Lab::at_rest(&folder(2));
    let mut after = folder(2).without(1);
    for id in [7, 8] {
        let mut repo = Repo::with(&[0]);
        repo.moved_from = Some(MovedFrom::Name(name("r1")));
        after = after.with(id, repo);
    }
    let old = lab.guid("r1");
    let report = lab.prune(&after).unwrap();
    assert_eq!(reason(&report, &Object::Repository(old)), "Unresolved");
    assert_eq!(lab.guid("r1"), old);
    assert_eq!(lab.contents().len(), 2);
}

#[test]
fn what_another_source_declares_moves_only_by_take_over() {
    let lab = Lab::at_rest(&folder(2));
    let guid = lab.guid("r1");
    let mut theirs = folder(2).without(0);
    theirs.machine = None;
    let mut source = lab.pruning(&theirs, None);
    source.owner = source_of("/home/other");
    let report = lab.run_source(&source, Options::default()).unwrap();
    assert_eq!(reason(&report, &Object::Repository(guid)), "OwnedElsewhere");
    let route = Object::Route(name("r1-p0"));
    assert!(!reason(&report, &route).is_empty());
    assert!(report.performed.is_empty(), "{:?}", done(&report));

    source.asked.take_over = true;
    let report = lab.run_source(&source, Options::default()).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    assert_eq!(lab.record(guid).unwrap().owner, Some(source.owner));
    // The old source neither mends nor retires it any more.
    let report = lab.prune(&folder(2).without(1)).unwrap();
    assert!(report.performed.is_empty(), "{:?}", done(&report));
    assert_eq!(lab.published().len(), 2);
}

#[test]
fn one_source_prunes_nothing_of_another() {
    let lab = Lab::at_rest(&folder(2));
    let mut theirs = folder(0).with(5, Repo::with(&[0]));
    theirs.machine = None;
    let mut source = lab.pruning(&theirs, None);
    source.owner = source_of("/home/other");
    for _ in 0..2 {
        let report = lab.run_source(&source, Options::default()).unwrap();
        assert!(report.in_sync(), "{:?}", report.last.plan);
    }
    assert_eq!(lab.published().len(), 3);
    assert!(lab.prune(&folder(2)).unwrap().performed.is_empty());
}

#[test]
fn another_sources_tombstone_is_not_revived_by_a_manifest_of_its_name() {
    let both = two_with_one_deleted_without_manifest();
    let lab = Lab::at_rest(&both);
    let old = lab.guid("r1");
    lab.prune(&both.without(1)).unwrap();
    let mut theirs = both.without(0);
    theirs.machine = None;
    let mut source = lab.source(&theirs);
    source.owner = source_of("/home/other");
    let report = lab.run_source(&source, Options::default()).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    assert_ne!(lab.guid("r1"), old);
    assert!(lab.repo_of(old).trash.known().is_some());
}

#[test]
fn a_folder_for_another_machine_changes_nothing_until_it_takes_it_over() {
    let lab = Lab::at_rest(&folder(2));
    let mut other = folder(3);
    other.machine = Some("m2");
    for owner in [owner(), source_of("/home/other")] {
        let mut source = lab.pruning(&other, None);
        source.owner = owner;
        let report = lab.run_source(&source, Options::default()).unwrap();
        assert!(report.performed.is_empty(), "{:?}", done(&report));
        assert_eq!(reason(&report, &Object::Machine), "Immutable");
    }
    let mut source = lab.source(&other);
    source.asked.take_over = true;
    let report = lab.run_source(&source, Options::default()).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    let world = lab.host.world();
    assert_eq!(world.actual.machine.known().unwrap().name, Some(name("m2")));
}

#[test]
fn take_over_moves_a_machine_of_the_same_name_too() {
    let lab = Lab::at_rest(&folder(1));
    let mut source = lab.source(&folder(1));
    source.owner = source_of("/home/other");
    source.asked.take_over = true;
    let report = lab.run_source(&source, Options::default()).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    let world = lab.host.world();
    let machine = world.actual.machine.known().unwrap();
    assert_eq!(machine.owner, Some(source.owner));
}

#[test]
fn l28_with_all_records_lost_nothing_is_made_changed_or_removed() {
    for reboot in [false, true] {
        let lab = Lab::at_rest(&folder(2));
        lab.lose_records();
        if reboot {
            lab.host.world().reboot();
        }
        let contents = lab.contents();
        for folder in [folder(2), folder(3), Folder::default()] {
            for prune in [false, true] {
                let report = match prune {
                    true => lab.prune(&folder).unwrap(),
                    false => lab.run(&folder).unwrap(),
                };
                // After a reboot the datastore is opened, and the proxy started.
                let changed: Vec<_> = done(&report)
                    .into_iter()
                    .filter(|kind| !["Attach", "Mount", "StartProxy"].contains(kind))
                    .collect();
                assert!(changed.is_empty(), "{changed:?}");
            }
        }
        assert_eq!(lab.contents(), contents);
        assert!(lab.host.world().actual.machine.is_absent());
        assert_eq!(lab.published().len(), 2);
    }
}

/// Lost records, in states in which adoption could go wrong.
fn lost(prepare: impl Fn(&Lab)) -> (Lab, Folder, BTreeMap<Guid, u64>) {
    // `s1` had its slot before `s0` was declared: a fresh allocation differs.
    let lab = Lab::at_rest(&folder(2).with(1, Repo::with(&[1])));
    let wanted = folder(2).with(1, Repo::with(&[0, 1]));
    assert!(lab.run(&wanted).unwrap().in_sync());
    prepare(&lab);
    let contents = lab.contents();
    (lab, wanted, contents)
}

fn lost_while_running(lab: &Lab) {
    lab.lose_records();
}

fn lost_with_a_reboot(lab: &Lab) {
    lab.lose_records();
    lab.host.world().reboot();
}

#[test]
fn an_image_without_a_record_is_adopted_by_the_guid_in_its_manifest() {
    for prepare in [lost_while_running, lost_with_a_reboot] {
        let guids = |lab: &Lab| (lab.guid("r0"), lab.guid("r1"));
        let ids = std::cell::Cell::new(None);
        let (lab, mut wanted, contents) = lost(|lab| {
            ids.set(Some(guids(lab)));
            prepare(lab);
        });
        let (first, second) = ids.get().unwrap();
        let slots = lab.repo_of(second).slots;
        let (daemon, running) = (lab.repo_of(second).daemon, lab.repo_of(second).containers);
        wanted.repo(0).guid = Some(first);
        wanted.repo(1).guid = Some(second);
        lab.look(&lab.source(&wanted));
        let report = lab.run(&wanted).unwrap();
        settled(&lab, &report, &wanted);
        assert_eq!(guids(&lab), (first, second));
        assert_eq!(lab.contents(), contents);
        assert_eq!(lab.repo_of(second).slots, slots);
        assert_eq!(lab.published().len(), 3);
        assert!(lab.host.world().actual.machine.known().is_some());
        if daemon.known().is_some() {
            assert_eq!(lab.repo_of(second).containers, running);
        }
    }
}

#[test]
fn an_image_without_a_record_is_adopted_by_command() {
    for prepare in [lost_while_running, lost_with_a_reboot] {
        let ids = std::cell::Cell::new(None);
        let (lab, wanted, contents) = lost(|lab| {
            ids.set(Some([lab.guid("r0"), lab.guid("r1")]));
            prepare(lab);
        });
        let guids = ids.get().unwrap();
        lab.run(&wanted).unwrap();
        for (id, guid) in guids.into_iter().enumerate() {
            let seen = lab.look(&lab.source(&Folder::default())).actual;
            let network = free_network(&seen, guid, &lab.ids).unwrap();
            let called = name(&format!("r{id}"));
            let act = Act::Adopt {
                name: called,
                network,
            };
            let report = lab.act(guid, act).unwrap();
            assert_eq!(done(&report), ["Reserve", "Created"]);
        }
        let report = lab.run(&wanted).unwrap();
        settled(&lab, &report, &wanted);
        assert_eq!([lab.guid("r0"), lab.guid("r1")], guids);
        assert_eq!(lab.contents(), contents);
    }
}

#[test]
fn an_image_in_the_trash_without_a_record_is_never_made_over() {
    let both = two_with_one_deleted_without_manifest();
    let lab = Lab::at_rest(&both);
    let guid = lab.guid("r1");
    let content = lab.content(guid);
    lab.prune(&both.without(1)).unwrap();
    lab.host.world().actual.repo_mut(guid).record = Part::Absent;
    let report = lab.prune(&both).unwrap();
    assert!(
        lab.repo_of(guid).trash.known().is_some(),
        "{:?}",
        done(&report)
    );
    let mut named = both;
    named.repo(1).guid = Some(guid);
    let lab_guid = lab.find("r1", true);
    if let Some(other) = lab_guid {
        lab.act(other, lab.delete(other)).unwrap();
        lab.act(other, Act::Resume).unwrap();
    }
    let report = lab.prune(&named).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    assert_eq!(lab.guid("r1"), guid);
    assert_eq!(lab.content(guid), content);
}

#[test]
fn a_run_does_nothing_worse_than_what_was_shown() {
    // Shown while everything was in sync: then what runs has changed.
    let lab = Lab::at_rest(&folder(2));
    let mut changed = folder(2);
    changed.repo(1).projects = BTreeMap::from([(0, 1)]);
    let nothing = lab.look(&lab.source(&folder(2)));
    let report = lab.run_shown(&lab.source(&changed), &nothing).unwrap();
    let guid = lab.guid("r1");
    assert_eq!(reason(&report, &Object::Repository(guid)), "NotShown");
    assert!(report.performed.is_empty(), "{:?}", done(&report));
    let shown = lab.look(&lab.source(&changed));
    assert!(
        lab.run_shown(&lab.source(&changed), &shown)
            .unwrap()
            .in_sync()
    );
}

#[test]
fn a_run_retires_nothing_that_was_not_shown() {
    let lab = Lab::at_rest(&folder(4));
    let shown = lab.look(&lab.pruning(&folder(4).without(1), None));
    let source = lab.pruning(&folder(4).without(1).without(2), None);
    let report = lab.run_shown(&source, &shown).unwrap();
    let (first, second) = (lab.guid("r1"), lab.guid("r2"));
    assert_eq!(lab.record(first).unwrap().owner, None);
    assert_eq!(reason(&report, &Object::Repository(second)), "NotShown");
    assert!(lab.record(second).unwrap().owner.is_some());
    // The next run shows it.
    let shown = lab.look(&source);
    assert!(lab.run_shown(&source, &shown).unwrap().in_sync());
}

#[test]
fn a_later_wave_retires_nothing_that_the_first_could_not_see() {
    // A stopped repository keeps the files of its projects where nobody sees them.
    let mut before = folder(1).with(0, Repo::with(&[0, 1]));
    before.repo(0).state = RunState::Stopped;
    let lab = Lab::at_rest(&folder(1).with(0, Repo::with(&[0, 1])));
    assert!(lab.run(&before).unwrap().in_sync());
    lab.host.world().reboot();
    let mut after = folder(1);
    after.repo(0).state = RunState::Stopped;
    let guid = lab.guid("r0");
    let report = lab.prune(&after).unwrap();
    assert_eq!(reason(&report, &service(guid, "p1")), "NotShown");
    let report = lab.prune(&after).unwrap();
    settled(&lab, &report, &after);
    assert!(done(&report).contains(&"EraseFiles"));
}

/// Whatever goes wrong at any step of `action`, saying it again finishes it.
fn finishes(
    prepare: impl Fn() -> Lab,
    action: impl Fn(&Lab) -> Option<Report>,
    is_done: impl Fn(&Lab),
) {
    let lab = prepare();
    action(&lab).unwrap();
    is_done(&lab);
    let lab = prepare();
    let before = lab.host.world().steps();
    action(&lab).unwrap();
    let steps = lab.host.world().steps() - before;
    assert!(steps > 0);
    for at in 0..steps {
        for fault in Fault::ALL {
            let lab = prepare();
            lab.faults(&[(at, fault)]);
            action(&lab);
            lab.host.world().faults.clear();
            action(&lab).unwrap();
            is_done(&lab);
        }
    }
}

#[test]
fn l27_a_crash_anywhere_in_a_retirement_is_finished_by_the_next_run() {
    let before = folder(3).with(0, Repo::with(&[0, 1]));
    let after = before.with(0, Repo::with(&[0])).without(1);
    finishes(
        || Lab::at_rest(&before),
        |lab| lab.prune(&after),
        |lab| {
            settled(lab, &lab.prune(&after).unwrap(), &after);
            assert_eq!(lab.record(lab.guid("r1")).unwrap().owner, None);
            assert_eq!(lab.contents().len(), 3);
            assert_eq!(lab.published().len(), 2);
        },
    );
}

#[test]
fn l27_a_crash_anywhere_on_the_way_into_the_trash_is_finished_by_the_next_run() {
    let before = two_with_one_deleted_without_manifest();
    let after = before.without(1);
    finishes(
        || Lab::at_rest(&before),
        |lab| lab.prune(&after),
        |lab| {
            settled(lab, &lab.prune(&after).unwrap(), &after);
            let guid = lab.find("r1", false).unwrap();
            assert!(lab.repo_of(guid).trash.known().is_some());
            assert_eq!(lab.contents().len(), 2);
        },
    );
}

#[test]
fn l27_a_crash_anywhere_on_the_way_back_from_the_trash_is_finished_by_the_next_run() {
    let before = two_with_one_deleted_without_manifest();
    finishes(
        || {
            let lab = Lab::at_rest(&before);
            lab.prune(&before.without(1)).unwrap();
            lab
        },
        |lab| lab.prune(&before),
        |lab| {
            settled(lab, &lab.prune(&before).unwrap(), &before);
            assert_eq!(lab.contents().len(), 2);
            assert_eq!(lab.published().len(), 2);
        },
    );
}

#[test]
fn l27_a_crash_anywhere_in_a_restore_is_finished_by_the_same_command() {
    finishes(
        || {
            let lab = Lab::at_rest(&folder(1));
            let guid = lab.guid("r0");
            lab.act(guid, lab.delete(guid)).unwrap();
            lab
        },
        |lab| {
            let guid = *lab.contents().keys().next().unwrap();
            lab.act(guid, Act::Restore)
        },
        |lab| {
            let guid = lab.guid("r0");
            assert_eq!(lab.record(guid).unwrap().owner, None);
            assert!(lab.repo_of(guid).trash.is_absent());
            assert_eq!(lab.contents().len(), 1);
        },
    );
}

#[test]
fn l27_a_crash_anywhere_in_a_delete_with_leave_is_finished_by_the_same_command() {
    finishes(
        || Lab::at_rest(&folder(2)),
        |lab| {
            let guid = lab.find("r1", true).or(lab.find("r1", false)).unwrap();
            let act = Act::Delete {
                stone: lab.stone(guid),
                permit: DataLossPermit::named(guid, &name("r1"), "r1"),
            };
            lab.act(guid, act)
        },
        |lab| {
            let guid = lab.find("r1", false).unwrap();
            assert_eq!(lab.contents().len(), 1);
            let report = lab.run(&folder(2)).unwrap();
            assert_eq!(reason(&report, &Object::Repository(guid)), "Deleted");
            assert!(lab.run(&folder(2)).unwrap().performed.is_empty());
        },
    );
}

#[test]
fn l27_a_crash_anywhere_in_an_expiry_is_finished_by_the_next_run() {
    finishes(
        || {
            let lab = Lab::at_rest(&folder(2));
            expires_now(&lab, lab.guid("r1"));
            lab
        },
        |lab| lab.run(&folder(2)),
        |lab| {
            let report = lab.run(&folder(2)).unwrap();
            assert!(report.in_sync(), "{:?}", report.last.plan);
            assert_eq!(lab.contents().len(), 1);
        },
    );
}

#[test]
fn l3_nothing_is_pruned_while_the_record_of_something_undeclared_cannot_be_read() {
    // It may be what another manifest's object was called, or whose it is.
    let lab = Lab::at_rest(&folder(4));
    let (torn, gone) = (lab.guid("r1"), lab.guid("r2"));
    lab.host.world().unreadable.insert(Unreadable::Record(torn));
    let report = lab.prune(&folder(4).without(1).without(2)).unwrap();
    assert!(report.performed.is_empty(), "{:?}", done(&report));
    assert!(lab.record(gone).unwrap().owner.is_some());
}

#[test]
fn a_route_noted_for_an_address_that_its_repository_lost_is_not_published() {
    let lab = Lab::at_rest(&folder(2));
    let guid = lab.guid("r0");
    let before = lab.record(guid).unwrap().network;
    {
        let mut world = lab.host.world();
        let repo = world.actual.repo_mut(guid);
        repo.record = Part::Absent;
        repo.mirror = Part::Absent;
        world.reboot();
    }
    // The route is no longer declared, and stays noted: nothing is pruned.
    let mut adopting = folder(2);
    adopting.repo(0).guid = Some(guid);
    adopting.repo(0).route = false;
    assert!(lab.run(&adopting).unwrap().in_sync());
    assert_ne!(lab.record(guid).unwrap().network, before);
    assert_eq!(lab.published(), BTreeSet::from(["r1-p0".to_owned()]));
}

#[test]
fn a_suspended_route_is_not_changed_published_anew_nor_retired() {
    let one = folder(1);
    let lab = Lab::at_rest(&one);
    let (route, guid) = (Object::Route(name("r0-p0")), lab.guid("r0"));
    lab.suspend(route.clone(), Some(lab.suspension())).unwrap();
    let published = lab.host.world().actual.published.clone();
    // Its service is taken away, and then its manifest: what is published stays.
    let mut stopped = one.clone();
    stopped.repo(0).state = RunState::Stopped;
    let report = lab.run(&stopped).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    assert_eq!(lab.host.world().actual.published, published);
    assert!(lab.run(&one).unwrap().in_sync());
    let mut gone = one.clone();
    gone.repo(0).route = false;
    let report = lab.prune(&gone).unwrap();
    assert_eq!(reason(&report, &route), "Suspended");
    assert!(report.in_sync() && report.performed.is_empty());
    assert_eq!(lab.host.world().actual.published, published);
    // Whose address it was may be somebody else's: that is not waited with.
    let machine = lab.host.world().actual.repositories.clone();
    if let Part::Known(record) = &mut lab.host.world().actual.repo_mut(guid).record {
        record.network = NetworkId::try_from(4096).unwrap();
    }
    assert!(table(&lab).is_empty());
    lab.host.world().actual.repositories = machine;

    lab.suspend(route, None).unwrap();
    assert!(lab.prune(&gone).unwrap().in_sync());
    assert!(lab.published().is_empty());
}

/// What would be published now.
fn table(lab: &Lab) -> renet::model::RouteTable {
    let wave = lab.look(&lab.source(&Folder::default()));
    renet::plan::table(&wave.desired, &wave.actual, &BTreeSet::new())
}

#[test]
fn a_suspended_machine_is_left_alone_with_all_that_is_on_it() {
    let both = two_with_one_deleted_without_manifest();
    let lab = Lab::at_rest(&both);
    let until = Some(lab.now() + jiff::SignedDuration::from_hours(2));
    let suspension = Suspension {
        until,
        ..lab.suspension()
    };
    lab.suspend(Object::Machine, Some(suspension)).unwrap();
    // In sync or not, it is said.
    let report = lab.run(&both).unwrap();
    assert_eq!(reason(&report, &Object::Machine), "Suspended");
    lab.host.world().containers().for_each(|container| {
        container.state = renet::model::ContainerState::Exited(137);
    });
    lab.host.world().actual.proxy = Part::Absent;
    let mut changed = both.without(1);
    changed.repo(0).size = 128;
    let report = lab.prune(&changed).unwrap();
    assert!(report.performed.is_empty(), "{:?}", report.performed);
    assert!(report.in_sync(), "{:?}", report.last.plan);
    let all = &report.last.plan.blocked;
    assert!(all.values().all(|why| why.reason() == "Suspended"));
    for object in [Object::Datastore, Object::Repository(lab.guid("r0"))] {
        assert_eq!(reason(&report, &object), "Suspended");
    }
    // After a power loss it is opened to find that out, and nothing more.
    lab.host.world().reboot();
    let report = lab.prune(&changed).unwrap();
    let opened: Vec<&str> = done(&report);
    assert_eq!(opened, ["Attach", "Mount"]);
    assert!(report.in_sync(), "{:?}", report.last.plan);
    // A command is heard all the same.
    let guid = lab.guid("r0");
    lab.act(guid, Act::Up { network: None }).unwrap();
    let mounted = lab.repo_of(guid);
    assert!(mounted.storage.mount.known().is_some());
    lab.later(2);
    let report = lab.prune(&changed).unwrap();
    assert!(report.in_sync() && !report.performed.is_empty());
    assert!(all_quiet(&report), "{:?}", report.last.plan);
}

fn all_quiet(report: &Report) -> bool {
    report.last.plan.blocked.is_empty()
}
