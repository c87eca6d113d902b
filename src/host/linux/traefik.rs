//! The reverse proxy, as a plain binary under renet's own supervision.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::TcpStream;

use super::files::{read_json, write_json};
use super::supervisor::{self, Unit};
use super::tools;
use crate::host::{Done, StepError};
use crate::model::{Layout, Part, Proxy, ProxySpec};

/// After a boot, 185 MB of it are read from the disk, beside the daemons.
const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(20);
const RESTART: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);

#[derive(serde::Serialize, serde::Deserialize)]
struct Settings {
    http: u16,
}

async fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).await.is_ok()
}

/// Whether the proxy runs, and with which settings.
pub(super) async fn observe(layout: &Layout) -> Part<Proxy> {
    let run = layout.proxy_run();
    let spec = match read_json::<Settings>(&run.join("spec.json")) {
        Part::Known(settings) => ProxySpec {
            http: settings.http,
        },
        Part::Unknown(why) => return Part::Unknown(why),
        Part::Absent | Part::Hidden => return Part::Absent,
    };
    let began = Instant::now();
    loop {
        let supervised = supervisor::is_supervised(&run);
        let lives = supervisor::child(&run).is_some();
        if lives && listens(spec.http).await {
            return Part::Known(Proxy { spec, supervised });
        }
        if !supervised && !lives {
            return Part::Absent;
        }
        if began.elapsed() > RESTART {
            return Part::Unknown(format!("the proxy does not answer on port {}", spec.http));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Starts the proxy, again where its settings differ.
pub(super) async fn start(
    layout: &Layout,
    binary: &Path,
    spec: &ProxySpec,
) -> Result<Done, StepError> {
    let running = Proxy {
        spec: spec.clone(),
        supervised: true,
    };
    if observe(layout).await == Part::Known(running) {
        return Ok(Done::Already);
    }
    stop(layout).await?;
    if listens(spec.http).await {
        return Err(StepError::machine(format!(
            "port {} is taken by another program; stop it, or give the Machine another `proxy.http`",
            spec.http
        )));
    }
    let proxy = layout.proxy();
    let io = |what: &str, error: std::io::Error| StepError::machine(format!("{what}: {error}"));
    std::fs::create_dir_all(layout.proxy_dynamic())
        .map_err(|error| io("traefik/dynamic", error))?;
    // Beneath a root of its own nobody outside shall meet it.
    let host = if layout.is_machine() { "" } else { "127.0.0.1" };
    let settings = json!({
        "global": {"checkNewVersion": false, "sendAnonymousUsage": false},
        "log": {"level": "INFO"},
        "entryPoints": {"web": {"address": format!("{host}:{}", spec.http)}},
        "providers": {
            // The default of 2 s is the delay that users would see.
            "providersThrottleDuration": "100ms",
            "file": {"directory": layout.proxy_dynamic(), "watch": true},
        },
    });
    let file = proxy.join("traefik.yml");
    write_json(&file, &settings, 0o644).map_err(|error| io("traefik.yml", error))?;
    let run = layout.proxy_run();
    write_json(&run.join("spec.json"), &Settings { http: spec.http }, 0o644)
        .map_err(|error| io("spec.json", error))?;
    let unit = Unit {
        argv: vec![
            tools::traefik()?.display().to_string(),
            format!("--configFile={}", file.display()),
        ],
        log: proxy.join("traefik.log"),
        run: run.clone(),
    };
    supervisor::spawn(binary, layout.root(), &["proxy", "supervise"], &unit).await?;
    let began = Instant::now();
    while !listens(spec.http).await {
        if began.elapsed() > START {
            let _ = supervisor::stop(&run, STOP).await;
            return Err(StepError {
                program: Some("traefik".to_owned()),
                ..StepError::machine(format!(
                    "does not listen on port {}; see {}",
                    spec.http,
                    unit.log.display()
                ))
            });
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(Done::Changed)
}

/// Stops the proxy and its supervisor.
pub(super) async fn stop(layout: &Layout) -> Result<Done, StepError> {
    let run = layout.proxy_run();
    if !run.exists() {
        return Ok(Done::Already);
    }
    supervisor::stop(&run, STOP).await?;
    let began = Instant::now();
    while let Some(pid) = supervisor::child(&run) {
        let signal = match began.elapsed() > STOP {
            true => nix::sys::signal::Signal::SIGKILL,
            false => nix::sys::signal::Signal::SIGTERM,
        };
        let _ = nix::sys::signal::kill(pid, signal);
        tokio::time::sleep(POLL).await;
    }
    std::fs::remove_dir_all(&run)
        .map_err(|error| StepError::machine(format!("{}: {error}", run.display())))?;
    Ok(Done::Changed)
}

/// The hidden process over the proxy.
pub(crate) fn supervise(layout: &Layout) -> std::io::Result<()> {
    supervisor::supervise(&layout.proxy_run(), || ())
}
