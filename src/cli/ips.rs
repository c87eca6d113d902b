use std::collections::BTreeSet;

use serde::Serialize;

use super::output::{Format, print, say, table, width};
use super::passthrough::{Here, Target};
use super::{Failure, compose};
use crate::execute::{Lock, Locking as _, Mode};
use crate::host::linux::release_slot;
use crate::model::Layout;

/// Show the addresses of a repository's services, or free one
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// Free the address of a service that is in no project any more
    #[arg(long, value_name = "SERVICE")]
    release: Option<String>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// What programs read.
#[derive(Serialize)]
struct Row {
    service: String,
    slot: u8,
    ip: String,
}

/// Exit code 3 where the repository is absent, or the service is in a project.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let here = args.target.find(layout).await?;
    if let Some(service) = &args.release {
        return release(&here, service).await;
    }
    let repo = here.look().await;
    let slots = compose::settled(&repo)?;
    let mut slots: Vec<_> = slots.0.into_iter().collect();
    slots.sort_by_key(|(_, slot)| *slot);
    let row = |(service, slot): (String, crate::model::Slot)| Row {
        service,
        slot: slot.get(),
        ip: here.record.network.address(slot).to_string(),
    };
    let rows: Vec<Row> = slots.into_iter().map(row).collect();
    print(args.output, &rows, || {
        let rows: Vec<[String; 3]> = rows
            .iter()
            .map(|row| [row.service.clone(), row.slot.to_string(), row.ip.clone()])
            .collect();
        table(["SERVICE", "SLOT", "IP"], &rows, width())
    })?;
    Ok(0)
}

async fn release(here: &Here, service: &str) -> anyhow::Result<u8> {
    let refuse = |code: u8, message: String| Failure { code, message };
    let locks = here.session.locks(std::time::Duration::from_secs(30));
    let mut held = Vec::new();
    for lock in [Lock::Repository(here.guid), Lock::Machine] {
        let one = locks.lock(lock, Mode::Alone).await;
        held.push(one.map_err(|busy| refuse(5, busy.to_string()))?);
    }
    let repo = here.look().await;
    let name = &here.record.name;
    if !compose::settled(&repo)?.0.contains_key(service) {
        say(&format!("{name} has no service {service}: nothing to do\n"));
        return Ok(0);
    }
    if repo.storage.mount.known().is_none() {
        let message = format!("{name} is closed: `renet repository mount {name}` opens it");
        return Err(refuse(3, message).into());
    }
    let containers = repo.containers.known().into_iter().flatten();
    let running = containers.filter(|(_, services)| services.contains_key(service));
    let running = running.map(|(project, _)| project.to_string());
    let users: BTreeSet<String> = running
        .chain(compose::projects_with(here, service)?)
        .collect();
    if !users.is_empty() {
        let users = users.into_iter().collect::<Vec<_>>().join(", ");
        let message = format!("service {service} is in {users} of {name}, and keeps its address");
        return Err(refuse(3, message).into());
    }
    release_slot(&here.session.layout, here.guid, service)?;
    say(&format!("the address of {service} in {name} is free\n"));
    Ok(0)
}
