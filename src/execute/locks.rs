use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// Somebody else holds a lock.
#[derive(Debug, thiserror::Error)]
pub enum Busy {
    /// Another renet.
    #[error("another renet holds the lock `{lock}`: {holder}")]
    Held {
        /// Which lock.
        lock: String,
        /// Its process and command.
        holder: String,
    },
    /// The lock file itself cannot be used.
    #[error("lock `{lock}`: {error}")]
    Io {
        /// Which lock.
        lock: String,
        /// Why.
        error: io::Error,
    },
}

/// Locks that are held; dropping them, or dying, frees them.
#[derive(Debug)]
pub struct Locks {
    // Held open: a flock lives as long as its descriptor.
    _files: Vec<File>,
}

impl Locks {
    const POLL: Duration = Duration::from_millis(100);

    /// Takes the named locks in the order given, which must be the order of
    /// DESIGN §2.1, rule 13. `waiting` is told once for whom it waits.
    pub fn take(
        folder: &Path,
        names: &[String],
        limit: Duration,
        mut waiting: impl FnMut(&str),
    ) -> Result<Self, Busy> {
        let io = |lock: &str| {
            let lock = lock.to_owned();
            move |error| Busy::Io { lock, error }
        };
        std::fs::create_dir_all(folder).map_err(io("locks"))?;
        let until = Instant::now() + limit;
        let mut files = Vec::new();
        let mut told = false;
        for name in names {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(folder.join(name))
                .map_err(io(name))?;
            loop {
                match file.try_lock() {
                    Ok(()) => break,
                    Err(TryLockError::Error(error)) => return Err(io(name)(error)),
                    Err(TryLockError::WouldBlock) => {
                        let holder = holder(&mut file);
                        if Instant::now() >= until {
                            return Err(Busy::Held {
                                lock: name.clone(),
                                holder,
                            });
                        }
                        if !told {
                            waiting(&holder);
                            told = true;
                        }
                        std::thread::sleep(Self::POLL);
                    }
                }
            }
            sign(&mut file).map_err(io(name))?;
            files.push(file);
        }
        Ok(Self { _files: files })
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let _ = file.rewind();
    let _ = file.read_to_string(&mut text);
    match text.trim() {
        "" => "unknown".to_owned(),
        text => text.to_owned(),
    }
}

fn sign(file: &mut File) -> io::Result<()> {
    let command: Vec<String> = std::env::args().take(3).collect();
    file.set_len(0)?;
    file.rewind()?;
    writeln!(
        file,
        "pid {} ({})",
        std::process::id(),
        command.join(" ").escape_debug()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_told_for_whom() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["datastore".to_owned()];
        let held = Locks::take(folder.path(), &names, Duration::ZERO, |_| ()).unwrap();
        let mut told = String::new();
        let busy = Locks::take(
            folder.path(),
            &names,
            Duration::from_millis(150),
            |holder| {
                told = holder.to_owned();
            },
        );
        let pid = format!("pid {}", std::process::id());
        assert!(told.starts_with(&pid), "{told}");
        assert!(busy.unwrap_err().to_string().contains(&pid));
        drop(held);
        Locks::take(folder.path(), &names, Duration::ZERO, |_| ()).unwrap();
    }
}
