use crate::model::*;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    pub machine: Option<Machine>,
    pub repositories: BTreeMap<Name, Repository>,
    pub services: BTreeMap<(Name, Name), Service>,
    pub routes: BTreeMap<Name, Route>,
}
#[derive(Clone, Debug)]
pub struct Machine {
    pub name: Name,
    pub datastore: Option<MachineDatastore>,
    pub proxy: Proxy,
}
#[derive(Clone, Debug)]
pub struct MachineDatastore {
    pub size: Size,
    pub backing_file: Option<PathBuf>,
}
#[derive(Clone, Debug)]
pub struct Proxy {
    pub http: u16,
}
#[derive(Clone, Debug)]
pub struct Repository {
    pub name: Name,
    pub size: Size,
    pub state: RunState,
    pub guid: Option<Guid>,
    pub network_id: Option<NetworkId>,
}
#[derive(Clone, Debug)]
pub struct Service {
    pub repository: Name,
    pub name: Name,
    pub files: Arc<FileSet>,
    pub compose_file: RelPath,
    pub services: Vec<String>,
}
#[derive(Clone, Debug)]
pub struct Route {
    pub name: Name,
    pub repository: Name,
    pub service: String,
    pub port: u16,
    pub host: HostName,
}
