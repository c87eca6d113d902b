//! `kill -9` of renet alone, at every step boundary and at random instants:
//! the next run converges, nothing is lost and nothing leaks.
//!
//! A plain run takes a sample, `RENET_LONG=1` all; `RENET_SEED` repeats one.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::lab::{Lab, body, page};
use crate::dice::{Dice, long};

/// When renet is killed.
#[derive(Clone, Copy, Debug)]
enum Kill {
    /// Right after so many lines.
    Lines(u64),
    After(Duration),
}

/// How a whole run goes: its lines, and how long it takes.
#[derive(Clone, Copy, Debug)]
struct Whole {
    lines: u64,
    took: Duration,
}

impl Whole {
    fn of(lab: &Lab, args: &[&str]) -> Self {
        let began = Instant::now();
        let text = lab.expect(0, args);
        Self {
            lines: text.lines().count() as u64,
            took: began.elapsed(),
        }
    }

    /// Some boundaries and some instants; in a long run every boundary.
    fn kills(self, dice: &mut Dice, boundaries: usize, instants: usize) -> Vec<Kill> {
        let mut lines: Vec<u64> = (1..self.lines).collect();
        let mut instants = instants;
        if long() {
            instants = 50 / 4;
        } else {
            while lines.len() > boundaries {
                let at = dice.below(lines.len() as u64) as usize;
                lines.remove(at);
            }
        }
        let micros = self.took.as_micros() as u64;
        let instants =
            (0..instants).map(|_| Kill::After(Duration::from_micros(dice.below(micros))));
        lines.into_iter().map(Kill::Lines).chain(instants).collect()
    }
}

/// Runs it and kills it; only renet, as the kernel would.
fn killed(lab: &Lab, args: &[&str], kill: Kill) {
    let mut child = lab
        .command(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    match kill {
        Kill::After(time) => std::thread::sleep(time),
        Kill::Lines(count) => {
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            for _ in 0..count {
                lines.next();
            }
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_cold_start_killed_anywhere_is_finished_by_the_next_apply() {
    let mut dice = Dice::new();
    let cold = |lab: &Lab, kill: Option<Kill>| {
        if let Some(kill) = kill {
            killed(lab, &["apply"], kill);
        }
        let whole = Whole::of(lab, &["apply"]);
        lab.expect(0, &["diff", "--prune"]);
        assert_eq!(body(), "Hello from renet.\n", "{kill:?}");
        eprintln!("{kill:?}");
        lab.nothing_leaked(1);
        lab.uninstall();
        whole
    };
    let Some(lab) = Lab::new("cold") else { return };
    let whole = cold(&lab, None);
    drop(lab);
    for kill in whole.kills(&mut dice, 2, 2) {
        let Some(lab) = Lab::new("cold") else { return };
        cold(&lab, Some(kill));
    }
}

#[test]
fn an_update_a_growth_and_a_removal_killed_anywhere_lose_nothing() {
    let Some(lab) = Lab::shop("crash") else {
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
        format!("round-{round}")
    };
    update();
    for kill in Whole::of(&lab, &["apply"]).kills(&mut dice, 3, 3) {
        let answer = update();
        killed(&lab, &["apply"], kill);
        lab.expect(0, &["apply"]);
        assert_eq!(page("web"), answer, "{kill:?}");
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
    for kill in Whole::of(&lab, &["apply"]).kills(&mut dice, 3, 3) {
        grow();
        killed(&lab, &["apply"], kill);
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
    let whole = Whole::of(&lab, &args);
    show();
    for kill in whole.kills(&mut dice, 3, 3) {
        hide();
        killed(&lab, &args, kill);
        lab.expect(0, &args);
        sound("removal", kill, 2);
        assert_eq!(lab.state("wiki"), "deleted");
        show();
        sound("return", kill, 3);
    }
    assert_eq!(page("page"), "page");
    lab.uninstall();
}
