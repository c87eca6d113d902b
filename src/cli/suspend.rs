use super::repository::{absent, by, carry_out, find, records};
use super::session::Session;
use super::{Failure, named};
use crate::model::{Act, Layout, Name, Named, Suspension};

/// Leave an object alone: agent, timer and apply change nothing of it
#[derive(Debug, clap::Args)]
pub struct Suspend {
    /// `repository/NAME` or `service/REPOSITORY/NAME`
    #[arg(value_name = "KIND/NAME")]
    object: String,
    /// For this long only, like `2h`
    #[arg(long = "for", value_name = "TIME")]
    time: Option<jiff::SignedDuration>,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// No longer leave an object alone; for a deleted repository, ask for a new one
#[derive(Debug, clap::Args)]
pub struct Resume {
    /// `repository/NAME` or `service/REPOSITORY/NAME`
    #[arg(value_name = "KIND/NAME")]
    object: String,
}

/// Exit code 0 also where it is suspended already, 3 where it is absent.
pub async fn suspend(args: &Suspend, layout: Layout) -> anyhow::Result<u8> {
    let now = jiff::Timestamp::now();
    let suspension = Suspension {
        by: by("suspend"),
        since: now,
        until: args.time.map(|time| now + time),
        reason: args.reason.clone(),
    };
    let until = suspension
        .until
        .map_or(String::new(), |until| format!(" until {until}"));
    let object = &args.object;
    let done = format!("{object} is suspended{until}; `renet resume {object}` lifts it");
    act(layout, object, &done, move |project| match project {
        None => Act::Suspend(suspension),
        Some(project) => Act::SuspendProject(project, suspension),
    })
    .await
}

/// Exit code 0 also where it is not suspended, 3 where it is absent.
pub async fn resume(args: &Resume, layout: Layout) -> anyhow::Result<u8> {
    let object = &args.object;
    let done = format!("{object} is no longer left alone; the next apply or pass changes it");
    act(layout, object, &done, |project| match project {
        None => Act::Resume,
        Some(project) => Act::ResumeProject(project),
    })
    .await
}

async fn act(
    layout: Layout,
    object: &str,
    done: &str,
    act: impl FnOnce(Option<Name>) -> Act,
) -> anyhow::Result<u8> {
    let (said, project) = match named(object)? {
        Named::Repository(name) => (name, None),
        Named::Service(repository, name) => (repository, Some(name)),
        Named::Route(_) | Named::Machine(_) => {
            return Err(
                Failure::usage("only repositories and services can be suspended yet").into(),
            );
        }
    };
    let session = Session::command(layout)?;
    let actual = records(&session).await;
    let found = match find(&actual, &said, false)? {
        Some(found) => found,
        // A deleted one can be asked for anew.
        None => find(&actual, &said, true)?.ok_or_else(|| absent(&actual, &said))?,
    };
    carry_out(session, found.guid, act(project), done, done).await
}
