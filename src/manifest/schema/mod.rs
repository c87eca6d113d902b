//! The manifests as they are written, for JSON Schema and `renet explain`.
//!
//! They are decoded by hand (`decode`), so that all mistakes are told at once;
//! these types are never filled. The tests below hold the two against each
//! other: fields, required ones, values, and what each refuses.
//!
//! Every doc comment here is read by users: in their editor, and by `explain`.

mod agreement;
mod machine;
mod repository;
mod route;
mod service;
mod text;

pub use machine::*;
pub use repository::*;
pub use route::*;
pub use service::*;
pub use text::*;

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde::Serialize;

/// The kinds, each with its schema.
pub fn kinds() -> [(&'static str, Schema); 4] {
    [
        ("machine", of::<Machine>()),
        ("repository", of::<Repository>()),
        ("service", of::<Service>()),
        ("route", of::<Route>()),
    ]
}

/// A manifest of any kind.
pub fn manifest() -> Schema {
    of::<Manifest>()
}

fn of<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<T>()
}

/// A manifest of renet: what a part of the machine should be.
#[derive(JsonSchema)]
#[serde(untagged)]
pub enum Manifest {
    Machine(Machine),
    Repository(Repository),
    Service(Service),
    Route(Route),
}

/// The machine itself. A folder describes at most one.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Machine {
    pub api_version: ApiVersion,
    pub kind: MachineKind,
    pub metadata: Metadata,
    /// What the machine should be; `{}` for all defaults.
    pub spec: MachineSpec,
}

/// A disk image of its own with a Docker daemon of its own: the unit of
/// isolation and backup.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Repository {
    pub api_version: ApiVersion,
    pub kind: RepositoryKind,
    pub metadata: RepositoryMetadata,
    /// What the repository should be.
    pub spec: RepositorySpec,
}

/// A compose project in a repository.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Service {
    pub api_version: ApiVersion,
    pub kind: ServiceKind,
    pub metadata: ServiceMetadata,
    /// What the project should be.
    pub spec: ServiceSpec,
}

/// A host name that leads to a service.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Route {
    pub api_version: ApiVersion,
    pub kind: RouteKind,
    pub metadata: Metadata,
    /// Where the route leads.
    pub spec: RouteSpec,
}

/// The version of the manifest's format.
#[derive(JsonSchema)]
#[schemars(inline, extend("const" = "renet/v1"))]
pub struct ApiVersion(pub String);

/// What the manifest describes.
#[derive(JsonSchema)]
#[schemars(inline, extend("const" = "Machine"))]
pub struct MachineKind(pub String);

/// What the manifest describes.
#[derive(JsonSchema)]
#[schemars(inline, extend("const" = "Repository"))]
pub struct RepositoryKind(pub String);

/// What the manifest describes.
#[derive(JsonSchema)]
#[schemars(inline, extend("const" = "Service"))]
pub struct ServiceKind(pub String);

/// What the manifest describes.
#[derive(JsonSchema)]
#[schemars(inline, extend("const" = "Route"))]
pub struct RouteKind(pub String);

/// What the object is called.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Metadata {
    /// Its name, which no other of its kind has.
    pub name: Name,
    /// Anything worth noting about it, by name; renet reads none of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("propertyNames" = label_names()))]
    pub labels: BTreeMap<String, LabelValue>,
    /// Words to renet about this object.
    #[serde(default, skip_serializing_if = "nothing")]
    pub annotations: Annotations,
}

/// What the repository is called.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RepositoryMetadata {
    /// Its name, which no other repository has.
    pub name: Name,
    /// Anything worth noting about it, by name; renet reads none of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("propertyNames" = label_names()))]
    pub labels: BTreeMap<String, LabelValue>,
    /// Words to renet about this repository.
    #[serde(default, skip_serializing_if = "nothing")]
    pub annotations: RepositoryAnnotations,
}

/// What the project is called.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServiceMetadata {
    /// Its name, which no other of its repository has: also its directory's, and
    /// its compose project's.
    pub name: ServiceName,
    /// Anything worth noting about it, by name; renet reads none of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("propertyNames" = label_names()))]
    pub labels: BTreeMap<String, LabelValue>,
    /// Words to renet about this object.
    #[serde(default, skip_serializing_if = "nothing")]
    pub annotations: Annotations,
}

/// Words to renet about an object; for this kind there are none.
#[derive(Default, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Annotations {}

/// Words to renet about a repository.
#[derive(Default, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RepositoryAnnotations {
    /// What the repository was called before it was renamed, or `none` where it
    /// is new though another one is gone.
    #[serde(
        rename = "renet/moved-from",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Name")]
    pub moved_from: Option<String>,
}

/// Up to 253 of letters, digits, `-`, `_` and `.`, with a letter or digit at both
/// ends; or nothing.
#[derive(JsonSchema, Serialize)]
#[schemars(inline, example = &"web", example = &"1.4_b-c")]
pub struct LabelValue(
    #[schemars(regex(pattern = r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?)?$"))] pub String,
);

/// The same as a label's value with `/`, and not empty.
fn label_names() -> serde_json::Value {
    serde_json::json!({
        "pattern": r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,251}[A-Za-z0-9])?$",
        "examples": ["a", "b.c/d"],
    })
}

/// One line of text that names no other variable.
#[derive(JsonSchema, Serialize)]
#[schemars(inline, example = &"prod", example = &"a $ b")]
pub struct VariableValue(
    #[schemars(regex(pattern = r"^([^$\x00-\x1f\x7f]|\$[^{\x00-\x1f\x7f])*\$?$"))] pub String,
);

/// Tells serde what has no default worth printing.
fn nothing<T>(_: &T) -> bool {
    true
}
