use std::io::IsTerminal as _;

use super::network::Network;
use super::{Which, by, carry_out, find, records};
use crate::cli::Failure;
use crate::cli::apply::ask;
use crate::cli::session::Session;
use crate::model::{Act, DataLossPermit, Gone, Layout, Tombstone};
use crate::plan::GRACE;

/// Delete a repository; its data stays in the trash for 7 days
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    network: Network,
    /// Destroy the data at once
    #[arg(long)]
    now: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Exit code 0 also where it is absent already.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let session = Session::command(layout)?;
    let said = args.which.said();
    let actual = records(&session).await;
    let Some(found) = find(&actual, said, false)? else {
        anstream::println!("there is no repository {said}: nothing to do");
        return Ok(0);
    };
    args.network.check(&found.record)?;
    let name = &found.record.name;
    // Without a terminal the command is its own permission.
    if !args.yes && std::io::stdin().is_terminal() {
        let image = actual.repository(found.guid).ok();
        if let Some(size) = image.and_then(|repo| repo.storage.file.known().copied()) {
            anstream::eprintln!("{name}: {size}");
        }
        if !ask(name.as_str()) {
            return Err(Failure {
                code: 3,
                message: format!("{name} was not confirmed; nothing was changed"),
            }
            .into());
        }
    }
    let now = jiff::Timestamp::now();
    let stone = found.record.deleted.clone().unwrap_or_else(|| Tombstone {
        at: now,
        by: by("repository delete"),
        why: Gone::Command,
        due: if args.now { now } else { now + GRACE },
        // A manifest that still names it does not bring it back.
        held: found.record.owner.is_some(),
        purged: false,
    });
    let permit = match args.now {
        true => DataLossPermit::named(found.guid, name, name.as_str()),
        false => None,
    };
    let done = match args.now {
        true => format!("{name} is deleted, its data destroyed"),
        false => format!(
            "{name} is deleted; `renet repository restore {name}` brings it back until {}",
            stone.due
        ),
    };
    let act = Act::Delete { stone, permit };
    carry_out(
        session,
        found.guid,
        act,
        &done,
        &format!("{name} is deleted already"),
    )
    .await
}
