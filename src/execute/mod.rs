//! Runs waves: observe → resolve → plan → perform, until the plan is empty.
//!
//! [`run`] is one pass over everything: the datastore first, then every
//! repository through waves of its own, side by side, and the routes whenever
//! one of them has come to rest. [`Reconciler`] is what it is made of; an agent
//! uses the same pieces one at a time.

mod ledger;
mod locks;
mod perform;
mod reconciler;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::future::{FutureExt as _, join, join_all};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use ledger::{Ledger, Shared};
pub use locks::{Busy, FileLocks, Held, LocalLocks, Lock, Locking, Mode};
pub use reconciler::{Reconciler, Rest};

use crate::host::{Done, Host, Scope, StepError};
use crate::model::{Actual, Blocked, Danger, Desired, Guid, Object, Origin, Repository, Step};
use crate::plan::changes::{Changes, changes};
use crate::plan::{Limits, Plan, Share, plan};
use crate::resolve::{Ids, Source, resolve};

/// How often everything is looked at again after all came to rest: what one
/// repository does can open a way for another.
const MOST_ROUNDS: usize = 12;

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
    /// Every step, in the order in which they ended.
    pub performed: Vec<Performed>,
    /// The last look, with what is still in the way.
    pub last: Wave,
    /// Objects on which another renet worked.
    pub busy: Vec<(Object, Busy)>,
    /// Whether it was told to end before it was done.
    pub interrupted: bool,
}

impl Wave {
    /// The repository of which this one is about to become a copy.
    pub fn makes_copy_of(&self, guid: Guid) -> Option<Guid> {
        let none = Repository::default();
        let repo = self.actual.repo(guid, &none).ok()?;
        let origin = &self.desired.repositories.get(&guid)?.origin;
        match origin {
            Origin::Fork { lineage, .. } if repo.storage.file.is_absent() => Some(lineage.parent),
            _ => None,
        }
    }

    /// Whether a change of the repository is tried on a copy of it.
    fn tries(&self, guid: Guid) -> bool {
        let mut tried = self.desired.trials.values();
        tried.any(|parent| *parent == guid)
    }

    /// Keeps of the plan what a command on one repository means: everything else stays
    /// as it is.
    pub fn keep_only(&mut self, source: &Source, only: Guid) {
        let mine = |object: &Object| match object {
            Object::Datastore | Object::Machine => true,
            other if source.asked.suspend.contains_key(other) => true,
            other => other.repository() == Some(only),
        };
        self.plan.blocked.retain(|object, _| mine(object));
        self.plan.steps.retain(|step| mine(&step.object()));
        self.plan.more.retain(mine);
    }

    /// What the plan changes, object by object.
    pub fn changes(&self) -> Changes {
        changes(&self.desired, &self.actual, &self.plan)
    }
}

impl Report {
    /// Of a run that was not needed.
    pub fn nothing(last: Wave) -> Self {
        Self {
            performed: Vec::new(),
            last,
            busy: Vec::new(),
            interrupted: false,
        }
    }

    /// Everything is as wanted.
    pub fn in_sync(&self) -> bool {
        self.last.plan.in_sync() && self.busy.is_empty()
    }
}

/// What of a plan was shown before: a run does nothing worse.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// What it costs.
    pub danger: BTreeSet<Danger>,
    /// What goes.
    pub retires: BTreeSet<Object>,
    /// The very steps, where nothing but them may be done: of a saved plan.
    pub steps: Option<Vec<Step>>,
}

impl Shown {
    /// What a plan shows.
    pub fn of(plan: &Plan) -> Self {
        Self {
            danger: plan.danger.clone(),
            retires: plan.retires.clone(),
            steps: None,
        }
    }

    /// Whether a first locked plan for a share is what was shown of it.
    fn covers(&self, plan: &Plan, share: Share) -> bool {
        let Some(steps) = &self.steps else {
            return true;
        };
        let shown = steps.iter().filter(|step| share.covers(&step.object()));
        shown
            .map(Step::timeless)
            .eq(plan.steps.iter().map(Step::timeless))
    }
}

/// What a run may do.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The plan that was shown, where one was: a run with more danger stops.
    pub shown: Option<Shown>,
    /// How long each project may take to get well, whatever its manifest says.
    pub limit: Option<Duration>,
    /// Told to end: it does so before the next step.
    pub cancel: CancellationToken,
    /// The one repository that is worked on: nothing of others is looked at but their
    /// records and images.
    pub only: Option<Guid>,
    /// A look of a moment ago, with as much in it as the run itself would look at.
    pub first: Option<Box<Wave>>,
    /// Whether the routes stay as they are: what starts or stops with its machine shows
    /// nothing by it.
    pub keep_routes: bool,
}

/// Told about every step as it begins and ends.
pub trait Progress: Send + Sync {
    /// A step begins.
    fn begins(&self, _desired: &Desired, _step: &Step) {}
    /// What a step runs printed a line.
    fn said(&self, _desired: &Desired, _step: &Step, _line: &str) {}
    /// A step ended.
    fn ended(&self, _desired: &Desired, _performed: &Performed) {}
}

/// Tells nobody.
pub struct Silent;
impl Progress for Silent {}

/// Looks once at everything and plans, without any lock.
pub async fn look<H: Host>(host: &H, source: &Source, ids: &Ids) -> Wave {
    let seen = host.observe(Scope::All).await;
    plan_for(host, source, ids, seen, Scope::All).await
}

/// The plan for what was seen.
async fn plan_for<H: Host>(
    host: &H,
    source: &Source,
    ids: &Ids,
    actual: Actual,
    scope: Scope,
) -> Wave {
    let desired = resolve(source, &actual, ids, host, scope).await;
    let plan = plan(&desired, &actual, &Limits::NONE, Share::All);
    Wave {
        desired,
        actual,
        plan,
    }
}

/// What a command on one repository would do, from what was seen of it a moment ago,
/// where that is given.
pub async fn look_for<H: Host>(
    host: &H,
    source: &Source,
    ids: &Ids,
    only: Guid,
    seen: Option<Actual>,
) -> Wave {
    let scope = scope_of(Some(only), source);
    let seen = match seen {
        Some(seen) => seen,
        None => host.observe(scope).await,
    };
    let mut wave = plan_for(host, source, ids, seen, scope).await;
    wave.keep_only(source, only);
    wave
}

/// How much a run looks at that works on this one repository, or on all.
fn scope_of(only: Option<Guid>, source: &Source) -> Scope {
    match only {
        // What is open in it is seen by a closer look alone.
        Some(guid) if source.store.is_none() => Scope::Repository(guid),
        _ => Scope::All,
    }
}

/// Runs until nothing is left to do, or nothing more can be done.
pub async fn run<H: Host, L: Locking>(
    host: &H,
    locks: &L,
    source: &Source,
    ids: &Ids,
    options: &Options,
    progress: &dyn Progress,
) -> Report {
    let (shared, ledger) = (Shared::default(), Ledger::default());
    let reconciler = Reconciler {
        host,
        locks,
        source,
        ids,
        options,
        progress,
        shared: &shared,
        ledger: &ledger,
    };
    let mut retires: Option<BTreeSet<Object>> =
        options.shown.as_ref().map(|shown| shown.retires.clone());
    let mut last = None;
    let mut first = options.first.as_deref().cloned();
    for _ in 0..MOST_ROUNDS {
        let changed = ledger.changed();
        let wave = match first.take() {
            Some(wave) => wave,
            None => reconciler.survey(retires.as_ref()).await,
        };
        let base = Share::Base;
        let mut steps = wave.plan.steps.iter();
        let wave = match steps.any(|step| base.covers(&step.object())) {
            true => {
                reconciler.base().await;
                reconciler.survey(retires.as_ref()).await
            }
            // What everything stands on is as it should be.
            false => {
                shared.settled(base, &wave.plan);
                wave
            }
        };
        let retires = retires.get_or_insert_with(|| wave.plan.retires.clone());
        if !ledger.is_open() || options.cancel.is_cancelled() || wave.plan.steps.is_empty() {
            last = Some(wave);
            break;
        }
        reconciler.everything(&wave, retires).await;
        last = ledger.take_last();
        if last.is_some() || ledger.changed() == changed {
            break;
        }
    }
    let last = match last {
        Some(last) => last,
        None => reconciler.survey(retires.as_ref()).await,
    };
    ledger.report(&shared, last)
}

impl<H: Host, L: Locking> Reconciler<'_, H, L> {
    /// Every repository with something to do, side by side, and the routes
    /// whenever one of them has come to rest.
    async fn everything(&self, wave: &Wave, retires: &BTreeSet<Object>) {
        let work: BTreeSet<Guid> = wave
            .plan
            .steps
            .iter()
            .filter_map(|step| step.object().repository())
            .filter(|guid| {
                let parent = wave.desired.trials.get(guid);
                let only = self.options.only;
                only.is_none_or(|only| only == *guid || parent == Some(&only))
            })
            .collect();
        self.shared.busy(&work);
        let (rested, all_done) = (Notify::new(), CancellationToken::new());
        let ends = work.iter().map(|guid| (*guid, CancellationToken::new()));
        let ends: BTreeMap<Guid, CancellationToken> = ends.collect();
        let repositories = async {
            join_all(work.iter().map(async |guid| {
                // A copy of what is about to be made is made afterwards.
                let parent = wave.makes_copy_of(*guid);
                let parent = parent.filter(|parent| wave.makes_copy_of(*parent) != Some(*guid));
                if let Some(parent) = parent.and_then(|parent| ends.get(&parent)) {
                    parent.cancelled().await;
                }
                let _ended = ends.get(guid).map(|end| end.clone().drop_guard());
                let worked = AssertUnwindSafe(self.repository(*guid, retires));
                if let Err(panic) = worked.catch_unwind().await {
                    self.shared.rests(*guid);
                    self.ledger.crashed(*guid, &panic_message(&*panic));
                }
                rested.notify_one();
            }))
            .await;
            all_done.cancel();
        };
        let routes = async {
            if self.options.keep_routes {
                return;
            }
            if self.options.only.is_none() || !self.source.asked.suspend.is_empty() {
                self.routes(retires).await;
            }
            loop {
                tokio::select! {
                    biased;
                    () = rested.notified() => {
                        // What concerns one closed image alone is nobody's route.
                        let mut only = self.options.only.into_iter();
                        let quiet = only.any(|guid| {
                            !self.ledger.may_have_routed() && !self.shared.may_serve(guid)
                        });
                        if !quiet {
                            self.routes(retires).await;
                        }
                    }
                    () = all_done.cancelled() => break,
                }
            }
        };
        join(repositories, routes).await;
    }
}

/// What a panic said.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "it panicked without a message".to_owned())
}

/// A failure as the public list has it.
fn failed(step: &Step, error: &StepError) -> Blocked {
    let text = step.to_string();
    Blocked::StepFailed {
        step: text.split("  ").next().unwrap_or_default().to_owned(),
        error: error.to_string(),
    }
}
