//! The one place that publishes routes: what Traefik reads is made by the same function
//! from the same things, whoever publishes.

mod certificates;
mod live;
mod look;
mod publisher;
mod serve;

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use certificates::Found;
use publisher::Publisher;

use crate::host::{Done, StepError};
use crate::model::{Layout, Name, NetworkId, Part, RouteRecord, RouteTable};
use crate::router::{Container, Containers, NoOrders, Table, parse};

pub use live::run;
pub use serve::{Health, Refreshed, ask, by_protocol};

/// Labels hold hashes of passwords.
const MODE: u32 = 0o600;

/// Everything that routes are made from, as far as it can be seen.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// Of every daemon that was asked: its containers.
    asked: Containers,
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
    let mut publisher = Publisher::open(layout, RouteTable::new())?;
    Ok(publisher.write(&seen, manifests)?.done)
}

/// Publishes everything anew, as the router would.
pub async fn refresh(layout: &Layout) -> Result<Written, StepError> {
    let (mut publisher, seen, manifests) = now(layout).await?;
    publisher.write(&seen, &manifests)
}

/// The table as it would be published now; nothing is written.
pub async fn preview(layout: &Layout) -> Result<Table, StepError> {
    let (mut publisher, seen, manifests) = now(layout).await?;
    Ok(publisher.make(&seen, &manifests))
}

async fn now(layout: &Layout) -> Result<(Publisher, Seen, RouteTable), StepError> {
    let seen = look::everything(layout).await;
    let records = super::routes::observe_records(layout);
    let publisher = Publisher::open(layout, RouteTable::new())?;
    let manifests = manifests(&records, &seen, publisher.manifests());
    Ok((publisher, seen, manifests))
}

/// Which Route manifests are served: those whose service is seen to run come, those whose
/// service is seen not to go, and of others what is published stays.
fn manifests(
    records: &Part<BTreeMap<Name, RouteRecord>>,
    seen: &Seen,
    published: &RouteTable,
) -> RouteTable {
    let records = match records {
        Part::Known(records) => records,
        Part::Absent => return RouteTable::new(),
        // Nobody can tell.
        _ => return published.clone(),
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
