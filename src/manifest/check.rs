use std::collections::{BTreeMap, BTreeSet};

use super::Origin;
use super::found::{Document, Found};
use super::problem::{Place, Report};
use super::service;
use super::values::{listed, near};
use crate::model::Name;

/// Compares the documents with each other and says which of them cannot stand. Where a
/// file could not be read, `complete` is false: what is not among the documents may well
/// be in there.
pub(super) fn check(all: &[&Found], complete: bool, report: &Report) -> BTreeSet<usize> {
    let mut bad = BTreeSet::new();
    once(all, &mut bad, report);
    clashes(all, &mut bad, report);
    shared_services(all, &mut bad, report);
    circles(all, &mut bad, report);
    service::check(all, complete, &mut bad, report);
    secure(all, &mut bad, report);
    if complete {
        dangling(all, &mut bad, report);
    }
    // Which of two that clash is meant is not for renet to guess: neither stays.
    bad
}

/// Reports every later holder of something that only one may have.
fn unique<'a, K: Ord>(
    holders: impl Iterator<Item = (usize, K, &'a Place)>,
    bad: &mut BTreeSet<usize>,
    mut clash: impl FnMut(&K, usize, &Place, usize, &Place),
) {
    let mut first = BTreeMap::new();
    for (index, key, place) in holders {
        if let Some((earlier, at)) = first.get(&key) {
            clash(&key, index, place, *earlier, at);
            bad.extend([index, *earlier]);
        } else {
            first.insert(key, (index, place.clone()));
        }
    }
}

/// Names, and the one machine.
fn once(all: &[&Found], bad: &mut BTreeSet<usize>, report: &Report) {
    let named = all.iter().enumerate().filter_map(|(index, found)| {
        let name = found.name.as_ref()?;
        let within = match found.kind {
            "Machine" => return None,
            "Service" => Some(found.repository.as_ref()?),
            _ => None,
        };
        Some((index, (found.kind, within, name), &found.at))
    });
    unique(named, bad, |(kind, within, name), _, at, _, first| {
        let within = within.map_or(String::new(), |repository| format!(" of `{repository}`"));
        report.at(
            at,
            format!("{kind} `{name}`{within} is defined twice"),
            format!("first at {}: rename or remove one", first.shown()),
        );
    });
    let machines = all
        .iter()
        .enumerate()
        .filter(|(_, found)| found.kind == "Machine")
        .map(|(index, found)| (index, (), &found.at));
    unique(machines, bad, |(), _, at, _, first| {
        report.at(
            at,
            "a folder describes one Machine, this is another",
            format!("first at {}: keep one", first.shown()),
        );
    });
}

/// Hosts, networks and guids.
fn clashes(all: &[&Found], bad: &mut BTreeSet<usize>, report: &Report) {
    for field in ["host", "networkId", "guid"] {
        let holders = all.iter().enumerate().filter_map(|(index, found)| {
            let value = match (&found.document, field) {
                (Some(Document::Route(route)), "host") => route.host.to_string(),
                (Some(Document::Repository(repository)), "networkId") => {
                    repository.network_id?.to_string()
                }
                (Some(Document::Repository(repository)), "guid") => repository.guid?.to_string(),
                _ => return None,
            };
            Some((index, value, found.place(field)))
        });
        unique(holders, bad, |value, index, at, earlier, first| {
            let name = |index: usize| all[index].name.as_ref().map_or("", Name::as_str);
            let (what, kind) = match field {
                "host" => ("host", "route"),
                "guid" => ("guid", "repository"),
                _ => ("network", "repository"),
            };
            report.at(
                at,
                format!(
                    "{what} `{value}` is claimed by {kind} `{}` and {kind} `{}`",
                    name(earlier),
                    name(index)
                ),
                format!("first at {}: change one", first.shown()),
            );
        });
    }
}

/// Routes that want HTTPS of a Machine that has none.
fn secure(all: &[&Found], bad: &mut BTreeSet<usize>, report: &Report) {
    let mut machines = all.iter().filter_map(|found| match &found.document {
        Some(Document::Machine(machine)) => Some(machine),
        _ => None,
    });
    if machines.next().is_none_or(|one| one.proxy.https.is_some()) {
        return;
    }
    for (index, found) in all.iter().enumerate() {
        if let Some(Document::Route(route)) = &found.document
            && route.tls == Some(true)
        {
            bad.insert(index);
            report.at(
                found.place("tls"),
                format!(
                    "route `{}` wants HTTPS, which the Machine has not",
                    route.name
                ),
                "add `certificates:` or `acme:` to its `proxy:`",
            );
        }
    }
}

/// Two projects of a repository would share the address of a service.
fn shared_services(all: &[&Found], bad: &mut BTreeSet<usize>, report: &Report) {
    let holders = all.iter().enumerate().flat_map(|(index, found)| {
        let repository = found.repository.as_ref();
        found.services.iter().filter_map(move |(service, place)| {
            Some((index, (repository?, service.as_str()), place))
        })
    });
    unique(
        holders,
        bad,
        |(repository, service), index, at, earlier, first| {
            let name = |index: usize| {
                let name = all[index].name.as_ref().map_or("", Name::as_str);
                format!("`{name}`")
            };
            if all[index].name == all[earlier].name {
                return; // The Service itself is there twice, which was said.
            }
            report.at(
                at,
                format!(
                    "service `{service}` is in two projects of repository `{repository}`: {} and {}",
                    name(earlier),
                    name(index)
                ),
                format!("first at {}: rename one", first.shown()),
            );
        },
    );
}

/// Copies of copies that lead back to where they began.
fn circles(all: &[&Found], bad: &mut BTreeSet<usize>, report: &Report) {
    let parents: BTreeMap<&Name, &Name> = all
        .iter()
        .filter_map(|found| match &found.document {
            Some(Document::Repository(repository)) => match &repository.origin {
                Origin::Fork(fork) => Some((&repository.name, &fork.repository)),
                Origin::Blank(_) => None,
            },
            _ => None,
        })
        .collect();
    for (index, found) in all.iter().enumerate() {
        let Some(Document::Repository(repository)) = &found.document else {
            continue;
        };
        let next = |name: &&Name| parents.get(*name).copied();
        let ancestors = std::iter::successors(next(&&repository.name), next);
        if ancestors
            .take(all.len())
            .any(|name| *name == repository.name)
        {
            bad.insert(index);
            report.at(
                found.place("forkOf"),
                format!("repository `{}` would be a copy of itself", repository.name),
                "name another repository, or say `size:` and `encryption:` instead",
            );
        }
    }
}

/// References to what nobody defines.
fn dangling(all: &[&Found], bad: &mut BTreeSet<usize>, report: &Report) {
    let repositories: BTreeSet<&str> = all
        .iter()
        .filter(|found| found.kind == "Repository")
        .filter_map(|found| found.name.as_ref().map(Name::as_str))
        .collect();
    // A repository whose name is not readable can be any.
    let unnamed = all
        .iter()
        .any(|found| found.kind == "Repository" && found.name.is_none());
    let known = |name: &Name| unnamed || repositories.contains(name.as_str());
    let cure = |name: &Name| match near(name.as_str(), repositories.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if repositories.is_empty() => "add a Repository manifest of that name".into(),
        None => format!("repositories: {}", listed(repositories.iter())),
    };
    for (index, found) in all.iter().enumerate() {
        if let Some(repository) = found.repository.as_ref().filter(|name| !known(name)) {
            bad.insert(index);
            let name = found.name.as_ref().map_or("", Name::as_str);
            report.at(
                found.place("repository"),
                format!("service `{name}` lies in repository `{repository}`, which nobody defines"),
                cure(repository),
            );
        }
        let Some(Document::Route(route)) = &found.document else {
            continue;
        };
        let target = format!("{}/{}", route.repository, route.service);
        if !known(&route.repository) {
            bad.insert(index);
            report.at(
                found.place("service"),
                format!(
                    "route `{}` leads to `{target}`, but no Repository `{}` is defined",
                    route.name, route.repository
                ),
                cure(&route.repository),
            );
            continue;
        }
        // A Service that is broken, or whose repository is not readable, may define it.
        let projects = || {
            all.iter()
                .filter(|other| other.kind == "Service")
                .filter(|other| {
                    other
                        .repository
                        .as_ref()
                        .is_none_or(|name| *name == route.repository)
                })
        };
        let services: Vec<&str> = projects()
            .flat_map(|project| &project.services)
            .map(|(name, _)| name.as_str())
            .collect();
        if services.contains(&route.service.as_str())
            || projects().any(|project| project.document.is_none())
        {
            continue;
        }
        bad.insert(index);
        report.at(
            found.place("service"),
            format!(
                "route `{}` leads to service `{target}`, which no Service defines",
                route.name
            ),
            if services.is_empty() {
                format!("repository `{}` has no services", route.repository)
            } else {
                format!(
                    "services of `{}`: {}",
                    route.repository,
                    listed(services.iter())
                )
            },
        );
    }
}
