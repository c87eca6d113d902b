//! Copies of repositories, on the real machine: made in a moment from one that
//! runs, and never its parent's twin.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::lab::{Lab, answer, page};

/// Writes a growing number into a file, and makes it last, until told to end. Gives
/// the last number, and the longest time between two.
pub struct Counter {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<(u64, Duration)>,
    last: Arc<std::sync::atomic::AtomicU64>,
}

impl Counter {
    pub fn start(path: &std::path::Path) -> Self {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(path)
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let last = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let (told, seen) = (stop.clone(), last.clone());
        let thread = thread::spawn(move || {
            let (mut number, mut longest) = (0, Duration::ZERO);
            while !told.load(Ordering::Relaxed) {
                let began = Instant::now();
                number += 1;
                file.write_all(format!("{number:012}\n").as_bytes())
                    .unwrap();
                file.sync_data().unwrap();
                seen.store(number, Ordering::SeqCst);
                longest = longest.max(began.elapsed());
                thread::sleep(Duration::from_millis(5));
            }
            (number, longest)
        });
        Self { stop, thread, last }
    }

    /// The last number that lasts.
    fn last(&self) -> u64 {
        self.last.load(Ordering::SeqCst)
    }

    pub fn end(self) -> (u64, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn last_number(path: &std::path::Path) -> u64 {
    let text = fs::read_to_string(path).unwrap();
    text.lines().last().unwrap().parse().unwrap()
}

/// The file's extents, as the kernel names them: what two files share is the same.
fn extents(path: &std::path::Path) -> Vec<String> {
    let said = Command::new("filefrag")
        .arg("-v")
        .arg(path)
        .output()
        .unwrap();
    assert!(said.status.success(), "{said:?}");
    let text = String::from_utf8(said.stdout).unwrap();
    let rows = text.lines().filter(|line| line.contains(".."));
    rows.filter_map(|row| Some(row.split(':').nth(2)?.trim().to_owned()))
        .collect()
}

#[test]
fn l38_l39_l40_a_running_repository_is_copied_whole_and_its_copy_is_nobodys_twin() {
    let Some(lab) = Lab::shop("fork") else { return };
    lab.expect(0, &["apply"]);
    let shop = lab.guid("shop");
    let data = lab.put(&shop, "web/data/orders", 7);
    // One that would come back by itself.
    let network = lab.network_of("shop");
    let image = lab.docker_of(
        &network,
        &["inspect", "-f", "{{.Config.Image}}", "web-web-1"],
    );
    let image = image.unwrap();
    let stray = [
        "run",
        "-d",
        "--restart",
        "always",
        "--network",
        "host",
        "--name",
        "stray",
    ];
    let run = [&stray[..], &[image.trim(), "sleep", "1000"]].concat();
    let stray = lab.docker_of(&network, &run).unwrap();
    let before = lab.running();

    let counter = Counter::start(&lab.inside(&shop, "web/data/counter"));
    thread::sleep(Duration::from_millis(200));
    let acknowledged = counter.last();
    lab.expect(
        0,
        &[
            "repository",
            "fork",
            "--source",
            "shop",
            "--target",
            "copy",
            "--ttl",
            "8h",
        ],
    );
    let (written, gap) = counter.end();
    assert!(gap < Duration::from_secs(1), "the writer waited {gap:?}");
    assert!(written > acknowledged);
    // Nothing of the parent was touched.
    assert_eq!(lab.running(), before);
    let copy = lab.guid("copy");
    let said = lab.expect(0, &["repository", "status", "copy"]);
    assert!(said.contains("copy of     shop"), "{said}");
    assert!(said.contains("state       offline"), "{said}");
    let (ours, theirs) = (extents(&lab.image(&copy)), extents(&lab.image(&shop)));
    let shared = ours.iter().filter(|extent| theirs.contains(extent)).count();
    assert!(
        shared * 2 > ours.len(),
        "{shared} of {} are shared",
        ours.len()
    );
    // It mounts without a repair.
    let check = Command::new("e2fsck")
        .args(["-f", "-n"])
        .arg(lab.image(&copy))
        .output();
    assert!(check.as_ref().unwrap().status.success(), "{check:?}");

    // Under its parent's network: refused, and nothing is touched.
    let fingerprint = lab.fingerprint();
    let said = lab.expect(3, &["repository", "up", "copy", "--network-id", &network]);
    assert!(said.contains("in use by repository shop"), "{said}");
    assert_eq!(lab.fingerprint(), fingerprint);

    // Events are listened to from before the daemon answers.
    let own = lab.network_of("copy");
    lab.expect(0, &["repository", "up", "copy"]);
    let listed = lab.docker_of(&own, &["ps", "-a", "-q"]).unwrap();
    assert_eq!(
        listed.trim(),
        "",
        "a container of its parent is in the copy"
    );
    let events = [
        "events",
        "--since",
        "10m",
        "--until",
        "0s",
        "--filter",
        "type=container",
    ];
    let events = lab.docker_of(&own, &events).unwrap();
    assert_eq!(
        events.trim(),
        "",
        "a container of its parent ran in the copy"
    );
    assert!(!stray.trim().is_empty());
    // Images came along, data too, and the counter is past what was acknowledged.
    let images = lab.docker_of(&own, &["images", "-q"]).unwrap();
    assert!(!images.trim().is_empty());
    assert_eq!(
        fs::read(lab.inside(&copy, "web/data/orders")).unwrap(),
        data
    );
    let number = last_number(&lab.inside(&copy, "web/data/counter"));
    assert!(number >= acknowledged, "{number} < {acknowledged}");

    // A copy of the copy; then each is on its own.
    lab.expect(
        0,
        &[
            "repository",
            "fork",
            "--source",
            "copy",
            "--target",
            "second",
        ],
    );
    fs::write(lab.inside(&copy, "web/data/orders"), "changed").unwrap();
    assert_eq!(
        fs::read(lab.inside(&shop, "web/data/orders")).unwrap(),
        data
    );
    lab.expect(0, &["repository", "mount", "second"]);
    let second = lab.guid("second");
    assert_eq!(
        fs::read(lab.inside(&second, "web/data/orders")).unwrap(),
        data
    );
    for name in ["copy", "second"] {
        lab.expect(0, &["repository", "delete", name, "--now"]);
    }
    assert_eq!(lab.running(), before);
    assert_eq!(page("web"), "web");
    lab.uninstall();
}

#[test]
fn a_preview_by_manifest_comes_and_goes_with_it() {
    let Some(lab) = Lab::shop("preview") else {
        return;
    };
    lab.expect(0, &["apply"]);
    let shop = lab.guid("shop");
    let data = lab.put(&shop, "web/data/orders", 9);
    lab.write(
        "preview.yaml",
        "apiVersion: renet/v1\nkind: Repository\nmetadata: { name: preview }\n\
         spec:\n  forkOf: { repository: shop, tag: pr-7, ttl: 8h }\n",
    );
    lab.service("preview", "front");
    lab.route("preview", "front");
    lab.expect(0, &["apply"]);
    let preview = lab.guid("preview");
    assert_eq!(page("web"), "web");
    assert_eq!(page("front"), "front");
    assert_eq!(
        fs::read(lab.inside(&preview, "web/data/orders")).unwrap(),
        data
    );
    lab.says(0, &["apply"], "In sync");
    for file in ["preview.yaml", "front-service.yaml", "front-route.yaml"] {
        lab.remove(file);
    }
    lab.expect(0, &["apply", "--prune", "--confirm", "preview"]);
    assert_eq!(lab.state("preview"), "deleted");
    answer("front.localhost", "404");
    assert_eq!(page("web"), "web");
    lab.uninstall();
}

#[test]
fn l39_a_killed_copy_leaves_no_writer_waiting() {
    let Some(lab) = Lab::shop("frozen") else {
        return;
    };
    lab.expect(0, &["apply"]);
    let shop = lab.guid("shop");
    let path = lab.inside(&shop, "web/data/counter");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    // A guard of its own: what renet starts, and then is killed.
    let mut guard = lab
        .command(&["daemon", "freeze", "--guid", &shop])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let marker = lab.root().join("run/rediacc/frozen").join(&shop);
    let until = Instant::now() + Duration::from_secs(10);
    while !marker.exists() {
        assert!(Instant::now() < until, "never frozen");
        thread::sleep(Duration::from_millis(10));
    }
    drop(guard.stdin.take());
    assert!(guard.wait().unwrap().success());
    assert!(!marker.exists());
    File::create(&path).unwrap().sync_all().unwrap();

    // And a guard that was itself killed: the next command lets the writers go on.
    let mut guard = lab
        .command(&["daemon", "freeze", "--guid", &shop])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 7];
    std::io::Read::read_exact(guard.stdout.as_mut().unwrap(), &mut ready).unwrap();
    guard.kill().unwrap();
    guard.wait().unwrap();
    assert!(marker.exists());
    lab.says(1, &["diff"], "frozen");
    lab.expect(0, &["apply"]);
    assert!(!marker.exists());
    File::create(&path).unwrap().sync_all().unwrap();
    lab.uninstall();
}

#[test]
fn a_snapshot_of_a_running_repository_opens_as_a_copy_of_what_was_there() {
    let Some(lab) = Lab::shop("snapshot") else {
        return;
    };
    lab.repository("wiki", "  snapshots: { every: 1h, keep: 2 }\n");
    lab.expect(0, &["apply"]);
    lab.says(0, &["apply"], "In sync");
    let shop = lab.guid("shop");
    let data = lab.put(&shop, "web/data/orders", 7);
    let counter = Counter::start(&lab.inside(&shop, "web/data/counter"));
    thread::sleep(Duration::from_millis(200));
    let before = lab.running();
    lab.expect(0, &["repository", "snapshot", "create", "shop"]);
    let (_, gap) = counter.end();
    assert!(gap < Duration::from_secs(1), "the writer waited {gap:?}");
    assert_eq!(lab.running(), before);
    lab.put(&shop, "web/data/orders", 8);
    assert!(lab.temporary().is_empty(), "{:?}", lab.temporary());

    let times = |name: &str| -> Vec<(String, bool)> {
        let text = lab.expect(0, &["repository", "snapshot", "list", name, "-o", "json"]);
        let rows: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        let row = |row: &serde_json::Value| {
            let time = row["time"].as_str().unwrap().to_owned();
            (time, row["madeBy"] == "rule")
        };
        rows.iter().map(row).collect()
    };
    let [(at, false)] = &times("shop")[..] else {
        panic!("{:?}", times("shop"));
    };
    assert!(matches!(times("wiki")[..], [(_, true)]));
    // Nobody writes to it, not even root.
    let folder = lab.datastore().join(format!(".backup-{at}-{shop}"));
    let written = fs::write(folder.join(&shop), "x");
    assert!(written.is_err());
    lab.expect(
        0,
        &[
            "repository",
            "fork",
            "--source",
            "shop",
            "--snapshot",
            at,
            "--target",
            "then",
        ],
    );
    lab.expect(0, &["repository", "mount", "then"]);
    let then = lab.guid("then");
    assert!(fs::read(lab.inside(&then, "web/data/orders")).unwrap() == data);
    let status = lab.expect(0, &["repository", "status", "shop"]);
    assert!(
        status.contains(&format!("1, the last one {at}")),
        "{status}"
    );

    // One that somebody made half, and a power cut brought back.
    let half = lab.datastore().join(format!(".new-backup-{shop}"));
    let made = Command::new("btrfs")
        .args(["-q", "subvolume", "create"])
        .arg(&half)
        .status();
    assert!(made.unwrap().success());
    lab.says(1, &["diff"], "half-made");
    lab.expect(0, &["apply"]);
    assert!(!half.exists());
    lab.expect(0, &["repository", "snapshot", "delete", "shop", "--at", at]);
    assert!(times("shop").is_empty());
    lab.says(
        3,
        &[
            "repository",
            "fork",
            "--source",
            "shop",
            "--snapshot",
            at,
            "--target",
            "never",
        ],
        "no snapshot",
    );
    assert!(fs::read(lab.inside(&then, "web/data/orders")).unwrap() == data);
    lab.expect(0, &["repository", "delete", "then", "--now"]);
    lab.uninstall();
}
