use std::collections::BTreeMap;

use super::Step;
use crate::model::{
    Actual, ContainerState, Function, Header, Record, Repository, RouteTable, Slots, Snapshot,
    Stop, Volume,
};

impl Step {
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
            Step::Fork { guid, .. } => a.repo(*guid, &absent)?.storage.file.get()?.is_some(),
            Step::Snapshot { guid, at, .. } => {
                let all = a.repo(*guid, &absent)?.snapshots.get()?;
                all.is_some_and(|all| all.contains_key(at))
            }
            Step::DropSnapshot { guid, at, .. } => {
                let all = a.repo(*guid, &absent)?.snapshots.get()?;
                !all.is_some_and(|all| all.contains_key(at))
            }
            Step::Replace { guid, keep, .. } => {
                let repo = a.repo(*guid, &absent)?;
                let kept = repo.snapshots.get()?;
                repo.replaced.get()?.is_some()
                    || kept.is_some_and(|all| Snapshot::is_rewind(all, *keep))
            }
            Step::KeepReplaced { guid, .. } => a.repo(*guid, &absent)?.replaced.get()?.is_none(),
            Step::Thaw(guid) => a.repo(*guid, &absent)?.storage.frozen.get()?.is_none(),
            Step::Open { guid, .. } => a.repo(*guid, &absent)?.storage.mapper.get()?.is_some(),
            Step::GrowMapper(guid) => {
                let storage = &a.repo(*guid, &absent)?.storage;
                let is = storage.mapper.get()?.copied();
                is.is_some() && is == storage.mapped()?
            }
            Step::Close(guid) => a.repo(*guid, &absent)?.storage.mapper.get()?.is_none(),
            Step::EnrolKey { guid, .. } => {
                let repo = a.repo(*guid, &absent)?;
                repo.key.get()?.is_some() && repo.storage.header.get()?.is_some_and(Header::has_key)
            }
            Step::CopyKey { guid, .. } => a.repo(*guid, &absent)?.key.get()?.is_some(),
            Step::DropKey(guid) => {
                let repo = a.repo(*guid, &absent)?;
                repo.key.get()?.is_none()
                    && !repo.storage.header.get()?.is_some_and(Header::has_key)
            }
            Step::CleanFork(guid) => {
                let record = a.repo(*guid, &absent)?.record.get()?;
                !record.is_some_and(Record::is_uncleaned_fork)
            }
            Step::Mount(volume) => a.storage(*volume)?.mount.get()?.is_some(),
            Step::GrowFs(volume) => {
                let storage = a.storage(*volume)?;
                let size = storage.mount.get()?.map(|mount| mount.size);
                size.is_some() && size == storage.top()?
            }
            Step::Unmount(volume) => a.storage(*volume)?.mount.get()?.is_none(),
            // A block device is there whether it is used or not.
            Step::Detach(Volume::Datastore) if a.datastore.disk.get()?.is_some() => true,
            Step::Detach(volume) => a.storage(*volume)?.device.get()?.is_none(),
            Step::LayOut => a.datastore.layout.get()?.is_some(),
            Step::NoteDatastore(uuid) => a.datastore.note.get()? == Some(uuid),
            Step::CloseDatastore(closed) => a.datastore.closed.get()? == closed.as_ref(),
            Step::KeepReserve(_) => a.datastore.reserve.get()?.is_some(),
            Step::GiveReserve => a.datastore.reserve.get()?.is_none(),
            Step::SuspendMachine(suspension) => {
                let machine = a.machine.get()?;
                machine.and_then(|machine| machine.suspended.as_ref()) == suspension.as_ref()
            }
            Step::ClaimMachine {
                name,
                owner,
                overcommit,
            } => a.machine.get()?.is_some_and(|machine| {
                machine.name.as_ref() == Some(name)
                    && machine.owner.as_ref() == Some(owner)
                    && machine.overcommit == *overcommit
            }),
            Step::Reserve { guid, .. } => a.repo(*guid, &absent)?.record.get()?.is_some(),
            Step::Record(guid, patch) => a
                .repo(*guid, &absent)?
                .record
                .get()?
                .is_some_and(|record| patch.holds(record)),
            Step::Trash(guid) => a.repo(*guid, &absent)?.storage.file.get()?.is_none(),
            Step::Untrash(guid) | Step::Purge { guid, .. } => {
                a.repo(*guid, &absent)?.trash.get()?.is_none()
            }
            Step::DropRecord(guid) => a.repo(*guid, &absent)?.record.get()?.is_none(),
            // None is not the same as an empty one: an image whose slots nobody has
            // seen has no mirror.
            Step::MirrorSlots(guid, slots) => a.repo(*guid, &absent)?.mirror.get()? == Some(slots),
            Step::WriteSlots(guid, slots) => {
                a.repo(*guid, &absent)?
                    .slots
                    .get()?
                    .unwrap_or(&Slots::default())
                    == slots
            }
            Step::StartDaemon { guid, .. } => {
                let repo = a.repo(*guid, &absent)?;
                let record = repo.record.get()?;
                let limits = record.map(|record| record.limits).unwrap_or_default();
                let daemon = repo.daemon.get()?;
                daemon.is_some_and(|daemon| daemon.is_kept_within(&limits))
            }
            Step::StopDaemon { guid, .. } => a.repo(*guid, &absent)?.daemon.get()?.is_none(),
            Step::WriteFiles { guid, project } => a
                .repo(*guid, &absent)?
                .files
                .get()?
                .and_then(|files| files.get(&project.name))
                .is_some_and(|files| files.digest == *project.files.digest()),
            Step::EraseFiles { guid, project } => a
                .repo(*guid, &absent)?
                .files
                .get()?
                .is_none_or(|files| !files.contains_key(project)),
            Step::KeepRevision { guid, project } => a
                .repo(*guid, &absent)?
                .revisions
                .get()?
                .and_then(|all| all.get(&project.name)?.last())
                .is_some_and(|newest| newest.hash == project.hash),
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
                    let container = containers.get(name);
                    container.is_some_and(|container| container.is_well(service.completes))
                })
            }
            Step::Down { guid, project, .. } => a
                .repo(*guid, &absent)?
                .containers
                .get()?
                .is_none_or(|containers| !containers.contains_key(project)),
            Step::Hook {
                guid,
                hook,
                function,
                ..
            } => {
                let repo = a.repo(*guid, &absent)?;
                if *function == Function::Down {
                    let record = repo.record.get()?;
                    return Ok(record.is_none_or(|it| !it.hooks.contains_key(&hook.project)));
                }
                let Some(run) = repo.hook_run(&hook.project, *function)? else {
                    return Ok(false);
                };
                run.status == 0
                    && run.inputs == hook.inputs
                    && run.boot == a.boot
                    && (run.containers.is_empty()
                        || repo
                            .running
                            .get()?
                            .is_some_and(|running| run.containers.is_subset(running)))
            }
            Step::SuspendRoute(name, suspension) => a
                .routes
                .get()?
                .and_then(|routes| routes.get(name))
                .is_none_or(|route| route.suspended == *suspension),
            Step::RecordRoute { name, route } => a
                .routes
                .get()?
                .is_some_and(|routes| routes.get(name) == Some(route)),
            Step::ForgetRoute(name) => a
                .routes
                .get()?
                .is_none_or(|routes| !routes.contains_key(name)),
            Step::StartProxy(spec) => a
                .proxy
                .get()?
                .is_some_and(|proxy| proxy.spec == *spec && proxy.supervised),
            Step::StopProxy => a.proxy.get()?.is_none(),
            Step::PublishRoutes(table) => a.published.get()?.unwrap_or(&RouteTable::new()) == table,
        })
    }
}
