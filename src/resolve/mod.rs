//! Makes the manifests concrete: ids, slots, compose as resolved, hashes.
//!
//! Once a wave, `(manifests, &Actual, Ids) -> Desired`. Ids come from records,
//! else from [`Ids`]; none is allocated while any record cannot be read. What
//! cannot be settled stands in [`Desired::unresolved`] and blocks its object.

mod compose;
mod ids;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use compose::{Context, transform};
pub use ids::Ids;

use crate::host::{ComposeDoor, ComposeInput, ComposeOutput};
use crate::manifest::{self, Manifests};
use crate::model::{
    Actual, Blocked, DatastoreSpec, Desired, Digest, Guid, Layout, Name, NetworkId, Object, Owner,
    Part, ProjectSpec, ProxySpec, Repository, RepositorySpec, RouteSpec, Slots,
};

/// What is resolved, and from where.
#[derive(Clone, Debug)]
pub struct Source<'a> {
    /// Who declares it.
    pub owner: Owner,
    /// The manifests.
    pub manifests: &'a Manifests,
    /// Where things are on the machine.
    pub layout: &'a Layout,
    /// Whether failed revisions are tried again.
    pub retry: bool,
}

/// Resolves everything.
pub async fn resolve<D: ComposeDoor>(
    source: &Source<'_>,
    actual: &Actual,
    ids: &mut Ids,
    door: &D,
) -> Desired {
    let manifests = source.manifests;
    let mut desired = Desired {
        owner: source.owner.clone(),
        machine: manifests
            .machine
            .as_ref()
            .map(|machine| machine.name.clone()),
        datastore: manifests.machine.as_ref().and_then(|machine| {
            let spec = machine.datastore.as_ref()?;
            Some(DatastoreSpec {
                size: spec.size.round_up_mib(),
                file: spec
                    .backing_file
                    .clone()
                    .unwrap_or_else(|| source.layout.backing_file()),
                uuid: ids.datastore(),
            })
        }),
        proxy: manifests.machine.as_ref().map(|machine| ProxySpec {
            http: machine.proxy.http,
        }),
        repositories: BTreeMap::new(),
        routes: BTreeMap::new(),
        unresolved: Vec::new(),
        names: BTreeMap::new(),
        retry: source.retry,
    };
    let none = BTreeMap::new();
    let seen = match &actual.repositories {
        Part::Known(all) => all,
        // There never was a datastore: nothing can be in it.
        Part::Absent => &none,
        // Behind the closed datastore. The next wave sees it.
        Part::Hidden | Part::Unknown(_) => return desired,
    };
    for (guid, repo) in seen {
        if let Some(record) = repo.record.known() {
            desired.names.insert(*guid, record.name.clone());
        }
    }
    let mut identities = Identities::new(seen, actual, ids);
    for manifest in manifests.repositories.values() {
        let (guid, found) = identities.settle(manifest);
        desired.names.insert(guid, manifest.name.clone());
        let object = Object::Repository(guid);
        let settled = found.and_then(|network| {
            let slots = slots_of(manifests, &manifest.name, seen.get(&guid))?;
            Ok((network, slots))
        });
        match settled {
            Ok((network, slots)) => {
                let spec = RepositorySpec {
                    guid,
                    name: manifest.name.clone(),
                    network,
                    size: manifest.size.round_up_mib(),
                    state: manifest.state,
                    slots,
                    projects: BTreeMap::new(),
                };
                desired.repositories.insert(guid, spec);
            }
            Err(why) => desired.unresolved.push((object, why)),
        }
    }
    resolve_projects(source, &mut desired, door).await;
    resolve_routes(manifests, &mut desired);
    desired
}

/// Who is who: guids and networks, from records or newly drawn.
struct Identities<'a> {
    seen: &'a BTreeMap<Guid, Repository>,
    by_name: BTreeMap<&'a Name, Guid>,
    unreadable: Option<String>,
    unknown_images: Vec<Guid>,
    taken: BTreeSet<NetworkId>,
    next: NetworkId,
    ids: &'a mut Ids,
}

impl<'a> Identities<'a> {
    fn new(seen: &'a BTreeMap<Guid, Repository>, actual: &Actual, ids: &'a mut Ids) -> Self {
        let mut by_name = BTreeMap::new();
        let mut taken = BTreeSet::new();
        let mut unreadable = None;
        let mut unknown_images = Vec::new();
        for (guid, repo) in seen {
            match &repo.record {
                Part::Known(record) => {
                    by_name.insert(&record.name, *guid);
                    taken.insert(record.network);
                }
                Part::Unknown(why) => unreadable = Some(why.clone()),
                Part::Absent | Part::Hidden if !repo.storage.file.is_absent() => {
                    unknown_images.push(*guid);
                }
                Part::Absent | Part::Hidden => {}
            }
        }
        match &actual.foreign_networks {
            Part::Known(foreign) => taken.extend(foreign),
            Part::Unknown(why) => unreadable = Some(why.clone()),
            Part::Absent | Part::Hidden => {}
        }
        if let Part::Unknown(why) = &actual.machine {
            unreadable = Some(why.clone());
        }
        let counter = actual
            .machine
            .known()
            .and_then(|machine| machine.next_network);
        // Freed ids are not reused: the counter only goes up.
        let highest = taken.iter().next_back().and_then(|id| id.next());
        let next = counter.or(highest).unwrap_or(ids.first_network());
        let next = next.max(ids.first_network());
        Self {
            seen,
            by_name,
            unreadable,
            unknown_images,
            taken,
            next,
            ids,
        }
    }

    /// The repository's guid, and its network or why it has none.
    fn settle(&mut self, manifest: &manifest::Repository) -> (Guid, Result<NetworkId, Blocked>) {
        if let Some(guid) = self.by_name.get(&manifest.name).copied() {
            if let Some(wanted) = manifest.guid.filter(|wanted| *wanted != guid) {
                let why = Blocked::Immutable {
                    field: "guid",
                    is: guid.to_string(),
                    wanted: wanted.to_string(),
                };
                return (guid, Err(why));
            }
            let network = self.seen[&guid].record.known().map(|record| record.network);
            // A manifest that wants another one is stopped by the planner, which names both.
            let network = manifest.network_id.or(network);
            return (
                guid,
                network.ok_or_else(|| Blocked::Unknown("no network".to_owned())),
            );
        }
        let guid = manifest
            .guid
            .unwrap_or_else(|| self.ids.guid(&manifest.name));
        (guid, self.settle_new(manifest, guid))
    }

    fn settle_new(
        &mut self,
        manifest: &manifest::Repository,
        guid: Guid,
    ) -> Result<NetworkId, Blocked> {
        if let Some(why) = &self.unreadable {
            return Err(Blocked::Unknown(format!(
                "no new repository is made while a record cannot be read: {why}"
            )));
        }
        if let Some(record) = self.seen.get(&guid).and_then(|repo| repo.record.known()) {
            return Err(Blocked::Immutable {
                field: "name",
                is: record.name.to_string(),
                wanted: manifest.name.to_string(),
            });
        }
        if manifest.guid.is_none() && !self.unknown_images.is_empty() {
            return Err(Blocked::UnknownImage {
                images: self.unknown_images.clone(),
            });
        }
        if let Some(network) = manifest.network_id {
            return Ok(network);
        }
        let mut candidate = Some(self.next);
        while let Some(id) = candidate {
            if self.taken.insert(id) {
                self.next = id.next().unwrap_or(NetworkId::LAST);
                return Ok(id);
            }
            candidate = id.next();
        }
        Err(Blocked::Unresolved("no network id is left".to_owned()))
    }
}

/// Every service of a repository has a slot, in the order of their names.
fn slots_of(
    manifests: &Manifests,
    repository: &Name,
    seen: Option<&Repository>,
) -> Result<Slots, Blocked> {
    let (inside, outside) = match seen {
        Some(repo) => (&repo.slots, &repo.mirror),
        None => (&Part::Absent, &Part::Absent),
    };
    for part in [inside, outside] {
        if let Part::Unknown(why) = part {
            return Err(Blocked::Unknown(why.clone()));
        }
    }
    let mut names: Vec<&str> = manifests
        .services
        .values()
        .filter(|service| service.repository == *repository)
        .flat_map(|service| service.services.iter().map(String::as_str))
        .collect();
    names.sort_unstable();
    Slots::merge(inside.known(), outside.known())
        .and_then(|slots| slots.allocate(names))
        .map_err(|error| Blocked::Unresolved(error.to_string()))
}

async fn resolve_projects<D: ComposeDoor>(source: &Source<'_>, desired: &mut Desired, door: &D) {
    for spec in desired.repositories.values_mut() {
        for service in source.manifests.services.values() {
            if service.repository != spec.name {
                continue;
            }
            match resolve_project(source, spec, service, door).await {
                Ok(project) => {
                    spec.projects
                        .insert(service.name.clone(), Arc::new(project));
                }
                Err(why) => desired.unresolved.push((
                    Object::Service(spec.guid, service.name.clone()),
                    Blocked::Unresolved(why),
                )),
            }
        }
    }
}

async fn resolve_project<D: ComposeDoor>(
    source: &Source<'_>,
    spec: &RepositorySpec,
    service: &manifest::Service,
    door: &D,
) -> Result<ProjectSpec, String> {
    let context = Context {
        repository: &spec.name,
        network: spec.network,
        directory: source.layout.project(spec.guid, &service.name),
        project: &service.name,
        slots: &spec.slots,
        files: &service.files,
    };
    let input = ComposeInput {
        guid: spec.guid,
        project: service.name.clone(),
        files: service.files.clone(),
        compose_file: service.compose_file.clone(),
        environment: context.interpolation(),
    };
    let key = cache_key(spec, &input);
    let output = match door.recall(&key) {
        Some(output) => output,
        None => {
            let config = door.config(&input).await?;
            let text = transform(config, &context)?.to_string();
            let hashes = door.hashes(&input, &text).await?;
            let output = ComposeOutput { text, hashes };
            door.remember(&key, &output);
            output
        }
    };
    let services = compose::services(&output, &context)?;
    Ok(ProjectSpec::new(
        service.name.clone(),
        service.files.clone(),
        output.text.into(),
        services,
    ))
}

/// Everything that the resolved text depends on.
fn cache_key(spec: &RepositorySpec, input: &ComposeInput) -> Digest {
    // Raised when the transformation changes what it writes.
    const FORMAT: &str = "1";
    let mut fields = vec![
        FORMAT.to_owned(),
        input.guid.to_string(),
        spec.name.to_string(),
        spec.network.to_string(),
        input.project.to_string(),
        input.compose_file.to_string(),
        input.files.digest().to_string(),
        serde_json::to_string(&spec.slots).unwrap_or_default(),
    ];
    for (name, value) in &input.environment {
        fields.push(format!("{name}={value}"));
    }
    Digest::of_fields(fields.iter().map(String::as_bytes))
}

fn resolve_routes(manifests: &Manifests, desired: &mut Desired) {
    for route in manifests.routes.values() {
        let repository = desired
            .repositories
            .values()
            .find(|spec| spec.name == route.repository);
        let project = manifests.services.values().find(|service| {
            service.repository == route.repository && service.services.contains(&route.service)
        });
        let slot = repository.and_then(|spec| spec.slots.0.get(&route.service));
        match (repository, project, slot) {
            (Some(spec), Some(project), Some(slot)) => {
                let settled = RouteSpec {
                    host: route.host.clone(),
                    repository: spec.guid,
                    project: project.name.clone(),
                    service: route.service.clone(),
                    address: spec.network.address(*slot),
                    port: route.port,
                };
                desired.routes.insert(route.name.clone(), settled);
            }
            _ => desired.unresolved.push((
                Object::Route(route.name.clone()),
                Blocked::DependencyBlocked {
                    on: format!("service {}/{}", route.repository, route.service),
                },
            )),
        }
    }
}
