//! What comes back by itself after a boot, and how the machine goes down before.

use std::time::Duration;

use super::luks;
use super::vm::Machine;
use crate::desired;
use crate::dice::{is_left_out, long};
use crate::guest::{Guest as _, story};

const LONG: Duration = Duration::from_secs(90);
/// What systemd gives a unit to stop, in seconds.
const LIMIT: f64 = 90.0;

/// One repository that comes back and one that does not, both encrypted.
fn declare(machine: &Machine) {
    machine.declare([
        desired::machine("{ size: 2G }", 8088),
        luks::sealed("shop", "128M", "  autostart: true\n"),
        luks::sealed("vault", "96M", ""),
        desired::route("shop", "web"),
    ]);
    let service = desired::service("shop", "web", "Hello").map(|(path, text)| {
        let grace = "    stop_grace_period: 0s\n";
        let comes_back = format!("{grace}    restart: unless-stopped\n");
        (path, text.replace(grace, &comes_back))
    });
    machine.declare(service);
}

fn comes_back(machine: &Machine) {
    machine.until("systemctl is-active rediacc-autostart.service", LONG);
    let asked = "curl -sf -m 10 -H 'Host: web.localhost' http://127.0.0.1:8088";
    assert_eq!(machine.until(asked, LONG).trim(), "Hello");
    assert_eq!(machine.listed("shop")["state"], "running");
    assert_eq!(machine.listed("vault")["state"], "offline");
    let failed = machine.sh("systemctl --failed --plain --no-legend");
    assert_eq!(failed, "");
}

/// Boots again; how it went down is in the journal.
fn reboot(machine: &mut Machine) {
    let began: f64 = machine.sh("date +%s.%N").trim().parse().unwrap();
    machine.reboot();
    let before = machine.sh("journalctl -b -1 -o short-unix --no-pager -q");
    let last = before.lines().next_back().unwrap();
    let ended: f64 = last.split(' ').next().unwrap().parse().unwrap();
    println!("down in {:.1} s", ended - began);
    assert!(ended - began < LIMIT, "{last}");
    for word in [
        "timed out",
        "Failed unmounting",
        "Failed to unmount",
        "Couldn't",
    ] {
        let mut lines = before.lines().filter(|line| line.contains(word));
        assert_eq!(lines.next(), None, "it did not go down cleanly");
    }
    assert!(before.contains("the datastore are closed"), "{before}");
    let now = machine.sh("journalctl -b -k --no-pager -q");
    let ours = |line: &&str| {
        ["EXT4-fs", "BTRFS"]
            .iter()
            .any(|kind| line.contains(kind) && !line.contains("vda"))
    };
    let mended = |line: &&str| {
        ["recover", "orphan", "replay"]
            .iter()
            .any(|word| line.contains(word))
    };
    let mut dirty = now.lines().filter(ours).filter(mended);
    assert_eq!(dirty.next(), None, "something was left open");
}

#[test]
fn l37_l43_what_has_autostart_serves_again_after_a_boot_without_a_passphrase() {
    let mut machine = Machine::boot();
    machine.sh("mkdir -p /var/log/journal; systemctl restart systemd-journald");
    luks::key(&machine);
    declare(&machine);
    machine.expect(0, &["apply", "--yes"]);
    story::says(&machine, "Hello");
    machine.expect(0, &["install", "--timer"]);
    // From now on without passphrase and without manifests: by the boot alone.
    machine.sh("systemctl disable --now renet-reconcile.timer; systemctl stop renet-reconcile");
    machine.sh("mv /etc/rediacc /etc/elsewhere; sync");

    reboot(&mut machine);
    comes_back(&machine);
    let shop = machine.listed("shop")["guid"].as_str().unwrap().to_owned();
    machine.put(&format!("/mnt/rediacc/mounts/{shop}/data"), b"acknowledged");

    // Without a word.
    machine.power_off_hard();
    machine.start();
    comes_back(&machine);
    assert_eq!(
        machine.get(&format!("/mnt/rediacc/mounts/{shop}/data")),
        b"acknowledged"
    );

    // What was told to stay down does; and what else there is, the agent does.
    machine.expect(0, &["repository", "unmount", "shop"]);
    machine.sh("mv /etc/elsewhere /etc/rediacc");
    machine.expect(0, &["install"]);
    reboot(&mut machine);
    machine.until("systemctl is-active renet-agent.service", LONG);
    machine.until(
        "renet repository status vault | grep '^state *stopped'",
        LONG,
    );
    assert_eq!(machine.listed("shop")["state"], "offline");
    machine.expect(0, &["resume", "repository/shop"]);
    machine.expect(0, &["reconcile"]);
    story::says(&machine, "Hello");
}

/// How many repositories go down at once; as many as a server may have.
const MANY: usize = 20;

#[test]
fn l37_many_repositories_are_closed_in_time() {
    if is_left_out("closed in time", 2) {
        return;
    }
    let mut machine = Machine::boot();
    let count = if long() { MANY } else { MANY / 6 };
    machine.sh("mkdir -p /var/log/journal; systemctl restart systemd-journald");
    machine.declare([desired::machine("{ size: 4G }", 8088)]);
    for n in 0..count {
        let more = "  autostart: true\n";
        machine.declare([desired::repository(&format!("shop{n}"), "96M", "", more)]);
        let service = desired::service(&format!("shop{n}"), &format!("web{n}"), "Hello");
        machine.declare(service);
    }
    machine.expect(0, &["install", "--timer"]);
    machine.sh("systemctl disable --now renet-reconcile.timer; systemctl stop renet-reconcile");
    machine.expect(0, &["apply", "--yes"]);
    reboot(&mut machine);
    machine.until("systemctl is-active rediacc-autostart.service", LONG);
    let mounted = machine.sh("grep -c ' /mnt/rediacc/mounts/' /proc/mounts");
    assert_eq!(mounted.trim(), count.to_string());
}
