//! The real binary, where it changes nothing: what it prints, in which form, and
//! how it ends.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/hello");

/// A root of its own with nothing in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        // Short: socket paths beneath it have to fit.
        Self(
            tempfile::Builder::new()
                .prefix("rc-")
                .tempdir_in("/tmp")
                .unwrap(),
        )
    }

    fn command(&self, args: &[&str]) -> Command {
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

fn is_root() -> bool {
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
        assert!(text.contains("hello.localhost:8088 -> 127."), "{text}");
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
    place.says(
        3,
        &["get", "service/hello/wbe", "-f", FOLDER],
        "did you mean `service/hello/web`?",
    );
    let status = place.run(&["status", "-f", FOLDER, "-o", "json"]);
    let status = fits("output/status", &status.stdout);
    assert_eq!(status["source"]["in_sync"], false);
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
    let mut watch = place.command(&["get", "route", "-w", "-f", FOLDER]);
    let mut child = watch.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert!(next().starts_with("KIND/NAME"));
    assert!(next().starts_with("route/hello  OutOfSync"));
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(
        lines
            .map_while(Result::ok)
            .all(|line| line.starts_with(' '))
    );
}
