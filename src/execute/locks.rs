//! The locks of a machine, all flock on files of their own: freed by dropping
//! them, and by dying.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::future::Future;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tokio::time::Instant;

use crate::model::Guid;

/// A lock, in the order in which they are taken (DESIGN §2.1, rule 13).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lock {
    /// The one agent of a machine.
    Agent,
    /// The datastore: shared by every repository, alone for what makes, mounts or grows it.
    Datastore,
    /// A repository.
    Repository(Guid),
    /// The route table and the proxy.
    Routes,
    /// The records: for milliseconds.
    Machine,
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lock::Agent => f.write_str("agent"),
            Lock::Datastore => f.write_str("datastore"),
            Lock::Repository(guid) => guid.fmt(f),
            Lock::Routes => f.write_str("routes"),
            Lock::Machine => f.write_str("machine"),
        }
    }
}

/// Whether others may hold the lock too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Others who share it may.
    Shared,
    /// Nobody else may.
    Alone,
}

/// Somebody else holds a lock.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Busy {
    /// Another renet.
    #[error("another renet holds the lock `{lock}`: {holder}")]
    Held {
        /// Which lock.
        lock: Lock,
        /// Its process and command.
        holder: String,
    },
    /// Whoever waited would wait for itself.
    #[error(
        "the lock `{lock}` is held while this hook runs: a hook can call `renet compose --` and \
         `renet docker --`, nothing that changes its own repository"
    )]
    OwnHook {
        /// Which lock.
        lock: Lock,
    },
    /// The lock file itself cannot be used.
    #[error("lock `{lock}`: {error}")]
    Io {
        /// Which lock.
        lock: Lock,
        /// Why.
        error: String,
    },
}

/// A lock that is held; dropping it frees it.
#[derive(Debug)]
pub enum Held {
    /// By a file: programs that inherit the descriptor hold it too.
    File(Arc<File>),
    /// Among the tasks of this process, shared.
    Reading(OwnedRwLockReadGuard<()>),
    /// Among the tasks of this process, alone.
    Writing(OwnedRwLockWriteGuard<()>),
}

impl Held {
    /// The descriptor that holds it, where one does.
    pub fn file(&self) -> Option<Arc<File>> {
        match self {
            Held::File(file) => Some(file.clone()),
            _ => None,
        }
    }
}

/// Where locks come from.
pub trait Locking: Send + Sync {
    /// Takes one, waiting for whoever has it for as long as this source allows.
    fn lock(&self, lock: Lock, mode: Mode) -> impl Future<Output = Result<Held, Busy>> + Send;
}

/// Told for which lock is waited, and who holds it.
type Waiting = dyn Fn(Lock, &str) + Send + Sync;

/// Locks between processes, in one folder.
pub struct FileLocks {
    folder: PathBuf,
    patience: Duration,
    waiting: Box<Waiting>,
}

impl FileLocks {
    const POLL: Duration = Duration::from_millis(20);

    /// Locks in `folder`. Who waits does so for at most `patience`, after having
    /// told `waiting` for whom.
    pub fn new(
        folder: impl Into<PathBuf>,
        patience: Duration,
        waiting: impl Fn(Lock, &str) + Send + Sync + 'static,
    ) -> Self {
        Self {
            folder: folder.into(),
            patience,
            waiting: Box::new(waiting),
        }
    }

    /// Whether this process was started by a hook that runs under the lock.
    fn is_of_own_hook(&self, lock: Lock) -> bool {
        let within = std::env::var("REDIACC_HOOK").ok();
        let within = within.and_then(|guid| guid.parse::<Guid>().ok());
        match lock {
            Lock::Repository(guid) => within == Some(guid),
            Lock::Datastore => within.is_some(),
            Lock::Agent | Lock::Routes | Lock::Machine => false,
        }
    }

    fn open(&self, lock: Lock) -> io::Result<File> {
        std::fs::create_dir_all(&self.folder)?;
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.folder.join(lock.to_string()))
    }
}

impl Locking for FileLocks {
    async fn lock(&self, lock: Lock, mode: Mode) -> Result<Held, Busy> {
        if mode == Mode::Alone && self.is_of_own_hook(lock) {
            return Err(Busy::OwnHook { lock });
        }
        let failed = |error: io::Error| Busy::Io {
            lock,
            error: error.to_string(),
        };
        let mut file = self.open(lock).map_err(failed)?;
        // Who has just got it has not signed yet.
        const SIGNED: Duration = Duration::from_millis(200);
        let began = Instant::now();
        let until = began + self.patience;
        let mut told = false;
        loop {
            let tried = match mode {
                Mode::Shared => file.try_lock_shared(),
                Mode::Alone => file.try_lock(),
            };
            match tried {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) => {
                    let signed = holder(&mut file);
                    let waits = Instant::now() < until;
                    if waits && signed.is_none() && began.elapsed() < SIGNED {
                        tokio::time::sleep(Self::POLL).await;
                        continue;
                    }
                    let holder = signed.unwrap_or_else(|| "unknown".to_owned());
                    if !waits {
                        return Err(Busy::Held { lock, holder });
                    }
                    // For itself nobody waits long, and it is no news to anybody.
                    if !told && !is_own(&holder) {
                        (self.waiting)(lock, &holder);
                        told = true;
                    }
                    tokio::time::sleep(Self::POLL).await;
                }
            }
        }
        // Who shares it signs too: the last one to come is named.
        sign(&mut file).map_err(failed)?;
        Ok(Held::File(Arc::new(file)))
    }
}

/// Who signed last, if anybody did.
fn holder(file: &mut File) -> Option<String> {
    let mut text = String::new();
    let _ = file.rewind();
    let _ = file.read_to_string(&mut text);
    let line = text.lines().next().unwrap_or_default().trim();
    (!line.is_empty()).then(|| line.escape_debug().to_string())
}

/// Whether this process signed.
fn is_own(holder: &str) -> bool {
    holder.starts_with(&format!("pid {} ", std::process::id()))
}

fn sign(file: &mut File) -> io::Result<()> {
    let command: Vec<String> = std::env::args().take(3).collect();
    let line = format!("pid {} ({})\n", std::process::id(), command.join(" "));
    // Never empty: whoever waits reads it meanwhile.
    file.rewind()?;
    file.write_all(line.as_bytes())?;
    file.set_len(line.len() as u64)
}

/// Locks among the tasks of one process, for machines that nobody else can touch.
#[derive(Debug, Default)]
pub struct LocalLocks(Mutex<BTreeMap<Lock, Arc<RwLock<()>>>>);

impl Locking for LocalLocks {
    async fn lock(&self, lock: Lock, mode: Mode) -> Result<Held, Busy> {
        let one = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(lock).or_default().clone()
        };
        Ok(match mode {
            Mode::Shared => Held::Reading(one.read_owned().await),
            Mode::Alone => Held::Writing(one.write_owned().await),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn locks(folder: &Path, patience: u64, told: Arc<Mutex<String>>) -> FileLocks {
        FileLocks::new(folder, Duration::from_millis(patience), move |_, holder| {
            *told.lock().unwrap() = holder.to_owned();
        })
    }

    #[tokio::test]
    async fn who_waits_is_told_for_whom() {
        let folder = tempfile::tempdir().unwrap();
        let told = Arc::new(Mutex::new(String::new()));
        let locks = locks(folder.path(), 150, told.clone());
        let held = locks.lock(Lock::Datastore, Mode::Alone).await.unwrap();
        let busy = locks.lock(Lock::Datastore, Mode::Shared).await.unwrap_err();
        let pid = format!("pid {}", std::process::id());
        assert!(busy.to_string().contains(&pid));
        // It was itself, which is no news; another is.
        assert_eq!(*told.lock().unwrap(), "");
        let file = folder.path().join(Lock::Datastore.to_string());
        std::fs::write(file, "pid 1 (another)\n").unwrap();
        let busy = locks.lock(Lock::Datastore, Mode::Shared).await.unwrap_err();
        assert_eq!(*told.lock().unwrap(), "pid 1 (another)");
        assert!(busy.to_string().contains("pid 1 (another)"));
        drop(held);
        locks.lock(Lock::Datastore, Mode::Alone).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_shared_keeps_out_only_who_wants_it_alone() {
        let folder = tempfile::tempdir().unwrap();
        let locks = locks(folder.path(), 0, Arc::default());
        let first = locks.lock(Lock::Datastore, Mode::Shared).await.unwrap();
        let second = locks.lock(Lock::Datastore, Mode::Shared).await.unwrap();
        assert!(locks.lock(Lock::Datastore, Mode::Alone).await.is_err());
        drop((first, second));
        assert!(locks.lock(Lock::Datastore, Mode::Alone).await.is_ok());
    }
}
