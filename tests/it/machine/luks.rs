//! Encrypted repositories: on LUKS2, which this machine's own kernel may lack.

use std::time::Duration;

use super::vm::Machine;
use crate::desired;
use crate::dice::is_left_out;
use crate::guest::{DESIRED, Guest as _, story};

/// No output, argument, environment or log may hold this.
pub const PASSPHRASE: &str = "canary-hunter2";
const KEY: &str = "/etc/rediacc/keys/shop";

pub fn key(machine: &Machine) {
    machine.put(KEY, format!("{PASSPHRASE}\n").as_bytes());
    machine.sh(&format!("chmod 700 /etc/rediacc/keys; chmod 600 {KEY}"));
}

/// An encrypted repository; stretching its passphrase quickly, for time's sake.
pub fn sealed(name: &str, size: &str, more: &str) -> desired::File {
    let text = format!(
        "apiVersion: renet/v1\nkind: Repository\nmetadata: {{ name: {name} }}\nspec:\n  size: {size}\n  \
         encryption: {{ passphraseFrom: {{ file: {KEY} }}, pbkdf: pbkdf2 }}\n{more}"
    );
    (format!("{name}.yaml"), text)
}

fn declare(machine: &Machine, more: &str) {
    machine.declare([
        desired::machine("{ size: 2G }", 8088),
        sealed("shop", "128M", more),
        desired::route("shop", "web"),
    ]);
    machine.declare(desired::service("shop", "web", "Hello"));
}

/// Runs renet with the passphrase on its standard input.
#[track_caller]
pub fn with_passphrase(machine: &Machine, passphrase: &str, code: i32, args: &str) -> String {
    let script = format!("printf '%s' '{passphrase}' | renet {args} 2>&1; echo \" exit $?\"");
    // The script itself is no argument of anything there.
    machine.put("/root/script", script.as_bytes());
    let said = machine.run(&["sh", "/root/script"]).stdout;
    machine.sh("rm /root/script");
    assert!(
        said.trim_end().ends_with(&format!("exit {code}")),
        "{args}: {said}"
    );
    said
}

/// Looks for the passphrase in what other processes can see, for as long as it runs.
fn watch(machine: &Machine) {
    machine.put("/root/canary", PASSPHRASE.as_bytes());
    machine.put(
        "/root/watch",
        b"while :; do for p in /proc/[0-9]*; do grep -l -a -F -f /root/canary $p/cmdline $p/environ \
          2>/dev/null; done >>/root/leaks; sleep 0.05; done",
    );
    machine.sh("systemd-run -q -u watch sh /root/watch");
}

fn nothing_leaked(machine: &Machine) {
    // A boot ended it, too.
    machine.sh("systemctl stop watch 2>/dev/null || true; touch /root/leaks");
    assert_eq!(machine.sh("cat /root/leaks"), "");
    let found = machine.sh(
        "{ journalctl -a --no-pager | grep -c -a -F -f /root/canary || true
        grep -rlaF -f /root/canary /var/lib/rediacc /run/rediacc /var/log /mnt/rediacc/.interim 2>/dev/null || true
        ls /var/lib/systemd/coredump 2>/dev/null || true; }",
    );
    assert_eq!(found.trim(), "0");
}

pub fn mount_of(machine: &Machine, name: &str) -> String {
    let guid = machine.listed(name)["guid"].as_str().unwrap().to_owned();
    format!("/mnt/rediacc/mounts/{guid}")
}

/// Everything of a repository is gone, by any name.
fn nothing_is_left_of(machine: &Machine, guid: &str, network: u64) {
    let left = machine.sh(&format!(
        "{{ ls /dev/mapper; losetup -n -O BACK-FILE; cat /proc/mounts; ls /run/rediacc
        systemctl list-units --all --plain --no-legend
        find /mnt/rediacc /run/rediacc /var/lib/rediacc /etc/systemd /run/systemd -xdev; }} | grep -e {guid} -e docker-{network} | grep -v /run/rediacc/locks/ || true"
    ));
    assert_eq!(left, "", "{guid} has left something");
}

#[test]
fn l33_l36_l62_an_encrypted_repository_runs_grows_is_copied_and_goes() {
    let mut machine = Machine::boot();
    key(&machine);
    watch(&machine);
    declare(&machine, "  autostart: true\n");
    machine.expect(0, &["apply", "--yes"]);
    story::says(&machine, "Hello");
    let again = machine.expect(0, &["apply"]);
    assert!(again.starts_with("In sync"), "{again}");
    let shop = mount_of(&machine, "shop");
    assert!(machine.sh("lsblk -n -o TYPE").contains("crypt"));

    // Larger, under somebody who writes all the time and makes it last.
    machine.put(
        "/root/writer",
        format!(
            "n=0; while [ ! -e /root/stop ]; do n=$((n+1)); echo \"$n $(date +%s%N)\" >>{shop}/counter && sync {shop}/counter || exit 1; \
             echo $n >/root/acknowledged; sleep 0.1; done"
        )
        .as_bytes(),
    );
    machine.sh("systemd-run -q -u writer sh /root/writer; sleep 1");
    machine.expect(0, &["repository", "expand", "shop", "--size", "256M"]);
    assert!(
        machine
            .sh(&format!("df -m --output=size {shop} | tail -1"))
            .trim()
            .parse::<u64>()
            .unwrap()
            > 200
    );

    // A copy of it while it runs; then both run, with the same names and ports.
    let acknowledged = machine
        .sh("cat /root/acknowledged")
        .trim()
        .parse::<u64>()
        .unwrap();
    machine.expect(
        0,
        &["repository", "fork", "--source", "shop", "--target", "copy"],
    );
    machine.sh("touch /root/stop; sleep 0.5; systemctl is-failed writer && exit 1; true");
    with_passphrase(
        &machine,
        PASSPHRASE,
        0,
        "repository up copy --password-stdin",
    );
    let copy = mount_of(&machine, "copy");
    let network = machine.listed("copy")["network_id"].as_u64().unwrap();
    let docker = format!("docker -H unix:///run/rediacc/docker-{network}.sock");
    assert_eq!(machine.sh(&format!("{docker} ps -aq")), "");
    let counted = machine.sh(&format!("tail -1 {copy}/counter | cut -d' ' -f1"));
    assert!(
        counted.trim().parse::<u64>().unwrap() >= acknowledged,
        "{counted} < {acknowledged}"
    );
    let address = format!(
        "127.{}.{}.{}",
        network >> 16,
        network >> 8 & 255,
        (network & 255) + 2
    );
    machine.sh(&format!(
        "{docker} run -d --name web-web-1 --network host $({docker} images -q | head -1) sh -c \
         'busybox mkdir -p /www; echo Copy > /www/index.html; exec busybox httpd -f -p {address}:8080 -h /www'"
    ));
    let asked = format!("curl -sf -m 10 http://{address}:8080");
    assert_eq!(
        machine.until(&asked, Duration::from_secs(20)).trim(),
        "Copy"
    );
    story::says(&machine, "Hello");
    // No writer waited for long: the gaps between two lines, in milliseconds.
    let gap = machine.sh(&format!(
        "awk '{{ if (last && $2 - last > gap) gap = $2 - last; last = $2; if ($1 != NR) exit 1 }} \
         END {{ printf \"%d\", gap / 1e6 }}' {shop}/counter"
    ));
    println!("the writer's longest gap: {gap} ms");
    assert!(gap.trim().parse::<u64>().unwrap() < 5_000, "{gap} ms");

    let guid = machine.listed("copy")["guid"].as_str().unwrap().to_owned();
    machine.expect(0, &["repository", "delete", "copy", "--now"]);
    nothing_is_left_of(&machine, &guid, network);

    // After a boot its key opens it: the passphrase is not needed, nor there.
    let sum = machine.sh(&format!("sha256sum <{shop}/counter"));
    machine.expect(0, &["install", "--timer"]);
    machine.sh(&format!("rm {KEY}; sync"));
    machine.reboot();
    const BOOT: Duration = Duration::from_secs(180);
    machine.until("systemctl is-active rediacc-autostart.service", BOOT);
    assert_eq!(machine.sh(&format!("sha256sum <{shop}/counter")), sum);
    machine.expect(0, &["reconcile"]);
    story::says(&machine, "Hello");

    let row = machine.listed("shop");
    let (guid, network) = (row["guid"].as_str(), row["network_id"].as_u64());
    machine.expect(0, &["uninstall"]);
    machine.expect(0, &["repository", "delete", "shop", "--now"]);
    // Remembered for as long as a manifest declares it.
    machine.sh(&format!(
        "find {DESIRED} -mindepth 1 ! -name machine.yaml -delete"
    ));
    machine.expect(0, &["apply"]);
    nothing_is_left_of(&machine, guid.unwrap(), network.unwrap());
    nothing_leaked(&machine);
}

#[test]
fn l35_what_opens_nothing_is_said_and_leaves_nothing_open() {
    if is_left_out("opens nothing", 2) {
        return;
    }
    let machine = Machine::boot();
    watch(&machine);
    machine.expect(0, &["datastore", "init", "--size", "1G"]);
    let create = "repository create --name own --size 96M --pbkdf pbkdf2";
    let said = with_passphrase(&machine, "", 3, create);
    assert!(said.contains("empty"), "{said}");
    with_passphrase(&machine, PASSPHRASE, 0, create);
    let own = mount_of(&machine, "own");
    let guid = own.rsplit('/').next().unwrap();
    machine.put(&format!("{own}/data"), b"acknowledged");
    machine.expect(0, &["repository", "unmount", "own"]);
    let closed = machine.open();
    for (passphrase, word) in [("wrong", "No key available"), ("", "empty")] {
        let said = with_passphrase(&machine, passphrase, 3, "repository mount own");
        assert!(said.contains(word), "{said}");
        assert_eq!(machine.open(), closed);
        assert!(!machine.sh("ls /dev/mapper").contains(guid));
    }
    // Twenty at once: one device, one mount.
    let mount = format!("printf %s {PASSPHRASE} | renet repository mount own >/dev/null 2>&1 &");
    machine.put(
        "/root/script",
        format!("for n in $(seq 20); do {mount} done; wait").as_bytes(),
    );
    machine.sh("sh /root/script; rm /root/script");
    let devices = machine.sh(&format!("losetup -n -O BACK-FILE | grep -c {guid}"));
    assert_eq!(devices.trim(), "1");
    assert_eq!(machine.get(&format!("{own}/data")), b"acknowledged");
    // What is open needs no passphrase, and its key is made by leave of it.
    machine.expect(0, &["repository", "mount", "own"]);
    with_passphrase(&machine, PASSPHRASE, 0, "repository autostart enable own");
    machine.expect(0, &["repository", "unmount", "own"]);
    machine.expect(0, &["repository", "validate", "own"]);
    // One that no longer fits is made anew, by leave of the passphrase.
    let key = format!("/mnt/rediacc/.credentials/keys/{guid}.key");
    machine.sh(&format!("head -c 256 /dev/urandom >{key}"));
    with_passphrase(
        &machine,
        PASSPHRASE,
        0,
        "repository mount own --password-stdin",
    );
    machine.expect(0, &["repository", "unmount", "own"]);
    machine.expect(0, &["repository", "mount", "own"]);
    machine.expect(0, &["repository", "autostart", "disable", "own"]);
    machine.expect(0, &["repository", "unmount", "own"]);

    // A header that is gone, in both of its places: nothing is opened, nothing made.
    let image = format!("/mnt/rediacc/repositories/{guid}");
    machine.sh(&format!("cp --reflink=always {image} /mnt/rediacc/kept"));
    machine.sh(&format!(
        "dd if=/dev/zero of={image} bs=1M count=1 conv=notrunc status=none; sync"
    ));
    let said = with_passphrase(&machine, PASSPHRASE, 3, "repository mount own");
    assert!(said.contains("header may be damaged"), "{said}");
    // Cut short behind everybody's back.
    machine.sh(&format!(
        "cp --reflink=always /mnt/rediacc/kept {image}; truncate -s 20M {image}"
    ));
    let said = with_passphrase(&machine, PASSPHRASE, 3, "repository mount own");
    let words = ["cut short", "mount failed"];
    assert!(words.iter().any(|word| said.contains(word)), "{said}");
    // One that somebody began to encrypt anew, which would go on as soon as it is open.
    machine.expect(0, &["repository", "unmount", "own"]);
    machine.put("/root/pass", PASSPHRASE.as_bytes());
    machine.sh(&format!(
        "cp --reflink=always /mnt/rediacc/kept {image}
        cryptsetup reencrypt --init-only --batch-mode --resilience checksum --key-file /root/pass {image}
        rm /root/pass"
    ));
    let said = with_passphrase(&machine, PASSPHRASE, 3, "repository mount own");
    assert!(said.contains("reencrypt"), "{said}");
    // And whole again.
    assert_eq!(machine.open(), closed);
    machine.sh(&format!("cp --reflink=always /mnt/rediacc/kept {image}"));
    with_passphrase(&machine, PASSPHRASE, 0, "repository mount own");
    assert_eq!(machine.get(&format!("{own}/data")), b"acknowledged");
    nothing_leaked(&machine);
}

#[test]
fn l28_what_is_full_or_in_use_is_said_and_loses_nothing() {
    if is_left_out("full or in use", 2) {
        return;
    }
    let machine = Machine::boot();
    machine.expect(0, &["datastore", "init", "--size", "600M"]);
    for name in ["own", "other"] {
        let create = format!("repository create --name {name} --size 96M --pbkdf pbkdf2");
        with_passphrase(&machine, PASSPHRASE, 0, &create);
    }
    let own = mount_of(&machine, "own");
    machine.put(&format!("{own}/data"), b"acknowledged");
    let kept = || assert_eq!(machine.get(&format!("{own}/data")), b"acknowledged");

    // Somebody works in it: it stays whole, and who it is is said.
    machine.sh(&format!(
        "systemd-run -q -u busy --working-directory={own} sleep 300"
    ));
    let said = machine.expect(3, &["repository", "unmount", "own"]);
    assert!(said.contains("sleep (pid "), "{said}");
    kept();
    machine.sh("systemctl stop busy");
    machine.expect(0, &["repository", "unmount", "own"]);
    with_passphrase(&machine, PASSPHRASE, 0, "repository mount own");
    kept();

    // Full inside: it is looked at, and grows.
    let fill = |path: &str, more: u32| {
        machine.sh(&format!(
            "dd if=/dev/zero of={path} bs=1M conv=fsync 2>/dev/null && exit 1
            dd if=/dev/zero of={path} bs=4K oflag=append conv=notrunc,fsync 2>/dev/null && exit 1
            for n in $(seq {more}); do head -c 2000 /dev/zero >{path}.$n 2>/dev/null || break; done; sync"
        ));
    };
    fill(&format!("{own}/filler"), 0);
    machine.expect(0, &["repository", "status", "own"]);
    machine.expect(0, &["repository", "expand", "own", "--size", "+32M"]);
    machine.sh(&format!(
        "head -c 9000000 /dev/zero >{own}/more; sync {own}/more; rm {own}/filler"
    ));
    kept();

    // Full outside: it is looked at, something is deleted, and after it all is well.
    fill("/mnt/rediacc/filler", 3000);
    machine.expect(0, &["repository", "list"]);
    machine.expect(0, &["datastore", "status"]);
    machine.expect(0, &["repository", "delete", "other", "--now"]);
    machine.sh("rm /mnt/rediacc/filler*; sync");
    kept();
    machine.expect(0, &["repository", "unmount", "own"]);
    with_passphrase(&machine, PASSPHRASE, 0, "repository mount own");
    kept();
    machine.put(&format!("{own}/again"), &[7; 1 << 20]);
    machine.expect(0, &["repository", "validate", "own"]);
}
