use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use super::render;
use crate::manifest;

/// Check a folder of manifests
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder of manifests
    #[arg(short = 'f', long, value_name = "PATH")]
    file: Option<PathBuf>,
}

/// Runs `validate` on the folder that was named, else on `default`.
///
/// # Errors
///
/// Never: what is wrong with a folder is a result.
pub fn run(args: &Args, default: &Path) -> anyhow::Result<u8> {
    let folder = manifest::load(args.file.as_deref().unwrap_or(default));
    if folder.problems.is_empty() {
        anstream::print!("{}", folder.render(false, render::WIDTH));
        return Ok(0);
    }
    let color = std::io::stderr().is_terminal();
    anstream::eprint!("{}", folder.render(color, render::WIDTH));
    Ok(2)
}
