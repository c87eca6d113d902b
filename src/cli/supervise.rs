//! The hidden commands that daemons are kept running by.

use clap::Subcommand;

use super::Failure;
use crate::host::linux::{LinuxHost, dockerd, freeze, hook};
use crate::model::{Guid, Layout, NetworkId};

/// What keeps a Docker daemon running
#[derive(Debug, Subcommand)]
pub enum Daemon {
    /// Keep the daemon of one network running
    #[command(hide = true)]
    Supervise {
        /// The network's id
        #[arg(long)]
        network_id: u32,
    },
    /// Become the daemon of one network, as a service of systemd's
    #[command(hide = true)]
    Run {
        /// The network's id
        #[arg(long)]
        network_id: u32,
    },
    /// Let the writers of a repository wait until standard input ends
    #[command(hide = true)]
    Freeze {
        /// The repository
        #[arg(long)]
        guid: Guid,
    },
    /// Run a function of the Rediaccfile in this folder until standard input ends
    #[command(hide = true)]
    Hook {
        /// What the file is called
        #[arg(long)]
        file: String,
        /// The function
        #[arg(long)]
        function: String,
    },
}

/// Supervises until told to end.
pub fn daemon(command: &Daemon, layout: &Layout) -> anyhow::Result<u8> {
    match command {
        Daemon::Supervise { network_id } => {
            dockerd::supervise(layout, network(*network_id)?)?;
        }
        Daemon::Run { network_id } => {
            let host = LinuxHost::new(layout.clone(), None, std::env::current_exe()?);
            return Err(dockerd::run(&host, network(*network_id)?).into());
        }
        Daemon::Freeze { guid } => freeze::guard(layout, *guid)?,
        Daemon::Hook { file, function } => return Ok(hook::guard(file, function)?),
    }
    Ok(0)
}

fn network(id: u32) -> Result<NetworkId, Failure> {
    NetworkId::try_from(id).map_err(|error| Failure::usage(error.to_string()))
}
