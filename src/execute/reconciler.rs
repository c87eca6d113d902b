use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use super::{
    Busy, Held, Ledger, Lock, Locking, Mode, Options, Performed, Progress, Shared, Wave, failed,
    scope_of,
};
use crate::host::{Blame, Cx, Done, Host, Scope, StepError};
use crate::model::{
    Actual, Blocked, Danger, Desired, Guid, Object, Part, Patch, Repository, Slot, Step, StoreAct,
    Verdict,
};
use crate::plan::{Limits, Share, plan};
use crate::resolve::{Ids, Source, resolve};

/// A cold start takes five, and one for each project of a chain in which one
/// depends on the next; more than this is a planner that goes in circles.
const MOST_WAVES: usize = 24 + Slot::COUNT as usize;

/// How often one step may be needed in one run: done, undone by the machine,
/// done again. The third time it is not drift but a loop.
const MOST_REPEATS: usize = 2;

/// The pieces of a run.
pub struct Reconciler<'a, H, L> {
    /// The machine.
    pub host: &'a H,
    /// Its locks.
    pub locks: &'a L,
    /// What is wanted, and by whom.
    pub source: &'a Source,
    /// Where new ids come from.
    pub ids: &'a Ids,
    /// What may be done.
    pub options: &'a Options,
    /// Who is told.
    pub progress: &'a dyn Progress,
    /// What all runs know of the machine.
    pub shared: &'a Shared,
    /// What this run has done.
    pub ledger: &'a Ledger,
}

/// How a share came to rest.
#[derive(Clone, Debug, Default)]
pub struct Rest {
    /// Every object of it, as people name it, and what is in its way.
    pub found: Vec<(String, Option<Blocked>)>,
    /// What is in the way.
    pub blocked: BTreeMap<Object, Blocked>,
    /// Another renet works on it.
    pub busy: Option<Busy>,
    /// Whether it was told to end before it was done.
    pub interrupted: bool,
}

impl Rest {
    fn see(&mut self, wave: &Wave, share: Share) {
        let (desired, plan) = (&wave.desired, &wave.plan);
        self.blocked = plan.blocked.clone();
        let objects: BTreeSet<Object> = desired
            .objects()
            .chain(plan.blocked.keys().cloned())
            .filter(|object| share.covers(object) && !plan.more.contains(object))
            .collect();
        let found = objects.into_iter().map(|object| {
            let why = plan.blocked.get(&object).cloned();
            (desired.label(&object), why)
        });
        self.found = found.collect();
    }

    /// Whether a step failed for which the same may go well another time.
    pub fn failed(&self) -> bool {
        let failed = |why: &Blocked| matches!(why, Blocked::StepFailed { .. });
        self.blocked.values().any(failed)
    }
}

/// How the steps of a wave ended.
enum End {
    /// All were done, or the next look decides.
    Look,
    /// Told to end.
    Interrupted,
    /// A lock could not be had.
    Busy(Busy),
}

/// What is held while steps are performed.
struct Hand<'a> {
    locks: Vec<Held>,
    _permit: Option<SemaphorePermit<'a>>,
}

/// What is waited for at the end of a wave, and what comes after that: it is for
/// the next look. Everything else goes on.
#[derive(Default)]
struct Waits<'a> {
    steps: Vec<&'a Step>,
    later: BTreeSet<Object>,
}

impl<'a> Waits<'a> {
    /// Whether the step is not for this wave.
    fn put_off(&mut self, desired: &Desired, step: &'a Step) -> bool {
        let object = step.object();
        if self.later.contains(&object) {
            return true;
        }
        let mut later = self.later.iter();
        let depends = later.any(|on| desired.depends_on(&object, on));
        if !depends && !step.only_waits() {
            return false;
        }
        if !depends {
            self.steps.push(step);
        }
        self.later.insert(object);
        true
    }

    /// Whether something starts only when this wait has ended well.
    fn hold_up(&self, desired: &Desired, step: &Step) -> bool {
        let object = step.object();
        let mut later = self.later.iter();
        later.any(|other| desired.depends_on(other, &object))
    }
}

impl Hand<'_> {
    fn cx(&self) -> Cx {
        Cx {
            locks: self.locks.iter().filter_map(Held::file).collect(),
            ..Cx::default()
        }
    }
}

impl<H: Host, L: Locking> Reconciler<'_, H, L> {
    /// Opens the datastore and settles the machine's record.
    pub async fn base(&self) {
        let share = Share::Base;
        let mut hand = None;
        for _ in 0..MOST_WAVES {
            // What is open is seen by a closer look.
            let scope = match self.source.store {
                Some(StoreAct::Unmount(_) | StoreAct::Close) => Scope::All,
                _ => Scope::Records,
            };
            let mut wave = self.look(share, scope, None).await;
            if !self.is_shown(&wave, share) {
                wave.plan.steps.clear();
                let blocked = &mut wave.plan.blocked;
                blocked.insert(Object::Datastore, Blocked::NotShown);
            }
            self.shared.settled(share, &wave.plan);
            if wave.plan.steps.is_empty() {
                return;
            }
            // Nothing is done by a plan that was made without the lock.
            let Some(held) = &mut hand else {
                match self.locks.lock(Lock::Datastore, Mode::Alone).await {
                    Ok(lock) => {
                        hand = Some(Hand {
                            locks: vec![lock],
                            _permit: None,
                        });
                    }
                    Err(busy) => return self.ledger.busy(Object::Datastore, busy),
                }
                continue;
            };
            match self.perform_all(&wave, held, share).await {
                End::Look => {}
                End::Interrupted => return,
                End::Busy(busy) => return self.ledger.busy(Object::Datastore, busy),
            }
        }
    }

    /// Looks at everything that is worked on and plans it, without locks.
    pub async fn survey(&self, retires: Option<&BTreeSet<Object>>) -> Wave {
        let scope = scope_of(self.options.only, self.source);
        let wave = self.look(Share::All, scope, retires).await;
        match self.options.only {
            // With what is tried goes the copy on which it is.
            Some(guid) if scope != Scope::All && wave.tries(guid) => {
                self.look(Share::All, Scope::All, retires).await
            }
            _ => wave,
        }
    }

    /// Takes one repository through its waves, until nothing is left to do or
    /// nothing more can be done.
    pub async fn repository(&self, guid: Guid, retires: &BTreeSet<Object>) -> Rest {
        self.shared.busy(&BTreeSet::from([guid]));
        let rest = self.waves(guid, retires).await;
        self.shared.rests(guid);
        if let Some(busy) = &rest.busy {
            self.ledger.busy(Object::Repository(guid), busy.clone());
        }
        tracing::debug!(%guid, blocked = rest.blocked.len(), "at rest");
        rest
    }

    async fn waves(&self, guid: Guid, retires: &BTreeSet<Object>) -> Rest {
        let share = Share::Repository(guid);
        let mut bound: Option<BTreeSet<Danger>> = self
            .options
            .shown
            .as_ref()
            .map(|shown| shown.danger.clone());
        let mut first: Option<Actual> = None;
        let mut rest = Rest::default();
        let mut hand = None;
        for _ in 0..MOST_WAVES {
            if hand.is_none() {
                match self.take(guid).await {
                    Ok(held) => hand = Some(held),
                    Err(busy) => {
                        rest.busy = Some(busy);
                        return rest;
                    }
                }
            }
            let Some(held) = &mut hand else { break };
            let scope = Scope::Repository(guid);
            let mut wave = self.look(share, scope, Some(retires)).await;
            let is_shown = self.is_shown(&wave, share);
            let first = first.get_or_insert_with(|| wave.actual.clone());
            // Without a shown plan the first locked one is the bound.
            let bound = bound.get_or_insert_with(|| wave.plan.danger.clone());
            let mut danger = wave.plan.danger_against(first).into_iter();
            if !is_shown || danger.any(|danger| !danger.is_within(bound)) {
                wave.plan.steps.clear();
                let blocked = &mut wave.plan.blocked;
                blocked.insert(Object::Repository(guid), Blocked::NotShown);
            }
            self.shared.settled(share, &wave.plan);
            rest.see(&wave, share);
            if wave.plan.steps.is_empty() {
                let only = self.options.only == Some(guid) && !wave.tries(guid);
                if only && wave.plan.in_sync() && wave.plan.more.is_empty() {
                    self.ledger.entries().last = Some(wave);
                }
                return rest;
            }
            match self.perform_all(&wave, held, share).await {
                End::Look => {}
                End::Interrupted => {
                    rest.interrupted = true;
                    return rest;
                }
                End::Busy(busy) => {
                    rest.busy = Some(busy);
                    return rest;
                }
            }
        }
        let why = Blocked::StepFailed {
            step: "reconcile".to_owned(),
            error: format!("still not at rest after {MOST_WAVES} looks"),
        };
        rest.blocked.insert(Object::Repository(guid), why);
        rest
    }

    /// Whether nothing but what a saved plan showed begins here.
    fn is_shown(&self, wave: &Wave, share: Share) -> bool {
        let (plan, trials) = (&wave.plan, &wave.desired.trials);
        let Some(shown) = &self.options.shown else {
            return true;
        };
        // A trial is a part of what is tried.
        let parent = match share {
            Share::Repository(guid) => trials.get(&guid).copied().map(Share::Repository),
            _ => None,
        };
        let mut shares = std::iter::once(share).chain(parent);
        shown.covers(plan, share) || shares.any(|share| self.ledger.has_worked_on(share))
    }

    /// Publishes what was seen to run. Under the routes' lock: what is published
    /// was computed from the last word of everybody.
    pub async fn routes(&self, retires: &BTreeSet<Object>) -> Rest {
        let share = Share::Routes;
        let mut rest = Rest::default();
        let lock = match self.locks.lock(Lock::Routes, Mode::Alone).await {
            Ok(lock) => lock,
            Err(busy) => {
                self.ledger.busy(Object::Proxy, busy.clone());
                rest.busy = Some(busy);
                return rest;
            }
        };
        let mut hand = Hand {
            locks: vec![lock],
            _permit: None,
        };
        // Others were not looked at where one repository is worked on.
        let scope = match self.options.only {
            Some(_) => Scope::All,
            None => Scope::Records,
        };
        for _ in 0..MOST_WAVES {
            let wave = self.look(share, scope, Some(retires)).await;
            self.shared.settled(share, &wave.plan);
            rest.see(&wave, share);
            if wave.plan.steps.is_empty() {
                break;
            }
            match self.perform_all(&wave, &mut hand, share).await {
                End::Look => {}
                End::Interrupted => {
                    rest.interrupted = true;
                    break;
                }
                End::Busy(busy) => {
                    self.ledger.busy(Object::Proxy, busy.clone());
                    rest.busy = Some(busy);
                    break;
                }
            }
        }
        rest
    }

    /// One look at a share, and the plan for it.
    async fn look(&self, share: Share, scope: Scope, retires: Option<&BTreeSet<Object>>) -> Wave {
        let look = self.shared.looks();
        let mut actual = self.host.observe(scope).await;
        match share {
            Share::All | Share::Repository(_) => {
                self.shared.saw(look, &actual, share, scope);
            }
            Share::Base | Share::Routes => {}
        }
        let desired = resolve(self.source, &actual, self.ids, self.host, scope).await;
        let (tried, undone, standing, busy) = {
            let state = self.shared.state();
            if share == Share::Routes && scope != Scope::All {
                remember(&mut actual, &state.seen);
            }
            // What others say; its own words it finds anew.
            let others = state.standing.iter();
            let standing: BTreeMap<Object, Blocked> = others
                .filter(|(object, _)| share == Share::Routes && !share.covers(object))
                .map(|(object, why)| (object.clone(), why.clone()))
                .collect();
            let entries = self.ledger.entries();
            let (tried, undone) = (entries.tried.clone(), entries.undone.clone());
            (tried, undone, standing, state.working.clone())
        };
        let limits = Limits {
            tried: &tried,
            undone: &undone,
            retires,
            standing: &standing,
            busy: &busy,
        };
        let mut plan = plan(&desired, &actual, &limits, share);
        if share == Share::Routes {
            plan.blocked.retain(|object, _| share.covers(object));
        }
        let mut wave = Wave {
            desired,
            actual,
            plan,
        };
        if let Share::Repository(guid) = share {
            narrow(&mut wave, guid);
        }
        wave
    }

    /// The datastore with others, the repository alone, and a worker's place.
    async fn take(&self, guid: Guid) -> Result<Hand<'_>, Busy> {
        let locks = self.locks;
        let datastore = locks.lock(Lock::Datastore, Mode::Shared).await?;
        let repository = locks.lock(Lock::Repository(guid), Mode::Alone).await?;
        Ok(Hand {
            locks: vec![datastore, repository],
            _permit: self.shared.workers.acquire().await.ok(),
        })
    }

    /// Performs a wave's steps in their order, until one fails or what comes next
    /// depends on more than the plan could know.
    async fn perform_all<'s>(&'s self, wave: &Wave, hand: &mut Hand<'s>, share: Share) -> End {
        let mut waits = Waits::default();
        for step in &wave.plan.steps {
            if self.options.cancel.is_cancelled() {
                return self.interrupted();
            }
            if waits.put_off(&wave.desired, step) {
                continue;
            }
            let (lines, mut said) = tokio::sync::mpsc::unbounded_channel();
            let cx = Cx {
                limit: self.options.limit,
                lines: Some(lines),
                ..hand.cx()
            };
            let outcome = match self.again(step) {
                Some(error) => Err(error),
                None => {
                    let lock = match self.lock_for(step, hand).await {
                        Ok(lock) => lock,
                        Err(busy) => return End::Busy(busy),
                    };
                    let began = Instant::now();
                    self.progress.begins(&wave.desired, step);
                    let outcome = {
                        let outcome = self.host.perform(step, &cx);
                        tokio::pin!(outcome);
                        loop {
                            tokio::select! {
                                biased;
                                Some(line) = said.recv() => {
                                    self.progress.said(&wave.desired, step, &line);
                                }
                                outcome = &mut outcome => break outcome,
                            }
                        }
                    };
                    while let Ok(line) = said.try_recv() {
                        self.progress.said(&wave.desired, step, &line);
                    }
                    drop(lock);
                    self.ended(wave, step, &outcome, began);
                    outcome
                }
            };
            if outcome.is_ok() {
                self.heed(step);
            }
            if let Err(error) = outcome {
                self.fails(step, &error, &cx).await;
                return End::Look;
            }
        }
        match share {
            Share::Repository(guid) if !waits.steps.is_empty() => {
                self.wait(wave, &waits, hand, guid).await
            }
            _ => End::Look,
        }
    }

    /// What one step needs besides what is held: the records, or another repository
    /// as it is.
    async fn lock_for<'s>(
        &'s self,
        step: &Step,
        hand: &mut Hand<'s>,
    ) -> Result<Option<Held>, Busy> {
        if step.writes_record() {
            return self.locks.lock(Lock::Machine, Mode::Alone).await.map(Some);
        }
        let Some(other) = step.reads() else {
            return Ok(None);
        };
        // Who has it may wait for a worker's place. It waits for no lock of ours: a
        // copy is no ancestor of what it is a copy of.
        hand._permit = None;
        let lock = self
            .locks
            .lock(Lock::Repository(other), Mode::Shared)
            .await?;
        hand._permit = self.shared.workers.acquire().await.ok();
        Ok(Some(lock))
    }

    /// A step that does not last is not done for ever.
    fn again(&self, step: &Step) -> Option<StepError> {
        let entries = self.ledger.entries();
        let same = |performed: &&Performed| {
            performed.outcome == Ok(Done::Changed) && performed.step == *step
        };
        let count = entries.performed.iter().filter(same).count();
        (count >= MOST_REPEATS)
            .then(|| StepError::machine("it was done in this run and did not last"))
    }

    fn ended(&self, wave: &Wave, step: &Step, outcome: &Result<Done, StepError>, began: Instant) {
        let performed = Performed {
            step: step.clone(),
            outcome: outcome.clone(),
            took: began.elapsed(),
        };
        self.progress.ended(&wave.desired, &performed);
        let mut entries = self.ledger.entries();
        entries.waited.retain(|(before, _)| before != step);
        entries.performed.push(performed);
    }

    /// Waits without any lock, for all at once, until all have ended or something
    /// can go on; whether what was waited for is still what matters is found out
    /// under the lock again.
    async fn wait<'s>(
        &'s self,
        wave: &Wave,
        waits: &Waits<'_>,
        hand: &mut Hand<'s>,
        guid: Guid,
    ) -> End {
        hand.locks.clear();
        hand._permit = None;
        let each = waits.steps.iter().map(async |step| {
            let began = Instant::now();
            let cx = Cx {
                limit: self.options.limit,
                waited: self.ledger.waited(step),
                ..Cx::default()
            };
            self.progress.begins(&wave.desired, step);
            (*step, self.host.perform(step, &cx).await, began)
        });
        let mut each: FuturesUnordered<_> = each.collect();
        let outcomes = tokio::select! {
            biased;
            () = self.options.cancel.cancelled() => return self.interrupted(),
            outcomes = async {
                let mut ended = Vec::new();
                while let Some(one) = each.next().await {
                    let (step, outcome, _) = &one;
                    let opens = outcome.is_ok() && waits.hold_up(&wave.desired, step);
                    ended.push(one);
                    if opens {
                        break;
                    }
                }
                ended
            } => outcomes,
        };
        match self.take(guid).await {
            Ok(again) => *hand = again,
            Err(busy) => return End::Busy(busy),
        }
        let mut now = None;
        for (step, outcome, began) in outcomes {
            if let Err(error) = &outcome {
                if now.is_none() {
                    now = Some(self.host.observe(Scope::Repository(guid)).await);
                }
                // Somebody else has changed what was waited for: its end says nothing.
                if now.as_ref().is_some_and(|now| !step.is_still_about(now)) {
                    continue;
                }
                self.ended(wave, step, &outcome, began);
                self.fails(step, error, &hand.cx()).await;
            } else {
                self.ended(wave, step, &outcome, began);
            }
        }
        End::Look
    }

    fn interrupted(&self) -> End {
        self.ledger.entries().interrupted = true;
        End::Interrupted
    }

    /// A revision that failed on a copy is not tried again in this run.
    fn heed(&self, step: &Step) {
        let Step::Record(_, Patch::Try(_, Some(trial))) = step else {
            return;
        };
        if let Verdict::Failed(how) = &trial.verdict {
            let why = Blocked::RevisionFailed {
                runs: None,
                trial: Some(how.clone()),
            };
            let mut entries = self.ledger.entries();
            let undone = entries.undone.entry(step.object());
            undone.or_insert_with(|| (trial.revision.clone(), why));
        }
    }

    /// Remembers a failure: of the revision in the record, of the machine for
    /// this run.
    async fn fails(&self, step: &Step, error: &StepError, cx: &Cx) {
        tracing::warn!(%step, %error, "step failed");
        if error.blame == Blame::Race {
            return;
        }
        let note = step.on_error().filter(|_| error.blame == Blame::Revision);
        if let Some(note) = &note {
            let noted = match self.locks.lock(Lock::Machine, Mode::Alone).await {
                Ok(_lock) => self.host.perform(note, cx).await,
                Err(busy) => Err(StepError::machine(busy.to_string())),
            };
            if let Err(error) = noted {
                tracing::warn!(step = %note, %error, "could not note the failed revision");
            }
        }
        if error.blame == Blame::Revision && step.holds_up_nothing() {
            return;
        }
        let mut entries = self.ledger.entries();
        let why = failed(step, error);
        match note {
            // What was there before may come back.
            Some(Step::Record(_, Patch::Failed(_, revision))) => {
                entries.undone.insert(step.object(), (revision, why));
            }
            _ => drop(entries.tried.insert(step.object(), why)),
        }
    }
}

/// Keeps of a wave what concerns one repository: many are under way at once, and
/// each would hold all the others for as long as its steps take.
fn narrow(wave: &mut Wave, guid: Guid) {
    if let Part::Known(all) = &mut wave.actual.repositories {
        all.retain(|other, _| *other == guid);
    }
    wave.actual.routes = Part::Hidden;
    wave.actual.published = Part::Hidden;
    wave.desired.repositories.retain(|other, _| *other == guid);
    wave.desired.names.retain(|other, _| *other == guid);
    wave.desired.routes.clear();
}

/// Fills in what was seen of each repository when it was last looked at.
fn remember(actual: &mut Actual, seen: &BTreeMap<Guid, (u64, crate::model::Shared<Repository>)>) {
    let Part::Known(all) = &mut actual.repositories else {
        return;
    };
    for (guid, repo) in all {
        if let Some((_, before)) = seen.get(guid) {
            let (record, mirror) = (repo.record.clone(), repo.mirror.clone());
            **repo = Repository {
                record,
                mirror,
                ..(**before).clone()
            };
        }
    }
}
