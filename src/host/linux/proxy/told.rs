//! What Traefik is told at its start, however it runs.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::super::files::{read_json, write_json};
use super::acme;
use crate::host::StepError;
use crate::model::{Layout, ProxySpec};
use crate::router::{DYNAMIC, Protocol, WEBSECURE, entry_point};

/// Where it is told.
pub(super) fn file(layout: &Layout) -> PathBuf {
    layout.proxy().join("traefik.yml")
}

/// Whether it was told this.
pub(super) fn is_written(layout: &Layout, spec: &ProxySpec) -> bool {
    read_json::<Value>(&file(layout)).known() == Some(&settings(layout, spec))
        && acme::is_written(layout, &acme::environment(spec))
}

/// Writes it down, its environment besides, and makes the folder that it watches.
pub(super) fn write(layout: &Layout, spec: &ProxySpec) -> Result<(), StepError> {
    acme::prepare(layout, &acme::environment(spec))
        .and_then(|()| std::fs::create_dir_all(layout.proxy_dynamic()))
        .and_then(|()| write_json(&file(layout), &settings(layout, spec), 0o644))
        .map_err(|error| StepError::machine(format!("{}: {error}", layout.proxy().display())))
}

fn settings(layout: &Layout, spec: &ProxySpec) -> Value {
    // Beneath a root of its own nobody outside shall meet it.
    let host = match spec.address {
        Some(address) => address.to_string(),
        None if layout.is_machine() => String::new(),
        None => Ipv4Addr::LOCALHOST.to_string(),
    };
    // What a router and its service could read differently is answered with 400: else
    // `/x/..%2fadmin` would pass by a router of `/admin` that asks for a password.
    let http = json!({
        "sanitizePath": true,
        "encodedCharacters": {
            "allowEncodedSlash": false,
            "allowEncodedBackSlash": false,
            "allowEncodedNullCharacter": false,
            "allowEncodedSemicolon": false,
            "allowEncodedPercent": false,
            "allowEncodedQuestionMark": false,
            "allowEncodedHash": false,
        },
    });
    let mut points = Map::new();
    let web = json!({"address": format!("{host}:{}", spec.http), "asDefault": true, "http": http});
    points.insert("web".to_owned(), web);
    if let Some(port) = spec.https {
        let point = json!({"address": format!("{host}:{port}"), "http": http});
        points.insert(WEBSECURE.to_owned(), point);
    }
    // On that address alone: a service listens on the same ports, on its own.
    if spec.address.is_some() {
        let tcp = spec.tcp.iter().copied().chain(DYNAMIC);
        for port in tcp {
            let point = json!({"address": format!("{host}:{port}"), "http": http});
            points.insert(entry_point(Protocol::Tcp, port), point);
        }
        for port in &spec.udp {
            let point = json!({"address": format!("{host}:{port}/udp")});
            points.insert(entry_point(Protocol::Udp, *port), point);
        }
    }
    let mut settings = json!({
        "global": {"checkNewVersion": false, "sendAnonymousUsage": false},
        "log": {"level": "INFO"},
        "entryPoints": points,
        "providers": {
            // The default of 2 s is the delay that users would see; the router gathers
            // what happens at once.
            "providersThrottleDuration": "10ms",
            "file": {"directory": layout.proxy_dynamic(), "watch": true},
        },
    });
    if let Some(acme) = &spec.acme {
        settings["certificatesResolvers"] = acme::resolvers(layout, acme);
    }
    settings
}
