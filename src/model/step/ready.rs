use super::Step;
use crate::model::{Actual, Blocked, Guid, Header, Name, Patch, Record, Repository, Stop, Volume};

fn ready_if(condition: bool, what: &str) -> Result<(), Stop> {
    if condition {
        Ok(())
    } else {
        Err(Stop::Block(Blocked::NotReady(what.to_owned())))
    }
}

impl Step {
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
            // Whose it is, and whether it lives, is known before anything changes.
            a.repo(guid, &absent)?.record.get()?;
        }
        match self {
            Step::ClearStaging(_) | Step::PublishRoutes(_) | Step::ForgetRoute(_) => Ok(()),
            Step::SuspendRoute(name, _) => ready_if(
                a.routes.get()?.is_some_and(|all| all.contains_key(name)),
                "it was not noted",
            ),
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
                        let disk = a.datastore.disk.get()?;
                        let refused = disk.and_then(|disk| disk.refused.as_ref());
                        ready_if(refused.is_none(), "its device is not blank")?;
                        ready_if(a.datastore.note.get()?.is_none(), "a datastore was noted")
                    }
                    Volume::Image(guid) => {
                        let repo = a.repo(*guid, &absent)?;
                        let record = repo.record.get()?;
                        ready_if(
                            record.is_some_and(|record| !record.created),
                            "no record asks for a new image",
                        )?;
                        ready_if(repo.trash.get()?.is_none(), "its image is in the trash")
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
            Step::GrowDevice(volume) => ready_if(
                a.storage(*volume)?.device.get()?.is_some(),
                "it is not attached",
            ),
            Step::Mount(volume) => {
                ready_if(a.storage(*volume)?.top()?.is_some(), "it is not attached")
            }
            Step::Snapshot { guid, .. } => {
                let storage = &a.repo(*guid, &absent)?.storage;
                ready_if(storage.file.get()?.is_some(), "there is no image")?;
                ready_if(
                    storage.staging.get()?.is_none(),
                    "something half-made is there",
                )?;
                ready_if(storage.frozen.get()?.is_none(), "it is frozen")
            }
            Step::DropSnapshot { guid, permit, .. } => {
                ready_if(permit.guid() == *guid, "the permit is for another one")
            }
            Step::Replace { guid, with, .. } => {
                let repo = a.repo(*guid, &absent)?;
                let all = repo.snapshots.get()?;
                let there = all.is_some_and(|all| all.contains_key(with));
                ready_if(there, "there is no such snapshot")?;
                let rewind = repo.record.get()?.and_then(|record| record.rewind);
                ready_if(rewind.is_some(), "no record asks for it")?;
                let storage = &repo.storage;
                ready_if(storage.file.get()?.is_some(), "there is no image")?;
                ready_if(
                    storage.staging.get()?.is_none(),
                    "something half-made is there",
                )?;
                is_closed(repo)
            }
            Step::KeepReplaced { guid, .. } => ready_if(
                a.repo(*guid, &absent)?.storage.staging.get()?.is_none(),
                "something half-made is there",
            ),
            Step::Fork {
                guid,
                from,
                snapshot,
            } => {
                let repo = a.repo(*guid, &absent)?;
                ready_if(repo.storage.file.get()?.is_none(), "the image is there")?;
                ready_if(
                    repo.storage.staging.get()?.is_none(),
                    "a half-made image is there",
                )?;
                ready_if(repo.trash.get()?.is_none(), "its image is in the trash")?;
                let record = repo.record.get()?.filter(|record| !record.created);
                let lineage = record.and_then(|record| record.lineage.as_ref());
                ready_if(
                    lineage.is_some_and(|lineage| lineage.parent == *from),
                    "no record asks for this copy",
                )?;
                let parent = a.repo(*from, &absent)?;
                let live = parent.record.get()?.is_some_and(Record::is_live);
                ready_if(live, "its parent is not there")?;
                if let Some(at) = snapshot {
                    let all = parent.snapshots.get()?;
                    let there = all.is_some_and(|all| all.contains_key(at));
                    return ready_if(there, "there is no such snapshot");
                }
                ready_if(
                    parent.storage.file.get()?.is_some(),
                    "its parent has no image",
                )?;
                ready_if(
                    parent.storage.frozen.get()?.is_none(),
                    "its parent is frozen",
                )
            }
            Step::Thaw(_) => Ok(()),
            Step::Open { guid, with } => {
                let storage = &a.repo(*guid, &absent)?.storage;
                ready_if(storage.file.get()?.is_some(), "there is no file")?;
                ready_if(storage.is_sealed()?, "it is not encrypted")?;
                ready_if(!with.is_empty(), "nothing opens it")
            }
            Step::GrowMapper(guid) => ready_if(
                a.repo(*guid, &absent)?.storage.mapper.get()?.is_some(),
                "it is not open",
            ),
            Step::Close(guid) => ready_if(
                a.repo(*guid, &absent)?.storage.mount.get()?.is_none(),
                "it is mounted",
            ),
            Step::EnrolKey { guid, with } => {
                let storage = &a.repo(*guid, &absent)?.storage;
                ready_if(storage.file.get()?.is_some(), "there is no file")?;
                ready_if(storage.is_sealed()?, "it is not encrypted")?;
                ready_if(!with.is_empty(), "nothing opens it")
            }
            Step::CopyKey { guid, from } => {
                let repo = a.repo(*guid, &absent)?;
                let header = repo.storage.header.get()?;
                ready_if(header.is_some_and(Header::has_key), "it has no such slot")?;
                ready_if(
                    a.repo(*from, &absent)?.key.get()?.is_some(),
                    "its parent has no key",
                )
            }
            Step::DropKey(guid) => ready_if(
                a.repo(*guid, &absent)?.storage.file.get()?.is_some(),
                "there is no file",
            ),
            Step::CleanFork(guid) => {
                let repo = a.repo(*guid, &absent)?;
                ready_if(repo.storage.mount.get()?.is_some(), "it is not mounted")?;
                ready_if(repo.daemon.get()?.is_none(), "its daemon is there")
            }
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
                let storage = a.storage(*volume)?;
                ready_if(storage.mount.get()?.is_none(), "it is mounted")?;
                ready_if(storage.mapper.get()?.is_none(), "it is open")
            }
            Step::CloseDatastore(_) => {
                ready_if(a.datastore.note.get()?.is_some(), "no datastore was noted")
            }
            Step::LayOut
            | Step::NoteDatastore(_)
            | Step::KeepReserve(_)
            | Step::GiveReserve
            | Step::ClaimMachine { .. }
            | Step::SuspendMachine(_) => ready_if(
                a.datastore.storage.mount.get()?.is_some(),
                "the datastore is closed",
            ),
            Step::Reserve {
                name,
                network,
                guid,
                ..
            } => {
                let all = a.repositories.get()?;
                let taken = all.into_iter().flatten().any(|(other, repo)| {
                    other != guid
                        && repo.record.known().is_some_and(|record| {
                            record.is_live() && record.name == *name
                                || record.holds_network() == Some(*network)
                        })
                });
                ready_if(!taken, "the name or the network is taken")
            }
            Step::Trash(guid) => {
                let repo = a.repo(*guid, &absent)?;
                let deleted = repo.record.get()?.is_some_and(|record| !record.is_live());
                ready_if(deleted, "it is not marked as deleted")?;
                is_closed(repo)?;
                ready_if(
                    repo.trash.get()?.is_none(),
                    "an image of it is in the trash already",
                )
            }
            Step::Untrash(guid) => {
                let repo = a.repo(*guid, &absent)?;
                let live = repo.record.get()?.is_some_and(|record| record.is_live());
                ready_if(live, "it is marked as deleted")?;
                ready_if(
                    repo.storage.file.get()?.is_none(),
                    "an image of it is there",
                )
            }
            Step::Purge { guid, permit } => {
                let repo = a.repo(*guid, &absent)?;
                let deleted = repo.record.get()?.is_some_and(|record| !record.is_live());
                ready_if(deleted, "it is not marked as deleted")?;
                ready_if(permit.guid() == *guid, "the permit is for another one")
            }
            Step::DropRecord(guid) => {
                let repo = a.repo(*guid, &absent)?;
                let deleted = repo.record.get()?.is_some_and(|record| !record.is_live());
                ready_if(deleted, "it is not marked as deleted")?;
                let image = repo.storage.file.get()?.is_some() || repo.trash.get()?.is_some();
                ready_if(!image, "its image is there")?;
                ready_if(
                    repo.replaced.get()?.is_none(),
                    "an image of it that was replaced is there",
                )?;
                ready_if(
                    repo.snapshots.get()?.is_none_or(|all| all.is_empty()),
                    "snapshots of it are there",
                )?;
                ready_if(repo.daemon.get()?.is_none(), "its daemon is there")
            }
            Step::Record(guid, patch) => {
                let repo = a.repo(*guid, &absent)?;
                let record = repo.record.get()?;
                ready_if(record.is_some(), "there is no record")?;
                let name = match patch {
                    Patch::Rename(name) => Some(name),
                    Patch::Delete(None) => record.map(|record| &record.name),
                    _ => None,
                };
                let taken = |name| names(a, *guid).any(|other| other == name);
                ready_if(!name.is_some_and(taken), "the name is taken")?;
                if let Patch::Network(network) = patch {
                    let all = a.repositories.get()?.into_iter().flatten();
                    let mut others = all.filter(|(other, _)| *other != guid);
                    let held = others.any(|(_, other)| {
                        let record = other.record.known();
                        record.and_then(Record::holds_network) == Some(*network)
                    });
                    ready_if(!held, "the network is taken")?;
                    ready_if(repo.daemon.get()?.is_none(), "its daemon is there")?;
                    ready_if(
                        record.is_some_and(Record::is_uncleaned_fork),
                        "it was up on its network",
                    )?;
                }
                Ok(())
            }
            Step::MirrorSlots(guid, _) => ready_if(
                a.repo(*guid, &absent)?.record.get()?.is_some(),
                "there is no record",
            ),
            Step::WriteSlots(guid, _)
            | Step::WriteFiles { guid, .. }
            | Step::KeepRevision { guid, .. }
            | Step::EraseFiles { guid, .. } => ready_if(
                a.repo(*guid, &absent)?.storage.mount.get()?.is_some(),
                "it is not mounted",
            ),
            Step::StartDaemon { guid, network } => {
                let repo = a.repo(*guid, &absent)?;
                ready_if(repo.storage.mount.get()?.is_some(), "it is not mounted")?;
                let record = repo.record.get()?;
                ready_if(
                    record.is_some_and(|record| record.network == *network),
                    "the network is not its own",
                )?;
                // A copied container may start before anybody could stop it.
                ready_if(
                    !record.is_some_and(Record::is_uncleaned_fork),
                    "its parent's containers are in it",
                )
            }
            Step::StopDaemon { guid, .. } => {
                a.repo(*guid, &absent)?.daemon.get()?;
                Ok(())
            }
            Step::FetchImages { guid, project, .. } | Step::Up { guid, project, .. } => {
                let repo = a.repo(*guid, &absent)?;
                ready_if(repo.serves()?, "its daemon does not serve")?;
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
                ready_if(repo.serves()?, "its daemon does not serve")?;
                let there = repo
                    .containers
                    .get()?
                    .is_some_and(|containers| containers.contains_key(&project.name));
                ready_if(there || project.services.is_empty(), "it was not started")
            }
            Step::Down { guid, .. } | Step::Hook { guid, .. } => ready_if(
                a.repo(*guid, &absent)?.serves()?,
                "its daemon does not serve",
            ),
            Step::StartProxy(_) | Step::StopProxy => {
                a.proxy.get()?;
                Ok(())
            }
        }
    }
}

/// The names of all other live repositories.
fn names(a: &Actual, but: Guid) -> impl Iterator<Item = &Name> {
    let all = a.repositories.known().into_iter().flatten();
    let others = all.filter(move |(guid, _)| **guid != but);
    others
        .filter_map(|(_, repo)| repo.record.known())
        .filter(|record| record.is_live())
        .map(|record| &record.name)
}

fn is_closed(repo: &Repository) -> Result<(), Stop> {
    ready_if(repo.daemon.get()?.is_none(), "its daemon is there")?;
    ready_if(repo.storage.mount.get()?.is_none(), "it is mounted")?;
    ready_if(repo.storage.mapper.get()?.is_none(), "it is open")?;
    ready_if(repo.storage.device.get()?.is_none(), "it is attached")
}
