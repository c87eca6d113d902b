//! A datastore on a block device, which has no layer of its own.

use renet::execute::Report;
use renet::host::sim::kind;
use renet::model::{Blocked, Mount, Object, Part, RunState, Size, Step, StoreAct, Volume};

use super::world::{Folder, Lab, Repo, done, folder, reason};

/// What never is done to a device.
const OF_FILES: [&str; 4] = ["Attach", "Detach", "GrowFile", "GrowDevice"];

#[track_caller]
fn of_no_file(report: &Report) {
    let on_it = report.performed.iter().filter(|performed| {
        let step = &performed.step;
        step.object() == Object::Datastore
    });
    let kinds = on_it.map(|performed| kind(&performed.step));
    let kinds: Vec<&str> = kinds.collect();
    for kind in OF_FILES {
        assert!(!kinds.contains(&kind), "{kinds:?}");
    }
}

/// With nothing open in it.
fn offline() -> Folder {
    folder(1).with(
        0,
        Repo {
            state: RunState::Offline,
            ..Repo::with(&[])
        },
    )
}

#[test]
fn a_blank_device_is_formatted_once_and_mounted() {
    let lab = Lab::on_disk();
    let shown = lab.look(&lab.source(&folder(1)));
    let mut steps = shown.plan.steps.iter();
    let size = Size::mib(4096);
    assert!(
        steps.any(|step| matches!(step, Step::Format { volume: Volume::Datastore, size: is, .. } if *is == size))
    );
    // What it is made on is shown.
    let changes = shown.changes();
    let store = changes.objects.iter().find(|one| one.object == "datastore");
    let text = format!("{:?}", store.unwrap().fields);
    assert!(text.contains("/dev/disk"), "{text}");
    let report = lab.run(&folder(1)).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    of_no_file(&report);
    let again = lab.run(&folder(1)).unwrap();
    assert!(again.in_sync() && again.performed.is_empty());
    lab.host.world().reboot();
    let report = lab.run(&folder(1)).unwrap();
    assert!(report.in_sync() && done(&report).contains(&"Mount"));
    assert!(!done(&report).contains(&"Format"));
    of_no_file(&report);
}

#[test]
fn a_device_with_anything_on_it_is_never_formatted() {
    let lab = Lab::on_disk();
    let why = "/dev/disk holds ext4, and no datastore is ever made over anything";
    if let Part::Known(disk) = &mut lab.host.world().actual.datastore.disk {
        disk.refused = Some(why.to_owned());
    }
    let before = lab.host.world().actual.datastore.clone();
    let report = lab.run(&folder(1)).unwrap();
    assert_eq!(reason(&report, &Object::Datastore), "Unresolved");
    let said = report.last.plan.blocked[&Object::Datastore].to_string();
    assert!(said.contains("ext4"), "{said}");
    assert!(report.performed.is_empty(), "{:?}", report.performed);
    assert_eq!(lab.host.world().actual.datastore, before);
    let init = lab.store(StoreAct::Init(None)).unwrap();
    assert!(!init.in_sync() && init.performed.is_empty());
}

#[test]
fn a_device_that_cannot_be_seen_gets_nothing_made_in_its_place() {
    let lab = Lab::on_disk();
    let source = lab.source(&folder(1));
    let gone = "/dev/disk: there is no such device".to_owned();
    lab.host.world().actual.datastore.disk = Part::Unknown(gone.clone());
    let shown = lab.look(&source);
    assert!(shown.plan.steps.is_empty(), "{:?}", shown.plan.steps);
    let why = &shown.plan.blocked[&Object::Datastore];
    assert_eq!(*why, Blocked::Unknown(gone.clone()));

    // One that this machine has is missed by name.
    let lab = Lab::on_disk();
    assert!(lab.run(&offline()).unwrap().in_sync());
    let source = lab.source(&offline());
    lab.host.world().reboot();
    let mut world = lab.host.world();
    world.actual.datastore.disk = Part::Unknown(gone.clone());
    world.actual.datastore.storage = Default::default();
    drop(world);
    let shown = lab.look(&source);
    assert!(shown.plan.steps.is_empty(), "{:?}", shown.plan.steps);
    let why = &shown.plan.blocked[&Object::Datastore];
    assert_eq!(*why, Blocked::DatastoreMissing { found: gone });
    // Another one that is blank does not do either.
    lab.give_disk();
    let shown = lab.look(&source);
    assert!(shown.plan.steps.is_empty(), "{:?}", shown.plan.steps);
    let why = shown.plan.blocked[&Object::Datastore].to_string();
    assert!(why.contains("is not on /dev/disk"), "{why}");
}

#[test]
fn a_device_that_grew_is_filled_open_or_closed() {
    let lab = Lab::on_disk();
    assert!(lab.run(&offline()).unwrap().in_sync());
    let size = || {
        let storage = lab.host.world().actual.datastore.storage.clone();
        storage.mount.known().map(|mount: &Mount| mount.size)
    };
    lab.grow_disk(Size::mib(1024));
    let report = lab.run(&offline()).unwrap();
    assert_eq!(done(&report), ["GrowFs"]);
    assert_eq!(size(), Some(Size::mib(5120)));
    assert!(lab.store(StoreAct::Close).unwrap().in_sync());
    lab.grow_disk(Size::mib(1024));
    let report = lab.run(&offline()).unwrap();
    assert!(report.in_sync() && done(&report).contains(&"Mount"));
    assert_eq!(size(), Some(Size::mib(6144)));
    of_no_file(&report);
    assert!(lab.run(&offline()).unwrap().performed.is_empty());
    // More than there is nobody gets; the device is named.
    let report = lab.store(StoreAct::Expand(Size::mib(8192))).unwrap();
    let why = report.last.plan.blocked[&Object::Datastore].to_string();
    assert!(why.contains("/dev/disk") && why.contains("6GiB"), "{why}");
    assert!(report.performed.is_empty());
}

#[test]
fn a_device_is_unmounted_stays_so_and_comes_back() {
    let lab = Lab::on_disk();
    assert!(lab.run(&offline()).unwrap().in_sync());
    let unmount = || StoreAct::Unmount(lab.suspension());
    let report = lab.store(unmount()).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    assert!(done(&report).contains(&"Unmount"));
    of_no_file(&report);
    let storage = || lab.host.world().actual.datastore.storage.clone();
    assert!(storage().mount.is_absent());
    let again = lab.store(unmount()).unwrap();
    assert!(again.in_sync() && again.performed.is_empty());
    assert!(lab.run(&folder(1)).unwrap().performed.is_empty());
    let report = lab.store(StoreAct::Mount).unwrap();
    assert!(report.in_sync());
    of_no_file(&report);
    assert!(storage().mount.known().is_some());
    assert!(lab.run(&folder(1)).unwrap().in_sync());
    assert_eq!(lab.published().len(), 1);
}
