use std::path::PathBuf;

use super::render;
use super::session::Session;
use crate::model::Layout;

/// Show what apply would change
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder of manifests
    #[arg(short = 'f', long, value_name = "PATH")]
    file: Option<PathBuf>,
}

/// Exit code 0 in sync, 1 differs or is blocked, 3 where a part cannot be read.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let session = Session::open(layout, args.file.clone(), false)?;
    let wave = session.look().await;
    anstream::print!("{}", render::plan(&wave));
    Ok(render::diff_code(&wave.plan))
}
