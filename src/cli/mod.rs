//! One file per command: its arguments, and which room it calls. What people
//! read is drawn in `render`.

mod agent;
mod apply;
mod boot;
mod compose;
mod compose_flags;
mod daemon;
mod datastore;
mod diff;
mod docker;
mod doctor;
mod events;
mod explain;
mod get;
mod given;
mod history;
mod install;
mod interrupt;
mod ips;
mod listing;
pub mod output;
mod passphrase;
mod passthrough;
mod progress;
mod proxy;
mod prune;
mod reconcile;
pub mod render;
mod repository;
mod rollback;
mod router;
mod saved;
mod schema;
mod session;
mod status;
mod supervise;
mod suspend;
mod trial;
mod uninstall;
mod validate;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::model::{Layout, Named, NotNamed};

pub use schema::schemas;

/// One Linux server becomes what a folder of manifests says it is, and stays so
#[derive(Debug, Parser)]
#[command(name = "renet", version, disable_help_subcommand = true)]
pub struct Cli {
    /// Where everything is: `/` on a real machine, a folder of its own for a trial
    #[arg(
        long,
        env = "RENET_ROOT",
        default_value = "/",
        global = true,
        value_name = "DIR"
    )]
    root: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Validate(validate::Args),
    Schema(schema::Args),
    Explain(explain::Args),
    Diff(diff::Args),
    Apply(apply::Args),
    Get(get::Args),
    Status(status::Args),
    History(history::Args),
    #[command(subcommand)]
    Repository(repository::Command),
    #[command(subcommand)]
    Datastore(datastore::Command),
    Compose(compose::Args),
    Docker(docker::Args),
    Ips(ips::Args),
    Prune(prune::Args),
    Agent(agent::Args),
    Reconcile(reconcile::Args),
    Events(events::Args),
    Doctor(doctor::Args),
    Rollback(rollback::Args),
    Suspend(suspend::Suspend),
    Resume(suspend::Resume),
    Boot(boot::Args),
    Install(install::Args),
    Uninstall(uninstall::Args),
    #[command(subcommand)]
    Daemon(daemon::Command),
    #[command(subcommand)]
    Proxy(proxy::Command),
    #[command(subcommand)]
    Router(router::Command),
    /// Print the version
    Version,
}

/// How a command ended badly, and with which exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The exit code of DESIGN §5.
    pub code: u8,
    /// What the user is told.
    pub message: String,
}

impl Failure {
    /// Wrong usage.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            code: 2,
            message: message.into(),
        }
    }
}

/// Runs the command and gives its exit code.
///
/// # Errors
///
/// Where the command could not do its work at all.
pub async fn run(cli: Cli) -> anyhow::Result<u8> {
    let layout = Layout::new(&cli.root).map_err(|error| Failure::usage(error.to_string()))?;
    match cli.command {
        Command::Validate(args) => validate::run(&args, &layout.desired()),
        Command::Schema(args) => schema::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Diff(args) => diff::run(&args, layout).await,
        Command::Apply(args) => apply::run(&args, layout).await,
        Command::Get(args) => get::run(&args, layout).await,
        Command::Status(args) => status::run(&args, layout).await,
        Command::History(args) => history::run(&args, &layout),
        Command::Repository(command) => repository::run(&command, layout).await,
        Command::Datastore(command) => datastore::run(&command, layout).await,
        Command::Compose(args) => compose::run(&args, layout).await,
        Command::Docker(args) => docker::run(&args, layout).await,
        Command::Ips(args) => ips::run(&args, layout).await,
        Command::Prune(args) => prune::run(&args, layout).await,
        Command::Agent(args) => agent::run(&args, layout).await,
        Command::Reconcile(args) => reconcile::run(&args, layout).await,
        Command::Events(args) => events::run(&args, &layout),
        Command::Doctor(args) => doctor::run(&args, layout).await,
        Command::Rollback(args) => rollback::run(&args, layout).await,
        Command::Suspend(args) => suspend::suspend(&args, layout).await,
        Command::Resume(args) => suspend::resume(&args, layout).await,
        Command::Boot(args) => boot::run(&args, layout).await,
        Command::Install(args) => install::run(&args, layout).await,
        Command::Uninstall(args) => uninstall::run(&args, layout).await,
        Command::Daemon(command) => daemon::run(&command, layout).await,
        Command::Proxy(command) => proxy::run(&command, layout).await,
        Command::Router(command) => router::run(&command, layout).await,
        Command::Version => {
            anstream::println!("renet {}", env!("CARGO_PKG_VERSION"));
            Ok(0)
        }
    }
}

/// Reads an object's name.
fn named(text: &str) -> Result<Named, Failure> {
    text.parse()
        .map_err(|error: NotNamed| Failure::usage(error.to_string()))
}

/// Reads a time: `90s`, `5m`, `1h30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a time like `90s`, `5m` or `1h30m`".to_owned();
    let time: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(time).map_err(|_| wrong())
}

/// Ends at once where the command needs root and is not.
fn need_root() -> Result<(), Failure> {
    if nix::unistd::geteuid().is_root() {
        Ok(())
    } else {
        Err(Failure::usage(
            "renet must be run as root for this; nothing was changed",
        ))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn every_command_can_be_parsed() {
        super::Cli::command().debug_assert();
    }
}
