//! What holds in every guest alike.

use std::time::Duration;

use super::Guest;
use crate::desired;

/// Where the router listens.
const PORT: u16 = 8088;

/// One repository with one service, which says `answer`, and a route to it.
pub fn declare(guest: &impl Guest, answer: &str) {
    guest.declare([
        desired::machine("{ size: 1G }", PORT),
        desired::repository("shop", "96M", "", ""),
        desired::route("shop", "web"),
    ]);
    guest.declare(desired::service("shop", "web", answer));
}

/// The service says so at its own address, and through its route.
#[track_caller]
pub fn says(guest: &impl Guest, answer: &str) {
    let rows = guest.json(&["get"]);
    let mut rows = rows["objects"].as_array().unwrap().iter();
    let service = rows.find(|row| row["kind"] == "service").unwrap();
    let message = service["message"].as_str().unwrap();
    let (_, address) = message.rsplit_once(' ').unwrap();
    let asked = guest.sh(&format!("curl -sf -m 10 http://{address}:8080"));
    assert_eq!(asked.trim(), answer);
    // The router reads what it is told every now and then.
    let routed = guest.until(
        &format!("curl -sf -m 10 -H 'Host: web.localhost' http://127.0.0.1:{PORT}"),
        Duration::from_secs(30),
    );
    assert_eq!(routed.trim(), answer);
}

/// The main job where renet has the machine to itself, without a root of its own.
pub fn a_folder_becomes_a_service(guest: &impl Guest) {
    let state = guest.run(&["systemctl", "is-system-running", "--wait"]);
    assert_eq!(
        state.stdout.trim(),
        "running",
        "{}",
        guest.sh("systemctl --failed")
    );

    declare(guest, "Hello");
    guest.expect(0, &["validate"]);
    guest.expect(0, &["apply", "--yes"]);
    says(guest, "Hello");
    assert_eq!(guest.listed("shop")["state"], "running");

    let again = guest.expect(0, &["apply"]);
    assert!(again.starts_with("In sync: 1 repository"), "{again}");
    guest.expect(0, &["diff"]);

    guest.expect(0, &["repository", "down", "shop"]);
    guest.expect(0, &["repository", "unmount", "shop"]);
    assert_eq!(guest.listed("shop")["state"], "offline");
    assert_eq!(guest.open(), "");

    guest.expect(0, &["resume", "repository/shop"]);
    guest.expect(0, &["apply"]);
    says(guest, "Hello");
}
