use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Blocked, DataLossPermit, DeletionPolicy, Digest, FileSet, Function, Guid, Hook, HostName, Kin,
    Lineage, Name, Named, NetworkId, Object, OnFailure, Owner, ResourceLimits, Rewind, Schedule,
    Seal, SecretRef, Size, Slot, Slots, Step, Suspension, Tombstone, Warning,
};

/// What the machine should be, with nothing left open: every id, slot and hash
/// is settled. Made by `resolve`, once a wave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The source that all of this comes from.
    pub owner: Owner,
    /// The machine's name, where a Machine manifest gives one.
    pub machine: Option<Name>,
    /// How much more than there is may be promised to repositories, in hundredths.
    pub overcommit: Option<u32>,
    /// The datastore, where a Machine manifest describes one.
    pub datastore: Option<DatastoreSpec>,
    /// The proxy, where routes need one.
    pub proxy: Option<ProxySpec>,
    /// Whether labels of services ask for routes.
    pub labelled: bool,
    /// The repositories.
    pub repositories: BTreeMap<Guid, RepositorySpec>,
    /// The routes.
    pub routes: BTreeMap<Name, RouteSpec>,
    /// What could not be settled, and why.
    pub unresolved: Vec<(Object, Blocked)>,
    /// Copies that are there to try changes, or are to be, and of which repository.
    pub trials: BTreeMap<Guid, Guid>,
    /// Those of them that nothing is to be tried on any more.
    pub spent: BTreeSet<Guid>,
    /// What each guid of this machine is called.
    pub names: BTreeMap<Guid, Name>,
    /// What commands ask of single repositories.
    pub acts: BTreeMap<Guid, Act>,
    /// What a command asks of the datastore.
    pub store: Option<StoreAct>,
    /// What was asked for besides.
    pub asked: Asked,
}

impl Desired {
    /// Everything that is wanted, settled or not.
    pub fn objects(&self) -> impl Iterator<Item = Object> {
        let repositories = self.repositories.values().flat_map(|spec| {
            let guid = spec.guid;
            let projects = spec.declared.iter().cloned();
            let projects = projects.map(move |project| Object::Service(guid, project));
            std::iter::once(Object::Repository(guid)).chain(projects)
        });
        let routes = self.routes.keys().cloned().map(Object::Route);
        let unresolved = self.unresolved.iter().map(|(object, _)| object.clone());
        std::iter::once(Object::Datastore)
            .chain(repositories)
            .chain(routes)
            .chain(unresolved)
    }

    /// Whether this is what a command asks, on top of what is there.
    pub fn is_command(&self) -> bool {
        !self.acts.is_empty() || self.store.is_some() || !self.asked.suspend.is_empty()
    }

    /// Whether an update in the repository takes its data back where it fails.
    pub fn may_take_back(&self, guid: Guid) -> bool {
        let projects = self.repositories.get(&guid).map(|spec| &spec.projects);
        let mut projects = projects.into_iter().flatten();
        projects.any(|(_, project)| project.on_failure == OnFailure::RollbackWithData)
    }

    /// Whether a project's object waits for another to be well before it starts.
    pub fn depends_on(&self, object: &Object, on: &Object) -> bool {
        let (Object::Service(guid, project), Object::Service(of, on)) = (object, on) else {
            return false;
        };
        let spec = self.repositories.get(guid).filter(|_| guid == of);
        let project = spec.and_then(|spec| spec.projects.get(project));
        project.is_some_and(|project| project.depends_on.contains(on))
    }

    /// What of the compose files does not do what it says, of the objects that are
    /// meant.
    pub fn warnings(&self) -> impl Iterator<Item = (Object, &Warning)> {
        // What is tried says nothing that is not said where it is declared.
        let declared = self.repositories.values();
        let declared = declared.filter(|spec| spec.tries.is_empty());
        let projects = declared.flat_map(|spec| {
            let projects = spec.projects.values();
            projects.map(move |project| (spec, project))
        });
        projects
            .map(|(spec, project)| {
                let object = Object::Service(spec.guid, project.name.clone());
                (object, &spec.name, &project.warnings)
            })
            .filter(|(object, name, _)| self.asked.means(object, Some(name)))
            .flat_map(|(object, _, warnings)| {
                warnings
                    .iter()
                    .map(move |warning| (object.clone(), warning))
            })
    }

    /// A repository as people name it: its guid where it has no name.
    pub fn name(&self, guid: Guid) -> String {
        match self.names.get(&guid) {
            Some(name) => name.to_string(),
            None => guid.to_string(),
        }
    }

    /// A step as people read it: repositories by their names.
    pub fn line(&self, step: &Step) -> String {
        step.line(&|id| self.name(Guid::new(id)))
    }

    /// The object as people name it: `service/shop/web`.
    pub fn label(&self, object: &Object) -> String {
        let name = |guid: &Guid| self.name(*guid);
        match object {
            Object::Machine => "machine".to_owned(),
            Object::Datastore => "datastore".to_owned(),
            Object::Repository(guid) => format!("repository/{}", name(guid)),
            Object::Service(guid, project) => format!("service/{}/{project}", name(guid)),
            Object::Route(route) => format!("route/{route}"),
            Object::Proxy => "proxy".to_owned(),
        }
    }
}

/// What whoever runs it asks for besides the manifests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Failed revisions are tried again.
    pub retry: bool,
    /// What another source declares becomes this one's.
    pub take_over: bool,
    /// Whether what the source made and no longer declares is retired.
    pub prune: Prune,
    /// The objects that are meant, where not all are: then nothing is retired.
    pub only: BTreeSet<Named>,
    /// Routes and the machine that a command wants left alone from now on, or no
    /// longer.
    pub suspend: BTreeMap<Object, Option<Suspension>>,
    /// Projects whose containers die again and again: they are not started yet.
    pub crashing: BTreeMap<(Guid, Name), CrashLoop>,
}

/// Containers that die soon after every start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashLoop {
    /// The revision of their project.
    pub revision: Digest,
    /// How often they were started in a row.
    pub starts: u32,
    /// When they are started again.
    pub until: Timestamp,
}

impl Asked {
    /// Whether anything may be done for an object; `name` is its repository's.
    /// What an object stands on is meant with it.
    pub fn means(&self, object: &Object, name: Option<&Name>) -> bool {
        self.only.is_empty()
            || self.only.iter().any(|named| match (named, object) {
                (_, Object::Machine | Object::Datastore | Object::Proxy) => true,
                (Named::Service(_, of), Object::Service(guid, project)) => {
                    of == project && named.is_in(*guid, name)
                }
                (_, Object::Repository(guid))
                | (Named::Repository(_), Object::Service(guid, _)) => named.is_in(*guid, name),
                (Named::Route(of), Object::Route(route)) => of == route,
                _ => false,
            })
    }
}

/// Whether what a source made and no longer declares is retired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Prune {
    /// It stays, and is named.
    #[default]
    Keep,
    /// It stays: not every manifest could be read.
    Incomplete,
    /// It goes. The digest confirms a plan that retires much.
    Retire(Option<Digest>),
}

/// What a command asks of one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Leave it alone.
    Suspend(Suspension),
    /// Leave one of its projects alone.
    SuspendProject(Name, Suspension),
    /// No longer leave it alone; for a deleted one, make a new one.
    Resume,
    /// No longer leave one of its projects alone.
    ResumeProject(Name),
    /// The revision of one of its projects that was well before the present one.
    Rollback(Name),
    /// Its data as it was in a snapshot.
    Rewind {
        /// The project whose present revision is to be left aside from then on.
        project: Option<Name>,
        /// To which snapshot.
        rewind: Rewind,
        /// Whether it is started then.
        up: bool,
    },
    /// A new repository, mounted.
    Create {
        /// What it is called.
        name: Name,
        /// Its network.
        network: NetworkId,
        /// How large.
        size: Size,
        /// How it is encrypted, if it is.
        seal: Option<Seal>,
    },
    /// A copy of another, closed.
    Fork {
        /// What it is called.
        name: Name,
        /// Its network.
        network: NetworkId,
        /// The other.
        lineage: Lineage,
        /// When it deletes itself.
        expires: Option<Timestamp>,
        /// Whether the key for boot opens the copy too.
        autostart: bool,
    },
    /// At least this large.
    Expand(Size),
    /// A snapshot of it.
    Snapshot(Timestamp),
    /// One snapshot less.
    DropSnapshot(Timestamp, DataLossPermit),
    /// Whether it comes back at boot without a passphrase.
    Autostart(bool),
    /// Mounted.
    Mount {
        /// The network that it has or gets, where one is said.
        network: Option<NetworkId>,
    },
    /// Mounted, with its daemon.
    Up {
        /// The network that it has or gets, where one is said.
        network: Option<NetworkId>,
    },
    /// Nothing runs; with `close` it is closed too. A managed one is suspended.
    Down {
        /// Who said so.
        suspension: Suspension,
        /// Whether it is closed too.
        close: bool,
    },
    /// Mounted, without its daemon. With a word of who said so a managed one is
    /// suspended; without it is about to be started again.
    StopDaemon(Option<Suspension>),
    /// Closed until the machine comes back: nothing is remembered of it.
    Close,
    /// Into the trash; with a permit it is destroyed at once.
    Delete {
        /// Who said so.
        stone: Tombstone,
        /// Leave to destroy it at once.
        permit: Option<DataLossPermit>,
    },
    /// Back from the trash, closed and unmanaged.
    Restore,
    /// An image without a record gets one.
    Adopt {
        /// What it is called.
        name: Name,
        /// Its network.
        network: NetworkId,
    },
}

/// What a command asks of the datastore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreAct {
    /// Open.
    Mount,
    /// Closed, and so it stays.
    Unmount(Suspension),
    /// Closed until the machine comes back.
    Close,
    /// Made where there is none: with this size, or as large as its device.
    Init(Option<Size>),
    /// At least this large.
    Expand(Size),
    /// Without its emergency reserve: that is given back.
    Relieve,
}

impl StoreAct {
    /// The size of the datastore that is asked for, where one is.
    pub fn size(&self) -> Option<Option<Size>> {
        match self {
            StoreAct::Init(size) => Some(*size),
            StoreAct::Expand(size) => Some(Some(*size)),
            _ => None,
        }
    }
}

/// The datastore as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatastoreSpec {
    /// At least this large; nothing is said where it is as large as its device.
    pub size: Option<Size>,
    /// The UUID that a new one gets.
    pub uuid: Uuid,
}

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

/// What a repository should be doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RunState {
    /// Mounted, daemon up, projects running.
    #[default]
    Running,
    /// Mounted, daemon up, nothing running.
    Stopped,
    /// Closed.
    Offline,
}

/// What an image is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nothing: an empty file system, encrypted or not.
    Blank(Option<Seal>),
    /// A copy of another repository.
    Fork {
        /// The other.
        lineage: Lineage,
        /// How long it lives.
        ttl: Option<SignedDuration>,
    },
}

/// A repository as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositorySpec {
    /// Its identity.
    pub guid: Guid,
    /// Its name.
    pub name: Name,
    /// Its network.
    pub network: NetworkId,
    /// At least this large; a fork is as large as its parent at first.
    pub size: Size,
    /// What its image is made from.
    pub origin: Origin,
    /// The passphrase that opens it, where it is encrypted.
    pub passphrase: Option<SecretRef>,
    /// Whether it comes back at boot without a passphrase, where that is said.
    pub autostart: Option<bool>,
    /// When snapshots of it are made.
    pub snapshots: Option<Schedule>,
    /// What it should be doing.
    pub state: RunState,
    /// What becomes of its data when its manifest goes.
    pub policy: DeletionPolicy,
    /// Whether it may not be deleted.
    pub protected: bool,
    /// What its daemon and its containers may take together.
    pub limits: ResourceLimits,
    /// Its manifest says that it is no other repository under a new name.
    pub is_new: bool,
    /// Every service's slot.
    pub slots: Slots,
    /// The names of all projects that manifests declare, resolved or not.
    pub declared: BTreeSet<Name>,
    /// Its projects; those that could not be resolved are missing here and
    /// stand in [`Desired::unresolved`].
    pub projects: BTreeMap<Name, Arc<ProjectSpec>>,
    /// The revisions of its parent's projects that it is there to try.
    pub tries: BTreeMap<Name, Digest>,
}

impl RepositorySpec {
    /// How it comes to be.
    pub fn kin(&self) -> Kin {
        match &self.origin {
            Origin::Blank(_) => Kin::Own,
            Origin::Fork { lineage, .. } => Kin::of(Some(lineage)),
        }
    }
}

/// How much a container may write to its log, as options of Docker's log driver.
pub const LOG_LIMITS: [(&str, &str); 2] = [("max-size", "10m"), ("max-file", "3")];

/// On the containers of a copy that is there to try changes.
pub const TRIAL_LABEL: &str = "rediacc.trial";

/// A project (kind `Service`) as wanted.
#[derive(Clone, PartialEq, Eq)]
pub struct ProjectSpec {
    /// Its name, which is also its directory's and its compose project's.
    pub name: Name,
    /// The files in its directory.
    pub files: Arc<FileSet>,
    /// The compose file as resolved and transformed (JSON): what compose gets.
    pub compose: Arc<str>,
    /// Its services.
    pub services: BTreeMap<String, ServiceSpec>,
    /// Its Rediaccfile, where it has one.
    pub hook: Option<Arc<Hook>>,
    /// The revision: everything above.
    pub hash: Digest,
    /// The projects of its repository that are well before it starts.
    pub depends_on: BTreeSet<Name>,
    /// How long it may take to get well.
    pub healthy_within: SignedDuration,
    /// What becomes of it when this revision fails.
    pub on_failure: OnFailure,
    /// Whether a new revision is tried on a copy of its repository first.
    pub fork_first: bool,
    /// What of its compose file does not do what it says.
    pub warnings: Vec<Warning>,
}

impl ProjectSpec {
    /// How long a project may take to get well where nothing is said: a minute is
    /// what users of `docker compose up --wait` expect.
    pub const HEALTHY_WITHIN: SignedDuration = SignedDuration::from_secs(60);

    /// Whether its services have addresses of this network. What was kept before its
    /// repository got another has none there.
    pub fn is_of(&self, network: NetworkId) -> bool {
        let mut services = self.services.values();
        services.all(|service| NetworkId::of(service.address) == Some(network))
    }

    /// A project with its revision.
    pub fn new(
        name: Name,
        files: Arc<FileSet>,
        compose: Arc<str>,
        services: BTreeMap<String, ServiceSpec>,
    ) -> Self {
        let hash = Digest::of_fields([
            name.as_str().as_bytes(),
            files.digest().as_str().as_bytes(),
            compose.as_bytes(),
        ]);
        Self {
            name,
            files,
            compose,
            services,
            hook: None,
            hash,
            depends_on: BTreeSet::new(),
            healthy_within: Self::HEALTHY_WITHIN,
            on_failure: OnFailure::default(),
            fork_first: false,
            warnings: Vec::new(),
        }
    }

    /// With the hook that its Rediaccfile is.
    pub fn with_hook(self, hook: Option<Hook>) -> Self {
        let Some(hook) = hook else { return self };
        Self {
            hash: Digest::of_all([&self.hash, &hook.inputs]),
            hook: Some(hook.into()),
            ..self
        }
    }

    /// The hook that starts it in place of compose.
    pub fn starter(&self) -> Option<&Arc<Hook>> {
        self.hook.as_ref().filter(|hook| hook.defines(Function::Up))
    }

    /// The images that its services run.
    pub fn images(&self) -> BTreeSet<String> {
        self.services
            .values()
            .map(|service| service.image.clone())
            .collect()
    }
}

impl fmt::Debug for ProjectSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:?}", self.name, self.hash)
    }
}

/// A compose service as wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Compose's own hash of its configuration.
    pub config_hash: String,
    /// The image that it runs, as compose names it.
    pub image: String,
    /// Whether the image is built from a context that came along.
    pub builds: bool,
    /// Whether it runs to its end: another service waits for it to complete.
    pub completes: bool,
    /// Its slot.
    pub slot: Slot,
    /// Its address.
    pub address: Ipv4Addr,
}

/// A route as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// The host it answers to.
    pub host: HostName,
    /// The repository.
    pub repository: Guid,
    /// The project (kind `Service`).
    pub project: Name,
    /// The compose service.
    pub service: String,
    /// The service's address.
    pub address: Ipv4Addr,
    /// The port it listens on.
    pub port: u16,
    /// Whether it is served over HTTPS; where nothing is said, if a certificate is to be
    /// had for its host.
    pub tls: Option<bool>,
}
