use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use super::{
    Actual, Blocked, Container, ContainerState, Daemon, Digest, FileSeen, FilesSeen, Guid, Health,
    MachineRecord, Made, Mount, Name, NetworkId, Object, Owner, Part, Patch, ProjectSpec, Proxy,
    ProxySpec, Record, Repository, RouteRecord, RouteTable, Size, Slots, Stop, Volume,
};

/// The smallest change of the machine after which observing tells truthfully
/// where it stopped. Steps are data; `host` performs them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Removes a half-made file under its temporary name.
    ClearStaging(Volume),
    /// Makes a file with a file system in it, under a temporary name, committed
    /// by rename. BTRFS for the datastore, ext4 for an image.
    Format {
        /// What is made.
        volume: Volume,
        /// How large.
        size: Size,
        /// The file system's UUID.
        uuid: Uuid,
    },
    /// Makes the file larger.
    GrowFile {
        /// Which.
        volume: Volume,
        /// To this size.
        size: Size,
    },
    /// Attaches a loop device, or finds the one that is attached.
    Attach(Volume),
    /// Lets the loop device see its file's size.
    GrowDevice(Volume),
    /// Mounts the file system.
    Mount(Volume),
    /// Lets the file system fill its device.
    GrowFs(Volume),
    /// Unmounts it.
    Unmount(Volume),
    /// Detaches the loop device.
    Detach(Volume),
    /// Makes the datastore's subvolume and folders.
    LayOut,
    /// Notes that this datastore belongs to this machine.
    NoteDatastore(Uuid),
    /// Notes the machine's name and who declares it.
    ClaimMachine {
        /// Its name.
        name: Name,
        /// Who declares it.
        owner: Owner,
    },
    /// Writes a new repository's record; fails if the name or network was taken meanwhile.
    Reserve {
        /// The repository.
        guid: Guid,
        /// Its name.
        name: Name,
        /// Its network.
        network: NetworkId,
    },
    /// Changes a record.
    Record(Guid, Patch),
    /// Writes the slots outside the image.
    MirrorSlots(Guid, Slots),
    /// Writes the slots inside the image.
    WriteSlots(Guid, Slots),
    /// Starts a supervised Docker daemon.
    StartDaemon {
        /// Whose.
        guid: Guid,
        /// On which network.
        network: NetworkId,
    },
    /// Stops the containers, then the daemon and its supervisor.
    StopDaemon {
        /// Whose.
        guid: Guid,
        /// On which network.
        network: NetworkId,
    },
    /// Writes a project's files.
    WriteFiles {
        /// The repository.
        guid: Guid,
        /// The project.
        project: Arc<ProjectSpec>,
    },
    /// Builds or pulls the images that are missing, before anything is stopped.
    FetchImages {
        /// The repository.
        guid: Guid,
        /// Its network.
        network: NetworkId,
        /// The project.
        project: Arc<ProjectSpec>,
    },
    /// `compose up` of what differs.
    Up {
        /// The repository.
        guid: Guid,
        /// Its network.
        network: NetworkId,
        /// The project.
        project: Arc<ProjectSpec>,
    },
    /// Waits until every service of the project is well.
    Wait {
        /// The repository.
        guid: Guid,
        /// Its network.
        network: NetworkId,
        /// The project.
        project: Arc<ProjectSpec>,
    },
    /// Stops and removes a project's containers.
    Down {
        /// The repository.
        guid: Guid,
        /// Its network.
        network: NetworkId,
        /// The project's name.
        project: Name,
    },
    /// Notes a Route manifest.
    RecordRoute {
        /// Its name.
        name: Name,
        /// What it says.
        route: RouteRecord,
    },
    /// Starts the supervised proxy, again if its settings changed.
    StartProxy(ProxySpec),
    /// Stops the proxy.
    StopProxy,
    /// Publishes the route table.
    PublishRoutes(RouteTable),
}

/// What a plan may cost the user.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Danger {
    /// Stops a service that runs.
    Stops(Guid, Name, String),
    /// May stop whatever runs in the repository: it could not be seen.
    StopsUnseen(Guid),
}

impl Danger {
    /// The repository that is in danger.
    pub fn repository(&self) -> Guid {
        match self {
            Danger::Stops(guid, ..) | Danger::StopsUnseen(guid) => *guid,
        }
    }

    /// Whether what was shown covers this.
    pub fn is_within(&self, shown: &BTreeSet<Danger>) -> bool {
        shown.contains(self) || shown.contains(&Danger::StopsUnseen(self.repository()))
    }
}

fn ready_if(condition: bool, what: &str) -> Result<(), Stop> {
    if condition {
        Ok(())
    } else {
        Err(Stop::Block(Blocked::NotReady(what.to_owned())))
    }
}

impl Step {
    /// What the step is done to.
    pub fn object(&self) -> Object {
        match self {
            Step::ClearStaging(volume)
            | Step::Format { volume, .. }
            | Step::GrowFile { volume, .. }
            | Step::Attach(volume)
            | Step::GrowDevice(volume)
            | Step::Mount(volume)
            | Step::GrowFs(volume)
            | Step::Unmount(volume)
            | Step::Detach(volume) => match volume {
                Volume::Datastore => Object::Datastore,
                Volume::Image(guid) => Object::Repository(*guid),
            },
            Step::LayOut | Step::NoteDatastore(_) => Object::Datastore,
            Step::ClaimMachine { .. } => Object::Machine,
            Step::Record(
                guid,
                Patch::OwnProject(project)
                | Patch::DisownProject(project)
                | Patch::Failed(project, _)
                | Patch::Passed(project),
            ) => Object::Service(*guid, project.clone()),
            Step::Reserve { guid, .. }
            | Step::Record(guid, _)
            | Step::MirrorSlots(guid, _)
            | Step::WriteSlots(guid, _)
            | Step::StartDaemon { guid, .. }
            | Step::StopDaemon { guid, .. } => Object::Repository(*guid),
            Step::WriteFiles { guid, project }
            | Step::FetchImages { guid, project, .. }
            | Step::Up { guid, project, .. }
            | Step::Wait { guid, project, .. } => Object::Service(*guid, project.name.clone()),
            Step::Down { guid, project, .. } => Object::Service(*guid, project.clone()),
            Step::RecordRoute { name, .. } => Object::Route(name.clone()),
            Step::StartProxy(_) | Step::StopProxy | Step::PublishRoutes(_) => Object::Proxy,
        }
    }

    /// The repository that the step stands on: its own, or a route's.
    pub fn repository(&self) -> Option<Guid> {
        match self {
            Step::RecordRoute { route, .. } => Some(route.repository),
            _ => self.object().repository(),
        }
    }

    /// Whether the machine is already as this step would make it.
    pub fn holds(&self, a: &Actual) -> Result<bool, Stop> {
        let absent = Repository::default();
        Ok(match self {
            Step::ClearStaging(volume) => a.storage(*volume)?.staging.get()?.is_none(),
            Step::Format { volume, .. } => a.storage(*volume)?.file.get()?.is_some(),
            Step::GrowFile { volume, size } => {
                a.storage(*volume)?.file.get()?.is_some_and(|is| is >= size)
            }
            Step::Attach(volume) => a.storage(*volume)?.device.get()?.is_some(),
            Step::GrowDevice(volume) => {
                let storage = a.storage(*volume)?;
                storage.device.get()?.is_some() && storage.device.get()? == storage.file.get()?
            }
            Step::Mount(volume) => a.storage(*volume)?.mount.get()?.is_some(),
            Step::GrowFs(volume) => {
                let storage = a.storage(*volume)?;
                let size = storage.mount.get()?.map(|mount| mount.size);
                size.is_some() && size == storage.device.get()?.copied()
            }
            Step::Unmount(volume) => a.storage(*volume)?.mount.get()?.is_none(),
            Step::Detach(volume) => a.storage(*volume)?.device.get()?.is_none(),
            Step::LayOut => a.datastore.layout.get()?.is_some(),
            Step::NoteDatastore(uuid) => a.datastore.note.get()? == Some(uuid),
            Step::ClaimMachine { name, owner } => a.machine.get()?.is_some_and(|machine| {
                machine.name.as_ref() == Some(name) && machine.owner.as_ref() == Some(owner)
            }),
            Step::Reserve { guid, .. } => a.repo(*guid, &absent)?.record.get()?.is_some(),
            Step::Record(guid, patch) => a
                .repo(*guid, &absent)?
                .record
                .get()?
                .is_some_and(|record| patch.holds(record)),
            Step::MirrorSlots(guid, slots) => {
                a.repo(*guid, &absent)?
                    .mirror
                    .get()?
                    .unwrap_or(&Slots::default())
                    == slots
            }
            Step::WriteSlots(guid, slots) => {
                a.repo(*guid, &absent)?
                    .slots
                    .get()?
                    .unwrap_or(&Slots::default())
                    == slots
            }
            Step::StartDaemon { guid, .. } => a
                .repo(*guid, &absent)?
                .daemon
                .get()?
                .is_some_and(|daemon| daemon.serving && daemon.supervised),
            Step::StopDaemon { guid, .. } => a.repo(*guid, &absent)?.daemon.get()?.is_none(),
            Step::WriteFiles { guid, project } => a
                .repo(*guid, &absent)?
                .files
                .get()?
                .and_then(|files| files.get(&project.name))
                .is_some_and(|files| files.digest == *project.files.digest()),
            Step::FetchImages { guid, project, .. } => {
                let repo = a.repo(*guid, &absent)?;
                repo.images
                    .get()?
                    .is_some_and(|images| project.images().is_subset(images))
            }
            Step::Up { guid, project, .. } => {
                let repo = a.repo(*guid, &absent)?;
                let Some(containers) = repo.containers.get()? else {
                    return Ok(false);
                };
                let none = BTreeMap::new();
                let containers = containers.get(&project.name).unwrap_or(&none);
                containers.len() == project.services.len()
                    && project.services.iter().all(|(name, service)| {
                        containers.get(name).is_some_and(|container| {
                            container.config_hash == service.config_hash
                                && !container.stale_image
                                && match container.state {
                                    ContainerState::Running => true,
                                    ContainerState::Exited(status) => {
                                        service.completes && status == 0
                                    }
                                    ContainerState::Other => false,
                                }
                        })
                    })
            }
            Step::Wait { guid, project, .. } => {
                let repo = a.repo(*guid, &absent)?;
                let Some(containers) = repo.containers.get()? else {
                    return Ok(false);
                };
                let none = BTreeMap::new();
                let containers = containers.get(&project.name).unwrap_or(&none);
                project.services.iter().all(|(name, service)| {
                    containers.get(name).is_some_and(|container| {
                        container.state == ContainerState::Running
                            && container.health == Health::Healthy
                            || service.completes && container.state == ContainerState::Exited(0)
                    })
                })
            }
            Step::Down { guid, project, .. } => a
                .repo(*guid, &absent)?
                .containers
                .get()?
                .is_none_or(|containers| !containers.contains_key(project)),
            Step::RecordRoute { name, route } => a
                .routes
                .get()?
                .is_some_and(|routes| routes.get(name) == Some(route)),
            Step::StartProxy(spec) => a
                .proxy
                .get()?
                .is_some_and(|proxy| proxy.spec == *spec && proxy.supervised),
            Step::StopProxy => a.proxy.get()?.is_none(),
            Step::PublishRoutes(table) => a.published.get()?.unwrap_or(&RouteTable::new()) == table,
        })
    }

    /// Whether the step can be done now without being wrong on any machine.
    pub fn ready(&self, a: &Actual) -> Result<(), Stop> {
        let absent = Repository::default();
        if let Some(guid) = self.object().repository() {
            // Records, images and mount points all live in the datastore.
            ready_if(
                a.datastore.storage.mount.get()?.is_some(),
                "the datastore is closed",
            )?;
            ready_if(
                a.datastore.layout.get()?.is_some(),
                "the datastore has no folders",
            )?;
            a.repo(guid, &absent)?;
        }
        match self {
            Step::ClearStaging(_) | Step::PublishRoutes(_) => Ok(()),
            Step::RecordRoute { route, .. } => {
                let repo = a.repo(route.repository, &absent)?;
                let slot = repo
                    .mirror
                    .get()?
                    .and_then(|slots| slots.0.get(&route.service));
                let network = repo.record.get()?.map(|record| record.network);
                let fixed = slot
                    .zip(network)
                    .map(|(slot, network)| network.address(*slot));
                ready_if(fixed == Some(route.address), "its address is not settled")
            }
            Step::Format { volume, .. } => {
                let storage = a.storage(*volume)?;
                ready_if(storage.file.get()?.is_none(), "the image is there")?;
                ready_if(
                    storage.staging.get()?.is_none(),
                    "a half-made image is there",
                )?;
                match volume {
                    Volume::Datastore => {
                        ready_if(a.datastore.note.get()?.is_none(), "a datastore was noted")
                    }
                    Volume::Image(guid) => {
                        let repo = a.repo(*guid, &absent)?;
                        let record = repo.record.get()?;
                        ready_if(
                            record.is_some_and(|record| !record.created),
                            "no record asks for a new image",
                        )
                    }
                }
            }
            Step::GrowFile { volume, size } => {
                let storage = a.storage(*volume)?;
                ready_if(
                    storage.file.get()?.is_some_and(|is| is <= size),
                    "the file is missing, or larger",
                )
            }
            Step::Attach(volume) => ready_if(
                a.storage(*volume)?.file.get()?.is_some(),
                "there is no file",
            ),
            Step::GrowDevice(volume) | Step::Mount(volume) => ready_if(
                a.storage(*volume)?.device.get()?.is_some(),
                "it is not attached",
            ),
            Step::GrowFs(volume) => ready_if(
                a.storage(*volume)?.mount.get()?.is_some(),
                "it is not mounted",
            ),
            Step::Unmount(volume) => match volume {
                Volume::Image(guid) => ready_if(
                    a.repo(*guid, &absent)?.daemon.get()?.is_none(),
                    "its daemon is there",
                ),
                Volume::Datastore => {
                    let none_open = a
                        .repositories
                        .get()?
                        .is_none_or(|all| all.values().all(|repo| repo.storage.device.is_absent()));
                    ready_if(none_open, "repositories are open")
                }
            },
            Step::Detach(volume) => {
                ready_if(a.storage(*volume)?.mount.get()?.is_none(), "it is mounted")
            }
            Step::LayOut | Step::NoteDatastore(_) | Step::ClaimMachine { .. } => ready_if(
                a.datastore.storage.mount.get()?.is_some(),
                "the datastore is closed",
            ),
            Step::Reserve {
                name,
                network,
                guid,
            } => {
                let all = a.repositories.get()?;
                let taken = all.into_iter().flatten().any(|(other, repo)| {
                    other != guid
                        && repo.record.known().is_some_and(|record| {
                            record.name == *name || record.network == *network
                        })
                });
                ready_if(!taken, "the name or the network is taken")
            }
            Step::Record(guid, _) | Step::MirrorSlots(guid, _) => ready_if(
                a.repo(*guid, &absent)?.record.get()?.is_some(),
                "there is no record",
            ),
            Step::WriteSlots(guid, _) | Step::WriteFiles { guid, .. } => ready_if(
                a.repo(*guid, &absent)?.storage.mount.get()?.is_some(),
                "it is not mounted",
            ),
            Step::StartDaemon { guid, network } => {
                let repo = a.repo(*guid, &absent)?;
                ready_if(repo.storage.mount.get()?.is_some(), "it is not mounted")?;
                ready_if(
                    repo.record
                        .get()?
                        .is_some_and(|record| record.network == *network),
                    "the network is not its own",
                )
            }
            Step::StopDaemon { guid, .. } => {
                a.repo(*guid, &absent)?.daemon.get()?;
                Ok(())
            }
            Step::FetchImages { guid, project, .. } | Step::Up { guid, project, .. } => {
                let repo = a.repo(*guid, &absent)?;
                ready_if(serves(repo)?, "its daemon does not serve")?;
                let files = repo.files.get()?.and_then(|files| files.get(&project.name));
                ready_if(
                    files.is_some_and(|files| files.digest == *project.files.digest()),
                    "its files are not in place",
                )?;
                if let Step::Up { .. } = self {
                    let images = repo.images.get()?;
                    ready_if(
                        images.is_some_and(|images| project.images().is_subset(images)),
                        "its images are not in place",
                    )?;
                    // Started is owned: otherwise nothing could stop it later.
                    ready_if(
                        repo.record
                            .get()?
                            .is_some_and(|record| record.projects.contains(&project.name)),
                        "the project is not owned",
                    )?;
                }
                Ok(())
            }
            Step::Wait { guid, project, .. } => {
                let repo = a.repo(*guid, &absent)?;
                ready_if(serves(repo)?, "its daemon does not serve")?;
                let there = repo
                    .containers
                    .get()?
                    .is_some_and(|containers| containers.contains_key(&project.name));
                ready_if(there || project.services.is_empty(), "it was not started")
            }
            Step::Down { guid, .. } => ready_if(
                serves(a.repo(*guid, &absent)?)?,
                "its daemon does not serve",
            ),
            Step::StartProxy(_) | Step::StopProxy => {
                a.proxy.get()?;
                Ok(())
            }
        }
    }

    /// What becomes of the machine. Defined only where the step is [`Step::ready`];
    /// changes only what the step names.
    pub fn effect(&self, a: &mut Actual) {
        match self {
            Step::ClearStaging(volume) => a.storage_mut(*volume).staging = Part::Absent,
            Step::Format { volume, size, uuid } => {
                a.storage_mut(*volume).file = Part::Known(*size);
                match volume {
                    Volume::Datastore => {
                        a.datastore.identity = Part::Known(*uuid);
                        a.datastore.layout = Part::Absent;
                        a.machine = Part::Absent;
                        a.repositories = Part::Known(BTreeMap::new());
                    }
                    Volume::Image(guid) => {
                        // Just made, so known to be empty.
                        let repo = a.repo_mut(*guid);
                        repo.slots = Part::Absent;
                        repo.files = Part::Absent;
                        repo.images = Part::Absent;
                        repo.containers = Part::Absent;
                    }
                }
            }
            Step::GrowFile { volume, size } => a.storage_mut(*volume).file = Part::Known(*size),
            Step::Attach(volume) | Step::GrowDevice(volume) => {
                let storage = a.storage_mut(*volume);
                storage.device = storage.file.clone();
            }
            Step::Mount(volume) => {
                let storage = a.storage_mut(*volume);
                if let Part::Known(size) = storage.device {
                    storage.mount = Part::Known(Mount { size });
                }
                match volume {
                    Volume::Datastore => a.repositories.or_known(BTreeMap::new()),
                    Volume::Image(guid) => a.repo_mut(*guid).files.or_known(BTreeMap::new()),
                }
            }
            Step::GrowFs(volume) => {
                let storage = a.storage_mut(*volume);
                if let Part::Known(size) = storage.device {
                    storage.mount = Part::Known(Mount { size });
                }
            }
            Step::Unmount(volume) => {
                a.storage_mut(*volume).mount = Part::Absent;
                match volume {
                    Volume::Datastore => {
                        a.datastore.layout = Part::Hidden;
                        a.machine = Part::Hidden;
                        a.repositories = Part::Hidden;
                    }
                    Volume::Image(guid) => {
                        let repo = a.repo_mut(*guid);
                        repo.slots = Part::Hidden;
                        repo.files = Part::Hidden;
                    }
                }
            }
            Step::Detach(volume) => a.storage_mut(*volume).device = Part::Absent,
            Step::LayOut => a.datastore.layout = Part::Known(()),
            Step::NoteDatastore(uuid) => a.datastore.note = Part::Known(*uuid),
            Step::ClaimMachine { name, owner } => {
                a.machine.or_known(MachineRecord::default());
                if let Part::Known(machine) = &mut a.machine {
                    machine.name = Some(name.clone());
                    machine.owner = Some(owner.clone());
                }
            }
            Step::Reserve {
                guid,
                name,
                network,
            } => {
                a.repo_mut(*guid).record = Part::Known(Record {
                    name: name.clone(),
                    network: *network,
                    owner: None,
                    created: false,
                    projects: BTreeSet::new(),
                    failed: BTreeMap::new(),
                    other: BTreeMap::new(),
                });
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
            Step::MirrorSlots(guid, slots) => {
                a.repo_mut(*guid).mirror = Part::Known(slots.clone());
            }
            Step::WriteSlots(guid, slots) => a.repo_mut(*guid).slots = Part::Known(slots.clone()),
            Step::StartDaemon { guid, .. } => {
                let repo = a.repo_mut(*guid);
                let served = repo.daemon.known().is_some_and(|daemon| daemon.serving);
                repo.daemon = Part::Known(Daemon {
                    serving: true,
                    supervised: true,
                });
                if served {
                    // Only a supervisor was added; containers outlive the change of daemon.
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
            }
            Step::WriteFiles { guid, project } => {
                let seen = FilesSeen {
                    digest: project.files.digest().clone(),
                    files: project
                        .files
                        .files()
                        .iter()
                        .map(|(path, file)| {
                            (path.clone(), FileSeen::of(&file.bytes, file.executable))
                        })
                        .collect(),
                };
                let repo = a.repo_mut(*guid);
                repo.files.or_known(BTreeMap::new());
                if let Part::Known(files) = &mut repo.files {
                    files.insert(project.name.clone(), seen);
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
            Step::RecordRoute { name, route } => {
                a.routes.or_known(BTreeMap::new());
                if let Part::Known(routes) = &mut a.routes {
                    routes.insert(name.clone(), route.clone());
                }
            }
            Step::StartProxy(spec) => {
                a.proxy = Part::Known(Proxy {
                    spec: spec.clone(),
                    supervised: true,
                });
            }
            Step::StopProxy => a.proxy = Part::Absent,
            Step::PublishRoutes(table) => a.published = Part::Known(table.clone()),
        }
    }

    /// What to remember when the step fails for a reason that lies in its own
    /// revision: a change of a record, nothing else.
    pub fn on_error(&self) -> Option<Step> {
        match self {
            Step::FetchImages { guid, project, .. }
            | Step::Up { guid, project, .. }
            | Step::Wait { guid, project, .. } => Some(Step::Record(
                *guid,
                Patch::Failed(project.name.clone(), project.hash.clone()),
            )),
            _ => None,
        }
    }

    /// The states besides "before" and "after" in which a crash inside the step
    /// may leave the machine.
    pub fn residue(&self, before: &Actual) -> Vec<Actual> {
        let mut left = before.clone();
        match self {
            Step::Format { volume, .. } => left.storage_mut(*volume).staging = Part::Known(()),
            // An attached device comes first, then the mount.
            Step::StartDaemon { guid, .. } => {
                left.repo_mut(*guid).daemon = Part::Known(Daemon {
                    serving: false,
                    supervised: false,
                });
            }
            Step::StopDaemon { guid, .. } => {
                let repo = left.repo_mut(*guid);
                if let Part::Known(daemon) = &mut repo.daemon {
                    daemon.supervised = false;
                }
                if let Part::Known(all) = &mut repo.containers {
                    all.values_mut()
                        .flat_map(BTreeMap::values_mut)
                        .for_each(|container| container.state = ContainerState::Exited(143));
                }
            }
            Step::WriteFiles { guid, project } => {
                let repo = left.repo_mut(*guid);
                if let Some(files) = repo
                    .files
                    .known_mut()
                    .and_then(|files| files.get_mut(&project.name))
                {
                    // Some files are new, some old: the digest fits neither.
                    files.digest = Digest::of_fields([files.digest.as_str().as_bytes(), b"torn"]);
                }
            }
            Step::Up { guid, project, .. } => {
                // Old containers gone, new ones made but not started.
                let mut after = before.clone();
                self.effect(&mut after);
                let made = after
                    .repo_mut(*guid)
                    .containers
                    .known()
                    .and_then(|all| all.get(&project.name))
                    .cloned();
                if let (Some(all), Some(mut made)) =
                    (left.repo_mut(*guid).containers.known_mut(), made)
                {
                    for container in made.values_mut() {
                        if container.health == Health::New {
                            container.state = ContainerState::Other;
                        }
                    }
                    all.insert(project.name.clone(), made);
                }
            }
            Step::Down { guid, project, .. } => {
                let containers = left
                    .repo_mut(*guid)
                    .containers
                    .known_mut()
                    .and_then(|all| all.get_mut(project));
                for container in containers.into_iter().flat_map(BTreeMap::values_mut) {
                    container.state = ContainerState::Exited(143);
                }
            }
            _ => return Vec::new(),
        }
        vec![left]
    }

    /// What the step costs the user, seen before it is done.
    pub fn danger(&self, a: &Actual) -> Vec<Danger> {
        let Some(guid) = self.object().repository() else {
            return Vec::new();
        };
        let absent = Repository::default();
        let Ok(repo) = a.repo(guid, &absent) else {
            return Vec::new();
        };
        let running = |only: Option<&Name>, spared: &dyn Fn(&str, &Container) -> bool| {
            repo.containers
                .known()
                .into_iter()
                .flatten()
                .filter(|(project, _)| only.is_none_or(|only| only == *project))
                .flat_map(|(project, containers)| {
                    containers
                        .iter()
                        .filter(|(name, container)| {
                            container.state == ContainerState::Running && !spared(name, container)
                        })
                        .map(|(name, _)| Danger::Stops(guid, project.clone(), name.clone()))
                        .collect::<Vec<_>>()
                })
                .collect()
        };
        match self {
            Step::StopDaemon { .. } if repo.containers == Part::Hidden => {
                vec![Danger::StopsUnseen(guid)]
            }
            Step::StopDaemon { .. } => running(None, &|_, _| false),
            Step::Down { project, .. } => running(Some(project), &|_, _| false),
            Step::Up { project, .. } => running(Some(&project.name), &|name, container| {
                project.services.get(name).is_some_and(|service| {
                    service.config_hash == container.config_hash && !container.stale_image
                })
            }),
            _ => Vec::new(),
        }
    }
}

fn serves(repo: &Repository) -> Result<bool, Stop> {
    Ok(repo.daemon.get()?.is_some_and(|daemon| daemon.serving))
}

impl FileSeen {
    /// The longest text that a diff shows, in bytes.
    const LONGEST_TEXT: usize = 64 * 1024;

    /// A file as it would be seen.
    pub fn of(bytes: &[u8], executable: bool) -> Self {
        let text = (bytes.len() <= Self::LONGEST_TEXT)
            .then(|| std::str::from_utf8(bytes).ok().map(Arc::from))
            .flatten();
        Self {
            digest: Digest::of(bytes),
            executable,
            text,
        }
    }
}

/// The line that the operator reads: what is done, and to what size or name.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::ClearStaging(_) => f.write_str("clear half-made image"),
            Step::Format {
                volume: Volume::Datastore,
                size,
                ..
            } => {
                write!(f, "create datastore        {size}, btrfs")
            }
            Step::Format { size, .. } => write!(f, "create image            {size}, ext4"),
            Step::GrowFile { size, .. } => write!(f, "grow file               to {size}"),
            Step::Attach(_) => f.write_str("attach"),
            Step::GrowDevice(_) => f.write_str("grow device"),
            Step::Mount(_) => f.write_str("mount"),
            Step::GrowFs(_) => f.write_str("grow file system"),
            Step::Unmount(_) => f.write_str("unmount"),
            Step::Detach(_) => f.write_str("detach"),
            Step::LayOut => f.write_str("lay out folders"),
            Step::NoteDatastore(uuid) => write!(f, "note datastore          {uuid}"),
            Step::ClaimMachine { name, .. } => write!(f, "name machine            {name}"),
            Step::Reserve { network, .. } => write!(f, "reserve                 network {network}"),
            Step::Record(_, patch) => match patch {
                Patch::Claim(owner) => write!(f, "adopt                   for {}", owner.source),
                Patch::Created => f.write_str("note image"),
                Patch::OwnProject(_) => f.write_str("own project"),
                Patch::DisownProject(_) => f.write_str("disown project"),
                Patch::Failed(_, hash) => write!(f, "note failed revision    {}", hash.short()),
                Patch::Passed(_) => f.write_str("forget failed revision"),
            },
            Step::MirrorSlots(_, slots) | Step::WriteSlots(_, slots) => {
                let place = if matches!(self, Step::WriteSlots(..)) {
                    "write"
                } else {
                    "mirror"
                };
                write!(f, "{:<24}", format!("{place} slots"))?;
                for (index, (service, slot)) in slots.0.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{service}={}", slot.get())?;
                }
                Ok(())
            }
            Step::StartDaemon { network, .. } => {
                write!(f, "start daemon            network {network}")
            }
            Step::StopDaemon { network, .. } => {
                write!(f, "stop daemon             network {network}")
            }
            Step::WriteFiles { project, .. } => {
                let files = project.files.files().len();
                let plural = if files == 1 { "" } else { "s" };
                write!(f, "write files             {files} file{plural}")
            }
            Step::FetchImages { project, .. } => {
                let images: Vec<String> = project.images().into_iter().collect();
                write!(f, "fetch images            {}", images.join(", "))
            }
            Step::Up { project, .. } => {
                let names: Vec<&str> = project.services.keys().map(String::as_str).collect();
                write!(f, "up                      {}", names.join(", "))
            }
            Step::Wait { .. } => f.write_str("wait until well"),
            Step::Down { .. } => f.write_str("down"),
            Step::RecordRoute { route, .. } => write!(
                f,
                "note route              {} → {}:{}",
                route.host, route.service, route.port
            ),
            Step::StartProxy(spec) => write!(f, "start proxy             port {}", spec.http),
            Step::StopProxy => f.write_str("stop proxy"),
            Step::PublishRoutes(table) => {
                let hosts: Vec<&str> = table.values().map(|route| route.host.as_str()).collect();
                write!(f, "publish routes          {}", hosts.join(", "))
            }
        }
    }
}
