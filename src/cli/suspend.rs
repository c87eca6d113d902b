use super::repository::{absent, by, carry_out, find, records};
use super::session::Session;
use super::{Failure, named};
use crate::model::{Act, Actual, Layout, Name, Named, Object, Suspension};

/// Leave an object alone: agent, timer, boot and apply change nothing of it
#[derive(Debug, clap::Args)]
pub struct Suspend {
    /// `repository/NAME`, `service/REPOSITORY/NAME`, `route/NAME`, or with all that
    /// is on it `machine/NAME`
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
    /// `repository/NAME`, `service/REPOSITORY/NAME`, `route/NAME` or `machine/NAME`
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
    act(layout, object, &done, Some(suspension)).await
}

/// Exit code 0 also where it is not suspended, 3 where it is absent.
pub async fn resume(args: &Resume, layout: Layout) -> anyhow::Result<u8> {
    let object = &args.object;
    let done = format!("{object} is no longer left alone; the next apply or pass changes it");
    act(layout, object, &done, None).await
}

async fn act(
    layout: Layout,
    object: &str,
    done: &str,
    suspension: Option<Suspension>,
) -> anyhow::Result<u8> {
    let named = named(object)?;
    let mut session = Session::command(layout)?;
    let actual = records(&session).await;
    let (said, act) = match named {
        Named::Repository(name) => {
            let act = suspension.map_or(Act::Resume, Act::Suspend);
            (name, act)
        }
        Named::Service(repository, name) => {
            let act = match suspension {
                Some(suspension) => Act::SuspendProject(name, suspension),
                None => Act::ResumeProject(name),
            };
            (repository, act)
        }
        Named::Route(name) => {
            let object = route(&actual, name)?;
            session.source.asked.suspend.insert(object, suspension);
            return session.carry_out_on(None, done, done).await;
        }
        Named::Machine(name) => {
            let object = machine(&actual, &name)?;
            session.source.asked.suspend.insert(object, suspension);
            return session.carry_out_on(None, done, done).await;
        }
    };
    let found = match find(&actual, &said, false)? {
        Some(found) => found,
        // A deleted one can be asked for anew.
        None => find(&actual, &said, true)?.ok_or_else(|| absent(&actual, &said))?,
    };
    carry_out(session, found.guid, act, done, done).await
}

/// A route that was applied.
fn route(actual: &Actual, name: Name) -> Result<Object, Failure> {
    let routes = actual.routes.known();
    if routes.is_some_and(|routes| routes.contains_key(&name)) {
        return Ok(Object::Route(name));
    }
    Err(Failure {
        code: 3,
        message: format!("no route {name} was applied yet; `renet get routes` shows all"),
    })
}

/// This machine, if it is called so.
fn machine(actual: &Actual, said: &Name) -> Result<Object, Failure> {
    let machine = actual.machine.known();
    let message = match machine.and_then(|machine| machine.name.as_ref()) {
        Some(name) if name == said => return Ok(Object::Machine),
        Some(name) => format!("this machine is called {name}, not {said}"),
        None if actual.machine.is_absent() || machine.is_some() => {
            "this machine has no name yet: apply a Machine manifest that gives it one".to_owned()
        }
        None => "the datastore is closed: what this machine is called lies in it; \
                 `renet datastore mount` opens it"
            .to_owned(),
    };
    Err(Failure { code: 3, message })
}
