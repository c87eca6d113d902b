//! The quick start as a new user meets it: what it prints is typed literally.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// The port of examples/hello.
const PORT: u16 = 8088;

struct Demo {
    root: PathBuf,
}

impl Demo {
    fn quickstart(&self, args: &[&str]) -> Output {
        Command::new("deploy/quickstart.sh")
            .arg("--root")
            .arg(&self.root)
            .args(args)
            .env("RENET_BINARY", env!("CARGO_BIN_EXE_renet"))
            .output()
            .unwrap()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.quickstart(&["--remove"]);
    }
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// Types a line as a user would.
fn typed(line: &str) -> Output {
    Command::new("sh").args(["-c", line]).output().unwrap()
}

#[test]
fn what_the_quick_start_prints_can_be_typed_and_remove_leaves_no_trace() {
    if !nix::unistd::geteuid().is_root() || TcpStream::connect(("127.0.0.1", PORT)).is_ok() {
        super::lab::skip("port 8088 and root", "the quick start");
        return;
    }
    let demo = Demo {
        root: PathBuf::from(format!("/tmp/rq-{}", std::process::id())),
    };
    let root = demo.root.display().to_string();
    let first = demo.quickstart(&[]);
    let printed = text(&first);
    assert!(first.status.success(), "{printed}");

    let lines: Vec<&str> = printed.lines().collect();
    let curl = lines
        .iter()
        .position(|line| line.starts_with("$ curl"))
        .expect("the curl line");
    let answer = typed(&format!("{} --noproxy '*'", &lines[curl][2..]));
    assert_eq!(text(&answer).trim_end(), lines[curl + 1]);
    assert_eq!(lines[curl + 1], "Hello from renet.");

    // 1. edit the compose file, diff, apply; 2. umount, apply; 3. get.
    let things: Vec<&str> = lines[curl..]
        .iter()
        .map(|line| line.trim())
        .filter(|line| line.starts_with(&root) || line.starts_with("umount"))
        .collect();
    assert_eq!(things.len(), 5, "{things:?}");
    let compose = demo.root.join("etc/rediacc/desired/web/docker-compose.yml");
    let before = fs::read_to_string(&compose).unwrap();
    fs::write(&compose, before.replace("period: 1s", "period: 2s")).unwrap();
    for (line, code) in things.iter().zip([1, 0, 0, 0, 0]) {
        let output = typed(line);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{line}:\n{}",
            text(&output)
        );
    }

    // Again: nothing to do, said at once. The best of three: the machine is shared.
    let times: Vec<Duration> = (0..3)
        .map(|_| {
            let began = Instant::now();
            let again = demo.quickstart(&[]);
            let said = text(&again);
            assert!(
                again.status.success() && said.contains("In sync already"),
                "{said}"
            );
            began.elapsed()
        })
        .collect();
    assert!(
        times.iter().min() < Some(&Duration::from_secs(2)),
        "{times:?}"
    );

    let removed = demo.quickstart(&["--remove"]);
    assert!(removed.status.success(), "{}", text(&removed));
    assert!(!Path::new(&root).exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&format!(" {root}/")), "{mounts}");
    assert_eq!(
        super::lab::processes_with(&format!("{root}/")),
        Vec::<String>::new()
    );
}
