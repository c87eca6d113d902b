//! Services and middlewares of one repository: nobody else's can be named.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde_json::{Map, Value, json};

use super::asked::texts;
use super::labels::{Named, Parts};
use super::{Container, Protocol, Row, Section, auto, shorten};
use crate::model::NetworkId;

/// What a name is called in the proxy: names of labels have no point.
pub(super) fn scoped(network: NetworkId, name: &str) -> String {
    format!("{network}.{name}")
}

/// What a label refers to: `name`, or `name@docker` as Traefik would call it.
pub(super) fn reference(network: NetworkId, name: &str) -> Result<String, String> {
    match name.split_once('@') {
        None => Ok(scoped(network, name)),
        Some((name, "docker")) => Ok(scoped(network, name)),
        Some(_) => Err(format!("`{}` is not of its repository", shorten(name))),
    }
}

/// Fills in what Traefik would: a service where none is named, and a router to it.
pub(super) fn complete(container: &Container, protocol: Protocol, parts: &mut Parts) {
    let name = auto::default_name(container);
    if parts.services.is_empty() {
        parts.services.insert(name.clone(), Ok(Map::new()));
    }
    if protocol == Protocol::Http && parts.routers.is_empty() && parts.services.len() == 1 {
        parts.routers.insert(name, Ok(Map::new()));
    }
}

/// Something that was declared, and by whom.
#[derive(Debug)]
struct Entry {
    source: String,
    read: Result<Value, String>,
}

/// What one repository has in one protocol.
#[derive(Debug, Default)]
pub(super) struct Scope {
    services: BTreeMap<String, Entry>,
    middlewares: BTreeMap<String, Entry>,
}

impl Scope {
    /// Adds what a container declares. The same from several is one, with all their
    /// servers; different things of one name are none.
    pub(super) fn add(
        &mut self,
        source: &str,
        services: Named,
        middlewares: Named,
        container: &Container,
        protocol: Protocol,
    ) {
        for (name, read) in services {
            let read = read.and_then(|value| service(container, protocol, value));
            insert(&mut self.services, source, name, read, join);
        }
        for (name, read) in middlewares {
            let read = read.and_then(|value| middleware(container.network, value));
            insert(&mut self.middlewares, source, name, read, |one, other| {
                one == other
            });
        }
    }

    /// Refuses what refers to something that is not there, until nothing does.
    pub(super) fn settle(&mut self) {
        loop {
            let mut lost = Vec::new();
            for (name, entry) in &self.middlewares {
                let Ok(value) = &entry.read else { continue };
                let chained = value
                    .pointer("/chain/middlewares")
                    .and_then(Value::as_array);
                let chained = chained.map(|list| texts(list)).unwrap_or_default();
                let broken = chained
                    .iter()
                    .find_map(|other| find(&self.middlewares, "middleware", other).err());
                let page = value.pointer("/errors/service").and_then(Value::as_str);
                let page = page.and_then(|page| find(&self.services, "service", page).err());
                if let Some(why) = broken.or(page) {
                    lost.push((name.clone(), why));
                }
            }
            if lost.is_empty() {
                return;
            }
            for (name, why) in lost {
                if let Some(entry) = self.middlewares.get_mut(&name) {
                    entry.read = Err(why);
                }
            }
        }
    }

    /// Where a service leads, by its name in the proxy.
    pub(super) fn service(&self, network: NetworkId, name: &str) -> Result<String, String> {
        let entry = find(&self.services, "service", plain(network, name))?;
        let servers = entry.pointer("/loadBalancer/servers");
        let servers = servers.and_then(Value::as_array).into_iter().flatten();
        let places = servers.filter_map(|server| {
            let place = server.get("url").or_else(|| server.get("address"));
            place.and_then(Value::as_str)
        });
        Ok(places.collect::<Vec<_>>().join(", "))
    }

    /// Whether a middleware is there, by its name in the proxy.
    pub(super) fn middleware(&self, network: NetworkId, name: &str) -> Result<(), String> {
        find(&self.middlewares, "middleware", plain(network, name)).map(|_| ())
    }

    /// Puts everything that was not refused into the table.
    pub(super) fn publish(&self, network: NetworkId, section: &mut Section) {
        for (from, to) in [
            (&self.services, &mut section.services),
            (&self.middlewares, &mut section.middlewares),
        ] {
            for (name, entry) in from {
                let Ok(value) = &entry.read else { continue };
                let mut value = value.clone();
                rename(network, &mut value);
                to.insert(scoped(network, name), value);
            }
        }
    }

    /// Everything that was refused.
    pub(super) fn refused(&self, network: NetworkId, protocol: Protocol) -> Vec<Row> {
        let kinds = [
            ("service", &self.services),
            ("middleware", &self.middlewares),
        ];
        let all = kinds
            .into_iter()
            .flat_map(|(kind, entries)| entries.iter().map(move |entry| (kind, entry)));
        all.filter_map(|(kind, (name, entry))| {
            Some(Row {
                source: entry.source.clone(),
                name: format!("{kind} {}", scoped(network, &shorten(name))),
                protocol,
                rule: String::new(),
                entry_points: Vec::new(),
                backend: String::new(),
                refused: Some(entry.read.as_ref().err()?.clone()),
            })
        })
        .collect()
    }
}

fn plain(network: NetworkId, name: &str) -> &str {
    let prefix = network.to_string();
    let rest = name.strip_prefix(&prefix);
    rest.and_then(|rest| rest.strip_prefix('.')).unwrap_or(name)
}

fn find<'a>(
    entries: &'a BTreeMap<String, Entry>,
    kind: &str,
    name: &str,
) -> Result<&'a Value, String> {
    match entries.get(name).map(|entry| &entry.read) {
        Some(Ok(value)) => Ok(value),
        Some(Err(_)) => Err(format!("its {kind} `{}` was refused", shorten(name))),
        None => Err(format!("its repository has no {kind} `{}`", shorten(name))),
    }
}

fn insert(
    entries: &mut BTreeMap<String, Entry>,
    source: &str,
    name: String,
    read: Result<Value, String>,
    merge: impl Fn(&mut Value, &Value) -> bool,
) {
    let Some(known) = entries.get_mut(&name) else {
        let source = source.to_owned();
        entries.insert(name, Entry { source, read });
        return;
    };
    let same = match (&mut known.read, &read) {
        (Ok(known), Ok(other)) => merge(known, other),
        (Err(_), _) => return,
        (Ok(_), Err(_)) => false,
    };
    if !same {
        known.read = Err(match read {
            Err(why) => why,
            Ok(_) => format!("{} and {source} declare it each otherwise", known.source),
        });
    }
}

/// Adds the servers of a second container that declares the same service.
fn join(one: &mut Value, other: &Value) -> bool {
    const SERVERS: &str = "/loadBalancer/servers";
    let take = |value: &Value| {
        let mut value = value.clone();
        let servers = value.pointer_mut(SERVERS).map(Value::take);
        (value, servers)
    };
    let ((first, _), (second, more)) = (take(one), take(other));
    if first != second {
        return false;
    }
    let more = more.as_ref().and_then(Value::as_array).cloned();
    if let Some(Value::Array(servers)) = one.pointer_mut(SERVERS) {
        for server in more.unwrap_or_default() {
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
    }
    true
}

/// A service leads to its container's own address.
fn service(
    container: &Container,
    protocol: Protocol,
    mut value: Map<String, Value>,
) -> Result<Value, String> {
    let address = container
        .address()
        .ok_or("its container has no address of its network")?;
    let balancer = value.entry("loadBalancer").or_insert_with(|| json!({}));
    let balancer = balancer.as_object_mut().ok_or("it is no load balancer")?;
    if let Some(path) = balancer
        .get("healthCheck")
        .and_then(|check| check.get("path"))
        && !is_path(path.as_str().unwrap_or_default())
    {
        return Err("the path of its health check does not begin with one `/`".to_owned());
    }
    let mut server = match balancer.remove("server") {
        Some(Value::Object(server)) => server,
        _ => Map::new(),
    };
    let port = match server.remove("port") {
        Some(port) => auto::one_port(port.as_str().unwrap_or_default())?,
        None => {
            let exposed = match protocol {
                Protocol::Udp => &container.udp,
                _ => &container.tcp,
            };
            *exposed
                .first()
                .ok_or("no label says its port, and its image exposes none")?
        }
    };
    let scheme = server.remove("scheme");
    if protocol == Protocol::Http {
        let scheme = scheme.as_ref().and_then(Value::as_str).unwrap_or("http");
        if !["http", "https", "h2c"].contains(&scheme) {
            return Err(format!("`{}` is no scheme", shorten(scheme)));
        }
        server.insert("url".into(), json!(format!("{scheme}://{address}:{port}")));
    } else {
        server.insert("address".into(), json!(format!("{address}:{port}")));
    }
    balancer.insert("servers".into(), json!([server]));
    Ok(Value::Object(value))
}

/// Whether it stays with the server: `//host` and `http://host` do not.
fn is_path(text: &str) -> bool {
    text.starts_with('/') && !text.starts_with("//")
}

fn middleware(network: NetworkId, mut value: Map<String, Value>) -> Result<Value, String> {
    if value.len() != 1 {
        return Err("one middleware is one thing; give each a name of its own".to_owned());
    }
    if let Some(chain) = value.get_mut("chain").and_then(Value::as_object_mut)
        && let Some(list) = chain.get("middlewares").and_then(Value::as_array)
    {
        let names: Result<Vec<String>, String> =
            texts(list).iter().map(|name| own(network, name)).collect();
        chain.insert("middlewares".into(), json!(names?));
    }
    if let Some(errors) = value.get_mut("errors").and_then(Value::as_object_mut) {
        let page = errors.get("service").and_then(Value::as_str);
        let page = own(network, page.ok_or("it names no service")?)?;
        errors.insert("service".into(), json!(page));
    }
    if let Some(auth) = value.get("forwardAuth") {
        let address = auth.get("address").and_then(Value::as_str);
        reachable(network, address.unwrap_or_default())?;
    }
    Ok(Value::Object(value))
}

/// The plain name of what a middleware refers to.
fn own(network: NetworkId, name: &str) -> Result<String, String> {
    let name = reference(network, name)?;
    Ok(plain(network, &name).to_owned())
}

/// Names inside middlewares as they are in the proxy.
fn rename(network: NetworkId, value: &mut Value) {
    if let Some(Value::Array(list)) = value.pointer_mut("/chain/middlewares") {
        for name in list {
            *name = json!(scoped(network, name.as_str().unwrap_or_default()));
        }
    }
    if let Some(name) = value.pointer_mut("/errors/service") {
        *name = json!(scoped(network, name.as_str().unwrap_or_default()));
    }
}

/// The proxy stands where every repository's addresses can be reached: a container may
/// send it to its own, or off this machine.
fn reachable(network: NetworkId, address: &str) -> Result<(), String> {
    let wrong = || {
        Err(format!(
            "`{}` is neither of its repository nor outside of this machine",
            shorten(address)
        ))
    };
    let rest = address
        .strip_prefix("http://")
        .or_else(|| address.strip_prefix("https://"));
    let Some(rest) = rest else {
        return Err(format!(
            "`{}` is no address like `http://…`",
            shorten(address)
        ));
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    if host.starts_with('[') {
        return wrong();
    }
    let host = host.split(':').next().unwrap_or_default();
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if host.is_empty() || host == "localhost" || host.ends_with(".localhost") {
        return wrong();
    }
    match host.parse::<Ipv4Addr>() {
        Ok(ip) if ip.is_loopback() && NetworkId::of(ip) == Some(network) => Ok(()),
        Ok(ip) if ip.is_loopback() || ip.is_unspecified() || ip.is_link_local() => wrong(),
        // `2130706433` and `0x7f.1` are addresses too.
        Err(_)
            if host.starts_with(|c: char| c.is_ascii_digit())
                && !host.contains(char::is_alphabetic) =>
        {
            wrong()
        }
        Err(_) if host.starts_with("0x") => wrong(),
        _ => Ok(()),
    }
}
