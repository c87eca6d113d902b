//! Kind `Machine`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::text::{
    AbsolutePath, BackingFile, DatastoreSize, DevicePath, HostName, Ipv4, NAME, Port, RelativePath,
};
use super::{VariableValue, nothing};

/// What the machine should be.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MachineSpec {
    /// The BTRFS file system that holds all repositories. Left out, none is made.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Datastore")]
    pub datastore: Option<Datastore>,
    /// How many times the room of the datastore the sizes of all repositories may come
    /// to; left out, they must fit. Sizes are promises: only what is written takes room.
    /// Nothing new is promised while less than a twentieth of the room is really free.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "f64", range(min = 1.0, max = 100.0), example = 2.0)]
    pub overcommit: Option<f64>,
    /// What the hosts of automatic routes end with.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "HostName")]
    pub base_domain: Option<String>,
    /// The reverse proxy, Traefik.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Proxy")]
    pub proxy: Option<Proxy>,
    /// Values that other manifests name as `${variable}` in their texts. `$${` is
    /// a literal `${`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("propertyNames" = {
        "pattern": "^[A-Za-z_][A-Za-z0-9_]*$",
        "examples": ["stage", "Zone_2"],
    }))]
    pub variables: BTreeMap<String, VariableValue>,
}

/// The BTRFS file system that holds all repositories: in a file, with `size`, or on a
/// device of its own, with `device` alone.
#[derive(JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("oneOf" = [
    { "required": ["size"], "not": { "required": ["device"] } },
    {
        "required": ["device"],
        "not": { "anyOf": [{ "required": ["size"] }, { "required": ["backingFile"] }] },
    },
]))]
pub struct Datastore {
    /// At least this large, 256M or more. It grows while in use, and never shrinks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DatastoreSize")]
    pub size: Option<String>,
    /// The file that holds it, `/mnt/rediacc.img` where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "BackingFile")]
    pub backing_file: Option<String>,
    /// The block device that holds it, all of it: a disk, a partition or a volume, of 256M
    /// or more. It is formatted where there is no signature on it at all, and never where
    /// there is one (`wipefs --all` removes those). When the device gets larger, the
    /// datastore does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DevicePath")]
    pub device: Option<String>,
}

/// The reverse proxy, Traefik.
#[derive(JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Proxy {
    /// The port on which it answers HTTP.
    #[serde(default = "http")]
    #[schemars(with = "Port")]
    pub http: u16,
    /// The port on which it answers HTTPS: 443 where nothing is said and there are
    /// `certificates` or `acme`, else none.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Port")]
    pub https: Option<u16>,
    /// Whether a request over HTTP for what is served over HTTPS is sent there.
    #[serde(default = "yes")]
    pub redirect: bool,
    /// Certificates of your own, by a name of your choice. One that cannot serve is
    /// refused by itself; where one served under that name before, it goes on.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(extend("propertyNames" = { "pattern": NAME, "examples": ["shop", "b-2"] }))]
    pub certificates: BTreeMap<String, CertificateFiles>,
    /// An authority that certificates are ordered from, for every host served over
    /// HTTPS that no certificate of your own is for.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Acme")]
    pub acme: Option<Acme>,
    /// How Traefik runs: as a container of the machine's own Docker, or as a program that
    /// systemd or renet keeps running.
    #[serde(default)]
    pub run_as: RunAs,
    /// The port on which the router tells programs of its routes, on 127.0.0.1: 7111
    /// where nothing is said, and none beneath a root of its own.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Port")]
    pub router: Option<u16>,
    /// The address that it answers on. Left out, it answers requests on all of them and
    /// forwards no ports: a service may listen on a forwarded one, on its own address.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Ipv4")]
    pub address: Option<String>,
    /// The TCP ports that can be forwarded to services, besides 10000 to 10010.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Vec<Port>")]
    pub tcp: Option<Vec<u16>>,
    /// The UDP ports that can be forwarded to services.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Vec<Port>")]
    pub udp: Option<Vec<u16>>,
}

/// How Traefik runs.
#[derive(Default, JsonSchema, Serialize)]
#[schemars(inline)]
#[serde(rename_all = "lowercase")]
pub enum RunAs {
    /// Decided at the first start, and kept: a container where the machine's own Docker
    /// answers and compose is installed, else a program.
    #[default]
    Auto,
    /// The container `rediacc-proxy` of the machine's own Docker, from Traefik's image, or
    /// where that cannot be had from one that is built around the installed program.
    Container,
    /// The installed program.
    Binary,
}

fn http() -> u16 {
    crate::manifest::Proxy::default().http
}

fn yes() -> bool {
    true
}

/// A certificate of your own. A file that changes is served within a second.
#[derive(JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CertificateFiles {
    /// The certificate in PEM, and after it those of its issuers: a file, absolute or
    /// from the folder that this manifest lies in.
    #[schemars(with = "FilePath", example = &"tls/shop.crt")]
    pub certificate: String,
    /// Its private key in PEM: a file that root alone can read.
    #[schemars(with = "FilePath", example = &"tls/shop.key")]
    pub key: String,
}

/// An authority that certificates are ordered from, by ACME.
#[derive(JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Acme {
    /// Whom the authority writes to.
    #[schemars(with = "Email")]
    pub email: String,
    /// The address of the authority's directory: Let's Encrypt's where nothing is said.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Url")]
    pub ca_server: Option<String>,
    /// What the authority's own certificate is checked with, besides what the machine
    /// trusts: a file in PEM.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "FilePath", example = &"/etc/ssl/our-authority.crt")]
    pub ca_certificate: Option<String>,
    /// Who serves the zone of `baseDomain`: hosts beneath it are proved by a record
    /// there (DNS-01), and share one certificate a repository. Left out, and for other
    /// hosts, they are proved by a request over HTTP, on port 80 (HTTP-01).
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "DnsProvider")]
    pub dns_provider: Option<DnsProvider>,
}

/// Who serves the zone of `baseDomain`.
#[derive(JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DnsProvider {
    /// The provider, as Traefik calls it.
    #[schemars(with = "ProviderName")]
    pub name: String,
    /// The files with what the provider wants to know, by the names of its variables. Each
    /// holds one value, and root alone can read it. It is read when Traefik starts.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(extend("propertyNames" = {
        "pattern": "^[A-Z][A-Z0-9_]*(?<!_FILE)$",
        "examples": ["CF_DNS_API_TOKEN", "A2_B"],
    }))]
    pub token_files: BTreeMap<String, AbsolutePath>,
    /// The name servers that are asked whether the record is there. Left out, the zone's
    /// own are.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Vec<SocketAddress>")]
    pub resolvers: Option<Vec<String>>,
}

/// An absolute path, or one from the folder that the manifest lies in; no `..`.
#[derive(JsonSchema)]
#[schemars(inline, untagged)]
pub enum FilePath {
    Absolute(AbsolutePath),
    Beside(RelativePath),
}

/// An address of mail.
#[derive(JsonSchema)]
#[schemars(inline, example = &"ops@example.com")]
pub struct Email(
    #[schemars(regex(pattern = r"^[^@ \x00-\x1f\x7f-\x9f]+@[^@ \x00-\x1f\x7f-\x9f]+$"))] pub String,
);

/// An address like `https://…`.
#[derive(JsonSchema)]
#[schemars(inline, example = &"https://acme.example.com/directory")]
pub struct Url(
    #[schemars(regex(pattern = r"^https://[!-~]+$"))]
    pub String,
);

/// A provider of names, as Traefik calls it.
#[derive(JsonSchema)]
#[schemars(inline, example = &"cloudflare")]
pub struct ProviderName(#[schemars(regex(pattern = r"^[a-z0-9][a-z0-9-]*$"))] pub String);

/// An IPv4 address and a port.
#[derive(JsonSchema)]
#[schemars(inline, example = &"10.0.0.53:53")]
pub struct SocketAddress(
    #[schemars(regex(
        pattern = r"^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(\.|:)){4}[0-9]{1,5}$"
    ))]
    pub String,
);
