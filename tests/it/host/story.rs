//! The main job on a real machine, through the real binary: a folder of
//! manifests becomes a live route; what is changed by hand is shown and mended;
//! nothing is left afterwards.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use renet::execute::{FileLocks, Lock, Locking as _, Mode};

const PORT: u16 = 18_088;
const HOST: &str = "hello.localhost";

/// A root of its own, taken away whatever happens.
struct Lab {
    root: PathBuf,
}

impl Lab {
    /// `None` where this machine cannot run it, which is said.
    fn new(name: &str) -> Option<Self> {
        for (capability, there) in [
            ("root", nix::unistd::geteuid().is_root()),
            ("dockerd", Path::new("/usr/sbin/dockerd").exists()),
            ("busybox", Path::new("/usr/bin/busybox").exists()),
            (
                "compose",
                Path::new("/usr/local/libexec/renet/docker-compose").exists(),
            ),
            (
                "traefik",
                Path::new("/usr/local/libexec/renet/traefik").exists(),
            ),
        ] {
            if !there {
                skip(capability, name);
                return None;
            }
        }
        let root = PathBuf::from(format!("/tmp/rs-{name}-{}", std::process::id()));
        let lab = Self { root };
        let desired = lab.desired();
        copy(Path::new("examples/hello"), &desired);
        fs::copy("/usr/bin/busybox", desired.join("web/busybox")).unwrap();
        let manifest = fs::read_to_string(desired.join("hello.yaml")).unwrap();
        fs::write(
            desired.join("hello.yaml"),
            manifest.replace("8088", &PORT.to_string()),
        )
        .unwrap();
        Some(lab)
    }

    fn desired(&self) -> PathBuf {
        self.root.join("etc/rediacc/desired")
    }

    fn renet(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_renet"))
            .args(args)
            .env_clear()
            .env("RENET_ROOT", &self.root)
            .output()
            .unwrap()
    }

    /// Runs it and expects that exit code; gives what it printed.
    fn expect(&self, code: i32, args: &[&str]) -> String {
        let output = self.renet(args);
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(output.status.code(), Some(code), "renet {args:?}:\n{text}");
        text
    }

    /// Shown by diff, mended by apply, and then in sync and serving.
    fn mended(&self, step: &str) {
        let shown = self.expect(1, &["diff"]);
        assert!(shown.contains(step), "{step} is not in:\n{shown}");
        self.expect(0, &["apply"]);
        self.expect(0, &["diff"]);
        assert_eq!(body(), "Hello from renet.\n");
    }

    fn network(&self) -> String {
        let lib = fs::read_dir(self.root.join("var/lib/rediacc")).unwrap();
        lib.flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .find_map(|name| name.strip_prefix("docker-").map(str::to_owned))
            .expect("a network's folder")
    }

    fn pid(&self, file: &str) -> i32 {
        let path = self
            .root
            .join(format!("run/rediacc/docker-{}/{file}", self.network()));
        fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }

    fn docker(&self, args: &[&str]) -> Option<String> {
        let socket = self
            .root
            .join(format!("run/rediacc/docker-{}.sock", self.network()));
        let output = Command::new("/usr/bin/docker")
            .arg("-H")
            .arg(format!("unix://{}", socket.display()))
            .args(args)
            .output()
            .unwrap();
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn started(&self) -> Option<String> {
        self.docker(&["inspect", "-f", "{{.State.StartedAt}}", "web-web-1"])
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.renet(&["uninstall"]);
        let root = self.root.display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        if !mounts.contains(&format!(" {root}/")) {
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

/// A visible skip: a missing capability is never silence.
pub fn skip(capability: &str, what: &str) {
    let line = format!("SKIP({capability}): {what}");
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("RENET_SKIPS")
        && let Ok(mut file) = fs::OpenOptions::new().append(true).open(path)
    {
        let _ = writeln!(file, "{line}");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// What the route answers, within 5 s.
fn body() -> String {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let answer = ask().unwrap_or_default();
        if let Some((head, body)) = answer.split_once("\r\n\r\n")
            && head.contains(" 200 ")
        {
            return body.to_owned();
        }
        assert!(Instant::now() < until, "no 200: {answer:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn ask() -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", PORT))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(
        stream,
        "GET / HTTP/1.0\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn kill(pid: i32) {
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
}

pub fn processes_with(mark: &str) -> Vec<String> {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| fs::read(format!("/proc/{pid}/cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(mark))
        .collect()
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
    lab.mended("recreates container web");
    assert_ne!(lab.started(), before);

    // What somebody does by hand is shown and mended.
    lab.docker(&["rm", "-f", "web-web-1"]).unwrap();
    lab.mended("~ up");
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
    lab.mended("~ mount");
    fs::remove_file(lab.root.join("opt/rediacc/proxy/traefik/dynamic/renet.yml")).unwrap();
    lab.mended("publish routes");

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
    lab.mended("start daemon");
    assert_eq!(lab.started(), before);

    // The proxy too.
    let proxy = |file: &str| -> i32 {
        let path = lab.root.join("run/rediacc/proxy").join(file);
        fs::read_to_string(path).unwrap().trim().parse().unwrap()
    };
    kill(proxy("supervisor.pid"));
    kill(proxy("child.pid"));
    std::thread::sleep(Duration::from_millis(100));
    lab.mended("start proxy");

    lab.expect(0, &["uninstall"]);
    let root = lab.root.display().to_string();
    assert_eq!(processes_with(&root), Vec::<String>::new());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&format!(" {root}/")), "{mounts}");
    let loops = Command::new("losetup")
        .args(["-l", "-n", "-O", "BACK-FILE"])
        .output()
        .unwrap();
    assert!(!String::from_utf8_lossy(&loops.stdout).contains(&root));
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
    fs::write(&compose, sick).unwrap();
    let said = lab.expect(3, &["apply"]);
    assert!(
        said.contains("no luck today") && said.contains("exited (7)"),
        "{said}"
    );
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
