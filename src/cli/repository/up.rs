use super::network::Network;
use super::{absent, all, carry_out, find, mount, open_with, records};
use crate::cli::session::{Meant, Session};
use crate::cli::{Failure, passphrase};
use crate::host::linux::LinuxHost;
use crate::model::{Act, Layout};

/// Open a repository and start what its manifests say
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: all::Which,
    /// Open it first, which it does anyway
    #[arg(long)]
    mount: bool,
    /// Open it, and without `--mount` start nothing
    #[arg(long)]
    mount_only: bool,
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    passphrase: passphrase::Args,
}

/// Exit code 0 done, 3 where it is absent or something failed.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    if args.which.is_all() && args.passphrase.is_said() {
        let message = "with --all no passphrase is read: `passphraseFrom` of each manifest, or its \
                       key for the boot, opens it";
        return Err(Failure::usage(message.to_owned()).into());
    }
    let mount_only = args.mount_only && !args.mount;
    let one = async |said: String| match mount_only {
        true => mount::open(layout.clone(), &said, &args.network, &args.passphrase).await,
        false => up(args, layout.clone(), &said).await,
    };
    let verb = if mount_only { "open" } else { "start" };
    args.which.each(&layout, verb, one).await
}

async fn up(args: &Args, layout: Layout, said: &str) -> anyhow::Result<u8> {
    let session = Session::command(layout.clone())?;
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
