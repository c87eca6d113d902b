//! Whether a step is done already: what the step concerns is looked at, and no more.

use std::collections::BTreeMap;

use super::{
    LinuxHost, blocking, btrfs, containers, datastore, files, freeze, image_files, project_files,
    records, revisions, router, routes, snapshots, storage,
};
use crate::host::StepError;
use crate::model::{Actual, Guid, Part, Repository, Shared, Step, Stop, Volume};

/// Whether the machine is already as the step would make it, by a look at what
/// the step concerns alone. The other steps look for themselves.
pub(super) async fn holds(host: &LinuxHost, step: &Step) -> Result<bool, StepError> {
    let looked = match on_daemon(step) {
        Some((guid, network)) => {
            let seen = containers::observe(&host.layout, network).await;
            let repo = Repository {
                daemon: seen.daemon,
                images: seen.images,
                containers: seen.containers,
                ..Repository::default()
            };
            let actual = Actual {
                repositories: Part::Known(BTreeMap::from([(guid, repo.into())])),
                ..Actual::default()
            };
            Some(step.holds(&actual))
        }
        None => {
            let (host, step) = (host.clone(), step.clone());
            let look = blocking(move || Some(step.holds(&glance(&host, &step)?)));
            look.await.map_err(StepError::machine)?
        }
    };
    match looked {
        None | Some(Err(Stop::Hidden)) => Ok(false),
        Some(Ok(holds)) => Ok(holds),
        Some(Err(Stop::Block(blocked))) => Err(StepError::machine(match blocked {
            crate::model::Blocked::Unknown(why) => why,
            other => format!("{other:?}"),
        })),
    }
}

/// The daemon that has to be asked about a step.
fn on_daemon(step: &Step) -> Option<(Guid, crate::model::NetworkId)> {
    match step {
        Step::FetchImages { guid, network, .. }
        | Step::Up { guid, network, .. }
        | Step::Wait { guid, network, .. }
        | Step::Down { guid, network, .. } => Some((*guid, *network)),
        _ => None,
    }
}

fn glance(host: &LinuxHost, step: &Step) -> Option<Actual> {
    let layout = &host.layout;
    let mut actual = Actual::default();
    let of_one =
        |guid: Guid, repo: Repository| Part::Known(BTreeMap::from([(guid, Shared::from(repo))]));
    match step {
        Step::Fork { guid, .. }
        | Step::Open { guid, .. }
        | Step::EnrolKey { guid, .. }
        | Step::CopyKey { guid, .. }
        | Step::GrowMapper(guid)
        | Step::DropKey(guid)
        | Step::Close(guid) => {
            let repo = Repository {
                storage: storage::observe(&host.place(Volume::Image(*guid))),
                key: files::presence(&layout.key(*guid)),
                ..Repository::default()
            };
            actual.repositories = of_one(*guid, repo);
        }
        Step::Snapshot { guid, .. } | Step::DropSnapshot { guid, .. } => {
            let repo = Repository {
                snapshots: snapshots::observe(layout, *guid),
                ..Repository::default()
            };
            actual.repositories = of_one(*guid, repo);
        }
        Step::Thaw(guid) => {
            let mut repo = Repository::default();
            repo.storage.frozen = freeze::observe(layout, *guid);
            actual.repositories = of_one(*guid, repo);
        }
        Step::CleanFork(guid) => {
            let repo = Repository {
                record: records::record(layout, *guid),
                ..Repository::default()
            };
            actual.repositories = of_one(*guid, repo);
        }
        Step::ClearStaging(volume)
        | Step::Format { volume, .. }
        | Step::GrowFile { volume, .. }
        | Step::Attach(volume)
        | Step::GrowDevice(volume)
        | Step::Mount(volume)
        | Step::GrowFs(volume)
        | Step::Unmount(volume)
        | Step::Detach(volume) => {
            let storage = storage::observe(&host.place(*volume));
            match volume {
                Volume::Datastore => {
                    actual.datastore.storage = storage;
                    actual.datastore.disk = datastore::disk(host);
                }
                Volume::Image(guid) => {
                    let repo = Repository {
                        storage,
                        ..Repository::default()
                    };
                    actual.repositories = of_one(*guid, repo);
                }
            }
        }
        Step::LayOut => actual.datastore.layout = records::laid_out(layout),
        Step::NoteDatastore(_) => {
            actual.datastore.note = datastore::note(host, &btrfs::identity(host.backing.path()));
        }
        Step::CloseDatastore(_) => actual.datastore.closed = datastore::closed(layout),
        Step::KeepReserve(_) | Step::GiveReserve => {
            actual.datastore.reserve = datastore::reserve(layout);
        }
        Step::ClaimMachine { .. } | Step::SuspendMachine(_) => {
            actual.machine = records::machine(layout)
        }
        Step::Record(guid, _) => {
            let repo = Repository {
                record: records::record(layout, *guid),
                ..Repository::default()
            };
            actual.repositories = of_one(*guid, repo);
        }
        // A record that is there may be another's who was quicker.
        Step::Reserve {
            guid,
            name,
            network,
            ..
        } => {
            let record = records::record(layout, *guid);
            if record
                .known()
                .is_some_and(|record| record.name != *name || record.network != *network)
            {
                return None;
            }
            let repo = Repository {
                record,
                ..Repository::default()
            };
            actual.repositories = of_one(*guid, repo);
        }
        Step::MirrorSlots(guid, _) => {
            let repo = Repository {
                mirror: records::mirror(layout, *guid),
                ..Repository::default()
            };
            actual.repositories = of_one(*guid, repo);
        }
        Step::WriteSlots(guid, slots) if !slots.0.is_empty() => {
            let repo = Repository {
                slots: project_files::slots(layout, *guid),
                ..Repository::default()
            };
            actual.repositories = of_one(*guid, repo);
        }
        Step::WriteFiles { guid, .. } => {
            let repo = Repository {
                files: project_files::observe(layout, *guid),
                ..Repository::default()
            };
            actual.repositories = of_one(*guid, repo);
        }
        Step::Trash(guid)
        | Step::Untrash(guid)
        | Step::Purge { guid, .. }
        | Step::Replace { guid, .. }
        | Step::KeepReplaced { guid, .. } => {
            let mut repo = Repository {
                trash: storage::file(&layout.trash(*guid)),
                replaced: image_files::replaced(layout, *guid),
                snapshots: snapshots::observe(layout, *guid),
                ..Repository::default()
            };
            repo.storage.file = storage::file(&layout.image(*guid));
            actual.repositories = of_one(*guid, repo);
        }
        Step::DropRecord(guid) => {
            let repo = Repository {
                record: records::record(layout, *guid),
                ..Repository::default()
            };
            actual.repositories = of_one(*guid, repo);
        }
        Step::KeepRevision { guid, .. } => {
            let repo = Repository {
                revisions: revisions::observe(layout, *guid, &Part::Absent),
                ..Repository::default()
            };
            actual.repositories = of_one(*guid, repo);
        }
        Step::EraseFiles { guid, .. } => {
            let repo = Repository {
                files: project_files::observe(layout, *guid),
                ..Repository::default()
            };
            actual.repositories = of_one(*guid, repo);
        }
        Step::RecordRoute { .. } | Step::SuspendRoute(..) | Step::ForgetRoute(_) => {
            actual.routes = routes::observe_records(layout)
        }
        Step::PublishRoutes(_) => actual.published = router::observe_published(layout),
        _ => return None,
    }
    Some(actual)
}
