use super::network::Network;
use super::{Which, absent, carry_out, find, open_with, records};
use crate::cli::passphrase;
use crate::cli::session::{Meant, Session};
use crate::host::linux::LinuxHost;
use crate::model::{Act, Layout};

/// Open a repository and start what its manifests say
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    passphrase: passphrase::Args,
}

/// Exit code 0 done, 3 where it is absent or something failed.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let session = Session::command(layout.clone())?;
    let said = args.which.said();
    let actual = records(&session).await;
    let found = find(&actual, said, false)?.ok_or_else(|| absent(&actual, said))?;
    let name = found.record.name.to_string();
    let Some(owner) = &found.record.owner else {
        let (done, already) = (format!("{name} is up"), format!("{name} is up already"));
        let mut session = open_with(session, &found, &args.passphrase).await?;
        let act = Act::Up {
            network: args.network.said()?,
        };
        session.source.asked.retry = true;
        let layout = session.host.layout().clone();
        let code = carry_out(session, found.guid, act, &done, &already).await?;
        if code == 0 && LinuxHost::has_no_hook(&layout, found.guid) {
            anstream::println!("no Rediaccfile was found in {name}: nothing was started");
        }
        return Ok(code);
    };
    args.network.check(&found.record)?;
    if found.record.suspended.is_some() {
        let done = format!("{name} is no longer suspended");
        let code = carry_out(session, found.guid, Act::Resume, &done, &done).await?;
        if code != 0 {
            return Ok(code);
        }
    }
    let meant = Meant {
        file: Some(owner.source.clone().into()),
        ..Meant::default()
    };
    let mut session = Session::open(layout, &meant)?;
    if args.passphrase.is_said() {
        let secret = args.passphrase.read(&name, false)?;
        session.host = session.host.with_typed(secret);
    }
    let (done, already) = (format!("{name} is up"), format!("{name} is up already"));
    session.carry_out(found.guid, &done, &already).await
}
