use std::path::PathBuf;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::listing::{AgentState, HealthState, Listing, SyncState, agent_status, listing, used};
use super::output::{self, Format, age, count, revision, short_time};
use super::proxy::routed;
use super::session::{Meant, Session};
use crate::execute::Wave;
use crate::model::{Layout, Size};

/// Show on one screen how the machine fares
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder of manifests
    #[arg(short = 'f', long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// The machine at a glance: what `renet status -o json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Overview {
    /// Where the manifests are.
    pub source: SourceState,
    /// What is declared, and how it fares.
    pub machine: MachineState,
    /// What wants somebody's attention, object by object.
    pub attention: Vec<Attention>,
    /// The datastore; missing where nobody declares one.
    pub datastore: Option<DatastoreState>,
    /// The agent; missing where none ever ran here.
    pub agent: Option<AgentState>,
}

/// Where the manifests are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceState {
    /// The folder.
    pub path: String,
    /// Its revision now.
    pub revision: String,
    /// Since when agent or apply know that revision; missing where they do not.
    pub since: Option<Timestamp>,
    /// Whether some of it could not be read.
    pub invalid: bool,
    /// Whether everything is as it says.
    pub in_sync: bool,
}

/// What is declared, and how it fares. Every object is counted once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineState {
    /// The machine's name.
    pub name: Option<String>,
    /// How many repositories are declared.
    pub repositories: usize,
    /// How many services (projects).
    pub services: usize,
    /// How many routes.
    pub routes: usize,
    /// Objects in sync and well.
    pub healthy: usize,
    /// Objects in sync that start, or of which nothing is to run.
    pub quiet: usize,
    /// Objects in sync that are not well, or could not be seen.
    pub degraded: usize,
    /// Objects that the next apply or pass changes, or that are worked on.
    pub out_of_sync: usize,
    /// Objects that something is in the way of, or on which a step failed.
    pub blocked: usize,
    /// Objects that were told to be left alone, or whose time was over.
    pub suspended: usize,
}

/// An object that wants somebody's attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Attention {
    /// The object: `repository/vault`.
    pub object: String,
    /// Why.
    pub message: String,
    /// Since when agent or apply know it.
    pub since: Option<Timestamp>,
}

/// How the datastore fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DatastoreState {
    /// Whether there is one.
    pub made: bool,
    /// Whether it is mounted.
    pub open: bool,
    /// Its size in bytes.
    #[schemars(with = "Option<u64>")]
    pub size: Option<Size>,
    /// What of it is used, in bytes.
    #[schemars(with = "Option<u64>")]
    pub used: Option<Size>,
    /// What all images together may come to use, in bytes; those in the trash count.
    #[schemars(with = "u64")]
    pub promised: Size,
}

/// Exit code 0.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let meant = Meant {
        file: args.file.clone(),
        ..Meant::default()
    };
    let session = Session::open(layout, &meant)?;
    session.check_whole()?;
    let wave = session.look().await;
    let (status, running) = agent_status(&session.layout).await;
    let mut listing = listing(&wave, status.as_ref(), running);
    listing.routed(&wave, &routed(&session.layout).await);
    let source = SourceState {
        path: session.source.owner.source.clone(),
        revision: session.source.manifests.digest().short().to_owned(),
        since: None,
        invalid: session.invalid,
        in_sync: wave.plan.in_sync() && !session.invalid,
    };
    let overview = overview(&wave, listing, source);
    output::print(args.output, &overview, || {
        text(&overview, wave.actual.now, output::width())
    })?;
    Ok(0)
}

fn overview(wave: &Wave, listing: Listing, source: SourceState) -> Overview {
    let agent = listing.agent;
    let known = agent.as_ref().filter(|agent| {
        agent.source == source.path && agent.revision.as_ref() == Some(&source.revision)
    });
    let since = known.and_then(|agent| agent.revision_since);
    let kinds = |kind: &str| {
        listing
            .objects
            .iter()
            .filter(|row| row.kind == kind)
            .count()
    };
    let mut machine = MachineState {
        name: wave.desired.machine.as_ref().map(ToString::to_string),
        repositories: kinds("repository"),
        services: kinds("service"),
        routes: kinds("route"),
        ..MachineState::default()
    };
    let mut attention = Vec::new();
    for row in &listing.objects {
        let (counted, why) = match (row.sync, row.health) {
            (SyncState::Synced, Some(HealthState::Healthy)) => (&mut machine.healthy, None),
            (SyncState::Synced, Some(HealthState::Degraded | HealthState::Missing)) => {
                let refused = row.refused.first().map(|why| format!("refused: {why}"));
                let why = refused.unwrap_or_else(|| "not well".to_owned());
                (&mut machine.degraded, Some(why))
            }
            (SyncState::Synced, Some(HealthState::Unknown)) => {
                (&mut machine.degraded, Some("could not be seen".to_owned()))
            }
            (SyncState::Synced, _) => (&mut machine.quiet, None),
            (SyncState::OutOfSync | SyncState::Progressing, _) => (&mut machine.out_of_sync, None),
            (SyncState::Suspended | SyncState::Expired, _) => (&mut machine.suspended, None),
            (SyncState::Blocked | SyncState::Failed, _) => {
                let reason = row.reason.as_deref().unwrap_or("Failed");
                (
                    &mut machine.blocked,
                    Some(format!("{reason}: {}", row.message)),
                )
            }
        };
        *counted += 1;
        attention.extend(why.map(|message| Attention {
            object: row.label(),
            message,
            since: row.since,
        }));
    }
    Overview {
        source: SourceState { since, ..source },
        machine,
        attention,
        datastore: datastore(wave),
        agent,
    }
}

fn datastore(wave: &Wave) -> Option<DatastoreState> {
    let seen = &wave.actual.datastore;
    let mount = seen.storage.mount.known();
    if wave.desired.datastore.is_none() && mount.is_none() {
        return None;
    }
    let free = seen.free.known();
    let images = wave.actual.repositories.known().into_iter().flatten();
    let promised = images.filter_map(|(_, repo)| repo.storage.file.known().or(repo.trash.known()));
    Some(DatastoreState {
        made: !seen.storage.file.is_absent(),
        open: mount.is_some(),
        size: mount.map(|mount| mount.size),
        used: mount.zip(free).map(|(mount, free)| used(mount.size, *free)),
        promised: Size::bytes(promised.map(|size| size.as_bytes()).sum()),
    })
}

fn text(overview: &Overview, now: Timestamp, width: usize) -> String {
    let row = |what: &str, left: String, right: String| [what.to_owned(), left, right];
    let source = &overview.source;
    let since = source
        .since
        .map(|since| format!(" (read {} ago)", age(now, since)));
    let in_sync = match (source.invalid, source.in_sync) {
        (true, _) => "invalid: renet validate",
        (_, true) => "in sync",
        (_, false) => "differs: renet diff",
    };
    let mut rows = vec![row(
        "source",
        format!(
            "{}@{}{}",
            source.path,
            revision(&source.revision),
            since.unwrap_or_default()
        ),
        in_sync.to_owned(),
    )];
    let machine = &overview.machine;
    let states = [
        (machine.healthy, "healthy"),
        (machine.quiet, "quiet"),
        (machine.out_of_sync, "out of sync"),
        (machine.degraded, "degraded"),
        (machine.blocked, "blocked"),
        (machine.suspended, "suspended"),
    ];
    let states = states.iter().filter(|(number, _)| *number > 0);
    let states = states.map(|(number, state)| format!("{number} {state}"));
    let counts = [
        count(machine.repositories, "repository"),
        count(machine.services, "service"),
        count(machine.routes, "route"),
    ];
    let name = machine.name.as_deref().unwrap_or("(unnamed)");
    rows.push(row(
        "machine",
        format!("{name}: {}", counts.join(", ")),
        states.collect::<Vec<_>>().join(", "),
    ));
    for (at, one) in overview.attention.iter().enumerate() {
        let what = if at == 0 { "attention" } else { "" };
        let since = one.since.map(|since| format!(" (for {})", age(now, since)));
        let message = format!("{}{}", one.message, since.unwrap_or_default());
        rows.push(row(what, one.object.clone(), message));
    }
    if let Some(datastore) = &overview.datastore {
        let promised = datastore.promised;
        let left = match (datastore.used, datastore.size) {
            (Some(used), Some(size)) => format!("{used} of {size} used, {promised} promised"),
            _ => format!("{promised} promised"),
        };
        let right = match (datastore.made, datastore.open) {
            (_, true) => "healthy",
            (true, false) => "closed",
            (false, false) => "not there yet",
        };
        rows.push(row("datastore", left, right.to_owned()));
    }
    let agent = overview.agent.as_ref().filter(|agent| agent.running);
    rows.push(match agent {
        Some(agent) => {
            let next = agent.next_pass.map(|at| at.duration_since(now).as_secs());
            let next = next.map(|seconds| format!("timer in {}", short_time(seconds)));
            let pid = agent.pid.unwrap_or_default();
            let next = next.unwrap_or_else(|| "first pass".to_owned());
            row("next", next, format!("agent runs (pid {pid})"))
        }
        None => row("next", "nothing by itself".into(), "no agent runs".into()),
    });
    let widths = output::widths(["", "", ""], &rows);
    let lines = rows.iter().map(|row| output::line(row, &widths, width));
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::super::trial::Trial;
    use super::*;
    use crate::model::{Blocked, Object};

    #[tokio::test]
    async fn one_screen_says_how_the_machine_fares() {
        let trial = Trial::new().await;
        let mut wave = trial.look().await;
        wave.actual.now = Timestamp::from_second(1_000_000).unwrap();
        let status = trial.told(&wave).status();
        let show = |wave: &Wave, running: bool, width| {
            let source = SourceState {
                path: trial.source.owner.source.clone(),
                revision: trial.revision(),
                since: None,
                invalid: false,
                in_sync: wave.plan.in_sync(),
            };
            let listing = listing(wave, Some(&status), running);
            let overview = overview(wave, listing, source);
            let text = text(&overview, wave.actual.now, width);
            text.replace(revision(&trial.revision()), "4f2c1ab")
        };
        insta::assert_snapshot!("status_120", show(&wave, true, 120));
        let route = Object::Route("shop-web".parse().unwrap());
        let repository = wave.desired.objects();
        let mut repository = repository.filter(|object| matches!(object, Object::Repository(_)));
        let repository = repository.next().unwrap();
        let blocked = &mut wave.plan.blocked;
        blocked.insert(repository, Blocked::ImageMissing);
        blocked.insert(route, Blocked::Unresolved("no such service".to_owned()));
        insta::assert_snapshot!("status_blocked_80", show(&wave, false, 80));
    }
}
