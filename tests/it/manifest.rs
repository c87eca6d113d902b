use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use renet::manifest::{Folder, load};
use renet::model::{Name, RunState, Size};

const MACHINE: &str = "apiVersion: renet/v1\nkind: Machine\nmetadata: { name: m }\nspec: {}\n";
const REPOSITORY: &str = "apiVersion: renet/v1\nkind: Repository\nmetadata: { name: shop }\nspec: { size: 1G, encryption: none }\n";
const SERVICE: &str = "apiVersion: renet/v1\nkind: Service\nmetadata: { name: web }\nspec:\n  repository: shop\n  compose: { file: web/docker-compose.yml }\n";
const ROUTE: &str = "apiVersion: renet/v1\nkind: Route\nmetadata: { name: shop }\nspec:\n  service: shop/web\n  port: 80\n  host: a.test\n";
const COMPOSE: &str = "services:\n  web: { image: a }\n";

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

/// Every problem, one a line: file:line:column: message | cure.
fn lines(folder: &Folder, dir: &Path) -> String {
    let mut out = String::new();
    for problem in &folder.problems {
        let file = problem.file.strip_prefix(dir).unwrap();
        out += &format!(
            "{}:{}:{}: {} | {}\n",
            file.display(),
            problem.line,
            problem.column,
            problem.message,
            problem.cure
        );
    }
    out.replace(&format!("{}/", dir.display()), "")
        .replace(&dir.display().to_string(), "DIR")
}

fn of(files: &[(&str, &str)]) -> String {
    let dir = folder(files);
    lines(&load(dir.path()), dir.path())
}

fn one(text: &str) -> String {
    of(&[("a.yaml", text)])
}

/// One project with the repository that it lies in.
fn project(compose: &str) -> String {
    let manifest = format!("{REPOSITORY}---\n{SERVICE}");
    of(&[("a.yaml", &manifest), ("web/docker-compose.yml", compose)])
}

fn document(kind: &str, spec: &str) -> String {
    one(&format!(
        "apiVersion: renet/v1\nkind: {kind}\nmetadata: {{ name: shop }}\nspec:\n{spec}"
    ))
}

#[test]
fn the_example_is_valid() {
    let folder = load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/hello"));
    assert_eq!(
        folder.render(false, 80),
        "hello: 4 documents in 1 file, no errors\n"
    );
    let manifests = folder.manifests;
    let name: Name = "hello".parse().unwrap();
    let machine = manifests.machine.unwrap();
    assert_eq!(machine.proxy.http, 8088);
    assert_eq!(
        machine.datastore.as_ref().unwrap().size(),
        Some(Size::mib(1024))
    );
    assert_eq!(manifests.repositories[&name].state, RunState::Running);
    assert_eq!(manifests.routes[&name].service, "web");
    let service = manifests.services.values().next().unwrap();
    assert_eq!(service.services, ["web"]);
    assert_eq!(service.compose_file.as_str(), "docker-compose.yml");
    let files: Vec<_> = service
        .files
        .files()
        .keys()
        .map(|path| path.as_str())
        .collect();
    assert!(
        files.contains(&"Dockerfile") && files.contains(&"www/index.html"),
        "{files:?}"
    );
}

#[test]
fn a_problem_is_drawn_with_its_place_and_cure() {
    let manifest = format!(
        "{}---\n{SERVICE}---\n{}",
        REPOSITORY.replace("size", "sise"),
        ROUTE.replace("shop/web", "shop/wev")
    );
    let dir = folder(&[
        ("shop.yaml", &manifest),
        ("web/docker-compose.yml", COMPOSE),
    ]);
    let drawn = load(dir.path()).render(false, 80);
    let drawn = drawn.replace(dir.path().to_str().unwrap(), "desired");
    let name = dir.path().file_name().unwrap().to_str().unwrap();
    insta::assert_snapshot!(drawn.replace(name, "desired"));
}

#[test]
fn values_are_refused_with_their_place_and_cure() {
    let all = [
        document("Repository", "  sise: 2G\n  encryption: none\n"),
        document(
            "Repository",
            "  size: 1K\n  networkId: \"2816\"\n  guid: 5\n  state: running\n  backups: []\n",
        ),
        document(
            "Repository",
            "  size: 2X\n  encryption: { passphraseFrom: x }\n  networkId: 65\n  guid: 5d0e\n",
        ),
        document("Repository", ""),
        document("Repository", "  - size: 1G\n"),
        document("Repositry", "  size: 1G\n"),
        document("Secret", "  size: 1G\n"),
        document(
            "Machine",
            "  datastore: { size: 1M, backingFile: ../x }\n  proxy: { http: 70000, https: 1 }\n",
        ),
        document(
            "Service",
            "  repository: Shop\n  compose: { file: ../web.yml }\n",
        ),
        document("Service", "  repository: 5\n  compose: web.yml\n"),
        document("Route", "  service: web\n  port: 0\n  host: A.test\n"),
        document("Route", "  service: shop/a/b\n  port: \"80\"\n  host:\n"),
    ];
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn documents_are_refused_with_their_place_and_cure() {
    let all = [
        one("apiVersion: renet/v2\nkind: Repository\n"),
        one("apiVersion: apps/v1\nkind: Deployment\n"),
        one("apiVersoin: renet/v1\nkind: Repository\n---\napiVersion: renet/v1\n"),
        one("foo: bar\n"),
        one("- x\n"),
        one("apiVersion: renet/v1\nkind: Repository\nmetadata: { name: [\n"),
        one("apiVersion: renet/v1\nkind:\t- x\n a: \n- : :"),
        one(&format!("{MACHINE}kind: Route\n")),
        one(
            "apiVersion: renet/v1\nkind: Machine\nmetadata: { nam: x, labels: { a: 1, ünï: on } }\nspec: {}\n",
        ),
        one(
            "apiVersion: renet/v1\nkind: Machine\nmetadata: { name: \"a\\e[31m\\u202e\" }\nspec: {}\n",
        ),
        one("apiVersion: renet/v1\r\nkind: Machine\r\nmetadata: { name: a b }\r\nspec: {}\r\n"),
        one("\u{feff}apiVersion: renet/v1\nkind: Machine\nmetadata: { name: a_b }\nspec: {}\n"),
        one("apiVersion: renet/v1\nkind: Machine\nmetadata: { name: \u{1b}x }\n"),
    ];
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn documents_are_compared_with_each_other() {
    let repository = |name: &str, more: &str| {
        REPOSITORY
            .replace("shop", name)
            .replace("none }", &format!("none, {more} }}"))
    };
    let join = |documents: &[&str]| documents.join("---\n");
    let second = SERVICE.replace("name: web", "name: api");
    let guid = "guid: 5d0e6f3a-1f3c-4c58-9a53-0d6f2a1b7c9e";
    let compose = ("web/docker-compose.yml", COMPOSE);
    let all = [
        of(&[("a.yaml", MACHINE), ("b.yml", MACHINE)]),
        of(&[("a.yaml", REPOSITORY), ("b/b.yaml", REPOSITORY)]),
        of(&[("a.yaml", &join(&[REPOSITORY, SERVICE, SERVICE])), compose]),
        of(&[("a.yaml", &join(&[REPOSITORY, SERVICE, &second])), compose]),
        of(&[
            (
                "a.yaml",
                &join(&[
                    REPOSITORY,
                    SERVICE,
                    ROUTE,
                    &ROUTE.replace("name: shop", "name: b"),
                ]),
            ),
            compose,
        ]),
        one(&join(&[
            &repository("a", "networkId: 2816"),
            &repository("b", "networkId: 2816"),
        ])),
        one(&join(&[&repository("a", guid), &repository("b", guid)])),
        of(&[
            (
                "a.yaml",
                &join(&[REPOSITORY, &SERVICE.replace("y: shop", "y: shpo")]),
            ),
            compose,
        ]),
        of(&[("a.yaml", SERVICE), compose]),
        of(&[
            (
                "a.yaml",
                &join(&[REPOSITORY, &SERVICE.replace("name: web", "name: root")]),
            ),
            compose,
        ]),
        one(&join(&[REPOSITORY, ROUTE])),
        one(ROUTE),
        of(&[
            (
                "a.yaml",
                &join(&[REPOSITORY, SERVICE, &ROUTE.replace("p/web", "p/wev")]),
            ),
            compose,
        ]),
    ];
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn what_a_broken_file_may_define_is_not_missed() {
    let broken = "apiVersion: renet/v1\nkind: [\n";
    let out = of(&[("a.yaml", ROUTE), ("b.yaml", broken)]);
    assert_eq!(out.lines().count(), 1, "{out}");
    let out = one(&format!("{ROUTE}---\n{}", REPOSITORY.replace("1G", "1X")));
    assert!(!out.contains("no Repository"), "{out}");
}

#[test]
fn limits_are_what_the_kernel_can_keep() {
    let limits = "limits: { memory: 300.5M, cpus: 1.5, pids: 4096 }";
    let text = REPOSITORY.replace("encryption: none", &format!("encryption: none, {limits}"));
    let dir = folder(&[("a.yaml", &text)]);
    let loaded = load(dir.path());
    assert_eq!(lines(&loaded, dir.path()), "");
    let shop: Name = "shop".parse().unwrap();
    let limits = loaded.manifests.repositories[&shop].limits;
    assert_eq!(limits.memory, Some(Size::mib(301)));
    assert_eq!((limits.cpus, limits.pids), (Some(150), Some(4096)));
}

#[test]
fn a_document_with_a_problem_is_left_out_and_the_others_stay() {
    let manifest = format!(
        "{MACHINE}---\n{REPOSITORY}---\n{}---\n{ROUTE}",
        REPOSITORY.replace("shop", "blog").replace("1G", "x")
    );
    let dir = folder(&[("a.yaml", &manifest)]);
    let folder = load(dir.path());
    assert!(folder.manifests.machine.is_some());
    let names: Vec<_> = folder
        .manifests
        .repositories
        .keys()
        .map(Name::as_str)
        .collect();
    assert_eq!(names, ["shop"]);
    assert!(folder.manifests.routes.is_empty());
}

#[test]
fn what_a_project_names_may_not_come_from_elsewhere() {
    let all = [
        project(
            "services:\n  web:\n    build: ../x\n    env_file: [a.env, {path: b.env, required: false}]\n  api:\n    build:\n      context: https://github.com/x/y.git\nconfigs:\n  c: { file: /etc/passwd }\nsecrets:\n  s: { file: '${HOME}/x' }\n",
        ),
        project(
            "services:\n  a: { build: 'git@github.com:x/y' }\n  b: { build: 'oci://x' }\n  c: { build: { dockerfile: ../D } }\n  d: { extends: { file: 'https://x/y.yml', service: a } }\n",
        ),
        project("include:\n  - oci://x\n  - path: [ ../y.yml ]\nservices: { a: { image: x } }\n"),
        project("services: {}\n"),
        project("services:\n  web: [\n"),
        project("services:\n  a b: { image: x }\n  web: { image: x }\n  web: { image: y }\n"),
        project(""),
        of(&[("a.yaml", &format!("{REPOSITORY}---\n{SERVICE}"))]),
    ];
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn what_a_project_names_comes_along() {
    let dir = folder(&[
        ("a.yaml", &format!("{REPOSITORY}---\n{SERVICE}")),
        (
            "web/docker-compose.yml",
            "include: [more/db.yml]\nservices:\n  web: { build: { context: ./ctx }, env_file: [ { path: e.env } ] }\n  ui: { extends: { file: base.yml, service: x } }\nsecrets: { s: { file: ./s.txt } }\n",
        ),
        (
            "web/more/db.yml",
            "services: { db: { image: x, env_file: db.env } }\n",
        ),
        ("web/more/db.env", ""),
        ("web/base.yml", "services: { x: { image: x } }\n"),
        ("web/ctx/Dockerfile", "FROM scratch\n"),
        ("web/ctx/run", "#!/bin/sh\n"),
        ("web/ctx/.git/config", ""),
        ("web/ctx/.dockerignore", ""),
        ("web/ctx/prometheus.yml", "a: {{ x }}\n"),
        ("web/ctx/manifest.yml", MACHINE),
        ("web/e.env", ""),
        ("web/s.txt", ""),
        ("web/unrelated", ""),
    ]);
    fs::set_permissions(
        dir.path().join("web/ctx/run"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    let folder = load(dir.path());
    assert_eq!(lines(&folder, dir.path()), "");
    assert!(folder.manifests.machine.is_some());
    let service = folder.manifests.services.values().next().unwrap();
    assert_eq!(service.services, ["web", "ui", "db"]);
    let files: Vec<_> = service
        .files
        .files()
        .iter()
        .map(|(path, file)| format!("{path}{}", if file.executable() { "*" } else { "" }))
        .collect();
    assert_eq!(
        files,
        [
            "base.yml",
            "ctx/.dockerignore",
            "ctx/Dockerfile",
            "ctx/prometheus.yml",
            "ctx/run*",
            "docker-compose.yml",
            "e.env",
            "more/db.env",
            "more/db.yml",
            "s.txt"
        ]
    );
}

#[test]
fn a_document_with_a_key_twice_is_left_out() {
    let dir = folder(&[("a.yaml", &format!("{MACHINE}kind: Machine\n"))]);
    let folder = load(dir.path());
    assert_eq!(folder.problems.len(), 1);
    assert!(folder.manifests.machine.is_none());
}

#[test]
fn a_folder_without_manifests_is_no_empty_success() {
    let dir = folder(&[
        ("file.yaml", MACHINE),
        ("empty/README", ""),
        ("comment/a.yaml", "# x\n"),
    ]);
    let all: Vec<_> = ["file.yaml", "empty", "missing", "comment"]
        .map(|name| {
            let folder = load(&dir.path().join(name));
            assert!(folder.manifests.machine.is_none());
            lines(&folder, dir.path())
        })
        .into();
    insta::assert_snapshot!(all.concat());
    assert_eq!(load(Path::new("")).problems.len(), 1);
}

#[test]
fn nothing_but_files_and_folders_is_read() {
    let dir = folder(&[
        ("a.yaml", &format!("{REPOSITORY}---\n{SERVICE}")),
        (
            "web/docker-compose.yml",
            "services: { web: { build: . } }\n",
        ),
        (".hidden/b.yaml", "broken: ["),
    ]);
    let at = |path: &str| dir.path().join(path);
    symlink("/etc/passwd", at("web/passwd")).unwrap();
    symlink("a.yaml", at("link.yaml")).unwrap();
    nix::unistd::mkfifo(&at("fifo.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    nix::unistd::mkfifo(&at("web/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::write(at("latin.yaml"), b"apiVersion: renet/v1\nkind: \xff\n").unwrap();
    fs::write(at("large.yaml"), vec![b'#'; (1 << 20) + 1]).unwrap();
    insta::assert_snapshot!(lines(&load(dir.path()), dir.path()));
}

#[test]
fn the_folder_itself_may_be_a_link() {
    let dir = folder(&[("real/a.yaml", MACHINE)]);
    symlink("real", dir.path().join("link")).unwrap();
    let folder = load(&dir.path().join("./x/../link"));
    assert_eq!(lines(&folder, dir.path()), "");
    assert_eq!(folder.source, dir.path().join("link"));
    assert_eq!(folder.files, 1);
}

#[test]
fn hostile_files_end_soon() {
    let bomb = format!(
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [{}]\nc: &c [{}]\nd: &d [{}]\ne: [{}]\n",
        "*a,".repeat(9),
        "*b,".repeat(9),
        "*c,".repeat(9),
        "*d,".repeat(9)
    );
    let keys: String = (0..9_000).map(|n| format!("k{n}: 1\n")).collect();
    let long = "x".repeat(1_000_000);
    let started = Instant::now();
    for text in [
        bomb,
        "[".repeat(20_000),
        format!("{}{}", "[".repeat(60), "]".repeat(60)),
        "{a: ".repeat(20_000),
        "---\n".repeat(5_000),
        keys,
        format!("{long}: 1\n"),
        format!("spec: {long}\n"),
        format!("spec: [{}]", "x: 1, ".repeat(1_000)),
    ] {
        let text =
            format!("apiVersion: renet/v1\nkind: Machine\nmetadata: {{ name: m }}\nx: {text}");
        let dir = folder(&[("a.yaml", &text), ("b.yaml", &text.replace("\nx: ", "\n"))]);
        let folder = load(dir.path());
        assert!(folder.manifests.machine.is_none());
        assert!(folder.render(true, 80).len() < 200_000);
    }
    assert!(started.elapsed() < Duration::from_secs(20));
}

/// Manifests with a part replaced by anything: most get past the parser.
fn nearly_valid() -> impl Strategy<Value = Vec<u8>> {
    let whole = [MACHINE, REPOSITORY, SERVICE, ROUTE, COMPOSE]
        .join("---\n")
        .into_bytes();
    let parts = [
        "", "{", "[", "]", ": ", "- ", "&a ", "*a", "\t", "\u{85}", "\u{feff}", "ü", "\0",
        "!!int ", "<<: ", "|\n", "'", "? ",
    ];
    let part = prop_oneof![
        prop::sample::select(parts.to_vec()).prop_map(|part| part.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec((0..whole.len(), 0..6_usize, part), 1..4).prop_map(move |edits| {
        let mut text = whole.clone();
        for (at, length, part) in edits {
            let at = at.min(text.len());
            let end = (at + length).min(text.len());
            text.splice(at..end, part);
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_input_makes_it_panic(
        bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..200), nearly_valid()],
        width in 0_usize..200,
    ) {
        let dir = folder(&[("web/docker-compose.yml", COMPOSE)]);
        fs::write(dir.path().join("a.yaml"), &bytes).unwrap();
        let folder = load(dir.path());
        let _ = folder.render(true, width);
        let all = format!("{REPOSITORY}---\n{SERVICE}");
        fs::write(dir.path().join("a.yaml"), all).unwrap();
        fs::write(dir.path().join("web/docker-compose.yml"), &bytes).unwrap();
        let _ = load(dir.path()).render(false, width);
    }
}
