use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Failure;
use super::render;
use super::session::Session;
use crate::execute::{Busy, Locks, Options, Performed, Progress, run as execute};
use crate::model::{Desired, Layout, Step};

/// Make the machine what the manifests say
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder of manifests
    #[arg(short = 'f', long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
    /// Answer yes to any question but a name
    #[arg(long)]
    yes: bool,
    /// Try revisions again that failed before
    #[arg(long)]
    retry: bool,
    /// How long to wait for another renet, in seconds
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    lock_wait: u64,
}

/// Exit code 0 done, 3 where something failed or is blocked, 5 where another
/// renet holds the lock.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let began = Instant::now();
    let mut session = Session::open(layout, args.file.clone(), args.retry)?;
    // Interruptions are shown, not asked; nothing that this build plans loses data.
    let _ = args.yes;
    let shown = session.look().await;
    if args.dry_run {
        anstream::print!("{}", render::plan(&shown));
        return Ok(0);
    }
    if shown.plan.in_sync() {
        anstream::println!("{}", render::in_sync(&shown, began.elapsed()));
        return Ok(0);
    }
    let _locks = take_locks(&session, Duration::from_secs(args.lock_wait))?;
    let options = Options {
        shown: Some(shown.plan.danger.clone()),
        ..Options::default()
    };
    let mut ids = std::mem::replace(
        &mut session.ids,
        crate::resolve::Ids::random(&session.layout),
    );
    let source = session.source();
    let report = execute(&session.host, &source, &mut ids, &options, &mut Lines).await;
    anstream::print!("{}", render::report(&report, began.elapsed()));
    Ok(if report.in_sync() { 0 } else { 3 })
}

/// One run at a time holds everything: the datastore, then the routes.
fn take_locks(session: &Session, limit: Duration) -> Result<Locks, Failure> {
    let names = ["datastore".to_owned(), "routes".to_owned()];
    Locks::take(&session.layout.locks(), &names, limit, |holder| {
        anstream::eprintln!("waiting for another renet: {holder}");
    })
    .map_err(|error| Failure {
        code: match error {
            Busy::Held { .. } => 5,
            Busy::Io { .. } => 3,
        },
        message: error.to_string(),
    })
}

/// A line for every step, when it ended.
struct Lines;

impl Progress for Lines {
    fn ended(&mut self, desired: &Desired, performed: &Performed) {
        anstream::println!("{}", render::performed(desired, performed));
    }

    fn begins(&mut self, _desired: &Desired, step: &Step) {
        tracing::debug!(%step, "begins");
    }
}
