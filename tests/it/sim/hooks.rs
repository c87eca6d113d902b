//! Rediaccfiles: what runs when, and what is not run again.

use renet::execute::{Options, Report};
use renet::model::{Act, ContainerState, Digest, Object, Rediaccfile, RunState};

use super::world::*;

fn hooks(report: &Report) -> Vec<&'static str> {
    let all = done(report).into_iter();
    all.filter(|kind| kind.starts_with("Hook") || *kind == "Up")
        .collect()
}

fn hooked(text: &'static str) -> Folder {
    folder(1).with(0, Repo::with(&[0]).hooked(text))
}

fn break_hook(lab: &Lab, text: &str) {
    let digest = Digest::of(hook_text(text, 0).as_bytes()).to_string();
    lab.host.world().broken.insert(digest);
}

#[test]
fn a_hook_starts_its_project_in_place_of_compose_and_once() {
    let lab = Lab::new();
    let wanted = hooked(ALL);
    let report = lab.run(&wanted).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    assert_eq!(hooks(&report), ["HookPrep", "HookUp"]);
    for _ in 0..60 {
        lab.host.world().actual.now += jiff::SignedDuration::from_mins(1);
        assert!(lab.run(&wanted).unwrap().performed.is_empty());
    }
}

#[test]
fn a_changed_hook_runs_once() {
    let lab = Lab::at_rest(&hooked(ALL));
    let mut wanted = hooked(ALL);
    wanted.repo(0).projects.insert(0, 1);
    let report = lab.run(&wanted).unwrap();
    assert_eq!(hooks(&report), ["HookPrep", "HookUp"]);
    assert!(lab.run(&wanted).unwrap().performed.is_empty());
}

#[test]
fn a_boot_runs_a_hook_once() {
    let wanted = hooked(ALL);
    let lab = Lab::at_rest(&wanted);
    lab.host.world().reboot();
    let report = lab.run(&wanted).unwrap();
    assert_eq!(hooks(&report), ["HookPrep", "HookUp"]);
    assert!(lab.run(&wanted).unwrap().performed.is_empty());
}

#[test]
fn a_container_that_ended_runs_up_again() {
    let wanted = hooked(ALL);
    let lab = Lab::at_rest(&wanted);
    for container in lab.host.world().containers() {
        container.state = ContainerState::Exited(1);
    }
    assert_eq!(hooks(&lab.run(&wanted).unwrap()), ["HookUp"]);
    assert!(lab.run(&wanted).unwrap().performed.is_empty());
}

#[test]
fn l24_a_failed_hook_is_not_tried_again_until_it_changes_or_is_asked_for() {
    let wanted = hooked("up() { :; }");
    let lab = Lab::new();
    break_hook(&lab, "up() { :; }");
    let report = lab.run(&wanted).unwrap();
    assert_eq!(hooks(&report), ["HookUp"]);
    let object = Object::Service(lab.guid("r0"), name("p0"));
    assert_eq!(reason(&report, &object), "StepFailed");
    for reboot in [false, true] {
        if reboot {
            lab.host.world().reboot();
        }
        let report = lab.run(&wanted).unwrap();
        assert!(hooks(&report).is_empty(), "{:?}", report.performed);
        assert_eq!(reason(&report, &object), "RevisionFailed");
    }
    let mut source = lab.source(&wanted);
    source.asked.retry = true;
    let report = lab.run_source(&source, Options::default()).unwrap();
    assert_eq!(hooks(&report), ["HookUp"]);
    let mut next = wanted;
    next.repo(0).projects.insert(0, 1);
    assert!(lab.run(&next).unwrap().in_sync());
}

#[test]
fn nothing_starts_when_one_cannot_be_prepared() {
    let lab = Lab::new();
    break_hook(&lab, ALL);
    let wanted = folder(1).with(0, Repo::with(&[0, 1]).hooked(ALL));
    let report = lab.run(&wanted).unwrap();
    assert_eq!(hooks(&report), ["HookPrep"]);
    let other = Object::Service(lab.guid("r0"), name("p1"));
    assert_eq!(reason(&report, &other), "DependencyBlocked");
    assert!(lab.run(&wanted).unwrap().performed.is_empty());
}

#[test]
fn what_is_stopped_goes_down_by_its_hook_first() {
    let lab = Lab::at_rest(&hooked(ALL));
    let mut wanted = hooked(ALL);
    wanted.repo(0).state = RunState::Stopped;
    let report = lab.run(&wanted).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    assert_eq!(hooks(&report), ["HookDown"]);
    let record = lab.record(lab.guid("r0")).unwrap();
    assert!(record.hooks.is_empty(), "{:?}", record.hooks);
    assert!(lab.run(&wanted).unwrap().performed.is_empty());
}

/// A repository that no manifest names, with Rediaccfiles put there by hand.
fn by_hand(texts: &[(&str, &str)]) -> (Lab, renet::model::Guid) {
    let lab = Lab::at_rest(&folder(1));
    let guid = lab.guid("r0");
    lab.act(
        guid,
        Act::Down {
            suspension: lab.suspension(),
            close: false,
        },
    );
    {
        let mut world = lab.host.world();
        let repo = world.actual.repo_mut(guid);
        if let Some(record) = repo.record.known_mut() {
            record.owner = None;
        }
        let found = texts
            .iter()
            .map(|(project, text)| (name(project), Rediaccfile::read("Rediaccfile", text)));
        repo.hooks = renet::model::Part::Known(found.collect());
    }
    (lab, guid)
}

fn order(report: &Report) -> Vec<String> {
    let steps = report.performed.iter().map(|performed| &performed.step);
    let hooks = steps.filter_map(|step| match step {
        renet::model::Step::Hook { hook, function, .. } => {
            Some(format!("{} {}", function.name(), hook.project))
        }
        _ => None,
    });
    hooks.collect()
}

#[test]
fn hooks_by_hand_run_in_order_and_once() {
    let (lab, guid) = by_hand(&[
        ("b", ALL),
        ("root", ALL),
        ("a", "up() { :; }; down() { :; }"),
    ]);
    let report = lab.act(guid, Act::Up { network: None }).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    assert_eq!(
        order(&report),
        ["prep root", "prep b", "up root", "up a", "up b"]
    );
    let again = lab.act(guid, Act::Up { network: None }).unwrap();
    assert!(again.performed.is_empty(), "{:?}", order(&again));
    let down = Act::Down {
        suspension: lab.suspension(),
        close: true,
    };
    let report = lab.act(guid, down).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan);
    assert_eq!(order(&report), ["down b", "down a", "down root"]);
}

#[test]
fn hooks_by_hand_that_pass_by_renet_run_not_at_all() {
    let (lab, guid) = by_hand(&[("a", "up() { :; }"), ("b", "up() { docker compose up; }")]);
    let report = lab.act(guid, Act::Up { network: None }).unwrap();
    assert!(order(&report).is_empty());
    let why = &report.last.plan.blocked[&Object::Repository(guid)];
    let said = format!("{why:?}");
    assert!(
        said.contains("b/Rediaccfile:1") && said.contains("renet compose --"),
        "{said}"
    );
}

#[test]
fn of_hooks_by_hand_one_that_fails_holds_up_no_other_unless_it_is_the_first() {
    let bad = "up() { false; }";
    for (failing, wanted) in [
        ("a", &["up root", "up a", "up b"][..]),
        ("root", &["up root"]),
    ] {
        let texts = ["root", "a", "b"].map(|project| {
            (
                project,
                if project == failing {
                    bad
                } else {
                    "up() { :; }"
                },
            )
        });
        let (lab, guid) = by_hand(&texts);
        let digest = Digest::of(bad.as_bytes()).to_string();
        lab.host.world().broken.insert(digest);
        let report = lab.act(guid, Act::Up { network: None }).unwrap();
        assert_eq!(order(&report), wanted);
        let object = Object::Service(guid, name(failing));
        assert_eq!(reason(&report, &object), "StepFailed");
    }
}

#[test]
fn a_failing_down_is_tried_once_and_holds_nothing_up() {
    let wanted = hooked(ALL);
    let lab = Lab::at_rest(&wanted);
    break_hook(&lab, ALL);
    let mut less = wanted.clone();
    less.repo(0).projects.clear();
    let report = lab
        .run_source(&lab.pruning(&less, None), Options::default())
        .unwrap();
    assert_eq!(hooks(&report), ["HookDown"]);
    assert!(report.in_sync(), "{:?}", report.last.plan);
    let record = lab.record(lab.guid("r0")).unwrap();
    assert!(record.projects.is_empty() && record.hooks.is_empty());
    let again = lab
        .run_source(&lab.pruning(&less, None), Options::default())
        .unwrap();
    assert!(again.performed.is_empty());
}
