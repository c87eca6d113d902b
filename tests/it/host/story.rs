//! The main job on a real machine, through the real binary: a folder of
//! manifests becomes a live route; what is changed by hand is shown and mended;
//! nothing is left afterwards.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use renet::execute::{FileLocks, Lock, Locking as _, Mode};

use super::lab::{Lab, body, kill};

/// JSON alone says what would change, what changed, and what is in the way.
fn what_programs_read(lab: &Lab) {
    let json = |args: &[&str]| -> serde_json::Value {
        serde_json::from_slice(&lab.renet(args).stdout).expect("one JSON value")
    };
    let shown = json(&["diff", "-o", "json"]);
    assert_eq!(shown["inSync"], false);
    assert_eq!(shown["objects"][0]["object"], "service/hello/web");
    assert_eq!(shown["objects"][0]["action"], "change");
    let stops = &shown["objects"][0]["stops"][0];
    assert_eq!(stops["container"], "web");
    let because = serde_json::json!(["services.web.stop_grace_period"]);
    assert_eq!(stops["because"], because);
    assert!(stops["lastStart"].is_u64(), "{stops}");
    assert_eq!(shown["dataAtRisk"], serde_json::json!([]));
    // A plan that was saved before something else happened is refused.
    let plan = lab.root.join("plan.json").display().to_string();
    lab.expect(1, &["diff", "--out", &plan]);
    lab.docker(&["kill", "web-web-1"]).unwrap();
    lab.says(
        3,
        &["apply", &plan],
        "service/hello/web is not as it was then",
    );
    lab.docker(&["start", "web-web-1"]).unwrap();
    let wrong = json(&[
        "apply",
        "--only",
        "service/hello/web",
        "--dry-run",
        "-o",
        "json",
    ]);
    assert_eq!(wrong["objects"].as_array().unwrap().len(), 1);
    let rows = json(&["get", "-o", "json"]);
    assert!(rows.to_string().contains("OutOfSync"), "{rows}");
}

#[test]
fn a_folder_of_manifests_becomes_a_live_route_and_every_drift_is_mended() {
    let Some(lab) = Lab::new("story") else { return };
    lab.expect(0, &["validate"]);
    let shown = lab.expect(0, &["apply", "--dry-run"]);
    assert!(shown.contains("create image"), "{shown}");
    assert!(!lab.root.join("mnt").exists(), "a dry run made something");

    lab.expect(0, &["apply", "--yes"]);
    assert_eq!(body(), "Hello from renet.\n");
    lab.expect(0, &["diff"]);

    // L23: a second apply performs no step and says how much it looked at.
    let second = lab.expect(0, &["apply"]);
    assert!(
        second.starts_with("In sync: 1 repository") && second.contains("looked at"),
        "{second}"
    );

    // An edit recreates just its service.
    let compose = lab.desired().join("web/docker-compose.yml");
    let text = fs::read_to_string(&compose).unwrap();
    fs::write(
        &compose,
        text.replace("stop_grace_period: 1s", "stop_grace_period: 2s"),
    )
    .unwrap();
    let before = lab.started();
    let shown = lab.expect(1, &["diff"]);
    assert!(shown.contains("+    stop_grace_period: 2s"), "{shown}");
    what_programs_read(&lab);
    lab.mended("-/+ container web");
    assert_ne!(lab.started(), before);

    // What somebody does by hand is shown and mended.
    lab.docker(&["rm", "-f", "web-web-1"]).unwrap();
    let done = lab.renet(&["apply", "-o", "json"]);
    let done: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(
        (&done["inSync"], &done["exitCode"]),
        (&true.into(), &0.into())
    );
    assert_eq!(done["steps"][0]["step"], "up web");
    assert_eq!(done["steps"][0]["outcome"], "changed");
    lab.docker(&["rm", "-f", "web-web-1"]).unwrap();
    lab.mended("missing → running");
    let mounts = lab.root.join("mnt/rediacc/mounts");
    let mount = fs::read_dir(mounts)
        .unwrap()
        .flatten()
        .next()
        .unwrap()
        .path();
    assert!(
        Command::new("umount")
            .arg(&mount)
            .status()
            .unwrap()
            .success()
    );
    lab.mended("not mounted → mounted");
    // The router writes its file again by itself; without one, an apply does.
    let routes = lab.root.join("opt/rediacc/proxy/traefik/dynamic/renet.yml");
    let published = fs::read(&routes).unwrap();
    fs::remove_file(&routes).unwrap();
    let removed = Instant::now();
    while fs::read(&routes).ok().as_ref() != Some(&published) {
        assert!(
            removed.elapsed() < Duration::from_secs(5),
            "the routes are not back"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let router = |file: &str| -> i32 {
        let path = lab.root.join("run/rediacc/router").join(file);
        fs::read_to_string(path).unwrap().trim().parse().unwrap()
    };
    kill(router("supervisor.pid"));
    kill(router("child.pid"));
    fs::remove_file(&routes).unwrap();
    lab.mended("+ route hello");

    // A killed daemon is back by itself; its container never stopped.
    let before = lab.started();
    kill(lab.pid("child.pid"));
    let died = Instant::now();
    while lab.started().is_none() {
        assert!(
            died.elapsed() < Duration::from_secs(2),
            "dockerd is not back"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(lab.started(), before);

    // Killed with its supervisor it is shown, and mended; the container goes on.
    kill(lab.pid("supervisor.pid"));
    kill(lab.pid("child.pid"));
    std::thread::sleep(Duration::from_millis(200));
    lab.mended("daemon ");
    assert_eq!(lab.started(), before);

    // The proxy too.
    let proxy = |file: &str| -> i32 {
        let path = lab.root.join("run/rediacc/proxy").join(file);
        fs::read_to_string(path).unwrap().trim().parse().unwrap()
    };
    kill(proxy("supervisor.pid"));
    kill(proxy("child.pid"));
    std::thread::sleep(Duration::from_millis(100));
    lab.mended("proxy ");

    lab.uninstall();
}

#[test]
fn a_service_that_cannot_get_well_is_named_with_its_last_words_and_tried_once() {
    let Some(lab) = Lab::new("sick") else { return };
    let compose = lab.desired().join("web/docker-compose.yml");
    let text = fs::read_to_string(&compose).unwrap();
    let sick = text.replace(
        r#"["httpd", "-f", "-v", "-p", "${WEB_IP}:8080", "-h", "/www"]"#,
        r#"["sh", "-c", "echo no luck today; exit 7"]"#,
    );
    assert_ne!(sick, text);
    fs::write(&compose, format!("{sick}    ports: [\"80:80\"]\n")).unwrap();
    // Programs are told what failed and why, and what does nothing.
    let done = lab.renet(&["apply", "-o", "json"]);
    let done: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(
        (&done["inSync"], &done["exitCode"]),
        (&false.into(), &3.into())
    );
    let steps = done["steps"].as_array().unwrap().iter();
    let failed: Vec<_> = steps.filter(|step| step["outcome"] == "failed").collect();
    assert_eq!(failed.len(), 1, "{done}");
    assert_eq!(failed[0]["object"], "service/hello/web");
    let said = failed[0]["error"]["message"].as_str().unwrap();
    assert!(
        said.contains("no luck today") && said.contains("exited (7)"),
        "{said}"
    );
    assert_eq!(done["blocked"][0]["object"], "service/hello/web");
    assert_eq!(done["blocked"][0]["reason"], "StepFailed");
    let place = done["warnings"][0]["place"].as_str().unwrap();
    assert!(place.starts_with("web/docker-compose.yml:"), "{done}");
    let rows = lab.renet(&["get", "service/hello/web", "-o", "json"]);
    let rows: serde_json::Value = serde_json::from_slice(&rows.stdout).unwrap();
    assert_eq!(rows["objects"][0]["sync"], "Blocked");
    assert_eq!(rows["objects"][0]["reason"], "RevisionFailed");
    let warned = rows["objects"][0]["warnings"][0].as_str().unwrap();
    assert!(warned.starts_with(place), "{rows}");
    // L24: not tried again until it changes.
    let again = lab.expect(3, &["apply"]);
    assert!(
        again.contains("RevisionFailed") && again.contains("Applied 0 steps"),
        "{again}"
    );
    fs::write(&compose, text).unwrap();
    lab.expect(0, &["apply"]);
    assert_eq!(body(), "Hello from renet.\n");
}

#[test]
fn two_applies_at_once_say_for_whom_they_wait() {
    let Some(lab) = Lab::new("two") else { return };
    let locks = lab.root.join("run/rediacc/locks");
    let locks = FileLocks::new(locks, Duration::ZERO, |_, _| ());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let held = runtime
        .block_on(locks.lock(Lock::Datastore, Mode::Alone))
        .unwrap();
    let said = lab.expect(5, &["apply", "--lock-wait", "0"]);
    assert!(
        said.contains(&format!("pid {}", std::process::id())),
        "{said}"
    );
    drop(held);
}
