//! Performs the steps of one wave, in their order, under the locks that they need.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use super::{Busy, Held, Lock, Locking, Mode, Performed, Reconciler, Wave, failed};
use crate::host::{Blame, Cx, Done, Host, Scope, StepError};
use crate::model::{Blocked, Desired, Guid, Object, Patch, Step, Verdict};
use crate::plan::Share;

/// How often one step may be needed in one run: done, undone by the machine,
/// done again. The third time it is not drift but a loop.
const MOST_REPEATS: usize = 2;

/// How the steps of a wave ended.
pub(super) enum End {
    /// All were done, or the next look decides.
    Look,
    /// Told to end.
    Interrupted,
    /// A lock could not be had.
    Busy(Busy),
}

/// What is held while steps are performed.
pub(super) struct Hand<'a> {
    pub(super) locks: Vec<Held>,
    pub(super) _permit: Option<SemaphorePermit<'a>>,
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
    /// The datastore with others, the repository alone, and a worker's place.
    pub(super) async fn take(&self, guid: Guid) -> Result<Hand<'_>, Busy> {
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
    pub(super) async fn perform_all<'s>(
        &'s self,
        wave: &Wave,
        hand: &mut Hand<'s>,
        share: Share,
    ) -> End {
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
