//! Containers and Route manifests → one route table → Traefik's dynamic configuration.
//!
//! Pure: no I/O, no clock. [`Tables::next`] is the one function that makes the table, from
//! Route manifests, from `rediacc.*` labels and from `traefik.*` labels. What it cannot
//! serve it refuses one by one, each with its reason, and serves everything else.

mod asked;
mod auto;
mod claims;
mod declared;
mod labels;
mod page;
mod ports;
mod render;
mod rule;
mod schema;
mod scope;
mod table;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{Name, NetworkId, ProxySpec, RouteTable, TRIAL_LABEL};

pub use ports::{entry_point, given};
pub use render::{body, parse, render};
pub use table::Tables;
pub use tls::{Certificate, NoOrders, OTHER_RESOLVER, RESOLVER, WEBSECURE};

/// How long a label's text may be, in bytes. Traefik's own rules rarely pass 300.
const MOST_TEXT: usize = 4096;

/// The highest priority that Traefik grants: renet's own. Labels stay below it.
const MOST_PRIORITY: i64 = i64::MAX - 1000;

/// The TCP ports that are given out to services where theirs is taken, or has no
/// entry point of its own.
pub const DYNAMIC: std::ops::RangeInclusive<u16> = 10_000..=10_010;

/// What the table is made from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The proxy: its entry points, and what automatic hosts end with.
    pub proxy: &'a ProxySpec,
    /// The Route manifests whose services serve.
    pub manifests: &'a RouteTable,
    /// The names of all Route manifests.
    pub declared: &'a BTreeSet<Name>,
    /// All containers that were seen, whatever they do.
    pub containers: &'a Containers,
    /// Networks whose daemon could not be asked: what they have claimed stays theirs.
    pub away: &'a BTreeSet<NetworkId>,
    /// The user's own certificates.
    pub certificates: &'a [Certificate],
    /// Why none can be ordered, where the Machine says how and it cannot be.
    pub no_orders: Option<&'a NoOrders>,
}

/// The containers of each daemon. What is the very same list as before has not changed.
pub type Containers = BTreeMap<NetworkId, Arc<Vec<Container>>>;

/// A container, as far as routes go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// The network of its daemon.
    pub network: NetworkId,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The TCP ports that its image says it listens on.
    pub tcp: BTreeSet<u16>,
    /// The UDP ports that its image says it listens on.
    pub udp: BTreeSet<u16>,
    /// Whether it runs.
    pub runs: bool,
    /// Whether it runs, and its health check, where it has one, passes.
    pub serves: bool,
}

impl Container {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }

    /// The compose service, or the container's name.
    pub fn service(&self) -> &str {
        let label = self.label("rediacc.service_name");
        let label = label.or_else(|| self.label("com.docker.compose.service"));
        label.unwrap_or(&self.name)
    }

    /// The service's address, which is one of its network's.
    pub fn address(&self) -> Option<Ipv4Addr> {
        let address: Ipv4Addr = self.label("rediacc.service_ip")?.parse().ok()?;
        (NetworkId::of(address) == Some(self.network)).then_some(address)
    }

    /// Whether it is what a project's service runs as.
    pub fn is_of(&self, project: &Name, service: &str) -> bool {
        self.label("com.docker.compose.project") == Some(project.as_str())
            && self.label("com.docker.compose.service") == Some(service)
    }

    /// Whether its port may be what its image exposes.
    pub fn needs_port(&self) -> bool {
        let says = |label: &String| {
            let label = label.to_ascii_lowercase();
            label == "rediacc.service_port" || label.ends_with(".server.port")
        };
        self.asks() && !self.labels.keys().any(says)
    }

    /// What its repository is called: name, and tag where it is a fork.
    fn repository(&self) -> Option<(&str, Option<&str>)> {
        let name = self.label("rediacc.repo_name")?;
        Some(match name.split_once(':') {
            Some((name, tag)) => (name, Some(tag)),
            None => (name, None),
        })
    }

    fn is_fork(&self) -> bool {
        matches!(self.repository(), Some((_, Some(_))))
    }

    /// Whether it asks for any route at all.
    pub fn asks(&self) -> bool {
        const OURS: [&str; 4] = [
            "rediacc.service_port",
            "rediacc.domain",
            "rediacc.tcp_ports",
            "rediacc.udp_ports",
        ];
        // Nothing leads to what is there to try changes.
        !self.labels.contains_key(TRIAL_LABEL)
            && (self.labels.contains_key("traefik.enable")
                || OURS.iter().any(|label| self.labels.contains_key(*label)))
    }
}

/// What was given out and stays with whoever has it: the router's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kept {
    /// Whose each host and entry point is.
    pub claims: BTreeMap<String, Claim>,
    /// The entry point's port of each forwarded port: `2816/db/tcp/5432`.
    pub ports: BTreeMap<String, u16>,
}

/// Whose a host is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Claim {
    /// The repository's network.
    pub network: NetworkId,
    /// `route/NAME`, or the service.
    pub by: String,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.by.strip_prefix("route/") {
            Some(_) => f.write_str(&self.by),
            None => write!(f, "service {} of network {}", self.by, self.network),
        }
    }
}

/// What a router carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Requests.
    Http,
    /// Connections.
    Tcp,
    /// Packets.
    Udp,
}

impl Protocol {
    /// As Traefik spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Http => "http",
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

/// A kind of thing in Traefik's configuration, by name.
pub type Parts = BTreeMap<String, Value>;

/// What one protocol has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    /// Which requests go where.
    pub routers: Parts,
    /// Where that is.
    pub services: Parts,
    /// What is done to them on the way.
    pub middlewares: Parts,
}

/// Everything that the proxy is told. Copies share what they have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    pages: BTreeMap<NetworkId, Arc<page::Page>>,
    /// What is no repository's.
    common: Arc<page::Page>,
    /// What it is told of TLS, where it answers HTTPS.
    pub tls: Option<Value>,
    /// The entry points that are given out.
    pub ports: BTreeMap<String, u16>,
}

/// A route that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Row {
    /// `route/NAME`, or `NETWORK/SERVICE`.
    pub source: String,
    /// What it is called in the proxy, or which label it is.
    pub name: String,
    /// What it carries.
    pub protocol: Protocol,
    /// What it answers to.
    pub rule: String,
    /// On which entry points.
    pub entry_points: Vec<String>,
    /// Where it leads.
    pub backend: String,
    /// Why it is not served.
    pub refused: Option<String>,
}

/// A text that may be anything, fit for a message.
fn shorten(text: &str) -> String {
    const MOST: usize = 60;
    let clean: String = text.chars().take(MOST).collect();
    let clean = clean.escape_debug().to_string();
    match text.chars().nth(MOST) {
        Some(_) => format!("{clean}…"),
        None => clean,
    }
}
