use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

use super::{Guid, Name, NetworkId, Size, Suspension};

/// What a plan is made for: everything that has steps or a reason to have none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Object {
    /// The machine's own record.
    Machine,
    /// The datastore.
    Datastore,
    /// A repository.
    Repository(Guid),
    /// A project (kind `Service`) of a repository.
    Service(Guid, Name),
    /// A route.
    Route(Name),
    /// The reverse proxy and the published route table.
    Proxy,
}

impl Object {
    /// The repository that it belongs to.
    pub fn repository(&self) -> Option<Guid> {
        match self {
            Object::Repository(guid) | Object::Service(guid, _) => Some(*guid),
            _ => None,
        }
    }
}

/// Why nothing may be done for an object: the public list of DESIGN §6.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "reason")]
pub enum Blocked {
    /// A part could not be read.
    Unknown(#[serde(rename = "message")] String),
    /// An image without a record lies in the datastore while a new repository is wanted.
    UnknownImage {
        /// The images nobody knows.
        images: Vec<Guid>,
    },
    /// A setting that is read at creation alone has changed.
    Immutable {
        /// The field.
        field: &'static str,
        /// What it is.
        is: String,
        /// What the manifest wants.
        wanted: String,
    },
    /// Nothing that opens it is at hand.
    PassphraseRequired {
        /// Where the passphrase was looked for, or why it is not there.
        from: String,
    },
    /// The record says that an image was made, and it is gone.
    ImageMissing,
    /// The datastore that belongs to this machine is not there.
    DatastoreMissing {
        /// What is there instead.
        found: String,
    },
    /// No manifest says what the datastore should be.
    NoDatastore,
    /// A step failed in this run.
    StepFailed {
        /// The step, as shown.
        step: String,
        /// What went wrong.
        error: String,
    },
    /// This very revision failed before.
    RevisionFailed {
        /// The revision that runs in its place, by the first digits of its hash.
        #[serde(skip_serializing_if = "Option::is_none")]
        runs: Option<String>,
        /// How, where it was tried on a copy and came no further.
        #[serde(skip_serializing_if = "Option::is_none")]
        trial: Option<String>,
    },
    /// Its containers die soon after every start.
    CrashLooping {
        /// Which of them, and how.
        how: String,
        /// How often they were started in a row.
        starts: u32,
        /// When they are started again.
        until: Timestamp,
    },
    /// Waits for another object.
    DependencyBlocked {
        /// The object waited for, as shown.
        on: String,
    },
    /// The manifest could not be made concrete.
    Unresolved(#[serde(rename = "message")] String),
    /// The network id belongs to somebody else.
    NetworkIdInUse {
        /// The id.
        id: NetworkId,
        /// Who has it.
        by: String,
    },
    /// It does not fit.
    NoRoom {
        /// What is asked for.
        wanted: Size,
        /// What may still be promised.
        left: Size,
    },
    /// Too little of the datastore is really free to promise any of it.
    NearlyFull {
        /// What is free.
        free: Size,
    },
    /// Another source declares this object.
    OwnedElsewhere {
        /// That source.
        owner: String,
    },
    /// More danger than what was shown.
    NotShown,
    /// One repository is no longer declared and another is new: perhaps the same.
    PossibleRename {
        /// Those that are no longer declared.
        old: Vec<Name>,
        /// The new ones.
        new: Vec<Name>,
    },
    /// So much would be retired at once that this very plan must be confirmed.
    PruneBlocked {
        /// How many objects would be retired.
        retired: usize,
        /// How many the source owns.
        owned: usize,
        /// The plan's digest, its first digits.
        confirm: String,
    },
    /// It may not be deleted.
    Protected,
    /// It was deleted by a command, and stays so.
    Deleted {
        /// When.
        at: Timestamp,
        /// By whom.
        by: String,
    },
    /// Its time was over.
    Expired {
        /// When it ended.
        at: Timestamp,
    },
    /// It was told to be left alone.
    Suspended(Suspension),
    /// A step was planned that cannot be done. Never public: a bug of the planner.
    NotReady(String),
}

impl Blocked {
    /// A revision that failed, with nothing in its place.
    pub const REVISION_FAILED: Blocked = Blocked::RevisionFailed {
        runs: None,
        trial: None,
    };

    /// The reason of what dies again and again.
    pub const CRASH_LOOPING: &str = "CrashLooping";

    /// What was told to be so is no difference.
    pub fn is_quiet(&self) -> bool {
        matches!(self, Blocked::Suspended(_) | Blocked::Expired { .. })
    }

    /// The reason's name, as it is shown and documented.
    pub fn reason(&self) -> &'static str {
        match self {
            Blocked::Unknown(_) => "Unknown",
            Blocked::UnknownImage { .. } => "UnknownImage",
            Blocked::Immutable { .. } => "Immutable",
            Blocked::PassphraseRequired { .. } => "PassphraseRequired",
            Blocked::ImageMissing => "ImageMissing",
            Blocked::DatastoreMissing { .. } => "DatastoreMissing",
            Blocked::NoDatastore => "NoDatastore",
            Blocked::StepFailed { .. } => "StepFailed",
            Blocked::RevisionFailed { .. } => "RevisionFailed",
            Blocked::CrashLooping { .. } => Blocked::CRASH_LOOPING,
            Blocked::DependencyBlocked { .. } => "DependencyBlocked",
            Blocked::Unresolved(_) => "Unresolved",
            Blocked::NetworkIdInUse { .. } => "NetworkIdInUse",
            Blocked::NoRoom { .. } | Blocked::NearlyFull { .. } => "NoRoom",
            Blocked::OwnedElsewhere { .. } => "OwnedElsewhere",
            Blocked::NotShown => "NotShown",
            Blocked::PossibleRename { .. } => "PossibleRename",
            Blocked::PruneBlocked { .. } => "PruneBlocked",
            Blocked::Protected => "Protected",
            Blocked::Deleted { .. } => "Deleted",
            Blocked::Expired { .. } => "Expired",
            Blocked::Suspended(_) => "Suspended",
            Blocked::NotReady(_) => "NotReady",
        }
    }
}

/// What gives room.
const ROOM: &str = "`renet prune --trash` or `renet datastore expand` give room";

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Blocked::Unknown(why) => write!(f, "could not be read: {why}"),
            Blocked::UnknownImage { images } => {
                f.write_str("images without a record lie in the datastore:")?;
                for image in images {
                    write!(f, " {image}")?;
                }
                f.write_str(
                    "; give the manifest `guid:` to take one over, or run \
                     `renet repository adopt --name GUID --as NAME`",
                )
            }
            Blocked::Immutable { field, is, wanted } => write!(
                f,
                "`{field}` is read at creation alone: it is {is}, the manifest wants {wanted}"
            ),
            Blocked::PassphraseRequired { from } => write!(
                f,
                "its passphrase is not at hand ({from}); \
                 `renet repository mount NAME --password-stdin` opens it"
            ),
            Blocked::ImageMissing => {
                f.write_str("its image is gone, and one is never made in its place; bring it back")
            }
            Blocked::DatastoreMissing { found } => write!(
                f,
                "the datastore of this machine is not there ({found}); none is made in its place"
            ),
            Blocked::NoDatastore => f.write_str(
                "there is no datastore, and no Machine manifest says how large one should be",
            ),
            Blocked::StepFailed { step, error } => write!(f, "{step} failed: {error}"),
            Blocked::RevisionFailed { runs, trial } => {
                match trial {
                    Some(how) => write!(
                        f,
                        "this revision failed on a copy of its repository, and goes no further: \
                         {how}"
                    )?,
                    None => f.write_str("this revision failed before and is not tried again")?,
                }
                if let Some(runs) = runs {
                    write!(f, " ({runs} runs in its place)")?;
                }
                f.write_str("; change it, or run with --retry")
            }
            Blocked::CrashLooping { how, starts, until } => write!(
                f,
                "{how}; started {starts} times in a row, again at {until:.0}"
            ),
            Blocked::DependencyBlocked { on } => write!(f, "waits for {on}"),
            Blocked::Unresolved(message) => f.write_str(message),
            Blocked::NetworkIdInUse { id, by } => write!(f, "network id {id} in use by {by}"),
            Blocked::NoRoom { wanted, left } => write!(
                f,
                "no room: {wanted} wanted, {left} can still be promised; {ROOM}"
            ),
            Blocked::NearlyFull { free } => write!(
                f,
                "no room: only {free} of the datastore is really free; {ROOM}"
            ),
            Blocked::OwnedElsewhere { owner } => write!(
                f,
                "belongs to {owner}; `renet apply --take-over` moves it here"
            ),
            Blocked::PossibleRename { old, new } => {
                let list = |names: &[Name]| {
                    let names: Vec<&str> = names.iter().map(Name::as_str).collect();
                    names.join(", ")
                };
                write!(
                    f,
                    "{} is no longer declared and {} is new: if that is a rename, say \
                     `annotations: {{ renet/moved-from: {} }}` in the new one's metadata, \
                     else `annotations: {{ renet/moved-from: none }}`",
                    list(old),
                    list(new),
                    old.first().map_or("OLD", Name::as_str)
                )
            }
            Blocked::PruneBlocked {
                retired,
                owned,
                confirm,
            } => write!(
                f,
                "{retired} of the {owned} objects of this folder would go at once; if that is meant: \
                 `renet apply --prune --confirm {confirm}`"
            ),
            Blocked::Protected => f.write_str(
                "it is protected: `protected: false` in its manifest, applied before, lifts that",
            ),
            Blocked::Deleted { at, by } => write!(
                f,
                "deleted {at} by {by}; `renet repository restore` brings it back, \
                 `renet resume` makes a new one"
            ),
            Blocked::Expired { at } => {
                write!(f, "its time ended {at}; `renet resume` makes a new one")
            }
            Blocked::Suspended(suspension) => {
                write!(f, "suspended by {}", suspension.by)?;
                if let Some(until) = suspension.until {
                    write!(f, " until {until}")?;
                }
                if let Some(reason) = &suspension.reason {
                    write!(f, ": {reason}")?;
                }
                f.write_str("; `renet resume` lifts it")
            }
            Blocked::NotShown => {
                f.write_str("would do more harm than the plan that was shown; run again to see it")
            }
            Blocked::NotReady(what) => write!(f, "bug: planned before it could be done: {what}"),
        }
    }
}
