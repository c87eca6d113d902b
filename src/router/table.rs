//! Makes the one table.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;

use serde_json::{Value, json};

use super::asked::{Candidate, automatic, forward, manifest, network_of, texts, wants_ports};
use super::claims::{Claimants, Claims, Wish};
use super::declared::declared;
use super::page::Page;
use super::ports::Ports;
use super::scope::Scope;
use super::{Certificate, Claim, Container, Input, Kept, NoOrders, Protocol, Row, Section, Table};
use super::{auto, labels, tls};
use crate::model::{Name, NetworkId, ProxySpec, Published, RouteTable};

/// Makes tables one after the other. Each is what its input alone gives, with what was
/// given out before; what concerns networks of which nothing changed is not made again.
#[derive(Debug, Default)]
pub struct Tables {
    settings: Option<Settings>,
    networks: BTreeMap<NetworkId, Network>,
    manifests: RouteTable,
    declared: BTreeSet<Name>,
    away: BTreeSet<NetworkId>,
    claims: Claims,
    /// Keys that are to be settled again.
    touched: BTreeSet<String>,
    /// Networks with a router that is served and names its hosts.
    bounded: BTreeSet<NetworkId>,
    kept: Kept,
    gave: bool,
}

/// What concerns every route.
#[derive(Debug, PartialEq)]
struct Settings {
    proxy: ProxySpec,
    certificates: Vec<Certificate>,
    no_orders: Option<NoOrders>,
}

/// What one repository asks for, and gets.
#[derive(Debug, Default)]
struct Network {
    containers: Option<Arc<Vec<Container>>>,
    draft: Draft,
    forwarded: Vec<Candidate>,
    /// All that it asks for, as far as that is its own matter.
    settled: Vec<Candidate>,
    /// Whether nobody else names a host.
    alone: bool,
    page: Arc<Page>,
}

/// What its labels and Route manifests say.
#[derive(Debug, Default)]
struct Draft {
    candidates: Vec<Candidate>,
    scopes: BTreeMap<Protocol, Scope>,
    rows: Vec<Row>,
    /// The entry points that its labels name.
    points: BTreeSet<(Protocol, u16)>,
    /// Whether it asks for forwarded ports.
    forwards: bool,
}

impl Tables {
    /// With what was given out before.
    pub fn new(kept: Kept) -> Self {
        Self {
            claims: Claims::new(&kept.claims),
            touched: kept.claims.keys().cloned().collect(),
            kept,
            ..Self::default()
        }
    }

    /// What is given out.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Whether the last table gave anything out, or took it back.
    pub fn gave(&self) -> bool {
        self.gave
    }

    /// Makes the table.
    pub fn next(&mut self, input: &Input) -> Table {
        let settings = Settings::of(input);
        if self.settings.as_ref() != Some(&settings) {
            *self = Self::new(mem::take(&mut self.kept));
            self.settings = Some(settings);
        }
        self.gave = false;
        let mut stale = self.changed(input);
        for network in &stale {
            self.draft(*network, input);
        }
        stale.extend(self.forward(input));
        for network in &stale {
            let wishes = match self.networks.get_mut(network) {
                Some(known) => known.settle(*network),
                None => Vec::new(),
            };
            self.touched.extend(self.claims.want(*network, wishes));
        }
        let claimants = Claimants::of(input);
        for key in mem::take(&mut self.touched) {
            let claims = &mut self.kept.claims;
            if let Some(networks) = self.claims.settle(&key, claims, claimants) {
                stale.extend(networks);
                self.gave = true;
            }
        }
        self.answer(&stale, input.proxy);
        self.table(input)
    }

    /// The networks of which anything changed, and which claims may have for it.
    fn changed(&mut self, input: &Input) -> BTreeSet<NetworkId> {
        let mut changed = BTreeSet::new();
        for (network, containers) in input.containers {
            let known = self.networks.get(network);
            let known = known.and_then(|known| known.containers.as_ref());
            if !known.is_some_and(|known| Arc::ptr_eq(known, containers)) {
                changed.insert(*network);
            }
        }
        let gone = self.networks.iter().filter(|(network, known)| {
            known.containers.is_some() && !input.containers.contains_key(network)
        });
        changed.extend(gone.map(|(network, _)| *network));
        if self.manifests != *input.manifests {
            let (before, after) = (&self.manifests, input.manifests);
            let one = |name| [before.get(name), after.get(name)];
            for name in before.keys().chain(after.keys()) {
                if let [before, after] = one(name)
                    && before != after
                {
                    changed.extend(before.into_iter().chain(after).map(network_of));
                }
            }
            self.manifests = input.manifests.clone();
        }
        if self.declared != *input.declared {
            for name in self.declared.symmetric_difference(input.declared) {
                self.touched.extend(self.claims.of_route(name));
            }
            self.declared = input.declared.clone();
        }
        if self.away != *input.away {
            for network in self.away.symmetric_difference(input.away) {
                self.touched.extend(self.claims.of_network(*network));
            }
            self.away = input.away.clone();
        }
        changed
    }

    fn draft(&mut self, network: NetworkId, input: &Input) {
        let containers = input.containers.get(&network).cloned();
        let manifests = input.manifests.iter();
        let manifests: Vec<(&Name, &Published)> = manifests
            .filter(|(_, route)| network_of(route) == network)
            .collect();
        if containers.is_none() && manifests.is_empty() {
            self.networks.remove(&network);
            self.bounded.remove(&network);
            return;
        }
        let serving = serving(containers.as_ref());
        let draft = Draft::of(&manifests, &serving, input);
        let known = self.networks.entry(network).or_default();
        known.draft = draft;
        known.containers = containers;
    }

    /// Gives out entry points; says whose forwarded ports changed.
    fn forward(&mut self, input: &Input) -> BTreeSet<NetworkId> {
        let drafts = self.networks.values().map(|known| &known.draft);
        let named = drafts.flat_map(|draft| draft.points.iter().copied());
        let before = self.kept.ports.clone();
        let mut ports = Ports {
            proxy: input.proxy,
            claimants: Claimants::of(input),
            named: named.collect(),
            claims: &self.kept.claims,
            given: &mut self.kept.ports,
        };
        let mut changed = BTreeSet::new();
        for (network, known) in &mut self.networks {
            if !known.draft.forwards && known.forwarded.is_empty() {
                continue;
            }
            let serving = serving(known.containers.as_ref());
            let serving = serving.into_iter();
            let forwarded = serving.flat_map(|one| forward(one, &mut ports)).collect();
            if known.forwarded != forwarded {
                known.forwarded = forwarded;
                changed.insert(*network);
            }
        }
        self.gave |= self.kept.ports != before;
        changed
    }

    /// Makes the pages of these networks, and of those that have to yield to them, or no
    /// longer.
    fn answer(&mut self, stale: &BTreeSet<NetworkId>, proxy: &ProxySpec) {
        let mut judged: BTreeMap<NetworkId, Vec<Candidate>> = BTreeMap::new();
        for network in stale {
            let Some(known) = self.networks.get(network) else {
                continue;
            };
            let candidates = known.judge(*network, &self.kept.claims);
            match candidates.iter().any(names_hosts) {
                true => self.bounded.insert(*network),
                false => self.bounded.remove(network),
            };
            judged.insert(*network, candidates);
        }
        for (network, known) in &mut self.networks {
            let alone = self.bounded.iter().all(|other| other == network);
            let candidates = match judged.remove(network) {
                Some(candidates) => candidates,
                None if alone == known.alone => continue,
                None if !known.settled.iter().any(|one| one.unbounded) => continue,
                None => known.judge(*network, &self.kept.claims),
            };
            known.alone = alone;
            known.page = Arc::new(known.page(*network, candidates, proxy));
        }
    }

    fn table(&self, input: &Input) -> Table {
        let pages = self.networks.iter();
        let pages: BTreeMap<NetworkId, Arc<Page>> = pages
            .map(|(network, known)| (*network, known.page.clone()))
            .collect();
        let mut sections = BTreeMap::new();
        if pages.values().any(|page| page.redirects()) {
            let http: &mut Section = sections.entry(Protocol::Http).or_default();
            http.middlewares.extend([tls::redirect(input.proxy)]);
        }
        let common = Page::new(sections, tls::refused(input), false);
        Table {
            pages,
            common: Arc::new(common),
            tls: tls::section(input),
            ports: self.kept.ports.clone(),
        }
    }
}

impl Settings {
    fn of(input: &Input) -> Self {
        Self {
            proxy: input.proxy.clone(),
            certificates: input.certificates.to_vec(),
            no_orders: input.no_orders.cloned(),
        }
    }
}

/// The containers that serve and ask for routes, in their order.
fn serving(containers: Option<&Arc<Vec<Container>>>) -> Vec<&Container> {
    let all = containers.into_iter().flat_map(|all| all.iter());
    let mut serving: Vec<&Container> = all.filter(|one| one.serves && one.asks()).collect();
    serving.sort_by_key(|one| (one.service(), &one.name));
    serving
}

fn names_hosts(one: &Candidate) -> bool {
    one.is_served() && one.row.protocol == Protocol::Http && !one.unbounded
}

impl Draft {
    fn of(manifests: &[(&Name, &Published)], serving: &[&Container], input: &Input) -> Self {
        let manifests = manifests.iter();
        let mut draft = Self {
            candidates: manifests
                .map(|(name, route)| manifest(name, route, input))
                .collect(),
            forwards: serving.iter().any(|one| wants_ports(one)),
            ..Self::default()
        };
        for container in serving {
            if labels::is_enabled(container) {
                let found = declared(container, input, &mut draft.scopes, &mut draft.rows);
                draft.candidates.extend(found);
            } else if auto::wants_http(container) {
                draft.candidates.push(automatic(container, input));
            }
        }
        for scope in draft.scopes.values_mut() {
            scope.settle();
        }
        draft.points = draft
            .candidates
            .iter()
            .flat_map(Candidate::points)
            .collect();
        draft
    }
}

impl Network {
    /// Settles what is its own matter; gives what it wants of everybody's.
    fn settle(&mut self, network: NetworkId) -> Vec<(String, Wish)> {
        let asked = self.draft.candidates.iter().chain(&self.forwarded);
        self.settled = asked.cloned().collect();
        once_each(&mut self.settled);
        refer(&mut self.settled, network, &self.draft.scopes);
        let served = self.settled.iter().filter(|one| one.is_served());
        let wishes = served.flat_map(|one| {
            let wish = || Wish {
                rank: one.rank.clone(),
                claim: one.claim.clone(),
            };
            one.keys.iter().map(move |key| (key.clone(), wish()))
        });
        wishes.collect()
    }

    /// Refuses what wants what is somebody else's.
    fn judge(&self, network: NetworkId, claims: &BTreeMap<String, Claim>) -> Vec<Candidate> {
        let mut candidates = self.settled.clone();
        for candidate in &mut candidates {
            let lost = candidate
                .keys
                .iter()
                .find_map(|key| {
                    let holder = claims.get(key)?;
                    (holder.network != network).then_some((key, holder))
                })
                .map(|(key, holder)| match key.as_str() {
                    "*" => format!("requests without a host of their own are answered by {holder}"),
                    key => format!("`{key}` belongs to {holder}"),
                });
            if let Some(why) = lost {
                candidate.refuse(why);
            }
        }
        candidates
    }

    fn page(&self, network: NetworkId, mut candidates: Vec<Candidate>, proxy: &ProxySpec) -> Page {
        if !self.alone {
            yield_to_others(&mut candidates);
        }
        let mut sections: BTreeMap<Protocol, Section> = BTreeMap::new();
        let mut rows = self.draft.rows.clone();
        let mut redirects = false;
        if proxy.https.is_some() {
            let http = sections.entry(Protocol::Http).or_default();
            redirects = tls::plain(&candidates, &mut http.routers);
        }
        for (&protocol, scope) in &self.draft.scopes {
            scope.publish(network, sections.entry(protocol).or_default());
            rows.extend(scope.refused(network, protocol));
        }
        for mut candidate in candidates {
            if candidate.is_served() {
                let section = sections.entry(candidate.row.protocol).or_default();
                if let Some(service) = candidate.service.take() {
                    section.services.insert(candidate.row.name.clone(), service);
                }
                let name = candidate.row.name.clone();
                section.routers.insert(name, Value::Object(candidate.value));
            }
            rows.push(candidate.row);
        }
        Page::new(sections, rows, redirects)
    }
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
    let mut rules: BTreeMap<(String, String), String> = BTreeMap::new();
    for at in order {
        let candidate = &mut candidates[at];
        if candidate.row.protocol != Protocol::Http
            || !candidate.is_served()
            || candidate.value.contains_key("priority")
        {
            continue;
        }
        for point in candidate.row.entry_points.clone() {
            let key = (point, candidate.row.rule.clone());
            match rules.get(&key) {
                Some(by) => candidate.refuse(format!("{by} has the same rule")),
                None => drop(rules.insert(key, candidate.row.source.clone())),
            }
        }
    }
}

/// Nothing leads to what is not there, nor past a middleware that was refused.
fn refer(candidates: &mut [Candidate], network: NetworkId, scopes: &BTreeMap<Protocol, Scope>) {
    for candidate in candidates {
        if !candidate.rank.is_label || candidate.service.is_some() || !candidate.is_served() {
            continue;
        }
        let Some(scope) = scopes.get(&candidate.row.protocol) else {
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

/// What may match any host comes after the hosts of other repositories.
fn yield_to_others(candidates: &mut [Candidate]) {
    for candidate in candidates {
        if !candidate.unbounded || !candidate.is_served() {
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
