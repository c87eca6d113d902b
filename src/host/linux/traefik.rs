//! The reverse proxy, as a plain binary, and the router beside it, which writes what it
//! reads.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;

use super::files::{read_json, write_json};
use super::keeper::Keeper;
use super::program::Program;
use super::{acme, router, tools, units};
use crate::host::{Done, StepError};
use crate::model::{Layout, Part, Proxy, ProxySpec};
use crate::router::{DYNAMIC, Protocol, WEBSECURE, entry_point};

/// After a boot, 185 MB of it are read from the disk, beside the daemons.
const START: Duration = Duration::from_secs(30);
const RESTART: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);
/// The router's port on the machine itself.
const ROUTER: u16 = 7111;

/// What the proxy was started with.
#[derive(Serialize, Deserialize)]
struct Settings {
    #[serde(flatten)]
    spec: ProxySpec,
    /// A person started it: it stays though no route needs it.
    #[serde(default)]
    asked: bool,
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

/// The port on which the router tells of its routes.
pub(super) fn router_port(layout: &Layout) -> Option<u16> {
    let said = spec(layout).and_then(|spec| spec.router);
    said.or(layout.is_machine().then_some(ROUTER))
}

/// Whether the proxy runs, and with which settings.
pub(super) async fn observe(layout: &Layout) -> Part<Proxy> {
    let Settings { spec, asked } = match read_json::<Settings>(&settings(layout)) {
        Part::Known(settings) => settings,
        Part::Unknown(why) => return Part::Unknown(why),
        Part::Absent | Part::Hidden => return Part::Absent,
    };
    let (proxy, router) = (Keeper::proxy(layout), Keeper::router(layout));
    let began = Instant::now();
    loop {
        let ((kept, lives), (routed, _)) = match tokio::try_join!(proxy.watch(), router.watch()) {
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

/// What Traefik reads at its start.
fn static_settings(layout: &Layout, spec: &ProxySpec) -> Value {
    // Beneath a root of its own nobody outside shall meet it.
    let host = match spec.address {
        Some(address) => address.to_string(),
        None if layout.is_machine() => String::new(),
        None => Ipv4Addr::LOCALHOST.to_string(),
    };
    // What a router and its service could read differently is answered with 400: else
    // `/x/..%2fadmin` would pass by a router of `/admin` that asks for a password.
    let http = json!({
        "sanitizePath": true,
        "encodedCharacters": {
            "allowEncodedSlash": false,
            "allowEncodedBackSlash": false,
            "allowEncodedNullCharacter": false,
            "allowEncodedSemicolon": false,
            "allowEncodedPercent": false,
            "allowEncodedQuestionMark": false,
            "allowEncodedHash": false,
        },
    });
    let mut points = Map::new();
    let web = json!({"address": format!("{host}:{}", spec.http), "asDefault": true, "http": http});
    points.insert("web".to_owned(), web);
    if let Some(port) = spec.https {
        let point = json!({"address": format!("{host}:{port}"), "http": http});
        points.insert(WEBSECURE.to_owned(), point);
    }
    // On that address alone: a service listens on the same ports, on its own.
    if spec.address.is_some() {
        let tcp = spec.tcp.iter().copied().chain(DYNAMIC);
        for port in tcp {
            let point = json!({"address": format!("{host}:{port}"), "http": http});
            points.insert(entry_point(Protocol::Tcp, port), point);
        }
        for port in &spec.udp {
            let point = json!({"address": format!("{host}:{port}/udp")});
            points.insert(entry_point(Protocol::Udp, *port), point);
        }
    }
    let mut settings = json!({
        "global": {"checkNewVersion": false, "sendAnonymousUsage": false},
        "log": {"level": "INFO"},
        "entryPoints": points,
        "providers": {
            // The default of 2 s is the delay that users would see; the router gathers
            // what happens at once.
            "providersThrottleDuration": "10ms",
            "file": {"directory": layout.proxy_dynamic(), "watch": true},
        },
    });
    if let Some(acme) = &spec.acme {
        settings["certificatesResolvers"] = acme::resolvers(layout, acme);
    }
    settings
}

/// Starts the proxy and the router, each again where its settings differ.
pub(super) async fn start(
    layout: &Layout,
    binary: &Path,
    spec: &ProxySpec,
) -> Result<Done, StepError> {
    let seen = observe(layout).await;
    let seen = seen.known();
    if seen.is_some_and(|proxy| proxy.spec == *spec && proxy.supervised) {
        return Ok(Done::Already);
    }
    let asked = seen.is_some_and(|proxy| proxy.asked);
    let file = layout.proxy().join("traefik.yml");
    let wanted = static_settings(layout, spec);
    let environment = acme::environment(spec);
    let same = read_json::<Value>(&file).known() == Some(&wanted)
        && acme::is_written(layout, &environment);
    let (kept, lives) = Keeper::proxy(layout).watch().await?;
    // Nobody's request is lost because the router is to listen elsewhere.
    if !(same && kept && lives && listens(spec.address, spec.http).await) {
        Keeper::proxy(layout).stop().await?;
        acme::prepare(layout, &environment).map_err(|error| {
            StepError::machine(format!("{}: {error}", layout.proxy().display()))
        })?;
        start_proxy(layout, binary, spec, &file, &wanted).await?;
    }
    Keeper::router(layout).stop().await?;
    let settings = Settings {
        spec: spec.clone(),
        asked,
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
    file: &Path,
    wanted: &Value,
) -> Result<(), StepError> {
    for (name, port) in [("http", Some(spec.http)), ("https", spec.https)] {
        let Some(port) = port else { continue };
        if listens(spec.address, port).await {
            return Err(StepError::machine(format!(
                "port {port} is taken by another program; stop it, or give the Machine another `proxy.{name}`"
            )));
        }
    }
    let io = |what: &str, error: std::io::Error| StepError::machine(format!("{what}: {error}"));
    std::fs::create_dir_all(layout.proxy_dynamic())
        .map_err(|error| io("traefik/dynamic", error))?;
    write_json(file, wanted, 0o644).map_err(|error| io("traefik.yml", error))?;
    let keeper = Keeper::proxy(layout);
    let traefik = tools::traefik()?;
    let argv = vec![
        traefik.display().to_string(),
        format!("--configFile={}", file.display()),
    ];
    let unit = units::proxy(&traefik, file, &acme::config(layout));
    let words = keeper
        .start(binary, unit, argv, acme::environment(spec))
        .await?;
    let began = Instant::now();
    while !listens(spec.address, spec.http).await {
        if began.elapsed() > START {
            let _ = keeper.stop().await;
            return Err(StepError {
                program: Some("traefik".to_owned()),
                ..StepError::machine(format!(
                    "does not listen on port {}; see {words}",
                    spec.http
                ))
            });
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
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
    let words = keeper
        .start(binary, units::router(binary), argv, Vec::new())
        .await?;
    let began = Instant::now();
    while !matches!(
        router::ask(layout, Method::GET, "/health").await,
        Ok(Some(_))
    ) {
        if began.elapsed() > START {
            let _ = keeper.stop().await;
            return Err(StepError {
                program: Some("router".to_owned()),
                ..StepError::machine(format!("does not answer; see {words}"))
            });
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Notes that a person wants the proxy, whatever routes there are.
pub(crate) fn ask_for(layout: &Layout) -> Result<(), StepError> {
    match spec(layout) {
        Some(spec) => write_settings(layout, &Settings { spec, asked: true }),
        None => Err(StepError::race("it was stopped meanwhile")),
    }
}

/// Stops the proxy and the router, and what keeps them running.
pub(super) async fn stop(layout: &Layout) -> Result<Done, StepError> {
    let router = Keeper::router(layout).stop().await?;
    let proxy = Keeper::proxy(layout).stop().await?;
    if let Some(spec) = spec(layout) {
        write_settings(layout, &Settings { spec, asked: false })?;
    }
    Ok(match (router, proxy) {
        (Done::Already, Done::Already) => Done::Already,
        _ => Done::Changed,
    })
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
    let mut found = Vec::new();
    for (name, keeper) in [
        ("traefik", Keeper::proxy(layout)),
        ("router", Keeper::router(layout)),
    ] {
        let text = match keeper.words() {
            Ok(file) => match std::fs::read(&file) {
                Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(StepError::machine(format!("{}: {error}", file.display())));
                }
            },
            Err(unit) => {
                let journal = Program::new("journalctl")
                    .args(["--no-pager", "-o", "cat", "-n", &lines.to_string(), "-u"])
                    .arg(unit);
                String::from_utf8_lossy(&journal.run().await?.stdout).into_owned()
            }
        };
        let all: Vec<&str> = text.lines().collect();
        let last = &all[all.len().saturating_sub(lines)..];
        found.extend(
            last.iter()
                .map(|line| format!("{name}: {}", line.escape_debug())),
        );
    }
    Ok(found)
}
