//! Entry points for forwarded ports, given out once and kept.

use std::collections::{BTreeMap, BTreeSet};

use super::claims::{self, Claimants};
use super::{Claim, Container, DYNAMIC, Protocol};
use crate::model::{NetworkId, ProxySpec};

/// Whether the proxy has the entry point.
pub(super) fn exists(proxy: &ProxySpec, protocol: Protocol, port: u16) -> bool {
    proxy.address.is_some()
        && match protocol {
            Protocol::Tcp => proxy.tcp.contains(&port) || DYNAMIC.contains(&port),
            Protocol::Udp => proxy.udp.contains(&port),
            Protocol::Http => false,
        }
}

/// What an entry point is called.
pub fn entry_point(protocol: Protocol, port: u16) -> String {
    format!("{}-{port}", protocol.as_str())
}

/// Who wants which port forwarded: `2816/db/tcp/5432`.
pub(super) fn key(container: &Container, protocol: Protocol, port: u16) -> String {
    let (network, service) = (container.network, container.service());
    format!("{network}/{service}/{}/{port}", protocol.as_str())
}

/// Gives out entry points.
pub(super) struct Ports<'a> {
    pub(super) proxy: &'a ProxySpec,
    pub(super) claimants: Claimants<'a>,
    /// Those that a router names by itself.
    pub(super) named: BTreeSet<(Protocol, u16)>,
    pub(super) claims: &'a BTreeMap<String, Claim>,
    /// What is given out.
    pub(super) given: &'a mut BTreeMap<String, u16>,
}

impl Ports<'_> {
    /// The entry point's port for a forwarded one: the one it had, else the one of the
    /// same number, else the next of the dynamic range.
    pub(super) fn give(
        &mut self,
        container: &Container,
        protocol: Protocol,
        port: u16,
    ) -> Result<u16, String> {
        let proxy = self.proxy;
        if proxy.address.is_none() {
            return Err(
                "the proxy forwards no ports: the Machine has no `proxy.address`".to_owned(),
            );
        }
        let key = key(container, protocol, port);
        if let Some(had) = self.given.get(&key)
            && exists(proxy, protocol, *had)
        {
            return Ok(*had);
        }
        let found = match self.free(container, protocol, port) {
            None if self.release() => self.free(container, protocol, port),
            found => found,
        };
        let Some(found) = found else {
            return Err(match protocol {
                Protocol::Udp => format!(
                    "there is no free entry point udp-{port}; `proxy.udp` of the Machine names them"
                ),
                _ => format!(
                    "no entry point is free: tcp-{port} is not there or taken, and so are {} to {}",
                    DYNAMIC.start(),
                    DYNAMIC.end()
                ),
            });
        };
        self.given.insert(key, found);
        Ok(found)
    }

    fn free(&self, container: &Container, protocol: Protocol, port: u16) -> Option<u16> {
        let given: BTreeSet<(Protocol, u16)> = self
            .given
            .iter()
            .filter_map(|(key, port)| Some((protocol_of(key)?, *port)))
            .collect();
        let is_free = |port: &u16| {
            let point = entry_point(protocol, *port);
            let key = match protocol {
                Protocol::Udp => point,
                _ => format!("{point} *"),
            };
            let other = claims::holder(self.claims, &key, self.claimants)
                .is_some_and(|claim| claim.network != container.network);
            exists(self.proxy, protocol, *port)
                && !other
                && !given.contains(&(protocol, *port))
                && !self.named.contains(&(protocol, *port))
        };
        if is_free(&port) {
            return Some(port);
        }
        match protocol {
            Protocol::Tcp => DYNAMIC.into_iter().find(is_free),
            _ => None,
        }
    }

    /// Takes back what nobody is there for.
    fn release(&mut self) -> bool {
        let before = self.given.len();
        let claimants = self.claimants;
        self.given.retain(|key, _| {
            let Some((network, service)) = whose(key) else {
                return false;
            };
            claimants.is_away(network) || claimants.has(network, service)
        });
        self.given.len() < before
    }
}

/// The network and the service of a [`key`].
fn whose(key: &str) -> Option<(NetworkId, &str)> {
    let (network, rest) = key.split_once('/')?;
    let (service, _) = rest.rsplit_once('/')?.0.rsplit_once('/')?;
    let network: u32 = network.parse().ok()?;
    Some((NetworkId::try_from(network).ok()?, service))
}

fn protocol_of(key: &str) -> Option<Protocol> {
    match key.rsplit('/').nth(1)? {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        _ => None,
    }
}

/// What was given out, by protocol: `/ports`.
pub fn given(ports: &BTreeMap<String, u16>, protocol: Protocol) -> BTreeMap<&str, u16> {
    let all = ports.iter();
    all.filter(|(key, _)| protocol_of(key) == Some(protocol))
        .map(|(key, port)| (key.as_str(), *port))
        .collect()
}

/// The ports of a label like `5432,3306`.
pub(super) fn wanted(text: &str) -> Result<BTreeSet<u16>, String> {
    super::auto::ports(text)
}
