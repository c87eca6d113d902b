//! Which routes are served over HTTPS, with which certificate, and what they do over HTTP.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::asked::{Candidate, WEB, texts};
use super::{Input, Parts, Protocol, Row, shorten};
use crate::model::{Name, ProxySpec};

/// The entry point of requests over HTTPS.
pub const WEBSECURE: &str = "websecure";
/// What orders certificates: for hosts beneath the base domain by a record of their zone,
/// where somebody serves that; else by a request over HTTP.
pub const RESOLVER: &str = "letsencrypt";
/// What orders them for all other hosts, where the first does it by a record.
pub const OTHER_RESOLVER: &str = "letsencrypt-http";

const REDIRECT: &str = "renet.https";

/// A certificate of the user's own, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// What the Machine calls it.
    pub name: Name,
    /// The hosts that it is for, `*.` before those of one level.
    pub hosts: BTreeSet<String>,
    /// It and its key as the proxy reads them, where it can serve.
    pub files: Option<(PathBuf, PathBuf)>,
    /// Why the one that the Machine names does not serve.
    pub refused: Option<String>,
}

impl Certificate {
    fn is_for(&self, host: &str) -> bool {
        let above = host.split_once('.').map(|(_, above)| format!("*.{above}"));
        self.hosts.contains(host) || above.is_some_and(|above| self.hosts.contains(&above))
    }
}

/// Why nothing can be ordered as the Machine says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoOrders {
    /// What is wrong.
    pub why: String,
    /// Whether something was ordered before: that may well serve on.
    pub ordered_before: bool,
}

/// What a router of HTTPS does over HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Plain {
    /// Nothing of its own.
    #[default]
    Nothing,
    /// Sends requests to HTTPS.
    Redirects,
    /// Serves them as well.
    Serves,
}

impl Plain {
    pub(super) fn of(proxy: &ProxySpec) -> Self {
        match proxy.redirect {
            true => Plain::Redirects,
            false => Plain::Serves,
        }
    }
}

/// The `tls` of a router for these hosts; nothing where it is to be served over HTTP.
pub(super) fn wanted(
    hosts: &BTreeSet<String>,
    asked: Option<bool>,
    input: &Input,
) -> Result<Option<Map<String, Value>>, String> {
    match (input.proxy.https, asked) {
        (_, Some(false)) | (None, None) => Ok(None),
        (None, Some(true)) => {
            Err("the Machine has no HTTPS: add `certificates` or `acme` to its `proxy`".to_owned())
        }
        (Some(_), _) => match certificate(hosts, input) {
            None if asked == Some(true) => Err(none_for(hosts)),
            found => Ok(found),
        },
    }
}

fn none_for(hosts: &BTreeSet<String>) -> String {
    let hosts: Vec<String> = hosts.iter().map(|host| format!("`{host}`")).collect();
    format!(
        "there is no certificate for {}: add one to `proxy.certificates` of the Machine, or `proxy.acme`",
        hosts.join(", ")
    )
}

/// The `tls` of a router for these hosts, where a certificate is to be had for them.
fn certificate(hosts: &BTreeSet<String>, input: &Input) -> Option<Map<String, Value>> {
    let own = |host: &String, serves: bool| {
        let mut all = input.certificates.iter();
        all.any(|one| one.is_for(host) && (one.files.is_some() || !serves))
    };
    let missing: Vec<&String> = hosts.iter().filter(|host| !own(host, true)).collect();
    if missing.is_empty() {
        return Some(Map::new());
    }
    let can = input.no_orders.is_none_or(|none| none.ordered_before);
    let ordered = can.then(|| ordered(&missing, input.proxy)).flatten();
    // One that has expired: nobody shall get by HTTP what was to be had by HTTPS alone.
    ordered.or_else(|| hosts.iter().all(|host| own(host, false)).then(Map::new))
}

/// The `tls` of a router whose certificate is to be ordered.
fn ordered(hosts: &[&String], proxy: &ProxySpec) -> Option<Map<String, Value>> {
    let acme = proxy.acme.as_ref()?;
    // Every refusal counts at Let's Encrypt.
    if acme.ca_server.is_none() && !hosts.iter().all(|host| is_public(host)) {
        return None;
    }
    let beneath = |host: &&String| {
        let base = proxy.base_domain.as_ref().map(|base| base.as_str());
        base.is_some_and(|base| {
            let rest = host.strip_suffix(base);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    };
    let by_record = acme.dns.is_some() && hosts.iter().all(beneath);
    let resolver = match acme.dns.is_none() || by_record {
        true => RESOLVER,
        false => OTHER_RESOLVER,
    };
    let names: BTreeSet<String> = hosts
        .iter()
        .map(|host| match by_record {
            true => wildcard(host, proxy).unwrap_or_else(|| (*host).clone()),
            false => (*host).clone(),
        })
        .collect();
    let domains: Vec<Value> = names.iter().map(|name| json!({"main": name})).collect();
    let tls = json!({"certResolver": resolver, "domains": domains});
    tls.as_object().cloned()
}

/// What one certificate a repository, and one a machine, is for: `*.shop.m1.example.com`,
/// `*.m1.example.com`.
fn wildcard(host: &str, proxy: &ProxySpec) -> Option<String> {
    let (machine, base) = (proxy.machine.as_ref()?, proxy.base_domain.as_ref()?);
    let (_, above) = host.split_once('.')?;
    let rest = above.strip_suffix(&format!("{machine}.{base}"))?;
    let one = rest.strip_suffix('.');
    let fits = rest.is_empty() || one.is_some_and(|one| !one.is_empty() && !one.contains('.'));
    fits.then(|| format!("*.{above}"))
}

/// Whether an authority that everybody trusts may know the host.
fn is_public(host: &str) -> bool {
    const PRIVATE: [&str; 8] = [
        "localhost",
        "local",
        "internal",
        "test",
        "example",
        "invalid",
        "onion",
        "home.arpa",
    ];
    let ends = |end: &&str| {
        let rest = host.strip_suffix(*end);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    host.contains('.') && !PRIVATE.iter().any(ends)
}

/// Settles the certificate of a router that a label declares, for these hosts. A container
/// orders none for the hosts of others.
pub(super) fn settle(
    hosts: Option<&BTreeSet<String>>,
    value: &mut Map<String, Value>,
    input: &Input,
    needs: bool,
) -> Result<(), String> {
    let mut tls = match value.remove("tls") {
        Some(Value::Object(tls)) => tls,
        Some(_) => Map::new(),
        None if needs => Map::new(),
        None => return Ok(()),
    };
    let resolver = tls.get("certResolver").and_then(Value::as_str);
    if let Some(name) = resolver {
        let acme = input.proxy.acme.as_ref();
        let by_record = acme.is_some_and(|acme| acme.dns.is_some());
        if acme.is_none() || !(name == RESOLVER || by_record && name == OTHER_RESOLVER) {
            let name = shorten(name);
            return Err(format!("the proxy has no certificate resolver `{name}`"));
        }
        let wild = by_record && name == RESOLVER;
        let domains = tls.get("domains").and_then(Value::as_array);
        for name in domains.into_iter().flatten().flat_map(names) {
            let is_own = hosts.is_some_and(|hosts| {
                hosts.contains(&name)
                    || wild
                        && hosts
                            .iter()
                            .any(|host| wildcard(host, input.proxy).as_ref() == Some(&name))
            });
            if !is_own {
                let name = shorten(&name);
                return Err(format!("it has no certificate to order for `{name}`"));
            }
        }
    }
    let through = tls
        .get("passthrough")
        .is_some_and(|yes| *yes == json!(true));
    let Some(hosts) = hosts.filter(|_| !through && input.proxy.https.is_some()) else {
        value.insert("tls".into(), Value::Object(tls));
        return Ok(());
    };
    match certificate(hosts, input) {
        Some(found) => match tls.get("certResolver").cloned() {
            // Domains that it names without saying by whom nobody looked at.
            None => tls.extend(found),
            Some(by) if found.get("certResolver") == Some(&by) => {
                let domains = found.get("domains").cloned().unwrap_or_default();
                tls.entry("domains").or_insert(domains);
            }
            Some(_) => {
                let domains: Vec<Value> = hosts.iter().map(|host| json!({"main": host})).collect();
                tls.entry("domains").or_insert(json!(domains));
            }
        },
        None if needs => return Err(none_for(hosts)),
        None => {}
    }
    value.insert("tls".into(), Value::Object(tls));
    Ok(())
}

fn names(domain: &Value) -> Vec<String> {
    let main = domain.get("main").and_then(Value::as_str);
    let sans = domain.get("sans").and_then(Value::as_array);
    let sans = sans.map(|list| texts(list)).unwrap_or_default();
    main.map(str::to_owned).into_iter().chain(sans).collect()
}

/// Adds what routers of HTTPS do over HTTP, where no other answers there. Says whether any
/// sends requests to HTTPS, by [`redirect`].
pub(super) fn plain(candidates: &[Candidate], routers: &mut Parts) -> bool {
    let mut redirects = false;
    let served = || {
        let http = |one: &&Candidate| one.is_served() && one.row.protocol == Protocol::Http;
        candidates.iter().filter(http)
    };
    let taken: BTreeSet<&str> = served()
        .filter(|one| one.plain == Plain::Nothing && one.row.entry_points.iter().any(|p| p == WEB))
        .map(|one| one.row.rule.as_str())
        .collect();
    for candidate in served().filter(|one| !taken.contains(one.row.rule.as_str())) {
        let mut value = candidate.value.clone();
        match candidate.plain {
            Plain::Nothing => continue,
            Plain::Serves => {}
            Plain::Redirects => {
                redirects = true;
                value.insert("middlewares".into(), json!([REDIRECT]));
                value.insert("service".into(), json!("noop@internal"));
            }
        }
        value.remove("tls");
        value.insert("entryPoints".into(), json!([WEB]));
        // A manifest may be called `2816`, and a label's router `http`.
        let name = match candidate.rank.is_label {
            true => format!("{}.http", candidate.row.name),
            false => format!("{}:http", candidate.row.name),
        };
        routers.insert(name, Value::Object(value));
    }
    redirects
}

/// The middleware that sends requests to HTTPS.
pub(super) fn redirect(proxy: &ProxySpec) -> (String, Value) {
    let mut to = json!({"scheme": "https", "permanent": true});
    if let Some(port) = proxy.https.filter(|port| *port != 443) {
        to["port"] = json!(port.to_string());
    }
    (REDIRECT.to_owned(), json!({"redirectScheme": to}))
}

/// What the proxy is told of TLS itself, where it answers HTTPS.
pub(super) fn section(input: &Input) -> Option<Value> {
    input.proxy.https?;
    // With TLS 1.3, whose own are not a matter of choice: forward secrecy and AEAD alone.
    const CIPHERS: [&str; 6] = [
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    ];
    let mut tls = json!({"options": {"default": {
        "minVersion": "VersionTLS12",
        "cipherSuites": CIPHERS,
        // Whoever asks for no host of ours learns of none, nor of a made-up certificate.
        "sniStrict": true,
    }}});
    let files = input
        .certificates
        .iter()
        .filter_map(|one| one.files.as_ref());
    let files: Vec<Value> = files
        .map(|(certificate, key)| json!({"certFile": certificate, "keyFile": key}))
        .collect();
    if !files.is_empty() {
        tls["certificates"] = json!(files);
    }
    Some(tls)
}

/// Certificates, and an authority, that do not serve as the Machine says.
pub(super) fn refused(input: &Input) -> Vec<Row> {
    let row = |name: String, rule: String, why: String| Row {
        source: match &input.proxy.machine {
            Some(name) => format!("machine/{name}"),
            None => "machine".to_owned(),
        },
        name,
        protocol: Protocol::Http,
        rule,
        entry_points: vec![WEBSECURE.to_owned()],
        backend: String::new(),
        refused: Some(why),
    };
    let authority = input.no_orders.map(|none| {
        let why = format!("no certificate can be ordered: {}", none.why);
        row("acme".to_owned(), String::new(), why)
    });
    let certificates = input.certificates.iter().filter_map(|one| {
        let kept = match one.files {
            Some(_) => "; the one before goes on",
            None => "",
        };
        let hosts: Vec<&str> = one.hosts.iter().map(String::as_str).collect();
        let why = format!("{}{kept}", one.refused.as_ref()?);
        Some(row(
            format!("certificate {}", one.name),
            hosts.join(", "),
            why,
        ))
    });
    authority.into_iter().chain(certificates).collect()
}
