//! Runs the functions of Rediaccfiles: bash, in the file's folder, under a guard
//! that ends the whole process group when renet is gone.

use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::files::write_json;
use super::program::Program;
use super::{LinuxHost, containers, project_files, records, supervisor};
use crate::host::{Blame, Cx, Done, StepError};
use crate::model::{Function, Guid, Hook, HookRun, Layout, Name, NetworkId, Part};

/// How long a hook may run where nothing is said: it may pull images.
const LIMIT: Duration = Duration::from_secs(600);
/// The status of a hook that was ended, as `timeout` gives it.
const TIMED_OUT: i32 = 124;
/// How many of its last lines an error repeats.
const LAST_LINES: usize = 20;
/// What a function missing at run time ends with, as in every shell.
const MISSING: &str = "127";
const SCRIPT: &str = r#"source "./$1"
declare -F "$2" >/dev/null || { echo "$1 defines no function $2" >&2; exit "$3"; }
"$2""#;

/// The kernel's id of this boot.
pub(super) fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.unwrap_or_default().trim().to_owned()
}

/// The folder that a project's Rediaccfile lies in.
fn folder(layout: &Layout, guid: Guid, project: &Name) -> PathBuf {
    match project.as_str() {
        "root" => layout.mount(guid),
        _ => layout.project(guid, project),
    }
}

/// Runs one function of a hook, and notes in the record how it ended.
pub(super) async fn run(
    host: &LinuxHost,
    guid: Guid,
    network: NetworkId,
    hook: &Hook,
    function: Function,
    cx: &Cx,
) -> Result<Done, StepError> {
    let layout = &host.layout;
    let text = match project_files::hooks(layout, guid) {
        Part::Known(mut all) => all.remove(&hook.project).map(|found| found.digest),
        Part::Unknown(why) => return Err(StepError::machine(why)),
        Part::Absent | Part::Hidden => None,
    };
    // What was judged is what runs.
    if text.as_ref() != Some(&hook.text) {
        return Err(StepError::race(format!("{} has changed", hook.file)));
    }
    let before = names(layout, network).await?;
    let path = folder(layout, guid, &hook.project).join(&hook.file);
    let called = format!("{} {}", path.display(), function.name());
    let log = log(layout, network);
    let began = format!("{} {called}\n", jiff::Timestamp::now());
    supervisor::log(&log, &began);
    let mut last = std::collections::VecDeque::new();
    let line = |line: &str| {
        supervisor::log(&log, &format!("{}: {line}\n", hook.project));
        if let Some(lines) = &cx.lines {
            // Nobody has to listen.
            let _ = lines.send(format!("{}: {line}", hook.project));
        }
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(line.to_owned());
    };
    let guard = program(host, guid, network, hook, function);
    let limit = cx.limit.unwrap_or(LIMIT);
    let (status, how) = match guard.limit(limit).follow(line).await? {
        Some(status) => (status, format!("exit {status}")),
        None => (TIMED_OUT, format!("ended after {} s", limit.as_secs())),
    };
    let mut own = BTreeSet::new();
    if status == 0 && function == Function::Up {
        own = names(layout, network).await?;
        let prefix = format!("{}-", hook.project);
        let known = run_before(layout, guid, &hook.project)?;
        own.retain(|name| {
            name.starts_with(&prefix) || known.contains(name) || !before.contains(name)
        });
    }
    let run = HookRun {
        inputs: hook.inputs.clone(),
        status,
        boot: boot(),
        containers: own,
    };
    note(layout, guid, &hook.project, function, run)?;
    if status == 0 {
        return Ok(Done::Changed);
    }
    let last: Vec<String> = last.into();
    Err(StepError {
        blame: Blame::Revision,
        program: Some(format!("{called} ({how})")),
        message: match last.is_empty() {
            true => "it printed nothing".to_owned(),
            false => format!("its last lines:\n{}", last.join("\n")),
        },
    })
}

fn program(
    host: &LinuxHost,
    guid: Guid,
    network: NetworkId,
    hook: &Hook,
    function: Function,
) -> Program {
    let layout = &host.layout;
    let mount = layout.mount(guid);
    let socket = layout.docker_socket(network);
    let mut guard = Program::new(&host.binary)
        .args(["daemon", "hook", "--function", function.name(), "--file"])
        .arg(&hook.file)
        .cwd(folder(layout, guid, &hook.project));
    for (name, value) in &hook.environment.0 {
        guard = guard.env(name, value);
    }
    let network = network.to_string();
    guard = guard
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .env("REDIACC_WORKING_DIR", &mount)
        .env("REPOSITORY_PATH", &mount)
        .env("REPOSITORY_NETWORK_ID", &network)
        .env("REPOSITORY_NAME", guid.to_string())
        .env("REDIACC_HOOK", guid.to_string());
    match layout.is_machine() {
        true => guard,
        // So that a renet that it calls means the same machine.
        false => guard.env("RENET_ROOT", layout.root()),
    }
}

/// Where what hooks print is kept.
fn log(layout: &Layout, network: NetworkId) -> PathBuf {
    layout.docker_lib(network).join("hooks.log")
}

async fn names(layout: &Layout, network: NetworkId) -> Result<BTreeSet<String>, StepError> {
    match containers::observe(layout, network).await.running {
        Part::Known(names) => Ok(names),
        Part::Unknown(why) => Err(StepError::machine(why)),
        Part::Absent | Part::Hidden => Ok(BTreeSet::new()),
    }
}

/// The containers that were its own when it last ended well.
fn run_before(layout: &Layout, guid: Guid, project: &Name) -> Result<BTreeSet<String>, StepError> {
    let record = records::readable(records::record(layout, guid))?;
    let run = record.and_then(|mut record| record.hooks.remove(project)?.remove(&Function::Up));
    Ok(run.map(|run| run.containers).unwrap_or_default())
}

fn note(
    layout: &Layout,
    guid: Guid,
    project: &Name,
    function: Function,
    run: HookRun,
) -> Result<(), StepError> {
    let record = records::readable(records::record(layout, guid))?;
    let mut record = record.ok_or_else(|| StepError::machine(format!("{guid} has no record")))?;
    run.note(project, function, &mut record);
    let path = layout.record(guid);
    write_json(&path, &record, records::MODE).map_err(records::failed(&path))
}

/// What the guard does: runs the function, and ends its whole process group when
/// standard input ends. Its exit status is the function's.
pub fn guard(file: &str, function: &str) -> io::Result<u8> {
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    let mut child = Command::new("/bin/bash")
        .args(["--noprofile", "--norc", "-c", SCRIPT, "bash"])
        .args([file, function, MISSING])
        .stdin(Stdio::null())
        // One stream, so that its lines stay in order.
        .stderr(Stdio::from(output))
        .process_group(0)
        .spawn()?;
    let group = i32::try_from(child.id()).map(Pid::from_raw);
    let group = group.map_err(io::Error::other)?;
    std::thread::spawn(move || {
        // Nothing is ever written there: it ends when renet does, or gives up.
        let _ = io::stdin().read(&mut [0]);
        let _ = killpg(group, Signal::SIGKILL);
    });
    let status = child.wait()?;
    if !status.success() {
        // What a failed function left running would run twice the next time.
        let _ = killpg(group, Signal::SIGKILL);
    }
    let code = status.code();
    let code = code.or_else(|| status.signal().map(|signal| 128 + signal));
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
