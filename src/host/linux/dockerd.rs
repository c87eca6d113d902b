//! One Docker daemon a network, kept running by systemd, or where that does not rule
//! by renet's own supervisor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bollard::Docker;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::files::write_json;
use super::records::readable;
use super::supervisor::{self, Process, Processes, Unit};
use super::systemd::{self, State, Systemd};
use super::{LinuxHost, datastore, limits, records, storage, tools, units};
use crate::host::{Done, StepError};
use crate::model::{
    Actual, Blocked, Guid, LOG_LIMITS, Layout, NetworkId, Part, Record, Repository, ResourceLimits,
    Step, Stop, Volume,
};

/// A first start on a slow machine takes 12 s.
const START: Duration = Duration::from_secs(30);
/// The supervisor's own time, and a moment.
const STOP: Duration = Duration::from_secs(100);
/// How long a daemon may take to read its settings again.
const RELOAD: Duration = Duration::from_secs(10);
const PING: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(50);
const LAST_LINES: usize = 20;

/// The exec root. Short: containerd's socket below it must fit 107 bytes.
fn exec_root(layout: &Layout, network: NetworkId) -> PathBuf {
    layout.docker_run(network).join("x")
}

/// Where the daemon's own words go.
pub(crate) fn log(layout: &Layout, network: NetworkId) -> PathBuf {
    layout.docker_lib(network).join("dockerd.log")
}

fn unit(layout: &Layout, guid: Guid, network: NetworkId) -> Result<Unit, StepError> {
    let path = |path: PathBuf| path.display().to_string();
    let lib = layout.docker_lib(network);
    let run = layout.docker_run(network);
    Ok(Unit {
        environment: Vec::new(),
        argv: vec![
            path(tools::dockerd()?),
            "--config-file".to_owned(),
            path(lib.join("daemon.json")),
            "--host".to_owned(),
            match systemd::rules(layout) {
                true => "fd://".to_owned(),
                false => format!("unix://{}", layout.docker_socket(network).display()),
            },
            "--data-root".to_owned(),
            path(layout.docker_data(guid)),
            "--exec-root".to_owned(),
            path(exec_root(layout, network)),
            "--pidfile".to_owned(),
            path(run.join("docker.pid")),
        ],
        log: log(layout, network),
        run,
    })
}

/// Why there is no client.
pub(super) enum Silence {
    /// Nobody listens, or somebody refuses.
    Refused,
    /// Somebody listens, and says nothing.
    Mute,
    /// Nobody can tell.
    Unseen(String),
}

/// Whether something will start the daemon again when it dies, and a client for it.
pub(super) struct Asked {
    pub(super) kept: bool,
    pub(super) client: Result<Docker, Silence>,
}

/// A client for the network's daemon, if it answers.
pub(super) async fn connect(layout: &Layout, network: NetworkId) -> Option<Docker> {
    ask(layout, network).await.client.ok()
}

/// The same, and why there is none. Never starts a daemon: who connects to a socket
/// of systemd's does, so its service is looked at first.
pub(super) async fn ask(layout: &Layout, network: NetworkId) -> Asked {
    let kept = match systemd::rules(layout) {
        true => match state(network).await {
            Ok(State::Running) => true,
            Ok(state) => {
                return Asked {
                    kept: state == State::Changing,
                    client: Err(Silence::Refused),
                };
            }
            Err(error) => {
                return Asked {
                    kept: false,
                    client: Err(Silence::Unseen(error.to_string())),
                };
            }
        },
        false => supervisor::is_supervised(&layout.docker_run(network)),
    };
    let client = ping(&layout.docker_socket(network)).await;
    Asked { kept, client }
}

/// Whether a client is answered: by a daemon that runs, or by one that the socket of
/// systemd's starts.
pub(crate) async fn answers(layout: &Layout, network: NetworkId) -> bool {
    systemd::rules(layout) && has_units(network) || connect(layout, network).await.is_some()
}

async fn state(network: NetworkId) -> Result<State, StepError> {
    let systemd = Systemd::connect().await?;
    systemd.state(&units::docker_service(network)).await
}

/// A client for the daemon that listens there, if it answers.
pub(super) async fn ping(socket: &Path) -> Result<Docker, Silence> {
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

/// Starts the daemon, or puts one that is kept running in the place of one that is not.
pub(super) async fn start(
    layout: &Layout,
    binary: &Path,
    guid: Guid,
    network: NetworkId,
) -> Result<Done, StepError> {
    let unit = unit(layout, guid, network)?;
    let asked = ask(layout, network).await;
    if asked.kept && asked.client.is_ok() {
        return match systemd::rules(layout) {
            true => limit(layout, guid, network).await,
            false => Ok(Done::Already),
        };
    }
    if let Err(Silence::Unseen(why)) = asked.client {
        return Err(StepError::machine(why));
    }
    if !asked.kept {
        // Its containers outlive it (live-restore); the next one takes them over.
        for (pid, _) in daemons(layout, network) {
            let _ = kill(pid, Signal::SIGTERM);
        }
        gone(|| daemons(layout, network), STOP).await;
    }
    let kept = match systemd::rules(layout) {
        true => start_units(layout, binary, guid, network, &unit).await,
        false => spawn(layout, binary, network, &unit, asked.kept).await,
    };
    kept.map_err(|error| {
        let (why, words) = (&error.message, last_lines(&unit.log));
        let message = match words.is_empty() {
            true => why.clone(),
            false => format!("{why}; its log ends:\n{words}"),
        };
        StepError { message, ..error }
    })?;
    Ok(Done::Changed)
}

async fn spawn(
    layout: &Layout,
    binary: &Path,
    network: NetworkId,
    unit: &Unit,
    supervised: bool,
) -> Result<(), StepError> {
    configure(layout, network, true)?;
    if !supervised {
        let id = network.to_string();
        let args = ["daemon", "supervise", "--network-id", &id];
        supervisor::spawn(binary, layout.root(), &args, unit).await?;
    }
    let until = Instant::now() + START;
    while connect(layout, network).await.is_none() {
        if Instant::now() > until {
            let _ = supervisor::stop(&unit.run, STOP).await;
            return Err(StepError {
                program: Some("dockerd".to_owned()),
                ..StepError::machine(format!("did not answer within {} s", START.as_secs()))
            });
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Has the slice of a daemon that runs keep the limits of its record.
async fn limit(layout: &Layout, guid: Guid, network: NetworkId) -> Result<Done, StepError> {
    let wanted = recorded(layout, guid)?;
    if limits::kept(layout, network).is_none_or(|kept| kept == wanted) {
        return Ok(Done::Already);
    }
    let systemd = Systemd::connect().await?;
    limits::set(&systemd, network, &wanted).await?;
    Ok(Done::Changed)
}

/// What its record limits a repository to.
fn recorded(layout: &Layout, guid: Guid) -> Result<ResourceLimits, StepError> {
    let record = readable(records::record(layout, guid))?;
    Ok(record.map(|record| record.limits).unwrap_or_default())
}

async fn start_units(
    layout: &Layout,
    binary: &Path,
    guid: Guid,
    network: NetworkId,
    unit: &Unit,
) -> Result<(), StepError> {
    const GROUP: &str = "docker";
    supervisor::note(unit)?;
    let group = nix::unistd::Group::from_name(GROUP).ok().flatten();
    let files = units::daemon(layout, binary, guid, network, group.map(|_| GROUP));
    let systemd = Systemd::connect().await?;
    systemd.write(Path::new(units::RUN), &files).await?;
    limits::set(&systemd, network, &recorded(layout, guid)?).await?;
    for file in files {
        systemd.start(&file.name).await?;
    }
    Ok(())
}

/// Stops the units and removes them: what is not to run has none.
async fn stop_units(network: NetworkId) -> Result<(), StepError> {
    let names = [
        // Otherwise a client would start what was just stopped.
        units::docker_socket(network),
        units::docker_service(network),
        units::loopback(network),
        limits::slice(network),
    ];
    let systemd = Systemd::connect().await?;
    for name in &names {
        systemd.stop(name).await?;
    }
    systemd.forget(&limits::slice(network)).await?;
    let names = names.iter().map(String::as_str);
    systemd.remove(Path::new(units::RUN), names).await
}

/// Whether something of the units is there, running or not.
pub(super) fn has_units(network: NetworkId) -> bool {
    let folder = Path::new(units::RUN);
    folder.join(units::docker_service(network)).exists()
}

/// Writes the daemon's settings; whether its containers outlive it is one.
fn configure(layout: &Layout, network: NetworkId, outlive: bool) -> Result<(), StepError> {
    let mut config = json!({
        "bridge": "none",
        "iptables": false,
        "ip6tables": false,
        "live-restore": outlive,
        "experimental": true,
        "log-driver": "json-file",
        "log-opts": BTreeMap::from(LOG_LIMITS),
    });
    if limits::has_slices(layout) {
        config["cgroup-parent"] = json!(limits::slice(network));
    }
    let path = layout.docker_lib(network).join("daemon.json");
    write_json(&path, &config, 0o644)
        .map_err(|error| StepError::machine(format!("daemon.json: {error}")))
}

fn last_lines(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

/// Stops the daemon with its containers, then whatever is left of either.
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
    if systemd::rules(layout) && !leftovers(layout, network).is_empty() {
        // Containers whose daemon somebody stopped end by it all the same.
        let systemd = Systemd::connect().await?;
        let _ = systemd.start(&units::docker_service(network)).await;
    }
    if let Some(client) = connect(layout, network).await {
        let_containers_end(layout, network, &client).await?;
    }
    match systemd::rules(layout) {
        true => stop_units(network).await?,
        false => supervisor::stop(&run, STOP).await?,
    }
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

/// Has the daemon's containers end when it does, each within its own grace period. A
/// container that is stopped by itself would not come back with its daemon, though its
/// restart policy says so.
async fn let_containers_end(
    layout: &Layout,
    network: NetworkId,
    client: &Docker,
) -> Result<(), StepError> {
    let said = |message: String| StepError {
        program: Some("dockerd".to_owned()),
        ..StepError::machine(message)
    };
    configure(layout, network, false)?;
    for (pid, _) in daemons(layout, network) {
        let _ = kill(pid, Signal::SIGHUP);
    }
    let until = Instant::now() + RELOAD;
    loop {
        let info = client
            .info()
            .await
            .map_err(|error| said(error.to_string()))?;
        if info.live_restore_enabled == Some(false) {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(said("does not read its settings again".to_owned()));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Every process that names this network's exec root: dockerd, containerd, shims.
pub(super) fn leftovers(layout: &Layout, network: NetworkId) -> Vec<Process> {
    left_of(layout, network, &Processes::default())
}

/// The same, among processes that were looked at.
pub(super) fn left_of(layout: &Layout, network: NetworkId, among: &Processes) -> Vec<Process> {
    let mark = format!("{}", exec_root(layout, network).display());
    among.with(&mark)
}

/// Whether one of them is a dockerd.
pub(super) fn is_daemon((_, line): &Process) -> bool {
    is_program(line, "dockerd")
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
fn daemons(layout: &Layout, network: NetworkId) -> Vec<Process> {
    let mut all = leftovers(layout, network);
    all.retain(is_daemon);
    all
}

fn containerds(layout: &Layout, network: NetworkId) -> Vec<Process> {
    let mut all = leftovers(layout, network);
    all.retain(|(_, line)| is_program(line, "containerd") && !is_program(line, "containerd-shim"));
    all
}

/// Waits until no such process is left; kills what stays.
async fn gone(look: impl Fn() -> Vec<Process>, limit: Duration) {
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
    supervisor::supervise(&layout.docker_run(network), || {
        prepare(layout, network);
        let _ = std::fs::remove_file(layout.docker_socket(network));
    })
}

/// Becomes the daemon of a network, as a service of systemd's. Returns only where it
/// may not, or cannot; its log says so too.
pub(crate) fn run(host: &LinuxHost, network: NetworkId) -> StepError {
    let layout = &host.layout;
    let ready = || -> Result<Unit, StepError> {
        let unit = unit(layout, owner(host, network)?, network)?;
        configure(layout, network, true)?;
        supervisor::note(&unit)?;
        prepare(layout, network);
        Ok(unit)
    };
    match ready() {
        Ok(unit) => StepError::machine(supervisor::become_daemon(&unit).to_string()),
        Err(error) => {
            supervisor::log(&log(layout, network), &format!("renet: {error}\n"));
            error
        }
    }
}

/// Whose the network is, by the records alone; and only where its daemon may run.
fn owner(host: &LinuxHost, network: NetworkId) -> Result<Guid, StepError> {
    let layout = &host.layout;
    for guid in records::guids(layout).map_err(StepError::machine)? {
        let record = records::record(layout, guid);
        let own = |record: &Record| record.is_live() && record.network == network;
        if !record.known().is_some_and(own) {
            continue;
        }
        let repo = Repository {
            record,
            storage: storage::observe(&host.place(Volume::Image(guid))),
            ..Repository::default()
        };
        let actual = Actual {
            datastore: datastore::look(host, None),
            repositories: Part::Known(BTreeMap::from([(guid, repo.into())])),
            ..Actual::default()
        };
        return match (Step::StartDaemon { guid, network }).ready(&actual) {
            Ok(()) => Ok(guid),
            Err(Stop::Hidden) => Err(StepError::machine(format!("{guid} cannot be seen"))),
            Err(Stop::Block(Blocked::NotReady(why) | Blocked::Unknown(why))) => {
                Err(StepError::machine(format!("{guid}: {why}")))
            }
            Err(Stop::Block(other)) => Err(StepError::machine(format!("{guid}: {other:?}"))),
        };
    }
    let none = format!("no repository has the network {network}");
    Err(StepError::machine(none))
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
}
