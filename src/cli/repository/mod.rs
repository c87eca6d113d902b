//! Commands on one repository: small reconciles over the same steps as `apply`.

mod adopt;
mod all;
mod autostart;
mod create;
mod delete;
mod down;
mod expand;
mod fork;
mod list;
mod mount;
mod network;
mod restore;
pub mod snapshot;
mod status;
mod unmount;
mod up;
mod validate;

use clap::Subcommand;

pub use down::{Pause, keep};

use super::session::Session;
use super::{Failure, passphrase};
use crate::host::linux::secrets::Secrets;
use crate::host::{Host as _, Scope};
use crate::model::{Act, Actual, Guid, Layout, Part, Record, Repository, Size};

/// Repositories
#[derive(Debug, Subcommand)]
pub enum Command {
    List(list::Args),
    #[command(visible_alias = "info")]
    Status(status::Args),
    Create(create::Args),
    Mount(mount::Args),
    Up(up::Args),
    Down(down::Args),
    Unmount(unmount::Args),
    Fork(fork::Args),
    #[command(visible_alias = "resize")]
    Expand(expand::Args),
    #[command(subcommand)]
    Autostart(autostart::Command),
    #[command(subcommand)]
    Snapshot(snapshot::Command),
    Delete(delete::Args),
    Validate(validate::Args),
    Restore(restore::Args),
    Adopt(adopt::Args),
}

/// Runs it.
pub async fn run(command: &Command, layout: Layout) -> anyhow::Result<u8> {
    match command {
        Command::List(args) => list::run(args, layout).await,
        Command::Status(args) => status::run(args, layout).await,
        Command::Create(args) => create::run(args, layout).await,
        Command::Mount(args) => mount::run(args, layout).await,
        Command::Fork(args) => fork::run(args, layout).await,
        Command::Expand(args) => expand::run(args, layout).await,
        Command::Autostart(command) => autostart::run(command, layout).await,
        Command::Up(args) => up::run(args, layout).await,
        Command::Down(args) => down::run(args, layout).await,
        Command::Unmount(args) => unmount::run(args, layout).await,
        Command::Snapshot(command) => snapshot::run(command, layout).await,
        Command::Delete(args) => delete::run(args, layout).await,
        Command::Validate(args) => validate::run(args, layout).await,
        Command::Restore(args) => restore::run(args, layout).await,
        Command::Adopt(args) => adopt::run(args, layout).await,
    }
}

/// Which repository: `--name X`, or just X.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// Its name or guid
    #[arg(value_name = "NAME", required_unless_present = "name")]
    plain: Option<String>,
    /// Its name or guid
    #[arg(long, value_name = "NAME", conflicts_with = "plain")]
    name: Option<String>,
}

impl Which {
    /// What was said.
    pub fn said(&self) -> &str {
        let said = self.name.as_ref().or(self.plain.as_ref());
        said.map_or("", String::as_str)
    }
}

/// A repository that a command speaks of.
pub struct Found {
    pub guid: Guid,
    pub record: Record,
}

/// Finds a live repository by its name or guid, or with `deleted` the one that
/// was deleted last.
pub fn find(actual: &Actual, said: &str, deleted: bool) -> Result<Option<Found>, Failure> {
    let all = match actual.repositories.get() {
        Ok(all) => all.into_iter().flatten(),
        Err(_) => return Err(unseen(actual)),
    };
    let guid = said.parse::<Guid>().ok();
    let mut found: Vec<Found> = all
        .filter_map(|(of, repo)| Some((of, repo.record.known()?)))
        .filter(|(of, record)| {
            let called = record.name.as_str() == said && record.is_live() != deleted;
            guid.map_or(called, |guid| guid == **of)
        })
        .map(|(guid, record)| Found {
            guid: *guid,
            record: record.clone(),
        })
        .collect();
    found.sort_by_key(|found| found.record.deleted.as_ref().map(|stone| stone.at));
    Ok(found.pop())
}

/// What a command says where no repository can be seen.
pub fn unseen(actual: &Actual) -> Failure {
    Failure {
        code: 3,
        message: match &actual.repositories {
            Part::Unknown(why) => format!("the repositories cannot be seen: {why}"),
            _ => match &actual.datastore.closed {
                Part::Known(by) => format!(
                    "the datastore was closed by {}: `renet datastore mount` opens it",
                    by.by
                ),
                _ => "the datastore is closed: `renet datastore mount` opens it".to_owned(),
            },
        },
    }
}

/// What a command on an absent repository says.
pub fn absent(actual: &Actual, said: &str) -> Failure {
    let unread = |repo: &&Repository| repo.record.is_unknown();
    let all = actual.repositories.known();
    let torn = all.is_some_and(|all| all.values().any(|repo| unread(&&**repo)));
    let hint = match torn {
        true => "; a record cannot be read, see `renet repository list`",
        false => "; `renet repository list` shows all",
    };
    Failure {
        code: 3,
        message: format!("there is no repository {said}{hint}"),
    }
}

/// What was seen of the records, for a command that changes something: a datastore
/// that is merely closed, as after a boot, is opened for it.
pub async fn records(session: &Session) -> Actual {
    let seen = session.host.observe(Scope::Records).await;
    let closed = seen.repositories == Part::Hidden && seen.datastore.closed.is_absent();
    if !closed {
        return seen;
    }
    let report = session.open_datastore().await;
    if !report.in_sync() {
        session.say(&report);
    }
    session.host.observe(Scope::Records).await
}

/// With the passphrase that is needed to open it: none where it is open, not
/// encrypted, or has a key, unless one is said to come.
async fn open_with(
    session: Session,
    found: &Found,
    passphrase: &passphrase::Args,
) -> Result<Session, Failure> {
    let needed = |repo: &Repository| {
        let opens = repo.storage.mapper.known().is_some() || repo.key.known().is_some();
        !opens || passphrase.is_said()
    };
    asked_for(session, found, passphrase, needed).await
}

/// With the passphrase that was typed, where it is encrypted.
pub async fn with_passphrase(
    session: Session,
    found: &Found,
    passphrase: &passphrase::Args,
) -> Result<Session, Failure> {
    asked_for(session, found, passphrase, |_| true).await
}

async fn asked_for(
    mut session: Session,
    found: &Found,
    passphrase: &passphrase::Args,
    needed: impl FnOnce(&Repository) -> bool,
) -> Result<Session, Failure> {
    let seen = session.host.observe(Scope::Repository(found.guid)).await;
    let repo = seen.repository(found.guid).unwrap_or_default();
    if repo.storage.is_sealed() == Ok(true) && needed(&repo) {
        let secret = passphrase.read(found.record.name.as_str(), false)?;
        session.host = session.host.with_secrets(Secrets::typed(secret));
    }
    session.sees(found.guid, seen);
    Ok(session)
}

/// Carries out what the command asks of one repository.
pub async fn carry_out(
    mut session: Session,
    guid: Guid,
    act: Act,
    done: &str,
    already: &str,
) -> anyhow::Result<u8> {
    session.source.acts.insert(guid, act);
    session.carry_out(guid, done, already).await
}

/// A size that is said in all, like `4G`, or besides what there is, like `+2G`.
pub fn new_size(said: &str, is: Size) -> Result<Size, Failure> {
    let (more, text) = match said.strip_prefix('+') {
        Some(rest) => (is.as_bytes(), rest),
        None => (0, said),
    };
    let size: Size = text
        .parse()
        .map_err(|error| Failure::usage(format!("{error}")))?;
    Ok(Size::bytes(more.saturating_add(size.as_bytes())).round_up_mib())
}

/// The user, and the command that was run.
pub fn by(command: &str) -> String {
    let user = std::env::var("SUDO_USER").unwrap_or_else(|_| "root".to_owned());
    format!("{}: `{command}`", user.escape_debug())
}
