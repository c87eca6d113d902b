use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use super::given::Given;
use super::output::{Format, print, warn};
use super::render;
use crate::manifest;

/// Check a folder of manifests
///
/// Names every mistake with its place and what to write instead; exit code 2 if there
/// is one. Runs no program, opens no connection, changes nothing.
///
/// With `-o json` one object is printed on standard output: `valid`, `folder`, `files`,
/// `badFiles`, `documents`, `errors` (how many there are), and `problems`, of each its
/// `file`, `line`, `column` (both from 1), `length` (in characters, 0 for a whole file),
/// `message` and `cure`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder of manifests, or one file of it: then its mistakes alone
    #[arg(short = 'f', long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Runs `validate` on the folder that was named, else on `default`.
///
/// # Errors
///
/// Where the result cannot be printed: what is wrong with a folder is a result.
pub fn run(args: &Args, default: &Path) -> anyhow::Result<u8> {
    let folder = match args.file.as_deref().map(Given::read).transpose()? {
        None => manifest::load(default),
        Some(Given::Folder(folder)) => folder,
        Some(Given::File(one)) => one.alone(),
    };
    let valid = folder.problems.is_empty();
    if !valid && args.output == Format::Text {
        let color = std::io::stderr().is_terminal();
        warn(&folder.render(color, render::WIDTH));
    } else {
        print(args.output, &folder.validation(), || {
            folder.render(false, render::WIDTH)
        })?;
    }
    Ok(if valid { 0 } else { 2 })
}
