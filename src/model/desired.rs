use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Act, Asked, Blocked, DeletionPolicy, Digest, FileSet, Function, Guid, Hook, HostName, Kin,
    Lineage, Name, NetworkId, Object, OnFailure, Owner, ProxySpec, ResourceLimits, Schedule, Seal,
    SecretRef, Size, Slot, Slots, Step, StoreAct, Warning,
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

/// The datastore as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatastoreSpec {
    /// At least this large; nothing is said where it is as large as its device.
    pub size: Option<Size>,
    /// The UUID that a new one gets.
    pub uuid: Uuid,
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
