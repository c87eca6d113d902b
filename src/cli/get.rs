use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::Failure;
use super::output::{self, Format, age, count, readable, revision};
use super::session::{Meant, Session};
use crate::agent::{self, Status, last_status};
use crate::execute::{FileLocks, Lock, Locking as _, Mode, Wave};
use crate::model::{
    Blocked, Container, ContainerState, Health, Layout, Object, ProjectSpec, Repository,
    RepositorySpec, RunState, Size, suggest,
};

/// Show every object, whether it is in sync, and whether it is well
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only one kind (machine, datastore, repository, service, route, proxy), or
    /// one object of it, like `service/shop/web`
    #[arg(value_name = "KIND[/NAME]")]
    what: Option<String>,
    /// The folder of manifests
    #[arg(short = 'f', long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Print rows again as they change, until interrupted
    #[arg(short, long)]
    watch: bool,
}

/// How often `--watch` looks.
const LOOK: Duration = Duration::from_secs(2);

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
}

/// What the agent tells of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
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

/// Exit code 0; 2 for a kind that there is not, 3 where nothing has that name.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let asked = args.what.as_deref().map(Asked::parse).transpose()?;
    let meant = Meant {
        file: args.file.clone(),
        ..Meant::default()
    };
    let session = Session::open(layout, &meant)?;
    let (listing, now) = look(&session, asked.as_ref()).await?;
    if !args.watch {
        output::print(args.output, &listing, || {
            text(&listing, now, output::width())
        })?;
        return Ok(0);
    }
    watch(&session, asked.as_ref(), args.output, listing, now).await
}

/// Every object that was asked for, as it is now.
async fn look(session: &Session, asked: Option<&Asked>) -> anyhow::Result<(Listing, Timestamp)> {
    let wave = session.look().await;
    let (status, running) = agent_status(&session.layout).await;
    let mut listing = listing(&wave, status.as_ref(), running);
    if let Some(asked) = asked {
        listing.objects = asked.select(listing.objects)?;
    }
    Ok((listing, wave.actual.now))
}

/// What the agent last wrote down, and whether one runs.
pub async fn agent_status(layout: &Layout) -> (Option<Status>, bool) {
    let status = last_status(&layout.agent()).known().cloned();
    let locks = FileLocks::new(layout.locks(), Duration::ZERO, |_, _| ());
    let running = locks.lock(Lock::Agent, Mode::Shared).await.is_err();
    (status, running)
}

/// Prints every row, and those that change as they do.
async fn watch(
    session: &Session,
    asked: Option<&Asked>,
    format: Format,
    first: Listing,
    now: Timestamp,
) -> anyhow::Result<u8> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let rows: Vec<_> = first.objects.iter().map(|row| row.cells(now)).collect();
    let widths = output::widths(HEADER, &rows);
    let width = output::width();
    let print = |row: &Row, now| {
        match format {
            Format::Text => {
                let line = output::line(&row.cells(now), &widths, width);
                anstream::print!("{}", readable(&line));
            }
            Format::Json => anstream::println!("{}", serde_json::to_string(row)?),
            Format::Yaml => anstream::print!("---\n{}", serde_yaml::to_string(row)?),
        }
        anyhow::Ok(())
    };
    if format == Format::Text {
        let header = output::line(&HEADER.map(str::to_owned), &widths, width);
        anstream::print!("{header}");
    }
    for row in &first.objects {
        print(row, now)?;
    }
    let mut before = first.objects;
    loop {
        let next = async {
            tokio::time::sleep(LOOK).await;
            look(session, asked).await
        };
        let next = tokio::select! {
            _ = interrupt.recv() => return Ok(130),
            next = next => next,
        };
        let Ok((listing, now)) = next else {
            // It is gone, and may come back.
            continue;
        };
        for row in listing.objects.iter().filter(|row| !before.contains(row)) {
            print(row, now)?;
        }
        before = listing.objects;
    }
}

/// The kinds, as they are asked for, with their plurals.
const KINDS: [(&str, &str); 6] = [
    ("machine", "machines"),
    ("datastore", "datastores"),
    ("repository", "repositories"),
    ("service", "services"),
    ("route", "routes"),
    ("proxy", "proxies"),
];

/// What was asked for: a kind, and perhaps a name of it.
#[derive(Debug)]
struct Asked {
    kind: &'static str,
    name: Option<String>,
}

impl Asked {
    fn parse(text: &str) -> Result<Self, Failure> {
        let (kind, name) = match text.split_once('/') {
            Some((kind, name)) => (kind, Some(name)),
            None => (text, None),
        };
        let lower = kind.to_lowercase();
        let found = KINDS.iter();
        let mut found = found.filter(|(one, many)| [*one, *many].contains(&lower.as_str()));
        let Some((kind, _)) = found.next() else {
            let all = KINDS.iter().map(|(one, _)| *one);
            let cure = match suggest(&lower, KINDS.iter().flat_map(|(one, many)| [*one, *many])) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("kinds: {}", all.collect::<Vec<_>>().join(", ")),
            };
            let kind = kind.escape_debug();
            return Err(Failure::usage(format!("there is no kind `{kind}`; {cure}")));
        };
        let name = name.filter(|name| !name.is_empty());
        Ok(Self {
            kind,
            name: name.map(str::to_owned),
        })
    }

    fn select(&self, rows: Vec<Row>) -> Result<Vec<Row>, Failure> {
        let rows = rows.into_iter().filter(|row| row.kind == self.kind);
        let rows: Vec<Row> = rows.collect();
        let Some(name) = &self.name else {
            return Ok(rows);
        };
        let (mut found, others): (Vec<Row>, Vec<Row>) = rows
            .into_iter()
            .partition(|row| row.name.as_ref() == Some(name));
        if !found.is_empty() {
            found.truncate(1);
            return Ok(found);
        }
        let (kind, name) = (self.kind, name.escape_debug().to_string());
        let names = others.iter().filter_map(|row| row.name.as_deref());
        let cure = match suggest(&name, names.clone()) {
            Some(near) => format!("did you mean `{kind}/{near}`?"),
            None => match names.collect::<Vec<_>>() {
                names if names.is_empty() => format!("there is no {kind} at all"),
                names => format!("there are: {}", names.join(", ")),
            },
        };
        Err(Failure {
            code: 3,
            message: format!("there is no {kind} `{name}`; {cure}"),
        })
    }
}

const HEADER: [&str; 6] = ["KIND/NAME", "SYNC", "HEALTH", "REVISION", "AGE", "MESSAGE"];

impl Row {
    /// The object as people name it: `service/shop/web`.
    pub fn label(&self) -> String {
        match &self.name {
            Some(name) => format!("{}/{name}", self.kind),
            None => self.kind.to_owned(),
        }
    }

    fn cells(&self, now: Timestamp) -> [String; 6] {
        let none = || "-".to_owned();
        let sync = match self.sync {
            SyncState::Synced => "Synced",
            SyncState::OutOfSync => "OutOfSync",
            SyncState::Progressing => "Progressing",
            SyncState::Blocked => "Blocked",
            SyncState::Failed => "Failed",
            SyncState::Suspended => "Suspended",
            SyncState::Expired => "Expired",
        };
        let health = self.health.map_or("-", |health| match health {
            HealthState::Healthy => "Healthy",
            HealthState::Progressing => "Progressing",
            HealthState::Unknown => "Unknown",
            HealthState::Degraded => "Degraded",
        });
        // What was tried matters where it is not what is there.
        let revisions = match (&self.applied, &self.attempted) {
            (Some(applied), Some(tried)) if applied != tried => {
                format!("{}, not {}", revision(applied), revision(tried))
            }
            (None, Some(tried)) => format!("not {}", revision(tried)),
            (applied, _) => applied
                .as_deref()
                .map_or_else(none, |id| revision(id).into()),
        };
        let message = match (&self.reason, self.sync) {
            (Some(reason), SyncState::Blocked | SyncState::Failed) => {
                format!("{reason}: {}", self.message)
            }
            _ => self.message.clone(),
        };
        [
            self.label(),
            sync.to_owned(),
            health.to_owned(),
            revisions,
            self.since.map_or_else(none, |since| age(now, since)),
            message,
        ]
    }
}

/// What people read.
fn text(listing: &Listing, now: Timestamp, width: usize) -> String {
    let rows: Vec<_> = listing.objects.iter().map(|row| row.cells(now)).collect();
    let mut out = match rows.is_empty() {
        true => "nothing of that kind\n".to_owned(),
        false => output::table(HEADER, &rows, width),
    };
    if let Some(agent) = &listing.agent {
        out.push_str(&agent.text(now));
    }
    out
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

    fn text(&self, now: Timestamp) -> String {
        let state = match (self.running, self.pid) {
            (true, Some(pid)) => format!("agent runs (pid {pid})"),
            (true, None) => "an agent starts".to_owned(),
            (false, Some(_)) => "no agent runs; this is what the last one left".to_owned(),
            (false, None) => "no agent runs".to_owned(),
        };
        let id = match &self.revision {
            Some(id) => format!("revision {}", revision(id)),
            None => "no revision".to_owned(),
        };
        let mut out = format!("{state}; {id} of {}", self.source);
        if let Some(at) = self.last_pass {
            out.push_str(&format!("; looked {} ago", age(now, at)));
        }
        out.push('\n');
        for problem in &self.problems {
            out.push_str(&format!("  {problem}\n"));
        }
        out
    }
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
    Listing {
        objects: objects
            .iter()
            .map(|object| row(wave, object, status, running))
            .collect(),
        agent: status.map(|status| AgentState::of(status, running)),
    }
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
    let sync = match wave.plan.blocked.get(object) {
        Some(Blocked::Suspended(_)) => SyncState::Suspended,
        Some(Blocked::Expired { .. }) => SyncState::Expired,
        Some(_) => SyncState::Blocked,
        None if !differs => SyncState::Synced,
        None if running && remembers(agent::Sync::Progressing) => SyncState::Progressing,
        None if remembers(agent::Sync::Failed) => SyncState::Failed,
        None => SyncState::OutOfSync,
    };
    if let (SyncState::Failed, Some(row)) = (sync, known) {
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
            let addresses = project.services.iter();
            let addresses = addresses.map(|(name, service)| format!("{name} {}", service.address));
            let message = addresses.collect::<Vec<_>>().join(", ");
            (runs.then(|| project_health(project, seen)), message)
        }
        Object::Route(name) => route(wave, name),
    }
}

fn datastore(wave: &Wave) -> (Option<HealthState>, String) {
    let seen = &wave.actual.datastore;
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
    let mounted = seen.storage.mount.known().is_some();
    let serving = seen.daemon.known().is_some_and(|daemon| daemon.serving);
    let state = match (mounted, serving) {
        (true, true) => None,
        (true, false) => Some("mounted, daemon down"),
        (false, _) => Some("closed"),
    };
    let what = [
        state.map(str::to_owned),
        Some(count(spec.declared.len(), "service")),
        Some(spec.size.to_string()),
        Some(format!("network {}", spec.network)),
    ];
    let message: Vec<String> = what.into_iter().flatten().collect();
    let health = match (spec.state, state) {
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
    let port = match wave.desired.proxy.as_ref().map(|proxy| proxy.http) {
        Some(80) | None => String::new(),
        Some(port) => format!(":{port}"),
    };
    let (host, address) = (&route.host, route.address);
    let health = match live {
        true => HealthState::Healthy,
        false => HealthState::Degraded,
    };
    let message = format!("http://{host}{port} → {address}:{}", route.port);
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

#[cfg(test)]
mod tests {
    use super::super::trial::Trial;
    use super::*;
    use crate::model::Part;

    /// Revisions are digests of what is declared, whose form may change.
    fn fixed(text: &str, trial: &Trial) -> String {
        text.replace(revision(&trial.revision()), "4f2c1ab")
    }

    #[tokio::test]
    async fn objects_are_shown_as_they_were_seen_and_as_the_agent_remembers_them() {
        let trial = Trial::new().await;
        let mut wave = trial.look().await;
        wave.actual.now = Timestamp::from_second(1_000_000).unwrap();
        let status = trial.told(&wave).status();
        let show = |wave: &Wave, width| {
            let listing = listing(wave, Some(&status), true);
            fixed(&text(&listing, wave.actual.now, width), &trial)
        };
        insta::assert_snapshot!("get_120", show(&wave, 120));
        insta::assert_snapshot!("get_80", show(&wave, 80));

        // What died is out of sync, and what is behind it is not well.
        for repo in trial.host.world().repositories() {
            if let Part::Known(all) = &mut repo.containers {
                all.clear();
            }
        }
        let now = wave.actual.now;
        let mut drifted = trial.look().await;
        drifted.actual.now = now;
        insta::assert_snapshot!("get_drifted_120", show(&drifted, 120));
        let listed = listing(&drifted, None, false);
        assert_eq!(listed.agent, None);
        let web = listed.objects.iter().find(|row| row.kind == "service");
        let web = web.unwrap();
        assert_eq!(web.sync, SyncState::OutOfSync);
        assert_eq!(web.health, Some(HealthState::Degraded));
        assert_eq!((&web.applied, web.since), (&None, None));
    }

    #[tokio::test]
    async fn what_is_not_there_is_answered_with_what_was_meant() {
        let trial = Trial::new().await;
        let rows = listing(&trial.look().await, None, false).objects;
        let select = |text: &str| Asked::parse(text).and_then(|asked| asked.select(rows.clone()));
        let names = |text: &str| {
            let rows = select(text).unwrap();
            rows.iter().map(Row::label).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names("repositories"), "repository/archive repository/shop");
        assert_eq!(names("Service/shop/web"), "service/shop/web");
        assert_eq!(names("datastore"), "datastore");
        let said = [
            "repo",
            "repositry",
            "secret",
            "repository/shpo",
            "route/zzz",
            "machine/x",
        ];
        let said = said.map(|text| {
            let failure = select(text).unwrap_err();
            format!("{}: {failure}\n", failure.code)
        });
        insta::assert_snapshot!("get_wrong", said.concat());
    }

    #[test]
    fn what_was_tried_in_vain_is_shown_beside_what_is_there() {
        let mut row = Row {
            kind: "service",
            name: Some("shop/web".to_owned()),
            sync: SyncState::Blocked,
            health: Some(HealthState::Degraded),
            reason: Some("RevisionFailed".to_owned()),
            message: "this revision failed before".to_owned(),
            applied: Some("aaaaaaaaaaaa".to_owned()),
            attempted: Some("bbbbbbbbbbbb".to_owned()),
            since: None,
        };
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(row.cells(now)[3], "aaaaaaa, not bbbbbbb");
        assert_eq!(
            row.cells(now)[5],
            "RevisionFailed: this revision failed before"
        );
        row.applied = None;
        assert_eq!(row.cells(now)[3], "not bbbbbbb");
    }
}
