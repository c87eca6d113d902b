//! What `rediacc-autostart.service` runs: a small reconcile over the repositories that
//! come back at boot, and their end when the machine stops.

use std::collections::BTreeMap;

use super::output;
use super::repository::{records, unseen};
use super::session::{How, Session};
use crate::host::{Host as _, Scope};
use crate::model::{Act, Actual, Guid, Layout, Object, Record, StoreAct, Suspension};

/// Open the repositories that come back at boot, without a passphrase or a manifest
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Close all repositories and the datastore instead, until the next boot
    #[arg(long)]
    stop: bool,
}

/// Exit code 3 where one could not be opened or closed, which does not hold back the
/// others.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let session = Session::command(layout)?;
    match args.stop {
        true => close(session).await,
        false => {
            if let Some(path) = session.host.lacks_disk() {
                output::say(&format!("waiting for {}\n", path.display()));
                session.host.wait_for_disk().await;
            }
            open(session).await
        }
    }
}

async fn open(session: Session) -> anyhow::Result<u8> {
    let seen = records(&session).await;
    let store = &seen.datastore;
    if store.storage.file.is_absent() && store.note.is_absent() {
        output::say("there is no datastore: nothing to open\n");
        return Ok(0);
    }
    if let Some(by) = store.closed.known() {
        let by = &by.by;
        output::say(&format!("the datastore was closed by {by}, and stays so\n"));
        return Ok(0);
    }
    if seen.repositories.known().is_none() {
        return Err(unseen(&seen).into());
    }
    let holds = |by: &&Suspension| by.holds_at(seen.now);
    let machine = seen.machine.known();
    if let Some(by) = machine.and_then(|all| all.suspended.as_ref().filter(holds)) {
        let by = &by.by;
        output::say(&format!("the whole machine is suspended by {by}\n"));
        return Ok(0);
    }
    let acts = acts(&seen, &Act::Up { network: None }, |record| {
        let over = record.expires.is_some_and(|at| at <= seen.now);
        let suspended = record.suspended.as_ref().is_some_and(|by| holds(&by));
        record.autostart && record.is_live() && !suspended && !over
    });
    if acts.is_empty() {
        output::say("no repository comes back at boot\n");
        return Ok(0);
    }
    carry_out(session, acts).await
}

/// Closes everything, repositories first: as a machine that stops is to be left.
pub async fn close(mut session: Session) -> anyhow::Result<u8> {
    let seen = session.host.observe(Scope::Records).await;
    if seen.datastore.storage.file.is_absent() {
        output::say("there is no datastore: nothing to close\n");
        return Ok(0);
    }
    let acts = acts(&seen, &Act::Close, |_| true);
    if !acts.is_empty() {
        let layout = session.layout.clone();
        let code = carry_out(session, acts).await?;
        if code != 0 {
            return Ok(code);
        }
        session = Session::command(layout)?;
    }
    session.source.store = Some(StoreAct::Close);
    let closed = "all repositories and the datastore are closed";
    session.carry_out_on(None, closed, closed).await
}

fn acts(seen: &Actual, act: &Act, chosen: impl Fn(&Record) -> bool) -> BTreeMap<Guid, Act> {
    let all = seen.repositories.known().into_iter().flatten();
    let records = all.filter_map(|(guid, repo)| Some((*guid, repo.record.known()?)));
    let chosen = records.filter(|(_, record)| chosen(record));
    chosen.map(|(guid, _)| (guid, act.clone())).collect()
}

async fn carry_out(mut session: Session, acts: BTreeMap<Guid, Act>) -> anyhow::Result<u8> {
    session.source.acts = acts;
    let how = How {
        keep_routes: true,
        ..How::default()
    };
    let mut report = session.run(None, &how).await;
    // What is in the way of others is told by who looks after them.
    let acts = &session.source.acts;
    let mine = |object: &Object| match object.repository() {
        Some(guid) => acts.contains_key(&guid),
        None => matches!(object, Object::Datastore),
    };
    report.last.plan.blocked.retain(|object, _| mine(object));
    report.last.plan.steps.retain(|step| mine(&step.object()));
    session.say(&report);
    Ok(session.code(&report))
}
