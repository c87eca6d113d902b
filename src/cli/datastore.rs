//! Commands on the datastore: small reconciles over the same steps as `apply`.

use clap::Subcommand;
use serde::Serialize;

use super::Failure;
use super::output::{Format, print, say};
use super::repository::by;
use super::session::Session;
use crate::host::linux::{check, files};
use crate::host::{Host as _, Scope};
use crate::model::{Actual, Layout, Part, Size, StoreAct, Suspension};

/// The BTRFS file system that holds all repositories
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make it, where there is none, and mount it
    Init {
        /// How large: `20G`, at least 256M
        #[arg(long)]
        size: Size,
    },
    /// Mount it
    Mount,
    /// Unmount it; it stays so until `mount`. All repositories must be closed
    Unmount,
    /// Show it, mounted or not
    Status {
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Read everything in it, and say whose data is damaged
    Validate {
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Make it larger, while it is in use
    Expand {
        /// Its new size, like `40G`, or by how much it grows, like `+20G`; left out,
        /// as large as its disk allows
        #[arg(long, allow_hyphen_values = true)]
        size: Option<String>,
    },
}

/// Exit code 0 also where it is so already.
pub async fn run(command: &Command, layout: Layout) -> anyhow::Result<u8> {
    let session = Session::command(layout)?;
    let point = session.layout.datastore();
    let at = point.display();
    match command {
        Command::Init { size } => init(session, size.round_up_mib()).await,
        Command::Mount => {
            let done = format!("the datastore is mounted at {at}");
            let already = format!("the datastore is mounted at {at} already");
            carry_out(session, StoreAct::Mount, &done, &already).await
        }
        Command::Unmount => {
            let act = StoreAct::Unmount(Suspension {
                by: by("datastore unmount"),
                since: jiff::Timestamp::now(),
                until: None,
                reason: None,
            });
            let done = "the datastore is closed, and stays so until `renet datastore mount`";
            carry_out(session, act, done, "the datastore is closed already").await
        }
        Command::Status { output } => status(&session, *output).await,
        Command::Validate { output } => validate(&session, *output).await,
        Command::Expand { size } => expand(session, size.as_deref()).await,
    }
}

async fn carry_out(
    mut session: Session,
    act: StoreAct,
    done: &str,
    already: &str,
) -> anyhow::Result<u8> {
    session.source.store = Some(act);
    session.carry_out_on(None, done, already).await
}

fn refuse(message: impl Into<String>) -> Failure {
    Failure {
        code: 3,
        message: message.into(),
    }
}

async fn init(session: Session, size: Size) -> anyhow::Result<u8> {
    let least = Size::SMALLEST_DATASTORE;
    if size < least {
        return Err(Failure::usage(format!("{size} is too small; at least {least}")).into());
    }
    let seen = session.host.observe(Scope::Records).await;
    if !seen.datastore.storage.file.is_absent() {
        let file = session.host.backing_file().display();
        let message = format!("there is a datastore already ({file}); nothing was changed");
        return Err(refuse(message).into());
    }
    let at = session.layout.datastore();
    let done = format!("a datastore of {size} is mounted at {}", at.display());
    carry_out(session, StoreAct::Init(size), &done, &done).await
}

/// What programs read; sizes in bytes.
#[derive(Serialize)]
struct Status {
    path: String,
    backing_file: String,
    mounted: bool,
    uuid: Option<String>,
    size: Option<u64>,
    /// Free, as far as can be measured.
    available: Option<u64>,
    /// What all repositories may come to use.
    promised: Option<u64>,
    /// What deleted ones still hold.
    trash: Option<u64>,
    /// What is given back when nothing else is free.
    emergency: Option<u64>,
    repositories: Option<usize>,
    closed_by: Option<String>,
    note: Option<String>,
}

async fn status(session: &Session, output: Format) -> anyhow::Result<u8> {
    let seen = session.host.observe(Scope::Records).await;
    let store = &seen.datastore;
    let note = match (&store.storage.mount, &store.storage.file, &store.layout) {
        (Part::Unknown(why), ..) | (_, Part::Unknown(why), _) | (.., Part::Unknown(why)) => {
            Some(why.clone())
        }
        (_, Part::Absent, _) => Some("there is none: `renet datastore init --size`".to_owned()),
        (Part::Known(_), ..) => None,
        _ => Some("not mounted: `renet datastore mount`".to_owned()),
    };
    let bytes = |part: &Part<Size>| part.known().map(|size| size.as_bytes());
    let status = Status {
        path: session.layout.datastore().display().to_string(),
        backing_file: session.host.backing_file().display().to_string(),
        mounted: store.storage.mount.known().is_some(),
        uuid: store.identity.known().map(ToString::to_string),
        size: bytes(&store.storage.file),
        available: bytes(&store.free),
        promised: promised(&seen, |repo| repo.storage.file.known()),
        trash: promised(&seen, |repo| repo.trash.known()),
        emergency: bytes(&store.reserve),
        repositories: seen.repositories.known().map(|all| all.len()),
        closed_by: store.closed.known().map(|by| by.by.clone()),
        note,
    };
    print(output, &status, || text(&status))?;
    Ok(0)
}

fn promised(
    seen: &Actual,
    size: impl Fn(&crate::model::Repository) -> Option<&Size>,
) -> Option<u64> {
    let all = seen.repositories.known()?;
    let sizes = all.values().filter_map(|repo| size(repo));
    Some(sizes.map(|size| size.as_bytes()).sum())
}

fn text(status: &Status) -> String {
    let bytes = |bytes: Option<u64>| bytes.map(|bytes| Size::bytes(bytes).to_string());
    let mounted = if status.mounted { "yes" } else { "no" };
    let rows = [
        ("path", Some(status.path.clone())),
        ("mounted", Some(mounted.to_owned())),
        ("backing file", Some(status.backing_file.clone())),
        ("uuid", status.uuid.clone()),
        ("size", bytes(status.size)),
        ("available", bytes(status.available)),
        ("promised", bytes(status.promised)),
        ("trash", bytes(status.trash)),
        ("emergency", bytes(status.emergency)),
        ("closed by", status.closed_by.clone()),
        ("note", status.note.clone()),
    ];
    let known = rows
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    known
        .map(|(name, value)| format!("{name:<14}{value}\n"))
        .collect()
}

/// What was found, for programs.
#[derive(Serialize)]
struct Found {
    sound: bool,
    damaged: Vec<Damaged>,
}

#[derive(Serialize)]
struct Damaged {
    name: String,
    what: String,
}

async fn validate(session: &Session, output: Format) -> anyhow::Result<u8> {
    let seen = session.host.observe(Scope::Records).await;
    if seen.datastore.storage.mount.known().is_none() {
        return Err(refuse("the datastore is not mounted: `renet datastore mount`").into());
    }
    let found = check::datastore(&session.host)
        .await
        .map_err(|error| refuse(error.to_string()))?;
    let name = |guid: &crate::model::Guid| {
        let repo = seen.repository(*guid).ok();
        let record = repo.and_then(|repo| repo.record.known().cloned());
        record.map_or_else(|| guid.to_string(), |record| record.name.to_string())
    };
    let damaged = found.iter().map(|(guid, what)| Damaged {
        name: guid.as_ref().map_or_else(|| "datastore".to_owned(), name),
        what: what.clone(),
    });
    let found = Found {
        sound: found.is_empty(),
        damaged: damaged.collect(),
    };
    print(output, &found, || match found.sound {
        true => "everything in the datastore could be read and is as it was written\n".to_owned(),
        false => {
            let lines = found.damaged.iter();
            lines
                .map(|one| format!("{}: {}\n", one.name, one.what))
                .collect()
        }
    })?;
    Ok(if found.sound { 0 } else { 3 })
}

async fn expand(session: Session, said: Option<&str>) -> anyhow::Result<u8> {
    let seen = session.host.observe(Scope::Records).await;
    let Some(is) = seen.datastore.storage.file.known().copied() else {
        return Err(refuse("there is no datastore: `renet datastore init --size`").into());
    };
    let size = match said {
        Some(said) => super::repository::new_size(said, is)?,
        None => {
            let file = session.host.backing_file();
            let disk = file.parent().unwrap_or(file);
            let (total, free) = (files::total(disk)?, files::available(disk)?);
            // A sparse file already has what it was promised.
            let held = files::allocated(file).unwrap_or_default();
            let size = Size::bytes(most(total, free + held)).round_down_mib();
            if size > is {
                let disk = disk.display();
                say(&format!(
                    "{size} leaves 5 %, at least 10GiB, of {disk} free\n"
                ));
            }
            size
        }
    };
    if said.is_none() && size <= is {
        say(&format!(
            "the datastore has {is} already, as much as its disk allows\n"
        ));
        return Ok(0);
    }
    if size <= is {
        let message = format!("the datastore has {is} already, and is never shrunk");
        return Err(refuse(format!("{message}; nothing was changed")).into());
    }
    let done = format!("the datastore has {size}");
    carry_out(session, StoreAct::Expand(size), &done, &done).await
}

/// As large as leaves 5 % of a disk free, and at least 10 GiB.
fn most(total: u64, available: u64) -> u64 {
    const LEAST: u64 = 10 << 30;
    available.saturating_sub((total / 20).max(LEAST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_percent_of_a_disk_stay_free_and_at_least_ten_gib() {
        let gib = |n: u64| n << 30;
        assert_eq!(most(gib(1000), gib(900)), gib(850));
        assert_eq!(most(gib(100), gib(50)), gib(40));
        assert_eq!(most(gib(20), gib(5)), 0);
    }
}
