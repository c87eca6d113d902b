use serde::Serialize;

use super::{Which, absent, find, open_with, records};
use crate::cli::output::{Format, print};
use crate::cli::session::Session;
use crate::cli::{Failure, passphrase};
use crate::execute::{Lock, Locking as _, Mode};
use crate::host::linux::check;
use crate::model::Layout;

/// Check a repository: what was written, its encryption, its file system
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    network: super::network::Network,
    #[command(flatten)]
    passphrase: passphrase::Args,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Serialize)]
struct Found {
    sound: bool,
    found: Vec<String>,
}

/// Exit code 0 where it is sound, 3 where it is not, or absent.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let session = Session::command(layout)?;
    let said = args.which.said();
    let actual = records(&session).await;
    let found = find(&actual, said, false)?.ok_or_else(|| absent(&actual, said))?;
    args.network.check(&found.record)?;
    let session = open_with(session, &found, &args.passphrase).await?;
    let with = session.host.opener(found.guid);
    // Nobody opens it meanwhile.
    let lock = Lock::Repository(found.guid);
    let locks = session.locks(crate::cli::session::How::default().lock_wait);
    let held = locks.lock(lock, Mode::Alone).await;
    let _held = held.map_err(|busy| Failure {
        code: 5,
        message: busy.to_string(),
    })?;
    let seen = check::repository(&session.host, found.guid, with).await;
    let seen = seen.map_err(|error| Failure {
        code: 3,
        message: format!("{}: {error}", found.record.name),
    })?;
    let result = Found {
        sound: seen.is_empty(),
        found: seen,
    };
    let name = &found.record.name;
    print(args.output, &result, || match result.sound {
        true => format!("{name} is sound\n"),
        false => {
            let lines = result.found.iter();
            lines.map(|what| format!("{name}: {what}\n")).collect()
        }
    })?;
    Ok(if result.sound { 0 } else { 3 })
}
