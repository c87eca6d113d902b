use std::collections::BTreeSet;

use super::Step;
use crate::model::{
    Actual, Container, ContainerState, Function, Gone, Guid, Name, Part, Patch, Repository,
};

/// What a plan may cost the user.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Danger {
    /// Stops a service that runs.
    Stops(Guid, Name, String),
    /// May stop whatever runs in the repository: it could not be seen.
    StopsUnseen(Guid),
    /// Sends the repository's data to the trash.
    Discards(Guid),
    /// Takes back what was written to the repository since a snapshot.
    TakesBack(Guid),
}

impl Danger {
    /// The repository that is in danger.
    pub fn repository(&self) -> Guid {
        match self {
            Danger::Stops(guid, ..)
            | Danger::StopsUnseen(guid)
            | Danger::Discards(guid)
            | Danger::TakesBack(guid) => *guid,
        }
    }

    /// Whether what was shown covers this.
    pub fn is_within(&self, shown: &BTreeSet<Danger>) -> bool {
        shown.contains(self)
            || matches!(self, Danger::Stops(..))
                && shown.contains(&Danger::StopsUnseen(self.repository()))
    }
}

impl Step {
    /// What the step costs the user, seen before it is done.
    pub fn danger(&self, a: &Actual) -> Vec<Danger> {
        let Some(guid) = self.object().repository() else {
            return Vec::new();
        };
        let absent = Repository::default();
        let Ok(repo) = a.repo(guid, &absent) else {
            return Vec::new();
        };
        let running = |only: Option<&Name>, spared: &dyn Fn(&str, &Container) -> bool| {
            repo.containers
                .known()
                .into_iter()
                .flatten()
                .filter(|(project, _)| only.is_none_or(|only| only == *project))
                .flat_map(|(project, containers)| {
                    containers
                        .iter()
                        .filter(|(name, container)| {
                            container.state == ContainerState::Running && !spared(name, container)
                        })
                        .map(|(name, _)| Danger::Stops(guid, project.clone(), name.clone()))
                        .collect::<Vec<_>>()
                })
                .collect()
        };
        match self {
            // The mark is the decision; an ended time was decided when it was set.
            Step::Record(_, Patch::Delete(Some(stone))) if stone.why != Gone::Expired => {
                vec![Danger::Discards(guid)]
            }
            Step::Record(_, Patch::Rewind(_)) => vec![Danger::TakesBack(guid)],
            Step::StopDaemon { .. } if repo.containers == Part::Hidden => {
                vec![Danger::StopsUnseen(guid)]
            }
            Step::StopDaemon { .. } => running(None, &|_, _| false),
            Step::Down { project, .. } => running(Some(project), &|_, _| false),
            Step::Hook { function, .. } if *function == Function::Prep => Vec::new(),
            Step::Hook { hook, .. } => running(Some(&hook.project), &|_, _| false),
            Step::Up { project, .. } => running(Some(&project.name), &|name, container| {
                project.services.get(name).is_some_and(|service| {
                    service.config_hash == container.config_hash && !container.stale_image
                })
            }),
            _ => Vec::new(),
        }
    }
}
