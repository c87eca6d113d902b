use super::network::Network;
use super::{Which, absent, carry_out, find, open_with, records};
use crate::cli::passphrase;
use crate::cli::session::Session;
use crate::model::{Act, Layout};

/// Open a repository and mount it; nothing is started
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    passphrase: passphrase::Args,
}

/// Exit code 0 also where it is mounted already, 3 where it is absent or its
/// passphrase does not fit.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    open(layout, args.which.said(), &args.network, &args.passphrase).await
}

/// Opens it.
pub async fn open(
    layout: Layout,
    said: &str,
    network: &Network,
    passphrase: &passphrase::Args,
) -> anyhow::Result<u8> {
    let session = Session::command(layout)?;
    let actual = records(&session).await;
    let found = find(&actual, said, false)?.ok_or_else(|| absent(&actual, said))?;
    let name = found.record.name.to_string();
    let session = open_with(session, &found, passphrase).await?;
    let point = session.layout.mount(found.guid);
    let point = point.display();
    let act = Act::Mount {
        network: network.said()?,
    };
    let done = format!("{name} is mounted at {point}");
    let already = format!("{name} is mounted at {point} already");
    carry_out(session, found.guid, act, &done, &already).await
}
