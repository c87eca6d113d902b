use std::ffi::OsString;

use super::Failure;
use super::passthrough::{Known, Options, Target};
use crate::host::linux::passthrough;
use crate::model::Layout;

/// Run a command of Docker's on a repository's own daemon
#[derive(Debug, clap::Args)]
#[command(override_usage = "renet docker [--network-id ID] -- ARGS...")]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// What Docker is told, like `-- ps -a`
    #[arg(last = true, required = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

/// None of them says which daemon answers.
const KNOWN: [Known; 4] = [
    ("debug", Some('D'), false),
    ("help", Some('h'), false),
    ("log-level", Some('l'), true),
    ("version", Some('v'), false),
];

/// Docker's own exit code; 2 or 3 where it was not called.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let options = Options::parse(&args.args, &KNOWN)?;
    if options.command() == "compose" {
        let message = "`renet compose -- …` runs compose: it judges the file and gives every \
                       service its address";
        return Err(Failure::usage(message).into());
    }
    let here = args.target.find(layout).await?;
    here.must_answer().await?;
    let network = here.record.network;
    Err(passthrough::docker(&here.session.layout, network, &args.args).into())
}
