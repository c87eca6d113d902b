use std::path::PathBuf;
use std::time::Duration;

use super::render;
use super::session::{Meant, Session};
use crate::agent::last_status;
use crate::execute::{FileLocks, Lock, Locking as _, Mode};
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
    let folder = session.layout.agent();
    let status = last_status(&folder);
    anstream::println!("{}", render::objects(&wave, status.known()));
    if let Some(status) = status.known() {
        let locks = FileLocks::new(session.layout.locks(), Duration::ZERO, |_, _| ());
        let runs = locks.lock(Lock::Agent, Mode::Shared).await.is_err();
        anstream::print!("{}", render::agent(status, wave.actual.now, runs));
    }
    Ok(0)
}
