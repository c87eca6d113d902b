//! What a command, or an option of one, asks for besides the manifests.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    DataLossPermit, Digest, Guid, Lineage, Name, Named, NetworkId, Object, Rewind, Seal, Size,
    Suspension, Tombstone,
};

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
