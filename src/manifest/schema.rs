//! The manifests as they are written, for JSON Schema and `renet explain`.
//!
//! They are decoded by hand (`decode`), so that all mistakes are told at once;
//! these types are never filled. The tests below hold the two against each
//! other: fields, required ones, values, and what each refuses.
//!
//! Every doc comment here is read by users: in their editor, and by `explain`.

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

/// What the machine should be.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MachineSpec {
    /// The BTRFS file system that holds all repositories. Left out, none is made.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Datastore")]
    pub datastore: Option<Datastore>,
    /// The reverse proxy, Traefik.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Proxy")]
    pub proxy: Option<Proxy>,
    /// Values that other manifests name as `${variable}` in their texts. `$${` is
    /// a literal `${`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("propertyNames" = {
        "pattern": "^[A-Za-z_][A-Za-z0-9_]*$",
        "examples": ["stage", "Zone_2"],
    }))]
    pub variables: BTreeMap<String, VariableValue>,
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

/// The BTRFS file system that holds all repositories.
#[derive(JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Datastore {
    /// At least this large, 256M or more. It grows while in use, and never shrinks.
    #[schemars(with = "DatastoreSize")]
    pub size: String,
    /// The file that holds it, `/mnt/rediacc.img` where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "AbsolutePath")]
    pub backing_file: Option<String>,
}

/// The reverse proxy, Traefik.
#[derive(JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Proxy {
    /// The port on which it answers HTTP.
    #[serde(default = "http")]
    #[schemars(with = "Port")]
    pub http: u16,
}

fn http() -> u16 {
    super::Proxy::default().http
}

/// What the repository should be.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RepositorySpec {
    /// At least this large, 64M or more. It grows while in use, and never shrinks.
    pub size: ImageSize,
    /// How its image is encrypted. Only `none` is built yet.
    pub encryption: Encryption,
    /// What it should be doing.
    #[serde(default)]
    pub state: RunState,
    /// Its network: a multiple of 64 that no other repository has. Left out, one
    /// is chosen at its creation and kept. Read at creation alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "NetworkId")]
    pub network_id: Option<u32>,
    /// Its guid, which is also its image's file name. Left out, one is made at
    /// its creation and kept. Read at creation alone, or to take over an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Guid")]
    pub guid: Option<String>,
    /// What becomes of its data when this manifest goes.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Whether it may not be deleted. Lifting it takes an apply of its own.
    #[serde(default)]
    #[schemars(example = true)]
    pub protected: bool,
}

/// What a repository should be doing.
#[derive(Default, Serialize, JsonSchema)]
#[schemars(inline)]
pub enum RunState {
    /// Mounted, its daemon up, its projects running.
    #[default]
    Running,
    /// Mounted, its daemon up, nothing running.
    Stopped,
    /// Closed.
    Offline,
}

/// What becomes of a repository's data when its manifest goes.
#[derive(Default, Serialize, JsonSchema)]
#[schemars(inline)]
pub enum DeletionPolicy {
    /// It is closed and left, unmanaged.
    #[default]
    Retain,
    /// Its image goes to the trash for 7 days.
    Delete,
}

/// How an image is encrypted.
#[derive(JsonSchema)]
#[schemars(inline, extend("const" = "none"))]
pub struct Encryption(pub String);

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
    /// What is set in every container of the project whose compose file does not
    /// set it itself, and for the compose file's own `${…}`.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(extend("propertyNames" = { "pattern": VARIABLE, "examples": ["LOG", "_x2"] }))]
    pub environment: BTreeMap<String, String>,
    /// How long is waited for the project.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Wait")]
    pub wait: Option<Wait>,
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

/// How long is waited for a project.
#[derive(JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Wait {
    /// How long it may take to get well, from `1s` to `1h`; `60s` where nothing is
    /// said. It is no part of what runs: changing it recreates nothing.
    #[schemars(with = "Limit")]
    pub healthy: String,
}

/// A project's compose file.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Compose {
    /// Its path, from the folder that this manifest lies in.
    #[schemars(with = "RelativePath")]
    pub file: String,
}

/// Where the route leads.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RouteSpec {
    /// The service that it leads to, as `repository/service`: one under
    /// `services:` of a compose file.
    #[schemars(with = "Target")]
    pub service: String,
    /// The port that the service listens on.
    #[schemars(with = "Port")]
    pub port: u16,
    /// The host name that it answers to, which no other route has.
    #[schemars(with = "HostName")]
    pub host: String,
}

/// 1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends; no UUID.
#[derive(JsonSchema)]
#[schemars(
    inline,
    extend("not" = { "pattern": UUID }),
    example = &"shop"
)]
pub struct Name(#[schemars(regex(pattern = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"))] pub String);

const UUID: &str = "^([0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$";

/// 1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends; no UUID, and
/// not `root`, which is the project in the repository's own folder.
#[derive(JsonSchema)]
#[schemars(
    inline,
    extend("not" = { "pattern": format!("{UUID}|^root$") }),
    example = &"web"
)]
pub struct ServiceName(
    #[schemars(regex(pattern = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"))] pub String,
);

/// Labels of a-z, 0-9 and `-` joined by dots.
#[derive(JsonSchema)]
#[schemars(inline, example = &"shop.example.com")]
pub struct HostName(
    #[schemars(
        regex(
            pattern = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$"
        ),
        length(max = 253)
    )]
    pub String,
);

/// A repository and a service of it.
#[derive(JsonSchema)]
#[schemars(inline, example = &"shop/web")]
pub struct Target(
    #[schemars(regex(pattern = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?/[^/]+$"))] pub String,
);

/// A UUID.
#[derive(JsonSchema)]
#[schemars(inline, example = &"5d0e6f3a-1f3c-4c58-9a53-0d6f2a1b7c9e")]
pub struct Guid(
    #[schemars(regex(pattern = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"))] pub String,
);

/// A relative path without `..`.
#[derive(JsonSchema)]
#[schemars(inline, example = &"web/docker-compose.yml")]
pub struct RelativePath(#[schemars(regex(pattern = PATH), length(max = 1026))] pub String);

const PATH: &str = r"^(?:\./)?(?!(?:.*/)?\.{0,2}(?:/|$))[^\x00-\x1f\x7f-\x9f]+$";

/// A relative path of a folder, without `..`.
#[derive(JsonSchema)]
#[schemars(inline, example = &"web")]
pub struct FolderPath(#[schemars(regex(pattern = PATH), length(max = 1026))] pub String);

/// The name of a variable that a manifest may set.
const VARIABLE: &str =
    "^(?!(REDIACC_|COMPOSE_|DOCKER_|LD_)|(PATH|HOME|.*_IP)$)[A-Za-z_][A-Za-z0-9_]*$";

/// Hours, minutes and seconds.
#[derive(JsonSchema)]
#[schemars(inline, example = &"60s")]
pub struct Limit(
    #[schemars(regex(pattern = r"^(?=.)([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$"))] pub String,
);

/// An absolute path without `..`.
#[derive(JsonSchema)]
#[schemars(inline, example = &"/mnt/rediacc.img")]
pub struct AbsolutePath(
    #[schemars(regex(pattern = r"^/(?=.*[^/.])(?!(?:.*/)?\.\.(?:/|$))[^\x00-\x1f\x7f-\x9f]+$"))]
    pub String,
);

/// A multiple of 64.
#[derive(JsonSchema)]
#[schemars(
    inline,
    extend("multipleOf" = 64),
    example = 2816
)]
pub struct NetworkId(#[schemars(range(min = 2816, max = 16_711_680))] pub u32);

/// A port.
#[derive(JsonSchema)]
#[schemars(inline, example = 8080)]
pub struct Port(#[schemars(range(min = 1))] pub u16);

/// A number and K, M, G or T (powers of 1024), or a number of bytes.
#[derive(JsonSchema)]
#[schemars(inline, untagged, example = &"2G")]
pub enum ImageSize {
    Text(SizeText),
    Bytes(#[schemars(range(min = 67_108_864))] u64),
}

/// A number and K, M, G or T (powers of 1024), or a number of bytes.
#[derive(JsonSchema)]
#[schemars(inline, untagged, example = &"20G")]
pub enum DatastoreSize {
    Text(SizeText),
    Bytes(#[schemars(range(min = 268_435_456))] u64),
}

/// A number and K, M, G or T: powers of 1024.
#[derive(JsonSchema)]
#[schemars(inline, example = &"2G")]
pub struct SizeText(
    #[schemars(regex(
        pattern = r"^ *[0-9]+(\.[0-9]{1,9})? *([KMGTPkmgtp]([Bb]|i[Bb])?|[Bb])? *$"
    ))]
    pub String,
);

/// Tells serde what has no default worth printing.
fn nothing<T>(_: &T) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::PathBuf;
    use std::sync::LazyLock;

    use jsonschema::Validator;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::decode::{Context, document};
    use super::super::fields::ASKED;
    use super::super::problem::{Report, Source};
    use super::super::root::Root;
    use super::super::tree::parse;
    use super::*;
    use crate::model;

    /// A schema, the other implementation that reads it, and ours.
    struct Kind {
        name: &'static str,
        root: Value,
        validator: Validator,
    }

    impl Kind {
        fn all() -> Vec<Kind> {
            let kind = |(name, schema): (_, Schema)| Kind {
                name,
                validator: jsonschema::validator_for(schema.as_value()).unwrap(),
                root: schema.to_value(),
            };
            kinds().into_iter().map(kind).collect()
        }

        fn resolve<'a>(&'a self, node: &'a Value) -> &'a Value {
            match node.get("$ref").and_then(Value::as_str) {
                Some(target) => self.root.pointer(&target[1..]).unwrap(),
                None => node,
            }
        }

        /// The properties of a part of the schema, and which must be there.
        fn properties<'a>(&'a self, node: &'a Value) -> Vec<(&'a str, &'a Value, bool)> {
            let node = self.resolve(node);
            let required = node["required"].as_array().cloned().unwrap_or_default();
            let all = node["properties"].as_object().into_iter().flatten();
            all.map(|(name, field)| (name.as_str(), field, required.contains(&json!(name))))
                .collect()
        }

        /// Every property by its path, and whether it must be there.
        fn paths(&self, node: &Value, at: &str, out: &mut BTreeSet<(String, bool)>) {
            for (name, field, required) in self.properties(node) {
                let path = join(at, name);
                self.paths(field, &path, out);
                // Of a mapping whose keys are the user's.
                let inner = &self.resolve(field)["additionalProperties"];
                self.paths(inner, &join(&path, "*"), out);
                out.insert((path, required));
            }
        }

        /// Something that the schema allows there, as the dice have it.
        fn draw(&self, node: &Value, dice: &mut Dice, all: bool) -> Value {
            let node = self.resolve(node);
            let pick = |all: &[Value], dice: &mut Dice| all[dice.below(all.len())].clone();
            if let Some(only) = node.get("const") {
                return only.clone();
            }
            if let Some(choices) = node["oneOf"].as_array().or(node["anyOf"].as_array()) {
                return self.draw(&pick(choices, dice), dice, all);
            }
            let number = |keyword: &str, or: u64| node[keyword].as_u64().unwrap_or(or);
            match node["type"].as_str().unwrap() {
                "boolean" => json!(dice.below(2) == 0),
                "integer" => {
                    let (step, least) = (number("multipleOf", 1), number("minimum", 0));
                    let most = number("maximum", least + 1_000_000_000);
                    let steps = (most - least) / step + 1;
                    json!(least + step * dice.below(steps as usize) as u64)
                }
                "string" => match node["examples"].as_array() {
                    Some(examples) => pick(examples, dice),
                    None => json!("anything: \u{e9}"),
                },
                "object" => {
                    let mut out = serde_json::Map::new();
                    let mut fields = self.properties(node);
                    if node["maxProperties"] == json!(1) {
                        let (name, field, _) = fields.swap_remove(dice.below(fields.len()));
                        fields = vec![(name, field, true)];
                    }
                    for (name, field, required) in fields {
                        if required || all || dice.below(2) == 0 {
                            out.insert(name.to_owned(), self.draw(field, dice, all));
                        }
                    }
                    if node["additionalProperties"].is_object() {
                        let keys = json!(["a", "b.c/d"]);
                        let keys = node["propertyNames"].get("examples").unwrap_or(&keys);
                        let count = if all { 1 } else { dice.below(3) };
                        for key in keys.as_array().unwrap().iter().take(count) {
                            let value = self.draw(&node["additionalProperties"], dice, all);
                            out.insert(key.as_str().unwrap().to_owned(), value);
                        }
                    }
                    Value::Object(out)
                }
                "array" => {
                    let count = dice.below(3);
                    (0..count)
                        .map(|_| self.draw(&node["items"], dice, all))
                        .collect()
                }
                other => panic!("nothing is known of {other} here"),
            }
        }

        /// Single changes that make a part invalid, each where it belongs.
        fn mutations(&self, node: &Value, value: &Value) -> Vec<(String, Value)> {
            let node = self.resolve(node);
            let mut out = Vec::new();
            let wrong = match value {
                Value::Object(_) => vec![json!("text"), json!([]), json!(null)],
                Value::String(_) => vec![
                    json!({}),
                    json!([]),
                    json!(true),
                    json!("\u{7}"),
                    json!(null),
                ],
                _ => vec![json!({}), json!("yes"), json!(-1), json!(1.5), json!(null)],
            };
            out.extend(
                wrong
                    .into_iter()
                    .map(|wrong| (format!("-> {wrong}"), wrong)),
            );
            let Value::Object(fields) = value else {
                return out;
            };
            if node["additionalProperties"] == json!(false) {
                let mut more = fields.clone();
                more.insert("unheardOf".to_owned(), json!("x"));
                out.push(("unheardOf".to_owned(), Value::Object(more)));
            }
            for (name, field, required) in self.properties(node) {
                let Some(inner) = fields.get(name) else {
                    continue;
                };
                if required {
                    let mut less = fields.clone();
                    less.remove(name);
                    out.push((format!("without {name}"), Value::Object(less)));
                }
                for (what, changed) in self.mutations(field, inner) {
                    let mut other = fields.clone();
                    other.insert(name.to_owned(), changed);
                    out.push((format!("{name}: {what}"), Value::Object(other)));
                }
            }
            out
        }
    }

    fn join(at: &str, name: &str) -> String {
        match at {
            "" => name.to_owned(),
            at => format!("{at}.{name}"),
        }
    }

    struct Dice(u64);

    impl Dice {
        fn below(&mut self, limit: usize) -> usize {
            // splitmix64
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) % limit as u64) as usize
        }
    }

    /// What the hand-written decoder says against a document, on its own.
    fn decode(value: &Value) -> Vec<String> {
        static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
            let folder = tempfile::tempdir().unwrap();
            let compose = folder.path().join("web/docker-compose.yml");
            fs::create_dir_all(compose.parent().unwrap()).unwrap();
            fs::write(compose, "services: { web: { image: x } }\n").unwrap();
            folder
        });
        let root = Root::open(FOLDER.path(), FOLDER.path()).unwrap();
        let source = Source::new(PathBuf::from("a.yaml"), value.to_string());
        let report = Report::default();
        let nodes = parse(&source).unwrap();
        let mut projects = Vec::new();
        let mut context = Context {
            root: &root,
            source: &source,
            dir: None,
            report: &report,
            projects: &mut projects,
        };
        let found = document(&nodes[0], &mut context);
        let problems = report.into_problems();
        let whole = found.is_some_and(|found| found.document.is_some());
        assert_eq!(whole, problems.is_empty(), "{value}: {problems:?}");
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_schema_has_the_fields_that_the_decoder_asks_for() {
        for kind in Kind::all() {
            let full = kind.draw(&kind.root, &mut Dice(0), true);
            ASKED.take();
            assert_eq!(decode(&full), Vec::<String>::new(), "{full:#}");
            let mut asked = ASKED.take();
            // Asked for of every kind, to say that it is for repositories alone.
            let moved = ("metadata.annotations.renet/moved-from".to_owned(), false);
            if kind.name != "repository" {
                assert!(asked.remove(&moved));
            }
            let mut written = BTreeSet::new();
            kind.paths(&kind.root, "", &mut written);
            let more: Vec<_> = asked.symmetric_difference(&written).collect();
            assert!(
                more.is_empty(),
                "{}: field and whether it is required, in decode.rs or in schema.rs but not in both: {more:#?}",
                kind.name
            );
        }
    }

    #[test]
    fn the_decoder_names_the_values_that_the_schema_allows() {
        let kinds = Kind::all();
        let kind = kinds.iter().find(|kind| kind.name == "repository").unwrap();
        let spec = &kind.root["properties"]["spec"];
        let mut seen = 0;
        for (name, field, _) in kind.properties(spec) {
            let Some(choices) = kind.resolve(field)["oneOf"].as_array() else {
                continue;
            };
            seen += 1;
            let mut document = kind.draw(&kind.root, &mut Dice(0), true);
            document["spec"][name] = json!("Unheard");
            let said = decode(&document).join("; ");
            let values = choices.iter().map(|one| one["const"].as_str().unwrap());
            let values: BTreeSet<&str> = values.collect();
            let words = said.rsplit(": ").next().unwrap().split([' ', ',']);
            let named = words.filter(|word| word.starts_with(char::is_uppercase));
            assert_eq!(named.collect::<BTreeSet<_>>(), values, "{said}");
        }
        assert_eq!(seen, 2);
    }

    #[test]
    fn every_text_with_a_form_has_examples_of_it() {
        fn walk(node: &Value, out: &mut usize) {
            if let Some(pattern) = node.get("pattern") {
                assert!(node["examples"].is_array(), "{pattern}: no example");
                let validator = jsonschema::validator_for(node).unwrap();
                for example in node["examples"].as_array().unwrap() {
                    *out += 1;
                    assert!(validator.is_valid(example), "{pattern}: {example}");
                }
            }
            let inner: Vec<&Value> = match node {
                Value::Object(map) => map
                    .iter()
                    .filter(|(key, _)| *key != "not")
                    .map(|(_, value)| value)
                    .collect(),
                Value::Array(items) => items.iter().collect(),
                _ => Vec::new(),
            };
            inner.into_iter().for_each(|inner| walk(inner, out));
        }
        let mut seen = 0;
        walk(&manifest().to_value(), &mut seen);
        assert!(seen > 10, "{seen}");
    }

    /// Whether a text fits a schema of one type.
    fn fits<T: JsonSchema>(text: &str) -> bool {
        let schema = of::<T>().to_value();
        jsonschema::validator_for(&schema)
            .unwrap()
            .is_valid(&json!(text))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn what_one_accepts_or_refuses_so_does_the_other(seed in any::<u64>()) {
            let mut dice = Dice(seed);
            let (kinds, whole) = &*KINDS;
            for kind in kinds {
                let good = kind.draw(&kind.root, &mut dice, false);
                prop_assert!(kind.validator.is_valid(&good), "{good:#}");
                prop_assert!(whole.is_valid(&good), "{good:#}");
                prop_assert_eq!(decode(&good), Vec::<String>::new(), "{:#}", good);
                let all = kind.mutations(&kind.root, &good);
                prop_assert!(all.len() > 20);
                for (what, bad) in all {
                    prop_assert!(!kind.validator.is_valid(&bad), "{}: {what}: the schema accepts it", kind.name);
                    prop_assert!(!whole.is_valid(&bad), "{}: {what}: the schema of all accepts it", kind.name);
                    // Its own mutation may fall on what nobody decodes.
                    prop_assert!(!decodes(&bad), "{}: {what}: the decoder accepts it", kind.name);
                }
            }
        }

        #[test]
        fn texts_have_the_same_form_in_both(
            text in "[a-c0-9./ -]{0,12}|[a-f0-9]{32}|[A-Fa-f0-9]{8}(-[a-f0-9]{4}){3}-[a-f0-9]{12}|[0-9.]{1,4} ?[KMGTXi]?[iIbB]{0,2}|\\PC{0,6}|\\./?\\.{0,3}/[a-c\u{85}\n]{0,3}",
        ) {
            prop_assert_eq!(fits::<Name>(&text), text.parse::<model::Name>().is_ok(), "name {:?}", text);
            prop_assert_eq!(fits::<HostName>(&text), text.parse::<model::HostName>().is_ok(), "host {:?}", text);
            prop_assert_eq!(fits::<Guid>(&text), text.parse::<model::Guid>().is_ok(), "guid {:?}", text);
            prop_assert_eq!(fits::<RelativePath>(&text), text.parse::<model::RelPath>().is_ok(), "path {:?}", text);
            // How large it must be a form cannot say.
            let is_zero = !text.contains(|c: char| ('1'..='9').contains(&c));
            if !is_zero {
                prop_assert_eq!(fits::<SizeText>(&text), text.parse::<model::Size>().is_ok(), "size {:?}", text);
            }
        }
    }

    /// Compiled once: that takes longer than to validate.
    static KINDS: LazyLock<(Vec<Kind>, Validator)> = LazyLock::new(|| {
        let whole = jsonschema::validator_for(manifest().as_value()).unwrap();
        (Kind::all(), whole)
    });

    fn decodes(value: &Value) -> bool {
        // What is no mapping at all is no document.
        value.is_object() && decode(value).is_empty()
    }
}
