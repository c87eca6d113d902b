//! The agent over the simulated machine, on a clock that does not wait.

use std::collections::BTreeMap;
use std::fs;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream;
use renet::agent::{Agent, Board, Hint, Policy, Sync};
use renet::execute::LocalLocks;
use renet::host::sim::{SimHost, Unreadable};
use renet::manifest::{Folder, Loader, MachineDatastore, Manifests};
use renet::model::{ContainerState, Layout, Part, Step};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::sim::world::{Folder as Wanted, Repo};

/// A running agent, its machine and its folder.
pub struct Lab {
    pub agent: Arc<Agent<Arc<SimHost>, LocalLocks>>,
    pub host: Arc<SimHost>,
    pub folder: Arc<Mutex<Manifests>>,
    pub board: Arc<Board>,
    hints: mpsc::Sender<Hint>,
    cancel: CancellationToken,
    pub task: tokio::task::JoinHandle<()>,
}

fn pace(step: &Step) -> Duration {
    Duration::from_millis(match step {
        Step::Format { .. } | Step::StartDaemon { .. } => 500,
        Step::FetchImages { .. } => 1000,
        Step::Up { .. } => 400,
        Step::Wait { .. } => 600,
        _ => 10,
    })
}

impl Lab {
    fn start(host: SimHost, wanted: Manifests) -> Self {
        Self::with(Arc::new(host), wanted, Policy::default())
    }

    pub fn with(host: Arc<SimHost>, wanted: Manifests, policy: Policy) -> Self {
        let machine = host.clone();
        Self::opening(move |_| machine.clone(), host, wanted, policy)
    }

    /// An agent that gets its machine from `open`: at first this one.
    fn opening(
        open: impl Fn(&Manifests) -> Arc<SimHost> + Send + std::marker::Sync + 'static,
        host: Arc<SimHost>,
        wanted: Manifests,
        policy: Policy,
    ) -> Self {
        let folder = Arc::new(Mutex::new(wanted));
        let read = folder.clone();
        let load = move || Folder {
            source: PathBuf::from("/etc/rediacc/desired"),
            manifests: read.lock().unwrap().clone(),
            problems: Vec::new(),
            unlisted: 0,
            empty: false,
            files: 1,
        };
        Self::reading(open, host, folder, load, policy)
    }

    /// One that reads what it is to do with `load`.
    fn reading(
        open: impl Fn(&Manifests) -> Arc<SimHost> + Send + std::marker::Sync + 'static,
        host: Arc<SimHost>,
        folder: Arc<Mutex<Manifests>>,
        load: impl Fn() -> Folder + Send + std::marker::Sync + 'static,
        policy: Policy,
    ) -> Self {
        host.world().pace = Some(pace);
        host.world().revive();
        let board = Arc::new(Board::default());
        let agent = Arc::new(Agent::new(
            open,
            LocalLocks::default(),
            Layout::new("/").unwrap(),
            load,
            policy,
            board.clone(),
        ));
        let (hints, heard) = mpsc::channel(1024);
        let heard = stream::unfold(heard, async |mut heard| Some((heard.recv().await?, heard)));
        let (_requests, asked) = mpsc::channel(1);
        let cancel = CancellationToken::new();
        let task = tokio::spawn(agent.clone().run(heard, asked, cancel.clone()));
        Self {
            agent,
            host,
            folder,
            board,
            hints,
            cancel,
            task,
        }
    }

    /// How many projects run.
    fn running(&self) -> usize {
        let mut world = self.host.world();
        world
            .containers()
            .filter(|container| container.state == ContainerState::Running)
            .count()
    }

    /// How long it takes until so many projects run and are well.
    async fn until_well(&self, wanted: usize) -> Duration {
        let began = Instant::now();
        loop {
            let status = self.board.status();
            let well = status
                .objects
                .iter()
                .filter(|(name, row)| name.starts_with("service/") && row.sync == Sync::Synced);
            if well.count() >= wanted && self.running() >= wanted {
                return began.elapsed();
            }
            assert!(
                began.elapsed() < Duration::from_secs(3600),
                "only {} of {wanted} are well: {status:#?}",
                self.running()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Says something to the agent.
    pub async fn hint(&self, hint: Hint) {
        self.hints.send(hint).await.unwrap();
    }

    async fn edit(&self, change: impl FnOnce(&mut Manifests)) {
        change(&mut self.folder.lock().unwrap());
        self.hints.send(Hint::All).await.unwrap();
    }

    /// Ends the agent and gives its machine back.
    pub async fn stop(self) -> Vec<String> {
        self.cancel.cancel();
        self.task.await.unwrap();
        self.host.world().violations.clone()
    }
}

fn world(repositories: u8, revision: u8) -> Wanted {
    let mut repo = Repo::with(&[]);
    repo.projects.insert(0, revision);
    Wanted {
        machine: Some("m1"),
        repositories: (0..repositories).map(|id| (id, repo.clone())).collect(),
    }
}

#[tokio::test(start_paused = true)]
async fn l3_with_one_bad_manifest_among_100_the_others_converge_and_nothing_is_pruned() {
    let dir = tempfile::tempdir().unwrap();
    let path = |id: usize| dir.path().join(format!("r{id}.yaml"));
    let manifest = |id: usize, size: &str| {
        format!(
            "apiVersion: renet/v1\nkind: Repository\nmetadata: {{ name: r{id} }}\n\
             spec: {{ size: {size}, encryption: none, deletionPolicy: Delete }}\n---\n\
             apiVersion: renet/v1\nkind: Service\nmetadata: {{ name: p }}\n\
             spec: {{ repository: r{id}, compose: {{ file: p.json }} }}\n"
        )
    };
    let compose = r#"{"services": {"s": {"image": "i:1"}}}"#;
    fs::write(dir.path().join("p.json"), compose).unwrap();
    let machine = "apiVersion: renet/v1\nkind: Machine\nmetadata: { name: m1 }\n\
                   spec: { datastore: { size: 64G } }\n";
    fs::write(dir.path().join("machine.yaml"), machine).unwrap();
    for id in 0..100 {
        fs::write(path(id), manifest(id, "64M")).unwrap();
    }
    fs::write(path(7), manifest(7, "64X")).unwrap();
    let loader = Mutex::new(Loader::new(dir.path()));
    let load = move || loader.lock().unwrap().load();
    let host = Arc::new(SimHost::new());
    let machine = host.clone();
    let open = move |_: &Manifests| machine.clone();
    let lab = Lab::reading(open, host, Arc::default(), load, Policy::default());
    lab.until_well(99).await;
    let problems = lab.board.status().problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].contains("r7.yaml:4:15: `64X` is not a size"),
        "{problems:?}"
    );

    // Its repository could be what the bad one became.
    fs::remove_file(path(8)).unwrap();
    lab.hint(Hint::All).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(lab.running(), 99);

    // Once all is readable, what is gone goes, and what was bad comes.
    fs::write(path(7), manifest(7, "64M")).unwrap();
    lab.hint(Hint::All).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(lab.running(), 99);
    assert!(lab.board.status().problems.is_empty());
    assert_eq!(lab.stop().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_trial_goes_to_and_fro_without_waiting_for_the_timer() {
    let at = |revision| {
        let mut wanted = world(1, revision);
        wanted.repositories.get_mut(&0).unwrap().fork_first = true;
        wanted.manifests()
    };
    let host = SimHost::new();
    host.world().broken.insert("i:2".to_owned());
    let lab = Lab::start(host, at(0));
    lab.until_well(1).await;
    let settled = async |revision: u8, settles: fn(&str) -> bool| {
        lab.edit(|folder| *folder = at(revision)).await;
        let (began, id) = (Instant::now(), at(revision).digest().short().to_owned());
        loop {
            let status = lab.board.status();
            let row = &status.objects["service/r0/p0"];
            let trial = status.objects.keys().any(|name| name.contains("r0-trial"));
            let new = status.revision.as_ref() == Some(&id);
            if new && !trial && settles(row.reason.as_deref().unwrap_or_default()) {
                break began.elapsed();
            }
            assert!(began.elapsed() < Duration::from_secs(100), "{status:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let performed = |step: &str| lab.host.world().performed.get(step).copied();
    let took = settled(1, |reason| reason.is_empty()).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(performed("Fork"), Some(1));
    assert_eq!(performed("Purge"), Some(1));
    let ups = performed("Up");
    // It takes as long as it may to get well, and is not.
    let failed = settled(2, |reason| reason == "RevisionFailed").await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    println!("well after {took:?}, failed after {failed:?}");
    assert_eq!(performed("Fork"), Some(2));
    assert_eq!(performed("Purge"), Some(2));
    assert_eq!(performed("Up"), ups.map(|ups| ups + 1));
    assert_eq!(lab.running(), 1);
    assert_eq!(lab.stop().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn l22_one_that_never_gets_well_and_one_that_crashes_delay_nobody() {
    const ALL: u8 = 20;
    const GOOD: usize = 18;
    let baseline = {
        let lab = Lab::start(SimHost::new(), world(18, 0).manifests());
        let took = lab.until_well(GOOD).await;
        assert_eq!(lab.stop().await, Vec::<String>::new());
        took
    };
    let mut wanted = world(ALL, 0);
    // The first of all: nothing comes before it.
    wanted.repositories.get_mut(&0).unwrap().projects = BTreeMap::from([(0, 7)]);
    let host = SimHost::new();
    host.world().broken.insert("i:7".to_owned());
    host.world().pace = Some(pace);
    let lab = Lab::start(host, wanted.manifests());
    // The second crashes whoever touches it, from its first record on.
    let cursed = async {
        loop {
            let guid = {
                let world = lab.host.world();
                let all = world.actual.repositories.known().into_iter().flatten();
                let mut named = all.filter_map(|(guid, repo)| Some((*guid, repo.record.known()?)));
                named
                    .find(|(_, record)| record.name.as_str() == "r1")
                    .map(|(guid, _)| guid)
            };
            if let Some(guid) = guid {
                lab.host.world().cursed.insert(guid);
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let (took, ()) = tokio::join!(lab.until_well(GOOD), cursed);
    assert!(
        took <= baseline.mul_f64(1.1),
        "{took:?} instead of {baseline:?}"
    );
    // L6: after two crashes it is set aside, and the agent goes on.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let events = lab.board.take().1;
    let crashes = events.iter().filter(|event| event.what == "Crashed");
    let last = crashes.clone().next_back().unwrap();
    assert!(last.message.contains("set aside"), "{}", last.message);
    assert!(
        crashes.clone().count() <= 3,
        "{:#?}",
        crashes.collect::<Vec<_>>()
    );
    let status = lab.board.status();
    let sick = &status.objects["service/r0/p0"];
    assert_eq!(sick.reason.as_deref(), Some("RevisionFailed"));
    let aside = &status.objects["repository/r1"];
    assert!(aside.message.contains("set aside"), "{aside:?}");
    assert_eq!(lab.stop().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn l6_a_look_that_crashes_is_tried_again_ever_more_seldom() {
    let sick = Arc::new(AtomicBool::new(true));
    let (host, crashes) = (Arc::new(SimHost::new()), sick.clone());
    let machine = host.clone();
    let open = move |_: &Manifests| match crashes.load(Ordering::Relaxed) {
        true => resume_unwind(Box::new("no machine")),
        false => machine.clone(),
    };
    let wanted = world(1, 0).manifests();
    let lab = Lab::opening(open, host, wanted, Policy::default());
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let events = lab.board.take().1;
    let crashes = events.iter().filter(|event| event.what == "Crashed");
    // 1 s, doubling to 5 min: 9 in the first 8 minutes, then one in 5.
    let crashes = crashes.count();
    assert!((15..=25).contains(&crashes), "{crashes} in an hour");
    sick.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(400)).await;
    assert_eq!(lab.running(), 1);
    assert_eq!(lab.stop().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn the_backing_file_is_the_one_that_the_folder_names_now() {
    let (usual, other) = (Arc::new(SimHost::new()), Arc::new(SimHost::new()));
    let machines = (usual.clone(), other.clone());
    let open = move |manifests: &Manifests| match manifests.backing() {
        None => machines.0.clone(),
        Some(_) => machines.1.clone(),
    };
    // At its start the agent finds a folder without a machine.
    let mut lab = Lab::opening(open, other, Manifests::default(), Policy::default());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut wanted = world(2, 0).manifests();
    let machine = wanted.machine.as_mut().unwrap();
    let Some(MachineDatastore::File { path, .. }) = &mut machine.datastore else {
        panic!("the world has another datastore");
    };
    *path = Some(PathBuf::from("/disk.img"));
    lab.edit(|folder| *folder = wanted).await;
    lab.until_well(2).await;
    assert!(usual.world().performed.is_empty());
    // And back: what is wanted is made where it is wanted.
    usual.world().pace = Some(pace);
    lab.host = usual;
    lab.edit(|folder| *folder = world(1, 0).manifests()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(lab.running(), 1);
    assert_eq!(lab.stop().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn l21_of_a_hundred_quick_edits_the_last_is_what_runs() {
    let lab = Lab::start(SimHost::new(), world(3, 0).manifests());
    lab.until_well(3).await;
    for revision in 1..=100 {
        // Every other one never gets well: its wait is ended by the next.
        if revision % 2 == 1 {
            let image = format!("i:{revision}");
            lab.host.world().broken.insert(image);
        }
        let next = world(3, revision).manifests();
        lab.edit(|folder| *folder = next).await;
        tokio::time::sleep(Duration::from_millis(37 * u64::from(revision % 13))).await;
    }
    let began = Instant::now();
    let last = world(3, 100).manifests().digest().short().to_owned();
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let status = lab.board.status();
        let applied = |row: &renet::agent::ObjectStatus| {
            row.sync == Sync::Synced && row.applied.as_ref() == Some(&last)
        };
        if status.objects.values().all(applied) && !status.objects.is_empty() {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{status:#?}");
    }
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(lab.stop().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_newer_revision_ends_a_wait_within_five_seconds() {
    let host = SimHost::new();
    host.world().broken.insert("i:1".to_owned());
    let lab = Lab::start(host, world(1, 0).manifests());
    lab.until_well(1).await;
    let sick = world(1, 1).manifests();
    lab.edit(|folder| *folder = sick).await;
    // In the middle of a wait of a minute.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let cured = world(1, 2).manifests();
    lab.edit(|folder| *folder = cured).await;
    let took = lab.until_well(1).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(lab.stop().await, Vec::<String>::new());
}

/// A crash loop is told apart from a container that died once; the project beside it is
/// mended as ever, and a new revision is tried at once.
#[tokio::test(start_paused = true)]
async fn what_dies_again_and_again_is_started_less_and_less_often() {
    let mut wanted = world(1, 0);
    wanted.repositories.get_mut(&0).unwrap().projects = BTreeMap::from([(0, 0), (1, 0)]);
    let lab = Lab::start(SimHost::new(), wanted.manifests());
    lab.until_well(2).await;
    let network = {
        let mut world = lab.host.world();
        let repo = world.repositories().next().unwrap();
        repo.record.known().unwrap().network
    };
    // Ends the container of a project, where it runs.
    let dies = async |project: &str, line: &str| {
        let died = {
            let mut world = lab.host.world();
            let repo = world.repositories().next().unwrap();
            let all = repo.containers.known_mut().unwrap();
            let mut own = all.iter_mut().filter(|(name, _)| name.as_str() == project);
            let (_, own) = own.next().unwrap();
            let container = own.values_mut().next().unwrap();
            let ran = container.state == ContainerState::Running;
            container.state = ContainerState::Exited(3);
            container.last_line = Some(line.to_owned());
            ran
        };
        lab.hints.send(Hint::Network(network)).await.unwrap();
        died
    };
    let mut deaths = 0;
    for second in (0..3600).step_by(5) {
        if dies("p0", "no space left").await {
            deaths += 1;
        }
        if second == 1800 {
            assert!(dies("p1", "once").await);
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        if deaths < 3 {
            assert_eq!(lab.running(), 2, "a one-off is mended at once");
        }
        if second == 1800 {
            assert!(lab.running() >= 1);
        }
    }
    // Three at once, then after 10 s, 20 s and so on, every five minutes in the end.
    assert!((12..=24).contains(&deaths), "{deaths}");
    let status = lab.board.status();
    let row = &status.objects["service/r0/p0"];
    assert_eq!(
        (row.sync, row.reason.as_deref()),
        (Sync::Blocked, Some("CrashLooping"))
    );
    assert!(
        row.message
            .starts_with("s0 ended with 3: no space left; started"),
        "{}",
        row.message
    );
    assert_eq!(status.objects["service/r0/p1"].sync, Sync::Synced);
    // Told that all is well with it, it stays so.
    tokio::time::sleep(Duration::from_secs(400)).await;
    assert_eq!(lab.running(), 2);
    let status = lab.board.status();
    assert_eq!(status.objects["service/r0/p0"].sync, Sync::Synced);
    // It dies again, and does not wait where its manifest changes.
    assert!(dies("p0", "again").await);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(lab.running(), 1);
    wanted.repositories.get_mut(&0).unwrap().projects = BTreeMap::from([(0, 1), (1, 0)]);
    lab.edit(|folder| *folder = wanted.manifests()).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(lab.running(), 2);
    assert_eq!(lab.stop().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_drifts_is_mended_when_somebody_says_so_and_at_the_next_turn() {
    let lab = Lab::start(SimHost::new(), world(2, 0).manifests());
    lab.until_well(2).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let network = {
        let mut world = lab.host.world();
        let mut first = world.repositories();
        let repo = first.next().unwrap();
        repo.containers = Part::Known(BTreeMap::new());
        repo.record.known().unwrap().network
    };
    lab.hints.send(Hint::Network(network)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(lab.running(), 2, "a death was heard of");

    for repo in lab.host.world().repositories() {
        repo.containers = Part::Known(BTreeMap::new());
    }
    tokio::time::sleep(Policy::default().interval + Duration::from_secs(10)).await;
    assert_eq!(lab.running(), 2, "nobody said anything");
    assert_eq!(lab.stop().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn l1_what_is_missing_for_a_moment_only_is_not_retired() {
    let all = world(3, 0).manifests();
    let lab = Lab::start(SimHost::new(), all.clone());
    lab.until_well(3).await;
    let mut fewer = all.clone();
    let gone = fewer.services.keys().next().unwrap().clone();
    fewer.services.remove(&gone);
    fewer.routes.retain(|_, route| route.repository != gone.0);
    // A folder that is being copied: a file comes a little later than the others.
    let half = fewer.clone();
    lab.edit(|folder| *folder = half).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    lab.edit(|folder| *folder = all).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(lab.running(), 3);
    // One that stays away goes.
    lab.edit(|folder| *folder = fewer).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(lab.running(), 2);
    assert_eq!(lab.stop().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn l1_an_emptied_folder_stops_nothing() {
    let lab = Lab::start(SimHost::new(), world(3, 0).manifests());
    lab.until_well(3).await;
    lab.edit(|folder| {
        folder.repositories.clear();
        folder.services.clear();
        folder.routes.clear();
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(lab.running(), 3);
    let status = lab.board.status();
    let held = status.objects.values();
    let held = held.filter(|row| row.reason.as_deref() == Some("PruneBlocked"));
    assert!(held.count() >= 3, "{status:#?}");
    assert_eq!(lab.stop().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_repository_is_left_alone_until_it_can_be_read() {
    let lab = Lab::start(SimHost::new(), world(2, 0).manifests());
    lab.until_well(2).await;
    let guid = *lab.host.world().contents.keys().next().unwrap();
    let torn = Unreadable::Record(guid);
    lab.host.world().unreadable.insert(torn);
    let next = world(2, 1).manifests();
    lab.edit(|folder| *folder = next).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    lab.host.world().unreadable.clear();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let status = lab.board.status();
    let synced = status.objects.values().all(|row| row.sync == Sync::Synced);
    assert!(synced, "{status:#?}");
    assert_eq!(lab.stop().await, Vec::<String>::new());
}
