//! A root of its own with the real binary in it, for all tests of the host.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::desired;

const PORT: u16 = 18_088;
const HOST: &str = "hello.localhost";

/// A root of its own, taken away whatever happens.
pub struct Lab {
    pub root: PathBuf,
}

/// What runs: by container, its id and when it started.
pub type Running = BTreeMap<String, String>;

impl Lab {
    /// With the example of one repository, one service and one route. `None`
    /// where this machine cannot run it, which is said.
    pub fn new(name: &str) -> Option<Self> {
        Self::example(name, "hello", "web")
    }

    /// With an example, and busybox in the folder of its image.
    pub fn example(name: &str, example: &str, image: &str) -> Option<Self> {
        let lab = Self::empty(name)?;
        let desired = lab.desired();
        copy(&Path::new("examples").join(example), &desired);
        fs::copy("/usr/bin/busybox", desired.join(image).join("busybox")).unwrap();
        let manifest = desired.join(format!("{example}.yaml"));
        let text = fs::read_to_string(&manifest).unwrap();
        fs::write(&manifest, text.replace("8088", &PORT.to_string())).unwrap();
        Some(lab)
    }

    /// With nothing at all.
    pub fn empty(name: &str) -> Option<Self> {
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
        Some(Self { root })
    }

    /// With two repositories: `shop` with the services `web` and `api` and a
    /// route to each, `wiki` with `page` and a route to it. A file for each.
    pub fn shop(name: &str) -> Option<Self> {
        let lab = Self::empty(name)?;
        lab.machine("1G");
        for (repository, services) in [("shop", &["web", "api"][..]), ("wiki", &["page"])] {
            lab.repository(repository, "");
            for service in services {
                lab.service(repository, service);
                lab.route(repository, service);
            }
        }
        Some(lab)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn desired(&self) -> PathBuf {
        self.root.join("etc/rediacc/desired")
    }

    pub fn datastore(&self) -> PathBuf {
        self.root.join("mnt/rediacc")
    }

    /// What `renet history` prints.
    pub fn history(&self) -> Vec<serde_json::Value> {
        let output = self.renet(&["history", "-o", "json"]);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Writes a file into the folder of manifests.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.desired().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn remove(&self, path: &str) {
        fs::remove_file(self.desired().join(path)).unwrap();
    }

    /// Writes what `desired` gives.
    fn declare(&self, files: impl IntoIterator<Item = desired::File>) {
        for (path, text) in files {
            self.write(&path, &text);
            if let Some(folder) = path.strip_suffix("Dockerfile") {
                let busybox = self.desired().join(folder).join("busybox");
                if !busybox.exists() {
                    fs::copy("/usr/bin/busybox", busybox).unwrap();
                }
            }
        }
    }

    pub fn machine(&self, size: &str) {
        let datastore = format!("{{ size: {size} }}");
        self.declare([desired::machine(&datastore, PORT)]);
    }

    /// A repository of 96M, with more lines of its spec.
    pub fn repository(&self, name: &str, more: &str) {
        self.sized(name, "96M", more);
    }

    pub fn sized(&self, name: &str, size: &str, more: &str) {
        self.declare([desired::repository(name, size, "", more)]);
    }

    /// A repository that was called otherwise.
    pub fn renamed(&self, name: &str, old: &str) {
        let annotations = format!(", annotations: {{ renet/moved-from: {old} }}");
        self.declare([desired::repository(name, "96M", &annotations, "")]);
    }

    /// A service that answers with its own name on port 8080.
    pub fn service(&self, repository: &str, name: &str) {
        self.serve(repository, name, name);
    }

    /// The same with another answer.
    pub fn serve(&self, repository: &str, name: &str, answer: &str) {
        self.declare(desired::service(repository, name, answer));
    }

    /// A route `{service}.localhost` to it.
    pub fn route(&self, repository: &str, service: &str) {
        self.declare([desired::route(repository, service)]);
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_renet"));
        command
            .args(args)
            .env_clear()
            .env("RENET_ROOT", &self.root)
            .stdin(Stdio::null());
        command
    }

    pub fn renet(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs it and expects that exit code; gives what it printed.
    #[track_caller]
    pub fn expect(&self, code: i32, args: &[&str]) -> String {
        let output = self.renet(args);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(code), "renet {args:?}:\n{text}");
        text
    }

    /// The same, and that it said so.
    #[track_caller]
    pub fn says(&self, code: i32, args: &[&str], word: &str) -> String {
        let text = self.expect(code, args);
        assert!(text.contains(word), "`{word}` is not in:\n{text}");
        text
    }

    /// Shown by diff, mended by apply, and then in sync and serving.
    pub fn mended(&self, step: &str) {
        let shown = self.expect(1, &["diff"]);
        assert!(shown.contains(step), "{step} is not in:\n{shown}");
        self.expect(0, &["apply"]);
        self.expect(0, &["diff"]);
        assert_eq!(body(), "Hello from renet.\n");
    }

    pub fn networks(&self) -> Vec<String> {
        let lib = fs::read_dir(self.root.join("var/lib/rediacc")).into_iter();
        lib.flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter_map(|name| name.strip_prefix("docker-").map(str::to_owned))
            .collect()
    }

    pub fn network(&self) -> String {
        self.networks().pop().expect("a network's folder")
    }

    /// What is listed of the repository of this name: of the living one, where
    /// there is one.
    pub fn listed(&self, name: &str) -> serde_json::Value {
        let output = self.renet(&["repository", "list", "-o", "json"]);
        let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}:\n{}", said(&output)));
        rows.into_iter()
            .filter(|row| row["name"] == name)
            .min_by_key(|row| row["state"] == "deleted")
            .unwrap_or_else(|| panic!("{name} is not listed"))
    }

    pub fn guid(&self, name: &str) -> String {
        self.listed(name)["guid"].as_str().unwrap().to_owned()
    }

    pub fn network_of(&self, name: &str) -> String {
        self.listed(name)["network_id"].to_string()
    }

    pub fn state(&self, name: &str) -> String {
        self.listed(name)["state"].as_str().unwrap().to_owned()
    }

    /// A path in a mounted repository.
    pub fn inside(&self, guid: &str, path: &str) -> PathBuf {
        self.datastore().join("mounts").join(guid).join(path)
    }

    pub fn image(&self, guid: &str) -> PathBuf {
        self.datastore().join("repositories").join(guid)
    }

    pub fn record(&self, guid: &str) -> PathBuf {
        let state = self.datastore().join(".interim/state");
        state.join(guid).join("record.json")
    }

    /// Puts data into a mounted repository that no manifest knows of.
    pub fn put(&self, guid: &str, path: &str, seed: u64) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let bytes: Vec<u8> = (0..100_000)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect();
        let path = self.inside(guid, path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = fs::File::create(path).unwrap();
        file.write_all(&bytes).unwrap();
        file.sync_all().unwrap();
        bytes
    }

    pub fn pid(&self, file: &str) -> i32 {
        self.pid_of(&self.network(), file)
    }

    pub fn pid_of(&self, network: &str, file: &str) -> i32 {
        let path = self
            .root
            .join(format!("run/rediacc/docker-{network}/{file}"));
        fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }

    pub fn docker(&self, args: &[&str]) -> Option<String> {
        self.docker_of(&self.network(), args)
    }

    pub fn docker_of(&self, network: &str, args: &[&str]) -> Option<String> {
        let socket = self.root.join(format!("run/rediacc/docker-{network}.sock"));
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

    pub fn started(&self) -> Option<String> {
        self.docker(&["inspect", "-f", "{{.State.StartedAt}}", "web-web-1"])
    }

    /// Every running container of every network, with its id and start.
    pub fn running(&self) -> Running {
        let mut running = Running::new();
        for network in self.networks() {
            let Some(ids) = self.docker_of(&network, &["ps", "-q", "--no-trunc"]) else {
                continue;
            };
            for id in ids.lines() {
                let format = "{{.Name}} {{.Id}} {{.State.StartedAt}} {{.State.Pid}}";
                let seen = self.docker_of(&network, &["inspect", "-f", format, id]);
                let seen = seen.unwrap_or_default();
                if let Some((name, what)) = seen.split_once(' ') {
                    running.insert(name.trim_start_matches('/').to_owned(), what.to_owned());
                }
            }
        }
        running
    }

    /// What of the machine no failed command may change: manifests' files apart.
    pub fn fingerprint(&self) -> Vec<String> {
        let mut seen: Vec<String> = self
            .running()
            .into_iter()
            .map(|(name, what)| format!("{name} {what}"))
            .collect();
        for folder in [
            "mnt/rediacc/repositories",
            "mnt/rediacc/mounts",
            "mnt/rediacc/.trash",
            "mnt/rediacc/repositories/.trash",
        ] {
            let folder = self.root.join(folder);
            let names = fs::read_dir(&folder).into_iter().flatten().flatten();
            seen.extend(names.map(|entry| entry.path().display().to_string()));
        }
        let state = self.datastore().join(".interim/state");
        for entry in fs::read_dir(state).into_iter().flatten().flatten() {
            let record = fs::read_to_string(entry.path().join("record.json"));
            seen.push(record.unwrap_or_default());
        }
        let routes = self
            .root
            .join("opt/rediacc/proxy/traefik/dynamic/renet.yml");
        seen.push(fs::read_to_string(routes).unwrap_or_default());
        seen.extend(self.loops());
        seen.sort();
        seen
    }

    /// The files behind the loop devices of this root.
    pub fn loops(&self) -> Vec<String> {
        let listed = Command::new("losetup")
            .args(["-l", "-n", "-O", "BACK-FILE"])
            .output()
            .unwrap();
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let root = self.root.display().to_string();
        let lines = listed.lines().map(str::trim);
        lines
            .filter(|line| line.contains(&root))
            .map(str::to_owned)
            .collect()
    }

    /// The mount points beneath this root.
    pub fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = format!("{}/", self.root.display());
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        points
            .filter(|point| point.starts_with(&root))
            .map(str::to_owned)
            .collect()
    }

    /// Everything under a temporary name.
    pub fn temporary(&self) -> Vec<String> {
        let mut found = Vec::new();
        for folder in ["mnt", "var", "run", "opt"] {
            walk(&self.root.join(folder), &mut |path| {
                let name = path.file_name().unwrap().to_string_lossy();
                let compose = name.starts_with("c-") && path.is_dir();
                if name.starts_with(".tmp-")
                    || name.starts_with(".new-")
                    || name.starts_with(".replaced-")
                    || name.ends_with(".new")
                    || compose
                {
                    found.push(path.display().to_string());
                }
            });
        }
        found
    }

    /// What a machine in sync holds, and not more: one loop device a repository
    /// and one for the datastore; one daemon with its supervisor a network.
    #[track_caller]
    pub fn nothing_leaked(&self, repositories: usize) {
        let loops = self.loops();
        assert_eq!(loops.len(), repositories + 1, "{loops:?}");
        let distinct: BTreeSet<&String> = loops.iter().collect();
        assert_eq!(distinct.len(), loops.len(), "attached twice: {loops:?}");
        let data = self.mounts();
        let images = data.iter().filter(|point| {
            let mounts = format!("{}/mounts/", self.datastore().display());
            point
                .strip_prefix(&mounts)
                .is_some_and(|rest| !rest.contains('/'))
        });
        assert_eq!(images.count(), repositories, "{data:?}");
        let root = self.root.display().to_string();
        let lines = processes_with(&root);
        let count = |mark: &str| lines.iter().filter(|line| line.contains(mark)).count();
        for (mark, most) in [
            ("daemon supervise", repositories),
            ("/dockerd ", repositories),
            ("proxy supervise", 1),
            ("/traefik ", 1),
            ("mkfs", 0),
            ("docker-compose ", 0),
            (" apply", 0),
        ] {
            assert!(count(mark) <= most, "{mark}: {lines:#?}");
        }
        assert_eq!(self.temporary(), Vec::<String>::new());
    }

    /// Takes everything off, and finds nothing left.
    #[track_caller]
    pub fn uninstall(&self) {
        self.expect(0, &["uninstall"]);
        let root = self.root.display().to_string();
        assert_eq!(processes_with(&root), Vec::<String>::new());
        assert_eq!(self.mounts(), Vec::<String>::new());
        assert_eq!(self.loops(), Vec::<String>::new());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let mark = format!("{}/", self.root.display());
        for pid in pids_with(&mark) {
            let _ = signal(pid, Signal::SIGCONT);
        }
        let _ = self.renet(&["uninstall"]);
        if self.mounts().is_empty() {
            let _ = fs::remove_dir_all(&self.root);
        } else {
            eprintln!("left behind: {:?}", self.mounts());
        }
    }
}

pub fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Every file beneath a folder; through no mount and no link.
fn walk(folder: &Path, see: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        see(&path);
        // What containers and their daemon make is not ours.
        let theirs = ["x", "docker"].contains(&entry.file_name().to_string_lossy().as_ref());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !theirs {
            walk(&path, see);
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

pub fn copy(from: &Path, to: &Path) {
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

/// What the example's route answers, within 5 s.
pub fn body() -> String {
    let (status, body) = answer(HOST, "200");
    assert_eq!(status, "200");
    body
}

/// What the route of a service answers, within 5 s.
#[track_caller]
pub fn page(service: &str) -> String {
    answer(&format!("{service}.localhost"), "200")
        .1
        .trim()
        .to_owned()
}

/// Waits up to 5 s until a host is answered with this status.
#[track_caller]
pub fn answer(host: &str, wanted: &str) -> (String, String) {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let answer = ask(host).unwrap_or_default();
        if let Some((head, body)) = answer.split_once("\r\n\r\n")
            && head.contains(&format!(" {wanted} "))
        {
            return (wanted.to_owned(), body.to_owned());
        }
        assert!(Instant::now() < until, "{host}: no {wanted}: {answer:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What a host answers now.
pub fn ask(host: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", PORT))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(
        stream,
        "GET / HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

pub fn signal(pid: i32, signal: Signal) -> nix::Result<()> {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal)
}

pub fn kill(pid: i32) {
    signal(pid, Signal::SIGKILL).unwrap();
}

pub fn processes_with(mark: &str) -> Vec<String> {
    let found = pids_with(mark).into_iter();
    found.filter_map(line_of).collect()
}

fn line_of(pid: i32) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(String::from_utf8_lossy(&line).replace('\0', " "))
}

/// Every process whose arguments mention `mark`.
pub fn pids_with(mark: &str) -> Vec<i32> {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| line_of(*pid).is_some_and(|line| line.contains(mark)))
        .collect()
}
