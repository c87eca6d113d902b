//! What a resolved compose file may not say (DESIGN §8, ruling 10): whatever reaches
//! beyond its repository, and whatever is not known here. Pure.

use std::fmt;
use std::path::{Component, Path};

use serde_json::{Map, Value};

use super::compose::{Context, entries, is_empty, items, text};
use crate::manifest::{Written, normal};
use crate::model::Warning;

/// A setting that compose is not given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The keys that lead to it, from the top of the file.
    pub at: Vec<String>,
    /// Why.
    pub why: String,
    /// What to do about it.
    pub cure: String,
}

impl Refused {
    /// A setting, why it is refused, and what to do about it.
    pub fn new<const N: usize>(
        at: [&str; N],
        why: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self {
            at: at.map(str::to_owned).to_vec(),
            why: why.into(),
            cure: cure.into(),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.at.join("."), self.why, self.cure)
    }
}

/// A setting that does nothing, or something else than it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    /// The keys that lead to it, from the top of the file.
    pub at: Vec<String>,
    /// What becomes of it, as the sentence goes on that begins with its keys.
    pub what: String,
}

impl Idle {
    /// As it is said, with the place where it stands.
    pub fn warning(&self, written: &Written) -> Warning {
        Warning {
            place: written.place(&self.at),
            message: format!("{} {}", self.at.join("."), self.what),
        }
    }
}

/// All of them, one a line, each where it stands.
pub fn refusals(refused: &[Refused], written: &Written) -> String {
    let lines = refused.iter().map(|one| match written.place(&one.at) {
        Some(place) => format!("{place}: {one}"),
        None => one.to_string(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

const BEYOND: &str = "it reaches beyond the repository";
const UNKNOWN: &str = "renet does not know this setting, and gives compose only what it can judge";
const REMOVE: &str = "remove it";

/// What may stand at the top of a file.
const TOP: [&str; 7] = [
    "name", "version", "services", "networks", "volumes", "configs", "secrets",
];

/// What a service may say; what is judged further stands here too.
const SERVICE: [&str; 72] = [
    "attach",
    "blkio_config",
    "build",
    "cap_add",
    "cap_drop",
    "cgroup",
    "command",
    "configs",
    "container_name",
    "cpu_count",
    "cpu_percent",
    "cpu_period",
    "cpu_quota",
    "cpu_rt_period",
    "cpu_rt_runtime",
    "cpu_shares",
    "cpus",
    "cpuset",
    "depends_on",
    "deploy",
    "dns",
    "dns_opt",
    "dns_search",
    "domainname",
    "entrypoint",
    "env_file",
    "environment",
    "expose",
    "extends",
    "external_links",
    "extra_hosts",
    "group_add",
    "healthcheck",
    "hostname",
    "image",
    "init",
    "ipc",
    "label_file",
    "labels",
    "links",
    "logging",
    "mem_limit",
    "mem_reservation",
    "mem_swappiness",
    "memswap_limit",
    "network_mode",
    "networks",
    "oom_kill_disable",
    "oom_score_adj",
    "pid",
    "pids_limit",
    "platform",
    "ports",
    "post_start",
    "pre_stop",
    "profiles",
    "pull_policy",
    "read_only",
    "restart",
    "scale",
    "secrets",
    "security_opt",
    "shm_size",
    "stdin_open",
    "stop_grace_period",
    "stop_signal",
    "tmpfs",
    "tty",
    "ulimits",
    "user",
    "userns_mode",
    "uts",
];

/// What a service may not say, whatever the value.
const REFUSED: [&str; 14] = [
    "annotations",
    "cgroup_parent",
    "credential_spec",
    "develop",
    "device_cgroup_rules",
    "devices",
    "gpus",
    "models",
    "privileged",
    "provider",
    "runtime",
    "sysctls",
    "use_api_socket",
    "volumes_from",
];

/// What a build may say; what is judged further stands here too.
const BUILD: [&str; 20] = [
    "args",
    "cache_from",
    "cache_to",
    "context",
    "dockerfile",
    "dockerfile_inline",
    "extra_hosts",
    "isolation",
    "labels",
    "no_cache",
    "no_cache_filter",
    "platforms",
    "provenance",
    "pull",
    "sbom",
    "secrets",
    "shm_size",
    "tags",
    "target",
    "ulimits",
];
/// What a build may not say, whatever the value.
const BUILD_REFUSED: [&str; 5] = [
    "additional_contexts",
    "entitlements",
    "network",
    "privileged",
    "ssh",
];

/// The capabilities that Docker gives to every container.
const CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Those that CRIU needs besides, in a service whose state is saved.
const CRIU: [&str; 3] = ["CHECKPOINT_RESTORE", "NET_ADMIN", "SYS_PTRACE"];

/// Everything in the file that is refused.
pub(super) fn judge(config: &Value, context: &Context<'_>) -> Vec<Refused> {
    let mut judge = Judge {
        context,
        refused: Vec::new(),
    };
    judge.top(config);
    for (name, service) in entries(config.get("services")) {
        if let Some(service) = service.as_object() {
            judge.service(name, service);
        }
    }
    judge.refused
}

fn is_extension(key: &str) -> bool {
    key.starts_with("x-")
}

struct Judge<'a> {
    context: &'a Context<'a>,
    refused: Vec<Refused>,
}

impl Judge<'_> {
    fn refuse<const N: usize>(&mut self, at: [&str; N], why: impl Into<String>, cure: &str) {
        self.refused.push(Refused::new(at, why, cure));
    }

    fn top(&mut self, config: &Value) {
        for (key, value) in entries(Some(config)) {
            if !TOP.contains(&key.as_str()) && !is_extension(key) && !is_empty(value) {
                self.refuse([key], UNKNOWN, REMOVE);
            }
        }
        for (name, volume) in entries(config.get("volumes")) {
            let said = |key: &str| volume.get(key).is_some_and(|value| !is_empty(value));
            if said("driver_opts") {
                self.refuse(["volumes", name, "driver_opts"], BEYOND, REMOVE);
            }
            if said("driver") && text(volume, "driver") != "local" {
                self.refuse(["volumes", name, "driver"], BEYOND, REMOVE);
            }
            if said("external") {
                let why = "nobody knows here what a volume from elsewhere stands for";
                let cure = "remove it: compose then makes the volume, or takes the one it made";
                self.refuse(["volumes", name, "external"], why, cure);
            }
        }
        for group in ["configs", "secrets"] {
            for (name, entry) in entries(config.get(group)) {
                if entry.get("file").is_some() {
                    self.path([group, name, "file"], text(entry, "file"), true);
                }
            }
        }
    }

    /// A path that a container sees.
    fn path<const N: usize>(&mut self, at: [&str; N], path: &str, read_only: bool) {
        let absolute = Path::new(path);
        let climbs = absolute
            .components()
            .any(|part| part == Component::ParentDir);
        let below = |folder: &Path| !climbs && absolute.starts_with(folder);
        if let Ok(rest) = absolute.strip_prefix(&self.context.mount)
            && !climbs
        {
            let first = rest.components().next();
            let first = first.and_then(|part| part.as_os_str().to_str());
            if first.is_none_or(|first| first.starts_with(".rediacc")) {
                let why = format!("`{path}` holds what renet and Docker keep of the repository");
                self.refuse(at, why, "name a folder of its own");
            }
            return;
        }
        if self.context.outside.iter().any(|folder| below(folder)) {
            if !read_only {
                let why = format!("`{path}` is not the repository's, and may only be read");
                self.refuse(at, why, "add `read_only: true`");
            }
            return;
        }
        let why = format!("`{path}` leaves the repository");
        self.refuse(
            at,
            why,
            "put it into the project's folder and name it from there",
        );
    }

    fn service(&mut self, name: &str, service: &Map<String, Value>) {
        for (key, value) in service {
            let key = key.as_str();
            let at = ["services", name, key];
            if is_empty(value) || is_extension(key) {
                continue;
            }
            if REFUSED.contains(&key) {
                self.refuse(at, BEYOND, REMOVE);
                continue;
            }
            match key {
                "pid" | "ipc" | "uts" | "userns_mode" | "cgroup" => {
                    let said = value.as_str().unwrap_or_default();
                    if said == "host" || said.starts_with("container:") {
                        self.refuse(at, BEYOND, REMOVE);
                    }
                }
                "network_mode" => {
                    let said = value.as_str().unwrap_or_default();
                    if said.starts_with("container:") || said.starts_with("service:") {
                        let why =
                            "every service has the machine's network, at an address of its own";
                        self.refuse(at, why, REMOVE);
                    }
                }
                "cap_add" => self.capabilities(name, service),
                "security_opt" => self.security(name, service),
                "volumes" => self.volumes(name, service),
                "env_file" | "label_file" => self.named_files(at, value),
                "post_start" | "pre_stop" => {
                    let privileged =
                        |hook: &Value| hook.get("privileged").is_some_and(|it| !is_empty(it));
                    if items(service, key).any(privileged) {
                        self.refuse(at, "a command in it is `privileged`", "remove that");
                    }
                }
                "build" => self.build(name, value),
                "deploy" => self.deploy(name, value),
                "scale" => self.replicas(at, value),
                key if SERVICE.contains(&key) => {}
                _ => self.refuse(at, UNKNOWN, REMOVE),
            }
        }
    }

    fn capabilities(&mut self, name: &str, service: &Map<String, Value>) {
        let labels = service.get("labels");
        let label = labels.and_then(|labels| labels.get("rediacc.checkpoint"));
        let saved = label.and_then(Value::as_str) == Some("true");
        for said in items(service, "cap_add") {
            let said = said.as_str().unwrap_or_default();
            let bare = said.to_ascii_uppercase();
            let bare = bare.strip_prefix("CAP_").unwrap_or(&bare);
            let given = CAPABILITIES.contains(&bare) || saved && CRIU.contains(&bare);
            if !given {
                let why = format!("`{said}` reaches beyond the repository");
                self.refuse(["services", name, "cap_add"], why, REMOVE);
            }
        }
    }

    fn security(&mut self, name: &str, service: &Map<String, Value>) {
        const TIGHTER: [&str; 3] = [
            "no-new-privileges",
            "no-new-privileges:true",
            "no-new-privileges=true",
        ];
        for said in items(service, "security_opt") {
            let said = said.as_str().unwrap_or_default();
            if !TIGHTER.contains(&said) {
                let why = format!("`{said}` takes away what holds the container");
                self.refuse(["services", name, "security_opt"], why, REMOVE);
            }
        }
    }

    fn volumes(&mut self, name: &str, service: &Map<String, Value>) {
        let at = ["services", name, "volumes"];
        for volume in items(service, "volumes") {
            match text(volume, "type") {
                "bind" => {
                    let read_only = volume.get("read_only") == Some(&Value::Bool(true));
                    self.path(at, text(volume, "source"), read_only);
                }
                "volume" | "tmpfs" => {}
                other => {
                    let why = format!("`type: {other}` is none that renet knows");
                    self.refuse(at, why, "use `bind`, `volume` or `tmpfs`");
                }
            }
        }
    }

    /// Files that compose itself reads.
    fn named_files<const N: usize>(&mut self, at: [&str; N], value: &Value) {
        let many = value
            .as_array()
            .map_or(std::slice::from_ref(value), Vec::as_slice);
        for file in many {
            let path = file.as_str().unwrap_or_else(|| text(file, "path"));
            self.path(at, path, true);
        }
    }

    fn build(&mut self, name: &str, build: &Value) {
        for (key, value) in entries(Some(build)) {
            if !BUILD.contains(&key.as_str()) && !is_extension(key) && !is_empty(value) {
                let known = BUILD_REFUSED.contains(&key.as_str());
                let why = if known { BEYOND } else { UNKNOWN };
                self.refuse(["services", name, "build", key], why, REMOVE);
            }
        }
        for key in ["cache_from", "cache_to"] {
            let caches = build.get(key).and_then(Value::as_array);
            let mut caches = caches.into_iter().flatten().filter_map(Value::as_str);
            // A folder of the machine, which is written or read as root.
            if caches.any(|cache| cache.split(',').any(|part| part.trim() == "type=local")) {
                self.refuse(["services", name, "build", key], BEYOND, REMOVE);
            }
        }
        let context = text(build, "context");
        self.path(["services", name, "build", "context"], context, true);
        let dockerfile = text(build, "dockerfile");
        let climbs = Path::new(dockerfile)
            .components()
            .any(|part| matches!(part, Component::ParentDir));
        if climbs || dockerfile.starts_with('/') {
            let path = Path::new(context).join(dockerfile);
            let path = normal(&path).display().to_string();
            self.path(["services", name, "build", "dockerfile"], &path, true);
        }
    }

    fn deploy(&mut self, name: &str, deploy: &Value) {
        let at = ["services", name, "deploy"];
        if let Some(replicas) = deploy.get("replicas") {
            self.replicas(at, replicas);
        }
        let devices = deploy.pointer("/resources/reservations/devices");
        if devices.is_some_and(|devices| !is_empty(devices)) {
            self.refuse(at, "the devices that it reserves are the machine's", REMOVE);
        }
    }

    fn replicas<const N: usize>(&mut self, at: [&str; N], replicas: &Value) {
        if replicas.as_u64().is_some_and(|replicas| replicas > 1) {
            let why = "one address serves one container";
            self.refuse(at, why, "define a service for each");
        }
    }
}
