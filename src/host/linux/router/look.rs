//! Containers as routes need them. Looking never starts a daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{
    ContainerStateStatusEnum, ContainerSummary, ContainerSummaryStateEnum, HealthStatusEnum,
};
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptionsBuilder};

use super::super::containers::within;
use super::super::dockerd;
use super::super::proxy::{self, acme};
use super::{Seen, certificates};
use crate::model::{Layout, NetworkId};
use crate::router::Container;

/// Asks every daemon that runs.
pub(super) async fn everything(layout: &Layout) -> Seen {
    let running = dockerd::networks(layout);
    let each = running.iter().map(async |network| {
        let containers = match dockerd::connect(layout, *network).await {
            Some(client) => of_daemon(&client, *network).await.ok(),
            None => None,
        };
        (*network, containers)
    });
    let spec = proxy::spec(layout).unwrap_or_default();
    let mut seen = Seen {
        stopped: stopped(layout, &running),
        certificates: certificates::look(layout, &spec).await,
        no_orders: acme::no_orders(layout, &spec),
        ..Seen::default()
    };
    for (network, containers) in futures::future::join_all(each).await {
        match containers {
            Some(containers) => drop(seen.asked.insert(network, Arc::new(containers))),
            None => drop(seen.mute.insert(network)),
        }
    }
    seen
}

/// Networks that have a repository, and no daemon.
pub(super) fn stopped(layout: &Layout, running: &BTreeSet<NetworkId>) -> BTreeSet<NetworkId> {
    let lib = layout.router();
    let lib = lib.parent().unwrap_or(&lib);
    let entries = std::fs::read_dir(lib).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let id: u32 = name.to_str()?.strip_prefix("docker-")?.parse().ok()?;
            NetworkId::try_from(id).ok()
        })
        .filter(|network| !running.contains(network))
        .collect()
}

/// All containers of one daemon.
pub(super) async fn of_daemon(
    client: &Docker,
    network: NetworkId,
) -> Result<Vec<Container>, String> {
    let all = ListContainersOptionsBuilder::new().all(true).build();
    let listed = within(client.list_containers(Some(all))).await?;
    let mut found = Vec::new();
    for summary in listed {
        let id = summary.id.clone().unwrap_or_default();
        let mut container = container(network, summary);
        // Only there it says what its image exposes.
        if container.serves && container.needs_port() {
            let inspected = within(client.inspect_container(&id, None::<InspectContainerOptions>));
            // Gone since it was listed: word of that is on its way.
            let Ok(inspected) = inspected.await else {
                continue;
            };
            let config = inspected.config.unwrap_or_default();
            (container.tcp, container.udp) = exposed(&config.exposed_ports.unwrap_or_default());
        }
        found.push(container);
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

fn container(network: NetworkId, summary: ContainerSummary) -> Container {
    let runs = summary.state == Some(ContainerSummaryStateEnum::RUNNING);
    let status = summary.status.unwrap_or_default();
    let ill = status.contains("(unhealthy)") || status.contains("(health: starting)");
    let labels: BTreeMap<String, String> = summary.labels.unwrap_or_default().into_iter().collect();
    let name = summary.names.unwrap_or_default().into_iter().next();
    Container {
        network,
        name: name.unwrap_or_default().trim_start_matches('/').to_owned(),
        labels,
        tcp: BTreeSet::new(),
        udp: BTreeSet::new(),
        runs,
        serves: runs && !ill,
    }
}

/// One container of a daemon; nothing where it has none of that name.
pub(super) async fn one(
    client: &Docker,
    network: NetworkId,
    name: &str,
) -> Result<Option<Container>, String> {
    const GONE: u16 = 404;
    let inspected = within(async {
        let options = None::<InspectContainerOptions>;
        match client.inspect_container(name, options).await {
            Err(Error::DockerResponseServerError {
                status_code: GONE, ..
            }) => Ok(None),
            other => other.map(Some),
        }
    });
    let Some(inspected) = inspected.await? else {
        return Ok(None);
    };
    let state = inspected.state.unwrap_or_default();
    let config = inspected.config.unwrap_or_default();
    let runs = state.status == Some(ContainerStateStatusEnum::RUNNING);
    let health = state.health.and_then(|health| health.status);
    let ill = matches!(
        health,
        Some(HealthStatusEnum::STARTING | HealthStatusEnum::UNHEALTHY)
    );
    let mut container = Container {
        network,
        name: name.to_owned(),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        tcp: BTreeSet::new(),
        udp: BTreeSet::new(),
        runs,
        serves: runs && !ill,
    };
    if container.serves && container.needs_port() {
        (container.tcp, container.udp) = exposed(&config.exposed_ports.unwrap_or_default());
    }
    Ok(Some(container))
}

/// The ports of `8080/tcp` and `53/udp`.
fn exposed(ports: &[String]) -> (BTreeSet<u16>, BTreeSet<u16>) {
    let (mut tcp, mut udp) = (BTreeSet::new(), BTreeSet::new());
    for port in ports {
        let (port, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let Ok(port) = port.parse() else { continue };
        match protocol {
            "tcp" => drop(tcp.insert(port)),
            "udp" => drop(udp.insert(port)),
            _ => {}
        }
    }
    (tcp, udp)
}
