//! The router's process: follows every daemon that runs, and publishes what changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::proxy::{self, acme};
use super::super::{dockerd, routes};
use super::publisher::{Publisher, Stamp, stamp};
use super::serve::{self, Board, Question};
use super::{Seen, Written, certificates, look, manifests};
use crate::host::StepError;
use crate::model::{Layout, NetworkId, ProxySpec, RouteTable};
use crate::router::Container;

/// How soon a daemon that is new, or back, is followed, and a file that somebody else
/// wrote is seen.
const LOOK: Duration = Duration::from_millis(500);
/// What happens at once is published once.
const GATHER: Duration = Duration::from_millis(5);
/// A daemon tells that a container ended before its own list shows it: the whole list is
/// asked for a while after the last word of one.
const LAGS: [Duration; 2] = [Duration::from_millis(150), Duration::from_millis(400)];
/// How soon a daemon that broke off is asked again.
const AGAIN: Duration = Duration::from_millis(100);

/// Runs until told to end. `lock` takes the routes' lock.
///
/// # Errors
///
/// Where it cannot listen.
pub async fn run<G, F>(
    layout: Layout,
    lock: impl Fn() -> F,
    cancel: CancellationToken,
) -> std::io::Result<()>
where
    F: Future<Output = Option<G>>,
{
    let board = Arc::new(Board::default());
    let (asks, mut asked) = mpsc::channel(16);
    let port = proxy::router_port(&layout);
    let served = serve::listen(&layout, port, board.clone(), asks).await?;
    let mut router = Router::new(layout);
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Each with the daemons whose answer it waits for, and how many: one that is on its
    // way may be from before the question.
    let mut waiting: Vec<(Question, BTreeMap<NetworkId, u8>)> = Vec::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            _ = ticks.tick() => router.tick(),
            Some(heard) = router.hears.recv() => {
                router.note(heard);
                tokio::time::sleep(GATHER).await;
                while let Ok(heard) = router.hears.try_recv() {
                    router.note(heard);
                }
            }
            Some(answer) = router.answers.recv() => {
                let mut next = Some(answer);
                while let Some(answer) = next {
                    let network = answer.network;
                    if router.hear(answer) {
                        for (_, left) in &mut waiting {
                            left.entry(network).and_modify(|count| *count -= 1);
                            left.retain(|_, count| *count > 0);
                        }
                    }
                    next = router.answers.try_recv().ok();
                }
            }
            Some(question) = asked.recv() => {
                let running = dockerd::networks(&router.layout);
                router.dirty.extend(&running);
                router.stale = true;
                router.certified = None;
                let answers = |network| (network, 1 + u8::from(router.asking.contains(&network)));
                waiting.push((question, running.into_iter().map(answers).collect()));
            }
        }
        router.ask();
        router.certify().await;
        let answered = waiting.iter().any(|(_, left)| left.is_empty());
        if !router.stale && !answered {
            continue;
        }
        // Whoever has it publishes too: the next turn sees what.
        let Some(_held) = lock().await else { continue };
        let published = router.publish();
        board.show(&router.seen, &published);
        for (question, left) in std::mem::take(&mut waiting) {
            if left.is_empty() {
                let _ = question.send(published.clone());
            } else {
                waiting.push((question, left));
            }
        }
    }
    drop(served);
    Ok(())
}

/// Something happened in a daemon: to one container, by name, or to whatever it has.
struct Heard {
    network: NetworkId,
    container: Option<String>,
}

/// What a daemon showed.
struct Answer {
    network: NetworkId,
    found: Found,
}

enum Found {
    /// Everything.
    All(Vec<Container>),
    /// One container, by name, or that it is gone.
    One(String, Option<Container>),
    /// It did not answer.
    Nothing,
}

struct Router {
    layout: Layout,
    seen: Seen,
    /// Of whom something was heard.
    dirty: BTreeSet<NetworkId>,
    /// Of which of their containers.
    touched: BTreeSet<(NetworkId, String)>,
    /// Who is being asked: one that hangs holds up nobody else.
    asking: BTreeSet<NetworkId>,
    answer: mpsc::Sender<Answer>,
    answers: mpsc::Receiver<Answer>,
    /// Whether anything that routes are made from may have changed.
    stale: bool,
    stamps: Vec<Stamp>,
    /// With what, of which files, and when certificates were looked at.
    certified: Option<(Option<ProxySpec>, Vec<Stamp>, Instant)>,
    publisher: Option<Publisher>,
    /// What was published last: where its file was torn, it goes on.
    last: RouteTable,
    followed: BTreeMap<NetworkId, JoinHandle<()>>,
    heard: mpsc::Sender<Heard>,
    hears: mpsc::Receiver<Heard>,
}

impl Drop for Router {
    fn drop(&mut self) {
        self.followed.values().for_each(JoinHandle::abort);
    }
}

impl Router {
    fn new(layout: Layout) -> Self {
        const WAITING: usize = 1024;
        let (heard, hears) = mpsc::channel(WAITING);
        let (answer, answers) = mpsc::channel(WAITING);
        Self {
            layout,
            seen: Seen::default(),
            dirty: BTreeSet::new(),
            touched: BTreeSet::new(),
            asking: BTreeSet::new(),
            answer,
            answers,
            stale: true,
            stamps: Vec::new(),
            certified: None,
            publisher: None,
            last: RouteTable::new(),
            followed: BTreeMap::new(),
            heard,
            hears,
        }
    }

    /// Follows what is new, forgets what is gone, sees what others wrote.
    fn tick(&mut self) {
        let running = dockerd::networks(&self.layout);
        self.followed.retain(|network, task| {
            let stays = running.contains(network) && !task.is_finished();
            if !stays {
                task.abort();
            }
            stays
        });
        for network in &running {
            let (layout, heard, network) = (&self.layout, &self.heard, *network);
            self.followed.entry(network).or_insert_with(|| {
                let (layout, heard) = (layout.clone(), heard.clone());
                tokio::spawn(async move { follow(&layout, network, &heard).await })
            });
        }
        let known: BTreeSet<NetworkId> = self.seen.known();
        for network in known.difference(&running) {
            self.seen.forget(*network);
            self.stale = true;
        }
        // Until it has answered, what it had goes on.
        self.seen.mute.extend(running.difference(&known));
        // It may be back without a word.
        let mute = self.seen.mute.iter().copied();
        self.dirty
            .extend(mute.filter(|one| !self.asking.contains(one)));
        let stopped = look::stopped(&self.layout, &running);
        if stopped != self.seen.stopped {
            self.seen.stopped = stopped;
            self.stale = true;
        }
        let stamps = self.stamp();
        if stamps != self.stamps {
            self.stale = true;
        }
    }

    fn note(&mut self, Heard { network, container }: Heard) {
        match container {
            // Until all that it has is known, one is not enough.
            Some(name) if self.seen.asked.contains_key(&network) => {
                self.touched.insert((network, name));
            }
            _ => drop(self.dirty.insert(network)),
        }
    }

    /// Asks the daemons of whom something was heard.
    fn ask(&mut self) {
        for (network, name) in std::mem::take(&mut self.touched) {
            let (layout, answer) = (self.layout.clone(), self.answer.clone());
            tokio::spawn(async move {
                // Whoever does not answer is asked for the whole list soon.
                let Some(client) = dockerd::connect(&layout, network).await else {
                    return;
                };
                if let Ok(one) = look::one(&client, network, &name).await {
                    let found = Found::One(name, one);
                    let _ = answer.send(Answer { network, found }).await;
                }
            });
        }
        let free = |network: &NetworkId| !self.asking.contains(network);
        let next: Vec<NetworkId> = self.dirty.iter().copied().filter(free).collect();
        for network in next {
            self.dirty.remove(&network);
            self.asking.insert(network);
            let (layout, answer) = (self.layout.clone(), self.answer.clone());
            tokio::spawn(async move {
                let found = match dockerd::connect(&layout, network).await {
                    Some(client) => look::of_daemon(&client, network).await.ok(),
                    None => None,
                };
                let found = found.map_or(Found::Nothing, Found::All);
                let _ = answer.send(Answer { network, found }).await;
            });
        }
    }

    /// Whether it is the answer to the question for everything.
    fn hear(&mut self, Answer { network, found }: Answer) -> bool {
        let is_whole = !matches!(found, Found::One(..));
        if is_whole {
            self.asking.remove(&network);
        }
        match found {
            Found::One(name, one) => self.stale |= self.seen.put(network, &name, one),
            Found::All(found) => {
                let was_mute = self.seen.mute.remove(&network);
                let known = self.seen.asked.get(&network);
                if was_mute || known.is_none_or(|known| **known != found) {
                    self.seen.asked.insert(network, Arc::new(found));
                    self.stale = true;
                }
            }
            // What it had goes on.
            Found::Nothing if dockerd::networks(&self.layout).contains(&network) => {
                let first = self.seen.mute.insert(network);
                let had = self.seen.asked.remove(&network).is_some();
                self.stale |= first || had;
            }
            Found::Nothing => {}
        }
        is_whole
    }

    /// Looks at the user's certificates again where one of their files changed, and now
    /// and then: they expire.
    async fn certify(&mut self) {
        const OFTEN: Duration = Duration::from_secs(600);
        let spec = proxy::spec(&self.layout);
        let files = spec.iter().flat_map(|spec| spec.certificates.values());
        let files = files.flat_map(|files| [&files.certificate, &files.key]);
        let asked = spec.iter().flat_map(acme::files);
        let stamps: Vec<Stamp> = files.chain(asked).map(|path| stamp(path)).collect();
        let is_fresh = self.certified.as_ref().is_some_and(|(of, before, at)| {
            *of == spec && *before == stamps && at.elapsed() < OFTEN
        });
        if is_fresh {
            return;
        }
        let usual = ProxySpec::default();
        let wanted = spec.as_ref().unwrap_or(&usual);
        let found = certificates::look(&self.layout, wanted).await;
        let no_orders = acme::no_orders(&self.layout, wanted);
        self.stale |= found != self.seen.certificates || no_orders != self.seen.no_orders;
        (self.seen.certificates, self.seen.no_orders) = (found, no_orders);
        self.certified = Some((spec, stamps, Instant::now()));
    }

    fn publish(&mut self) -> Result<Written, StepError> {
        let before = self.stamp();
        let written = self.write();
        // What could not be written is tried again with the next tick.
        self.stamps = match &written {
            Ok(_) => self.stamp(),
            Err(_) => before,
        };
        self.stale = written.is_err();
        written
    }

    fn write(&mut self) -> Result<Written, StepError> {
        let records = routes::observe_records(&self.layout);
        let current = self.publisher.take().filter(Publisher::is_current);
        let publisher = match current {
            Some(publisher) => publisher,
            None => Publisher::open(&self.layout, self.last.clone())?,
        };
        let publisher = self.publisher.insert(publisher);
        let table = manifests(&records, &self.seen, publisher.manifests());
        let written = publisher.write(&self.seen, &table)?;
        self.last = table;
        Ok(written)
    }

    fn stamp(&self) -> Vec<Stamp> {
        let layout = &self.layout;
        let files: [PathBuf; 5] = [
            layout.routes(),
            layout.router_state(),
            layout.published_routes(),
            layout.proxy_dynamic(),
            proxy::settings(layout),
        ];
        files.iter().map(|path| stamp(path)).collect()
    }
}

impl Seen {
    fn known(&self) -> BTreeSet<NetworkId> {
        let asked = self.asked.keys().copied();
        asked.chain(self.mute.iter().copied()).collect()
    }

    /// Puts one container in its place among those of its daemon. Whether that changed
    /// anything.
    fn put(&mut self, network: NetworkId, name: &str, one: Option<Container>) -> bool {
        let Some(all) = self.asked.get_mut(&network) else {
            return false;
        };
        let place = all.binary_search_by(|other| other.name.as_str().cmp(name));
        match (place, one) {
            (Ok(at), Some(one)) if all[at] == one => return false,
            (Ok(at), Some(one)) => Arc::make_mut(all)[at] = one,
            (Ok(at), None) => drop(Arc::make_mut(all).remove(at)),
            (Err(at), Some(one)) => Arc::make_mut(all).insert(at, one),
            (Err(_), None) => return false,
        }
        true
    }

    fn forget(&mut self, network: NetworkId) {
        self.asked.remove(&network);
        self.mute.remove(&network);
    }
}

/// Passes on that something happened in one daemon, until it is gone for good.
async fn follow(layout: &Layout, network: NetworkId, heard: &mpsc::Sender<Heard>) {
    const EVENTS: [&str; 8] = [
        "start",
        "die",
        "destroy",
        "pause",
        "unpause",
        "rename",
        "health_status",
        "update",
    ];
    let all = || Heard {
        network,
        container: None,
    };
    loop {
        let began = Instant::now();
        if let Some(client) = dockerd::connect(layout, network).await {
            let filters = HashMap::from([
                ("type".to_owned(), vec!["container".to_owned()]),
                ("event".to_owned(), EVENTS.map(str::to_owned).to_vec()),
            ]);
            // From a moment ago: nothing falls between the looking and the listening.
            let since = jiff::Timestamp::now().as_second() - 1;
            let options = EventsOptionsBuilder::new()
                .since(&since.to_string())
                .filters(&filters)
                .build();
            let mut events = Box::pin(client.events(Some(options)));
            if heard.send(all()).await.is_err() {
                return;
            }
            while let Some(Ok(event)) = events.next().await {
                let renamed = event.action.as_deref() == Some("rename");
                let container = name(event).filter(|_| !renamed);
                if heard.send(Heard { network, container }).await.is_err() {
                    return;
                }
                let heard = heard.clone();
                tokio::spawn(async move {
                    for lag in LAGS {
                        tokio::time::sleep(lag).await;
                        let container = None;
                        let _ = heard.send(Heard { network, container }).await;
                    }
                });
            }
            // The daemon is gone, or going.
            if heard.send(all()).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(AGAIN.saturating_sub(began.elapsed())).await;
    }
}

/// The container that an event is about.
fn name(event: EventMessage) -> Option<String> {
    event.actor?.attributes?.remove("name")
}
