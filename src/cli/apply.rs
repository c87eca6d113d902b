use std::collections::BTreeSet;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::session::{How, Meant, Session, is_another_machines};
use super::{Failure, render};
use crate::execute::Wave;
use crate::model::{Guid, Layout};

/// Make the machine what the manifests say
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder of manifests
    #[arg(short = 'f', long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
    /// Retire what this folder made and no longer declares
    #[arg(long)]
    prune: bool,
    /// Answer yes to any question but a name
    #[arg(long)]
    yes: bool,
    /// Confirm by name that a repository's data goes to the trash, or by its
    /// digest a plan that retires much
    #[arg(long, value_name = "NAME|HASH")]
    confirm: Vec<String>,
    /// Make this folder the owner of what another one declares
    #[arg(long)]
    take_over: bool,
    /// Try revisions again that failed before
    #[arg(long)]
    retry: bool,
    /// How long to wait for another renet, in seconds
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    lock_wait: u64,
}

/// Exit code 0 done, 2 where a manifest could not be read, 3 where something
/// failed or is blocked, 5 where another renet holds the lock.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let began = Instant::now();
    let session = Session::open(
        layout,
        &Meant {
            file: args.file.clone(),
            retry: args.retry,
            take_over: args.take_over,
            prune: args.prune,
            confirm: args.confirm.clone(),
        },
    )?;
    // Interruptions are shown, not asked; a name is asked for whatever it says.
    let _ = args.yes;
    let shown = session.look().await;
    if args.dry_run {
        anstream::print!("{}", render::plan(&shown));
        return Ok(if session.invalid { 2 } else { 0 });
    }
    if shown.plan.in_sync() {
        anstream::print!("{}", render::notes(&shown));
        anstream::println!("{}", render::in_sync(&shown, began.elapsed()));
        session.note("apply", &shown.into()).await;
        return Ok(if session.invalid { 2 } else { 0 });
    }
    if is_another_machines(&shown) {
        anstream::print!("{}", render::plan(&shown));
        return Ok(2);
    }
    confirm(&shown, &args.confirm)?;
    let how = How {
        lock_wait: Duration::from_secs(args.lock_wait),
        ..How::default()
    };
    let report = session.run(Some(&shown), &how).await;
    session.note("apply", &report).await;
    anstream::print!("{}", render::notes(&report.last));
    anstream::print!("{}", render::report(&report, began.elapsed()));
    Ok(session.code(&report))
}

/// Every repository whose data would go to the trash is confirmed by its name.
fn confirm(shown: &Wave, said: &[String]) -> Result<(), Failure> {
    let open: BTreeSet<Guid> = shown
        .plan
        .discards()
        .filter(|guid| {
            let name = render::name(&shown.desired, *guid);
            !said.contains(&name) && !said.contains(&guid.to_string())
        })
        .collect();
    if open.is_empty() {
        return Ok(());
    }
    anstream::print!("{}", render::plan(shown));
    for guid in open {
        let name = render::name(&shown.desired, guid);
        if !ask(&name) {
            return Err(Failure {
                code: 3,
                message: format!(
                    "the data of {name} would go to the trash: confirm it with --confirm {name}; \
                     nothing was changed"
                ),
            });
        }
    }
    Ok(())
}

/// Asks for a name; without a terminal nobody answers.
pub fn ask(name: &str) -> bool {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return false;
    }
    anstream::eprint!("Type the repository's name to confirm: ");
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    input.lock().read_line(&mut line).is_ok() && line.trim() == name
}
