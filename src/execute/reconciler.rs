//! The way of each share to rest: look, plan, perform, until nothing is left to do.

use std::collections::{BTreeMap, BTreeSet};

use super::perform::{End, Hand};
use super::{Busy, Ledger, Lock, Locking, Mode, Options, Progress, Shared, Wave, scope_of};
use crate::host::{Host, Scope};
use crate::model::{Actual, Blocked, Danger, Guid, Object, Part, Repository, Slot, StoreAct};
use crate::plan::{Limits, Share, plan};
use crate::resolve::{Ids, Source, resolve};

/// A cold start takes five, and one for each project of a chain in which one
/// depends on the next; more than this is a planner that goes in circles.
const MOST_WAVES: usize = 24 + Slot::COUNT as usize;

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
