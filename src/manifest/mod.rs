//! Reads a folder of manifests: what the machine should be, as a user wrote it.
//!
//! A [`Loader`] is the only way in, [`load`] its form for one look. It runs no program
//! and opens no connection; it reads files beneath the folder, never through a link, and
//! says about *all* mistakes at once where they are and what to write instead.
//!
//! The way of a file: `root` opens it, `tree` parses it into nodes that know their place,
//! `variables` puts in what the Machine defines, `decode` turns a document into a type,
//! `compose` gathers what a Service brings along, `check` compares the documents with
//! each other, and `render` draws the problems, without what is `hidden`.

mod check;
mod compose;
mod decode;
mod digested;
mod fields;
mod found;
mod hidden;
mod limits;
mod load;
mod machine;
mod problem;
mod proxy;
mod render;
mod repository;
mod root;
mod route;
pub mod schema;
mod service;
mod tree;
mod values;
mod variables;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::SignedDuration;

use crate::model::{
    Acme, Backing, CertificateFiles, DeletionPolicy, Digest, Environment, FileSet, Guid, HostName,
    Name, Named, NetworkId, OnFailure, ProxySpec, RelPath, ResourceLimits, RunAs, RunState,
    Schedule, Seal, SecretRef, Size,
};

pub use digested::Digested;
pub use load::{Loader, OneFile, load, load_file};
pub(crate) use machine::device;
pub use problem::Problem;
pub use render::{Listed, Validation};
pub use written::Written;
pub(crate) use written::normal;

/// A folder of manifests as read.
#[derive(Clone, Debug)]
pub struct Folder {
    /// The folder: absolute, without `.` and `..`, links not followed.
    pub source: PathBuf,
    /// Every document that has no problem.
    pub manifests: Manifests,
    /// What is wrong with the others.
    pub problems: Vec<Problem>,
    /// How many more problems there are than anybody would read.
    pub unlisted: usize,
    /// The folder could be read and holds no manifest at all.
    pub empty: bool,
    /// How many manifest files were read.
    pub files: usize,
}

impl Folder {
    /// Not one document could be read.
    pub fn is_nothing(&self) -> bool {
        let found = &self.manifests;
        found.machine.is_none()
            && found.repositories.is_empty()
            && found.services.is_empty()
            && found.routes.is_empty()
    }
}

impl Manifests {
    /// Every object that is declared.
    pub fn declared(&self) -> BTreeSet<Named> {
        let machine = self.machine.iter();
        let machine = machine.map(|machine| Named::Machine(machine.name.clone()));
        let repositories = self.repositories.keys();
        let repositories = repositories.map(|name| Named::Repository(name.to_string()));
        let services = self.services.keys();
        let services = services.map(|(of, name)| Named::Service(of.to_string(), name.clone()));
        let routes = self.routes.keys().cloned().map(Named::Route);
        let all = machine.chain(repositories).chain(services);
        all.chain(routes).collect()
    }

    /// Keeps of everything what is named.
    fn retain(&mut self, named: &BTreeSet<Named>) {
        let is = |one: Named| named.contains(&one);
        self.machine
            .take_if(|machine| !is(Named::Machine(machine.name.clone())));
        self.repositories
            .retain(|name, _| is(Named::Repository(name.to_string())));
        self.services
            .retain(|(of, name), _| is(Named::Service(of.to_string(), name.clone())));
        self.routes.retain(|name, _| is(Named::Route(name.clone())));
    }

    /// What the datastore lies on, where a Machine names it.
    pub fn backing(&self) -> Option<Backing> {
        match self.machine.as_ref()?.datastore.as_ref()? {
            MachineDatastore::File { path, .. } => path.clone().map(Backing::File),
            MachineDatastore::Device(path) => Some(Backing::Device(path.clone())),
        }
    }

    /// Whether a compose file speaks of labels that ask for routes.
    pub fn ask_for_routes(&self) -> bool {
        const WORDS: [&str; 5] = [
            "traefik.enable",
            "rediacc.service_port",
            "rediacc.domain",
            "rediacc.tcp_ports",
            "rediacc.udp_ports",
        ];
        self.services.values().any(|service| {
            let file = service.files.files().get(&service.compose_file);
            let text = file.map(|file| String::from_utf8_lossy(file.bytes()));
            text.is_some_and(|text| WORDS.iter().any(|word| text.contains(word)))
        })
    }

    /// The proxy, where there is a Machine.
    pub fn proxy(&self) -> Option<ProxySpec> {
        let machine = self.machine.as_ref()?;
        let proxy = &machine.proxy;
        Some(ProxySpec {
            http: proxy.http,
            router: proxy.router,
            address: proxy.address,
            tcp: proxy.tcp.clone(),
            udp: proxy.udp.clone(),
            machine: Some(machine.name.clone()),
            base_domain: machine.base_domain.clone(),
            https: proxy.https,
            redirect: proxy.redirect,
            certificates: proxy.certificates.clone(),
            acme: proxy.acme.clone(),
            run_as: proxy.run_as,
        })
    }

    /// Every secret that is asked for.
    pub fn secrets(&self) -> BTreeSet<SecretRef> {
        let repositories = self.repositories.values();
        let passphrases = repositories.filter_map(|repository| match &repository.origin {
            Origin::Blank(seal) => Some(seal.as_ref()?.passphrase.clone()),
            Origin::Fork(_) => None,
        });
        passphrases.collect()
    }

    /// The projects of a repository, by name.
    pub fn services_of<'a>(
        &'a self,
        repository: &'a Name,
    ) -> impl Iterator<Item = &'a Digested<Service>> {
        // No name comes before this one.
        let first: Result<Name, _> = "0".parse();
        let from = first.ok().map(|first| (repository.clone(), first));
        let range = from.map(|from| self.services.range(from..));
        range
            .into_iter()
            .flatten()
            .take_while(move |((of, _), _)| of == repository)
            .map(|(_, service)| service)
    }

    /// The revision of each repository: its document and those of its projects.
    pub fn digests(&self) -> BTreeMap<Name, Digest> {
        let of = |(name, repository): (&Name, &Digested<Repository>)| {
            let services = self.services_of(name).map(Digested::digest);
            let all = [repository.digest()].into_iter().chain(services);
            (name.clone(), Digest::of_all(all))
        };
        self.repositories.iter().map(of).collect()
    }

    /// The revision: everything that is declared, whatever the files are called.
    pub fn digest(&self) -> Digest {
        let machine = self.machine.iter().map(Digested::digest);
        let repositories = self.repositories.values().map(Digested::digest);
        let services = self.services.values().map(Digested::digest);
        let routes = self.routes.values().map(Digested::digest);
        Digest::of_all(machine.chain(repositories).chain(services).chain(routes))
    }
}

/// The documents of a folder. One that has a problem is missing here, so that a
/// Service or Route can name a repository that is not among them.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    /// The machine itself.
    pub machine: Option<Digested<Machine>>,
    /// The repositories.
    pub repositories: BTreeMap<Name, Digested<Repository>>,
    /// The projects, by repository and name.
    pub services: BTreeMap<(Name, Name), Digested<Service>>,
    /// The routes.
    pub routes: BTreeMap<Name, Digested<Route>>,
}

/// Kind `Machine`.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its name.
    pub name: Name,
    /// The datastore, where one is to be made.
    pub datastore: Option<MachineDatastore>,
    /// How much more than there is may be promised to repositories, in hundredths.
    pub overcommit: Option<u32>,
    /// What automatic hosts end with.
    pub base_domain: Option<HostName>,
    /// The reverse proxy.
    pub proxy: Proxy,
    /// What stands for `${name}` in the other manifests.
    pub variables: BTreeMap<String, String>,
}

/// The datastore of a [`Machine`].
#[derive(Clone, Debug)]
pub enum MachineDatastore {
    /// In a file.
    File {
        /// At least this large.
        size: Size,
        /// Its backing file, where not the usual one.
        path: Option<PathBuf>,
    },
    /// On a block device, all of it.
    Device(PathBuf),
}

impl MachineDatastore {
    /// How large it is to be; nothing is said of a device.
    pub fn size(&self) -> Option<Size> {
        match self {
            Self::File { size, .. } => Some(*size),
            Self::Device(_) => None,
        }
    }
}

/// The reverse proxy of a [`Machine`].
#[derive(Clone, Debug)]
pub struct Proxy {
    /// The port for HTTP.
    pub http: u16,
    /// The port for HTTPS, where there is any.
    pub https: Option<u16>,
    /// Whether requests over HTTP for what has HTTPS are sent there.
    pub redirect: bool,
    /// Certificates of the user's own, by name.
    pub certificates: BTreeMap<Name, CertificateFiles>,
    /// How certificates are ordered.
    pub acme: Option<Acme>,
    /// How it runs.
    pub run_as: RunAs,
    /// The router's port, where not the usual one.
    pub router: Option<u16>,
    /// The one address that it answers on, where not all of them.
    pub address: Option<Ipv4Addr>,
    /// The TCP ports that are forwarded to services.
    pub tcp: BTreeSet<u16>,
    /// The UDP ports that are forwarded to services.
    pub udp: BTreeSet<u16>,
}

impl Proxy {
    const HTTPS: u16 = 443;
    /// What databases, caches and queues usually listen on.
    const TCP: [u16; 7] = [3306, 5432, 6379, 27017, 11211, 5672, 9092];
    const UDP: [u16; 1] = [53];
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            http: 80,
            https: None,
            redirect: true,
            certificates: BTreeMap::new(),
            acme: None,
            run_as: RunAs::Auto,
            router: None,
            address: None,
            tcp: Self::TCP.into(),
            udp: Self::UDP.into(),
        }
    }
}

/// Kind `Repository`.
#[derive(Clone, Debug)]
pub struct Repository {
    /// Its name.
    pub name: Name,
    /// At least this large; a fork that does not say is as large as its parent.
    pub size: Option<Size>,
    /// What its image is made from.
    pub origin: Origin,
    /// Whether it comes back at boot without a passphrase, where that is said.
    pub autostart: Option<bool>,
    /// When snapshots of it are made.
    pub snapshots: Option<Schedule>,
    /// What it should be doing.
    pub state: RunState,
    /// Its guid, where the manifest fixes it.
    pub guid: Option<Guid>,
    /// Its network, where the manifest fixes it.
    pub network_id: Option<NetworkId>,
    /// What becomes of its data when the manifest goes.
    pub deletion_policy: DeletionPolicy,
    /// Whether it may not be deleted.
    pub protected: bool,
    /// What its daemon and its containers may take together.
    pub limits: ResourceLimits,
    /// What it was called before, where it was renamed.
    pub moved_from: Option<MovedFrom>,
}

/// What the image of a [`Repository`] is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nothing: an empty file system, encrypted or not.
    Blank(Option<Seal>),
    /// A copy of another repository.
    Fork(ForkOf),
}

/// Of which repository another is a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkOf {
    /// The other's name.
    pub repository: Name,
    /// What the copy is for.
    pub tag: Option<Name>,
    /// How long it lives.
    pub ttl: Option<SignedDuration>,
}

/// The annotation `renet/moved-from`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MovedFrom {
    /// It is new, whatever else is no longer declared.
    Nothing,
    /// It was called so before.
    Name(Name),
}

/// Kind `Service`: one compose project.
#[derive(Clone, Debug)]
pub struct Service {
    /// The repository that it lies in.
    pub repository: Name,
    /// Its name, which is also its directory's.
    pub name: Name,
    /// Everything that goes into the project's directory, by path there.
    pub files: Arc<FileSet>,
    /// The compose file, by path in the project's directory.
    pub compose_file: RelPath,
    /// The services that it defines, in the order of the file.
    pub services: Vec<String>,
    /// What it puts into the environment of its containers.
    pub environment: Environment,
    /// The Services of its repository that are well before it starts.
    pub depends_on: BTreeSet<Name>,
    /// How long it may take to get well.
    pub healthy_within: SignedDuration,
    /// What becomes of it when a new revision fails.
    pub on_failure: OnFailure,
    /// Whether a new revision is tried on a copy of its repository first.
    pub fork_first: bool,
    /// What each of its services may take, by the service's name.
    pub limits: BTreeMap<String, ResourceLimits>,
}

/// Kind `Route`.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name.
    pub name: Name,
    /// The repository that it leads into.
    pub repository: Name,
    /// The compose service that it leads to.
    pub service: String,
    /// The port that the service listens on.
    pub port: u16,
    /// The host that it answers to.
    pub host: HostName,
    /// Whether it is served over HTTPS; where nothing is said, if a certificate is to be
    /// had for its host.
    pub tls: Option<bool>,
}
