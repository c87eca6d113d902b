//! What holds for the controller whatever happens, at any moment: drawn at random.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use renet::agent::{Handle, Next, run};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

#[derive(Clone, Copy, Debug)]
enum Op {
    Touch(u8),
    Revise(u8),
    Sleep(Duration),
}

/// What one run does.
#[derive(Clone, Copy, Debug)]
struct Script {
    takes: Duration,
    /// Whether it ends when told to.
    heeds: bool,
    ends: Ends,
}

#[derive(Clone, Copy, Debug)]
enum Ends {
    With(Next),
    Panics,
    PanicsAtOnce,
}

/// The longest that a run takes.
const MOST: u64 = 20_000;

fn millis(most: u64) -> impl Strategy<Value = Duration> {
    prop_oneof![Just(0), 0..10_u64, 0..most].prop_map(Duration::from_millis)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (0..4_u8).prop_map(Op::Touch),
        2 => (0..4_u8).prop_map(Op::Revise),
        3 => millis(30_000).prop_map(Op::Sleep),
    ]
}

fn script() -> impl Strategy<Value = Script> {
    let ends = prop_oneof![
        3 => Just(Ends::With(Next::Settled)),
        2 => (1_000..60_000_u64).prop_map(|ms| Ends::With(Next::After(Duration::from_millis(ms)))),
        2 => Just(Ends::With(Next::Failed)),
        2 => Just(Ends::Panics),
        1 => Just(Ends::PanicsAtOnce),
    ];
    (millis(MOST), any::<bool>(), ends).prop_map(|(takes, heeds, ends)| Script {
        takes,
        heeds,
        ends,
    })
}

/// What was seen of one key.
#[derive(Debug, Default)]
struct Seen {
    revision: u32,
    running: bool,
    /// The revision and time of each run's begin.
    runs: Vec<(u32, Instant)>,
    touched: Option<Instant>,
    aside: Option<Instant>,
}

#[derive(Default)]
struct World {
    keys: BTreeMap<u8, Seen>,
    wrong: Vec<String>,
}

impl World {
    fn begins(&mut self, key: u8) {
        let seen = self.keys.entry(key).or_default();
        if seen.running {
            self.wrong.push(format!("{key} runs twice at once"));
        }
        if seen.aside.is_some() {
            self.wrong.push(format!("{key} runs though set aside"));
        }
        seen.running = true;
        seen.runs.push((seen.revision, Instant::now()));
    }
}

/// Notes the end of a run, however it ends.
struct Running(Arc<Mutex<World>>, u8);

impl Drop for Running {
    fn drop(&mut self) {
        self.0
            .lock()
            .unwrap()
            .keys
            .entry(self.1)
            .or_default()
            .running = false;
    }
}

async fn history(ops: Vec<Op>, scripts: Vec<Script>) -> Vec<String> {
    let world = Arc::new(Mutex::new(World::default()));
    let handle = Handle::new(|| 0.9);
    let cancel = CancellationToken::new();
    let driver = tokio::spawn({
        let (world, handle, cancel) = (Arc::clone(&world), handle.clone(), cancel.clone());
        let count = Mutex::new(0);
        let told = Arc::clone(&world);
        let worker = move |key: u8, token: CancellationToken| {
            let running = Running(Arc::clone(&world), key);
            world.lock().unwrap().begins(key);
            let script = {
                let mut count = count.lock().unwrap();
                *count += 1;
                scripts[*count % scripts.len()]
            };
            if matches!(script.ends, Ends::PanicsAtOnce) {
                resume_unwind(Box::new("at once"));
            }
            async move {
                let _running = running;
                if script.heeds {
                    token.run_until_cancelled(sleep(script.takes)).await;
                } else {
                    sleep(script.takes).await;
                }
                match script.ends {
                    Ends::With(next) => next,
                    Ends::Panics | Ends::PanicsAtOnce => resume_unwind(Box::new("later")),
                }
            }
        };
        let on_panic = move |key: &u8, _, count| {
            let mut world = told.lock().unwrap();
            match count {
                0 | 1 => {}
                2 => world.keys.entry(*key).or_default().aside = Some(Instant::now()),
                _ => world.wrong.push(format!("{key} panicked {count} times")),
            }
        };
        async move { run(&handle, worker, on_panic, cancel).await }
    });
    let mut aside_at_touch = BTreeSet::new();
    for op in ops {
        match op {
            Op::Touch(key) => {
                aside_at_touch.remove(&key);
                if handle.set_aside().contains(&key) {
                    aside_at_touch.insert(key);
                }
                let mut world = world.lock().unwrap();
                world.keys.entry(key).or_default().touched = Some(Instant::now());
                handle.touch(key);
            }
            Op::Revise(key) => {
                let mut world = world.lock().unwrap();
                let seen = world.keys.entry(key).or_default();
                seen.revision += 1;
                seen.aside = None;
                handle.revise(key);
            }
            Op::Sleep(time) => sleep(time).await,
        }
    }
    // What runs deaf may have to end first; nothing waits longer than that.
    sleep(Duration::from_millis(MOST + 100)).await;
    {
        let mut world = world.lock().unwrap();
        let World { keys, wrong } = &mut *world;
        for (key, seen) in keys {
            let last = seen.runs.last();
            if last.is_none_or(|(revision, _)| *revision != seen.revision) {
                wrong.push(format!("the last revision of {key} is not picked up"));
            }
            let excused = aside_at_touch.contains(key) || seen.aside >= seen.touched;
            if !excused && last.map(|(_, at)| *at) < seen.touched {
                wrong.push(format!("the last touch of {key} is not heard"));
            }
        }
    }
    sleep(Duration::from_secs(900)).await;
    let cancelled = Instant::now();
    cancel.cancel();
    driver.await.unwrap();
    let mut world = world.lock().unwrap();
    if cancelled.elapsed() > Duration::from_millis(MOST + 100) {
        world.wrong.push("it did not end".to_owned());
    }
    if world.keys.values().any(|seen| seen.running) {
        world.wrong.push("a worker outlived the driver".to_owned());
    }
    std::mem::take(&mut world.wrong)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_key_runs_twice_at_once_and_everything_said_is_heard(
        ops in prop::collection::vec(op(), 0..60),
        scripts in prop::collection::vec(script(), 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let wrong = runtime.block_on(history(ops, scripts));
        prop_assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
