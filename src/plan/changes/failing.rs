use schemars::JsonSchema;
use serde::Serialize;

use crate::model::{
    Actual, ContainerState, Desired, Guid, Name, OnFailure, Patch, Repository, Step,
};

/// What becomes of a project whose update fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IfItFails {
    /// The revision that comes back.
    pub comes_back: String,
    /// Whether all data of its repository goes back to what it was before the update.
    pub takes_data_back: bool,
    /// The containers of other projects that stop for that, as `PROJECT/CONTAINER`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stops: Vec<String>,
}

impl IfItFails {
    /// Where the step begins an update.
    pub(super) fn of(step: &Step, before: &Actual, desired: &Desired) -> Option<Self> {
        let Step::Record(guid, Patch::Begin { project, .. }) = step else {
            return None;
        };
        let spec = desired.repositories.get(guid)?.projects.get(project)?;
        let none = Repository::default();
        let repo = before.repo(*guid, &none).ok()?;
        let kept = repo.revisions.known()?.get(project)?;
        let takes_data_back = spec.on_failure == OnFailure::RollbackWithData;
        Some(Self {
            comes_back: kept.last()?.hash.short().to_owned(),
            takes_data_back,
            stops: match takes_data_back {
                true => others(before, *guid, project),
                false => Vec::new(),
            },
        })
    }
}

/// What runs beside the project.
fn others(before: &Actual, guid: Guid, but: &Name) -> Vec<String> {
    let none = Repository::default();
    let repo = before.repo(guid, &none).unwrap_or(&none);
    let projects = repo.containers.known().into_iter().flatten();
    let others = projects.filter(|(project, _)| *project != but);
    let running = others.flat_map(|(project, containers)| {
        let running = containers
            .iter()
            .filter(|(_, container)| container.state == ContainerState::Running);
        running.map(move |(container, _)| format!("{project}/{container}"))
    });
    running.collect()
}
