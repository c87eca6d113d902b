//! Encrypted repositories and copies of repositories.

use jiff::Timestamp;
use renet::model::{
    Act, Blocked, DataLossPermit, DeletionPolicy, Guid, Header, Lineage, NetworkId, Object, Part,
    Size, Snapshot, Step,
};

use super::world::*;

fn without_passphrase(lab: &Lab) {
    lab.host.world().actual.secrets.clear();
}

fn with_passphrase(lab: &Lab) {
    let mut world = lab.host.world();
    world.actual.secrets.insert(passphrase(), Part::Known(()));
}

fn sealed() -> Folder {
    folder(1).with(0, Repo::with(&[0]).sealed())
}

/// A repository, and a copy of it.
fn family() -> Folder {
    folder(1).with(1, Repo::with(&[0]).copy_of(0))
}

fn copy(lab: &Lab, parent: Guid, autostart: bool) -> Guid {
    let called = name("copy");
    let guid = lab.ids.guid(&called);
    let act = Act::Fork {
        name: called,
        network: NetworkId::try_from(4096).unwrap(),
        lineage: Lineage::of(parent),
        expires: None,
        autostart,
    };
    assert!(lab.act(guid, act).unwrap().in_sync());
    guid
}

#[test]
fn without_its_passphrase_one_waits_and_the_others_go_on() {
    let lab = Lab::at_rest(&sealed().with(1, Repo::with(&[0])));
    lab.host.world().reboot();
    without_passphrase(&lab);
    let wanted = sealed().with(1, Repo::with(&[0]));
    let report = lab.run(&wanted).unwrap();
    let guid = lab.guid("r0");
    let why = &report.last.plan.blocked[&Object::Repository(guid)];
    assert!(matches!(why, Blocked::PassphraseRequired { .. }), "{why}");
    assert!(lab.published().contains("r1-p0"), "{:?}", lab.published());
    assert!(lab.repo_of(guid).storage.device.is_absent());
    assert!(lab.repo_of(lab.guid("r1")).daemon.known().is_some());
    with_passphrase(&lab);
    assert!(lab.run(&wanted).unwrap().in_sync());
}

#[test]
fn a_new_one_is_not_made_before_its_passphrase_is_there() {
    let lab = Lab::new();
    without_passphrase(&lab);
    let report = lab.run(&sealed()).unwrap();
    assert!(lab.contents().is_empty());
    let mut blocked = report.last.plan.blocked.values();
    assert!(blocked.any(|why| matches!(why, Blocked::PassphraseRequired { .. })));
}

#[test]
fn a_key_that_a_kill_left_without_its_slot_goes_to_no_copy() {
    let lab = Lab::at_rest(&sealed());
    let parent = lab.guid("r0");
    lab.host.world().actual.repo_mut(parent).key = Part::Known(());
    let copied = lab.repo_of(copy(&lab, parent, true));
    let slot = copied.storage.header.known().is_some_and(Header::has_key);
    assert_eq!(copied.key.known().is_some(), slot);
}

#[test]
fn what_starts_at_boot_opens_without_its_passphrase() {
    let mut wanted = sealed();
    wanted.repo(0).autostart = Some(true);
    let lab = Lab::at_rest(&wanted);
    without_passphrase(&lab);
    lab.host.world().reboot();
    assert!(lab.run(&wanted).unwrap().in_sync());
    // And no longer, when it is not to.
    wanted.repo(0).autostart = Some(false);
    assert!(lab.run(&wanted).unwrap().in_sync());
    let repo = lab.repo_of(lab.guid("r0"));
    assert!(repo.key.is_absent());
    assert!(!repo.storage.header.known().is_some_and(Header::has_key));
    lab.host.world().reboot();
    assert!(!lab.run(&wanted).unwrap().in_sync());
}

#[test]
fn encrypted_or_plain_is_read_at_creation_alone() {
    for (first, then) in [(sealed(), folder(1)), (folder(1), sealed())] {
        let lab = Lab::at_rest(&first);
        let report = lab.run(&then).unwrap();
        let why = &report.last.plan.blocked[&Object::Repository(lab.guid("r0"))];
        let field = match why {
            Blocked::Immutable { field, .. } => *field,
            other => panic!("{other}"),
        };
        assert_eq!(field, "encryption");
        assert!(report.performed.is_empty());
    }
}

#[test]
fn growth_goes_through_every_layer_of_an_encrypted_image() {
    let lab = Lab::at_rest(&sealed());
    let mut wanted = sealed();
    wanted.repo(0).size = 128;
    let shown = lab.look(&lab.source(&wanted));
    let steps: Vec<String> = shown.plan.steps.iter().map(ToString::to_string).collect();
    let short: Vec<&str> = steps
        .iter()
        .map(|step| step.split("  ").next().unwrap())
        .collect();
    let layers = [
        "grow file",
        "grow device",
        "grow mapping",
        "grow file system",
    ];
    assert_eq!(short, layers);
    assert!(lab.run(&wanted).unwrap().in_sync());
    let mount = lab.repo_of(lab.guid("r0")).storage.mount;
    assert_eq!(mount.known().unwrap().size, Size::mib(112));
}

#[test]
fn a_copy_comes_up_beside_its_parent_in_one_run() {
    let lab = Lab::new();
    let source = lab.source(&family());
    let shown = lab.look(&source);
    assert!(shown.plan.danger.is_empty(), "{:?}", shown.plan.danger);
    let report = lab.run_shown(&source, &shown).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    let (parent, copy) = (lab.guid("r0"), lab.guid("r1"));
    let record = lab.record(copy).unwrap();
    assert_eq!(record.lineage.unwrap().parent, parent);
    assert!(record.cleaned);
    assert_eq!(lab.published().len(), 2);
    assert!(lab.run(&family()).unwrap().performed.is_empty());
}

#[test]
fn a_parent_goes_while_its_copies_live() {
    let lab = Lab::at_rest(&family());
    let mut alone = family().without(0);
    alone.repo(1).policy = DeletionPolicy::Retain;
    let parent = lab.guid("r0");
    lab.act(parent, lab.delete(parent)).unwrap();
    let report = lab.run(&alone).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    assert!(lab.repo_of(lab.guid("r1")).daemon.known().is_some());
}

#[test]
fn a_copy_is_never_made_another_repositorys() {
    let lab = Lab::at_rest(&family().with(2, Repo::with(&[0])));
    let mut moved = family().with(2, Repo::with(&[0]));
    moved.repo(1).fork = Some((2, None));
    let report = lab.run(&moved).unwrap();
    let why = &report.last.plan.blocked[&Object::Repository(lab.guid("r1"))];
    assert!(
        matches!(
            why,
            Blocked::Immutable {
                field: "forkOf",
                ..
            }
        ),
        "{why}"
    );
    moved.repo(1).fork = None;
    let report = lab.run(&moved).unwrap();
    let why = &report.last.plan.blocked[&Object::Repository(lab.guid("r1"))];
    assert!(
        matches!(
            why,
            Blocked::Immutable {
                field: "forkOf",
                ..
            }
        ),
        "{why}"
    );
}

#[test]
fn l40_a_copys_daemon_never_starts_on_its_parents_containers() {
    let lab = Lab::at_rest(&folder(1));
    let parent = lab.guid("r0");
    let guid = copy(&lab, parent, false);
    let network = NetworkId::try_from(4096).unwrap();
    let mut world = lab.host.world().actual.clone();
    let start = Step::StartDaemon { guid, network };
    for step in [
        Step::Attach(renet::model::Volume::Image(guid)),
        Step::Mount(renet::model::Volume::Image(guid)),
    ] {
        step.effect(&mut world);
    }
    assert!(start.ready(&world).is_err(), "it may start");
    assert!(lab.act(guid, Act::Up { network: None }).unwrap().in_sync());
    let containers = lab.repo_of(guid).containers;
    assert!(containers.known().unwrap().is_empty(), "{containers:?}");
}

#[test]
fn a_copy_that_was_never_up_gets_the_network_that_is_asked_for() {
    let lab = Lab::at_rest(&folder(1));
    let parent = lab.guid("r0");
    let guid = copy(&lab, parent, false);
    let up = |network| Act::Up {
        network: Some(network),
    };
    // Never its parent's.
    let taken = lab.record(parent).unwrap().network;
    let report = lab.act(guid, up(taken)).unwrap();
    let why = &report.last.plan.blocked[&Object::Repository(guid)];
    assert!(matches!(why, Blocked::NetworkIdInUse { .. }), "{why}");
    assert!(report.performed.is_empty());
    let other = NetworkId::try_from(8192).unwrap();
    assert!(lab.act(guid, up(other)).unwrap().in_sync());
    assert_eq!(lab.record(guid).unwrap().network, other);
    // From then on it has that one.
    let report = lab
        .act(guid, up(NetworkId::try_from(9216).unwrap()))
        .unwrap();
    assert!(!report.in_sync());
}

#[test]
fn a_copys_slot_for_its_parents_key_goes_unless_it_is_told_to_keep_it() {
    let mut wanted = sealed();
    wanted.repo(0).autostart = Some(true);
    for keeps in [false, true] {
        let lab = Lab::at_rest(&wanted);
        let guid = copy(&lab, lab.guid("r0"), keeps);
        let report = lab.act(guid, Act::Mount { network: None }).unwrap();
        assert_eq!(report.in_sync(), keeps, "{:?}", report.last.plan.blocked);
        if !keeps {
            // A command is given the passphrase by who runs it.
            let typed = renet::model::SecretRef::Typed;
            lab.host
                .world()
                .actual
                .secrets
                .insert(typed, Part::Known(()));
            let report = lab.act(guid, Act::Mount { network: None }).unwrap();
            assert!(report.in_sync(), "{:?}", report.last.plan.blocked);
        }
        let repo = lab.repo_of(guid);
        assert_eq!(
            repo.storage.header.known().is_some_and(Header::has_key),
            keeps
        );
        assert_eq!(repo.key.known().is_some(), keeps);
    }
}

#[test]
fn what_a_killed_copy_left_frozen_goes_on_first() {
    let lab = Lab::at_rest(&folder(2));
    let guid = lab.guid("r0");
    lab.host.world().actual.repo_mut(guid).storage.frozen = Part::Known(());
    // Also where it is told to be left alone.
    lab.act(guid, Act::Suspend(lab.suspension())).unwrap();
    lab.host.world().actual.repo_mut(guid).storage.frozen = Part::Known(());
    let shown = lab.look(&lab.source(&folder(2)));
    assert_eq!(shown.plan.steps.first(), Some(&Step::Thaw(guid)));
    lab.run(&folder(2)).unwrap();
    assert!(lab.repo_of(guid).storage.frozen.is_absent());
}

#[test]
fn a_preview_goes_at_its_time() {
    let mut wanted = family();
    wanted.repo(1).fork = Some((0, Some(8)));
    let lab = Lab::at_rest(&wanted);
    let guid = lab.guid("r1");
    lab.later(9);
    let report = lab.run(&wanted).unwrap();
    let why = &report.last.plan.blocked[&Object::Repository(guid)];
    assert!(matches!(why, Blocked::Expired { .. }), "{why}");
    assert!(report.in_sync());
    assert!(lab.content(guid).is_none());
    assert_eq!(lab.published().len(), 1);
}

fn snapshots(lab: &Lab, guid: Guid) -> Vec<Timestamp> {
    let repo = lab.repo_of(guid);
    let all = repo.snapshots.known().cloned().unwrap_or_default();
    all.into_keys().collect()
}

#[test]
fn snapshots_are_made_when_they_are_due_and_no_more_are_kept_than_is_said() {
    let wanted = folder(1).with(0, Repo::with(&[0]).with_snapshots(2, 2));
    let lab = Lab::at_rest(&wanted);
    let guid = lab.guid("r0");
    let first = snapshots(&lab, guid);
    assert_eq!(first.len(), 1);
    // One that a command made is nobody else's.
    lab.later(1);
    let mine = Snapshot::moment(lab.now());
    assert!(lab.act(guid, Act::Snapshot(mine)).unwrap().in_sync());
    assert!(lab.run(&wanted).unwrap().performed.is_empty());
    for _ in 0..3 {
        lab.later(2);
        assert!(lab.run(&wanted).unwrap().in_sync());
        assert!(lab.run(&wanted).unwrap().performed.is_empty());
    }
    let kept = snapshots(&lab, guid);
    assert_eq!(kept.len(), 3);
    assert!(kept.contains(&mine) && !kept.contains(&first[0]));
}

#[test]
fn a_copy_of_a_snapshot_holds_what_was_there_then() {
    let lab = Lab::at_rest(&folder(1));
    let guid = lab.guid("r0");
    let at = Snapshot::moment(lab.now());
    assert!(lab.act(guid, Act::Snapshot(at)).unwrap().in_sync());
    let files = lab.repo_of(guid).files.clone();
    let mut wanted = folder(1);
    *wanted.repo(0).projects.get_mut(&0).unwrap() = 1;
    wanted.repo(0).size = 128;
    assert!(lab.run(&wanted).unwrap().in_sync());
    let called = name("then");
    let copy = lab.ids.guid(&called);
    let act = Act::Fork {
        name: called,
        network: NetworkId::try_from(4096).unwrap(),
        lineage: Lineage {
            snapshot: Some(at),
            ..Lineage::of(guid)
        },
        expires: None,
        autostart: false,
    };
    assert!(lab.act(copy, act).unwrap().in_sync());
    let repo = lab.repo_of(copy);
    assert_eq!(repo.storage.file, Part::Known(Size::mib(64)));
    assert_eq!(repo.files, files);
    assert_ne!(lab.repo_of(guid).files, files);
}

#[test]
fn what_is_destroyed_takes_its_snapshots_along_and_the_trash_keeps_them() {
    let wanted = folder(1).with(0, Repo::with(&[0]).with_snapshots(1, 2));
    let lab = Lab::at_rest(&wanted);
    let guid = lab.guid("r0");
    let stone = lab.stone(guid);
    let delete = |permit| Act::Delete {
        stone: stone.clone(),
        permit,
    };
    assert!(lab.act(guid, delete(None)).unwrap().in_sync());
    assert_eq!(snapshots(&lab, guid).len(), 1);
    let record = lab.record(guid).unwrap();
    let permit = DataLossPermit::named(guid, &record.name, record.name.as_str());
    assert!(lab.act(guid, delete(permit)).unwrap().in_sync());
    let left = lab.repo_of(guid).snapshots.clone();
    assert_eq!(left, Part::Absent);
}
