//! Changes that are tried on a copy first, on a real machine.

use std::fs;
use std::time::Duration;

use super::lab::{Lab, body};
use super::updates::{Asking, COMMAND, with_data};

#[test]
fn a_bad_change_never_touches_what_runs_and_a_good_one_comes_after_its_trial() {
    let Some(lab) = Lab::new("trial") else {
        return;
    };
    let compose = lab.desired().join("web/docker-compose.yml");
    let good = with_data(&fs::read_to_string(&compose).unwrap());
    fs::write(&compose, &good).unwrap();
    let manifest = lab.desired().join("hello.yaml");
    let told = fs::read_to_string(&manifest).unwrap().replace(
        "  compose:\n",
        "  update: { forkFirst: true }\n  wait: { healthy: 20s }\n  compose:\n",
    );
    assert!(told.contains("forkFirst"), "{told}");
    fs::write(&manifest, told).unwrap();
    // What is new has nothing to be tried on.
    let first = lab.expect(0, &["apply", "--yes"]);
    assert!(!first.contains("hello-trial"), "{first}");
    let guid = lab.guid("hello");
    let data = lab.inside(&guid, "web/data/schema");
    fs::write(&data, "1").unwrap();
    let (running, loops) = (lab.running(), lab.loops());

    // It finds the data, changes it, and dies.
    let fails = r#"["sh", "-c", "cat /data/schema; echo -n 2 >/data/schema; echo no luck in a fork: $$REDIACC_IS_FORK; exit 7"]"#;
    let bad = good.replace(COMMAND, fails);
    assert_ne!(bad, good);
    fs::write(&compose, &bad).unwrap();
    let shown = lab.expect(1, &["diff"]);
    assert!(shown.contains("on a copy first"), "{shown}");
    let asking = Asking::begin();
    let said = lab.expect(3, &["apply", "--yes"]);
    let gap = asking.end();
    println!("a bad change: {gap:.0?} without an answer");
    assert!(said.contains("no luck in a fork: true"), "{said}");
    assert!(gap < Duration::from_secs(1), "{gap:?}");
    assert_eq!(lab.running(), running, "{said}");
    assert_eq!(lab.loops(), loops, "{said}");
    assert_eq!(fs::read_to_string(&data).unwrap(), "1");
    let again = lab.expect(3, &["apply"]);
    assert!(again.contains("Applied 0 steps"), "{again}");
    assert!(again.contains("RevisionFailed"), "{again}");
    assert!(again.contains("no luck in a fork: true"), "{again}");
    assert_eq!(lab.running(), running);

    // It goes well with the real data, in the copy and here.
    let looks = r#"["sh", "-c", "test $$(cat /data/schema) = 1 && echo fork: $$REDIACC_IS_FORK >/data/ran && exec httpd -f -p $$SERVICE_IP:8080 -h /www"]"#;
    let better = good.replace(COMMAND, looks);
    assert_ne!(better, good);
    fs::write(&compose, &better).unwrap();
    let asking = Asking::begin();
    let said = lab.expect(0, &["apply", "--yes"]);
    println!("a good change: {:.0?} without an answer", asking.end());
    assert!(said.contains("hello-trial"), "{said}");
    assert_ne!(lab.running(), running, "{said}");
    assert_eq!(lab.loops(), loops, "{said}");
    let ran = lab.inside(&guid, "web/data/ran");
    assert_eq!(fs::read_to_string(ran).unwrap(), "fork:\n");
    assert_eq!(body(), "Hello from renet.\n");
    let listed = lab.expect(0, &["repository", "list", "-o", "json"]);
    assert!(!listed.contains("hello-trial"), "{listed}");
    lab.says(0, &["apply"], "In sync");
    lab.uninstall();
}
