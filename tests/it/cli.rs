//! The real binary, where it changes nothing: what it prints, in which form, and
//! how it ends.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

pub const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/hello");

/// A root of its own with nothing in it.
pub struct Place(pub tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        // Short: socket paths beneath it have to fit.
        Self(
            tempfile::Builder::new()
                .prefix("rc-")
                .tempdir_in("/tmp")
                .unwrap(),
        )
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_renet"));
        command.env_clear().env("COLUMNS", "80").args(args);
        command.arg("--root").arg(self.0.path());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    #[track_caller]
    fn says(&self, code: i32, args: &[&str], text: &str) {
        let output = self.run(args);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(text), "{args:?}: {said}");
    }

    fn entries(&self) -> Vec<PathBuf> {
        let all = fs::read_dir(self.0.path()).unwrap().flatten();
        all.map(|entry| entry.path()).collect()
    }
}

pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIP(root): commands that look at the machine");
    }
    root
}

/// What a command prints is what its schema says.
#[track_caller]
fn fits(schema: &str, printed: &[u8]) -> Value {
    let schema = &renet::cli::schemas()[schema];
    let schema: Value = serde_json::from_str(schema).unwrap();
    let printed: Value = serde_json::from_slice(printed).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let wrong: Vec<_> = validator
        .iter_errors(&printed)
        .map(|e| e.to_string())
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    printed
}

#[test]
fn what_is_explained_needs_nothing_and_is_ascii_where_the_locale_is() {
    let place = Place::new();
    place.says(
        0,
        &["explain", "repository.spec.size"],
        "At least this large",
    );
    place.says(
        2,
        &["explain", "repository.spec.sise"],
        "did you mean `repository.spec.size`?",
    );
    place.says(
        0,
        &["schema"],
        "https://json-schema.org/draft/2020-12/schema",
    );
    place.says(0, &["schema", "Route"], "\"const\": \"Route\"");
    place.says(2, &["schema", "output/gte"], "did you mean `output/get`?");
    assert_eq!(place.entries(), Vec::<PathBuf>::new());
    if is_root() {
        let said = place
            .command(&["get", "-f", FOLDER])
            .env("LC_ALL", "C")
            .output()
            .unwrap();
        assert!(said.stdout.is_ascii() && said.status.success(), "{said:?}");
        let text = String::from_utf8(said.stdout).unwrap();
        assert!(text.contains("hello.localhost:8088 -> hello/"), "{text}");
    }
}

#[test]
fn the_doctor_works_where_there_is_nothing_and_changes_nothing() {
    let place = Place::new();
    let printed = fits(
        "output/doctor",
        &place.run(&["doctor", "-o", "json"]).stdout,
    );
    let checks = printed["checks"].as_array().unwrap();
    let bad = checks.iter().filter(|check| check["level"] != "ok").count();
    let code = i32::from(bad > 0);
    place.says(code, &["doctor"], "datastore none yet");
    assert_eq!(place.entries(), Vec::<PathBuf>::new());
    let keys = place.0.path().join("etc/rediacc/keys");
    fs::create_dir_all(&keys).unwrap();
    let key = keys.join("shop");
    fs::write(&key, "x").unwrap();
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let cure = format!("chmod 600 {}", key.display());
    place.says(1, &["doctor"], &cure);
    place.says(1, &["doctor"], "`renet doctor --fix` mends 1");
    place.says(code, &["doctor", "--fix"], &format!("fixed    {cure}"));
    let meta = fs::metadata(&key).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&meta) & 0o777, 0o600);
}

#[test]
fn objects_are_printed_as_their_schema_says() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let get = |what: &[&str]| {
        let args = [&["get", "-f", FOLDER, "-o", "json"], what].concat();
        fits("output/get", &place.run(&args).stdout)
    };
    let all = get(&[]);
    assert_eq!(all["objects"].as_array().unwrap().len(), 4);
    assert_eq!(all["agent"], Value::Null);
    let one = get(&["service/hello/web"]);
    assert_eq!(one["objects"][0]["sync"], "OutOfSync");
    place.says(
        2,
        &["get", "sevrice", "-f", FOLDER],
        "did you mean `service`?",
    );
    assert_eq!(get(&["service", "hello/web"]), one);
    assert_eq!(get(&["all"]), all);
    place.says(
        3,
        &["get", "service/web", "-f", FOLDER],
        "did you mean `service/hello/web`?",
    );
    place.says(
        3,
        &["get", "service/hello/wbe", "-f", FOLDER],
        "did you mean `service/hello/web`?",
    );
    let status = place.run(&["status", "-f", FOLDER, "-o", "json"]);
    let status = fits("output/status", &status.stdout);
    assert_eq!(status["source"]["inSync"], false);
    place.says(0, &["status", "-f", FOLDER], "differs: renet diff");
    let history = place.run(&["history", "-o", "json"]);
    assert_eq!(
        fits("output/history", &history.stdout),
        Value::Array(Vec::new())
    );
    fits(
        "output/events",
        &place.run(&["events", "-o", "json"]).stdout,
    );
    place.says(0, &["history"], "nothing was applied here yet");
}

#[test]
fn watching_prints_every_row_once_and_ends_when_interrupted() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let folder = place.0.path().join("desired");
    let write = |host: &str| {
        fs::create_dir_all(&folder).unwrap();
        let compose = "services: { web: { image: \"i:1\" } }\n";
        fs::write(folder.join("docker-compose.yml"), compose).unwrap();
        let text = format!(
            "apiVersion: renet/v1\nkind: Machine\nmetadata: {{ name: m1 }}\n\
             spec: {{ datastore: {{ size: 1G }} }}\n---\n\
             apiVersion: renet/v1\nkind: Repository\nmetadata: {{ name: shop }}\n\
             spec: {{ size: 64M, encryption: none }}\n---\n\
             apiVersion: renet/v1\nkind: Service\nmetadata: {{ name: web }}\n\
             spec: {{ repository: shop, compose: {{ file: docker-compose.yml }} }}\n---\n\
             apiVersion: renet/v1\nkind: Route\nmetadata: {{ name: web }}\n\
             spec: {{ service: shop/web, port: 80, host: {host} }}\n"
        );
        fs::write(folder.join("all.yaml"), text).unwrap();
    };
    write("a.test");
    let at = folder.display().to_string();
    let mut watch = place.command(&["get", "routes", "-w", "-f", &at]);
    watch.env("COLUMNS", "200");
    let mut child = watch.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert!(next().starts_with("KIND/NAME"));
    let row = next();
    assert!(row.starts_with("route/web  OutOfSync  Missing"), "{row}");
    assert!(row.ends_with("http://a.test → shop/web:80"), "{row}");
    // What the folder says from now on.
    write("b.test");
    let row = next();
    assert!(row.ends_with("http://b.test → shop/web:80"), "{row}");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(lines.map_while(Result::ok).count(), 0);
}

/// Two files of one folder, and a compose file beside them.
fn two_files(place: &Place, broken: bool) -> PathBuf {
    let folder = place.0.path().join("desired");
    fs::create_dir_all(folder.join("web")).unwrap();
    let repository = |name: &str, size: &str| {
        format!(
            "apiVersion: renet/v1\nkind: Repository\nmetadata: {{ name: {name} }}\n\
             spec: {{ size: {size}, encryption: none }}\n"
        )
    };
    let service = "---\napiVersion: renet/v1\nkind: Service\nmetadata: { name: web }\n\
                   spec: { repository: one, compose: { file: web/docker-compose.yml } }\n";
    let machine = "---\napiVersion: renet/v1\nkind: Machine\nmetadata: { name: m1 }\n\
                   spec: { datastore: { size: 1G } }\n";
    let image = if broken { "image: [a" } else { "image: a" };
    let compose = format!("services: {{ web: {{ {image} }} }}\n");
    let size = if broken { "little" } else { "64M" };
    fs::write(folder.join("web/docker-compose.yml"), compose).unwrap();
    fs::write(folder.join("one.yaml"), repository("one", "64M") + service).unwrap();
    fs::write(folder.join("two.yaml"), repository("two", size) + machine).unwrap();
    folder
}

#[test]
fn a_file_is_validated_alone_with_what_it_brings_along() {
    let place = Place::new();
    let folder = two_files(&place, false);
    let path = |name: &str| folder.join(name).display().to_string();
    let validate = |name: &str| {
        let file = path(name);
        let output = place.run(&["validate", "-f", &file, "-o", "json"]);
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        let count = |key: &str| said[key].as_u64().unwrap();
        (output.status.code(), count("documents"), count("errors"))
    };
    assert_eq!(validate("one.yaml"), (Some(0), 2, 0));
    two_files(&place, true);
    assert_eq!(validate("one.yaml"), (Some(2), 1, 1));
    place.says(
        2,
        &["validate", "-f", &path("one.yaml")],
        "docker-compose.yml:1",
    );
    place.says(
        2,
        &["validate", "-f", &path("two.yaml")],
        "1 error in 1 of 1 file",
    );
    two_files(&place, false);
    fs::write(
        folder.join("three.yaml"),
        fs::read(path("two.yaml")).unwrap(),
    )
    .unwrap();
    // What clashes is told of the second one.
    assert_eq!(validate("three.yaml").2, 0);
    assert_eq!(validate("two.yaml").2, 2);
    place.says(
        2,
        &["validate", "-f", &path("web/readme.txt")],
        "no manifests found",
    );
    place.says(
        0,
        &["validate", "-f", &path("web/docker-compose.yml")],
        "0 documents",
    );
}

#[test]
fn what_has_no_folder_is_refused_with_a_cure() {
    let place = Place::new();
    let cure = "write it into a file there, and name that";
    place.says(2, &["validate", "-f", "-"], cure);
    if is_root() {
        place.says(2, &["apply", "-f", "-"], cure);
        place.says(2, &["diff", "-f", "-"], cure);
    }
    assert_eq!(place.entries(), Vec::<PathBuf>::new());
}

#[test]
fn a_file_means_its_objects_alone_and_prunes_nothing() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let folder = two_files(&place, false);
    let path = |name: &str| folder.join(name).display().to_string();
    let objects = |args: &[&str]| {
        let printed = fits(
            "output/diff",
            &place.run(&[args, &["-o", "json"]].concat()).stdout,
        );
        let all = printed["objects"].as_array().unwrap().iter();
        let all = all.map(|one| one["object"].as_str().unwrap().to_owned());
        all.collect::<Vec<_>>().join(" ")
    };
    let (one, two) = (path("one.yaml"), path("two.yaml"));
    assert_eq!(
        objects(&["diff", "-f", &one]),
        objects(&["apply", "--dry-run", "-f", &one])
    );
    assert!(objects(&["diff", "-f", &folder.display().to_string()]).contains("repository/two"));
    let of_one = objects(&["diff", "-f", &one]);
    assert!(
        of_one.contains("repository/one") && !of_one.contains("repository/two"),
        "{of_one}"
    );
    let of_two = objects(&["diff", "-f", &two]);
    assert!(
        of_two.contains("repository/two") && !of_two.contains("repository/one"),
        "{of_two}"
    );
    for command in ["diff", "apply"] {
        place.says(2, &[command, "--prune", "-f", &one], "name the folder");
        let only = ["--only", "repository/one"];
        place.says(
            2,
            &[&[command, "-f", &one], &only[..]].concat(),
            "needs no `--only`",
        );
        let compose = path("web/docker-compose.yml");
        place.says(2, &[command, "-f", &compose], "declares nothing");
    }
    place.says(2, &["get", "-f", &one], "name its folder");

    // The mistakes of others do not keep it back; its own are told.
    fs::write(&two, "apiVersion: renet/v1\nkind: Repositroy\n").unwrap();
    place.says(2, &["diff", "-f", &one], "Repository one");
    place.says(2, &["diff", "-f", &two], "Repositroy");
    assert!(!place.0.path().join("mnt").exists());
}
