//! What nothing costs at a size: the folder is read, the machine looked at,
//! everything resolved and planned, and nothing is to be done. The machine is
//! simulated; what its daemons would take to answer is not in it.
//! `cargo bench --bench noop -- SERVICES…`, called by benches/noop.sh

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use renet::execute::{LocalLocks, Options, Silent, look, run};
use renet::host::sim::SimHost;
use renet::manifest;
use renet::model::{Asked, Layout, Owner};
use renet::resolve::{Ids, Source};

/// A network has room for 61.
const IN_REPOSITORY: usize = 50;
const RUNS: usize = 21;

fn write(folder: &Path, services: usize) {
    let machine = "apiVersion: renet/v1\nkind: Machine\nmetadata: { name: m1 }\n\
                   spec: { datastore: { size: 64G } }\n";
    fs::write(folder.join("machine.yaml"), machine).unwrap();
    for first in (0..services).step_by(IN_REPOSITORY) {
        let mut text = format!(
            "apiVersion: renet/v1\nkind: Repository\nmetadata: {{ name: r{first} }}\n\
             spec: {{ size: 64M, encryption: none }}\n"
        );
        for service in first..services.min(first + IN_REPOSITORY) {
            text.push_str(&format!(
                "---\napiVersion: renet/v1\nkind: Service\nmetadata: {{ name: s{service} }}\n\
                 spec: {{ repository: r{first}, compose: {{ file: s{service}/compose.json }} }}\n"
            ));
            let own = folder.join(format!("s{service}"));
            fs::create_dir(&own).unwrap();
            let compose = format!(r#"{{"services": {{"s{service}": {{"image": "i:1"}}}}}}"#);
            fs::write(own.join("compose.json"), compose).unwrap();
        }
        fs::write(folder.join(format!("r{first}.yaml")), text).unwrap();
    }
}

fn source(folder: &Path, layout: &Layout) -> Source {
    let loaded = manifest::load(folder);
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    Source {
        owner: Owner {
            source: loaded.source.display().to_string(),
        },
        manifests: Arc::new(loaded.manifests),
        layout: layout.clone(),
        asked: Asked::default(),
        acts: Default::default(),
        store: None,
    }
}

#[tokio::main]
async fn main() {
    let sizes = std::env::args().filter_map(|said| said.parse::<usize>().ok());
    for services in sizes {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), services);
        let (host, layout) = (SimHost::new(), Layout::new("/").unwrap());
        let ids = Ids::random(&layout);
        let first = source(folder.path(), &layout);
        let (locks, options) = (LocalLocks::default(), Options::default());
        let report = run(&host, &locks, &first, &ids, &options, &Silent).await;
        assert!(report.in_sync(), "{:?}", report.last.plan.blocked);
        let mut times = Vec::new();
        for _ in 0..RUNS {
            let began = Instant::now();
            let wave = look(&host, &source(folder.path(), &layout), &ids).await;
            assert!(wave.plan.in_sync());
            times.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        times.sort_by(f64::total_cmp);
        println!("{services} {:.1}", times[RUNS / 2]);
    }
}
