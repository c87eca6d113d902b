use super::session::{How, Meant, Session};
use super::{Failure, named, need_root, output};
use crate::agent::{Answer, Asked, ask};
use crate::model::Layout;

/// Ask the agent for a pass and wait for its end; without one, do it here
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only `repository/NAME`
    #[arg(value_name = "KIND/NAME")]
    object: Option<String>,
    /// Try revisions again that failed before
    #[arg(long)]
    retry: bool,
    /// Confirm a plan that retires much by its digest
    #[arg(long, value_name = "HASH")]
    confirm: Option<String>,
}

/// Exit code 0 done, 3 where something failed or is blocked, 5 where another
/// renet holds a lock.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    need_root()?;
    let only = match &args.object {
        None => None,
        Some(object) => match named(object)?.repository() {
            Some(name) => Some(name.to_owned()),
            None => return Err(Failure::usage("name a repository, or nothing for all").into()),
        },
    };
    let asked = Asked {
        retry: args.retry,
        confirm: args.confirm.clone(),
        only: only.clone(),
    };
    if let Some(answer) = ask(&layout.agent_socket(), &asked).await? {
        return Ok(told(&answer));
    }
    let meant = Meant {
        retry: args.retry,
        prune: true,
        confirm: args.confirm.iter().cloned().collect(),
        ..Meant::default()
    };
    let session = Session::open(layout, &meant)?;
    let seen = session.look().await;
    let only = match &only {
        None => None,
        Some(name) => {
            let mut specs = seen.desired.repositories.values();
            let spec = specs.find(|spec| spec.name.as_str() == name);
            Some(spec.map(|spec| spec.guid).ok_or_else(|| Failure {
                code: 3,
                message: format!("no manifest declares a repository {name}"),
            })?)
        }
    };
    let how = How {
        only,
        ..How::default()
    };
    // Like the agent it shows nothing: its bound is its first locked look.
    let report = session.run(None, &how).await;
    if only.is_none() {
        session.note("reconcile", &report).await;
    }
    session.say(&report);
    Ok(session.code(&report))
}

/// What the agent answered.
fn told(answer: &Answer) -> u8 {
    for busy in &answer.busy {
        output::say(&format!("busy: {busy}\n"));
    }
    for one in &answer.blocked {
        let (object, reason, message) = (&one.object, &one.reason, &one.message);
        output::say(&format!("blocked: {object}: {reason}: {message}\n"));
    }
    let end = if answer.in_sync {
        "In sync"
    } else {
        "Not in sync"
    };
    let steps = answer.steps;
    output::say(&format!("The agent performed {steps} steps. {end}.\n"));
    match (answer.interrupted, answer.busy.is_empty(), answer.in_sync) {
        (true, ..) => 143,
        (_, false, _) => 5,
        (.., false) => 3,
        (.., true) => 0,
    }
}
