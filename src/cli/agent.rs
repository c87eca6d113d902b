use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::interrupt::Interrupt;
use super::{Failure, need_root};
use crate::agent::{Agent, Board, Hint, Policy, changes, persist, serve};
use crate::execute::{FileLocks, Lock, Locking as _, Mode};
use crate::host::linux::secrets::Secrets;
use crate::host::linux::{LinuxHost, events};
use crate::manifest::{self, Manifests};
use crate::model::Layout;

/// Keep the machine what the manifests say
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder of manifests
    #[arg(long, value_name = "DIR")]
    desired: Option<PathBuf>,
    /// How often everything is looked at though nothing happened, like `3m`
    #[arg(long, value_name = "TIME", default_value = "3m")]
    interval: SignedDuration,
}

/// How long the agent waits for another renet before it tries again later.
const PATIENCE: Duration = Duration::from_secs(1);
const SHORTEST: Duration = Duration::from_secs(1);

/// Exit code 130 or 143 when it was told to end, 5 where another agent runs.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    need_root()?;
    let interval = Duration::try_from(args.interval)
        .ok()
        .filter(|interval| *interval >= SHORTEST)
        .ok_or_else(|| Failure::usage("--interval must be at least 1s"))?;
    let folder = args.desired.clone().unwrap_or_else(|| layout.desired());
    let folder = std::path::absolute(folder)?;
    // Others look whether an agent runs by taking its lock for a moment.
    let only = FileLocks::new(layout.locks(), PATIENCE, |_, _| ());
    let _only = only
        .lock(Lock::Agent, Mode::Alone)
        .await
        .map_err(|busy| Failure {
            code: 5,
            message: format!("another agent runs: {busy}"),
        })?;

    let interrupt = Interrupt::listen();
    let mut loader = manifest::Loader::new(&folder);
    let source = loader.load().source.display().to_string();
    let board = Arc::new(Board::new(source, std::process::id(), Timestamp::now()));
    board.event(
        Timestamp::now(),
        "agent",
        "Started",
        env!("CARGO_PKG_VERSION"),
    );
    let patient = || FileLocks::new(layout.locks(), PATIENCE, |_, _| ());
    let policy = Policy {
        interval,
        ..Policy::default()
    };
    let loader = Mutex::new(loader);
    // One that crashed has kept nothing of what it was at.
    let load = move || loader.lock().unwrap_or_else(PoisonError::into_inner).load();
    let (root, binary) = (layout.clone(), std::env::current_exe()?);
    let open = move |manifests: &Manifests| {
        let host = LinuxHost::new(root.clone(), manifests.backing(), binary.clone());
        host.with_secrets(Secrets::asked(manifests.secrets()))
    };
    let agent = Agent::new(open, patient(), layout.clone(), load, policy, board.clone());

    let (requests, asked) = mpsc::channel(16);
    let socket = layout.agent_socket();
    let (status, locks) = (layout.agent(), patient());
    let agent = Arc::new(agent).run(hints(&layout, folder)?, asked, interrupt.token());
    let ended = tokio::select! {
        () = agent => Ok(Interrupt::code()),
        served = serve(&socket, requests) => {
            let said = served.err().map_or(String::new(), |error| error.to_string());
            Err(anyhow::anyhow!("{}: {said}", socket.display()))
        }
        () = persist(&board, &status, &locks) => Ok(0),
        () = tell_systemd(&board) => Ok(0),
    };
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    board.event(Timestamp::now(), "agent", "Ended", "");
    let last = persist(&board, &status, &locks);
    let _ = tokio::time::timeout(PATIENCE, last).await;
    ended
}

/// Everything that may have made work.
fn hints(layout: &Layout, folder: PathBuf) -> anyhow::Result<impl Stream<Item = Hint> + Send> {
    let hangup = signal(SignalKind::hangup())?;
    let hangups = stream::unfold(hangup, async |mut hangup| {
        hangup.recv().await.map(|()| (Hint::All, hangup))
    });
    let routes = changes(layout.proxy_dynamic()).map(|()| Hint::Routes);
    let endings = events::endings(layout.clone()).map(Hint::Network);
    let unmounts = events::unmounts(layout.clone()).map(|()| Hint::All);
    let all: Vec<stream::BoxStream<'static, Hint>> = vec![
        changes(folder).map(|()| Hint::All).boxed(),
        hangups.boxed(),
        routes.boxed(),
        endings.boxed(),
        unmounts.boxed(),
    ];
    Ok(stream::select_all(all))
}

/// Ready after the first pass; alive while passes come. Without systemd nobody
/// listens.
async fn tell_systemd(board: &Board) {
    const LOOK: Duration = Duration::from_millis(200);
    while board.status().last_pass.is_none() {
        tokio::time::sleep(LOOK).await;
    }
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    loop {
        let _ = sd_notify::notify(&[NotifyState::Watchdog]);
        tokio::time::sleep(limit / 3).await;
    }
}
