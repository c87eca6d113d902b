//! The reference page's commands, as they are written there.

use super::vm::Machine;
use crate::guest::Guest as _;

/// A machine on which the page's placeholders stand for something.
struct Page {
    machine: Machine,
    uuid: String,
    id: u32,
}

impl Page {
    /// Runs lines of the page, with what their placeholders stand for.
    #[track_caller]
    fn run(&self, lines: &str) -> String {
        let lines = lines
            .replace("{uuid}", &self.uuid)
            .replace("{id}", &self.id.to_string());
        // Everybody is root here.
        self.machine.put(
            "/root/page",
            format!("sudo() {{ \"$@\"; }}\n{lines}\n").as_bytes(),
        );
        let output = self.machine.run(&["bash", "-eo", "pipefail", "/root/page"]);
        assert_eq!(output.code, 0, "{lines}: {output:#?}");
        output.stdout + &output.stderr
    }
}

/// Three services, as the page's example has them.
const COMPOSE: &str = r#"services:
  postgres:
    build: ./image
    command: [httpd, -f, -p, "${POSTGRES_IP}:5432", -h, /bin]
    stop_grace_period: 0s
  redis:
    build: ./image
    command: [httpd, -f, -p, "${REDIS_IP}:6379", -h, /bin]
    stop_grace_period: 0s
  api:
    build: ./image
    depends_on: [postgres, redis]
    command: [httpd, -f, -p, "${API_IP}:8080", -h, /bin]
    stop_grace_period: 0s
    labels:
      traefik.enable: "true"
      traefik.http.routers.api.rule: "Host(`api.localhost`)"
      traefik.http.services.api.loadbalancer.server.port: "8080"
"#;

const REDIACCFILE: &str = r#"#!/bin/bash
up() {
    renet compose -- up -d
}
down() {
    renet compose -- down
}
"#;

#[test]
fn the_page_s_commands_do_what_it_says() {
    let machine = Machine::boot();
    let page = Page {
        machine,
        uuid: "3e1cbd8f-9c55-4f6c-a1a6-4d9a0d6b8a11".to_owned(),
        id: 2816,
    };
    let machine = &page.machine;
    page.run("renet datastore init --size 8G");
    page.run("printf secret | renet repository create --name {uuid} --network-id {id} --size 2G --encrypted");
    let listed = page.run("renet repository list");
    assert!(listed.contains(&page.uuid), "{listed}");
    page.run("renet repository status --name {uuid}");

    // Files are added, and it is started.
    let inside = format!("/mnt/rediacc/mounts/{}", page.uuid);
    machine.put(&format!("{inside}/docker-compose.yml"), COMPOSE.as_bytes());
    let image = b"FROM scratch\nCOPY busybox /bin/busybox\nENTRYPOINT [\"/bin/busybox\"]\n";
    machine.put(&format!("{inside}/image/Dockerfile"), image);
    machine.sh(&format!("cp /usr/bin/busybox {inside}/image"));
    machine.put(&format!("{inside}/Rediaccfile"), REDIACCFILE.as_bytes());
    machine.put(
        &format!("{inside}/.rediacc.json"),
        br#"{"services": {"postgres": {"slot": 0}, "redis": {"slot": 1}, "api": {"slot": 2}}}"#,
    );
    page.run(
        "printf secret | renet repository up --name {uuid} --network-id {id} --password-stdin",
    );
    for address in ["127.0.11.2:5432", "127.0.11.3:6379", "127.0.11.4:8080"] {
        let asked = format!("curl -sf -m 10 -o /dev/null http://{address}/busybox");
        machine.until(&asked, std::time::Duration::from_secs(30));
    }
    let ips = page.run("renet ips --network-id {id}");
    assert!(ips.contains("127.0.11.4"), "{ips}");

    let compose = |args: &str| {
        page.run(&format!(
            "cd {inside}\nsudo renet compose --network-id {{id}} -- {args}"
        ))
    };
    compose("up -d");
    assert!(compose("config").contains("127.0.11.2"));
    compose("logs");
    compose("down");
    compose("up -d");
    let ps = page.run("sudo renet docker --network-id {id} -- ps --format '{{.Names}}'");
    let container = ps.lines().find(|name| name.contains("api")).unwrap();
    page.run(&format!(
        "sudo renet docker --network-id {{id}} -- logs {container}"
    ));
    let asked = page.run(&format!(
        "sudo renet docker --network-id {{id}} -- exec -i {container} /bin/busybox echo from within"
    ));
    assert!(asked.contains("from within"), "{asked}");
    let direct = "DOCKER_HOST=unix:///run/rediacc/docker-{id}.sock docker ps";
    assert!(page.run(direct).contains(container));
    let found = page.run(&format!(
        r#"for sock in /run/rediacc/docker-*.sock; do
  result=$(DOCKER_HOST=unix://$sock docker ps --format '{{{{.Names}}}}' 2>/dev/null | grep {container})
  [ -n "$result" ] && echo "Found on: $sock"
done"#
    ));
    assert!(found.contains("docker-2816.sock"), "{found}");

    page.run("renet daemon status --network-id {id}");
    page.run("renet daemon logs   --network-id {id}");
    page.run("renet daemon stop   --network-id {id}");
    page.run("renet daemon start  --network-id {id}");
    for unit in [
        "rediacc-docker-2816.service",
        "rediacc-docker-2816.socket",
        "rediacc-loopback-2816.service",
    ] {
        machine.sh(&format!("systemctl is-active {unit}"));
    }

    page.run("renet proxy up");
    let asked = "curl -sf 127.0.0.1:7111/health";
    machine.until(asked, std::time::Duration::from_secs(30));
    machine.sh("systemctl is-active rediacc-router.service");
    page.run("renet proxy status");
    page.run("renet proxy refresh");
    let routes = page.run("renet proxy routes");
    assert!(routes.contains("api.localhost"), "{routes}");
    page.run("renet proxy logs");
    page.run("renet proxy down");

    // Copied and grown while it runs.
    let copy = "7a1f0c55-0d0b-4d7e-9b1e-5f2f3c1b7e22";
    page.run(&format!(
        "renet repository fork --source {{uuid}} --target {copy}"
    ));
    assert!(page.run("renet repository list").contains(copy));
    let room = || -> u64 {
        let line = machine.sh(&format!("df --output=size -B1M {inside} | tail -n 1"));
        line.trim().parse().unwrap()
    };
    let before = room();
    page.run("renet repository expand --name {uuid} --size 4G");
    assert!(room() > before * 19 / 10, "{before} MiB to {}", room());
    machine.sh("curl -sf -m 10 -o /dev/null http://127.0.11.4:8080/busybox");

    page.run("renet datastore status");
    page.run("renet datastore validate");
    page.run("renet datastore expand");
    page.run("renet prune --dry-run");
    page.run("renet prune");
    let listed = page.run("renet repository list");
    assert!(
        listed.contains(copy) && listed.contains(&page.uuid),
        "{listed}"
    );

    page.run("renet repository down --name {uuid} --network-id {id}");
    assert_eq!(
        page.run("sudo renet docker --network-id {id} -- ps -aq")
            .trim(),
        ""
    );
    page.run("renet repository delete --name {uuid} --network-id {id}");
    let gone = machine.open();
    assert!(!gone.contains(&page.uuid), "{gone}");
    let listed = page.run("renet repository list");
    assert!(listed.contains(copy), "{listed}");
}
