//! What encrypted repositories cost against the bare commands they stand for.

use super::vm::Machine;
use crate::dice::is_left_out;
use crate::guest::Guest as _;

/// Measured so often, by turns; the best of each counts.
const TIMES: usize = 3;
/// Renet may take so much longer to create one.
const CREATE: f64 = 1.5;
/// And so much longer to copy one and mount it.
const COPY: f64 = 1.5;

/// What lies at the bottom of both.
const FOLDER: &str = "/mnt/rediacc/repositories";

/// How long a script takes there, in seconds.
#[track_caller]
fn timed(machine: &Machine, script: &str) -> f64 {
    machine.put("/root/timed", script.as_bytes());
    let took = machine.sh(
        "began=$(date +%s%N); bash -e /root/timed >/root/said 2>&1 || { cat /root/said >&2; exit 1; }
        ended=$(date +%s%N); echo $((ended - began))",
    );
    took.trim().parse::<f64>().unwrap() / 1e9
}

/// The best of both, and their ratio.
fn compare(
    machine: &Machine,
    what: &str,
    most: f64,
    renet: impl Fn(usize) -> String,
    bare: impl Fn(usize) -> String,
) {
    let mut best = [f64::INFINITY; 2];
    for n in 0..TIMES {
        best[0] = best[0].min(timed(machine, &bare(n)));
        best[1] = best[1].min(timed(machine, &renet(n)));
    }
    let ratio = best[1] / best[0];
    println!(
        "{what}: bare {:.2} s, renet {:.2} s, {ratio:.2} x",
        best[0], best[1]
    );
    assert!(ratio <= most, "{what}: {ratio:.2} times the bare commands");
}

#[test]
fn creating_and_copying_cost_little_more_than_the_bare_commands() {
    if is_left_out("cost", 4) {
        return;
    }
    let machine = Machine::boot();
    machine.expect(0, &["datastore", "init", "--size", "3G"]);
    machine.put("/root/pass", b"secret");
    machine.sh("mkdir -p /root/bare");
    let open = |file: &str, name: &str| {
        format!(
            "device=$(losetup --find --show {file})
            cryptsetup open --type luks2 --key-file - $device {name} </root/pass
            mkdir -p /root/bare/{name}; mount /dev/mapper/{name} /root/bare/{name}\n"
        )
    };
    compare(
        &machine,
        "create",
        CREATE,
        |n| format!("renet repository create made{n} --size 128M </root/pass"),
        |n| {
            let file = format!("{FOLDER}/bare{n}");
            format!(
                "truncate -s 128M {file}
                device=$(losetup --find --show {file})
                cryptsetup luksFormat --batch-mode --type luks2 --pbkdf argon2id --key-file - $device </root/pass
                cryptsetup open --type luks2 --key-file - $device bare{n} </root/pass
                mkfs.ext4 -q -F -b 4096 -m 0 -E nodiscard /dev/mapper/bare{n}
                mkdir /root/bare/bare{n}; mount /dev/mapper/bare{n} /root/bare/bare{n}
                sync {file}"
            )
        },
    );
    let parent = machine.listed("made0")["guid"].as_str().unwrap().to_owned();
    machine.put(&format!("/mnt/rediacc/mounts/{parent}/data"), &[7; 1 << 20]);
    compare(
        &machine,
        "copy and mount",
        COPY,
        |n| {
            format!(
                "renet repository fork --source made0 --target copy{n}
                renet repository mount copy{n} --password-stdin </root/pass"
            )
        },
        |n| {
            let (frozen, file) = ("/root/bare/bare0", format!("{FOLDER}/twin{n}"));
            format!(
                "sync -f {frozen}; fsfreeze -f {frozen}
                btrfs subvolume snapshot -r {FOLDER} /mnt/rediacc/.bare{n}
                fsfreeze -u {frozen}
                cp --reflink=always /mnt/rediacc/.bare{n}/bare0 {file}
                btrfs subvolume delete /mnt/rediacc/.bare{n}
                cryptsetup luksUUID {file} >/dev/null\n"
            ) + &open(&file, &format!("twin{n}"))
        },
    );
    // So that what is left of the bare ones goes before the machine does.
    machine.sh("for name in /root/bare/*; do umount $name; cryptsetup close ${name##*/}; done");
}
