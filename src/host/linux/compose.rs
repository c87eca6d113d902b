//! Compose v2, given the resolved and transformed text and nothing else.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::query_parameters::InspectContainerOptions;
use jiff::SignedDuration;
use serde_json::Value;

use super::files::{is_gone, read_json, write_atomic, write_json_unsynced};
use super::program::{Output, Program};
use super::{LinuxHost, containers, dockerd, links, passthrough, tools};
use crate::host::{Blame, ComposeDoor, ComposeInput, ComposeOutput, Cx, Done, StepError};
use crate::model::{
    Container, ContainerState, Digest, Guid, Health, Layout, Made, Name, NetworkId, Part,
    ProjectSpec, ServiceSpec,
};

const FETCH: Duration = Duration::from_secs(600);
const UP: Duration = Duration::from_secs(300);
const RESOLVE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);
/// A container that is down at this many looks in a row will not come up.
const LOOKS: usize = 5;
const LAST_LINES: usize = 20;

/// Compose with nothing around it: no settings of root's, no other daemon.
pub(super) fn program(layout: &Layout) -> Result<Program, StepError> {
    let home = home(layout)?;
    Ok(Program::new(tools::compose()?)
        .env("HOME", &home)
        .env("DOCKER_CONFIG", &home)
        .envs(SETTINGS))
}

/// Its settings: no builder of its own, and nothing from another machine.
pub(super) const SETTINGS: [(&str, &str); 3] = [
    ("DOCKER_BUILDKIT", "0"),
    ("COMPOSE_EXPERIMENTAL_GIT_REMOTE", "false"),
    ("COMPOSE_EXPERIMENTAL_OCI_REMOTE", "false"),
];

/// Where Docker's programs keep their settings.
pub(super) fn home(layout: &Layout) -> Result<PathBuf, StepError> {
    let home = layout.run().join("compose-home");
    make_private(&home)?;
    Ok(home)
}

fn make_private(folder: &Path) -> Result<(), StepError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| StepError::machine(format!("{}: {error}", folder.display())))
}

/// Compose on one project of one daemon.
fn on(
    layout: &Layout,
    guid: Guid,
    network: NetworkId,
    project: &ProjectSpec,
) -> Result<Program, StepError> {
    let refuse = |why: String| StepError {
        blame: Blame::Revision,
        ..StepError::machine(why)
    };
    let config = serde_json::from_str(&project.compose);
    let config = config.map_err(|error| refuse(error.to_string()))?;
    links::check(&config, &layout.mount(guid)).map_err(refuse)?;
    let file = given(layout, guid, project.name.as_str());
    write_atomic(&file, project.compose.as_bytes(), 0o600)
        .map_err(|error| StepError::machine(format!("{}: {error}", file.display())))?;
    let socket = layout.docker_socket(network);
    Ok(program(layout)?
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .arg("-f")
        .arg(file)
        .arg("--project-directory")
        .arg(layout.project(guid, &project.name))
        .arg("-p")
        .arg(project.name.as_str()))
}

/// A failure under a daemon that lives is the revision's own.
async fn blame(
    layout: &Layout,
    network: NetworkId,
    outcome: Result<Output, StepError>,
) -> Result<Done, StepError> {
    match outcome {
        Ok(_) => Ok(Done::Changed),
        Err(error) => Err(StepError {
            blame: match dockerd::connect(layout, network).await {
                Some(_) => Blame::Revision,
                None => Blame::Machine,
            },
            ..error
        }),
    }
}

/// Builds or pulls the images that are missing.
pub(super) async fn fetch(
    layout: &Layout,
    guid: Guid,
    network: NetworkId,
    project: &ProjectSpec,
) -> Result<Done, StepError> {
    let seen = containers::observe(layout, network).await;
    let Part::Known(images) = seen.images else {
        return Err(StepError::machine(format!(
            "the images of network {network} cannot be seen"
        )));
    };
    let missing = |builds: bool| -> Vec<&String> {
        let wanted =
            |service: &ServiceSpec| service.builds == builds && !images.contains(&service.image);
        project
            .services
            .iter()
            .filter(|(_, service)| wanted(service))
            .map(|(name, _)| name)
            .collect()
    };
    for (verb, services) in [("build", missing(true)), ("pull", missing(false))] {
        if !services.is_empty() {
            let run = on(layout, guid, network, project)?
                .arg(verb)
                .args(services)
                .limit(FETCH);
            blame(layout, network, run.run().await).await?;
        }
    }
    Ok(Done::Changed)
}

/// Makes the containers what the project says; those that are so stay.
pub(super) async fn up(
    layout: &Layout,
    guid: Guid,
    network: NetworkId,
    project: &ProjectSpec,
) -> Result<Done, StepError> {
    let run = on(layout, guid, network, project)?
        .args([
            "up",
            "-d",
            "--no-build",
            "--pull",
            "never",
            "--remove-orphans",
        ])
        .limit(UP);
    blame(layout, network, run.run().await).await
}

/// Stops and removes the project's containers; volumes stay, always.
pub(super) async fn down(
    layout: &Layout,
    _guid: Guid,
    network: NetworkId,
    project: &Name,
) -> Result<Done, StepError> {
    let socket = layout.docker_socket(network);
    let run = program(layout)?
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .args(["-p", project.as_str(), "down", "--remove-orphans"])
        .limit(UP);
    run.run().await.map(|_| Done::Changed)
}

/// Waits until every service is well, and says at once when one cannot be.
pub(super) async fn wait(
    layout: &Layout,
    _guid: Guid,
    network: NetworkId,
    project: &ProjectSpec,
    cx: &Cx,
) -> Result<Done, StepError> {
    let limit = cx.limit(project);
    let began = Instant::now();
    let elapsed = || cx.waited + began.elapsed();
    let mut down: BTreeMap<&str, usize> = BTreeMap::new();
    loop {
        let seen = containers::observe(layout, network).await;
        let Part::Known(all) = &seen.containers else {
            if elapsed() > limit {
                return Err(StepError::machine(format!(
                    "the daemon of network {network} does not answer"
                )));
            }
            tokio::time::sleep(POLL).await;
            continue;
        };
        let none = BTreeMap::new();
        let found = all.get(&project.name).unwrap_or(&none);
        let mut waiting = None;
        for (name, service) in &project.services {
            let container = found.get(name);
            if container.is_some_and(|container| container.is_well(service.completes)) {
                down.remove(name.as_str());
                continue;
            }
            let runs =
                container.is_some_and(|container| container.state == ContainerState::Running);
            let sick = container.is_some_and(|container| container.health == Health::Unhealthy);
            let looks = down.entry(name).or_default();
            *looks = if runs && !sick { 0 } else { *looks + 1 };
            if *looks >= LOOKS {
                return Err(not_well(layout, network, name, container, elapsed(), limit).await);
            }
            waiting = Some((name, container));
        }
        let Some((name, container)) = waiting else {
            return Ok(Done::Changed);
        };
        if elapsed() > limit {
            return Err(not_well(layout, network, name, container, elapsed(), limit).await);
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn not_well(
    layout: &Layout,
    network: NetworkId,
    service: &str,
    container: Option<&Container>,
    waited: Duration,
    limit: Duration,
) -> StepError {
    let state = match container {
        None => "no container".to_owned(),
        Some(container) => match container.state {
            ContainerState::Running => format!("running, {:?}", container.health).to_lowercase(),
            ContainerState::Exited(status) => format!("exited ({status})"),
            ContainerState::Other => "neither running nor ended".to_owned(),
        },
    };
    let mut message = format!(
        "service {service}: waited {:.1} s of at most {:#} for it to be healthy; it is {state}",
        waited.as_secs_f64(),
        SignedDuration::try_from(limit).unwrap_or(SignedDuration::MAX),
    );
    if let Some(Container {
        id: Made::Is(id), ..
    }) = container
        && let Some(client) = dockerd::connect(layout, network).await
    {
        for (what, text) in [
            ("its health check", last_check(&client, id).await),
            (
                "its last lines",
                containers::words(&client, id, LAST_LINES).await,
            ),
        ] {
            let lines = text
                .lines()
                .map(|line| format!("\n  {}", line.escape_debug()));
            let lines: String = lines.collect();
            if !lines.is_empty() {
                message.push_str(&format!("\n{what}:{lines}"));
            }
        }
    }
    StepError {
        blame: Blame::Revision,
        program: None,
        message,
    }
}

/// How the container's last health check ended, and what it said.
async fn last_check(client: &Docker, id: &str) -> String {
    let seen = client.inspect_container(id, None::<InspectContainerOptions>);
    let health = seen.await.ok().and_then(|seen| seen.state?.health);
    let last = health.and_then(|health| health.log?.pop());
    last.map_or_else(String::new, |last| {
        let status = last.exit_code.unwrap_or_default();
        format!("exit {status}: {}", last.output.unwrap_or_default())
    })
}

/// Removes the private folders of processes that were killed.
pub(super) fn sweep(layout: &Layout) {
    let entries = std::fs::read_dir(layout.resolve()).into_iter().flatten();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| {
            let (pid, _) = name.strip_prefix("c-")?.split_once('-')?;
            Some(pid)
        });
        if owner.is_some_and(is_gone) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// The text that compose is given for a project.
fn given(layout: &Layout, guid: Guid, project: &str) -> PathBuf {
    layout.resolve().join(format!("{guid}-{project}.json"))
}

/// The text that compose was last given for a project, until the next boot.
pub(super) fn last_given(layout: &Layout, guid: Guid, project: &Name) -> Option<String> {
    std::fs::read_to_string(given(layout, guid, project.as_str())).ok()
}

/// Removes the text that compose was given: of a project, or of all of the
/// repository's. It holds what its environment files say.
pub(super) fn forget(layout: &Layout, guid: Guid, project: Option<&Name>) -> Result<(), StepError> {
    let fail = |path: &Path, error: std::io::Error| {
        StepError::machine(format!("{}: {error}", path.display()))
    };
    let of = format!("{guid}-");
    let entries = std::fs::read_dir(layout.resolve()).into_iter().flatten();
    for entry in entries.flatten() {
        let path = entry.path();
        let mine = match project {
            Some(project) => path == given(layout, guid, project.as_str()),
            None => entry.file_name().to_string_lossy().starts_with(&of),
        };
        if mine {
            std::fs::remove_file(&path).map_err(|error| fail(&path, error))?;
        }
    }
    Ok(())
}

/// A private folder that is gone afterwards whatever happens.
struct Private(PathBuf);

impl Private {
    fn make(layout: &Layout) -> Result<Self, StepError> {
        make_private(&layout.resolve())?;
        let own = format!("c-{}-{}", std::process::id(), uuid::Uuid::new_v4());
        let folder = layout.resolve().join(own);
        make_private(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The paths beneath `from` become paths beneath `to`, in every value.
fn relocate(value: &mut Value, from: &str, to: &str) {
    match value {
        Value::String(text) => {
            if let Some(rest) = text.strip_prefix(from)
                && (rest.is_empty() || rest.starts_with('/'))
            {
                *text = format!("{to}{rest}");
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| relocate(item, from, to)),
        Value::Object(items) => items.values_mut().for_each(|item| relocate(item, from, to)),
        _ => {}
    }
}

/// A project as it lies on the machine.
#[derive(Clone, Debug)]
pub struct OnDisk {
    /// Its compose files.
    pub files: Vec<PathBuf>,
    /// What else was said about where it comes from: `--env-file` and its value.
    pub options: Vec<OsString>,
    /// The folder in which its paths begin.
    pub directory: PathBuf,
    /// Its name.
    pub project: Name,
    /// What compose may interpolate, besides what its caller has in his environment.
    pub variables: BTreeMap<String, String>,
}

impl OnDisk {
    /// `docker compose config` of it, with the services of every profile.
    ///
    /// # Errors
    ///
    /// What compose says.
    pub async fn config(&self, layout: &Layout) -> Result<Value, StepError> {
        let mut run = program(layout)?
            .envs(passthrough::environment())
            .envs(SETTINGS)
            .envs(&self.variables);
        for file in &self.files {
            run = run.arg("-f").arg(file);
        }
        let output = run
            .args(&self.options)
            .arg("--project-directory")
            .arg(&self.directory)
            .args(["-p", self.project.as_str(), "--profile", "*"])
            .args(["config", "--format", "json"])
            .limit(RESOLVE)
            .run()
            .await?;
        let unread = |error| StepError::machine(format!("compose printed no JSON: {error}"));
        serde_json::from_slice(&output.stdout).map_err(unread)
    }
}

impl ComposeDoor for LinuxHost {
    async fn config(&self, input: &ComposeInput) -> Result<Value, String> {
        let private = Private::make(&self.layout).map_err(|error| error.to_string())?;
        let folder = private.0.display().to_string();
        for (path, file) in input.files.files() {
            let mode = if file.executable() { 0o700 } else { 0o600 };
            write_atomic(&private.0.join(path.as_str()), file.bytes(), mode)
                .map_err(|error| format!("{path}: {error}"))?;
        }
        let mut run = program(&self.layout).map_err(|error| error.to_string())?;
        for (name, value) in &input.environment {
            run = run.env(name, value);
        }
        let output = run
            .arg("-f")
            .arg(private.0.join(input.compose_file.as_str()))
            .arg("--project-directory")
            .arg(&private.0)
            .args(["-p", input.project.as_str(), "config", "--format", "json"])
            .limit(RESOLVE)
            .run()
            .await
            .map_err(|error| error.to_string().replace(&folder, input.project.as_str()))?;
        let mut config: Value = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("compose printed no JSON: {error}"))?;
        let target = self.layout.project(input.guid, &input.project);
        relocate(&mut config, &folder, &target.display().to_string());
        Ok(config)
    }

    async fn hashes(
        &self,
        input: &ComposeInput,
        text: &str,
    ) -> Result<BTreeMap<String, String>, String> {
        let private = Private::make(&self.layout).map_err(|error| error.to_string())?;
        let file = private.0.join("compose.json");
        write_atomic(&file, text.as_bytes(), 0o600).map_err(|error| error.to_string())?;
        let output = program(&self.layout)
            .map_err(|error| error.to_string())?
            .arg("-f")
            .arg(&file)
            .arg("--project-directory")
            .arg(self.layout.project(input.guid, &input.project))
            .args(["-p", input.project.as_str(), "config", "--hash", "*"])
            .limit(RESOLVE)
            .run()
            .await
            .map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(service, hash)| (service.to_owned(), hash.trim().to_owned()))
            .collect())
    }

    fn recall(&self, key: &Digest) -> Option<ComposeOutput> {
        match read_json(&self.layout.resolve().join(format!("{key}.json"))) {
            Part::Known(output) => Some(output),
            _ => None,
        }
    }

    fn remember(&self, key: &Digest, output: &ComposeOutput) {
        let path = self.layout.resolve().join(format!("{key}.json"));
        // Only a cache: without it the next run asks compose again.
        if let Err(error) = write_json_unsynced(&path, output, 0o600) {
            tracing::debug!(path = %path.display(), %error, "could not keep a resolved file");
        }
    }
}
