//! Makes the manifests concrete: ids, slots, compose as resolved, hashes.
//!
//! Once a wave, `(manifests, &Actual, Ids) -> Desired`. Ids come from records,
//! else from [`Ids`]; none is allocated while any record cannot be read. What
//! cannot be settled stands in [`Desired::unresolved`] and blocks its object.

mod compose;
mod identities;
mod ids;
mod policy;
mod trials;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

pub use compose::{Context, Transformed, transform};
pub use ids::{Drawn, Ids};
pub use policy::{Refused, refusals};

use crate::host::{ComposeDoor, ComposeInput, ComposeOutput, Scope};
use crate::manifest::{self, Manifests, MovedFrom, Written};
use crate::model::{
    Act, Actual, Asked, Blocked, DatastoreSpec, Desired, Digest, Environment, Guid, Hook, Layout,
    Name, NetworkId, Object, Origin, Owner, Part, ProjectSpec, Repository, RepositorySpec,
    ResourceLimits, RouteSpec, Size, Slots, StoreAct, Warning,
};
use identities::Identities;

/// What is resolved, and from where.
#[derive(Clone, Debug)]
pub struct Source {
    /// Who declares it.
    pub owner: Owner,
    /// The manifests.
    pub manifests: Arc<Manifests>,
    /// Where things are on the machine.
    pub layout: Layout,
    /// What is asked for besides.
    pub asked: Asked,
    /// What commands ask of single repositories.
    pub acts: BTreeMap<Guid, Act>,
    /// What a command asks of the datastore.
    pub store: Option<StoreAct>,
}

/// Resolves everything; projects of the repositories in scope alone.
pub async fn resolve<D: ComposeDoor>(
    source: &Source,
    actual: &Actual,
    ids: &Ids,
    door: &D,
    scope: Scope,
) -> Desired {
    let manifests = &*source.manifests;
    let mut desired = Desired {
        owner: source.owner.clone(),
        machine: manifests
            .machine
            .as_ref()
            .map(|machine| machine.name.clone()),
        overcommit: manifests
            .machine
            .as_ref()
            .and_then(|machine| machine.overcommit),
        datastore: {
            let said = manifests.machine.as_ref();
            let said = said.and_then(|machine| Some(machine.datastore.as_ref()?.size()));
            let asked = source.store.as_ref().and_then(StoreAct::size);
            said.or(asked).map(|size| DatastoreSpec {
                size: size.map(Size::round_up_mib),
                uuid: ids.datastore(),
            })
        },
        proxy: manifests.proxy(),
        labelled: manifests.ask_for_routes(),
        repositories: BTreeMap::new(),
        routes: BTreeMap::new(),
        unresolved: Vec::new(),
        trials: BTreeMap::new(),
        spent: BTreeSet::new(),
        names: BTreeMap::new(),
        acts: source.acts.clone(),
        store: source.store.clone(),
        asked: source.asked.clone(),
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
    for (guid, act) in &source.acts {
        let (Act::Create { name, .. } | Act::Fork { name, .. } | Act::Adopt { name, .. }) = act
        else {
            continue;
        };
        desired.names.insert(*guid, name.clone());
    }
    let declared = manifests.repositories.keys().collect();
    let whose = (!source.asked.take_over).then_some(&source.owner);
    let mut identities = Identities::new(seen, actual, declared, whose, ids);
    let mut nameless = BTreeMap::new();
    let mut claimed: BTreeMap<Guid, Name> = BTreeMap::new();
    let all = manifests.repositories.values();
    let all: Vec<_> = all
        .map(|manifest| (manifest, identities.settle(manifest)))
        .collect();
    let guids = all
        .iter()
        .map(|(manifest, (guid, _))| (&manifest.name, *guid));
    let guids: BTreeMap<&Name, Guid> = guids.collect();
    for (manifest, (guid, found)) in all {
        desired.names.insert(guid, manifest.name.clone());
        let object = Object::Repository(guid);
        let other = claimed.insert(guid, manifest.name.clone());
        let settled = found.and_then(|network| {
            if let Some(other) = &other {
                let name = &manifest.name;
                let both = format!("both {other} and {name} would be the same repository");
                return Err(Blocked::Unresolved(both));
            }
            let here = seen.get(&guid).map(|repo| &**repo);
            let origin = identities.origin(manifest, guid, &guids)?;
            let parent = match &origin {
                Origin::Fork { lineage, .. } => seen.get(&lineage.parent).map(|repo| &**repo),
                Origin::Blank(_) => None,
            };
            // A copy begins with the addresses of its parent, shifted to its network.
            let fresh = here.is_none_or(|repo| repo.storage.file.is_absent());
            let image = if fresh { parent.or(here) } else { here };
            let slots = slots_of(manifests, &manifest.name, image)?;
            let image = image.and_then(|repo| repo.storage.file.known());
            let size = manifest.size.or(image.copied()).unwrap_or_default();
            Ok((network, slots, origin, size))
        });
        match settled {
            Ok((network, slots, origin, size)) => {
                let passphrase = identities.passphrase(&manifests.repositories, manifest);
                let spec = RepositorySpec {
                    origin,
                    passphrase,
                    autostart: manifest.autostart,
                    snapshots: manifest.snapshots,
                    guid,
                    name: manifest.name.clone(),
                    network,
                    size: size.round_up_mib(),
                    state: manifest.state,
                    policy: manifest.deletion_policy,
                    protected: manifest.protected,
                    limits: manifest.limits,
                    is_new: manifest.moved_from == Some(MovedFrom::Nothing),
                    slots,
                    declared: manifests
                        .services_of(&manifest.name)
                        .map(|service| service.name.clone())
                        .collect(),
                    projects: BTreeMap::new(),
                    tries: BTreeMap::new(),
                };
                desired.repositories.insert(guid, spec);
            }
            Err(why) => {
                if let Some(other) = desired.repositories.remove(&guid) {
                    nameless.insert(other.name, why.clone());
                }
                nameless.insert(manifest.name.clone(), why.clone());
                desired.unresolved.push((object, why));
            }
        }
    }
    resolve_projects(source, &mut desired, door, scope).await;
    resolve_routes(manifests, &mut desired, &nameless);
    trials::add(source, &mut desired, actual, &mut identities, door, scope).await;
    desired
}

/// The network for an image that gets a record: the one on which its daemon runs
/// already, else the next that nobody has.
pub fn free_network(actual: &Actual, guid: Guid, ids: &Ids) -> Result<NetworkId, Blocked> {
    let none = BTreeMap::new();
    let seen = actual.repositories.known().unwrap_or(&none);
    if let Some(network) = seen.get(&guid).and_then(|repo| repo.stray_network) {
        return Ok(network);
    }
    Identities::new(seen, actual, BTreeSet::new(), None, ids).next_network()
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
        .services_of(repository)
        .flat_map(|service| service.services.iter().map(String::as_str))
        .collect();
    names.sort_unstable();
    Slots::merge(inside.known(), outside.known())
        .and_then(|slots| slots.allocate(names))
        .map_err(|error| Blocked::Unresolved(error.to_string()))
}

async fn resolve_projects<D: ComposeDoor>(
    source: &Source,
    desired: &mut Desired,
    door: &D,
    scope: Scope,
) {
    let names = &desired.names;
    let specs = desired.repositories.values_mut();
    for spec in specs.filter(|spec| scope.covers(spec.guid)) {
        let declared_as = spec.name.clone();
        let unresolved = projects_of(source, spec, &declared_as, names, door).await;
        desired.unresolved.extend(unresolved);
    }
}

/// Resolves the projects that are declared of one repository, and gives those that
/// could not be.
async fn projects_of<D: ComposeDoor>(
    source: &Source,
    spec: &mut RepositorySpec,
    declared_as: &Name,
    names: &BTreeMap<Guid, Name>,
    door: &D,
) -> Vec<(Object, Blocked)> {
    let copy_of = match &spec.origin {
        Origin::Fork { lineage, .. } => names.get(&lineage.parent).zip(lineage.tag.as_ref()),
        Origin::Blank(_) => None,
    };
    let copy_of = copy_of.map(|(parent, tag)| (parent.clone(), tag.clone()));
    let copy_of = copy_of.as_ref().map(|(parent, tag)| (parent, tag));
    let mut unresolved = Vec::new();
    for service in source.manifests.services_of(declared_as) {
        match resolve_project(source, spec, copy_of, service, door).await {
            Ok(project) => {
                let project = Arc::new(project);
                spec.projects.insert(service.name.clone(), project);
            }
            Err(why) => unresolved.push((
                Object::Service(spec.guid, service.name.clone()),
                Blocked::Unresolved(why),
            )),
        }
    }
    unresolved
}

/// What a project may read that lies outside of its repository.
pub fn outside(layout: &Layout, network: NetworkId, project: &Name) -> Vec<PathBuf> {
    vec![layout.immovable(), layout.secrets(network, project)]
}

async fn resolve_project<D: ComposeDoor>(
    source: &Source,
    spec: &RepositorySpec,
    copy_of: Option<(&Name, &Name)>,
    service: &manifest::Service,
    door: &D,
) -> Result<ProjectSpec, String> {
    let directory = source.layout.project(spec.guid, &service.name);
    let context = Context {
        guid: spec.guid,
        repository: &spec.name,
        copy_of,
        kin: spec.kin(),
        network: spec.network,
        mount: source.layout.mount(spec.guid),
        outside: outside(&source.layout, spec.network, &service.name),
        compose_files: vec![directory.join(service.compose_file.as_str())],
        directory,
        project: &service.name,
        slots: &spec.slots,
        files: Some(&service.files),
        environment: &service.environment,
        limits: &service.limits,
        insist: false,
    };
    let input = ComposeInput {
        guid: spec.guid,
        project: service.name.clone(),
        files: service.files.clone(),
        compose_file: service.compose_file.clone(),
        environment: context.interpolation(),
    };
    let key = cache_key(spec, copy_of, &service.limits, &input);
    let output = match door.recall(&key) {
        Some(output) => output,
        None => {
            // What compose says may repeat what it was given.
            let hide = |why: String| service.environment.hide(&why);
            let config = door.config(&input).await.map_err(hide)?;
            let written = || {
                let (files, file) = (&service.files, &service.compose_file);
                Written::of(files, file, service.name.as_str())
            };
            let given = transform(config, &context)
                .map_err(|refused| hide(refusals(&refused, &written())))?;
            let warnings = match given.warnings.as_slice() {
                [] => Vec::new(),
                idle => {
                    let written = written();
                    let warnings = idle.iter().map(|one| one.warning(&written));
                    let hidden = warnings.map(|warning| Warning {
                        message: hide(warning.message),
                        ..warning
                    });
                    hidden.collect()
                }
            };
            let text = given.config.to_string();
            let hashes = door.hashes(&input, &text).await.map_err(hide)?;
            let output = ComposeOutput {
                text,
                hashes,
                warnings,
            };
            door.remember(&key, &output);
            output
        }
    };
    let services = compose::services(&output, &context)?;
    let hook = hook(service, context.interpolation());
    let project = ProjectSpec::new(
        service.name.clone(),
        service.files.clone(),
        output.text.into(),
        services,
    );
    Ok(ProjectSpec {
        depends_on: service.depends_on.clone(),
        healthy_within: service.healthy_within,
        on_failure: service.on_failure,
        fork_first: service.fork_first,
        warnings: output.warnings,
        ..project.with_hook(hook)
    })
}

/// The Rediaccfile among a project's files.
fn hook(service: &manifest::Service, environment: BTreeMap<String, String>) -> Option<Hook> {
    let read = service.files.rediaccfile()?;
    Some(Hook::new(
        service.name.clone(),
        &read,
        service.files.digest(),
        Environment(environment),
    ))
}

/// Everything that the resolved text depends on.
fn cache_key(
    spec: &RepositorySpec,
    copy_of: Option<(&Name, &Name)>,
    limits: &BTreeMap<String, ResourceLimits>,
    input: &ComposeInput,
) -> Digest {
    // Raised when the transformation changes what it writes.
    const FORMAT: &str = "5";
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
    fields.push(format!("{:?}", spec.kin()));
    if let Some((parent, tag)) = copy_of {
        fields.push(format!("{parent}:{tag}"));
    }
    for (name, value) in &input.environment {
        fields.push(format!("{name}={value}"));
    }
    for (service, limits) in limits {
        fields.push(format!("{service}: {limits:?}"));
    }
    Digest::of_fields(fields.iter().map(String::as_bytes))
}

fn resolve_routes(
    manifests: &Manifests,
    desired: &mut Desired,
    nameless: &BTreeMap<Name, Blocked>,
) {
    let named: BTreeMap<&Name, &RepositorySpec> = desired
        .repositories
        .values()
        .map(|spec| (&spec.name, spec))
        .collect();
    for route in manifests.routes.values() {
        let repository = named.get(&route.repository).copied();
        let mut projects = manifests.services_of(&route.repository);
        let project = projects.find(|service| service.services.contains(&route.service));
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
                    tls: route.tls,
                };
                desired.routes.insert(route.name.clone(), settled);
            }
            _ => {
                let why = match nameless.get(&route.repository) {
                    // What is gone with a word of its own took its routes along.
                    Some(why) if why.is_quiet() || matches!(why, Blocked::Deleted { .. }) => {
                        why.clone()
                    }
                    _ => Blocked::DependencyBlocked {
                        on: format!("service {}/{}", route.repository, route.service),
                    },
                };
                let object = Object::Route(route.name.clone());
                desired.unresolved.push((object, why));
            }
        }
    }
}
