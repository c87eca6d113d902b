//! Not a byte left: what still works, and what mends itself afterwards (L29).

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::lab::{Lab, page, said};

/// Fills the file system that holds `path` to its last byte.
fn fill(path: &Path) {
    for size in [1 << 20, 4096] {
        let mut file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        let block = vec![0x5A_u8; size];
        while file.write_all(&block).is_ok() {}
        let _ = file.sync_all();
    }
    // Metadata has room of its own.
    for number in 0..5_000 {
        let small = path.with_extension(number.to_string());
        if fs::write(small, [0x5A; 2000]).is_err() {
            break;
        }
    }
    nix::unistd::sync();
}

fn empty(path: &Path) {
    let folder = path.parent().unwrap();
    let stem = path.file_stem().unwrap().to_owned();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().file_stem() == Some(&stem) {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    nix::unistd::sync();
}

/// Writes into a repository, past what its image has on disk.
fn write(lab: &Lab, guid: &str) -> std::io::Result<()> {
    let mut file = fs::File::create(lab.inside(guid, "written"))?;
    for _ in 0..24 {
        file.write_all(&[0xA5; 1 << 20])?;
    }
    file.sync_all()
}

#[test]
fn l28_l29_with_the_datastore_full_looking_works_and_after_room_all_is_well() {
    let Some(lab) = Lab::shop("full") else { return };
    lab.machine("400M");
    lab.expect(0, &["apply"]);
    let shop = lab.guid("shop");
    let data = lab.put(&shop, "web/data/a", 1);
    let filler = lab.datastore().join("filler");
    fill(&filler);
    assert!(write(&lab, &shop).is_err(), "it was not full");
    lab.expect(0, &["get"]);
    lab.expect(0, &["repository", "list"]);
    // What is kept for this makes a deletion possible, with no byte free.
    lab.says(0, &["repository", "delete", "wiki"], "is deleted");
    assert_eq!(lab.state("wiki"), "deleted");
    assert!(!lab.datastore().join(".emergency").exists());
    empty(&filler);
    lab.expect(0, &["repository", "restore", "wiki"]);

    // Each is writable, or named. The kernel tells of a write that failed when
    // the next one is synced, and finds out of some only then.
    let mut named = Vec::new();
    for name in ["shop"] {
        let guid = lab.guid(name);
        let until = Instant::now() + Duration::from_secs(60);
        while let Err(error) = write(&lab, &guid) {
            let word = format!("renet repository up {name}");
            if said(&lab.renet(&["diff"])).contains(&word) {
                named.push(name);
                break;
            }
            assert!(Instant::now() < until, "{name} is not named: {error}");
        }
    }
    assert!(named.contains(&"shop"), "what failed before works now");
    lab.says(3, &["apply"], "turned read-only");
    for name in named {
        lab.expect(0, &["repository", "unmount", name]);
        lab.expect(0, &["repository", "up", name]);
    }
    lab.expect(0, &["apply"]);
    lab.expect(0, &["diff"]);
    assert!(lab.datastore().join(".emergency").exists());
    for name in ["shop", "wiki"] {
        write(&lab, &lab.guid(name)).unwrap();
    }
    assert_eq!(fs::read(lab.inside(&shop, "web/data/a")).unwrap(), data);
    assert_eq!((page("web"), page("page")), ("web".into(), "page".into()));
    lab.uninstall();
}

struct Disk(PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn l29_with_the_disk_below_the_datastore_full_all_is_well_after_room_or_named() {
    let disk = PathBuf::from(format!("/tmp/rs-below-{}.disk", std::process::id()));
    // Taken away after what lies on it.
    let disk = Disk(disk);
    let Some(lab) = Lab::shop("below") else {
        return;
    };
    fs::create_dir_all(&disk.0).unwrap();
    let status = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=200m", "tmpfs"])
        .arg(&disk.0)
        .status();
    assert!(status.unwrap().success());
    let machine = fs::read_to_string(lab.desired().join("machine.yaml")).unwrap();
    let named = format!(
        "datastore: {{ size: 600M, backingFile: {}/ds.img }}",
        disk.0.display()
    );
    lab.write(
        "machine.yaml",
        &machine.replace("datastore: { size: 1G }", &named),
    );
    lab.expect(0, &["apply"]);
    let shop = lab.guid("shop");
    let data = lab.put(&shop, "web/data/a", 1);
    let filler = disk.0.join("filler");
    fill(&filler);
    assert!(write(&lab, &shop).is_err(), "it was not full");
    nix::unistd::sync();
    let named = |code: i32, args: &[&str]| lab.says(code, args, "turned read-only");
    named(0, &["get"]);
    named(3, &["diff"]);
    lab.renet(&["repository", "list"]);
    empty(&filler);
    // The kernel does not take it back by itself; the way that is named does.
    named(3, &["apply"]);
    lab.expect(0, &["uninstall"]);
    lab.expect(0, &["apply"]);
    lab.expect(0, &["diff"]);
    for name in ["shop", "wiki"] {
        write(&lab, &lab.guid(name)).unwrap();
    }
    assert_eq!(fs::read(lab.inside(&shop, "web/data/a")).unwrap(), data);
    assert_eq!((page("web"), page("page")), ("web".into(), "page".into()));
    lab.uninstall();
}
