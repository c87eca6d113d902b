use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{FutureExt as _, Stream, StreamExt as _};
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::controller::{self, Handle, Next};
use super::history::{EVERYTHING, Pass};
use super::starts::Starts;
use super::status::Board;
use crate::execute::{self, Ledger, Locking, Options, Reconciler, Report, Rest, Shared};
use crate::host::Host;
use crate::manifest::{Folder, Manifests};
use crate::model::{
    Asked, Blocked, Digest, Guid, Layout, Name, NetworkId, Object, Owner, Patch, Prune, Step,
};
use crate::plan::Share;
use crate::resolve::{Ids, Source};

/// What a run of the agent is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Reads the folder, looks at everything, and says which of the others has work.
    Survey,
    /// One repository.
    Repository(Guid),
    /// The routes and the proxy.
    Routes,
}

/// Something outside that may have made work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Nobody knows where: the folder, the timer, a signal.
    All,
    /// In the daemon of a network.
    Network(NetworkId),
    /// In what the proxy reads.
    Routes,
}

/// Somebody asks for a pass, and waits for its end.
#[derive(Debug)]
pub struct Request {
    /// Failed revisions are tried again.
    pub retry: bool,
    /// The digest that confirms a plan which retires much.
    pub confirm: Option<String>,
    /// The one repository that is meant, by its name.
    pub only: Option<String>,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Report>,
}

/// How an agent goes about it.
#[derive(Clone, Debug)]
pub struct Policy {
    /// How long after a pass the next one begins at the latest.
    pub interval: Duration,
    /// How long something must have been missing from the folder before it is
    /// retired: a folder that is being written looks just the same for a moment.
    pub settle: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(180),
            settle: Duration::from_secs(10),
        }
    }
}

/// Another renet has the lock: it is asked again this soon.
const BUSY: Duration = Duration::from_secs(2);

/// The long-running reconciler of one machine and one folder.
pub struct Agent<H, L> {
    open: Box<dyn Fn(&Manifests) -> H + Send + std::marker::Sync>,
    locks: L,
    layout: Layout,
    load: Box<dyn Fn() -> Folder + Send + std::marker::Sync>,
    policy: Policy,
    ids: Ids,
    shared: Shared,
    handle: Handle<Key>,
    board: Arc<Board>,
    state: Mutex<State<H>>,
}

struct State<H> {
    revision: Option<Arc<Revision<H>>>,
    /// What was declared of each repository when it was last looked at.
    declared: BTreeMap<Guid, Digest>,
    networks: BTreeMap<NetworkId, Guid>,
    names: BTreeMap<String, Guid>,
    /// Repositories in back-off: hints do not end it.
    failing: BTreeSet<Guid>,
    missing: BTreeMap<Object, Instant>,
    retires: BTreeSet<Object>,
    /// Which repositories wait to become copies of which.
    copies: BTreeMap<Guid, BTreeSet<Guid>>,
    starts: Starts,
}

impl<H> Default for State<H> {
    fn default() -> Self {
        Self {
            revision: None,
            declared: BTreeMap::new(),
            networks: BTreeMap::new(),
            names: BTreeMap::new(),
            failing: BTreeSet::new(),
            missing: BTreeMap::new(),
            retires: BTreeSet::new(),
            copies: BTreeMap::new(),
            starts: Starts::default(),
        }
    }
}

/// What the folder says, as it was read at one time.
struct Revision<H> {
    source: Source,
    /// The machine, with the datastore where this revision has it.
    host: H,
    id: String,
    /// Of each repository.
    parts: BTreeMap<Name, Digest>,
}

impl<H: Host + 'static, L: Locking + 'static> Agent<H, L> {
    /// An agent that reads the folder with `load`, and takes the machine from
    /// `open`, which is given the manifests: they name its backing file and its
    /// secrets. What it does stands on `board`.
    pub fn new(
        open: impl Fn(&Manifests) -> H + Send + std::marker::Sync + 'static,
        locks: L,
        layout: Layout,
        load: impl Fn() -> Folder + Send + std::marker::Sync + 'static,
        policy: Policy,
        board: Arc<Board>,
    ) -> Self {
        Self {
            ids: Ids::random(&layout),
            open: Box::new(open),
            locks,
            layout,
            load: Box::new(load),
            policy,
            shared: Shared::default(),
            handle: Handle::new(super::queue::random),
            board,
            state: Mutex::default(),
        }
    }

    /// How many keys are due, now or later: at most one a repository, and two.
    pub fn depth(&self) -> usize {
        self.handle.depth()
    }

    /// Runs until cancelled; then ends at the next safe point.
    pub async fn run(
        self: Arc<Self>,
        hints: impl Stream<Item = Hint> + Send,
        mut requests: mpsc::Receiver<Request>,
        cancel: CancellationToken,
    ) {
        self.handle.touch(Key::Survey);
        let agent = self.clone();
        let worker = move |key, token| {
            let agent = agent.clone();
            async move { agent.work(key, token).await }
        };
        let controller = controller::run(
            &self.handle,
            worker,
            |key, said, count| self.crashed(key, &said, count),
            cancel.clone(),
        );
        let mut hints = std::pin::pin!(hints);
        let listening = async {
            loop {
                tokio::select! {
                    Some(hint) = hints.next() => self.heard(hint),
                    Some(request) = requests.recv() => {
                        let (agent, cancel) = (self.clone(), cancel.clone());
                        tokio::spawn(async move { agent.answer(request, cancel).await });
                    }
                    else => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            () = controller => {}
            () = listening => {}
        }
    }

    fn state(&self) -> MutexGuard<'_, State<H>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn work(&self, key: Key, token: CancellationToken) -> Next {
        let worked = match key {
            Key::Repository(guid) => return self.repository(guid, token).await,
            Key::Survey => AssertUnwindSafe(self.survey(token)).catch_unwind().await,
            Key::Routes => AssertUnwindSafe(self.routes(token)).catch_unwind().await,
        };
        // All repositories hang on these two: they back off, and are never set aside.
        worked.unwrap_or_else(|panic| {
            self.crashed(&key, &execute::panic_message(&*panic), 1);
            Next::Failed
        })
    }

    fn heard(&self, hint: Hint) {
        match hint {
            Hint::All => self.handle.touch(Key::Survey),
            Hint::Routes => self.handle.touch(Key::Routes),
            Hint::Network(network) => {
                let state = self.state();
                match state.networks.get(&network) {
                    Some(guid) if state.failing.contains(guid) => {}
                    Some(guid) => self.handle.touch(Key::Repository(*guid)),
                    None => self.handle.touch(Key::Survey),
                }
            }
        }
    }

    fn crashed(&self, key: &Key, said: &str, count: u32) {
        let object = match key {
            Key::Survey => "agent".to_owned(),
            Key::Routes => "proxy".to_owned(),
            Key::Repository(guid) => {
                self.shared.rests(*guid);
                let state = self.state();
                let mut names = state.names.iter();
                let name = names.find(|(_, of)| *of == guid);
                name.map_or_else(
                    || format!("repository/{guid}"),
                    |(name, _)| format!("repository/{name}"),
                )
            }
        };
        let aside = match count {
            0 | 1 => "",
            _ => "; set aside until its manifests change",
        };
        let message = format!("renet crashed on it: {said}{aside}");
        tracing::error!(object, count, "{message}");
        self.board
            .event(Timestamp::now(), &object, "Crashed", message.clone());
        let why = Blocked::StepFailed {
            step: "reconcile".to_owned(),
            error: message,
        };
        self.found(&object, Some(&why));
    }

    fn found(&self, object: &str, why: Option<&Blocked>) {
        let id = self.revision().map_or(String::new(), |one| one.id.clone());
        self.board.found(Timestamp::now(), object, why, &id);
    }

    fn revision(&self) -> Option<Arc<Revision<H>>> {
        self.state().revision.clone()
    }

    fn options(&self, cancel: CancellationToken) -> Options {
        Options {
            cancel,
            ..Options::default()
        }
    }

    /// What a revision says, but for what crashes again and again.
    fn source(&self, revision: &Revision<H>) -> Source {
        let mut source = revision.source.clone();
        source.asked.crashing = self.state().starts.crashing();
        source
    }

    fn reconciler<'a>(
        &'a self,
        revision: &'a Revision<H>,
        source: &'a Source,
        options: &'a Options,
        ledger: &'a Ledger,
    ) -> Reconciler<'a, H, L> {
        Reconciler {
            host: &revision.host,
            locks: &self.locks,
            source,
            ids: &self.ids,
            options,
            progress: &*self.board,
            shared: &self.shared,
            ledger,
        }
    }

    /// Reads the folder. What cannot be read at all leaves the last revision in force.
    fn read(&self) -> Option<Arc<Revision<H>>> {
        let folder = (self.load)();
        let problems: Vec<String> = folder.problems.iter().map(ToString::to_string).collect();
        let nothing = folder.is_nothing() && !folder.empty;
        let id = folder.manifests.digest().short().to_owned();
        let now = Timestamp::now();
        let mut state = self.state();
        let news = self.board.status().problems != problems;
        if !nothing && state.revision.as_ref().is_none_or(|is| is.id != id) {
            self.board.event(now, "agent", "Revision", id.clone());
            self.board.update(|status| {
                status.revision = Some(id.clone());
                status.revision_since = Some(now);
            });
        }
        if !nothing {
            let prune = match folder.problems.is_empty() || folder.empty {
                true => Prune::Retire(None),
                false => Prune::Incomplete,
            };
            let parts = match &state.revision {
                Some(is) if is.id == id => is.parts.clone(),
                _ => folder.manifests.digests(),
            };
            let host = (self.open)(&folder.manifests);
            let source = Source {
                owner: Owner {
                    source: folder.source.display().to_string(),
                },
                manifests: Arc::new(folder.manifests),
                layout: self.layout.clone(),
                asked: Asked {
                    prune,
                    ..Asked::default()
                },
                acts: BTreeMap::new(),
                store: None,
            };
            state.revision = Some(Arc::new(Revision {
                source,
                host,
                id,
                parts,
            }));
        }
        let revision = state.revision.clone();
        drop(state);
        if news {
            for problem in &problems {
                self.board.event(now, "agent", "Invalid", problem.clone());
            }
            self.board.update(|status| status.problems = problems);
        }
        revision
    }

    async fn survey(&self, token: CancellationToken) -> Next {
        let Some(revision) = self.read() else {
            return Next::After(self.policy.interval);
        };
        let (options, ledger) = (self.options(token), Ledger::default());
        let source = self.source(&revision);
        let reconciler = self.reconciler(&revision, &source, &options, &ledger);
        reconciler.base().await;
        let wave = reconciler.survey(None).await;
        let plan = &wave.plan;
        let next = self.settle(&plan.retires);
        let working: BTreeSet<Guid> = plan
            .steps
            .iter()
            .filter_map(|step| step.object().repository())
            .collect();
        self.know(&revision, &wave, &working);
        let on_routes = |object: &Object| Share::Routes.covers(object);
        if plan.steps.iter().any(|step| on_routes(&step.object())) {
            self.handle.touch(Key::Routes);
        }
        self.tell(&wave, &revision.id, next);
        let base = plan.blocked.get(&Object::Datastore);
        match base {
            Some(Blocked::StepFailed { .. }) => Next::Failed,
            _ if !ledger.is_open() => Next::After(BUSY),
            _ => Next::After(next),
        }
    }

    /// Retires only what has been missing for a while; when to look again.
    fn settle(&self, missing: &BTreeSet<Object>) -> Duration {
        let now = Instant::now();
        let mut state = self.state();
        state.missing.retain(|object, _| missing.contains(object));
        for object in missing {
            state.missing.entry(object.clone()).or_insert(now);
        }
        let settle = self.policy.settle;
        let since = |since: &Instant| settle.saturating_sub(now.duration_since(*since));
        let waits = state.missing.values().map(since);
        let soonest = waits.filter(|left| !left.is_zero()).min();
        let ripe = state.missing.iter();
        let ripe = ripe.filter(|(_, at)| since(at).is_zero());
        state.retires = ripe.map(|(object, _)| object.clone()).collect();
        soonest.unwrap_or(self.policy.interval)
    }

    /// Remembers what is wanted of each repository, and says who has work: at
    /// once where that has changed, else when its back-off is over.
    fn know(&self, revision: &Revision<H>, wave: &execute::Wave, working: &BTreeSet<Guid>) {
        let desired = &wave.desired;
        let mut state = self.state();
        let all = wave.actual.repositories.known().into_iter().flatten();
        let networks = all.filter_map(|(guid, repo)| Some((repo.record.known()?.network, *guid)));
        state.networks = networks.collect();
        let names = desired.repositories.values();
        state.names = names
            .map(|spec| (spec.name.to_string(), spec.guid))
            .collect();
        state.copies.clear();
        for guid in desired.repositories.keys() {
            if let Some(parent) = wave.makes_copy_of(*guid) {
                state.copies.entry(parent).or_default().insert(*guid);
            }
        }
        let specs = desired.repositories.iter();
        let declared: BTreeMap<Guid, Digest> = specs
            .filter_map(|(guid, spec)| {
                // A trial is declared by what is tried.
                let parent = desired.trials.get(guid);
                let parent = parent.and_then(|parent| desired.repositories.get(parent));
                let declared = parent.unwrap_or(spec);
                Some((*guid, revision.parts.get(&declared.name)?.clone()))
            })
            .collect();
        state.starts.retain(|guid| declared.contains_key(&guid));
        let before = std::mem::replace(&mut state.declared, declared);
        let mut due = Vec::new();
        for guid in working.iter().chain(before.keys()) {
            let changed = before.get(guid) != state.declared.get(guid);
            let known = before.contains_key(guid);
            if changed && known {
                state.failing.remove(guid);
                due.push((*guid, true));
            } else if working.contains(guid) && !state.failing.contains(guid) {
                due.push((*guid, false));
            }
        }
        drop(state);
        for (guid, changed) in due {
            match changed {
                true => self.handle.revise(Key::Repository(guid)),
                false => self.handle.touch(Key::Repository(guid)),
            }
        }
    }

    /// The rows of all objects that nobody works on.
    fn tell(&self, wave: &execute::Wave, id: &str, next: Duration) {
        let now = Timestamp::now();
        self.board.tell(now, wave, id);
        if wave.plan.steps.is_empty() {
            let blocked = wave.plan.blocked.iter();
            let blocked = blocked.map(|(object, why)| (wave.desired.label(object), why));
            self.board
                .passed(Pass::ended("agent", EVERYTHING, id, 0, blocked));
        }
        self.board.update(|status| {
            status.last_pass = Some(now);
            status.next_pass = now.checked_add(next).ok();
        });
    }

    async fn repository(&self, guid: Guid, token: CancellationToken) -> Next {
        let Some(revision) = self.revision() else {
            return Next::Settled;
        };
        let retires = self.state().retires.clone();
        let (options, ledger) = (self.options(token), Ledger::default());
        let source = self.source(&revision);
        let reconciler = self.reconciler(&revision, &source, &options, &ledger);
        let rest = reconciler.repository(guid, &retires).await;
        for step in ledger.done() {
            if let Step::Up { guid, project, .. } = &step {
                self.state().starts.note(*guid, project);
            }
        }
        self.handle.touch(Key::Routes);
        // What is tried on a copy goes to and fro between the two.
        let tries = |step: &Step| matches!(step, Step::Record(_, Patch::Try(..)));
        if ledger.done().iter().any(tries) {
            self.handle.touch(Key::Survey);
        }
        if rest.interrupted {
            return Next::Settled;
        }
        if rest.busy.is_some() {
            return Next::After(BUSY);
        }
        self.found_all(&rest, &revision.id);
        let scope = rest.found.first();
        let scope = scope.map_or_else(
            || format!("repository/{guid}"),
            |(object, _)| object.clone(),
        );
        self.passed(&scope, &rest, &ledger, &revision.id);
        let mut state = self.state();
        if rest.failed() {
            state.failing.insert(guid);
            return Next::Failed;
        }
        state.failing.remove(&guid);
        let copies = state.copies.get(&guid).cloned().unwrap_or_default();
        let crashes = |why: &Blocked| matches!(why, Blocked::CrashLooping { .. });
        let due = rest.blocked.values().any(crashes);
        let due = due.then(|| state.starts.due(guid).unwrap_or_default());
        drop(state);
        if ledger.changed() > 0 {
            for copy in copies {
                self.handle.touch(Key::Repository(copy));
            }
        }
        due.map_or(Next::Settled, Next::After)
    }

    async fn routes(&self, token: CancellationToken) -> Next {
        let Some(revision) = self.revision() else {
            return Next::Settled;
        };
        let retires = self.state().retires.clone();
        let (options, ledger) = (self.options(token), Ledger::default());
        let source = self.source(&revision);
        let reconciler = self.reconciler(&revision, &source, &options, &ledger);
        let rest = reconciler.routes(&retires).await;
        self.found_all(&rest, &revision.id);
        if ledger.is_open() && (ledger.changed() > 0 || rest.failed()) {
            self.passed("routes", &rest, &ledger, &revision.id);
        }
        match (ledger.is_open(), rest.failed()) {
            (false, _) => Next::After(BUSY),
            (true, true) => Next::Failed,
            (true, false) => Next::Settled,
        }
    }

    fn found_all(&self, rest: &Rest, id: &str) {
        let now = Timestamp::now();
        for (object, why) in &rest.found {
            self.board.found(now, object, why.as_ref(), id);
        }
    }

    /// Notes what a run over some of it came to.
    fn passed(&self, scope: &str, rest: &Rest, ledger: &Ledger, id: &str) {
        let blocked = rest.found.iter();
        let blocked = blocked.filter_map(|(object, why)| Some((object.clone(), why.as_ref()?)));
        let pass = Pass::ended("agent", scope, id, ledger.changed(), blocked);
        self.board.passed(pass);
    }

    /// One pass over everything, asked for by somebody who waits.
    async fn answer(&self, request: Request, cancel: CancellationToken) {
        let Some(revision) = self.read() else { return };
        let mut source = revision.source.clone();
        source.asked.retry = request.retry;
        if let (Prune::Retire(digest), Some(said)) = (&mut source.asked.prune, &request.confirm) {
            *digest = Some(Digest::typed(said));
        }
        let scope = request.only.as_ref();
        let scope = scope.map(|name| format!("repository/{name}"));
        let options = Options {
            only: request
                .only
                .and_then(|name| self.state().names.get(&name).copied()),
            ..self.options(cancel)
        };
        let report = execute::run(
            &revision.host,
            &self.locks,
            &source,
            &self.ids,
            &options,
            &*self.board,
        )
        .await;
        let mut pass = Pass::of(&report, "reconcile", &revision.id);
        pass.scope = scope.unwrap_or(pass.scope);
        self.board.passed(pass);
        self.state().failing.clear();
        self.handle.touch(Key::Survey);
        // Who asked may have gone.
        let _ = request.answer.send(report);
    }
}
