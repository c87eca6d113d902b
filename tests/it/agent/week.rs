//! Weeks of simulated time: an agent that is edited under, drifted under, killed
//! and started again, and always comes to rest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use renet::agent::{Hint, Policy, Sync};
use renet::host::sim::{Fault, SimHost};
use renet::model::{ContainerState, Daemon, Part, RunState};

use super::whole::Lab;
use crate::dice::{Dice, long, seed};
use crate::sim::world::{Folder, Repo};

const WEEK: u64 = 7 * 24 * 3600;
/// Seconds between two things that happen, on average.
const BETWEEN: u64 = 4 * 3600;

/// What a seed draws.
struct Draws(Dice);

impl Draws {
    fn folder(&mut self) -> Folder {
        let repositories = (0..3).filter_map(|id| {
            let there = self.0.below(4) > 0;
            there.then(|| (id, self.repo()))
        });
        let mut folder = Folder {
            machine: Some("m1"),
            repositories: repositories.collect(),
        };
        if folder.repositories.is_empty() {
            folder.repositories.insert(0, self.repo());
        }
        folder
    }

    fn repo(&mut self) -> Repo {
        let state = match self.0.below(8) {
            0 => RunState::Offline,
            1 => RunState::Stopped,
            _ => RunState::Running,
        };
        let projects: BTreeMap<u8, u8> = (0..2)
            .filter_map(|id| {
                let there = self.0.below(3) > 0;
                there.then(|| (id, u8::try_from(self.0.below(4)).unwrap()))
            })
            .collect();
        Repo {
            size: 64 + self.0.below(100),
            state,
            projects,
            route: self.0.below(2) > 0,
            fork_first: self.0.below(3) == 0,
            ..Repo::with(&[])
        }
    }

    fn fault(&mut self) -> Fault {
        Fault::ALL[usize::try_from(self.0.below(6)).unwrap()]
    }
}

fn drift(host: &SimHost, dice: &mut Draws) {
    let mut world = host.world();
    match dice.0.below(6) {
        0 => world.reboot(),
        1 => world.actual.published = Part::Absent,
        2 => world.actual.proxy = Part::Absent,
        3 => world
            .containers()
            .for_each(|container| container.state = ContainerState::Exited(137)),
        4 => {
            let left = Daemon::LEFT;
            for repo in world.repositories() {
                if repo.daemon.known().is_some() {
                    repo.daemon = Part::Known(left);
                }
            }
        }
        _ => world
            .repositories()
            .for_each(|repo| repo.containers = Part::Known(BTreeMap::new())),
    }
}

/// One week; the seed decides everything but the guids.
async fn week(seed: u64) -> BTreeMap<&'static str, usize> {
    let mut dice = Draws(Dice::of(seed));
    let host = Arc::new(SimHost::new());
    host.world().broken.insert("i:3".to_owned());
    let policy = Policy {
        interval: Duration::from_secs(1800),
        ..Policy::default()
    };
    let mut lab = Lab::with(host.clone(), dice.folder().manifests(), policy.clone());
    let mut left = WEEK;
    while left > 0 {
        let pause = (1 + dice.0.below(2 * BETWEEN)).min(left);
        left -= pause;
        let died = tokio::select! {
            biased;
            () = host.crash.notified() => true,
            () = tokio::time::sleep(Duration::from_secs(pause)) => false,
        };
        // Killed, or as good as: whatever it was about is dropped, and it starts again.
        if died || dice.0.below(20) == 0 {
            lab.task.abort();
            let _ = (&mut lab.task).await;
            let wanted = lab.folder.lock().unwrap().clone();
            lab = Lab::with(host.clone(), wanted, policy.clone());
            continue;
        }
        match dice.0.below(4) {
            0 => {
                let next = dice.folder().manifests();
                *lab.folder.lock().unwrap() = next;
                lab.hint(Hint::All).await;
            }
            1 => {
                let (at, fault) = (dice.0.below(20), dice.fault());
                let mut world = host.world();
                let now: usize = world.performed.values().sum();
                world
                    .faults
                    .insert(now + usize::try_from(at).unwrap(), fault);
            }
            _ => {
                drift(&host, &mut dice);
                if dice.0.below(2) == 0 {
                    lab.hint(Hint::All).await;
                }
            }
        }
        let rows = lab.board.status().objects.len();
        // Three and their trials, those that go, and the two of all.
        assert!(
            lab.agent.depth() <= 2 * 3 + 2 + 3,
            "{} keys",
            lab.agent.depth()
        );
        assert!(rows <= 40, "{rows} rows");
    }
    host.world().faults.clear();
    if host.crash.notified().now_or_never().is_some() {
        lab.task.abort();
        let _ = (&mut lab.task).await;
        let wanted = lab.folder.lock().unwrap().clone();
        lab = Lab::with(host.clone(), wanted, policy.clone());
    }
    tokio::time::sleep(3 * policy.interval).await;
    let status = lab.board.status();
    let last = lab.folder.lock().unwrap().digest().short().to_owned();
    assert_eq!(
        status.revision.as_ref(),
        Some(&last),
        "seed {seed}: a lost update"
    );
    for (name, row) in &status.objects {
        let reasons = [
            "RevisionFailed",
            "PossibleRename",
            "PruneBlocked",
            "DependencyBlocked",
        ];
        let public = row
            .reason
            .as_deref()
            .is_some_and(|why| reasons.contains(&why));
        assert!(
            row.sync == Sync::Synced || public,
            "seed {seed}: {name}: {row:#?}"
        );
    }
    let violations = lab.stop().await;
    assert_eq!(violations, Vec::<String>::new(), "seed {seed}");
    host.world().performed.clone()
}

#[test]
fn weeks_of_edits_drifts_crashes_and_faults_always_come_to_rest() {
    let budget = Duration::from_secs(if long() { 300 } else { 5 });
    let first = seed();
    let began = std::time::Instant::now();
    let mut weeks = 0;
    let mut performed = BTreeMap::<&str, usize>::new();
    while began.elapsed() < budget {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let seed = first.wrapping_add(weeks);
        let done = runtime.block_on(week(seed));
        for (step, count) in done {
            *performed.entry(step).or_default() += count;
        }
        weeks += 1;
    }
    println!("{weeks} weeks, RENET_SEED={first}: {performed:?}");
    // Weeks in which nothing happens prove nothing.
    for step in [
        "Mount",
        "Up",
        "Down",
        "EraseFiles",
        "ForgetRoute",
        "StopDaemon",
        "Fork",
    ] {
        let count = performed.get(step).copied().unwrap_or_default();
        assert!(
            count as u64 >= weeks / 2,
            "{step}: {count} in {weeks} weeks"
        );
    }
}
