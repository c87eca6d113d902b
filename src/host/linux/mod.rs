//! A real Linux machine: one file per real thing, and here what is asked of
//! which.

mod beneath;
mod btrfs;
pub mod check;
pub mod compose;
mod containers;
mod datastore;
mod disk;
pub(crate) mod dockerd;
pub mod doctor;
pub mod events;
mod ext4;
pub mod files;
pub(crate) mod freeze;
mod glance;
pub(crate) mod hook;
mod image_files;
pub mod install;
mod keeper;
mod key;
mod limits;
pub mod links;
mod listeners;
mod loop_device;
mod luks;
mod mount;
pub mod passphrase;
pub mod passthrough;
pub mod program;
mod project_files;
pub(crate) mod proxy;
mod records;
mod repositories;
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
mod unlock;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use project_files::release_slot;
pub use uninstall::uninstall;

use super::{Cx, Done, Host, Scope, StepError};
use crate::model::{
    Actual, Backing, Datastore, Guid, Layout, Part, Record, SecretRef, Step, Volume,
};
use secrets::Secrets;
use storage::Place;

/// The machine that this process runs on, beneath one root.
#[derive(Clone, Debug)]
pub struct LinuxHost {
    pub(crate) layout: Layout,
    pub(crate) backing: Backing,
    pub(crate) binary: PathBuf,
    pub(crate) secrets: Secrets,
}

impl LinuxHost {
    /// A machine beneath the layout's root. `backing` is what the datastore lies
    /// on where a manifest names it; `binary` is renet itself, which supervises
    /// daemons.
    pub fn new(layout: Layout, backing: Option<Backing>, binary: PathBuf) -> Self {
        let backing = backing.unwrap_or_else(|| datastore::backing(&layout));
        Self {
            layout,
            backing,
            binary,
            secrets: Secrets::default(),
        }
    }

    /// The secrets that may be asked for.
    pub fn with_secrets(self, secrets: Secrets) -> Self {
        Self { secrets, ..self }
    }

    /// With the datastore on a block device.
    pub fn with_device(self, path: PathBuf) -> Self {
        Self {
            backing: Backing::Device(path),
            ..self
        }
    }

    /// The passphrase that was typed, besides.
    pub fn with_typed(self, passphrase: passphrase::Passphrase) -> Self {
        Self {
            secrets: self.secrets.with_typed(passphrase),
            ..self
        }
    }

    /// Which secrets are at hand; nothing is run or decrypted to find out.
    pub fn at_hand(&self) -> BTreeMap<SecretRef, Part<()>> {
        self.secrets.observe(&self.layout)
    }

    /// The device that the datastore lies on, where it is not there yet.
    pub fn lacks_disk(&self) -> Option<&std::path::Path> {
        match &self.backing {
            Backing::Device(path) if !path.exists() => Some(path),
            _ => None,
        }
    }

    /// Waits for that device, up to 30 s.
    pub async fn wait_for_disk(&self) {
        if let Some(path) = self.lacks_disk() {
            disk::wait(path).await;
        }
    }

    /// What the datastore lies on.
    pub fn backing(&self) -> &Backing {
        &self.backing
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
        let datastore = async move {
            if scope == Scope::All {
                let layout = host.layout.clone();
                // What is left of it the next look clears.
                let _ = blocking(move || clear_rubbish(&layout)).await;
            }
            datastore::observe(&host).await
        };
        let layout = &self.layout;
        // Before the records: who listens by then and has one, is in them.
        let foreign = blocking(listeners::networks);
        let (datastore, foreign, proxy) = tokio::join!(datastore, foreign, proxy::observe(layout));
        let mut foreign_networks = foreign.unwrap_or_else(Part::Unknown);
        let (machine, repositories) = match behind(&datastore) {
            Part::Known(()) => (
                records::machine(layout),
                repositories::observe(self, scope).await,
            ),
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
        if glance::holds(self, step).await? {
            return Ok(Done::Already);
        }
        let layout = &self.layout;
        match step {
            Step::ClearStaging(volume) => image_files::clear_staging(&self.place(*volume)).await,
            Step::Format {
                volume,
                size,
                uuid,
                seal,
            } => {
                let place = self.place(*volume);
                image_files::format(self, &place, *size, *uuid, seal.as_ref()).await
            }
            Step::Fork {
                guid,
                from,
                snapshot,
            } => {
                let place = self.place(Volume::Image(*guid));
                image_files::fork(self, &place, *guid, *from, *snapshot).await
            }
            Step::Snapshot {
                guid, at, made_by, ..
            } => snapshots::make(self, *guid, *at, *made_by).await,
            Step::DropSnapshot { guid, at, permit } => {
                snapshots::drop(layout, *guid, *at, permit).await
            }
            Step::Replace { guid, with, .. } => {
                let place = self.place(Volume::Image(*guid));
                image_files::replace(self, &place, *guid, *with).await
            }
            Step::KeepReplaced { guid, at } => snapshots::keep_replaced(self, *guid, *at).await,
            Step::Thaw(guid) => self.on_image(*guid, freeze::thaw_now),
            Step::Open { guid, with } => {
                unlock::open(self, &self.place(Volume::Image(*guid)), *guid, with).await
            }
            Step::GrowMapper(guid) => unlock::grow_mapping(*guid).await,
            Step::EnrolKey { guid, with } => {
                unlock::enrol_key(self, &self.place(Volume::Image(*guid)), *guid, with).await
            }
            Step::CopyKey { guid, from } => unlock::copy_key(layout, *guid, *from),
            Step::DropKey(guid) => {
                unlock::drop_key(layout, &self.place(Volume::Image(*guid)), *guid).await
            }
            Step::Close(guid) => unlock::close_mapping(*guid).await,
            Step::CleanFork(guid) => {
                let (layout, guid) = (layout.clone(), *guid);
                blocking(move || image_files::clean_fork(&layout, guid))
                    .await
                    .unwrap_or_else(|why| Err(StepError::machine(why)))
            }
            Step::GrowFile { volume, size } => image_files::grow_file(&self.place(*volume), *size),
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
            Step::NoteDatastore(uuid) => datastore::write_note(layout, *uuid, &self.backing),
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
            Step::Trash(guid) => self.on_image(*guid, image_files::trash),
            Step::Untrash(guid) => self.on_image(*guid, image_files::untrash),
            Step::Purge { guid, permit } => image_files::purge(layout, *guid, permit),
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
