//! The storage of a real machine, held against what the model predicts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use renet::host::linux::{LinuxHost, uninstall};
use renet::host::{Cx, Done, Host as _, Scope, StepError};
use renet::model::{
    Actual, FileEntry, FileSet, Guid, Layout, Name, NetworkId, Part, Patch, ProjectSpec, Size,
    Slots, Step, Volume, refines,
};
use uuid::Uuid;

const DATASTORE: Volume = Volume::Datastore;
fn guid() -> Guid {
    Guid::new(Uuid::from_u128(0x7a3e_6f3a_1f3c_4c58_9a53_0d6f_2a1b_0001))
}

fn image() -> Volume {
    Volume::Image(guid())
}

fn network() -> NetworkId {
    NetworkId::try_from(9_000_000 / 64 * 64).unwrap()
}

/// A machine beneath a root of its own, taken off again whatever happens.
struct Machine {
    root: PathBuf,
    host: LinuxHost,
    // The kernel knows a BTRFS by it: two of the same cannot be open at once.
    uuid: Uuid,
}

impl Machine {
    fn new() -> Option<Self> {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("SKIP(root): loop devices and mounts need root");
            return None;
        }
        let short = Uuid::new_v4().simple().to_string();
        let root = PathBuf::from(format!("/tmp/rt-{}", &short[..8]));
        fs::create_dir(&root).unwrap();
        let layout = Layout::new(&root).unwrap();
        let host = LinuxHost::new(layout, None, PathBuf::from("/nonexistent"));
        let uuid = Uuid::new_v4();
        Some(Self { root, host, uuid })
    }

    fn layout(&self) -> &Layout {
        self.host.layout()
    }

    async fn perform(&self, step: &Step) -> Result<Done, StepError> {
        self.host.perform(step, &Cx::default()).await
    }

    /// Performs a step and holds what is then seen against what was predicted.
    async fn step(&self, step: Step) -> Actual {
        let before = self.host.observe(Scope::All).await;
        step.ready(&before)
            .unwrap_or_else(|stop| panic!("{step}: {stop:?}"));
        let did = self.perform(&step).await;
        assert_eq!(did, Ok(Done::Changed), "{step}");
        let mut predicted = before;
        step.effect(&mut predicted);
        veil(&mut predicted);
        let after = self.host.observe(Scope::All).await;
        if let Err(differs) = refines(&after, &predicted) {
            panic!("after `{step}`: {differs}");
        }
        assert_eq!(step.holds(&after), Ok(true), "{step} does not hold");
        assert_eq!(self.perform(&step).await, Ok(Done::Already), "{step} again");
        after
    }

    async fn open_datastore(&self) {
        let (volume, size, uuid) = (DATASTORE, Size::mib(400), self.uuid);
        self.step(Step::Format {
            volume,
            size,
            uuid,
            seal: None,
        })
        .await;
        self.step(Step::Attach(volume)).await;
        self.step(Step::Mount(volume)).await;
        self.step(Step::LayOut).await;
        self.step(Step::NoteDatastore(uuid)).await;
    }

    async fn reserve(&self) {
        self.step(Step::Reserve {
            guid: guid(),
            name: name("shop"),
            network: network(),
            trial_of: None,
        })
        .await;
    }

    async fn open_repository(&self) {
        self.reserve().await;
        let (volume, uuid) = (image(), guid().as_uuid());
        let size = Size::mib(64);
        // What a crash while one was made leaves.
        fs::write(self.layout().new_image(guid()), "half-made").unwrap();
        self.step(Step::ClearStaging(volume)).await;
        self.step(Step::Format {
            volume,
            size,
            uuid,
            seal: None,
        })
        .await;
        self.step(Step::Record(guid(), Patch::Created)).await;
        self.step(Step::Attach(volume)).await;
        self.step(Step::Mount(volume)).await;
    }

    fn loops(&self) -> usize {
        let listed = Command::new("losetup").arg("-a").output().unwrap();
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let root = self.root.to_str().unwrap();
        listed.lines().filter(|line| line.contains(root)).count()
    }

    fn mounts(&self) -> usize {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = self.root.to_str().unwrap();
        table.lines().filter(|line| line.contains(root)).count()
    }

    async fn is_gone(&self) {
        uninstall(&self.host).await.unwrap();
        assert_eq!((self.loops(), self.mounts()), (0, 0));
        fs::remove_dir_all(&self.root).unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let host = self.host.clone();
        let cleaned = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(uninstall(&host)).map(drop)
        });
        if let Ok(Err(errors)) = cleaned.join() {
            eprintln!("{}: {errors:?}", self.root.display());
        }
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// What a prediction knows and no look can see: what lies behind something closed.
fn veil(actual: &mut Actual) {
    let datastore = &mut actual.datastore;
    let closed = datastore.storage.mount.is_absent() && !datastore.storage.file.is_absent();
    if closed {
        datastore.layout = Part::Hidden;
        actual.machine = Part::Hidden;
        actual.repositories = Part::Hidden;
    }
    let all = actual.repositories.known_mut();
    for repo in all.into_iter().flat_map(BTreeMap::values_mut) {
        let made = !repo.storage.file.is_absent();
        if made && repo.storage.mount.is_absent() {
            repo.slots = Part::Hidden;
            repo.files = Part::Hidden;
        }
        if made && repo.daemon.is_absent() {
            repo.images = Part::Hidden;
            repo.containers = Part::Hidden;
        }
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn project(files: &[(&str, &str, bool)]) -> Arc<ProjectSpec> {
    let files = files.iter().map(|(path, text, executable)| {
        let entry = FileEntry::new(text.as_bytes().to_vec(), *executable);
        (path.parse().unwrap(), entry)
    });
    let files = Arc::new(FileSet::new(files.collect()));
    let compose = Arc::from("{}");
    Arc::new(ProjectSpec::new(
        name("web"),
        files,
        compose,
        BTreeMap::new(),
    ))
}

fn run(program: &str, argument: &Path) {
    let status = Command::new(program).arg(argument).status().unwrap();
    assert!(status.success(), "{program} {}", argument.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_storage_step_does_what_it_says_and_nothing_else() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let empty = machine.host.observe(Scope::All).await;
    assert_eq!(empty.repositories, Part::Absent);
    assert_eq!(empty.machine, Part::Absent);
    assert_eq!(empty.datastore.identity, Part::Absent);
    machine.open_datastore().await;
    let seen = machine.host.observe(Scope::All).await;
    assert_eq!(seen.datastore.identity, Part::Known(machine.uuid));
    assert!(seen.datastore.free.known().is_some());
    assert_eq!(seen.repositories, Part::Known(BTreeMap::new()));

    machine.open_repository().await;
    let slots = Slots::default().allocate(["api", "web"]).unwrap();
    machine.step(Step::MirrorSlots(guid(), slots.clone())).await;
    machine.step(Step::WriteSlots(guid(), slots)).await;
    let first = project(&[
        ("docker-compose.yml", "services: {}", false),
        ("conf/a/nginx.conf", "x", false),
        ("bin/run", "#!/bin/sh", true),
    ]);
    let write = |project: &Arc<ProjectSpec>| Step::WriteFiles {
        guid: guid(),
        project: project.clone(),
    };
    machine.step(write(&first)).await;
    let turned = project(&[("conf", "x", false), ("bin/run/it", "#!/bin/sh", true)]);
    machine.step(write(&turned)).await;
    let second = project(&[("docker-compose.yml", "services: {}", true)]);
    machine.step(write(&second)).await;
    let left = fs::read_dir(machine.layout().project(guid(), &name("web")));
    assert_eq!(
        left.unwrap().count(),
        1,
        "files of the revision before stay"
    );

    for (volume, size) in [(DATASTORE, Size::mib(500)), (image(), Size::mib(130))] {
        machine.step(Step::GrowFile { volume, size }).await;
        machine.step(Step::GrowDevice(volume)).await;
        machine.step(Step::GrowFs(volume)).await;
    }
    machine.step(Step::Unmount(image())).await;
    let point = machine.layout().mount(guid());
    assert!(
        fs::write(point.join("x"), "").is_err(),
        "a closed mount point was written into"
    );
    machine.step(Step::Mount(image())).await;
    machine.step(Step::Unmount(image())).await;
    machine.step(Step::Detach(image())).await;
    machine.step(Step::Unmount(DATASTORE)).await;
    machine.step(Step::Detach(DATASTORE)).await;
    machine.step(Step::Attach(DATASTORE)).await;
    let seen = machine.step(Step::Mount(DATASTORE)).await;
    let repo = seen.repository(guid()).unwrap();
    assert_eq!(repo.record.known().unwrap().name, name("shop"));
    machine.is_gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_attached_once_whoever_asks_how_often() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let (volume, size, uuid) = (DATASTORE, Size::mib(200), machine.uuid);
    machine
        .step(Step::Format {
            volume,
            size,
            uuid,
            seal: None,
        })
        .await;
    let attach = Step::Attach(volume);
    let all = futures::future::join_all((0..4).map(|_| machine.perform(&attach))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(machine.loops(), 1);
    machine.is_gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_record_is_unknown_and_never_written_over() {
    let Some(machine) = Machine::new() else {
        return;
    };
    machine.open_datastore().await;
    machine.reserve().await;
    let path = machine.layout().record(guid());
    let whole = fs::read_to_string(&path).unwrap();
    let newer = whole.replacen('{', "{ \"newer\": [1],", 1);
    fs::write(&path, newer).unwrap();
    machine.step(Step::Record(guid(), Patch::Created)).await;
    assert!(fs::read_to_string(&path).unwrap().contains("newer"));

    fs::write(&path, &whole[..20]).unwrap();
    let repo = machine
        .host
        .observe(Scope::All)
        .await
        .repository(guid())
        .unwrap();
    assert!(repo.record.is_unknown(), "{:?}", repo.record);
    let step = Step::Record(guid(), Patch::Passed(name("web")));
    assert!(machine.perform(&step).await.is_err());
    let other = Step::Reserve {
        guid: Guid::new(machine.uuid),
        name: name("other"),
        network: NetworkId::FIRST,
        trial_of: None,
    };
    assert!(machine.perform(&other).await.is_err());
    assert_eq!(fs::read_to_string(&path).unwrap(), &whole[..20]);
    machine.is_gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unmounted_by_hand_is_seen_and_mended() {
    let Some(machine) = Machine::new() else {
        return;
    };
    machine.open_datastore().await;
    machine.open_repository().await;
    let (point, data) = (
        machine.layout().mount(guid()),
        machine.layout().docker_data(guid()),
    );
    for gone in [&point, &data] {
        run("umount", gone);
        let repo = machine
            .host
            .observe(Scope::All)
            .await
            .repository(guid())
            .unwrap();
        assert!(repo.storage.mount.is_absent(), "{:?}", repo.storage);
        assert!(repo.storage.device.known().is_some());
        assert_eq!(repo.files, Part::Hidden);
        machine.step(Step::Mount(image())).await;
        assert_eq!(machine.mounts(), 3);
    }
    // Only the second place holds the device.
    run("umount", &point);
    machine.step(Step::Detach(image())).await;
    assert_eq!(machine.loops(), 1);

    machine.step(Step::Attach(image())).await;
    machine.step(Step::Mount(image())).await;
    run("umount", &point);
    machine.is_gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_in_use_stays_and_says_who_uses_it() {
    let Some(machine) = Machine::new() else {
        return;
    };
    machine.open_datastore().await;
    machine.open_repository().await;
    let mut user = Command::new("sleep")
        .arg("60")
        .current_dir(machine.layout().mount(guid()))
        .spawn()
        .unwrap();
    let refused = machine.perform(&Step::Unmount(image())).await;
    let seen = machine.host.observe(Scope::All).await;
    user.kill().unwrap();
    user.wait().unwrap();
    let error = refused.unwrap_err().to_string();
    assert!(
        error.contains(&format!("sleep (pid {})", user.id())),
        "{error}"
    );
    let repo = seen.repository(guid()).unwrap();
    assert!(
        repo.storage.mount.known().is_some(),
        "it was half unmounted"
    );
    // Whoever only looks is waited for.
    let looks = fs::File::open(machine.layout().mount(guid())).unwrap();
    let looking = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(150));
        drop(looks);
    });
    machine.perform(&Step::Unmount(image())).await.unwrap();
    looking.join().unwrap();
    machine.is_gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l29_a_journal_that_a_failed_unmount_left_is_replayed() {
    let Some(machine) = Machine::new() else {
        return;
    };
    machine.open_datastore().await;
    machine.open_repository().await;
    // What is made to last is in the journal first, and only there.
    let inside = machine.layout().mount(guid()).join("acknowledged");
    fs::write(&inside, "data").unwrap();
    fs::File::open(&inside).unwrap().sync_all().unwrap();
    let image = machine.layout().image(guid());
    let copy = image.with_file_name("as-it-was");
    let run = |program: &str, args: &[&str], on: &std::path::Path| {
        let done = Command::new(program).args(args).arg(on).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    fs::copy(&image, &copy).unwrap();
    for step in [Step::Unmount(self::image()), Step::Detach(self::image())] {
        machine.perform(&step).await.unwrap();
    }
    // As the kernel writes it where the last writes before an unmount failed.
    run("debugfs", &["-w", "-R", "feature -needs_recovery"], &copy);
    run("debugfs", &["-w", "-R", "set_super_value state 3"], &copy);
    let said = run("dumpe2fs", &["-h"], &copy);
    assert!(said.contains("clean with errors"), "{said}");
    assert!(!said.contains("needs_recovery"), "{said}");
    fs::rename(&copy, &image).unwrap();
    for step in [Step::Attach(self::image()), Step::Mount(self::image())] {
        machine.perform(&step).await.unwrap();
    }
    assert_eq!(fs::read_to_string(&inside).unwrap(), "data");
    machine.is_gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_inside_an_image_lead_nowhere() {
    let Some(machine) = Machine::new() else {
        return;
    };
    machine.open_datastore().await;
    machine.open_repository().await;
    let outside = machine.root.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("nginx.conf"), "theirs").unwrap();
    let folder = machine.layout().project(guid(), &name("web"));
    fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink(&outside, folder.join("conf")).unwrap();
    std::os::unix::fs::symlink(outside.join("nginx.conf"), folder.join("top.conf")).unwrap();
    let through = project(&[("conf/nginx.conf", "ours", false)]);
    let project_of = |project| Step::WriteFiles {
        guid: guid(),
        project,
    };
    assert!(machine.perform(&project_of(through)).await.is_err());
    machine
        .step(project_of(project(&[("top.conf", "ours", false)])))
        .await;
    let theirs = fs::read_to_string(outside.join("nginx.conf")).unwrap();
    assert_eq!(theirs, "theirs");
    machine.is_gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_broken_root_can_be_uninstalled() {
    let Some(machine) = Machine::new() else {
        return;
    };
    machine.open_datastore().await;
    machine.open_repository().await;
    // The datastore vanishes from under an image that stays attached.
    let status = Command::new("umount")
        .arg("-l")
        .arg(machine.layout().datastore())
        .status();
    assert!(status.unwrap().success());
    let seen = machine.host.observe(Scope::All).await;
    assert_eq!(seen.repositories, Part::Hidden);
    machine.is_gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn something_else_at_a_mount_point_is_unknown_and_left_alone() {
    let Some(machine) = Machine::new() else {
        return;
    };
    machine.open_datastore().await;
    machine.open_repository().await;
    machine.step(Step::Unmount(image())).await;
    let point = machine.layout().mount(guid());
    let status = Command::new("mount")
        .args(["-t", "tmpfs", "tmpfs"])
        .arg(&point)
        .status();
    assert!(status.unwrap().success());
    let repo = machine
        .host
        .observe(Scope::All)
        .await
        .repository(guid())
        .unwrap();
    assert!(repo.storage.mount.is_unknown(), "{:?}", repo.storage.mount);
    assert!(machine.perform(&Step::Mount(image())).await.is_err());
    assert!(machine.perform(&Step::Unmount(image())).await.is_err());
    machine.is_gone().await;
}

#[tokio::test]
async fn the_machines_own_root_is_never_uninstalled() {
    let layout = Layout::new("/").unwrap();
    let host = LinuxHost::new(layout, None, PathBuf::from("/nonexistent"));
    assert!(uninstall(&host).await.is_err());
}
