//! The reverse proxy, and the router beside it, which writes what it reads. What does not
//! depend on how Traefik runs is here; `way` has the two ways.

pub(super) mod acme;
mod container;
mod docker;
mod image;
mod told;
mod way;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyper::Method;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use super::files::{read_json, write_json};
use super::keeper::Keeper;
use super::{router, units};
use crate::host::{Done, StepError};
use crate::model::{Layout, Part, Proxy, ProxySpec};
pub(crate) use way::Way;

/// After a boot, 185 MB of it are read from the disk, beside the daemons.
const START: Duration = Duration::from_secs(30);
const RESTART: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);
/// The router's port on the machine itself.
const ROUTER: u16 = 7111;
const LAST_LINES: usize = 20;

/// What the proxy was started with.
#[derive(Serialize, Deserialize)]
struct Settings {
    #[serde(flatten)]
    spec: ProxySpec,
    /// A person started it: it stays though no route needs it.
    #[serde(default)]
    asked: bool,
    /// How Traefik runs: decided at its first start, and kept.
    #[serde(default)]
    way: Way,
}

async fn listens(address: Option<Ipv4Addr>, port: u16) -> bool {
    let address = address.unwrap_or(Ipv4Addr::LOCALHOST);
    TcpStream::connect((address, port)).await.is_ok()
}

/// Where that is written down.
pub(super) fn settings(layout: &Layout) -> PathBuf {
    layout.proxy().join("spec.json")
}

/// What the proxy was last started with.
pub(crate) fn spec(layout: &Layout) -> Option<ProxySpec> {
    let settings = read_json::<Settings>(&settings(layout));
    settings.known().map(|settings| settings.spec.clone())
}

/// How Traefik runs, or ran last.
pub(crate) fn way(layout: &Layout) -> Option<Way> {
    let settings = read_json::<Settings>(&settings(layout));
    settings.known().map(|settings| settings.way.clone())
}

/// The port on which the router tells of its routes.
pub(super) fn router_port(layout: &Layout) -> Option<u16> {
    let said = spec(layout).and_then(|spec| spec.router);
    said.or(layout.is_machine().then_some(ROUTER))
}

/// Whether the proxy runs, and with which settings.
pub(super) async fn observe(layout: &Layout) -> Part<Proxy> {
    let Settings { spec, asked, way } = match read_json::<Settings>(&settings(layout)) {
        Part::Known(settings) => settings,
        Part::Unknown(why) => return Part::Unknown(why),
        Part::Absent | Part::Hidden => return Part::Absent,
    };
    let router = Keeper::router(layout);
    let began = Instant::now();
    loop {
        let ((kept, lives), (routed, _)) = match tokio::try_join!(way.watch(layout), router.watch())
        {
            Ok(seen) => seen,
            Err(error) => return Part::Unknown(error.to_string()),
        };
        if lives && listens(spec.address, spec.http).await {
            return Part::Known(Proxy {
                spec,
                supervised: kept && routed,
                asked,
            });
        }
        if !kept && !lives {
            return Part::Absent;
        }
        if began.elapsed() > RESTART {
            return Part::Unknown(format!("the proxy does not answer on port {}", spec.http));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Starts the proxy and the router, each again where its settings differ.
pub(super) async fn start(
    layout: &Layout,
    binary: &Path,
    spec: &ProxySpec,
) -> Result<Done, StepError> {
    let before = way(layout);
    let seen = observe(layout).await;
    let seen = seen.known();
    let is_written = |way: &Way| told::is_written(layout, spec) && way.is_written(layout, spec);
    if seen.is_some_and(|proxy| proxy.spec == *spec && proxy.supervised)
        && before.as_ref().is_some_and(is_written)
    {
        return Ok(Done::Already);
    }
    let asked = seen.is_some_and(|proxy| proxy.asked);
    let way = Way::choose(layout, spec, before.as_ref()).await?;
    let (kept, lives) = way.watch(layout).await?;
    // Nobody's request is lost because the router is to listen elsewhere.
    if !(is_written(&way) && kept && lives && listens(spec.address, spec.http).await) {
        Way::stop_any(layout).await?;
        start_proxy(layout, binary, spec, &way).await?;
    }
    Keeper::router(layout).stop().await?;
    let settings = Settings {
        spec: spec.clone(),
        asked,
        way,
    };
    write_settings(layout, &settings)?;
    start_router(layout, binary).await?;
    Ok(Done::Changed)
}

fn write_settings(layout: &Layout, settings: &Settings) -> Result<(), StepError> {
    let file = self::settings(layout);
    write_json(&file, settings, 0o644)
        .map_err(|error| StepError::machine(format!("{}: {error}", file.display())))
}

async fn start_proxy(
    layout: &Layout,
    binary: &Path,
    spec: &ProxySpec,
    way: &Way,
) -> Result<(), StepError> {
    for (name, port) in [("http", Some(spec.http)), ("https", spec.https)] {
        let Some(port) = port else { continue };
        if listens(spec.address, port).await {
            return Err(StepError::machine(format!(
                "port {port} is taken by another program; stop it, or give the Machine another `proxy.{name}`"
            )));
        }
    }
    told::write(layout, spec)?;
    let mut started = way.start(layout, binary, spec).await;
    if started.is_ok() && !comes(|| listens(spec.address, spec.http)).await {
        let words = way.words(layout, LAST_LINES).await;
        let why = format!("does not listen on port {}", spec.http);
        started = Err(silent("traefik", &why, words));
    }
    if started.is_err() {
        let _ = Way::stop_any(layout).await;
    }
    started
}

async fn start_router(layout: &Layout, binary: &Path) -> Result<(), StepError> {
    if let Some(port) = router_port(layout)
        && listens(None, port).await
    {
        return Err(StepError::machine(format!(
            "port {port} is taken by another program; stop it, or give the Machine another `proxy.router`"
        )));
    }
    let keeper = Keeper::router(layout);
    let argv = [
        "--root",
        &layout.root().display().to_string(),
        "router",
        "run",
    ];
    let argv = [&binary.display().to_string()]
        .into_iter()
        .map(String::as_str)
        .chain(argv)
        .map(str::to_owned)
        .collect();
    keeper
        .start(binary, units::router(binary), argv, Vec::new())
        .await?;
    let healthy = || async {
        let health = router::ask(layout, Method::GET, "/health").await;
        matches!(health, Ok(Some(_)))
    };
    if !comes(healthy).await {
        let words = keeper.words(LAST_LINES).await;
        let _ = keeper.stop().await;
        return Err(silent("router", "does not answer", words));
    }
    Ok(())
}

/// Whether it is so in time.
async fn comes<F: Future<Output = bool>>(is: impl Fn() -> F) -> bool {
    let began = Instant::now();
    while !is().await {
        if began.elapsed() > START {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
    true
}

/// A program that runs, and does not do what it is for.
fn silent(program: &str, why: &str, words: Result<Option<String>, StepError>) -> StepError {
    let words = words.ok().flatten().unwrap_or_default();
    let lines = words
        .lines()
        .map(|line| format!("\n  {}", line.escape_debug()));
    let message = match lines.collect::<String>() {
        lines if lines.is_empty() => format!("{why}, and says nothing"),
        lines => format!("{why}; its last lines:{lines}"),
    };
    StepError {
        program: Some(program.to_owned()),
        ..StepError::machine(message)
    }
}

/// Notes that a person wants the proxy, whatever routes there are.
pub(crate) fn ask_for(layout: &Layout) -> Result<(), StepError> {
    note_asked(layout, true)?
        .then_some(())
        .ok_or_else(|| StepError::race("it was stopped meanwhile"))
}

/// Whether there are settings to note it in.
fn note_asked(layout: &Layout, asked: bool) -> Result<bool, StepError> {
    let known = read_json::<Settings>(&settings(layout));
    let Part::Known(settings) = known else {
        return Ok(false);
    };
    write_settings(layout, &Settings { asked, ..settings })?;
    Ok(true)
}

/// Stops the proxy and the router, and what keeps them running.
pub(super) async fn stop(layout: &Layout) -> Result<Done, StepError> {
    let router = Keeper::router(layout).stop().await?;
    let proxy = Way::stop_any(layout).await?;
    note_asked(layout, false)?;
    Ok(match (router, proxy) {
        (Done::Already, Done::Already) => Done::Already,
        _ => Done::Changed,
    })
}

/// Removes from the machine's own Docker what was built for the stopped proxy.
pub(crate) async fn forget_images(layout: &Layout) -> Result<Done, StepError> {
    match way(layout) {
        Some(Way::Container { .. }) => container::forget_images(layout).await,
        Some(Way::Binary) | None => Ok(Done::Already),
    }
}

/// The hidden process over the proxy.
pub(crate) fn supervise(layout: &Layout) -> std::io::Result<()> {
    Keeper::proxy(layout).supervise()
}

/// The hidden process over the router.
pub(crate) fn supervise_router(layout: &Layout) -> std::io::Result<()> {
    Keeper::router(layout).supervise()
}

/// The last words of both, each line by whom.
pub(crate) async fn words(layout: &Layout, lines: usize) -> Result<Vec<String>, StepError> {
    let way = way(layout).unwrap_or_default();
    let all = [
        ("traefik", way.words(layout, lines).await?),
        ("router", Keeper::router(layout).words(lines).await?),
    ];
    let mut found = Vec::new();
    for (name, text) in all {
        let text = text.unwrap_or_default();
        let lines = text.lines();
        found.extend(lines.map(|line| format!("{name}: {}", line.escape_debug())));
    }
    Ok(found)
}
