use std::collections::BTreeSet;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::output::{self, Format};
use super::render::Outcome;
use super::saved::SavedPlan;
use super::session::{How, Meant, Selection, Session, is_another_machines};
use super::{Failure, render};
use crate::execute::{Report, Shown, Wave};
use crate::model::{Blocked, Guid, Layout, Step};

/// Make the machine what the manifests say
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A plan that `diff --out` saved: refused when anything has changed since
    #[arg(value_name = "PLAN", conflicts_with_all = ["file", "prune", "take_over", "retry", "only"])]
    plan: Option<PathBuf>,
    /// The folder of manifests, or one file of it: then the objects in that alone
    #[arg(short = 'f', long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Only show what would be done, with every step and its cause
    #[arg(long)]
    dry_run: bool,
    /// Retire what this folder made and no longer declares
    #[arg(long, conflicts_with = "only")]
    prune: bool,
    #[command(flatten)]
    selection: Selection,
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
    /// Go on until everything is well, for this long, like `5m`; else exit code 4
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    wait: Option<Duration>,
    /// How long to wait for another renet, in seconds
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    lock_wait: u64,
    /// How the result is printed
    #[arg(short = 'o', long = "output", default_value = "text")]
    output: Format,
}

/// Between two looks at what is not well yet.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Exit code 0 done, 2 where a manifest could not be read, 3 where something
/// failed or is blocked, 4 where it is not well in time, 5 where another renet
/// holds the lock.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let began = Instant::now();
    let saved = args.plan.as_deref().map(SavedPlan::read).transpose()?;
    let meant = match &saved {
        Some(saved) => Meant {
            confirm: args.confirm.clone(),
            ..saved.meant()?
        },
        None => Meant {
            file: args.file.clone(),
            retry: args.retry,
            take_over: args.take_over,
            prune: args.prune,
            confirm: args.confirm.clone(),
            only: args.selection.only(),
            ids: None,
        },
    };
    let session = Session::open(layout, &meant)?;
    // Interruptions are shown, not asked; a name is asked for whatever it says.
    let _ = args.yes;
    let wave = session.look().await;
    session.check_selection(&wave)?;
    let changes = session.changes(&wave);
    if let Some(saved) = &saved {
        saved.check(&session, &wave, &changes)?;
    }
    let invalid = if session.invalid { 2 } else { 0 };
    if args.output == Format::Text {
        session.warn(&changes.warnings);
    }
    if args.dry_run {
        output::print(args.output, &changes, || {
            let mut text = render::plan(&changes, output::width());
            if changes.in_sync {
                text.push_str(&session.in_sync(&wave));
                text.push('\n');
            }
            text
        })?;
        return Ok(invalid);
    }
    if is_another_machines(&wave) {
        output::say(&render::changes(&changes, output::width()));
        return Ok(2);
    }
    if !changes.in_sync {
        confirm(&wave, &args.confirm, args.output)?;
    }
    let looked = changes
        .in_sync
        .then(|| render::notes(&changes) + &session.in_sync(&wave) + "\n");
    let report = match changes.in_sync {
        true => Report::nothing(wave),
        false => {
            let shown = Shown {
                steps: saved.is_some().then(|| wave.plan.steps.clone()),
                ..Shown::of(&wave.plan)
            };
            until_well(&session, args, shown, began).await
        }
    };
    session.note("apply", &report).await;
    let code = match session.code(&report) {
        3 if args.wait.is_some() && only_waits(&report) => 4,
        code => code,
    };
    let outcome = Outcome::of(&report, code, began.elapsed());
    if args.output == Format::Text {
        let news = outcome.warnings.iter();
        let news = news.filter(|one| !changes.warnings.contains(one));
        session.warn(&news.cloned().collect::<Vec<_>>());
    }
    output::print(args.output, &outcome, || {
        looked.unwrap_or_else(|| render::notes(&report.last.changes()) + &render::report(&outcome))
    })?;
    Ok(code)
}

/// Runs, and with `--wait` looks again while all that is left is to get well.
async fn until_well(session: &Session, args: &Args, shown: Shown, began: Instant) -> Report {
    let left = || args.wait.map(|wait| wait.saturating_sub(began.elapsed()));
    let how = |limit: Option<Duration>| How {
        lock_wait: Duration::from_secs(args.lock_wait),
        limit,
        quiet: args.output != Format::Text,
        ..How::default()
    };
    let mut report = session.run(Some(shown.clone()), &how(left())).await;
    while !report.in_sync() && !report.interrupted && only_waits(&report) {
        match left() {
            Some(left) if left > LOOK_AGAIN => tokio::time::sleep(LOOK_AGAIN).await,
            _ => break,
        }
        // What a saved plan showed was begun; now what is left of it is done.
        let rest = Shown {
            steps: None,
            ..shown.clone()
        };
        let again = session.run(Some(rest), &how(left())).await;
        let mut performed = std::mem::take(&mut report.performed);
        performed.extend(again.performed);
        report = Report { performed, ..again };
    }
    report
}

/// Whether nothing failed but to get well in time.
fn only_waits(report: &Report) -> bool {
    let mut failed = report.performed.iter().filter(|one| one.outcome.is_err());
    let mut blocked = report.last.plan.blocked.values();
    report.busy.is_empty()
        && failed.all(|one| matches!(one.step, Step::Wait { .. }))
        && blocked.all(|why| {
            why.is_quiet()
                || matches!(
                    why,
                    Blocked::StepFailed { .. }
                        | Blocked::RevisionFailed { .. }
                        | Blocked::DependencyBlocked { .. }
                )
        })
}

/// Every repository whose data would go to the trash is confirmed by its name.
fn confirm(shown: &Wave, said: &[String], format: Format) -> Result<(), Failure> {
    let open: BTreeSet<Guid> = shown
        .plan
        .discards()
        .filter(|guid| {
            let name = shown.desired.name(*guid);
            !said.contains(&name) && !said.contains(&guid.to_string())
        })
        .collect();
    if open.is_empty() {
        return Ok(());
    }
    if format == Format::Text {
        output::say(&render::changes(&shown.changes(), output::width()));
    }
    for guid in open {
        let name = shown.desired.name(guid);
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
