use std::collections::BTreeMap;

use super::Step;
use crate::model::{Actual, ContainerState, Daemon, Digest, Health, Part, Volume};

impl Step {
    /// The states besides "before" and "after" in which a crash inside the step
    /// may leave the machine.
    pub fn residue(&self, before: &Actual) -> Vec<Actual> {
        let mut left = before.clone();
        // EnrolKey writes the file first, DropKey the slot: one may be without
        // the other.
        if let Step::EnrolKey { guid, .. } | Step::DropKey(guid) = self {
            left.repo_mut(*guid).key = Part::Known(());
            return vec![left];
        }
        match self {
            // A device without its last write is blank.
            Step::Format {
                volume: Volume::Datastore,
                ..
            } if before.datastore.disk.known().is_some() => return Vec::new(),
            Step::Format { volume, .. } => left.storage_mut(*volume).staging = Part::Known(()),
            Step::Fork { guid, .. } | Step::Snapshot { guid, .. } => {
                left.storage_mut(Volume::Image(*guid)).staging = Part::Known(());
                let of = match self {
                    Step::Fork { from, .. } => *from,
                    _ => *guid,
                };
                let parent = left.storage_mut(Volume::Image(of));
                let live = !matches!(
                    self,
                    Step::Fork {
                        snapshot: Some(_),
                        ..
                    }
                );
                if live && parent.mount.known().is_some() {
                    parent.frozen = Part::Known(());
                }
            }
            Step::Replace { guid, .. } => {
                left.storage_mut(Volume::Image(*guid)).staging = Part::Known(());
            }
            // The snapshot is there first, then the image goes.
            Step::KeepReplaced { guid, .. } => {
                let is = left.repo_mut(*guid).replaced.clone();
                self.effect(&mut left);
                left.repo_mut(*guid).replaced = is;
            }
            Step::Open { guid, .. } => {
                let storage = left.storage_mut(Volume::Image(*guid));
                storage.device = storage.file.clone();
            }
            // An attached device comes first, then the mount.
            Step::StartDaemon { guid, .. } => {
                left.repo_mut(*guid).daemon = Part::Known(Daemon::LEFT);
            }
            Step::StopDaemon { guid, .. } => {
                let repo = left.repo_mut(*guid);
                if let Part::Known(daemon) = &mut repo.daemon {
                    daemon.supervised = false;
                }
                if let Part::Known(all) = &mut repo.containers {
                    all.values_mut()
                        .flat_map(BTreeMap::values_mut)
                        .for_each(|container| container.state = ContainerState::Exited(143));
                }
            }
            Step::WriteFiles { guid, project } => {
                let repo = left.repo_mut(*guid);
                if let Some(files) = repo
                    .files
                    .known_mut()
                    .and_then(|files| files.get_mut(&project.name))
                {
                    // Some files are new, some old: the digest fits neither.
                    files.digest = Digest::of_fields([files.digest.as_str().as_bytes(), b"torn"]);
                }
            }
            Step::EraseFiles { guid, project } => {
                let files = left.repo_mut(*guid).files.known_mut();
                if let Some(seen) = files.and_then(|files| files.get_mut(project)) {
                    // The list of files goes last.
                    seen.files.clear();
                    seen.digest = Digest::of_fields([]);
                }
            }
            Step::Up { guid, project, .. } => {
                // Old containers gone, new ones made but not started.
                let mut after = before.clone();
                self.effect(&mut after);
                let made = after
                    .repo_mut(*guid)
                    .containers
                    .known()
                    .and_then(|all| all.get(&project.name))
                    .cloned();
                if let (Some(all), Some(mut made)) =
                    (left.repo_mut(*guid).containers.known_mut(), made)
                {
                    for container in made.values_mut() {
                        if container.health == Health::New {
                            container.state = ContainerState::Other;
                        }
                    }
                    all.insert(project.name.clone(), made);
                }
            }
            Step::Hook { guid, hook, .. } => {
                let containers = left.repo_mut(*guid).containers.known_mut();
                let own = containers.and_then(|all| all.get_mut(&hook.project));
                for container in own.into_iter().flat_map(BTreeMap::values_mut) {
                    container.state = ContainerState::Exited(137);
                }
            }
            Step::Down { guid, project, .. } => {
                let containers = left
                    .repo_mut(*guid)
                    .containers
                    .known_mut()
                    .and_then(|all| all.get_mut(project));
                for container in containers.into_iter().flat_map(BTreeMap::values_mut) {
                    container.state = ContainerState::Exited(143);
                }
            }
            _ => return Vec::new(),
        }
        vec![left]
    }
}
