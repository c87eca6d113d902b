//! The one vocabulary of change: [`Step`], and the pure questions about one, a
//! file each.

mod danger;
mod effect;
mod holds;
mod ready;
mod residue;
mod show;

pub use danger::Danger;

use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use super::{
    Actual, DataLossPermit, Digest, Function, Guid, Hook, MadeBy, Name, NetworkId, Object, Owner,
    Patch, ProjectSpec, ProxySpec, Rewind, RouteRecord, RouteTable, Seal, SecretRef, Size, Slots,
    Suspension, Volume,
};

/// The smallest change of the machine after which observing tells truthfully
/// where it stopped. Steps are data; `host` performs them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Removes a half-made file under its temporary name.
    ClearStaging(Volume),
    /// Makes a file with a file system in it, under a temporary name, committed
    /// by rename. BTRFS for the datastore, ext4 for an image.
    Format {
        /// What is made.
        volume: Volume,
        /// How large.
        size: Size,
        /// The file system's UUID.
        uuid: Uuid,
        /// How it is encrypted, if it is.
        seal: Option<Seal>,
    },
    /// Makes an image as a copy of another, whose writers wait for less than a
    /// second: under a temporary name, committed by rename.
    Fork {
        /// What is made.
        guid: Guid,
        /// The other.
        from: Guid,
        /// The snapshot of the other that is copied, if not what is there.
        snapshot: Option<Timestamp>,
    },
    /// Makes a snapshot of an image, whose writers wait for less than a second: under
    /// a temporary name, committed by rename.
    Snapshot {
        /// Of which.
        guid: Guid,
        /// By which time it is known.
        at: Timestamp,
        /// What makes it.
        made_by: MadeBy,
        /// The project whose update it is made for.
        project: Option<Name>,
    },
    /// Destroys a snapshot.
    DropSnapshot {
        /// Of which repository.
        guid: Guid,
        /// When it was made.
        at: Timestamp,
        /// The leave to do so.
        permit: DataLossPermit,
    },
    /// Lets a copy of a snapshot take the place of the image, which stays beside it.
    Replace {
        /// Whose.
        guid: Guid,
        /// The snapshot.
        with: Timestamp,
        /// The snapshot as which the image is kept next.
        keep: Timestamp,
    },
    /// Keeps an image whose place another took as a snapshot.
    KeepReplaced {
        /// Whose.
        guid: Guid,
        /// By which time it is known.
        at: Timestamp,
    },
    /// Lets the writers of a repository go on.
    Thaw(Guid),
    /// Makes the file larger.
    GrowFile {
        /// Which.
        volume: Volume,
        /// To this size.
        size: Size,
    },
    /// Attaches a loop device, or finds the one that is attached.
    Attach(Volume),
    /// Lets the loop device see its file's size.
    GrowDevice(Volume),
    /// Attaches an encrypted image and opens it, with the first of these that fits.
    Open {
        /// Which.
        guid: Guid,
        /// What may open it.
        with: Vec<SecretRef>,
    },
    /// Lets the decrypted mapping fill its device.
    GrowMapper(Guid),
    /// Makes the key that opens it at boot.
    EnrolKey {
        /// Of which image.
        guid: Guid,
        /// What opens it now.
        with: Vec<SecretRef>,
    },
    /// Takes over the key of the image that it was copied from.
    CopyKey {
        /// For which image.
        guid: Guid,
        /// The other.
        from: Guid,
    },
    /// Destroys the key that opens it at boot, and its slot.
    DropKey(Guid),
    /// Mounts the file system.
    Mount(Volume),
    /// Lets the file system fill its device.
    GrowFs(Volume),
    /// Unmounts it.
    Unmount(Volume),
    /// Closes the decrypted mapping.
    Close(Guid),
    /// Detaches the loop device.
    Detach(Volume),
    /// Removes the containers that an image brought along from its parent.
    CleanFork(Guid),
    /// Makes the datastore's subvolume and folders.
    LayOut,
    /// Notes that this datastore belongs to this machine.
    NoteDatastore(Uuid),
    /// Notes that the datastore is to stay closed, or no longer.
    CloseDatastore(Option<Suspension>),
    /// Makes the file that is given back when nothing else is free.
    KeepReserve(Size),
    /// Gives it back.
    GiveReserve,
    /// Notes what its manifest says of the machine, and who declares it.
    ClaimMachine {
        /// Its name.
        name: Name,
        /// Who declares it.
        owner: Owner,
        /// How much more than there is may be promised, in hundredths.
        overcommit: Option<u32>,
    },
    /// Notes that the whole machine is to be left alone, or no longer.
    SuspendMachine(Option<Suspension>),
    /// Writes a new repository's record; fails if the name or network was taken meanwhile.
    Reserve {
        /// The repository.
        guid: Guid,
        /// Its name.
        name: Name,
        /// Its network.
        network: NetworkId,
        /// The repository whose changes it is there to try.
        trial_of: Option<Guid>,
    },
    /// Changes a record.
    Record(Guid, Patch),
    /// Moves a deleted repository's image into the trash.
    Trash(Guid),
    /// Moves an image back from the trash.
    Untrash(Guid),
    /// Destroys an image in the trash.
    Purge {
        /// Whose.
        guid: Guid,
        /// The leave to do so.
        permit: DataLossPermit,
    },
    /// Forgets a deleted repository of which nothing is left.
    DropRecord(Guid),
    /// Writes the slots outside the image.
    MirrorSlots(Guid, Slots),
    /// Writes the slots inside the image.
    WriteSlots(Guid, Slots),
    /// Starts a supervised Docker daemon.
    StartDaemon {
        /// Whose.
        guid: Guid,
        /// On which network.
        network: NetworkId,
    },
    /// Stops the containers, then the daemon and its supervisor.
    StopDaemon {
        /// Whose.
        guid: Guid,
        /// On which network.
        network: NetworkId,
    },
    /// Writes a project's files.
    WriteFiles {
        /// The repository.
        guid: Guid,
        /// The project.
        project: Arc<ProjectSpec>,
    },
    /// Removes the files that renet wrote for a project; other files stay.
    EraseFiles {
        /// The repository.
        guid: Guid,
        /// The project's name.
        project: Name,
    },
    /// Keeps a revision that is well, with all that starting it again needs, and lets
    /// those go that are too many.
    KeepRevision {
        /// The repository.
        guid: Guid,
        /// The project.
        project: Arc<ProjectSpec>,
    },
    /// Builds or pulls the images that are missing, before anything is stopped.
    FetchImages {
        /// The repository.
        guid: Guid,
        /// Its network.
        network: NetworkId,
        /// The project.
        project: Arc<ProjectSpec>,
    },
    /// `compose up` of what differs.
    Up {
        /// The repository.
        guid: Guid,
        /// Its network.
        network: NetworkId,
        /// The project.
        project: Arc<ProjectSpec>,
    },
    /// Waits until every service of the project is well.
    Wait {
        /// The repository.
        guid: Guid,
        /// Its network.
        network: NetworkId,
        /// The project.
        project: Arc<ProjectSpec>,
    },
    /// Stops and removes a project's containers.
    Down {
        /// The repository.
        guid: Guid,
        /// Its network.
        network: NetworkId,
        /// The project's name.
        project: Name,
    },
    /// Runs a function of a project's hook, and notes how it ended.
    Hook {
        /// The repository.
        guid: Guid,
        /// Its network.
        network: NetworkId,
        /// The hook.
        hook: Arc<Hook>,
        /// The revision of the project that it belongs to, where a manifest says it.
        revision: Option<Digest>,
        /// Which function.
        function: Function,
    },
    /// Notes a Route manifest.
    RecordRoute {
        /// Its name.
        name: Name,
        /// What it says.
        route: RouteRecord,
    },
    /// Notes that a route is to be left alone, or no longer.
    SuspendRoute(Name, Option<Suspension>),
    /// Forgets a Route manifest.
    ForgetRoute(Name),
    /// Starts the supervised proxy, again if its settings changed.
    StartProxy(ProxySpec),
    /// Stops the proxy.
    StopProxy,
    /// Publishes the route table.
    PublishRoutes(RouteTable),
}

impl Step {
    /// What the step is done to.
    pub fn object(&self) -> Object {
        match self {
            Step::ClearStaging(volume)
            | Step::Format { volume, .. }
            | Step::GrowFile { volume, .. }
            | Step::Attach(volume)
            | Step::GrowDevice(volume)
            | Step::Mount(volume)
            | Step::GrowFs(volume)
            | Step::Unmount(volume)
            | Step::Detach(volume) => match volume {
                Volume::Datastore => Object::Datastore,
                Volume::Image(guid) => Object::Repository(*guid),
            },
            Step::LayOut
            | Step::NoteDatastore(_)
            | Step::CloseDatastore(_)
            | Step::KeepReserve(_)
            | Step::GiveReserve => Object::Datastore,
            Step::ClaimMachine { .. } | Step::SuspendMachine(_) => Object::Machine,
            Step::Record(
                guid,
                Patch::OwnProject(project, _)
                | Patch::DisownProject(project)
                | Patch::Failed(project, _)
                | Patch::Passed(project)
                | Patch::SuspendProject(project, _)
                | Patch::Begin { project, .. }
                | Patch::End(project)
                | Patch::Try(project, _),
            ) => Object::Service(*guid, project.clone()),
            Step::Snapshot {
                guid,
                project: Some(project),
                ..
            } => Object::Service(*guid, project.clone()),
            Step::Reserve { guid, .. }
            | Step::Fork { guid, .. }
            | Step::Snapshot { guid, .. }
            | Step::DropSnapshot { guid, .. }
            | Step::Replace { guid, .. }
            | Step::KeepReplaced { guid, .. }
            | Step::Thaw(guid)
            | Step::Open { guid, .. }
            | Step::GrowMapper(guid)
            | Step::EnrolKey { guid, .. }
            | Step::CopyKey { guid, .. }
            | Step::DropKey(guid)
            | Step::Close(guid)
            | Step::CleanFork(guid)
            | Step::Record(guid, _)
            | Step::Trash(guid)
            | Step::Untrash(guid)
            | Step::Purge { guid, .. }
            | Step::DropRecord(guid)
            | Step::MirrorSlots(guid, _)
            | Step::WriteSlots(guid, _)
            | Step::StartDaemon { guid, .. }
            | Step::StopDaemon { guid, .. } => Object::Repository(*guid),
            Step::WriteFiles { guid, project }
            | Step::KeepRevision { guid, project }
            | Step::FetchImages { guid, project, .. }
            | Step::Up { guid, project, .. }
            | Step::Wait { guid, project, .. } => Object::Service(*guid, project.name.clone()),
            Step::Down { guid, project, .. } | Step::EraseFiles { guid, project } => {
                Object::Service(*guid, project.clone())
            }
            Step::Hook { guid, hook, .. } => Object::Service(*guid, hook.project.clone()),
            Step::RecordRoute { name, .. }
            | Step::SuspendRoute(name, _)
            | Step::ForgetRoute(name) => Object::Route(name.clone()),
            Step::StartProxy(_) | Step::StopProxy | Step::PublishRoutes(_) => Object::Proxy,
        }
    }

    /// The repository that the step stands on: its own, or a route's.
    pub fn repository(&self) -> Option<Guid> {
        match self {
            Step::RecordRoute { route, .. } => Some(route.repository),
            _ => self.object().repository(),
        }
    }

    /// Another repository that must stay as it is meanwhile.
    pub fn reads(&self) -> Option<Guid> {
        match self {
            Step::Fork { from, .. } | Step::CopyKey { from, .. } => Some(*from),
            _ => None,
        }
    }

    /// Whether it writes what others look at to find out what is taken: done
    /// under the machine's lock, a matter of milliseconds. Who runs compose by hand
    /// gives addresses without the repository's.
    pub fn writes_record(&self) -> bool {
        matches!(
            self,
            Step::ClaimMachine { .. }
                | Step::SuspendMachine(_)
                | Step::Reserve { .. }
                | Step::Record(..)
                | Step::DropRecord(_)
                | Step::MirrorSlots(..)
                | Step::WriteSlots(..)
        )
    }

    /// Whether something may run after it that did not, or no longer runs, or has
    /// another address: not where it concerns no more than an image.
    pub fn may_route(&self) -> bool {
        !matches!(
            self,
            Step::ClearStaging(_)
                | Step::Format { .. }
                | Step::Fork { .. }
                | Step::Snapshot { .. }
                | Step::DropSnapshot { .. }
                | Step::Thaw(_)
                | Step::GrowFile { .. }
                | Step::Attach(_)
                | Step::GrowDevice(_)
                | Step::Open { .. }
                | Step::GrowMapper(_)
                | Step::EnrolKey { .. }
                | Step::CopyKey { .. }
                | Step::DropKey(_)
                | Step::Mount(_)
                | Step::GrowFs(_)
                | Step::Close(_)
                | Step::Detach(_)
                | Step::CleanFork(_)
                | Step::Reserve { .. }
                | Step::Record(
                    _,
                    Patch::Fork(_)
                        | Patch::Cleaned
                        | Patch::Autostart(_)
                        | Patch::Expire(_)
                        | Patch::Created
                )
        )
    }

    /// Whether it only waits: it changes nothing, so no lock is held meanwhile
    /// and it can be left at any time.
    pub fn only_waits(&self) -> bool {
        matches!(self, Step::Wait { .. })
    }

    /// Whether the revision that the step waits for is still the one in place.
    pub fn is_still_about(&self, a: &Actual) -> bool {
        match self {
            Step::Wait { guid, project, .. } => {
                let files = Step::WriteFiles {
                    guid: *guid,
                    project: project.clone(),
                };
                files.holds(a) == Ok(true) && self.ready(a).is_ok()
            }
            _ => true,
        }
    }

    /// The step without the time at which it was planned: two plans for the same
    /// are equal.
    pub fn timeless(&self) -> Step {
        let mut step = self.clone();
        match &mut step {
            Step::Record(_, Patch::Delete(Some(stone))) => {
                stone.due = Timestamp::UNIX_EPOCH;
                stone.at = Timestamp::UNIX_EPOCH;
            }
            Step::Record(_, Patch::Expire(at) | Patch::Rewind(Rewind { keep: at, .. }))
            | Step::Snapshot { at, .. }
            | Step::Replace { keep: at, .. }
            | Step::KeepReplaced { at, .. } => *at = Timestamp::UNIX_EPOCH,
            Step::Record(_, Patch::Begin { snapshot, .. }) => *snapshot = Timestamp::UNIX_EPOCH,
            _ => {}
        }
        step
    }

    /// Whether what comes after it is done also where it fails for a reason of its
    /// own, which it has noted itself.
    pub fn holds_up_nothing(&self) -> bool {
        let down = Function::Down;
        matches!(self, Step::Hook { function, .. } if *function == down)
    }

    /// What to remember when the step fails for a reason that lies in its own
    /// revision: a change of a record, nothing else.
    pub fn on_error(&self) -> Option<Step> {
        match self {
            Step::FetchImages { guid, project, .. }
            | Step::Up { guid, project, .. }
            | Step::Wait { guid, project, .. } => Some(Step::Record(
                *guid,
                Patch::Failed(project.name.clone(), project.hash.clone()),
            )),
            Step::Hook {
                guid,
                hook,
                revision: Some(revision),
                function: Function::Prep | Function::Up,
                ..
            } => Some(Step::Record(
                *guid,
                Patch::Failed(hook.project.clone(), revision.clone()),
            )),
            _ => None,
        }
    }
}
