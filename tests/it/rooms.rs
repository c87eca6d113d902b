//! The rule that keeps the house simple: only `host/` touches the machine, and
//! `plan/` is pure.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found
}

/// The file's code without its tests and comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("[cfg(test)]").next().unwrap_or_default();
    code.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Ways to run a program, connect a socket or write a file.
const TOUCHES: [&str; 22] = [
    "std::process::Command",
    "process::Command",
    "Command::new",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "bollard",
    "fs::write",
    "fs::rename",
    "fs::remove",
    "fs::create_dir",
    "fs::copy",
    "fs::set_permissions",
    "fs::hard_link",
    "File::create",
    "OpenOptions",
    "tempfile",
    "nix::mount",
    "nix::sys::signal",
    "unix::fs::symlink",
];

#[test]
fn outside_of_host_nothing_touches_the_machine() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for path in sources(&src) {
        let room = path.strip_prefix(&src).unwrap();
        // Lock files are `execute`'s own, the socket is the agent's.
        let own = ["execute/locks.rs", "agent/socket.rs"];
        if room.starts_with("host") || own.iter().any(|own| room == Path::new(own)) {
            continue;
        }
        let code = code(&path);
        // Clap's `Subcommand` is called `Command` in cli/mod.rs; nothing there is run.
        wrong.extend(
            TOUCHES
                .iter()
                .filter(|touch| code.contains(**touch))
                .map(|touch| format!("{}: {touch}", room.display())),
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_planner_is_pure() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let impure = [
        "tokio",
        "std::fs",
        "std::net::Tcp",
        "std::net::Udp",
        "std::process",
        "std::time",
        "async ",
        "rand",
        "now()",
        "Instant",
        "SystemTime",
        "std::env",
        "uuid::Uuid::new",
    ];
    let mut wrong = Vec::new();
    for room in ["plan", "model"] {
        for path in sources(&src.join(room)) {
            let code = code(&path);
            wrong.extend(
                impure
                    .iter()
                    .filter(|word| code.contains(**word))
                    .map(|word| format!("{}: {word}", path.display())),
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
