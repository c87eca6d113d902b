//! Debian 13 with systemd and a root of its own, in which renet has the real paths:
//! what the virtual machine and the container have in common. Here nothing is
//! skipped: what they cannot do is a failure.

pub mod story;

use std::ffi::OsString;
use std::io::{Seek as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::desired;

/// Where renet lies there.
pub const RENET: &str = "/usr/local/bin/renet";
/// The folder of manifests there.
pub const DESIRED: &str = "/etc/rediacc/desired";
/// What takes longer than these seconds has hung.
const LONGEST: &str = "300";

/// How a program ended, and what it said.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

pub trait Guest {
    /// What runs this command line there, as root.
    fn argv(&self, line: &[&str]) -> Vec<OsString>;

    /// The same, bounded in time.
    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["--foreground", "-k", "5", LONGEST])
            .args(self.argv(line))
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end, whatever that is.
    fn run(&self, line: &[&str]) -> Output {
        said(self.command(line))
    }

    /// Runs a script that must succeed; gives what it printed.
    #[track_caller]
    fn sh(&self, script: &str) -> String {
        let output = self.run(&["sh", "-ec", script]);
        assert_eq!(output.code, 0, "{script}: {output:#?}");
        output.stdout
    }

    /// Waits until a script succeeds; gives what it printed.
    #[track_caller]
    fn until(&self, script: &str, longest: Duration) -> String {
        let end = Instant::now() + longest;
        loop {
            let output = self.run(&["sh", "-ec", script]);
            if output.code == 0 {
                return output.stdout;
            }
            assert!(Instant::now() < end, "{script}: {output:#?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Writes a file and the folders it lies in, and flushes it.
    #[track_caller]
    fn put(&self, path: &str, bytes: &[u8]) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        let script = r#"mkdir -p "$(dirname "$0")" && cat >"$0" && sync "$0""#;
        let mut command = self.command(&["sh", "-c", script, path]);
        command.stdin(file);
        let output = said(command);
        assert_eq!(output.code, 0, "{path}: {output:#?}");
    }

    /// Reads a file.
    #[track_caller]
    fn get(&self, path: &str) -> Vec<u8> {
        let output = self.command(&["cat", path]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{path}: {stderr}");
        output.stdout
    }

    /// Runs renet and expects that exit code; gives what it printed.
    #[track_caller]
    fn expect(&self, code: i32, args: &[&str]) -> String {
        let began = Instant::now();
        let output = self.run(&[&["renet"], args].concat());
        println!("renet {args:?}: {:.1?}", began.elapsed());
        assert_eq!(output.code, code, "renet {args:?}: {output:#?}");
        output.stdout + &output.stderr
    }

    /// The one JSON value that renet prints.
    #[track_caller]
    fn json(&self, args: &[&str]) -> serde_json::Value {
        let output = self.run(&[&["renet"], args, &["-o", "json"]].concat());
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:#?}"))
    }

    /// What is listed of a repository.
    #[track_caller]
    fn listed(&self, name: &str) -> serde_json::Value {
        let rows = self.json(&["repository", "list"]);
        let row = rows.as_array().unwrap().iter();
        let mut row = row.filter(|row| row["name"] == name);
        row.next().unwrap_or_else(|| panic!("{rows:#}")).clone()
    }

    /// Writes manifests.
    #[track_caller]
    fn declare(&self, files: impl IntoIterator<Item = desired::File>)
    where
        Self: Sized,
    {
        for (path, text) in files {
            let path = format!("{DESIRED}/{path}");
            self.put(&path, text.as_bytes());
            if let Some(folder) = path.strip_suffix("Dockerfile") {
                self.sh(&format!(
                    "cp /usr/bin/busybox {folder}; sync {folder}busybox"
                ));
            }
        }
    }

    /// What there is of repositories: loop devices, mounts and daemons.
    fn open(&self) -> String {
        self.sh(
            "losetup -n -O NAME,BACK-FILE | grep ' /mnt/rediacc/' || true
            grep -E ' (/mnt|/run)/rediacc/' /proc/mounts || true
            pgrep -a 'dockerd|containerd' || true",
        )
    }
}

fn said(mut command: Command) -> Output {
    let output = command.output().unwrap();
    let code = output.status.code().unwrap_or(-1);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert_ne!(
        code, 124,
        "{command:?}: not done in {LONGEST} s: {stdout}{stderr}"
    );
    Output {
        code,
        stdout,
        stderr,
    }
}

/// The folder with what the tiers run in; built first where it is not there.
pub fn built() -> PathBuf {
    let output = Command::new("tests/machine/build.sh")
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "tests/machine/build.sh failed");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}
