//! The power goes, or renet is killed, at any moment of any work: nothing that was
//! acknowledged is lost. The datastore lies on a disk that loses what it was not told
//! to flush.

use std::fs::File;
use std::process::{Child, Stdio};
use std::time::Duration;

use super::luks::{PASSPHRASE, mount_of, with_passphrase};
use super::vm::{FORGETS, Machine};
use crate::dice::{Dice, is_left_out, long};
use crate::guest::Guest as _;

/// What is done meanwhile.
const CREATE: &str = "repository create --name new --size 96M --pbkdf pbkdf2 --password-stdin";
const FORK: &str = "repository fork --source own --target copy";
const GROW: &str = "repository expand own --size +48M";
const DELETE: &str = "repository delete gone --now";

/// When it ends.
#[derive(Clone, Copy, Debug)]
enum When {
    /// So many milliseconds after it began.
    After(u64),
    /// While a repository is frozen.
    Frozen,
}

/// How it ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Kill,
    PowerCut,
}

/// Somebody who writes numbers to `own`, makes each last, and says so here.
struct Writer {
    here: File,
    said: Child,
}

impl Writer {
    fn start(machine: &Machine, folder: &str) -> Self {
        let script = format!(
            "exec 3>>{folder}/counter; n=$(wc -l <{folder}/counter); \
             while :; do n=$((n+1)); echo $n >&3; sync {folder}/counter || exit 1; echo $n; sleep 0.05; done"
        );
        machine.put("/root/writer", script.as_bytes());
        let here = tempfile::tempfile().unwrap();
        let said = machine
            .command(&["sh", "/root/writer"])
            .stdout(here.try_clone().unwrap())
            .stderr(Stdio::null())
            .spawn();
        Self {
            here,
            said: said.unwrap(),
        }
    }

    /// The last number that was acknowledged.
    fn end(mut self) -> u64 {
        use std::io::{Read as _, Seek as _};
        let _ = self.said.kill();
        self.said.wait().unwrap();
        self.here.rewind().unwrap();
        let mut text = String::new();
        self.here.read_to_string(&mut text).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let last = whole.lines().last();
        last.map_or(0, |last| last.parse().unwrap())
    }
}

/// A machine whose datastore forgets.
fn machine() -> Machine {
    let machine = Machine::boot_with_a_disk_that_forgets();
    machine.sh(&format!(
        "mkfs.ext4 -q {FORGETS} 5G
        echo '{FORGETS} /mnt ext4 defaults 0 0' >/etc/fstab; sync /etc/fstab
        mount /mnt"
    ));
    machine
}

#[test]
fn a_disk_forgets_what_it_was_not_told_to_flush() {
    if is_left_out("forgets", 4) {
        return;
    }
    let mut machine = Machine::boot_with_a_disk_that_forgets();
    let write = |what: &str, flush: &str| {
        format!(
            "yes {what} | tr -d '\\n' | dd of={FORGETS} bs=64K count=1 iflag=fullblock oflag=direct {flush} status=none"
        )
    };
    machine.sh(&write("flushed", "conv=fsync"));
    machine.sh(&write("never", ""));
    let read = format!("dd if={FORGETS} iflag=direct bs=64K count=1 status=none | head -c 5");
    assert_eq!(machine.sh(&read), "never");
    machine.power_off_hard();
    machine.start();
    assert_eq!(machine.sh(&read), "flush");
}

#[test]
fn l36_a_power_cut_or_a_kill_within_any_work_loses_nothing_that_was_acknowledged() {
    let mut dice = Dice::new();
    let mut machine = machine();
    machine.expect(0, &["datastore", "init", "--size", "4G"]);
    let create = |name: &str| format!("repository create --name {name} --size 96M --pbkdf pbkdf2");
    for name in ["own", "gone"] {
        with_passphrase(&machine, PASSPHRASE, 0, &create(name));
    }
    let own = mount_of(&machine, "own");
    let data = vec![7; 3_000_000];
    machine.put(&format!("{own}/data"), &data);

    // A sample kills or cuts by chance; the whole table does both, at many moments.
    let mut table = Vec::new();
    let works = [CREATE, FORK, GROW, DELETE];
    for round in 0..if long() { 8 } else { 1 } {
        let first = dice.below(2);
        for (kind, work) in (0..).zip(works) {
            let when = When::After(50 + dice.below(3_000));
            table.push((work, when, (round + first + kind).is_multiple_of(2)));
        }
        table.push((FORK, When::Frozen, (round + first).is_multiple_of(2)));
    }
    for (work, when, cut) in table {
        let end = if cut { End::PowerCut } else { End::Kill };
        println!("{work}: {end:?} {when:?}");
        ended(&mut machine, &own, (work, when, end));
        assert!(machine.get(&format!("{own}/data")) == data, "data was lost");
        if work == DELETE {
            let said = machine.run(&["renet", "repository", "status", "gone"]);
            if said.code == 3 {
                with_passphrase(&machine, PASSPHRASE, 0, &create("gone"));
            }
        }
        machine.expect(0, &["prune"]);
        let halves = machine
            .sh("ls -A /mnt/rediacc/repositories /mnt/rediacc | grep -E '^.(new|fork)-' || true");
        assert_eq!(halves, "", "something half-made is left");
    }
}

/// Ends work at that moment, and has it done again: whatever was there before is there,
/// and the next command works.
fn ended(machine: &mut Machine, own: &str, (work, when, end): (&str, When, End)) {
    let writer = Writer::start(machine, own);
    machine.put(
        "/root/script",
        format!("printf %s {PASSPHRASE} | renet {work} >/root/said 2>&1").as_bytes(),
    );
    machine.sh("systemd-run -q --collect -u work sh /root/script");
    match when {
        When::After(after) => std::thread::sleep(Duration::from_millis(after)),
        When::Frozen => drop(machine.sh(
            "end=$(($(date +%s)+30)); until ls /run/rediacc/frozen/* >/dev/null 2>&1; do \
             [ $(date +%s) -lt $end ]; sleep 0.01; done",
        )),
    }
    match end {
        End::PowerCut => {
            machine.power_off_hard();
            machine.start();
        }
        End::Kill => drop(machine.sh("pkill -9 -x renet || true; sleep 0.2")),
    }
    // The same again, or it was done: either way the next command works.
    let said = machine.run(&["sh", "/root/script"]);
    println!("then: {} {}", said.code, machine.sh("tail -1 /root/said"));
    with_passphrase(machine, PASSPHRASE, 0, "repository mount own");
    machine.sh("pkill -f '[/]root/writer' || true");
    let acknowledged = writer.end();
    let counter = machine.sh(&format!("tail -n 1 {own}/counter"));
    let there: u64 = counter.trim().parse().unwrap();
    assert!(there >= acknowledged, "{there} < {acknowledged}");
    println!("acknowledged {acknowledged}, there {there}");
    machine.expect(0, &["repository", "validate", "own"]);
    let rows = machine.json(&["repository", "list"]);
    for name in ["new", "copy"] {
        let mut rows = rows.as_array().unwrap().iter();
        if rows.any(|row| row["name"] == name) {
            machine.expect(0, &["repository", "delete", name, "--now"]);
        }
    }
}
