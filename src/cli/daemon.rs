//! The Docker daemon of one repository.

use clap::Subcommand;
use serde::Serialize;

use super::output::{Format, facts, print, say};
use super::passthrough::{Here, Target};
use super::repository::{Pause, carry_out, keep};
use super::supervise;
use crate::host::linux::dockerd;
use crate::model::{Act, Daemon, Layout, Part};

/// Docker daemons
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show whether a daemon runs; exit code 0 whatever it does
    Status {
        #[command(flatten)]
        target: Target,
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Open the repository and start its daemon
    Start(Target),
    /// Stop the containers and their daemon; the repository stays open
    Stop {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        pause: Pause,
    },
    /// Stop the containers and their daemon, and start it again
    Restart(Target),
    /// Print what a daemon said last
    Logs {
        #[command(flatten)]
        target: Target,
        /// How many lines
        #[arg(short = 'n', long, default_value_t = 50, value_name = "NUMBER")]
        lines: usize,
    },
    /// Open the repository, so that its daemon can be started
    Setup(Target),
    /// Stop the containers and their daemon, and close the repository
    Teardown {
        #[command(flatten)]
        target: Target,
        /// Accepted and without effect: containers are always stopped
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        pause: Pause,
    },
    #[command(flatten)]
    Kept(supervise::Daemon),
}

/// What programs read.
#[derive(Serialize)]
struct Status {
    network_id: Option<u32>,
    repository: Option<String>,
    guid: Option<String>,
    /// `running`, `stopped`, `failed` or `unknown`.
    state: &'static str,
    socket: Option<String>,
    containers: usize,
    note: String,
}

/// Exit code 0 done, or so already; 3 where it failed or is absent.
pub async fn run(command: &Command, layout: Layout) -> anyhow::Result<u8> {
    match command {
        Command::Kept(command) => supervise::daemon(command, &layout),
        Command::Status { target, output } => status(target, *output, layout).await,
        Command::Start(target) => start(target.find(layout).await?).await,
        Command::Restart(target) => restart(target, layout).await,
        Command::Stop { target, pause } => match target.seek(layout).await? {
            Ok(here) => {
                let suspension = pause.suspension("daemon stop");
                let suspension = keep(&here.record.suspended, suspension);
                let left = left_alone(&here);
                let done = format!("{} is stopped{left}", called(&here));
                act(here, Act::StopDaemon(Some(suspension)), &done, "stopped").await
            }
            Err(absent) => nothing(&absent),
        },
        Command::Logs { target, lines } => logs(target, *lines, layout).await,
        Command::Setup(target) => {
            let here = target.find(layout).await?;
            let done = format!("{} can be started", called(&here));
            act(here, Act::Mount { network: None }, &done, "ready to start").await
        }
        Command::Teardown { target, pause, .. } => match target.seek(layout).await? {
            Ok(here) => {
                let suspension = pause.suspension("daemon teardown");
                let suspension = keep(&here.record.suspended, suspension);
                let (name, left) = (&here.record.name, left_alone(&here));
                let done = format!("{name} is closed{left}");
                let close = true;
                act(here, Act::Down { suspension, close }, &done, "gone").await
            }
            Err(absent) => nothing(&absent),
        },
    }
}

fn called(here: &Here) -> String {
    let (name, network) = (&here.record.name, here.record.network);
    format!("the daemon of {name} (network {network})")
}

fn left_alone(here: &Here) -> String {
    let name = &here.record.name;
    match here.record.owner {
        Some(_) => format!("; left alone until `renet resume repository/{name}`"),
        None => String::new(),
    }
}

fn nothing(absent: &super::Failure) -> anyhow::Result<u8> {
    say(&format!("{absent}: nothing to do\n"));
    Ok(0)
}

async fn act(here: Here, act: Act, done: &str, already: &str) -> anyhow::Result<u8> {
    let already = format!("{} is {already} already", called(&here));
    carry_out(here.session, here.guid, act, done, &already).await
}

async fn start(here: Here) -> anyhow::Result<u8> {
    let done = format!("{} runs", called(&here));
    act(here, Act::Up { network: None }, &done, "running").await
}

async fn restart(target: &Target, layout: Layout) -> anyhow::Result<u8> {
    let here = target.find(layout.clone()).await?;
    let done = format!("{} is stopped", called(&here));
    let code = act(here, Act::StopDaemon(None), &done, "stopped").await?;
    match code {
        0 => start(target.find(layout).await?).await,
        code => Ok(code),
    }
}

async fn status(target: &Target, output: Format, layout: Layout) -> anyhow::Result<u8> {
    let status = match target.seek(layout).await? {
        Ok(here) => seen(&here).await,
        Err(absent) => Status {
            network_id: target.said(),
            repository: None,
            guid: None,
            state: "stopped",
            socket: None,
            containers: 0,
            note: absent.message,
        },
    };
    print(output, &status, || text(&status))?;
    Ok(0)
}

async fn seen(here: &Here) -> Status {
    let repo = here.look().await;
    let (state, note) = match &repo.daemon {
        Part::Known(Daemon { serving: true, .. }) => ("running", String::new()),
        Part::Known(_) => {
            let cure = format!(
                "`renet daemon start --network-id {}` mends it",
                here.record.network
            );
            ("failed", cure)
        }
        Part::Unknown(why) => ("unknown", why.clone()),
        Part::Hidden => (
            "unknown",
            "it waits for a copy that is being made".to_owned(),
        ),
        Part::Absent if repo.storage.mount.known().is_none() => {
            ("stopped", "the repository is closed".to_owned())
        }
        Part::Absent => ("stopped", String::new()),
    };
    let containers = repo.containers.known().into_iter().flatten();
    Status {
        network_id: Some(here.record.network.get()),
        repository: Some(here.record.name.to_string()),
        guid: Some(here.guid.to_string()),
        state,
        socket: Some(here.session.layout.docker_socket(here.record.network))
            .filter(|_| state == "running")
            .map(|socket| socket.display().to_string()),
        containers: containers.map(|(_, services)| services.len()).sum(),
        note,
    }
}

fn text(status: &Status) -> String {
    let rows = [
        ("network", status.network_id.map(|id| id.to_string())),
        ("repository", status.repository.clone()),
        ("state", Some(status.state.to_owned())),
        ("socket", status.socket.clone()),
        ("containers", Some(status.containers.to_string())),
        (
            "note",
            Some(status.note.clone()).filter(|note| !note.is_empty()),
        ),
    ];
    facts(rows)
}

async fn logs(target: &Target, lines: usize, layout: Layout) -> anyhow::Result<u8> {
    let here = match target.seek(layout).await? {
        Ok(here) => here,
        Err(absent) => return nothing(&absent),
    };
    let log = dockerd::log(&here.session.layout, here.record.network);
    match std::fs::read(&log) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            for line in &all[all.len().saturating_sub(lines)..] {
                say(&format!("{}\n", line.escape_debug()));
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            super::output::warn(&format!("{} never ran\n", called(&here)));
        }
        Err(error) => anyhow::bail!("{}: {error}", log.display()),
    }
    Ok(0)
}
