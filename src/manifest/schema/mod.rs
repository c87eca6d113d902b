//! The manifests as they are written, for JSON Schema and `renet explain`.
//!
//! They are decoded by hand (`decode`), so that all mistakes are told at once;
//! these types are never filled. The tests below hold the two against each
//! other: fields, required ones, values, and what each refuses.
//!
//! Every doc comment here is read by users: in their editor, and by `explain`.

mod agreement;

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde::Serialize;

/// The kinds, each with its schema.
pub fn kinds() -> [(&'static str, Schema); 4] {
    [
        ("machine", of::<Machine>()),
        ("repository", of::<Repository>()),
        ("service", of::<Service>()),
        ("route", of::<Route>()),
    ]
}

/// A manifest of any kind.
pub fn manifest() -> Schema {
    of::<Manifest>()
}

fn of<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<T>()
}

/// A manifest of renet: what a part of the machine should be.
#[derive(JsonSchema)]
#[serde(untagged)]
pub enum Manifest {
    Machine(Machine),
    Repository(Repository),
    Service(Service),
    Route(Route),
}

/// The machine itself. A folder describes at most one.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Machine {
    pub api_version: ApiVersion,
    pub kind: MachineKind,
    pub metadata: Metadata,
    /// What the machine should be; `{}` for all defaults.
    pub spec: MachineSpec,
}

/// A disk image of its own with a Docker daemon of its own: the unit of
/// isolation and backup.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Repository {
    pub api_version: ApiVersion,
    pub kind: RepositoryKind,
    pub metadata: RepositoryMetadata,
    /// What the repository should be.
    pub spec: RepositorySpec,
}

/// A compose project in a repository.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Service {
    pub api_version: ApiVersion,
    pub kind: ServiceKind,
    pub metadata: ServiceMetadata,
    /// What the project should be.
    pub spec: ServiceSpec,
}

/// A host name that leads to a service.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Route {
    pub api_version: ApiVersion,
    pub kind: RouteKind,
    pub metadata: Metadata,
    /// Where the route leads.
    pub spec: RouteSpec,
}

/// The version of the manifest's format.
#[derive(JsonSchema)]
#[schemars(inline, extend("const" = "renet/v1"))]
pub struct ApiVersion(pub String);

/// What the manifest describes.
#[derive(JsonSchema)]
#[schemars(inline, extend("const" = "Machine"))]
pub struct MachineKind(pub String);

/// What the manifest describes.
#[derive(JsonSchema)]
#[schemars(inline, extend("const" = "Repository"))]
pub struct RepositoryKind(pub String);

/// What the manifest describes.
#[derive(JsonSchema)]
#[schemars(inline, extend("const" = "Service"))]
pub struct ServiceKind(pub String);

/// What the manifest describes.
#[derive(JsonSchema)]
#[schemars(inline, extend("const" = "Route"))]
pub struct RouteKind(pub String);

/// What the object is called.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Metadata {
    /// Its name, which no other of its kind has.
    pub name: Name,
    /// Anything worth noting about it, by name; renet reads none of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("propertyNames" = label_names()))]
    pub labels: BTreeMap<String, LabelValue>,
    /// Words to renet about this object.
    #[serde(default, skip_serializing_if = "nothing")]
    pub annotations: Annotations,
}

/// What the repository is called.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RepositoryMetadata {
    /// Its name, which no other repository has.
    pub name: Name,
    /// Anything worth noting about it, by name; renet reads none of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("propertyNames" = label_names()))]
    pub labels: BTreeMap<String, LabelValue>,
    /// Words to renet about this repository.
    #[serde(default, skip_serializing_if = "nothing")]
    pub annotations: RepositoryAnnotations,
}

/// What the project is called.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServiceMetadata {
    /// Its name, which no other of its repository has: also its directory's, and
    /// its compose project's.
    pub name: ServiceName,
    /// Anything worth noting about it, by name; renet reads none of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("propertyNames" = label_names()))]
    pub labels: BTreeMap<String, LabelValue>,
    /// Words to renet about this object.
    #[serde(default, skip_serializing_if = "nothing")]
    pub annotations: Annotations,
}

/// Words to renet about an object; for this kind there are none.
#[derive(Default, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Annotations {}

/// Words to renet about a repository.
#[derive(Default, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RepositoryAnnotations {
    /// What the repository was called before it was renamed, or `none` where it
    /// is new though another one is gone.
    #[serde(
        rename = "renet/moved-from",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Name")]
    pub moved_from: Option<String>,
}

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

/// Up to 253 of letters, digits, `-`, `_` and `.`, with a letter or digit at both
/// ends; or nothing.
#[derive(JsonSchema, Serialize)]
#[schemars(inline, example = &"web", example = &"1.4_b-c")]
pub struct LabelValue(
    #[schemars(regex(pattern = r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?)?$"))] pub String,
);

/// The same as a label's value with `/`, and not empty.
fn label_names() -> serde_json::Value {
    serde_json::json!({
        "pattern": r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,251}[A-Za-z0-9])?$",
        "examples": ["a", "b.c/d"],
    })
}

/// One line of text that names no other variable.
#[derive(JsonSchema, Serialize)]
#[schemars(inline, example = &"prod", example = &"a $ b")]
pub struct VariableValue(
    #[schemars(regex(pattern = r"^([^$\x00-\x1f\x7f]|\$[^{\x00-\x1f\x7f])*\$?$"))] pub String,
);

/// The BTRFS file system that holds all repositories.
#[derive(JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Datastore {
    /// At least this large, 256M or more. It grows while in use, and never shrinks.
    #[schemars(with = "DatastoreSize")]
    pub size: String,
    /// The file that holds it, `/mnt/rediacc.img` where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "AbsolutePath")]
    pub backing_file: Option<String>,
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
    super::Proxy::default().http
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

/// What the repository should be: new, with `size` and `encryption`, or a copy of
/// another, with `forkOf`.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("oneOf" = [
    { "required": ["size", "encryption"], "not": { "required": ["forkOf"] } },
    { "required": ["forkOf"], "not": { "required": ["encryption"] } },
]))]
pub struct RepositorySpec {
    /// At least this large, 64M or more. It grows while in use, and never shrinks.
    /// A copy is as large as its parent where nothing is said.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "ImageSize")]
    pub size: Option<ImageSize>,
    /// How its image is encrypted: with LUKS2 and the passphrase that is found
    /// there, or `none`. Which of the two is read at creation alone.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Encryption")]
    pub encryption: Option<Encryption>,
    /// The repository that this one is a copy of: made in a moment whatever its
    /// size, with a network of its own. Read at creation alone.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "ForkOf")]
    pub fork_of: Option<ForkOf>,
    /// Whether it comes back at boot without its passphrase. Left out, it stays as
    /// `renet repository autostart` says.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "bool", example = true)]
    pub autostart: Option<bool>,
    /// Snapshots of it that are made by themselves, and how many of those are kept.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Snapshots")]
    pub snapshots: Option<Snapshots>,
    /// What it should be doing.
    #[serde(default)]
    pub state: RunState,
    /// Its network: a multiple of 64 that no other repository has. Left out, one
    /// is chosen at its creation and kept. Read at creation alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "NetworkId")]
    pub network_id: Option<u32>,
    /// Its guid, which is also its image's file name. Left out, one is made at
    /// its creation and kept. Read at creation alone, or to take over an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Guid")]
    pub guid: Option<String>,
    /// What becomes of its data when this manifest goes. Of a copy with a `ttl` it is
    /// Delete where nothing is said.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Whether it may not be deleted. Lifting it takes an apply of its own.
    #[serde(default)]
    #[schemars(example = true)]
    pub protected: bool,
}

/// What a repository should be doing.
#[derive(Default, Serialize, JsonSchema)]
#[schemars(inline)]
pub enum RunState {
    /// Mounted, its daemon up, its projects running.
    #[default]
    Running,
    /// Mounted, its daemon up, nothing running.
    Stopped,
    /// Closed.
    Offline,
}

/// What becomes of a repository's data when its manifest goes.
#[derive(Default, Serialize, JsonSchema)]
#[schemars(inline)]
pub enum DeletionPolicy {
    /// It is closed and left, unmanaged.
    #[default]
    Retain,
    /// Its image goes to the trash for 7 days.
    Delete,
}

/// How an image is encrypted.
#[derive(JsonSchema)]
#[schemars(inline, untagged)]
pub enum Encryption {
    None(NoEncryption),
    Sealed(SealedBy),
}

/// Not at all.
#[derive(JsonSchema)]
#[schemars(inline, extend("const" = "none"))]
pub struct NoEncryption(pub String);

/// With LUKS2.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SealedBy {
    /// Where the passphrase is.
    pub passphrase_from: SecretSource,
    /// How it is stretched. Read at creation alone.
    #[serde(default)]
    pub pbkdf: Pbkdf,
}

/// How a passphrase is stretched.
#[derive(Default, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Pbkdf {
    /// It costs memory too.
    #[default]
    Argon2id,
    /// It costs time alone: for machines with little memory.
    Pbkdf2,
}

/// Where a secret is: one of the four.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct SecretSource {
    /// A file on the machine that root alone can read. A line end that closes it
    /// does not count.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "AbsolutePath")]
    pub file: Option<String>,
    /// A systemd credential, by its name.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "CredentialName")]
    pub credential: Option<String>,
    /// A file encrypted with age for this machine, from the folder that this
    /// manifest lies in.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "RelativePath")]
    pub age: Option<String>,
    /// A program and its arguments; what it prints is the secret.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Vec<CommandWord>", length(min = 1))]
    pub command: Option<Vec<String>>,
}

/// A word of a command.
#[derive(JsonSchema)]
#[schemars(inline, example = &"/usr/local/bin/secret")]
pub struct CommandWord(#[schemars(regex(pattern = r"^[^\x00-\x1f\x7f-\x9f]+$"))] pub String);

/// The name of a systemd credential.
#[derive(JsonSchema)]
#[schemars(inline, example = &"shop")]
pub struct CredentialName(
    #[schemars(regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"))] pub String,
);

/// When snapshots are made, and how many are kept.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Snapshots {
    /// The time between two, from `1m` to `8760h`.
    #[schemars(with = "Lifetime")]
    pub every: String,
    /// How many are kept. Those that a command made are not counted, and stay.
    #[schemars(range(min = 1, max = 1000), example = 24)]
    pub keep: u32,
}

/// Of which repository another is a copy.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ForkOf {
    /// The name of the other.
    #[schemars(with = "Name")]
    pub repository: String,
    /// What the copy is for.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Name")]
    pub tag: Option<String>,
    /// How long it lives, from `1m` to `8760h`; then it deletes itself, unless it
    /// is protected.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Lifetime")]
    pub ttl: Option<String>,
}

/// Hours, minutes and seconds.
#[derive(JsonSchema)]
#[schemars(inline, example = &"8h")]
pub struct Lifetime(
    #[schemars(regex(pattern = r"^(?=.)([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$"))] pub String,
);

/// What the project should be.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServiceSpec {
    /// The name of the repository that it lies in.
    #[schemars(with = "Name")]
    pub repository: String,
    /// Its compose file. What that names beside itself comes along: build
    /// contexts, `env_file`, configs and secrets.
    pub compose: Compose,
    /// The Services of this repository that are well before this one starts.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Vec<Name>", example = ["db"])]
    pub depends_on: Vec<String>,
    /// What else goes into the project's directory: each path there, and where
    /// its content comes from. A change recreates the services that mount it.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(extend("propertyNames" = { "pattern": PATH, "examples": ["nginx.conf", "b.c/d"] }))]
    pub files: BTreeMap<String, ManagedFile>,
    /// Its Rediaccfile: bash functions that start and stop it in place of compose.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "RediaccfileRef")]
    pub rediaccfile: Option<RediaccfileRef>,
    /// What is set in every container of the project whose compose file does not
    /// set it itself, and for the compose file's own `${…}`.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(extend("propertyNames" = { "pattern": VARIABLE, "examples": ["LOG", "_x2"] }))]
    pub environment: BTreeMap<String, String>,
    /// How long is waited for the project.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Wait")]
    pub wait: Option<Wait>,
    /// How a change of it is brought in.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Update")]
    pub update: Option<Update>,
    /// What the containers of its services may take, by the name that the compose file
    /// gives the service. This wins over what the compose file says.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(extend("propertyNames" = { "examples": ["web"] }))]
    pub limits: BTreeMap<String, ServiceLimits>,
}

/// What a container may take at most. Changing it recreates the container.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServiceLimits {
    /// Memory, at least `6M`. A container that needs more is ended by the kernel.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "MemorySize")]
    pub memory: Option<MemorySize>,
    /// Processors: `0.5` is half of one.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "f64", range(min = 0.01, max = 1024.0), example = 0.5)]
    pub cpus: Option<f64>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "u32", range(min = 1, max = 4_194_304), example = 256)]
    pub pids: Option<u32>,
}

/// Where a managed file comes from: one of the three.
#[derive(JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct ManagedFile {
    /// A file, from the folder that this manifest lies in.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "RelativePath")]
    pub file: Option<String>,
    /// A folder with everything in it, from the folder that this manifest lies in.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "FolderPath")]
    pub dir: Option<String>,
    /// The content itself.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "String")]
    pub inline: Option<String>,
}

/// A project's Rediaccfile, with the functions `prep`, `up` and `down`.
#[derive(JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RediaccfileRef {
    /// Its path, from the folder that this manifest lies in.
    #[schemars(with = "RelativePath")]
    pub file: String,
}

/// How long is waited for a project.
#[derive(JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Wait {
    /// How long it may take to get well, from `1s` to `1h`; `60s` where nothing is
    /// said. It is no part of what runs: changing it recreates nothing.
    #[schemars(with = "Limit")]
    pub healthy: String,
}

/// How a change of a project is brought in.
#[derive(JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Update {
    /// What becomes of it when it fails: an image that cannot be had, a container that
    /// ends, a check that does not pass in time. What failed is not tried again until
    /// it changes.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Whether a change comes up on a copy of its repository first: with the real data, a
    /// network of its own and no routes. Nothing of the repository is touched before it
    /// is well there; where it fails, nothing is. The copy goes by itself. In it
    /// `REDIACC_IS_FORK` is `true`.
    #[serde(default)]
    pub fork_first: bool,
}

/// What becomes of a change that fails.
#[derive(Default, JsonSchema, Serialize)]
#[schemars(inline)]
pub enum OnFailure {
    /// The files and containers of the revision before come back; the data stays as it
    /// is then.
    #[default]
    Rollback,
    /// The revision before comes back, and with it all data of its repository as it was
    /// before the update: every service of the repository stops for it, and loses what it
    /// wrote since. The data that is replaced is kept as a snapshot.
    RollbackWithData,
    /// The project stays where it failed.
    Stop,
}

/// A project's compose file.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Compose {
    /// Its path, from the folder that this manifest lies in.
    #[schemars(with = "RelativePath")]
    pub file: String,
}

/// Where the route leads.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RouteSpec {
    /// The service that it leads to, as `repository/service`: one under
    /// `services:` of a compose file.
    #[schemars(with = "Target")]
    pub service: String,
    /// The port that the service listens on.
    #[schemars(with = "Port")]
    pub port: u16,
    /// The host name that it answers to, which no other route has.
    #[schemars(with = "HostName")]
    pub host: String,
    /// Whether it is served over HTTPS. Left out, it is where a certificate is to be had
    /// for its host.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "bool")]
    pub tls: Option<bool>,
}

/// 1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends; no UUID.
#[derive(JsonSchema)]
#[schemars(
    inline,
    extend("not" = { "pattern": UUID }),
    example = &"shop"
)]
pub struct Name(#[schemars(regex(pattern = NAME))] pub String);

const NAME: &str = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";

const UUID: &str = "^([0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$";

/// 1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends; no UUID, and
/// not `root`, which is the project in the repository's own folder.
#[derive(JsonSchema)]
#[schemars(
    inline,
    extend("not" = { "pattern": format!("{UUID}|^root$") }),
    example = &"web"
)]
pub struct ServiceName(#[schemars(regex(pattern = NAME))] pub String);

/// Labels of a-z, 0-9 and `-` joined by dots.
#[derive(JsonSchema)]
#[schemars(inline, example = &"shop.example.com")]
pub struct HostName(
    #[schemars(
        regex(
            pattern = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$"
        ),
        length(max = 253)
    )]
    pub String,
);

/// An IPv4 address.
#[derive(JsonSchema)]
#[schemars(inline, example = &"203.0.113.5")]
pub struct Ipv4(
    #[schemars(regex(pattern = r"^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(\.|$)){4}$"))]
    pub  String,
);

/// A repository and a service of it.
#[derive(JsonSchema)]
#[schemars(inline, example = &"shop/web")]
pub struct Target(
    #[schemars(regex(pattern = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?/[^/]+$"))] pub String,
);

/// A UUID.
#[derive(JsonSchema)]
#[schemars(inline, example = &"5d0e6f3a-1f3c-4c58-9a53-0d6f2a1b7c9e")]
pub struct Guid(
    #[schemars(regex(pattern = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"))] pub String,
);

/// A relative path without `..`.
#[derive(JsonSchema)]
#[schemars(inline, example = &"web/docker-compose.yml")]
pub struct RelativePath(#[schemars(regex(pattern = PATH), length(max = 1026))] pub String);

const PATH: &str = r"^(?:\./)?(?!(?:.*/)?\.{0,2}(?:/|$))[^\x00-\x1f\x7f-\x9f]+$";

/// A relative path of a folder, without `..`.
#[derive(JsonSchema)]
#[schemars(inline, example = &"web")]
pub struct FolderPath(#[schemars(regex(pattern = PATH), length(max = 1026))] pub String);

/// The name of a variable that a manifest may set.
const VARIABLE: &str =
    "^(?!(REDIACC_|COMPOSE_|DOCKER_|LD_)|(PATH|HOME|.*_IP)$)[A-Za-z_][A-Za-z0-9_]*$";

/// Hours, minutes and seconds.
#[derive(JsonSchema)]
#[schemars(inline, example = &"60s")]
pub struct Limit(
    #[schemars(regex(pattern = r"^(?=.)([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$"))] pub String,
);

/// An absolute path without `..`.
#[derive(JsonSchema, Serialize)]
#[schemars(inline, example = &"/mnt/rediacc.img")]
pub struct AbsolutePath(
    #[schemars(regex(pattern = r"^/(?=.*[^/.])(?!(?:.*/)?\.\.(?:/|$))[^\x00-\x1f\x7f-\x9f]+$"))]
    pub String,
);

/// A multiple of 64.
#[derive(JsonSchema)]
#[schemars(
    inline,
    extend("multipleOf" = 64),
    example = 2816
)]
pub struct NetworkId(#[schemars(range(min = 2816, max = 16_711_680))] pub u32);

/// A port.
#[derive(JsonSchema)]
#[schemars(inline, example = 8080)]
pub struct Port(#[schemars(range(min = 1))] pub u16);

/// A number and K, M, G or T (powers of 1024), or a number of bytes.
#[derive(JsonSchema)]
#[schemars(inline, untagged, example = &"2G")]
pub enum ImageSize {
    Text(SizeText),
    Bytes(#[schemars(range(min = 67_108_864))] u64),
}

/// A number and K, M, G or T (powers of 1024), or a number of bytes.
#[derive(JsonSchema)]
#[schemars(inline, untagged, example = &"20G")]
pub enum DatastoreSize {
    Text(SizeText),
    Bytes(#[schemars(range(min = 268_435_456))] u64),
}

/// A number and K, M, G or T (powers of 1024), or a number of bytes.
#[derive(JsonSchema)]
#[schemars(inline, untagged, example = &"512M")]
pub enum MemorySize {
    Text(SizeText),
    Bytes(#[schemars(range(min = 6_291_456))] u64),
}

/// A number and K, M, G or T: powers of 1024.
#[derive(JsonSchema)]
#[schemars(inline, example = &"2G")]
pub struct SizeText(
    #[schemars(regex(
        pattern = r"^ *[0-9]+(\.[0-9]{1,9})? *([KMGTPkmgtp]([Bb]|i[Bb])?|[Bb])? *$"
    ))]
    pub String,
);

/// Tells serde what has no default worth printing.
fn nothing<T>(_: &T) -> bool {
    true
}
