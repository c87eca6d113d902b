use std::collections::BTreeSet;

use renet::execute::{Options, Report};
use renet::host::Scope;
use renet::host::sim::Unreadable;
use renet::manifest::Machine;
use renet::model::{
    Act, Blocked, Daemon, Lineage, MachineRecord, NetworkId, Object, Part, ResourceLimits,
    RunState, Size, Step, StoreAct,
};

use super::world::*;

#[test]
fn a_cold_start_is_shown_whole() {
    let lab = Lab::new();
    let wanted = folder(1);
    let source = lab.source(&wanted);
    let shown = lab.look(&source);
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
    let wanted = folder(1);
    lab.run(&wanted).unwrap();
    assert!(lab.run(&wanted).unwrap().performed.is_empty());
}

#[test]
fn no_id_is_given_out_while_a_record_cannot_be_read() {
    let lab = Lab::new();
    let mut world = folder(1);
    lab.run(&world).unwrap();
    let first = *lab.host.world().contents.keys().next().unwrap();
    lab.host
        .world()
        .unreadable
        .insert(Unreadable::Record(first));
    world.repositories.insert(1, world.repositories[&0].clone());
    let report = lab.run(&world).unwrap();
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
    let wanted = folder(1);
    lab.run(&wanted).unwrap();
    let guid = *lab.host.world().contents.keys().next().unwrap();
    lab.host.world().actual.repo_mut(guid).record = Part::Absent;
    let report = lab.run(&wanted).unwrap();
    assert!(report.performed.is_empty(), "{:?}", report.performed);
    let why = report.last.plan.blocked.values().next().unwrap();
    assert_eq!(*why, Blocked::UnknownImage { images: vec![guid] });

    let mut adopting = wanted;
    adopting.repo(0).guid = Some(guid);
    assert!(lab.run(&adopting).unwrap().in_sync());
}

#[test]
fn an_image_that_vanished_is_never_made_again() {
    let lab = Lab::new();
    let wanted = folder(1);
    lab.run(&wanted).unwrap();
    let guid = *lab.host.world().contents.keys().next().unwrap();
    lab.host.world().reboot();
    lab.host.world().actual.repo_mut(guid).storage.file = Part::Absent;
    lab.host.world().contents.clear();
    let report = lab.run(&wanted).unwrap();
    let why = &report.last.plan.blocked[&Object::Repository(guid)];
    assert_eq!(*why, Blocked::ImageMissing);
}

#[test]
fn another_datastore_or_none_is_never_replaced() {
    let lab = Lab::new();
    let wanted = folder(1);
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
    let wanted = folder(1);
    lab.run(&wanted).unwrap();
    let mut source = lab.source(&wanted);
    source.owner = source_of("/home/other");
    let report = lab.run_source(&source, Options::default()).unwrap();
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
    let world = folder(2);
    lab.run(&world).unwrap();
    let guid = *lab.host.world().contents.keys().next().unwrap();
    for part in [Unreadable::Record(guid), Unreadable::Daemon(guid)] {
        lab.host.world().unreadable.insert(part);
        lab.run(&world).unwrap();
        assert_eq!(lab.host.world().actual.published.known().unwrap().len(), 2);
        lab.host.world().unreadable.clear();
    }
}

#[test]
fn a_revision_that_cannot_get_well_is_tried_once() {
    let lab = Lab::new();
    let wanted = folder(1);
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
            .any(|why| *why == Blocked::REVISION_FAILED)
    );
}

#[test]
fn a_machine_of_another_name_changes_nothing() {
    let lab = Lab::new();
    let wanted = folder(1);
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
    let lab = Lab::at_rest(&folder(2));
    let mut source = lab.source(&folder(3));
    let mut manifests = folder(3).manifests();
    let third = manifests.repositories.get_mut(&name("r2")).unwrap();
    third.network_id = Some(NetworkId::FIRST);
    source.manifests = std::sync::Arc::new(manifests);
    let report = lab.run_source(&source, Options::default()).unwrap();
    let mut reasons = report.last.plan.blocked.values().map(Blocked::reason);
    assert!(reasons.any(|reason| reason == "NetworkIdInUse"));
    assert_eq!(lab.contents().len(), 2);
}

#[test]
fn no_repository_is_renamed_while_a_record_cannot_be_read() {
    // The torn one may have that very name.
    let lab = Lab::at_rest(&folder(2));
    let torn = lab.guid("r1");
    lab.host.world().unreadable.insert(Unreadable::Record(torn));
    let mut renamed = folder(2).without(0);
    renamed.repo(1).moved_from = Some(renet::manifest::MovedFrom::Name(name("r0")));
    let report = lab.run(&renamed).unwrap();
    assert!(report.performed.is_empty());
    let mut reasons = report.last.plan.blocked.values().map(Blocked::reason);
    assert!(reasons.any(|reason| reason == "Unknown"));
}

#[test]
fn after_a_power_loss_one_run_that_was_shown_brings_everything_back() {
    let lab = Lab::new();
    let wanted = folder(1);
    lab.run(&wanted).unwrap();
    lab.host.world().reboot();
    let source = lab.source(&wanted);
    let shown = lab.look(&source);
    let report = lab.run_shown(&source, &shown).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
}

#[test]
fn no_plan_publishes_what_it_only_hopes_for() {
    let lab = Lab::new();
    let shown = lab.look(&lab.source(&folder(1)));
    let mut steps = shown.plan.steps.iter();
    let publishes = |step: &Step| matches!(step, Step::PublishRoutes(table) if !table.is_empty());
    assert!(!steps.any(publishes), "{:?}", shown.plan.steps);
    // It says that there is more to come.
    assert!(shown.plan.more.contains(&Object::Proxy));
}

#[test]
fn a_datastore_that_was_told_to_stay_closed_stays_so() {
    let offline = folder(1).with(
        0,
        Repo {
            state: RunState::Offline,
            ..Repo::with(&[])
        },
    );
    let lab = Lab::at_rest(&folder(1));
    let unmount = || StoreAct::Unmount(lab.suspension());
    // Not while something in it is open, and then nothing is touched.
    let report = lab.store(unmount()).unwrap();
    let why = report.last.plan.blocked[&Object::Datastore].to_string();
    assert!(why.contains("r0"), "{why}");
    assert!(report.performed.is_empty());
    lab.run(&offline).unwrap();
    assert!(lab.store(unmount()).unwrap().in_sync());
    let storage = lab.host.world().actual.datastore.storage.clone();
    assert!(storage.mount.is_absent() && storage.device.is_absent());
    // Neither an apply nor another boot opens it.
    let report = lab.run(&folder(1)).unwrap();
    assert!(
        report.in_sync() && report.performed.is_empty(),
        "{:?}",
        report.performed
    );
    lab.host.world().reboot();
    assert!(lab.run(&folder(1)).unwrap().performed.is_empty());
    assert!(lab.store(StoreAct::Mount).unwrap().in_sync());
    assert!(lab.run(&folder(1)).unwrap().in_sync());
    assert_eq!(lab.published().len(), 1);
}

#[test]
fn what_its_machine_closes_when_it_stops_is_opened_by_the_next_apply() {
    let lab = Lab::at_rest(&folder(1));
    let guid = lab.guid("r0");
    let seen = || lab.host.world().actual.repository(guid).unwrap();
    let before = seen().record.clone();
    assert!(lab.act(guid, Act::Close).unwrap().in_sync());
    assert!(lab.store(StoreAct::Close).unwrap().in_sync());
    let world = lab.host.world().actual.clone();
    assert!(world.datastore.storage.device.is_absent());
    assert_eq!(world.datastore.closed, Part::Absent);
    lab.host.world().reboot();
    assert!(lab.run(&folder(1)).unwrap().in_sync());
    assert_eq!(seen().record, before);
    assert!(seen().daemon.known().is_some());
    assert_eq!(lab.published().len(), 1);
}

#[test]
fn l28_with_no_byte_free_a_deletion_gives_the_reserve_back_first() {
    let lab = Lab::at_rest(&folder(1));
    let reserve = || lab.host.world().actual.datastore.reserve.clone();
    assert!(reserve().known().is_some());
    lab.host.world().actual.datastore.free = Part::Known(Size::default());
    let guid = lab.guid("r0");
    let report = lab.act(guid, lab.delete(guid)).unwrap();
    assert_eq!(report.performed[0].step, Step::GiveReserve);
    assert!(reserve().is_absent());
    // It is made again where there is room, and only there.
    lab.run(&folder(0)).unwrap();
    assert!(reserve().is_absent());
    lab.host.world().actual.datastore.free = Part::Known(Size::mib(2048));
    lab.run(&folder(0)).unwrap();
    assert!(reserve().known().is_some());
}

#[test]
fn l30_more_is_promised_than_there_is_only_where_the_machine_says_so() {
    let lab = Lab::at_rest(&folder(1));
    let guid = lab.guid("r0");
    let mut large = Repo::with(&[0]);
    large.size = 4000;
    let wanted = folder(1).with(1, large);
    let twice = |wanted: &Folder| {
        let mut source = lab.source(wanted);
        let mut manifests = wanted.manifests();
        let machine = (**manifests.machine.as_ref().unwrap()).clone();
        let overcommit = Some(200);
        manifests.machine = Some(
            Machine {
                overcommit,
                ..machine
            }
            .into(),
        );
        source.manifests = manifests.into();
        lab.run_source(&source, Options::default()).unwrap()
    };
    let other = |report: &Report| {
        let mut all = report.last.plan.blocked.iter();
        all.any(|(_, why)| why.reason() == "NoRoom")
    };
    assert!(other(&lab.run(&wanted).unwrap()));
    let report = twice(&wanted);
    assert!(report.in_sync(), "{:?}", report.last.plan);
    assert!(twice(&wanted).performed.is_empty());
    // A command has no manifest, and keeps to what the last one said.
    let grow = |mib| lab.act(guid, Act::Expand(Size::mib(mib))).unwrap();
    assert!(!other(&grow(1000)));
    assert!(other(&grow(5000)));
    // Nothing is promised where too little is really free.
    lab.host.world().actual.datastore.free = Part::Known(Size::mib(100));
    assert!(other(&grow(1100)));
    lab.host.world().actual.datastore.free = Part::Known(Size::mib(2048));
    assert!(lab.run(&wanted).unwrap().in_sync());
    assert!(other(&grow(1100)));
}

#[test]
fn the_limits_of_a_repository_change_while_it_runs() {
    let limited = |cpus| {
        let mut folder = folder(1).with(0, Repo::with(&[0]));
        folder.repo(0).limits = ResourceLimits {
            cpus,
            ..ResourceLimits::default()
        };
        folder
    };
    let lab = Lab::at_rest(&limited(None));
    let guid = lab.guid("r0");
    let containers = || lab.repo_of(guid).containers;
    let kept = || lab.repo_of(guid).daemon.known().unwrap().limits.unwrap();
    let before = containers();
    for cpus in [Some(50), Some(150), None] {
        let report = lab.run(&limited(cpus)).unwrap();
        assert_eq!(done(&report), ["Limit", "StartDaemon"]);
        assert_eq!(kept().cpus, cpus);
        assert_eq!(containers(), before);
        assert!(lab.run(&limited(cpus)).unwrap().performed.is_empty());
    }
    // Somebody told systemd otherwise.
    let daemon = |limits| {
        let mut world = lab.host.world();
        world.actual.repo_mut(guid).daemon = Part::Known(Daemon {
            serving: true,
            supervised: true,
            limits,
        });
    };
    daemon(Some(ResourceLimits {
        pids: Some(300),
        ..ResourceLimits::default()
    }));
    let report = lab.run(&limited(None)).unwrap();
    assert_eq!(done(&report), ["StartDaemon"]);
    // Where nothing keeps them, that is said, and nothing is tried.
    lab.run(&limited(Some(50))).unwrap();
    daemon(None);
    let report = lab.run(&limited(Some(50))).unwrap();
    assert!(report.performed.is_empty(), "{:?}", done(&report));
    assert!(report.in_sync());
    let (object, note) = &report.last.plan.notes[0];
    assert_eq!(*object, Object::Repository(guid));
    assert!(note.contains("not kept"), "{note}");
}

#[test]
fn a_command_looks_at_no_more_than_it_works_on() {
    let lab = Lab::at_rest(&folder(2));
    let looks = || std::mem::take(&mut lab.host.world().looks);
    // A copy is made and stays closed: before, after, and once for what is shown.
    let (called, parent) = (name("copy"), lab.guid("r0"));
    let copy = lab.ids.guid(&called);
    let fork = Act::Fork {
        name: called,
        network: NetworkId::try_from(4096).unwrap(),
        lineage: Lineage::of(parent),
        expires: None,
        autostart: false,
    };
    looks();
    assert!(lab.act(copy, fork).unwrap().in_sync());
    let all = looks();
    assert!(all.len() <= 2, "{all:?}");
    assert!(
        all.iter().all(|look| *look == Scope::Repository(copy)),
        "{all:?}"
    );
    // Where something runs the routes are everybody's.
    assert!(
        lab.act(parent, Act::Expand(Size::mib(200)))
            .unwrap()
            .in_sync()
    );
    let all = looks();
    assert!(all.contains(&Scope::All), "{all:?}");
}

#[test]
fn a_machine_without_a_datastore_has_nothing_that_could_be_left_alone() {
    let lab = Lab::new();
    let report = lab.suspend(Object::Machine, Some(lab.suspension()));
    let blocked = report.unwrap().last.plan.blocked;
    assert_eq!(blocked[&Object::Machine].reason(), "DependencyBlocked");
}
