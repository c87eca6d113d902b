use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::queue::{Backoff, Queue};
use crate::execute::panic_message;

/// When a key is to be looked at again, says its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// When something says so. Ends the back-off, and earlier panics count no more.
    Settled,
    /// After this long, or earlier if something says so. Otherwise like `Settled`.
    After(Duration),
    /// After the back-off.
    Failed,
}

/// A key that panicked this often is set aside: it would do so again.
const MOST_PANICS: u32 = 2;
/// Longer than any back-off with the run after it: a panic that comes later than
/// this is not the last one again.
const FORGIVEN: Duration = Duration::from_secs(60 * 60);

/// Says which keys have work, from anywhere. Clones are the same.
#[derive(Debug)]
pub struct Handle<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Handle<K> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

#[derive(Debug)]
struct Shared<K> {
    queue: Queue<K>,
    // Taken before the queue's own lock, never after.
    keys: Mutex<Keys<K>>,
}

#[derive(Debug)]
struct Keys<K> {
    backoff: Backoff<K>,
    panics: BTreeMap<K, Panics>,
    running: BTreeMap<K, Run>,
}

/// The panics of one key, each soon after the one before.
#[derive(Debug)]
struct Panics {
    count: u32,
    last: Instant,
}

#[derive(Debug)]
struct Run {
    token: CancellationToken,
    /// A newer revision came: how this run ends says nothing about that.
    superseded: bool,
}

impl<K: Ord + Clone> Keys<K> {
    fn is_aside(&self, key: &K) -> bool {
        let panics = self.panics.get(key);
        panics.is_some_and(|panics| panics.count >= MOST_PANICS)
    }

    /// How many there were, with the one just now.
    fn panicked(&mut self, key: &K) -> u32 {
        let now = Instant::now();
        let none = Panics {
            count: 0,
            last: now,
        };
        let panics = self.panics.entry(key.clone()).or_insert(none);
        if now.duration_since(panics.last) > FORGIVEN {
            panics.count = 0;
        }
        panics.count += 1;
        panics.last = now;
        panics.count
    }

    /// Whatever went wrong with the key is of the past.
    fn forgive(&mut self, key: &K) {
        self.backoff.reset(key);
        self.panics.remove(key);
    }
}

impl<K: Ord + Clone + Send + 'static> Handle<K> {
    /// Nothing has work. `random` spreads the back-off, see [`Backoff::new`].
    pub fn new(random: impl Fn() -> f64 + Send + 'static) -> Self {
        Self {
            shared: Arc::new(Shared {
                queue: Queue::new(),
                keys: Mutex::new(Keys {
                    backoff: Backoff::new(random),
                    panics: BTreeMap::new(),
                    running: BTreeMap::new(),
                }),
            }),
        }
    }

    /// The key is due, and again if it is running. One that was set aside stays so.
    pub fn touch(&self, key: K) {
        let keys = self.keys();
        if !keys.is_aside(&key) {
            self.shared.queue.add(key);
        }
    }

    /// What the key stands for has a new revision: its failures are of the past, a
    /// worker that runs is told to end, and the key is due when it has.
    pub fn revise(&self, key: K) {
        let mut keys = self.keys();
        keys.forgive(&key);
        if let Some(run) = keys.running.get_mut(&key) {
            run.superseded = true;
            run.token.cancel();
        }
        self.shared.queue.add(key);
    }

    /// Nothing stands behind the key any more: it is not due, and nothing is
    /// remembered of it. A worker that runs ends by itself.
    pub fn forget(&self, key: &K) {
        let mut keys = self.keys();
        keys.forgive(key);
        if let Some(run) = keys.running.get_mut(key) {
            run.superseded = true;
        }
        self.shared.queue.forget(key);
    }

    /// The keys that wait for a revision because their worker panicked too often.
    pub fn set_aside(&self) -> Vec<K> {
        let keys = self.keys();
        let aside = keys.panics.keys().filter(|key| keys.is_aside(key));
        aside.cloned().collect()
    }

    /// How many keys are due, now or later.
    pub fn depth(&self) -> usize {
        self.shared.queue.depth()
    }

    fn begin(&self, key: &K, token: CancellationToken) {
        let run = Run {
            token,
            superseded: false,
        };
        self.keys().running.insert(key.clone(), run);
    }

    /// Settles how a run ended; the message and count of a panic.
    fn end(&self, key: &K, outcome: Result<Next, JoinError>) -> Option<(String, u32)> {
        let mut keys = self.keys();
        let superseded = keys.running.remove(key).is_some_and(|run| run.superseded);
        // Ended from outside is no panic: the runtime is going down.
        let outcome = outcome.or_else(|error| match error.try_into_panic() {
            Ok(panic) => Err(panic_message(&*panic)),
            Err(_) => Ok(Next::Failed),
        });
        let panic = outcome.as_ref().err().map(|message| {
            let count = if superseded { 0 } else { keys.panicked(key) };
            (message.clone(), count)
        });
        if !superseded {
            match outcome {
                Ok(Next::Settled) => keys.forgive(key),
                Ok(Next::After(delay)) => {
                    keys.forgive(key);
                    self.shared.queue.add_after(key.clone(), delay);
                }
                Err(_) if keys.is_aside(key) => {
                    keys.backoff.reset(key);
                    self.shared.queue.forget(key);
                }
                Ok(Next::Failed) | Err(_) => {
                    let delay = keys.backoff.failed(key);
                    self.shared.queue.add_after(key.clone(), delay);
                }
            }
        }
        self.shared.queue.done(key);
        panic
    }

    fn keys(&self) -> MutexGuard<'_, Keys<K>> {
        self.shared
            .keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has every key that is due worked on, each as a task of its own and never twice
/// at once, until cancelled; then tells all workers to end and waits for them.
/// Dropped instead, it cuts them off, and their keys stay taken.
///
/// A worker's token is cancelled when its key has a newer revision or all is to
/// end: it should give up what it waits for, and may finish what it does. One that
/// panics is told to `on_panic`, with its message and how often in a row this
/// revision has (0: the run was of an older one), and counts as failed; after two
/// the key is set aside until [`Handle::revise`].
pub async fn run<K, W, F>(
    handle: &Handle<K>,
    worker: W,
    mut on_panic: impl FnMut(&K, String, u32),
    cancel: CancellationToken,
) where
    K: Ord + Clone + Send + 'static,
    W: Fn(K, CancellationToken) -> F + Send + Sync + 'static,
    F: Future<Output = Next> + Send + 'static,
{
    let worker = Arc::new(worker);
    let mut tasks = JoinSet::new();
    let mut keys = HashMap::new();
    let mut ended = |keys: &mut HashMap<Id, K>, task: Result<(Id, Next), JoinError>| {
        let (id, outcome) = match task {
            Ok((id, next)) => (id, Ok(next)),
            Err(error) => (error.id(), Err(error)),
        };
        if let Some(key) = keys.remove(&id)
            && let Some((message, count)) = handle.end(&key, outcome)
        {
            on_panic(&key, message, count);
        }
    };
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            Some(task) = tasks.join_next_with_id() => ended(&mut keys, task),
            key = handle.shared.queue.next() => {
                let token = cancel.child_token();
                handle.begin(&key, token.clone());
                let worker = Arc::clone(&worker);
                let of = key.clone();
                // Called inside the task: it may panic before it is a future.
                let task = tasks.spawn(async move { worker(of, token).await });
                keys.insert(task.id(), key);
            }
        }
    }
    while let Some(task) = tasks.join_next_with_id().await {
        ended(&mut keys, task);
    }
}
