//! `dependsOn`: what starts after what, what is stopped before what, and what
//! happens to the others when something does not get well.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use renet::execute::{LocalLocks, Options, Report, Silent, run};
use renet::host::sim::kind;
use renet::model::{Act, Blocked, ContainerState, Object, OnFailure, RunState, Step};

use super::world::*;

/// One repository, in which each project depends on the next.
fn chain(projects: &[u8]) -> Folder {
    folder(1).with(0, Repo::with(projects).in_chain())
}

/// The steps of these kinds, each with its project.
fn steps(report: &Report, kinds: &[&str]) -> Vec<String> {
    let performed = report.performed.iter().map(|performed| &performed.step);
    let of_kind = performed.filter(|step| kinds.contains(&kind(step)));
    of_kind
        .map(|step| match step.object() {
            Object::Service(_, project) => format!("{} {project}", kind(step)),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn service(lab: &Lab, project: u8) -> Object {
    Object::Service(lab.guid("r0"), name(&format!("p{project}")))
}

fn waits_for(project: u8) -> Blocked {
    Blocked::DependencyBlocked {
        on: format!("service r0/p{project}"),
    }
}

#[test]
fn each_project_starts_when_what_it_depends_on_is_well() {
    let lab = Lab::new();
    let shown = lab.look(&lab.source(&chain(&[0, 1, 2])));
    let ups = shown.plan.steps.iter().filter(|step| kind(step) == "Up");
    let ups: Vec<Object> = ups.map(Step::object).collect();
    let report = lab.run(&chain(&[0, 1, 2])).unwrap();
    assert_eq!(
        steps(&report, &["Up", "Wait"]),
        ["Up p2", "Wait p2", "Up p1", "Wait p1", "Up p0", "Wait p0"]
    );
    assert_eq!(ups, [2, 1, 0].map(|project| service(&lab, project)));
    assert!(report.in_sync(), "{:?}", report.last.plan);
    assert!(lab.run(&chain(&[0, 1, 2])).unwrap().performed.is_empty());
}

#[test]
fn a_long_chain_comes_to_rest_in_one_run() {
    let projects: Vec<u8> = (0..60).collect();
    let lab = Lab::new();
    let report = lab.run(&chain(&projects)).unwrap();
    assert!(report.in_sync(), "{:?}", report.last.plan.blocked);
}

#[test]
fn what_never_gets_well_holds_up_what_depends_on_it_and_nothing_else() {
    let lab = Lab::new();
    lab.host.world().broken.insert("i:7".to_owned());
    let mut wanted = folder(1).with(0, Repo::with(&[0, 1, 2, 3]));
    wanted.repo(0).projects.insert(1, 7);
    wanted.repo(0).depends = BTreeSet::from([(0, 1), (3, 2)]);
    let report = lab.run(&wanted).unwrap();
    assert_eq!(
        steps(&report, &["Up"]),
        ["Up p1", "Up p2", "Up p3"],
        "{:?}",
        report.last.plan
    );
    let blocked = &report.last.plan.blocked;
    assert_eq!(blocked[&service(&lab, 0)], waits_for(1));
    assert_eq!(reason(&report, &service(&lab, 1)), "StepFailed");
    assert_eq!(reason(&report, &service(&lab, 3)), "");
    // It says the same the next time, and does nothing.
    let report = lab.run(&wanted).unwrap();
    assert!(report.performed.is_empty(), "{:?}", done(&report));
    assert_eq!(report.last.plan.blocked[&service(&lab, 0)], waits_for(1));
    // The next revision gets well: both start.
    wanted.repo(0).projects.insert(1, 0);
    let report = lab.run(&wanted).unwrap();
    assert_eq!(steps(&report, &["Up"]), ["Up p1", "Up p0"]);
    assert!(report.in_sync());
}

#[test]
fn what_a_command_brings_back_depends_on_what_its_manifest_says_now() {
    let mut wanted = chain(&[0, 1]);
    wanted.repo(0).depends = BTreeSet::from([(1, 0)]);
    let lab = Lab::at_rest(&wanted);
    let guid = lab.guid("r0");
    let back = || lab.act(guid, Act::Rollback(name("p1"))).unwrap();
    wanted.repo(0).projects.insert(1, 1);
    assert!(lab.run(&wanted).unwrap().in_sync());
    // Not beside one that is not well.
    for container in lab.host.world().containers() {
        container.state = ContainerState::Exited(1);
    }
    let report = back();
    assert!(report.performed.is_empty(), "{:?}", done(&report));
    let why = &report.last.plan.blocked[&Object::Repository(guid)];
    assert_eq!(why.to_string(), "waits for service p0");
    // What it no longer depends on may be gone.
    wanted.repo(0).depends = BTreeSet::new();
    wanted.repo(0).projects.remove(&0);
    assert!(lab.prune(&wanted).unwrap().in_sync());
    let report = back();
    assert_eq!(steps(&report, &["Up"]), ["Up p1"], "{:?}", report.last.plan);
    let record = lab.record(guid).unwrap();
    assert!(record.depends_on.is_empty(), "{:?}", record.depends_on);
}

#[test]
fn what_runs_is_left_alone_when_what_it_depends_on_fails() {
    // What was there before comes back, or the failed one stays.
    let policies = [
        (OnFailure::Rollback, &["Up p1", "Up p1"][..]),
        (OnFailure::Stop, &["Up p1"]),
    ];
    for (on_failure, ups) in policies {
        let mut wanted = chain(&[0, 1]);
        wanted.repo(0).on_failure = on_failure;
        let lab = Lab::at_rest(&wanted);
        lab.host.world().broken.insert("i:7".to_owned());
        wanted.repo(0).projects.insert(1, 7);
        let report = lab.run(&wanted).unwrap();
        assert_eq!(steps(&report, &["Up"]), ups);
        assert_eq!(reason(&report, &service(&lab, 0)), "");
        assert_eq!(reason(&report, &service(&lab, 1)), "StepFailed");
        let report = lab.run(&wanted).unwrap();
        assert!(report.performed.is_empty(), "{:?}", done(&report));
        assert_eq!(reason(&report, &service(&lab, 0)), "");
    }
}

#[test]
fn what_is_suspended_is_waited_for() {
    let mut wanted = chain(&[0, 1]);
    let lab = Lab::at_rest(&wanted);
    let guid = lab.guid("r0");
    lab.act(guid, Act::SuspendProject(name("p1"), lab.suspension()));
    wanted.repo(0).projects = BTreeMap::from([(0, 1), (1, 1)]);
    let report = lab.run(&wanted).unwrap();
    assert_eq!(steps(&report, &["Up"]), [""; 0]);
    assert_eq!(report.last.plan.blocked[&service(&lab, 0)], waits_for(1));
    lab.act(guid, Act::ResumeProject(name("p1")));
    let report = lab.run(&wanted).unwrap();
    assert_eq!(steps(&report, &["Up"]), ["Up p1", "Up p0"]);
}

#[test]
fn projects_that_wait_for_each_other_are_not_started() {
    // Validation refuses that; the planner goes round in no circle either.
    let mut wanted = folder(1).with(0, Repo::with(&[0, 1, 2]));
    wanted.repo(0).depends = BTreeSet::from([(0, 1), (1, 0)]);
    let lab = Lab::new();
    let report = lab.run(&wanted).unwrap();
    assert_eq!(steps(&report, &["Up"]), ["Up p2"]);
    assert_eq!(report.last.plan.blocked[&service(&lab, 0)], waits_for(1));
    assert_eq!(report.last.plan.blocked[&service(&lab, 1)], waits_for(0));
}

#[test]
fn what_is_not_among_the_manifests_is_waited_for() {
    // A manifest that cannot be read is none.
    let lab = Lab::new();
    let mut source = lab.source(&chain(&[0, 1]));
    let mut manifests = chain(&[0, 1]).manifests();
    manifests.services.remove(&(name("r0"), name("p1")));
    source.manifests = manifests.into();
    let report = lab.run_source(&source, Options::default()).unwrap();
    assert_eq!(report.last.plan.blocked[&service(&lab, 0)], waits_for(1));
}

#[test]
fn what_depends_on_others_is_stopped_before_them() {
    let order = ["Down p0", "Down p1", "Down p2"];
    let (first, kinds) = (Repo::with(&[0, 1, 2]).in_chain(), ["Down"]);
    let mut reverse = Repo::with(&[0, 1, 2]);
    reverse.depends = BTreeSet::from([(1, 0), (2, 1)]);
    let back = ["Down p2", "Down p1", "Down p0"];
    for (repo, order) in [(first, order), (reverse, back)] {
        let wanted = folder(1).with(0, repo);
        // By its state, by a command, and when their manifests are gone.
        let lab = Lab::at_rest(&wanted);
        let mut stopped = wanted.clone();
        stopped.repo(0).state = RunState::Stopped;
        assert_eq!(steps(&lab.run(&stopped).unwrap(), &kinds), order);
        let lab = Lab::at_rest(&wanted);
        let suspension = lab.suspension();
        let down = Act::Down {
            suspension,
            close: false,
        };
        let report = lab.act(lab.guid("r0"), down).unwrap();
        assert_eq!(steps(&report, &kinds), order);
        let lab = Lab::at_rest(&wanted);
        let fewer = folder(1).with(0, Repo::with(&[]));
        let source = lab.pruning(&fewer, None);
        let shown = lab.look(&source);
        let hash = shown.plan.blocked.values().find_map(|why| match why {
            Blocked::PruneBlocked { confirm, .. } => Some(confirm.clone()),
            _ => None,
        });
        let source = lab.pruning(&fewer, hash.as_deref());
        let report = lab.run_source(&source, Options::default()).unwrap();
        assert_eq!(steps(&report, &kinds), order);
    }
}

#[test]
fn another_order_recreates_nothing() {
    let lab = Lab::at_rest(&chain(&[0, 1, 2]));
    let mut other = folder(1).with(0, Repo::with(&[0, 1, 2]));
    other.repo(0).depends = BTreeSet::from([(2, 0)]);
    let report = lab.run(&other).unwrap();
    assert_eq!(done(&report), ["OwnProject"; 3]);
    assert!(report.in_sync());
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_goes_on_holds_up_no_start_and_is_not_begun_anew() {
    let lab = Lab::new();
    lab.host.world().broken.insert("i:7".to_owned());
    lab.host.world().pace = Some(|step| match step {
        Step::Wait { .. } => Duration::from_secs(2),
        _ => Duration::from_millis(10),
    });
    // p3 never gets well; p0 waits for p1, and p1 for p2.
    let mut wanted = chain(&[0, 1, 2]);
    wanted.repo(0).projects.insert(3, 7);
    let (source, locks) = (lab.source(&wanted), LocalLocks::default());
    let began = tokio::time::Instant::now();
    let options = Options::default();
    let report = run(&lab.host, &locks, &source, &lab.ids, &options, &Silent).await;
    let took = began.elapsed();
    let order = steps(&report, &["Wait"]);
    assert_eq!(order, ["Wait p2", "Wait p1", "Wait p0", "Wait p3"]);
    let limit = Duration::from_secs(60);
    assert!(
        (limit..limit + Duration::from_secs(2)).contains(&took),
        "{took:?}"
    );
}
