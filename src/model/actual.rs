use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::{
    Digest, Disk, FileEntry, Function, Guid, HookRun, MachineRecord, Mount, Name, NetworkId, Part,
    ProxySpec, Record, Rediaccfile, RelPath, ResourceLimits, Revisions, RouteRecord, SecretRef,
    Shared, Size, Slots, Snapshot, Snapshots, Storage, Suspension,
};

/// What was seen of the machine, all of it or what a scope asked for. Every
/// part says for itself whether it was seen (see [`Part`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    /// When it was looked.
    pub now: Timestamp,
    /// The kernel's id of this boot.
    pub boot: String,
    /// The datastore.
    pub datastore: Datastore,
    /// The machine's record. Hidden while the datastore is closed.
    pub machine: Part<MachineRecord>,
    /// Every repository that has a record, an image, or a mount. Hidden while
    /// the datastore is closed; absent where there never was a datastore.
    pub repositories: Part<BTreeMap<Guid, Shared<Repository>>>,
    /// The secrets that are asked for, and whether each is at hand.
    pub secrets: BTreeMap<SecretRef, Part<()>>,
    /// The networks in which somebody listens who is not renet's.
    pub foreign_networks: Part<BTreeSet<NetworkId>>,
    /// The Route manifests as last applied.
    pub routes: Part<BTreeMap<Name, RouteRecord>>,
    /// The running proxy.
    pub proxy: Part<Proxy>,
    /// The route table that the proxy reads.
    pub published: Part<RouteTable>,
}

/// What was seen of the datastore.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Datastore {
    /// Its backing file, device and mount.
    pub storage: Storage,
    /// The block device that it lies on; absent where that is a backing file.
    pub disk: Part<Disk>,
    /// The UUID of the file system in the backing file or on the device.
    pub identity: Part<Uuid>,
    /// The UUID of the datastore that belongs to this machine.
    pub note: Part<Uuid>,
    /// It was told to stay closed.
    pub closed: Part<Suspension>,
    /// Its folders and subvolumes. Hidden while it is closed.
    pub layout: Part<()>,
    /// A file that is given back when nothing else is free, with its size. Hidden
    /// while it is closed.
    pub reserve: Part<Size>,
    /// Its free bytes, measured.
    pub free: Part<Size>,
}

/// What was seen of one repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repository {
    /// Its record.
    pub record: Part<Record>,
    /// The slots as mirrored outside the image.
    pub mirror: Part<Slots>,
    /// Its image, device and mount.
    pub storage: Storage,
    /// Its image in the trash, with its apparent size.
    pub trash: Part<Size>,
    /// The image whose place another took, until it is kept as a snapshot.
    pub replaced: Part<Size>,
    /// Its snapshots.
    pub snapshots: Part<Snapshots>,
    /// The key that opens it at boot.
    pub key: Part<()>,
    /// Without a record: the network on which a daemon of ours runs for it.
    pub stray_network: Option<NetworkId>,
    /// The slots inside the image. Hidden while it is closed.
    pub slots: Part<Slots>,
    /// The files that renet wrote, by project. Hidden while it is closed.
    pub files: Part<BTreeMap<Name, FilesSeen>>,
    /// The revisions that are kept of each project. Hidden while it is closed.
    pub revisions: Part<Revisions>,
    /// The compose file that each project was last started with, as resolved, where it
    /// is still known: it decides nothing, and says why something differs.
    pub given: BTreeMap<Name, Arc<str>>,
    /// Its Docker daemon.
    pub daemon: Part<Daemon>,
    /// The tagged images of its daemon. Hidden while no daemon serves.
    pub images: Part<BTreeSet<String>>,
    /// Containers by compose project and service. Hidden while no daemon serves.
    pub containers: Part<BTreeMap<Name, BTreeMap<String, Container>>>,
    /// The names of all containers that run, compose's or not. Hidden while no daemon
    /// serves.
    pub running: Part<BTreeSet<String>>,
    /// The Rediaccfile of each project, `root` for the repository's own folder. Hidden
    /// while it is closed.
    pub hooks: Part<BTreeMap<Name, Rediaccfile>>,
    /// Projects whose containers are not what `containers` says: a hook was run.
    pub stirred: BTreeSet<Name>,
}

/// A managed project's files as they lie on the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesSeen {
    /// Measured over what is really there, as `FileSet::digest_of` does.
    pub digest: Digest,
    /// Each file.
    pub files: BTreeMap<RelPath, FileSeen>,
}

/// One managed file as it lies on the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSeen {
    /// Of its bytes.
    pub digest: Digest,
    /// Whether its executable bit is set.
    pub executable: bool,
    /// Its text, where it is short UTF-8: for the diff that people read.
    pub text: Option<Arc<str>>,
}

impl FileSeen {
    /// The longest text that a diff shows, in bytes.
    const LONGEST_TEXT: usize = 64 * 1024;

    /// A file as it is seen.
    pub fn of(bytes: &[u8], executable: bool) -> Self {
        Self::with(Digest::of(bytes), bytes, executable)
    }

    fn with(digest: Digest, bytes: &[u8], executable: bool) -> Self {
        let text = (bytes.len() <= Self::LONGEST_TEXT)
            .then(|| std::str::from_utf8(bytes).ok().map(Arc::from))
            .flatten();
        Self {
            digest,
            executable,
            text,
        }
    }
}

/// A file as it would be seen.
impl From<&FileEntry> for FileSeen {
    fn from(file: &FileEntry) -> Self {
        Self::with(file.digest().clone(), file.bytes(), file.executable())
    }
}

/// A Docker daemon, or what one left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// Its API answers. False: only containers or a containerd are left of it.
    pub serving: bool,
    /// A supervisor of ours will start it again when it dies.
    pub supervised: bool,
    /// What it and its containers may take together; `None` where nothing keeps such
    /// limits.
    pub limits: Option<ResourceLimits>,
}

impl Daemon {
    /// What is left of one: containers, or a containerd.
    pub const LEFT: Self = Self {
        serving: false,
        supervised: false,
        limits: None,
    };

    /// Whether it runs as it should, within those limits where they can be kept.
    pub fn is_kept_within(&self, limits: &ResourceLimits) -> bool {
        let within = self.limits.is_none_or(|kept| kept == *limits);
        self.serving && self.supervised && within
    }
}

/// Something that the machine makes up: its value cannot be predicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made<T> {
    /// Made anew; matches any value.
    New,
    /// As it was seen.
    Is(T),
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Docker's id.
    pub id: Made<String>,
    /// When it was started, as Docker says it.
    pub started: Made<String>,
    /// Compose's label: the hash of the configuration it was made from.
    pub config_hash: String,
    /// Whether it runs another image than its name stands for now.
    pub stale_image: bool,
    /// Whether it runs.
    pub state: ContainerState,
    /// Whether it is well.
    pub health: Health,
    /// The last line that one said which ended badly.
    pub last_line: Option<String>,
    /// On which ports it listens on every address of the machine: `8080/tcp`.
    pub everywhere: BTreeSet<String>,
}

impl Container {
    /// How it ended, where it ended badly or is being started again by its daemon.
    pub fn ended_badly(&self) -> Option<String> {
        let how = match self.state {
            ContainerState::Running | ContainerState::Exited(0) => return None,
            ContainerState::Exited(status) => format!("ended with {status}"),
            ContainerState::Other => "does not run".to_owned(),
        };
        Some(match &self.last_line {
            Some(line) => format!("{how}: {}", line.escape_debug()),
            None => how,
        })
    }

    /// Whether it runs and is healthy, or ended well where it is one that does.
    pub fn is_well(&self, completes: bool) -> bool {
        match self.state {
            ContainerState::Running => self.health == Health::Healthy,
            state => completes && state == ContainerState::Exited(0),
        }
    }
}

/// Whether a container runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// It runs.
    Running,
    /// It ended, with this status.
    Exited(i64),
    /// Anything else: created, paused, restarting, dead.
    Other,
}

/// Whether a container is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Just started: nobody can know yet.
    New,
    /// Its check has not passed yet.
    Starting,
    /// Its check passes, or it has none and has been up for a moment.
    Healthy,
    /// Its check fails.
    Unhealthy,
}

/// The running proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// What it was started with.
    pub spec: ProxySpec,
    /// Something of ours will start it, and its router, again when they die.
    pub supervised: bool,
    /// A person started it: it stays though no route needs it.
    pub asked: bool,
}

/// What the proxy publishes: one entry a route.
pub type RouteTable = BTreeMap<Name, Published>;

/// One published route.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Published {
    /// The host it answers to.
    pub host: super::HostName,
    /// Where it leads: `127.0.11.2:8080`.
    pub backend: std::net::SocketAddrV4,
    /// Whether it is served over HTTPS; where nothing is said, if a certificate is to be
    /// had for its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<bool>,
}

impl Repository {
    /// Whether nothing at all was seen of it: the same as not being there.
    pub fn is_nothing(&self) -> bool {
        *self == Repository::default()
    }

    /// Whether its daemon answers.
    pub fn serves(&self) -> Result<bool, super::Stop> {
        Ok(self.daemon.get()?.is_some_and(|daemon| daemon.serving))
    }

    /// A time, from now on, of which it has no snapshot and is to get none.
    pub fn free_moment(&self, now: Timestamp) -> Timestamp {
        let all = self.snapshots.known();
        let rewind = self.record.known().and_then(|record| record.rewind);
        let taken = |at: &Timestamp| {
            all.is_some_and(|all| all.contains_key(at))
                || rewind.is_some_and(|rewind| rewind.keep == *at)
        };
        let mut at = Snapshot::moment(now);
        while taken(&at) {
            at += SignedDuration::from_secs(1);
        }
        at
    }

    /// How a function of a project's hook ended when it was last run.
    pub fn hook_run(
        &self,
        project: &Name,
        function: Function,
    ) -> Result<Option<&HookRun>, super::Stop> {
        let record = self.record.get()?;
        Ok(record.and_then(|record| record.hooks.get(project)?.get(&function)))
    }
}

impl Actual {
    /// Everything about one repository; nothing where it is not there.
    pub fn repository(&self, guid: Guid) -> Result<Shared<Repository>, super::Stop> {
        let all = self.repositories.get()?;
        Ok(all
            .and_then(|all| all.get(&guid))
            .cloned()
            .unwrap_or_default())
    }

    /// Reads one repository without copying it; `absent` is what a missing one is like.
    pub fn repo<'a>(
        &'a self,
        guid: Guid,
        absent: &'a Repository,
    ) -> Result<&'a Repository, super::Stop> {
        Ok(self
            .repositories
            .get()?
            .and_then(|all| all.get(&guid))
            .map_or(absent, |repo| &**repo))
    }

    /// The repository to change, made where it is missing. Only for `effect`,
    /// which is defined where the repositories were seen.
    pub fn repo_mut(&mut self, guid: Guid) -> &mut Repository {
        self.repositories.or_known(BTreeMap::new());
        match &mut self.repositories {
            Part::Known(all) => all.entry(guid).or_default(),
            _ => unreachable!("a step on a repository is ready only where repositories are seen"),
        }
    }

    /// The layers of a volume.
    pub fn storage(&self, volume: super::Volume) -> Result<Storage, super::Stop> {
        match volume {
            super::Volume::Datastore => Ok(self.datastore.storage.clone()),
            super::Volume::Image(guid) => Ok(self.repository(guid)?.storage.clone()),
        }
    }

    /// The layers of a volume, to change them.
    pub fn storage_mut(&mut self, volume: super::Volume) -> &mut Storage {
        match volume {
            super::Volume::Datastore => &mut self.datastore.storage,
            super::Volume::Image(guid) => &mut self.repo_mut(guid).storage,
        }
    }
}

/// Whether what was observed is one of the states that a prediction stands for:
/// hidden parts match anything, what the machine makes up matches anything new,
/// measured amounts are not compared. The error names the first part that differs.
pub fn refines(observed: &Actual, predicted: &Actual) -> Result<(), String> {
    fn part<T: PartialEq + Debug>(what: &str, o: &Part<T>, p: &Part<T>) -> Result<(), String> {
        match (o, p) {
            // What a plan made it knows, though it cannot be seen yet.
            (Part::Hidden, _) | (_, Part::Hidden) => Ok(()),
            _ if o == p => Ok(()),
            _ => Err(format!("{what}: observed {o:?}, predicted {p:?}")),
        }
    }
    fn mount(o: &Part<Mount>, p: &Part<Mount>) -> (Part<()>, Part<()>) {
        let seen = |m: &Part<Mount>| match m {
            Part::Known(_) => Part::Known(()),
            Part::Absent => Part::Absent,
            Part::Hidden => Part::Hidden,
            Part::Unknown(why) => Part::Unknown(why.clone()),
        };
        (seen(o), seen(p))
    }
    fn storage(what: &str, o: &Storage, p: &Storage) -> Result<(), String> {
        part(&format!("{what} staging"), &o.staging, &p.staging)?;
        part(&format!("{what} file"), &o.file, &p.file)?;
        part(&format!("{what} header"), &o.header, &p.header)?;
        part(&format!("{what} device"), &o.device, &p.device)?;
        part(&format!("{what} mapper"), &o.mapper, &p.mapper)?;
        part(&format!("{what} frozen"), &o.frozen, &p.frozen)?;
        let (seen, hoped) = mount(&o.mount, &p.mount);
        part(&format!("{what} mount"), &seen, &hoped)?;
        if let (Part::Known(o), Part::Known(p)) = (&o.mount, &p.mount)
            && o != p
        {
            return Err(format!("{what} mount: observed {o:?}, predicted {p:?}"));
        }
        Ok(())
    }
    fn made<T: PartialEq>(o: &Made<T>, p: &Made<T>) -> bool {
        matches!(p, Made::New) || o == p
    }
    // What is kept of a revision is not always read.
    fn hashes(revisions: &Part<Revisions>) -> Part<Revisions> {
        let mut revisions = revisions.clone();
        let all = revisions.known_mut().map(BTreeMap::values_mut);
        for kept in all.into_iter().flatten().flatten() {
            kept.spec = None;
        }
        revisions
    }
    // Which containers a hook leaves nobody knows before.
    fn ours(record: &Part<Record>) -> Part<Record> {
        let mut record = record.clone();
        let runs = record.known_mut().map(|record| record.hooks.values_mut());
        for run in runs.into_iter().flatten().flat_map(BTreeMap::values_mut) {
            run.containers.clear();
        }
        record
    }
    // Whether limits are kept here only a daemon that runs can show.
    fn unlimited(o: &Part<Daemon>, p: &Part<Daemon>) -> (Part<Daemon>, Part<Daemon>) {
        let (mut o, mut p) = (o.clone(), p.clone());
        if let (Part::Known(o), Part::Known(p)) = (&mut o, &mut p)
            && o.limits.is_none()
        {
            p.limits = None;
        }
        (o, p)
    }
    fn container(o: &Container, p: &Container) -> bool {
        made(&o.id, &p.id)
            && made(&o.started, &p.started)
            && o.config_hash == p.config_hash
            && o.stale_image == p.stale_image
            && o.state == p.state
            && (p.health == Health::New || o.health == p.health)
    }

    storage(
        "datastore",
        &observed.datastore.storage,
        &predicted.datastore.storage,
    )?;
    part("disk", &observed.datastore.disk, &predicted.datastore.disk)?;
    part(
        "identity",
        &observed.datastore.identity,
        &predicted.datastore.identity,
    )?;
    part("note", &observed.datastore.note, &predicted.datastore.note)?;
    part(
        "layout",
        &observed.datastore.layout,
        &predicted.datastore.layout,
    )?;
    part(
        "closed",
        &observed.datastore.closed,
        &predicted.datastore.closed,
    )?;
    part(
        "reserve",
        &observed.datastore.reserve,
        &predicted.datastore.reserve,
    )?;
    part("machine", &observed.machine, &predicted.machine)?;
    part("routes", &observed.routes, &predicted.routes)?;
    part("proxy", &observed.proxy, &predicted.proxy)?;
    part("published", &observed.published, &predicted.published)?;
    let (observed_all, predicted_all) = match (&observed.repositories, &predicted.repositories) {
        (Part::Known(o), Part::Known(p)) => (o, p),
        (o, p) => return part("repositories", o, p),
    };
    let nothing = Shared::default();
    let guids: BTreeSet<&Guid> = predicted_all.keys().chain(observed_all.keys()).collect();
    for guid in guids {
        let o = observed_all.get(guid).unwrap_or(&nothing);
        let p = predicted_all.get(guid).unwrap_or(&nothing);
        let (seen, hoped) = (ours(&o.record), ours(&p.record));
        part(&format!("{guid} record"), &seen, &hoped)?;
        part(&format!("{guid} mirror"), &o.mirror, &p.mirror)?;
        storage(&guid.to_string(), &o.storage, &p.storage)?;
        part(&format!("{guid} trash"), &o.trash, &p.trash)?;
        part(&format!("{guid} replaced"), &o.replaced, &p.replaced)?;
        part(&format!("{guid} snapshots"), &o.snapshots, &p.snapshots)?;
        part(&format!("{guid} key"), &o.key, &p.key)?;
        part(&format!("{guid} slots"), &o.slots, &p.slots)?;
        part(&format!("{guid} files"), &o.files, &p.files)?;
        part(&format!("{guid} hooks"), &o.hooks, &p.hooks)?;
        let (seen, hoped) = (hashes(&o.revisions), hashes(&p.revisions));
        part(&format!("{guid} revisions"), &seen, &hoped)?;
        let (seen, hoped) = unlimited(&o.daemon, &p.daemon);
        part(&format!("{guid} daemon"), &seen, &hoped)?;
        part(&format!("{guid} images"), &o.images, &p.images)?;
        let stirred = &p.stirred;
        let same = match (&o.containers, &p.containers) {
            (Part::Hidden, _) | (_, Part::Hidden) => true,
            (Part::Known(o), Part::Known(p)) => {
                let empty = BTreeMap::new();
                let projects: BTreeSet<&Name> = o.keys().chain(p.keys()).collect();
                let mut projects = projects.into_iter();
                projects.all(|project| {
                    if stirred.contains(project) {
                        return true;
                    }
                    let o = o.get(project).unwrap_or(&empty);
                    let p = p.get(project).unwrap_or(&empty);
                    o.len() == p.len()
                        && p.iter()
                            .all(|(name, p)| o.get(name).is_some_and(|o| container(o, p)))
                })
            }
            (o, p) => o == p,
        };
        if !same {
            return Err(format!(
                "{guid} containers: observed {:?}, predicted {:?}",
                o.containers, p.containers
            ));
        }
    }
    Ok(())
}
