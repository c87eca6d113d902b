//! Where the programs are that are not on everybody's `PATH`.

use std::path::{Path, PathBuf};

use crate::host::StepError;

/// Folders of docker's compose, best first.
const COMPOSE: [&str; 5] = [
    "/usr/local/libexec/renet",
    "/usr/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/local/lib/docker/cli-plugins",
];
const TRAEFIK: [&str; 3] = ["/usr/local/libexec/renet", "/usr/local/bin", "/usr/bin"];
const DOCKER: [&str; 2] = ["/usr/bin", "/usr/local/bin"];
const DOCKERD: [&str; 3] = ["/usr/sbin", "/usr/bin", "/usr/local/bin"];

fn find(program: &str, folders: &[&str]) -> Result<PathBuf, StepError> {
    folders
        .iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            StepError::machine(format!(
                "`{program}` is not installed: not in {}; deploy/tools.sh installs it",
                folders.join(", ")
            ))
        })
}

/// Compose v2 as a program of its own.
pub(super) fn compose() -> Result<PathBuf, StepError> {
    find("docker-compose", &COMPOSE)
}

/// The reverse proxy.
pub(super) fn traefik() -> Result<PathBuf, StepError> {
    find("traefik", &TRAEFIK)
}

/// The Docker daemon.
pub(super) fn dockerd() -> Result<PathBuf, StepError> {
    find("dockerd", &DOCKERD)
}

/// Docker's command line.
pub(super) fn docker() -> Result<PathBuf, StepError> {
    find("docker", &DOCKER)
}
