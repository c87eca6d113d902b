//! What an operator types at a repository's daemon: `renet docker`, `renet compose`,
//! `renet daemon` and `renet ips`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Output, Stdio};

use super::lab::{Lab, said};

const IMAGE: &str = "FROM scratch\nCOPY busybox /bin/busybox\nENTRYPOINT [\"/bin/busybox\"]\n";

/// Runs it in a folder.
fn within(lab: &Lab, folder: &Path, args: &[&str]) -> Output {
    lab.command(args).current_dir(folder).output().unwrap()
}

fn words<'a>(command: &[&'a str], to: &[&'a str], args: &[&'a str]) -> Vec<&'a str> {
    [command, to, args].concat()
}

#[track_caller]
fn expect(lab: &Lab, folder: &Path, code: i32, args: &[&str]) -> String {
    let output = within(lab, folder, args);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(code), "renet {args:?}:\n{text}");
    text
}

#[test]
fn what_is_typed_reaches_that_daemon_untouched_and_no_other() {
    let Some(lab) = Lab::new("typed") else { return };
    lab.expect(0, &["apply"]);
    let network = lab.network();
    let guid = lab.guid("hello");
    let web = lab.inside(&guid, "web");
    let to = ["--network-id", network.as_str(), "--"];
    let docker = |args| words(&["docker"], &to, args);
    let compose = |args| words(&["compose"], &to, args);

    // O-41: without `--` nothing is run.
    lab.says(2, &["docker", "ps"], "-- ARGS");
    lab.says(2, &["compose", "--network-id", &network, "ps"], "-- ARGS");
    // O-40
    let listed = lab.expect(0, &docker(&["ps", "-q", "--no-trunc"]));
    let direct = lab.docker(&["ps", "-q", "--no-trunc"]).unwrap();
    assert_eq!(listed.trim(), direct);

    let bytes: Vec<u8> = (0..1_u32 << 20)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let echo = docker(&["exec", "-i", "web-web-1", "/bin/busybox", "cat"]);
    for echo in [echo, compose(&["exec", "-T", "web", "/bin/busybox", "cat"])] {
        let mut child = lab
            .command(&echo)
            .current_dir(&web)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let sent = bytes.clone();
        let feed = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
        let output = child.wait_with_output().unwrap();
        feed.join().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(
            output.stdout == bytes,
            "{} bytes came back",
            output.stdout.len()
        );
    }
    let ends = ["/bin/busybox", "sh", "-c", "exit 42"];
    let exec = [&["exec", "web-web-1"][..], &ends].concat();
    lab.expect(42, &words(&["docker"], &to, &exec));
    expect(
        &lab,
        &web,
        42,
        &words(
            &["compose"],
            &to,
            &[&["exec", "-T", "web"][..], &ends].concat(),
        ),
    );

    // The daemon is the repository's, whatever anything says.
    for (name, value) in [
        ("DOCKER_HOST", "unix:///nowhere.sock"),
        ("DOCKER_CONTEXT", "other"),
        ("DOCKER_CONFIG", "/nowhere"),
        ("DOCKER_TLS_VERIFY", "1"),
        ("COMPOSE_FILE", "/nowhere.yml"),
        ("COMPOSE_PROJECT_NAME", "other"),
    ] {
        for args in [
            docker(&["ps", "-q", "--no-trunc"]),
            compose(&["ps", "-q", "--no-trunc"]),
        ] {
            let mut command = lab.command(&args);
            let output = command.env(name, value).current_dir(&web).output().unwrap();
            assert_eq!(said(&output).trim(), direct, "{name}");
        }
    }
    lab.expect(2, &docker(&["-H", "unix:///var/run/docker.sock", "ps"]));
    lab.expect(2, &docker(&["--context=default", "ps"]));
    lab.expect(
        2,
        &compose(&["--host", "unix:///var/run/docker.sock", "ps"]),
    );
    lab.says(2, &docker(&["compose", "ps"]), "renet compose --");
    // The folder says which network.
    assert_eq!(
        expect(&lab, &web, 0, &["docker", "--", "ps", "-q", "--no-trunc"]).trim(),
        direct
    );
    lab.says(2, &["docker", "--", "ps"], "which network");
    lab.says(
        3,
        &["docker", "--network-id", "64000", "--", "ps"],
        "no repository has",
    );
    lab.says(
        2,
        &["docker", "--network-id", "63", "--", "ps"],
        "multiple of 64",
    );

    let base: u32 = network.parse().unwrap();
    let ip = std::net::Ipv4Addr::from((127 << 24) + base + 2);
    // Compose is given what renet gave it: nothing is made anew.
    let before = lab.running();
    expect(&lab, &web, 0, &compose(&["up", "-d"]));
    assert_eq!(lab.running(), before);
    // O-42
    let config = expect(&lab, &web, 0, &compose(&["config"]));
    for word in [
        "network_mode: host",
        &format!("rediacc.network_id: \"{network}\""),
        "rediacc.service_name: web",
        &format!("rediacc.service_ip: {ip}"),
        "rediacc.repo_name: hello",
        &format!("SERVICE_IP: {ip}"),
        &format!(
            "renet.config_files: {}",
            web.join("docker-compose.yml").display()
        ),
    ] {
        assert!(config.contains(word), "`{word}` is not in:\n{config}");
    }
    let nothing = expect(&lab, Path::new("/"), 3, &compose(&["up", "-d"]));
    for word in [
        "no compose file here",
        "docker-compose.yml",
        &web.display().to_string(),
    ] {
        assert!(nothing.contains(word), "`{word}` is not in:\n{nothing}");
    }
    lab.expect(0, &compose(&["ls"]));
    let down = expect(&lab, &web, 0, &compose(&["down"]));
    assert!(down.contains("service/hello/web is declared in"), "{down}");
    assert!(lab.running().is_empty());
    lab.mended("missing → running");

    // The daemon.
    let daemon = |verb: &'static str| ["daemon", verb, "--network-id", network.as_str()];
    lab.says(0, &daemon("status"), "running");
    lab.says(0, &daemon("logs"), "API listen on");
    lab.says(0, &daemon("restart"), "runs");
    lab.says(0, &daemon("stop"), "left alone until");
    lab.says(0, &daemon("stop"), "already");
    lab.says(0, &daemon("status"), "stopped");
    lab.says(3, &docker(&["ps"]), "renet daemon start");
    expect(&lab, &web, 0, &compose(&["config", "-q"]));
    lab.expect(0, &["apply"]);
    lab.says(0, &daemon("status"), "stopped");
    lab.says(0, &daemon("start"), "runs");
    let status = lab.renet(&["daemon", "status", "--network-id", &network, "-o", "json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["state"], "running");
    lab.expect(0, &["apply"]);
    for verb in ["status", "stop", "logs"] {
        lab.says(
            0,
            &["daemon", verb, "--network-id", "64000"],
            "no repository has",
        );
    }
    lab.uninstall();
}

#[test]
fn o43_a_repository_without_manifests_gets_the_documented_addresses() {
    let Some(lab) = Lab::empty("ips") else { return };
    lab.expect(0, &["datastore", "init", "--size", "1G"]);
    let create = [
        "repository",
        "create",
        "--name",
        "shop",
        "--network-id",
        "2816",
    ];
    lab.expect(
        0,
        &[&create[..], &["--size", "128M", "--unencrypted"]].concat(),
    );
    let network = ["--network-id", "2816"];
    lab.expect(0, &[&["daemon", "start"][..], &network].concat());
    let guid = lab.guid("shop");
    let web = lab.inside(&guid, "web");
    fs::create_dir(&web).unwrap();
    fs::write(web.join("Dockerfile"), IMAGE).unwrap();
    fs::copy("/usr/bin/busybox", web.join("busybox")).unwrap();
    let service = |name: &str| {
        let ip = format!("${{{}_IP}}", name.to_uppercase());
        format!(
            "  {name}:\n    image: test/busybox\n    build: .\n    command: [httpd, -f, -p, \"{ip}:6000\", -h, /bin]\n    stop_grace_period: 0s\n    ports: ['80:80']\n"
        )
    };
    let services: String = ["redis", "api", "postgres"].map(service).concat();
    fs::write(
        web.join("docker-compose.yml"),
        format!("services:\n{services}"),
    )
    .unwrap();
    let up = expect(
        &lab,
        &web,
        0,
        &["compose", "--network-id", "2816", "--", "up", "-d"],
    );
    assert!(up.contains("services.api.ports is ignored"), "{up}");
    let slots = fs::read_to_string(lab.inside(&guid, ".rediacc.json")).unwrap();
    let slots: serde_json::Value = serde_json::from_str(&slots).unwrap();
    for (slot, name) in ["api", "postgres", "redis"].iter().enumerate() {
        let ip = format!("127.0.11.{}", slot + 2);
        assert_eq!(slots["services"][name]["slot"], slot);
        lab.says(0, &[&["ips"][..], &network].concat(), &ip);
        let seen = "{{index .Config.Labels \"rediacc.service_ip\"}}";
        let label = lab.docker_of("2816", &["inspect", "-f", seen, &format!("web-{name}-1")]);
        assert_eq!(label.as_deref(), Some(ip.as_str()));
        let hosts = [
            "exec",
            &format!("web-{name}-1"),
            "/bin/busybox",
            "cat",
            "/etc/hosts",
        ];
        let hosts = lab.docker_of("2816", &hosts).unwrap();
        assert!(hosts.contains("127.0.11.4\tredis"), "{hosts}");
    }
    // What is not its own project's name is refused; so is what is elsewhere.
    let to = ["--network-id", "2816", "--"];
    let compose = |args| words(&["compose"], &to, args);
    expect(&lab, &web, 2, &compose(&["-p", "other", "ps"]));
    let own = web.join("docker-compose.yml").display().to_string();
    expect(
        &lab,
        Path::new("/"),
        0,
        &words(&["compose"], &to, &["-f", &own, "ps"]),
    );
    // A slot stays until it is released.
    lab.says(
        3,
        &["ips", "--network-id", "2816", "--release", "redis"],
        "is in web",
    );
    let two: String = ["api", "postgres"].map(service).concat();
    fs::write(web.join("docker-compose.yml"), format!("services:\n{two}")).unwrap();
    expect(&lab, &web, 0, &compose(&["up", "-d", "--remove-orphans"]));
    lab.says(0, &["ips", "--network-id", "2816"], "redis");
    lab.says(
        0,
        &["ips", "--network-id", "2816", "--release", "redis"],
        "is free",
    );
    let left = lab.expect(0, &["ips", "--network-id", "2816", "-o", "json"]);
    assert!(
        !left.contains("redis") && left.contains("127.0.11.3"),
        "{left}"
    );
    lab.says(
        0,
        &["ips", "--network-id", "2816", "--release", "redis"],
        "nothing to do",
    );

    evasions(&lab, &web, &compose(&["config", "-q"]));
    lab.uninstall();
}

/// What leaves the repository by ways that only compose's own resolution shows.
fn evasions(lab: &Lab, web: &Path, config: &[&str]) {
    let file = web.join("docker-compose.yml");
    let put = |name: &str, text: &str| fs::write(web.join(name), text).unwrap();
    put(
        "privileged.yml",
        "services:\n  base:\n    image: i\n    privileged: true\n",
    );
    put(
        "env.yml",
        "services:\n  base:\n    image: i\n    env_file: /etc/hostname\n",
    );
    symlink("/etc", web.join("out")).unwrap();
    symlink("/etc/hostname", web.join("linked.env")).unwrap();
    for (text, place, word) in [
        (
            "services:\n  api:\n    image: i\n    privileged: true\n",
            "docker-compose.yml:4:5",
            "services.api.privileged",
        ),
        (
            "services:\n  api:\n    extends: {file: privileged.yml, service: base}\n",
            "docker-compose.yml:2:3",
            "services.api.privileged",
        ),
        (
            "include: [privileged.yml]\nservices:\n  api: {image: i}\n",
            "privileged.yml:4:5",
            "services.base.privileged",
        ),
        (
            "x-a: &a {pid: host}\nservices:\n  api:\n    <<: *a\n    image: i\n",
            "docker-compose.yml:",
            "services.api.pid",
        ),
        (
            "services:\n  api:\n    image: i\n    volumes: ['../../../..:/t']\n",
            "docker-compose.yml:4:5",
            "leaves the repository",
        ),
        (
            "services:\n  api:\n    image: i\n    volumes: [{type: bind, source: /run, target: /t}]\n",
            "docker-compose.yml:4:5",
            "leaves the repository",
        ),
        (
            "services:\n  api:\n    image: i\n    volumes: ['~/x:/t']\n",
            "docker-compose.yml:4:5",
            "leaves the repository",
        ),
        (
            "services:\n  api:\n    image: i\n    volumes: ['./out:/t']\n",
            "",
            "through a link",
        ),
        (
            "services:\n  api:\n    image: i\n    env_file: linked.env\n",
            "docker-compose.yml:4:15",
            "leaves the repository",
        ),
        (
            "services:\n  api:\n    image: i\n    env_file: [{path: /etc/hostname}]\n",
            "docker-compose.yml:4:23",
            "leaves the repository",
        ),
        (
            "x-a: &a {env_file: /etc/hostname}\nservices:\n  api:\n    <<: *a\n    image: i\n",
            "docker-compose.yml:1:",
            "leaves the repository",
        ),
        (
            "services:\n  api:\n    extends: {file: env.yml, service: base}\n",
            "env.yml:4:15",
            "leaves the repository",
        ),
        (
            "services:\n  api:\n    extends: {file: /etc/x.yml, service: base}\n",
            "docker-compose.yml:3:21",
            "leaves the repository",
        ),
        (
            "include: ['https://x.test/y.git']\nservices:\n  api: {image: i}\n",
            "docker-compose.yml:1:11",
            "another machine",
        ),
        (
            "include: ['oci://x.test/y']\nservices:\n  api: {image: i}\n",
            "docker-compose.yml:1:11",
            "another machine",
        ),
        (
            "include: ['github.com/x/y']\nservices:\n  api: {image: i}\n",
            "docker-compose.yml:1:11",
            "another machine",
        ),
        (
            "services:\n  api:\n    image: i\n    volumes: [data:/d]\nvolumes:\n  data: {driver_opts: {type: none, o: bind, device: /etc}}\n",
            "docker-compose.yml:6:10",
            "volumes.data.driver_opts",
        ),
        (
            "services:\n  api:\n    image: i\n    secrets: [s]\nsecrets:\n  s: {file: /etc/shadow}\n",
            "docker-compose.yml:6:7",
            "secrets.s.file",
        ),
        (
            "services:\n  api:\n    profiles: [hidden]\n    image: i\n    privileged: true\n  web: {image: i}\n",
            "docker-compose.yml:5:5",
            "services.api.privileged",
        ),
    ] {
        fs::write(&file, text).unwrap();
        let output = within(lab, web, config);
        let said = said(&output);
        let refused = said.contains(place) && said.contains(word);
        assert!(
            refused && output.status.code() == Some(3),
            "{text}:\n{said}"
        );
    }
    fs::write(&file, "services:\n  api: {image: i}\n").unwrap();
    put("more.yml", "services:\n  api: {ipc: host}\n");
    let both = ["-f", "docker-compose.yml", "-f", "more.yml", "config", "-q"];
    let both = [&config[..4], &both[..]].concat();
    let said = expect(lab, web, 3, &both);
    assert!(said.contains("more.yml:2:9: services.api.ipc"), "{said}");
    // Who insists is not asked; what is on another machine is not fetched all the same.
    let unsafe_ = [&["compose", "--unsafe"][..], &both[1..]].concat();
    expect(lab, web, 0, &unsafe_);
    fs::write(
        &file,
        "include: ['oci://x.test/y']\nservices:\n  api: {image: i}\n",
    )
    .unwrap();
    let said = expect(lab, web, 3, &unsafe_);
    assert!(said.contains("another machine"), "{said}");
}
