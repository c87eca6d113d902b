use std::collections::BTreeSet;
use std::net::SocketAddrV4;

use crate::model::{
    Actual, ContainerState, Desired, Guid, Health, Part, Published, Repository, RouteRecord,
    RouteTable, RunState,
};

/// The route table, from what was *observed*: it never names a service that was
/// not seen running, and drops one only when it was seen not to run. What cannot
/// be seen stays as it is published: for other objects only absent is absence.
/// So do the routes of `busy` repositories, on which this plan has yet to work.
pub fn table(desired: &Desired, observed: &Actual, busy: &BTreeSet<Guid>) -> RouteTable {
    let none = RouteTable::new();
    let published = observed.published.known().unwrap_or(&none);
    let mut table = RouteTable::new();
    for (name, route) in observed.routes.known().into_iter().flatten() {
        let entry = Published {
            host: route.host.clone(),
            backend: SocketAddrV4::new(route.address, route.port),
        };
        let running = match busy.contains(&route.repository) {
            true => None,
            false => running(desired, observed, route),
        };
        match running {
            Some(true) => {
                table.insert(name.clone(), entry);
            }
            Some(false) => {}
            None => {
                if let Some(kept) = published.get(name) {
                    table.insert(name.clone(), kept.clone());
                }
            }
        }
    }
    table
}

/// Whether the route's service serves; `None` where that cannot be seen.
fn running(desired: &Desired, observed: &Actual, route: &RouteRecord) -> Option<bool> {
    let spec = desired.repositories.get(&route.repository);
    let nothing = Repository::default();
    let repo = match &observed.repositories {
        Part::Known(all) => all.get(&route.repository).unwrap_or(&nothing),
        Part::Absent => &nothing,
        _ => return None,
    };
    match &repo.containers {
        Part::Known(projects) => {
            let container = projects
                .get(&route.project)
                .and_then(|services| services.get(&route.service));
            let Some(container) = container else {
                return Some(false);
            };
            match (container.state, container.health) {
                (ContainerState::Running, Health::Healthy) => Some(true),
                // Started a moment ago: what is published stays until it is known.
                (ContainerState::Running, _) => None,
                _ => Some(false),
            }
        }
        // Told to be down and seen to have no daemon: it is down.
        _ if repo.daemon.is_absent()
            && spec.is_some_and(|spec| spec.state != RunState::Running) =>
        {
            Some(false)
        }
        Part::Absent => Some(false),
        _ => None,
    }
}
