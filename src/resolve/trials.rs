//! Copies on which changes are tried before their repository is touched (`forkFirst`).
//!
//! A repository's record says what is to be tried. That is tried while the manifests say
//! the very same; a copy on which nothing is left to try is spent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::identities::Identities;
use super::{Source, projects_of, slots_of};
use crate::host::{ComposeDoor, Scope};
use crate::model::{
    Actual, Blocked, DeletionPolicy, Desired, Digest, Guid, Lineage, Name, Object, OnFailure,
    Origin, ProjectSpec, Prune, Record, RepositorySpec, RunState, Verdict,
};

/// Where nothing comes of it, the copy goes after this time, and another is made.
const LIFE: SignedDuration = SignedDuration::from_hours(24);

/// Adds the copies that are needed, and says which are spent.
pub(super) async fn add<D: ComposeDoor>(
    source: &Source,
    desired: &mut Desired,
    actual: &Actual,
    identities: &mut Identities<'_>,
    door: &D,
    scope: Scope,
) {
    // Who speaks of single objects speaks of them alone.
    if desired.is_command() {
        return;
    }
    desired.trials = there(source, actual);
    // Parents of which it cannot be told now what is to be tried.
    let mut open = BTreeSet::new();
    let parents: Vec<Guid> = desired.repositories.keys().copied().collect();
    for parent in parents {
        let Some(record) = record(actual, parent).filter(|record| is_ours(source, record)) else {
            continue;
        };
        let spec = &desired.repositories[&parent];
        let pending = pending(record, actual.now);
        if pending.is_empty() || spec.state != RunState::Running {
            continue;
        }
        let mut trials = desired.trials.iter();
        let copy = trials.find(|(_, of)| **of == parent);
        let copy = copy.and_then(|(guid, _)| Some((*guid, self::record(actual, *guid)?)));
        let (guid, name) = match copy {
            Some((guid, copy)) => (guid, copy.name.clone()),
            None => {
                let name = free_name(&spec.name, identities);
                (identities.draw(&name), name)
            }
        };
        if !scope.covers(guid) {
            open.insert(parent);
            continue;
        }
        let (tries, unclear) = still_wanted(source, desired, parent, pending, door, scope).await;
        if unclear {
            open.insert(parent);
        }
        if tries.is_empty() || !copy.is_none_or(|(_, copy)| fits(copy, &tries)) {
            continue;
        }
        desired.trials.insert(guid, parent);
        desired.names.insert(guid, name.clone());
        let network = match copy {
            Some((_, copy)) => Ok(copy.network),
            None => identities.next_network(),
        };
        let spec = network.and_then(|network| {
            let none = BTreeMap::new();
            let seen = actual.repositories.known().unwrap_or(&none);
            let image = seen
                .get(&guid)
                .filter(|repo| !repo.storage.file.is_absent());
            let image = image.or(seen.get(&parent)).map(|repo| &**repo);
            let parent = &desired.repositories[&parent];
            let size = image.and_then(|repo| repo.storage.file.known()).copied();
            Ok(RepositorySpec {
                guid,
                name,
                network,
                size: size.unwrap_or(parent.size),
                origin: Origin::Fork {
                    lineage: Lineage::trial_of(parent.guid),
                    ttl: Some(LIFE),
                },
                autostart: Some(false),
                snapshots: None,
                policy: DeletionPolicy::Delete,
                protected: false,
                is_new: true,
                slots: slots_of(&source.manifests, &parent.name, image)?,
                projects: BTreeMap::new(),
                tries,
                ..parent.clone()
            })
        });
        match spec {
            Ok(spec) => {
                let spec = with_projects(source, desired, spec, parent, door).await;
                desired.repositories.insert(guid, spec);
            }
            Err(why) => {
                desired.unresolved.push((Object::Repository(guid), why));
                open.insert(parent);
            }
        }
    }
    let spent = desired.trials.iter().filter(|(guid, parent)| {
        let undecided = match desired.repositories.contains_key(parent) {
            true => open.contains(parent),
            false => is_unsettled(desired, actual, **parent),
        };
        scope.covers(**guid) && !desired.repositories.contains_key(guid) && !undecided
    });
    desired.spent = spent.map(|(guid, _)| *guid).collect();
}

fn record(actual: &Actual, guid: Guid) -> Option<&Record> {
    actual.repositories.known()?.get(&guid)?.record.known()
}

fn is_ours(source: &Source, record: &Record) -> bool {
    record.owner.as_ref() == Some(&source.owner)
}

/// The copies that are there, and of which repository.
fn there(source: &Source, actual: &Actual) -> BTreeMap<Guid, Guid> {
    let all = actual.repositories.known().into_iter().flatten();
    let ours = all.filter_map(|(guid, repo)| {
        let copy = repo.record.known().filter(|record| record.is_live())?;
        let parent = copy.trial_of()?;
        // A killed renet may have left it before it was claimed.
        let of_ours = || record(actual, parent).is_some_and(|record| is_ours(source, record));
        let ours = is_ours(source, copy) || copy.owner.is_none() && of_ours();
        ours.then_some((*guid, parent))
    });
    ours.collect()
}

/// What the record says is to be tried; nothing for what is to be left alone.
fn pending(record: &Record, now: Timestamp) -> BTreeMap<Name, Digest> {
    let trials = record.trials.iter();
    let pending = trials.filter(|(project, trial)| {
        let own = record.suspended_projects.get(*project);
        let mut suspensions = record.suspended.iter().chain(own);
        trial.verdict == Verdict::Pending && !suspensions.any(|one| one.holds_at(now))
    });
    let pending = pending.map(|(project, trial)| (project.clone(), trial.revision.clone()));
    match record.is_live() && record.created {
        true => pending.collect(),
        false => BTreeMap::new(),
    }
}

/// What of it the manifests still say, and whether some of that cannot be told now.
async fn still_wanted<D: ComposeDoor>(
    source: &Source,
    desired: &Desired,
    parent: Guid,
    pending: BTreeMap<Name, Digest>,
    door: &D,
    scope: Scope,
) -> (BTreeMap<Name, Digest>, bool) {
    let spec = &desired.repositories[&parent];
    let (spec, unresolved) = match scope.covers(parent) {
        true => (spec.clone(), desired.unresolved.clone()),
        false => {
            let mut spec = spec.clone();
            let declared_as = spec.name.clone();
            let names = &desired.names;
            let unresolved = projects_of(source, &mut spec, &declared_as, names, door).await;
            (spec, unresolved)
        }
    };
    let mut tries = BTreeMap::new();
    let mut unclear = false;
    for (project, revision) in pending {
        let object = Object::Service(parent, project.clone());
        match spec.projects.get(&project) {
            Some(now) if now.fork_first && now.hash == revision => {
                tries.insert(project, revision);
            }
            Some(_) => {}
            None => unclear |= unresolved.iter().any(|(other, _)| *other == object),
        }
    }
    (tries, unclear)
}

/// Whether these can be tried on the copy that is there: it was made for them.
fn fits(copy: &Record, tries: &BTreeMap<Name, Digest>) -> bool {
    let mut tries = tries.iter();
    tries.all(|(project, revision)| match copy.trials.get(project) {
        Some(trial) => trial.revision == *revision,
        // Before its image is made it may learn of more.
        None => !copy.created,
    })
}

/// `shop-trial`, or with a number where somebody is called so.
fn free_name(parent: &Name, identities: &Identities<'_>) -> Name {
    const ROOM: usize = 52;
    let stem: String = parent.as_str().chars().take(ROOM).collect();
    let stem = stem.trim_end_matches('-');
    let numbered = (2..).map(|number| format!("{stem}-trial-{number}"));
    let mut names = std::iter::once(format!("{stem}-trial")).chain(numbered);
    names
        .find_map(|name| {
            let name: Name = name.parse().ok()?;
            (!identities.is_called(&name)).then_some(name)
        })
        .expect("there are more numbers than repositories")
}

/// With all projects of its parent, at its own addresses.
async fn with_projects<D: ComposeDoor>(
    source: &Source,
    desired: &mut Desired,
    mut spec: RepositorySpec,
    parent: Guid,
    door: &D,
) -> RepositorySpec {
    let declared_as = &desired.repositories[&parent].name;
    let unresolved = projects_of(source, &mut spec, declared_as, &desired.names, door).await;
    desired.unresolved.extend(unresolved);
    for project in spec.projects.values_mut() {
        *project = Arc::new(ProjectSpec {
            // Nothing in a copy needs to come back.
            on_failure: OnFailure::Stop,
            fork_first: false,
            ..(**project).clone()
        });
    }
    spec
}

/// Whether the manifests may well declare it.
fn is_unsettled(desired: &Desired, actual: &Actual, guid: Guid) -> bool {
    if record(actual, guid).is_some_and(|record| !record.is_live()) {
        return false;
    }
    let unsettled = |(other, _): &(Object, Blocked)| *other == Object::Repository(guid);
    desired.asked.prune == Prune::Incomplete || desired.unresolved.iter().any(unsettled)
}
