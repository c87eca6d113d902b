use super::session::Session;
use super::{Failure, boot, need_root, output};
use crate::host::linux::{LinuxHost, install, proxy, systemd, uninstall};
use crate::host::{Cx, Host as _, StepError};
use crate::model::{Layout, Step};

/// Stop, unmount and detach everything beneath a root of its own; on the machine itself
/// remove renet's units
#[derive(Debug, clap::Args)]
pub struct Args {
    /// On the machine itself: close all repositories and the datastore too
    #[arg(long)]
    stop: bool,
}

/// Exit code 0; 3 where something would not go, which is all named.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    need_root()?;
    if layout.is_machine() {
        return machine(args, layout).await;
    }
    let host = LinuxHost::new(layout, None, std::env::current_exe()?);
    match uninstall(&host).await {
        Ok(lines) if lines.is_empty() => anstream::println!("nothing to stop"),
        Ok(lines) => lines.iter().for_each(|line| anstream::println!("  {line}")),
        Err(errors) => return Err(refused(&errors).into()),
    }
    Ok(0)
}

async fn machine(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let refuse = |error: StepError| refused(&[error]);
    let units = systemd::rules(&layout);
    if units {
        // Otherwise it would open again what is closed.
        install::stop_keepers().await.map_err(refuse)?;
    }
    if args.stop {
        let host = LinuxHost::new(layout.clone(), None, std::env::current_exe()?);
        let code = boot::close(Session::command(layout)?).await?;
        if code != 0 {
            return Ok(code);
        }
        let stopped = host.perform(&Step::StopProxy, &Cx::default()).await;
        stopped.map_err(refuse)?;
        let forgotten = proxy::forget_images(host.layout()).await;
        forgotten.map_err(refuse)?;
    }
    if units {
        install::remove_boot(args.stop).await.map_err(refuse)?;
    }
    output::say(match args.stop {
        true => "renet's units are removed, and nothing of it runs; the data stays\n",
        false => {
            "renet's units are removed; what runs goes on, comes back at no boot, and is not \
             closed when the machine stops: `renet uninstall --stop` closes it\n"
        }
    });
    Ok(0)
}

fn refused(errors: &[StepError]) -> Failure {
    let message: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Failure {
        code: 3,
        message: message.join("\n"),
    }
}
