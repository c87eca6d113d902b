use std::path::PathBuf;

use super::saved::SavedPlan;
use super::session::{Meant, Selection, Session, is_another_machines};
use super::{output, render};
use crate::model::Layout;

/// Show what apply would change
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder of manifests, or one file of it: then the objects in that alone
    #[arg(short = 'f', long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Also what `apply --prune` would retire
    #[arg(long, conflicts_with = "only")]
    prune: bool,
    #[command(flatten)]
    selection: Selection,
    /// Save the plan: `renet apply FILE` carries out this one, or none
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// How it is printed
    #[arg(short = 'o', long = "output", default_value = "text")]
    output: Format,
}

/// How a diff is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people
    Text,
    /// As a patch
    Unified,
    /// For programs
    Json,
}

/// Exit code 0 in sync, 1 differs or is blocked, 2 where a manifest and 3 where
/// a part of the machine cannot be read.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let meant = Meant {
        file: args.file.clone(),
        prune: args.prune,
        only: args.selection.only(),
        ..Meant::default()
    };
    let session = Session::open(layout, &meant)?;
    let wave = session.look().await;
    session.check_selection(&wave)?;
    let changes = session.changes(&wave);
    if args.output != Format::Json {
        session.warn(&changes.warnings);
    }
    if let Some(path) = &args.out {
        SavedPlan::of(&session, &meant, &changes)?.write(path)?;
    }
    match args.output {
        Format::Json => output::print(output::Format::Json, &changes, String::new)?,
        Format::Unified => output::say(&render::unified(&changes)),
        Format::Text => {
            output::say(&render::changes(&changes, output::width()));
            if changes.in_sync {
                output::say(&(session.in_sync(&wave) + "\n"));
            } else if let Some(path) = &args.out {
                let path = path.display();
                output::say(&format!("Saved; carry it out with: renet apply {path}\n"));
            }
        }
    }
    Ok(match session.invalid || is_another_machines(&wave) {
        true => 2,
        false => render::diff_code(&changes),
    })
}
