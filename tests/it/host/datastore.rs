//! The datastore by commands, on the real machine.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;

use serde_json::Value;

use super::lab::Lab;

fn status(lab: &Lab) -> Value {
    let text = lab.expect(0, &["datastore", "status", "-o", "json"]);
    serde_json::from_str(&text).unwrap()
}

fn drop_caches() {
    // SAFETY: the call takes nothing and touches nothing.
    unsafe { libc::sync() };
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

#[test]
fn a_datastore_is_made_grown_checked_and_closed_by_commands() {
    let Some(lab) = Lab::empty("store") else {
        return;
    };
    // Before there is one.
    lab.says(0, &["datastore", "status"], "renet datastore init");
    lab.says(
        3,
        &[
            "repository",
            "create",
            "a",
            "--unencrypted",
            "--size",
            "64M",
        ],
        "NoDatastore",
    );
    lab.says(2, &["datastore", "init", "--size", "1M"], "too small");
    lab.expect(0, &["datastore", "init", "--size", "512M"]);
    lab.says(3, &["datastore", "init", "--size", "512M"], "already");
    lab.says(0, &["datastore", "mount"], "already");
    let seen = status(&lab);
    assert_eq!(seen["mounted"], Value::Bool(true), "{seen}");
    assert!(seen["emergency"].as_u64().unwrap() > 0, "{seen}");

    lab.says(
        0,
        &[
            "repository",
            "create",
            "a",
            "--unencrypted",
            "--size",
            "64M",
        ],
        "mounted at",
    );
    lab.says(
        3,
        &[
            "repository",
            "create",
            "a",
            "--unencrypted",
            "--size",
            "64M",
        ],
        "already",
    );
    let guid = lab.guid("a");
    let data = lab.put(&guid, "data/orders", 3);
    lab.says(0, &["repository", "validate", "a"], "sound");

    // Larger, while it is in use.
    lab.says(
        3,
        &["datastore", "expand", "--size", "400M"],
        "never shrunk",
    );
    lab.expect(0, &["datastore", "expand", "--size", "+512M"]);
    assert_eq!(status(&lab)["size"], 1024 << 20);
    lab.expect(0, &["repository", "expand", "a", "--size", "128M"]);
    lab.says(
        3,
        &["repository", "expand", "a", "--size", "128M"],
        "never shrunk",
    );
    // More than there is room for.
    lab.says(3, &["repository", "expand", "a", "--size", "2G"], "no room");
    assert_eq!(fs::read(lab.inside(&guid, "data/orders")).unwrap(), data);

    // The reserve goes and comes back with the next look.
    lab.says(0, &["prune", "--emergency"], "given back");
    assert!(!lab.datastore().join(".emergency").exists());
    lab.expect(0, &["datastore", "mount"]);
    assert!(lab.datastore().join(".emergency").exists());

    // Not under what is open; and then it stays closed.
    lab.says(3, &["datastore", "unmount"], "a");
    lab.expect(0, &["repository", "unmount", "a"]);
    lab.says(0, &["datastore", "unmount"], "stays so");
    lab.says(0, &["datastore", "unmount"], "already");
    lab.says(0, &["datastore", "status"], "closed by");
    lab.says(3, &["repository", "mount", "a"], "renet datastore mount");
    // L34: nothing can be written where it would be hidden.
    let stray = fs::write(lab.datastore().join("stray"), "x");
    assert!(stray.is_err(), "written under the mount point");
    lab.expect(0, &["datastore", "mount"]);
    lab.expect(0, &["repository", "mount", "a"]);
    assert_eq!(fs::read(lab.inside(&guid, "data/orders")).unwrap(), data);
    lab.expect(0, &["repository", "unmount", "a"]);
    lab.uninstall();
}

#[test]
fn a_damaged_block_is_found_and_named() {
    let Some(lab) = Lab::empty("damage") else {
        return;
    };
    lab.expect(0, &["datastore", "init", "--size", "512M"]);
    for name in ["a", "b"] {
        lab.expect(
            0,
            &[
                "repository",
                "create",
                name,
                "--unencrypted",
                "--size",
                "64M",
            ],
        );
    }
    let data = lab.put(&lab.guid("b"), "data/orders", 5);
    lab.expect(0, &["repository", "unmount", "b"]);
    lab.says(0, &["datastore", "validate"], "as it was written");
    drop_caches();
    // Behind everybody's back, on the disk itself.
    let backing = lab.root().join("mnt/rediacc.img");
    let disk = fs::read(&backing).unwrap();
    let mark = &data[4096..4096 + 64];
    let at = disk.windows(mark.len()).position(|seen| seen == mark);
    let at = at.expect("the data is on the disk") as u64;
    let file = OpenOptions::new().write(true).open(&backing).unwrap();
    file.write_all_at(b"damaged", at).unwrap();
    file.sync_all().unwrap();
    drop_caches();
    let said = lab.expect(3, &["datastore", "validate"]);
    assert!(said.contains("b: ") && !said.contains("a: "), "{said}");
    lab.says(3, &["repository", "validate", "b"], "cannot be read");
    lab.says(0, &["repository", "validate", "a"], "sound");
    lab.uninstall();
}
