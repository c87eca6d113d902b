use super::{Failure, need_root};
use crate::host::linux::{LinuxHost, uninstall};
use crate::model::Layout;

/// Stop, unmount and detach everything beneath a root of its own
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Exit code 0; 3 where something would not go, which is all named.
pub async fn run(_args: &Args, layout: Layout) -> anyhow::Result<u8> {
    need_root()?;
    if layout.is_machine() {
        return Err(
            Failure::usage("uninstall works only beneath a root of its own (--root DIR)").into(),
        );
    }
    let host = LinuxHost::new(layout, None, std::env::current_exe()?);
    match uninstall(&host).await {
        Ok(lines) if lines.is_empty() => anstream::println!("nothing to stop"),
        Ok(lines) => lines.iter().for_each(|line| anstream::println!("  {line}")),
        Err(errors) => {
            let message: Vec<String> = errors.iter().map(ToString::to_string).collect();
            return Err(Failure {
                code: 3,
                message: message.join("\n"),
            }
            .into());
        }
    }
    Ok(0)
}
