use super::Which;
use super::down::{Pause, close};
use super::network::Network;
use crate::model::Layout;

/// Close a repository, with everything that runs in it
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    pause: Pause,
}

/// Exit code 0 also where it is absent or closed already.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let pause = args.pause.suspension("repository unmount");
    close(layout, args.which.said(), &args.network, pause, true).await
}
