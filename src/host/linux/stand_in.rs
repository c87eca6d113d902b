//! Stand-ins for the daemon, compose and the proxy.
#![allow(missing_docs, clippy::unused_async)]

use super::LinuxHost;
use crate::host::{ComposeDoor, ComposeInput, ComposeOutput, Done, StepError};
use crate::model::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

fn none() -> Result<Done, StepError> {
    Err(StepError::machine("not here"))
}

pub(super) mod dockerd {
    use super::*;
    pub async fn start(_: &Layout, _: &Path, _: Guid, _: NetworkId) -> Result<Done, StepError> {
        none()
    }
    pub async fn stop(_: &Layout, _: Guid, _: NetworkId) -> Result<Done, StepError> {
        Ok(Done::Already)
    }
}

pub(super) mod containers {
    use super::*;
    pub struct Seen {
        pub daemon: Part<Daemon>,
        pub images: Part<BTreeSet<String>>,
        pub containers: Part<BTreeMap<Name, BTreeMap<String, Container>>>,
    }
    pub async fn observe(_: &Layout, _: NetworkId) -> Seen {
        Seen {
            daemon: Part::Absent,
            images: Part::Hidden,
            containers: Part::Hidden,
        }
    }
}

pub(super) mod compose {
    use super::*;
    pub async fn fetch(
        _: &Layout,
        _: Guid,
        _: NetworkId,
        _: &ProjectSpec,
    ) -> Result<Done, StepError> {
        none()
    }
    pub async fn up(_: &Layout, _: Guid, _: NetworkId, _: &ProjectSpec) -> Result<Done, StepError> {
        none()
    }
    pub async fn wait(
        _: &Layout,
        _: Guid,
        _: NetworkId,
        _: &ProjectSpec,
        _: Duration,
    ) -> Result<Done, StepError> {
        none()
    }
    pub async fn down(_: &Layout, _: Guid, _: NetworkId, _: &Name) -> Result<Done, StepError> {
        none()
    }
}

pub(super) mod traefik {
    use super::*;
    pub async fn start(_: &Layout, _: &Path, _: &ProxySpec) -> Result<Done, StepError> {
        none()
    }
    pub async fn stop(_: &Layout) -> Result<Done, StepError> {
        Ok(Done::Already)
    }
    pub async fn observe(_: &Layout) -> Part<Proxy> {
        Part::Absent
    }
}

pub(super) mod routes {
    use super::*;
    pub fn observe_records(_: &Layout) -> Part<BTreeMap<Name, RouteRecord>> {
        Part::Absent
    }
    pub fn record(_: &Layout, _: &Name, _: &RouteRecord) -> Result<Done, StepError> {
        none()
    }
    pub fn observe_published(_: &Layout) -> Part<RouteTable> {
        Part::Absent
    }
    pub fn publish(_: &Layout, _: &RouteTable) -> Result<Done, StepError> {
        none()
    }
}

impl ComposeDoor for LinuxHost {
    async fn config(&self, _: &ComposeInput) -> Result<serde_json::Value, String> {
        Err("not here".into())
    }
    async fn hashes(&self, _: &ComposeInput, _: &str) -> Result<BTreeMap<String, String>, String> {
        Err("not here".into())
    }
    fn recall(&self, _: &Digest) -> Option<ComposeOutput> {
        None
    }
    fn remember(&self, _: &Digest, _: &ComposeOutput) {}
}
