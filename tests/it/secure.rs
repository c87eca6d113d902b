//! Which routes are served over HTTPS, and with which certificate.

use std::collections::BTreeSet;

use renet::model::{Acme, DnsProof};
use renet::router::{Certificate, NoOrders, Protocol, Table, body};
use serde_json::{Value, json};

use crate::router::{ENABLE, World, container, refused, routes, row, served};

fn own(name: &str, hosts: &[&str]) -> Certificate {
    Certificate {
        name: name.parse().unwrap(),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        files: Some((
            format!("/c/{name}.crt").into(),
            format!("/c/{name}.key").into(),
        )),
        refused: None,
    }
}

/// Answers HTTPS, with no certificate yet.
fn world(containers: Vec<renet::router::Container>) -> World {
    let mut world = World::new(containers);
    world.proxy.https = Some(443);
    world
}

fn acme(dns: bool, ca_server: Option<&str>) -> Acme {
    Acme {
        email: "ops@example.com".to_owned(),
        ca_server: ca_server.map(str::to_owned),
        ca_certificate: None,
        dns: dns.then(|| DnsProof {
            provider: "cloudflare".to_owned(),
            token_files: Default::default(),
            resolvers: Default::default(),
        }),
    }
}

fn router(table: &Table, name: &str) -> Value {
    let http = &table.sections()[&Protocol::Http].routers;
    http.get(name).cloned().unwrap_or_default()
}

const SHOP: (&str, &str, &str) = ("shop-web", "shop.example.com", "127.0.11.2:8080");

#[test]
fn a_route_is_served_over_https_where_there_is_a_certificate_for_its_host() {
    let mut world = world(Vec::new());
    world.manifests = routes(&[SHOP, ("other", "deep.shop.example.com", "127.0.11.2:8080")]);
    let plain = world.table();
    assert_eq!(router(&plain, "shop-web")["entryPoints"], json!(["web"]));
    world.certificates = vec![own("mine", &["*.example.com"])];
    let table = world.table();
    let secure = router(&table, "shop-web");
    assert_eq!(secure["entryPoints"], json!(["websecure"]));
    assert_eq!(secure["tls"], json!({}));
    let twin = router(&table, "shop-web:http");
    assert_eq!(twin["entryPoints"], json!(["web"]));
    assert_eq!(twin["middlewares"], json!(["renet.https"]));
    assert_eq!(twin["rule"], secure["rule"]);
    assert_eq!(twin.get("tls"), None);
    // A star stands for one level.
    assert_eq!(router(&table, "other"), router(&plain, "other"));
    let told = body(&table);
    assert_eq!(
        told["tls"]["certificates"],
        json!([{"certFile": "/c/mine.crt", "keyFile": "/c/mine.key"}])
    );
    assert_eq!(
        told["tls"]["options"]["default"]["minVersion"],
        "VersionTLS12"
    );
    let redirect = &told["http"]["middlewares"]["renet.https"]["redirectScheme"];
    assert_eq!(redirect, &json!({"scheme": "https", "permanent": true}));
    // Elsewhere than where everybody looks.
    world.proxy.https = Some(8443);
    let told = body(&world.table());
    let redirect = &told["http"]["middlewares"]["renet.https"]["redirectScheme"];
    assert_eq!(redirect["port"], "8443");
    // Told to answer both.
    world.proxy.redirect = false;
    let twin = router(&world.table(), "shop-web:http");
    assert_eq!(
        (&twin["service"], &twin["middlewares"]),
        (&json!("shop-web"), &Value::Null)
    );
    // No HTTPS, no word of it.
    world.proxy.https = None;
    assert_eq!(world.table(), {
        let mut table = plain;
        table.tls = None;
        table
    });
}

#[test]
fn a_route_says_itself_whether_it_is_served_over_https() {
    let mut world = world(Vec::new());
    world.certificates = vec![own("mine", &["shop.example.com"])];
    let mut tell = |tls, certificates: &[Certificate], https| {
        world.manifests = routes(&[SHOP]);
        world
            .manifests
            .values_mut()
            .for_each(|route| route.tls = tls);
        world.certificates = certificates.to_vec();
        world.proxy.https = https;
        world.table()
    };
    let mine = [own("mine", &["shop.example.com"])];
    let table = tell(Some(false), &mine, Some(443));
    assert_eq!(router(&table, "shop-web")["entryPoints"], json!(["web"]));
    refused(
        &tell(Some(true), &[], Some(443)),
        "shop-web",
        "no certificate for `shop.example.com`",
    );
    refused(&tell(Some(true), &mine, None), "shop-web", "has no HTTPS");
    served(&tell(Some(true), &mine, Some(443)), "shop-web");
}

#[test]
fn l50_a_broken_certificate_takes_nothing_along() {
    let mut world = world(Vec::new());
    world.manifests = routes(&[SHOP, ("wiki", "wiki.example.com", "127.0.11.2:8080")]);
    let broken = |files: bool, hosts: &[&str]| {
        let good = own("mine", hosts);
        Certificate {
            files: good.files.clone().filter(|_| files),
            refused: Some("/tls/mine.crt begins with no certificate in PEM".to_owned()),
            ..good
        }
    };
    let wiki = own("wiki", &["wiki.example.com"]);
    // The one before goes on.
    world.certificates = vec![broken(true, &["shop.example.com"]), wiki.clone()];
    let table = world.table();
    refused(&table, "certificate mine", "the one before goes on");
    assert_eq!(router(&table, "shop-web")["tls"], json!({}));
    // There was none: its host is answered as if there were no certificate.
    world.certificates = vec![broken(false, &[]), wiki.clone()];
    let table = world.table();
    refused(&table, "certificate mine", "no certificate in PEM");
    assert_eq!(router(&table, "shop-web")["entryPoints"], json!(["web"]));
    assert_eq!(router(&table, "wiki")["tls"], json!({}));
    assert_eq!(
        body(&table)["tls"]["certificates"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    // It expired: what was to be had by HTTPS alone is not given away by HTTP.
    world.certificates = vec![broken(false, &["shop.example.com"]), wiki];
    assert_eq!(
        router(&world.table(), "shop-web")["entryPoints"],
        json!(["websecure"])
    );
    // Where another is to be had, that is.
    world.proxy.acme = Some(acme(false, None));
    let tls = router(&world.table(), "shop-web")["tls"].clone();
    assert_eq!(tls["certResolver"], "letsencrypt");
}

#[test]
fn one_certificate_a_repository_is_ordered_and_forks_share_it() {
    let port = ("rediacc.service_port", "80");
    let named = |id, slot, service, repository: &str| {
        container(
            id,
            slot,
            service,
            &[port, ("rediacc.repo_name", repository)],
        )
    };
    let mut all = vec![named(2816, 0, "web", "shop"), named(2816, 1, "api", "shop")];
    all.push(named(2880, 0, "web", "shop:preview"));
    all.push(container(
        2944,
        0,
        "www",
        &[port, ("rediacc.domain", "www.other.org")],
    ));
    all.push(container(
        3008,
        0,
        "app",
        &[port, ("rediacc.domain", "app")],
    ));
    let mut world = world(all);
    world.proxy.acme = Some(acme(true, None));
    let table = world.table();
    let tls = |name: &str| router(&table, name)["tls"].clone();
    let ordered = |resolver: &str, names: &[&str]| {
        let domains: Vec<Value> = names.iter().map(|name| json!({"main": name})).collect();
        json!({"certResolver": resolver, "domains": domains})
    };
    let shop = ordered("letsencrypt", &["*.shop.m1.example.com"]);
    for name in ["2816.web.auto", "2816.api.auto", "2880.web.auto"] {
        assert_eq!(tls(name), shop, "{name}");
    }
    assert_eq!(
        tls("2944.www.auto"),
        ordered("letsencrypt-http", &["www.other.org"])
    );
    assert_eq!(
        tls("3008.app.auto"),
        ordered("letsencrypt", &["*.m1.example.com", "app.example.com"])
    );
    // By requests alone nobody gets a star.
    world.proxy.acme = Some(acme(false, None));
    assert_eq!(
        router(&world.table(), "2816.web.auto")["tls"],
        ordered("letsencrypt", &["web.shop.m1.example.com"])
    );
    // One's own comes first.
    world.certificates = vec![own("mine", &["*.shop.m1.example.com"])];
    assert_eq!(router(&world.table(), "2816.web.auto")["tls"], json!({}));
}

#[test]
fn nothing_is_ordered_for_a_host_that_no_authority_can_know() {
    let mut world = world(Vec::new());
    let hosts = [
        "hello.localhost",
        "nas",
        "a.local",
        "a.home.arpa",
        "b.internal",
    ];
    for host in hosts {
        world.manifests = routes(&[("one", host, "127.0.11.2:8080")]);
        world.proxy.acme = Some(acme(false, None));
        assert_eq!(
            router(&world.table(), "one")["entryPoints"],
            json!(["web"]),
            "{host}"
        );
        // One's own authority may.
        world.proxy.acme = Some(acme(false, Some("https://ca.local/dir")));
        assert_eq!(
            router(&world.table(), "one")["entryPoints"],
            json!(["websecure"]),
            "{host}"
        );
    }
}

#[test]
fn without_its_token_nothing_is_ordered_and_http_goes_on() {
    let mut world = world(Vec::new());
    world.manifests = routes(&[SHOP]);
    world.proxy.acme = Some(acme(true, None));
    let mut with = |ordered_before| {
        world.no_orders = Some(NoOrders {
            why: "TOKEN: /t: not found".to_owned(),
            ordered_before,
        });
        let table = world.table();
        refused(&table, "acme", "no certificate can be ordered: TOKEN");
        router(&table, "shop-web")["entryPoints"].clone()
    };
    assert_eq!(with(false), json!(["web"]));
    // What was ordered serves on.
    assert_eq!(with(true), json!(["websecure"]));
}

#[test]
fn labels_name_the_entry_point_of_https_and_order_for_their_own_hosts_alone() {
    let with = |labels: &[(&str, &str)]| {
        let rule = (
            "traefik.http.routers.w.rule",
            "Host(`web.shop.m1.example.com`)",
        );
        let port = ("traefik.http.services.w.loadbalancer.server.port", "80");
        let mut all = vec![ENABLE, rule, port];
        all.extend(labels);
        let mut world = world(vec![container(2816, 0, "web", &all)]);
        world.proxy.acme = Some(acme(true, None));
        world
    };
    const POINT: &str = "traefik.http.routers.w.entrypoints";
    const RESOLVER: &str = "traefik.http.routers.w.tls.certresolver";
    const MAIN: &str = "traefik.http.routers.w.tls.domains[0].main";
    const NAME: &str = "2816.w";
    let wild = json!([{"main": "*.shop.m1.example.com"}]);
    // As the reference's users write it.
    let table = with(&[(POINT, "websecure"), (RESOLVER, "letsencrypt")]).table();
    served(&table, NAME);
    assert_eq!(
        router(&table, NAME)["tls"],
        json!({"certResolver": "letsencrypt", "domains": wild})
    );
    assert_eq!(
        router(&table, "2816.w.http")["middlewares"],
        json!(["renet.https"])
    );
    // Without a word of TLS, and with both entry points: neither is in vain.
    let table = with(&[(POINT, "web,websecure")]).table();
    assert_eq!(router(&table, NAME)["tls"]["domains"], wild);
    let plain = router(&table, "2816.w.http");
    assert_eq!(
        (&plain["service"], plain.get("tls")),
        (&json!("2816.w"), None)
    );
    assert_eq!(row(&table, NAME).entry_points, ["web", "websecure"]);
    // For itself.
    for name in ["web.shop.m1.example.com", "*.shop.m1.example.com"] {
        let labels = [
            (POINT, "websecure"),
            (RESOLVER, "letsencrypt"),
            (MAIN, name),
        ];
        served(&with(&labels).table(), NAME);
    }
    for name in ["*.m1.example.com", "example.com", "*.wiki.m1.example.com"] {
        let labels = [
            (POINT, "websecure"),
            (RESOLVER, "letsencrypt"),
            (MAIN, name),
        ];
        refused(&with(&labels).table(), NAME, "no certificate to order");
    }
    let by_request = [
        (POINT, "websecure"),
        (RESOLVER, "letsencrypt-http"),
        (MAIN, "*.shop.m1.example.com"),
    ];
    refused(&with(&by_request).table(), NAME, "no certificate to order");
    refused(
        &with(&[(POINT, "websecure"), (RESOLVER, "mine")]).table(),
        NAME,
        "no certificate resolver `mine`",
    );
    // What it names without saying by whom is not ordered by anybody.
    let table = with(&[(POINT, "websecure"), (MAIN, "wiki.m1.example.com")]).table();
    assert_eq!(router(&table, NAME)["tls"]["domains"], wild);
    let labels = [(POINT, "websecure"), (RESOLVER, "letsencrypt-http")];
    assert_eq!(
        router(&with(&labels).table(), NAME)["tls"]["domains"],
        json!([{"main": "web.shop.m1.example.com"}])
    );
    // Where there is none.
    let mut world = with(&[(POINT, "websecure")]);
    world.proxy.acme = None;
    refused(&world.table(), NAME, "there is no certificate for");
    world.proxy.https = None;
    refused(&world.table(), NAME, "no entry point `websecure`");
}

#[test]
fn a_connection_passed_through_needs_no_certificate_and_takes_only_its_host() {
    let with = |rule: &str, more: &[(&str, &str)]| {
        let mut all = vec![
            ENABLE,
            ("traefik.tcp.routers.t.rule", rule),
            ("traefik.tcp.routers.t.entrypoints", "websecure"),
            ("traefik.tcp.services.t.loadbalancer.server.port", "443"),
        ];
        all.extend(more);
        let through = ("traefik.tcp.routers.t.tls.passthrough", "true");
        all.push(through);
        let mut world = world(vec![container(2816, 0, "web", &all)]);
        world.manifests = routes(&[("wiki", "wiki.example.com", "127.0.11.66:8080")]);
        world.certificates = vec![own("mine", &["wiki.example.com"])];
        world.table()
    };
    let table = with("HostSNI(`own.example.com`)", &[]);
    served(&table, "2816.t");
    let router = &table.sections()[&Protocol::Tcp].routers["2816.t"];
    assert_eq!(router["tls"], json!({"passthrough": true}));
    refused(
        &with("HostSNI(`wiki.example.com`)", &[]),
        "2816.t",
        "belongs to route/wiki",
    );
    refused(&with("HostSNI(`*`)", &[]), "2816.t", "every connection");
}

#[test]
fn names_of_hosts_and_stars_are_compared_as_wholes() {
    let hosts: BTreeSet<&str> = ["notexample.com", "example.com.evil.org", "m1.example.com"].into();
    for host in hosts {
        let mut world = world(Vec::new());
        world.manifests = routes(&[("one", host, "127.0.11.2:8080")]);
        world.proxy.acme = Some(acme(true, None));
        let tls = router(&world.table(), "one")["tls"].clone();
        let main = &tls["domains"][0]["main"];
        assert_eq!(main, host, "{host}: {tls}");
    }
}
