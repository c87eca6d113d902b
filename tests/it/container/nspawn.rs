//! A container on this machine's kernel: systemd in seconds, but no device mapper.

use std::ffi::OsString;
use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::guest::{Guest, RENET, built};

/// Loop devices are this machine's, and any of them may be the next free one.
const LOOPS: u32 = 512;

/// A container of its own, which ends with its value.
pub struct Container {
    folder: TempDir,
    nspawn: Child,
    /// Its first process.
    leader: Pid,
}

impl Container {
    /// One that has booted.
    pub fn boot() -> Self {
        let built = built();
        let folder = TempDir::with_prefix_in("container-", built.parent().unwrap()).unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        for name in ["root", "upper", "work"] {
            fs::create_dir(path(name)).unwrap();
        }
        let layers = format!(
            "lowerdir={},upperdir={},workdir={}",
            built.join("rootfs").display(),
            path("upper"),
            path("work")
        );
        let overlay = Some("overlay");
        mount(
            overlay,
            path("root").as_str(),
            overlay,
            MsFlags::empty(),
            Some(layers.as_str()),
        )
        .unwrap();
        fs::copy(env!("CARGO_BIN_EXE_renet"), path("root") + RENET).unwrap();
        let said = File::create(path("console")).unwrap();
        let nspawn = Command::new("systemd-nspawn")
            .args([
                "-b",
                "-D",
                &path("root"),
                "--register=no",
                "--keep-unit",
                "--private-network",
            ])
            .args([
                "--capability=all",
                "--bind=/dev/loop-control",
                "--console=pipe",
            ])
            .env("UNIFIED_CGROUP_HIERARCHY", "1")
            .env("SYSTEMD_SECCOMP", "0")
            .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "1")
            .stdin(Stdio::null())
            .stdout(said.try_clone().unwrap())
            .stderr(said)
            .spawn()
            .unwrap();
        let mut container = Self {
            folder,
            nspawn,
            leader: Pid::from_raw(0),
        };
        container.wait_for_systemd();
        container.sh(&format!(
            "for n in $(seq 0 {}); do mknod -m 660 /dev/loop$n b 7 $n; done",
            LOOPS - 1
        ));
        container
    }

    fn wait_for_systemd(&mut self) {
        let end = Instant::now() + Duration::from_secs(60);
        let children = format!("/proc/{0}/task/{0}/children", self.nspawn.id());
        loop {
            let children = fs::read_to_string(&children).unwrap_or_default();
            if let Some(leader) = children.split_whitespace().next() {
                self.leader = Pid::from_raw(leader.parse().unwrap());
                if self.run(&["true"]).code == 0 {
                    return;
                }
            }
            let ended = self.nspawn.try_wait().unwrap();
            if ended.is_some() || Instant::now() > end {
                let said = fs::read_to_string(self.folder.path().join("console"));
                panic!(
                    "the container does not boot ({ended:?}):\n{}",
                    said.unwrap_or_default()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Guest for Container {
    /// Through its systemd, so that it lies where the container's processes lie.
    fn argv(&self, line: &[&str]) -> Vec<OsString> {
        let leader = self.leader.to_string();
        let mut argv = vec!["nsenter", "-t", &leader];
        argv.extend([
            "-m",
            "-u",
            "-i",
            "-n",
            "-p",
            "-C",
            "-r",
            "-w",
            "systemd-run",
        ]);
        argv.extend(["--quiet", "--collect", "--pipe", "--wait"]);
        // What is started to stay, stays, as after a login.
        argv.extend(["-p", "KillMode=process", "-E", "HOME=/root", "--"]);
        argv.extend(line);
        argv.into_iter().map(OsString::from).collect()
    }
}

/// Loop devices outlive the container: they go with the last mount of theirs.
const LET_GO: &str = r#"
for folder in /mnt/rediacc.img /mnt/rediacc/repositories; do
  device=$(stat -c %Hd:%Ld "$folder" 2>/dev/null) || continue
  losetup -n -O NAME,BACK-MAJ:MIN | while read -r name behind; do
    [ "$behind" != "$device" ] || losetup -d "$name"
  done
done"#;

impl Drop for Container {
    fn drop(&mut self) {
        if self.leader.as_raw() > 0 {
            let output = self.command(&["sh", "-c", LET_GO]).output();
            drop(output);
            let _ = kill(self.leader, Signal::SIGKILL);
        }
        let _ = self.nspawn.kill();
        let _ = self.nspawn.wait();
        let root = self.folder.path().join("root");
        if let Err(error) = umount2(&root, MntFlags::MNT_DETACH) {
            eprintln!("{}: {error}", root.display());
        }
    }
}
