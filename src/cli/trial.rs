//! A small simulated machine, for the tests of what commands print of one.
#![cfg(test)]

use std::sync::Arc;

use jiff::Timestamp;

use crate::agent::Board;
use crate::execute::{LocalLocks, Options, Silent, Wave, look, run};
use crate::host::sim::{Acting, SimHost};
use crate::manifest;
use crate::model::{Asked, Layout, NetworkId, Owner};
use crate::resolve::{Ids, Source};

const MANIFESTS: &str = "
apiVersion: renet/v1
kind: Machine
metadata: { name: m1 }
spec: { datastore: { size: 4G } }
---
apiVersion: renet/v1
kind: Repository
metadata: { name: shop }
spec: { size: 1G, encryption: none }
---
apiVersion: renet/v1
kind: Repository
metadata: { name: archive }
spec: { size: 64M, encryption: none, state: Offline }
---
apiVersion: renet/v1
kind: Service
metadata: { name: web }
spec: { repository: shop, compose: { file: web/docker-compose.yml } }
---
apiVersion: renet/v1
kind: Route
metadata: { name: shop-web }
spec: { service: shop/web, port: 8080, host: shop.example.com }
";

/// The machine, and the folder that it follows.
pub struct Trial {
    pub host: SimHost,
    pub source: Source,
    ids: Ids,
}

impl Trial {
    /// One on which nothing is there yet.
    pub fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("shop.yaml", MANIFESTS);
        let compose = r#"{"services": {"web": {"image": "i:1"}}}"#;
        write("web/docker-compose.yml", compose);
        let folder = manifest::load(folder.path());
        assert!(folder.problems.is_empty(), "{:?}", folder.problems);
        let trial = Self {
            host: SimHost::new(),
            source: Source {
                owner: Owner {
                    source: "/etc/rediacc/desired".to_owned(),
                },
                manifests: Arc::new(folder.manifests),
                layout: Layout::new("/").unwrap(),
                asked: Asked::default(),
                acts: Default::default(),
                store: None,
            },
            ids: Ids::fixed(NetworkId::FIRST),
        };
        trial.host.world().actual.now = Timestamp::UNIX_EPOCH;
        trial.host.world().begin(Acting {
            owner: trial.source.owner.clone(),
            take_over: false,
            retry: false,
            command: false,
            told: Default::default(),
        });
        trial
    }

    /// One that has come to rest.
    pub async fn new() -> Self {
        let trial = Self::empty();
        let (locks, options) = (LocalLocks::default(), Options::default());
        let (host, source, ids) = (&trial.host, &trial.source, &trial.ids);
        let report = run(host, &locks, source, ids, &options, &Silent).await;
        assert!(report.in_sync(), "{:?}", report.last.plan);
        trial
    }

    /// One look.
    pub async fn look(&self) -> Wave {
        look(&self.host, &self.source, &self.ids).await
    }

    /// What an agent that looked like that two hours ago wrote down.
    pub fn told(&self, wave: &Wave) -> Board {
        let board = Board::new(
            self.source.owner.source.clone(),
            4711,
            Timestamp::UNIX_EPOCH,
        );
        let before = wave.actual.now - std::time::Duration::from_secs(7200);
        let revision = self.revision();
        board.tell(before, wave, &revision);
        board.update(|status| {
            status.revision = Some(revision);
            status.revision_since = Some(before);
            status.last_pass = Some(before);
            status.next_pass = wave
                .actual
                .now
                .checked_add(std::time::Duration::from_secs(100))
                .ok();
        });
        board
    }

    pub fn revision(&self) -> String {
        self.source.manifests.digest().short().to_owned()
    }
}
