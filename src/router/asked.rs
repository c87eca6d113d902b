//! What is asked for: by Route manifests and by `rediacc.*` labels; `declared` has those of
//! `traefik.*` labels.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::claims::Rank;
use super::ports::{self, Ports, entry_point};
use super::tls::{self, Plain, WEBSECURE};
use super::{Claim, Container, Input, Protocol, Row, auto};
use crate::model::{Name, NetworkId, Published};

/// A router that somebody asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Candidate {
    pub(super) row: Row,
    pub(super) value: Map<String, Value>,
    pub(super) rank: Rank,
    pub(super) claim: Claim,
    /// Whose hosts and entry points it needs.
    pub(super) keys: BTreeSet<String>,
    /// Whether it may match any host.
    pub(super) unbounded: bool,
    /// The service that it comes with, where it is not one of its container's.
    pub(super) service: Option<Value>,
    /// What it does over HTTP besides.
    pub(super) plain: Plain,
}

impl Candidate {
    /// Notes why it is not served; the first reason counts.
    pub(super) fn refuse(&mut self, why: impl Into<String>) {
        self.row.refused.get_or_insert_with(|| why.into());
    }

    pub(super) fn is_served(&self) -> bool {
        self.row.refused.is_none()
    }

    /// The entry points that it names, as protocol and port.
    pub(super) fn points(&self) -> impl Iterator<Item = (Protocol, u16)> {
        let named = self.row.entry_points.iter();
        let named = named.filter(|_| self.row.protocol != Protocol::Http);
        named.filter_map(|point| {
            let (protocol, port) = point.split_once('-')?;
            let protocol = match protocol {
                "tcp" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                _ => return None,
            };
            Some((protocol, port.parse().ok()?))
        })
    }

    /// Puts a router of its hosts on HTTPS, where that is asked for and can be.
    fn secure(&mut self, asked: Option<bool>, input: &Input) {
        match tls::wanted(&self.keys, asked, input) {
            Ok(None) => {}
            Ok(Some(tls)) => {
                self.value.insert("tls".into(), Value::Object(tls));
                self.value.insert("entryPoints".into(), json!([WEBSECURE]));
                self.plain = Plain::of(input.proxy);
                self.row.entry_points = match self.plain {
                    Plain::Serves => vec![WEB.to_owned(), WEBSECURE.to_owned()],
                    _ => vec![WEBSECURE.to_owned()],
                };
            }
            Err(why) => self.refuse(why),
        }
    }
}

/// Whose a Route manifest's service is. An address of no network leads nowhere that a
/// label could claim.
pub(super) fn network_of(route: &Published) -> NetworkId {
    NetworkId::of(*route.backend.ip()).unwrap_or(NetworkId::FIRST)
}

/// What a Route manifest asks for.
pub(super) fn manifest(name: &Name, route: &Published, input: &Input) -> Candidate {
    let rule = format!("Host(`{}`)", route.host);
    let keys = BTreeSet::from([route.host.to_string()]);
    let network = network_of(route);
    let url = format!("http://{}", route.backend);
    let by = format!("route/{name}");
    let (value, service) = simple_http(&rule, name.as_str(), &url);
    let mut candidate = Candidate {
        row: Row {
            source: by.clone(),
            name: name.to_string(),
            protocol: Protocol::Http,
            rule,
            entry_points: vec![WEB.to_owned()],
            backend: url,
            refused: None,
        },
        value,
        rank: Rank {
            is_label: false,
            is_fork: false,
            network,
            name: name.to_string(),
        },
        claim: Claim { network, by },
        keys,
        unbounded: false,
        service: Some(service),
        plain: Plain::Nothing,
    };
    candidate.secure(route.tls, input);
    candidate
}

/// The entry point of requests.
pub(super) const WEB: &str = "web";

fn simple_http(rule: &str, service: &str, url: &str) -> (Map<String, Value>, Value) {
    let value = json!({"entryPoints": [WEB], "rule": rule, "service": service});
    let value = value.as_object().cloned().unwrap_or_default();
    (value, json!({"loadBalancer": {"servers": [{"url": url}]}}))
}

pub(super) fn of_container(container: &Container, protocol: Protocol, name: String) -> Candidate {
    let service = container.service();
    Candidate {
        row: Row {
            source: format!("{}/{service}", container.network),
            name,
            protocol,
            rule: String::new(),
            entry_points: Vec::new(),
            backend: String::new(),
            refused: None,
        },
        value: Map::new(),
        rank: Rank {
            is_label: true,
            is_fork: container.is_fork(),
            network: container.network,
            name: service.to_owned(),
        },
        claim: Claim {
            network: container.network,
            by: service.to_owned(),
        },
        keys: BTreeSet::new(),
        unbounded: false,
        service: None,
        plain: Plain::Nothing,
    }
}

const NO_ADDRESS: &str =
    "it has no address of its network; `renet compose` gives one to every service";

/// What `rediacc.service_port` and `rediacc.domain` ask for.
pub(super) fn automatic(container: &Container, input: &Input) -> Candidate {
    let name = format!("{}.{}.auto", container.network, container.service());
    let mut candidate = of_container(container, Protocol::Http, name.clone());
    let settled = || {
        let hosts = auto::hosts(container, input.proxy)?;
        let address = container.address().ok_or(NO_ADDRESS)?;
        Ok::<_, String>((hosts, address, auto::port(container)?))
    };
    match settled() {
        Err(why) => candidate.refuse(why),
        Ok((hosts, address, port)) => {
            let url = format!("http://{address}:{port}");
            let rule = auto::rule(&hosts);
            let (value, service) = simple_http(&rule, &name, &url);
            candidate.row.rule = rule;
            candidate.row.backend = url;
            candidate.row.entry_points = vec![WEB.to_owned()];
            (candidate.value, candidate.service) = (value, Some(service));
            candidate.keys = hosts.iter().map(ToString::to_string).collect();
            candidate.secure(None, input);
        }
    }
    candidate
}

const FORWARDED: [(Protocol, &str); 2] = [
    (Protocol::Tcp, "rediacc.tcp_ports"),
    (Protocol::Udp, "rediacc.udp_ports"),
];

/// Whether it asks for forwarded ports.
pub(super) fn wants_ports(container: &Container) -> bool {
    let mut labels = FORWARDED.iter();
    labels.any(|(_, label)| container.labels.contains_key(*label))
}

/// What `rediacc.tcp_ports` and `rediacc.udp_ports` ask for.
pub(super) fn forward(container: &Container, ports: &mut Ports) -> Vec<Candidate> {
    let mut found = Vec::new();
    for (protocol, label) in FORWARDED {
        let Some(text) = container.label(label) else {
            continue;
        };
        let wanted = match ports::wanted(text) {
            Ok(wanted) => wanted,
            Err(why) => {
                let mut candidate = of_container(container, protocol, label.to_owned());
                candidate.refuse(why);
                found.push(candidate);
                continue;
            }
        };
        for port in wanted {
            found.push(forward_one(container, protocol, port, ports));
        }
    }
    found
}

fn forward_one(
    container: &Container,
    protocol: Protocol,
    port: u16,
    ports: &mut Ports,
) -> Candidate {
    let point = entry_point(protocol, port);
    let name = format!("{}.{}.{point}", container.network, container.service());
    let mut candidate = of_container(container, protocol, name.clone());
    let given = container
        .address()
        .ok_or_else(|| NO_ADDRESS.to_owned())
        .and_then(|address| Ok((address, ports.give(container, protocol, port)?)));
    match given {
        Err(why) => candidate.refuse(why),
        Ok((address, given)) => {
            let point = entry_point(protocol, given);
            let backend = format!("{address}:{port}");
            candidate.value.insert("entryPoints".into(), json!([point]));
            candidate.value.insert("service".into(), json!(name));
            if protocol == Protocol::Tcp {
                const ANY: &str = "HostSNI(`*`)";
                candidate.value.insert("rule".into(), json!(ANY));
                candidate.row.rule = ANY.to_owned();
            }
            candidate.keys = BTreeSet::from([match protocol {
                Protocol::Udp => point.clone(),
                _ => format!("{point} *"),
            }]);
            candidate.service = Some(json!({"loadBalancer": {"servers": [{"address": backend}]}}));
            candidate.row.backend = backend;
            candidate.row.entry_points = vec![point];
        }
    }
    candidate
}

pub(super) fn texts(list: &[Value]) -> Vec<String> {
    let texts = list.iter().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}
