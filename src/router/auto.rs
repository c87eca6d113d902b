//! Routes from `rediacc.*` labels: hosts that nobody has to write, and forwarded ports.

use std::collections::BTreeSet;

use super::{Container, shorten};
use crate::model::{HostName, ProxySpec};

/// Whether the labels ask for a route over HTTP.
pub(super) fn wants_http(container: &Container) -> bool {
    ["rediacc.service_port", "rediacc.domain"]
        .iter()
        .any(|label| container.labels.contains_key(*label))
}

/// The port that a route over HTTP leads to: the label's, that of Traefik's label, or
/// the only one that the image exposes.
pub(super) fn port(container: &Container) -> Result<u16, String> {
    let traefik = || {
        let mut labels = container.labels.iter();
        let found = labels.find(|(label, _)| {
            let label = label.to_ascii_lowercase();
            label.starts_with("traefik.http.services.")
                && label.ends_with(".loadbalancer.server.port")
        });
        found.map(|(_, text)| text.as_str())
    };
    if let Some(text) = container.label("rediacc.service_port").or_else(traefik) {
        return one_port(text);
    }
    let mut exposed = container.tcp.iter();
    match (exposed.next(), exposed.next()) {
        (Some(port), None) => Ok(*port),
        (None, _) => Err("no label says its port, and its image exposes none".to_owned()),
        _ => Err("no label says its port, and its image exposes several".to_owned()),
    }
}

pub(super) fn one_port(text: &str) -> Result<u16, String> {
    let port: Option<u16> = text.trim().parse().ok();
    let port = port.filter(|port| *port != 0);
    port.ok_or_else(|| format!("`{}` is no port", shorten(text)))
}

/// The ports of a list like `5432,3306`.
pub(super) fn ports(text: &str) -> Result<BTreeSet<u16>, String> {
    text.split(',').map(one_port).collect()
}

/// The hosts of a container's automatic route: what `rediacc.domain` says, else
/// `{service}.{repository}.{machine}.{base}`, a fork's with `-fork-{tag}` at its service,
/// `{service}-{network}.{base}` where repository or machine have no name. A short domain
/// stands both below the base and below the machine.
pub(super) fn hosts(container: &Container, proxy: &ProxySpec) -> Result<Vec<HostName>, String> {
    let base = proxy.base_domain.as_ref();
    let base = || {
        base.ok_or_else(|| {
            "the Machine has no `baseDomain`, which automatic hosts end with".to_owned()
        })
    };
    // A copy would take its parent's requests.
    let domain = container.label("rediacc.domain");
    if let Some(domain) = domain.filter(|_| !container.is_fork()) {
        let mut hosts = Vec::new();
        for name in domain.split(',').map(str::trim) {
            if name.contains('.') {
                hosts.push(host(name)?);
                continue;
            }
            let base = base()?;
            hosts.push(host(&format!("{name}.{base}"))?);
            if let Some(machine) = &proxy.machine {
                hosts.push(host(&format!("{name}.{machine}.{base}"))?);
            }
        }
        return Ok(hosts);
    }
    let base = base()?;
    let service = word(container.service());
    let name = match (container.repository(), &proxy.machine) {
        (Some((repository, None)), Some(machine)) => {
            format!("{service}.{repository}.{machine}.{base}")
        }
        (Some((repository, Some(tag))), Some(machine)) => {
            format!("{service}-fork-{tag}.{repository}.{machine}.{base}")
        }
        _ => format!("{service}-{}.{base}", container.network),
    };
    Ok(vec![host(&name)?])
}

fn host(text: &str) -> Result<HostName, String> {
    let host: Result<HostName, _> = text.to_ascii_lowercase().parse();
    host.map_err(|error| format!("`{}`: {error}", shorten(text)))
}

/// The rule that matches these hosts.
pub(super) fn rule(hosts: &[HostName]) -> String {
    let rules: Vec<String> = hosts.iter().map(|host| format!("Host(`{host}`)")).collect();
    rules.join(" || ")
}

/// A service's name as a word of a host.
fn word(service: &str) -> String {
    let plain = service.to_ascii_lowercase();
    let plain = plain.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    plain.trim_matches('-').to_owned()
}

/// What a service is called that no label names: as Traefik would call it.
pub(super) fn default_name(container: &Container) -> String {
    let service = container.label("com.docker.compose.service");
    let project = container.label("com.docker.compose.project");
    let name = match service.zip(project) {
        Some((service, project)) => format!("{service}_{project}"),
        None => container.name.clone(),
    };
    let words = name.split(|c: char| !c.is_alphanumeric());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    words.join("-")
}
