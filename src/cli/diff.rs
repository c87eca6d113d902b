use std::path::PathBuf;

use super::render;
use super::session::{Meant, Session, is_another_machines};
use crate::model::Layout;

/// Show what apply would change
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder of manifests
    #[arg(short = 'f', long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Also what `apply --prune` would retire
    #[arg(long)]
    prune: bool,
}

/// Exit code 0 in sync, 1 differs or is blocked, 2 where a manifest and 3 where
/// a part of the machine cannot be read.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let meant = Meant {
        file: args.file.clone(),
        prune: args.prune,
        ..Meant::default()
    };
    let session = Session::open(layout, &meant)?;
    let wave = session.look().await;
    anstream::print!("{}", render::plan(&wave));
    Ok(match session.invalid || is_another_machines(&wave) {
        true => 2,
        false => render::diff_code(&wave.plan),
    })
}
