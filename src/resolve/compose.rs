//! The compose transform (DESIGN §8, ruling 10): what `docker compose config`
//! resolved becomes what compose is given, or is refused with the setting's
//! place. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::host::ComposeOutput;
use crate::model::{Digest, Environment, FileSet, Name, NetworkId, RelPath, ServiceSpec, Slots};

/// What the transform needs to know about a project.
#[derive(Clone, Debug)]
pub struct Context<'a> {
    /// The repository's name.
    pub repository: &'a Name,
    /// Its network.
    pub network: NetworkId,
    /// The project's directory on the machine.
    pub directory: PathBuf,
    /// The project.
    pub project: &'a Name,
    /// The slots of the whole repository.
    pub slots: &'a Slots,
    /// The project's files.
    pub files: &'a FileSet,
    /// What the manifest puts into its environment.
    pub environment: &'a Environment,
}

/// Service settings that reach beyond the repository.
const REFUSED: [&str; 14] = [
    "privileged",
    "pid",
    "ipc",
    "uts",
    "userns_mode",
    "cgroup",
    "cgroup_parent",
    "cap_add",
    "devices",
    "device_cgroup_rules",
    "security_opt",
    "volumes_from",
    "runtime",
    "sysctls",
];

impl Context<'_> {
    /// The variables that a compose file may use.
    pub fn interpolation(&self) -> BTreeMap<String, String> {
        let mut variables = self.environment.0.clone();
        variables.extend(self.slots.0.iter().map(|(service, slot)| {
            (
                ip_variable(service),
                self.network.address(*slot).to_string(),
            )
        }));
        variables.insert("REDIACC_NETWORK_ID".to_owned(), self.network.to_string());
        variables.insert("REDIACC_REPOSITORY".to_owned(), self.repository.to_string());
        variables
    }

    /// The path in the project's directory; `None` where it lies elsewhere.
    fn relative(&self, path: &str) -> Option<Option<RelPath>> {
        let rest = Path::new(path).strip_prefix(&self.directory).ok()?;
        match rest.to_str()? {
            "" => Some(None),
            rest => Some(Some(rest.parse().ok()?)),
        }
    }

    /// The digest of the project's files at or beneath a path.
    fn digest_beneath(&self, base: Option<&RelPath>) -> Digest {
        let files = self.files.files().iter().filter(|(path, _)| {
            base.is_none_or(|base| *path == base || path.strip_prefix(base).is_some())
        });
        FileSet::digest_of(files.map(|(path, file)| (path, file.digest(), file.executable())))
    }
}

/// `api-2` → `API_2_IP`.
fn ip_variable(service: &str) -> String {
    let upper: String = service
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_uppercase()
            } else {
                '_'
            }
        })
        .collect();
    format!("{upper}_IP")
}

/// Turns a resolved compose file into the one that runs. All refusals at once,
/// one a line.
pub fn transform(mut config: Value, context: &Context<'_>) -> Result<Value, String> {
    let mut refused = Vec::new();
    let root = config.as_object_mut().ok_or("compose gave no mapping")?;
    root.remove("networks");
    for (name, volume) in entries(root.get("volumes")) {
        if volume
            .get("driver_opts")
            .is_some_and(|opts| !is_empty(opts))
            || volume
                .get("driver")
                .is_some_and(|driver| *driver != json!("local"))
        {
            refused.push(format!(
                "volumes.{name}: a foreign driver or driver_opts reaches outside the repository"
            ));
        }
    }
    for group in ["configs", "secrets"] {
        for (name, entry) in entries(root.get(group)) {
            if let Some(file) = entry.get("file").and_then(Value::as_str)
                && context.relative(file).is_none()
            {
                refused.push(format!(
                    "{group}.{name}.file: `{file}` leaves the repository"
                ));
            }
        }
    }
    let declared = root.clone();
    let services = root
        .get_mut("services")
        .and_then(Value::as_object_mut)
        .filter(|services| !services.is_empty())
        .ok_or("services: none is defined")?;
    for (name, service) in services.iter_mut() {
        let Some(service) = service.as_object_mut() else {
            refused.push(format!("services.{name}: not a mapping"));
            continue;
        };
        judge(name, service, context, &mut refused);
        if let Err(why) = settle(name, service, &declared, context) {
            refused.push(format!("services.{name}: {why}"));
        }
    }
    if refused.is_empty() {
        Ok(config)
    } else {
        Err(refused.join("\n"))
    }
}

fn entries(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value.and_then(Value::as_object).into_iter().flatten()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        _ => false,
    }
}

fn judge(
    name: &str,
    service: &Map<String, Value>,
    context: &Context<'_>,
    refused: &mut Vec<String>,
) {
    for key in REFUSED {
        if service.get(key).is_some_and(|value| !is_empty(value)) {
            refused.push(format!(
                "services.{name}.{key}: reaches beyond the repository and is refused"
            ));
        }
    }
    let volumes = service.get("volumes").and_then(Value::as_array);
    for volume in volumes.into_iter().flatten() {
        if volume.get("type") == Some(&json!("bind")) {
            let source = volume
                .get("source")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if context.relative(source).is_none() {
                refused.push(format!(
                    "services.{name}.volumes: `{source}` leaves the project's directory"
                ));
            }
        }
    }
    if let Some(build) = service.get("build").and_then(Value::as_object) {
        let path = build
            .get("context")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if context.relative(path).is_none() {
            refused.push(format!(
                "services.{name}.build.context: `{path}` leaves the project's directory"
            ));
        }
        for key in [
            "privileged",
            "entitlements",
            "ssh",
            "network",
            "additional_contexts",
        ] {
            if build.get(key).is_some_and(|value| !is_empty(value)) {
                refused.push(format!("services.{name}.build.{key}: is refused"));
            }
        }
    }
    if service
        .get("scale")
        .and_then(Value::as_u64)
        .is_some_and(|scale| scale > 1)
        || service
            .get("deploy")
            .and_then(|deploy| deploy.get("replicas"))
            .and_then(Value::as_u64)
            .is_some_and(|replicas| replicas > 1)
    {
        refused.push(format!(
            "services.{name}: one address serves one container; replicas are refused"
        ));
    }
}

fn settle(
    name: &str,
    service: &mut Map<String, Value>,
    declared: &Map<String, Value>,
    context: &Context<'_>,
) -> Result<(), String> {
    let slot = context
        .slots
        .0
        .get(name)
        .ok_or("has no slot; its name must stand literally in the compose file")?;
    let address = context.network.address(*slot).to_string();
    for key in ["networks", "ports", "links", "external_links"] {
        service.remove(key);
    }
    service.insert("network_mode".to_owned(), json!("host"));

    let environment = mapping(service, "environment")?;
    for (name, value) in &context.environment.0 {
        // Compose reads the text once more: a `$` is said twice.
        let value = || json!(value.replace('$', "$$"));
        environment.entry(name).or_insert_with(value);
    }
    environment.insert("SERVICE_IP".to_owned(), json!(address));
    environment.insert(
        "REDIACC_NETWORK_ID".to_owned(),
        json!(context.network.to_string()),
    );

    let hosts: Vec<Value> = context
        .slots
        .0
        .iter()
        .map(|(other, slot)| json!(format!("{other}={}", context.network.address(*slot))))
        .collect();
    let extra = service.entry("extra_hosts").or_insert_with(|| json!([]));
    extra
        .as_array_mut()
        .ok_or("extra_hosts: not a list")?
        .extend(hosts);

    if let Some(build) = service.get("build").cloned() {
        let path = build
            .get("context")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let base = context.relative(path).flatten();
        // The context's place on the machine is no part of what is built.
        let mut recipe = build.clone();
        recipe["context"] = json!(base.as_ref().map(RelPath::as_str));
        let digest = Digest::of_fields([
            context.digest_beneath(base.as_ref()).as_str().as_bytes(),
            recipe.to_string().as_bytes(),
        ]);
        // Named by its content: a changed context is another image, and the one
        // that runs stays until the new one is built.
        let own = service.insert(
            "image".to_owned(),
            json!(format!(
                "renet/{}-{name}:{}",
                context.project,
                digest.short()
            )),
        );
        if let Some(Value::String(own)) = own
            && let Some(build) = service.get_mut("build").and_then(Value::as_object_mut)
        {
            let tags = build.entry("tags").or_insert_with(|| json!([]));
            if let Some(tags) = tags.as_array_mut() {
                tags.push(json!(own));
            }
        }
    } else if service.get("image").is_none_or(is_empty) {
        return Err("has neither `image` nor `build`".to_owned());
    }

    let files = mounted_files(service, declared, context);
    let labels = mapping(service, "labels")?;
    labels.insert("rediacc.service_name".to_owned(), json!(name));
    labels.insert("rediacc.service_ip".to_owned(), json!(address));
    labels.insert(
        "rediacc.network_id".to_owned(),
        json!(context.network.to_string()),
    );
    labels.insert("rediacc.repo_name".to_owned(), json!(context.repository));
    if let Some(digest) = files {
        // The contents of mounted files are no part of compose's own hash.
        labels.insert("renet.files".to_owned(), json!(digest.as_str()));
    }
    Ok(())
}

fn mapping<'a>(
    service: &'a mut Map<String, Value>,
    key: &str,
) -> Result<&'a mut Map<String, Value>, String> {
    let value = service.entry(key).or_insert_with(|| json!({}));
    if value.is_null() {
        *value = json!({});
    }
    value
        .as_object_mut()
        .ok_or_else(|| format!("{key}: not a mapping"))
}

/// The digest of the managed files that the service sees through bind mounts,
/// configs and secrets.
fn mounted_files(
    service: &Map<String, Value>,
    declared: &Map<String, Value>,
    context: &Context<'_>,
) -> Option<Digest> {
    let mut paths: BTreeSet<String> = BTreeSet::new();
    let list = |key: &str| {
        service
            .get(key)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    for volume in list("volumes") {
        if volume.get("type") == Some(&json!("bind")) {
            paths.extend(
                volume
                    .get("source")
                    .and_then(Value::as_str)
                    .map(str::to_owned),
            );
        }
    }
    for group in ["configs", "secrets"] {
        for used in list(group) {
            let name = used
                .get("source")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let file = declared
                .get(group)
                .and_then(|group| group.get(name))
                .and_then(|entry| entry.get("file"))
                .and_then(Value::as_str);
            paths.extend(file.map(str::to_owned));
        }
    }
    let empty = FileSet::digest_of(std::iter::empty());
    let digests: Vec<Digest> = paths
        .iter()
        .filter_map(|path| context.relative(path))
        .map(|base| context.digest_beneath(base.as_ref()))
        .filter(|digest| *digest != empty)
        .collect();
    (!digests.is_empty())
        .then(|| Digest::of_fields(digests.iter().map(|digest| digest.as_str().as_bytes())))
}

/// An image's name as a daemon lists it: `nginx` is `nginx:latest`, and what is
/// pinned by digest is known by its digest alone.
fn canonical(image: &str) -> String {
    let image = image
        .strip_prefix("docker.io/library/")
        .or_else(|| image.strip_prefix("docker.io/"))
        .unwrap_or(image);
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    let bare = match last.split_once(':') {
        Some((_, tag)) => &name[..name.len() - tag.len() - 1],
        None => name,
    };
    match digest {
        Some(digest) => format!("{bare}@{digest}"),
        None if bare == name => format!("{name}:latest"),
        None => name.to_owned(),
    }
}

/// What the planner needs to know about each service of a resolved text.
pub fn services(
    output: &ComposeOutput,
    context: &Context<'_>,
) -> Result<BTreeMap<String, ServiceSpec>, String> {
    let text: Value = serde_json::from_str(&output.text).map_err(|error| error.to_string())?;
    let completes: BTreeSet<&String> = entries(text.get("services"))
        .flat_map(|(_, service)| entries(service.get("depends_on")))
        .filter(|(_, on)| on.get("condition") == Some(&json!("service_completed_successfully")))
        .map(|(name, _)| name)
        .collect();
    entries(text.get("services"))
        .map(|(name, service)| {
            let slot = *context
                .slots
                .0
                .get(name)
                .ok_or_else(|| format!("services.{name}: has no slot"))?;
            let spec = ServiceSpec {
                config_hash: output
                    .hashes
                    .get(name)
                    .cloned()
                    .ok_or_else(|| format!("services.{name}: compose gave no hash"))?,
                image: canonical(
                    service
                        .get("image")
                        .and_then(Value::as_str)
                        .unwrap_or_default(),
                ),
                builds: service.get("build").is_some(),
                completes: completes.contains(name),
                slot,
                address: context.network.address(slot),
            };
            Ok((name.clone(), spec))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_as_a_daemon_lists_them() {
        for (written, listed) in [
            ("nginx", "nginx:latest"),
            ("nginx:1.27", "nginx:1.27"),
            ("docker.io/library/nginx", "nginx:latest"),
            ("docker.io/bitnami/redis:7", "bitnami/redis:7"),
            ("registry.test:5000/web", "registry.test:5000/web:latest"),
            ("registry.test:5000/web:2", "registry.test:5000/web:2"),
            ("nginx:1.27@sha256:ab", "nginx@sha256:ab"),
        ] {
            assert_eq!(canonical(written), listed, "{written}");
        }
    }

    fn transformed(service: Value) -> Result<Value, String> {
        let name: Name = "shop".parse().unwrap();
        let project: Name = "web".parse().unwrap();
        let slots = Slots::default().allocate(["api"]).unwrap();
        let files = FileSet::new(BTreeMap::new());
        let environment = Environment(BTreeMap::from([
            ("LOG".to_owned(), "info".to_owned()),
            ("PRICE".to_owned(), "5$ ${LOG}".to_owned()),
        ]));
        let context = Context {
            repository: &name,
            network: NetworkId::FIRST,
            directory: PathBuf::from("/mnt/rediacc/mounts/g/web"),
            project: &project,
            slots: &slots,
            files: &files,
            environment: &environment,
        };
        transform(json!({"services": {"api": service}}), &context)
    }

    #[test]
    fn a_service_gets_its_address_and_the_hosts_network() {
        let out =
            transformed(json!({"image": "i", "ports": ["80:80"], "networks": {"default": null}}))
                .unwrap();
        let api = &out["services"]["api"];
        assert_eq!(api["network_mode"], "host");
        assert_eq!(api["labels"]["rediacc.service_ip"], "127.0.11.2");
        assert_eq!(api["labels"]["rediacc.network_id"], "2816");
        assert_eq!(api["environment"]["SERVICE_IP"], "127.0.11.2");
        assert_eq!(api["extra_hosts"], json!(["api=127.0.11.2"]));
        assert!(api.get("ports").is_none() && api.get("networks").is_none());
    }

    #[test]
    fn the_manifests_environment_is_set_where_the_compose_file_says_nothing() {
        let out = transformed(json!({"image": "i", "environment": {"LOG": "debug"}})).unwrap();
        let environment = &out["services"]["api"]["environment"];
        assert_eq!(environment["LOG"], "debug");
        assert_eq!(environment["PRICE"], "5$$ $${LOG}");
    }

    #[test]
    fn l44_what_reaches_beyond_the_repository_is_refused_with_its_place() {
        for (service, place) in [
            (
                json!({"image": "i", "privileged": true}),
                "services.api.privileged",
            ),
            (json!({"image": "i", "pid": "host"}), "services.api.pid"),
            (
                json!({"image": "i", "cap_add": ["SYS_ADMIN"]}),
                "services.api.cap_add",
            ),
            (
                json!({"image": "i", "devices": [{"source": "/dev/sda"}]}),
                "services.api.devices",
            ),
            (
                json!({"image": "i", "security_opt": ["apparmor=unconfined"]}),
                "services.api.security_opt",
            ),
            (
                json!({"image": "i", "volumes": [{"type": "bind", "source": "/var/run/docker.sock", "target": "/s"}]}),
                "services.api.volumes",
            ),
            (
                json!({"build": {"context": "/etc"}}),
                "services.api.build.context",
            ),
            (json!({"image": "i", "scale": 2}), "services.api"),
        ] {
            let refused = transformed(service.clone()).unwrap_err();
            assert!(refused.contains(place), "{service}: {refused}");
        }
    }
}
