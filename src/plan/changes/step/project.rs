use std::collections::{BTreeMap, BTreeSet};

use super::super::cause::{Causes, few};
use super::super::{Explained, Field, FileChange, Stopped, hidden, routes_to, text};
use super::View;
use crate::model::{
    Actual, Container, ContainerState, FileSeen, Function, Guid, Health, Hook, Name, ProjectSpec,
    RelPath, Repository, Step,
};

impl View<'_> {
    /// The running containers of a repository, or of one project.
    pub(super) fn running(&self, guid: Guid, only: Option<&Name>, because: &str) -> Vec<Stopped> {
        let containers = self.with(guid, |repo| repo.containers.known().cloned());
        let projects = containers.into_iter().flatten();
        projects
            .filter(|(project, _)| only.is_none_or(|only| only == project))
            .flat_map(|(_, containers)| containers)
            .filter(|(_, container)| container.state == ContainerState::Running)
            .map(|(service, _)| self.stopped(guid, &service, vec![because.to_owned()], false))
            .collect()
    }

    pub(super) fn stopped(
        &self,
        guid: Guid,
        service: &str,
        because: Vec<String>,
        replaced: bool,
    ) -> Stopped {
        Stopped {
            container: service.to_owned(),
            because,
            replaced,
            routes: routes_to(self.observed, guid, service),
            last_start: None,
        }
    }

    pub(super) fn write_files(&self, guid: Guid, project: &ProjectSpec) -> Explained {
        let after: BTreeMap<_, _> = project
            .files
            .files()
            .iter()
            .map(|(path, file)| (path.clone(), FileSeen::from(file)))
            .collect();
        let files = self.files(guid, &project.name, &after);
        let changed: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        let because = match changed.as_slice() {
            [] => None,
            [one] => Some(format!("{one} differs")),
            [one, rest @ ..] => Some(format!("{one} and {} more differ", rest.len())),
        };
        Explained {
            because,
            files,
            ..Explained::default()
        }
    }

    /// What lies in a project's directory, against what should.
    pub(super) fn files(
        &self,
        guid: Guid,
        project: &Name,
        after: &BTreeMap<RelPath, FileSeen>,
    ) -> Vec<FileChange> {
        let before = self.lay(self.before, guid, project);
        let paths: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let hidden = hidden::files([&before, after]);
        let differ = paths
            .into_iter()
            .filter(|path| before.get(*path) != after.get(*path));
        let change = differ.map(|path| {
            let holds = hidden.get(path.as_str()).copied();
            text::change(path.as_str(), before.get(path), after.get(path), holds)
        });
        change.collect()
    }

    /// The files of a project as they lay there.
    pub(super) fn lay(
        &self,
        at: &Actual,
        guid: Guid,
        project: &Name,
    ) -> BTreeMap<RelPath, FileSeen> {
        let none = Repository::default();
        let repo = at.repo(guid, &none).unwrap_or(&none);
        let files = repo.files.known().and_then(|all| all.get(project));
        files.map(|files| files.files.clone()).unwrap_or_default()
    }

    pub(super) fn fetch(&self, guid: Guid, project: &ProjectSpec) -> Explained {
        let known = self.with(guid, |repo| {
            repo.images.known().cloned().unwrap_or_default()
        });
        let missing = project
            .services
            .iter()
            .filter(|(_, service)| !known.contains(&service.image));
        let mut names: Vec<&str> = missing.map(|(name, _)| name.as_str()).collect();
        names.dedup();
        Explained {
            because: Some(format!(
                "the image of {} is not there yet",
                names.join(", ")
            )),
            ..Explained::default()
        }
    }

    pub(super) fn up(&self, guid: Guid, project: &ProjectSpec) -> Explained {
        let seen = self.with(guid, |repo| {
            let all = repo.containers.known();
            all.and_then(|all| all.get(&project.name)).cloned()
        });
        let lay = self.lay(self.observed, guid, &project.name);
        let is_new = seen.is_none() && lay.is_empty();
        let seen = seen.unwrap_or_default();
        let given = |at: &Actual| {
            let repo = at.repositories.known()?.get(&guid)?;
            repo.given.get(&project.name).cloned()
        };
        let why = Causes::of(&lay, given(self.observed).as_deref(), project);
        let mut part = Explained::default();
        for (name, service) in &project.services {
            let field = format!("container {name}");
            match seen.get(name) {
                None if is_new || why.is_new(name) => {
                    part.fields
                        .push(Field::new(field, None, Some("running".to_owned())));
                }
                None => part.fields.push(started(field, "missing").drifted()),
                Some(container) => {
                    let stale = container.stale_image;
                    let differs = container.config_hash != service.config_hash;
                    let runs = container.state == ContainerState::Running;
                    if differs || stale {
                        let because = why.of_service(name, stale);
                        if runs {
                            part.stops.push(self.stopped(guid, name, because, true));
                        } else {
                            let again = started(field, &state(container));
                            part.fields.push(again.note(few(&because)));
                        }
                    } else if !runs {
                        let done =
                            service.completes && container.state == ContainerState::Exited(0);
                        if !done {
                            part.fields
                                .push(started(field, &state(container)).drifted());
                        }
                    }
                }
            }
        }
        for (name, container) in seen
            .iter()
            .filter(|(name, _)| !project.services.contains_key(*name))
        {
            let because = vec!["its project no longer defines it".to_owned()];
            if container.state == ContainerState::Running {
                part.stops.push(self.stopped(guid, name, because, false));
            } else {
                let field = Field::new(format!("container {name}"), Some(state(container)), None);
                part.fields.push(field.note(few(&because)));
            }
        }
        let mut because: Vec<String> = part.fields.iter().map(Field::because).collect();
        for stop in &part.stops {
            because.extend(stop.because.clone());
        }
        because.dedup();
        part.because = (!because.is_empty() && !is_new).then(|| few(&because));
        part
    }

    pub(super) fn hook(&self, guid: Guid, hook: &Hook, function: Function) -> Explained {
        let run = self.with(guid, |repo| {
            repo.hook_run(&hook.project, function).ok()?.cloned()
        });
        let because = match (function, run) {
            (Function::Down, _) => "its project is to be down",
            (_, None) => "it was not run yet",
            (_, Some(run)) if run.inputs != hook.inputs => {
                "its text, the files beside it or its environment changed"
            }
            (_, Some(run)) if run.status != 0 => "it failed, and is to be tried again",
            (_, Some(run)) if run.boot != self.before.boot => "the machine was started again",
            (_, Some(_)) => "a container that it started does not run",
        };
        Explained {
            stops: match function {
                // `Down` of the project shows what it stops.
                Function::Prep | Function::Down => Vec::new(),
                Function::Up => self.running(guid, Some(&hook.project), because),
            },
            because: Some(because.to_owned()),
            ..Explained::default()
        }
    }

    pub(super) fn wait(&self, guid: Guid, project: &ProjectSpec) -> Explained {
        let starts = |step: &Step| matches!(step, Step::Up { guid: of, project: up, .. } if *of == guid && up.name == project.name);
        if self.plans(&starts) {
            return Explained {
                because: Some("what was started must be well".to_owned()),
                ..Explained::default()
            };
        }
        let seen = self.with(guid, |repo| {
            let all = repo.containers.known();
            all.and_then(|all| all.get(&project.name))
                .cloned()
                .unwrap_or_default()
        });
        let ill = seen
            .iter()
            .filter(|(_, container)| container.health != Health::Healthy);
        let fields = ill.map(|(name, container)| {
            let health = match container.health {
                Health::Unhealthy => "unhealthy",
                _ => "starting",
            };
            let field = format!("health {name}");
            Field::new(field, Some(health.to_owned()), Some("healthy".to_owned())).drifted()
        });
        Explained {
            fields: fields.collect(),
            because: Some("it is not well".to_owned()),
            ..Explained::default()
        }
    }
}

fn started(field: String, from: &str) -> Field {
    Field::new(field, Some(from.to_owned()), Some("running".to_owned()))
}

/// What a container does, in words.
fn state(container: &Container) -> String {
    match container.state {
        ContainerState::Running => "running".to_owned(),
        ContainerState::Exited(status) => format!("exited {status}"),
        ContainerState::Other => "not running".to_owned(),
    }
}
