use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Actual, Container, ContainerState, Daemon, Name, Part, Repository};

/// Hides what cannot be seen in the state the machine is in: the only place
/// that says so.
pub fn veil(actual: &mut Actual) {
    let store = &mut actual.datastore;
    let mounted = store.storage.mount.known().is_some();
    if !mounted {
        let there = !store.storage.file.is_absent();
        fn close<T>(there: bool, part: &mut Part<T>) {
            *part = if there { Part::Hidden } else { Part::Absent };
        }
        close(there, &mut store.layout);
        close(there, &mut store.reserve);
        close(there, &mut store.free);
        close(there, &mut actual.machine);
        close(there, &mut actual.repositories);
        return;
    }
    let Part::Known(all) = &mut actual.repositories else {
        return;
    };
    for repo in all.values_mut() {
        if repo.storage.frozen.known().is_some() {
            // Who touches it waits until it is thawed.
            repo.slots = Part::Hidden;
            repo.files = Part::Hidden;
            repo.daemon = Part::Hidden;
            repo.images = Part::Hidden;
            repo.containers = Part::Hidden;
            repo.running = Part::Hidden;
            repo.hooks = Part::Hidden;
            repo.revisions = Part::Hidden;
            repo.given.clear();
            continue;
        }
        let image = !repo.storage.file.is_absent() || !repo.trash.is_absent();
        if repo.storage.mount.known().is_none() {
            fn close<T>(image: bool, part: &mut Part<T>) {
                *part = if image { Part::Hidden } else { Part::Absent };
            }
            close(image, &mut repo.slots);
            close(image, &mut repo.files);
            close(image, &mut repo.hooks);
            close(image, &mut repo.revisions);
            repo.given.clear();
        }
        if !matches!(repo.daemon, Part::Known(Daemon { serving: true, .. })) {
            let left = image || !repo.daemon.is_absent();
            repo.images = if left { Part::Hidden } else { Part::Absent };
            repo.containers = if left { Part::Hidden } else { Part::Absent };
        }
        repo.running = running(&repo.containers);
        leave_unread(repo);
    }
    all.retain(|_, repo| !repo.is_nothing());
}

/// What is seen of a repository that is not in scope.
pub(super) fn outline(repo: &mut Repository) {
    repo.storage.header = Part::Hidden;
    repo.storage.device = Part::Hidden;
    repo.storage.mapper = Part::Hidden;
    repo.storage.mount = Part::Hidden;
    repo.slots = Part::Hidden;
    repo.files = Part::Hidden;
    repo.daemon = Part::Hidden;
    repo.images = Part::Hidden;
    repo.containers = Part::Hidden;
    repo.running = Part::Hidden;
    repo.hooks = Part::Hidden;
    repo.revisions = Part::Hidden;
    repo.given.clear();
}

/// What is kept of the revisions of a project is read where it is needed.
fn leave_unread(repo: &mut Repository) {
    let record = repo.record.known().cloned();
    let needed = |project: &Name| {
        record
            .as_ref()
            .is_some_and(|record| record.needs_revisions(project))
    };
    let all = repo.revisions.known_mut().into_iter().flatten();
    for (_, kept) in all.filter(|(project, _)| !needed(project)) {
        kept.iter_mut().for_each(|kept| kept.spec = None);
    }
}

/// The names of what runs, as compose makes them.
fn running(
    containers: &Part<BTreeMap<Name, BTreeMap<String, Container>>>,
) -> Part<BTreeSet<String>> {
    let all = match containers {
        Part::Known(all) => all,
        Part::Absent => return Part::Absent,
        Part::Hidden => return Part::Hidden,
        Part::Unknown(why) => return Part::Unknown(why.clone()),
    };
    let each = all.iter().flat_map(|(project, containers)| {
        let runs = containers
            .iter()
            .filter(|(_, container)| container.state == ContainerState::Running);
        runs.map(move |(service, _)| format!("{project}-{service}-1"))
    });
    Part::Known(each.collect())
}
