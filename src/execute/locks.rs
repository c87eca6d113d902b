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
        let failed = |error: io::Error| Busy::Io {
            lock,
            error: error.to_string(),
        };
        let mut file = self.open(lock).map_err(failed)?;
        let until = Instant::now() + self.patience;
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
                    let holder = holder(&mut file);
                    if Instant::now() >= until {
                        return Err(Busy::Held { lock, holder });
                    }
                    if !told {
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

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let _ = file.rewind();
    let _ = file.read_to_string(&mut text);
    match text.trim() {
        "" => "unknown".to_owned(),
        text => text.escape_debug().to_string(),
    }
}

fn sign(file: &mut File) -> io::Result<()> {
    let command: Vec<String> = std::env::args().take(3).collect();
    let line = format!("pid {} ({})\n", std::process::id(), command.join(" "));
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(line.as_bytes())
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
        assert!(told.lock().unwrap().starts_with(&pid));
        assert!(busy.to_string().contains(&pid));
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
