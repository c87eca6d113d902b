//! What a machine has and lacks. Looks at everything, starts no daemon, and
//! changes nothing but what [`mend`] is asked to.

use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::join_all;
use nix::libc;
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, statfs};
use nix::sys::statvfs::statvfs;
use schemars::JsonSchema;
use serde::Serialize;

use super::program::{Program, is_installed};
use super::{files, proxy, tools};
use crate::host::StepError;
use crate::model::{Backing, Layout, Part, Size};

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Check {
    /// How it is.
    pub level: Level,
    /// What belongs together: `machine`, `kernel`, `programs`, `datastore` or `files`.
    pub group: &'static str,
    /// What was looked at: a program, a part of the kernel, a file.
    pub what: String,
    /// Its version or state, where there is one.
    pub found: String,
    /// What its lack costs; empty where it is as it should be.
    pub cost: String,
    /// The command that mends it; empty where there is none.
    pub cure: String,
    /// The permissions that `--fix` gives the file.
    #[serde(skip)]
    mode: Option<u32>,
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and is not as it should be.
    Warning,
    /// It is not there.
    Missing,
}

impl Check {
    /// One that is as it should be.
    pub fn ok(group: &'static str, what: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            group,
            what: what.into(),
            found: found.into(),
            cost: String::new(),
            cure: String::new(),
            mode: None,
        }
    }

    /// The same, but not as it should be.
    pub fn but(self, level: Level, cost: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            level,
            cost: cost.into(),
            cure: cure.into(),
            ..self
        }
    }

    /// Whether `--fix` mends it: only what can do no harm.
    pub fn is_safe_to_fix(&self) -> bool {
        self.mode.is_some()
    }
}

/// Looks at everything.
pub async fn examine(layout: &Layout) -> Vec<Check> {
    let mut checks = vec![root()];
    checks.extend(kernel(Path::new("/")));
    let programs = join_all(PROGRAMS.iter().map(Tool::look)).await;
    checks.extend(
        programs
            .into_iter()
            .map(|check| in_container(layout, check)),
    );
    checks.extend(datastore(layout));
    checks.extend(secret_files(layout));
    checks.extend(manifest_files(&layout.desired()));
    checks
}

fn root() -> Check {
    let check = Check::ok("machine", "root", "");
    match nix::unistd::geteuid().is_root() {
        true => check,
        false => check.but(
            Level::Warning,
            "not running as root: files of root were not looked at",
            "sudo renet doctor",
        ),
    }
}

/// A part of the kernel: how it shows while it is loaded, and what it is called
/// as a module.
const KERNEL: [(&str, &str, &str, &str); 3] = [
    (
        "btrfs",
        "sys/fs/btrfs",
        "btrfs",
        "there can be no datastore",
    ),
    ("loop", "sys/module/loop", "loop", "no image can be opened"),
    (
        "dm-crypt",
        "sys/module/dm_crypt",
        "dm_crypt",
        "encrypted repositories cannot be opened",
    ),
];

/// openat2 without links, without which no manifest is read.
const OLDEST_KERNEL: (u32, u32) = (5, 6);

fn kernel(root: &Path) -> Vec<Check> {
    let release = fs::read_to_string(root.join("proc/sys/kernel/osrelease"));
    let release = release.unwrap_or_default().trim().to_owned();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>());
    let version = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => (0, 0),
    };
    let short = format!("{}.{}", version.0, version.1);
    let check = Check::ok("kernel", "kernel", short);
    let mut checks = vec![match version >= OLDEST_KERNEL {
        true => check,
        false => check.but(
            Level::Warning,
            "older than 5.6: manifests cannot be read safely",
            "apt full-upgrade, then reboot",
        ),
    }];
    let modules = root.join("lib/modules").join(&release);
    let listed: String = ["modules.builtin", "modules.dep"]
        .iter()
        .filter_map(|list| fs::read_to_string(modules.join(list)).ok())
        .collect();
    for (what, shown, module, cost) in KERNEL {
        // Files spell a module's name with either.
        let files = [module, &module.replace('_', "-")].map(|name| format!("/{name}.ko"));
        let loadable = files.iter().any(|file| listed.contains(file.as_str()));
        let check = Check::ok("kernel", what, "");
        checks.push(match root.join(shown).exists() || loadable {
            true => check,
            false => check.but(
                Level::Missing,
                cost,
                "a kernel that has it, like Debian's own",
            ),
        });
    }
    let check = Check::ok("kernel", "cgroup v2", "");
    let unified = root.join("sys/fs/cgroup/cgroup.controllers").exists();
    checks.push(match unified {
        true => check,
        false => check.but(
            Level::Missing,
            "limits of memory and processors do not hold",
            "boot with systemd.unified_cgroup_hierarchy=1",
        ),
    });
    checks
}

/// A program that renet runs, or that something of renet needs.
struct Tool {
    name: &'static str,
    /// Where it is, where that is not on the usual path.
    find: Option<fn() -> Result<PathBuf, StepError>>,
    version: &'static [&'static str],
    cost: &'static str,
    cure: &'static str,
}

const INSTALL: &str = "deploy/tools.sh";

const PROGRAMS: [Tool; 13] = [
    Tool {
        name: "dockerd",
        find: Some(tools::dockerd),
        version: &["--version"],
        cost: "nothing runs",
        cure: INSTALL,
    },
    Tool {
        name: "compose",
        find: Some(tools::compose),
        version: &["version", "--short"],
        cost: "no Service can be resolved",
        cure: INSTALL,
    },
    Tool {
        name: "traefik",
        find: Some(tools::traefik),
        version: &["version"],
        cost: "no route is served",
        cure: INSTALL,
    },
    Tool {
        name: "openssl",
        find: None,
        version: &["version"],
        cost: "no certificate of your own is served",
        cure: "apt install openssl",
    },
    Tool {
        name: "mkfs.btrfs",
        find: None,
        version: &["--version"],
        cost: "no datastore can be made",
        cure: "apt install btrfs-progs",
    },
    Tool {
        name: "mkfs.ext4",
        find: None,
        version: &["-V"],
        cost: "no repository can be made",
        cure: "apt install e2fsprogs",
    },
    Tool {
        name: "losetup",
        find: None,
        version: &["--version"],
        cost: "no image can be opened",
        cure: "apt install util-linux",
    },
    Tool {
        name: "systemd",
        find: Some(systemd),
        version: &["--version"],
        cost: "it does not run here: nothing starts at boot by itself",
        cure: "",
    },
    Tool {
        name: "git",
        find: None,
        version: &["--version"],
        cost: "manifests cannot come from git",
        cure: "apt install git",
    },
    Tool {
        name: "cryptsetup",
        find: None,
        version: &["--version"],
        cost: "encrypted repositories cannot be opened",
        cure: "apt install cryptsetup-bin",
    },
    Tool {
        name: "age",
        find: None,
        version: &["--version"],
        cost: "secrets in age files cannot be read",
        cure: "apt install age",
    },
    Tool {
        name: "rclone",
        find: None,
        version: &["version"],
        cost: "backups cannot go to object stores",
        cure: "apt install rclone",
    },
    Tool {
        name: "criu",
        find: None,
        version: &["--version"],
        cost: "no checkpoints",
        cure: "apt install criu",
    },
];

/// The program that speaks with systemd, where that runs.
fn systemd() -> Result<PathBuf, StepError> {
    match Path::new("/run/systemd/system").is_dir() {
        true => Ok(PathBuf::from("systemctl")),
        false => Err(StepError::machine("systemd does not run")),
    }
}

/// A program that is missing is none to look for where its container runs.
fn in_container(layout: &Layout, check: Check) -> Check {
    match proxy::way(layout) {
        Some(way @ proxy::Way::Container { .. })
            if check.what == "traefik" && check.level == Level::Missing =>
        {
            Check::ok("programs", check.what, way.to_string())
        }
        _ => check,
    }
}

impl Tool {
    async fn look(&self) -> Check {
        const LIMIT: Duration = Duration::from_secs(5);
        let check = Check::ok("programs", self.name, "");
        let path = match self.find {
            Some(find) => find().ok(),
            None => is_installed(self.name).then(|| PathBuf::from(self.name)),
        };
        let Some(path) = path else {
            return check.but(Level::Missing, self.cost, self.cure);
        };
        let said = Program::new(path).args(self.version).limit(LIMIT).run();
        match said.await {
            Ok(output) => Check {
                found: version(&output.stdout)
                    .or_else(|| version(&output.stderr))
                    .unwrap_or_default(),
                ..check
            },
            Err(error) => check.but(
                Level::Warning,
                format!("does not say its version: {error}"),
                self.cure,
            ),
        }
    }
}

/// The first word that is a version: `v2.26.1` says 2.26.1.
fn version(said: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(said);
    let mut words = text.split(|c: char| c.is_whitespace() || "(),".contains(c));
    words.find_map(|word| {
        let word = word.trim_start_matches('v');
        let digits = word.chars().take_while(|c| c.is_ascii_digit() || *c == '.');
        let digits: String = digits.collect();
        let number = digits.trim_end_matches('.');
        (!number.is_empty() && word.starts_with(number)).then(|| number.to_owned())
    })
}

/// How full a datastore may be before its owner must think of more.
const NEARLY_FULL: u64 = 90;

fn datastore(layout: &Layout) -> Vec<Check> {
    let mount = layout.datastore();
    let open = statfs(&mount).is_ok_and(|is| is.filesystem_type() == BTRFS_SUPER_MAGIC);
    let check = Check::ok("datastore", "datastore", "");
    if !open {
        let note: Part<serde_json::Value> = files::read_json(&layout.datastore_note());
        let check = match note.is_absent() {
            true => Check {
                found: "none yet".to_owned(),
                ..check
            },
            false => check.but(
                Level::Warning,
                "this machine's datastore is not mounted: nothing in it runs",
                "renet apply",
            ),
        };
        let below = match super::datastore::backing(layout) {
            Backing::File(_) => disk(layout),
            Backing::Device(path) => device(&path),
        };
        return vec![check, below];
    }
    let cure = match super::datastore::backing(layout) {
        Backing::File(_) => "raise the Machine's datastore size",
        Backing::Device(_) => "make its device larger, then `renet datastore expand`",
    };
    vec![room(check, &mount, cure)]
}

/// The block device that the datastore lies on.
fn device(path: &Path) -> Check {
    let check = Check::ok("datastore", "device", "");
    match super::disk::observe(path) {
        Part::Known(disk) => Check {
            found: format!("{}, {}", path.display(), disk.size),
            ..check
        },
        Part::Unknown(why) => check.but(Level::Missing, why, ""),
        Part::Absent | Part::Hidden => check,
    }
}

/// The disk on which a backing file would lie.
fn disk(layout: &Layout) -> Check {
    let file = layout.backing_file();
    let there = file.ancestors().find(|path| path.exists());
    let check = Check::ok("datastore", "disk", "");
    room(check, there.unwrap_or(Path::new("/")), "")
}

fn room(check: Check, path: &Path, cure: &str) -> Check {
    let Ok(stat) = statvfs(path) else {
        let cost = format!("{} could not be measured", path.display());
        return check.but(Level::Warning, cost, "");
    };
    let size = stat.blocks() * stat.fragment_size();
    let free = stat.blocks_available() * stat.fragment_size();
    let percent = 100 - free * 100 / size.max(1);
    let check = Check {
        found: format!("{} of {} free", Size::bytes(free), Size::bytes(size)),
        ..check
    };
    match percent >= NEARLY_FULL {
        true => check.but(Level::Warning, format!("{percent}% full"), cure),
        false => check,
    }
}

/// Keys that others than their owner can read.
fn secret_files(layout: &Layout) -> Vec<Check> {
    let mut found = Vec::new();
    for folder in [layout.keys(), layout.credentials()] {
        each_file(&folder, &mut |path, meta| {
            let mode = meta.mode() & 0o777;
            if mode & 0o077 != 0 {
                found.push(wrong_mode(
                    path,
                    mode & 0o700,
                    "readable by others than root",
                ));
            }
        });
    }
    found
}

/// Manifests that others than root can change: whoever writes them is root.
fn manifest_files(folder: &Path) -> Vec<Check> {
    let mut found = Vec::new();
    let mut look = |path: &Path, meta: &Metadata| {
        let mode = meta.mode() & 0o777;
        // To root's group nobody else belongs.
        let others = if meta.gid() == 0 { 0o002 } else { 0o022 };
        if mode & others != 0 {
            let cost = "others than root can change it, and with it the machine";
            found.push(wrong_mode(path, mode & 0o755, cost));
        }
    };
    if let Ok(meta) = fs::symlink_metadata(folder)
        && meta.is_dir()
    {
        look(folder, &meta);
    }
    each_file(folder, &mut look);
    found
}

fn wrong_mode(path: &Path, mode: u32, cost: &str) -> Check {
    let shown = path.display().to_string();
    let cure = format!("chmod {mode:o} {shown}");
    Check {
        mode: Some(mode),
        ..Check::ok("files", shown, "").but(Level::Warning, cost, cure)
    }
}

/// Every regular file in a folder and those below it; links are not followed.
fn each_file(folder: &Path, see: &mut impl FnMut(&Path, &Metadata)) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => each_file(&path, see),
            Ok(meta) if meta.is_file() => see(&path, &meta),
            _ => {}
        }
    }
}

/// Mends what is safe to mend; whether there was anything.
pub fn mend(check: &Check) -> io::Result<bool> {
    let Some(mode) = check.mode else {
        return Ok(false);
    };
    // What lies there now may be another thing than what was looked at: nothing
    // is followed, and nothing but a file or folder is touched.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = File::options()
        .read(true)
        .custom_flags(flags)
        .open(&check.what)?;
    let meta = file.metadata()?;
    if !(meta.is_file() || meta.is_dir()) {
        return Err(io::Error::other("it is no longer a file or folder"));
    }
    // Never more than there was.
    file.set_permissions(Permissions::from_mode(meta.mode() & mode))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_wherever_programs_write_them() {
        for (said, found) in [
            ("Docker version 26.1.5+dfsg1, build a72d7cd\n", "26.1.5"),
            ("v2.26.1\n", "2.26.1"),
            ("Version:      3.7.15\nCodename: x\n", "3.7.15"),
            ("mkfs.btrfs, part of btrfs-progs v6.2\n", "6.2"),
            ("mke2fs 1.47.0 (5-Feb-2023)\n", "1.47.0"),
            ("systemd 252 (252.39-1~deb12u1)\n", "252"),
            ("rclone v1.60.1-DEV\n", "1.60.1"),
        ] {
            assert_eq!(version(said.as_bytes()).as_deref(), Some(found), "{said}");
        }
        assert_eq!(version(b"no idea\n"), None);
    }

    #[test]
    fn a_kernel_that_lacks_everything_says_so() {
        let root = tempfile::tempdir().unwrap();
        let lacks: Vec<_> = kernel(root.path()).into_iter().map(|c| c.level).collect();
        assert_eq!(lacks.iter().filter(|l| **l == Level::Missing).count(), 4);
        assert_eq!(lacks[0], Level::Warning);
        // One that could be loaded is there.
        let make = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        make("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n");
        make(
            "lib/modules/6.1.0-18-amd64/modules.dep",
            "kernel/fs/btrfs/btrfs.ko.xz:\nkernel/drivers/md/dm-crypt.ko.xz: kernel/drivers/md/dm-mod.ko.xz\n",
        );
        make("sys/module/loop/x", "");
        make("sys/fs/cgroup/cgroup.controllers", "");
        let checks = kernel(root.path());
        assert!(checks.iter().all(|c| c.level == Level::Ok), "{checks:#?}");
        assert_eq!(checks[0].found, "6.1");
    }

    #[test]
    fn files_are_mended_by_taking_away_and_links_are_left_alone() {
        let root = tempfile::Builder::new().tempdir_in("/tmp").unwrap();
        let layout = Layout::new(root.path()).unwrap();
        let key = layout.keys().join("deep/shop");
        fs::create_dir_all(key.parent().unwrap()).unwrap();
        fs::write(&key, "x").unwrap();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        set(&key, 0o644);
        let outside = root.path().join("outside");
        fs::write(&outside, "x").unwrap();
        set(&outside, 0o666);
        std::os::unix::fs::symlink(&outside, layout.keys().join("link")).unwrap();
        let found = secret_files(&layout);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!(found[0].cure, format!("chmod 600 {}", key.display()));
        assert!(mend(&found[0]).unwrap());
        assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
        assert!(secret_files(&layout).is_empty());
        assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o777, 0o666);
        // A link that took its place in the meantime.
        fs::remove_file(&key).unwrap();
        std::os::unix::fs::symlink(&outside, &key).unwrap();
        assert!(mend(&found[0]).is_err());
        assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o777, 0o666);

        let desired = layout.desired();
        fs::create_dir_all(&desired).unwrap();
        set(&desired, 0o777);
        let found = manifest_files(&desired);
        assert_eq!(found[0].cure, format!("chmod 755 {}", desired.display()));
        assert!(mend(&found[0]).unwrap());
        assert!(manifest_files(&desired).is_empty());
    }
}
