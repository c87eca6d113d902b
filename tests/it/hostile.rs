//! What hostile manifests cost, and what gets past a folder's own tree.

use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use renet::manifest::load;

const CLAIM: &str = "apiVersion: renet/v1\nkind: Machine\nmetadata: { name: m }\nspec: {}\n";

/// What a run of `renet validate` took of the processor and of memory (KiB).
#[expect(clippy::zombie_processes, reason = "wait4 waits for it")]
fn cost(dir: &Path) -> (i32, Duration, i64) {
    let child = Command::new(env!("CARGO_BIN_EXE_renet"))
        .args(["validate", "-f"])
        .arg(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let pid = i32::try_from(child.id()).unwrap();
    // SAFETY: the child is ours and nobody else waits for it; both pointers are valid
    // for writes, and the kernel fills them.
    let (waited, usage) = unsafe {
        let waited = libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr());
        (waited, usage.assume_init())
    };
    assert_eq!(waited, pid);
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    let used = time(usage.ru_utime) + time(usage.ru_stime);
    (libc::WEXITSTATUS(status), used, usage.ru_maxrss)
}

#[test]
fn l5_hostile_files_are_refused_soon_and_in_little_memory() {
    /// Of the processor, by a binary that is hardly optimised: a release takes less.
    const MOST: Duration = Duration::from_millis(100);
    const MEMORY: i64 = 50 << 10;
    let all = |text: String| move |path: &Path| fs::write(path, &text).unwrap();
    let bomb = {
        let level = |name: char, of: char| {
            format!(
                "{name}: &{name} [{}]\n",
                vec![format!("*{of}"); 10].join(", ")
            )
        };
        let levels: String = "bcdefghi"
            .chars()
            .zip("abcdefgh".chars())
            .map(|(name, of)| level(name, of))
            .collect();
        let tail = "*i, ".repeat(240_000);
        format!("{CLAIM}a: &a [x, x, x, x, x, x, x, x, x, x]\n{levels}z: [{tail}]\n")
    };
    assert!((900_000..1 << 20).contains(&bomb.len()), "{}", bomb.len());
    let long_alias = format!(
        "{CLAIM}a: &a {}\nb: [{}]\n",
        "x".repeat(500_000),
        "*a, ".repeat(100_000)
    );
    type Make<'a> = Box<dyn Fn(&Path) + 'a>;
    let cases: Vec<(&str, Make)> = vec![
        ("alias bomb of 1 MB", Box::new(all(bomb))),
        ("aliases of a long text", Box::new(all(long_alias))),
        (
            "65 deep",
            Box::new(all(format!(
                "{CLAIM}x: {}{}\n",
                "[".repeat(64),
                "]".repeat(64)
            ))),
        ),
        (
            "500,000 deep",
            Box::new(all(format!("{CLAIM}x: {}", "[".repeat(500_000)))),
        ),
        (
            "deep mappings",
            Box::new(all(format!("{CLAIM}x: {}", "{a: ".repeat(200_000)))),
        ),
        (
            "deep keys",
            Box::new(all(format!("{CLAIM}{}", "? ".repeat(500_000)))),
        ),
        (
            "deep blocks",
            Box::new(all(format!("{CLAIM}x:\n{}", "- ".repeat(500_000)))),
        ),
        (
            "keys",
            Box::new(all(
                (0..90_000).fold(CLAIM.to_owned(), |text, n| text + &format!("k{n}: 1\n"))
            )),
        ),
        (
            "one key often",
            Box::new(all(format!("{CLAIM}{}", "k: 1\n".repeat(9_000)))),
        ),
        (
            "fields nearly right",
            Box::new(all((0..9_000).fold(CLAIM.to_owned(), |text, n| {
                text + &format!("environmenx{n}: 1\n")
            }))),
        ),
        (
            "a long line",
            Box::new(all(format!("{CLAIM}x: '{}\n", "y".repeat(1_000_000)))),
        ),
        (
            "50 MB",
            Box::new(|path| File::create(path).unwrap().set_len(50 << 20).unwrap()),
        ),
        (
            "a million documents",
            Box::new(all(format!("{CLAIM}{}", "---\n".repeat(1_000_000)))),
        ),
        (
            "250,000 documents",
            Box::new(all(format!("{CLAIM}{}", "---\n".repeat(250_000)))),
        ),
        (
            "no UTF-8",
            Box::new(|path| fs::write(path, [CLAIM.as_bytes(), b"\xff\xfe"].concat()).unwrap()),
        ),
        (
            "a FIFO",
            Box::new(|path| nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap()),
        ),
        (
            "a device",
            Box::new(|path| mknod(path, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 5)).unwrap()),
        ),
        (
            "a link",
            Box::new(|path| symlink("/dev/zero", path).unwrap()),
        ),
        (
            "a link on the way",
            Box::new(|path| symlink("/dev", path.with_file_name("dev")).unwrap()),
        ),
    ];
    for (name, make) in cases {
        let is_device = name == "a device";
        if is_device && !nix::unistd::geteuid().is_root() {
            continue; // Only root makes devices.
        }
        let dir = tempfile::tempdir().unwrap();
        make(&dir.path().join("a.yaml"));
        let (code, used, memory) = cost(dir.path());
        println!("{name}: {used:?}, {} MiB", memory >> 10);
        assert_eq!(code, 2, "{name}");
        assert!(used < MOST, "{name}: {used:?}");
        assert!(memory < MEMORY, "{name}: {memory} KiB");
    }
}

#[test]
fn what_is_allowed_to_be_deep_needs_little_stack() {
    let text = format!("{CLAIM}x: {}{}\n", "[".repeat(63), "]".repeat(63));
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), text).unwrap();
    let folder = dir.path().to_owned();
    let load = move || load(&folder);
    let small = std::thread::Builder::new().stack_size(256 << 10);
    let folder = small.spawn(load).unwrap().join().unwrap();
    assert_eq!(folder.problems[0].message, "unknown field `x`");
}

#[test]
fn l4_nothing_is_read_through_a_link_that_is_swapped_in() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    for (folder, service) in [("desired/web", "inside"), ("outside", "outside")] {
        fs::create_dir_all(at(folder).join("src")).unwrap();
        let compose = format!("services: {{ {service}: {{ build: ./src }} }}\n");
        fs::write(at(folder).join("compose.yml"), compose).unwrap();
        fs::write(at(folder).join("src/Dockerfile"), service).unwrap();
    }
    fs::write(
        at("desired/a.yaml"),
        "apiVersion: renet/v1\nkind: Repository\nmetadata: { name: shop }\n\
         spec: { size: 1G, encryption: none }\n---\n\
         apiVersion: renet/v1\nkind: Service\nmetadata: { name: web }\n\
         spec: { repository: shop, compose: { file: web/compose.yml } }\n",
    )
    .unwrap();
    symlink(at("outside"), at("link")).unwrap();
    symlink(at("outside/compose.yml"), at("link.yml")).unwrap();
    symlink(at("outside/src/Dockerfile"), at("link.docker")).unwrap();
    let swaps = [
        ("link", "desired/web"),
        ("link.yml", "desired/web/compose.yml"),
        ("link.docker", "desired/web/src/Dockerfile"),
    ];
    for (link, real) in swaps {
        let (link, real) = (at(link), at(real));
        let ended = AtomicBool::new(false);
        let (mut read, mut refused) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    let swap = || {
                        renameat2(
                            AT_FDCWD,
                            &link,
                            AT_FDCWD,
                            &real,
                            RenameFlags::RENAME_EXCHANGE,
                        )
                    };
                    swap().unwrap();
                    std::thread::sleep(Duration::from_micros(20));
                    swap().unwrap();
                    std::thread::sleep(Duration::from_micros(20));
                }
            });
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(60) && (read < 200 || refused < 200) {
                let folder = load(&at("desired"));
                read += folder.manifests.services.len();
                refused += usize::from(!folder.problems.is_empty());
                for service in folder.manifests.services.values() {
                    assert_eq!(service.services, ["inside"]);
                    for file in service.files.files().values() {
                        assert!(!file.bytes().windows(7).any(|part| part == b"outside"));
                    }
                }
            }
            ended.store(true, Ordering::Relaxed);
        });
        assert!(read > 0 && refused > 0, "{read} read, {refused} refused");
    }
}
