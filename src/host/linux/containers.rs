//! What a daemon shows. Looking never starts one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummaryStateEnum,
    HealthStatusEnum, ImageSummary,
};
use bollard::query_parameters::{
    InspectContainerOptions, ListContainersOptionsBuilder, ListImagesOptions, LogsOptionsBuilder,
};
use futures::StreamExt as _;

use super::dockerd::{self, Silence};
use super::supervisor::Processes;
use super::{limits, listeners, systemd};
use crate::model::{
    Container, ContainerState, Daemon, Health, Layout, Made, Name, NetworkId, Part,
};

/// A supervised daemon that just died is back within this time.
const RESTART: Duration = Duration::from_secs(3);
const CALL: Duration = Duration::from_secs(3);
/// How many containers a daemon is asked about at once.
const CALLS: usize = 8;
const POLL: Duration = Duration::from_millis(50);
/// A container without a check counts as well once it has run this long.
const SETTLED: jiff::SignedDuration = jiff::SignedDuration::from_millis(500);

/// What was seen of one network's daemon.
pub(super) struct Seen {
    pub daemon: Part<Daemon>,
    pub images: Part<BTreeSet<String>>,
    pub containers: Part<BTreeMap<Name, BTreeMap<String, Container>>>,
    pub running: Part<BTreeSet<String>>,
}

impl Seen {
    /// Nothing serves.
    pub(super) fn closed(daemon: Part<Daemon>) -> Self {
        Self {
            daemon,
            images: Part::Hidden,
            containers: Part::Hidden,
            running: Part::Hidden,
        }
    }

    fn unknown(why: String) -> Self {
        Self {
            daemon: Part::Unknown(why.clone()),
            images: Part::Unknown(why.clone()),
            containers: Part::Unknown(why.clone()),
            running: Part::Unknown(why),
        }
    }
}

/// Looks at the daemon, its images and its containers.
pub(super) async fn observe(layout: &Layout, network: NetworkId) -> Seen {
    observe_among(layout, network, &Processes::default()).await
}

/// The same, where what a daemon left is among these processes.
pub(super) async fn observe_among(
    layout: &Layout,
    network: NetworkId,
    processes: &Processes,
) -> Seen {
    let began = Instant::now();
    let (client, supervised) = loop {
        let asked = dockerd::ask(layout, network).await;
        match asked.client {
            Ok(client) => break (client, asked.kept),
            // Waiting for one that hangs would hold up everything else.
            Err(Silence::Mute) => return mute(network),
            Err(Silence::Unseen(why)) => return Seen::unknown(why),
            Err(Silence::Refused) if asked.kept && began.elapsed() < RESTART => {
                tokio::time::sleep(POLL).await;
            }
            Err(Silence::Refused) => {
                return without_answer(layout, network, asked.kept, processes);
            }
        }
    };
    let daemon = Part::Known(Daemon {
        serving: true,
        supervised,
        limits: limits::kept(layout, network),
    });
    match look(&client).await {
        Ok((images, containers, running)) => Seen {
            daemon,
            images: Part::Known(images),
            containers: Part::Known(containers),
            running: Part::Known(running),
        },
        Err(why) => Seen::unknown(format!("the daemon of network {network}: {why}")),
    }
}

fn mute(network: NetworkId) -> Seen {
    Seen::unknown(format!("the daemon of network {network} does not answer"))
}

fn without_answer(
    layout: &Layout,
    network: NetworkId,
    supervised: bool,
    processes: &Processes,
) -> Seen {
    let units = systemd::rules(layout);
    let left = dockerd::left_of(layout, network, processes);
    if supervised || !units && left.iter().any(dockerd::is_daemon) {
        return mute(network);
    }
    // Units that do not run would still start one.
    let started = units && dockerd::has_units(network);
    if !started && left.is_empty() {
        return Seen::closed(Part::Absent);
    }
    Seen::closed(Part::Known(Daemon::LEFT))
}

/// The daemon's answer, while it comes in time.
pub(super) async fn within<T>(
    call: impl Future<Output = Result<T, bollard::errors::Error>>,
) -> Result<T, String> {
    match tokio::time::timeout(CALL, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("does not answer".to_owned()),
    }
}

/// The last lines that a container printed.
pub(super) async fn words(client: &Docker, id: &str, lines: usize) -> String {
    const PARTS: usize = 64;
    let options = LogsOptionsBuilder::new()
        .stdout(true)
        .stderr(true)
        .tail(&lines.to_string())
        .build();
    let said = client.logs(id, Some(options)).take(lines.max(PARTS));
    let text: Vec<String> = said
        .filter_map(|line| async move { line.ok().map(|line| line.to_string()) })
        .collect()
        .await;
    text.concat()
}

type Projects = BTreeMap<Name, BTreeMap<String, Container>>;

async fn look(client: &Docker) -> Result<(BTreeSet<String>, Projects, BTreeSet<String>), String> {
    let all = ListContainersOptionsBuilder::new().all(true).build();
    let (images, listed) = tokio::try_join!(
        within(client.list_images(None::<ListImagesOptions>)),
        within(client.list_containers(Some(all))),
    )?;
    let ids: HashMap<&str, &str> = images
        .iter()
        .flat_map(|image: &ImageSummary| {
            image
                .repo_tags
                .iter()
                .map(|tag| (tag.as_str(), image.id.as_str()))
        })
        .collect();
    let running = listed
        .iter()
        .filter(|summary| summary.state == Some(ContainerSummaryStateEnum::RUNNING))
        .flat_map(|summary| summary.names.iter().flatten().take(1))
        .map(|name| name.trim_start_matches('/').to_owned())
        .collect();
    let calls = listed.iter().filter_map(|summary| {
        let labels = summary.labels.as_ref()?;
        let label = |name: &str| labels.get(name).map(String::as_str);
        let project: Name = label("com.docker.compose.project")?.parse().ok()?;
        let service = label("com.docker.compose.service")?;
        let hash = label("com.docker.compose.config-hash").unwrap_or_default();
        let call =
            client.inspect_container(summary.id.as_deref()?, None::<InspectContainerOptions>);
        Some(async move { (project, service, hash, within(call).await) })
    });
    let mut inspected = futures::stream::iter(calls.collect::<Vec<_>>()).buffered(CALLS);
    let mut projects = Projects::new();
    let mut processes = Vec::new();
    while let Some((project, service, hash, seen)) = inspected.next().await {
        let seen = match seen {
            Ok(seen) => seen,
            // Removed since it was listed.
            Err(why) if why.contains("404") || why.contains("No such container") => continue,
            Err(why) => return Err(why),
        };
        let mut container = container(&seen, hash, &ids);
        if container.ended_badly().is_some() {
            container.last_line = last_line(client, &seen).await;
        }
        let pid = seen.state.as_ref().and_then(|state| state.pid);
        if let Some(pid) = pid
            .and_then(|pid| i32::try_from(pid).ok())
            .filter(|pid| *pid > 0)
        {
            processes.push((project.clone(), service.to_owned(), pid));
        }
        projects
            .entry(project)
            .or_default()
            .insert(service.to_owned(), container);
    }
    for (project, service, ports) in listening(processes).await {
        let container = projects
            .get_mut(&project)
            .and_then(|all| all.get_mut(&service));
        if let Some(container) = container {
            container.everywhere = ports;
        }
    }
    let tags = images
        .iter()
        .flat_map(|image| image.repo_tags.iter().chain(&image.repo_digests))
        .cloned()
        .collect();
    Ok((tags, projects, running))
}

/// On which ports containers listen on every address; none that does is left out.
async fn listening(processes: Vec<(Name, String, i32)>) -> Vec<(Name, String, BTreeSet<String>)> {
    if processes.is_empty() {
        return Vec::new();
    }
    let look = move || {
        let open = listeners::everywhere();
        let each = processes.into_iter().map(|(project, service, pid)| {
            let ports = listeners::of_container(pid, &open);
            (project, service, ports)
        });
        each.filter(|(.., ports)| !ports.is_empty()).collect()
    };
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

fn container(seen: &ContainerInspectResponse, hash: &str, ids: &HashMap<&str, &str>) -> Container {
    let state = seen.state.as_ref();
    let started = state
        .and_then(|state| state.started_at.clone())
        .unwrap_or_default();
    let status = state.and_then(|state| state.status);
    let image = seen
        .config
        .as_ref()
        .and_then(|config| config.image.as_deref());
    let now_stands_for = image.and_then(|image| ids.get(image));
    let health = state
        .and_then(|state| state.health.as_ref())
        .and_then(|health| health.status);
    Container {
        id: Made::Is(seen.id.clone().unwrap_or_default()),
        config_hash: hash.to_owned(),
        stale_image: now_stands_for.is_some_and(|id| Some(*id) != seen.image.as_deref()),
        state: match status {
            Some(ContainerStateStatusEnum::RUNNING) => ContainerState::Running,
            Some(ContainerStateStatusEnum::EXITED) => {
                ContainerState::Exited(state.and_then(|state| state.exit_code).unwrap_or_default())
            }
            _ => ContainerState::Other,
        },
        health: match health {
            Some(HealthStatusEnum::HEALTHY) => Health::Healthy,
            Some(HealthStatusEnum::UNHEALTHY) => Health::Unhealthy,
            Some(HealthStatusEnum::STARTING) => Health::Starting,
            _ if is_settled(&started) => Health::Healthy,
            _ => Health::Starting,
        },
        started: Made::Is(started),
        last_line: None,
        everywhere: BTreeSet::new(),
    }
}

/// The last that it said.
async fn last_line(client: &Docker, seen: &ContainerInspectResponse) -> Option<String> {
    const LONGEST: usize = 300;
    let id = seen.id.as_deref()?;
    let said = within(async { Ok(words(client, id, 1).await) })
        .await
        .ok()?;
    let line = said.lines().next_back()?.trim();
    (!line.is_empty()).then(|| line.chars().take(LONGEST).collect())
}

fn is_settled(started: &str) -> bool {
    let Ok(started) = started.parse::<jiff::Timestamp>() else {
        return false;
    };
    jiff::Timestamp::now().duration_since(started) >= SETTLED
}
