//! The same cases on the simulated and on a real machine: after every step the
//! machine is what the step's `effect` said, as far as it can be seen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use renet::execute::{LocalLocks, Options, Report, Silent, run};
use renet::host::linux::{LinuxHost, uninstall};
use renet::host::sim::SimHost;
use renet::host::{ComposeDoor, ComposeInput, ComposeOutput, Cx, Done, Host, Scope, StepError};
use renet::manifest::{
    Machine, MachineDatastore, Manifests, Origin, Proxy, Repository, Route, Service,
};
use renet::model::{
    Act, Actual, Asked, Backing, DeletionPolicy, Digest, Disk, Environment, FileEntry, FileSet,
    Guid, Layout, Name, OnFailure, Owner, Part, ProjectSpec, ResourceLimits, Rewind, RunState,
    Size, Snapshot, Step, refines,
};
use renet::resolve::{Ids, Source};

/// A host under observation: every step is held against its own prediction.
struct Held<H> {
    host: H,
    broken: Mutex<Vec<String>>,
    performed: Mutex<Vec<String>>,
}

impl<H: Host> Held<H> {
    fn new(host: H) -> Self {
        Self {
            host,
            broken: Mutex::default(),
            performed: Mutex::default(),
        }
    }
}

impl<H: Host> Host for Held<H> {
    async fn observe(&self, scope: Scope) -> Actual {
        self.host.observe(scope).await
    }

    async fn perform(&self, step: &Step, cx: &Cx) -> Result<Done, StepError> {
        let mut predicted = self.host.observe(Scope::All).await;
        assert_eq!(step.ready(&predicted), Ok(()), "{step}");
        step.effect(&mut predicted);
        let done = self.host.perform(step, cx).await?;
        let observed = self.host.observe(Scope::All).await;
        // The router publishes by itself what starts and ends.
        let publishes = matches!(step, Step::PublishRoutes(_));
        if !publishes {
            predicted.published = observed.published.clone();
        }
        if let Err(why) = refines(&observed, &predicted) {
            self.broken.lock().unwrap().push(format!("{step}: {why}"));
        }
        // What a close hides cannot be asked; everything else holds now.
        if step.holds(&observed) == Ok(false) {
            self.broken
                .lock()
                .unwrap()
                .push(format!("{step}: does not hold after it"));
        }
        assert!(done == Done::Changed || publishes, "{step}");
        let mut again = self.host.perform(step, cx).await;
        // What a daemon has may have changed in between, and the router wrote that.
        if publishes && again == Ok(Done::Changed) {
            again = self.host.perform(step, cx).await;
        }
        assert_eq!(again, Ok(Done::Already), "{step}, again");
        self.performed.lock().unwrap().push(format!("{step:?}"));
        Ok(done)
    }
}

impl<H: Host> ComposeDoor for Held<H> {
    async fn config(&self, input: &ComposeInput) -> Result<serde_json::Value, String> {
        self.host.config(input).await
    }
    async fn hashes(
        &self,
        input: &ComposeInput,
        text: &str,
    ) -> Result<BTreeMap<String, String>, String> {
        self.host.hashes(input, text).await
    }
    fn recall(&self, key: &Digest) -> Option<ComposeOutput> {
        self.host.recall(key)
    }
    fn remember(&self, key: &Digest, output: &ComposeOutput) {
        self.host.remember(key, output);
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// One repository with one service; JSON, so that both hosts read it.
fn manifests(state: RunState, revision: &str, port: u16, busybox: Vec<u8>) -> Manifests {
    let compose = serde_json::json!({
        "services": {"web": {
            "build": {"context": "."},
            "command": ["httpd", "-f", "-p", "${WEB_IP}:8080"],
            "environment": {"REVISION": revision},
            "stop_grace_period": "0s",
        }}
    });
    let dockerfile = "FROM scratch\nCOPY busybox /bin/busybox\nENTRYPOINT [\"/bin/busybox\"]\n";
    let file = FileEntry::new;
    let files = FileSet::new(BTreeMap::from([
        (
            "compose.yml".parse().unwrap(),
            file(compose.to_string().into_bytes(), false),
        ),
        (
            "Dockerfile".parse().unwrap(),
            file(dockerfile.into(), false),
        ),
        ("busybox".parse().unwrap(), file(busybox, true)),
    ]));
    let repository = Repository {
        name: name("shop"),
        size: Some(Size::mib(128)),
        origin: Origin::Blank(None),
        autostart: None,
        snapshots: None,
        state,
        guid: None,
        network_id: None,
        deletion_policy: DeletionPolicy::Retain,
        protected: false,
        limits: ResourceLimits::default(),
        moved_from: None,
    };
    let service = Service {
        repository: name("shop"),
        name: name("front"),
        files: files.into(),
        compose_file: "compose.yml".parse().unwrap(),
        services: vec!["web".to_owned()],
        environment: Environment::default(),
        depends_on: BTreeSet::new(),
        healthy_within: ProjectSpec::HEALTHY_WITHIN,
        on_failure: OnFailure::default(),
        fork_first: false,
        limits: BTreeMap::new(),
    };
    let route = Route {
        name: name("shop"),
        repository: name("shop"),
        service: "web".to_owned(),
        port: 8080,
        host: "shop.localhost".parse().unwrap(),
        tls: None,
    };
    let machine = Machine {
        name: name("m1"),
        datastore: Some(MachineDatastore::File {
            size: Size::mib(512),
            path: None,
        }),
        proxy: Proxy {
            http: port,
            ..Proxy::default()
        },
        overcommit: None,
        base_domain: None,
        variables: BTreeMap::new(),
    };
    Manifests {
        machine: Some(machine.into()),
        repositories: BTreeMap::from([(name("shop"), repository.into())]),
        services: BTreeMap::from([((name("shop"), name("front")), service.into())]),
        routes: BTreeMap::from([(name("shop"), route.into())]),
    }
}

async fn apply<H: Host>(
    host: &Held<H>,
    layout: &Layout,
    ids: &Ids,
    manifests: &Manifests,
    acts: BTreeMap<Guid, Act>,
) -> Report {
    let source = Source {
        owner: Owner {
            source: "/etc/rediacc/desired".to_owned(),
        },
        manifests: Arc::new(manifests.clone()),
        layout: layout.clone(),
        asked: Asked::default(),
        acts,
        store: None,
    };
    let (locks, options) = (LocalLocks::default(), Options::default());
    run(host, &locks, &source, ids, &options, &Silent).await
}

/// Up, changed, moved to another port, stopped, closed, and up again.
async fn cases<H: Host>(host: H, layout: &Layout, busybox: &[u8]) -> Held<H> {
    let host = Held::new(host);
    let ids = Ids::random(layout);
    for (state, revision, port) in [
        (RunState::Running, "1", 18_091),
        (RunState::Running, "2", 18_091),
        (RunState::Running, "2", 18_092),
        (RunState::Stopped, "2", 18_092),
        (RunState::Offline, "2", 18_092),
        (RunState::Running, "2", 18_092),
    ] {
        let wanted = manifests(state, revision, port, busybox.to_vec());
        let report = apply(&host, layout, &ids, &wanted, BTreeMap::new()).await;
        assert!(
            report.in_sync(),
            "{state:?} {revision} {port}: {:?}",
            report.last.plan
        );
        let again = apply(&host, layout, &ids, &wanted, BTreeMap::new()).await;
        assert!(again.performed.is_empty(), "{:?}", again.performed);
    }
    let seen = host.observe(Scope::All).await;
    let guid = *seen.repositories.known().unwrap().keys().next().unwrap();
    let to = Snapshot::moment(seen.now);
    let rewind = Rewind {
        to,
        keep: to + jiff::SignedDuration::from_secs(1),
    };
    for act in [
        Act::Snapshot(to),
        Act::Rewind {
            project: None,
            rewind,
            up: true,
        },
    ] {
        let nothing = Manifests::default();
        let acts = BTreeMap::from([(guid, act)]);
        let report = apply(&host, layout, &ids, &nothing, acts).await;
        assert!(report.in_sync(), "{:?}", report.last.plan);
    }
    assert_eq!(*host.broken.lock().unwrap(), Vec::<String>::new());
    let performed = host.performed.lock().unwrap().join("\n");
    for step in [
        "Format",
        "Attach",
        "Mount",
        "LayOut",
        "NoteDatastore",
        "ClaimMachine",
        "Reserve",
        "Record",
        "MirrorSlots",
        "WriteSlots",
        "StartDaemon",
        "StopDaemon",
        "WriteFiles",
        "FetchImages",
        "Up",
        "Wait",
        "Down",
        "Unmount",
        "Detach",
        "Snapshot",
        "Replace",
        "KeepReplaced",
        "RecordRoute",
        "StartProxy",
    ] {
        assert!(performed.contains(step), "{step} was not performed");
    }
    host
}

#[tokio::test]
async fn every_step_does_on_the_simulated_machine_what_it_says() {
    cases(SimHost::new(), &Layout::new("/").unwrap(), b"busybox").await;
}

#[tokio::test]
async fn every_step_does_on_a_simulated_block_device_what_it_says() {
    let host = SimHost::new();
    host.world().actual.datastore.disk = Part::Known(Disk {
        path: "/dev/disk".into(),
        size: Size::mib(600),
        refused: None,
    });
    cases(host, &Layout::new("/").unwrap(), b"busybox").await;
}

#[tokio::test]
async fn every_step_does_on_a_real_machine_what_it_says() {
    real("rc", None).await;
}

#[tokio::test]
async fn every_step_does_on_a_real_block_device_what_it_says() {
    if let Some(disk) = super::device::Disk::blank("conform", 600) {
        real("rk", Some(Backing::Device(disk.link.clone()))).await;
    }
}

async fn real(name: &str, backing: Option<Backing>) {
    let busybox = match std::fs::read("/usr/bin/busybox") {
        Ok(bytes) if nix::unistd::geteuid().is_root() => bytes,
        _ => return super::lab::skip("busybox and root", "conformance of the real host"),
    };
    let root = PathBuf::from(format!("/tmp/{name}-{}", std::process::id()));
    std::fs::create_dir_all(&root).unwrap();
    let layout = Layout::new(&root).unwrap();
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_renet"));
    let host = LinuxHost::new(layout.clone(), backing, binary);
    let held = tokio::spawn({
        let (host, layout) = (host.clone(), layout.clone());
        async move {
            cases(host, &layout, &busybox).await;
        }
    })
    .await;
    let gone = uninstall(&host).await;
    if gone.is_ok() {
        std::fs::remove_dir_all(&root).unwrap();
    }
    held.unwrap();
    gone.unwrap();
}
