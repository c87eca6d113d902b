use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::history::{Pass, record};
use crate::execute::{Lock, Locking, Mode, Performed, Progress, Report, Wave};
use crate::host::Done;
use crate::host::linux::files::{append_line, read_json, write_json_unsynced};
use crate::model::{Blocked, Desired, Object, Part, Step};
use crate::resolve::Source;

/// What an agent tells of itself and of everything it looks after.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its process.
    pub pid: u32,
    /// The folder that it follows.
    pub source: String,
    /// When it started.
    pub started: Timestamp,
    /// The revision of the folder that is in force.
    pub revision: Option<String>,
    /// When that was first read.
    pub revision_since: Option<Timestamp>,
    /// What is wrong with the folder now.
    pub problems: Vec<String>,
    /// When everything was last looked at.
    pub last_pass: Option<Timestamp>,
    /// When everything will be looked at again, if nothing happens before.
    pub next_pass: Option<Timestamp>,
    /// Every object, by kind and name: `service/shop/web`.
    pub objects: BTreeMap<String, ObjectStatus>,
    /// How long the containers of each project took when they were last started,
    /// in milliseconds: what the next interruption is expected to take.
    #[serde(default)]
    pub starts: BTreeMap<String, u64>,
}

/// How an object fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectStatus {
    /// Whether it is as it should be.
    pub sync: Sync,
    /// Why it is not: a reason of the public list.
    pub reason: Option<String>,
    /// The same for people.
    pub message: String,
    /// Since when it is so.
    pub since: Timestamp,
    /// How often in a row it was found so.
    pub count: u64,
    /// The revision that was last tried on it.
    pub attempted: Option<String>,
    /// The revision that it last was in sync with.
    pub applied: Option<String>,
}

/// Whether an object is as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sync {
    /// It is.
    Synced,
    /// It is worked on.
    Progressing,
    /// Something is in the way.
    Blocked,
    /// A step failed; it is tried again.
    Failed,
    /// It is left alone, as it was told.
    Quiet,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// When.
    pub time: Timestamp,
    /// To what: `service/shop/web`, or `agent`.
    pub object: String,
    /// A step, a reason of the public list, or a word about the agent itself.
    pub what: String,
    /// The rest, for people.
    pub message: String,
}

/// Collects what happens until somebody writes it down.
#[derive(Debug, Default)]
pub struct Board {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    status: Status,
    events: VecDeque<Event>,
    passes: Vec<Pass>,
}

/// Events that nobody took; the oldest are let go.
const MOST_EVENTS: usize = 1000;

impl Board {
    /// A board for an agent that starts now.
    pub fn new(source: String, pid: u32, now: Timestamp) -> Self {
        let board = Self::default();
        board.update(|status| {
            status.pid = pid;
            status.source = source;
            status.started = now;
        });
        board
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The status now.
    pub fn status(&self) -> Status {
        self.state().status.clone()
    }

    /// Changes the status.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.state().status);
        self.changed.notify_one();
    }

    /// Notes what happened.
    pub fn event(&self, time: Timestamp, object: &str, what: &str, message: impl Into<String>) {
        let event = Event {
            time,
            object: object.to_owned(),
            what: what.to_owned(),
            message: message.into(),
        };
        tracing::info!(object, what, message = %event.message, "event");
        let events = &mut self.state().events;
        events.push_back(event);
        if events.len() > MOST_EVENTS {
            events.pop_front();
        }
        self.changed.notify_one();
    }

    /// The status, and what happened since this was last asked.
    pub fn take(&self) -> (Status, Vec<Event>) {
        let mut state = self.state();
        (state.status.clone(), state.events.drain(..).collect())
    }

    /// Notes what a run came to.
    pub fn passed(&self, pass: Pass) {
        self.state().passes.push(pass);
        self.changed.notify_one();
    }

    /// Notes how every object was found that nobody works on; forgets those that
    /// are no more.
    pub fn tell(&self, now: Timestamp, wave: &Wave, revision: &str) {
        let (desired, plan) = (&wave.desired, &wave.plan);
        let mut objects: BTreeSet<Object> = desired.objects().collect();
        objects.extend(plan.blocked.keys().cloned());
        let mut working: BTreeSet<Object> = plan.steps.iter().map(Step::object).collect();
        working.extend(plan.more.iter().cloned());
        for object in &objects {
            let why = plan.blocked.get(object);
            if why.is_some() || !working.contains(object) {
                self.found(now, &desired.label(object), why, revision);
            }
        }
        let labels: BTreeSet<String> = objects.iter().map(|one| desired.label(one)).collect();
        self.update(|status| {
            status.objects.retain(|object, _| labels.contains(object));
            status.starts.retain(|object, _| labels.contains(object));
        });
    }

    /// Notes how an object was found. The same again is the same row with a
    /// higher count; anything else is an event.
    pub fn found(&self, now: Timestamp, object: &str, why: Option<&Blocked>, revision: &str) {
        let (sync, reason, message) = match why {
            None => (Sync::Synced, None, String::new()),
            Some(why) => {
                let sync = match why {
                    why if why.is_quiet() => Sync::Quiet,
                    Blocked::StepFailed { .. } => Sync::Failed,
                    _ => Sync::Blocked,
                };
                (sync, Some(why.reason().to_owned()), why.to_string())
            }
        };
        let mut state = self.state();
        let before = state.status.objects.get(object);
        let same = before
            .is_some_and(|is| (is.sync, &is.reason, &is.message) == (sync, &reason, &message));
        let applied = match sync {
            Sync::Synced => Some(revision.to_owned()),
            _ => before.and_then(|before| before.applied.clone()),
        };
        let row = ObjectStatus {
            sync,
            reason: reason.clone(),
            message: message.clone(),
            since: before.filter(|_| same).map_or(now, |before| before.since),
            count: before.filter(|_| same).map_or(1, |before| before.count + 1),
            attempted: Some(revision.to_owned()),
            applied,
        };
        state.status.objects.insert(object.to_owned(), row);
        drop(state);
        self.changed.notify_one();
        if !same {
            let what = reason.unwrap_or_else(|| "Synced".to_owned());
            self.event(now, object, &what, message);
        }
    }

    /// Notes how long containers took to start.
    fn timed(&self, desired: &Desired, performed: &Performed) {
        if let (Step::Up { .. }, Ok(Done::Changed)) = (&performed.step, &performed.outcome) {
            let object = desired.label(&performed.step.object());
            let took = performed.took.as_millis().try_into().unwrap_or(u64::MAX);
            self.update(|status| {
                status.starts.insert(object, took);
            });
        }
    }

    /// Work on an object begins.
    pub fn progressing(&self, now: Timestamp, object: &str) {
        self.update(|status| {
            if let Some(row) = status.objects.get_mut(object)
                && row.sync != Sync::Progressing
            {
                row.sync = Sync::Progressing;
                row.since = now;
                row.count = 1;
            }
        });
    }
}

impl Progress for Board {
    fn begins(&self, desired: &Desired, step: &Step) {
        let object = step.object();
        if !matches!(object, Object::Machine) {
            self.progressing(Timestamp::now(), &desired.label(&object));
        }
    }

    fn ended(&self, desired: &Desired, performed: &Performed) {
        let step = desired.line(&performed.step);
        let step: Vec<&str> = step.split_whitespace().collect();
        let (what, message) = match &performed.outcome {
            Ok(Done::Already) => return,
            Ok(Done::Changed) => {
                let took = performed.took.as_secs_f64();
                ("Step", format!("{} ({took:.1} s)", step.join(" ")))
            }
            Err(error) => ("StepFailed", format!("{}: {error}", step.join(" "))),
        };
        self.timed(desired, performed);
        let object = desired.label(&performed.step.object());
        self.event(Timestamp::now(), &object, what, message);
    }
}

const STATUS: &str = "status.json";
const EVENTS: &str = "events.jsonl";
/// An event is about 200 bytes.
const LARGEST_LOG: u64 = 1 << 20;
/// What comes within this time is written at once.
const GATHER: Duration = Duration::from_millis(100);

/// Writes down what stands on the board, in a folder that may be deleted at any
/// time, until dropped.
pub async fn persist(board: &Board, folder: &Path, locks: &impl Locking) {
    loop {
        board.changed.notified().await;
        tokio::time::sleep(GATHER).await;
        write(board, folder, locks).await;
    }
}

async fn write(board: &Board, folder: &Path, locks: &impl Locking) {
    let (status, events) = board.take();
    let passes = std::mem::take(&mut board.state().passes);
    let written = write_json_unsynced(&folder.join(STATUS), &status, 0o600).and_then(|()| {
        let log = folder.join(EVENTS);
        events
            .iter()
            .try_for_each(|event| append_line(&log, &serde_json::to_string(event)?, LARGEST_LOG))
    });
    if let Err(error) = written {
        tracing::warn!(folder = %folder.display(), %error, "the status could not be written");
    }
    record(folder, locks, passes).await;
}

/// Writes down what a command's run came to, beside what the agent writes. The
/// objects' own rows are the agent's while one runs: it finds them by itself.
pub async fn note(folder: &Path, locks: &impl Locking, source: &Source, by: &str, report: &Report) {
    let revision = source.manifests.digest();
    let revision = revision.short();
    let mut pass = Pass::of(report, by, revision);
    let only: Vec<String> = source.asked.only.iter().map(ToString::to_string).collect();
    if !only.is_empty() {
        pass.scope = only.join(" ");
        return record(folder, locks, vec![pass]).await;
    }
    let Ok(_no_agent) = locks.lock(Lock::Agent, Mode::Alone).await else {
        return record(folder, locks, vec![pass]).await;
    };
    let (board, now) = (Board::default(), Timestamp::now());
    board.update(|status| {
        *status = last_status(folder).known().cloned().unwrap_or_default();
        source.owner.source.clone_into(&mut status.source);
        if status.revision.as_deref() != Some(revision) {
            status.revision = Some(revision.to_owned());
            status.revision_since = Some(now);
        }
    });
    for performed in &report.performed {
        board.timed(&report.last.desired, performed);
    }
    board.tell(now, &report.last, revision);
    board.passed(pass);
    write(&board, folder, locks).await;
}

/// The status as it was last written down.
pub fn last_status(folder: &Path) -> Part<Status> {
    read_json(&folder.join(STATUS))
}

/// The last events that were written down, the oldest first.
pub fn last_events(folder: &Path, most: usize) -> io::Result<Vec<Event>> {
    let mut events = Vec::new();
    for name in [format!("{EVENTS}.1"), EVENTS.to_owned()] {
        match std::fs::read_to_string(folder.join(name)) {
            Ok(text) => events.extend(
                text.lines()
                    .filter_map(|line| serde_json::from_str::<Event>(line).ok()),
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let first = events.len().saturating_sub(most);
    Ok(events.split_off(first))
}
