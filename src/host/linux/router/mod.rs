//! The one place that publishes routes: what Traefik reads is made by the same function
//! from the same things, whoever publishes.

mod certificates;
mod live;
mod look;
mod serve;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use certificates::Found;

use super::files::{read_json, write_json, write_unsynced};
use super::traefik;
use crate::host::{Done, StepError};
use crate::model::{Format, Layout, Name, NetworkId, Part, RouteRecord, RouteTable};
use crate::router::{Certificate, Container, Input, Kept, NoOrders, Table, parse, render, table};

pub use live::run;
pub use serve::{Health, Refreshed, ask, by_protocol};

/// Labels hold hashes of passwords.
const MODE: u32 = 0o600;

/// What the router remembers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct State {
    format: Format,
    #[serde(flatten)]
    kept: Kept,
    /// Containers that ask for routes, as they were last seen: for a daemon that cannot be
    /// asked, what it had goes on.
    #[serde(default)]
    containers: BTreeMap<NetworkId, Vec<Container>>,
}

/// Everything that routes are made from, as far as it can be seen.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// Of every daemon that was asked: its containers.
    asked: BTreeMap<NetworkId, Vec<Container>>,
    /// Daemons that should be there and could not be asked.
    mute: BTreeSet<NetworkId>,
    /// Networks of repositories whose daemon is stopped.
    stopped: BTreeSet<NetworkId>,
    /// The user's own certificates.
    certificates: Vec<Found>,
    /// Why none can be ordered.
    no_orders: Option<NoOrders>,
}

/// What publishing did.
#[derive(Clone, Debug)]
pub struct Written {
    /// Whether anything was written.
    pub done: Done,
    /// The table.
    pub table: Table,
    /// Files beside ours that Traefik cannot read: it takes no update while they are there.
    pub foreign: Vec<String>,
}

/// The Route manifests that are published. A file that was edited or torn counts as
/// absent: it is ours to write again.
pub(super) fn observe_published(layout: &Layout) -> Part<RouteTable> {
    let path = layout.published_routes();
    match std::fs::read(&path) {
        Ok(bytes) => std::str::from_utf8(&bytes).ok().and_then(parse).into(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Part::Absent,
        Err(error) => Part::Unknown(format!("{}: {error}", path.display())),
    }
}

/// Publishes these Route manifests, and with them what labels ask for. Whoever calls has
/// the routes' lock.
pub(super) async fn publish(layout: &Layout, manifests: &RouteTable) -> Result<Done, StepError> {
    let seen = look::everything(layout).await;
    write(layout, &seen, |_| manifests.clone()).map(|written| written.done)
}

/// Publishes everything anew, as the router would.
pub async fn refresh(layout: &Layout) -> Result<Written, StepError> {
    let seen = look::everything(layout).await;
    let records = super::routes::observe_records(layout);
    write(layout, &seen, |published| {
        manifests(&records, &seen, published)
    })
}

/// The table as it would be published now; nothing is written.
pub async fn preview(layout: &Layout) -> Result<Table, StepError> {
    let seen = look::everything(layout).await;
    let records = super::routes::observe_records(layout);
    let state = state(layout)?;
    let published = observe_published(layout).known().cloned();
    let manifests = manifests(&records, &seen, published.unwrap_or_default());
    Ok(make(layout, &seen, &state, &manifests).0)
}

/// Which Route manifests are served: those whose service is seen to run come, those whose
/// service is seen not to go, and of others what is published stays.
fn manifests(
    records: &Part<BTreeMap<Name, RouteRecord>>,
    seen: &Seen,
    published: RouteTable,
) -> RouteTable {
    let records = match records {
        Part::Known(records) => records,
        Part::Absent => return RouteTable::new(),
        // Nobody can tell.
        _ => return published,
    };
    let now = jiff::Timestamp::now();
    let mut table = RouteTable::new();
    for (name, record) in records {
        let entry = record.published();
        let held = record.suspended.as_ref();
        let network = NetworkId::of(record.address);
        let asked = network.and_then(|network| seen.asked.get(&network));
        let stays = match asked {
            _ if held.is_some_and(|held| held.holds_at(now)) => None,
            None => None,
            Some(containers) => {
                let of = |one: &&Container| one.is_of(&record.project, &record.service);
                match containers.iter().find(of) {
                    None => Some(false),
                    Some(one) if !one.runs => Some(false),
                    Some(one) if one.serves && one.address() == Some(record.address) => Some(true),
                    Some(_) => None,
                }
            }
        };
        match stays {
            Some(true) => drop(table.insert(name.clone(), entry)),
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

fn make(layout: &Layout, seen: &Seen, state: &State, manifests: &RouteTable) -> (Table, State) {
    let mut containers = seen.asked.clone();
    for network in &seen.mute {
        let before = state.containers.get(network).cloned();
        containers.insert(*network, before.unwrap_or_default());
    }
    for all in containers.values_mut() {
        all.retain(Container::asks);
    }
    containers.retain(|_, all| !all.is_empty());
    let declared: BTreeSet<Name> = match super::routes::observe_records(layout) {
        Part::Known(records) => records.into_keys().collect(),
        _ => manifests.keys().cloned().collect(),
    };
    let all: Vec<Container> = containers.values().flatten().cloned().collect();
    let certificates: Vec<Certificate> = seen
        .certificates
        .iter()
        .map(|found| found.certificate.clone())
        .collect();
    let away = seen.mute.union(&seen.stopped).copied().collect();
    let table = table(&Input {
        proxy: &traefik::spec(layout).unwrap_or_default(),
        manifests,
        declared: &declared,
        containers: &all,
        away: &away,
        kept: &state.kept,
        certificates: &certificates,
        no_orders: seen.no_orders.as_ref(),
    });
    let state = State {
        format: Format,
        kept: table.kept.clone(),
        containers,
    };
    (table, state)
}

fn state(layout: &Layout) -> Result<State, StepError> {
    match read_json(&layout.router_state()) {
        Part::Known(state) => Ok(state),
        Part::Unknown(why) => Err(StepError::machine(format!(
            "{why}; without that file hosts and ports are given out anew"
        ))),
        Part::Absent | Part::Hidden => Ok(State::default()),
    }
}

/// Writes what differs, each file in one move. What Traefik reads is made beside the
/// folder that it watches: it would read a temporary one inside.
fn write(
    layout: &Layout,
    seen: &Seen,
    manifests: impl FnOnce(RouteTable) -> RouteTable,
) -> Result<Written, StepError> {
    let before = state(layout)?;
    let published = observe_published(layout).known().cloned();
    let manifests = manifests(published.unwrap_or_default());
    let (table, after) = make(layout, seen, &before, &manifests);
    let text = render(&table, &manifests);
    if parse(&text).as_ref() != Some(&manifests) {
        return Err(StepError::machine(
            "the route table does not read back as it was written",
        ));
    }
    let mut done = Done::Already;
    let path = layout.router_state();
    let remember = || write_json(&path, &after, MODE).map_err(|error| failed(&path, &error));
    let differs = after != before || !path.exists();
    // First, where anything is given out: nothing is published that somebody else could get.
    let first = differs && (after.kept != before.kept || !path.exists());
    if first {
        remember()?;
    }
    let target = layout.published_routes();
    let old = std::fs::read(&target).unwrap_or_default();
    // Whatever is published: the proxy reads them again at its start.
    certificates::copy(layout, &seen.certificates)
        .map_err(|error| failed(&layout.proxy(), &error))?;
    if old != text.as_bytes() {
        let beside = layout.proxy().join("traefik/renet.yml.new");
        std::fs::create_dir_all(layout.proxy_dynamic())
            .and_then(|()| write_unsynced(&beside, text.as_bytes(), MODE))
            .and_then(|()| std::fs::rename(&beside, &target))
            .map_err(|error| failed(&target, &error))?;
        done = Done::Changed;
        certificates::sweep(layout, [&text, &String::from_utf8_lossy(&old)]);
    }
    if differs {
        done = Done::Changed;
        if !first {
            remember()?;
        }
    }
    Ok(Written {
        done,
        table,
        foreign: foreign(layout),
    })
}

fn failed(path: &Path, error: &io::Error) -> StepError {
    StepError::machine(format!("{}: {error}", path.display()))
}

/// Files of others in the folder that Traefik watches which it cannot read.
fn foreign(layout: &Layout) -> Vec<String> {
    let ours = layout.published_routes();
    let entries = std::fs::read_dir(layout.proxy_dynamic())
        .into_iter()
        .flatten();
    let mut wrong: Vec<String> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| *path != ours && path.is_file())
        .filter(|path| {
            let ending = path.extension().and_then(|ending| ending.to_str());
            matches!(ending, Some("yml" | "yaml"))
        })
        .filter(|path| {
            let text = std::fs::read_to_string(path);
            text.map_or(true, |text| {
                serde_yaml::from_str::<serde_json::Value>(&text).is_err()
            })
        })
        .map(|path| path.display().to_string())
        .collect();
    wrong.sort();
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Published;

    fn manifests() -> RouteTable {
        let route = Published {
            host: "shop.example.com".parse().unwrap(),
            backend: "127.0.11.2:8080".parse().unwrap(),
            tls: None,
        };
        RouteTable::from([("shop-web".parse().unwrap(), route)])
    }

    #[test]
    fn what_is_published_reads_back_and_an_edit_does_not() {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let layout = Layout::new(folder.path()).unwrap();
        assert_eq!(observe_published(&layout), Part::Absent);
        let seen = Seen::default();
        for table in [manifests(), RouteTable::new()] {
            let first = write(&layout, &seen, |_| table.clone()).unwrap();
            assert_eq!(first.done, Done::Changed);
            assert_eq!(observe_published(&layout), Part::Known(table.clone()));
            let second = write(&layout, &seen, |_| table.clone()).unwrap();
            assert_eq!(second.done, Done::Already);
        }
        std::fs::write(layout.published_routes(), "{\"http\": 1}").unwrap();
        assert_eq!(observe_published(&layout), Part::Absent);
        // Nothing else lies in the folder that Traefik reads.
        assert_eq!(
            std::fs::read_dir(layout.proxy_dynamic()).unwrap().count(),
            1
        );
        std::fs::write(layout.proxy_dynamic().join("mine.yml"), "a: [").unwrap();
        assert_eq!(foreign(&layout).len(), 1);
    }

    #[test]
    fn a_torn_state_changes_nothing_and_is_named() {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let layout = Layout::new(folder.path()).unwrap();
        write(&layout, &Seen::default(), |_| manifests()).unwrap();
        std::fs::write(layout.router_state(), "{").unwrap();
        let error = write(&layout, &Seen::default(), |_| RouteTable::new()).unwrap_err();
        assert!(error.to_string().contains("state.json"), "{error}");
        assert_eq!(observe_published(&layout), Part::Known(manifests()));
    }
}
