//! What people read of a plan, and what programs do: from real folders, on the
//! simulated machine.

use std::fs;
use std::sync::Arc;

use renet::cli::render;
use renet::execute::{Options, Shown, Wave};
use renet::manifest::load;
use renet::model::{
    Blocked, ContainerState, Lineage, Named, NetworkId, Object, Part, Prune, Repository, Size,
    Snapshot, Step,
};
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

    /// A closed copy of the shop that nobody manages.
    fn copied_as(&self, called: &str) {
        let parent = self.lab.guid("shop");
        let world = self.lab.host.world();
        let mut copy = world
            .actual
            .repo(parent, &Repository::default())
            .unwrap()
            .clone();
        drop(world);
        let record = copy.record.known_mut().unwrap();
        record.name = name(called);
        record.owner = None;
        record.network = NetworkId::try_from(6400).unwrap();
        record.lineage = Some(Lineage::of(parent));
        let copy = Repository {
            record: copy.record,
            ..Repository::default()
        };
        let guid = "11111111-2222-4333-8444-555555555555".parse().unwrap();
        *self.lab.host.world().actual.repo_mut(guid) = copy;
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
fn an_id_that_was_only_drawn_is_not_shown_as_if_it_were_there() {
    let desk = Desk::new();
    let copy = "---\napiVersion: renet/v1\nkind: Repository\nmetadata: { name: copy }\n\
        spec: { forkOf: { repository: shop, tag: one } }\n";
    desk.write("copy.yaml", copy);
    let shown = |wave: &Wave| {
        let changes = wave.changes();
        [
            serde_json::to_string_pretty(&changes).unwrap(),
            render::plan(&changes, 80),
            render::unified(&changes),
        ]
    };
    let wave = desk.look();
    let ids = |wave: &Wave| {
        let guids = wave.desired.repositories.keys().map(ToString::to_string);
        let store = wave.desired.datastore.as_ref().map(|store| store.uuid);
        guids
            .chain(store.map(|id| id.to_string()))
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&wave).len(), 3);
    for text in shown(&wave) {
        for id in ids(&wave) {
            assert!(!text.contains(&id), "{id}: {text}");
        }
    }
    assert!(shown(&wave)[1].contains("note datastore (new)"));
    assert!(
        shown(&wave)[1].contains("note parent shop"),
        "{}",
        shown(&wave)[1]
    );

    // One that is there is a fact.
    let desk = Desk::at_rest();
    let is = desk.look().desired.datastore.unwrap().uuid;
    desk.lab.host.world().actual.datastore.note = Part::Absent;
    let text = shown(&desk.look());
    for text in &text[..2] {
        assert!(text.contains(&format!("note datastore {is}")), "{text}");
    }
}

#[test]
fn an_edit_is_shown_field_by_field_with_what_it_interrupts() {
    let wave = edited().look();
    insta::assert_snapshot!("edited_80", plain(&wave, 80));
    insta::assert_snapshot!("edited_120", plain(&wave, 120));
}

#[test]
fn a_plan_is_what_a_diff_shows_and_every_step_with_its_cause() {
    for (name, desk) in [("new", Desk::new()), ("edited", edited())] {
        for width in [80, 120] {
            let text = render::plan(&desk.look().changes(), width);
            let text = anstream::adapter::strip_str(&text).to_string();
            let of_renet = |line: &&str| !line.starts_with("      ");
            assert!(
                text.lines()
                    .filter(of_renet)
                    .all(|line| line.chars().count() <= width),
                "{text}"
            );
            insta::assert_snapshot!(format!("plan_{name}_{width}"), text);
        }
    }
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
    // With what else there is of the data.
    let now = wave.actual.now;
    let copy = |size: &str| Snapshot {
        size: size.parse().unwrap(),
        made_by: renet::model::MadeBy::Command,
    };
    let ago = |minutes: i64| now - jiff::SignedDuration::from_mins(minutes);
    desk.shop(|shop| {
        let all = [(ago(3000), copy("1G")), (ago(190), copy("1536M"))];
        shop.snapshots = Part::Known(all.into());
    });
    desk.copied_as("preview");
    let wave = desk.lab.look(&source);
    insta::assert_snapshot!("pruned_with_snapshots", plain(&wave, 80));
    let changes = wave.changes();
    let [risk] = changes.data_at_risk.as_slice() else {
        panic!("{changes:?}")
    };
    let newest = risk.newest_snapshot.as_ref().unwrap();
    let age = wave.actual.now.duration_since(ago(190)).as_secs();
    assert_eq!((newest.made, newest.age), (ago(190), age));
    assert_eq!(newest.bytes, "1536M".parse::<Size>().unwrap().as_bytes());
    assert_eq!(risk.snapshots, Some(2));
    // A later look is of the same plan.
    desk.lab.host.world().actual.now += jiff::SignedDuration::from_hours(1);
    let later = desk.lab.look(&source).changes();
    assert_eq!(later.digest, changes.digest);
    assert_ne!(later.data_at_risk, changes.data_at_risk);
    desk.shop(|shop| shop.snapshots = Part::Unknown("it cannot be read".to_owned()));
    let text = plain(&desk.lab.look(&source), 80);
    assert!(text.contains("its snapshots cannot be seen"), "{text}");
}

#[test]
fn what_is_recreated_says_what_forces_it_and_how_long_it_took_last_time() {
    let desk = edited();
    desk.edit(
        "shop.yaml",
        "{ file: web/docker-compose.yml }",
        "{ file: web/docker-compose.yml }, environment: { SHOP: corner }",
    );
    desk.edit("web/docker-compose.yml", "LOG: info", "LOG: debug");
    desk.edit(
        "web/docker-compose.yml",
        "configs: [site]",
        "configs: [site]\n    tty: true",
    );
    let starts = [("service/shop/web".to_owned(), 1840)];
    let changes = desk.look().changes().expecting(&starts.into());
    let shown = |width| {
        let text = render::changes(&changes, width);
        anstream::adapter::strip_str(&text).to_string()
    };
    assert!(shown(80).lines().all(|line| line.chars().count() <= 80));
    insta::assert_snapshot!("recreated_80", shown(80));
    insta::assert_snapshot!("recreated_120", shown(120));
    // Programs are told all of it.
    let web = changes.objects.iter().find(|one| !one.stops.is_empty());
    assert_eq!(
        web.unwrap().stops[0].because,
        [
            "services.web.environment.LOG",
            "services.web.environment.SESSION_SECRET",
            "services.web.environment.SHOP",
            "services.web.image",
            "services.web.tty",
            "site.conf"
        ]
    );
}

#[test]
fn what_a_compose_file_says_in_vain_is_told_once_with_its_place() {
    let desk = Desk::new();
    desk.write(
        "web/docker-compose.yml",
        &WEB.replace("    configs:", "    ports: [\"80:80\"]\n    configs:"),
    );
    let told = |wave: &Wave| wave.changes().warnings;
    let first = told(&desk.look());
    let report = desk
        .lab
        .run_source(&desk.source(), Options::default())
        .unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    // It is no difference.
    let wave = desk.look();
    assert!(wave.changes().in_sync && wave.changes().objects.is_empty());
    assert_eq!(told(&wave), first);
    let all = render::warnings(&first, 80);
    insta::assert_snapshot!(anstream::adapter::strip_str(&all).to_string(), @r"
    warning: web/docker-compose.yml:4:5: services.web.ports is ignored: its
        ports are those on which it listens at 127.0.11.3
    ");
    let outcome = render::Outcome::of(&report, 0, std::time::Duration::ZERO);
    assert_eq!(outcome.warnings, first);
    // Only of what is meant.
    let mut source = desk.source();
    source.asked.only.insert("service/shop/db".parse().unwrap());
    assert_eq!(told(&desk.lab.look(&source)), []);
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
    let text = render::steps(&edited().look().changes(), 120);
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

/// What a run of this desk prints, and the run as programs read it.
fn told(desk: &Desk, width: usize) -> (String, render::Outcome) {
    let report = desk
        .lab
        .run_source(&desk.source(), Options::default())
        .unwrap();
    let mut text = String::new();
    for performed in &report.performed {
        text += &(render::performed(&report.last.desired, performed, width) + "\n");
    }
    let code = if report.in_sync() { 0 } else { 3 };
    let outcome = render::Outcome::of(&report, code, std::time::Duration::from_millis(1200));
    text += &render::report(&outcome);
    let text = anstream::adapter::strip_str(&text).to_string();
    assert!(
        text.lines().all(|line| line.chars().count() <= width),
        "{text}"
    );
    (text, outcome)
}

/// One whose update fails.
fn failing() -> Desk {
    let desk = edited();
    desk.lab.host.world().broken.insert("web:1.5".to_owned());
    desk
}

#[test]
fn a_run_is_told_step_by_step_with_its_end() {
    insta::assert_snapshot!("applied_80", told(&edited(), 80).0);
    insta::assert_snapshot!("applied_120", told(&edited(), 120).0);
    insta::assert_snapshot!("failed_80", told(&failing(), 80).0);
    insta::assert_snapshot!("failed_120", told(&failing(), 120).0);
}

/// As a terminal shows it whose locale is C.
fn in_c(text: &str, width: usize) -> String {
    let locale = |name: &str| (name == "LC_ALL").then(|| "C".to_owned());
    let text = renet::cli::output::readable_in(text, locale).into_owned();
    let text = anstream::adapter::strip_str(&text).to_string();
    assert!(text.is_ascii() && !text.contains('?'), "{text}");
    for line in text.lines() {
        assert!(line.len() <= width, "{line}");
    }
    text
}

#[test]
fn in_a_plain_locale_everything_is_ascii_and_as_wide_as_elsewhere() {
    let (changes, drifted) = (edited().look().changes(), drifted().look().changes());
    for width in [80, 120] {
        let shown = |name: &str, text: &str| {
            insta::assert_snapshot!(format!("{name}_{width}_in_c"), in_c(text, width));
        };
        shown("diff_edited", &render::changes(&changes, width));
        shown("diff_drifted", &render::changes(&drifted, width));
        shown("plan_edited", &render::plan(&changes, width));
        shown("applied", &told(&edited(), width).0);
        shown("failed", &told(&failing(), width).0);
    }
    in_c(&render::unified(&changes), usize::MAX);
}

/// Holds what a command prints as JSON against its kept schema.
#[track_caller]
fn fits(schema: &str, printed: &impl serde::Serialize) -> serde_json::Value {
    let schema: serde_json::Value = serde_json::from_str(&renet::cli::schemas()[schema]).unwrap();
    let printed = serde_json::to_value(printed).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let wrong = validator.iter_errors(&printed).map(|e| e.to_string());
    assert_eq!(
        wrong.collect::<Vec<_>>(),
        Vec::<String>::new(),
        "{printed:#}"
    );
    printed
}

#[test]
fn what_programs_read_is_what_the_schemas_say() {
    let blocked = Desk::at_rest();
    blocked.edit("shop.yaml", "size: 2G", "size: 2G, networkId: 6400");
    let noisy = Desk::new();
    let ports = WEB.replace("    configs:", "    ports: [\"80:80\"]\n    configs:");
    noisy.write("web/docker-compose.yml", &ports);
    let gone = Desk::at_rest();
    let manifests: Vec<&str> = MANIFESTS.split("---\n").collect();
    gone.write("shop.yaml", manifests[0]);
    let quiet = Desk::at_rest();
    quiet.edit("shop.yaml", "size: 2G", "size: 1G");
    // All that there is to say is said somewhere.
    let mut said = std::collections::BTreeSet::new();
    let mut note = |value: &serde_json::Value| {
        fn walk(value: &serde_json::Value, said: &mut std::collections::BTreeSet<String>) {
            match value {
                serde_json::Value::Object(fields) => {
                    for (name, value) in fields {
                        said.insert(name.clone());
                        walk(value, said);
                    }
                }
                serde_json::Value::Array(items) => items.iter().for_each(|item| walk(item, said)),
                _ => {}
            }
        }
        walk(value, &mut said);
    };
    for desk in [
        &Desk::new(),
        &edited(),
        &drifted(),
        &blocked,
        &noisy,
        &quiet,
        &failing(),
    ] {
        note(&fits("output/diff", &desk.look().changes()));
        note(&fits("output/apply", &told(desk, usize::MAX).1));
        note(&fits("output/diff", &desk.look().changes()));
    }
    note(&fits("output/diff", &gone.pruned().changes()));
    for name in [
        "fields",
        "files",
        "diff",
        "stops",
        "routes",
        "blocked",
        "reason",
        "steps",
        "because",
        "notes",
        "warnings",
        "place",
        "dataAtRisk",
        "error",
        "program",
        "outcome",
        "drift",
    ] {
        assert!(said.contains(name), "nothing had {name}: {said:?}");
    }
}
