//! What the router tells: over HTTP on 127.0.0.1, and to renet's own commands over a
//! socket that root alone can open.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HOST};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::{Seen, Written};
use crate::host::{Done, StepError};
use crate::model::Layout;
use crate::router::{Protocol, Row, Table, body, given};

/// A request to publish now, answered when that is done.
pub(super) type Question = oneshot::Sender<Result<Written, StepError>>;

const SLOWEST: Duration = Duration::from_secs(10);

/// How the router fares: `/health`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Health {
    /// `ok`, or `degraded` with its reasons.
    pub status: String,
    /// What is wrong.
    pub reasons: Vec<String>,
    /// How many routers serve, by protocol.
    pub routers: BTreeMap<String, usize>,
    /// How many services they lead to.
    pub services: usize,
    /// How many routes were asked for and refused.
    pub refused: usize,
    /// Daemons that are followed.
    pub daemons: usize,
    /// Daemons that do not answer: their routes go on as they were.
    pub mute: Vec<String>,
}

/// What `POST /refresh` came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refreshed {
    /// Whether anything was written.
    pub changed: bool,
    /// How many routes serve.
    pub routes: usize,
    /// How many were refused.
    pub refused: usize,
}

impl Refreshed {
    /// What publishing came to.
    pub fn of(written: &Written) -> Self {
        let refused = written.table.refused();
        Self {
            changed: written.done == Done::Changed,
            routes: written.table.asked() - refused,
            refused,
        }
    }
}

/// What is shown to everybody who asks.
#[derive(Debug, Default)]
pub(super) struct Board {
    shown: Mutex<Arc<Shown>>,
    published: AtomicU64,
    failed: AtomicU64,
}

#[derive(Debug, Default)]
struct Shown {
    table: Table,
    health: Health,
}

impl Board {
    /// Shows what was published, or that it could not be.
    pub(super) fn show(&self, seen: &Seen, published: &Result<Written, StepError>) {
        let before = self.shown();
        let (table, mut reasons) = match published {
            Ok(written) => {
                if written.done == Done::Changed {
                    self.published.fetch_add(1, Ordering::Relaxed);
                }
                let foreign = written.foreign.iter().map(|file| {
                    format!("{file} cannot be read: while it is there, the proxy takes no update")
                });
                (written.table.clone(), foreign.collect())
            }
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                (before.table.clone(), vec![error.to_string()])
            }
        };
        let mute: Vec<String> = seen.mute.iter().map(ToString::to_string).collect();
        reasons.extend(mute.iter().map(|network| {
            format!(
                "the daemon of network {network} does not answer; its routes go on as they were"
            )
        }));
        let protocols = [Protocol::Http, Protocol::Tcp, Protocol::Udp];
        let counts = protocols.map(|protocol| (protocol, table.count(protocol)));
        let health = Health {
            status: if reasons.is_empty() { "ok" } else { "degraded" }.to_owned(),
            reasons,
            routers: counts
                .map(|(protocol, (routers, _))| (protocol.as_str().to_owned(), routers))
                .into(),
            services: counts.iter().map(|(_, (_, services))| services).sum(),
            refused: table.refused(),
            daemons: seen.asked.len(),
            mute,
        };
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        *shown = Arc::new(Shown { table, health });
    }

    fn shown(&self) -> Arc<Shown> {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.clone()
    }

    fn metrics(&self) -> String {
        let shown = self.shown();
        let health = &shown.health;
        let mut out = String::new();
        let mut gauge = |name: &str, help: &str, kind: &str, values: &[(String, u64)]| {
            let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            for (labels, value) in values {
                let _ = writeln!(out, "{name}{labels} {value}");
            }
        };
        let by = |protocol: &String| format!("{{protocol=\"{protocol}\"}}");
        let routers: Vec<(String, u64)> = health
            .routers
            .iter()
            .map(|(protocol, count)| (by(protocol), *count as u64))
            .collect();
        let one = |value: usize| [(String::new(), value as u64)];
        gauge(
            "renet_router_routers",
            "Routers that serve.",
            "gauge",
            &routers,
        );
        gauge(
            "renet_router_refused",
            "Routes that were asked for and refused.",
            "gauge",
            &one(health.refused),
        );
        gauge(
            "renet_router_daemons",
            "Daemons that are followed.",
            "gauge",
            &one(health.daemons),
        );
        gauge(
            "renet_router_mute_daemons",
            "Daemons that do not answer.",
            "gauge",
            &one(health.mute.len()),
        );
        let count = |counter: &AtomicU64| [(String::new(), counter.load(Ordering::Relaxed))];
        gauge(
            "renet_router_published_total",
            "How often the table was written.",
            "counter",
            &count(&self.published),
        );
        gauge(
            "renet_router_failed_total",
            "How often it could not be written.",
            "counter",
            &count(&self.failed),
        );
        out
    }
}

/// Listens until it is dropped.
pub(super) async fn listen(
    layout: &Layout,
    port: Option<u16>,
    board: Arc<Board>,
    asks: mpsc::Sender<Question>,
) -> io::Result<Listening> {
    let path = layout.router_socket();
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // What one left that was killed.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let mut tasks = JoinSet::new();
    let (shown, asking) = (board.clone(), asks.clone());
    tasks.spawn(async move {
        loop {
            match socket.accept().await {
                Ok((stream, _)) => answer(stream, shown.clone(), Some(asking.clone())),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
    if let Some(port) = port {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        tasks.spawn(async move {
            loop {
                match listener.accept().await {
                    // Anybody on this machine may look, and nobody make it work.
                    Ok((stream, _)) => answer(stream, board.clone(), None),
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        });
    }
    Ok(Listening {
        path,
        _tasks: tasks,
    })
}

/// Takes the socket away when nobody listens any more.
pub(super) struct Listening {
    path: PathBuf,
    _tasks: JoinSet<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn answer(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    board: Arc<Board>,
    asks: Option<mpsc::Sender<Question>>,
) {
    tokio::spawn(async move {
        let respond = service_fn(move |request: Request<Incoming>| {
            let (board, asks) = (board.clone(), asks.clone());
            async move { Ok::<_, Infallible>(respond(&request, &board, asks).await) }
        });
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(SLOWEST)
            .serve_connection(TokioIo::new(stream), respond)
            .await;
    });
}

async fn respond(
    request: &Request<Incoming>,
    board: &Board,
    asks: Option<mpsc::Sender<Question>>,
) -> Response<Full<Bytes>> {
    const PATHS: [&str; 5] = ["/health", "/routes.json", "/traefik", "/ports", "/metrics"];
    let path = request.uri().path();
    if path == "/refresh"
        && let Some(asks) = asks
    {
        return match request.method() {
            &Method::POST => refresh(asks).await,
            _ => refuse(StatusCode::METHOD_NOT_ALLOWED, "POST"),
        };
    }
    if !PATHS.contains(&path) {
        return refuse(StatusCode::NOT_FOUND, "");
    }
    if !matches!(request.method(), &Method::GET | &Method::HEAD) {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD");
    }
    let shown = board.shown();
    match path {
        "/health" => {
            let code = match shown.health.status.as_str() {
                "ok" => StatusCode::OK,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            json_of(code, &json!(shown.health))
        }
        "/routes.json" => json_of(StatusCode::OK, &json!(by_protocol(shown.table.rows()))),
        "/traefik" => json_of(StatusCode::OK, &body(&shown.table)),
        "/ports" => {
            let ports = &shown.table.ports;
            let ports = json!({
                "tcp": given(ports, Protocol::Tcp),
                "udp": given(ports, Protocol::Udp),
            });
            json_of(StatusCode::OK, &ports)
        }
        _ => text_of(StatusCode::OK, "text/plain; version=0.0.4", board.metrics()),
    }
}

/// Rows as programs read them: `{"http": […], "tcp": […], "udp": […]}`.
pub fn by_protocol<'a>(
    rows: impl IntoIterator<Item = &'a Row>,
) -> BTreeMap<&'static str, Vec<&'a Row>> {
    let protocols = [Protocol::Http, Protocol::Tcp, Protocol::Udp];
    let mut all: BTreeMap<&str, Vec<&Row>> = protocols
        .map(|protocol| (protocol.as_str(), Vec::new()))
        .into();
    for row in rows {
        all.entry(row.protocol.as_str()).or_default().push(row);
    }
    all
}

async fn refresh(asks: mpsc::Sender<Question>) -> Response<Full<Bytes>> {
    let (question, answered) = oneshot::channel();
    let published = async {
        asks.send(question).await.ok()?;
        answered.await.ok()
    };
    match published.await {
        Some(Ok(written)) => json_of(StatusCode::OK, &json!(Refreshed::of(&written))),
        Some(Err(error)) => {
            let why = error.to_string();
            text_of(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", why)
        }
        None => refuse(StatusCode::SERVICE_UNAVAILABLE, ""),
    }
}

fn json_of(code: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    text_of(code, "application/json", format!("{value:#}\n"))
}

fn text_of(code: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = code;
    let kind = hyper::header::HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn refuse(code: StatusCode, allow: &'static str) -> Response<Full<Bytes>> {
    let mut response = text_of(code, "text/plain", format!("{code}\n"));
    if !allow.is_empty() {
        let allow = hyper::header::HeaderValue::from_static(allow);
        response.headers_mut().insert(ALLOW, allow);
    }
    response
}

/// Asks the running router over its socket; `None` where none runs.
///
/// # Errors
///
/// What it answered instead.
pub async fn ask(layout: &Layout, method: Method, path: &str) -> Result<Option<Value>, StepError> {
    let Ok(stream) = UnixStream::connect(layout.router_socket()).await else {
        return Ok(None);
    };
    let wrong = |why: String| StepError {
        program: Some("router".to_owned()),
        ..StepError::machine(why)
    };
    let exchange = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "router")
            .body(Full::<Bytes>::default())
            .expect("a path of ours");
        let response = sender.send_request(request).await?;
        let code = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok::<_, hyper::Error>((code, body))
    };
    let (code, body) = match tokio::time::timeout(SLOWEST, exchange).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(wrong(error.to_string())),
        Err(_) => return Err(wrong("does not answer".to_owned())),
    };
    match serde_json::from_slice(&body) {
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(wrong(format!(
            "{code}: {}",
            String::from_utf8_lossy(&body).trim()
        ))),
    }
}
