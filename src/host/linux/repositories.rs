//! What is seen of repositories, part by part.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    LinuxHost, blocking, compose, containers, dockerd, files, freeze, image_files, project_files,
    records, revisions, snapshots, storage, supervisor,
};
use crate::host::Scope;
use crate::model::{Guid, NetworkId, Part, Record, Repository, Shared, Storage, Volume};

/// Every repository, each as far as the scope says.
pub(super) async fn observe(
    host: &LinuxHost,
    scope: Scope,
) -> Part<BTreeMap<Guid, Shared<Repository>>> {
    let layout = host.layout.clone();
    let guids = match blocking(move || records::guids(&layout)).await {
        Ok(Ok(guids)) => guids,
        Ok(Err(why)) | Err(why) => return Part::Unknown(why),
    };
    let strays = dockerd::strays(&host.layout);
    let processes = supervisor::Processes::default();
    let each = guids.into_iter().map(async |guid| {
        let stray = strays.get(&guid).copied();
        let seen = match scope.covers(guid) {
            true => repository(host, guid, stray, &processes).await,
            false => outline(host, guid, stray).await,
        };
        (guid, Shared::from(seen))
    });
    let all = futures::future::join_all(each).await;
    Part::Known(
        all.into_iter()
            .filter(|(_, repo)| !repo.is_nothing())
            .collect(),
    )
}

/// The record and the image of a repository that is not looked at any further.
async fn outline(host: &LinuxHost, guid: Guid, stray: Option<NetworkId>) -> Repository {
    let host = host.clone();
    let look = blocking(move || {
        let place = host.place(Volume::Image(guid));
        let record = records::record(&host.layout, guid);
        Repository {
            stray_network: stray.filter(|_| record.is_absent()),
            record,
            mirror: records::mirror(&host.layout, guid),
            storage: Storage {
                frozen: freeze::observe(&host.layout, guid),
                ..storage::outline(&place)
            },
            trash: storage::file(&host.layout.trash(guid)),
            replaced: image_files::replaced(&host.layout, guid),
            snapshots: snapshots::observe(&host.layout, guid),
            key: files::presence(&host.layout.key(guid)),
            slots: Part::Hidden,
            files: Part::Hidden,
            given: BTreeMap::new(),
            daemon: Part::Hidden,
            images: Part::Hidden,
            containers: Part::Hidden,
            running: Part::Hidden,
            hooks: Part::Hidden,
            revisions: Part::Hidden,
            stirred: BTreeSet::new(),
        }
    });
    look.await.unwrap_or_else(|why| Repository {
        record: Part::Unknown(why),
        ..Repository::default()
    })
}

async fn repository(
    host: &LinuxHost,
    guid: Guid,
    stray: Option<NetworkId>,
    processes: &supervisor::Processes,
) -> Repository {
    let layout = host.layout.clone();
    let first = move || {
        let frozen = freeze::observe(&layout, guid);
        (records::record(&layout, guid), frozen)
    };
    let (record, frozen) = blocking(first)
        .await
        .unwrap_or_else(|why| (Part::Unknown(why), Part::Absent));
    let stray = stray.filter(|_| record.is_absent());
    // A record that was lost did not stop its daemon.
    let network = record.known().map(|record| record.network).or(stray);
    let daemon = async {
        match network {
            // It may wait as everybody does.
            _ if frozen.known().is_some() => containers::Seen::closed(Part::Hidden),
            Some(network) => containers::observe_among(&host.layout, network, processes).await,
            None => containers::Seen::closed(Part::Absent),
        }
    };
    let (on, before) = (host.clone(), frozen.clone());
    let closed = blocking(move || closed(&on, guid, record, before));
    let (closed, daemon) = tokio::join!(closed, daemon);
    let mut seen = closed.unwrap_or_else(|why| Repository {
        record: Part::Unknown(why),
        ..Repository::default()
    });
    seen.stray_network = stray;
    (seen.daemon, seen.images) = (daemon.daemon, daemon.images);
    (seen.containers, seen.running) = (daemon.containers, daemon.running);
    if seen.daemon.is_absent() {
        let behind = !seen.storage.file.is_absent() || !seen.trash.is_absent();
        seen.images = if behind { Part::Hidden } else { Part::Absent };
        seen.containers = if behind { Part::Hidden } else { Part::Absent };
        seen.running = if behind { Part::Hidden } else { Part::Absent };
    }
    seen
}

/// Everything about a repository that needs no daemon.
fn closed(host: &LinuxHost, guid: Guid, record: Part<Record>, frozen: Part<()>) -> Repository {
    let layout = &host.layout;
    let mut storage = storage::observe(&host.place(Volume::Image(guid)));
    storage.frozen = frozen;
    let trash = storage::file(&layout.trash(guid));
    let (slots, files, hooks, revisions) = match (&storage.mount, &storage.file) {
        // Who touches it waits until it is thawed.
        _ if storage.frozen.known().is_some() => {
            (Part::Hidden, Part::Hidden, Part::Hidden, Part::Hidden)
        }
        // What lies in it can be read, but it is no longer what was written last.
        (Part::Known(_), _) if storage::is_read_only(&host.place(Volume::Image(guid))) => {
            let name = record.known().map(|record| record.name.to_string());
            let name = name.unwrap_or_else(|| guid.to_string());
            let why = format!(
                "{} turned read-only because a write below it failed; once there is room, \
                 `renet repository unmount {name}` and `renet repository up {name}` mend it",
                layout.mount(guid).display()
            );
            (
                Part::Unknown(why.clone()),
                Part::Unknown(why.clone()),
                Part::Unknown(why.clone()),
                Part::Unknown(why),
            )
        }
        (Part::Known(_), _) => (
            project_files::slots(layout, guid),
            project_files::observe(layout, guid),
            project_files::hooks(layout, guid),
            revisions::observe(layout, guid, &record),
        ),
        (_, Part::Absent) if trash.is_absent() => {
            (Part::Absent, Part::Absent, Part::Absent, Part::Absent)
        }
        _ => (Part::Hidden, Part::Hidden, Part::Hidden, Part::Hidden),
    };
    let projects = files.known().into_iter().flat_map(BTreeMap::keys);
    let given = projects.filter_map(|project| {
        let text = compose::last_given(layout, guid, project)?;
        Some((project.clone(), text.into()))
    });
    Repository {
        given: given.collect(),
        record,
        mirror: records::mirror(layout, guid),
        storage,
        trash,
        replaced: image_files::replaced(layout, guid),
        snapshots: snapshots::observe(layout, guid),
        key: files::presence(&layout.key(guid)),
        slots,
        files,
        hooks,
        revisions,
        ..Repository::default()
    }
}
