use std::path::PathBuf;

use super::render;
use super::session::{Meant, Session};
use crate::model::Layout;

/// Show every object, whether it is in sync, and whether it is well
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder of manifests
    #[arg(short = 'f', long, value_name = "PATH")]
    file: Option<PathBuf>,
}

/// Exit code 0.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let meant = Meant {
        file: args.file.clone(),
        ..Meant::default()
    };
    let session = Session::open(layout, &meant)?;
    let wave = session.look().await;
    anstream::println!("{}", render::objects(&wave));
    Ok(0)
}
