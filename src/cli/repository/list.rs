use serde::Serialize;

use super::super::session::Session;
use crate::cli::output::{Format, print};
use crate::host::{Host as _, Scope};
use crate::model::{Layout, Part, Repository};

/// List all repositories, also deleted and unknown ones
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Serialize)]
struct Row {
    name: Option<String>,
    guid: String,
    state: &'static str,
    size: Option<u64>,
    network_id: Option<u32>,
    owner: Option<String>,
    note: String,
}

/// Exit code 0; 3 where the datastore cannot be seen.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let session = Session::command(layout)?;
    let actual = session.host.observe(Scope::All).await;
    let mut rows = Vec::new();
    let all = match &actual.repositories {
        Part::Known(all) => all,
        Part::Absent => &Default::default(),
        _ => return Err(super::unseen(&actual).into()),
    };
    for (guid, repo) in all {
        rows.push(row(guid.to_string(), repo));
    }
    print(args.output, &rows, || table(&rows))?;
    Ok(0)
}

fn row(guid: String, repo: &Repository) -> Row {
    let record = repo.record.known();
    let image = repo.storage.file.known().or(repo.trash.known());
    let (state, note) = state(repo);
    Row {
        name: record.map(|record| record.name.to_string()),
        guid,
        state,
        size: image.map(|size| size.as_bytes()),
        network_id: record.map(|record| record.network.into()),
        owner: record.and_then(|record| Some(record.owner.as_ref()?.source.clone())),
        note,
    }
}

pub fn state(repo: &Repository) -> (&'static str, String) {
    let record = match &repo.record {
        Part::Known(record) => record,
        Part::Unknown(why) => return ("unreadable", why.clone()),
        _ => {
            let note = "no record: give a manifest `guid:`, or `renet repository adopt`";
            return ("unknown", note.to_owned());
        }
    };
    if let Some(stone) = &record.deleted {
        let note = match stone.purged {
            true => format!("deleted by {}", stone.by),
            false => format!("deleted by {}; destroyed after {}", stone.by, stone.due),
        };
        return ("deleted", note);
    }
    let note = match &record.suspended {
        Some(suspension) => format!("suspended by {}", suspension.by),
        None => match record.owner {
            Some(_) => String::new(),
            None => "unmanaged".to_owned(),
        },
    };
    let serving = repo.daemon.known().is_some_and(|daemon| daemon.serving);
    let running = repo
        .containers
        .known()
        .is_some_and(|projects| !projects.is_empty());
    let state = match (repo.storage.mount.known(), serving, running) {
        _ if repo.storage.file.is_absent() => "missing",
        (None, ..) => "offline",
        (Some(_), true, true) => "running",
        (Some(_), true, false) => "stopped",
        (Some(_), false, _) => "mounted",
    };
    (state, note)
}

fn table(rows: &[Row]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["NAME", "STATE", "SIZE", "NETWORK", "GUID", "NOTE"]);
    for row in rows {
        let size = row
            .size
            .map(|size| crate::model::Size::bytes(size).to_string());
        let network = row.network_id.map(|id| id.to_string());
        table.add_row([
            row.name.as_deref().unwrap_or("-"),
            row.state,
            size.as_deref().unwrap_or("-"),
            network.as_deref().unwrap_or("-"),
            &row.guid,
            &row.note,
        ]);
    }
    format!("{table}\n")
}
