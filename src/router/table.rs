use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::asked::{Candidate, automatic, forward, manifest, texts};
use super::claims::{self, Wish};
use super::declared::declared;
use super::scope::Scope;
use super::{Claim, Container, Input, Kept, Protocol, Table, auto, labels, tls};
use crate::model::NetworkId;

/// Makes the one table.
pub fn table(input: &Input) -> Table {
    let mut containers: Vec<&Container> = input.containers.iter().collect();
    containers.sort_by_key(|container| (container.network, container.service(), &container.name));
    let serving = containers
        .into_iter()
        .filter(|one| one.serves && one.asks());
    let serving: Vec<&Container> = serving.collect();

    let mut candidates: Vec<Candidate> = input
        .manifests
        .iter()
        .map(|(name, route)| manifest(name, route, input))
        .collect();
    let mut scopes: BTreeMap<(NetworkId, Protocol), Scope> = BTreeMap::new();
    let mut rows = Vec::new();
    for container in &serving {
        if labels::is_enabled(container) {
            let found = declared(container, input, &mut scopes, &mut rows);
            candidates.extend(found);
        } else if auto::wants_http(container) {
            candidates.push(automatic(container, input));
        }
    }
    let forwarded = forward(&serving, input, &candidates, &mut rows);
    let ports = forwarded.1;
    candidates.extend(forwarded.0);

    for scope in scopes.values_mut() {
        scope.settle();
    }
    once_each(&mut candidates);
    refer(&mut candidates, &scopes);
    let claims = claim(&mut candidates, input);
    yield_to_others(&mut candidates);

    let mut table = Table {
        kept: Kept { claims, ports },
        tls: tls::section(input),
        ..Table::default()
    };
    rows.extend(tls::refused(input));
    if input.proxy.https.is_some() {
        let http = table.sections.entry(Protocol::Http).or_default();
        tls::plain(&candidates, input.proxy, http);
    }
    for (&(network, protocol), scope) in &scopes {
        scope.publish(network, table.sections.entry(protocol).or_default());
        rows.extend(scope.refused(network, protocol));
    }
    for mut candidate in candidates {
        if candidate.is_served() {
            let section = table.sections.entry(candidate.row.protocol).or_default();
            if let Some(service) = candidate.service.take() {
                section.services.insert(candidate.row.name.clone(), service);
            }
            let name = candidate.row.name.clone();
            section.routers.insert(name, Value::Object(candidate.value));
        }
        rows.push(candidate.row);
    }
    rows.sort();
    table.rows = rows;
    table
}

/// One name is one router; the same rule on the same entry point is answered once.
fn once_each(candidates: &mut [Candidate]) {
    let mut names: BTreeMap<(Protocol, String), usize> = BTreeMap::new();
    for at in 0..candidates.len() {
        let key = (candidates[at].row.protocol, candidates[at].row.name.clone());
        let Some(first) = names.get(&key).copied() else {
            names.insert(key, at);
            continue;
        };
        if candidates[first].value == candidates[at].value
            && candidates[first].row.refused == candidates[at].row.refused
        {
            candidates[at].refuse("another container of its repository declares the very same");
            continue;
        }
        for (one, other) in [(first, at), (at, first)] {
            let source = candidates[other].row.source.clone();
            candidates[one].refuse(format!("{source} declares it otherwise"));
        }
    }
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|one, other| candidates[*one].rank.cmp(&candidates[*other].rank));
    let mut rules: BTreeMap<(Protocol, String, String), String> = BTreeMap::new();
    for at in order {
        let candidate = &mut candidates[at];
        if candidate.row.protocol != Protocol::Http
            || !candidate.is_served()
            || candidate.value.contains_key("priority")
        {
            continue;
        }
        for point in candidate.row.entry_points.clone() {
            let key = (Protocol::Http, point, candidate.row.rule.clone());
            // Others are told whose the host is.
            let network = candidate.rank.network;
            let named = format!("{network} {}", candidate.row.source);
            match rules.get(&key) {
                Some(by) if by.starts_with(&format!("{network} ")) => {
                    let by = by.split_once(' ').map_or("", |(_, by)| by);
                    candidate.refuse(format!("{by} has the same rule"));
                }
                Some(_) => {}
                None => drop(rules.insert(key, named)),
            }
        }
    }
}

/// Nothing leads to what is not there, nor past a middleware that was refused.
fn refer(candidates: &mut [Candidate], scopes: &BTreeMap<(NetworkId, Protocol), Scope>) {
    for candidate in candidates {
        if !candidate.rank.is_label || candidate.service.is_some() || !candidate.is_served() {
            continue;
        }
        let network = candidate.rank.network;
        let Some(scope) = scopes.get(&(network, candidate.row.protocol)) else {
            continue;
        };
        let service = candidate.value.get("service").and_then(Value::as_str);
        match scope.service(network, service.unwrap_or_default()) {
            Ok(backend) => candidate.row.backend = backend,
            Err(why) => candidate.refuse(why),
        }
        let middlewares = candidate.value.get("middlewares").and_then(Value::as_array);
        for name in middlewares.map(|list| texts(list)).unwrap_or_default() {
            if let Err(why) = scope.middleware(network, &name) {
                candidate.refuse(why);
            }
        }
    }
}

/// Refuses whoever wants what is somebody else's.
fn claim(candidates: &mut [Candidate], input: &Input) -> BTreeMap<String, Claim> {
    let wishes: Vec<Wish> = candidates
        .iter()
        .filter(|candidate| candidate.is_served())
        .flat_map(|candidate| {
            candidate.keys.iter().map(|key| Wish {
                key,
                rank: &candidate.rank,
                claim: &candidate.claim,
            })
        })
        .collect();
    let claims = claims::settle(&wishes, input);
    for candidate in candidates {
        let lost = candidate
            .keys
            .iter()
            .find_map(|key| {
                let holder = claims.get(key)?;
                (holder.network != candidate.rank.network).then_some((key, holder))
            })
            .map(|(key, holder)| match key.as_str() {
                "*" => format!("requests without a host of their own are answered by {holder}"),
                key => format!("`{key}` belongs to {holder}"),
            });
        if let Some(why) = lost {
            candidate.refuse(why);
        }
    }
    claims
}

/// What may match any host comes after the hosts of other repositories.
fn yield_to_others(candidates: &mut [Candidate]) {
    let networks: BTreeSet<NetworkId> = candidates
        .iter()
        .filter(|one| one.is_served() && one.row.protocol == Protocol::Http && !one.unbounded)
        .map(|one| one.rank.network)
        .collect();
    for candidate in candidates.iter_mut() {
        let alone = networks
            .iter()
            .all(|network| *network == candidate.rank.network);
        if alone || !candidate.unbounded || !candidate.is_served() {
            continue;
        }
        if candidate.value.contains_key("priority") {
            candidate.refuse(
                "without a host and with a priority it would take requests of other repositories",
            );
        } else {
            candidate.value.insert("priority".into(), json!(1));
        }
    }
}
