//! Certificates that the proxy orders: from whom, and how.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::super::files::write_atomic;
use super::super::secrets;
use crate::model::{Acme, Layout, ProxySpec};
use crate::router::{NoOrders, OTHER_RESOLVER, RESOLVER};

/// Where orders are kept: what was ordered is not ordered again.
fn store(layout: &Layout) -> PathBuf {
    folder(layout).join("acme.json")
}

/// The one folder that the proxy writes to.
pub(super) fn folder(layout: &Layout) -> PathBuf {
    layout.proxy().join("letsencrypt")
}

/// The proxy's environment as a file.
pub(super) fn config(layout: &Layout) -> PathBuf {
    layout.proxy().join("config.env")
}

/// Whether orders run a program of the machine's: lego's provider `exec` does.
pub(super) fn runs_a_program(spec: &ProxySpec) -> bool {
    let dns = spec.acme.as_ref().and_then(|acme| acme.dns.as_ref());
    dns.is_some_and(|dns| dns.provider == "exec")
}

/// The files that orders need.
pub(in super::super) fn files(spec: &ProxySpec) -> impl Iterator<Item = &PathBuf> {
    let acme = spec.acme.iter();
    acme.flat_map(|acme| {
        let tokens = acme.dns.iter().flat_map(|dns| dns.token_files.values());
        acme.ca_certificate.iter().chain(tokens)
    })
}

/// Why nothing can be ordered as it is asked for.
pub(in super::super) fn no_orders(layout: &Layout, spec: &ProxySpec) -> Option<NoOrders> {
    let acme = spec.acme.as_ref()?;
    let tokens = acme.dns.iter().flat_map(|dns| &dns.token_files);
    let token = tokens
        .filter_map(|(name, path)| {
            let error = secrets::file(path).err()?;
            Some(format!("{name}: {}: {error}", path.display()))
        })
        .next();
    let authority = acme.ca_certificate.as_ref().and_then(|path| {
        let why = match fs::read(path) {
            Ok(bytes) if String::from_utf8_lossy(&bytes).contains("BEGIN CERTIFICATE") => {
                return None;
            }
            Ok(_) => "it holds no certificate in PEM".to_owned(),
            Err(error) => error.to_string(),
        };
        Some(format!("{}: {why}", path.display()))
    });
    let wrong = token.or(authority)?;
    Some(NoOrders {
        why: format!("{wrong}; mend it, then `renet proxy down` and `renet proxy up`"),
        ordered_before: fs::read_to_string(store(layout))
            .is_ok_and(|text| text.contains("\"certificate\"")),
    })
}

/// What the proxy is told of the authority, by the name that routers order by.
pub(super) fn resolvers(layout: &Layout, acme: &Acme) -> Value {
    let mut usual = json!({
        "email": acme.email,
        "storage": store(layout),
        "keyType": "EC256",
    });
    if let Some(server) = &acme.ca_server {
        usual["caServer"] = json!(server);
    }
    if let Some(path) = &acme.ca_certificate {
        usual["caCertificates"] = json!([path]);
        usual["caSystemCertPool"] = json!(true);
    }
    let with = |proof: &str, how: Value| {
        let mut acme = usual.clone();
        acme[proof] = how;
        json!({"acme": acme})
    };
    let by_request = with("httpChallenge", json!({"entryPoint": "web"}));
    let Some(dns) = &acme.dns else {
        return json!({RESOLVER: by_request});
    };
    let mut how = json!({"provider": dns.provider});
    if !dns.resolvers.is_empty() {
        how["resolvers"] = json!(dns.resolvers);
        how["propagation"] = json!({"requireAllRNS": true, "disableANSChecks": true});
    }
    json!({RESOLVER: with("dnsChallenge", how), OTHER_RESOLVER: by_request})
}

/// The proxy's environment. What is secret stays in its file, which is named.
pub(super) fn environment(spec: &ProxySpec) -> Vec<(String, String)> {
    let base = spec.base_domain.as_ref();
    let base = base.map(|base| ("BASE_DOMAIN".to_owned(), base.to_string()));
    let acme = spec.acme.as_ref();
    let email = acme.map(|acme| ("CERTBOT_EMAIL".to_owned(), acme.email.clone()));
    let dns = acme.and_then(|acme| acme.dns.as_ref());
    let files = dns.into_iter().flat_map(|dns| &dns.token_files);
    let files = files.map(|(name, path)| (format!("{name}_FILE"), path.display().to_string()));
    base.into_iter().chain(email).chain(files).collect()
}

/// As systemd and compose read it alike.
fn text(environment: &[(String, String)]) -> String {
    let mut text = String::new();
    for (name, value) in environment {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"");
        let value = value.replace('$', "\\$");
        let _ = writeln!(text, "{name}=\"{value}\"");
    }
    text
}

/// Whether the proxy was started with this environment.
pub(super) fn is_written(layout: &Layout, environment: &[(String, String)]) -> bool {
    fs::read(config(layout)).is_ok_and(|bytes| bytes == text(environment).as_bytes())
}

/// Writes the environment, and keeps for root what was ordered: the proxy takes no store
/// that others can read.
pub(super) fn prepare(layout: &Layout, environment: &[(String, String)]) -> io::Result<()> {
    let (store, folder) = (store(layout), folder(layout));
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(&folder)?;
    for (path, mode) in [(&folder, 0o700), (&store, 0o600)] {
        match fs::set_permissions(path, fs::Permissions::from_mode(mode)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    write_atomic(&config(layout), text(environment).as_bytes(), 0o600)
}
