use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Keys and when they are due: client-go's work queue, with delays.
///
/// A key is in it at most once, and whoever took it has it alone until [`done`]:
/// added meanwhile, it waits for that.
///
/// [`done`]: Self::done
#[derive(Debug)]
pub struct Queue<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

#[derive(Debug)]
struct State<K> {
    /// When each key is due, those that are running too.
    due: BTreeMap<K, Instant>,
    /// The same, earliest first, without those that are running.
    order: BTreeSet<(Instant, K)>,
    running: BTreeSet<K>,
}

impl<K: Ord + Clone> State<K> {
    fn put(&mut self, key: K, at: Instant) {
        let before = self.due.get(&key).copied();
        if before.is_some_and(|before| before <= at) {
            return;
        }
        self.due.insert(key.clone(), at);
        if !self.running.contains(&key) {
            if let Some(before) = before {
                self.order.remove(&(before, key.clone()));
            }
            self.order.insert((at, key));
        }
    }

    /// The key that is due, or else when to look again.
    fn take(&mut self, now: Instant) -> Result<K, Option<Instant>> {
        let (at, key) = self.order.first().cloned().ok_or(None)?;
        if at > now {
            return Err(Some(at));
        }
        self.order.pop_first();
        self.due.remove(&key);
        self.running.insert(key.clone());
        Ok(key)
    }
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                due: BTreeMap::new(),
                order: BTreeSet::new(),
                running: BTreeSet::new(),
            }),
            changed: Notify::new(),
        }
    }
}

impl<K: Ord + Clone + Send + 'static> Queue<K> {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// The key is due now.
    pub fn add(&self, key: K) {
        self.put(key, Instant::now());
    }

    /// The key is due after the delay, or earlier if it already was.
    pub fn add_after(&self, key: K, delay: Duration) {
        let now = Instant::now();
        self.put(key, now.checked_add(delay).unwrap_or(now + FAR));
    }

    fn put(&self, key: K, at: Instant) {
        self.state().put(key, at);
        self.changed.notify_waiters();
    }

    /// Waits for the next key that is due, the one due first before others. It is
    /// the caller's until [`done`](Self::done). Dropping the future loses no key.
    pub async fn next(&self) -> K {
        loop {
            // Made before looking, so that what is added after the look ends the wait.
            let changed = self.changed.notified();
            let again = match self.state().take(Instant::now()) {
                Ok(key) => return key,
                Err(again) => again,
            };
            match again {
                Some(at) => {
                    let _ = timeout_at(at, changed).await;
                }
                None => changed.await,
            }
        }
    }

    /// Gives back what [`next`](Self::next) gave. If it was added meanwhile it can
    /// be taken again when that is due.
    pub fn done(&self, key: &K) {
        let mut state = self.state();
        if state.running.remove(key)
            && let Some(at) = state.due.get(key).copied()
        {
            state.order.insert((at, key.clone()));
            drop(state);
            self.changed.notify_waiters();
        }
    }

    /// The key is not due any more. One that is running stays so.
    pub fn forget(&self, key: &K) {
        let mut state = self.state();
        if let Some(at) = state.due.remove(key) {
            state.order.remove(&(at, key.clone()));
        }
    }

    /// How many keys are due, now or later.
    pub fn depth(&self) -> usize {
        self.state().due.len()
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Further than any agent lives, and no clock overflows.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// How long each key waits after its failures in a row: 1 s, doubling to 5 min,
/// each spread by a fifth to either side.
pub struct Backoff<K> {
    failures: BTreeMap<K, u32>,
    random: Box<dyn Fn() -> f64 + Send>,
}

impl<K: Ord + Clone> Backoff<K> {
    const FIRST: Duration = Duration::from_secs(1);
    const MOST: Duration = Duration::from_secs(5 * 60);
    /// Keys that failed together do not come back together.
    const SPREAD: f64 = 0.2;

    /// With a source of numbers in `0.0..1.0`; a constant 0.5 spreads nothing.
    pub fn new(random: impl Fn() -> f64 + Send + 'static) -> Self {
        Self {
            failures: BTreeMap::new(),
            random: Box::new(random),
        }
    }

    /// One more failure; how long to wait after it.
    pub fn failed(&mut self, key: &K) -> Duration {
        let failures = self.failures.entry(key.clone()).or_default();
        let delay = Self::FIRST.saturating_mul(2_u32.saturating_pow(*failures));
        *failures = failures.saturating_add(1);
        let spread = Self::SPREAD * ((self.random)().clamp(0.0, 1.0) * 2.0 - 1.0);
        delay.min(Self::MOST).mul_f64(1.0 + spread)
    }

    /// The next failure is the first.
    pub fn reset(&mut self, key: &K) {
        self.failures.remove(key);
    }
}

impl<K: fmt::Debug> fmt::Debug for Backoff<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backoff")
            .field("failures", &self.failures)
            .finish_non_exhaustive()
    }
}

/// A random number in `0.0..1.0`, from the system's source.
pub fn random() -> f64 {
    // The lowest 53 bits of a version 4 UUID are all random, and what an f64 holds.
    const BITS: u64 = 1 << 53;
    let (_, low) = uuid::Uuid::new_v4().as_u64_pair();
    (low % BITS) as f64 / BITS as f64
}
