//! Daemons and the proxy as systemd's units.

use std::time::Duration;

use super::nspawn::Container;
use crate::desired;
use crate::guest::{Guest as _, story};

const LONG: Duration = Duration::from_secs(30);

/// A repository with a service that runs, and its network.
fn running(container: &Container) -> u64 {
    story::declare(container, "Hello");
    container.expect(0, &["apply", "--yes"]);
    container.listed("shop")["network_id"].as_u64().unwrap()
}

fn docker(network: u64) -> String {
    format!("docker -H unix:///run/rediacc/docker-{network}.sock")
}

fn is_active(container: &Container, unit: &str) -> bool {
    container.run(&["systemctl", "is-active", unit]).code == 0
}

/// The units of daemons, in whatever state, and their files.
fn units(container: &Container) -> String {
    container.sh(
        "systemctl list-units --all --plain --no-legend 'rediacc-docker-*' 'rediacc-loopback-*'
        find /run/systemd/system /etc/systemd/system -name 'rediacc-docker-*' -o -name 'rediacc-loopback-*'",
    )
}

#[test]
fn a_daemon_is_a_unit_which_its_socket_starts_and_a_look_does_not() {
    let container = Container::boot();
    let network = running(&container);
    let (docker, service) = (docker(network), format!("rediacc-docker-{network}.service"));
    let all =
        format!("{service} rediacc-docker-{network}.socket rediacc-loopback-{network}.service");
    container.sh(&format!("systemctl is-active {all} rediacc-proxy.service"));
    let said = container.run(&["sh", "-c", &format!("systemd-analyze verify {all} 2>&1")]);
    assert_eq!((said.code, said.stdout.as_str()), (0, ""));
    assert!(container.sh("ip address show lo").contains("/26"));

    // Killed: it is back, and the container never knew.
    let ran = format!("{docker} inspect -f '{{{{.Id}}}} {{{{.State.StartedAt}}}}' web-web-1");
    let before = container.sh(&ran);
    container.sh(&format!("kill -9 $(systemctl show -P MainPID {service})"));
    assert_eq!(container.until(&ran, LONG), before);
    container.expect(0, &["diff"]);
    story::says(&container, "Hello");

    // Stopped, while its socket listens.
    container.sh(&format!("systemctl stop {service}"));
    let list = container.expect(0, &["repository", "list"]);
    assert!(list.contains("shop"), "{list}");
    container.expect(0, &["repository", "status", "shop"]);
    container.expect(1, &["diff"]);
    assert!(!is_active(&container, &service));
    assert_eq!(container.sh(&ran), before, "its socket did not start it");
    assert!(is_active(&container, &service));
    container.sh(&format!("systemctl stop {service}"));
    container.expect(0, &["apply"]);
    assert_eq!(container.sh(&ran), before);
    story::says(&container, "Hello");

    container.expect(0, &["repository", "down", "shop"]);
    container.expect(0, &["repository", "unmount", "shop"]);
    assert_eq!(units(&container), "");
    assert_eq!(container.open(), "");
    assert!(!container.sh("ip address show lo").contains("/26"));
}

/// Found once it runs, whatever its compose file says; a container may have several
/// processes.
#[test]
fn what_listens_on_every_address_is_said() {
    let container = Container::boot();
    story::declare(&container, "Hello");
    let open = |(path, text): (String, String)| (path, text.replace("${WEB_IP}:8080", "8080"));
    container.declare(desired::service("shop", "web", "Hello").map(open));
    const WORDS: &str = "warning: web listens on 8080/tcp of every address of this machine";
    let applied = container
        .expect(0, &["apply", "--yes"])
        .replace("\n    ", " ");
    assert!(applied.contains(WORDS), "{applied}");
    let rows = container.json(&["get", "service"]);
    let warnings = rows["objects"][0]["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{rows}");
    assert!(warnings[0].as_str().unwrap().ends_with("`${WEB_IP}`"));
    container.declare(desired::service("shop", "web", "Hello"));
    container.expect(0, &["apply", "--yes"]);
    let rows = container.json(&["get", "service"]);
    assert_eq!(rows["objects"][0].get("warnings"), None, "{rows}");
    story::says(&container, "Hello");
}

#[test]
fn l34_no_daemon_starts_on_an_empty_folder() {
    let container = Container::boot();
    let network = running(&container);
    let service = format!("rediacc-docker-{network}.service");
    let guid = container.listed("shop")["guid"]
        .as_str()
        .unwrap()
        .to_owned();
    let shop = format!("/mnt/rediacc/mounts/{guid}");
    let data = format!("/mnt/rediacc/interim/{guid}/docker/data");

    // Taken from under it: neither its service nor its socket starts it.
    container.sh(&format!(
        "{} kill web-web-1
        systemctl stop {service}
        umount -l {data} {shop}",
        docker(network)
    ));
    let refused = container.run(&["systemctl", "start", &service]);
    assert!(refused.stderr.contains("ssert"), "{refused:#?}");
    let asked = container.run(&["sh", "-c", &format!("timeout 5 {} ps", docker(network))]);
    assert_ne!(asked.code, 0, "{asked:#?}");
    assert!(!is_active(&container, &service));
    assert_eq!(container.sh(&format!("ls -A {data}")), "");
    // Nor does renet, whoever asks it to.
    let said = container.expect(3, &["daemon", "run", "--network-id", &network.to_string()]);
    assert!(said.contains("not mounted"), "{said}");
    let said = container.expect(3, &["daemon", "run", "--network-id", "6400"]);
    assert!(said.contains("no repository"), "{said}");

    container.expect(0, &["apply", "--yes"]);
    story::says(&container, "Hello");
}

#[test]
fn a_container_comes_back_with_its_daemon_as_its_restart_policy_says() {
    let container = Container::boot();
    let network = running(&container);
    let docker = docker(network);
    let image = container.sh(&format!(
        "{docker} inspect -f '{{{{.Config.Image}}}}' web-web-1"
    ));
    let sleeps = format!("--network host {} sleep 1000", image.trim());
    for (name, policy) in [("stays", "unless-stopped"), ("goes", "no")] {
        container.sh(&format!(
            "{docker} run -d --name {name} --restart {policy} {sleeps}"
        ));
    }
    container.sh(&format!(
        "{docker} run -d --name told --restart unless-stopped {sleeps}; {docker} stop -t 0 told"
    ));
    container.expect(0, &["repository", "unmount", "shop"]);
    container.expect(0, &["repository", "up", "shop"]);
    let running = format!("{docker} ps --format '{{{{.Names}}}}' | grep -x stays");
    container.until(&running, LONG);
    let names = container.sh(&format!("{docker} ps --format '{{{{.Names}}}}' | sort"));
    assert_eq!(names, "stays\nweb-web-1\n");
}

#[test]
fn what_keeps_the_machine_is_installed_changed_and_removed() {
    let container = Container::boot();
    running(&container);
    let failed = |container: &Container| container.sh("systemctl --failed --plain --no-legend");
    let refused = container.run(&["renet", "--root", "/tmp/x", "install"]);
    assert_eq!(refused.code, 2, "{refused:#?}");

    container.expect(0, &["install"]);
    container.until("systemctl is-active renet-agent.service", LONG);
    container.sh("systemctl is-active rediacc-autostart.service");
    container.sh("systemctl is-enabled renet-agent.service rediacc-autostart.service");
    let said = container.run(&[
        "sh",
        "-c",
        "systemd-analyze verify renet-agent.service rediacc-autostart.service 2>&1",
    ]);
    assert_eq!((said.code, said.stdout.as_str()), (0, ""));
    // It mends without being asked.
    story::declare(&container, "Hello again");
    container.until("test -S /run/rediacc/agent.sock && renet reconcile", LONG);
    story::says(&container, "Hello again");
    container.expect(0, &["install"]);

    container.expect(0, &["install", "--timer"]);
    assert!(!is_active(&container, "renet-agent.service"));
    container.sh(
        "systemctl is-active renet-reconcile.timer; ! systemctl is-enabled -q renet-agent.service",
    );
    story::declare(&container, "Hello a third time");
    container.sh("systemctl start renet-reconcile.service");
    story::says(&container, "Hello a third time");
    assert_eq!(failed(&container), "");

    let said = container.expect(0, &["uninstall"]);
    assert!(said.contains("goes on"), "{said}");
    story::says(&container, "Hello a third time");
    assert_eq!(
        container.sh("find /etc/systemd/system -name 'renet-*' -o -name '*autostart*'"),
        ""
    );

    container.expect(0, &["install"]);
    container.expect(0, &["uninstall", "--stop"]);
    assert_eq!(container.open(), "");
    assert_eq!(
        container.sh("losetup -n -O BACK-FILE | grep '^/mnt/rediacc' || true"),
        ""
    );
    assert_eq!(units(&container), "");
    assert_eq!(failed(&container), "");
    container.expect(0, &["apply"]);
    story::says(&container, "Hello a third time");
}
