//! Many repositories on one machine.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::nspawn::Container;
use crate::desired;
use crate::dice::{is_left_out, long};
use crate::guest::Guest as _;

const LONG: Duration = Duration::from_secs(30);

/// Runs renet, which may take long, and expects that exit code.
fn timed(container: &Container, code: i32, args: &[&str]) -> Duration {
    let began = Instant::now();
    let output = Command::new("timeout")
        .args(["--foreground", "-k", "5", "2400"])
        .args(container.argv(&[&["renet"], args].concat()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let took = began.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "renet {args:?}: {said}");
    took
}

/// Two services in each of these.
fn declare(container: &Container, repositories: std::ops::Range<usize>) {
    for n in repositories {
        let name = format!("r{n}");
        container.declare([desired::repository(&name, "96M", "", "")]);
        for service in ["a", "b"] {
            container.declare(desired::service(&name, &format!("{service}{n}"), "yes"));
        }
    }
}

/// What an apply takes that finds nothing to do, at best.
fn nothing_to_do(container: &Container) -> Duration {
    let each = (0..3).map(|_| timed(container, 0, &["apply"]));
    each.min().unwrap()
}

/// The resident memory of daemons and what keeps containers, MiB.
fn memory(container: &Container) -> u64 {
    let sum = container.sh(
        "ps -C dockerd,containerd,containerd-shim -o rss= | awk '{ sum += $1 } END { print sum }'",
    );
    sum.trim().parse::<u64>().unwrap() / 1024
}

#[test]
fn what_many_repositories_cost_when_nothing_is_to_do_grows_no_faster_than_they() {
    if is_left_out("many", 4) {
        return;
    }
    let (few, many) = if long() { (10, 50) } else { (2, 6) };
    let container = Container::boot();
    container.declare([desired::machine("{ size: 16G }", 8088)]);
    declare(&container, 0..few);
    timed(&container, 0, &["apply", "--yes"]);
    let at_few = nothing_to_do(&container);
    declare(&container, few..many);
    let rest = timed(&container, 0, &["apply", "--yes"]);
    let at_many = nothing_to_do(&container);
    let memory = memory(&container);
    for row in container.json(&["repository", "list"]).as_array().unwrap() {
        let network = row["network_id"].as_u64().unwrap() as u32;
        for service in [2, 3] {
            let address = Ipv4Addr::from((127 << 24) + network + service);
            let asked = format!("curl -sf -m 10 http://{address}:8080");
            assert_eq!(container.until(&asked, LONG).trim(), "yes", "{row}");
        }
    }
    let all = |verb| ["repository", verb, "--all", "--parallel"];
    let down = timed(&container, 0, &[&all("down")[..], &["--unmount"]].concat());
    assert_eq!(container.open().matches("/mnt/rediacc/mounts").count(), 0);
    let up = timed(&container, 0, &all("up"));
    timed(&container, 0, &["diff"]);
    println!(
        "{many} repositories of 2 services: the last {} in {rest:.1?}, nothing to do {at_many:.2?} \
         ({at_few:.2?} at {few}), down {down:.1?}, up again {up:.1?}, {memory} MiB of daemons",
        many - few
    );
    let times = at_many.as_secs_f64() / at_few.as_secs_f64();
    let linear = many as f64 / few as f64;
    assert!(
        times <= linear * 1.2,
        "{times:.2} times at {linear:.2} times as many"
    );
}
