//! One Docker daemon a network, under renet's own supervision.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::query_parameters::{ListContainersOptions, StopContainerOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::files::write_json;
use super::supervisor::{self, Unit};
use super::tools;
use crate::host::{Done, StepError};
use crate::model::{Guid, Layout, NetworkId};

/// A first start on a slow machine takes 12 s.
const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(30);
const PING: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(50);
const LAST_LINES: usize = 20;

/// The exec root. Short: containerd's socket below it must fit 107 bytes.
fn exec_root(layout: &Layout, network: NetworkId) -> PathBuf {
    layout.docker_run(network).join("x")
}

fn unit(layout: &Layout, guid: Guid, network: NetworkId) -> Result<Unit, StepError> {
    let path = |path: PathBuf| path.display().to_string();
    let lib = layout.docker_lib(network);
    let run = layout.docker_run(network);
    Ok(Unit {
        argv: vec![
            path(tools::dockerd()?),
            "--config-file".to_owned(),
            path(lib.join("daemon.json")),
            "--host".to_owned(),
            format!("unix://{}", layout.docker_socket(network).display()),
            "--data-root".to_owned(),
            path(layout.docker_data(guid)),
            "--exec-root".to_owned(),
            path(exec_root(layout, network)),
            "--pidfile".to_owned(),
            path(run.join("docker.pid")),
        ],
        log: lib.join("dockerd.log"),
        run,
    })
}

/// Why there is no client.
pub(super) enum Silence {
    /// Nobody listens, or somebody refuses.
    Refused,
    /// Somebody listens, and says nothing.
    Mute,
}

/// A client for the network's daemon, if it answers.
pub(super) async fn connect(layout: &Layout, network: NetworkId) -> Option<Docker> {
    ask(layout, network).await.ok()
}

/// The same, and why there is none.
pub(super) async fn ask(layout: &Layout, network: NetworkId) -> Result<Docker, Silence> {
    let socket = layout.docker_socket(network);
    let client = Docker::connect_with_unix(
        &format!("unix://{}", socket.display()),
        PING.as_secs() * 30,
        bollard::API_DEFAULT_VERSION,
    )
    .map_err(|_| Silence::Refused)?;
    // Its version is not asked for: it runs programs to say it, and no request
    // names one.
    match tokio::time::timeout(PING, client.ping()).await {
        Ok(Ok(_)) => Ok(client),
        Ok(Err(_)) => Err(Silence::Refused),
        Err(_) => Err(Silence::Mute),
    }
}

/// Starts the daemon, or puts a supervisor over the one that runs.
pub(super) async fn start(
    layout: &Layout,
    binary: &Path,
    guid: Guid,
    network: NetworkId,
) -> Result<Done, StepError> {
    let unit = unit(layout, guid, network)?;
    let supervised = supervisor::is_supervised(&unit.run);
    if supervised && connect(layout, network).await.is_some() {
        return Ok(Done::Already);
    }
    let config = json!({
        "bridge": "none",
        "iptables": false,
        "ip6tables": false,
        "live-restore": true,
        "experimental": true,
        "log-driver": "json-file",
        "log-opts": {"max-size": "10m", "max-file": "3"},
    });
    write_json(
        &layout.docker_lib(network).join("daemon.json"),
        &config,
        0o644,
    )
    .map_err(|error| StepError::machine(format!("daemon.json: {error}")))?;
    if !supervised {
        // Its containers outlive it (live-restore); the next one takes them over.
        for (pid, _) in daemons(layout, network) {
            let _ = kill(pid, Signal::SIGTERM);
        }
        gone(|| daemons(layout, network), STOP).await;
        let id = network.to_string();
        let args = ["daemon", "supervise", "--network-id", &id];
        supervisor::spawn(binary, layout.root(), &args, &unit).await?;
    }
    let until = Instant::now() + START;
    while connect(layout, network).await.is_none() {
        if Instant::now() > until {
            let words = last_lines(&unit.log);
            let _ = supervisor::stop(&unit.run, STOP).await;
            return Err(StepError {
                program: Some("dockerd".to_owned()),
                ..StepError::machine(format!(
                    "did not answer within {} s; its log ends:\n{words}",
                    START.as_secs()
                ))
            });
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(Done::Changed)
}

fn last_lines(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

/// Stops the containers, then the daemon, then whatever is left of either.
pub(super) async fn stop(
    layout: &Layout,
    _guid: Guid,
    network: NetworkId,
) -> Result<Done, StepError> {
    let run = layout.docker_run(network);
    let socket = layout.docker_socket(network);
    if !run.exists() && !socket.exists() && leftovers(layout, network).is_empty() {
        return Ok(Done::Already);
    }
    if let Some(client) = connect(layout, network).await {
        stop_containers(&client).await?;
    }
    supervisor::stop(&run, STOP).await?;
    clear(layout, network).await?;
    for path in [socket, run.clone()] {
        let removed = match path.is_dir() {
            true => std::fs::remove_dir_all(&path),
            false => std::fs::remove_file(&path),
        };
        if let Err(error) = removed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(StepError::machine(format!("{}: {error}", path.display())));
        }
    }
    Ok(Done::Changed)
}

async fn stop_containers(client: &Docker) -> Result<(), StepError> {
    let said = |error: bollard::errors::Error| StepError {
        program: Some("dockerd".to_owned()),
        ..StepError::machine(error.to_string())
    };
    let running = client
        .list_containers(None::<ListContainersOptions>)
        .await
        .map_err(said)?;
    let stops = running
        .iter()
        .filter_map(|container| container.id.as_deref())
        .map(|id| {
            // Each has its own grace period; Docker's default is 10 s.
            client.stop_container(id, None::<StopContainerOptions>)
        });
    for outcome in futures::future::join_all(stops).await {
        outcome.map_err(said)?;
    }
    Ok(())
}

/// Every process that names this network's exec root: dockerd, containerd, shims.
pub(super) fn leftovers(layout: &Layout, network: NetworkId) -> Vec<(Pid, Vec<String>)> {
    let mark = format!("{}", exec_root(layout, network).display());
    supervisor::processes_with(&mark)
}

/// The networks of daemons that run, or left something of themselves.
pub(super) fn networks(layout: &Layout) -> BTreeSet<NetworkId> {
    let entries = std::fs::read_dir(layout.run()).into_iter().flatten();
    let networks = entries.flatten().filter_map(|entry| {
        let name = entry.file_name();
        let id: u32 = name.to_str()?.strip_prefix("docker-")?.parse().ok()?;
        NetworkId::try_from(id).ok()
    });
    networks.collect()
}

/// The networks of daemons that run, or are supervised, by the repository whose
/// data they have.
pub(super) fn strays(layout: &Layout) -> BTreeMap<Guid, NetworkId> {
    let with_data = networks(layout).into_iter().filter_map(|network| {
        let unit = supervisor::unit(&layout.docker_run(network))?;
        let mut after = unit.argv.iter().skip_while(|arg| *arg != "--data-root");
        let data = Path::new(after.nth(1)?);
        let below = data.strip_prefix(layout.datastore().join("interim")).ok()?;
        let guid = below.components().next()?.as_os_str().to_str()?;
        Some((guid.parse().ok()?, network))
    });
    with_data.collect()
}

fn is_program(line: &[String], name: &str) -> bool {
    line.first()
        .and_then(|program| Path::new(program).file_name())
        .is_some_and(|program| program.to_string_lossy().starts_with(name))
}

/// The dockerd processes of this network.
pub(super) fn daemons(layout: &Layout, network: NetworkId) -> Vec<(Pid, Vec<String>)> {
    let mut all = leftovers(layout, network);
    all.retain(|(_, line)| is_program(line, "dockerd"));
    all
}

fn containerds(layout: &Layout, network: NetworkId) -> Vec<(Pid, Vec<String>)> {
    let mut all = leftovers(layout, network);
    all.retain(|(_, line)| is_program(line, "containerd") && !is_program(line, "containerd-shim"));
    all
}

/// Waits until no such process is left; kills what stays.
async fn gone(look: impl Fn() -> Vec<(Pid, Vec<String>)>, limit: Duration) {
    let until = Instant::now() + limit;
    loop {
        let left = look();
        if left.is_empty() {
            return;
        }
        if Instant::now() > until {
            for (pid, _) in left {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
        if Instant::now() > until + limit {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Ends what a dead daemon left: its containers, shims and containerd, and the
/// mounts beneath its run folder.
async fn clear(layout: &Layout, network: NetworkId) -> Result<(), StepError> {
    const PATIENCE: Duration = Duration::from_secs(5);
    for (pid, line) in leftovers(layout, network) {
        if is_program(&line, "containerd-shim") {
            for child in children(pid) {
                let _ = kill(child, Signal::SIGKILL);
            }
        }
        let _ = kill(pid, Signal::SIGTERM);
    }
    gone(|| leftovers(layout, network), PATIENCE).await;
    super::mount::unmount_below(&layout.docker_run(network)).map(drop)
}

fn children(parent: Pid) -> Vec<Pid> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .map(Pid::from_raw)
        .collect()
}

/// The hidden process over one daemon.
pub(crate) fn supervise(layout: &Layout, network: NetworkId) -> std::io::Result<()> {
    supervisor::supervise(&layout.docker_run(network), || prepare(layout, network))
}

/// Takes away what keeps a daemon from starting where another was killed: pid
/// files of processes that are gone, and its containerd.
fn prepare(layout: &Layout, network: NetworkId) {
    const PATIENCE: Duration = Duration::from_secs(5);
    let began = Instant::now();
    loop {
        let left = containerds(layout, network);
        if left.is_empty() || began.elapsed() > 2 * PATIENCE {
            break;
        }
        let signal = if began.elapsed() > PATIENCE {
            Signal::SIGKILL
        } else {
            Signal::SIGTERM
        };
        for (pid, _) in left {
            let _ = kill(pid, signal);
        }
        std::thread::sleep(POLL);
    }
    let run = layout.docker_run(network);
    let _ = std::fs::remove_file(run.join("docker.pid"));
    let _ = std::fs::remove_file(exec_root(layout, network).join("containerd/containerd.pid"));
    let _ = std::fs::remove_file(layout.docker_socket(network));
}
