//! The fields of a Service manifest: what they bring along, and what is refused.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use renet::manifest::{Folder, Service, load};

const BASE: &str = "apiVersion: renet/v1\nkind: Repository\nmetadata: { name: shop }\nspec: { size: 1G, encryption: none }\n";
const COMPOSE: &str = "services:\n  NAME: { image: a }\n";

fn service(name: &str, more: &str) -> String {
    format!(
        "---\napiVersion: renet/v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec:\n  repository: shop\n  compose: {{ file: {name}/compose.yml }}\n{more}"
    )
}

/// A folder with these Services and files.
fn folder(services: &[(&str, &str)], files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let mut manifest = BASE.to_owned();
    for (name, more) in services {
        manifest.push_str(&service(name, more));
        let compose = COMPOSE.replace("NAME", &format!("{name}-1"));
        put(&format!("{name}/compose.yml"), &compose);
    }
    put("a.yaml", &manifest);
    files.iter().for_each(|(path, text)| put(path, text));
    dir
}

/// Every problem: message | cure.
fn problems(folder: &Folder) -> Vec<String> {
    let problems = folder.problems.iter();
    problems
        .map(|problem| format!("{} | {}", problem.message, problem.cure))
        .collect()
}

#[track_caller]
fn refused(services: &[(&str, &str)], files: &[(&str, &str)], wanted: &[&str]) {
    let dir = folder(services, files);
    let found = problems(&load(dir.path()));
    let found: Vec<String> = found
        .iter()
        .map(|problem| problem.replace(&format!("{}/", dir.path().display()), ""))
        .collect();
    assert_eq!(found, wanted);
}

#[track_caller]
fn read(dir: &Path) -> Service {
    let folder = load(dir);
    assert_eq!(problems(&folder), Vec::<String>::new());
    let mut services = folder.manifests.services.into_iter();
    Service::clone(&services.next_back().unwrap().1)
}

#[test]
fn managed_files_come_from_a_file_a_folder_or_the_manifest() {
    let files = "  files:\n    nginx.conf: { file: conf/main.conf }\n    sites: { dir: conf/sites }\n    motd: { inline: \"hi $x\\n\" }\n";
    let dir = folder(
        &[("web", files)],
        &[
            ("conf/main.conf", "main"),
            ("conf/sites/a.yml", "a: 1"),
            ("conf/sites/deep/run", "#!/bin/sh"),
        ],
    );
    let run = dir.path().join("conf/sites/deep/run");
    fs::set_permissions(&run, fs::Permissions::from_mode(0o755)).unwrap();
    let service = read(dir.path());
    let found: Vec<(&str, &[u8], bool)> = service
        .files
        .files()
        .iter()
        .map(|(path, file)| (path.as_str(), file.bytes(), file.executable()))
        .collect();
    assert_eq!(
        found[1..],
        [
            ("motd", b"hi $x\n".as_slice(), false),
            ("nginx.conf", b"main", false),
            ("sites/a.yml", b"a: 1", false),
            ("sites/deep/run", b"#!/bin/sh", true),
        ]
    );
    symlink("main.conf", dir.path().join("conf/sites/link")).unwrap();
    let found = problems(&load(dir.path()));
    assert!(found[0].contains("is a symbolic link"), "{found:?}");
}

#[test]
fn a_managed_file_can_be_what_the_compose_file_names() {
    let compose = "services:\n  web: { image: a, env_file: app.env, build: ctx }\nconfigs:\n  c: { file: nginx.conf }\n";
    let files = "  files:\n    nginx.conf: { inline: x }\n    app.env: { inline: A=1 }\n    ctx: { dir: image }\n";
    let dir = folder(
        &[("web", files)],
        &[
            ("web/compose.yml", compose),
            ("image/Dockerfile", "FROM scratch"),
        ],
    );
    let service = read(dir.path());
    let paths: Vec<&str> = service
        .files
        .files()
        .keys()
        .map(|path| path.as_str())
        .collect();
    assert_eq!(
        paths,
        ["app.env", "compose.yml", "ctx/Dockerfile", "nginx.conf"]
    );
}

#[test]
fn managed_files_that_cannot_be_are_refused_all_at_once() {
    let files = "  files:\n    ../x: { inline: a }\n    two: { inline: a, file: b }\n    none: {}\n    gone: { file: gone.conf }\n    typo: { fil: b }\n    word: b\n    compose.yml: { inline: a }\n    ./same: { inline: a }\n    same: { inline: b }\n    same/below: { inline: c }\n    number: { inline: 5 }\n";
    refused(
        &[("web", files)],
        &[],
        &[
            "bad path in `files` | `../x` is not a path beneath its folder; write a relative path without `..`, like `web/docker-compose.yml`",
            "`two` has more than one of file, inline | keep one of them",
            "`none` says nothing of what is in it | add `file:`, `dir:` or `inline:`",
            "`gone.conf` does not exist | create it, or correct the path",
            "unknown field `fil` | did you mean `file`?",
            "`word` must be a mapping, not text | write its fields below it, indented",
            "`compose.yml` is a compose file of this project, and comes along by itself | choose another path, or remove it",
            "`same` comes from `inline:` and from `inline:` | first at a.yaml:20:5: remove one",
            "`same/below` lies in `same`, which is a file | first at a.yaml:20:5: rename one",
            "`inline` must be text, and YAML reads a number | put it in quotes",
        ],
    );
    // A file that the compose file brings along is no other one.
    let compose = "services:\n  web: { image: a }\nconfigs:\n  c: { file: n.conf }\n";
    let more = [
        ("web/compose.yml", compose),
        ("web/n.conf", "x"),
        ("other", "y"),
    ];
    refused(
        &[("web", "  files: { n.conf: { file: web/n.conf } }\n")],
        &more,
        &[],
    );
    refused(
        &[("web", "  files: { n.conf: { file: other } }\n")],
        &more,
        &["`n.conf` comes from `other` and from `web/n.conf` | first at a.yaml:12:28: remove one"],
    );
}

#[test]
fn dependencies_are_services_of_the_same_repository_and_no_circle() {
    refused(
        &[
            ("api", "  dependsOn: [dbb, api, web-1, nobody]\n"),
            ("db", "  dependsOn: [web]\n"),
            ("mail", "  dependsOn: [web]\n"),
            ("web", "  dependsOn: [mail, mail]\n"),
            ("x", "  dependsOn: db\n"),
        ],
        &[],
        &[
            "service `api` depends on `dbb`, which no Service of repository `shop` is called | did you mean `db`?",
            "service `api` depends on itself | remove it",
            "service `api` depends on `web-1`, which no Service of repository `shop` is called | `web-1` is a service of `web`: write `web`",
            "service `api` depends on `nobody`, which no Service of repository `shop` is called | other Services of `shop`: db, mail, web, x",
            "services wait for each other: web → mail → web | remove one of them from `dependsOn`",
            "`dependsOn` must be a list, not text | write a list, like `dependsOn: [db]`",
        ],
    );
    let folder = folder(&[("db", ""), ("web", "  dependsOn: [db]\n")], &[]);
    let service = read(folder.path());
    assert_eq!(service.depends_on.first().unwrap().as_str(), "db");
}

#[test]
fn times_have_a_unit_and_bounds() {
    let cure = "write a time from `1s` to `1h`, like `60s` or `2m30s`";
    for (written, wanted) in [
        ("60", "a time has a unit | write `60s`".to_owned()),
        ("soon", format!("bad `healthy` | {cure}")),
        ("0s", format!("`0s` is too short or too long | {cure}")),
        ("-5s", format!("bad `healthy` | {cure}")),
        ("1 hour", format!("bad `healthy` | {cure}")),
        ("5s2m", format!("bad `healthy` | {cure}")),
        ("61m", format!("`61m` is too short or too long | {cure}")),
    ] {
        let wait = format!("  wait: {{ healthy: {written} }}\n");
        refused(&[("web", &wait)], &[], &[&wanted]);
    }
    refused(
        &[("web", "  wait: {}\n")],
        &[],
        &["missing field `healthy` | add `healthy:`, like `healthy: 60s`"],
    );
    for (written, seconds) in [("60s", 60), ("2m", 120), ("1h", 3600), ("2m30s", 150)] {
        let wait = format!("  wait: {{ healthy: {written} }}\n");
        let dir = folder(&[("web", &wait)], &[]);
        assert_eq!(read(dir.path()).healthy_within.as_secs(), seconds);
    }
}

#[test]
fn variables_are_text_and_no_message_repeats_a_value() {
    let variables = "  environment:\n    SECRET: hunter2-is-fine\n    PIN: 987654\n    ON: true\n    EMPTY:\n    1ST: hunter2\n    WEB_IP: hunter2\n    REDIACC_X: hunter2\n    LD_PRELOAD: hunter2\n    MANY: [hunter2]\n";
    refused(
        &[("web", variables)],
        &[],
        &[
            "`PIN` must be text | write its value in quotes",
            "`ON` must be text | write its value in quotes",
            "`EMPTY` is empty | write its value, `\"\"` for an empty one",
            "`1ST` is no name of a variable | use letters, digits and `_`, and no digit first",
            "`WEB_IP` cannot be set here | choose another name: renet sets this one",
            "`REDIACC_X` cannot be set here | choose another name: renet sets this one",
            "`LD_PRELOAD` cannot be set here | set it in the compose file: here compose itself would obey it",
            "`MANY` must be text | write one value, in quotes",
        ],
    );
    for text in [
        variables,
        "  environment: [A=hunter2]\n",
        "  environment: { A: hunter2, B: 987654 }\n",
    ] {
        let dir = folder(&[("web", text)], &[]);
        let drawn = load(dir.path()).render(false, 80);
        assert!(drawn.contains("a.yaml:"), "{drawn}");
        for value in ["hunter2", "987654", "true"] {
            assert!(!drawn.contains(value), "{drawn}");
        }
    }
}

#[test]
fn all_mistakes_of_a_service_are_named_at_once() {
    let dir = folder(&[], &[]);
    let manifest = service(
        "web",
        "  files: { a: { inline: x } }\n  environment: { A: 1 }\n  dependsOn: 5\n  wait: 5\n",
    );
    let compose = "  compose: { file: web/compose.yml }\n";
    assert!(manifest.contains(compose));
    let text = format!("{BASE}{}", manifest.replace(compose, ""));
    fs::write(dir.path().join("a.yaml"), text).unwrap();
    assert_eq!(
        problems(&load(dir.path())),
        [
            "missing field `compose` | add `compose: { file: … }`",
            "`A` must be text | write its value in quotes",
            "`dependsOn` must be a list, not a number | write a list, like `dependsOn: [db]`",
            "`wait` must be a mapping, not a number | write its fields below it, indented",
        ]
    );
}

#[test]
fn the_shop_is_valid() {
    let folder = load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/shop"));
    let drawn = folder.render(false, 80);
    assert_eq!(drawn, "shop: 8 documents in 2 files, no errors\n");
}

#[test]
fn a_rediaccfile_is_one_of_the_files_and_its_mistakes_are_named_in_place() {
    let more = "  rediaccfile: { file: web/hooks.sh }\n";
    let dir = folder(&[("web", more)], &[("web/hooks.sh", "up() { :; }\n")]);
    let service = read(dir.path());
    let file = service.files.rediaccfile().unwrap();
    assert_eq!(file.functions.len(), 1);
    let text = "up() {\n  echo docker compose\n  docker compose up -d\n  sudo docker ps\n}\n";
    let dir = folder(&[("web", more)], &[("web/hooks.sh", text)]);
    let found = load(dir.path()).problems;
    let found = found.iter();
    let places: Vec<(usize, usize)> = found.map(|one| (one.line, one.column)).collect();
    assert_eq!(places, [(3, 3), (4, 3)]);
    let both = "  rediaccfile: { file: web/hooks.sh }\n  files: { rediaccfile: { inline: x } }\n";
    refused(
        &[("web", both)],
        &[("web/hooks.sh", "")],
        &["`Rediaccfile` and `rediaccfile` are both this project's Rediaccfile | keep one of them"],
    );
}
