//! Commands on the datastore: small reconciles over the same steps as `apply`.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Serialize;

use super::Failure;
use super::output::{Format, print, say};
use super::repository::by;
use super::session::Session;
use crate::host::linux::{check, files};
use crate::host::{Host as _, Scope};
use crate::manifest;
use crate::model::{Actual, Backing, Layout, Part, Size, StoreAct, Suspension};

/// The BTRFS file system that holds all repositories
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make it, where there is none, and mount it: in a file, or on a device of its own
    #[command(group = clap::ArgGroup::new("backing").required(true).args(["size", "device"]))]
    Init {
        /// How large its file is: `20G`, at least 256M
        #[arg(long)]
        size: Option<Size>,
        /// The block device that holds it, all of it: `/dev/disk/by-id/…`, at least 256M.
        /// It must be blank: with any signature on it, it is refused
        #[arg(long, value_name = "DEVICE", value_parser = device)]
        device: Option<PathBuf>,
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
        /// as large as its disk allows, or as its device is
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
        Command::Init { size, device } => {
            init(session, size.map(Size::round_up_mib), device.as_deref()).await
        }
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

fn device(said: &str) -> Result<PathBuf, String> {
    manifest::device(Path::new(said))
}

async fn init(
    mut session: Session,
    size: Option<Size>,
    device: Option<&Path>,
) -> anyhow::Result<u8> {
    let least = Size::SMALLEST_DATASTORE;
    if let Some(size) = size.filter(|size| *size < least) {
        return Err(Failure::usage(format!("{size} is too small; at least {least}")).into());
    }
    none_yet(&session).await?;
    if let Some(device) = device {
        session.host = session.host.with_device(device.to_owned());
        none_yet(&session).await?;
    }
    let at = session.layout.datastore();
    let made = match (size, device) {
        (Some(size), _) => format!(" of {size}"),
        (None, Some(device)) => format!(" on {}", device.display()),
        (None, None) => String::new(),
    };
    let done = format!("a datastore{made} is mounted at {}", at.display());
    carry_out(session, StoreAct::Init(size), &done, &done).await
}

/// Refuses to make a second one, and one in the place of another.
async fn none_yet(session: &Session) -> Result<(), Failure> {
    let seen = session.host.observe(Scope::Records).await;
    match seen.datastore.storage.file {
        Part::Absent => Ok(()),
        Part::Unknown(why) => Err(refuse(format!("{why}; nothing was changed"))),
        Part::Known(_) | Part::Hidden => {
            let path = session.host.backing().path().display();
            let how = match (session.host.backing(), seen.datastore.note.is_absent()) {
                (Backing::Device(_), true) => "; a Machine manifest that names it has it mounted",
                _ => "",
            };
            let message = format!("there is a datastore already ({path}){how}");
            Err(refuse(format!("{message}; nothing was changed")))
        }
    }
}

/// What programs read; sizes in bytes.
#[derive(Serialize)]
struct Status {
    path: String,
    /// The file that holds it, where no device does.
    backing_file: Option<String>,
    /// The block device that holds it, where no file does.
    device: Option<String>,
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
    let refused = store.disk.known().and_then(|disk| disk.refused.clone());
    let note = match (&store.storage.mount, &store.storage.file, &store.layout) {
        (Part::Unknown(why), ..) | (_, Part::Unknown(why), _) | (.., Part::Unknown(why)) => {
            Some(why.clone())
        }
        (_, Part::Absent, _) => Some(match (&store.disk, refused) {
            (Part::Unknown(why), _) => why.clone(),
            (_, Some(why)) => why,
            _ => "there is none: `renet datastore init`".to_owned(),
        }),
        (Part::Known(_), ..) => None,
        _ => Some("not mounted: `renet datastore mount`".to_owned()),
    };
    let path = || Some(session.host.backing().path().display().to_string());
    let is_device = matches!(session.host.backing(), Backing::Device(_));
    let bytes = |part: &Part<Size>| part.known().map(|size| size.as_bytes());
    let status = Status {
        path: session.layout.datastore().display().to_string(),
        backing_file: path().filter(|_| !is_device),
        device: path().filter(|_| is_device),
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
        ("backing file", status.backing_file.clone()),
        ("device", status.device.clone()),
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
        return Err(refuse("there is no datastore: `renet datastore init`").into());
    };
    if let Backing::Device(device) = session.host.backing().clone() {
        return fill(session, said, is, &device).await;
    }
    let size = match said {
        Some(said) => super::repository::new_size(said, is)?,
        None => {
            let file = session.host.backing().path();
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

/// A datastore on a device is as large as that is.
async fn fill(session: Session, said: Option<&str>, is: Size, device: &Path) -> anyhow::Result<u8> {
    let device = device.display();
    let said = said.map(|said| super::repository::new_size(said, is));
    if let Some(size) = said.transpose()?.filter(|size| *size != is.round_up_mib()) {
        let message = format!(
            "{device} has {is}, and the datastore on it neither more nor less than its device: \
             make that one {size} large, then leave `--size` out"
        );
        return Err(refuse(format!("{message}; nothing was changed")).into());
    }
    let done = format!("the datastore has {is}, all of {device}");
    let already = format!("the datastore has {is} already, all of {device}");
    carry_out(session, StoreAct::Mount, &done, &already).await
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
