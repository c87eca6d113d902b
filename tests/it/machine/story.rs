//! The main job in a virtual machine, and what only a machine can do: boot.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use super::vm::Machine;
use crate::desired;
use crate::dice::{Dice, is_left_out};
use crate::guest::{Guest as _, story};

#[test]
fn a_folder_of_manifests_becomes_a_service_again_after_a_reboot() {
    if is_left_out("reboot", 3) {
        return;
    }
    let mut machine = Machine::boot();
    story::a_folder_becomes_a_service(&machine);
    machine.reboot();
    assert_eq!(machine.open(), "");
    machine.expect(1, &["diff"]);
    machine.expect(0, &["apply"]);
    story::says(&machine, "Hello");
    keeps_to_its_limits(&machine);
}

/// What a manifest lets a service take is what the kernel lets it.
fn keeps_to_its_limits(machine: &Machine) {
    let [(path, manifest), ..] = desired::service("shop", "web", "Hello");
    let limits = "  limits: { web: { memory: 48M, cpus: 0.25, pids: 40 } }\n";
    machine.declare([(path, manifest + limits)]);
    machine.expect(0, &["apply", "--yes"]);
    let network = machine.listed("shop")["network_id"].to_string();
    for (file, limit) in [
        ("memory.max", "50331648"),
        ("cpu.max", "25000 100000"),
        ("pids.max", "40"),
    ] {
        let said = machine.sh(&format!(
            "renet docker --network-id {network} -- exec web-web-1 \
             busybox cat /sys/fs/cgroup/{file}"
        ));
        assert_eq!(said.trim(), limit, "{file}");
    }
}

#[test]
fn a_repository_is_kept_to_its_limits_and_nothing_restarts() {
    if is_left_out("limits", 2) {
        return;
    }
    let machine = Machine::boot();
    story::declare(&machine, "Hello");
    machine.expect(0, &["apply", "--yes"]);
    let network = machine.listed("shop")["network_id"].to_string();
    let group = format!("/sys/fs/cgroup/rediacc_{network}.slice");
    let started = || {
        let inspect = "inspect --format '{{.Id}} {{.State.StartedAt}}' web-web-1";
        machine.sh(&format!("renet docker --network-id {network} -- {inspect}"))
    };
    let limited = |limits: &str| {
        let more = format!("  limits: {limits}\n");
        machine.declare([desired::repository("shop", "96M", "", &more)]);
        machine.expect(0, &["apply", "--yes"]);
        let said = machine.expect(0, &["diff"]);
        assert!(!said.contains("limits"), "{said}");
        ["memory.max", "cpu.max", "pids.max"]
            .map(|file| machine.sh(&format!("cat {group}/{file}")).trim().to_owned())
    };
    let before = started();
    assert_eq!(
        limited("{ memory: 512M, cpus: 1.5, pids: 1000 }"),
        ["536870912", "150000 100000", "1000"]
    );
    assert_eq!(
        limited("{ memory: 1G, cpus: 0.25 }"),
        ["1073741824", "25000 100000", "max"]
    );
    // Whoever tells systemd otherwise is overruled.
    let slice = format!("rediacc_{network}.slice");
    machine.sh(&format!(
        "systemctl set-property --runtime {slice} TasksMax=77"
    ));
    machine.expect(1, &["diff"]);
    assert_eq!(
        limited("{ memory: 1G, cpus: 0.25 }"),
        ["1073741824", "25000 100000", "max"]
    );
    assert_eq!(limited("{}"), ["max", "max 100000", "max"]);
    let status = machine.json(&["repository", "status", "shop"]);
    assert_eq!(status["limits"], serde_json::Value::Null);
    assert_eq!(started(), before);
    // Both the daemon and what it runs are counted.
    let inside = machine.sh(&format!(
        "cd {group}; find . -name cgroup.procs | xargs cat | sort -u | \
         while read pid; do tr '\\0' ' ' </proc/$pid/cmdline; echo; done"
    ));
    for program in ["dockerd", "httpd"] {
        assert!(inside.contains(program), "no {program} in {inside}");
    }
    // What is stopped leaves none of it.
    machine.expect(0, &["repository", "unmount", "shop"]);
    machine.sh(&format!("! test -e {group}"));
    machine.sh(&format!("! systemctl cat {slice} 2>/dev/null"));
}

/// Takes the power away when an apply has told of so many steps.
fn cut(machine: &mut Machine, steps: usize) {
    let mut command = machine.command(&["renet", "apply", "--yes"]);
    let mut apply = command.stdout(Stdio::piped()).spawn().unwrap();
    let told = BufReader::new(apply.stdout.take().unwrap());
    let told: Vec<String> = told.lines().map_while(Result::ok).take(steps).collect();
    machine.power_off_hard();
    println!("{}", told.join("\n"));
    assert_eq!(told.len(), steps, "it had ended before");
    apply.wait().unwrap();
    println!("-- power cut after {steps} steps --");
    machine.start();
}

#[test]
fn a_power_cut_in_the_middle_of_an_apply_is_mended_by_the_next_one() {
    if is_left_out("power cut", 2) {
        return;
    }
    let mut dice = Dice::new();
    let mut machine = Machine::boot();
    story::declare(&machine, "Hello");
    cut(&mut machine, 1 + dice.below(20) as usize);
    machine.expect(0, &["apply", "--yes"]);
    machine.expect(0, &["diff"]);
    story::says(&machine, "Hello");

    // What was flushed is there after the next one, which hits what runs already.
    let guid = machine.listed("shop")["guid"].as_str().unwrap().to_owned();
    let data = format!("/mnt/rediacc/mounts/{guid}/data");
    machine.put(&data, b"acknowledged");
    machine.run(&["sync", &data]);
    story::declare(&machine, "Hello again");
    cut(&mut machine, 1 + dice.below(3) as usize);
    machine.expect(0, &["apply", "--yes"]);
    machine.expect(0, &["diff"]);
    story::says(&machine, "Hello again");
    assert_eq!(machine.get(&data), b"acknowledged");
}
