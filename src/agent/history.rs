use std::path::Path;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::execute::{Lock, Locking, Mode, Report};
use crate::host::Done;
use crate::host::linux::files::{read_json, write_json_unsynced};
use crate::model::{Blocked, Part};

/// What runs came to: each distinct result once, with its count and times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pass {
    /// Who ran: `agent`, `apply` or `reconcile`.
    pub by: String,
    /// On what: `everything`, or objects like `repository/shop`.
    pub scope: String,
    /// The revision of the folder that was applied.
    pub revision: String,
    /// How it ended.
    pub result: PassResult,
    /// What was in the way, object by object; empty where nothing was.
    pub message: String,
    /// How many steps changed something, in all of these runs together.
    pub steps: u64,
    /// How often this result came out.
    pub count: u64,
    /// When it came out first.
    pub first: Timestamp,
    /// When it came out last.
    pub last: Timestamp,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PassResult {
    /// Everything was as wanted.
    Synced,
    /// Something was in the way.
    Blocked,
    /// A step failed.
    Failed,
    /// Another renet held a lock.
    Busy,
    /// It was told to end before it was done.
    Interrupted,
    /// Something was still to be done.
    OutOfSync,
}

/// `Pass::scope` of a run over everything.
pub const EVERYTHING: &str = "everything";

/// Distinct results that are kept; the one that came out longest ago is let go.
const KEPT: usize = 200;

impl Pass {
    /// A run that ended just now, with what was in the way of each object.
    pub fn ended<'a>(
        by: &str,
        scope: &str,
        revision: &str,
        steps: usize,
        blocked: impl IntoIterator<Item = (String, &'a Blocked)>,
    ) -> Self {
        let (mut result, mut message) = (PassResult::Synced, Vec::new());
        for (object, why) in blocked.into_iter().filter(|(_, why)| !why.is_quiet()) {
            if matches!(why, Blocked::StepFailed { .. }) {
                result = PassResult::Failed;
            } else if result == PassResult::Synced {
                result = PassResult::Blocked;
            }
            message.push(format!("{object}: {}: {why}", why.reason()));
        }
        let now = Timestamp::now();
        Self {
            by: by.to_owned(),
            scope: scope.to_owned(),
            revision: revision.to_owned(),
            result,
            message: message.join("; "),
            steps: steps as u64,
            count: 1,
            first: now,
            last: now,
        }
    }

    /// A run of a command over everything.
    pub fn of(report: &Report, by: &str, revision: &str) -> Self {
        let (desired, plan) = (&report.last.desired, &report.last.plan);
        let done = report.performed.iter();
        let done = done.filter(|one| one.outcome == Ok(Done::Changed)).count();
        let blocked = plan.blocked.iter();
        let blocked = blocked.map(|(object, why)| (desired.label(object), why));
        let mut pass = Self::ended(by, EVERYTHING, revision, done, blocked);
        if report.interrupted {
            pass.result = PassResult::Interrupted;
        } else if let Some((_, busy)) = report.busy.first() {
            pass.result = PassResult::Busy;
            pass.message = busy.to_string();
        } else if pass.result == PassResult::Synced && !report.in_sync() {
            pass.result = PassResult::OutOfSync;
        }
        pass
    }

    fn is_same(&self, other: &Self) -> bool {
        let key = |pass: &'_ Self| (pass.result, pass.by.clone(), pass.scope.clone());
        key(self) == key(other)
            && (&self.revision, &self.message) == (&other.revision, &other.message)
    }
}

/// Adds a result: the same again is the same row.
fn add(history: &mut Vec<Pass>, pass: Pass) {
    let at = history.iter().position(|is| is.is_same(&pass));
    let pass = match at.map(|at| history.remove(at)) {
        None => pass,
        Some(before) => Pass {
            first: before.first,
            count: before.count + pass.count,
            steps: before.steps + pass.steps,
            ..pass
        },
    };
    // The last one comes last.
    history.push(pass);
    let over = history.len().saturating_sub(KEPT);
    history.drain(..over);
}

const HISTORY: &str = "history.json";

/// The distinct results of all runs, the latest last.
pub fn last_history(folder: &Path) -> Part<Vec<Pass>> {
    read_json(&folder.join(HISTORY))
}

/// Adds results to what is written down. Agent and commands do so side by side,
/// each for milliseconds.
pub(super) async fn record(folder: &Path, locks: &impl Locking, passes: Vec<Pass>) {
    if passes.is_empty() {
        return;
    }
    let written = async {
        let _held = locks.lock(Lock::Machine, Mode::Alone).await?;
        // What cannot be read is no loss: it may be deleted at any time.
        let mut history = last_history(folder).known().cloned().unwrap_or_default();
        passes.into_iter().for_each(|pass| add(&mut history, pass));
        anyhow::Ok(write_json_unsynced(&folder.join(HISTORY), &history, 0o600)?)
    };
    if let Err(error) = written.await {
        tracing::warn!(folder = %folder.display(), %error, "the history could not be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l60_repeats_of_one_result_are_one_row_with_a_count() {
        let mut history = Vec::new();
        let pass = |revision: &str, why: Option<&Blocked>| {
            let blocked = why.map(|why| ("repository/shop".to_owned(), why));
            Pass::ended("agent", EVERYTHING, revision, 2, blocked)
        };
        add(&mut history, pass("a", None));
        add(&mut history, pass("a", Some(&Blocked::ImageMissing)));
        let first = history[0].first;
        add(&mut history, pass("a", None));
        add(&mut history, pass("b", None));
        add(&mut history, pass("a", None));
        let rows: Vec<_> = history
            .iter()
            .map(|pass| (pass.revision.as_str(), pass.result, pass.count, pass.steps))
            .collect();
        let wanted = [
            ("a", PassResult::Blocked, 1, 2),
            ("b", PassResult::Synced, 1, 2),
            ("a", PassResult::Synced, 3, 6),
        ];
        assert_eq!(rows, wanted);
        assert_eq!(history[2].first, first);
        assert!(history[2].last >= history[1].last);
        for revision in 0..2 * KEPT {
            add(&mut history, pass(&revision.to_string(), None));
        }
        assert_eq!(history.len(), KEPT);
    }

    #[test]
    fn a_failure_outweighs_what_is_only_blocked() {
        let failed = Blocked::StepFailed {
            step: "mount".to_owned(),
            error: "no".to_owned(),
        };
        let both = [
            ("a".to_owned(), &failed),
            ("b".to_owned(), &Blocked::NoDatastore),
        ];
        let pass = Pass::ended("apply", EVERYTHING, "r", 0, both);
        assert_eq!(pass.result, PassResult::Failed);
        assert!(pass.message.contains("b: NoDatastore"), "{}", pass.message);
    }
}
