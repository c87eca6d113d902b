//! What people read of a plan, and what programs do: from real folders, on the
//! simulated machine.

use std::fs;
use std::sync::Arc;

use renet::cli::render;
use renet::execute::{Options, Shown, Wave};
use renet::manifest::load;
use renet::model::{Blocked, ContainerState, Named, Object, Part, Prune, Repository, Step};
use renet::plan::changes::{Action, Changes};
use renet::resolve::Source;

use super::sim::world::{Lab, folder as tiny, name, owner};

const MANIFESTS: &str = "\
apiVersion: renet/v1
kind: Machine
metadata: { name: m1 }
spec: { datastore: { size: 8G }, proxy: { http: 8088 } }
---
apiVersion: renet/v1
kind: Repository
metadata: { name: shop }
spec: { size: 2G, encryption: none, deletionPolicy: Delete }
---
apiVersion: renet/v1
kind: Service
metadata: { name: web }
spec: { repository: shop, compose: { file: web/docker-compose.yml } }
---
apiVersion: renet/v1
kind: Service
metadata: { name: db }
spec: { repository: shop, compose: { file: db/docker-compose.yml } }
---
apiVersion: renet/v1
kind: Route
metadata: { name: shop-web }
spec: { service: shop/web, port: 8080, host: www.example.com }
";

const WEB: &str = "\
services:
  web:
    image: web:1.4
    configs: [site]
    environment:
      LOG: info
      SESSION_SECRET: canary
configs:
  site:
    file: ./site.conf
";

const DB: &str = "services:\n  db:\n    image: db:16\n";

/// A folder of manifests, and a machine that came to rest with it.
struct Desk {
    dir: tempfile::TempDir,
    lab: Lab,
}

impl Desk {
    fn new() -> Self {
        let desk = Self {
            dir: tempfile::tempdir().unwrap(),
            lab: Lab::new(),
        };
        desk.write("shop.yaml", MANIFESTS);
        desk.write("web/docker-compose.yml", WEB);
        desk.write("web/site.conf", "listen 8080\nworkers 2\n");
        desk.write("db/docker-compose.yml", DB);
        desk
    }

    fn at_rest() -> Self {
        let desk = Self::new();
        let report = desk
            .lab
            .run_source(&desk.source(), Options::default())
            .unwrap();
        assert!(report.in_sync(), "{:?}", report.last.plan);
        assert!(desk.look().changes().objects.is_empty());
        desk
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn edit(&self, path: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.dir.path().join(path)).unwrap();
        assert!(text.contains(from), "{text}");
        self.write(path, &text.replace(from, to));
    }

    fn source(&self) -> Source {
        let folder = load(self.dir.path());
        assert!(folder.problems.is_empty(), "{:?}", folder.problems);
        Source {
            owner: owner(),
            manifests: Arc::new(folder.manifests),
            ..self.lab.source(&tiny(0))
        }
    }

    fn look(&self) -> Wave {
        self.lab.look(&self.source())
    }

    fn pruned(&self) -> Wave {
        let mut source = self.source();
        source.asked.prune = Prune::Retire(None);
        self.lab.look(&source)
    }

    fn shop(&self, change: impl FnOnce(&mut Repository)) {
        let guid = self.lab.guid("shop");
        change(self.lab.host.world().actual.repo_mut(guid));
    }

    /// A container of the project that is called like its service.
    fn container(&self, called: &str, state: ContainerState) {
        self.shop(|shop| {
            let projects = shop.containers.known_mut().unwrap();
            let project = projects.get_mut(&name(called)).unwrap();
            project.get_mut(called).unwrap().state = state;
        });
    }
}

fn plain(wave: &Wave, width: usize) -> String {
    let text = render::changes(&wave.changes(), width);
    anstream::adapter::strip_str(&text).to_string()
}

/// Everything that an edit can change at once.
fn edited() -> Desk {
    let desk = Desk::at_rest();
    desk.edit("shop.yaml", "size: 2G", "size: 4G");
    desk.edit("shop.yaml", "www.example.com", "shop.example.com");
    desk.edit("web/docker-compose.yml", "web:1.4", "web:1.5");
    desk.edit(
        "web/docker-compose.yml",
        "SECRET: canary",
        "SECRET: other-canary",
    );
    desk.edit("web/site.conf", "workers 2", "workers 4");
    desk
}

/// Everything that can go astray at once.
fn drifted() -> Desk {
    let desk = Desk::at_rest();
    desk.container("db", ContainerState::Exited(137));
    desk.shop(|shop| {
        if let Part::Known(daemon) = &mut shop.daemon {
            daemon.supervised = false;
        }
    });
    desk.lab.host.world().actual.published = Part::Absent;
    desk
}

#[test]
fn a_new_machine_is_shown_object_by_object() {
    insta::assert_snapshot!(plain(&Desk::new().look(), 80));
}

#[test]
fn an_edit_is_shown_field_by_field_with_what_it_interrupts() {
    let wave = edited().look();
    insta::assert_snapshot!("edited_80", plain(&wave, 80));
    insta::assert_snapshot!("edited_120", plain(&wave, 120));
}

#[test]
fn drift_is_told_from_a_change() {
    let wave = drifted().look();
    let changes = wave.changes();
    assert!(
        changes
            .objects
            .iter()
            .all(|change| change.action == Action::Mend)
    );
    assert_eq!(changes.summary.mend, changes.objects.len());
    insta::assert_snapshot!("drifted_80", plain(&wave, 80));
    insta::assert_snapshot!("drifted_120", plain(&wave, 120));
}

#[test]
fn what_goes_is_shown_with_what_it_costs() {
    let desk = Desk::at_rest();
    let manifests: Vec<&str> = MANIFESTS.split("---\n").collect();
    desk.write("shop.yaml", manifests[0]);
    let mut source = desk.source();
    source.asked.prune = Prune::Retire(None);
    let wave = desk.lab.look(&source);
    let held = wave.plan.blocked.values().find_map(|why| match why {
        Blocked::PruneBlocked { confirm, .. } => Some(confirm.clone()),
        _ => None,
    });
    insta::assert_snapshot!("held", plain(&wave, 80));
    source.asked.prune = Prune::Retire(held.map(|digest| renet::model::Digest::typed(&digest)));
    insta::assert_snapshot!("pruned", plain(&desk.lab.look(&source), 80));
}

#[test]
fn a_project_and_its_route_go_alone() {
    let desk = Desk::at_rest();
    let manifests: Vec<&str> = MANIFESTS.split("---\n").collect();
    desk.write(
        "shop.yaml",
        &[0, 1, 3].map(|at| manifests[at]).join("---\n"),
    );
    insta::assert_snapshot!(plain(&desk.pruned(), 80));
}

#[test]
fn what_is_in_the_way_is_shown_with_the_way_out() {
    let desk = Desk::at_rest();
    desk.edit("shop.yaml", "size: 2G", "size: 2G, networkId: 6400");
    insta::assert_snapshot!(plain(&desk.look(), 80));
}

#[test]
fn every_step_has_a_cause() {
    for wave in [Desk::new().look(), edited().look(), drifted().look()] {
        let changes = wave.changes();
        let steps: usize = changes
            .objects
            .iter()
            .map(|change| change.steps.len())
            .sum();
        assert_eq!(steps, wave.plan.steps.len());
        for change in &changes.objects {
            for step in &change.steps {
                assert!(!step.because.is_empty(), "{step:?}");
            }
        }
    }
    let text = render::steps(&edited().look().changes());
    insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string());
}

#[test]
fn a_patch_is_a_patch() {
    insta::assert_snapshot!(render::unified(&edited().look().changes()));
}

#[test]
fn programs_read_the_same_as_people() {
    let mut json = serde_json::to_value(edited().look().changes()).unwrap();
    json["digest"] = "(digest)".into();
    for change in json["objects"].as_array_mut().unwrap() {
        change["steps"] = "(steps)".into();
    }
    insta::assert_json_snapshot!(json);
}

#[test]
fn l62_what_is_called_like_a_secret_is_not_shown() {
    let changes = edited().look().changes();
    let json = serde_json::to_string(&changes).unwrap();
    assert!(json.contains("SESSION_SECRET"), "{json}");
    for text in [
        json,
        render::changes(&changes, 80),
        render::unified(&changes),
    ] {
        assert!(!text.contains("canary"), "{text}");
    }
}

#[test]
fn l62_a_file_that_compose_calls_a_secret_is_shown_in_no_form() {
    let desk = Desk::new();
    let compose = "services:\n  db:\n    image: db:16\n    secrets: [key]\nsecrets:\n  key:\n    file: ./key.txt\n";
    desk.write("db/docker-compose.yml", compose);
    desk.write("db/key.txt", "canary==");
    let unseen = |desk: &Desk, objects: usize| {
        let wave = desk.pruned();
        let changes = wave.changes();
        let files = changes.objects.iter().flat_map(|change| &change.files);
        assert!(
            files.clone().any(|file| file.path == "key.txt"),
            "{changes:?}"
        );
        assert!(changes.objects.len() >= objects);
        let json = serde_json::to_string(&changes).unwrap();
        for text in [json, plain(&wave, 80), render::unified(&changes)] {
            assert!(!text.contains("canary"), "{text}");
        }
    };
    unseen(&desk, 1);
    desk.lab
        .run_source(&desk.source(), Options::default())
        .unwrap();
    desk.write("db/key.txt", "other-canary==");
    unseen(&desk, 1);
    // Told no longer to be one in the same edit, and gone with its project.
    desk.write("db/docker-compose.yml", "services:\n  db:\n    image: db:16\n    configs: [key]\nconfigs:\n  key:\n    file: ./key.txt\n");
    unseen(&desk, 1);
    let manifests: Vec<&str> = MANIFESTS.split("---\n").collect();
    desk.write(
        "shop.yaml",
        &[0, 1, 2, 4].map(|at| manifests[at]).join("---\n"),
    );
    unseen(&desk, 1);
}

#[test]
fn colour_only_carries_what_the_text_says() {
    let changes = edited().look().changes();
    let text = render::changes(&changes, 80);
    assert!(text.contains("\u{1b}[32m"), "{text}");
    let plain = anstream::adapter::strip_str(&text).to_string();
    assert!(!plain.contains('\u{1b}'));
    assert!(plain.contains("+    image: web:1.5"), "{plain}");
}

#[test]
fn l17_an_equal_machine_has_no_diff() {
    let desk = Desk::at_rest();
    // What a manifest may write in many ways is one.
    desk.edit("shop.yaml", "size: 2G", "size: 2048MiB");
    let text = fs::read_to_string(desk.dir.path().join("shop.yaml")).unwrap();
    let mut documents: Vec<&str> = text.split("---\n").collect();
    documents.reverse();
    desk.write("shop.yaml", &documents.join("---\n"));
    let changes = desk.look().changes();
    assert!(changes.in_sync && changes.objects.is_empty(), "{changes:?}");
}

/// Runs what was saved, after something else happened.
fn run_saved(desk: &Desk, saved: &Wave) -> renet::execute::Report {
    let options = Options {
        shown: Some(Shown {
            steps: Some(saved.plan.steps.clone()),
            ..Shown::of(&saved.plan)
        }),
        ..Options::default()
    };
    desk.lab.run_source(&desk.source(), options).unwrap()
}

#[test]
fn l16_a_saved_plan_is_carried_out_or_refused_never_changed() {
    let desk = edited();
    let saved = desk.look();
    let same: &Changes = &saved.changes();
    assert_eq!(desk.look().changes().digest, same.digest);
    // Less danger than what was shown is also something else.
    desk.container("db", ContainerState::Exited(1));
    assert_ne!(desk.look().changes().digest, same.digest);
    let report = run_saved(&desk, &saved);
    let shop = Object::Repository(desk.lab.guid("shop"));
    assert_eq!(
        report.last.plan.blocked.get(&shop),
        Some(&Blocked::NotShown)
    );
    let repository = |step: &Step| step.repository().is_some();
    assert!(
        !report.performed.iter().any(|one| repository(&one.step)),
        "{:?}",
        report.performed
    );
    desk.container("db", ContainerState::Running);
    let report = run_saved(&desk, &saved);
    assert!(report.in_sync(), "{:?}", report.last.plan);
}

#[test]
fn a_saved_plan_for_a_new_machine_is_carried_out_whole() {
    let desk = Desk::new();
    let saved = desk.look();
    let report = run_saved(&desk, &saved);
    assert!(report.in_sync(), "{:?}", report.last.plan);
}

#[test]
fn only_what_is_named_changes() {
    let desk = edited();
    desk.container("db", ContainerState::Exited(1));
    let only = |text: &str| {
        let mut source = desk.source();
        source.asked.only.insert(text.parse::<Named>().unwrap());
        desk.lab.look(&source).changes()
    };
    let objects = |changes: &Changes| -> Vec<String> {
        changes
            .objects
            .iter()
            .map(|change| change.object.clone())
            .collect()
    };
    assert_eq!(
        objects(&only("service/shop/db")),
        ["repository/shop", "service/shop/db"]
    );
    assert_eq!(objects(&only("route/shop-web")), ["route/shop-web"]);
    assert_eq!(
        objects(&only("repository/shop")),
        ["repository/shop", "service/shop/db", "service/shop/web"]
    );
    // What is gone from the folder stays, whatever is asked besides.
    let manifests: Vec<&str> = MANIFESTS.split("---\n").collect();
    desk.write(
        "shop.yaml",
        &[0, 1, 2].map(|at| manifests[at]).join("---\n"),
    );
    let mut source = desk.source();
    source.asked.prune = Prune::Retire(None);
    let retires = |source: &Source| desk.lab.look(source).plan.retires;
    assert_eq!(retires(&source).len(), 2);
    source.asked.only.insert("repository/shop".parse().unwrap());
    assert!(retires(&source).is_empty());
}

#[test]
fn a_run_is_told_step_by_step_with_its_end() {
    let told = |desk: &Desk, width: usize| {
        let report = desk
            .lab
            .run_source(&desk.source(), Options::default())
            .unwrap();
        let mut text = String::new();
        for performed in &report.performed {
            text += &(render::performed(&report.last.desired, performed) + "\n");
        }
        let code = if report.in_sync() { 0 } else { 3 };
        let outcome = render::Outcome::of(&report, code, std::time::Duration::from_millis(1200));
        text += &render::report(&outcome);
        let text = anstream::adapter::strip_str(&text).to_string();
        assert!(
            text.lines().all(|line| line.chars().count() <= width),
            "{text}"
        );
        text
    };
    insta::assert_snapshot!("applied", told(&edited(), 80));
    let desk = edited();
    desk.lab.host.world().broken.insert("web:1.5".to_owned());
    insta::assert_snapshot!("failed", told(&desk, 120));
}

#[test]
fn in_a_plain_locale_everything_is_ascii() {
    let changes = edited().look().changes();
    let all = [
        render::changes(&changes, 80),
        render::steps(&changes),
        render::unified(&changes),
    ];
    let locale = |name: &str| (name == "LC_ALL").then(|| "C".to_owned());
    for text in all {
        let text = renet::cli::output::readable_in(&text, locale).into_owned();
        assert!(text.is_ascii() && !text.contains('?'), "{text}");
    }
}
