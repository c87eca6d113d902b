//! The nouns every room shares. Nothing in here does I/O.
//!
//! Start with [`Actual`] (what was seen), [`Desired`] (what is wanted) and
//! [`Step`] (the only thing that ever changes a machine).

mod actual;
mod asked;
mod blocked;
mod desired;
mod digest;
mod environment;
mod files;
pub mod hook;
mod ids;
mod layout;
mod limits;
mod named;
mod part;
mod permit;
mod proxy;
mod record;
mod revision;
mod secret;
mod shared;
mod size;
mod snapshot;
mod step;
mod storage;
mod warning;

pub use actual::{
    Actual, Container, ContainerState, Daemon, Datastore, FileSeen, FilesSeen, Health, Made, Proxy,
    Published, Repository, RouteTable, refines,
};
pub use asked::{Act, Asked, CrashLoop, Prune, StoreAct};
pub use blocked::{Blocked, Object};
pub use desired::{
    DatastoreSpec, Desired, LOG_LIMITS, Origin, ProjectSpec, RepositorySpec, RouteSpec, RunState,
    ServiceSpec, TRIAL_LABEL,
};
pub use digest::Digest;
pub use environment::Environment;
pub use files::{FileEntry, FileSet};
pub use hook::{Function, Hook, HookRun, HookRuns, Rediaccfile};
pub use ids::{
    Guid, HostName, Name, NetworkId, ParseError, RelPath, Slot, Slots, SlotsError, suggest,
};
pub use layout::Layout;
pub use limits::ResourceLimits;
pub use named::{Named, NotNamed};
pub use part::{Part, Stop};
pub use permit::DataLossPermit;
pub use proxy::{Acme, CertificateFiles, DnsProof, ProxySpec, RunAs};
pub use record::{
    DeletionPolicy, Format, Gone, Kin, Lineage, MachineRecord, Owner, Patch, Record, Rewind,
    RouteRecord, Suspension, Tombstone, Unfinished, slots_are_distinct, slots_from_json,
    slots_json,
};
pub use revision::{FailedRevisions, Kept, OnFailure, Revisions, Trial, Verdict};
pub use secret::{Pbkdf, Seal, SecretRef, is_called_secret};
pub use shared::Shared;
pub use size::Size;
pub use snapshot::{MadeBy, Schedule, Snapshot, Snapshots};
pub use step::{Danger, Step};
pub use storage::{Backing, Disk, Header, Mount, Storage, Volume};
pub use warning::{Warning, warnings};
