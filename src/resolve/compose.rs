//! The compose transform (DESIGN §8, ruling 10): what `docker compose config`
//! resolved becomes what compose is given, or is refused with the setting's
//! place. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::policy::{self, Idle, Refused};
use crate::host::ComposeOutput;
use crate::model::{
    Digest, Environment, FileSet, Guid, Kin, LOG_LIMITS, Name, NetworkId, RelPath, ResourceLimits,
    ServiceSpec, Slots, TRIAL_LABEL, hook,
};

/// What the transform needs to know about a project.
#[derive(Clone, Debug)]
pub struct Context<'a> {
    /// The repository.
    pub guid: Guid,
    /// Its name.
    pub repository: &'a Name,
    /// The name of the repository that it is a copy of, and what the copy is for.
    pub copy_of: Option<(&'a Name, &'a Name)>,
    /// How it came to be.
    pub kin: Kin,
    /// Its network.
    pub network: NetworkId,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// What lies outside of it and may be read: what all share, and the project's
    /// own secrets.
    pub outside: Vec<PathBuf>,
    /// The project's directory on the machine.
    pub directory: PathBuf,
    /// The project.
    pub project: &'a Name,
    /// The compose files that the text comes from.
    pub compose_files: Vec<PathBuf>,
    /// The slots of the whole repository.
    pub slots: &'a Slots,
    /// The project's files, where renet manages them: what is made from them is
    /// named by their content.
    pub files: Option<&'a FileSet>,
    /// What the manifest puts into its environment.
    pub environment: &'a Environment,
    /// What the manifest lets its services take.
    pub limits: &'a BTreeMap<String, ResourceLimits>,
    /// Whether whoever runs it takes everything upon himself.
    pub insist: bool,
}

/// What compose is given.
#[derive(Clone, Debug)]
pub struct Transformed {
    /// The file.
    pub config: Value,
    /// What of the file as written does not do what it says.
    pub warnings: Vec<Idle>,
}

impl Context<'_> {
    /// The variables that a compose file may use.
    pub fn interpolation(&self) -> BTreeMap<String, String> {
        let mut variables = self.environment.0.clone();
        variables.extend(hook::variables(
            self.guid,
            self.network,
            self.slots,
            self.kin,
        ));
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
}

/// The digest of the files at or beneath a path of the project.
fn digest_beneath(files: &FileSet, base: Option<&RelPath>) -> Digest {
    let files = files.files().iter().filter(|(path, _)| {
        base.is_none_or(|base| *path == base || path.strip_prefix(base).is_some())
    });
    FileSet::digest_of(files.map(|(path, file)| (path, file.digest(), file.executable())))
}

/// Turns a resolved compose file into the one that runs. All refusals at once.
pub fn transform(mut config: Value, context: &Context<'_>) -> Result<Transformed, Vec<Refused>> {
    let mut refused = match context.insist {
        true => Vec::new(),
        false => policy::judge(&config, context),
    };
    let mut warnings = Vec::new();
    let whole = |why: &str| vec![Refused::new(["services"], why, "define one")];
    let root = config
        .as_object_mut()
        .ok_or_else(|| whole("compose gave no mapping"))?;
    root.remove("networks");
    let declared = root.clone();
    let services = root
        .get_mut("services")
        .and_then(Value::as_object_mut)
        .filter(|services| !services.is_empty())
        .ok_or_else(|| whole("no service is defined"))?;
    for (name, service) in services.iter_mut() {
        let at = ["services", name];
        let Some(service) = service.as_object_mut() else {
            refused.push(Refused::new(at, "this is no mapping", "write one"));
            continue;
        };
        if let Err((why, cure)) = settle(name, service, &declared, context, &mut warnings) {
            refused.push(Refused::new(at, why, cure));
        }
    }
    match refused.is_empty() {
        true => Ok(Transformed { config, warnings }),
        false => Err(refused),
    }
}

pub(super) fn entries(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value.and_then(Value::as_object).into_iter().flatten()
}

pub(super) fn items<'a>(of: &'a Map<String, Value>, key: &str) -> impl Iterator<Item = &'a Value> {
    let items = of.get(key).and_then(Value::as_array);
    items.into_iter().flatten()
}

pub(super) fn text<'a>(of: &'a Value, key: &str) -> &'a str {
    of.get(key).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        _ => false,
    }
}

type Unsettled = (String, &'static str);

fn settle(
    name: &str,
    service: &mut Map<String, Value>,
    declared: &Map<String, Value>,
    context: &Context<'_>,
    warnings: &mut Vec<Idle>,
) -> Result<(), Unsettled> {
    let slot = context.slots.0.get(name).ok_or_else(|| {
        let why = "it has no slot: it does not stand in the compose files as it is called";
        (why.to_owned(), "write its name without a variable")
    })?;
    let variable = hook::ip_variable(name);
    let mut others = context.slots.0.keys().filter(|other| *other != name);
    if let Some(other) = others.find(|other| hook::ip_variable(other) == variable) {
        let why = format!("{variable} would be its address and that of `{other}`");
        return Err((
            why,
            "rename one, or free the slot of one that is gone: `renet ips --release`",
        ));
    }
    let address = context.network.address(*slot).to_string();
    let mut idle = |key: &str, what: String| {
        let at = ["services", name, key].map(str::to_owned).to_vec();
        warnings.push(Idle { at, what });
    };
    if service.get("ports").is_some_and(|ports| !is_empty(ports)) {
        let what = format!("is ignored: its ports are those on which it listens at {address}");
        idle("ports", what);
    }
    let mode = service.get("network_mode").and_then(Value::as_str);
    if let Some(mode) = mode.filter(|mode| *mode != "host") {
        let what = format!(
            "is `host`, not `{}`: every service has the machine's network, at an address of \
             its own",
            mode.escape_debug()
        );
        idle("network_mode", what);
    }
    for key in ["networks", "ports", "links", "external_links"] {
        service.remove(key);
    }
    service.insert("network_mode".to_owned(), json!("host"));
    limit_log(service);
    if let Some(limits) = context.limits.get(name) {
        limit(service, limits)?;
    }

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
    if context.kin != Kin::Own {
        environment.insert(hook::IS_FORK.to_owned(), json!("true"));
    }

    let hosts: Vec<Value> = context
        .slots
        .0
        .iter()
        .map(|(other, slot)| json!(format!("{other}={}", context.network.address(*slot))))
        .collect();
    let extra = service.entry("extra_hosts").or_insert_with(|| json!([]));
    extra
        .as_array_mut()
        .ok_or_else(|| ("its `extra_hosts` are no list".to_owned(), "write a list"))?
        .extend(hosts);

    if let Some(build) = service.get("build").cloned() {
        if let Some(files) = context.files {
            name_by_content(name, service, &build, files, context);
        }
    } else if service.get("image").is_none_or(is_empty) {
        let why = "it has neither `image` nor `build`".to_owned();
        return Err((why, "say what it runs"));
    }

    let files = context
        .files
        .and_then(|files| mounted_files(service, declared, files, context));
    let labels = mapping(service, "labels")?;
    labels.insert("rediacc.service_name".to_owned(), json!(name));
    labels.insert("rediacc.service_ip".to_owned(), json!(address));
    labels.insert(
        "rediacc.network_id".to_owned(),
        json!(context.network.to_string()),
    );
    let repository = match context.copy_of {
        Some((parent, tag)) => format!("{parent}:{tag}"),
        None => context.repository.to_string(),
    };
    labels.insert("rediacc.repo_name".to_owned(), json!(repository));
    match context.kin {
        // Nothing leads there.
        Kin::Trial => labels.insert(TRIAL_LABEL.to_owned(), json!("true")),
        Kin::Own | Kin::Fork => labels.remove(TRIAL_LABEL),
    };
    // Compose's own label names the descriptor that it reads.
    let from = context.compose_files.iter();
    let from: Vec<String> = from.map(|file| file.display().to_string()).collect();
    labels.insert("renet.config_files".to_owned(), json!(from.join(",")));
    if let Some(digest) = files {
        // The contents of mounted files are no part of compose's own hash.
        labels.insert("renet.files".to_owned(), json!(digest.as_str()));
    }
    Ok(())
}

/// What is written to the daemon's own log driver stays within a limit, whatever
/// the file says: other drivers keep nothing here.
fn limit_log(service: &mut Map<String, Value>) {
    let Some(logging) = service.get_mut("logging").and_then(Value::as_object_mut) else {
        return;
    };
    let driver = logging.get("driver").and_then(Value::as_str);
    if !matches!(driver, None | Some("" | "json-file" | "local")) {
        return;
    }
    let options = logging.entry("options").or_insert_with(|| json!({}));
    if options.is_null() {
        *options = json!({});
    }
    let Some(options) = options.as_object_mut() else {
        return;
    };
    let size = options.get("max-size").and_then(Value::as_str);
    let limited = size.is_some_and(|size| size.starts_with(|c: char| ('1'..='9').contains(&c)));
    if !limited {
        for (option, value) in LOG_LIMITS {
            options.insert(option.to_owned(), json!(value));
        }
    }
}

/// What the manifest says of a service's limits takes the place of both ways in which a
/// compose file can say it: compose refuses them where they differ.
fn limit(service: &mut Map<String, Value>, limits: &ResourceLimits) -> Result<(), Unsettled> {
    let hundredths = |cpus: u32| format!("{}.{:02}", cpus / 100, cpus % 100);
    let said = [
        (
            "mem_limit",
            "memory",
            limits.memory.map(|size| json!(size.as_bytes().to_string())),
        ),
        (
            "cpus",
            "cpus",
            limits.cpus.map(|cpus| json!(hundredths(cpus))),
        ),
        ("pids_limit", "pids", limits.pids.map(|pids| json!(pids))),
    ];
    for (own, key, value) in said {
        let Some(value) = value else { continue };
        service.remove(own);
        let deploy = mapping(service, "deploy")?;
        mapping(mapping(deploy, "resources")?, "limits")?.insert(key.to_owned(), value);
    }
    Ok(())
}

/// Names an image by what it is built from: a changed context is another image, and
/// the one that runs stays until the new one is built.
fn name_by_content(
    name: &str,
    service: &mut Map<String, Value>,
    build: &Value,
    files: &FileSet,
    context: &Context<'_>,
) {
    let base = context.relative(text(build, "context")).flatten();
    // The context's place on the machine is no part of what is built.
    let mut recipe = build.clone();
    recipe["context"] = json!(base.as_ref().map(RelPath::as_str));
    let digest = Digest::of_fields([
        digest_beneath(files, base.as_ref()).as_str().as_bytes(),
        recipe.to_string().as_bytes(),
    ]);
    let image = format!("renet/{}-{name}:{}", context.project, digest.short());
    let own = service.insert("image".to_owned(), json!(image));
    if let Some(Value::String(own)) = own
        && let Some(build) = service.get_mut("build").and_then(Value::as_object_mut)
    {
        let tags = build.entry("tags").or_insert_with(|| json!([]));
        if let Some(tags) = tags.as_array_mut() {
            tags.push(json!(own));
        }
    }
}

fn mapping<'a>(
    service: &'a mut Map<String, Value>,
    key: &str,
) -> Result<&'a mut Map<String, Value>, Unsettled> {
    let value = service.entry(key).or_insert_with(|| json!({}));
    if value.is_null() {
        *value = json!({});
    }
    value
        .as_object_mut()
        .ok_or_else(|| (format!("its `{key}` is no mapping"), "write a mapping"))
}

/// The digest of the managed files that the service sees through bind mounts,
/// configs and secrets.
fn mounted_files(
    service: &Map<String, Value>,
    declared: &Map<String, Value>,
    files: &FileSet,
    context: &Context<'_>,
) -> Option<Digest> {
    let binds = items(service, "volumes").filter(|volume| text(volume, "type") == "bind");
    let mut paths: BTreeSet<&str> = binds.map(|volume| text(volume, "source")).collect();
    for group in ["configs", "secrets"] {
        let declared = |used| {
            declared
                .get(group)?
                .get(text(used, "source"))?
                .get("file")?
                .as_str()
        };
        paths.extend(items(service, group).filter_map(declared));
    }
    let empty = FileSet::digest_of(std::iter::empty());
    let digests: Vec<Digest> = paths
        .iter()
        .filter_map(|path| context.relative(path))
        .map(|base| digest_beneath(files, base.as_ref()))
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
    use crate::model::Size;

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

    fn transformed(service: Value) -> Result<Transformed, Vec<Refused>> {
        given(json!({"services": {"api": service}}), false)
    }

    fn given(config: Value, insist: bool) -> Result<Transformed, Vec<Refused>> {
        limited(config, insist, &BTreeMap::new())
    }

    fn limited(
        config: Value,
        insist: bool,
        limits: &BTreeMap<String, ResourceLimits>,
    ) -> Result<Transformed, Vec<Refused>> {
        let name: Name = "shop".parse().unwrap();
        let project: Name = "web".parse().unwrap();
        let slots = Slots::default().allocate(["api"]).unwrap();
        let files = FileSet::new(BTreeMap::new());
        let environment = Environment(BTreeMap::from([
            ("LOG".to_owned(), "info".to_owned()),
            ("PRICE".to_owned(), "5$ ${LOG}".to_owned()),
        ]));
        let context = Context {
            guid: Guid::new(uuid::Uuid::nil()),
            repository: &name,
            copy_of: None,
            kin: Kin::Own,
            network: NetworkId::FIRST,
            mount: PathBuf::from("/mnt/rediacc/mounts/g"),
            outside: vec![PathBuf::from("/mnt/rediacc/immovable")],
            directory: PathBuf::from("/mnt/rediacc/mounts/g/web"),
            project: &project,
            compose_files: vec![PathBuf::from("/mnt/rediacc/mounts/g/web/compose.yml")],
            slots: &slots,
            files: Some(&files),
            environment: &environment,
            limits,
            insist,
        };
        transform(config, &context)
    }

    #[test]
    fn a_service_gets_its_address_and_the_hosts_network() {
        let out =
            transformed(json!({"image": "i", "ports": ["80:80"], "networks": {"default": null}}))
                .unwrap()
                .config;
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
        let out = transformed(json!({"image": "i", "environment": {"LOG": "debug"}}))
            .unwrap()
            .config;
        let environment = &out["services"]["api"]["environment"];
        assert_eq!(environment["LOG"], "debug");
        assert_eq!(environment["PRICE"], "5$$ $${LOG}");
    }

    #[test]
    fn what_does_nothing_is_said() {
        let service = json!({"image": "i", "ports": ["80:80"], "network_mode": "bridge"});
        let warnings = transformed(service).unwrap().warnings;
        let at: Vec<String> = warnings.iter().map(|one| one.at.join(".")).collect();
        assert_eq!(at, ["services.api.ports", "services.api.network_mode"]);
        assert!(warnings[0].what.starts_with("is ignored"), "{warnings:?}");
        assert!(warnings[1].what.contains("not `bridge`"), "{warnings:?}");
    }

    #[test]
    fn l45_a_log_has_a_limit_whatever_the_file_says() {
        let limit = |logging: Value| {
            let out = transformed(json!({"image": "i", "logging": logging})).unwrap();
            out.config["services"]["api"]["logging"]["options"]["max-size"].clone()
        };
        for unlimited in [
            json!({"driver": "json-file"}),
            json!({"driver": "json-file", "options": null}),
            json!({"driver": "json-file", "options": {"max-size": "-1"}}),
            json!({"driver": "local", "options": {"max-size": "0"}}),
            json!({"options": {"max-file": "9"}}),
        ] {
            assert_eq!(limit(unlimited.clone()), "10m", "{unlimited}");
        }
        let own = json!({"driver": "json-file", "options": {"max-size": "1g"}});
        assert_eq!(limit(own), "1g");
        assert_eq!(limit(json!({"driver": "journald"})), Value::Null);
    }

    #[test]
    fn the_manifests_limits_win_however_the_file_says_its_own() {
        let limits = ResourceLimits {
            memory: Some(Size::mib(512)),
            cpus: Some(125),
            pids: None,
        };
        let limits = BTreeMap::from([("api".to_owned(), limits)]);
        for own in [
            json!({"image": "i"}),
            json!({"image": "i", "mem_limit": "1", "cpus": 3}),
            json!({"image": "i", "deploy": {"resources": {"limits": {"memory": "1", "pids": 7}}}}),
            json!({"image": "i", "deploy": null}),
        ] {
            let said = own.clone();
            let out = limited(json!({"services": {"api": own}}), false, &limits);
            let api = &out.unwrap().config["services"]["api"];
            let given = &api["deploy"]["resources"]["limits"];
            assert_eq!(given["memory"], "536870912", "{said}");
            assert_eq!(given["cpus"], "1.25", "{said}");
            let pids = said.pointer("/deploy/resources/limits/pids");
            assert_eq!(given.get("pids"), pids, "{said}");
            assert!(api.get("mem_limit").is_none() && api.get("cpus").is_none());
        }
    }

    #[test]
    fn two_services_cannot_have_one_variable() {
        let slots = Slots::default().allocate(["a-b", "a_b"]).unwrap();
        let (name, project) = ("shop".parse().unwrap(), "web".parse().unwrap());
        let context = Context {
            guid: Guid::new(uuid::Uuid::nil()),
            repository: &name,
            copy_of: None,
            kin: Kin::Own,
            network: NetworkId::FIRST,
            mount: PathBuf::from("/m"),
            outside: Vec::new(),
            directory: PathBuf::from("/m/web"),
            project: &project,
            compose_files: Vec::new(),
            slots: &slots,
            files: None,
            environment: &Environment::default(),
            limits: &BTreeMap::new(),
            insist: false,
        };
        let config = json!({"services": {"a-b": {"image": "i"}}});
        let refused = transform(config, &context).unwrap_err();
        assert!(refused[0].why.contains("A_B_IP"), "{refused:?}");
    }

    #[test]
    fn all_refusals_come_at_once_and_whoever_insists_gets_none() {
        let config = json!({
            "services": {"api": {"image": "i", "privileged": true, "pid": "host"}},
            "volumes": {"data": {"driver_opts": {"device": "/etc"}}},
        });
        let refused = given(config.clone(), false).unwrap_err();
        let at: Vec<String> = refused.iter().map(|one| one.at.join(".")).collect();
        let wanted = [
            "volumes.data.driver_opts",
            "services.api.pid",
            "services.api.privileged",
        ];
        assert_eq!(at, wanted);
        let out = given(config, true).unwrap().config;
        assert_eq!(out["services"]["api"]["privileged"], true);
        assert_eq!(out["services"]["api"]["network_mode"], "host");
    }

    #[test]
    fn l44_what_reaches_beyond_the_repository_is_refused_with_its_place() {
        let bind = |source: &str, read_only: bool| {
            json!({"volumes": [
                {"type": "bind", "source": source, "target": "/t", "read_only": read_only},
            ]})
        };
        let repository = "/mnt/rediacc/mounts/g";
        for (setting, place) in [
            (json!({"privileged": true}), "privileged"),
            (
                json!({"post_start": [{"command": "x", "privileged": true}]}),
                "post_start",
            ),
            (
                json!({"pre_stop": [{"command": "x", "privileged": true}]}),
                "pre_stop",
            ),
            (json!({"pid": "host"}), "pid"),
            (json!({"ipc": "host"}), "ipc"),
            (json!({"ipc": "container:x"}), "ipc"),
            (json!({"uts": "host"}), "uts"),
            (json!({"userns_mode": "host"}), "userns_mode"),
            (json!({"cgroup": "host"}), "cgroup"),
            (json!({"cgroup_parent": "/"}), "cgroup_parent"),
            (json!({"cap_add": ["SYS_ADMIN"]}), "cap_add"),
            (json!({"cap_add": ["all"]}), "cap_add"),
            (json!({"cap_add": ["cap_net_admin"]}), "cap_add"),
            (
                json!({"cap_add": ["BPF"], "labels": {"rediacc.checkpoint": "true"}}),
                "cap_add",
            ),
            (json!({"devices": [{"source": "/dev/sda"}]}), "devices"),
            (
                json!({"device_cgroup_rules": ["a *:* rwm"]}),
                "device_cgroup_rules",
            ),
            (json!({"gpus": "all"}), "gpus"),
            (
                json!({"deploy": {"resources": {"reservations": {"devices": [{"capabilities": ["gpu"]}]}}}}),
                "deploy",
            ),
            (
                json!({"security_opt": ["apparmor=unconfined"]}),
                "security_opt",
            ),
            (
                json!({"security_opt": ["no-new-privileges:false"]}),
                "security_opt",
            ),
            (json!({"volumes_from": ["container:x"]}), "volumes_from"),
            (json!({"runtime": "kata"}), "runtime"),
            (json!({"sysctls": {"kernel.shmmax": "1"}}), "sysctls"),
            (
                json!({"annotations": {"org.systemd.property.DeviceAllow": "x"}}),
                "annotations",
            ),
            (json!({"credential_spec": {"file": "x"}}), "credential_spec"),
            (json!({"use_api_socket": true}), "use_api_socket"),
            (json!({"provider": {"type": "x"}}), "provider"),
            (json!({"models": ["x"]}), "models"),
            (json!({"develop": {"watch": [{"path": "/"}]}}), "develop"),
            (json!({"of_tomorrow": true}), "of_tomorrow"),
            (json!({"network_mode": "container:x"}), "network_mode"),
            (json!({"network_mode": "service:db"}), "network_mode"),
            (json!({"scale": 2}), "scale"),
            (json!({"deploy": {"replicas": 2}}), "deploy"),
            (json!({"env_file": [{"path": "/etc/shadow"}]}), "env_file"),
            (json!({"env_file": "/etc/shadow"}), "env_file"),
            (bind("/var/run/docker.sock", true), "volumes"),
            (bind("/run/rediacc/docker-2816.sock", true), "volumes"),
            (bind("/etc", true), "volumes"),
            (bind("/mnt/rediacc/mounts/gg", true), "volumes"),
            (bind("/mnt/rediacc/mounts/g/web/../../h", true), "volumes"),
            (
                bind("/mnt/rediacc/mounts/g/.rediacc/docker", true),
                "volumes",
            ),
            (bind(repository, false), "volumes"),
            (bind("/mnt/rediacc/immovable/x", false), "volumes"),
            (
                json!({"volumes": [{"type": "npipe", "source": "x", "target": "/t"}]}),
                "volumes",
            ),
            (json!({"build": {"context": "/etc"}}), "build.context"),
            (
                json!({"build": {"context": "https://x.test/y.git"}}),
                "build.context",
            ),
            (
                json!({"build": {"context": "/mnt/rediacc/mounts/g/web", "dockerfile": "../../h/x"}}),
                "build.dockerfile",
            ),
            (
                json!({"build": {"context": "/mnt/rediacc/mounts/g/web", "privileged": true}}),
                "build.privileged",
            ),
            (
                json!({"build": {"context": "/mnt/rediacc/mounts/g/web", "entitlements": ["x"]}}),
                "build.entitlements",
            ),
            (
                json!({"build": {"context": "/mnt/rediacc/mounts/g/web", "cache_to": ["type=local,dest=/etc"]}}),
                "build.cache_to",
            ),
            (
                json!({"build": {"context": "/mnt/rediacc/mounts/g/web", "cache_from": ["type=registry,ref=x", "type=local,src=/etc"]}}),
                "build.cache_from",
            ),
            (
                json!({"build": {"context": "/mnt/rediacc/mounts/g/web", "colour": "red"}}),
                "build.colour",
            ),
        ] {
            let mut service = setting.clone();
            service["image"] = json!("i");
            let refused = transformed(service).unwrap_err();
            let at: Vec<String> = refused.iter().map(|one| one.at.join(".")).collect();
            assert_eq!(at, [format!("services.api.{place}")], "{setting}");
            assert!(!refused[0].cure.is_empty());
        }
        let image = json!({"api": {"image": "i"}});
        for (top, place) in [
            (json!({"driver": "sshfs"}), "volumes.data.driver"),
            (
                json!({"driver_opts": {"type": "none", "o": "bind", "device": "/etc"}}),
                "volumes.data.driver_opts",
            ),
            (json!({"external": true}), "volumes.data.external"),
        ] {
            let config = json!({"services": image, "volumes": {"data": top}});
            let refused = given(config, false).unwrap_err();
            assert_eq!(refused[0].at.join("."), place);
        }
        for (config, place) in [
            (
                json!({"services": image, "configs": {"c": {"file": "/etc/shadow"}}}),
                "configs.c.file",
            ),
            (
                json!({"services": image, "secrets": {"s": {"file": "/etc/shadow"}}}),
                "secrets.s.file",
            ),
            (
                json!({"services": image, "models": {"m": {"model": "x"}}}),
                "models",
            ),
        ] {
            let refused = given(config, false).unwrap_err();
            assert_eq!(refused[0].at.join("."), place);
        }
    }

    #[test]
    fn what_stays_in_the_repository_is_given_as_it_is() {
        for setting in [
            json!({"cap_add": ["NET_BIND_SERVICE", "cap_chown"]}),
            json!({"cap_add": ["SYS_PTRACE"], "labels": {"rediacc.checkpoint": "true"}}),
            json!({"security_opt": ["no-new-privileges:true"]}),
            json!({"pid": "service:db", "ipc": "shareable", "x-of-mine": {"privileged": true}}),
            json!({"privileged": false, "devices": [], "runtime": null}),
            json!({"restart": "unless-stopped"}),
            json!({"post_start": [{"command": "x"}]}),
            json!({"volumes": [
                {"type": "bind", "source": "/mnt/rediacc/mounts/g/web/data", "target": "/d"},
                {"type": "bind", "source": "/mnt/rediacc/mounts/g/shared", "target": "/s"},
                {"type": "bind", "source": "/mnt/rediacc/immovable/i", "target": "/i", "read_only": true},
                {"type": "volume", "source": "data", "target": "/v"},
                {"type": "tmpfs", "target": "/tmp"},
            ]}),
        ] {
            let mut service = setting.clone();
            service["image"] = json!("i");
            let out = transformed(service).unwrap().config;
            for (key, value) in setting.as_object().unwrap() {
                let given = &out["services"]["api"][key];
                assert!(key == "labels" || given == value, "{key}: {given}");
            }
        }
    }
}
