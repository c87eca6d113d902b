//! Daemons that hang, and two renets at once.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::lab::{Lab, page, said, signal};

#[test]
fn l22_a_daemon_that_hangs_is_unknown_and_holds_up_nobody_else() {
    let Some(lab) = Lab::shop("hang") else { return };
    lab.expect(0, &["apply"]);
    let network = lab.network_of("shop");
    let before = lab.running();
    let pid = lab.pid_of(&network, "child.pid");

    // Stopped: it accepts, and never answers.
    signal(pid, Signal::SIGSTOP).unwrap();
    others_go_on(&lab, "one");
    lab.says(3, &["apply"], "does not answer");
    assert_eq!((page("page"), page("web")), ("one".into(), "web".into()));
    lab.service("shop", "web");
    signal(pid, Signal::SIGCONT).unwrap();
    in_sync(&lab);

    // Another listens in its place, and never answers.
    let socket = lab.root.join(format!("run/rediacc/docker-{network}.sock"));
    let aside = socket.with_extension("aside");
    fs::rename(&socket, &aside).unwrap();
    let mute = UnixListener::bind(&socket).unwrap();
    others_go_on(&lab, "two");
    lab.service("shop", "web");
    drop(mute);
    fs::rename(&aside, &socket).unwrap();
    in_sync(&lab);

    let mut after = lab.running();
    let mut expected = before;
    // The page changed, and nothing else was touched.
    after.remove("page-page-1").unwrap();
    expected.remove("page-page-1").unwrap();
    assert_eq!(after, expected);
    lab.uninstall();
}

/// Something else is to be done; nothing is planned for what hangs.
fn others_go_on(lab: &Lab, answer: &str) {
    lab.serve("shop", "web", answer);
    lab.serve("wiki", "page", answer);
    let began = Instant::now();
    let shown = lab.says(3, &["diff"], "Unknown");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(shown.contains("-/+ container page"), "{shown}");
    assert!(!shown.contains("container web"), "{shown}");
    lab.expect(0, &["repository", "list"]);
}

fn in_sync(lab: &Lab) {
    lab.expect(0, &["apply"]);
    lab.expect(0, &["diff"]);
}

#[test]
fn two_applies_at_once_take_turns_and_both_end_in_sync() {
    let Some(lab) = Lab::new("turns") else { return };
    let both: Vec<_> = (0..2)
        .map(|_| {
            let mut command = lab.command(&["apply"]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    let pids: Vec<u32> = both.iter().map(std::process::Child::id).collect();
    let ended: Vec<_> = both
        .into_iter()
        .map(|child| child.wait_with_output().unwrap())
        .collect();
    let words: Vec<String> = ended.iter().map(said).collect();
    for (end, words) in ended.iter().zip(&words) {
        assert_eq!(end.status.code(), Some(0), "{words}");
    }
    let named = |pid: &u32| {
        words
            .iter()
            .any(|said| said.contains(&format!("pid {pid}")))
    };
    let waited = words
        .iter()
        .any(|said| said.contains("waiting for the lock"));
    assert!(waited && pids.iter().any(named), "{words:#?}");
    lab.expect(0, &["diff"]);
    lab.nothing_leaked(1);

    // Who does not wait says so at once.
    lab.repository("other", "");
    lab.service("other", "more");
    let mut first = lab.command(&["apply"]);
    let mut first = first.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(first.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    let busy = lab.renet(&["apply", "--lock-wait", "0"]);
    lines.for_each(drop);
    assert_eq!(busy.status.code(), Some(5), "{}", said(&busy));
    assert!(
        said(&busy).contains(&format!("pid {}", first.id())),
        "{}",
        said(&busy)
    );
    assert!(first.wait().unwrap().success());
    lab.expect(0, &["diff"]);
    lab.nothing_leaked(2);
}

#[test]
fn l49_nothing_that_outlives_a_run_holds_its_locks() {
    let Some(lab) = Lab::new("fds") else { return };
    lab.expect(0, &["apply"]);
    let locks = lab.root.join("run/rediacc/locks");
    let root = lab.root.display().to_string();
    let mut seen = 0;
    for pid in super::lab::pids_with(&root) {
        let open = |fd: fs::DirEntry| {
            Some((
                fd.file_name().into_string().ok()?,
                fs::read_link(fd.path()).ok()?,
            ))
        };
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let fds: Vec<_> = fds.filter_map(open).collect();
        assert!(
            !fds.iter().any(|(_, to)| to.starts_with(&locks)),
            "{pid}: {fds:?}"
        );
        seen += 1;
    }
    assert!(
        seen >= 5,
        "two supervisors, dockerd, containerd, a shim and the proxy"
    );
    drop(lab);

    // A descriptor that somebody left open does not reach what is supervised.
    let Some(lab) = Lab::empty("fds2") else {
        return;
    };
    let run = lab.root.join("run/rediacc/docker-9000000");
    fs::create_dir_all(&run).unwrap();
    let unit = serde_json::json!({
        "run": run, "log": run.join("log"), "argv": ["/bin/sleep", "61"],
    });
    fs::write(run.join("unit.json"), unit.to_string()).unwrap();
    let left_open = fs::File::open("/").unwrap();
    let clear = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty());
    nix::fcntl::fcntl(&left_open, clear).unwrap();
    let mut supervisor = lab
        .command(&["daemon", "supervise", "--network-id", "9000000"])
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    let child = loop {
        let pid = fs::read_to_string(run.join("child.pid")).unwrap_or_default();
        if let Ok(pid) = pid.trim().parse::<i32>() {
            break pid;
        }
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(20));
    };
    std::thread::sleep(Duration::from_millis(100));
    let fds = fs::read_dir(format!("/proc/{child}/fd")).unwrap().flatten();
    let mut fds: Vec<String> = fds
        .filter_map(|fd| fd.file_name().into_string().ok())
        .collect();
    signal(i32::try_from(supervisor.id()).unwrap(), Signal::SIGTERM).unwrap();
    supervisor.wait().unwrap();
    fds.sort();
    assert_eq!(fds, ["0", "1", "2"]);
}
