//! What a run did, as people and programs read it.

use std::fmt::Write as _;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::style::{ADDED, CHANGED, REMOVED, paint};
use super::{bare, kind_and_name};
use crate::cli::output::count;
use crate::execute::{Performed, Report};
use crate::host::Done;
use crate::model::Desired;
use crate::plan::changes::{Warned, Why};

/// How wide a step's object and the step are, where they are not wider.
const TITLE: usize = 14;
const STEP: usize = 54;

/// What a run did, and what is left.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Everything is as declared.
    pub in_sync: bool,
    /// The command's exit code.
    pub exit_code: u8,
    /// It was told to end before it was done; the next run goes on from there.
    pub interrupted: bool,
    /// How long it took.
    pub seconds: f64,
    /// Every step, in the order in which they ended.
    pub steps: Vec<Step>,
    /// What is in the way.
    pub blocked: Vec<BlockedObject>,
    /// What of the compose files does not do what it says.
    pub warnings: Vec<Warned>,
    /// Objects on which another renet works, and who it is.
    pub busy: Vec<Busy>,
}

/// A step that was tried.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// `repository/NAME`, `service/REPOSITORY/NAME`, `route/NAME`, …
    pub object: String,
    /// What was done.
    pub step: String,
    /// How it ended.
    pub outcome: Ended,
    /// How long it took.
    pub seconds: f64,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<StepError>,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Ended {
    /// The machine changed.
    Changed,
    /// It was so already.
    Already,
    /// It could not be done.
    Failed,
}

/// Why a step failed.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepError {
    /// The program that failed, where it was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// The program's own words.
    pub message: String,
}

/// An object that cannot become what it should.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockedObject {
    /// Which.
    pub object: String,
    /// Why.
    #[serde(flatten)]
    pub why: Why,
    /// Whether it was told to be so: that is no difference.
    pub quiet: bool,
}

/// An object on which another renet works.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Busy {
    /// Which.
    pub object: String,
    /// Who.
    pub by: String,
}

impl Outcome {
    /// Of a run that ended with this code after this time.
    pub fn of(report: &Report, exit_code: u8, took: Duration) -> Self {
        let desired = &report.last.desired;
        let steps = report.performed.iter().map(|one| step(desired, one));
        let blocked = report.last.plan.blocked.iter();
        let blocked = blocked.map(|(object, why)| BlockedObject {
            object: desired.label(object),
            why: why.into(),
            quiet: why.is_quiet(),
        });
        let busy = report.busy.iter().map(|(object, by)| Busy {
            object: desired.label(object),
            by: by.to_string(),
        });
        Self {
            in_sync: report.in_sync(),
            exit_code,
            interrupted: report.interrupted,
            seconds: took.as_secs_f64(),
            steps: steps.collect(),
            blocked: blocked.collect(),
            warnings: Warned::all(desired, &report.last.actual),
            busy: busy.collect(),
        }
    }
}

fn step(desired: &Desired, performed: &Performed) -> Step {
    let (outcome, error) = match &performed.outcome {
        Ok(Done::Changed) => (Ended::Changed, None),
        Ok(Done::Already) => (Ended::Already, None),
        Err(error) => (
            Ended::Failed,
            Some(StepError {
                program: error.program.clone(),
                message: error.message.clone(),
            }),
        ),
    };
    Step {
        object: desired.label(&performed.step.object()),
        step: words(&desired.line(&performed.step)),
        outcome,
        seconds: performed.took.as_secs_f64(),
        error,
    }
}

/// The line of one step; what it says is cut to the width.
pub fn performed(desired: &Desired, performed: &Performed, width: usize) -> String {
    let label = desired.label(&performed.step.object());
    let title = bare(&label);
    let step = desired.line(&performed.step);
    let took = performed.took.as_secs_f64();
    let room = width
        .saturating_sub(2 + title.chars().count().max(TITLE) + 1 + 8)
        .max(STEP);
    let clipped = |step: &str| match step.chars().count() > room {
        true => step.chars().take(room - 1).chain(['…']).collect(),
        false => step.to_owned(),
    };
    match &performed.outcome {
        Ok(Done::Changed) => {
            let step = clipped(&step);
            format!("  {title:<TITLE$} {step:<STEP$} {took:>6.1}s")
        }
        Ok(Done::Already) => {
            let step = clipped(&step);
            format!("  {title:<TITLE$} {step:<STEP$}  was so")
        }
        Err(error) => {
            let kind = kind_and_name(&label);
            let mut out = format!(
                "{}: {kind}: {} failed\n",
                paint(REMOVED, "error"),
                words(&step)
            );
            if let Some(program) = &error.program {
                let _ = writeln!(out, "  program: {program}");
            }
            let _ = write!(
                out,
                "  said:    {}",
                error.message.trim_end().replace('\n', "\n           ")
            );
            out
        }
    }
}

/// The step without its column padding.
fn words(step: &str) -> String {
    step.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a run came to.
pub fn report(outcome: &Outcome) -> String {
    let mut out = String::new();
    for busy in &outcome.busy {
        let _ = writeln!(out, "{}: {}", paint(CHANGED, "busy"), busy.by);
    }
    let told = |one: &BlockedObject| {
        let mut steps = outcome.steps.iter();
        one.why.reason == "StepFailed"
            && steps.any(|step| step.outcome == Ended::Failed && step.object == one.object)
    };
    let hard: Vec<&BlockedObject> = outcome.blocked.iter().filter(|one| !one.quiet).collect();
    // What failed in this run was told where it did.
    let (failed, blocked): (Vec<_>, Vec<_>) = hard.into_iter().partition(|one| told(one));
    for one in &blocked {
        let (object, why) = (kind_and_name(&one.object), &one.why);
        let blocked = paint(CHANGED, "blocked");
        let _ = writeln!(out, "{blocked}: {object}: {}: {}", why.reason, why.message);
    }
    let end = match (outcome.in_sync, outcome.interrupted) {
        (true, _) => paint(ADDED, "In sync."),
        (_, true) => "Interrupted; the next run goes on from here.".to_owned(),
        _ => {
            let counts = [(failed.len(), "failed"), (blocked.len(), "blocked")];
            let counts = counts.iter().filter(|(number, _)| *number > 0);
            let counts: Vec<String> = counts
                .map(|(number, how)| format!("{number} {how}"))
                .collect();
            match counts.is_empty() {
                true => "Not in sync.".to_owned(),
                false => format!("Not in sync: {}.", counts.join(", ")),
            }
        }
    };
    let done = outcome
        .steps
        .iter()
        .filter(|step| step.outcome == Ended::Changed);
    let _ = writeln!(
        out,
        "Applied {} in {:.1}s. {end}",
        count(done.count(), "step"),
        outcome.seconds
    );
    out
}
