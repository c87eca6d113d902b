//! L6 and L22 on a real machine: whoever works on one repository panics, and the
//! others hardly notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::stream;
use renet::agent::{Agent, Board, Policy, Sync};
use renet::execute::{Busy, FileLocks, Held, Lock, Locking, Mode};
use renet::host::linux::LinuxHost;
use renet::manifest;
use renet::model::{Guid, Layout};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::lab::{Lab, page};

const CURSED: &str = "5d0e7c1a-0000-4000-8000-000000000001";
const GOOD: [&str; 4] = ["one", "two", "three", "four"];

/// Real locks: with a curse whoever asks for one repository's a second time panics,
/// in the middle of its work and with everything of it running.
struct Cursed {
    locks: FileLocks,
    guid: Option<Guid>,
    asked: AtomicUsize,
}

impl Locking for Cursed {
    async fn lock(&self, lock: Lock, mode: Mode) -> Result<Held, Busy> {
        if self.guid.map(Lock::Repository) == Some(lock) {
            let before = self.asked.fetch_add(1, Ordering::Relaxed);
            assert!(before == 0, "cursed");
        }
        self.locks.lock(lock, mode).await
    }
}

/// A cold start of the good ones and a fifth, with and without the curse on that:
/// how long until the good ones serve, and what crashed.
fn cold(name: &str, cursed: bool) -> Option<(Duration, Vec<String>)> {
    let lab = Lab::empty(name)?;
    lab.machine("1G");
    for name in GOOD {
        lab.repository(name, "");
        lab.service(name, name);
        lab.route(name, name);
    }
    // By its name the first of all.
    lab.repository("bad", &format!("  guid: {CURSED}\n"));
    lab.service("bad", "bad");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let found = runtime.block_on(async {
        let layout = Layout::new(&lab.root).unwrap();
        let (root, binary) = (layout.clone(), env!("CARGO_BIN_EXE_renet"));
        let desired = lab.desired();
        let board = Arc::new(Board::default());
        let locks = Cursed {
            locks: FileLocks::new(layout.locks(), Duration::from_secs(1), |_, _| ()),
            guid: cursed.then(|| CURSED.parse().unwrap()),
            asked: AtomicUsize::new(0),
        };
        let agent = Agent::new(
            move |manifests| LinuxHost::new(root.clone(), manifests.backing(), binary.into()),
            locks,
            layout,
            move || manifest::load(&desired),
            Policy::default(),
            board.clone(),
        );
        let cancel = CancellationToken::new();
        let (_requests, asked) = mpsc::channel(1);
        let began = Instant::now();
        let task = tokio::spawn(Arc::new(agent).run(stream::pending(), asked, cancel.clone()));
        let until = async |what: &str, so: &dyn Fn() -> bool| {
            while !so() {
                let status = board.status();
                assert!(began.elapsed().as_secs() < 60, "{what}: {status:#?}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let wanted = GOOD.map(|name| format!("service/{name}/{name}"));
        let well = || {
            let objects = board.status().objects;
            let row = |name: &String| objects.get(name);
            let mut rows = wanted.iter().map(row);
            rows.all(|row| row.is_some_and(|row| row.sync == Sync::Synced))
        };
        until("the good ones", &well).await;
        let serve = || GOOD.iter().for_each(|name| assert_eq!(page(name), *name));
        tokio::task::spawn_blocking(serve).await.unwrap();
        let took = began.elapsed();
        until("the fifth", &|| {
            let row = board.status().objects.remove("repository/bad");
            row.is_some_and(|row| match cursed {
                true => row.message.contains("set aside"),
                false => row.sync == Sync::Synced,
            })
        })
        .await;
        cancel.cancel();
        task.await.unwrap();
        let events = board.take().1.into_iter();
        let crashes = events.filter(|event| event.what == "Crashed");
        (took, crashes.map(|event| event.object).collect())
    });
    lab.nothing_leaked(GOOD.len() + 1);
    // Whoever works on it without a curse goes on from there.
    lab.expect(0, &["apply"]);
    lab.uninstall();
    Some(found)
}

#[test]
fn l22_one_whose_worker_panics_is_set_aside_and_the_others_come_up_meanwhile() {
    let Some((alone, crashes)) = cold("well", false) else {
        return;
    };
    assert!(crashes.is_empty(), "{crashes:?}");
    let Some((beside, crashes)) = cold("cursed", true) else {
        return;
    };
    assert_eq!(crashes, ["repository/bad", "repository/bad"]);
    println!("beside a good one: {alone:?}; beside one that crashes: {beside:?}");
    // Less than a tenth, but for what else the machine does meanwhile.
    assert!(
        beside < alone.mul_f64(1.5),
        "{beside:?} instead of {alone:?}"
    );
}
