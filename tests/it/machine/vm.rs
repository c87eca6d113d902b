//! A virtual machine: the very snapshot that tests/machine/build.sh has saved, with
//! this renet in it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;

use crate::guest::{Guest, RENET, built};

/// The size that tests/machine/vm.sh wants of what is handed over.
const HANDED: u64 = 256 << 20;

/// What the disk that forgets is called, and its size in bytes.
pub const FORGETS: &str = "/dev/disk/by-id/virtio-forgets";
const FORGETFUL: u64 = 6 << 30;

/// A virtual machine of its own, which ends with its value.
pub struct Machine {
    built: PathBuf,
    folder: TempDir,
    port: u16,
    qemu: Option<Child>,
    /// Whether it has a disk that forgets, and what serves that.
    forgets: bool,
    disk: Option<Child>,
}

impl Machine {
    /// One that has booted already, in seconds.
    pub fn boot() -> Self {
        let mut machine = Self::off(false);
        machine.power_on(&["-loadvm", "booted"], Duration::from_secs(60));
        machine.hand_over();
        machine
    }

    /// One whose disk [`FORGETS`] loses at a power cut whatever was written to it
    /// since it was told last to flush.
    pub fn boot_with_a_disk_that_forgets() -> Self {
        let mut machine = Self::off(true);
        let disk = File::create(machine.folder.path().join("forgets.raw")).unwrap();
        disk.set_len(FORGETFUL).unwrap();
        machine.start();
        machine.hand_over();
        machine
    }

    fn off(forgets: bool) -> Self {
        let built = built();
        let folder = TempDir::with_prefix_in("vm-", built.parent().unwrap()).unwrap();
        for disk in ["system.qcow2", "data.qcow2"] {
            fs::copy(built.join(disk), folder.path().join(disk)).unwrap();
        }
        let handed = folder.path().join("handed");
        let size = fs::copy(env!("CARGO_BIN_EXE_renet"), &handed).unwrap();
        assert!(size <= HANDED, "renet is larger than what is handed over");
        let handed = File::options().write(true).open(handed).unwrap();
        handed.set_len(HANDED).unwrap();
        Self {
            built,
            folder,
            port: 0,
            qemu: None,
            forgets,
            disk: None,
        }
    }

    fn hand_over(&self) {
        let size = fs::metadata(env!("CARGO_BIN_EXE_renet")).unwrap().len();
        self.sh(&format!(
            "dd if=/dev/vdc of={RENET} bs=1M count={} iflag=direct status=none
             truncate -s {size} {RENET}
             chmod 755 {RENET}
             sync {RENET}",
            size.div_ceil(1 << 20)
        ));
    }

    /// Boots it from its disks.
    pub fn start(&mut self) {
        self.power_on(&[], Duration::from_secs(180));
    }

    /// Takes its power away: what lies in its memory is lost, and what a disk that
    /// forgets was not told to flush.
    pub fn power_off_hard(&mut self) {
        if let Some(mut disk) = self.disk.take() {
            disk.kill().unwrap();
            disk.wait().unwrap();
        }
        if let Some(mut qemu) = self.qemu.take() {
            qemu.kill().unwrap();
            qemu.wait().unwrap();
        }
        self.hang_up();
    }

    /// Has it shut down and boot again by itself.
    pub fn reboot(&mut self) {
        let before = self.boot_id();
        let began = Instant::now();
        self.run(&["systemctl", "reboot"]);
        while !self.answers() || self.boot_id() == before {
            self.still_boots(began + Duration::from_secs(240));
            self.hang_up();
        }
        self.booted(began);
    }

    fn power_on(&mut self, options: &[&str], longest: Duration) {
        assert!(self.qemu.is_none(), "it runs already");
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        self.port = listener.local_addr().unwrap().port();
        drop(listener);
        let more = match self.forgets {
            true => self.serve_disk(),
            false => Vec::new(),
        };
        let said = File::create(self.folder.path().join("qemu.log")).unwrap();
        let qemu = Command::new("tests/machine/vm.sh")
            .args([self.built.as_path(), self.folder.path()])
            .arg(self.port.to_string())
            .args(options)
            .args(more)
            .stdin(Stdio::null())
            .stdout(said.try_clone().unwrap())
            .stderr(said)
            .spawn();
        self.qemu = Some(qemu.unwrap());
        let began = Instant::now();
        while !self.answers() {
            self.still_boots(began + longest);
        }
        self.booted(began);
    }

    /// Serves the disk that forgets: what is not flushed lies in a file of the server,
    /// which goes with it. Returns the options by which the machine has it.
    fn serve_disk(&mut self) -> Vec<String> {
        let socket = self.folder.path().join("forgets");
        let _ = fs::remove_file(&socket);
        let server = Command::new("nbdkit")
            .args(["--foreground", "--exit-with-parent", "--filter=cache"])
            .arg("--unix")
            .arg(&socket)
            .arg("file")
            .arg(self.folder.path().join("forgets.raw"))
            .arg("cache=writeback")
            .stdin(Stdio::null())
            .spawn();
        self.disk = Some(server.unwrap());
        let end = Instant::now() + Duration::from_secs(20);
        while !socket.exists() {
            assert!(Instant::now() < end, "the disk is not served");
            std::thread::sleep(Duration::from_millis(10));
        }
        let path = socket.display();
        vec![
            "-blockdev".to_owned(),
            format!("driver=nbd,node-name=forgets,server.type=unix,server.path={path}"),
            "-device".to_owned(),
            "virtio-blk-pci,drive=forgets,serial=forgets".to_owned(),
        ]
    }

    /// Waits a moment; panics with what there is to read where it cannot come.
    fn still_boots(&mut self, end: Instant) {
        let ended = self.qemu.as_mut().unwrap().try_wait().unwrap();
        if ended.is_some() || Instant::now() > end {
            let read = |name: &str| {
                let bytes = fs::read(self.folder.path().join(name)).unwrap_or_default();
                String::from_utf8_lossy(&bytes).into_owned()
            };
            panic!(
                "the virtual machine does not boot ({ended:?}):\n{}\n{}\n{}",
                read("qemu.log"),
                read("console"),
                read("ssh.log")
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }

    /// Opens the connection that all commands share: each of its own costs 0.5 s.
    fn answers(&self) -> bool {
        let log = File::create(self.folder.path().join("ssh.log")).unwrap();
        let opened = Command::new("timeout")
            .args(["--foreground", "15"])
            .args(self.ssh())
            // What still boots takes connections and never answers.
            .args(["-o", "ConnectTimeout=4", "-o", "ServerAliveInterval=15"])
            .args(["-fNM", "-o", "ControlPersist=yes", "root@127.0.0.1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .status();
        opened.unwrap().success()
    }

    /// Closes it.
    fn hang_up(&self) {
        let closed = Command::new("timeout")
            .args(["--foreground", "5"])
            .args(self.ssh())
            .args(["-O", "exit", "root@127.0.0.1"])
            .output();
        drop(closed);
        let _ = fs::remove_file(self.folder.path().join("ssh"));
    }

    fn ssh(&self) -> Vec<OsString> {
        let mut line = vec![OsString::from("ssh"), "-F".into(), "none".into()];
        for option in [
            "BatchMode=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
        ] {
            line.extend(["-o".into(), option.into()]);
        }
        line.extend(["-i".into(), self.built.join("key").into()]);
        line.extend(["-S".into(), self.folder.path().join("ssh").into()]);
        line.extend(["-p".into(), self.port.to_string().into()]);
        line
    }

    fn boot_id(&self) -> String {
        let output = self.run(&["cat", "/proc/sys/kernel/random/boot_id"]);
        output.stdout
    }

    fn booted(&self, began: Instant) {
        // A snapshot's clock is the one of when it was saved.
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
        self.sh(&format!("date -s @{:.3}", now.as_secs_f64()));
        println!("booted in {:.1?}", began.elapsed());
    }
}

impl Guest for Machine {
    fn argv(&self, line: &[&str]) -> Vec<OsString> {
        let quoted: Vec<String> = line
            .iter()
            .map(|word| format!("'{}'", word.replace('\'', r"'\''")))
            .collect();
        let mut argv = self.ssh();
        argv.extend(["root@127.0.0.1".into(), quoted.join(" ").into()]);
        argv
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.power_off_hard();
    }
}
