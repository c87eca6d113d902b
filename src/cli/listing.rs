//! Every object, as it was seen and as the agent remembers it: what `get` and
//! `status` show.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::output::count;
use crate::agent::{self, Status, last_status};
use crate::execute::{FileLocks, Lock, Locking as _, Mode, Wave};
use crate::model::{
    Blocked, Container, ContainerState, Health, Layout, Object, ProjectSpec, Repository,
    RepositorySpec, RouteSpec, RunState, Size,
};
use crate::router;

/// Objects and how they fare: what `renet get -o json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Listing {
    /// The objects that were asked for.
    pub objects: Vec<Row>,
    /// The agent; missing where none ever ran here.
    pub agent: Option<AgentState>,
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Row {
    /// `machine`, `datastore`, `repository`, `service`, `route` or `proxy`.
    pub kind: &'static str,
    /// Its name, a service's with its repository: `shop/web`. Missing where
    /// there is one of its kind.
    pub name: Option<String>,
    /// Whether it is what the manifests say.
    pub sync: SyncState,
    /// Whether it is well; missing where nothing of it is to run.
    pub health: Option<HealthState>,
    /// Why it is not in sync: a reason of the public list.
    pub reason: Option<String>,
    /// The same for people; of an object in sync what it is.
    pub message: String,
    /// The revision of the folder that it last was in sync with.
    pub applied: Option<String>,
    /// The revision that was last tried on it.
    pub attempted: Option<String>,
    /// Since when agent or apply find it like this.
    pub since: Option<Timestamp>,
    /// What of its compose file does not do what it says, each with its place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What it asks the proxy for and does not get, each with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
}

/// Whether an object is what the manifests say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum SyncState {
    /// It is.
    Synced,
    /// It is not; the next apply or pass changes it.
    OutOfSync,
    /// The agent works on it.
    Progressing,
    /// Something is in the way.
    Blocked,
    /// A step failed; the agent tries it again.
    Failed,
    /// It was told to be left alone.
    Suspended,
    /// Its time was over.
    Expired,
}

/// Whether an object is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub enum HealthState {
    /// It is.
    Healthy,
    /// It starts.
    Progressing,
    /// It could not be seen.
    Unknown,
    /// It is not.
    Degraded,
    /// It is not there yet.
    Missing,
}

/// What the agent tells of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentState {
    /// Whether one runs now.
    pub running: bool,
    /// The process of the last one.
    pub pid: Option<u32>,
    /// The folder that was last applied.
    pub source: String,
    /// The revision of the folder that was last read.
    pub revision: Option<String>,
    /// When that was.
    pub revision_since: Option<Timestamp>,
    /// When the agent last looked at everything.
    pub last_pass: Option<Timestamp>,
    /// When it does so again, if nothing happens before.
    pub next_pass: Option<Timestamp>,
    /// What it found wrong with the folder.
    pub problems: Vec<String>,
}

impl Row {
    /// The object as people name it: `service/shop/web`.
    pub fn label(&self) -> String {
        match &self.name {
            Some(name) => format!("{}/{name}", self.kind),
            None => self.kind.to_owned(),
        }
    }
}

impl AgentState {
    /// What a status says of the agent.
    pub fn of(status: &Status, running: bool) -> Self {
        Self {
            running,
            pid: (status.pid != 0).then_some(status.pid),
            source: status.source.clone(),
            revision: status.revision.clone(),
            revision_since: status.revision_since,
            last_pass: status.last_pass,
            next_pass: status.next_pass.filter(|_| running),
            problems: status.problems.clone(),
        }
    }
}

/// What the agent last wrote down, and whether one runs.
pub async fn agent_status(layout: &Layout) -> (Option<Status>, bool) {
    let status = last_status(&layout.agent()).known().cloned();
    let locks = FileLocks::new(layout.locks(), Duration::ZERO, |_, _| ());
    let running = locks.lock(Lock::Agent, Mode::Shared).await.is_err();
    (status, running)
}

/// Every object, as it was seen and as the agent remembers it.
pub fn listing(wave: &Wave, status: Option<&Status>, running: bool) -> Listing {
    let mut objects: Vec<Object> = Vec::new();
    let blocked = wave.plan.blocked.keys().cloned();
    for object in wave.desired.objects().chain(blocked) {
        // Without a Machine manifest nobody asked for the datastore.
        let wanted = object != Object::Datastore
            || wave.desired.datastore.is_some()
            || wave.plan.blocked.contains_key(&object);
        if wanted && !objects.contains(&object) {
            objects.push(object);
        }
    }
    // A repository's services follow it.
    objects.sort_by_cached_key(|object| {
        let label = wave.desired.label(object);
        let name = label.split('/').skip(1).map(str::to_owned);
        (rank(object), name.collect::<Vec<_>>())
    });
    let mut warnings: BTreeMap<Object, Vec<String>> = BTreeMap::new();
    for (object, warning) in crate::model::warnings(&wave.desired, &wave.actual) {
        warnings
            .entry(object)
            .or_default()
            .push(warning.to_string());
    }
    let rows = objects.iter().map(|object| Row {
        warnings: warnings.remove(object).unwrap_or_default(),
        ..row(wave, object, status, running)
    });
    Listing {
        objects: rows.collect(),
        agent: status.map(|status| AgentState::of(status, running)),
    }
}

impl Listing {
    /// Puts in what the router says: what each object asks for and does not get, and
    /// where a route answers.
    pub fn routed(&mut self, wave: &Wave, routes: &[router::Row]) {
        for route in routes {
            let Some(object) = asker(wave, &route.source) else {
                continue;
            };
            let label = wave.desired.label(&object);
            let at = self.objects.iter().position(|row| row.label() == label);
            let at = match (at, &object) {
                (Some(at), _) => at,
                // It is shown where there is something to say of it.
                (None, Object::Machine) => {
                    self.objects.insert(0, row(wave, &object, None, false));
                    0
                }
                (None, _) => continue,
            };
            let row = &mut self.objects[at];
            if let Some(why) = &route.refused {
                let what = match route.source == format!("route/{}", route.name) {
                    true => why.clone(),
                    false => format!("{}: {why}", route.name),
                };
                row.refused.push(what);
                if row.sync != SyncState::Suspended {
                    row.health = Some(HealthState::Degraded);
                }
            } else if let Object::Route(name) = &object
                && row.sync == SyncState::Synced
                && route
                    .entry_points
                    .iter()
                    .any(|point| point == router::WEBSECURE)
                && let (Some(spec), Some(proxy)) =
                    (wave.desired.routes.get(name), &wave.desired.proxy)
            {
                row.message = leads(wave, spec, "https", proxy.https.filter(|port| *port != 443));
            }
        }
    }
}

/// Who asked for it: the Machine, a Route, the Service whose container's label it is, or the
/// repository of another container.
fn asker(wave: &Wave, source: &str) -> Option<Object> {
    match source.split_once('/') {
        None => None,
        Some(("machine", _)) => Some(Object::Machine),
        Some(("route", name)) => Some(Object::Route(name.parse().ok()?)),
        Some((network, service)) => {
            let mut all = wave.desired.repositories.values();
            let spec = all.find(|spec| spec.network.to_string() == network)?;
            let mut projects = spec.projects.iter();
            let project = projects.find(|(_, project)| project.services.contains_key(service));
            Some(match project {
                Some((project, _)) => Object::Service(spec.guid, project.clone()),
                None => Object::Repository(spec.guid),
            })
        }
    }
}

/// Where a route answers, and where it leads.
fn leads(wave: &Wave, route: &RouteSpec, scheme: &str, port: Option<u16>) -> String {
    let port = port.map_or(String::new(), |port| format!(":{port}"));
    let none = Repository::default();
    let seen = wave.actual.repo(route.repository, &none).unwrap_or(&none);
    let to = match address(seen, &route.service) {
        Some(address) => address.to_string(),
        None => format!("{}/{}", wave.desired.name(route.repository), route.service),
    };
    format!("{scheme}://{}{port} → {to}:{}", route.host, route.port)
}

fn row(wave: &Wave, object: &Object, status: Option<&Status>, running: bool) -> Row {
    let label = wave.desired.label(object);
    let known = status.and_then(|status| status.objects.get(&label));
    let differs = wave.plan.more.contains(object)
        || wave.plan.steps.iter().any(|step| step.object() == *object);
    let (health, message) = seen(wave, object);
    let (mut reason, mut message) = match wave.plan.blocked.get(object) {
        Some(why) => (Some(why.reason().to_owned()), why.to_string()),
        None => (None, message),
    };
    let remembers = |sync| known.is_some_and(|row| row.sync == sync);
    let crashes = known.is_some_and(|row| row.reason.as_deref() == Some(Blocked::CRASH_LOOPING));
    let sync = match wave.plan.blocked.get(object) {
        Some(Blocked::Suspended(_)) => SyncState::Suspended,
        Some(Blocked::Expired { .. }) => SyncState::Expired,
        Some(_) => SyncState::Blocked,
        None if !differs => SyncState::Synced,
        None if running && remembers(agent::Sync::Progressing) => SyncState::Progressing,
        None if remembers(agent::Sync::Failed) => SyncState::Failed,
        None if running && crashes => SyncState::Blocked,
        None => SyncState::OutOfSync,
    };
    let remembered = sync == SyncState::Failed || sync == SyncState::Blocked && reason.is_none();
    if let (true, Some(row)) = (remembered, known) {
        reason.clone_from(&row.reason);
        message.clone_from(&row.message);
    }
    let same = |row: &&agent::ObjectStatus| match row.sync {
        agent::Sync::Synced => sync == SyncState::Synced,
        agent::Sync::Progressing => sync == SyncState::Progressing,
        agent::Sync::Blocked => sync == SyncState::Blocked && row.reason == reason,
        agent::Sync::Failed => sync == SyncState::Failed,
        agent::Sync::Quiet => matches!(sync, SyncState::Suspended | SyncState::Expired),
    };
    let since = known.filter(same).map(|row| row.since);
    let (kind, name) = match label.split_once('/') {
        Some((_, name)) => (kind(object), Some(name.to_owned())),
        None => (kind(object), None),
    };
    Row {
        kind,
        name,
        sync,
        health: health.filter(|_| sync != SyncState::Suspended),
        reason,
        message,
        applied: known.and_then(|row| row.applied.clone()),
        attempted: known.and_then(|row| row.attempted.clone()),
        since,
        warnings: Vec::new(),
        refused: Vec::new(),
    }
}

/// What is shown first.
fn rank(object: &Object) -> u8 {
    match object {
        Object::Machine => 0,
        Object::Datastore => 1,
        Object::Repository(_) | Object::Service(..) => 2,
        Object::Route(_) => 3,
        Object::Proxy => 4,
    }
}

fn kind(object: &Object) -> &'static str {
    match object {
        Object::Machine => "machine",
        Object::Datastore => "datastore",
        Object::Repository(_) => "repository",
        Object::Service(..) => "service",
        Object::Route(_) => "route",
        Object::Proxy => "proxy",
    }
}

/// How an object was seen, and what it is.
fn seen(wave: &Wave, object: &Object) -> (Option<HealthState>, String) {
    let none = Repository::default();
    match object {
        Object::Machine | Object::Proxy => (None, String::new()),
        Object::Datastore => datastore(wave),
        Object::Repository(guid) => match wave.desired.repositories.get(guid) {
            None => (None, String::new()),
            Some(spec) => repository(spec, wave.actual.repo(*guid, &none).unwrap_or(&none)),
        },
        Object::Service(guid, project) => {
            let spec = wave.desired.repositories.get(guid);
            let Some(project) = spec.and_then(|spec| spec.projects.get(project)) else {
                return (None, String::new());
            };
            let runs = spec.is_some_and(|spec| spec.state == RunState::Running);
            let seen = wave.actual.repo(*guid, &none).unwrap_or(&none);
            let services = project.services.keys();
            let containers = seen
                .containers
                .known()
                .and_then(|all| all.get(&project.name));
            let ended = |name: &String| containers?.get(name)?.ended_badly();
            let services = services.map(|name| match (address(seen, name), ended(name)) {
                (_, Some(how)) if runs => format!("{name} {how}"),
                (Some(address), _) => format!("{name} {address}"),
                (None, _) => name.clone(),
            });
            let message = services.collect::<Vec<_>>().join(", ");
            let health = match seen.record.is_absent() {
                true => HealthState::Missing,
                false => project_health(project, seen),
            };
            (runs.then_some(health), message)
        }
        Object::Route(name) => route(wave, name),
    }
}

const NOT_YET: &str = "not there yet";

/// The address of a service, where it has one: what a plan would give it is no fact.
fn address(seen: &Repository, service: &str) -> Option<Ipv4Addr> {
    let slot = seen.mirror.known()?.0.get(service)?;
    Some(seen.record.known()?.network.address(*slot))
}

fn datastore(wave: &Wave) -> (Option<HealthState>, String) {
    let seen = &wave.actual.datastore;
    if seen.storage.file.is_absent() {
        return (Some(HealthState::Missing), NOT_YET.to_owned());
    }
    let Some(mount) = seen.storage.mount.known() else {
        return (Some(HealthState::Degraded), "closed".to_owned());
    };
    let message = match seen.free.known() {
        Some(free) => format!("{} of {} used", used(mount.size, *free), mount.size),
        None => mount.size.to_string(),
    };
    (Some(HealthState::Healthy), message)
}

/// What is not free.
pub fn used(size: Size, free: Size) -> Size {
    Size::bytes(size.as_bytes().saturating_sub(free.as_bytes()))
}

fn repository(spec: &RepositorySpec, seen: &Repository) -> (Option<HealthState>, String) {
    let is_new = seen.record.is_absent();
    let mounted = seen.storage.mount.known().is_some();
    let serving = seen.daemon.known().is_some_and(|daemon| daemon.serving);
    let state = match (mounted, serving) {
        (true, true) => None,
        (true, false) => Some("mounted, daemon down"),
        (false, _) if is_new => Some(NOT_YET),
        (false, _) => Some("closed"),
    };
    let network = seen.record.known().map(|record| record.network);
    let what = [
        state.map(str::to_owned),
        Some(count(spec.declared.len(), "service")),
        Some(spec.size.to_string()),
        network.map(|network| format!("network {network}")),
    ];
    let message: Vec<String> = what.into_iter().flatten().collect();
    let health = match (spec.state, state) {
        _ if is_new => Some(HealthState::Missing),
        (RunState::Offline, _) => None,
        (_, Some(_)) => Some(HealthState::Degraded),
        (RunState::Stopped, None) => Some(HealthState::Healthy),
        (RunState::Running, None) => {
            let projects = spec.projects.values();
            let worst = projects.map(|project| project_health(project, seen)).max();
            Some(worst.unwrap_or(HealthState::Healthy))
        }
    };
    (health, message.join(", "))
}

fn route(wave: &Wave, name: &crate::model::Name) -> (Option<HealthState>, String) {
    let Some(route) = wave.desired.routes.get(name) else {
        return (None, String::new());
    };
    let published = wave.actual.published.known();
    let live = published.is_some_and(|table| table.contains_key(name));
    let port = wave.desired.proxy.as_ref().map(|proxy| proxy.http);
    let recorded = wave.actual.routes.known();
    let health = match live {
        true => HealthState::Healthy,
        false if recorded.is_none_or(|all| !all.contains_key(name)) => HealthState::Missing,
        false => HealthState::Degraded,
    };
    let message = leads(wave, route, "http", port.filter(|port| *port != 80));
    (Some(health), message)
}

fn project_health(project: &ProjectSpec, seen: &Repository) -> HealthState {
    let Some(all) = seen.containers.known() else {
        return HealthState::Unknown;
    };
    let nothing = BTreeMap::new();
    let containers = all.get(&project.name).unwrap_or(&nothing);
    let services = project.services.iter();
    let each = services.map(|(name, service)| match containers.get(name) {
        None => HealthState::Degraded,
        Some(container) => container_health(container, service.completes),
    });
    each.max().unwrap_or(HealthState::Healthy)
}

fn container_health(container: &Container, completes: bool) -> HealthState {
    match (container.state, container.health) {
        (ContainerState::Exited(0), _) if completes => HealthState::Healthy,
        (ContainerState::Running, Health::Healthy) => HealthState::Healthy,
        (ContainerState::Running, Health::New | Health::Starting) => HealthState::Progressing,
        _ => HealthState::Degraded,
    }
}
