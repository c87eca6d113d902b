//! Traefik as a container of the machine's own Docker.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::{ContainerInspectResponse, RestartPolicyNameEnum};
use bollard::query_parameters::InspectContainerOptions;
use serde_json::{Value, json};

use super::super::containers;
use super::super::files::{read_json, write_json};
use super::docker::{Engine, there};
use super::{acme, image, told};
use crate::host::{Done, StepError};
use crate::model::{LOG_LIMITS, Layout, ProxySpec};

/// The container, and the project that it is of.
pub(super) const NAME: &str = "rediacc-proxy";
pub(super) const SERVICE: &str = "traefik";
const UP: Duration = Duration::from_secs(120);
/// What the machine trusts, and what links in there lead to.
const TRUST: [&str; 4] = [
    "/etc/ssl/certs",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/etc/pki/ca-trust/extracted",
];

fn file(layout: &Layout) -> PathBuf {
    layout.proxy().join("docker-compose.yml")
}

/// A path as compose takes it literally.
pub(super) fn literal(path: &Path) -> String {
    path.display().to_string().replace('$', "$$")
}

/// Everything lies at the same place inside, so that Traefik is told the same either way.
fn mounted(path: &Path, read_only: bool) -> Value {
    let path = literal(path);
    json!({
        "type": "bind",
        "source": path,
        "target": path,
        "read_only": read_only,
        "bind": {"create_host_path": false},
    })
}

/// What compose is given.
fn project(layout: &Layout, spec: &ProxySpec, image: &str) -> Value {
    // The folder above the watched one: the router puts what it finished there.
    let watched = layout.proxy_dynamic();
    let watched = watched.parent().unwrap_or(&watched).to_owned();
    // One that is missing is said by the router, and hinders nothing else.
    let there = acme::files(spec).cloned();
    let there = there.chain(TRUST.map(PathBuf::from));
    let there = there.filter(|path| path.exists());
    let read: BTreeSet<PathBuf> = [told::file(layout), watched, layout.proxy_certificates()]
        .into_iter()
        .chain(there)
        .collect();
    let mut volumes: Vec<Value> = read.iter().map(|path| mounted(path, true)).collect();
    volumes.push(mounted(&acme::folder(layout), false));
    let mut service = json!({
        "image": image,
        "container_name": NAME,
        "network_mode": "host",
        // Where Docker maps users, its host network is for those of the machine alone.
        "userns_mode": "host",
        "restart": "always",
        "env_file": ["config.env"],
        "command": [format!("--configFile={}", literal(&told::file(layout)))],
        "volumes": volumes,
        "read_only": true,
        "cap_drop": ["ALL"],
        "cap_add": ["NET_BIND_SERVICE"],
        "security_opt": ["no-new-privileges:true"],
        "logging": {"driver": "json-file", "options": BTreeMap::from(LOG_LIMITS)},
    });
    if image::is_built(image) {
        service["build"] = json!({"context": literal(&image::folder(layout))});
    }
    json!({"name": NAME, "services": {SERVICE: service}})
}

/// Whether compose was given this.
pub(super) fn is_written(layout: &Layout, spec: &ProxySpec, image: &str) -> bool {
    read_json::<Value>(&file(layout)).known() == Some(&project(layout, spec, image))
}

/// Whether Docker keeps it running, and whether it runs now.
pub(super) async fn watch(layout: &Layout) -> Result<(bool, bool), StepError> {
    let Some(engine) = Engine::find(layout).await? else {
        return Ok((false, false));
    };
    let seen = inspect(&engine).await?;
    Ok(seen.as_ref().map_or((false, false), state))
}

async fn inspect(engine: &Engine) -> Result<Option<ContainerInspectResponse>, StepError> {
    const PROJECT: &str = "com.docker.compose.project";
    let options = None::<InspectContainerOptions>;
    let seen = there(engine.client.inspect_container(NAME, options).await)?;
    Ok(seen.filter(|seen| {
        let labels = seen
            .config
            .as_ref()
            .and_then(|config| config.labels.as_ref());
        let project = labels.and_then(|labels| labels.get(PROJECT));
        project.is_some_and(|project| project == NAME)
    }))
}

/// One that somebody stopped or paused stays so, whatever its policy says.
fn state(seen: &ContainerInspectResponse) -> (bool, bool) {
    let host = seen.host_config.as_ref();
    let policy = host.and_then(|host| host.restart_policy.as_ref()?.name);
    let Some(state) = &seen.state else {
        return (false, false);
    };
    let is = |said: Option<bool>| said.unwrap_or_default();
    let runs = is(state.running) && !is(state.paused);
    let kept = runs || is(state.restarting);
    (
        kept && policy == Some(RestartPolicyNameEnum::ALWAYS),
        runs && !is(state.restarting),
    )
}

/// Makes it anew: compose does not notice when a mounted file says something else.
pub(super) async fn start(layout: &Layout, spec: &ProxySpec, image: &str) -> Result<(), StepError> {
    let fail = |path: &Path, error: std::io::Error| {
        StepError::machine(format!("{}: {error}", path.display()))
    };
    let engine = Engine::need(layout).await?;
    let certificates = layout.proxy_certificates();
    let mut builder = fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(&certificates);
    made.map_err(|error| fail(&certificates, error))?;
    if !is_written(layout, spec, image) {
        write_json(&file(layout), &project(layout, spec, image), 0o644)
            .map_err(|error| fail(&file(layout), error))?;
    }
    let run = on(layout, &engine)?.args(["up", "-d", "--no-build", "--pull", "never"]);
    let run = run.args(["--force-recreate", "--remove-orphans"]);
    run.limit(UP).run().await.map(drop)
}

fn on(layout: &Layout, engine: &Engine) -> Result<super::super::program::Program, StepError> {
    let run = engine.compose(layout)?.arg("-f").arg(file(layout));
    let run = run.arg("--project-directory").arg(layout.proxy());
    Ok(run.args(["-p", NAME]))
}

/// Removes it. What compose was given goes with it: while it is there, there may be a
/// container that comes back with Docker.
pub(super) async fn stop(layout: &Layout) -> Result<Done, StepError> {
    let file = file(layout);
    // One that somebody else put there is his.
    let is_ours = |said: &Value| said["name"] == NAME;
    if !read_json::<Value>(&file).known().is_some_and(is_ours) {
        return Ok(Done::Already);
    }
    let Some(engine) = Engine::find(layout).await? else {
        return Err(StepError::machine(format!(
            "the proxy runs as a container, and the Docker that has it does not answer; start \
             it, or where it is gone for good remove {}",
            file.display()
        )));
    };
    on(layout, &engine)?
        .args(["down", "--remove-orphans"])
        .limit(UP)
        .run()
        .await?;
    super::super::files::remove(&file)
        .map_err(|error| StepError::machine(format!("{}: {error}", file.display())))?;
    Ok(Done::Changed)
}

/// Removes the images that were built for it.
pub(super) async fn forget_images(layout: &Layout) -> Result<Done, StepError> {
    match Engine::find(layout).await? {
        Some(engine) => image::remove_but(&engine, None).await,
        None => Ok(Done::Already),
    }
}

/// Its last words; none where there is no container.
pub(super) async fn words(layout: &Layout, lines: usize) -> Result<Option<String>, StepError> {
    let Some(engine) = Engine::find(layout).await? else {
        return Ok(None);
    };
    Ok(match inspect(&engine).await? {
        Some(_) => Some(containers::words(&engine.client, NAME, lines).await),
        None => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_compose_is_given_holds_its_own_names_and_the_files_that_are_there() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path()).unwrap();
        let token = root.path().join("to$ken");
        fs::write(&token, "x").unwrap();
        let spec: ProxySpec = serde_json::from_value(json!({
            "http": 80, "router": null, "address": null, "machine": null, "base_domain": null,
            "acme": {
                "email": "a@b",
                "ca_certificate": root.path().join("missing"),
                "dns": {"provider": "x", "token_files": {"A": token, "B": token}},
            },
        }))
        .unwrap();
        let said = project(&layout, &spec, "traefik:v3.7");
        let service = &said["services"]["traefik"];
        let volumes = service["volumes"].as_array().unwrap();
        let count = |word: &str| {
            let with = |volume: &&Value| volume["source"].as_str().unwrap().contains(word);
            volumes.iter().filter(with).count()
        };
        assert_eq!((count("to$$ken"), count("missing")), (1, 0));
        let writable: Vec<&Value> = volumes
            .iter()
            .filter(|volume| volume["read_only"] == false)
            .collect();
        assert_eq!(writable.len(), 1);
        assert!(service["build"].is_null());
        let built = project(&layout, &spec, "rediacc/traefik:1");
        assert!(!built["services"]["traefik"]["build"].is_null());
    }
}
