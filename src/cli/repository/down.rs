use super::network::Network;
use super::{all, by, carry_out, find, records};
use crate::cli::session::Session;
use crate::model::{Act, Layout, Suspension};

/// Stop what runs in a repository
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: all::Which,
    /// Close it too
    #[arg(long)]
    unmount: bool,
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    pause: Pause,
}

/// How long a managed repository is left alone.
#[derive(Debug, clap::Args)]
pub struct Pause {
    /// Leave it alone for this long only, like `2h`
    #[arg(long = "for", value_name = "TIME")]
    time: Option<jiff::SignedDuration>,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl Pause {
    /// A suspension from now on.
    pub fn suspension(&self, command: &str) -> Suspension {
        let now = jiff::Timestamp::now();
        Suspension {
            by: by(command),
            since: now,
            until: self.time.map(|time| now + time),
            reason: self.reason.clone(),
        }
    }
}

/// Exit code 0 also where it is absent or down already.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let verb = if args.unmount { "close" } else { "stop" };
    let one = async |said: String| {
        let pause = args.pause.suspension("repository down");
        close(layout.clone(), &said, &args.network, pause, args.unmount).await
    };
    args.which.each(&layout, verb, one).await
}

/// Takes down, and with `close` closes.
pub async fn close(
    layout: Layout,
    said: &str,
    network: &Network,
    suspension: Suspension,
    close: bool,
) -> anyhow::Result<u8> {
    let session = Session::command(layout)?;
    let actual = records(&session).await;
    let Some(found) = find(&actual, said, false)? else {
        anstream::println!("there is no repository {said}: nothing to do");
        return Ok(0);
    };
    network.check(&found.record)?;
    let name = &found.record.name;
    let left = match found.record.owner {
        Some(_) => format!("; left alone until `renet resume repository/{name}`"),
        None => String::new(),
    };
    let what = if close { "closed" } else { "down" };
    let act = Act::Down {
        suspension: keep(&found.record.suspended, suspension),
        close,
    };
    let done = format!("{name} is {what}{left}");
    let already = format!("{name} is {what} already");
    carry_out(session, found.guid, act, &done, &already).await
}

/// The first word stands, unless the second says more.
pub fn keep(is: &Option<Suspension>, said: Suspension) -> Suspension {
    match is {
        Some(is) if said.until.is_none() && said.reason.is_none() => is.clone(),
        _ => said,
    }
}
