//! The hidden commands that supervise daemons where no systemd does.

use clap::Subcommand;

use super::Failure;
use crate::host::linux::{dockerd, freeze, traefik};
use crate::model::{Guid, Layout, NetworkId};

/// Docker daemons
#[derive(Debug, Subcommand)]
pub enum Daemon {
    /// Keep the daemon of one network running
    #[command(hide = true)]
    Supervise {
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
}

/// The reverse proxy
#[derive(Debug, Subcommand)]
pub enum Proxy {
    /// Keep the proxy running
    #[command(hide = true)]
    Supervise,
}

/// Supervises until told to end.
pub fn daemon(command: &Daemon, layout: &Layout) -> anyhow::Result<u8> {
    match command {
        Daemon::Supervise { network_id } => {
            let network = NetworkId::try_from(*network_id)
                .map_err(|error| Failure::usage(error.to_string()))?;
            dockerd::supervise(layout, network)?;
        }
        Daemon::Freeze { guid } => freeze::guard(layout, *guid)?,
    }
    Ok(0)
}

/// Supervises until told to end.
pub fn proxy(command: &Proxy, layout: &Layout) -> anyhow::Result<u8> {
    let Proxy::Supervise = command;
    traefik::supervise(layout)?;
    Ok(0)
}
