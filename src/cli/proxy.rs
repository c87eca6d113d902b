use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use hyper::Method;
use serde::Serialize;

use super::output::{Format, count, facts, print, say, table, warn, width};
use super::session::Session;
use super::{Failure, need_root};
use crate::execute::{FileLocks, Held, Lock, Locking as _, Mode};
use crate::host::linux::LinuxHost;
use crate::host::linux::proxy::{self, Way};
use crate::host::linux::router::{self, Health, Refreshed};
use crate::host::{Cx, Done, Host as _, Scope, StepError};
use crate::manifest;
use crate::model::{Layout, Part, ProxySpec, Step};
use crate::router::Row;

/// The reverse proxy and its routes
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show whether Traefik and the router run; exit code 0 whatever they do
    Status {
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Show every route that is asked for, and why one is not served
    Routes {
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Publish the routes of what runs now
    Refresh,
    /// Start Traefik and the router
    Up {
        /// The folder of manifests whose Machine says how
        #[arg(long, value_name = "DIR")]
        desired: Option<PathBuf>,
    },
    /// Stop Traefik and the router: no route is served any more
    Down,
    /// Print what Traefik and the router said last
    Logs {
        /// How many lines of each
        #[arg(short = 'n', long, default_value_t = 50, value_name = "NUMBER")]
        lines: usize,
    },
    /// Keep Traefik running
    #[command(hide = true)]
    Supervise,
}

/// What programs read.
#[derive(Serialize)]
struct Status {
    /// `running`, `stopped`, `failed` or `unknown`.
    proxy: &'static str,
    /// `container` or `binary`, once it ran.
    #[serde(rename = "runsAs")]
    runs_as: Option<&'static str>,
    http: Option<u16>,
    https: Option<u16>,
    address: Option<String>,
    /// `ok`, `degraded` or `stopped`.
    router: String,
    #[serde(flatten)]
    health: Option<Health>,
    note: String,
}

/// Exit code 0 done, or so already; 3 where it failed.
pub async fn run(command: &Command, layout: Layout) -> anyhow::Result<u8> {
    if let Command::Supervise = command {
        proxy::supervise(&layout)?;
        return Ok(0);
    }
    need_root()?;
    match command {
        Command::Supervise => {}
        Command::Status { output } => status(*output, &layout).await?,
        Command::Routes { output } => routes(*output, &layout).await?,
        Command::Refresh => refresh(&layout).await?,
        Command::Up { desired } => up(desired.as_ref(), layout).await?,
        Command::Down => down(&layout).await?,
        Command::Logs { lines } => {
            let found = proxy::words(&layout, *lines).await.map_err(refused)?;
            if found.is_empty() {
                warn("the proxy never ran\n");
            }
            for line in found {
                say(&format!("{line}\n"));
            }
        }
    }
    Ok(0)
}

fn refused(error: StepError) -> Failure {
    Failure {
        code: 3,
        message: error.to_string(),
    }
}

async fn lock(layout: &Layout) -> Result<Held, Failure> {
    const PATIENCE: Duration = Duration::from_secs(30);
    let locks = FileLocks::new(layout.locks(), PATIENCE, |lock, holder| {
        warn(&format!("waiting for the lock `{lock}`: {holder}\n"));
    });
    let held = locks.lock(Lock::Routes, Mode::Alone).await;
    held.map_err(|busy| Failure {
        code: 5,
        message: busy.to_string(),
    })
}

async fn status(output: Format, layout: &Layout) -> anyhow::Result<()> {
    let host = LinuxHost::new(layout.clone(), None, std::env::current_exe()?);
    let seen = host.observe(Scope::Records).await.proxy;
    let spec = match &seen {
        Part::Known(proxy) => Some(proxy.spec.clone()),
        _ => None,
    };
    let (state, mut note) = match &seen {
        Part::Known(proxy) if proxy.supervised => ("running", String::new()),
        Part::Known(_) => (
            "failed",
            "nothing keeps it running; `renet proxy up` mends it".to_owned(),
        ),
        Part::Unknown(why) => ("unknown", why.clone()),
        Part::Absent | Part::Hidden => ("stopped", String::new()),
    };
    let health = router::ask(layout, Method::GET, "/health").await;
    let health: Option<Health> = match health {
        Ok(health) => health.map(serde_json::from_value).transpose()?,
        Err(error) => {
            note = error.to_string();
            None
        }
    };
    let way = proxy::way(layout);
    let status = Status {
        proxy: state,
        runs_as: way.as_ref().map(Way::name),
        http: spec.as_ref().map(|spec| spec.http),
        https: spec.as_ref().and_then(|spec| spec.https),
        address: spec.and_then(|spec| Some(spec.address?.to_string())),
        router: health
            .as_ref()
            .map_or("stopped".to_owned(), |health| health.status.clone()),
        health,
        note,
    };
    print(output, &status, || text(&status, way.as_ref()))
}

fn text(status: &Status, way: Option<&Way>) -> String {
    let health = status.health.as_ref();
    let routes = health.map(|health| {
        let served: usize = health.routers.values().sum();
        format!("{} served, {} refused", served, health.refused)
    });
    let lines = health.map(|health| health.reasons.join("\n            "));
    facts([
        ("proxy", Some(status.proxy.to_owned())),
        ("runs as", way.map(Way::to_string)),
        ("http", status.http.map(|port| port.to_string())),
        ("https", status.https.map(|port| port.to_string())),
        ("address", status.address.clone()),
        ("router", Some(status.router.clone())),
        ("routes", routes),
        ("daemons", health.map(|health| health.daemons.to_string())),
        ("reasons", lines.filter(|lines| !lines.is_empty())),
        (
            "note",
            Some(status.note.clone()).filter(|note| !note.is_empty()),
        ),
    ])
}

/// What the router has, or would make.
async fn rows(layout: &Layout) -> Result<Vec<Row>, StepError> {
    let Some(answer) = router::ask(layout, Method::GET, "/routes.json").await? else {
        let table = router::preview(layout).await?;
        return Ok(table.rows().into_iter().cloned().collect());
    };
    let all: std::collections::BTreeMap<String, Vec<Row>> = serde_json::from_value(answer)
        .map_err(|error| StepError::machine(format!("another router runs: {error}")))?;
    Ok(all.into_values().flatten().collect())
}

/// The same for whoever shows other things too: nothing where the proxy never ran, or
/// the router cannot tell, which `renet proxy status` says.
pub async fn routed(layout: &Layout) -> Vec<Row> {
    match layout.published_routes().exists() {
        true => rows(layout).await.unwrap_or_default(),
        false => Vec::new(),
    }
}

async fn routes(output: Format, layout: &Layout) -> anyhow::Result<()> {
    let rows = rows(layout).await.map_err(refused)?;
    print(output, &router::by_protocol(&rows), || {
        if rows.is_empty() {
            return "no routes\n".to_owned();
        }
        let lines: Vec<[String; 5]> = rows
            .iter()
            .map(|row| {
                let state = match &row.refused {
                    Some(why) => format!("refused: {why}"),
                    None => format!("→ {}", row.backend),
                };
                [
                    row.source.clone(),
                    row.name.clone(),
                    row.entry_points.join(","),
                    row.rule.clone(),
                    state,
                ]
            })
            .collect();
        table(
            ["SOURCE", "ROUTE", "ENTRY", "RULE", "STATE"],
            &lines,
            width(),
        )
    })
}

async fn refresh(layout: &Layout) -> anyhow::Result<()> {
    let answer = router::ask(layout, Method::POST, "/refresh").await;
    let done = match answer.map_err(refused)? {
        Some(answer) => serde_json::from_value(answer)?,
        None if !layout.published_routes().exists() => {
            say("the proxy never ran: nothing to refresh; `renet proxy up` starts it\n");
            return Ok(());
        }
        None => {
            let _held = lock(layout).await?;
            Refreshed::of(&router::refresh(layout).await.map_err(refused)?)
        }
    };
    let routes = count(done.routes, "route");
    let changed = match done.changed {
        true => "published",
        false => "as published",
    };
    let refused = match done.refused {
        0 => String::new(),
        more => format!(", {more} refused: `renet proxy routes` says why"),
    };
    say(&format!("{routes} {changed}{refused}\n"));
    Ok(())
}

async fn up(desired: Option<&PathBuf>, layout: Layout) -> anyhow::Result<()> {
    let spec = wanted(desired, &layout)?;
    let host = LinuxHost::new(layout.clone(), None, std::env::current_exe()?);
    let _held = lock(&layout).await?;
    let done = host
        .perform(&Step::StartProxy(spec.clone()), &Cx::default())
        .await
        .map_err(refused)?;
    proxy::ask_for(&layout).map_err(refused)?;
    let address = spec
        .address
        .map_or("this machine".to_owned(), |ip| ip.to_string());
    let so = match done {
        Done::Already => "runs already",
        Done::Changed => "runs",
    };
    let secure = spec
        .https
        .map_or(String::new(), |port| format!(" and {port}"));
    let way = proxy::way(&layout).unwrap_or_default();
    say(&format!(
        "the proxy {so}: port {}{secure} of {address}, as {way}\n",
        spec.http
    ));
    Ok(())
}

/// As the manifests say, else as it was, else with nothing but HTTP.
fn wanted(desired: Option<&PathBuf>, layout: &Layout) -> Result<ProxySpec, Failure> {
    let folder = desired.cloned().unwrap_or_else(|| layout.desired());
    if desired.is_none() && !folder.exists() {
        return Ok(proxy::spec(layout).unwrap_or_default());
    }
    let found = manifest::Loader::new(&folder).load();
    let said = found.manifests.proxy();
    Ok(said.or_else(|| proxy::spec(layout)).unwrap_or_default())
}

async fn down(layout: &Layout) -> anyhow::Result<()> {
    let session = Session::command(layout.clone())?;
    let _held = lock(layout).await?;
    let stopped = session.host.perform(&Step::StopProxy, &Cx::default()).await;
    say(match stopped.map_err(refused)? {
        Done::Already => "the proxy is stopped already\n",
        Done::Changed => {
            "the proxy is stopped: no route is served; the next apply of manifests with routes \
             starts it\n"
        }
    });
    Ok(())
}
