//! The reverse proxy and its certificates, as wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{HostName, Name};

/// The reverse proxy as wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProxySpec {
    /// The port for HTTP, on all addresses (loopback only beneath a root of its own)
    /// where none is given.
    pub http: u16,
    /// The router's port, where not the usual one.
    pub router: Option<u16>,
    /// The one address to answer on.
    pub address: Option<Ipv4Addr>,
    /// TCP ports to forward, where there is an address.
    #[serde(default)]
    pub tcp: BTreeSet<u16>,
    /// UDP ports to forward, where there is an address.
    #[serde(default)]
    pub udp: BTreeSet<u16>,
    /// The machine's name, as it stands in automatic hosts.
    pub machine: Option<Name>,
    /// What automatic hosts end with.
    pub base_domain: Option<HostName>,
    /// The port for HTTPS, where there is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https: Option<u16>,
    /// Whether requests over HTTP for what has HTTPS are sent there.
    #[serde(default)]
    pub redirect: bool,
    /// Certificates of the user's own, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub certificates: BTreeMap<Name, CertificateFiles>,
    /// How certificates are ordered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<Acme>,
    /// How it runs.
    #[serde(default)]
    pub run_as: RunAs,
}

/// How the proxy is to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunAs {
    /// As it did before; at its first start as a container where the machine's own Docker
    /// answers, else as a program.
    #[default]
    Auto,
    /// As a container of the machine's own Docker.
    Container,
    /// As a program.
    Binary,
}

impl fmt::Display for RunAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RunAs::Auto => "auto",
            RunAs::Container => "container",
            RunAs::Binary => "binary",
        })
    }
}

/// A certificate and its key, both in PEM and absolute.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CertificateFiles {
    /// The certificate, and after it those of its issuers.
    pub certificate: PathBuf,
    /// Its private key, which root alone can read.
    pub key: PathBuf,
}

/// How certificates are ordered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Acme {
    /// Whom the authority writes to.
    pub email: String,
    /// The authority's directory, where not Let's Encrypt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_server: Option<String>,
    /// What the authority's own certificate is checked with besides what the machine
    /// trusts, absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_certificate: Option<PathBuf>,
    /// How hosts beneath the base domain are proved, where by a record of their zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsProof>,
}

/// How hosts are proved by a record of their zone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DnsProof {
    /// Who serves the zone, as Traefik calls it: `cloudflare`.
    pub provider: String,
    /// What the provider wants to know, by the variable's name: absolute files with it.
    #[serde(default)]
    pub token_files: BTreeMap<String, PathBuf>,
    /// The name servers that are asked whether the record is there; the zone's own
    /// where there are none.
    #[serde(default)]
    pub resolvers: BTreeSet<SocketAddrV4>,
}

/// Where nobody says how: requests alone.
impl Default for ProxySpec {
    fn default() -> Self {
        Self {
            http: 80,
            router: None,
            address: None,
            tcp: BTreeSet::new(),
            udp: BTreeSet::new(),
            machine: None,
            base_domain: None,
            https: None,
            redirect: true,
            certificates: BTreeMap::new(),
            acme: None,
            run_as: RunAs::Auto,
        }
    }
}
