//! How long manifests take to load and validate, against plain parsing with the same
//! YAML crate; and how long an agent needs to read 1,000 objects again.
//! `cargo bench --bench manifests`

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use renet::manifest::{Loader, load};

const ROUNDS: usize = 9;
/// Files of the first folder, each of 100 documents.
const FILES: usize = 100;
/// Of the second folder, each a repository, two services and a route.
const REPOSITORIES: usize = 250;

/// The median of a few rounds.
fn median(mut round: impl FnMut() -> Duration) -> Duration {
    let mut times: Vec<_> = (0..ROUNDS).map(|_| round()).collect();
    times.sort();
    times[ROUNDS / 2]
}

fn time<T>(work: impl FnOnce() -> T) -> Duration {
    let began = Instant::now();
    black_box(work());
    began.elapsed()
}

fn repository(name: &str) -> String {
    format!(
        "apiVersion: renet/v1\nkind: Repository\nmetadata:\n  name: {name}\n  labels:\n    team: web\nspec:\n  size: 2G\n  encryption: none\n  state: Running\n  deletionPolicy: Retain\n---\n"
    )
}

fn many(folder: &Path) {
    for file in 0..FILES {
        let text: String = (0..100)
            .map(|id| repository(&format!("r{file}-{id}")))
            .collect();
        fs::write(folder.join(format!("{file}.yaml")), text).unwrap();
    }
    let parse = || {
        for file in 0..FILES {
            let text = fs::read_to_string(folder.join(format!("{file}.yaml"))).unwrap();
            let values: Vec<serde_json::Value> = serde_yaml::from_multiple(&text).unwrap();
            assert_eq!(values.len(), 100);
            black_box(values);
        }
    };
    let whole = || {
        let folder = load(folder);
        assert_eq!(folder.manifests.repositories.len(), 100 * FILES);
        folder
    };
    let (plain, loaded) = (median(|| time(parse)), median(|| time(whole)));
    println!(
        "10,000 documents: parsed in {plain:.1?}, loaded and validated in {loaded:.1?}: {:.2} times",
        loaded.as_secs_f64() / plain.as_secs_f64()
    );
}

fn write(folder: &Path, id: usize, revision: usize) {
    let mut text = repository(&format!("r{id}"));
    fs::create_dir_all(folder.join(format!("r{id}"))).unwrap();
    for service in ["web", "db"] {
        text.push_str(&format!(
            "apiVersion: renet/v1\nkind: Service\nmetadata: {{ name: {service} }}\nspec: {{ repository: r{id}, compose: {{ file: r{id}/{service}.json }} }}\n---\n"
        ));
        let compose = format!(r#"{{"services": {{"{service}": {{"image": "i:{revision}"}}}}}}"#);
        fs::write(folder.join(format!("r{id}/{service}.json")), compose).unwrap();
    }
    text.push_str(&format!(
        "apiVersion: renet/v1\nkind: Route\nmetadata: {{ name: r{id} }}\nspec: {{ service: r{id}/web, port: 80, host: r{id}.test }}\n"
    ));
    fs::write(folder.join(format!("r{id}.yaml")), text).unwrap();
}

fn again(folder: &Path) {
    (0..REPOSITORIES).for_each(|id| write(folder, id, 0));
    // Files that were just written are read again.
    std::thread::sleep(Duration::from_secs(4));
    let fresh = median(|| time(|| load(folder)));
    let mut loader = Loader::new(folder);
    assert_eq!(loader.load().manifests.services.len(), 2 * REPOSITORIES);
    let unchanged = median(|| time(|| loader.load()));
    let mut revision = 0;
    let changed = median(|| {
        revision += 1;
        write(folder, revision, revision);
        time(|| loader.load())
    });
    println!(
        "1,000 objects: fresh {fresh:.2?}, unchanged {unchanged:.2?}, one changed {changed:.2?}"
    );
}

fn main() {
    for work in [many, again] {
        let folder = tempfile::tempdir().unwrap();
        work(folder.path());
    }
}
