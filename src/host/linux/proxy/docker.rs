//! The machine's own Docker, which is none of renet's daemons.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use bollard::Docker;
use bollard::errors::Error;

use super::super::dockerd::{self, Silence};
use super::super::program::Program;
use super::super::{compose, mount};
use crate::host::StepError;
use crate::model::Layout;

/// What Docker's API says of something that is not there.
const GONE: u16 = 404;

/// The machine's own Docker, which answers.
pub(super) struct Engine {
    pub(super) client: Docker,
    socket: PathBuf,
}

impl Engine {
    /// `None` where nobody listens. An error where somebody does, and does not answer:
    /// then nobody can tell what runs there.
    pub(super) async fn find(layout: &Layout) -> Result<Option<Self>, StepError> {
        let Some(socket) = socket(layout) else {
            return Ok(None);
        };
        match dockerd::ping(&socket).await {
            Ok(client) => Ok(Some(Self { client, socket })),
            Err(Silence::Refused) => Ok(None),
            Err(Silence::Mute | Silence::Unseen(_)) => Err(StepError::machine(format!(
                "the machine's own Docker does not answer on {}; restart it, or give the \
                 Machine `proxy.runAs: binary`",
                socket.display()
            ))),
        }
    }

    /// The same where it has to be there.
    pub(super) async fn need(layout: &Layout) -> Result<Self, StepError> {
        let found = Self::find(layout).await?;
        found.ok_or_else(|| {
            let [usual, _] = layout.machine_docker();
            StepError::machine(format!(
                "the proxy is to run as a container, and no Docker of the machine's own answers \
                 on {}; start it (`systemctl start docker`), or give the Machine `proxy.runAs: \
                 binary`",
                usual.display()
            ))
        })
    }

    /// Compose, on this Docker.
    pub(super) fn compose(&self, layout: &Layout) -> Result<Program, StepError> {
        let host = format!("unix://{}", self.socket.display());
        Ok(compose::program(layout)?.env("DOCKER_HOST", host))
    }
}

/// Its socket; never one outside of the layout's root, wherever a link leads.
fn socket(layout: &Layout) -> Option<PathBuf> {
    let root = mount::real(layout.root());
    let is_ours = |path: &Path| {
        let real = fs::canonicalize(path);
        real.is_ok_and(|real| {
            let is_socket = fs::metadata(&real).is_ok_and(|meta| meta.file_type().is_socket());
            is_socket && real.starts_with(&root)
        })
    };
    layout
        .machine_docker()
        .into_iter()
        .find(|path| is_ours(path))
}

/// What is there, or nothing where Docker knows of no such thing.
pub(super) fn there<T>(answer: Result<T, Error>) -> Result<Option<T>, StepError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(Error::DockerResponseServerError {
            status_code: GONE, ..
        }) => Ok(None),
        Err(error) => Err(said(&error)),
    }
}

/// An error of Docker's own.
pub(super) fn said(error: &Error) -> StepError {
    StepError {
        program: Some("docker".to_owned()),
        ..StepError::machine(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_socket_outside_of_the_root_is_never_used() {
        let outside = tempfile::tempdir().unwrap();
        let _other = UnixListener::bind(outside.path().join("docker.sock")).unwrap();
        let inside = tempfile::tempdir().unwrap();
        let layout = Layout::new(inside.path()).unwrap();
        assert_eq!(socket(&layout), None);
        symlink(outside.path(), inside.path().join("run")).unwrap();
        assert_eq!(socket(&layout), None);
        let var = inside.path().join("var/run");
        fs::create_dir_all(&var).unwrap();
        fs::write(var.join("docker.sock"), "").unwrap();
        assert_eq!(socket(&layout), None);
        fs::remove_file(var.join("docker.sock")).unwrap();
        let _own = UnixListener::bind(var.join("docker.sock")).unwrap();
        assert_eq!(socket(&layout), Some(var.join("docker.sock")));
    }
}
