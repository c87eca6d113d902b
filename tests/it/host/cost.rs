//! What copies cost: against each other, and against the bare commands they stand for.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::fork::Counter;
use super::lab::Lab;

/// Measured so often; the best counts, because the machine has other work too.
const TIMES: usize = 5;

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn best(work: impl FnMut(usize) -> Duration) -> Duration {
    (0..TIMES).map(work).min().unwrap()
}

#[track_caller]
fn bare(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn create(lab: &Lab, name: &str, size: &str) {
    let args = [
        "repository",
        "create",
        name,
        "--unencrypted",
        "--size",
        size,
    ];
    lab.expect(0, &args);
}

fn fork(lab: &Lab, from: &str, to: &str) {
    lab.expect(0, &["repository", "fork", "--source", from, "--target", to]);
}

fn delete(lab: &Lab, name: &str) {
    lab.expect(0, &["repository", "delete", name, "--now"]);
}

/// Random enough that nothing of it is ever a hole.
fn fill(path: &Path, mebibytes: u64) {
    let mut file = File::create(path).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..mebibytes {
        let block: Vec<u8> = (0..(1 << 17))
            .flat_map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            })
            .collect();
        file.write_all(&block).unwrap();
    }
    file.sync_all().unwrap();
}

/// The file beneath what is mounted at a path, as the kernel names it.
fn beneath(point: &Path) -> PathBuf {
    let device = fs::metadata(point).unwrap().dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let file = format!("/sys/dev/block/{major}:{minor}/loop/backing_file");
    PathBuf::from(fs::read_to_string(file).unwrap().trim_end())
}

#[test]
fn l32_with_ten_copies_open_every_mount_is_over_its_own_image() {
    let Some(lab) = Lab::empty("many") else {
        return;
    };
    lab.expect(0, &["datastore", "init", "--size", "2G"]);
    create(&lab, "own", "64M");
    let parent = lab.guid("own");
    let data = lab.put(&parent, "data", 1);
    let mut all = BTreeMap::from([("own".to_owned(), (parent, data.clone()))]);
    for n in 0..10 {
        let name = format!("copy{n}");
        fork(&lab, "own", &name);
        lab.expect(0, &["repository", "mount", &name]);
        let guid = lab.guid(&name);
        assert_eq!(fs::read(lab.inside(&guid, "data")).unwrap(), data);
        let own = lab.put(&guid, "data", 2 + n);
        all.insert(name, (guid, own));
    }
    let check = || {
        for (name, (guid, data)) in &all {
            let point = lab.inside(guid, "");
            assert_eq!(beneath(&point), lab.image(guid), "{name}");
            assert!(fs::read(point.join("data")).unwrap() == *data, "{name}");
        }
        assert_eq!(lab.loops().len(), all.len() + 1);
    };
    check();
    // What was closed takes whichever device is free.
    let names: Vec<&String> = all.keys().collect();
    for name in names.iter().step_by(2) {
        lab.expect(0, &["repository", "unmount", name]);
    }
    for name in names.iter().step_by(2).rev() {
        lab.expect(0, &["repository", "mount", name]);
    }
    check();
    lab.uninstall();
}

#[test]
fn a_copy_costs_the_same_however_much_is_in_it() {
    let Some(lab) = Lab::empty("cost") else {
        return;
    };
    let mebibytes = match std::env::var_os("RENET_LONG") {
        Some(_) => 2048,
        None => 512,
    };
    lab.expect(0, &["datastore", "init", "--size", "12G"]);
    for name in ["nothing", "much"] {
        create(&lab, name, "3G");
    }
    let much = lab.guid("much");
    fill(&lab.inside(&much, "data"), mebibytes);
    let copy = |from: &str, n: usize| {
        let name = format!("copy{n}");
        let took = timed(|| {
            fork(&lab, from, &name);
            lab.expect(0, &["repository", "mount", &name]);
        });
        delete(&lab, &name);
        took
    };
    let of_nothing = best(|n| copy("nothing", n));
    let of_much = best(|n| copy("much", n));

    let store = lab.datastore();
    let (store, point) = (store.display(), lab.inside(&much, ""));
    let by_hand = lab.root().join("by-hand");
    fs::create_dir(&by_hand).unwrap();
    let (point, by_hand) = (point.display(), by_hand.display());
    let copied = best(|_| {
        let mut device = String::new();
        let took = timed(|| {
            bare(&format!("sync -f {point}"));
            bare(&format!("fsfreeze -f {point}"));
            bare(&format!(
                "btrfs subvolume snapshot -r {store}/repositories {store}/bare"
            ));
            bare(&format!("fsfreeze -u {point}"));
            bare(&format!(
                "cp --reflink=always {store}/bare/{much} {store}/image"
            ));
            bare(&format!("btrfs subvolume delete {store}/bare"));
            device = bare(&format!("losetup -f --show {store}/image"));
            bare(&format!("mount {device} {by_hand}"));
        });
        bare(&format!("umount {by_hand}"));
        bare(&format!("losetup -d {device}"));
        bare(&format!("rm {store}/image"));
        took
    });
    let made = best(|_| {
        let mut device = String::new();
        let took = timed(|| {
            bare(&format!("truncate -s 3G {store}/image"));
            bare(&format!("mkfs.ext4 -q {store}/image"));
            device = bare(&format!("losetup -f --show {store}/image"));
            bare(&format!("mount {device} {by_hand}"));
            bare(&format!("sync -f {store}"));
        });
        bare(&format!("umount {by_hand}"));
        bare(&format!("losetup -d {device}"));
        bare(&format!("rm {store}/image"));
        took
    });
    let created = best(|n| {
        let name = format!("new{n}");
        let took = timed(|| create(&lab, &name, "3G"));
        delete(&lab, &name);
        took
    });
    // How fast this machine is just now: one look at everything.
    let look = best(|_| timed(|| drop(lab.expect(0, &["repository", "list"]))));
    println!(
        "a copy of nothing {of_nothing:?}, of {mebibytes} MiB {of_much:?}, by hand {copied:?}; \
         made {created:?}, by hand {made:?}; a look {look:?}"
    );
    assert!(of_much < of_nothing.mul_f64(1.5), "{of_much:?}");
    // Besides what is done by hand: processes, records that last, and a look before and
    // after each step.
    assert!(
        of_much < copied * 2 + look * 20,
        "{of_much:?} {copied:?} {look:?}"
    );
    assert!(
        created < made * 2 + look * 10,
        "{created:?} {made:?} {look:?}"
    );
    lab.uninstall();
}

#[test]
fn l38_writers_of_an_aged_image_wait_no_longer_than_a_moment() {
    let Some(lab) = Lab::empty("aged") else {
        return;
    };
    let blocks: u64 = match std::env::var_os("RENET_LONG") {
        Some(_) => 260_000,
        None => 40_000,
    };
    const BLOCK: u64 = 4096;
    lab.expect(0, &["datastore", "init", "--size", "12G"]);
    create(&lab, "own", "3G");
    let own = lab.guid("own");
    let data = lab.inside(&own, "data");
    fill(&data, (blocks * 2 * BLOCK) >> 20);
    // What is shared is written elsewhere: every second block becomes an extent.
    let image = lab.image(&own);
    let kept = lab.datastore().join("kept");
    let (image, kept) = (image.display(), kept.display());
    bare(&format!("cp --reflink=always {image} {kept}"));
    let file = OpenOptions::new().write(true).open(&data).unwrap();
    for n in 0..blocks {
        let block = [n as u8; BLOCK as usize];
        file.write_all_at(&block, n * 2 * BLOCK).unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    bare("sync");
    let found = bare(&format!("filefrag {image}"));
    let words = found.split_whitespace().rev();
    let extents: u64 = words.filter_map(|word| word.parse().ok()).next().unwrap();
    assert!(extents > blocks, "{found}");

    let longest = |work: &dyn Fn()| {
        let counter = Counter::start(&lab.inside(&own, "counter"));
        thread::sleep(Duration::from_millis(500));
        work();
        counter.end().1
    };
    let plain = longest(&|| drop(bare(&format!("cp --reflink=always {image} {kept}.plain"))));
    let renet = longest(&|| fork(&lab, "own", "copy"));
    println!("{extents} extents: a writer waits {renet:?}, for a plain reflink {plain:?}");
    assert!(
        renet < Duration::from_secs(1).max(plain / 4),
        "{renet:?} {plain:?}"
    );
    lab.uninstall();
}
