//! Kind `Service`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::nothing;
use super::text::{FolderPath, Limit, MemorySize, Name, PATH, RelativePath, VARIABLE};

/// What the project should be.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServiceSpec {
    /// The name of the repository that it lies in.
    #[schemars(with = "Name")]
    pub repository: String,
    /// Its compose file. What that names beside itself comes along: build
    /// contexts, `env_file`, configs and secrets.
    pub compose: Compose,
    /// The Services of this repository that are well before this one starts.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Vec<Name>", example = ["db"])]
    pub depends_on: Vec<String>,
    /// What else goes into the project's directory: each path there, and where
    /// its content comes from. A change recreates the services that mount it.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(extend("propertyNames" = { "pattern": PATH, "examples": ["nginx.conf", "b.c/d"] }))]
    pub files: BTreeMap<String, ManagedFile>,
    /// Its Rediaccfile: bash functions that start and stop it in place of compose.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "RediaccfileRef")]
    pub rediaccfile: Option<RediaccfileRef>,
    /// What is set in every container of the project whose compose file does not
    /// set it itself, and for the compose file's own `${…}`.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(extend("propertyNames" = { "pattern": VARIABLE, "examples": ["LOG", "_x2"] }))]
    pub environment: BTreeMap<String, String>,
    /// How long is waited for the project.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Wait")]
    pub wait: Option<Wait>,
    /// How a change of it is brought in.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Update")]
    pub update: Option<Update>,
    /// What the containers of its services may take, by the name that the compose file
    /// gives the service. This wins over what the compose file says.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(extend("propertyNames" = { "examples": ["web"] }))]
    pub limits: BTreeMap<String, ServiceLimits>,
}

/// What a container may take at most. Changing it recreates the container.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServiceLimits {
    /// Memory, at least `6M`. A container that needs more is ended by the kernel.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "MemorySize")]
    pub memory: Option<MemorySize>,
    /// Processors: `0.5` is half of one.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "f64", range(min = 0.01, max = 1024.0), example = 0.5)]
    pub cpus: Option<f64>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "u32", range(min = 1, max = 4_194_304), example = 256)]
    pub pids: Option<u32>,
}

/// Where a managed file comes from: one of the three.
#[derive(JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct ManagedFile {
    /// A file, from the folder that this manifest lies in.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "RelativePath")]
    pub file: Option<String>,
    /// A folder with everything in it, from the folder that this manifest lies in.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "FolderPath")]
    pub dir: Option<String>,
    /// The content itself.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "String")]
    pub inline: Option<String>,
}

/// A project's Rediaccfile, with the functions `prep`, `up` and `down`.
#[derive(JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RediaccfileRef {
    /// Its path, from the folder that this manifest lies in.
    #[schemars(with = "RelativePath")]
    pub file: String,
}

/// How long is waited for a project.
#[derive(JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Wait {
    /// How long it may take to get well, from `1s` to `1h`; `60s` where nothing is
    /// said. It is no part of what runs: changing it recreates nothing.
    #[schemars(with = "Limit")]
    pub healthy: String,
}

/// How a change of a project is brought in.
#[derive(JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Update {
    /// What becomes of it when it fails: an image that cannot be had, a container that
    /// ends, a check that does not pass in time. What failed is not tried again until
    /// it changes.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Whether a change comes up on a copy of its repository first: with the real data, a
    /// network of its own and no routes. Nothing of the repository is touched before it
    /// is well there; where it fails, nothing is. The copy goes by itself. In it
    /// `REDIACC_IS_FORK` is `true`.
    #[serde(default)]
    pub fork_first: bool,
}

/// What becomes of a change that fails.
#[derive(Default, JsonSchema, Serialize)]
#[schemars(inline)]
pub enum OnFailure {
    /// The files and containers of the revision before come back; the data stays as it
    /// is then.
    #[default]
    Rollback,
    /// The revision before comes back, and with it all data of its repository as it was
    /// before the update: every service of the repository stops for it, and loses what it
    /// wrote since. The data that is replaced is kept as a snapshot.
    RollbackWithData,
    /// The project stays where it failed.
    Stop,
}

/// A project's compose file.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Compose {
    /// Its path, from the folder that this manifest lies in.
    #[schemars(with = "RelativePath")]
    pub file: String,
}
