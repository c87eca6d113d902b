use jiff::Timestamp;
use serde::Serialize;

use super::output::{Format, print};
use super::repository::snapshot::time;
use super::repository::{Found, absent, carry_out, find, with_passphrase};
use super::session::Session;
use super::{Failure, named, passphrase};
use crate::host::{Host as _, Scope};
use crate::model::{Act, Layout, Name, Named, Repository, Rewind, Snapshot};

/// Bring back the revision of a service that was well before the present one, or a
/// repository's data as it was
#[derive(Debug, clap::Args)]
pub struct Args {
    /// `REPOSITORY/NAME`, or `service/REPOSITORY/NAME`; with `--to` also `REPOSITORY`
    #[arg(value_name = "SERVICE")]
    object: String,
    /// Bring back the data of the whole repository as it was in this snapshot, by its
    /// time; what is there now is kept as another
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "list")]
    to: Option<Timestamp>,
    #[command(flatten)]
    passphrase: passphrase::Args,
    /// List the revisions that are kept, and change nothing
    #[arg(long)]
    list: bool,
    /// How to print the list
    #[arg(short, long, value_enum, default_value_t, requires = "list")]
    output: Format,
}

/// What programs read.
#[derive(Serialize)]
struct Row {
    /// The revision's hash.
    revision: String,
    /// Whether it is the newest that was well.
    newest: bool,
    /// Whether it failed, or was taken back.
    failed: bool,
}

/// Exit code 0 also where it was taken back already; 3 where the service is absent or
/// nothing is kept that could come back.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let (repository, project) = match (named(&whole_name(&args.object))?, args.to) {
        (Named::Service(repository, project), Some(to)) => {
            return rewind(args, to, layout, repository.as_str(), Some(project)).await;
        }
        (Named::Service(repository, project), None) => (repository, project),
        (Named::Repository(repository), Some(to)) => {
            return rewind(args, to, layout, repository.as_str(), None).await;
        }
        (other, _) => {
            let message = format!(
                "{other} is no Service: write REPOSITORY/NAME, or `--to TIME` to bring back \
                 the data of a repository"
            );
            return Err(Failure::usage(message).into());
        }
    };
    let session = Session::command(layout)?;
    let seen = session.host.observe(Scope::All).await;
    let found = find(&seen, &repository, false)?.ok_or_else(|| absent(&seen, &repository))?;
    let repo = seen.repository(found.guid).unwrap_or_default();
    let rows = rows(&repo, &found, &project)?;
    if args.list {
        print(args.output, &rows, || table(&rows))?;
        return Ok(0);
    }
    let before = before(&rows, &found, &project)?;
    let done = format!(
        "{}/{project} is back at revision {before}; its data stayed as it is. The manifest's \
         revision is left aside until it changes, or `renet apply --retry` asks for it",
        found.record.name
    );
    let already = format!(
        "{}/{project} was taken back to revision {before} before",
        found.record.name
    );
    let act = Act::Rollback(project);
    carry_out(session, found.guid, act, &done, &already).await
}

/// `shop/web` is a service, `shop` a repository.
fn whole_name(said: &str) -> String {
    let parts: Vec<&str> = said.split('/').collect();
    match parts.as_slice() {
        ["service" | "repository" | "route", ..] | [_, _, _, ..] | [] => said.to_owned(),
        [_] => format!("repository/{said}"),
        [_, _] => format!("service/{said}"),
    }
}

/// Brings back the data of a snapshot; what ran before is started again.
async fn rewind(
    args: &Args,
    to: Timestamp,
    layout: Layout,
    repository: &str,
    project: Option<Name>,
) -> anyhow::Result<u8> {
    let mut session = Session::command(layout)?;
    let seen = session.host.observe(Scope::All).await;
    let found = find(&seen, repository, false)?.ok_or_else(|| absent(&seen, repository))?;
    let repo = seen.repository(found.guid).unwrap_or_default();
    let name = &found.record.name;
    let all = repo.snapshots.known();
    if !all.is_some_and(|all| all.contains_key(&to)) {
        let message = format!(
            "there is no snapshot {} of {name}; `renet repository snapshot list {name}` shows all",
            Snapshot::shown(to)
        );
        return Err(Failure { code: 3, message }.into());
    }
    if let Some(project) = &project {
        before(&rows(&repo, &found, project)?, &found, project)?;
    }
    let up = repo.daemon.known().is_some_and(|daemon| daemon.serving);
    if up && repo.key.is_absent() {
        session = with_passphrase(session, &found, &args.passphrase).await?;
    }
    let keep = repo.free_moment(Timestamp::now());
    let aside = project.as_ref().map_or_else(String::new, |project| {
        format!(
            "; {project}'s revision is left aside until its manifest changes, or `renet apply \
             --retry` asks for it"
        )
    });
    let done = format!(
        "the data of {name} is what it was at {}; what was there is kept as snapshot {}{aside}",
        Snapshot::shown(to),
        Snapshot::shown(keep)
    );
    let act = Act::Rewind {
        project,
        rewind: Rewind { to, keep },
        up,
    };
    carry_out(session, found.guid, act, &done, &done).await
}

/// What is kept, oldest first.
fn rows(repo: &Repository, found: &Found, project: &Name) -> Result<Vec<Row>, Failure> {
    let Some(revisions) = repo.revisions.known() else {
        let name = &found.record.name;
        let message =
            format!("{name} is closed: what is kept lies in it; `renet repository up {name}`");
        return Err(Failure { code: 3, message });
    };
    let kept = revisions.get(project).map_or(&[][..], Vec::as_slice);
    let row = |(index, one): (usize, &crate::model::Kept)| Row {
        revision: one.hash.to_string(),
        newest: index + 1 == kept.len(),
        failed: found.record.has_failed(project, &one.hash),
    };
    Ok(kept.iter().enumerate().map(row).collect())
}

/// The revision that comes back.
fn before(rows: &[Row], found: &Found, project: &Name) -> Result<String, Failure> {
    match rows {
        [.., before, _] => Ok(before.revision[..12].to_owned()),
        _ => {
            let message = format!(
                "{}/{project}: no revision before the present one is kept: there is nothing that \
                 could come back",
                found.record.name
            );
            Err(Failure { code: 3, message })
        }
    }
}

fn table(rows: &[Row]) -> String {
    let mut text = format!("{:<14}STATE\n", "REVISION");
    for row in rows.iter().rev() {
        let state = match (row.newest, row.failed) {
            (_, true) => "taken back",
            (true, false) => "runs",
            (false, false) => "before",
        };
        text += &format!("{:<14}{state}\n", &row.revision[..12]);
    }
    text
}
