//! The agent on a real machine: what is saved is applied, what drifts is mended.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::lab::{Lab, body, kill, page, signal};

/// An agent that is ended whatever happens.
struct Running(Child);

impl Running {
    fn start(lab: &Lab, interval: &str) -> Self {
        let mut command = lab.command(&["agent", "--interval", interval]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(child.spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        self.0.id().try_into().unwrap()
    }

    fn ended(&mut self, limit: Duration) -> Option<i32> {
        let until = Instant::now() + limit;
        while Instant::now() < until {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the agent does not end");
    }

    fn kill(mut self) {
        kill(self.pid());
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until it is so, and says how long that took.
#[track_caller]
fn within(limit: Duration, what: &str, so: impl Fn() -> bool) -> Duration {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    began.elapsed()
}

fn in_sync(lab: &Lab) -> bool {
    lab.renet(&["diff"]).status.code() == Some(0)
}

const SOON: Duration = Duration::from_secs(5);

#[test]
fn the_agent_applies_what_is_saved_and_mends_what_drifts() {
    let Some(lab) = Lab::new("agent") else { return };
    let mut agent = Running::start(&lab, "1h");
    within(Duration::from_secs(30), "a cold start", || in_sync(&lab));
    assert_eq!(body(), "Hello from renet.\n");

    // A container that dies.
    let before = lab.started();
    lab.docker(&["rm", "-f", "web-web-1"]).unwrap();
    within(SOON, "the container", || {
        lab.started()
            .is_some_and(|now| Some(&now) != before.as_ref())
    });
    within(SOON, "the container", || in_sync(&lab));

    // The routes.
    let routes = lab.root.join("opt/rediacc/proxy/traefik/dynamic/renet.yml");
    fs::remove_file(&routes).unwrap();
    within(SOON, "the routes", || routes.exists());
    assert_eq!(body(), "Hello from renet.\n");

    // The daemon with its supervisor; the container goes on.
    let before = lab.started();
    kill(lab.pid("supervisor.pid"));
    kill(lab.pid("child.pid"));
    within(SOON, "the daemon", || lab.started() == before);

    // The mount: heard of at once, though its next turn is an hour away.
    let mounts = lab.datastore().join("mounts");
    // An entry would keep the folder open.
    let mount = fs::read_dir(mounts)
        .unwrap()
        .flatten()
        .next()
        .map(|entry| entry.path());
    let mount = mount.unwrap();
    // The agent itself may have a file open there: it looks at what its daemon does.
    within(SOON, "a moment of rest", || {
        nix::mount::umount(&mount).is_ok()
    });
    let point = mount.display().to_string();
    within(SOON, "the mount", || lab.mounts().contains(&point));
    within(SOON, "the mount", || in_sync(&lab));

    // Saving a file is enough.
    let compose = lab.desired().join("web/docker-compose.yml");
    let text = fs::read_to_string(&compose).unwrap();
    let before = lab.started();
    fs::write(&compose, text.replace("period: 1s", "period: 2s")).unwrap();
    within(Duration::from_secs(15), "the edit", || {
        lab.started()
            .is_some_and(|now| Some(&now) != before.as_ref())
    });
    within(SOON, "the edit", || in_sync(&lab));
    assert_eq!(body(), "Hello from renet.\n");

    // What it does can be read while it runs.
    lab.says(0, &["get"], &format!("agent runs (pid {})", agent.pid()));
    lab.says(0, &["events"], "start proxy");
    lab.says(0, &["reconcile"], "The agent performed 0 steps. In sync.");
    lab.says(5, &["agent"], "another agent runs");
    lab.says(0, &["status"], &format!("agent runs (pid {})", agent.pid()));
    // What it and others did is remembered side by side, each result once.
    lab.says(0, &["apply"], "In sync");
    lab.says(0, &["apply"], "In sync");
    within(SOON, "the history", || {
        let passes = lab.history();
        let twice = |pass: &serde_json::Value| pass["by"] == "apply" && pass["count"] == 2;
        passes.iter().any(twice) && passes.iter().any(|pass| pass["by"] == "agent")
    });

    // Told to be left alone it is, until it is told otherwise (L18).
    lab.expect(0, &["repository", "down", "hello"]);
    std::thread::sleep(Duration::from_secs(2));
    lab.says(0, &["reconcile"], "In sync");
    assert_eq!(lab.started(), None);
    lab.says(0, &["diff"], "Suspended");
    lab.expect(0, &["repository", "up", "hello"]);
    assert!(lab.started().is_some());

    // SIGTERM ends it at a safe point; what it did can still be read.
    signal(agent.pid(), Signal::SIGTERM).unwrap();
    assert_eq!(agent.ended(Duration::from_secs(10)), Some(143));
    lab.says(0, &["get"], "no agent runs");
    lab.says(0, &["events", "-n", "3"], "Ended");
    // The agent's files may be deleted at any time.
    fs::remove_dir_all(lab.root.join("var/lib/rediacc/agent")).unwrap();
    lab.says(0, &["apply"], "In sync");
    lab.says(0, &["get"], "no agent runs; revision");
    assert_eq!(lab.history()[0]["result"], "Synced");
    lab.uninstall();
}

#[test]
fn l21_of_a_hundred_quick_edits_the_last_is_what_the_agent_runs() {
    let Some(lab) = Lab::shop("edits") else {
        return;
    };
    let agent = Running::start(&lab, "1h");
    within(Duration::from_secs(60), "a cold start", || in_sync(&lab));
    for edit in 0..100 {
        lab.serve("shop", "web", &format!("edit-{edit}"));
        std::thread::sleep(Duration::from_millis(30));
    }
    within(Duration::from_secs(60), "the last edit", || {
        in_sync(&lab) && page("web") == "edit-99"
    });
    assert_eq!(page("page"), "page");
    agent.kill();
    lab.uninstall();
}

#[test]
fn the_datastore_is_where_the_folder_says_now_and_a_new_place_makes_no_new_one() {
    let Some(lab) = Lab::shop("where") else {
        return;
    };
    let machine = fs::read_to_string(lab.desired().join("machine.yaml")).unwrap();
    let at = |file: &Path| {
        let named = format!("size: 1G, backingFile: {} }}", file.display());
        lab.write("machine.yaml", &machine.replace("size: 1G }", &named));
    };
    let told = |reason: &str| {
        let events = lab.renet(&["events"]).stdout;
        String::from_utf8_lossy(&events).contains(reason)
    };
    // At its start the agent finds no word about a place.
    lab.remove("machine.yaml");
    let agent = Running::start(&lab, "1h");
    within(SOON, "no datastore", || told("NoDatastore"));
    let (one, other) = (lab.root.join("one.img"), lab.root.join("other.img"));
    at(&one);
    within(Duration::from_secs(60), "a cold start", || in_sync(&lab));
    assert!(one.exists() && !lab.root.join("mnt/rediacc.img").exists());
    at(&other);
    within(SOON, "the other place", || told("DatastoreMissing"));
    assert!(!other.exists());
    at(&one);
    within(SOON, "the first place", || in_sync(&lab));
    assert_eq!((page("web"), page("page")), ("web".into(), "page".into()));
    agent.kill();
    // Moved by hand it is found there, by commands too.
    lab.uninstall();
    fs::rename(&one, &other).unwrap();
    at(&other);
    lab.expect(0, &["apply"]);
    lab.expect(0, &["diff"]);
    lab.says(0, &["repository", "down", "shop"], "shop");
    lab.expect(0, &["repository", "up", "shop"]);
    assert_eq!((page("web"), page("page")), ("web".into(), "page".into()));
    lab.uninstall();
}

#[test]
fn what_dies_again_and_again_is_left_alone_for_a_while_and_says_why() {
    let Some(lab) = Lab::new("crashing") else {
        return;
    };
    let compose = lab.desired().join("web/docker-compose.yml");
    let good = fs::read_to_string(&compose).unwrap();
    const DIES: &str = "entrypoint: [\"/bin/busybox\", \"sh\", \"-c\", \
                        \"sleep 2; echo the disk is on fire >&2; exit 3\"]";
    let command = good.lines().find(|line| line.contains("command:")).unwrap();
    let bad = good.replace(command.trim_start(), DIES);
    fs::write(&compose, &bad).unwrap();
    let _agent = Running::start(&lab, "1h");
    let service = || -> serde_json::Value {
        let output = lab.renet(&["get", "service", "-o", "json"]).stdout;
        let found: serde_json::Value = serde_json::from_slice(&output).unwrap();
        found["objects"][0].clone()
    };
    within(Duration::from_secs(60), "the loop", || {
        service()["reason"] == "CrashLooping"
    });
    let seen = service();
    let message = seen["message"].as_str().unwrap();
    assert!(
        message.starts_with("web ended with 3: the disk is on fire; started"),
        "{message}"
    );
    assert_eq!(seen["health"], "Degraded", "{seen}");
    let before = lab.started();
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(lab.started(), before);
    // Mended, it does not wait.
    fs::write(&compose, good).unwrap();
    within(Duration::from_secs(20), "the cure", || in_sync(&lab));
    assert_eq!(service()["reason"], serde_json::Value::Null);
}
