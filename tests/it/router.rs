//! Labels and Route manifests → the route table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use renet::model::{Name, NetworkId, ProxySpec, Published, RouteTable};
use renet::router::{
    Certificate, Container, Containers, Input, Kept, NoOrders, Protocol, Row, Table, Tables, body,
    parse, render,
};
use serde_json::Value;

/// The labels of each container in `labels.txt`, by its name.
pub fn examples() -> Vec<(String, BTreeMap<String, String>)> {
    let mut found: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    for line in include_str!("router/labels.txt").lines() {
        if let Some(name) = line.strip_prefix("## ") {
            found.push((name.to_owned(), BTreeMap::new()));
        } else if let Some((label, text)) = line.split_once('=')
            && !line.starts_with('#')
        {
            let (_, labels) = found.last_mut().unwrap();
            assert_eq!(labels.insert(label.to_owned(), text.to_owned()), None);
        }
    }
    found
}

/// A proxy with the entry points that the examples name.
pub fn proxy() -> ProxySpec {
    ProxySpec {
        http: 80,
        router: None,
        address: Some([127, 0, 0, 1].into()),
        tcp: [15_432, 5432].into(),
        udp: [15_353, 53].into(),
        machine: Some("m1".parse().unwrap()),
        base_domain: Some("example.com".parse().unwrap()),
        ..ProxySpec::default()
    }
}

fn network(id: u32) -> NetworkId {
    NetworkId::try_from(id).unwrap()
}

/// A service of the network's repository at its slot.
pub fn container(id: u32, slot: u32, service: &str, labels: &[(&str, &str)]) -> Container {
    let address = std::net::Ipv4Addr::from((127 << 24) + id + 2 + slot);
    let repository = format!("repo{id}");
    let given = [
        ("rediacc.service_name", service),
        ("rediacc.service_ip", &address.to_string()),
        ("rediacc.repo_name", &repository),
        ("com.docker.compose.service", service),
        ("com.docker.compose.project", "app"),
    ];
    Container {
        network: network(id),
        name: format!("app-{service}-1"),
        labels: given
            .iter()
            .chain(labels)
            .map(|(label, text)| ((*label).to_owned(), (*text).to_owned()))
            .collect(),
        tcp: BTreeSet::new(),
        udp: BTreeSet::new(),
        runs: true,
        serves: true,
    }
}

pub fn routes(list: &[(&str, &str, &str)]) -> RouteTable {
    list.iter()
        .map(|(name, host, backend)| {
            let route = Published {
                host: host.parse().unwrap(),
                backend: backend.parse().unwrap(),
                tls: None,
            };
            (name.parse().unwrap(), route)
        })
        .collect()
}

/// Everything that can be handed in.
pub struct World {
    pub proxy: ProxySpec,
    pub manifests: RouteTable,
    containers: Vec<Container>,
    away: BTreeSet<NetworkId>,
    kept: Kept,
    pub certificates: Vec<Certificate>,
    pub no_orders: Option<NoOrders>,
}

impl World {
    pub fn new(containers: Vec<Container>) -> Self {
        Self {
            proxy: proxy(),
            manifests: RouteTable::new(),
            containers,
            away: BTreeSet::new(),
            kept: Kept::default(),
            certificates: Vec::new(),
            no_orders: None,
        }
    }

    pub fn table(&self) -> Table {
        self.make(&mut Tables::new(self.kept.clone()))
    }

    fn make(&self, tables: &mut Tables) -> Table {
        let mut containers = Containers::new();
        for one in &self.containers {
            let all = containers.entry(one.network).or_default();
            Arc::make_mut(all).push(one.clone());
        }
        self.with(tables, &containers)
    }

    fn with(&self, tables: &mut Tables, containers: &Containers) -> Table {
        let declared: BTreeSet<Name> = self.manifests.keys().cloned().collect();
        tables.next(&Input {
            proxy: &self.proxy,
            manifests: &self.manifests,
            declared: &declared,
            containers,
            away: &self.away,
            certificates: &self.certificates,
            no_orders: self.no_orders.as_ref(),
        })
    }

    /// The table, with what it gave out kept.
    fn next(&mut self) -> Table {
        let mut tables = Tables::new(self.kept.clone());
        let table = self.make(&mut tables);
        self.kept = tables.kept().clone();
        table
    }
}

pub fn row<'a>(table: &'a Table, name: &str) -> &'a Row {
    let found = table.rows().into_iter().find(|row| row.name == name);
    found.unwrap_or_else(|| panic!("{name} is not among {:#?}", table.rows()))
}

/// The file, which holds what Traefik is told, laid out as any JSON.
#[track_caller]
pub fn file(table: &Table, manifests: &RouteTable) -> String {
    let text = render(table, manifests).unwrap();
    let (_, told) = text.split_once('\n').unwrap();
    assert_eq!(
        told.replace("{\\u007b", "{{"),
        format!("{:#}\n", body(table))
    );
    text
}

#[track_caller]
pub fn refused(table: &Table, name: &str, word: &str) {
    let why = row(table, name).refused.as_deref().unwrap_or("served");
    assert!(why.contains(word), "{name}: {why}");
}

#[track_caller]
pub fn served(table: &Table, name: &str) {
    assert_eq!(row(table, name).refused, None, "{name}");
}

pub const ENABLE: (&str, &str) = ("traefik.enable", "true");

#[test]
fn every_example_is_served() {
    let examples = examples();
    let containers = examples
        .iter()
        .enumerate()
        .map(|(slot, (name, labels))| {
            let mut one = container(2816, slot as u32, name, &[]);
            one.labels.extend(labels.clone());
            one
        })
        .collect();
    let table = World::new(containers).table();
    let lost: Vec<&Row> = table
        .rows()
        .into_iter()
        .filter(|row| row.refused.is_some())
        .collect();
    assert!(lost.is_empty(), "{lost:#?}");
    let count: usize = table
        .sections()
        .values()
        .map(|part| part.routers.len() + part.services.len() + part.middlewares.len())
        .sum();
    assert!(count > 100, "{count}");
    insta::assert_snapshot!("labels", file(&table, &RouteTable::new()));
}

#[test]
fn nothing_leads_to_what_is_there_to_try_changes() {
    let asks = [("rediacc.service_port", "8080"), ("rediacc.domain", "blog")];
    let mut trial = container(2880, 0, "web", &asks);
    let name = || "shop:trial".to_owned();
    trial.labels.insert("rediacc.repo_name".into(), name());
    let table = |one: &Container| World::new(vec![one.clone()]).table();
    assert!(!table(&trial).rows().is_empty());
    trial.labels.insert("rediacc.trial".into(), "true".into());
    assert!(table(&trial).rows().is_empty());
}

#[test]
fn automatic_hosts_are_those_of_the_reference() {
    let plain = container(2816, 0, "Web_1", &[("rediacc.service_port", "8080")]);
    let mut fork = container(2880, 0, "web", &[("rediacc.service_port", "80")]);
    let tag = |one: &mut Container, name: &str| {
        one.labels.insert("rediacc.repo_name".into(), name.into());
    };
    tag(&mut fork, "shop:try");
    let mut nameless = container(2944, 0, "web", &[("rediacc.service_port", "80")]);
    nameless.labels.remove("rediacc.repo_name");
    let domains = [
        ("rediacc.domain", "blog, www.example.net"),
        ("rediacc.service_port", "80"),
    ];
    let named = container(3008, 0, "web", &domains);
    let mut copy = container(3072, 0, "api", &domains);
    tag(&mut copy, "shop:two");
    let mut world = World::new(vec![plain, fork, nameless, named, copy]);
    let table = world.table();
    let rule = |name: &str| row(&table, name).rule.as_str();
    assert_eq!(
        rule("2816.Web_1.auto"),
        "Host(`web-1.repo2816.m1.example.com`)"
    );
    assert_eq!(
        rule("2880.web.auto"),
        "Host(`web-fork-try.shop.m1.example.com`)"
    );
    assert_eq!(rule("2944.web.auto"), "Host(`web-2944.example.com`)");
    assert_eq!(
        rule("3008.web.auto"),
        "Host(`blog.example.com`) || Host(`blog.m1.example.com`) || Host(`www.example.net`)"
    );
    // A copy never takes its parent's requests.
    assert_eq!(
        rule("3072.api.auto"),
        "Host(`api-fork-two.shop.m1.example.com`)"
    );
    assert_eq!(
        row(&table, "2816.Web_1.auto").backend,
        "http://127.0.11.2:8080"
    );
    world.proxy.machine = None;
    let table = world.table();
    assert_eq!(
        row(&table, "2816.Web_1.auto").rule,
        "Host(`web-1-2816.example.com`)"
    );
    world.proxy.base_domain = None;
    refused(&world.table(), "2816.Web_1.auto", "baseDomain");
}

#[test]
fn the_port_is_the_label_s_or_the_only_one_of_the_image() {
    let domain = ("rediacc.domain", "a.example.com");
    let mut one = container(2816, 0, "one", &[domain]);
    one.tcp = [3000].into();
    let mut two = container(2816, 1, "two", &[("rediacc.domain", "b.example.com")]);
    two.tcp = [3000, 4000].into();
    let none = container(2816, 2, "none", &[("rediacc.domain", "c.example.com")]);
    let odd = container(2816, 3, "odd", &[("rediacc.service_port", "http")]);
    let label = ("traefik.http.services.x.loadbalancer.server.port", "81");
    let label = container(
        2816,
        4,
        "label",
        &[("rediacc.domain", "d.example.com"), label],
    );
    let mut lowest = container(2816, 5, "lowest", &[ENABLE]);
    lowest.tcp = [9000, 8000].into();
    let table = World::new(vec![one, two, none, odd, label, lowest]).table();
    assert_eq!(
        row(&table, "2816.one.auto").backend,
        "http://127.0.11.2:3000"
    );
    refused(&table, "2816.two.auto", "several");
    refused(&table, "2816.none.auto", "exposes none");
    refused(&table, "2816.odd.auto", "`http` is no port");
    assert_eq!(
        row(&table, "2816.label.auto").backend,
        "http://127.0.11.6:81"
    );
    assert_eq!(
        row(&table, "2816.lowest-app").backend,
        "http://127.0.11.7:8000"
    );
    assert_eq!(
        row(&table, "2816.lowest-app").rule,
        "Host(`lowest.repo2816.m1.example.com`)"
    );
}

/// L50: every hostile label is refused by itself, and says why; its neighbours serve.
#[test]
fn l50_hostile_labels_are_refused_one_by_one() {
    const PORT: (&str, &str) = ("traefik.http.services.x.loadbalancer.server.port", "80");
    let good = ("traefik.http.routers.good.rule", "Host(`good.example.com`)");
    let long = format!("Host(`{}`)", "a".repeat(10_000));
    let rule = "traefik.http.routers.bad.rule";
    let long_path = format!("Host(`bad.example.com`) && Path(`/{}`)", "x".repeat(10_000));
    let name = format!("traefik.http.routers.{}.rule", "n".repeat(300));
    let fine = (rule, "Host(`bad.example.com`)");
    let uses = ("traefik.http.routers.bad.middlewares", "m");
    /// Labels, what they are called in the table, and a word of the reason.
    type Case<'a> = (Vec<(&'a str, &'a str)>, &'a str, &'a str);
    let cases: Vec<Case> = vec![
        (vec![(rule, "Host(`a`) || Host(`")], "2816.bad", "back-tick"),
        (
            vec![(rule, "Host(`a.example.com`)\nevil: true")],
            "2816.bad",
            "line break",
        ),
        (vec![(rule, &long)], "2816.bad", "10008 bytes"),
        (vec![(rule, &long_path)], "2816.bad", "bytes"),
        (vec![(rule, "Hots(`a`)")], "2816.bad", "no such matcher"),
        (vec![(rule, "Host(`a b`)")], "2816.bad", "no host name"),
        (
            vec![(rule, "Host(`other.example.com`)")],
            "2816.bad",
            "belongs to service other",
        ),
        (
            vec![(rule, "Path(`/`) && Host(`OTHER.example.com.`)")],
            "2816.bad",
            "belongs to service other",
        ),
        (
            vec![(rule, "Host(`route.example.com`)")],
            "2816.bad",
            "belongs to route/shop",
        ),
        (
            vec![fine, ("traefik.http.routers.bad.service", "api@internal")],
            "2816.bad",
            "not of its repository",
        ),
        (
            vec![
                fine,
                ("traefik.http.routers.bad.service", "2880.other@file"),
            ],
            "2816.bad",
            "not of its repository",
        ),
        (
            vec![fine, ("traefik.http.routers.bad.service", "2880.other")],
            "2816.bad",
            "has no service",
        ),
        (
            vec![
                fine,
                ("traefik.http.routers.bad.middlewares", "2880.m@file"),
            ],
            "2816.bad",
            "not of its repository",
        ),
        (
            vec![fine, ("traefik.http.routers.bad.middlewares", "nothing")],
            "2816.bad",
            "has no middleware",
        ),
        (
            vec![fine, ("traefik.http.routers.bad.entrypoints", "traefik")],
            "2816.bad",
            "no entry point",
        ),
        (
            vec![fine, ("traefik.http.routers.bad.entrypoints", "tcp-5432")],
            "2816.bad",
            "no entry point",
        ),
        (
            vec![fine, ("traefik.http.routers.bad.rulesyntax", "v2")],
            "2816.bad",
            "syntax",
        ),
        (
            vec![fine, ("traefik.http.routers.bad.tls.options", "weak@file")],
            "2816.bad",
            "TLS options",
        ),
        (
            vec![fine, ("traefik.http.routers.bad.priority", "many")],
            "2816.bad",
            "whole number",
        ),
        (
            vec![fine, ("traefik.http.routers.bad.colour", "red")],
            "2816.bad",
            "no such label",
        ),
        (
            vec![
                fine,
                ("traefik.http.routers.bad.tls.domains[9999].main", "a"),
            ],
            "2816.bad",
            "no such label",
        ),
        (
            vec![
                fine,
                uses,
                (
                    "traefik.http.middlewares.m.stripprefix.forceslash",
                    "perhaps",
                ),
            ],
            "2816.bad",
            "was refused",
        ),
        (
            vec![
                fine,
                uses,
                (
                    "traefik.http.middlewares.m.basicauth.usersfile",
                    "/etc/shadow",
                ),
            ],
            "2816.bad",
            "was refused",
        ),
        (
            vec![fine, uses, ("traefik.http.middlewares.m.plugin.x.y", "z")],
            "2816.bad",
            "was refused",
        ),
        (
            vec![
                fine,
                uses,
                ("traefik.http.middlewares.m.chain.middlewares", "a@file"),
            ],
            "2816.bad",
            "was refused",
        ),
        (
            vec![
                fine,
                uses,
                ("traefik.http.middlewares.m.chain.middlewares", "gone"),
            ],
            "2816.bad",
            "was refused",
        ),
        (
            vec![
                fine,
                uses,
                (
                    "traefik.http.middlewares.m.forwardauth.address",
                    "http://127.0.11.66/",
                ),
            ],
            "2816.bad",
            "was refused",
        ),
        (
            vec![
                fine,
                uses,
                (
                    "traefik.http.middlewares.m.forwardauth.address",
                    "http://2130709058/",
                ),
            ],
            "2816.bad",
            "was refused",
        ),
        (
            vec![
                fine,
                uses,
                (
                    "traefik.http.middlewares.m.forwardauth.address",
                    "http://[::1]/",
                ),
            ],
            "2816.bad",
            "was refused",
        ),
        (
            vec![
                fine,
                uses,
                ("traefik.http.middlewares.m.errors.service", "api@internal"),
            ],
            "2816.bad",
            "was refused",
        ),
        (
            vec![(&name, "Host(`bad.example.com`)")],
            &name[21..321],
            "letters",
        ),
        (
            vec![("traefik.http.routers.a b.rule", "Host(`bad.example.com`)")],
            "2816.a b",
            "letters",
        ),
        (
            vec![(
                "traefik.tls.stores.default.defaultcertificate.certfile",
                "/x",
            )],
            "traefik.tls.stores.default.defaultcertificate.certfile",
            "whole proxy",
        ),
        (
            vec![(
                "traefik.http.serverstransports.x.insecureskipverify",
                "true",
            )],
            "traefik.http.serverstransports.x.insecureskipverify",
            "whole proxy",
        ),
        (
            vec![
                ("traefik.tcp.routers.bad.rule", "HostSNI(`*`)"),
                ("traefik.tcp.services.x.loadbalancer.server.port", "1"),
            ],
            "2816.bad",
            "every connection",
        ),
        (
            vec![
                (
                    "traefik.tcp.routers.bad.rule",
                    "HostSNI(`other.example.com`)",
                ),
                ("traefik.tcp.routers.bad.tls.passthrough", "true"),
                ("traefik.tcp.services.x.loadbalancer.server.port", "1"),
            ],
            "2816.bad",
            "belongs to service other",
        ),
        (
            vec![
                ("traefik.tcp.routers.bad.rule", "HostSNI(`a.example.com`)"),
                ("traefik.tcp.services.x.loadbalancer.server.port", "1"),
            ],
            "2816.bad",
            "lacks `tls`",
        ),
        (
            vec![
                ("traefik.udp.routers.bad.entrypoints", "udp-9"),
                ("traefik.udp.services.x.loadbalancer.server.port", "9"),
            ],
            "2816.bad",
            "no entry point",
        ),
    ];
    for (labels, name, word) in cases {
        let mut all = vec![ENABLE, PORT, good];
        all.extend(labels.clone());
        let other = [
            ENABLE,
            PORT,
            (
                "traefik.http.routers.other.rule",
                "Host(`other.example.com`)",
            ),
            ("traefik.http.middlewares.m.addprefix.prefix", "/x"),
        ];
        let mut world = World::new(vec![container(2880, 0, "other", &other)]);
        world.manifests = routes(&[("shop", "route.example.com", "127.0.11.130:80")]);
        let before = world.next();
        served(&before, "2880.other");
        world.containers.push(container(2816, 0, "evil", &all));
        let table = world.next();
        let name = match name.starts_with('n') {
            true => format!("2816.{}", "n".repeat(300)),
            false => name.to_owned(),
        };
        refused(&table, &name, word);
        served(&table, "2816.good");
        served(&table, "2880.other");
        served(&table, "shop");
        let text = file(&table, &world.manifests);
        assert_eq!(parse(&text), Some(world.manifests.clone()), "{labels:?}");
        // Nothing of what was refused is left in the file.
        let body = text.split_once('\n').unwrap().1;
        for hostile in ["evil:", "api@internal", "shadow", "@file", "bad\""] {
            assert!(!body.contains(hostile), "{labels:?}: {hostile} in {body}");
        }
    }
}

#[test]
fn a_service_whose_label_is_bad_takes_its_routers_along() {
    let labels = [
        ENABLE,
        ("traefik.http.routers.a.rule", "Host(`a.example.com`)"),
        (
            "traefik.http.services.a.loadbalancer.server.url",
            "http://10.0.0.1",
        ),
    ];
    let check = [
        ENABLE,
        ("traefik.http.routers.b.rule", "Host(`b.example.com`)"),
        ("traefik.http.services.b.loadbalancer.server.port", "80"),
        (
            "traefik.http.services.b.loadbalancer.healthcheck.path",
            "//127.0.0.1/",
        ),
    ];
    let table = World::new(vec![
        container(2816, 0, "a", &labels),
        container(2816, 1, "b", &check),
    ])
    .table();
    refused(&table, "2816.a", "was refused");
    refused(&table, "service 2816.a", "the service's own");
    refused(&table, "service 2816.b", "health check");
}

#[test]
fn names_are_each_repository_s_own() {
    let labels = |host| {
        [
            ENABLE,
            ("traefik.http.routers.web.rule", host),
            ("traefik.http.routers.web.middlewares", "m"),
            ("traefik.http.middlewares.m.addprefix.prefix", "/x"),
            ("traefik.http.services.web.loadbalancer.server.port", "80"),
        ]
    };
    let table = World::new(vec![
        container(2816, 0, "web", &labels("Host(`a.example.com`)")),
        container(2880, 0, "web", &labels("Host(`b.example.com`)")),
    ])
    .table();
    let http = &table.sections()[&Protocol::Http];
    for id in [2816, 2880] {
        assert_eq!(
            http.routers[&format!("{id}.web")]["service"],
            format!("{id}.web")
        );
        assert_eq!(
            http.routers[&format!("{id}.web")]["middlewares"][0],
            format!("{id}.m")
        );
    }
}

#[test]
fn one_name_is_one_thing_in_a_repository() {
    let labels = |host, port, prefix| {
        [
            ENABLE,
            ("traefik.http.routers.web.rule", host),
            ("traefik.http.services.web.loadbalancer.server.port", port),
            ("traefik.http.middlewares.m.addprefix.prefix", prefix),
        ]
    };
    let same = "Host(`a.example.com`)";
    let world = World::new(vec![
        container(2816, 0, "one", &labels(same, "80", "/x")),
        container(2816, 1, "two", &labels(same, "80", "/x")),
    ]);
    let table = world.table();
    let http = &table.sections()[&Protocol::Http];
    let servers = &http.services["2816.web"]["loadBalancer"]["servers"];
    assert_eq!(servers.as_array().unwrap().len(), 2, "{servers}");
    assert_eq!(http.routers.len(), 1);
    let table = World::new(vec![
        container(2816, 0, "one", &labels(same, "80", "/x")),
        container(2816, 1, "two", &labels("Host(`b.example.com`)", "80", "/y")),
    ])
    .table();
    refused(&table, "2816.web", "otherwise");
    refused(&table, "middleware 2816.m", "otherwise");
    assert!(table.sections()[&Protocol::Http].routers.is_empty());
}

/// Ruling 16: the recorded claim, manifests before labels, parents before forks, the
/// lower network, the name.
#[test]
fn a_host_has_one_owner() {
    let asks = |id, service: &str| {
        container(
            id,
            0,
            service,
            &[
                ("rediacc.domain", "x.example.com"),
                ("rediacc.service_port", "80"),
            ],
        )
    };
    let mut world = World::new(vec![asks(2880, "b"), asks(2944, "c")]);
    served(&world.next(), "2880.b.auto");
    // Who comes later does not take it, whatever its rank.
    world.containers.push(asks(2816, "a"));
    world.manifests = routes(&[("x", "x.example.com", "127.0.12.2:80")]);
    let table = world.next();
    served(&table, "2880.b.auto");
    refused(
        &table,
        "2816.a.auto",
        "belongs to service b of network 2880",
    );
    refused(&table, "x", "belongs to service b of network 2880");
    // While it is only stopped, or its daemon cannot be asked, it stays its own.
    world.containers[0].serves = false;
    refused(&world.next(), "x", "belongs to service b");
    let gone = world.containers.remove(0);
    world.away = [network(2880)].into();
    refused(&world.next(), "x", "belongs to service b");
    world.away.clear();
    // Gone, the manifest comes first.
    let table = world.next();
    served(&table, "x");
    refused(&table, "2816.a.auto", "belongs to route/x");
    world.containers.push(gone);
    served(&world.next(), "x");
    world.manifests.clear();
    let table = world.next();
    served(&table, "2816.a.auto");
    // Parents before forks.
    let mut fork = asks(2816, "a");
    fork.labels
        .insert("rediacc.repo_name".into(), "shop:try".into());
    fork.labels.insert("traefik.enable".into(), "true".into());
    fork.labels.insert(
        "traefik.http.routers.f.rule".into(),
        "Host(`x.example.com`)".into(),
    );
    fork.labels.insert(
        "traefik.http.services.f.loadbalancer.server.port".into(),
        "80".into(),
    );
    let table = World::new(vec![fork, asks(2880, "b")]).table();
    served(&table, "2880.b.auto");
    refused(&table, "2816.f", "belongs to");
}

#[test]
fn a_route_takes_its_host_along_to_another_repository() {
    let mut world = World::new(Vec::new());
    for backend in ["127.0.11.2:80", "127.0.11.66:80", "127.0.11.66:81"] {
        world.manifests = routes(&[("x", "x.example.com", backend)]);
        served(&world.next(), "x");
    }
}

#[test]
fn what_matches_any_host_comes_after_the_hosts_of_others() {
    let any = |extra: (&'static str, &'static str)| {
        container(
            2816,
            0,
            "any",
            &[
                ENABLE,
                (
                    "traefik.http.routers.any.rule",
                    "PathPrefix(`/a/very/long/path/that/would/win/by/its/length`)",
                ),
                ("traefik.http.services.any.loadbalancer.server.port", "80"),
                extra,
            ],
        )
    };
    let other = container(2880, 0, "web", &[("rediacc.service_port", "80")]);
    let alone = World::new(vec![any(ENABLE)]).table();
    let priority = |table: &Table| {
        table.sections()[&Protocol::Http].routers["2816.any"]
            .get("priority")
            .cloned()
    };
    assert_eq!(priority(&alone), None);
    let both = World::new(vec![any(ENABLE), other.clone()]).table();
    assert_eq!(priority(&both), Some(1.into()));
    let high = World::new(vec![
        any(("traefik.http.routers.any.priority", "999")),
        other,
    ])
    .table();
    refused(&high, "2816.any", "requests of other repositories");
}

#[test]
fn ports_are_given_out_once_and_kept_and_their_exhaustion_is_said() {
    let asks = |id, ports| {
        container(
            id,
            0,
            "db",
            &[("rediacc.tcp_ports", ports), ("rediacc.udp_ports", "53")],
        )
    };
    let mut world = World::new(vec![asks(2816, "5432, 9999"), asks(2880, "5432")]);
    let table = world.next();
    assert_eq!(row(&table, "2816.db.tcp-5432").entry_points, ["tcp-5432"]);
    assert_eq!(row(&table, "2816.db.tcp-9999").entry_points, ["tcp-10000"]);
    assert_eq!(row(&table, "2880.db.tcp-5432").entry_points, ["tcp-10001"]);
    assert_eq!(row(&table, "2816.db.udp-53").entry_points, ["udp-53"]);
    refused(&table, "2880.db.udp-53", "proxy.udp");
    // Kept, whoever else comes and goes.
    world.containers.remove(0);
    let table = world.next();
    assert_eq!(row(&table, "2880.db.tcp-5432").entry_points, ["tcp-10001"]);
    world.containers.insert(0, asks(2816, "9999,5432"));
    let table = world.next();
    assert_eq!(row(&table, "2816.db.tcp-9999").entry_points, ["tcp-10000"]);
    let many = "1,2,3,4,5,6,7,8,9,10,11,12";
    world
        .containers
        .push(container(2944, 0, "many", &[("rediacc.tcp_ports", many)]));
    let table = world.next();
    let lost = table
        .rows()
        .into_iter()
        .filter(|row| row.refused.is_some() && row.source == "2944/many");
    assert_eq!(lost.count(), 3);
    refused(&table, "2944.many.tcp-12", "10000 to 10010");
    // What nobody is there for is given to others.
    world.containers.remove(0);
    let table = world.next();
    served(&table, "2944.many.tcp-10");
    refused(&table, "2944.many.tcp-12", "10000 to 10010");
    world.proxy.address = None;
    refused(&world.table(), "2880.db.tcp-5432", "proxy.address");
}

#[test]
fn what_does_not_serve_or_asks_for_nothing_has_no_route() {
    let mut stopped = container(2816, 0, "a", &[("rediacc.service_port", "80")]);
    stopped.serves = false;
    let silent = container(2816, 1, "b", &[]);
    let off = container(
        2816,
        2,
        "c",
        &[
            ("traefik.enable", "false"),
            ("traefik.http.routers.c.rule", "Host(`c.example.com`)"),
        ],
    );
    let mut strange = container(2816, 3, "d", &[("rediacc.service_port", "80")]);
    strange
        .labels
        .insert("rediacc.service_ip".into(), "127.0.11.66".into());
    let table = World::new(vec![stopped, silent, off, strange]).table();
    assert_eq!(table.rows().len(), 1, "{:#?}", table.rows());
    refused(&table, "2816.d.auto", "no address of its network");
}

/// On so many daemons as are needed for 50 on each: how long the table takes, its file, and
/// both again after one of them stopped, and after it came back with another host.
fn cost(count: u32) -> [Duration; 4] {
    const EACH: u32 = 50;
    let mut containers = Containers::new();
    for n in 0..count {
        let labels = [("rediacc.service_port", "8080")];
        let (id, slot) = (2816 + 64 * (n / EACH), n % EACH);
        let one = container(id, slot, &format!("s{slot}"), &labels);
        Arc::make_mut(containers.entry(one.network).or_default()).push(one);
    }
    let world = World::new(Vec::new());
    let mut tables = Tables::new(Kept::default());
    let timed = |containers: &Containers, tables: &mut Tables| {
        let began = Instant::now();
        let table = world.with(tables, containers);
        let made = began.elapsed();
        let text = render(&table, &world.manifests).unwrap();
        assert!(text.len() > 200 * table.asked());
        (table.asked(), made, began.elapsed() - made)
    };
    let (asked, built, written) = timed(&containers, &mut tables);
    assert_eq!(asked as u32, count);
    let (mut changed, mut again) = (Vec::new(), Vec::new());
    for turn in 0..10 {
        let network = *containers.keys().nth(turn % containers.len()).unwrap();
        let all = containers.get_mut(&network).unwrap();
        let one = &mut Arc::make_mut(all)[7];
        one.serves = false;
        let (asked, made, wrote) = timed(&containers, &mut tables);
        assert_eq!(asked as u32, count - 1);
        changed.push(made);
        again.push(wrote);
        let all = containers.get_mut(&network).unwrap();
        let one = &mut Arc::make_mut(all)[7];
        one.serves = true;
        let host = format!("h{turn}");
        one.labels.insert("rediacc.domain".into(), host);
        changed.push(timed(&containers, &mut tables).1);
    }
    let middle = |mut all: Vec<Duration>| {
        all.sort();
        all[all.len() / 2]
    };
    [built, written, middle(changed), middle(again)]
}

/// The figures are printed; the bounds are generous for a busy machine.
#[test]
fn ten_thousand_containers_make_one_table_and_one_of_them_another_in_a_moment() {
    let [_, _, few, _] = cost(500);
    let [built, written, many, again] = cost(10_000);
    println!(
        "10,000 containers: table {built:?}, file {written:?}; one change: table {many:?} \
         ({few:?} among 500), file {again:?}"
    );
    assert!(built < Duration::from_secs(5), "{built:?}");
    // Twenty times as many make next to no difference.
    assert!(
        many < few * 3 + Duration::from_millis(2),
        "{many:?} {few:?}"
    );
}

/// A manifest may be called as a network is, and a label's router as anything.
#[test]
fn no_label_takes_the_place_of_what_a_manifest_does_over_http() {
    let labels = [
        ENABLE,
        ("traefik.http.routers.http.rule", "Host(`evil.example.com`)"),
        ("traefik.http.services.a.loadbalancer.server.port", "80"),
    ];
    let mut world = World::new(vec![container(2816, 0, "a", &labels)]);
    world.manifests = routes(&[("2816", "shop.example.com", "127.0.11.66:80")]);
    world.proxy.https = Some(443);
    world.certificates = vec![Certificate {
        name: "mine".parse().unwrap(),
        hosts: ["shop.example.com".to_owned()].into(),
        files: Some(("/c".into(), "/k".into())),
        refused: None,
    }];
    let table = world.table();
    served(&table, "2816.http");
    let rules: Vec<Value> = table.sections()[&Protocol::Http]
        .routers
        .values()
        .filter(|router| router["middlewares"] == serde_json::json!(["renet.https"]))
        .map(|router| router["rule"].clone())
        .collect();
    assert_eq!(rules, ["Host(`shop.example.com`)"]);
    file(&table, &world.manifests);
}

#[test]
fn l50_no_label_is_a_template_of_the_proxy_s() {
    const TEXT: &str = "{{ env `CF_DNS_API_TOKEN` }} {{{ {{{{ }} {{";
    let labels = [
        ENABLE,
        ("traefik.http.services.a.loadbalancer.server.port", "80"),
        ("traefik.http.routers.a.rule", "Host(`a.example.com`)"),
        ("traefik.http.routers.a.middlewares", "m"),
        (
            "traefik.http.middlewares.m.headers.customresponseheaders.X",
            TEXT,
        ),
    ];
    let world = World::new(vec![container(2816, 0, "web", &labels)]);
    let table = world.table();
    served(&table, "2816.a");
    let text = file(&table, &world.manifests);
    assert!(!text.contains("{{"), "{text}");
    assert_eq!(parse(&text), Some(RouteTable::new()));
    let (_, body) = text.split_once('\n').unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    let middleware = &body["http"]["middlewares"]["2816.m"];
    assert_eq!(middleware["headers"]["customResponseHeaders"]["X"], TEXT);
}

#[test]
fn an_edited_file_is_seen() {
    let mut world = World::new(vec![container(
        2816,
        0,
        "a",
        &[("rediacc.service_port", "80")],
    )]);
    world.manifests = routes(&[("shop", "shop.example.com", "127.0.12.2:80")]);
    let text = file(&world.table(), &world.manifests);
    assert_eq!(parse(&text), Some(world.manifests.clone()));
    for edited in [
        text.replace("127.0.12.2:80\"\n", "127.0.12.3:80\"\n"),
        text.replace("# renet", "#renet"),
        text[..text.len() - 2].to_owned(),
        String::new(),
    ] {
        assert_ne!(edited, text);
        assert_eq!(parse(&edited), None, "{edited}");
    }
}

/// Pieces that labels are made of, good and bad.
fn label() -> impl Strategy<Value = (String, String)> {
    let pick = |words: &'static [&'static str]| proptest::sample::select(words);
    let keys = pick(&[
        "traefik.http.routers.R.rule",
        "traefik.http.routers.R.service",
        "traefik.http.routers.R.middlewares",
        "traefik.http.routers.R.entrypoints",
        "traefik.http.routers.R.priority",
        "traefik.http.routers.R.tls",
        "traefik.http.services.R.loadbalancer.server.port",
        "traefik.http.services.R.loadbalancer.sticky",
        "traefik.http.middlewares.R.chain.middlewares",
        "traefik.http.middlewares.R.addprefix.prefix",
        "traefik.tcp.routers.R.rule",
        "traefik.tcp.routers.R.entrypoints",
        "traefik.tcp.services.R.loadbalancer.server.port",
        "traefik.udp.routers.R.entrypoints",
        "traefik.http.middlewares.R.errors.service",
        "rediacc.service_port",
        "rediacc.domain",
        "rediacc.tcp_ports",
        "traefik.http.routers.R.tls.domains[0].main",
    ]);
    let texts = pick(&[
        "Host(`a.example.com`)",
        "Host(`b.example.com`) || PathPrefix(`/`)",
        "HostSNI(`*`)",
        "PathPrefix(`/x`)",
        "web",
        "tcp-5432",
        "udp-53",
        "a",
        "b",
        "a,b",
        "a@docker",
        "api@internal",
        "80",
        "5432",
        "true",
        "false",
        "",
        "x.example.com",
        "x",
        "\u{0}",
        "`",
        "Host(`a",
        "((((",
    ]);
    let names = pick(&["a", "b", "A", "c d"]);
    let name = names;
    prop_oneof![
        8 => (keys, name, texts).prop_map(|(key, name, text)| (key.replace('R', name), text.to_owned())),
        1 => ("traefik\\.[a-z.]{0,20}", ".{0,20}"),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever containers say: the file is whole, a router leads only to what is there
    /// and is its own repository's, a host has one owner, and the same input gives the
    /// same bytes, in any order (L52).
    #[test]
    fn l52_any_labels_make_a_whole_table_and_always_the_same(
        all in proptest::collection::vec(
            (0u32..3, 0u32..3, any::<bool>(), proptest::collection::vec(label(), 0..8)), 0..6),
        turn in 0usize..6,
    ) {
        let mut containers: Vec<Container> = Vec::new();
        for (at, (network, slot, enabled, labels)) in all.into_iter().enumerate() {
            let mut one = container(2816 + 64 * network, slot, &format!("s{slot}"), &[]);
            one.name = format!("c{at}");
            one.labels.extend(labels);
            if enabled {
                one.labels.insert("traefik.enable".into(), "true".into());
            }
            containers.push(one);
        }
        let mut world = World::new(containers);
        world.manifests = routes(&[("shop", "a.example.com", "127.0.11.130:80")]);
        let table = world.table();
        let text = file(&table, &world.manifests);
        prop_assert_eq!(parse(&text), Some(world.manifests.clone()));
        prop_assert!(!text.contains("{{"));
        let count = world.containers.len().max(1);
        world.containers.rotate_left(turn % count);
        prop_assert_eq!(&file(&world.table(), &world.manifests), &text);
        // Nothing changes when nothing does.
        prop_assert_eq!(&world.next(), &table);
        let kept = world.kept.clone();
        let again = world.next();
        prop_assert_eq!(&world.kept, &kept);
        prop_assert_eq!(&file(&again, &world.manifests), &text);
        let mut hosts: BTreeMap<&str, &str> = BTreeMap::new();
        let sections = table.sections();
        for row in table.rows().into_iter().filter(|row| row.refused.is_none()) {
            let section = &sections[&row.protocol];
            let router = &section.routers[&row.name];
            let own = row.name.split('.').next().unwrap();
            let service = router["service"].as_str().unwrap();
            prop_assert!(section.services.contains_key(service), "{service}");
            let middlewares = router["middlewares"].as_array().into_iter().flatten();
            for name in middlewares.map(|name| name.as_str().unwrap()).chain([service]) {
                prop_assert!(name.starts_with(own), "{} uses {}", row.name, name);
                prop_assert!(name == service || section.middlewares.contains_key(name));
            }
            let whole = row.rule.strip_prefix("Host(`").and_then(|rest| rest.strip_suffix("`)"));
            if let Some(host) = whole.filter(|host| !host.contains('`')) {
                let before = hosts.insert(host, own);
                prop_assert!(before.is_none_or(|before| before == own), "{host}");
            }
        }
    }
}

/// Something that changes between two tables.
#[derive(Clone, Debug)]
enum Change {
    /// A container comes, or is another.
    Put(u32, u32, bool, Vec<(String, String)>),
    /// It stops, or runs again.
    Turn(u32, u32),
    /// A daemon stops, with all it has.
    Gone(u32),
    /// A daemon hangs, or answers again.
    Away(u32),
    /// A manifest comes or goes.
    Manifest(usize),
    /// The Machine says otherwise.
    Secure,
    Address,
}

fn change() -> impl Strategy<Value = Change> {
    let labels = || proptest::collection::vec(label(), 0..5);
    let forward = prop_oneof![Just("5432"), Just("5432,9999"), Just("1,2,3,4,5,6,7,8,9")]
        .prop_map(|ports| vec![("rediacc.tcp_ports".to_owned(), ports.to_owned())]);
    prop_oneof![
        6 => (0u32..4, 0u32..3, any::<bool>(), labels())
            .prop_map(|(id, slot, enabled, labels)| Change::Put(id, slot, enabled, labels)),
        2 => (0u32..4, 0u32..3, forward)
            .prop_map(|(id, slot, labels)| Change::Put(id, slot, false, labels)),
        3 => (0u32..4, 0u32..3).prop_map(|(id, slot)| Change::Turn(id, slot)),
        1 => (0u32..4).prop_map(Change::Gone),
        1 => (0u32..4).prop_map(Change::Away),
        2 => (0usize..4).prop_map(Change::Manifest),
        1 => Just(Change::Secure),
        1 => Just(Change::Address),
    ]
}

const MANIFESTS: [(&str, &str, &str); 4] = [
    ("shop", "a.example.com", "127.0.11.2:80"),
    ("blog", "a.example.com", "127.0.11.66:80"),
    ("2816", "b.example.com", "127.0.11.130:80"),
    ("shop", "b.example.com", "127.0.11.130:80"),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever changes, one thing after the other: the table is what a fresh look gives,
    /// and so is what it gives out.
    #[test]
    fn a_change_gives_the_table_that_a_fresh_look_gives(
        changes in proptest::collection::vec(change(), 1..24),
    ) {
        let mut world = World::new(Vec::new());
        world.certificates = vec![Certificate {
            name: "mine".parse().unwrap(),
            hosts: ["a.example.com".to_owned(), "*.b.example.com".to_owned()].into(),
            files: Some(("/c".into(), "/k".into())),
            refused: None,
        }];
        let mut containers = Containers::new();
        let mut tables = Tables::new(Kept::default());
        for change in changes {
            match change {
                Change::Put(id, slot, enabled, labels) => {
                    let mut one = container(2816 + 64 * id, slot, &format!("s{slot}"), &[]);
                    one.labels.extend(labels);
                    if enabled {
                        one.labels.insert("traefik.enable".into(), "true".into());
                    }
                    let all = Arc::make_mut(containers.entry(one.network).or_default());
                    all.retain(|other| other.name != one.name);
                    all.push(one);
                }
                Change::Turn(id, slot) => {
                    if let Some(all) = containers.get_mut(&network(2816 + 64 * id)) {
                        let name = format!("app-s{slot}-1");
                        for one in Arc::make_mut(all).iter_mut().filter(|one| one.name == name) {
                            one.serves = !one.serves;
                        }
                    }
                }
                Change::Gone(id) => drop(containers.remove(&network(2816 + 64 * id))),
                Change::Away(id) => {
                    let id = network(2816 + 64 * id);
                    if !world.away.remove(&id) {
                        world.away.insert(id);
                    }
                }
                Change::Manifest(at) => {
                    let (name, route) = routes(&MANIFESTS[at..=at]).pop_first().unwrap();
                    if world.manifests.remove(&name) != Some(route.clone()) {
                        world.manifests.insert(name, route);
                    }
                }
                Change::Secure => {
                    world.proxy.https = world.proxy.https.is_none().then_some(443);
                }
                Change::Address => {
                    let address = [127, 0, 0, 1].into();
                    world.proxy.address = world.proxy.address.is_none().then_some(address);
                }
            }
            let before = tables.kept().clone();
            let mut fresh = Tables::new(before.clone());
            let wanted = world.with(&mut fresh, &containers);
            let table = world.with(&mut tables, &containers);
            prop_assert_eq!(tables.kept(), fresh.kept());
            prop_assert_eq!(tables.gave(), *tables.kept() != before);
            prop_assert_eq!(&table, &wanted);
            let text = file(&table, &world.manifests);
            prop_assert_eq!(parse(&text), Some(world.manifests.clone()));
        }
    }
}
