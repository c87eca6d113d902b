//! The one place that runs programs.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use zeroize::Zeroizing;

use super::passphrase::Passphrase;
use crate::host::{Blame, StepError};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const LIMIT: Duration = Duration::from_secs(60);
/// How much of a program's last words an error repeats, in bytes.
const LAST_WORDS: usize = 4096;

tokio::task_local! {
    /// The locks under which a step is performed.
    static LOCKS: Vec<Arc<File>>;
}

/// Performs a step under locks: its short programs inherit them, so that a kill
/// of renet lets nobody in beside a `mkfs` that goes on.
pub(super) async fn under<T>(locks: &[Arc<File>], step: impl Future<Output = T>) -> T {
    LOCKS.scope(locks.to_vec(), step).await
}

/// Of all descriptors a program gets standard input, output and error, and
/// those that are named.
///
/// To be called between fork and exec: it allocates nothing.
pub(crate) fn keep_only(named: &[RawFd]) -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: the call changes flags of this process's descriptors alone. A kernel
    // without it (before 5.11) leaves what Rust opens close-on-exec by itself.
    unsafe {
        let close = libc::CLOSE_RANGE_CLOEXEC;
        libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, close);
    }
    for descriptor in named {
        // SAFETY: the caller keeps these descriptors open.
        if unsafe { libc::fcntl(*descriptor, libc::F_SETFD, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A program to run: an argument vector, never a shell; an environment made
/// from nothing; no input; its own process group, which ends when the time is
/// up or nobody waits for it any more.
#[derive(Debug)]
pub struct Program {
    name: String,
    command: Command,
    stdin: Option<Zeroizing<Vec<u8>>>,
    limit: Duration,
    outlives: bool,
    also: Option<i32>,
}

/// What a program that succeeded printed.
#[derive(Debug)]
pub struct Output {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Program {
    /// A program by its name or path.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let program = program.as_ref();
        let found = find(program);
        let name = PathBuf::from(program)
            .file_name()
            .unwrap_or(program)
            .to_string_lossy()
            .into_owned();
        let mut command = Command::new(found);
        command
            .env_clear()
            .env("PATH", PATH)
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        Self {
            name,
            command,
            stdin: None,
            limit: LIMIT,
            outlives: false,
            also: None,
        }
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// More arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// One variable of its environment.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// More variables of its environment.
    pub fn envs<K: AsRef<OsStr>, V: AsRef<OsStr>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.command.envs(variables);
        self
    }

    /// The folder it starts in.
    pub fn cwd(mut self, path: impl AsRef<std::path::Path>) -> Self {
        self.command.current_dir(path);
        self
    }

    /// What it reads from its standard input.
    pub fn stdin(mut self, bytes: Vec<u8>) -> Self {
        self.command.stdin(Stdio::piped());
        self.stdin = Some(Zeroizing::new(bytes));
        self
    }

    /// The same with a secret.
    pub(super) fn secret(mut self, secret: &Passphrase) -> Self {
        self.command.stdin(Stdio::piped());
        self.stdin = Some(secret.bytes().clone());
        self
    }

    /// How long it may take; a minute where nothing is said.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Another exit code that means success.
    pub fn succeeds_with(mut self, code: i32) -> Self {
        self.also = Some(code);
        self
    }

    /// Runs a program that leaves another one behind: nobody listens to either,
    /// and no lock is theirs.
    pub async fn run_detached(mut self) -> Result<(), StepError> {
        self.outlives = true;
        self.command.stdout(Stdio::null()).stderr(Stdio::null());
        self.run().await.map(drop)
    }

    /// Starts a program that ends by itself when its input does, with nobody's locks.
    fn start_guard(&mut self) -> Result<tokio::process::Child, StepError> {
        self.command.stdin(Stdio::piped()).kill_on_drop(false);
        // SAFETY: what runs between fork and exec makes one system call.
        unsafe { self.command.pre_exec(|| keep_only(&[])) };
        let started = self.command.spawn();
        started.map_err(|error| self.fails("not started", error.to_string()))
    }

    fn fails(&self, end: &str, message: String) -> StepError {
        StepError {
            blame: Blame::Machine,
            program: Some(format!("{} ({end})", self.name)),
            message,
        }
    }

    /// Starts it and waits until it says that it is ready; it ends by itself when its
    /// input does.
    pub(super) async fn hold(mut self, ready: &[u8]) -> Result<Holding, StepError> {
        let mut child = self.start_guard()?;
        let mut said = vec![0; ready.len()];
        let mut stdout = child.stdout.take();
        let hear = async {
            match &mut stdout {
                Some(stdout) => stdout.read_exact(&mut said).await.map(drop),
                None => Ok(()),
            }
        };
        let heard = tokio::time::timeout(self.limit, hear).await;
        let holding = Holding {
            name: self.name.clone(),
            child,
        };
        match heard {
            Ok(Ok(())) if said == ready => Ok(holding),
            Ok(_) => {
                holding.release().await?;
                Err(self.fails("lost", "it did not get ready".to_owned()))
            }
            Err(_) => Err(self.fails("timed out", "it did not get ready".to_owned())),
        }
    }

    /// Runs it to its end and hands on every line that it prints, as it comes; gives
    /// its exit status, and none where it did not end in time. It is to end by itself
    /// when its input does, which is when the time is up or nobody waits for it any
    /// more.
    pub(super) async fn follow(
        mut self,
        mut line: impl FnMut(&str),
    ) -> Result<Option<i32>, StepError> {
        /// For what is still in the pipe; somebody left behind may keep it open.
        const DRAIN: Duration = Duration::from_millis(200);
        const LONGEST: usize = 4096;
        let mut child = self.start_guard()?;
        let stdin = child.stdin.take();
        let mut stdout = child.stdout.take();
        let mut said = Vec::new();
        let mut hear = async || {
            let mut bytes = [0; LONGEST];
            while let Some(pipe) = &mut stdout
                && let Ok(count @ 1..) = pipe.read(&mut bytes).await
            {
                for byte in &bytes[..count] {
                    if *byte == b'\n' || said.len() == LONGEST {
                        line(&readable(&said));
                        said.clear();
                    }
                    if *byte != b'\n' {
                        said.push(*byte);
                    }
                }
            }
        };
        let ended = {
            let all = async {
                let hearing = hear();
                tokio::pin!(hearing);
                let ended = tokio::select! {
                    ended = child.wait() => ended,
                    () = &mut hearing => return child.wait().await,
                };
                let _ = tokio::time::timeout(DRAIN, hearing).await;
                ended
            };
            tokio::time::timeout(self.limit, all).await
        };
        drop(stdin);
        if !said.is_empty() {
            line(&readable(&said));
        }
        match ended {
            Ok(Ok(status)) => Ok(Some(status.code().unwrap_or(1))),
            Ok(Err(error)) => Err(self.fails("lost", error.to_string())),
            Err(_) => {
                let _ = child.wait().await;
                Ok(None)
            }
        }
    }

    /// Runs it to its end. Anything but success is an error with its own words.
    pub async fn run(mut self) -> Result<Output, StepError> {
        let fail = |end: &str, message: String| StepError {
            blame: Blame::Machine,
            program: Some(format!("{} ({end})", self.name)),
            message,
        };
        let locks = match self.outlives {
            true => Vec::new(),
            false => LOCKS.try_with(Vec::clone).unwrap_or_default(),
        };
        let named: Vec<RawFd> = locks.iter().map(|lock| lock.as_raw_fd()).collect();
        // SAFETY: what runs between fork and exec makes two system calls.
        unsafe { self.command.pre_exec(move || keep_only(&named)) };
        let mut child = self
            .command
            .spawn()
            .map_err(|error| fail("not started", error.to_string()))?;
        let mut group = Group::of(child.id());
        let input = self.stdin.take();
        let pipe = child.stdin.take();
        let feed = async {
            if let (Some(mut pipe), Some(bytes)) = (pipe, input) {
                // A program that does not want its input says so by its exit code.
                let _ = pipe.write_all(&bytes).await;
            }
        };
        let finish = async { tokio::join!(feed, child.wait_with_output()).1 };
        let ended = tokio::time::timeout(self.limit, finish).await;
        let output = match ended {
            Err(_) => {
                drop(group);
                let limit = self.limit.as_secs();
                return Err(self.fails("timed out", format!("did not end within {limit} s")));
            }
            Ok(Err(error)) => return Err(self.fails("lost", error.to_string())),
            Ok(Ok(output)) => output,
        };
        group.ended();
        let code = output.status.code();
        if code == Some(0) || (code.is_some() && code == self.also) {
            return Ok(Output {
                stdout: output.stdout,
                stderr: output.stderr,
            });
        }
        let said = [&output.stderr, &output.stdout]
            .into_iter()
            .find(|bytes| !bytes.trim_ascii().is_empty());
        let message = said.map_or_else(|| "it printed nothing".to_owned(), |bytes| tail(bytes));
        Err(fail(&end(output.status), message))
    }
}

/// A program that waits for its input to end.
pub(super) struct Holding {
    name: String,
    child: tokio::process::Child,
}

impl Holding {
    /// Ends its input, and waits for it.
    pub(super) async fn release(mut self) -> Result<(), StepError> {
        drop(self.child.stdin.take());
        let fail = |end: &str, message: String| StepError {
            blame: Blame::Machine,
            program: Some(format!("{} ({end})", self.name)),
            message,
        };
        let output = match self.child.wait_with_output().await {
            Ok(output) => output,
            Err(error) => return Err(fail("lost", error.to_string())),
        };
        match output.status.success() {
            true => Ok(()),
            false => Err(fail(&end(output.status), tail(&output.stderr))),
        }
    }
}

/// The standard library looks a program up in the parent's `PATH`; here the
/// child's counts.
fn find(program: &OsStr) -> OsString {
    if program.as_encoded_bytes().contains(&b'/') {
        return program.to_owned();
    }
    std::env::split_paths(PATH)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .map_or_else(|| program.to_owned(), PathBuf::into_os_string)
}

/// Whether there is a program of this name.
pub(super) fn is_installed(program: &str) -> bool {
    find(OsStr::new(program)) != program
}

fn end(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => Signal::try_from(signal)
            .map_or_else(|_| format!("signal {signal}"), |signal| signal.to_string()),
        (None, None) => "ended".to_owned(),
    }
}

/// The last words, with everything escaped that a terminal would obey.
fn tail(bytes: &[u8]) -> String {
    let bytes = bytes.trim_ascii();
    readable(&bytes[bytes.len().saturating_sub(LAST_WORDS)..])
}

fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    for c in text.replace("\r\n", "\n").chars() {
        if c == '\n' || c == '\t' || !c.is_control() {
            out.push(c);
        } else {
            out.extend(c.escape_default());
        }
    }
    out
}

/// A process group that is killed unless its leader has ended.
struct Group(Option<Pid>);

impl Group {
    fn of(leader: Option<u32>) -> Self {
        let leader = leader.and_then(|pid| i32::try_from(pid).ok());
        Self(leader.filter(|pid| *pid > 1).map(Pid::from_raw))
    }

    fn ended(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[tokio::test]
    async fn a_failure_names_the_program_its_end_and_its_words() {
        let error = Program::new("ls").arg("/nowhere").run().await.unwrap_err();
        assert_eq!(error.program.as_deref(), Some("ls (exit 2)"));
        assert!(error.message.contains("/nowhere"), "{error}");
        let error = Program::new("no-such-program").run().await.unwrap_err();
        assert!(error.to_string().contains("not started"), "{error}");
    }

    #[tokio::test]
    async fn the_environment_is_made_from_nothing_and_input_is_fed() {
        let output = Program::new("env").env("X", "1").run().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut keys: Vec<&str> = text.lines().filter_map(|l| l.split('=').next()).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["LANG", "PATH", "X"]);
        let input = vec![b'x'; 1 << 20];
        let output = Program::new("cat").stdin(input.clone()).run().await;
        assert_eq!(output.unwrap().stdout, input);
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_ends_with_its_group() {
        let started = std::time::Instant::now();
        let error = Program::new("sh")
            .args(["-c", "sleep 30 & sleep 30"])
            .limit(Duration::from_millis(200))
            .run()
            .await
            .unwrap_err();
        assert!(error.to_string().contains("timed out"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    async fn descriptors() -> BTreeMap<i32, String> {
        let seen = Program::new("ls").args(["-l", "/proc/self/fd"]).run().await;
        let text = String::from_utf8(seen.unwrap().stdout).unwrap();
        let each = text.lines().filter_map(|line| {
            let (left, target) = line.split_once(" -> ")?;
            Some((left.rsplit(' ').next()?.parse().ok()?, target.to_owned()))
        });
        // The folder that `ls` itself reads.
        each.filter(|(_, target)| !target.ends_with("/fd"))
            .collect()
    }

    #[tokio::test]
    async fn l49_a_program_sees_descriptors_0_to_2_and_its_steps_locks() {
        use std::os::fd::IntoRawFd as _;
        let lock = tempfile::NamedTempFile::new().unwrap();
        let file = Arc::new(lock.reopen().unwrap());
        // One that somebody forgot to close.
        let open = File::open("/").unwrap().into_raw_fd();
        // SAFETY: the descriptor was opened just above.
        assert!(unsafe { libc::fcntl(open, libc::F_SETFD, 0) } >= 0);
        let none: Vec<i32> = descriptors().await.into_keys().collect();
        assert_eq!(none, [0, 1, 2]);
        let with = under(std::slice::from_ref(&file), descriptors()).await;
        let more: Vec<&String> = with.range(3..).map(|(_, target)| target).collect();
        assert_eq!(more, [lock.path().to_str().unwrap()]);
    }

    #[tokio::test]
    async fn a_program_that_outlives_renet_keeps_its_lock_but_no_supervisor_does() {
        let lock = tempfile::NamedTempFile::new().unwrap();
        let other = lock.reopen().unwrap();
        let left_behind = async |detached: bool| {
            let held = Arc::new(lock.reopen().unwrap());
            held.lock().unwrap();
            let program = Program::new("sh").args(["-c", "sleep 0.4 > /dev/null 2>&1 &"]);
            let run = async {
                match detached {
                    true => program.run_detached().await,
                    false => program.run().await.map(drop),
                }
            };
            under(std::slice::from_ref(&held), run).await.unwrap();
        };
        left_behind(false).await;
        assert!(other.try_lock().is_err(), "the lock was not inherited");
        other.lock().unwrap();
        other.unlock().unwrap();
        left_behind(true).await;
        assert!(other.try_lock().is_ok(), "the lock was inherited");
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(tail(b"a\x1b[31mb\nc"), "a\\u{1b}[31mb\nc");
    }
}
