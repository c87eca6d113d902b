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
