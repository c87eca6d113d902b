//! `kill -9` of renet alone, a command or the agent, at every step boundary and at
//! random instants: the next run converges, nothing is lost and nothing leaks.
//!
//! A plain run takes a sample, `RENET_LONG=1` all; `RENET_SEED` repeats one.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::lab::{Lab, body, page};
use crate::dice::{Dice, long};

/// When renet is killed.
#[derive(Clone, Copy, Debug)]
enum Kill {
    /// Right after so many steps.
    Steps(usize),
    After(Duration),
}

/// Random instants in one of the four tables of a long run: fifty in all.
const INSTANTS: usize = 13;

/// How a whole run goes: after how long each step ended, and all of it.
#[derive(Debug)]
struct Whole {
    steps: Vec<Duration>,
    took: Duration,
}

impl Whole {
    /// Some boundaries and some instants; in a long run all of them.
    fn kills(self, dice: &mut Dice, boundaries: usize, instants: usize) -> Vec<Kill> {
        let mut steps: Vec<usize> = (1..=self.steps.len()).collect();
        let mut instants = instants;
        if long() {
            instants = INSTANTS;
        } else {
            while steps.len() > boundaries {
                let at = dice.below(steps.len() as u64) as usize;
                steps.remove(at);
            }
        }
        // What waits before its first step is not worth an instant.
        let first = self.steps.first().copied().unwrap_or_default();
        let from = first.saturating_sub(Duration::from_secs(1));
        let micros = (self.took - from).as_micros() as u64;
        let instants =
            (0..instants).map(|_| Kill::After(from + Duration::from_micros(dice.below(micros))));
        steps.into_iter().map(Kill::Steps).chain(instants).collect()
    }
}

/// Who is killed.
#[derive(Clone, Copy, Debug)]
enum Who {
    Apply,
    Agent,
}

impl Who {
    /// Starts it, and tells when each step has ended.
    fn start(self, lab: &Lab, args: &[&str]) -> (Child, Receiver<Instant>) {
        let mut command = match self {
            Who::Apply => lab.command(args),
            Who::Agent => lab.command(&["agent", "--interval", "1h"]),
        };
        command
            .env("RENET_LOG", "renet::agent::status=info")
            .env("NO_COLOR", "1");
        let (out, err) = match self {
            Who::Apply => (Stdio::piped(), Stdio::null()),
            Who::Agent => (Stdio::null(), Stdio::piped()),
        };
        let mut child = command.stdout(out).stderr(err).spawn().unwrap();
        let steps = match self {
            Who::Apply => told(child.stdout.take().unwrap(), |_| true),
            Who::Agent => told(child.stderr.take().unwrap(), |line| {
                line.contains("what=\"Step\"")
            }),
        };
        (child, steps)
    }

    /// Lets it do its work to the end.
    fn whole(self, lab: &Lab, args: &[&str]) -> Whole {
        self.ending(0, lab, args)
    }

    /// The same, with that exit code.
    fn ending(self, code: i32, lab: &Lab, args: &[&str]) -> Whole {
        let began = Instant::now();
        let (mut child, steps) = self.start(lab, args);
        match self {
            Who::Apply => assert_eq!(child.wait().unwrap().code(), Some(code)),
            Who::Agent => {
                at_rest(lab);
                end(&mut child);
            }
        }
        let took = began.elapsed();
        let steps: Vec<Duration> = steps.iter().map(|at| at - began).collect();
        eprintln!("{self:?} {args:?}: {} steps in {took:?}", steps.len());
        Whole { steps, took }
    }

    /// Lets it begin its work and kills it; only renet, as the kernel would.
    fn killed(self, lab: &Lab, args: &[&str], kill: Kill) {
        // An agent that needs fewer steps this time is at rest before.
        const REST: Duration = Duration::from_secs(30);
        let (mut child, steps) = self.start(lab, args);
        match kill {
            Kill::After(time) => std::thread::sleep(time),
            Kill::Steps(count) => {
                let until = Instant::now() + REST;
                for _ in 0..count {
                    let left = until.saturating_duration_since(Instant::now());
                    if steps.recv_timeout(left).is_err() {
                        break;
                    }
                }
            }
        }
        end(&mut child);
    }
}

fn end(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// When each line that counts came, until the other side is gone.
fn told(lines: impl Read + Send + 'static, counts: fn(&str) -> bool) -> Receiver<Instant> {
    let (send, steps) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(lines).lines().map_while(Result::ok) {
            if counts(&line) {
                let _ = send.send(Instant::now());
            }
        }
    });
    steps
}

/// Waits until nothing is left to do.
fn at_rest(lab: &Lab) {
    let until = Instant::now() + Duration::from_secs(60);
    while lab.renet(&["diff", "--prune"]).status.code() != Some(0) {
        assert!(Instant::now() < until, "the agent does not come to rest");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// From nothing.
fn cold(who: Who, name: &str) {
    let mut dice = Dice::new();
    let Some(lab) = Lab::new(name) else { return };
    let whole = who.whole(&lab, &["apply"]);
    // Of one that was cut off while compose resolved, or an agent wrote its status;
    // no process has this id.
    let private = lab.root.join("run/rediacc/resolve/c-4194305-x");
    fs::create_dir(&private).unwrap();
    fs::write(private.join("env"), "PASSWORD=1").unwrap();
    let agent = lab.root.join("var/lib/rediacc/agent");
    fs::create_dir_all(&agent).unwrap();
    let status = agent.join(".tmp-renet-4194305-x");
    fs::write(&status, "{").unwrap();
    lab.expect(0, &["diff"]);
    assert!(!private.exists() && !status.exists());
    drop(lab);
    for kill in whole.kills(&mut dice, 2, 2) {
        let Some(lab) = Lab::new(name) else { return };
        eprintln!("{kill:?}");
        who.killed(&lab, &["apply"], kill);
        lab.expect(0, &["apply"]);
        lab.expect(0, &["diff", "--prune"]);
        assert_eq!(body(), "Hello from renet.\n", "{kill:?}");
        lab.nothing_leaked(1);
        lab.uninstall();
    }
}

#[test]
fn a_cold_start_killed_anywhere_is_finished_by_the_next_apply() {
    cold(Who::Apply, "cold");
}

#[test]
fn l27_an_agent_killed_anywhere_in_a_cold_start_leaves_what_one_apply_finishes() {
    cold(Who::Agent, "acold");
}

/// An update with a drift, a growth and a removal.
fn changes(who: Who, name: &str) {
    let Some(lab) = Lab::shop(name) else {
        return;
    };
    let mut dice = Dice::new();
    let remove = "  deletionPolicy: Delete\n";
    lab.repository("wiki", remove);
    // Without CAP_SYS_RESOURCE only what nobody uses can grow.
    lab.repository("disk", "");
    lab.expect(0, &["apply"]);
    let (shop, wiki) = (lab.guid("shop"), lab.guid("wiki"));
    let files = [
        (shop.as_str(), "web/data/a"),
        (&shop, "api/b"),
        (&wiki, "page/data/c"),
    ];
    let data: Vec<Vec<u8>> = files
        .iter()
        .enumerate()
        .map(|(seed, (guid, path))| lab.put(guid, path, seed as u64))
        .collect();
    let sound = |what: &str, kill: Kill, repositories: usize| {
        eprintln!("{what}: {kill:?}");
        lab.expect(0, &["diff", "--prune"]);
        lab.nothing_leaked(repositories);
        for ((guid, path), bytes) in files.iter().zip(&data) {
            if repositories == 3 || *guid != wiki {
                let kept = fs::read(lab.inside(guid, path)).unwrap();
                assert!(kept == *bytes, "{what}, {kill:?}: {path} has changed");
            }
        }
    };

    let mut round = 0;
    let mut update = || {
        round += 1;
        lab.serve("shop", "web", &format!("round-{round}"));
        lab.write("web/notes/a.txt", &"x".repeat(round));
        if round % 2 == 1 {
            lab.docker_of(&lab.network_of("shop"), &["rm", "-f", "api-api-1"]);
        }
        format!("round-{round}")
    };
    update();
    for kill in who.whole(&lab, &["apply"]).kills(&mut dice, 2, 2) {
        let answer = update();
        who.killed(&lab, &["apply"], kill);
        lab.expect(0, &["apply"]);
        assert_eq!(
            (page("web"), page("api")),
            (answer, "api".into()),
            "{kill:?}"
        );
        sound("update", kill, 3);
    }

    let mut size = 96;
    let mut grow = || {
        size += 4;
        lab.sized("disk", &format!("{size}M"), "");
        lab.expect(0, &["repository", "unmount", "disk"]);
        lab.expect(0, &["resume", "repository/disk"]);
    };
    grow();
    for kill in who.whole(&lab, &["apply"]).kills(&mut dice, 2, 2) {
        grow();
        who.killed(&lab, &["apply"], kill);
        lab.expect(0, &["apply"]);
        sound("grow", kill, 3);
    }

    let hide = || {
        for file in ["wiki.yaml", "page-service.yaml", "page-route.yaml"] {
            lab.remove(file);
        }
    };
    let show = || {
        lab.repository("wiki", remove);
        lab.service("wiki", "page");
        lab.route("wiki", "page");
        lab.expect(0, &["apply"]);
    };
    let args = ["apply", "--prune", "--confirm", "wiki"];
    hide();
    let whole = who.whole(&lab, &args);
    show();
    for kill in whole.kills(&mut dice, 1, 2) {
        hide();
        who.killed(&lab, &args, kill);
        lab.expect(0, &args);
        sound("removal", kill, 2);
        assert_eq!(lab.state("wiki"), "deleted");
        show();
        sound("return", kill, 3);
    }
    assert_eq!(page("page"), "page");
    lab.uninstall();
}

#[test]
fn an_update_a_growth_and_a_removal_killed_anywhere_lose_nothing() {
    changes(Who::Apply, "crash");
}

#[test]
fn l27_an_agent_killed_anywhere_in_an_update_a_growth_and_a_removal_loses_nothing() {
    changes(Who::Agent, "acrash");
}

#[test]
fn a_failed_update_killed_anywhere_gives_its_data_back() {
    let Some(lab) = Lab::new("undo") else { return };
    let mut dice = Dice::new();
    let take_back = "  update: { onFailure: RollbackWithData }\n  compose:\n";
    let manifest = lab.desired().join("hello.yaml");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("  compose:\n", take_back)).unwrap();
    let compose = lab.desired().join("web/docker-compose.yml");
    let good = fs::read_to_string(&compose).unwrap().replace(
        "    build: .\n",
        "    build: .\n    volumes: [\"./data:/data\"]\n",
    );
    let command = good.lines().find(|line| line.contains("command:")).unwrap();
    fs::write(&compose, &good).unwrap();
    lab.expect(0, &["apply"]);
    let guid = lab.guid("hello");
    let data = lab.inside(&guid, "web/data/count");
    // Each round another, as a failed one is not tried twice.
    let mut round = 0;
    let mut next = || {
        round += 1;
        fs::write(&data, round.to_string()).unwrap();
        let fails = format!("    command: [sh, -c, \"echo {round} failed >/data/count; exit 7\"]");
        fs::write(&compose, good.replace(command, &fails)).unwrap();
        round.to_string()
    };
    next();
    let whole = Who::Apply.ending(3, &lab, &["apply"]);
    let mut snapshots = 1;
    for kill in whole.kills(&mut dice, 2, 1) {
        let count = next();
        eprintln!("{kill:?}");
        Who::Apply.killed(&lab, &["apply"], kill);
        lab.expect(3, &["apply"]);
        assert_eq!(fs::read_to_string(&data).unwrap(), count, "{kill:?}");
        assert_eq!(body(), "Hello from renet.\n", "{kill:?}");
        lab.nothing_leaked(1);
        // What each of them had written is kept.
        let all = lab.expect(0, &["repository", "snapshot", "list", "hello"]);
        snapshots += 1;
        assert_eq!(
            all.matches("a rewind").count(),
            snapshots,
            "{kill:?}: {all}"
        );
    }
    lab.uninstall();
}

#[test]
fn a_trial_killed_anywhere_ends_and_a_bad_change_touches_nothing() {
    let Some(lab) = Lab::new("tried") else { return };
    let mut dice = Dice::new();
    let first = "  update: { forkFirst: true }\n  compose:\n";
    let manifest = lab.desired().join("hello.yaml");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("  compose:\n", first)).unwrap();
    let compose = lab.desired().join("web/docker-compose.yml");
    let good = fs::read_to_string(&compose).unwrap();
    let command = good.lines().find(|line| line.contains("command:")).unwrap();
    lab.expect(0, &["apply"]);
    // Each round another, as a failed one is not tried twice.
    let mut round = 0;
    let mut next = |fails: bool| {
        round += 1;
        let text = match fails {
            true => good.replace(command, &format!("    command: [sh, -c, \"exit {round}\"]")),
            false => format!("{good}    labels: {{ round: \"{round}\" }}\n"),
        };
        fs::write(&compose, text).unwrap();
    };
    for (fails, code) in [(true, 3), (false, 0)] {
        next(fails);
        let whole = Who::Apply.ending(code, &lab, &["apply"]);
        for kill in whole.kills(&mut dice, 2, 1) {
            let before = lab.running();
            next(fails);
            eprintln!("{fails} {kill:?}");
            Who::Apply.killed(&lab, &["apply"], kill);
            lab.expect(code, &["apply"]);
            assert_eq!(lab.running() == before, fails, "{kill:?}");
            assert_eq!(body(), "Hello from renet.\n", "{kill:?}");
            lab.nothing_leaked(1);
            let listed = lab.expect(0, &["repository", "list"]);
            assert!(!listed.contains("hello-trial"), "{kill:?}: {listed}");
        }
    }
    lab.uninstall();
}
