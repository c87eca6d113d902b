use super::{Failure, need_root, output};
use crate::host::linux::install::{self, Keeper};
use crate::model::Layout;

/// Have systemd open repositories at boot, close them when the machine stops, and keep
/// it what the manifests say
#[derive(Debug, clap::Args)]
pub struct Args {
    /// By an agent, which hears of every change at once; this is the default
    #[arg(long, conflicts_with = "timer")]
    agent: bool,
    /// By a pass every 3 minutes: nothing of renet runs in between
    #[arg(long)]
    timer: bool,
}

/// Exit code 0 also where it is so already; 3 where systemd does not rule this machine
/// or refuses.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    need_root()?;
    if !layout.is_machine() {
        let message = "install is for the machine itself: under a root of its own nothing of \
                       systemd's is touched";
        return Err(Failure::usage(message).into());
    }
    let keeper = match args.timer {
        true => Keeper::Timer,
        false => Keeper::Agent,
    };
    let lines = install::install(&layout, &std::env::current_exe()?, keeper)
        .await
        .map_err(|error| Failure {
            code: 3,
            message: error.to_string(),
        })?;
    for line in lines {
        output::say(&format!("  {line}\n"));
    }
    Ok(0)
}
