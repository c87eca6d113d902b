use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use super::session::{Meant, Session};
use crate::agent::{Status, last_status};
use crate::execute::{FileLocks, Lock, Locking as _, Mode, Wave};
use crate::model::{Container, ContainerState, Health, Layout, Object, ProjectSpec, Repository};

/// Show every object, whether it is in sync, and whether it is well
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder of manifests
    #[arg(short = 'f', long, value_name = "PATH")]
    file: Option<PathBuf>,
}

/// Exit code 0.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let meant = Meant {
        file: args.file.clone(),
        ..Meant::default()
    };
    let session = Session::open(layout, &meant)?;
    let wave = session.look().await;
    let folder = session.layout.agent();
    let status = last_status(&folder);
    anstream::println!("{}", objects(&wave, status.known()));
    if let Some(status) = status.known() {
        let locks = FileLocks::new(session.layout.locks(), Duration::ZERO, |_, _| ());
        let runs = locks.lock(Lock::Agent, Mode::Shared).await.is_err();
        anstream::print!("{}", agent(status, wave.actual.now, runs));
    }
    Ok(0)
}

/// A row for every object; what the agent remembers of it comes along.
fn objects(wave: &Wave, status: Option<&Status>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["KIND/NAME", "SYNC", "HEALTH", "REVISION", "AGE", "MESSAGE"]);
    for (object, health, message) in rows(wave) {
        let blocked = wave.plan.blocked.get(&object);
        let differs = wave.plan.steps.iter().any(|step| step.object() == object);
        let sync = match (blocked, differs) {
            (Some(why), _) if why.is_quiet() => why.reason(),
            (Some(_), _) => "Blocked",
            (None, true) => "OutOfSync",
            (None, false) => "Synced",
        };
        let message = blocked.map_or(message, |why| format!("{}: {why}", why.reason()));
        let name = wave.desired.label(&object);
        let known = status.and_then(|status| status.objects.get(&name));
        let revision = known.and_then(|row| row.applied.as_deref());
        let revision = revision.map(|id| id.chars().take(7).collect::<String>());
        let age = known.map(|row| short_age(wave.actual.now, row.since));
        table.add_row([
            name,
            sync.to_owned(),
            health.to_owned(),
            revision.unwrap_or_else(|| "-".to_owned()),
            age.unwrap_or_else(|| "-".to_owned()),
            message,
        ]);
    }
    table.to_string()
}

/// What the agent says of itself, in one line.
fn agent(status: &Status, now: Timestamp, runs: bool) -> String {
    let state = match runs {
        true => format!("agent runs (pid {})", status.pid),
        false => "no agent runs; this is what the last one left".to_owned(),
    };
    let revision = match &status.revision {
        Some(id) => format!("revision {}", id.chars().take(7).collect::<String>()),
        None => "no revision".to_owned(),
    };
    let pass = match status.last_pass {
        Some(at) => format!("looked {} ago", short_age(now, at)),
        None => "has not looked yet".to_owned(),
    };
    let mut out = format!("{state}; {revision} of {}; {pass}\n", status.source);
    for problem in &status.problems {
        let _ = writeln!(out, "  {problem}");
    }
    out
}

/// How long ago, in its largest unit: `5s`, `3m`, `2h`, `12d`.
fn short_age(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn rows(wave: &Wave) -> Vec<(Object, &'static str, String)> {
    let mut rows = Vec::new();
    let none = Repository::default();
    for spec in wave.desired.repositories.values() {
        let seen = wave.actual.repo(spec.guid, &none).unwrap_or(&none);
        let state = match (seen.storage.mount.known(), seen.daemon.known()) {
            (Some(_), Some(daemon)) if daemon.serving => "mounted, daemon up",
            (Some(_), _) => "mounted, daemon down",
            _ => "closed",
        };
        let message = format!("{state}, {}, network {}", spec.size, spec.network);
        rows.push((Object::Repository(spec.guid), "-", message));
        for project in spec.projects.values() {
            let containers = seen
                .containers
                .known()
                .and_then(|all| all.get(&project.name));
            let health = health(project, containers);
            let addresses: Vec<String> = project
                .services
                .iter()
                .map(|(name, service)| format!("{name} {}", service.address))
                .collect();
            let object = Object::Service(spec.guid, project.name.clone());
            rows.push((object, health, addresses.join(", ")));
        }
    }
    let published = wave.actual.published.known();
    for (name, route) in &wave.desired.routes {
        let live = published.is_some_and(|table| table.contains_key(name));
        let port = match wave.desired.proxy.as_ref().map(|proxy| proxy.http) {
            Some(80) | None => String::new(),
            Some(port) => format!(":{port}"),
        };
        let message = format!(
            "http://{}{port} → {}:{}",
            route.host, route.address, route.port
        );
        let health = if live { "Healthy" } else { "Degraded" };
        rows.push((Object::Route(name.clone()), health, message));
    }
    let listed: BTreeSet<Object> = rows.iter().map(|row| row.0.clone()).collect();
    for object in wave
        .plan
        .blocked
        .keys()
        .filter(|object| !listed.contains(object))
    {
        rows.push((object.clone(), "-", String::new()));
    }
    rows
}

fn health(project: &ProjectSpec, containers: Option<&BTreeMap<String, Container>>) -> &'static str {
    let Some(containers) = containers else {
        return "Unknown";
    };
    let of = |name: &String| {
        containers
            .get(name)
            .map(|container| (container.state, container.health))
    };
    let all = |good: fn(ContainerState, Health) -> bool| {
        project
            .services
            .keys()
            .all(|name| of(name).is_some_and(|(state, health)| good(state, health)))
    };
    if all(|state, health| state == ContainerState::Running && health == Health::Healthy) {
        "Healthy"
    } else if all(|state, health| state == ContainerState::Running && health != Health::Unhealthy) {
        "Progressing"
    } else {
        "Degraded"
    }
}
