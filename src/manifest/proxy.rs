//! The Machine's `proxy:`: ports, certificates, and how they are ordered.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use super::Proxy;
use super::fields::Fields;
use super::found::Context;
use super::problem::is_hostile;
use super::tree::Node;
use super::values::{absolute, port, text, word, yes_or_no};
use crate::model::{Acme, CertificateFiles, DnsProof, Name, RelPath, RunAs};

pub(super) fn proxy(fields: &Fields, context: &Context) -> Proxy {
    let usual = Proxy::default();
    let ports = |name, example, usual| {
        let read = fields.list(name, example, port);
        match fields.has(name) {
            true => read.into_iter().map(|(port, _)| port).collect(),
            false => usual,
        }
    };
    let http = fields.optional("http", port).unwrap_or(usual.http);
    let https = fields.optional("https", port);
    let certificates = certificates(fields, context);
    let acme = fields.map("acme").and_then(|fields| {
        let acme = acme(&fields, context);
        fields.finish();
        acme
    });
    let secure = https.or_else(|| {
        let any = fields.has("certificates") || fields.has("acme");
        any.then_some(Proxy::HTTPS)
    });
    if secure == Some(http) {
        let at = fields.place(if https.is_some() { "https" } else { "http" });
        let message = format!("port {http} cannot be for both HTTP and HTTPS");
        context.report.at(&at, message, "change one");
    }
    Proxy {
        http,
        https: secure,
        redirect: fields.optional("redirect", yes_or_no).unwrap_or(true),
        certificates,
        acme,
        run_as: fields.optional("runAs", run_as).unwrap_or_default(),
        router: fields.optional("router", port),
        address: fields.optional("address", |node| {
            let address: Result<Ipv4Addr, _> = text::<String>(node)?.parse();
            address.map_err(|_| "write an IPv4 address, like `203.0.113.5`".to_owned())
        }),
        tcp: ports("tcp", "`tcp: [5432]`", usual.tcp),
        udp: ports("udp", "`udp: [53]`", usual.udp),
    }
}

fn run_as(node: &Node) -> Result<RunAs, String> {
    let words = [
        ("auto", RunAs::Auto),
        ("container", RunAs::Container),
        ("binary", RunAs::Binary),
    ];
    word(node, words, "write auto, container or binary")
}

fn certificates(fields: &Fields, context: &Context) -> BTreeMap<Name, CertificateFiles> {
    const NAME: &str = "certificates";
    let mut all = BTreeMap::new();
    for (key, value) in fields.each(NAME) {
        let name = text::<Name>(key).map_err(|cure| {
            let at = key.place(context.source);
            context.report.at(&at, "bad name in `certificates`", cure);
        });
        let Some(fields) = fields.item(NAME, key, value) else {
            continue;
        };
        let path = |node: &Node| beside(node, context);
        let certificate = fields.required("certificate", "`certificate:`, a file in PEM", path);
        let key = fields.required("key", "`key:`, the file with its private key", path);
        fields.finish();
        if let (Ok(name), Some(certificate), Some(key)) = (name, certificate, key) {
            all.insert(name, CertificateFiles { certificate, key });
        }
    }
    all
}

/// A file: absolute, or from the folder that the manifest lies in.
fn beside(node: &Node, context: &Context) -> Result<PathBuf, String> {
    let path: PathBuf = text(node)?;
    if path.is_absolute() {
        return absolute(&path, "/etc/ssl/shop.crt");
    }
    let path: RelPath = text(node)?;
    Ok(context.root.shown(&match context.dir {
        Some(dir) => path.beneath(dir),
        None => path,
    }))
}

fn acme(fields: &Fields, context: &Context) -> Option<Acme> {
    let email = fields.required("email", "`email:`, whom the authority writes to", |node| {
        let email: String = text(node)?;
        let words = email.split_once('@');
        let is_word = |word: &str| !word.is_empty() && !word.contains(['@', ' ']);
        match words.is_some_and(|(name, host)| is_word(name) && is_word(host)) {
            true if !email.contains(is_hostile) => Ok(email),
            _ => Err("write an address, like `ops@example.com`".to_owned()),
        }
    });
    let ca_server = fields.optional("caServer", |node| {
        let url: String = text(node)?;
        let host = url.strip_prefix("https://").unwrap_or_default();
        match !host.is_empty() && url.chars().all(|c| c.is_ascii_graphic()) {
            true => Ok(url),
            false => Err("write an address, like `https://acme.example.com/directory`".to_owned()),
        }
    });
    let ca_certificate = fields.optional("caCertificate", |node| beside(node, context));
    let dns = fields.map("dnsProvider").map(|fields| {
        let provider = fields.required("name", "`name:`, like `cloudflare`", |node| {
            let name: String = text(node)?;
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            match !name.is_empty() && !name.starts_with('-') && name.chars().all(plain) {
                true => Ok(name),
                false => Err("write it as Traefik calls it, like `cloudflare`".to_owned()),
            }
        });
        fields.checked("tokenFiles", variable, |node| file(node).map(drop));
        let read = fields.values("tokenFiles").into_iter();
        let token_files = read.map(|(name, path)| (name, path.into())).collect();
        let resolvers = fields.list("resolvers", "`resolvers: [\"10.0.0.53:53\"]`", |node| {
            let address: Result<SocketAddrV4, _> = text::<String>(node)?.parse();
            address.map_err(|_| "write an address and a port, like `10.0.0.53:53`".to_owned())
        });
        fields.finish();
        Some(DnsProof {
            provider: provider?,
            token_files,
            resolvers: resolvers.into_iter().map(|(address, _)| address).collect(),
        })
    });
    Some(Acme {
        email: email?,
        ca_server,
        ca_certificate,
        dns: match dns {
            Some(dns) => Some(dns?),
            None => None,
        },
    })
}

fn file(node: &Node) -> Result<PathBuf, String> {
    absolute(&text::<PathBuf>(node)?, "/etc/rediacc/keys/cloudflare")
}

/// Traefik gets each as `{name}_FILE`: what it names is a file, never a value.
fn variable(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let first = name.starts_with(|c: char| c.is_ascii_uppercase());
    match first && name.chars().all(plain) && !name.ends_with("_FILE") {
        true => Ok(()),
        false => Err("write the variable's name, like `CF_DNS_API_TOKEN`".to_owned()),
    }
}
