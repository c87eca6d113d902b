//! A container on this machine's kernel: systemd in seconds, but no device mapper.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::guest::{Guest, RENET, built};

/// Loop devices are this machine's, and any of them may be the next free one.
const LOOPS: u32 = 512;

/// How often it is started, and how long each is waited for: now and then one hangs
/// before its first word.
const BOOTS: (u32, Duration) = (3, Duration::from_secs(20));

/// A container of its own, which ends with its value.
pub struct Container {
    // In the order in which they have to go.
    system: System,
    _root: Overlay,
    _folder: TempDir,
}

/// What runs in it.
struct System {
    nspawn: Child,
    /// Its first process.
    leader: Pid,
}

/// Its root: what was built, beneath a layer of its own.
struct Overlay(PathBuf);

impl Container {
    /// One that has booted.
    pub fn boot() -> Self {
        let built = built();
        let folder = TempDir::with_prefix_in("container-", built.parent().unwrap()).unwrap();
        let root = Overlay::mount(folder.path(), &built.join("rootfs"));
        fs::copy(
            env!("CARGO_BIN_EXE_renet"),
            format!("{}{RENET}", root.0.display()),
        )
        .unwrap();
        let mut said = Vec::new();
        let system = (0..BOOTS.0).find_map(|_| {
            let system = System::boot(&root.0, folder.path());
            system.map_err(|error| said.push(error)).ok()
        });
        for error in &said {
            eprintln!("the container does not boot: {error}");
        }
        let container = Self {
            system: system.expect("no container boots"),
            _root: root,
            _folder: folder,
        };
        container.sh(&format!(
            "for n in $(seq 0 {}); do mknod -m 660 /dev/loop$n b 7 $n; done",
            LOOPS - 1
        ));
        container
    }
}

impl Overlay {
    fn mount(folder: &Path, beneath: &Path) -> Self {
        let path = |name: &str| folder.join(name).display().to_string();
        for name in ["root", "upper", "work"] {
            fs::create_dir(path(name)).unwrap();
        }
        let layers = format!(
            "lowerdir={},upperdir={},workdir={}",
            beneath.display(),
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
        Self(folder.join("root"))
    }
}

impl System {
    /// Starts it and waits for its systemd.
    fn boot(root: &Path, folder: &Path) -> Result<Self, String> {
        let console = folder.join("console");
        let said = File::create(&console).unwrap();
        let nspawn = Command::new("systemd-nspawn")
            .args(["-b", "-D"])
            .arg(root)
            .args([
                "--register=no",
                "--keep-unit",
                "--private-network",
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
        let mut system = Self {
            nspawn,
            leader: Pid::from_raw(0),
        };
        let end = Instant::now() + BOOTS.1;
        let mut last = None;
        loop {
            if let Some(leader) = system.child() {
                system.leader = leader;
                let output = system.run(&["true"]);
                if output.code == 0 {
                    return Ok(system);
                }
                last = Some(output);
            }
            let ended = system.nspawn.try_wait().unwrap();
            if ended.is_some() || Instant::now() > end {
                let said = fs::read_to_string(console).unwrap_or_default();
                return Err(format!(
                    "{ended:?}, {last:?}, {}: {said}",
                    system.waits_for()
                ));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn child(&self) -> Option<Pid> {
        let children = format!("/proc/{0}/task/{0}/children", self.nspawn.id());
        let children = fs::read_to_string(children).ok()?;
        let first = children.split_whitespace().next()?;
        first.parse().ok().map(Pid::from_raw)
    }

    /// Where in the kernel its two first processes are.
    fn waits_for(&self) -> String {
        let at = |process: String| {
            let said = fs::read_to_string(format!("/proc/{process}/stack"));
            said.unwrap_or_else(|error| error.to_string())
        };
        format!(
            "nspawn at {}, its first process at {}",
            at(self.nspawn.id().to_string()),
            at(self.leader.to_string())
        )
    }
}

impl Guest for Container {
    fn argv(&self, line: &[&str]) -> Vec<OsString> {
        self.system.argv(line)
    }
}

impl Guest for System {
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
        drop(self.command(&["sh", "-c", LET_GO]).output());
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if self.leader.as_raw() > 0 {
            let _ = kill(self.leader, Signal::SIGKILL);
        }
        // It is gone when all that ran in it is, which the next one must not meet.
        let end = Instant::now() + Duration::from_secs(10);
        while matches!(self.nspawn.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.nspawn.kill();
        let _ = self.nspawn.wait();
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}
