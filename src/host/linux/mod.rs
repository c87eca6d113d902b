//! A real Linux machine: one file per real thing, and here what is asked of
//! which.

mod beneath;
mod btrfs;
pub mod check;
pub mod compose;
mod containers;
mod datastore;
pub(crate) mod dockerd;
pub mod doctor;
pub mod events;
mod ext4;
pub mod files;
pub(crate) mod freeze;
pub(crate) mod hook;
pub mod install;
mod keeper;
pub mod links;
mod listeners;
mod loop_device;
mod luks;
mod mount;
pub mod passthrough;
pub mod program;
mod project_files;
pub(crate) mod proxy;
mod records;
mod revisions;
pub mod router;
mod routes;
pub mod secrets;
mod snapshots;
mod storage;
pub(crate) mod supervisor;
pub(crate) mod systemd;
mod tools;
mod uninstall;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

pub use project_files::release_slot;
pub use uninstall::uninstall;

use super::{Cx, Done, Host, Scope, StepError};
use crate::model::{
    Actual, Datastore, Guid, Layout, NetworkId, Part, Record, Repository, SecretRef, Shared, Step,
    Stop, Storage, Volume,
};
use secrets::Secrets;
use storage::Place;

/// The machine that this process runs on, beneath one root.
#[derive(Clone, Debug)]
pub struct LinuxHost {
    pub(crate) layout: Layout,
    pub(crate) backing_file: PathBuf,
    pub(crate) binary: PathBuf,
    pub(crate) secrets: Secrets,
}

impl LinuxHost {
    /// A machine beneath the layout's root. `backing_file` is the datastore's
    /// file where a manifest names one; `binary` is renet itself, which
    /// supervises daemons.
    pub fn new(layout: Layout, backing_file: Option<PathBuf>, binary: PathBuf) -> Self {
        let backing_file = backing_file
            .or_else(|| datastore::backing_file(&layout))
            .unwrap_or_else(|| layout.backing_file());
        Self {
            layout,
            backing_file,
            binary,
            secrets: Secrets::default(),
        }
    }

    /// The secrets that may be asked for.
    pub fn with_secrets(self, secrets: Secrets) -> Self {
        Self { secrets, ..self }
    }

    /// The passphrase that was typed, besides.
    pub fn with_typed(self, passphrase: secrets::Passphrase) -> Self {
        Self {
            secrets: self.secrets.with_typed(passphrase),
            ..self
        }
    }

    /// Which secrets are at hand; nothing is run or decrypted to find out.
    pub fn at_hand(&self) -> BTreeMap<SecretRef, Part<()>> {
        self.secrets.observe(&self.layout)
    }

    /// The datastore's backing file.
    pub fn backing_file(&self) -> &std::path::Path {
        &self.backing_file
    }

    /// What opens a closed repository and is at hand: what was typed, or its key for
    /// boot.
    pub fn opener(&self, guid: Guid) -> Option<SecretRef> {
        if self.secrets.has_typed() {
            return Some(SecretRef::Typed);
        }
        let key = self.layout.key(guid).exists();
        key.then_some(SecretRef::Key(guid))
    }

    /// Whether no Rediaccfile lies in an open repository.
    pub fn has_no_hook(layout: &Layout, guid: Guid) -> bool {
        let hooks = project_files::hooks(layout, guid);
        hooks.known().is_some_and(BTreeMap::is_empty)
    }

    /// Where everything is.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    fn place(&self, volume: Volume) -> Place {
        Place::of(self, volume)
    }
}

impl Host for LinuxHost {
    async fn observe(&self, scope: Scope) -> Actual {
        let host = self.clone();
        let datastore = blocking(move || {
            if scope == Scope::All {
                clear_rubbish(&host.layout);
            }
            datastore::observe(&host)
        });
        let layout = &self.layout;
        // Before the records: who listens by then and has one, is in them.
        let foreign = blocking(listeners::networks);
        let (datastore, foreign, proxy) = tokio::join!(datastore, foreign, proxy::observe(layout));
        let datastore = datastore.unwrap_or_else(|why| datastore::unseen(&why));
        let mut foreign_networks = foreign.unwrap_or_else(Part::Unknown);
        let (machine, repositories) = match behind(&datastore) {
            Part::Known(()) => (records::machine(layout), repositories(self, scope).await),
            Part::Absent => (Part::Absent, Part::Absent),
            Part::Hidden => (Part::Hidden, Part::Hidden),
            Part::Unknown(why) => (Part::Unknown(why.clone()), Part::Unknown(why)),
        };
        if let (Part::Known(foreign), Part::Known(all)) = (&mut foreign_networks, &repositories) {
            for repo in all.values() {
                let ours = repo.record.known().map(|record| record.network);
                ours.or(repo.stray_network)
                    .map(|network| foreign.remove(&network));
            }
        }
        Actual {
            now: jiff::Timestamp::now(),
            boot: hook::boot(),
            datastore,
            machine,
            repositories,
            secrets: self.at_hand(),
            foreign_networks,
            routes: routes::observe_records(layout),
            proxy,
            published: router::observe_published(layout),
        }
    }

    async fn perform(&self, step: &Step, cx: &Cx) -> Result<Done, StepError> {
        program::under(&cx.locks, self.perform_step(step, cx)).await
    }
}

impl LinuxHost {
    async fn perform_step(&self, step: &Step, cx: &Cx) -> Result<Done, StepError> {
        if holds(self, step).await? {
            return Ok(Done::Already);
        }
        let layout = &self.layout;
        match step {
            Step::ClearStaging(volume) => storage::clear_staging(&self.place(*volume)).await,
            Step::Format {
                volume,
                size,
                uuid,
                seal,
            } => {
                let place = self.place(*volume);
                storage::format(self, &place, *size, *uuid, seal.as_ref()).await
            }
            Step::Fork {
                guid,
                from,
                snapshot,
            } => {
                let place = self.place(Volume::Image(*guid));
                storage::fork(self, &place, *guid, *from, *snapshot).await
            }
            Step::Snapshot {
                guid, at, made_by, ..
            } => snapshots::make(self, *guid, *at, *made_by).await,
            Step::DropSnapshot { guid, at, permit } => {
                snapshots::drop(layout, *guid, *at, permit).await
            }
            Step::Replace { guid, with, .. } => {
                let place = self.place(Volume::Image(*guid));
                storage::replace(self, &place, *guid, *with).await
            }
            Step::KeepReplaced { guid, at } => snapshots::keep_replaced(self, *guid, *at).await,
            Step::Thaw(guid) => self.on_image(*guid, freeze::thaw_now),
            Step::Open { guid, with } => {
                storage::open(self, &self.place(Volume::Image(*guid)), *guid, with).await
            }
            Step::GrowMapper(guid) => storage::grow_mapping(*guid).await,
            Step::EnrolKey { guid, with } => {
                storage::enrol_key(self, &self.place(Volume::Image(*guid)), *guid, with).await
            }
            Step::CopyKey { guid, from } => storage::copy_key(layout, *guid, *from),
            Step::DropKey(guid) => {
                storage::drop_key(layout, &self.place(Volume::Image(*guid)), *guid).await
            }
            Step::Close(guid) => storage::close_mapping(*guid).await,
            Step::CleanFork(guid) => {
                let (layout, guid) = (layout.clone(), *guid);
                blocking(move || storage::clean_fork(&layout, guid))
                    .await
                    .unwrap_or_else(|why| Err(StepError::machine(why)))
            }
            Step::GrowFile { volume, size } => storage::grow_file(&self.place(*volume), *size),
            Step::Attach(volume) => storage::attach(&self.place(*volume)).await,
            Step::GrowDevice(volume) => storage::grow_device(&self.place(*volume)).await,
            Step::Mount(volume) => {
                storage::mend(&self.place(*volume)).await?;
                self.on(*volume, storage::mount).await
            }
            Step::GrowFs(volume) => storage::grow_fs(&self.place(*volume)).await,
            Step::Unmount(volume) => self.on(*volume, storage::unmount).await,
            Step::Detach(volume) => storage::detach(&self.place(*volume)).await,
            Step::LayOut => records::lay_out(layout).await,
            Step::NoteDatastore(uuid) => datastore::write_note(layout, *uuid, &self.backing_file),
            Step::CloseDatastore(by) => datastore::close(layout, by.as_ref()),
            Step::KeepReserve(size) => datastore::keep_reserve(layout, *size),
            Step::GiveReserve => datastore::give_reserve(layout),
            Step::ClaimMachine {
                name,
                owner,
                overcommit,
            } => records::claim_machine(layout, name, owner, *overcommit),
            Step::SuspendMachine(by) => records::suspend_machine(layout, by.as_ref()),
            Step::Reserve {
                guid,
                name,
                network,
                trial_of,
            } => {
                let record = Record::reserved(name.clone(), *network, *trial_of);
                records::reserve(layout, *guid, &record)
            }
            Step::Record(guid, patch) => records::patch(layout, *guid, patch),
            Step::Trash(guid) => self.on_image(*guid, storage::trash),
            Step::Untrash(guid) => self.on_image(*guid, storage::untrash),
            Step::Purge { guid, permit } => storage::purge(layout, *guid, permit),
            Step::DropRecord(guid) => {
                compose::forget(layout, *guid, None)?;
                records::forget(layout, *guid)
            }
            Step::MirrorSlots(guid, slots) => records::write_mirror(layout, *guid, slots),
            Step::WriteSlots(guid, slots) => project_files::write_slots(layout, *guid, slots),
            Step::WriteFiles { guid, project } => {
                let (layout, guid, project) = (layout.clone(), *guid, project.clone());
                blocking(move || project_files::write(&layout, guid, &project))
                    .await
                    .unwrap_or_else(|why| Err(StepError::machine(why)))
            }
            Step::KeepRevision { guid, project } => {
                let (layout, guid, project) = (layout.clone(), *guid, project.clone());
                blocking(move || revisions::keep(&layout, guid, &project))
                    .await
                    .unwrap_or_else(|why| Err(StepError::machine(why)))
            }
            Step::EraseFiles { guid, project } => {
                compose::forget(layout, *guid, Some(project))?;
                project_files::erase(layout, *guid, project)
            }
            Step::StartDaemon { guid, network } => {
                dockerd::start(layout, &self.binary, *guid, *network).await
            }
            Step::StopDaemon { guid, network } => dockerd::stop(layout, *guid, *network).await,
            Step::FetchImages {
                guid,
                network,
                project,
            } => compose::fetch(layout, *guid, *network, project).await,
            Step::Up {
                guid,
                network,
                project,
            } => compose::up(layout, *guid, *network, project).await,
            Step::Wait {
                guid,
                network,
                project,
            } => compose::wait(layout, *guid, *network, project, cx).await,
            Step::Down {
                guid,
                network,
                project,
            } => compose::down(layout, *guid, *network, project).await,
            Step::Hook {
                guid,
                network,
                hook,
                function,
                revision: _,
            } => hook::run(self, *guid, *network, hook, *function, cx).await,
            Step::RecordRoute { name, route } => routes::record(layout, name, route),
            Step::SuspendRoute(name, by) => routes::suspend(layout, name, by.as_ref()),
            Step::ForgetRoute(name) => routes::forget(layout, name),
            Step::StartProxy(spec) => proxy::start(layout, &self.binary, spec).await,
            Step::StopProxy => proxy::stop(layout).await,
            Step::PublishRoutes(table) => router::publish(layout, table).await,
        }
    }

    fn on_image(
        &self,
        guid: Guid,
        work: fn(&Layout, Guid) -> Result<Done, StepError>,
    ) -> Result<Done, StepError> {
        work(&self.layout, guid)
    }

    async fn on(
        &self,
        volume: Volume,
        work: fn(&Place) -> Result<Done, StepError>,
    ) -> Result<Done, StepError> {
        let place = self.place(volume);
        blocking(move || work(&place))
            .await
            .unwrap_or_else(|why| Err(StepError::machine(why)))
    }
}

/// Whether an image is attached: open, or about to be.
pub fn is_attached(image: &std::path::Path) -> bool {
    loop_device::find(image).is_ok_and(|device| device.is_some())
}

/// File work, where it holds nobody up.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| format!("looking at the machine: {error}"))
}

/// Whether the machine is already as the step would make it, by a look at what
/// the step concerns alone. The other steps look for themselves.
async fn holds(host: &LinuxHost, step: &Step) -> Result<bool, StepError> {
    let looked = match on_daemon(step) {
        Some((guid, network)) => {
            let seen = containers::observe(&host.layout, network).await;
            let repo = Repository {
                daemon: seen.daemon,
                images: seen.images,
                containers: seen.containers,
                ..Repository::default()
            };
            let actual = Actual {
                repositories: Part::Known(BTreeMap::from([(guid, repo.into())])),
                ..Actual::default()
            };
            Some(step.holds(&actual))
        }
        None => {
            let (host, step) = (host.clone(), step.clone());
            let look = blocking(move || Some(step.holds(&glance(&host, &step)?)));
            look.await.map_err(StepError::machine)?
        }
    };
    match looked {
        None | Some(Err(Stop::Hidden)) => Ok(false),
        Some(Ok(holds)) => Ok(holds),
        Some(Err(Stop::Block(blocked))) => Err(StepError::machine(match blocked {
            crate::model::Blocked::Unknown(why) => why,
            other => format!("{other:?}"),
        })),
    }
}

/// The daemon that has to be asked about a step.
fn on_daemon(step: &Step) -> Option<(Guid, crate::model::NetworkId)> {
    match step {
        Step::FetchImages { guid, network, .. }
        | Step::Up { guid, network, .. }
        | Step::Wait { guid, network, .. }
        | Step::Down { guid, network, .. } => Some((*guid, *network)),
        _ => None,
    }
}

fn glance(host: &LinuxHost, step: &Step) -> Option<Actual> {
    let layout = &host.layout;
    let mut actual = Actual::default();
    let of_one =
        |guid: Guid, repo: Repository| Part::Known(BTreeMap::from([(guid, Shared::from(repo))]));
    match step {
        Step::Fork { guid, .. }
        | Step::Open { guid, .. }
        | Step::EnrolKey { guid, .. }
        | Step::CopyKey { guid, .. }
        | Step::GrowMapper(guid)
        | Step::DropKey(guid)
        | Step::Close(guid) => {
            let repo = Repository {
                storage: storage::observe(&host.place(Volume::Image(*guid))),
                key: secrets::key(&layout.key(*guid)),
                ..Repository::default()
            };
            actual.repositories = of_one(*guid, repo);
        }
        Step::Snapshot { guid, .. } | Step::DropSnapshot { guid, .. } => {
            let repo = Repository {
                snapshots: snapshots::observe(layout, *guid),
                ..Repository::default()
            };
            actual.repositories = of_one(*guid, repo);
        }
        Step::Thaw(guid) => {
            let mut repo = Repository::default();
            repo.storage.frozen = freeze::observe(layout, *guid);
            actual.repositories = of_one(*guid, repo);
        }
        Step::CleanFork(guid) => {
            let repo = Repository {
                record: records::record(layout, *guid),
                ..Repository::default()
            };
            actual.repositories = of_one(*guid, repo);
        }
        Step::ClearStaging(volume)
        | Step::Format { volume, .. }
        | Step::GrowFile { volume, .. }
        | Step::Attach(volume)
        | Step::GrowDevice(volume)
        | Step::Mount(volume)
        | Step::GrowFs(volume)
        | Step::Unmount(volume)
        | Step::Detach(volume) => {
            let storage = storage::observe(&host.place(*volume));
            match volume {
                Volume::Datastore => actual.datastore.storage = storage,
                Volume::Image(guid) => {
                    let repo = Repository {
                        storage,
                        ..Repository::default()
                    };
                    actual.repositories = of_one(*guid, repo);
                }
            }
        }
        Step::LayOut => actual.datastore.layout = records::laid_out(layout),
        Step::NoteDatastore(_) => {
            actual.datastore.note = datastore::note(host, &btrfs::identity(&host.backing_file));
        }
        Step::CloseDatastore(_) => actual.datastore.closed = datastore::closed(layout),
        Step::KeepReserve(_) | Step::GiveReserve => {
            actual.datastore.reserve = datastore::reserve(layout);
        }
        Step::ClaimMachine { .. } | Step::SuspendMachine(_) => {
            actual.machine = records::machine(layout)
        }
        Step::Record(guid, _) => {
            let repo = Repository {
                record: records::record(layout, *guid),
                ..Repository::default()
            };
            actual.repositories = of_one(*guid, repo);
        }
        // A record that is there may be another's who was quicker.
        Step::Reserve {
            guid,
            name,
            network,
            ..
        } => {
            let record = records::record(layout, *guid);
            if record
                .known()
                .is_some_and(|record| record.name != *name || record.network != *network)
            {
                return None;
            }
            let repo = Repository {
                record,
                ..Repository::default()
            };
            actual.repositories = of_one(*guid, repo);
        }
        Step::MirrorSlots(guid, _) => {
            let repo = Repository {
                mirror: records::mirror(layout, *guid),
                ..Repository::default()
            };
            actual.repositories = of_one(*guid, repo);
        }
        Step::WriteSlots(guid, slots) if !slots.0.is_empty() => {
            let repo = Repository {
                slots: project_files::slots(layout, *guid),
                ..Repository::default()
            };
            actual.repositories = of_one(*guid, repo);
        }
        Step::WriteFiles { guid, .. } => {
            let repo = Repository {
                files: project_files::observe(layout, *guid),
                ..Repository::default()
            };
            actual.repositories = of_one(*guid, repo);
        }
        Step::Trash(guid)
        | Step::Untrash(guid)
        | Step::Purge { guid, .. }
        | Step::Replace { guid, .. }
        | Step::KeepReplaced { guid, .. } => {
            let mut repo = Repository {
                trash: storage::file(&layout.trash(*guid)),
                replaced: storage::replaced(layout, *guid),
                snapshots: snapshots::observe(layout, *guid),
                ..Repository::default()
            };
            repo.storage.file = storage::file(&layout.image(*guid));
            actual.repositories = of_one(*guid, repo);
        }
        Step::DropRecord(guid) => {
            let repo = Repository {
                record: records::record(layout, *guid),
                ..Repository::default()
            };
            actual.repositories = of_one(*guid, repo);
        }
        Step::KeepRevision { guid, .. } => {
            let repo = Repository {
                revisions: revisions::observe(layout, *guid, &Part::Absent),
                ..Repository::default()
            };
            actual.repositories = of_one(*guid, repo);
        }
        Step::EraseFiles { guid, .. } => {
            let repo = Repository {
                files: project_files::observe(layout, *guid),
                ..Repository::default()
            };
            actual.repositories = of_one(*guid, repo);
        }
        Step::RecordRoute { .. } | Step::SuspendRoute(..) | Step::ForgetRoute(_) => {
            actual.routes = routes::observe_records(layout)
        }
        Step::PublishRoutes(_) => actual.published = router::observe_published(layout),
        _ => return None,
    }
    Some(actual)
}

/// What lies in the datastore can be seen while it is mounted; where there
/// never was one there is nothing behind it.
fn behind(datastore: &Datastore) -> Part<()> {
    match (&datastore.storage.mount, &datastore.storage.file) {
        (Part::Known(_), _) => Part::Known(()),
        (Part::Unknown(why), _) => Part::Unknown(why.clone()),
        (_, Part::Absent) => Part::Absent,
        _ => Part::Hidden,
    }
}

/// Clears what a killed renet left where nobody may have to write again: what
/// compose was about to resolve may be secret.
fn clear_rubbish(layout: &Layout) {
    compose::sweep(layout);
    // Of a machine without an agent.
    let _ = files::sweep(&layout.agent());
}

async fn repositories(host: &LinuxHost, scope: Scope) -> Part<BTreeMap<Guid, Shared<Repository>>> {
    let layout = host.layout.clone();
    let guids = match blocking(move || records::guids(&layout)).await {
        Ok(Ok(guids)) => guids,
        Ok(Err(why)) | Err(why) => return Part::Unknown(why),
    };
    let strays = dockerd::strays(&host.layout);
    let processes = supervisor::Processes::default();
    let each = guids.into_iter().map(async |guid| {
        let stray = strays.get(&guid).copied();
        let seen = match scope.covers(guid) {
            true => repository(host, guid, stray, &processes).await,
            false => outline(host, guid, stray).await,
        };
        (guid, Shared::from(seen))
    });
    let all = futures::future::join_all(each).await;
    Part::Known(
        all.into_iter()
            .filter(|(_, repo)| !repo.is_nothing())
            .collect(),
    )
}

/// The record and the image of a repository that is not looked at any further.
async fn outline(host: &LinuxHost, guid: Guid, stray: Option<NetworkId>) -> Repository {
    let host = host.clone();
    let look = blocking(move || {
        let place = host.place(Volume::Image(guid));
        let record = records::record(&host.layout, guid);
        Repository {
            stray_network: stray.filter(|_| record.is_absent()),
            record,
            mirror: records::mirror(&host.layout, guid),
            storage: Storage {
                frozen: freeze::observe(&host.layout, guid),
                ..storage::outline(&place)
            },
            trash: storage::file(&host.layout.trash(guid)),
            replaced: storage::replaced(&host.layout, guid),
            snapshots: snapshots::observe(&host.layout, guid),
            key: secrets::key(&host.layout.key(guid)),
            slots: Part::Hidden,
            files: Part::Hidden,
            given: BTreeMap::new(),
            daemon: Part::Hidden,
            images: Part::Hidden,
            containers: Part::Hidden,
            running: Part::Hidden,
            hooks: Part::Hidden,
            revisions: Part::Hidden,
            stirred: BTreeSet::new(),
        }
    });
    look.await.unwrap_or_else(|why| Repository {
        record: Part::Unknown(why),
        ..Repository::default()
    })
}

async fn repository(
    host: &LinuxHost,
    guid: Guid,
    stray: Option<NetworkId>,
    processes: &supervisor::Processes,
) -> Repository {
    let layout = host.layout.clone();
    let first = move || {
        let frozen = freeze::observe(&layout, guid);
        (records::record(&layout, guid), frozen)
    };
    let (record, frozen) = blocking(first)
        .await
        .unwrap_or_else(|why| (Part::Unknown(why), Part::Absent));
    let stray = stray.filter(|_| record.is_absent());
    // A record that was lost did not stop its daemon.
    let network = record.known().map(|record| record.network).or(stray);
    let daemon = async {
        match network {
            // It may wait as everybody does.
            _ if frozen.known().is_some() => containers::Seen::closed(Part::Hidden),
            Some(network) => containers::observe_among(&host.layout, network, processes).await,
            None => containers::Seen::closed(Part::Absent),
        }
    };
    let (on, before) = (host.clone(), frozen.clone());
    let closed = blocking(move || closed(&on, guid, record, before));
    let (closed, daemon) = tokio::join!(closed, daemon);
    let mut seen = closed.unwrap_or_else(|why| Repository {
        record: Part::Unknown(why),
        ..Repository::default()
    });
    seen.stray_network = stray;
    (seen.daemon, seen.images) = (daemon.daemon, daemon.images);
    (seen.containers, seen.running) = (daemon.containers, daemon.running);
    if seen.daemon.is_absent() {
        let behind = !seen.storage.file.is_absent() || !seen.trash.is_absent();
        seen.images = if behind { Part::Hidden } else { Part::Absent };
        seen.containers = if behind { Part::Hidden } else { Part::Absent };
        seen.running = if behind { Part::Hidden } else { Part::Absent };
    }
    seen
}

/// Everything about a repository that needs no daemon.
fn closed(host: &LinuxHost, guid: Guid, record: Part<Record>, frozen: Part<()>) -> Repository {
    let layout = &host.layout;
    let mut storage = storage::observe(&host.place(Volume::Image(guid)));
    storage.frozen = frozen;
    let trash = storage::file(&layout.trash(guid));
    let (slots, files, hooks, revisions) = match (&storage.mount, &storage.file) {
        // Who touches it waits until it is thawed.
        _ if storage.frozen.known().is_some() => {
            (Part::Hidden, Part::Hidden, Part::Hidden, Part::Hidden)
        }
        // What lies in it can be read, but it is no longer what was written last.
        (Part::Known(_), _) if storage::is_read_only(&host.place(Volume::Image(guid))) => {
            let name = record.known().map(|record| record.name.to_string());
            let name = name.unwrap_or_else(|| guid.to_string());
            let why = format!(
                "{} turned read-only because a write below it failed; once there is room, \
                 `renet repository unmount {name}` and `renet repository up {name}` mend it",
                layout.mount(guid).display()
            );
            (
                Part::Unknown(why.clone()),
                Part::Unknown(why.clone()),
                Part::Unknown(why.clone()),
                Part::Unknown(why),
            )
        }
        (Part::Known(_), _) => (
            project_files::slots(layout, guid),
            project_files::observe(layout, guid),
            project_files::hooks(layout, guid),
            revisions::observe(layout, guid, &record),
        ),
        (_, Part::Absent) if trash.is_absent() => {
            (Part::Absent, Part::Absent, Part::Absent, Part::Absent)
        }
        _ => (Part::Hidden, Part::Hidden, Part::Hidden, Part::Hidden),
    };
    let projects = files.known().into_iter().flat_map(BTreeMap::keys);
    let given = projects.filter_map(|project| {
        let text = compose::last_given(layout, guid, project)?;
        Some((project.clone(), text.into()))
    });
    Repository {
        given: given.collect(),
        record,
        mirror: records::mirror(layout, guid),
        storage,
        trash,
        replaced: storage::replaced(layout, guid),
        snapshots: snapshots::observe(layout, guid),
        key: secrets::key(&layout.key(guid)),
        slots,
        files,
        hooks,
        revisions,
        ..Repository::default()
    }
}
