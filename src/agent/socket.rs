//! How commands speak with a running agent: one JSON line each way, over a socket
//! that root alone can open.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use super::Request;
use crate::execute::Report;
use crate::host::Done;

/// The longest question, in bytes.
const LONGEST: u64 = 64 * 1024;

/// A pass that is asked for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Asked {
    /// Failed revisions are tried again.
    pub retry: bool,
    /// The digest that confirms a plan which retires much.
    pub confirm: Option<String>,
    /// The one repository that is meant, by its name.
    pub only: Option<String>,
}

/// What the pass came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// Everything is as wanted.
    pub in_sync: bool,
    /// The agent was told to end before it was done.
    pub interrupted: bool,
    /// How many steps changed something.
    pub steps: usize,
    /// What is in the way.
    pub blocked: Vec<Obstacle>,
    /// Another renet has these locks.
    pub busy: Vec<String>,
}

/// What is in the way of one object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Obstacle {
    /// The object, by kind and name.
    pub object: String,
    /// A reason of the public list.
    pub reason: String,
    /// The same for people.
    pub message: String,
}

impl Answer {
    /// What a report says.
    pub fn of(report: &Report) -> Self {
        let last = &report.last;
        let hard = last.plan.blocked.iter().filter(|(_, why)| !why.is_quiet());
        let blocked = hard.map(|(object, why)| Obstacle {
            object: last.desired.label(object),
            reason: why.reason().to_owned(),
            message: why.to_string(),
        });
        let done = report.performed.iter();
        Self {
            in_sync: report.in_sync(),
            interrupted: report.interrupted,
            steps: done.filter(|one| one.outcome == Ok(Done::Changed)).count(),
            blocked: blocked.collect(),
            busy: report
                .busy
                .iter()
                .map(|(_, busy)| busy.to_string())
                .collect(),
        }
    }
}

/// Answers on a socket, one task for each who asks, until dropped.
pub async fn serve(path: &Path, requests: mpsc::Sender<Request>) -> io::Result<()> {
    // What an agent left that was killed; a living one would hold the agent's lock.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    let _gone = Unlink(path);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    loop {
        let (stream, _) = listener.accept().await?;
        let requests = requests.clone();
        tokio::spawn(async move {
            if let Err(error) = answer(stream, requests).await {
                tracing::debug!(%error, "a question was not answered");
            }
        });
    }
}

/// Takes the socket away when nobody listens any more.
struct Unlink<'a>(&'a Path);

impl Drop for Unlink<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
    }
}

async fn answer(stream: UnixStream, requests: mpsc::Sender<Request>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(LONGEST))
        .read_line(&mut line)
        .await?;
    let asked: Asked = serde_json::from_str(&line)?;
    let (answer, answered) = oneshot::channel();
    let request = Request {
        retry: asked.retry,
        confirm: asked.confirm,
        only: asked.only,
        answer,
    };
    let gone = |_| io::Error::other("the agent ends");
    requests.send(request).await.map_err(|_| gone(()))?;
    let report = answered.await.map_err(|_| gone(()))?;
    let mut text = serde_json::to_vec(&Answer::of(&report))?;
    text.push(b'\n');
    write.write_all(&text).await
}

/// Asks the agent that listens there for a pass; `None` where none does.
pub async fn ask(path: &Path, asked: &Asked) -> io::Result<Option<Answer>> {
    let mut stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
                _ => Err(error),
            };
        }
    };
    let mut text = serde_json::to_vec(asked)?;
    text.push(b'\n');
    stream.write_all(&text).await?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await?;
    if line.is_empty() {
        return Err(io::Error::other("the agent ended before it answered"));
    }
    Ok(Some(serde_json::from_str(&line)?))
}
