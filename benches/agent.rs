//! An idle agent over a simulated machine with 1,000 objects: its memory, its
//! share of a core, and how long a saved file takes to its first step.
//! `cargo bench --bench agent`

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use renet::agent::{Agent, Board, Hint, Policy, Sync, changes};
use renet::execute::LocalLocks;
use renet::host::sim::SimHost;
use renet::manifest;
use renet::model::Layout;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Each a repository, two services and a route.
const REPOSITORIES: usize = 250;
const IDLE: Duration = Duration::from_secs(20);
const EDITS: usize = 10;

fn write(folder: &Path, id: usize, revision: usize) {
    let mut text = format!(
        "apiVersion: renet/v1\nkind: Repository\nmetadata: {{ name: r{id} }}\n\
         spec: {{ size: 64M, encryption: none }}\n"
    );
    for service in ["web", "db"] {
        text.push_str(&format!(
            "---\napiVersion: renet/v1\nkind: Service\nmetadata: {{ name: {service} }}\n\
             spec: {{ repository: r{id}, compose: {{ file: r{id}/{service}.json }} }}\n"
        ));
        let image = if service == "web" { revision } else { 0 };
        fs::create_dir_all(folder.join(format!("r{id}"))).unwrap();
        fs::write(
            folder.join(format!("r{id}/{service}.json")),
            format!(r#"{{"services": {{"{service}": {{"image": "i:{image}"}}}}}}"#),
        )
        .unwrap();
    }
    text.push_str(&format!(
        "---\napiVersion: renet/v1\nkind: Route\nmetadata: {{ name: r{id} }}\n\
         spec: {{ service: r{id}/web, port: 80, host: r{id}.test }}\n"
    ));
    fs::write(folder.join(format!("r{id}.yaml")), text).unwrap();
}

/// Resident memory, MiB.
fn resident() -> f64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024.0
}

/// Processor time so far, also of threads that have ended.
fn used() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is valid for writes, and the kernel fills it.
    let got = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(got, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("machine.yaml"),
        "apiVersion: renet/v1\nkind: Machine\nmetadata: { name: m1 }\n\
         spec: { datastore: { size: 64G }, proxy: { http: 80 } }\n",
    )
    .unwrap();
    for id in 0..REPOSITORIES {
        write(folder.path(), id, 0);
    }
    let began = Instant::now();
    let loaded = manifest::load(folder.path());
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    println!("load of the folder      {:>8.1} ms", ms(began.elapsed()));

    let host = Arc::new(SimHost::new());
    let board = Arc::new(Board::default());
    let loader = Mutex::new(manifest::Loader::new(folder.path()));
    let machine = host.clone();
    let agent = Arc::new(Agent::new(
        move |_: &_| machine.clone(),
        LocalLocks::default(),
        Layout::new("/").unwrap(),
        move || loader.lock().unwrap().load(),
        Policy::default(),
        board.clone(),
    ));
    let (_requests, asked) = mpsc::channel(1);
    let cancel = CancellationToken::new();
    let hints = changes(folder.path().to_owned()).map(|()| Hint::All);
    let began = Instant::now();
    let task = tokio::spawn(agent.clone().run(hints, asked, cancel.clone()));
    let objects = REPOSITORIES * 4;
    loop {
        let status = board.status();
        let synced = status.objects.values();
        let synced = synced.filter(|row| row.sync == Sync::Synced).count();
        if synced > objects && status.objects.len() == synced {
            break;
        }
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "{synced} of {objects}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("cold start, simulated   {:>8.1} ms", ms(began.elapsed()));

    tokio::time::sleep(Duration::from_secs(3)).await;
    let (before, began) = (used(), Instant::now());
    tokio::time::sleep(IDLE).await;
    let share = (used() - before).as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
    println!("idle, {objects} objects      {share:>8.3} % of a core");
    println!("resident                {:>8.1} MiB", resident());

    // One whole pass costs this, once an interval.
    let passes = |board: &Board| board.status().last_pass;
    let (before, last) = (used(), passes(&board));
    write(folder.path(), 0, 0);
    while passes(&board) == last {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let pass = used() - before;
    let interval = Policy::default().interval;
    println!(
        "a pass over all         {:>8.1} ms of a core; {:.3} % at one in {} s",
        ms(pass),
        pass.as_secs_f64() / interval.as_secs_f64() * 100.0,
        interval.as_secs()
    );

    let steps = || host.world().performed.values().sum::<usize>();
    let mut times = Vec::new();
    for revision in 1..=EDITS {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let done = steps();
        let began = Instant::now();
        write(folder.path(), revision * 7 % REPOSITORIES, revision);
        while steps() == done {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        times.push(ms(began.elapsed()));
    }
    times.sort_by(f64::total_cmp);
    println!(
        "saved to first step     {:>8.1} ms (median of {EDITS}; worst {:.1} ms)",
        times[EDITS / 2],
        times[EDITS - 1]
    );
    cancel.cancel();
    task.await.unwrap();
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
