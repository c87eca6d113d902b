//! What an operator types at a repository's daemon: renet becomes Docker's own
//! program, so that bytes, terminal, signals and exit code are untouched.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::program::keep_only;
use super::{compose, tools};
use crate::host::StepError;
use crate::model::{Layout, NetworkId};

/// Variables that decide which daemon answers, or what compose reads.
const OURS: [&str; 3] = ["DOCKER_", "COMPOSE_", "BUILDX_"];

/// The caller's environment, without what says where to go.
pub(super) fn environment() -> impl Iterator<Item = (OsString, OsString)> {
    let ours = |name: &OsStr| {
        let name = name.as_encoded_bytes();
        OURS.iter()
            .any(|prefix| name.starts_with(prefix.as_bytes()))
    };
    std::env::vars_os().filter(move |(name, _)| !ours(name))
}

/// Becomes Docker's command line on that network's daemon. Returns only where it
/// cannot.
pub fn docker(layout: &Layout, network: NetworkId, args: &[OsString]) -> StepError {
    let ready = || -> Result<Command, StepError> {
        let mut command = on(layout, network, tools::docker()?)?;
        command.args(args);
        Ok(command)
    };
    become_program(ready(), None)
}

/// Becomes compose on that network's daemon; with a text it is given that alone, in
/// memory, before the arguments. Returns only where it cannot.
pub fn compose(
    layout: &Layout,
    network: NetworkId,
    text: Option<&str>,
    args: &[OsString],
) -> StepError {
    let memory = match text.map(in_memory).transpose() {
        Ok(memory) => memory,
        Err(error) => return StepError::machine(format!("memfd: {error}")),
    };
    let ready = || -> Result<Command, StepError> {
        let mut command = on(layout, network, tools::compose()?)?;
        command.envs(compose::SETTINGS);
        if let Some(memory) = &memory {
            let file = format!("/proc/self/fd/{}", memory.as_raw_fd());
            command.arg("-f").arg(file);
        }
        command.args(args);
        Ok(command)
    };
    become_program(ready(), memory.as_ref())
}

/// A file that nobody else can change.
fn in_memory(text: &str) -> std::io::Result<OwnedFd> {
    let memory = memfd_create(c"compose", MFdFlags::empty())?;
    let mut file = std::fs::File::from(memory);
    file.write_all(text.as_bytes())?;
    Ok(file.into())
}

fn on(
    layout: &Layout,
    network: NetworkId,
    program: impl AsRef<OsStr>,
) -> Result<Command, StepError> {
    let socket = layout.docker_socket(network);
    let mut command = Command::new(program);
    command
        .env_clear()
        .envs(environment())
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .env("DOCKER_CONFIG", compose::home(layout)?);
    Ok(command)
}

fn become_program(command: Result<Command, StepError>, kept: Option<&OwnedFd>) -> StepError {
    let mut command = match command {
        Ok(command) => command,
        Err(error) => return error,
    };
    let kept = kept.map(OwnedFd::as_raw_fd);
    // SAFETY: what runs before exec makes two system calls.
    unsafe { command.pre_exec(move || keep_only(kept.as_slice())) };
    let name = command.get_program().to_string_lossy().into_owned();
    let error = command.exec();
    StepError::machine(format!("{name}: {error}"))
}
