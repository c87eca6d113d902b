//! Updates on a real machine: one that fails leaves what was there before.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::lab::{Lab, ask, body};

pub(super) const COMMAND: &str = r#"["httpd", "-f", "-v", "-p", "${WEB_IP}:8080", "-h", "/www"]"#;

/// Asks every 50 ms; gives how long nobody answered at most.
pub(super) struct Asking {
    stop: Arc<AtomicBool>,
    longest: JoinHandle<Duration>,
}

impl Asking {
    pub(super) fn begin() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let longest = std::thread::spawn(move || {
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            while !told.load(Ordering::Relaxed) {
                if ask("hello.localhost").is_ok_and(|answer| answer.contains("Hello")) {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            longest.max(last.elapsed())
        });
        Self { stop, longest }
    }

    pub(super) fn end(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.longest.join().unwrap()
    }
}

#[test]
fn l20_l24_a_failed_update_leaves_the_version_before_serving() {
    let Some(lab) = Lab::new("update") else {
        return;
    };
    let compose = lab.desired().join("web/docker-compose.yml");
    let good = fs::read_to_string(&compose).unwrap();
    let dockerfile = lab.desired().join("web/Dockerfile");
    let image = fs::read_to_string(&dockerfile).unwrap();
    lab.expect(0, &["apply", "--yes"]);
    let inside = lab.inside(&lab.guid("hello"), "web/docker-compose.yml");
    let lies = fs::read_to_string(&inside).unwrap();

    let exits = good.replace(COMMAND, r#"["sh", "-c", "echo no luck today; exit 7"]"#);
    let sick = good.replace(
        "stop_grace_period",
        "healthcheck: { test: [CMD, \"false\"], interval: 1s, retries: 1 }\n    stop_grace_period",
    );
    let nowhere = good.replace("    build: .\n", "    image: 127.0.0.1:1/nowhere:1\n");
    let unbuilt = format!("{image}COPY nothing /nothing\n");
    for (what, text, docker, replaces) in [
        ("exits", &exits, &image, true),
        ("is not healthy", &sick, &image, true),
        ("cannot be pulled", &nowhere, &image, false),
        ("cannot be built", &good, &unbuilt, false),
    ] {
        assert!(*text != good || *docker != image, "{what}");
        let before = lab.started();
        fs::write(&compose, text).unwrap();
        fs::write(&dockerfile, docker).unwrap();
        let asking = Asking::begin();
        let said = lab.expect(3, &["apply", "--yes"]);
        let gap = asking.end();
        println!("{what}: {:.0?} without an answer", gap);
        assert_eq!(body(), "Hello from renet.\n", "{what}: {said}");
        assert_eq!(fs::read_to_string(&inside).unwrap(), lies, "{what}");
        assert_eq!(lab.started() != before, replaces, "{what}: {said}");
        let before = lab.started();
        let again = lab.expect(3, &["apply"]);
        assert!(again.contains("RevisionFailed"), "{what}: {again}");
        assert!(again.contains("Applied 0 steps"), "{what}: {again}");
        assert_eq!(lab.started(), before, "{what}");
    }

    // A good one is applied, and is what comes back next time.
    let better = good.replace("stop_grace_period: 1s", "stop_grace_period: 2s");
    fs::write(&compose, &better).unwrap();
    fs::write(&dockerfile, &image).unwrap();
    let asking = Asking::begin();
    lab.expect(0, &["apply", "--yes"]);
    println!("a good one: {:.0?} without an answer", asking.end());
    fs::write(&compose, &exits).unwrap();
    lab.expect(3, &["apply", "--yes"]);
    assert_eq!(fs::read_to_string(&inside).unwrap(), better);
    // Killed by hand, it is started again although the manifest says another.
    lab.docker(&["rm", "-f", "web-web-1"]).unwrap();
    lab.expect(3, &["apply"]);
    assert_eq!(body(), "Hello from renet.\n");
    lab.uninstall();
}

/// Serves as before, with a folder of the repository in it.
pub(super) fn with_data(compose: &str) -> String {
    compose.replace(
        "    build: .\n",
        "    build: .\n    volumes: [\"./data:/data\"]\n",
    )
}

#[test]
fn an_update_that_fails_takes_its_data_back_and_a_command_does() {
    let Some(lab) = Lab::new("rewind") else {
        return;
    };
    let compose = lab.desired().join("web/docker-compose.yml");
    let good = with_data(&fs::read_to_string(&compose).unwrap());
    assert!(good.contains("/data"));
    fs::write(&compose, &good).unwrap();
    let manifest = lab.desired().join("hello.yaml");
    let told = fs::read_to_string(&manifest).unwrap().replace(
        "  compose:\n",
        "  update: { onFailure: RollbackWithData }\n  compose:\n",
    );
    assert!(told.contains("RollbackWithData"), "{told}");
    fs::write(&manifest, told).unwrap();
    lab.expect(0, &["apply", "--yes"]);
    let guid = lab.guid("hello");
    let data = lab.inside(&guid, "web/data/schema");
    fs::write(&data, "1").unwrap();

    // The new version changes the data, and then does not get well.
    let migrates = good.replace(
        COMMAND,
        r#"["sh", "-c", "echo -n 2 >/data/schema; exit 7"]"#,
    );
    assert_ne!(migrates, good);
    fs::write(&compose, &migrates).unwrap();
    let shown = lab.expect(1, &["diff"]);
    assert!(shown.contains("if it fails"), "{shown}");
    let asking = Asking::begin();
    lab.expect(3, &["apply", "--yes"]);
    println!("{:.0?} without an answer", asking.end());
    assert_eq!(body(), "Hello from renet.\n");
    assert_eq!(fs::read_to_string(&data).unwrap(), "1");
    let again = lab.expect(3, &["apply"]);
    assert!(again.contains("Applied 0 steps"), "{again}");
    lab.nothing_leaked(1);

    // What the failed one left is there to be looked at.
    let kept = snapshot(&lab, "rewind");
    let old = [
        "repository",
        "fork",
        "--source",
        "hello",
        "--target",
        "failed",
        "--snapshot",
    ];
    lab.expect(0, &[&old[..], &[&kept]].concat());
    lab.expect(0, &["repository", "mount", "failed"]);
    let failed = lab.inside(&lab.guid("failed"), "web/data/schema");
    assert_eq!(fs::read_to_string(failed).unwrap(), "2");
    lab.expect(0, &["repository", "delete", "failed", "--now", "--yes"]);

    // A command takes back what a good one wrote.
    let better = good.replace("stop_grace_period: 1s", "stop_grace_period: 2s");
    fs::write(&compose, &better).unwrap();
    lab.expect(0, &["apply", "--yes"]);
    lab.expect(0, &["repository", "snapshot", "create", "hello"]);
    let asked = snapshot(&lab, "command");
    fs::write(&data, "3").unwrap();
    let said = lab.expect(0, &["rollback", "hello", "--to", &asked]);
    assert!(said.contains("is kept as snapshot"), "{said}");
    assert_eq!(fs::read_to_string(&data).unwrap(), "1");
    lab.expect(0, &["apply"]);
    assert_eq!(body(), "Hello from renet.\n");
    lab.says(
        3,
        &["rollback", "hello", "--to", "20200101T000000Z"],
        "there is no snapshot",
    );
    lab.says(2, &["rollback", "hello"], "REPOSITORY/NAME");
    lab.uninstall();
}

/// The time of the newest snapshot that was made by this.
fn snapshot(lab: &Lab, made_by: &str) -> String {
    let all = lab.expect(
        0,
        &["repository", "snapshot", "list", "hello", "-o", "json"],
    );
    let all: serde_json::Value = serde_json::from_str(&all).unwrap();
    let mut all = all.as_array().unwrap().iter().rev();
    let found = all.find(|one| one["madeBy"] == made_by).unwrap();
    found["time"].as_str().unwrap().to_owned()
}
