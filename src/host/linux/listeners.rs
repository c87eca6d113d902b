//! Who listens on 127.0.0.0/8.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

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
use procfs::process::{FDTarget, Process};

use crate::model::{NetworkId, Part};

/// Somebody who listens.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listener {
    address: IpAddr,
    /// As Docker writes it: `8080/tcp`.
    port: String,
    inode: u64,
}

fn all() -> Result<Vec<Listener>, String> {
    // A kernel may lack the first; the second costs it a walk through all that it has
    // room for, 10 ms and more.
    let all = asked().or_else(|_| read());
    all.map_err(|error| format!("/proc/net: {error}"))
}

/// Every network in which somebody listens.
pub(super) fn networks() -> Part<BTreeSet<NetworkId>> {
    match all() {
        Ok(all) => Part::Known(all.iter().filter_map(|one| network(one.address)).collect()),
        Err(why) => Part::Unknown(why),
    }
}

/// Who listens on every address, as sockets and their ports: `8080/tcp`.
pub(super) fn everywhere() -> HashMap<u64, String> {
    let all = all().unwrap_or_default().into_iter();
    let open = all.filter(|one| one.address.to_canonical().is_unspecified());
    open.map(|one| (one.inode, one.port)).collect()
}

/// On which of these a container listens that has this process.
pub(super) fn of_container(pid: i32, open: &HashMap<u64, String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for pid in beside(pid) {
        let descriptors = Process::new(pid).and_then(|process| process.fd());
        for descriptor in descriptors.into_iter().flatten().flatten() {
            if let FDTarget::Socket(inode) = descriptor.target {
                found.extend(open.get(&inode).cloned());
            }
        }
    }
    found
}

/// The processes of its cgroup: of its container.
fn beside(pid: i32) -> Vec<i32> {
    let groups = Process::new(pid).and_then(|process| process.cgroups());
    let groups = groups.into_iter().flatten();
    let lists = groups.flat_map(|group| {
        let path = group.pathname.trim_start_matches('/').to_owned();
        // The root is nobody's container.
        let own = (!path.is_empty()).then_some(path);
        let folder = PathBuf::from("/sys/fs/cgroup").join(group.controllers.join(","));
        own.map(|path| folder.join(path).join("cgroup.procs"))
    });
    let read = lists
        .filter_map(|list| std::fs::read_to_string(list).ok())
        .next();
    let mut all: Vec<i32> = read
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| line.parse().ok())
        .collect();
    if !all.contains(&pid) {
        all = vec![pid];
    }
    all
}

/// What the kernel answers: sock_diag(7).
fn asked() -> io::Result<Vec<Listener>> {
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

fn dump(socket: &Socket, request: InetRequest, all: &mut Vec<Listener>) -> io::Result<()> {
    let kind = match request.protocol {
        IPPROTO_TCP => "tcp",
        _ => "udp",
    };
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
                    let header = found.header;
                    all.push(Listener {
                        address: header.socket_id.source_address,
                        port: format!("{}/{kind}", header.socket_id.source_port),
                        inode: header.inode.into(),
                    });
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
fn read() -> procfs::ProcResult<Vec<Listener>> {
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
        .map(|entry| (entry.local_address, "tcp", entry.inode))
        .chain(udp.map(|entry| (entry.local_address, "udp", entry.inode)))
        .map(|(address, kind, inode)| Listener {
            address: address.ip(),
            port: format!("{}/{kind}", address.port()),
            inode,
        })
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

    use nix::sched::{CloneFlags, unshare};

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
        for seen in [asked().unwrap(), read().unwrap()] {
            let seen = seen.iter().filter_map(|one| network(one.address));
            let seen: BTreeSet<NetworkId> = seen.collect();
            assert!(seen.is_superset(&wanted), "{seen:?}");
        }
        assert!(networks().known().unwrap().is_superset(&wanted));
    }

    #[test]
    fn who_listens_on_every_address_is_seen_by_its_process() {
        // Where nobody reaches it.
        let alone = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let four = TcpListener::bind("0.0.0.0:8080").unwrap();
            let six = UdpSocket::bind("[::]:53").unwrap();
            let _own = UdpSocket::bind("0.0.0.0:0").unwrap();
            let open = everywhere();
            assert_eq!(open.len(), 3, "{open:?}");
            let me = i32::try_from(std::process::id()).unwrap();
            let found = of_container(me, &open);
            drop((four, six));
            (found, everywhere().len())
        });
        let (found, left) = alone.join().unwrap();
        assert!(found.contains("8080/tcp") && found.contains("53/udp"));
        assert_eq!((found.len(), left), (3, 1));
    }

    #[test]
    fn a_thousand_are_all_seen() {
        let all: Vec<TcpListener> = (0..1000)
            .map(|_| TcpListener::bind("127.244.40.5:0").unwrap())
            .collect();
        let address: IpAddr = "127.244.40.5".parse().unwrap();
        let seen = asked().unwrap();
        let seen = seen.iter().filter(|one| one.address == address).count();
        assert_eq!(seen, all.len());
    }
}
