//! What of a real folder wakes who watches it, and what does not.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use renet::agent::changes;
use tokio::time::timeout;

/// Longer than an event takes on a slow machine, and shorter than the five seconds
/// after which the way to the folder is walked again without any.
const SOON: Duration = Duration::from_secs(4);
/// Longer than that walk takes to come.
const LONG: Duration = Duration::from_secs(20);
/// Longer than what belongs together takes.
const QUIET: Duration = Duration::from_millis(300);
/// Long enough for anything that would wake it.
const NOTHING: Duration = Duration::from_millis(500);

struct Watched {
    changes: Pin<Box<dyn Stream<Item = ()> + Send>>,
}

impl Watched {
    async fn new(folder: impl Into<PathBuf>) -> Self {
        let mut this = Self {
            changes: Box::pin(changes(folder.into())),
        };
        this.wakes().await;
        this.sleeps().await;
        this
    }

    async fn wakes(&mut self) {
        let woken = timeout(LONG, self.changes.next()).await;
        woken.expect("nothing woke it").expect("never ends");
    }

    async fn sleeps(&mut self) {
        let woken = timeout(NOTHING, self.changes.next()).await;
        assert!(woken.is_err(), "it was woken by nothing");
    }

    /// Wakes soon, at least once, and sleeps again; how often it woke.
    async fn wakes_for(&mut self, what: &str) -> usize {
        let mut count = 0;
        let woken = timeout(SOON, self.changes.next()).await;
        woken.unwrap_or_else(|_| panic!("slept through: {what}"));
        while timeout(QUIET, self.changes.next()).await.is_ok() {
            count += 1;
            assert!(count < 100, "wakes without end after: {what}");
        }
        count + 1
    }
}

fn root() -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("manifests");
    fs::create_dir(&folder).unwrap();
    (root, folder)
}

/// Writes beneath the folder wake, so it is this one that is watched.
async fn is_watched(watched: &mut Watched, folder: &Path) {
    fs::write(folder.join("probe.yaml"), "a").unwrap();
    watched.wakes_for("a write into it").await;
    fs::write(folder.join("probe.yaml"), "b").unwrap();
    watched.wakes_for("a second write into it").await;
}

#[tokio::test]
async fn every_way_to_change_a_file_wakes() {
    let (_root, folder) = root();
    let mut watched = Watched::new(&folder).await;
    let file = folder.join("shop.yaml");
    fs::write(&file, "a").unwrap();
    watched.wakes_for("create").await;
    fs::write(&file, "b").unwrap();
    watched.wakes_for("write").await;
    fs::write(folder.join(".shop.swp"), "c").unwrap();
    fs::rename(folder.join(".shop.swp"), &file).unwrap();
    watched.wakes_for("rename over").await;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    watched.wakes_for("chmod").await;
    fs::rename(&file, folder.join("other.yaml")).unwrap();
    watched.wakes_for("rename").await;
    fs::remove_file(folder.join("other.yaml")).unwrap();
    watched.wakes_for("delete").await;
    symlink("nowhere", &file).unwrap();
    watched.wakes_for("a link").await;
}

#[tokio::test]
async fn new_folders_are_watched_however_deep() {
    let (root, folder) = root();
    let mut watched = Watched::new(&folder).await;
    let deep = folder.join("a/b/c/d");
    fs::create_dir_all(&deep).unwrap();
    watched.wakes_for("nested folders").await;
    is_watched(&mut watched, &deep).await;

    fs::create_dir(root.path().join("moved")).unwrap();
    watched.sleeps().await;
    fs::rename(root.path().join("moved"), deep.join("moved")).unwrap();
    watched.wakes_for("a folder moved in").await;
    is_watched(&mut watched, &deep.join("moved")).await;

    fs::rename(deep.join("moved"), root.path().join("out")).unwrap();
    watched.wakes_for("a folder moved out").await;
    fs::write(root.path().join("out/late"), "").unwrap();
    watched.sleeps().await;
    fs::remove_dir_all(folder.join("a")).unwrap();
    watched.wakes_for("a tree removed").await;
}

#[tokio::test]
async fn the_folder_put_in_the_place_of_the_old_one_is_watched() {
    let (root, folder) = root();
    let mut watched = Watched::new(&folder).await;
    let new = root.path().join("new");
    fs::create_dir(&new).unwrap();
    fs::write(new.join("shop.yaml"), "").unwrap();
    watched.sleeps().await;
    fs::rename(&folder, root.path().join("old")).unwrap();
    fs::rename(&new, &folder).unwrap();
    watched.wakes_for("the swap").await;
    is_watched(&mut watched, &folder).await;
    fs::write(root.path().join("old/late"), "").unwrap();
    watched.sleeps().await;

    // The same one level up.
    let above = tempfile::tempdir_in(root.path()).unwrap();
    let (a, folder) = (above.path().join("a"), above.path().join("a/manifests"));
    fs::create_dir_all(&folder).unwrap();
    let mut watched = Watched::new(&folder).await;
    fs::rename(&a, above.path().join("b")).unwrap();
    watched.wakes_for("the folder above moved away").await;
    fs::create_dir_all(&folder).unwrap();
    watched.wakes_for("it was made again").await;
    is_watched(&mut watched, &folder).await;
}

#[tokio::test]
async fn a_swapped_link_is_followed_wherever_on_the_way_it_is() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    for tree in ["1", "2"] {
        fs::create_dir_all(at("trees").join(tree).join("manifests")).unwrap();
    }
    let swap = |to: &str| {
        symlink(to, at("next")).unwrap();
        fs::rename(at("next"), at("current")).unwrap();
    };
    swap("trees/1");
    symlink(at("current/manifests"), at("folder")).unwrap();
    for folder in ["current", "current/manifests", "folder"] {
        let mut watched = Watched::new(at(folder)).await;
        is_watched(&mut watched, &at("trees/1/manifests")).await;
        swap("trees/2");
        watched.wakes_for("the swap").await;
        is_watched(&mut watched, &at("trees/2/manifests")).await;
        fs::write(at("trees/1/manifests/late"), "").unwrap();
        watched.sleeps().await;
        fs::remove_file(at("current")).unwrap();
        watched.wakes_for("the link removed").await;
        swap("trees/1");
        watched.wakes_for("the link made again").await;
        is_watched(&mut watched, &at("trees/1/manifests")).await;
    }
}

#[tokio::test]
async fn a_folder_that_is_gone_or_not_there_yet_is_waited_for() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("a/b/manifests");
    let mut watched = Watched::new(&folder).await;
    fs::write(root.path().join("other"), "").unwrap();
    watched.sleeps().await;
    for made in ["a", "a/b", "a/b/manifests"] {
        fs::create_dir(root.path().join(made)).unwrap();
        watched.wakes_for(made).await;
    }
    is_watched(&mut watched, &folder).await;
    fs::remove_dir_all(&folder).unwrap();
    watched.wakes_for("the folder removed").await;
    fs::write(&folder, "a file").unwrap();
    watched.wakes_for("a file in its place").await;
    fs::remove_file(&folder).unwrap();
    watched.wakes_for("the file removed").await;
    fs::create_dir(&folder).unwrap();
    watched.wakes_for("the folder made again").await;
    is_watched(&mut watched, &folder).await;
    fs::remove_dir_all(root.path().join("a")).unwrap();
    watched.wakes_for("all of it removed").await;
    fs::create_dir_all(&folder).unwrap();
    watched.wakes_for("all of it made again").await;
    is_watched(&mut watched, &folder).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_a_thousand_writes_wakes_a_few_times() {
    let (_root, folder) = root();
    let mut watched = Watched::new(&folder).await;
    let writer = std::thread::spawn(move || {
        for n in 0..1000 {
            fs::write(folder.join(format!("{}.yaml", n % 50)), n.to_string()).unwrap();
        }
    });
    let count = watched.wakes_for("a burst").await;
    writer.join().unwrap();
    assert!(count <= 10, "{count}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_stops_writing_is_heard_all_the_same() {
    let (_root, folder) = root();
    let mut watched = Watched::new(&folder).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (stop, file) = (Arc::clone(&stop), folder.join("shop.yaml"));
        move || {
            while !stop.load(Ordering::SeqCst) {
                fs::write(&file, "a").unwrap();
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    });
    watched.wakes().await;
    watched.wakes().await;
    stop.store(true, Ordering::SeqCst);
    writer.join().unwrap();
    fs::write(folder.join("shop.yaml"), "b").unwrap();
    watched.wakes_for("the last write").await;
}

#[tokio::test]
async fn neither_reading_nor_neighbours_wake_anybody() {
    let (root, folder) = root();
    fs::create_dir(folder.join("sub")).unwrap();
    fs::write(folder.join("sub/shop.yaml"), "a").unwrap();
    let mut watched = Watched::new(&folder).await;
    for _ in 0..100 {
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        assert_eq!(fs::read(folder.join("sub/shop.yaml")).unwrap(), b"a");
        fs::metadata(folder.join("sub")).unwrap();
    }
    watched.sleeps().await;
    fs::write(root.path().join("neighbour"), "").unwrap();
    fs::create_dir_all(root.path().join("next/to/it")).unwrap();
    fs::remove_file(root.path().join("neighbour")).unwrap();
    watched.sleeps().await;
    is_watched(&mut watched, &folder).await;
}

#[tokio::test]
async fn what_is_written_between_two_looks_is_told_at_the_next() {
    let (_root, folder) = root();
    let mut watched = Watched::new(&folder).await;
    fs::write(folder.join("shop.yaml"), "a").unwrap();
    // Nobody waits meanwhile, and one wait was given up.
    tokio::time::sleep(QUIET).await;
    let _ = timeout(Duration::from_millis(1), watched.changes.next()).await;
    watched.wakes_for("what was written").await;
}

#[tokio::test]
async fn a_mount_over_the_folder_is_noticed() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};

    struct Mounted(PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        }
    }

    let (_root, folder) = root();
    let mut watched = Watched::new(&folder).await;
    let none = None::<&str>;
    if mount(none, &folder, Some("tmpfs"), MsFlags::empty(), none).is_err() {
        eprintln!("SKIP(mount): a mount over a watched folder");
        return;
    }
    let mounted = Mounted(folder.clone());
    watched.wakes().await;
    is_watched(&mut watched, &folder).await;
    drop(mounted);
    watched.wakes().await;
    is_watched(&mut watched, &folder).await;
}

/// The highest number in any file beneath the folder.
fn newest(folder: &Path) -> u32 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let numbers = entries.flatten().map(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return newest(&path);
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        text.parse().unwrap_or_default()
    });
    numbers.max().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_written_at_any_moment_is_read_in_the_end() {
    let (root, folder) = root();
    let (read, mut newest_read) = tokio::sync::watch::channel(0);
    let reader = tokio::spawn({
        let folder = folder.clone();
        async move {
            let mut changes = std::pin::pin!(changes(folder.clone()));
            while changes.next().await.is_some() {
                read.send_replace(newest(&folder));
            }
        }
    });
    let pause = |n: u32, most: u32| {
        let micros = n.wrapping_mul(2_654_435_761) % (most * 1000);
        std::thread::sleep(Duration::from_micros(micros.into()));
    };
    for n in 1..=100 {
        let place = match n % 5 {
            0 => {
                let new = root.path().join("new");
                fs::create_dir(&new).unwrap();
                fs::rename(&folder, root.path().join(format!("old-{n}"))).unwrap();
                fs::rename(&new, &folder).unwrap();
                folder.clone()
            }
            1 => {
                fs::remove_dir_all(&folder).unwrap();
                pause(n + 7, 120);
                fs::create_dir(&folder).unwrap();
                folder.clone()
            }
            2 => folder.clone(),
            _ => {
                let deep = folder.join(format!("{n}/a/b"));
                fs::create_dir_all(&deep).unwrap();
                deep
            }
        };
        pause(n, 2);
        fs::write(place.join("version"), n.to_string()).unwrap();
        pause(n, 130);
        if n % 4 == 0 {
            let seen = timeout(LONG, newest_read.wait_for(|seen| *seen == n)).await;
            seen.unwrap_or_else(|_| panic!("{n} was never read"))
                .unwrap();
        }
    }
    reader.abort();
}
