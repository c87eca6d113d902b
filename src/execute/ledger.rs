use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::{Busy, Performed, Report, Wave};
use crate::host::{Done, Scope};
use crate::model::{Actual, Blocked, Guid, Object, Part, Repository, Step};
use crate::plan::{Plan, Share, Tried, Undone};

/// How many repositories are worked on at once. Who waits does not count.
const WORKERS: usize = 16;

/// What the pieces know of the machine, in one run or in many.
#[derive(Debug)]
pub struct Shared {
    state: Mutex<State>,
    pub(super) workers: Semaphore,
}

/// What one run has done, and what it met.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Entries>);

#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) performed: Vec<Performed>,
    /// Since when each revision is waited for.
    pub(super) waited: Vec<(Step, Instant)>,
    pub(super) tried: Tried,
    pub(super) undone: Undone,
    pub(super) busy: Vec<(Object, Busy)>,
    pub(super) interrupted: bool,
    /// The last look at the one repository that is worked on, once all is done.
    pub(super) last: Option<Wave>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            workers: Semaphore::new(WORKERS),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// How many looks began.
    pub(super) looks: u64,
    /// The last look at each repository, and which one it was: one that began
    /// earlier and ended later says nothing new.
    pub(super) seen: BTreeMap<Guid, (u64, crate::model::Shared<Repository>)>,
    /// What the last plan for each object says against it.
    pub(super) standing: BTreeMap<Object, Blocked>,
    pub(super) working: BTreeSet<Guid>,
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These repositories are about to be worked on.
    pub(super) fn busy(&self, work: &BTreeSet<Guid>) {
        self.state().working.extend(work);
    }

    /// Nobody works on the repository any more.
    pub fn rests(&self, guid: Guid) {
        self.state().working.remove(&guid);
    }

    pub(super) fn looks(&self) -> u64 {
        let mut state = self.state();
        state.looks += 1;
        state.looks
    }

    /// Takes what was seen of a repository for what it is.
    pub(super) fn saw(&self, look: u64, actual: &Actual, share: Share, scope: Scope) {
        let mut state = self.state();
        let all = actual.repositories.known().into_iter().flatten();
        let mine = |guid: Guid| share.covers(&Object::Repository(guid)) && scope.covers(guid);
        for (guid, repo) in all.filter(|(guid, _)| mine(**guid)) {
            let newer = state.seen.get(guid).is_none_or(|(last, _)| *last < look);
            if newer {
                state.seen.insert(*guid, (look, repo.clone()));
            }
        }
        if let (Share::All, Part::Known(all)) = (share, &actual.repositories) {
            state.seen.retain(|guid, _| all.contains_key(guid));
        }
    }

    /// Whether something may run in the repository, as far as was seen.
    pub(super) fn may_serve(&self, guid: Guid) -> bool {
        let state = self.state();
        let seen = state.seen.get(&guid);
        seen.is_none_or(|(_, repo)| !repo.daemon.is_absent())
    }

    pub(super) fn settled(&self, share: Share, plan: &Plan) {
        let mut state = self.state();
        state.standing.retain(|object, _| !share.covers(object));
        let blocked = plan.blocked.iter();
        let blocked = blocked.filter(|(object, _)| share.covers(object));
        let blocked = blocked.map(|(object, why)| (object.clone(), why.clone()));
        state.standing.extend(blocked);
    }
}

impl Ledger {
    pub(super) fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many steps changed something.
    pub fn changed(&self) -> usize {
        let entries = self.entries();
        let changed = |one: &&Performed| one.outcome == Ok(Done::Changed);
        entries.performed.iter().filter(changed).count()
    }

    /// The steps that changed something.
    pub fn done(&self) -> Vec<Step> {
        let entries = self.entries();
        let changed = |one: &&Performed| one.outcome == Ok(Done::Changed);
        let done = entries.performed.iter().filter(changed);
        done.map(|one| one.step.clone()).collect()
    }

    /// Whether a step was tried on the share.
    pub(super) fn has_worked_on(&self, share: Share) -> bool {
        let entries = self.entries();
        let mut performed = entries.performed.iter();
        performed.any(|one| share.covers(&one.step.object()))
    }

    /// Whether a step changed something that routes may lead to.
    pub(super) fn may_have_routed(&self) -> bool {
        let entries = self.entries();
        let changed = |one: &&Performed| one.outcome != Ok(Done::Already);
        let mut performed = entries.performed.iter().filter(changed);
        performed.any(|one| one.step.may_route())
    }

    /// The last look at the one repository that is worked on, once all is done.
    pub(super) fn take_last(&self) -> Option<Wave> {
        self.entries().last.take()
    }

    /// Whether nothing ended the run.
    pub fn is_open(&self) -> bool {
        let entries = self.entries();
        !entries.interrupted && entries.busy.is_empty()
    }

    /// The worker of a repository panicked.
    pub(super) fn crashed(&self, guid: Guid, said: &str) {
        let why = Blocked::StepFailed {
            step: "reconcile".to_owned(),
            error: format!("renet crashed on it: {said}"),
        };
        self.entries().tried.insert(Object::Repository(guid), why);
    }

    /// How long the step was waited for before.
    pub(super) fn waited(&self, step: &Step) -> Duration {
        let waited = &mut self.entries().waited;
        match waited.iter().find(|(before, _)| before == step) {
            Some((_, since)) => since.elapsed(),
            None => {
                waited.push((step.clone(), Instant::now()));
                Duration::ZERO
            }
        }
    }

    pub(super) fn busy(&self, object: Object, busy: Busy) {
        self.entries().busy.push((object, busy));
    }

    /// What the run came to.
    pub(super) fn report(&self, shared: &Shared, mut last: Wave) -> Report {
        // What a bound held back is planned by every look, and never done.
        for (object, why) in &shared.state().standing {
            if *why == Blocked::NotShown {
                let blocked = &mut last.plan.blocked;
                blocked.entry(object.clone()).or_insert_with(|| why.clone());
                let of = object.repository();
                let steps = &mut last.plan.steps;
                steps.retain(|step| of.is_none() || step.repository() != of);
            }
        }
        let mut entries = self.entries();
        Report {
            performed: std::mem::take(&mut entries.performed),
            last,
            busy: std::mem::take(&mut entries.busy),
            interrupted: entries.interrupted,
        }
    }
}
