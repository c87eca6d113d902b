//! The datastore on a block device of its own. The device is a loop device over a file,
//! made for the test: to renet it is a disk like any other.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::lab::{Lab, pids_with, said, signal, skip};

const MIB: u64 = 1 << 20;

/// The magic of a BTRFS that is being made.
const TORN: [u8; 8] = *b"!BHRfS_M";

/// A disk that is taken away whatever happens, after what lies on it.
pub struct Disk {
    file: PathBuf,
    device: PathBuf,
    /// A second path to it, as in `/dev/disk/by-id`.
    pub link: PathBuf,
}

impl Disk {
    /// A blank one. Its size is no multiple of anything, as those of disks are.
    pub fn blank(name: &str, mib: u64) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            skip("root", name);
            return None;
        }
        let id = format!("{name}-{}", std::process::id());
        let file = PathBuf::from(format!("/tmp/rd-{id}.img"));
        File::create(&file)
            .unwrap()
            .set_len(mib * MIB + 1536)
            .unwrap();
        let device = attach(&file);
        let link = PathBuf::from(format!("/dev/renet-test-{id}"));
        let disk = Self { file, device, link };
        std::os::unix::fs::symlink(&disk.device, &disk.link).unwrap();
        Some(disk)
    }

    fn size(&self) -> u64 {
        fs::metadata(&self.file).unwrap().len()
    }

    fn grow(&self, mib: u64) {
        let file = OpenOptions::new().write(true).open(&self.file).unwrap();
        file.set_len(self.size() + mib * MIB).unwrap();
        run("losetup", &["-c", self.path()]);
    }

    fn path(&self) -> &str {
        self.device.to_str().unwrap()
    }

    /// Every byte of it.
    fn hash(&self) -> String {
        run("blockdev", &["--flushbufs", self.path()]);
        run("sha256sum", &[self.file.to_str().unwrap()])
    }

    fn put(&self, bytes: &[u8], at: u64) {
        let device = OpenOptions::new().write(true).open(&self.device).unwrap();
        device.write_all_at(bytes, at).unwrap();
        device.sync_all().unwrap();
    }

    /// Where the magic of a BTRFS would be.
    fn magic(&self) -> [u8; 8] {
        let mut magic = [0; 8];
        let device = File::open(&self.device).unwrap();
        device.read_exact_at(&mut magic, 0x1_0040).unwrap();
        magic
    }

    fn is_held(&self) -> bool {
        self.claim().is_none()
    }

    /// Holds it for oneself, as a file system does.
    fn claim(&self) -> Option<File> {
        let mut exclusive = OpenOptions::new();
        let exclusive = exclusive.read(true).custom_flags(libc::O_EXCL);
        exclusive.open(&self.device).ok()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.device).output();
        let _ = Command::new("losetup").arg("-d").arg(&self.device).output();
        let _ = fs::remove_file(&self.link);
        let _ = fs::remove_file(&self.file);
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let text = said(&output);
    assert!(output.status.success(), "{program} {args:?}:\n{text}");
    text
}

/// A loop device over the file; others may take the free one first.
fn attach(file: &Path) -> PathBuf {
    let mut last = String::new();
    for _ in 0..10 {
        let free = run("losetup", &["-f"]).trim().to_owned();
        if !Path::new(&free).exists() {
            // A machine without udev has nodes for the first few alone.
            let number = free.trim_start_matches("/dev/loop");
            let _ = Command::new("mknod")
                .args([&free, "b", "7", number])
                .output();
        }
        let output = Command::new("losetup").arg(&free).arg(file).output();
        let output = output.unwrap();
        if output.status.success() {
            return PathBuf::from(free);
        }
        last = said(&output);
    }
    panic!("no loop device for {}: {last}", file.display());
}

/// A machine whose datastore is described so.
fn machine(lab: &Lab, datastore: &str) {
    let text = format!(
        "apiVersion: renet/v1\nkind: Machine\nmetadata: {{ name: demo }}\n\
         spec:\n  datastore: {datastore}\n  proxy: {{ http: 18088 }}\n"
    );
    lab.write("machine.yaml", &text);
}

fn on(lab: &Lab, device: &Path) {
    machine(lab, &format!("{{ device: {} }}", device.display()));
}

fn status(lab: &Lab) -> Value {
    let text = lab.expect(0, &["datastore", "status", "-o", "json"]);
    serde_json::from_str(&text).unwrap()
}

/// How much the mounted file system spans.
fn spans(lab: &Lab) -> u64 {
    let seen = run(
        "stat",
        &["-f", "-c", "%b %S", lab.datastore().to_str().unwrap()],
    );
    let numbers = seen.split_whitespace().map(|n| n.parse::<u64>().unwrap());
    numbers.product()
}

/// As large as a disk of that size can be: it ends on a sector of the file system.
fn all_of(disk: &Disk) -> u64 {
    disk.size() / 4096 * 4096
}

/// What is mounted where the datastore belongs.
fn source(lab: &Lab) -> Option<String> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let point = lab.datastore().display().to_string();
    let mut lines = table
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let line = lines.find(|line| line[1] == point)?;
    Some(line[0].to_owned())
}

#[test]
fn a_blank_device_becomes_the_datastore_and_is_filled_as_it_grows() {
    let Some(disk) = Disk::blank("blank", 512) else {
        return;
    };
    let Some(lab) = Lab::empty("dev") else {
        return;
    };
    on(&lab, &disk.device);
    lab.repository("shop", "");
    // What is to be formatted is shown.
    lab.says(1, &["diff"], disk.path());
    assert_eq!(disk.magic(), [0; 8]);
    lab.expect(0, &["apply"]);
    lab.expect(0, &["diff"]);
    lab.says(0, &["apply"], "In sync: 1 repository");
    assert_eq!(source(&lab).as_deref(), Some(disk.path()));
    assert_eq!(spans(&lab), all_of(&disk));
    assert!(!lab.root().join("mnt/rediacc.img").exists());
    // The disk has no loop device above it, and only the image has one.
    assert!(!run("losetup", &["-l", "-n", "-O", "BACK-FILE"]).contains(disk.path()));
    assert_eq!(lab.loops().len(), 1);
    let shop = lab.guid("shop");
    let data = lab.put(&shop, "data/orders", 3);
    let seen = status(&lab);
    assert_eq!(seen["device"], disk.path(), "{seen}");
    assert_eq!(seen["backing_file"], Value::Null, "{seen}");
    assert_eq!(seen["size"], disk.size(), "{seen}");
    assert_eq!(seen["mounted"], Value::Bool(true), "{seen}");
    let uuid = seen["uuid"].clone();
    lab.says(0, &["datastore", "status"], "device");
    lab.says(0, &["datastore", "validate"], "as it was written");

    // Larger while it is in use.
    disk.grow(256);
    lab.says(1, &["diff"], "its device is larger now");
    lab.expect(0, &["apply"]);
    lab.expect(0, &["diff"]);
    assert_eq!(spans(&lab), all_of(&disk));
    disk.grow(256);
    lab.says(0, &["datastore", "expand"], "all of");
    assert_eq!(spans(&lab), all_of(&disk));
    lab.says(0, &["datastore", "expand"], "already");
    lab.says(
        3,
        &["datastore", "expand", "--size", "8G"],
        "nothing was changed",
    );
    lab.says(
        3,
        &["datastore", "expand", "--size", "300M"],
        "nothing was changed",
    );
    let same = disk.size().div_ceil(MIB);
    lab.says(
        0,
        &["datastore", "expand", "--size", &format!("{same}M")],
        "already",
    );

    // Closed it is nobody's, and larger when it comes back.
    lab.says(3, &["datastore", "unmount"], "shop");
    lab.expect(0, &["repository", "unmount", "shop"]);
    lab.says(0, &["datastore", "unmount"], "stays so");
    lab.says(0, &["datastore", "unmount"], "already");
    assert!(!disk.is_held());
    assert_eq!(source(&lab), None);
    lab.says(0, &["datastore", "status"], "closed by");
    disk.grow(128);
    lab.expect(0, &["datastore", "mount"]);
    assert_eq!(spans(&lab), all_of(&disk));
    lab.expect(0, &["repository", "mount", "shop"]);
    assert_eq!(fs::read(lab.inside(&shop, "data/orders")).unwrap(), data);
    lab.expect(0, &["repository", "up", "shop"]);

    // By another path it is the same, and is noted anew.
    on(&lab, &disk.link);
    lab.expect(0, &["apply"]);
    lab.expect(0, &["diff"]);
    lab.says(0, &["datastore", "status"], disk.link.to_str().unwrap());
    let note = lab.root().join("var/lib/rediacc/datastore.json");
    assert!(fs::read_to_string(&note).unwrap().contains("renet-test"));
    lab.says(0, &["repository", "status", "shop"], "shop");

    // Taken off it stays a disk of its owner.
    lab.uninstall();
    assert!(!disk.is_held());
    assert!(run("losetup", &[disk.path()]).contains("rd-blank"));
    lab.says(1, &["doctor"], "renet-test");
    lab.expect(0, &["apply"]);
    assert_eq!(status(&lab)["uuid"], uuid);
    assert_eq!(fs::read(lab.inside(&shop, "data/orders")).unwrap(), data);
    lab.uninstall();
}

#[test]
fn a_device_with_anything_on_it_is_refused_and_keeps_every_byte() {
    let Some(disk) = Disk::blank("other", 300) else {
        return;
    };
    let Some(lab) = Lab::empty("other") else {
        return;
    };
    on(&lab, &disk.device);
    let refused = |word: &str| {
        let before = disk.hash();
        for (code, args) in [
            (3, &["diff"][..]),
            (3, &["apply"]),
            (3, &["datastore", "init", "--device", disk.path()]),
        ] {
            // The datastore differs, and cannot be made the same.
            let code = if args == ["diff"] { 1 } else { code };
            let text = lab.expect(code, args);
            for word in [word, disk.path(), "wipefs --all"] {
                assert!(text.contains(word), "`{word}` is not in:\n{text}");
            }
        }
        assert!(disk.hash() == before, "{word}: its bytes changed");
        assert!(!disk.is_held());
        assert_eq!(source(&lab), None);
        run("wipefs", &["--all", disk.path()]);
    };
    run("mkfs.ext4", &["-q", disk.path()]);
    refused("ext4");
    run("mkswap", &[disk.path()]);
    refused("swap");
    // A partition table with one partition and nothing in it.
    let mut table = [0; 512];
    table[446..462].copy_from_slice(&[0, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 4, 0]);
    table[510..].copy_from_slice(&[0x55, 0xAA]);
    disk.put(&table, 0);
    refused("dos");
    disk.put(b"LUKS\xba\xbe\x00\x01", 0);
    refused("crypto_LUKS");

    // Somebody holds it who has put nothing on it yet.
    let claim = disk.claim().unwrap();
    let before = disk.hash();
    lab.says(3, &["apply"], "something uses this device");
    assert!(disk.hash() == before);
    drop(claim);
    // The operator's own word was enough.
    lab.expect(0, &["apply"]);
    lab.expect(0, &["diff"]);

    // Another one, blank or not, is no replacement.
    let Some(second) = Disk::blank("second", 300) else {
        return;
    };
    let before = second.hash();
    on(&lab, &second.device);
    lab.says(3, &["apply"], "DatastoreMissing");
    assert!(second.hash() == before);
    run("mkfs.btrfs", &["-q", second.path()]);
    lab.says(3, &["apply"], "DatastoreMissing");
    run("wipefs", &["--all", second.path()]);
    lab.says(
        3,
        &["datastore", "init", "--device", second.path()],
        "already",
    );
    assert_eq!(source(&lab).as_deref(), Some(disk.path()));
    lab.uninstall();
}

#[test]
fn what_is_no_device_gets_nothing_made_in_its_place() {
    let Some(small) = Disk::blank("small", 64) else {
        return;
    };
    let Some(lab) = Lab::empty("none") else {
        return;
    };
    let id = std::process::id();
    let missing = PathBuf::from(format!("/dev/renet-missing-{id}"));
    on(&lab, &missing);
    lab.says(3, &["apply"], "no such device");
    lab.says(3, &["diff"], "no such device");
    let init = |device: &Path| {
        let device = device.to_str().unwrap().to_owned();
        said(&lab.renet(&["datastore", "init", "--device", &device]))
    };
    assert!(init(&missing).contains("no such device"));
    assert!(!missing.exists() && !lab.root().join("mnt/rediacc.img").exists());

    // Somebody wrote to a path that was none.
    let file = PathBuf::from(format!("/dev/renet-file-{id}"));
    fs::write(&file, "data").unwrap();
    on(&lab, &file);
    let text = said(&lab.renet(&["apply"]));
    let kept = fs::read_to_string(&file);
    let by_init = init(&file);
    fs::remove_file(&file).unwrap();
    assert!(text.contains("not a block device"), "{text}");
    assert!(by_init.contains("not a block device"), "{by_init}");
    assert_eq!(kept.unwrap(), "data");

    on(&lab, &small.device);
    let before = small.hash();
    lab.says(3, &["apply"], "at least 256MiB");
    assert!(small.hash() == before);
    lab.says(
        2,
        &["datastore", "init", "--device", "relative"],
        "below /dev",
    );
    lab.says(2, &["datastore", "init"], "--device");
    let both = [
        "datastore",
        "init",
        "--size",
        "1G",
        "--device",
        small.path(),
    ];
    lab.expect(2, &both);
    let _ = fs::remove_dir_all(lab.root());
}

#[test]
fn a_datastore_is_made_on_a_device_by_a_command_and_missed_where_it_is_not() {
    let Some(disk) = Disk::blank("init", 400) else {
        return;
    };
    let Some(lab) = Lab::empty("init") else {
        return;
    };
    let init = ["datastore", "init", "--device", disk.link.to_str().unwrap()];
    lab.says(0, &init, "is mounted at");
    lab.says(3, &init, "already");
    assert_eq!(status(&lab)["device"], disk.link.to_str().unwrap());
    lab.expect(
        0,
        &[
            "repository",
            "create",
            "a",
            "--unencrypted",
            "--size",
            "64M",
        ],
    );
    let guid = lab.guid("a");
    let data = lab.put(&guid, "data/orders", 7);
    // A manifest that names no device means this one; more than it has it has not.
    machine(&lab, "{ size: 300M }");
    lab.expect(0, &["apply"]);
    machine(&lab, "{ size: 4G }");
    lab.says(3, &["apply"], "make that device larger");
    lab.remove("machine.yaml");
    lab.expect(0, &["repository", "unmount", "a"]);
    lab.expect(0, &["datastore", "unmount"]);

    // Somebody mounts it elsewhere.
    let point = PathBuf::from(format!("/tmp/rd-point-{}", std::process::id()));
    fs::create_dir_all(&point).unwrap();
    run("mount", &[disk.path(), point.to_str().unwrap()]);
    let text = said(&lab.renet(&["datastore", "mount"]));
    let shown = said(&lab.renet(&["datastore", "status"]));
    run("umount", &[point.to_str().unwrap()]);
    fs::remove_dir(&point).unwrap();
    for text in [text, shown] {
        assert!(text.contains(point.to_str().unwrap()), "{text}");
    }

    // The disk is pulled out, and put back.
    fs::remove_file(&disk.link).unwrap();
    lab.says(3, &["datastore", "mount"], "no such device");
    lab.says(0, &["datastore", "status"], "no such device");
    lab.says(1, &["doctor"], "no such device");
    std::os::unix::fs::symlink(&disk.device, &disk.link).unwrap();
    lab.expect(0, &["datastore", "mount"]);
    lab.expect(0, &["repository", "mount", "a"]);
    assert_eq!(fs::read(lab.inside(&guid, "data/orders")).unwrap(), data);

    // After a boot it comes late.
    lab.expect(0, &["boot", "--stop"]);
    assert!(!disk.is_held());
    fs::remove_file(&disk.link).unwrap();
    let mut boot = lab.command(&["boot"]);
    let boot = boot.stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    std::os::unix::fs::symlink(&disk.device, &disk.link).unwrap();
    let boot = boot.wait_with_output().unwrap();
    assert!(boot.status.success(), "{}", said(&boot));
    assert!(said(&boot).contains("waiting for"), "{}", said(&boot));
    assert_eq!(source(&lab).as_deref(), Some(disk.path()));
    lab.uninstall();

    // Found again by its manifest, where this machine has forgotten it.
    fs::remove_file(lab.root().join("var/lib/rediacc/datastore.json")).unwrap();
    lab.says(3, &init, "a Machine manifest that names it");
    on(&lab, &disk.device);
    lab.expect(0, &["apply"]);
    assert_eq!(lab.guid("a"), guid);
    lab.uninstall();
}

/// The process that formats the device.
fn formatter(disk: &Disk, within: Duration) -> Option<i32> {
    let until = Instant::now() + within;
    while Instant::now() < until {
        let found = pids_with(disk.path()).into_iter().find(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm"));
            name.is_ok_and(|name| name.trim() == "mkfs.btrfs")
        });
        if found.is_some() {
            return found;
        }
    }
    None
}

#[test]
fn a_killed_format_leaves_a_device_blank_or_whole() {
    let Some(disk) = Disk::blank("killed", 512) else {
        return;
    };
    let Some(lab) = Lab::empty("killed") else {
        return;
    };
    let (mut torn, mut caught) = (0, 0);
    for round in 0..12_u64 {
        on(&lab, &disk.device);
        let mut apply = lab.command(&["apply"]);
        let mut apply = apply.stdout(Stdio::null()).spawn().unwrap();
        let Some(pid) = formatter(&disk, Duration::from_secs(20)) else {
            panic!("nothing was formatted: {:?}", apply.wait_with_output());
        };
        match round {
            0..6 => std::thread::sleep(Duration::from_millis(round * 2)),
            // Where it says that it is not done yet.
            _ => wait_until_torn(&disk, pid),
        }
        // Either the program, or renet, whose program then goes on alone.
        if round % 3 == 2 {
            apply.kill().unwrap();
        } else {
            caught += usize::from(signal(pid, Signal::SIGKILL).is_ok());
        }
        let _ = apply.wait();
        while Path::new(&format!("/proc/{pid}")).exists() {
            std::thread::sleep(Duration::from_millis(10));
        }
        torn += usize::from(disk.magic() == TORN);
        // Without a word of anybody it goes on from there.
        lab.expect(0, &["apply"]);
        lab.expect(0, &["diff"]);
        assert_eq!(spans(&lab), all_of(&disk));
        lab.uninstall();
        fs::remove_dir_all(lab.root()).unwrap();
        run("wipefs", &["--all", disk.path()]);
    }
    eprintln!("{caught} killed, {torn} of them half-way");
    assert!(caught > 0 && torn > 0);
}

fn wait_until_torn(disk: &Disk, pid: i32) {
    let runs = PathBuf::from(format!("/proc/{pid}"));
    while runs.exists() && disk.magic() != TORN {}
}
