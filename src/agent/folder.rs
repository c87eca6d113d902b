use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{Stream, unfold};
use notify::event::{AccessKind, AccessMode};
use notify::{Config, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Editors write, rename and chmod within half of this.
const QUIET: Duration = Duration::from_millis(60);
/// Who never stops writing is heard all the same.
const LATEST: Duration = Duration::from_secs(1);
/// Between two tries to watch what could not be watched.
const RETRY: Duration = Duration::from_secs(1);
/// Mounting and unmounting raise no event: the way is walked again this often.
const WALK: Duration = Duration::from_secs(5);
/// The kernel's own limit.
const MOST_LINKS: usize = 40;

/// Says when something beneath the folder may have changed: read all of it then.
///
/// The first item says that it is watched, so nothing that was written before can be
/// missed. The folder, or a folder above it, may be a link, may be replaced, and need
/// not exist; links inside it are not followed. Reading is no change. Never ends and
/// never fails: what cannot be watched is tried again.
pub fn changes(folder: PathBuf) -> impl Stream<Item = ()> + Send {
    unfold(Changes::new(folder, Watch::arm), |mut changes| async {
        changes.next().await;
        Some(((), changes))
    })
}

type Arm = fn(&Path) -> notify::Result<Watch>;

struct Changes {
    folder: PathBuf,
    arm: Arm,
    watch: Option<Watch>,
}

impl Changes {
    fn new(folder: PathBuf, arm: Arm) -> Self {
        Self {
            folder: std::path::absolute(&folder).unwrap_or(folder),
            arm,
            watch: None,
        }
    }

    /// Every change is told only after everything is watched anew: what happens
    /// before is then read, what happens after raises an event.
    async fn next(&mut self) {
        let changed = self.watch.is_some();
        let mut armed = match self.watch.take() {
            Some(watch) => {
                watch.changed().await;
                self.settle(watch).await
            }
            None => self.arm().await,
        };
        let mut failures = 0_u32;
        loop {
            match armed {
                Ok(watch) => {
                    self.watch = Some(watch);
                    return;
                }
                Err(error) if failures == 0 => {
                    tracing::warn!(folder = %self.folder.display(), %error, "cannot be watched yet");
                }
                Err(_) => {}
            }
            if changed {
                return;
            }
            failures = failures.saturating_add(1);
            sleep(RETRY).await;
            armed = self.arm().await;
        }
    }

    /// Waits until there was no change for a while, and watches everything anew in
    /// the meantime.
    async fn settle(&self, mut watch: Watch) -> notify::Result<Watch> {
        let latest = Instant::now() + LATEST;
        let soon = || latest.min(Instant::now() + QUIET / 2);
        loop {
            while Instant::now() < latest && watch.stirs(soon()).await {}
            let quiet = soon();
            watch = self.arm().await?;
            if Instant::now() >= latest || !watch.stirs(quiet).await {
                return Ok(watch);
            }
        }
    }

    async fn arm(&self) -> notify::Result<Watch> {
        let (arm, folder) = (self.arm, self.folder.clone());
        let armed = tokio::task::spawn_blocking(move || arm(&folder)).await;
        armed.unwrap_or_else(|error| Err(notify::Error::generic(&error.to_string())))
    }
}

/// A folder and the way to it, watched until the first change.
struct Watch {
    folder: PathBuf,
    way: Way,
    stirred: Arc<Notify>,
    // Watches until it is dropped.
    _watcher: RecommendedWatcher,
}

impl Watch {
    fn arm(folder: &Path) -> notify::Result<Self> {
        const TRIES: usize = 5;
        for _ in 0..TRIES {
            let way = Way::to(folder);
            let stirred = Arc::new(Notify::new());
            let watcher = watch(&way, &stirred);
            // Else it was changed before it was watched.
            if Way::to(folder) == way {
                return Ok(Self {
                    folder: folder.to_owned(),
                    way,
                    stirred,
                    _watcher: watcher?,
                });
            }
        }
        Err(notify::Error::generic("the way to it keeps changing"))
    }

    /// Waits for a change.
    async fn changed(&self) {
        while timeout(WALK, self.stirred.notified()).await.is_err() {
            let folder = self.folder.clone();
            let way = tokio::task::spawn_blocking(move || Way::to(&folder)).await;
            if way.is_ok_and(|way| way != self.way) {
                return;
            }
        }
    }

    /// Whether anything changes until then.
    async fn stirs(&self, until: Instant) -> bool {
        timeout_at(until, self.stirred.notified()).await.is_ok()
    }
}

fn watch(way: &Way, stirred: &Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let config = Config::default().with_follow_symlinks(false);
    let mut watcher = RecommendedWatcher::new(
        {
            let (way, stirred) = (way.clone(), Arc::clone(stirred));
            move |event: notify::Result<Event>| {
                if way.concerns(&event) {
                    stirred.notify_one();
                }
            }
        },
        config,
    )?;
    // Where its thread could not be started, all that follows would panic, and so
    // would its drop.
    if let Err(error) = watcher.configure(config) {
        std::mem::forget(watcher);
        return Err(error);
    }
    // From the top: a folder that is replaced later is seen by the one that holds it.
    for hop in &way.hops {
        if let Some(holder) = hop.path.parent() {
            watcher.watch(holder, RecursiveMode::NonRecursive)?;
        }
    }
    if let Some(real) = &way.real {
        watcher.watch(real, RecursiveMode::Recursive)?;
    }
    Ok(watcher)
}

/// How the kernel gets to a folder: every folder and link on the way, itself the last,
/// as far as there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Way {
    hops: Vec<Hop>,
    /// The folder itself, if it exists.
    real: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Hop {
    /// No part of it but the last is a link.
    path: PathBuf,
    /// Device and inode, if it exists.
    identity: Option<(u64, u64)>,
}

impl Way {
    fn to(folder: &Path) -> Self {
        let mut hops = Vec::new();
        let real = walk(folder, &mut hops);
        Self { hops, real }
    }

    fn concerns(&self, event: &notify::Result<Event>) -> bool {
        let Ok(event) = event else { return true };
        // The kernel's queue ran over.
        if event.need_rescan() {
            return true;
        }
        // What is written through a mapping raises nothing but this.
        let written = AccessKind::Close(AccessMode::Write);
        if matches!(event.kind, EventKind::Access(kind) if kind != written) {
            return false;
        }
        event.paths.iter().any(|path| {
            self.hops.iter().any(|hop| hop.path == *path)
                || self
                    .real
                    .as_ref()
                    .is_some_and(|real| path.starts_with(real))
        })
    }
}

fn walk(folder: &Path, hops: &mut Vec<Hop>) -> Option<PathBuf> {
    let mut at = PathBuf::from("/");
    // What is still to be walked, the next part last.
    let mut rest: Vec<OsString> = parts(folder);
    let mut links = 0;
    while let Some(part) = rest.pop() {
        if part == "/" {
            at = PathBuf::from("/");
            continue;
        }
        if part == ".." {
            at.pop();
            continue;
        }
        let path = at.join(&part);
        let found = fs::symlink_metadata(&path).ok();
        hops.push(Hop {
            path: path.clone(),
            identity: found.as_ref().map(|found| (found.dev(), found.ino())),
        });
        let kind = found?.file_type();
        if kind.is_symlink() {
            links += 1;
            if links > MOST_LINKS {
                return None;
            }
            rest.extend(parts(&fs::read_link(&path).ok()?));
        } else if kind.is_dir() {
            at = path;
        } else {
            return None;
        }
    }
    Some(at)
}

fn parts(path: &Path) -> Vec<OsString> {
    path.components()
        .filter(|part| *part != Component::CurDir)
        .map(|part| part.as_os_str().to_owned())
        .rev()
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::FutureExt as _;
    use notify::event::Flag;

    use super::*;

    #[tokio::test]
    async fn what_cannot_be_watched_is_tried_every_second_and_told_when_it_can() {
        static TRIES: AtomicU32 = AtomicU32::new(0);
        fn arm(folder: &Path) -> notify::Result<Watch> {
            match TRIES.fetch_add(1, Ordering::SeqCst) {
                0 | 3 => Err(notify::Error::new(notify::ErrorKind::MaxFilesWatch)),
                1 => panic!("not even a watcher"),
                _ => Watch::arm(folder),
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let mut changes = Changes::new(folder.path().to_owned(), arm);
        let began = Instant::now();
        changes.next().await;
        assert!(began.elapsed() >= 2 * RETRY);
        assert_eq!(TRIES.load(Ordering::SeqCst), 3);

        // A change is told even if what follows cannot be watched, and then again.
        fs::write(folder.path().join("a"), "").unwrap();
        changes.next().await;
        assert_eq!(TRIES.load(Ordering::SeqCst), 4);
        changes.next().await;
        assert_eq!(TRIES.load(Ordering::SeqCst), 5);
        assert!(changes.next().now_or_never().is_none());
    }

    #[test]
    fn an_overflow_and_an_error_are_changes_and_reading_is_none() {
        let way = Way::to(Path::new("/nonexistent/folder"));
        let event = |kind| Ok(Event::new(kind).add_path("/nonexistent".into()));
        let overflow = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert!(way.concerns(&Ok(overflow)));
        assert!(way.concerns(&Err(notify::Error::generic("limit"))));
        assert!(way.concerns(&event(EventKind::Any)));
        let written = AccessKind::Close(AccessMode::Write);
        assert!(way.concerns(&event(EventKind::Access(written))));
        for read in [
            AccessKind::Any,
            AccessKind::Read,
            AccessKind::Open(AccessMode::Any),
            AccessKind::Close(AccessMode::Read),
        ] {
            assert!(!way.concerns(&event(EventKind::Access(read))));
        }
        // A neighbour of a folder on the way.
        let other = Event::new(EventKind::Any).add_path("/other".into());
        assert!(!way.concerns(&Ok(other)));
    }

    #[test]
    fn the_way_goes_through_every_link_and_ends_where_nothing_is() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, root.join(at)).unwrap();
        fs::create_dir_all(root.join("trees/1/m")).unwrap();
        link("trees/../trees/1", "current");
        link("loop", "loop");
        link(root.to_str().unwrap(), "trees/1/m/back");
        let seen = |path: &str| {
            let way = Way::to(&root.join(path));
            let hops = way.hops.iter();
            let beneath = hops.filter_map(|hop| hop.path.strip_prefix(&root).ok());
            let beneath = beneath.filter(|path| *path != Path::new(""));
            let hops: Vec<String> = beneath.map(|path| path.display().to_string()).collect();
            let real = way.real;
            (
                hops.join(" "),
                real.map(|real| real.strip_prefix(&root).unwrap().to_owned()),
            )
        };
        assert_eq!(
            seen("current/m"),
            (
                "current trees trees trees/1 trees/1/m".into(),
                Some("trees/1/m".into())
            )
        );
        assert_eq!(
            seen("current/m/back/x/y").0,
            "current trees trees trees/1 trees/1/m trees/1/m/back x"
        );
        assert_eq!(seen("current/m/back/x/y").1, None);
        assert_eq!(seen("loop").1, None);
        assert_eq!(seen("./trees/./1/..").1, Some("trees".into()));
    }
}
