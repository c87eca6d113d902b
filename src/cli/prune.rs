use super::Failure;
use super::output::say;
use super::session::Session;
use crate::host::{Host as _, Scope};
use crate::model::{Act, DataLossPermit, Guid, Layout, Record, StoreAct};

/// Free what is not needed: what is due of the trash, and on request more
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// Also free deleted repositories whose time is not over, each by its name
    #[arg(long)]
    trash: bool,
    /// Confirm by its name that a deleted repository's data is destroyed now
    #[arg(long, value_name = "NAME", requires = "trash")]
    confirm: Vec<String>,
    /// Give back the room that the datastore keeps for when nothing else is free
    #[arg(long)]
    emergency: bool,
}

/// Exit code 3 where something that was asked for was not confirmed.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let session = Session::command(layout.clone())?;
    let seen = session.host.observe(Scope::Records).await;
    if args.emergency {
        let had = seen.datastore.reserve.known().copied();
        let done = had.map_or_else(String::new, |size| format!("{size} are given back"));
        if args.dry_run {
            let would = had.map_or_else(
                || "there is nothing to give back".to_owned(),
                |size| format!("{size} would be given back"),
            );
            say(&format!("{would}\n"));
            return Ok(0);
        }
        let mut session = Session::command(layout.clone())?;
        session.source.store = Some(StoreAct::Relieve);
        let code = session
            .carry_out_on(None, &done, "there is nothing to give back")
            .await?;
        if code != 0 {
            return Ok(code);
        }
    }
    let now = jiff::Timestamp::now();
    let all = || seen.repositories.known().into_iter().flatten();
    for (guid, repo) in all() {
        let image = !repo.storage.file.is_absent() || !repo.trash.is_absent();
        if image || !repo.record.is_absent() || repo.storage.staging.is_absent() {
            continue;
        }
        let what = format!("{guid}: what was half-made of it");
        match args.dry_run {
            true => say(&format!("{what} would be removed\n")),
            false => {
                let done = format!("{what} is removed");
                Session::command(layout.clone())?
                    .carry_out(*guid, &done, &done)
                    .await?;
            }
        }
    }
    let deleted = all().filter_map(|(guid, repo)| {
        let record = repo.record.known()?;
        let stone = record.deleted.as_ref()?;
        (!stone.purged).then_some((*guid, record.clone(), stone.due <= now))
    });
    let mut code = 0;
    for (guid, record, due) in deleted {
        if !due && !args.trash {
            continue;
        }
        let name = &record.name;
        let confirmed = due || args.confirm.iter().any(|said| said == name.as_str());
        if args.dry_run {
            say(&format!("{name}: its data would be destroyed\n"));
            continue;
        }
        let asked = || super::apply::ask(name.as_str());
        if !confirmed && !asked() {
            let how = format!("`renet prune --trash --confirm {name}` destroys its data");
            say(&format!("{name}: not confirmed; {how}\n"));
            code = 3;
            continue;
        }
        code = code.max(destroy(layout.clone(), guid, &record).await?);
    }
    Ok(code)
}

async fn destroy(layout: Layout, guid: Guid, record: &Record) -> Result<u8, anyhow::Error> {
    let mut session = Session::command(layout)?;
    let name = &record.name;
    let permit = DataLossPermit::named(guid, name, name.as_str());
    let (Some(permit), Some(stone)) = (permit, record.deleted.clone()) else {
        let message = format!("{name}: it is not deleted");
        return Err(Failure { code: 3, message }.into());
    };
    let act = Act::Delete {
        stone,
        permit: Some(permit),
    };
    session.source.acts.insert(guid, act);
    let done = format!("{name}: its data is destroyed");
    session.carry_out(guid, &done, &done).await
}
