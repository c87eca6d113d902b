use std::path::{Path, PathBuf};

use super::{Guid, Name, NetworkId, ParseError, Snapshot};

/// Where everything is. All paths lie beneath one root, `/` on a real machine,
/// so that tests and trials never meet the real ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Socket paths end at 107 bytes, and the longest name of ours needs the rest.
    pub const LONGEST_ROOT: usize = 40;

    /// The layout beneath `root`, which must be absolute and short.
    pub fn new(root: impl Into<PathBuf>) -> Result<Self, ParseError> {
        let root = root.into();
        let text = root.to_str().unwrap_or_default();
        if !root.is_absolute()
            || root
                .components()
                .any(|part| matches!(part, std::path::Component::ParentDir))
        {
            return Err(ParseError::new(format!(
                "--root `{}` is not an absolute path without `..`",
                root.display()
            )));
        }
        if text.is_empty() || text.len() > Self::LONGEST_ROOT || text.contains(char::is_control) {
            return Err(ParseError::new(format!(
                "--root `{}` is longer than {} bytes: socket paths beneath it would not fit",
                root.display(),
                Self::LONGEST_ROOT
            )));
        }
        Ok(Self { root })
    }

    /// The root itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether this is the machine's own root, not one of a trial.
    pub fn is_machine(&self) -> bool {
        self.root == Path::new("/")
    }

    fn under(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The datastore's mount point.
    pub fn datastore(&self) -> PathBuf {
        self.under("mnt/rediacc")
    }

    /// The datastore's backing file where the manifest names none.
    pub fn backing_file(&self) -> PathBuf {
        self.under("mnt/rediacc.img")
    }

    /// The BTRFS subvolume that holds the images.
    pub fn repositories(&self) -> PathBuf {
        self.datastore().join("repositories")
    }

    /// A repository's image.
    pub fn image(&self, guid: Guid) -> PathBuf {
        self.repositories().join(guid.to_string())
    }

    /// An image that is being made.
    pub fn new_image(&self, guid: Guid) -> PathBuf {
        self.repositories().join(format!(".new-{guid}"))
    }

    /// An image whose place another took.
    pub fn replaced_image(&self, guid: Guid) -> PathBuf {
        self.repositories().join(format!(".replaced-{guid}"))
    }

    /// The images of deleted repositories.
    pub fn trash_folder(&self) -> PathBuf {
        self.repositories().join(".trash")
    }

    /// A deleted repository's image.
    pub fn trash(&self, guid: Guid) -> PathBuf {
        self.trash_folder().join(guid.to_string())
    }

    /// The folder of mount points.
    pub fn mounts(&self) -> PathBuf {
        self.datastore().join("mounts")
    }

    /// A repository's mount point.
    pub fn mount(&self, guid: Guid) -> PathBuf {
        self.mounts().join(guid.to_string())
    }

    /// A project's directory.
    pub fn project(&self, guid: Guid, project: &Name) -> PathBuf {
        self.mount(guid).join(project.as_str())
    }

    /// What renet keeps inside the image.
    pub fn inside(&self, guid: Guid) -> PathBuf {
        self.mount(guid).join(".rediacc")
    }

    /// The list of the files that renet wrote for a project.
    pub fn files_index(&self, guid: Guid, project: &Name) -> PathBuf {
        self.inside(guid)
            .join("files")
            .join(format!("{project}.json"))
    }

    /// The slots file inside the image.
    pub fn slots(&self, guid: Guid) -> PathBuf {
        self.mount(guid).join(".rediacc.json")
    }

    /// Docker's data root, under the name that the reference gives it.
    pub fn docker_data(&self, guid: Guid) -> PathBuf {
        self.datastore()
            .join("interim")
            .join(guid.to_string())
            .join("docker/data")
    }

    /// Docker's data root where it really lies: inside the image.
    pub fn docker_data_inside(&self, guid: Guid) -> PathBuf {
        self.inside(guid).join("docker/data")
    }

    /// The folder of all records.
    pub fn state(&self) -> PathBuf {
        self.datastore().join(".interim/state")
    }

    /// A repository's record.
    pub fn record(&self, guid: Guid) -> PathBuf {
        self.state().join(guid.to_string()).join("record.json")
    }

    /// The slots' mirror outside the image.
    pub fn mirror(&self, guid: Guid) -> PathBuf {
        self.state().join(guid.to_string()).join(".rediacc.json")
    }

    /// The machine's record.
    pub fn machine(&self) -> PathBuf {
        self.state().join("machine.json")
    }

    /// Which datastore belongs to this machine.
    pub fn datastore_note(&self) -> PathBuf {
        self.under("var/lib/rediacc/datastore.json")
    }

    /// Sockets, locks and resolved compose files: nothing that must survive.
    pub fn run(&self) -> PathBuf {
        self.under("run/rediacc")
    }

    /// Where a running agent listens.
    pub fn agent_socket(&self) -> PathBuf {
        self.run().join("agent.sock")
    }

    /// What the agent tells of itself; may be deleted at any time.
    pub fn agent(&self) -> PathBuf {
        self.under("var/lib/rediacc/agent")
    }

    /// The lock files.
    pub fn locks(&self) -> PathBuf {
        self.run().join("locks")
    }

    /// Resolved compose files.
    pub fn resolve(&self) -> PathBuf {
        self.run().join("resolve")
    }

    /// What all repositories may read.
    pub fn immovable(&self) -> PathBuf {
        self.datastore().join("immovable")
    }

    /// The secrets of a project.
    pub fn secrets(&self, network: NetworkId, project: &Name) -> PathBuf {
        let secrets = self.run().join("secrets");
        secrets.join(network.to_string()).join(project.as_str())
    }

    /// A network's Docker socket.
    pub fn docker_socket(&self, network: NetworkId) -> PathBuf {
        self.run().join(format!("docker-{network}.sock"))
    }

    /// A network's exec root, which also holds its pid files.
    pub fn docker_run(&self, network: NetworkId) -> PathBuf {
        self.run().join(format!("docker-{network}"))
    }

    /// A network's daemon.json and log.
    pub fn docker_lib(&self, network: NetworkId) -> PathBuf {
        self.under("var/lib/rediacc")
            .join(format!("docker-{network}"))
    }

    /// The router's state.
    pub fn router(&self) -> PathBuf {
        self.under("var/lib/rediacc/router")
    }

    /// The Route manifests as last applied.
    pub fn routes(&self) -> PathBuf {
        self.router().join("routes.json")
    }

    /// What the router gave out, and to whom.
    pub fn router_state(&self) -> PathBuf {
        self.router().join("state.json")
    }

    /// What each daemon was last seen to have, as far as routes go.
    pub fn router_containers(&self) -> PathBuf {
        self.router().join("containers")
    }

    /// The router's pid file and lock.
    pub fn router_run(&self) -> PathBuf {
        self.run().join("router")
    }

    /// Where a running router listens to renet's own commands.
    pub fn router_socket(&self) -> PathBuf {
        self.run().join("router.sock")
    }

    /// The proxy's folder.
    pub fn proxy(&self) -> PathBuf {
        self.under("opt/rediacc/proxy")
    }

    /// The folder that Traefik watches.
    pub fn proxy_dynamic(&self) -> PathBuf {
        self.proxy().join("traefik/dynamic")
    }

    /// Where it finds the user's own certificates.
    pub fn proxy_certificates(&self) -> PathBuf {
        self.proxy().join("certificates")
    }

    /// The route table as Traefik reads it.
    pub fn published_routes(&self) -> PathBuf {
        self.proxy_dynamic().join("renet.yml")
    }

    /// Where the machine's own Docker listens: in the first of these, or the second.
    pub fn machine_docker(&self) -> [PathBuf; 2] {
        ["run/docker.sock", "var/run/docker.sock"].map(|path| self.under(path))
    }

    /// The proxy's pid file and lock.
    pub fn proxy_run(&self) -> PathBuf {
        self.run().join("proxy")
    }

    /// Where keys usually are that manifests name.
    pub fn keys(&self) -> PathBuf {
        self.under("etc/rediacc/keys")
    }

    /// Secrets that renet keeps.
    pub fn credentials(&self) -> PathBuf {
        self.datastore().join(".credentials")
    }

    /// The key that opens a repository at boot.
    pub fn key(&self, guid: Guid) -> PathBuf {
        self.credentials().join("keys").join(format!("{guid}.key"))
    }

    /// What decrypts the age files of this machine.
    pub fn age_identity(&self) -> PathBuf {
        self.credentials().join("age-identity.txt")
    }

    /// A snapshot of all images that lasts as long as one of them is copied.
    pub fn fork_snapshot(&self, guid: Guid) -> PathBuf {
        self.datastore().join(format!(".fork-{guid}"))
    }

    /// A snapshot of a repository: a folder that holds its image as it was.
    pub fn snapshot(&self, guid: Guid, at: jiff::Timestamp) -> PathBuf {
        self.datastore().join(Snapshot::folder(guid, at))
    }

    /// A snapshot that is being made.
    pub fn new_snapshot(&self, guid: Guid) -> PathBuf {
        self.datastore().join(format!(".new-backup-{guid}"))
    }

    /// What is given back when nothing else is free.
    pub fn emergency(&self) -> PathBuf {
        self.datastore().join(".emergency")
    }

    /// The default folder of manifests.
    pub fn desired(&self) -> PathBuf {
        self.under("etc/rediacc/desired")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_real_machine_has_the_documented_paths() {
        let layout = Layout::new("/").unwrap();
        let network = NetworkId::FIRST;
        assert_eq!(layout.datastore(), Path::new("/mnt/rediacc"));
        assert_eq!(
            layout.docker_socket(network),
            Path::new("/run/rediacc/docker-2816.sock")
        );
        assert_eq!(
            layout.docker_lib(network),
            Path::new("/var/lib/rediacc/docker-2816")
        );
        assert_eq!(
            layout.proxy_dynamic(),
            Path::new("/opt/rediacc/proxy/traefik/dynamic")
        );
    }

    #[test]
    fn a_long_or_relative_root_is_refused_with_the_reason() {
        assert!(Layout::new("/".repeat(41)).is_err());
        assert!(Layout::new("relative").is_err());
        assert!(Layout::new("/a/../b").is_err());
        let error = Layout::new(format!("/{}", "x".repeat(40))).unwrap_err();
        assert!(error.to_string().contains("socket paths"), "{error}");
    }
}
