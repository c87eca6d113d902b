use std::collections::{BTreeMap, BTreeSet};

use super::Step;
use crate::model::{
    Actual, Container, ContainerState, Daemon, FileSeen, FilesSeen, Header, Health, HookRun, Kept,
    MachineRecord, Made, MadeBy, Mount, Part, Proxy, Record, Repository, Revisions, Size, Snapshot,
    Snapshots, Volume,
};

impl Step {
    /// What becomes of the machine. Defined only where the step is [`Step::ready`];
    /// changes only what the step names.
    pub fn effect(&self, a: &mut Actual) {
        match self {
            Step::ClearStaging(volume) => a.storage_mut(*volume).staging = Part::Absent,
            Step::Format {
                volume,
                size,
                uuid,
                seal,
            } => {
                a.storage_mut(*volume).file = Part::Known(*size);
                match volume {
                    Volume::Datastore => {
                        if let Part::Known(disk) = &a.datastore.disk {
                            a.datastore.storage.device = Part::Known(disk.size);
                        }
                        a.datastore.identity = Part::Known(*uuid);
                        a.datastore.layout = Part::Absent;
                        a.datastore.reserve = Part::Absent;
                        a.machine = Part::Absent;
                        a.repositories = Part::Known(BTreeMap::new());
                    }
                    Volume::Image(guid) => {
                        // Just made, so known to be empty.
                        let repo = a.repo_mut(*guid);
                        repo.storage.header = Part::Known(Header::new(seal.is_some()));
                        repo.slots = Part::Absent;
                        repo.files = Part::Absent;
                        repo.hooks = Part::Absent;
                        repo.revisions = Part::Absent;
                        repo.images = Part::Absent;
                        repo.containers = Part::Absent;
                    }
                }
            }
            Step::Snapshot {
                guid, at, made_by, ..
            } => {
                let repo = a.repo_mut(*guid);
                if let Part::Known(size) = repo.storage.file {
                    let made_by = *made_by;
                    repo.snapshots.or_known(Snapshots::new());
                    if let Part::Known(all) = &mut repo.snapshots {
                        all.insert(*at, Snapshot { size, made_by });
                    }
                }
            }
            Step::DropSnapshot { guid, at, .. } => {
                let snapshots = &mut a.repo_mut(*guid).snapshots;
                if let Part::Known(all) = snapshots {
                    all.remove(at);
                    if all.is_empty() {
                        *snapshots = Part::Absent;
                    }
                }
            }
            Step::Replace { guid, with, .. } => {
                let repo = a.repo_mut(*guid);
                let snapshot = repo.snapshots.known().and_then(|all| all.get(with));
                let size = snapshot.map(|snapshot| snapshot.size).into();
                repo.replaced = std::mem::replace(&mut repo.storage.file, size);
                hide_contents(repo);
                repo.revisions = Part::Hidden;
            }
            Step::KeepReplaced { guid, at } => {
                let repo = a.repo_mut(*guid);
                if let Part::Known(size) = std::mem::take(&mut repo.replaced) {
                    let made_by = MadeBy::Rewind;
                    repo.snapshots.or_known(Snapshots::new());
                    if let Part::Known(all) = &mut repo.snapshots {
                        all.insert(*at, Snapshot { size, made_by });
                    }
                }
            }
            Step::Fork {
                guid,
                from,
                snapshot: Some(at),
            } => {
                let parent = a.repository(*from).unwrap_or_default();
                let snapshot = parent.snapshots.known().and_then(|all| all.get(at));
                let repo = a.repo_mut(*guid);
                repo.storage.file = snapshot.map(|snapshot| snapshot.size).into();
                // Those of its parent are none of its own.
                repo.revisions = Part::Absent;
                hide_contents(repo);
            }
            Step::Fork {
                guid,
                from,
                snapshot: None,
            } => {
                let parent = a.repository(*from).unwrap_or_default();
                let Repository {
                    storage,
                    slots,
                    files,
                    hooks,
                    images,
                    containers,
                    ..
                } = &*parent;
                let repo = a.repo_mut(*guid);
                repo.storage.file = storage.file.clone();
                repo.storage.header = storage.header.clone();
                repo.slots = slots.clone();
                repo.files = files.clone();
                repo.hooks = hooks.clone();
                repo.revisions = Part::Absent;
                repo.images = images.clone();
                repo.containers = containers.clone();
            }
            Step::Thaw(guid) => a.repo_mut(*guid).storage.frozen = Part::Absent,
            Step::Open { guid, .. } => {
                let storage = &mut a.repo_mut(*guid).storage;
                storage.device = storage.file.clone();
                storage.mapper = storage.mapped().ok().flatten().into();
            }
            Step::GrowMapper(guid) => {
                let storage = &mut a.repo_mut(*guid).storage;
                storage.mapper = storage.mapped().ok().flatten().into();
            }
            Step::Close(guid) => a.repo_mut(*guid).storage.mapper = Part::Absent,
            Step::EnrolKey { guid, .. } => {
                let repo = a.repo_mut(*guid);
                repo.key = Part::Known(());
                if let Part::Known(Header::Luks { slots, .. }) = &mut repo.storage.header {
                    slots.insert(Header::KEY_SLOT);
                }
            }
            Step::CopyKey { guid, .. } => a.repo_mut(*guid).key = Part::Known(()),
            Step::DropKey(guid) => {
                let repo = a.repo_mut(*guid);
                repo.key = Part::Absent;
                if let Part::Known(Header::Luks { slots, .. }) = &mut repo.storage.header {
                    slots.remove(&Header::KEY_SLOT);
                }
            }
            Step::CleanFork(guid) => a.repo_mut(*guid).containers = Part::Known(BTreeMap::new()),
            Step::GrowFile { volume, size } => a.storage_mut(*volume).file = Part::Known(*size),
            Step::Attach(volume) | Step::GrowDevice(volume) => {
                let storage = a.storage_mut(*volume);
                storage.device = storage.file.clone();
            }
            Step::Mount(volume) => {
                fill(a, *volume);
                match volume {
                    Volume::Datastore => a.repositories.or_known(BTreeMap::new()),
                    Volume::Image(guid) => {
                        let repo = a.repo_mut(*guid);
                        repo.files.or_known(BTreeMap::new());
                        repo.hooks.or_known(BTreeMap::new());
                        repo.revisions.or_known(BTreeMap::new());
                    }
                }
            }
            Step::GrowFs(volume) => fill(a, *volume),
            Step::Unmount(volume) => {
                a.storage_mut(*volume).mount = Part::Absent;
                match volume {
                    Volume::Datastore => {
                        a.datastore.layout = Part::Hidden;
                        a.datastore.reserve = Part::Hidden;
                        a.machine = Part::Hidden;
                        a.repositories = Part::Hidden;
                    }
                    Volume::Image(guid) => {
                        let repo = a.repo_mut(*guid);
                        repo.slots = Part::Hidden;
                        repo.files = Part::Hidden;
                        repo.hooks = Part::Hidden;
                        repo.revisions = Part::Hidden;
                    }
                }
            }
            Step::Detach(volume) => a.storage_mut(*volume).device = Part::Absent,
            Step::LayOut => a.datastore.layout = Part::Known(()),
            Step::NoteDatastore(uuid) => a.datastore.note = Part::Known(*uuid),
            Step::CloseDatastore(closed) => a.datastore.closed = closed.clone().into(),
            Step::KeepReserve(size) => a.datastore.reserve = Part::Known(*size),
            Step::GiveReserve => a.datastore.reserve = Part::Absent,
            Step::ClaimMachine {
                name,
                owner,
                overcommit,
            } => {
                a.machine.or_known(MachineRecord::default());
                if let Part::Known(machine) = &mut a.machine {
                    machine.name = Some(name.clone());
                    machine.owner = Some(owner.clone());
                    machine.overcommit = *overcommit;
                }
            }
            Step::SuspendMachine(suspension) => {
                a.machine.or_known(MachineRecord::default());
                if let Part::Known(machine) = &mut a.machine {
                    machine.suspended.clone_from(suspension);
                }
            }
            Step::Reserve {
                guid,
                name,
                network,
                trial_of,
            } => {
                let repo = a.repo_mut(*guid);
                let record = Record::reserved(name.clone(), *network, *trial_of);
                repo.record = Part::Known(record);
                repo.stray_network = None;
                a.machine.or_known(MachineRecord::default());
                if let Part::Known(machine) = &mut a.machine {
                    machine.next_network = machine.next_network.max(network.next());
                }
            }
            Step::Record(guid, patch) => {
                if let Part::Known(record) = &mut a.repo_mut(*guid).record {
                    patch.apply(record);
                }
            }
            Step::Trash(guid) => {
                let repo = a.repo_mut(*guid);
                repo.trash = std::mem::take(&mut repo.storage.file);
            }
            Step::Untrash(guid) => {
                let repo = a.repo_mut(*guid);
                repo.storage.file = std::mem::take(&mut repo.trash);
            }
            Step::Purge { guid, .. } => {
                let repo = a.repo_mut(*guid);
                repo.trash = Part::Absent;
                repo.key = Part::Absent;
                repo.storage.header = Part::Absent;
                repo.slots = Part::Absent;
                repo.files = Part::Absent;
                repo.hooks = Part::Absent;
                repo.revisions = Part::Absent;
                repo.images = Part::Absent;
                repo.containers = Part::Absent;
            }
            Step::DropRecord(guid) => {
                if let Part::Known(all) = &mut a.repositories {
                    all.remove(guid);
                }
            }
            Step::MirrorSlots(guid, slots) => {
                a.repo_mut(*guid).mirror = Part::Known(slots.clone());
            }
            Step::WriteSlots(guid, slots) => a.repo_mut(*guid).slots = Part::Known(slots.clone()),
            Step::StartDaemon { guid, .. } => {
                let repo = a.repo_mut(*guid);
                let served = repo.daemon.known().is_some_and(|daemon| daemon.serving);
                let record = repo.record.known();
                repo.daemon = Part::Known(Daemon {
                    serving: true,
                    supervised: true,
                    limits: Some(record.map(|record| record.limits).unwrap_or_default()),
                });
                if served {
                    // Only limits changed, or a supervisor was added; containers outlive
                    // the change of daemon.
                    return;
                }
                repo.images.or_known(BTreeSet::new());
                repo.containers.or_known(BTreeMap::new());
            }
            Step::StopDaemon { guid, .. } => {
                let repo = a.repo_mut(*guid);
                repo.daemon = Part::Absent;
                repo.images = Part::Hidden;
                repo.containers = Part::Hidden;
                repo.running = Part::Hidden;
            }
            Step::WriteFiles { guid, project } => {
                let seen = FilesSeen {
                    digest: project.files.digest().clone(),
                    files: project
                        .files
                        .files()
                        .iter()
                        .map(|(path, file)| (path.clone(), FileSeen::from(file)))
                        .collect(),
                };
                let repo = a.repo_mut(*guid);
                repo.files.or_known(BTreeMap::new());
                if let Part::Known(files) = &mut repo.files {
                    files.insert(project.name.clone(), seen);
                }
                if let Part::Known(hooks) = &mut repo.hooks
                    && let Some(hook) = project.files.rediaccfile()
                {
                    hooks.insert(project.name.clone(), hook);
                }
            }
            Step::EraseFiles { guid, project } => {
                let repo = a.repo_mut(*guid);
                if let Part::Known(files) = &mut repo.files {
                    files.remove(project);
                }
                if let Part::Known(hooks) = &mut repo.hooks {
                    hooks.remove(project);
                }
                if let Part::Known(revisions) = &mut repo.revisions {
                    revisions.remove(project);
                }
                repo.given.remove(project);
            }
            Step::KeepRevision { guid, project } => {
                let revisions = &mut a.repo_mut(*guid).revisions;
                revisions.or_known(Revisions::new());
                if let Part::Known(all) = revisions {
                    Kept::add(all.entry(project.name.clone()).or_default(), project);
                }
            }
            Step::FetchImages { guid, project, .. } => {
                let repo = a.repo_mut(*guid);
                repo.images.or_known(BTreeSet::new());
                if let Part::Known(images) = &mut repo.images {
                    images.extend(project.images());
                }
            }
            Step::Up { guid, project, .. } => {
                let repo = a.repo_mut(*guid);
                let given = project.compose.clone();
                repo.given.insert(project.name.clone(), given);
                repo.containers.or_known(BTreeMap::new());
                if let Part::Known(all) = &mut repo.containers {
                    let before = all.remove(&project.name).unwrap_or_default();
                    let after: BTreeMap<String, Container> = project
                        .services
                        .iter()
                        .map(|(name, service)| {
                            let kept = before.get(name).filter(|container| {
                                container.config_hash == service.config_hash
                                    && !container.stale_image
                                    && container.state == ContainerState::Running
                            });
                            let container = kept.cloned().unwrap_or_else(|| Container {
                                id: Made::New,
                                started: Made::New,
                                config_hash: service.config_hash.clone(),
                                stale_image: false,
                                state: ContainerState::Running,
                                health: Health::New,
                                last_line: None,
                                everywhere: BTreeSet::new(),
                            });
                            (name.clone(), container)
                        })
                        .collect();
                    if !after.is_empty() {
                        all.insert(project.name.clone(), after);
                    }
                }
            }
            Step::Wait { guid, project, .. } => {
                let repo = a.repo_mut(*guid);
                let containers = repo
                    .containers
                    .known_mut()
                    .and_then(|all| all.get_mut(&project.name));
                for (name, container) in containers.into_iter().flatten() {
                    if project
                        .services
                        .get(name)
                        .is_some_and(|service| service.completes)
                    {
                        container.state = ContainerState::Exited(0);
                    }
                    container.health = Health::Healthy;
                }
            }
            Step::Down { guid, project, .. } => {
                if let Part::Known(all) = &mut a.repo_mut(*guid).containers {
                    all.remove(project);
                }
            }
            Step::Hook {
                guid,
                hook,
                function,
                ..
            } => {
                let run = HookRun {
                    inputs: hook.inputs.clone(),
                    status: 0,
                    boot: a.boot.clone(),
                    containers: BTreeSet::new(),
                };
                let repo = a.repo_mut(*guid);
                repo.stirred.insert(hook.project.clone());
                if let Part::Known(record) = &mut repo.record {
                    run.note(&hook.project, *function, record);
                }
            }
            Step::RecordRoute { name, route } => {
                a.routes.or_known(BTreeMap::new());
                if let Part::Known(routes) = &mut a.routes {
                    routes.insert(name.clone(), route.clone());
                }
            }
            Step::SuspendRoute(name, suspension) => {
                let routes = a.routes.known_mut();
                if let Some(route) = routes.and_then(|routes| routes.get_mut(name)) {
                    route.suspended.clone_from(suspension);
                }
            }
            Step::ForgetRoute(name) => {
                if let Part::Known(routes) = &mut a.routes {
                    routes.remove(name);
                }
            }
            Step::StartProxy(spec) => {
                let asked = a.proxy.known().is_some_and(|proxy| proxy.asked);
                a.proxy = Part::Known(Proxy {
                    spec: spec.clone(),
                    supervised: true,
                    asked,
                });
            }
            Step::StopProxy => a.proxy = Part::Absent,
            Step::PublishRoutes(table) => a.published = Part::Known(table.clone()),
        }
    }
}

/// The file system spans what carries it.
fn fill(a: &mut Actual, volume: Volume) {
    let storage = a.storage_mut(volume);
    let size: Option<Size> = storage.top().ok().flatten();
    if let Some(size) = size {
        storage.mount = Part::Known(Mount { size });
    }
}

/// What is in another image is seen once it is there.
fn hide_contents(repo: &mut Repository) {
    repo.storage.header = Part::Hidden;
    repo.slots = Part::Hidden;
    repo.files = Part::Hidden;
    repo.hooks = Part::Hidden;
    repo.images = Part::Hidden;
    repo.containers = Part::Hidden;
}
