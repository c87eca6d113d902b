//! Keys for boot on a machine with a TPM: the disk alone opens nothing.

use std::time::Duration;

use super::luks::{PASSPHRASE, mount_of, with_passphrase};
use super::vm::Machine;
use crate::dice::{is_left_out, long};
use crate::guest::Guest as _;

/// What a chip would keep.
const STATE: &str = "/var/lib/chip";

/// Gives the machine a chip, which is there at every boot before renet is.
fn solder(machine: &Machine) {
    let unit = format!(
        "[Unit]\nDefaultDependencies=no\nAfter=local-fs.target\nBefore=rediacc-autostart.service\n\
         [Service]\nType=forking\nStateDirectory=chip\nExecStartPre=modprobe tpm_vtpm_proxy\n\
         ExecStart=swtpm chardev --vtpm-proxy --tpm2 --tpmstate dir={STATE} --flags startup-clear --daemon\n\
         ExecStartPost=udevadm wait --timeout=60 /dev/tpmrm0\n\
         [Install]\nWantedBy=multi-user.target\n"
    );
    machine.put("/etc/systemd/system/chip.service", unit.as_bytes());
    machine.sh("systemctl daemon-reload; systemctl enable -q --now chip");
}

/// As a boot does it.
fn boot(machine: &mut Machine) {
    if !long() {
        machine.expect(0, &["boot"]);
        return;
    }
    const BOOT: Duration = Duration::from_secs(180);
    machine.reboot();
    machine.until("systemctl is-active rediacc-autostart.service", BOOT);
}

#[test]
fn a_key_for_boot_is_worth_nothing_without_the_chip_that_sealed_it() {
    if is_left_out("chip", 2) {
        return;
    }
    let mut machine = Machine::boot();
    solder(&machine);
    machine.expect(0, &["datastore", "init", "--size", "1G"]);
    machine.expect(0, &["install"]);
    let create = "repository create --name own --size 96M --pbkdf pbkdf2 --password-stdin";
    with_passphrase(&machine, PASSPHRASE, 0, create);
    let own = mount_of(&machine, "own");
    machine.sh(&format!("echo precious >{own}/data; sync"));
    with_passphrase(&machine, PASSPHRASE, 0, "repository autostart enable own");
    let guid = machine.listed("own")["guid"].as_str().unwrap().to_owned();
    let (key, image) = machine
        .sh(&format!(
            "find /mnt/rediacc -xdev -name {guid}.key; echo /mnt/rediacc/repositories/{guid}"
        ))
        .split_once('\n')
        .map(|(key, image)| (key.to_owned(), image.trim().to_owned()))
        .unwrap();
    let opens =
        format!("cryptsetup open --test-passphrase --key-slot 1 --key-file {key} {image} 2>&1");
    assert_ne!(
        machine.run(&["sh", "-c", &opens]).code,
        0,
        "it is no secret"
    );

    machine.expect(0, &["repository", "unmount", "own"]);
    machine.expect(0, &["resume", "repository/own"]);
    boot(&mut machine);
    assert_eq!(machine.sh(&format!("cat {own}/data")), "precious\n");

    // The disk in another machine.
    machine.expect(0, &["repository", "unmount", "own"]);
    machine.sh(&format!(
        "systemctl stop chip; rm -rf {STATE}; systemctl start chip"
    ));
    let refused = with_passphrase(&machine, "", 3, "repository mount own </dev/null");
    assert!(refused.contains("autostart disable"), "{refused}");
    with_passphrase(
        &machine,
        PASSPHRASE,
        0,
        "repository mount own --password-stdin",
    );
    assert_eq!(machine.sh(&format!("cat {own}/data")), "precious\n");
    machine.expect(0, &["repository", "autostart", "disable", "own"]);
    with_passphrase(&machine, PASSPHRASE, 0, "repository autostart enable own");
    machine.expect(0, &["repository", "unmount", "own"]);
    machine.expect(0, &["repository", "mount", "own"]);
    machine.until(&format!("grep precious {own}/data"), Duration::from_secs(5));
}
