use clap::Subcommand;

use super::{Which, absent, carry_out, find, records};
use crate::cli::output::{Format, print};
use crate::cli::passphrase;
use crate::cli::session::Session;
use crate::model::{Act, Layout};

/// Whether a repository comes back at boot without its passphrase
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the key that opens it at boot
    Enable {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        passphrase: passphrase::Args,
    },
    /// Destroy that key
    Disable {
        #[command(flatten)]
        which: Which,
    },
    /// List those that come back
    List {
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

/// Exit code 0 also where it is so already.
pub async fn run(command: &Command, layout: Layout) -> anyhow::Result<u8> {
    let session = Session::command(layout)?;
    let actual = records(&session).await;
    let (which, passphrase) = match command {
        Command::Enable { which, passphrase } => (which, Some(passphrase)),
        Command::Disable { which } => (which, None),
        Command::List { output } => {
            let all = actual.repositories.known().into_iter().flatten();
            let records = all.filter_map(|(_, repo)| repo.record.known());
            let names = records.filter(|record| record.autostart && record.is_live());
            let names: Vec<String> = names.map(|record| record.name.to_string()).collect();
            print(*output, &names, || {
                names.iter().map(|name| format!("{name}\n")).collect()
            })?;
            return Ok(0);
        }
    };
    let said = which.said();
    let found = find(&actual, said, false)?.ok_or_else(|| absent(&actual, said))?;
    let name = found.record.name.to_string();
    let session = match passphrase {
        Some(passphrase) => {
            let key = session.layout.key(found.guid).exists();
            match key && !passphrase.is_said() {
                true => session,
                false => super::with_passphrase(session, &found, passphrase).await?,
            }
        }
        None => session,
    };
    let on = passphrase.is_some();
    let how = if on { "comes back" } else { "stays closed" };
    let done = format!("{name} {how} at boot");
    let already = format!("{name} {how} at boot already");
    carry_out(session, found.guid, Act::Autostart(on), &done, &already).await
}
