use jiff::Timestamp;
use serde::Serialize;

use super::{Which, absent, find};
use crate::cli::output::{Format, facts, print};
use crate::cli::session::Session;
use crate::host::{Host as _, Scope};
use crate::model::{Layout, Repository, Size, Snapshot, Snapshots};

/// Show one repository
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// What programs read; sizes in bytes.
#[derive(Serialize)]
struct Status {
    name: String,
    guid: String,
    state: &'static str,
    network_id: u32,
    image_path: String,
    mount_path: String,
    mounted: bool,
    encrypted: Option<bool>,
    /// What is promised to it.
    size: Option<u64>,
    /// What its image takes of the datastore, shared or not.
    allocated: Option<u64>,
    /// What can still be written to it.
    available: Option<u64>,
    docker_running: bool,
    container_count: usize,
    /// How many snapshots there are, and the last one's time.
    snapshots: usize,
    last_snapshot: Option<Timestamp>,
    autostart: bool,
    protected: bool,
    /// What its daemon and its containers may take together.
    limits: Option<String>,
    parent: Option<String>,
    expires: Option<Timestamp>,
    owner: Option<String>,
    note: String,
}

/// Exit code 3 where it is absent.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let session = Session::command(layout)?;
    let said = args.which.said();
    let actual = session.host.observe(Scope::Records).await;
    let found = find(&actual, said, false)?.ok_or_else(|| absent(&actual, said))?;
    let seen = session.host.observe(Scope::Repository(found.guid)).await;
    let repo = seen.repository(found.guid).unwrap_or_default();
    let record = &found.record;
    let layout = &session.layout;
    let (state, note) = super::list::state(&repo);
    let image = layout.image(found.guid);
    let point = layout.mount(found.guid);
    let mounted = repo.storage.mount.known().is_some();
    let status = Status {
        name: record.name.to_string(),
        guid: found.guid.to_string(),
        state,
        network_id: record.network.into(),
        mounted,
        encrypted: repo.storage.is_sealed().ok(),
        size: repo.storage.file.known().map(|size| size.as_bytes()),
        allocated: crate::host::linux::files::allocated(&image),
        // Less of what is free inside and what is free around it.
        available: mounted
            .then(|| crate::host::linux::files::available(&point).ok())
            .flatten()
            .zip(seen.datastore.free.known())
            .map(|(inside, around)| inside.min(around.as_bytes())),
        docker_running: repo.daemon.known().is_some_and(|daemon| daemon.serving),
        container_count: containers(&repo),
        snapshots: repo.snapshots.known().map_or(0, Snapshots::len),
        last_snapshot: last_snapshot(&repo),
        autostart: record.autostart,
        protected: record.protected,
        limits: Some(record.limits.to_string()).filter(|_| !record.limits.is_none()),
        parent: record.lineage.as_ref().map(|lineage| {
            let parent = actual.repository(lineage.parent).ok();
            let name = parent.and_then(|repo| repo.record.known().map(|it| it.name.to_string()));
            name.unwrap_or_else(|| lineage.parent.to_string())
        }),
        expires: record.expires,
        owner: record.owner.as_ref().map(|owner| owner.source.clone()),
        image_path: image.display().to_string(),
        mount_path: point.display().to_string(),
        note,
    };
    print(args.output, &status, || text(&status))?;
    Ok(0)
}

fn last_snapshot(repo: &Repository) -> Option<Timestamp> {
    let (at, _) = repo.snapshots.known()?.last_key_value()?;
    Some(*at)
}

fn containers(repo: &Repository) -> usize {
    let projects = repo.containers.known().into_iter().flatten();
    projects.map(|(_, services)| services.len()).sum()
}

fn text(status: &Status) -> String {
    let bytes = |bytes: Option<u64>| bytes.map(|bytes| Size::bytes(bytes).to_string());
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let encrypted = status.encrypted.map(yes);
    let last = status.last_snapshot.map(Snapshot::shown);
    let snapshots = last.map(|last| format!("{}, the last one {last}", status.snapshots));
    let rows = [
        ("name", Some(status.name.clone())),
        ("guid", Some(status.guid.clone())),
        ("state", Some(status.state.to_owned())),
        ("network", Some(status.network_id.to_string())),
        ("encrypted", encrypted),
        ("image", Some(status.image_path.clone())),
        ("mount", Some(status.mount_path.clone())),
        ("size", bytes(status.size)),
        ("allocated", bytes(status.allocated)),
        ("available", bytes(status.available)),
        ("containers", Some(status.container_count.to_string())),
        ("snapshots", snapshots),
        ("autostart", Some(yes(status.autostart))),
        ("protected", Some(yes(status.protected))),
        ("limits", status.limits.clone()),
        ("copy of", status.parent.clone()),
        ("ends", status.expires.map(|at| at.to_string())),
        ("owner", status.owner.clone()),
        (
            "note",
            Some(status.note.clone()).filter(|note| !note.is_empty()),
        ),
    ];
    facts(rows)
}
