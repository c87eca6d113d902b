//! Who listens on 127.0.0.0/8.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use procfs::net::{TcpState, tcp, tcp6, udp, udp6};

use crate::model::{NetworkId, Part};

/// Every network in which somebody listens.
pub(super) fn networks() -> Part<BTreeSet<NetworkId>> {
    match addresses() {
        Ok(addresses) => Part::Known(addresses.into_iter().filter_map(network).collect()),
        Err(error) => Part::Unknown(format!("/proc/net: {error}")),
    }
}

fn addresses() -> procfs::ProcResult<Vec<SocketAddr>> {
    let mut all = Vec::new();
    let six = |read: procfs::ProcResult<Vec<_>>| match read {
        // The machine may have no IPv6.
        Err(procfs::ProcError::NotFound(_)) => Ok(Vec::new()),
        other => other,
    };
    for entry in tcp()?.into_iter().chain(six(tcp6())?) {
        if entry.state == TcpState::Listen {
            all.push(entry.local_address);
        }
    }
    let six = |read: procfs::ProcResult<Vec<_>>| match read {
        Err(procfs::ProcError::NotFound(_)) => Ok(Vec::new()),
        other => other,
    };
    for entry in udp()?.into_iter().chain(six(udp6())?) {
        all.push(entry.local_address);
    }
    Ok(all)
}

fn network(address: SocketAddr) -> Option<NetworkId> {
    match address.ip().to_canonical() {
        IpAddr::V4(address) => NetworkId::of(address),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_shows_its_network() {
        let id = NetworkId::try_from(16_000_000).unwrap();
        let _socket = std::net::TcpListener::bind("127.244.36.5:0").unwrap();
        assert!(networks().known().unwrap().contains(&id));
    }
}
