//! Who listens on 127.0.0.0/8.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use procfs::ProcError;
use procfs::net::{TcpState, tcp, tcp6, udp, udp6};

use crate::model::{NetworkId, Part};

/// Every network in which somebody listens.
pub(super) fn networks() -> Part<BTreeSet<NetworkId>> {
    // A kernel may lack the first; the second costs it a walk through all that it has
    // room for, 10 ms and more.
    match asked().or_else(|_| read()) {
        Ok(addresses) => Part::Known(addresses.into_iter().filter_map(network).collect()),
        Err(error) => Part::Unknown(format!("/proc/net: {error}")),
    }
}

/// What the kernel answers: sock_diag(7).
fn asked() -> io::Result<Vec<IpAddr>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    let mut all = Vec::new();
    for (protocol, states) in [
        (IPPROTO_TCP, StateFlags::LISTEN),
        (IPPROTO_UDP, StateFlags::all()),
    ] {
        for family in [AF_INET, AF_INET6] {
            let socket_id = match family {
                AF_INET => SocketId::new_v4(),
                _ => SocketId::new_v6(),
            };
            dump(
                &socket,
                InetRequest {
                    family,
                    protocol,
                    extensions: ExtensionFlags::empty(),
                    states: states.clone(),
                    socket_id,
                },
                &mut all,
            )?;
        }
    }
    Ok(all)
}

fn dump(socket: &Socket, request: InetRequest, all: &mut Vec<IpAddr>) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found)) => {
                    all.push(found.header.socket_id.source_address);
                }
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            // Each message begins at a multiple of four bytes.
            let length = message.header.length.next_multiple_of(4) as usize;
            rest = rest.get(length.max(4)..).unwrap_or_default();
        }
    }
}

/// What `/proc/net` says.
fn read() -> procfs::ProcResult<Vec<IpAddr>> {
    // The machine may have no IPv6.
    fn six<T>(read: procfs::ProcResult<Vec<T>>) -> procfs::ProcResult<Vec<T>> {
        match read {
            Err(ProcError::NotFound(_)) => Ok(Vec::new()),
            other => other,
        }
    }
    let tcp = tcp()?.into_iter().chain(six(tcp6())?);
    let udp = udp()?.into_iter().chain(six(udp6())?);
    Ok(tcp
        .filter(|entry| entry.state == TcpState::Listen)
        .map(|entry| entry.local_address.ip())
        .chain(udp.map(|entry| entry.local_address.ip()))
        .collect())
}

fn network(address: IpAddr) -> Option<NetworkId> {
    match address.to_canonical() {
        IpAddr::V4(address) => NetworkId::of(address),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn a_listener_shows_its_network() {
        let _tcp = TcpListener::bind("127.244.36.5:0").unwrap();
        let _mapped = TcpListener::bind("[::ffff:127.244.36.69]:0").unwrap();
        let _udp = UdpSocket::bind("127.244.36.133:0").unwrap();
        let wanted = BTreeSet::from([16_000_000, 16_000_064, 16_000_128])
            .into_iter()
            .map(|id| NetworkId::try_from(id).unwrap())
            .collect();
        let of = |all: Vec<IpAddr>| all.into_iter().filter_map(network).collect();
        let (asked, read): (BTreeSet<_>, BTreeSet<_>) = (of(asked().unwrap()), of(read().unwrap()));
        assert!(asked.is_superset(&wanted), "{asked:?}");
        assert!(read.is_superset(&wanted), "{read:?}");
        assert!(networks().known().unwrap().is_superset(&wanted));
    }

    #[test]
    fn a_thousand_are_all_seen() {
        let all: Vec<TcpListener> = (0..1000)
            .map(|_| TcpListener::bind("127.244.40.5:0").unwrap())
            .collect();
        let address: IpAddr = "127.244.40.5".parse().unwrap();
        let seen = asked().unwrap();
        let seen = seen.iter().filter(|one| **one == address).count();
        assert_eq!(seen, all.len());
    }
}
