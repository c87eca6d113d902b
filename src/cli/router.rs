use std::time::Duration;

use clap::Subcommand;

use super::interrupt::Interrupt;
use super::{Failure, need_root};
use crate::execute::{FileLocks, Lock, Locking as _, Mode};
use crate::host::linux::{proxy, router};
use crate::model::Layout;

/// The router, which follows the daemons and writes what the proxy reads
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run it until it is told to end; `renet proxy up` does so
    Run,
    /// Keep it running
    #[command(hide = true)]
    Supervise,
}

/// Exit code 130 or 143 when it was told to end.
pub async fn run(command: &Command, layout: Layout) -> anyhow::Result<u8> {
    need_root()?;
    match command {
        Command::Supervise => proxy::supervise_router(&layout)?,
        Command::Run => {
            // Whoever has the lock publishes: its turn comes again.
            const PATIENCE: Duration = Duration::from_secs(1);
            let locks = FileLocks::new(layout.locks(), PATIENCE, |_, _| ());
            let interrupt = Interrupt::listen();
            let lock = async || locks.lock(Lock::Routes, Mode::Alone).await.ok();
            let ran = router::run(layout, lock, interrupt.token()).await;
            ran.map_err(|error| Failure {
                code: 3,
                message: format!("the router cannot listen: {error}"),
            })?;
            return Ok(Interrupt::code());
        }
    }
    Ok(0)
}
