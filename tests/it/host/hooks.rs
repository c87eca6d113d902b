//! Rediaccfiles on a real machine: real bash, a real dockerd.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use super::lab::Lab;

const REDIACCFILE: &str = r#"
note() { echo "$1 $PWD" >> "$REDIACC_WORKING_DIR/order"; }
prep() { note prep; DOCKER_BUILDKIT=0 docker build -q -t hooked . ; }
up() {
  note up
  env | sort > "$REDIACC_WORKING_DIR/environment"
  ls /proc/self/fd > "$REDIACC_WORKING_DIR/descriptors"
  docker rm -f of-hook >/dev/null 2>&1
  docker run -d --name of-hook --network none hooked sleep 1000
}
down() { note down; docker rm -f of-hook; }
"#;

/// A repository `shop` whose service `web` is started by a Rediaccfile.
fn hooked(name: &str, text: &str) -> Option<Lab> {
    let lab = Lab::empty(name)?;
    lab.machine("1G");
    lab.repository("shop", "");
    lab.service("shop", "web");
    let manifest = lab.desired().join("web-service.yaml");
    let more = "  rediaccfile: { file: web/Rediaccfile }\n";
    let manifest_text = fs::read_to_string(&manifest).unwrap() + more;
    fs::write(manifest, manifest_text).unwrap();
    lab.write("web/Rediaccfile", text);
    Some(lab)
}

fn order(lab: &Lab, guid: &str) -> Vec<String> {
    let text = fs::read_to_string(lab.inside(guid, "order")).unwrap_or_default();
    text.lines()
        .map(|line| line.replace(&lab.inside(guid, "").display().to_string(), ""))
        .collect()
}

fn is_gone(pid: &str) -> bool {
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

#[test]
fn a_hook_starts_its_project_and_runs_again_when_its_container_ends() {
    let Some(lab) = hooked("hook", REDIACCFILE) else {
        return;
    };
    let said = lab.expect(0, &["apply"]);
    let guid = lab.guid("shop");
    assert_eq!(order(&lab, &guid), ["prep web", "up web"], "{said}");
    assert!(lab.running().contains_key("of-hook"));
    assert!(!lab.running().contains_key("web-web-1"));
    lab.says(0, &["apply"], "In sync");
    assert_eq!(order(&lab, &guid).len(), 2);

    let environment = fs::read_to_string(lab.inside(&guid, "environment")).unwrap();
    let network = lab.network_of("shop");
    for wanted in [
        format!("REDIACC_NETWORK_ID={network}"),
        format!("REPOSITORY_NETWORK_ID={network}"),
        format!("REDIACC_REPOSITORY={guid}"),
        format!("REPOSITORY_NAME={guid}"),
        format!("REDIACC_HOOK={guid}"),
        "WEB_IP=127.".to_owned(),
        "DOCKER_HOST=unix://".to_owned(),
        "REPOSITORY_PATH=".to_owned(),
    ] {
        assert!(environment.contains(&wanted), "{wanted}: {environment}");
    }
    assert!(!environment.contains("CARGO"), "{environment}");
    let descriptors = fs::read_to_string(lab.inside(&guid, "descriptors")).unwrap();
    // The last is the folder that `ls` reads.
    assert_eq!(
        descriptors.split_whitespace().collect::<Vec<_>>(),
        ["0", "1", "2", "3"]
    );

    lab.docker(&["kill", "of-hook"]).unwrap();
    lab.expect(0, &["apply"]);
    assert_eq!(order(&lab, &guid), ["prep web", "up web", "up web"]);
    lab.says(0, &["apply"], "In sync");

    lab.repository("shop", "  state: Stopped\n");
    lab.expect(0, &["apply"]);
    assert_eq!(order(&lab, &guid).last().unwrap(), "down web");
    assert!(lab.running().is_empty());
    lab.uninstall();
}

#[test]
fn l49_a_hook_that_fails_says_where_and_what_and_is_not_tried_again() {
    let text = "up() { echo about to fail; (exit 7); }\n";
    let Some(lab) = hooked("hook-bad", text) else {
        return;
    };
    let said = lab.expect(3, &["apply"]);
    for word in ["web/Rediaccfile up (exit 7)", "about to fail"] {
        assert!(said.contains(word), "`{word}` is not in:\n{said}");
    }
    lab.says(3, &["apply"], "failed");
    let log = format!("var/lib/rediacc/docker-{}/hooks.log", lab.network());
    let log = fs::read_to_string(lab.root().join(log)).unwrap();
    assert_eq!(log.matches("about to fail").count(), 1, "{log}");
    lab.write("web/Rediaccfile", "up() { :; }\n");
    lab.expect(0, &["apply"]);
    lab.uninstall();
}

#[test]
fn a_hook_that_hangs_is_ended_with_all_that_it_started() {
    let text = "up() { sleep 1000 & echo $! > ../pids; echo $$ >> ../pids; wait; }\n";
    let Some(lab) = hooked("hook-hangs", text) else {
        return;
    };
    let said = lab.expect(3, &["apply", "--wait", "2s"]);
    assert!(said.contains("ended after"), "{said}");
    let guid = lab.guid("shop");
    let pids = fs::read_to_string(lab.inside(&guid, "pids")).unwrap();
    assert_eq!(pids.lines().count(), 2);
    assert!(pids.lines().all(is_gone), "{pids}");

    // The same when renet is killed.
    fs::remove_file(lab.inside(&guid, "pids")).unwrap();
    lab.write("web/Rediaccfile", &format!("{text}# again\n"));
    let mut apply = lab.command(&["apply"]).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until && !lab.inside(&guid, "pids").exists() {
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_millis(200));
    apply.kill().unwrap();
    apply.wait().unwrap();
    let pids = fs::read_to_string(lab.inside(&guid, "pids")).unwrap();
    assert_eq!(pids.lines().count(), 2);
    assert!(pids.lines().all(is_gone), "{pids}");
    lab.uninstall();
}

#[test]
fn hooks_by_hand_run_by_the_command_in_their_order() {
    let Some(lab) = Lab::empty("hook-hand") else {
        return;
    };
    lab.expect(0, &["datastore", "init", "--size", "1G"]);
    let create = ["repository", "create", "--name", "shop", "--size", "96M"];
    lab.expect(0, &[&create[..], &["--unencrypted"]].concat());
    let guid = lab.guid("shop");
    lab.says(0, &["repository", "up", "--name", "shop"], "no Rediaccfile");
    let note = "note() { echo \"$1 $PWD\" >> \"$REPOSITORY_PATH/order\"; }\n";
    let all = "prep() { note prep; }\nup() { note up; }\ndown() { note down; }\n";
    for path in [
        "rediaccfile",
        "b/Rediaccfile",
        "a/REDIACCFILE",
        ".hidden/Rediaccfile",
        "a/deep/Rediaccfile",
    ] {
        let path = lab.inside(&guid, path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{note}{all}")).unwrap();
    }
    lab.expect(0, &["repository", "up", "--name", "shop"]);
    let ran = order(&lab, &guid);
    assert_eq!(ran.len(), 6, "{ran:?}");
    let verbs: Vec<&str> = ran
        .iter()
        .filter_map(|line| line.split('/').next_back())
        .collect();
    assert_eq!(verbs[1..3], ["prep a", "prep b"]);
    assert_eq!(verbs[4..], ["up a", "up b"]);
    lab.expect(0, &["repository", "down", "--name", "shop"]);
    let ran = order(&lab, &guid);
    assert_eq!(ran[6..8], ["down b", "down a"]);
    assert_eq!(ran.len(), 9);

    // What passes by renet runs not at all.
    fs::write(
        lab.inside(&guid, "a/REDIACCFILE"),
        "up() { docker compose up; }\n",
    )
    .unwrap();
    let said = lab.expect(3, &["repository", "up", "--name", "shop"]);
    assert!(
        said.contains("a/REDIACCFILE:1") && said.contains("renet compose --"),
        "{said}"
    );
    // A hook that would wait for itself is told so.
    let renet = env!("CARGO_BIN_EXE_renet");
    let text = format!("up() {{ {renet} repository expand --name shop --size 128M; }}\n");
    fs::write(lab.inside(&guid, "a/REDIACCFILE"), text).unwrap();
    let began = Instant::now();
    let said = lab.expect(3, &["repository", "up", "--name", "shop"]);
    assert!(said.contains("while this hook runs"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(25));
    lab.uninstall();
}

#[test]
fn a_guard_ends_the_hook_when_its_input_ends() {
    let folder = tempfile::tempdir().unwrap();
    let text = "up() { sleep 1000 & echo $! > pid; wait; }\n";
    fs::write(folder.path().join("Rediaccfile"), text).unwrap();
    let mut guard = Command::new(env!("CARGO_BIN_EXE_renet"))
        .args([
            "daemon",
            "hook",
            "--function",
            "up",
            "--file",
            "Rediaccfile",
        ])
        .current_dir(folder.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let pid = folder.path().join("pid");
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until && fs::read_to_string(&pid).unwrap_or_default().is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(guard.stdin.take());
    assert_eq!(guard.wait().unwrap().code(), Some(137));
    assert!(is_gone(fs::read_to_string(pid).unwrap().trim()));
}
