use std::io::IsTerminal as _;

use clap::Subcommand;
use jiff::Timestamp;
use serde::Serialize;

use super::{Found, Which, absent, carry_out, find, records};
use crate::cli::Failure;
use crate::cli::apply::ask;
use crate::cli::output::{Format, print};
use crate::cli::session::Session;
use crate::host::{Host as _, Scope};
use crate::model::{Act, DataLossPermit, Layout, MadeBy, Size, Snapshot, Snapshots};

/// Snapshots: a repository's image as it was, sharing what did not change since
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make one, in a moment; the repository may run meanwhile
    Create {
        #[command(flatten)]
        which: Which,
    },
    /// List those of a repository
    List {
        #[command(flatten)]
        which: Which,
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Destroy one
    Delete {
        #[command(flatten)]
        which: Which,
        /// Its time, as `list` shows it
        #[arg(long, value_name = "TIME", value_parser = time)]
        at: Timestamp,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// A snapshot's time as `list` shows it.
pub fn time(said: &str) -> Result<Timestamp, String> {
    Snapshot::parse(said).ok_or_else(|| "write it as `20261124T224033Z`".to_owned())
}

/// What programs read; sizes in bytes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    time: String,
    at: Timestamp,
    size: u64,
    /// What made it.
    made_by: MadeBy,
}

/// Exit code 3 where the repository is absent; 0 where the snapshot is gone already.
pub async fn run(command: &Command, layout: Layout) -> anyhow::Result<u8> {
    let session = Session::command(layout)?;
    let (Command::Create { which } | Command::List { which, .. } | Command::Delete { which, .. }) =
        command;
    let said = which.said();
    let seen = match command {
        Command::List { .. } => session.host.observe(Scope::Records).await,
        _ => records(&session).await,
    };
    let found = find(&seen, said, false)?.ok_or_else(|| absent(&seen, said))?;
    let repo = seen.repository(found.guid).unwrap_or_default();
    let none = Snapshots::new();
    let all = repo.snapshots.known().unwrap_or(&none);
    match command {
        Command::Create { .. } => create(session, &found, repo.free_moment(Timestamp::now())).await,
        Command::List { output, .. } => list(all, *output),
        Command::Delete { at, yes, .. } => {
            let there = all.contains_key(at);
            if there && !yes && !confirmed(&found, *at) {
                let message = "it was not confirmed; nothing was changed".to_owned();
                return Err(Failure { code: 3, message }.into());
            }
            delete(session, &found, *at).await
        }
    }
}

async fn create(session: Session, found: &Found, at: Timestamp) -> anyhow::Result<u8> {
    let (name, shown) = (&found.record.name, Snapshot::shown(at));
    let done = format!(
        "snapshot {shown} of {name} is made; `renet repository fork --source {name} --snapshot \
         {shown} --target NAME` opens it as a copy"
    );
    carry_out(session, found.guid, Act::Snapshot(at), &done, &done).await
}

fn list(all: &Snapshots, output: Format) -> anyhow::Result<u8> {
    let rows: Vec<Row> = all
        .iter()
        .map(|(at, snapshot)| Row {
            time: Snapshot::shown(*at),
            at: *at,
            size: snapshot.size.as_bytes(),
            made_by: snapshot.made_by,
        })
        .collect();
    print(output, &rows, || {
        let mut text = format!("{:<18}{:<10}MADE BY\n", "TIME", "SIZE");
        for row in &rows {
            let size = Size::bytes(row.size).to_string();
            let by = match row.made_by {
                MadeBy::Command => "a command",
                MadeBy::Rule => "its rule",
                MadeBy::Update => "an update",
                MadeBy::Rewind => "a rewind",
            };
            text += &format!("{:<18}{size:<10}{by}\n", row.time);
        }
        text
    })?;
    Ok(0)
}

/// Without a terminal the command is its own permission.
fn confirmed(found: &Found, at: Timestamp) -> bool {
    let name = found.record.name.as_str();
    if !std::io::stdin().is_terminal() {
        return true;
    }
    anstream::eprintln!("{name}: the snapshot {}", Snapshot::shown(at));
    ask(name)
}

async fn delete(session: Session, found: &Found, at: Timestamp) -> anyhow::Result<u8> {
    let (name, shown) = (&found.record.name, Snapshot::shown(at));
    let Some(permit) = DataLossPermit::named(found.guid, name, name.as_str()) else {
        return Ok(3);
    };
    let done = format!("snapshot {shown} of {name} is destroyed");
    let already = format!("there is no snapshot {shown} of {name}: nothing to do");
    let act = Act::DropSnapshot(at, permit);
    carry_out(session, found.guid, act, &done, &already).await
}
