//! Runs waves: observe → resolve → plan → perform, until the plan is empty.
//!
//! A step that fails ends its repository's part of the wave; the next wave is
//! planned with the failed object as input, so that it and what waits for it are
//! blocked while everything else goes on.

mod locks;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub use locks::{Busy, Locks};

use crate::host::{Blame, Cx, Done, Host, StepError};
use crate::model::{Actual, Blocked, Danger, Desired, Guid, Object, Step};
use crate::plan::{Plan, Tried, plan};
use crate::resolve::{Ids, Source, resolve};

/// A cold start takes four; more than this is a planner that goes in circles.
const MOST_WAVES: usize = 24;

/// How often one step may be needed in one run: done, undone by the machine,
/// done again. The third time it is not drift but a loop.
const MOST_REPEATS: usize = 2;

/// One look, and the plan for it.
#[derive(Clone, Debug)]
pub struct Wave {
    /// What is wanted.
    pub desired: Desired,
    /// What was seen.
    pub actual: Actual,
    /// What would be done.
    pub plan: Plan,
}

/// One step that was tried.
#[derive(Clone, Debug)]
pub struct Performed {
    /// The step.
    pub step: Step,
    /// How it ended.
    pub outcome: Result<Done, StepError>,
    /// How long it took.
    pub took: Duration,
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct Report {
    /// Every step, in order.
    pub performed: Vec<Performed>,
    /// The last look, with what is still in the way.
    pub last: Wave,
    /// How often it looked.
    pub waves: usize,
}

impl Report {
    /// Everything is as wanted.
    pub fn in_sync(&self) -> bool {
        self.last.plan.in_sync()
    }
}

/// What a run may do.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The danger of the plan that was shown, where one was: a run with more stops.
    pub shown: Option<BTreeSet<Danger>>,
    /// What every step is given.
    pub cx: Cx,
}

/// Told about every step as it begins and ends.
pub trait Progress {
    /// A step begins.
    fn begins(&mut self, _desired: &Desired, _step: &Step) {}
    /// A step ended.
    fn ended(&mut self, _desired: &Desired, _performed: &Performed) {}
}

/// Tells nobody.
pub struct Silent;
impl Progress for Silent {}

/// Looks once and plans, without any lock.
pub async fn look<H: Host>(host: &H, source: &Source<'_>, ids: &mut Ids, tried: &Tried) -> Wave {
    let actual = host.observe().await;
    let desired = resolve(source, &actual, ids, host).await;
    let plan = plan(&desired, &actual, tried);
    Wave {
        desired,
        actual,
        plan,
    }
}

/// Runs until nothing is left to do, or nothing more can be done. The caller
/// holds the locks.
pub async fn run<H: Host>(
    host: &H,
    source: &Source<'_>,
    ids: &mut Ids,
    options: &Options,
    progress: &mut impl Progress,
) -> Report {
    let mut tried = Tried::new();
    let mut performed = Vec::new();
    let mut repeats: BTreeMap<String, usize> = BTreeMap::new();
    let mut first: Option<Actual> = None;
    let mut bound = options.shown.clone();
    let mut waves = 0;
    loop {
        let mut wave = look(host, source, ids, &tried).await;
        waves += 1;
        let first = first.get_or_insert_with(|| wave.actual.clone());
        let danger = wave.plan.danger_against(first);
        // Without a shown plan the first locked one is the bound.
        let bound = bound.get_or_insert_with(|| wave.plan.danger.clone());
        let beyond: BTreeSet<Guid> = danger
            .iter()
            .filter(|danger| !danger.is_within(bound))
            .map(Danger::repository)
            .collect();
        for guid in &beyond {
            wave.plan
                .blocked
                .insert(Object::Repository(*guid), Blocked::NotShown);
        }
        wave.plan.steps.retain(|step| {
            step.object()
                .repository()
                .is_none_or(|guid| !beyond.contains(&guid))
        });
        if wave.plan.steps.is_empty() || waves >= MOST_WAVES {
            return Report {
                performed,
                last: wave,
                waves,
            };
        }
        let mut stopped: BTreeSet<Guid> = BTreeSet::new();
        for step in &wave.plan.steps {
            let object = step.object();
            if step
                .repository()
                .is_some_and(|guid| stopped.contains(&guid))
            {
                continue;
            }
            let count = repeats.entry(format!("{object:?} {step}")).or_default();
            *count += 1;
            let began = Instant::now();
            let outcome = if *count > MOST_REPEATS {
                Err(StepError::machine(
                    "it was done in this run and did not last",
                ))
            } else {
                progress.begins(&wave.desired, step);
                host.perform(step, &options.cx).await
            };
            let one = Performed {
                step: step.clone(),
                outcome,
                took: began.elapsed(),
            };
            progress.ended(&wave.desired, &one);
            let failure = one.outcome.as_ref().err().cloned();
            performed.push(one);
            let Some(error) = failure else { continue };
            tracing::warn!(step = %step, %error, "step failed");
            if error.blame == Blame::Revision
                && let Some(note) = step.on_error()
                && let Err(error) = host.perform(&note, &options.cx).await
            {
                tracing::warn!(step = %note, %error, "could not note the failed revision");
            }
            let why = Blocked::StepFailed {
                step: step
                    .to_string()
                    .split("  ")
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
                error: error.to_string(),
            };
            tried.insert(object.clone(), why);
            match object.repository() {
                Some(guid) => {
                    stopped.insert(guid);
                }
                // Everything else stands on the datastore.
                None if object == Object::Datastore => break,
                None => {}
            }
        }
    }
}
