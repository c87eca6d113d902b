//! Desired and Actual in, a [`Plan`] out. Pure: no I/O, no clock, no chance.
//!
//! The planner is an ordered script (`script.rs`) that names every step that
//! could be needed, over a scratch copy of what was observed. One function,
//! `want`, does the rest: a step that holds is skipped, one that is not ready
//! is a bug, the others are noted and take effect on the scratch copy. There is
//! no diffing code: an empty plan is what converged means.

mod act;
pub mod changes;
mod datastore;
mod hooks;
mod image;
mod order;
mod repository;
mod retire;
mod rewind;
mod routes;
mod script;
mod stand_in;
mod transaction;
mod trial;

pub use retire::GRACE;
pub use routes::table;
pub use script::plan;

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    Actual, Blocked, Container, ContainerState, Danger, Digest, Guid, Name, Object, Part, Step,
};

/// Objects on which a step failed in this run, and how.
pub type Tried = BTreeMap<Object, Blocked>;

/// The revisions of projects that failed in this run, and how.
pub type Undone = BTreeMap<Object, (Digest, Blocked)>;

/// What earlier waves of the same run, or other runs, say about this one.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'a> {
    /// Objects on which a step failed in this run.
    pub tried: &'a Tried,
    /// Revisions that failed in this run.
    pub undone: &'a Undone,
    /// What the first wave of this run retires: later ones retire nothing else.
    pub retires: Option<&'a BTreeSet<Object>>,
    /// What is blocked by plans for other shares.
    pub standing: &'a BTreeMap<Object, Blocked>,
    /// Repositories that somebody works on.
    pub busy: &'a BTreeSet<Guid>,
}

impl Limits<'_> {
    /// No earlier wave, nothing else going on.
    pub const NONE: Limits<'static> = Limits {
        tried: &BTreeMap::new(),
        undone: &BTreeMap::new(),
        retires: None,
        standing: &BTreeMap::new(),
        busy: &BTreeSet::new(),
    };
}

/// What a plan is made for. Shares can be planned and performed side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Share {
    /// Everything.
    All,
    /// The datastore and the machine's record, on which everything stands.
    Base,
    /// One repository with its projects.
    Repository(Guid),
    /// The routes and the proxy.
    Routes,
}

impl Share {
    /// Whether the object belongs to it.
    pub fn covers(self, object: &Object) -> bool {
        match self {
            Share::All => true,
            Share::Base => matches!(object, Object::Datastore | Object::Machine),
            Share::Repository(guid) => object.repository() == Some(guid),
            Share::Routes => matches!(object, Object::Route(_) | Object::Proxy),
        }
    }
}

/// What would be done, in order, and why nothing is done for the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// Objects for which nothing may be done.
    pub blocked: BTreeMap<Object, Blocked>,
    /// Objects whose further steps cannot be seen yet.
    pub more: BTreeSet<Object>,
    /// What it costs.
    pub danger: BTreeSet<Danger>,
    /// Objects that go because no manifest names them any more.
    pub retires: BTreeSet<Object>,
    /// Things in sync that deserve a word.
    pub notes: Vec<(Object, String)>,
}

impl Plan {
    /// Nothing to do and nothing in the way.
    pub fn in_sync(&self) -> bool {
        self.steps.is_empty() && self.blocked.values().all(Blocked::is_quiet)
    }

    /// The repositories whose data would go to the trash: each is to be confirmed
    /// by its name.
    pub fn discards(&self) -> impl Iterator<Item = Guid> {
        self.danger.iter().filter_map(|danger| match danger {
            Danger::Discards(guid) => Some(*guid),
            _ => None,
        })
    }

    /// The danger that counts against `first`, the first locked look: what was
    /// started or made since cannot be lost to the user.
    pub fn danger_against(&self, first: &Actual) -> BTreeSet<Danger> {
        self.danger
            .iter()
            .filter(|danger| match danger {
                Danger::Stops(guid, project, service) => {
                    may_have_run(first, *guid, project, service)
                }
                Danger::StopsUnseen(guid) => any_may_have_run(first, *guid),
                Danger::TakesBack(guid) => {
                    is_under_way(first, *guid) || any_may_have_run(first, *guid)
                }
                Danger::Discards(guid) => was_there(first, *guid),
            })
            .cloned()
            .collect()
    }
}

/// The containers that may have run at that look: where there was no daemon,
/// and nothing left of one, there was none.
fn containers(
    actual: &Actual,
    guid: Guid,
) -> Option<&Part<BTreeMap<Name, BTreeMap<String, Container>>>> {
    let repo = actual.repositories.known()?.get(&guid)?;
    (!repo.daemon.is_absent()).then_some(&repo.containers)
}

/// Whether the service ran at that look, or could have without being seen.
fn may_have_run(actual: &Actual, guid: Guid, project: &Name, service: &str) -> bool {
    match containers(actual, guid) {
        Some(Part::Known(projects)) => projects
            .get(project)
            .and_then(|services| services.get(service))
            .is_some_and(|container| container.state == ContainerState::Running),
        Some(Part::Absent) | None => false,
        Some(_) => true,
    }
}

/// Whether there may be writes that an update from before would take back.
fn is_under_way(actual: &Actual, guid: Guid) -> bool {
    let all = match &actual.repositories {
        Part::Known(all) => all,
        Part::Absent => return false,
        Part::Hidden | Part::Unknown(_) => return true,
    };
    let record = all.get(&guid).map(|repo| &repo.record);
    match record {
        Some(Part::Known(record)) => record.unfinished.is_some() || record.rewind.is_some(),
        Some(Part::Absent) | None => false,
        Some(_) => true,
    }
}

fn was_there(actual: &Actual, guid: Guid) -> bool {
    match &actual.repositories {
        Part::Known(all) => all.contains_key(&guid),
        Part::Absent => false,
        Part::Hidden | Part::Unknown(_) => true,
    }
}

fn any_may_have_run(actual: &Actual, guid: Guid) -> bool {
    match containers(actual, guid) {
        Some(Part::Known(projects)) => projects
            .values()
            .flat_map(BTreeMap::values)
            .any(|container| container.state == ContainerState::Running),
        Some(Part::Absent) | None => false,
        Some(_) => true,
    }
}
