//! What `traefik.*` labels ask for.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::asked::{Candidate, WEB, of_container, texts};
use super::labels::{self, Named, Parts};
use super::ports;
use super::rule::{Of, Rule};
use super::scope::{self, Scope};
use super::tls::{self, Plain, WEBSECURE};
use super::{Container, Input, MOST_PRIORITY, Protocol, Row, auto};

/// What the labels of a container declare: its services and middlewares go
/// into the scope of its repository.
pub(super) fn declared(
    container: &Container,
    input: &Input,
    scopes: &mut BTreeMap<Protocol, Scope>,
    rows: &mut Vec<Row>,
) -> Vec<Candidate> {
    let declared = labels::declared(container);
    for (label, why) in declared.refused {
        let mut candidate = of_container(container, Protocol::Http, label);
        candidate.refuse(why);
        rows.push(candidate.row);
    }
    let mut sections = declared.sections;
    let streams = [Protocol::Tcp, Protocol::Udp];
    let streams = streams.map(|protocol| {
        sections
            .get(&protocol)
            .is_some_and(|parts| !parts.routers.is_empty() || !parts.services.is_empty())
    });
    let http = sections.entry(Protocol::Http).or_default();
    let nothing =
        http.routers.is_empty() && http.services.is_empty() && http.middlewares.is_empty();
    if nothing && streams.contains(&true) {
        sections.remove(&Protocol::Http);
    }
    let mut found = Vec::new();
    for (protocol, mut parts) in sections {
        if protocol != Protocol::Http && parts.routers.is_empty() && parts.services.is_empty() {
            // Middlewares of its neighbours.
        } else {
            scope::complete(container, protocol, &mut parts);
        }
        let Parts {
            routers,
            services,
            middlewares,
        } = parts;
        found.extend(routers_of(container, input, protocol, routers, &services));
        let scope = scopes.entry(protocol).or_default();
        let source = format!("{}/{}", container.network, container.service());
        scope.add(&source, services, middlewares, container, protocol);
    }
    found
}

fn routers_of(
    container: &Container,
    input: &Input,
    protocol: Protocol,
    routers: Named,
    services: &Named,
) -> Vec<Candidate> {
    let mut found = Vec::new();
    for (name, read) in routers {
        let scoped = scope::scoped(container.network, &name);
        let mut candidate = of_container(container, protocol, scoped);
        let settled = read.and_then(|value| {
            let mut value = value;
            router(
                container,
                input,
                protocol,
                services,
                &mut value,
                &mut candidate,
            )?;
            Ok(value)
        });
        match settled {
            Ok(value) => candidate.value = value,
            Err(why) => candidate.refuse(why),
        }
        found.push(candidate);
    }
    found
}

/// Settles what a router leaves open, and what it may match.
fn router(
    container: &Container,
    input: &Input,
    protocol: Protocol,
    services: &Named,
    value: &mut Map<String, Value>,
    candidate: &mut Candidate,
) -> Result<(), String> {
    let points: Vec<String> = match value.get("entryPoints").and_then(Value::as_array) {
        Some(points) => texts(points),
        None => vec![WEB.to_owned()],
    };
    for point in &points {
        known_point(input, protocol, point)?;
    }
    value.insert("entryPoints".into(), json!(points));
    candidate.row.entry_points = points;
    if value
        .remove("ruleSyntax")
        .is_some_and(|syntax| syntax != "v3")
    {
        return Err("rules are read in the syntax v3".to_owned());
    }
    if value
        .get("priority")
        .and_then(Value::as_i64)
        .is_some_and(|priority| priority >= MOST_PRIORITY)
    {
        return Err(format!("its priority is not below {MOST_PRIORITY}"));
    }
    let names: Vec<&String> = services.keys().collect();
    let service = match (
        value.get("service").and_then(Value::as_str),
        names.as_slice(),
    ) {
        (Some(service), _) => scope::reference(container.network, service)?,
        (None, [only]) => scope::scoped(container.network, only),
        (None, []) => return Err("its container has no service".to_owned()),
        (None, _) => {
            return Err("its container has several services; say which: `service`".to_owned());
        }
    };
    value.insert("service".into(), json!(service));
    if let Some(middlewares) = value.get("middlewares").and_then(Value::as_array) {
        let scoped: Result<Vec<String>, String> = texts(middlewares)
            .iter()
            .map(|name| scope::reference(container.network, name))
            .collect();
        value.insert("middlewares".into(), json!(scoped?));
    }
    if let Some(options) = value.get("tls").and_then(|tls| tls.get("options"))
        && options != "default"
    {
        return Err("the proxy has no TLS options but `default`".to_owned());
    }
    matches(container, input, protocol, value, candidate)
}

fn matches(
    container: &Container,
    input: &Input,
    protocol: Protocol,
    value: &mut Map<String, Value>,
    candidate: &mut Candidate,
) -> Result<(), String> {
    let points = candidate.row.entry_points.clone();
    if protocol == Protocol::Udp {
        candidate.keys = points.into_iter().collect();
        return Ok(());
    }
    let rule = value
        .get("rule")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let rule = match (rule, protocol) {
        ("", Protocol::Http) => auto::rule(&auto::hosts(container, input.proxy)?),
        ("", _) => return Err("it has no rule".to_owned()),
        (rule, _) => rule.to_owned(),
    };
    value.insert("rule".into(), json!(rule));
    candidate.row.rule.clone_from(&rule);
    let of = match protocol {
        Protocol::Http => Of::Http,
        _ => Of::Tcp,
    };
    let hosts = Rule::parse(&rule, of)?.hosts();
    let is_secure = protocol == Protocol::Http && points.iter().any(|point| point == WEBSECURE);
    tls::settle(hosts.as_ref(), value, input, is_secure)?;
    if protocol == Protocol::Http {
        if is_secure {
            // With `tls` a router takes no plain request on any of its entry points.
            value.insert("entryPoints".into(), json!([WEBSECURE]));
            candidate.plain = match points.iter().any(|point| point == WEB) {
                true => Plain::Serves,
                false if input.proxy.redirect => Plain::Redirects,
                false => Plain::Nothing,
            };
        }
        candidate.unbounded = hosts.is_none();
        candidate.keys = hosts.unwrap_or_else(|| BTreeSet::from(["*".to_owned()]));
        return Ok(());
    }
    if hosts.is_some() && !value.contains_key("tls") {
        return Err("only connections with TLS name a host: it lacks `tls`".to_owned());
    }
    for point in points {
        match &hosts {
            // They would come before every request for the same host.
            Some(hosts) if is_http(&point) => candidate.keys.extend(hosts.iter().cloned()),
            None if is_http(&point) => {
                return Err(format!(
                    "without a host it would take every connection of entry point `{point}`"
                ));
            }
            Some(hosts) => {
                let keys = hosts.iter().map(|host| format!("{point} {host}"));
                candidate.keys.extend(keys);
            }
            None => drop(candidate.keys.insert(format!("{point} *"))),
        }
    }
    Ok(())
}

fn is_http(point: &str) -> bool {
    point == WEB || point == WEBSECURE
}

fn known_point(input: &Input, protocol: Protocol, point: &str) -> Result<(), String> {
    let is_there = point == WEB || point == WEBSECURE && input.proxy.https.is_some();
    if protocol != Protocol::Udp && is_there {
        return Ok(());
    }
    let port = point
        .strip_prefix(protocol.as_str())
        .and_then(|rest| rest.strip_prefix('-')?.parse().ok());
    if port.is_some_and(|port| ports::exists(input.proxy, protocol, port)) {
        return Ok(());
    }
    let point = super::shorten(point);
    Err(match protocol {
        Protocol::Http => format!("there is no entry point `{point}` for requests but `{WEB}`"),
        _ => format!(
            "there is no entry point `{point}`; `proxy.address` and `proxy.{}` of the Machine make them",
            protocol.as_str()
        ),
    })
}
