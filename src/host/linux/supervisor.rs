//! renet's own supervision, for where no systemd does it: one small process
//! per daemon, which outlives the command that started it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::files::{read_json, write_json};
use super::program::{Program, keep_only};
use crate::host::StepError;
use crate::model::Part;

/// A daemon to keep running.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Unit {
    /// The folder of its lock, pid files and description.
    pub run: PathBuf,
    /// Where its output goes.
    pub log: PathBuf,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// What it finds in its environment besides.
    #[serde(default)]
    pub environment: Vec<(String, String)>,
}

const LOCK: &str = "supervisor.pid";
const CHILD: &str = "child.pid";
const UNIT: &str = "unit.json";
const POLL: Duration = Duration::from_millis(20);
/// How long a daemon may take to end when it is told to: its containers end with it,
/// and the time is what systemd gives.
const GRACE: Duration = Duration::from_secs(90);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A daemon that ran this long is well: the next death is a first one.
const WELL: Duration = Duration::from_secs(60);
const LARGEST_LOG: u64 = 10 << 20;

static ENDING: AtomicBool = AtomicBool::new(false);

extern "C" fn end(_: nix::libc::c_int) {
    ENDING.store(true, Ordering::SeqCst);
}

/// Writes down what is to be kept running.
pub(crate) fn note(unit: &Unit) -> Result<(), StepError> {
    write_json(&unit.run.join(UNIT), unit, 0o600)
        .map_err(|error| StepError::machine(format!("{}: {error}", unit.run.display())))
}

/// Starts a supervisor in a session of its own: `binary --root ROOT ARGS…`.
pub(crate) async fn spawn(
    binary: &Path,
    root: &Path,
    args: &[&str],
    unit: &Unit,
) -> Result<(), StepError> {
    note(unit)?;
    // `--fork` leaves nobody to be waited for: the supervisor belongs to init.
    Program::new("setsid")
        .arg("--fork")
        .arg(binary)
        .arg("--root")
        .arg(root)
        .args(args)
        .cwd("/")
        .run_detached()
        .await
}

/// Whether a supervisor holds the lock.
pub(crate) fn is_supervised(run: &Path) -> bool {
    match OpenOptions::new()
        .read(true)
        .write(true)
        .open(run.join(LOCK))
    {
        Ok(file) => matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)),
        Err(_) => false,
    }
}

/// What a supervisor was told to keep running.
pub(crate) fn unit(run: &Path) -> Option<Unit> {
    match read_json::<Unit>(&run.join(UNIT)) {
        Part::Known(unit) => Some(unit),
        _ => None,
    }
}

/// The supervised process, if it lives.
pub(crate) fn child(run: &Path) -> Option<Pid> {
    let pid: i32 = std::fs::read_to_string(run.join(CHILD))
        .ok()?
        .trim()
        .parse()
        .ok()?;
    let unit = unit(run)?;
    let line = command_line(pid)?;
    // Pids are used again: only a process with these very arguments is ours.
    (line == unit.argv).then(|| Pid::from_raw(pid))
}

/// A process's arguments; `None` when it is gone or a zombie.
pub(crate) fn command_line(pid: i32) -> Option<Vec<String>> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    if bytes.is_empty() {
        return None;
    }
    let text = String::from_utf8_lossy(&bytes);
    Some(
        text.trim_end_matches('\0')
            .split('\0')
            .map(str::to_owned)
            .collect(),
    )
}

/// Ends the supervisor, which ends its daemon. Waits until both are gone.
pub(crate) async fn stop(run: &Path, limit: Duration) -> Result<(), StepError> {
    if !is_supervised(run) {
        return Ok(());
    }
    let pid: Option<i32> = std::fs::read_to_string(run.join(LOCK))
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let ours = pid.filter(|pid| {
        command_line(*pid).is_some_and(|line| line.iter().any(|word| word == "supervise"))
    });
    let Some(pid) = ours else {
        return Err(StepError::machine(format!(
            "{}: locked by a process that is no supervisor",
            run.join(LOCK).display()
        )));
    };
    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    let until = Instant::now() + limit;
    while is_supervised(run) {
        if Instant::now() > until {
            return Err(StepError::machine(format!(
                "the supervisor (pid {pid}) does not end"
            )));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// The supervisor itself: keeps the unit in `run` running until it is told to
/// end. `prepare` is called before each start.
pub(crate) fn supervise(run: &Path, prepare: impl Fn()) -> io::Result<()> {
    std::fs::create_dir_all(run)?;
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(run.join(LOCK))?;
    if lock.try_lock().is_err() {
        return Ok(()); // another one is there already
    }
    lock.set_len(0)?;
    writeln!(lock, "{}", std::process::id())?;
    let action = SigAction::new(
        SigHandler::Handler(end),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { sigaction(signal, &action) }?;
    }
    // Daemons leave children behind when they are killed; a zombie among them
    // would look like a living one to the next.
    nix::sys::prctl::set_child_subreaper(true)?;

    let mut pause = Duration::ZERO;
    while !ENDING.load(Ordering::SeqCst) {
        let Part::Known(unit) = read_json::<Unit>(&run.join(UNIT)) else {
            return Err(io::Error::other("the unit's description cannot be read"));
        };
        prepare();
        let began = Instant::now();
        match start(&unit) {
            Ok(pid) => attend(pid),
            Err(error) => log(&unit.log, &format!("renet: could not start: {error}\n")),
        }
        let _ = std::fs::remove_file(run.join(CHILD));
        if began.elapsed() >= WELL {
            pause = Duration::ZERO;
        }
        sleep(pause);
        pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
    }
    Ok(())
}

fn open_log(log: &Path) -> io::Result<File> {
    if let Some(folder) = log.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if std::fs::metadata(log).is_ok_and(|meta| meta.len() > LARGEST_LOG) {
        std::fs::rename(log, log.with_extension("log.1"))?;
    }
    OpenOptions::new().append(true).create(true).open(log)
}

/// Adds a line to a log.
pub(crate) fn log(log: &Path, line: &str) {
    if let Ok(mut file) = open_log(log) {
        let _ = file.write_all(line.as_bytes());
    }
}

fn command(unit: &Unit) -> io::Result<Command> {
    let output = open_log(&unit.log)?;
    let (program, args) = unit
        .argv
        .split_first()
        .ok_or_else(|| io::Error::other("an empty command"))?;
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("HOME", &unit.run)
        .envs(unit.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    Ok(command)
}

fn start(unit: &Unit) -> io::Result<Pid> {
    let mut command = command(unit)?;
    command.process_group(0);
    // SAFETY: what runs between fork and exec makes one system call.
    unsafe { command.pre_exec(|| keep_only(&[])) };
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    std::fs::write(unit.run.join(CHILD), format!("{pid}\n"))?;
    Ok(Pid::from_raw(pid))
}

/// Becomes the daemon, in a service of systemd's: with the sockets that it hands over,
/// and with its ear. Returns only where it cannot.
pub(crate) fn become_daemon(unit: &Unit) -> io::Error {
    const FIRST: RawFd = 3;
    const HANDED: [&str; 4] = [
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "NOTIFY_SOCKET",
    ];
    let mut command = match command(unit) {
        Ok(command) => command,
        Err(error) => return error,
    };
    let given = |name: &str| std::env::var(name).ok();
    command.envs(HANDED.iter().filter_map(|name| Some((name, given(name)?))));
    let sockets = given("LISTEN_FDS").and_then(|count| count.parse::<RawFd>().ok());
    let sockets: Vec<RawFd> = (FIRST..FIRST + sockets.unwrap_or_default()).collect();
    // SAFETY: what runs before exec makes system calls alone.
    unsafe { command.pre_exec(move || keep_only(&sockets)) };
    command.exec()
}

/// Reaps whatever ends, until the daemon itself does.
fn attend(daemon: Pid) {
    let mut told: Option<Instant> = None;
    loop {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => std::thread::sleep(POLL),
            Ok(status) if status.pid() == Some(daemon) => return,
            Ok(_) => {}
            Err(_) => return,
        }
        if ENDING.load(Ordering::SeqCst) {
            match told {
                None => {
                    let _ = kill(daemon, Signal::SIGTERM);
                    told = Some(Instant::now());
                }
                Some(at) if at.elapsed() > GRACE => {
                    let _ = kill(daemon, Signal::SIGKILL);
                }
                Some(_) => {}
            }
        }
    }
}

fn sleep(pause: Duration) {
    let until = Instant::now() + pause;
    while Instant::now() < until && !ENDING.load(Ordering::SeqCst) {
        while matches!(
            waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)),
            Ok(status) if status != WaitStatus::StillAlive
        ) {}
        std::thread::sleep(POLL);
    }
}

/// A process with its arguments.
pub(crate) type Process = (Pid, Vec<String>);

/// The processes of this machine: read once, when somebody asks for the first time.
#[derive(Debug, Default)]
pub(crate) struct Processes(OnceLock<Vec<Process>>);

impl Processes {
    /// Every process whose arguments mention `mark`.
    pub(crate) fn with(&self, mark: &str) -> Vec<Process> {
        let all = self.0.get_or_init(processes);
        let has = |(_, line): &&Process| line.iter().any(|word| word.contains(mark));
        all.iter().filter(has).cloned().collect()
    }
}

fn processes() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| Some((Pid::from_raw(pid), command_line(pid)?)))
        .collect()
}
