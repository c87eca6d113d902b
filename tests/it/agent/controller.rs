//! The controller under a clock that stands still: hours pass in no time, and what
//! is measured is exact.

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use renet::agent::{Handle, Next, run};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A driver at work; what it told.
struct Driver {
    handle: Handle<u8>,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    panics: Arc<Mutex<Vec<(u8, String, u32)>>>,
}

impl Driver {
    fn new<F>(worker: impl Fn(u8, CancellationToken) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Next> + Send + 'static,
    {
        let handle = Handle::new(|| 0.5);
        let cancel = CancellationToken::new();
        let panics = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn({
            let (handle, cancel, panics) = (handle.clone(), cancel.clone(), Arc::clone(&panics));
            async move {
                let told = |key: &u8, message, count| {
                    panics.lock().unwrap().push((*key, message, count));
                };
                run(&handle, worker, told, cancel).await;
            }
        });
        Self {
            handle,
            cancel,
            task,
            panics,
        }
    }

    async fn end(self) -> Vec<(u8, String, u32)> {
        self.cancel.cancel();
        self.task.await.unwrap();
        Arc::try_unwrap(self.panics).unwrap().into_inner().unwrap()
    }
}

/// What workers note: the key and how long after the beginning.
#[derive(Clone)]
struct Notes {
    began: Instant,
    notes: Arc<Mutex<Vec<(u8, Duration)>>>,
}

impl Notes {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            notes: Arc::default(),
        }
    }

    /// How often the key was noted before, then notes it.
    fn note(&self, key: u8) -> usize {
        let mut notes = self.notes.lock().unwrap();
        notes.push((key, self.began.elapsed()));
        notes.iter().filter(|(of, _)| *of == key).count() - 1
    }

    /// Whole seconds between the notes of the key, and before its first.
    fn gaps(&self, key: u8) -> Vec<u64> {
        let notes = self.notes.lock().unwrap();
        let times: Vec<Duration> = notes.iter().filter(|n| n.0 == key).map(|n| n.1).collect();
        let before = std::iter::once(&Duration::ZERO).chain(&times);
        let gaps = times.iter().zip(before).map(|(at, before)| *at - *before);
        // Timers may be late by a millisecond each.
        gaps.map(|gap| (gap + ms(500)).as_secs()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_touched_while_it_runs_runs_once_more() {
    let notes = Notes::new();
    let driver = Driver::new({
        let notes = notes.clone();
        move |key, token: CancellationToken| {
            notes.note(key);
            async move {
                let waited = token.run_until_cancelled(sleep(s(10))).await;
                assert!(waited.is_some(), "a touch cancels nothing");
                Next::Settled
            }
        }
    });
    driver.handle.touch(1);
    for _ in 0..9 {
        sleep(s(1)).await;
        driver.handle.touch(1);
    }
    sleep(s(100)).await;
    assert_eq!(notes.gaps(1), [0, 10]);
    assert!(driver.end().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_settled_key_rests_and_one_with_a_time_comes_back_then() {
    let notes = Notes::new();
    let driver = Driver::new({
        let notes = notes.clone();
        move |key, _| {
            let next = match (key, notes.note(key)) {
                (2, 0) => Next::After(s(30)),
                (2, 1) => Next::After(s(3600)),
                _ => Next::Settled,
            };
            std::future::ready(next)
        }
    });
    driver.handle.touch(1);
    driver.handle.touch(2);
    sleep(s(100)).await;
    driver.handle.touch(2);
    sleep(s(86_400)).await;
    assert_eq!(notes.gaps(1), [0]);
    // What was planned for later is moot once it ran.
    assert_eq!(notes.gaps(2), [0, 30, 70]);
    assert_eq!(driver.handle.depth(), 0);
    driver.end().await;
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_to_five_minutes_until_a_success_or_a_revision() {
    let notes = Notes::new();
    let driver = Driver::new({
        let notes = notes.clone();
        move |key, _| {
            let next = match notes.note(key) {
                14 => Next::After(s(50)),
                17 => Next::Settled,
                _ => Next::Failed,
            };
            std::future::ready(next)
        }
    });
    driver.handle.touch(1);
    let began = Instant::now();
    sleep(s(1 + 2 + 4 + 8 + 16 + 32 + 64 + 128 + 256 + 300 + 100)).await;
    driver.handle.revise(1);
    sleep(s(1 + 2 + 4 + 50 + 1 + 2 + 500)).await;
    driver.handle.touch(1);
    sleep(s(2)).await;
    let expected = [
        0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 100, 1, 2, 4, 50, 1, 2, 500, 1,
    ];
    assert_eq!(notes.gaps(1), expected);
    assert!(began.elapsed() < s(2000));
    driver.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_quick_revisions_end_with_the_last_and_no_hang() {
    let revision = Arc::new(Mutex::new(0));
    let finished = Arc::new(Mutex::new(None));
    let driver = Driver::new({
        let (revision, finished) = (Arc::clone(&revision), Arc::clone(&finished));
        move |_, token: CancellationToken| {
            let (revision, finished) = (Arc::clone(&revision), Arc::clone(&finished));
            async move {
                let seen = *revision.lock().unwrap();
                // Its health comes with the last revision only.
                if seen < 100 {
                    token.cancelled().await;
                    return Next::Failed;
                }
                *finished.lock().unwrap() = Some((seen, Instant::now()));
                Next::Settled
            }
        }
    });
    for n in 1..=100 {
        *revision.lock().unwrap() = n;
        driver.handle.revise(1);
        sleep(ms(n % 7)).await;
    }
    let last = Instant::now();
    sleep(s(5)).await;
    let (seen, at) = finished.lock().unwrap().expect("it hangs");
    assert_eq!(seen, 100);
    assert!(at.saturating_duration_since(last) < s(1));
    driver.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_at_any_moment_is_picked_up() {
    let revision = Arc::new(Mutex::new(0_u32));
    let (send, mut finished) = tokio::sync::mpsc::unbounded_channel();
    let driver = Driver::new({
        let revision = Arc::clone(&revision);
        move |_, token: CancellationToken| {
            let (revision, send) = (Arc::clone(&revision), send.clone());
            async move {
                let seen = *revision.lock().unwrap();
                if !seen.is_multiple_of(100) {
                    token.cancelled().await;
                }
                let _ = send.send(seen);
                Next::Settled
            }
        }
    });
    for round in 1..=50 {
        for n in 0..100 {
            *revision.lock().unwrap() += 1;
            driver.handle.revise(1);
            if (round + n) % 3 == 0 {
                tokio::task::yield_now().await;
            }
        }
        while timeout(s(5), finished.recv()).await.expect("it hangs") != Some(round * 100) {}
    }
    driver.end().await;
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_delays_none_of_a_hundred() {
    let notes = Notes::new();
    let driver = Driver::new({
        let notes = notes.clone();
        move |key, _| {
            let notes = notes.clone();
            async move {
                if key == 0 {
                    std::future::pending::<()>().await;
                }
                sleep(s(10)).await;
                notes.note(key);
                Next::After(s(50))
            }
        }
    });
    for key in 0..100 {
        driver.handle.touch(key);
    }
    sleep(s(600)).await;
    for key in 1..100 {
        assert_eq!(notes.gaps(key), [10, 60, 60, 60, 60, 60, 60, 60, 60, 60]);
    }
    assert!(notes.gaps(0).is_empty());
    driver.task.abort();
}

#[tokio::test(start_paused = true)]
async fn two_panics_set_a_key_aside_until_its_revision_and_the_others_go_on() {
    let notes = Notes::new();
    let driver = Driver::new({
        let notes = notes.clone();
        move |key, _| {
            let count = notes.note(key);
            if key == 1 && count < 3 {
                // Before there is a future at all.
                resume_unwind(Box::new("before"));
            }
            async move {
                match (key, count) {
                    (1, 3) => resume_unwind(Box::new(format!("{count} of {key}"))),
                    (1, 4) => resume_unwind(Box::new(7)),
                    (1, _) => Next::Settled,
                    _ => Next::After(s(60)),
                }
            }
        }
    });
    driver.handle.touch(1);
    driver.handle.touch(2);
    sleep(s(100)).await;
    assert_eq!(notes.gaps(1), [0, 1]);
    assert_eq!(driver.handle.set_aside(), [1]);
    driver.handle.touch(1);
    sleep(s(3500)).await;
    assert_eq!(notes.gaps(1), [0, 1]);
    // Each run is a millisecond late.
    assert!(notes.gaps(2).len() >= 59);

    driver.handle.revise(1);
    assert!(driver.handle.set_aside().is_empty());
    sleep(s(399)).await;
    assert_eq!(notes.gaps(1)[2..], [3599, 1]);
    driver.handle.revise(1);
    sleep(s(400)).await;
    assert_eq!(notes.gaps(1)[4..], [398, 1]);
    assert!(driver.handle.set_aside().is_empty());
    let told = driver.end().await;
    let told: Vec<_> = told.iter().map(|told| (told.1.as_str(), told.2)).collect();
    assert_eq!(
        told,
        [
            ("before", 1),
            ("before", 2),
            ("before", 1),
            ("3 of 1", 2),
            ("it panicked without a message", 1),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn l6_panics_with_a_success_or_a_long_time_between_set_nothing_aside() {
    let notes = Notes::new();
    let driver = Driver::new({
        let notes = notes.clone();
        move |key, _| {
            let count = notes.note(key);
            async move {
                match (key, count % 2) {
                    (3, _) if count >= 2 => resume_unwind(Box::new("again")),
                    (_, 0) => resume_unwind(Box::new("now and then")),
                    (1, _) => Next::Settled,
                    (2, _) => Next::After(s(86_400)),
                    // Neither well nor a panic, for hours.
                    _ => {
                        sleep(s(2 * 3600)).await;
                        Next::Failed
                    }
                }
            }
        }
    });
    for month in 0..6 {
        driver.handle.touch(1);
        driver.handle.touch(2);
        if month == 0 {
            driver.handle.touch(3);
        }
        sleep(s(30 * 86_400)).await;
    }
    assert_eq!(notes.gaps(1).len(), 12);
    assert!(notes.gaps(2).len() >= 12);
    // The third's last two came one right after the other.
    assert_eq!(notes.gaps(3), [0, 1, 2 * 3600 + 2, 4]);
    assert_eq!(driver.handle.set_aside(), [3]);
    let told = driver.end().await;
    let of = |key| {
        let told = told.iter().filter(move |told| told.0 == key);
        told.map(|told| told.2).collect::<Vec<_>>()
    };
    assert!(of(1).iter().chain(&of(2)).all(|count| *count == 1));
    assert_eq!(of(3), [1, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn how_an_older_revision_ends_says_nothing_about_the_newer() {
    let notes = Notes::new();
    let driver = Driver::new({
        let notes = notes.clone();
        move |key, token: CancellationToken| {
            let count = notes.note(key);
            async move {
                if count == 0 {
                    token.cancelled().await;
                    match key {
                        1 => resume_unwind(Box::new("old")),
                        2 => return Next::Failed,
                        _ => return Next::After(s(3)),
                    }
                }
                if count < 3 {
                    Next::Failed
                } else {
                    Next::Settled
                }
            }
        }
    });
    for key in 1..=3 {
        driver.handle.touch(key);
    }
    sleep(s(10)).await;
    for key in 1..=3 {
        driver.handle.revise(key);
    }
    sleep(s(100)).await;
    for key in 1..=3 {
        assert_eq!(notes.gaps(key), [0, 10, 1, 2]);
    }
    assert_eq!(driver.end().await, [(1, "old".to_owned(), 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_key_does_not_come_back_by_itself() {
    let notes = Notes::new();
    let driver = Driver::new({
        let notes = notes.clone();
        move |key, _| {
            notes.note(key);
            async move {
                sleep(s(10)).await;
                Next::Failed
            }
        }
    });
    driver.handle.touch(1);
    sleep(s(5)).await;
    driver.handle.touch(1);
    driver.handle.forget(&1);
    sleep(s(100)).await;
    assert_eq!(notes.gaps(1), [0]);
    assert_eq!(driver.handle.depth(), 0);
    driver.handle.touch(1);
    sleep(s(15)).await;
    assert_eq!(notes.gaps(1), [0, 105, 11]);
    driver.end().await;
}

#[tokio::test(start_paused = true)]
async fn cancel_hands_out_no_more_ends_every_wait_and_waits_for_what_runs() {
    let notes = Notes::new();
    let driver = Driver::new({
        let notes = notes.clone();
        move |key, token: CancellationToken| {
            notes.note(key);
            async move {
                token.cancelled().await;
                if key == 7 {
                    // A step that is under way is finished.
                    sleep(s(3)).await;
                }
                Next::After(Duration::ZERO)
            }
        }
    });
    for key in 0..10 {
        driver.handle.touch(key);
    }
    sleep(s(1)).await;
    let handle = driver.handle.clone();
    handle.touch(3);
    let cancelled = Instant::now();
    driver.end().await;
    assert_eq!(cancelled.elapsed().as_secs(), 3);
    assert_eq!(notes.notes.lock().unwrap().len(), 10);
    // What is due stays so, for a driver that comes after.
    assert_eq!(handle.depth(), 10);
}
