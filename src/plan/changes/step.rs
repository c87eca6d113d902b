use std::collections::{BTreeMap, BTreeSet};

use super::cause::Causes;
use super::{Action, Explained, Field, FileChange, Stopped, hidden, routes_to, text};
use crate::model::{
    Actual, Container, ContainerState, DeletionPolicy, Desired, FileSeen, Gone, Guid, Health, Name,
    Part, Patch, ProjectSpec, RelPath, Repository, RouteRecord, RouteTable, RunState, Slots, Step,
    Volume,
};
use crate::plan::Plan;

/// What a step of the plan changes, seen before it is done.
pub(super) fn explain(
    step: &Step,
    before: &Actual,
    observed: &Actual,
    desired: &Desired,
    plan: &Plan,
) -> Explained {
    let view = View {
        before,
        observed,
        desired,
        plan,
    };
    match step {
        Step::ClearStaging(_) => drift("half-made image", "left over", None),
        Step::Format { size, .. } => Explained {
            fields: vec![Field::new("size", None, Some(size.to_string()))],
            action: Some(Action::Create),
            because: Some("it is new".to_owned()),
            ..Explained::default()
        },
        Step::GrowFile { volume, size } => view.grow(*volume, size.to_string()),
        Step::GrowDevice(volume) | Step::GrowFs(volume) => view.finish_growth(*volume),
        Step::Attach(volume) | Step::Mount(volume) => view.open(*volume),
        Step::Unmount(volume) | Step::Detach(volume) => view.close(*volume),
        Step::LayOut if view.is_made(Volume::Datastore) => Explained::default(),
        Step::LayOut => drift("folders", "missing", Some("laid out")),
        Step::NoteDatastore(_) => Explained::default(),
        Step::ClaimMachine { name, .. } => {
            let was = before
                .machine
                .known()
                .and_then(|machine| machine.name.clone());
            match was {
                Some(was) if was == *name => Explained::default(),
                None => Explained {
                    fields: vec![Field::new("name", None, Some(name.to_string()))],
                    action: Some(Action::Create),
                    because: Some("it has no name yet".to_owned()),
                    ..Explained::default()
                },
                was => one(
                    "name",
                    was.map(|was| was.to_string()),
                    Some(name.to_string()),
                ),
            }
        }
        Step::Reserve { network, .. } => Explained {
            fields: vec![Field::new("network", None, Some(network.to_string()))],
            action: Some(Action::Create),
            because: Some("it is new".to_owned()),
            ..Explained::default()
        },
        Step::Record(guid, patch) => view.patch(*guid, patch),
        Step::Trash(_) => Explained {
            action: Some(Action::Delete),
            ..Explained::default()
        },
        Step::Untrash(_) => one(
            "image",
            Some("in the trash".to_owned()),
            Some("back".to_owned()),
        ),
        Step::Purge { permit, .. } => Explained {
            fields: vec![
                Field::new("data", Some("in the trash".to_owned()), None).note("destroyed"),
            ],
            action: Some(Action::Delete),
            because: Some(permit.reason().to_owned()),
            ..Explained::default()
        },
        Step::DropRecord(_) => Explained {
            action: Some(Action::Delete),
            ..Explained::default()
        },
        Step::MirrorSlots(guid, slots) => view.addresses(*guid, slots),
        Step::WriteSlots(guid, slots) => view.slots(*guid, slots),
        Step::StartDaemon { guid, .. } => view.start_daemon(*guid),
        Step::StopDaemon { guid, .. } => Explained {
            stops: view.running(*guid, None, "the repository is closed"),
            fields: vec![view.state(*guid, "running")],
            ..Explained::default()
        },
        Step::WriteFiles { guid, project } => view.write_files(*guid, project),
        Step::EraseFiles { guid, project } => Explained {
            files: view.files(*guid, project, &BTreeMap::new()),
            action: Some(Action::Delete),
            ..Explained::default()
        },
        Step::FetchImages { guid, project, .. } => view.fetch(*guid, project),
        Step::Up { guid, project, .. } => view.up(*guid, project),
        Step::Wait { guid, project, .. } => view.wait(*guid, project),
        Step::Down { guid, project, .. } => {
            let why = match desired.repositories.get(guid).map(|spec| spec.state) {
                Some(RunState::Stopped) => "the repository is to be Stopped",
                _ => "no manifest names it any more",
            };
            Explained {
                stops: view.running(*guid, Some(project), why),
                ..Explained::default()
            }
        }
        Step::RecordRoute { name, route } => view.route(name, route),
        Step::ForgetRoute(name) => {
            let was = before.routes.known().and_then(|routes| routes.get(name));
            Explained {
                fields: vec![Field::new(
                    "host",
                    was.map(|was| was.host.to_string()),
                    None,
                )],
                action: Some(Action::Delete),
                ..Explained::default()
            }
        }
        Step::StartProxy(spec) => match before.proxy.known() {
            Some(was) if was.spec == *spec => drift("supervisor", "not running", Some("running")),
            Some(was) => {
                let (from, to) = (was.spec.http.to_string(), spec.http.to_string());
                let field = Field::new("http", Some(from), Some(to));
                Explained::from(field.note("no route answers while it starts again"))
            }
            None if before.published.known().is_none_or(BTreeMap::is_empty) => Explained {
                fields: vec![Field::new("http", None, Some(spec.http.to_string()))],
                action: Some(Action::Create),
                because: Some("there are routes".to_owned()),
                ..Explained::default()
            },
            None => drift("proxy", "not running", Some("running")),
        },
        Step::StopProxy => Explained {
            fields: vec![Field::new("proxy", Some("running".to_owned()), None)],
            action: Some(Action::Delete),
            because: Some("no route is left".to_owned()),
            ..Explained::default()
        },
        Step::PublishRoutes(table) => view.publish(table),
    }
}

impl Field {
    fn new(field: impl Into<String>, from: Option<String>, to: Option<String>) -> Self {
        Self {
            field: field.into(),
            from,
            to,
            note: None,
            drift: false,
        }
    }

    fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    fn drifted(mut self) -> Self {
        self.drift = true;
        self
    }

    /// `size 2GiB → 4GiB changed`, in words.
    fn because(&self) -> String {
        match self.drift {
            true => format!(
                "{} is {}",
                self.field,
                self.from.as_deref().unwrap_or("missing")
            ),
            false => format!("{} changes", self.field),
        }
    }
}

impl From<Field> for Explained {
    fn from(field: Field) -> Self {
        Self {
            because: Some(field.because()),
            fields: vec![field],
            ..Self::default()
        }
    }
}

fn one(field: &str, from: Option<String>, to: Option<String>) -> Explained {
    Field::new(field, from, to).into()
}

fn drift(field: &str, from: &str, to: Option<&str>) -> Explained {
    let field = Field::new(field, Some(from.to_owned()), to.map(str::to_owned));
    field.drifted().into()
}

struct View<'a> {
    /// After the steps before this one.
    before: &'a Actual,
    /// Before all of them.
    observed: &'a Actual,
    desired: &'a Desired,
    plan: &'a Plan,
}

impl View<'_> {
    fn with<T>(&self, guid: Guid, read: impl FnOnce(&Repository) -> T) -> T {
        let none = Repository::default();
        read(self.before.repo(guid, &none).unwrap_or(&none))
    }

    /// Whether this plan makes the volume.
    fn is_made(&self, volume: Volume) -> bool {
        let makes =
            |step: &Step| matches!(step, Step::Format { volume: made, .. } if *made == volume);
        self.plan.steps.iter().any(makes)
    }

    fn plans(&self, of: &dyn Fn(&Step) -> bool) -> bool {
        self.plan.steps.iter().any(of)
    }

    fn grow(&self, volume: Volume, to: String) -> Explained {
        let from = self.before.storage(volume).ok();
        let from = from.and_then(|storage| storage.file.known().copied());
        one("size", from.map(|size| size.to_string()), Some(to))
    }

    /// The upper layers follow the file; where it did not grow just now, a
    /// growth was interrupted.
    fn finish_growth(&self, volume: Volume) -> Explained {
        let grows =
            |step: &Step| matches!(step, Step::GrowFile { volume: of, .. } if *of == volume);
        if self.plans(&grows) || self.is_made(volume) {
            return Explained::default();
        }
        let Ok(storage) = self.before.storage(volume) else {
            return Explained::default();
        };
        let from = storage.mount.known().map(|mount| mount.size.to_string());
        let to = storage.file.known().map(ToString::to_string);
        let field = Field::new("size", from, to);
        field.drifted().note("a growth was interrupted").into()
    }

    fn open(&self, volume: Volume) -> Explained {
        if self.is_made(volume) {
            return Explained::default();
        }
        let device = self.before.storage(volume);
        let attached = device.is_ok_and(|storage| storage.device.known().is_some());
        let closed = if attached { "not mounted" } else { "closed" };
        drift("state", closed, Some("mounted"))
    }

    fn close(&self, volume: Volume) -> Explained {
        match volume {
            Volume::Image(guid) => {
                let mounted = self.with(guid, |repo| repo.storage.mount.known().is_some());
                let from = if mounted { "mounted" } else { "attached" };
                self.state(guid, from).into()
            }
            Volume::Datastore => one(
                "state",
                Some("mounted".to_owned()),
                Some("closed".to_owned()),
            ),
        }
    }

    fn state(&self, guid: Guid, from: &str) -> Field {
        let to = match self.desired.repositories.get(&guid).map(|spec| spec.state) {
            Some(RunState::Stopped) => "Stopped",
            Some(RunState::Offline) => "Offline",
            _ => "closed",
        };
        Field::new("state", Some(from.to_owned()), Some(to.to_owned()))
    }

    fn patch(&self, guid: Guid, patch: &Patch) -> Explained {
        let record = self.with(guid, |repo| repo.record.known().cloned());
        let made =
            self.plans(&|step| matches!(step, Step::Reserve { guid: of, .. } if *of == guid));
        match patch {
            Patch::Claim(_) if made => Explained::default(),
            Patch::Claim(owner) => {
                let was = record.and_then(|record| record.owner);
                let note = if was.is_none() {
                    "adopted"
                } else {
                    "taken over"
                };
                let was = was.map(|owner| owner.source);
                Field::new("owner", was, Some(owner.source.clone()))
                    .note(note)
                    .into()
            }
            Patch::Release => {
                let was = record
                    .and_then(|record| record.owner)
                    .map(|owner| owner.source);
                Explained {
                    fields: vec![
                        Field::new("owner", was, None)
                            .note("left closed and unmanaged: deletionPolicy Retain"),
                    ],
                    action: Some(Action::Delete),
                    ..Explained::default()
                }
            }
            Patch::Rename(name) => one(
                "name",
                record.map(|record| record.name.to_string()),
                Some(name.to_string()),
            ),
            Patch::Policy(policy) => {
                let word = |policy: DeletionPolicy| format!("{policy:?}");
                let was = record.filter(|_| !made).map(|record| word(record.policy));
                one("deletionPolicy", was, Some(word(*policy)))
            }
            Patch::Protect(protected) => {
                let was = record
                    .filter(|_| !made)
                    .map(|record| record.protected.to_string());
                one("protected", was, Some(protected.to_string()))
            }
            Patch::Suspend(by) | Patch::SuspendProject(_, by) => {
                let word = |suspended: bool| Some(suspended.to_string());
                one("suspended", word(by.is_none()), word(by.is_some()))
            }
            Patch::Delete(Some(stone)) => {
                let because = match stone.why {
                    Gone::Pruned => "its manifest is gone, and deletionPolicy is Delete",
                    Gone::Command => "a command says so",
                    Gone::Expired => "its time is over",
                };
                let size = self.with(guid, |repo| {
                    repo.storage.file.known().map(ToString::to_string)
                });
                let days = crate::plan::GRACE.as_hours() / 24;
                let note = format!(
                    "to the trash for {days} days; `renet repository restore` brings it back"
                );
                Explained {
                    fields: vec![Field::new("data", size, None).note(note)],
                    action: Some(Action::Delete),
                    because: Some(because.to_owned()),
                    ..Explained::default()
                }
            }
            Patch::Delete(None) => {
                let (from, to) = ("deleted".to_owned(), "back".to_owned());
                let mut part = one("state", Some(from), Some(to));
                part.because = Some("its manifest is back".to_owned());
                part
            }
            Patch::OwnProject(project, on) => {
                let before = |repo: &Repository| {
                    let record = repo.record.known();
                    record.and_then(|record| record.depends_on.get(project).cloned())
                };
                let before = self.with(guid, before).unwrap_or_default();
                let listed = |names: &BTreeSet<Name>| {
                    let names: Vec<&str> = names.iter().map(Name::as_str).collect();
                    (!names.is_empty()).then(|| names.join(", "))
                };
                let depends_on = Field::new("dependsOn", listed(&before), listed(on));
                let none = |repo: &Repository| {
                    let files = repo.files.known().and_then(|all| all.get(project));
                    let runs = repo.containers.known().and_then(|all| all.get(project));
                    files.is_none() && runs.is_none()
                };
                Explained {
                    fields: Vec::from_iter((before != *on).then_some(depends_on)),
                    action: self.with(guid, none).then_some(Action::Create),
                    ..Explained::default()
                }
            }
            Patch::Created
            | Patch::Unhold
            | Patch::Purged
            | Patch::DisownProject(_)
            | Patch::Failed(..)
            | Patch::Passed(_) => Explained::default(),
        }
    }

    /// The services that get an address.
    fn addresses(&self, guid: Guid, slots: &Slots) -> Explained {
        let network = match self.desired.repositories.get(&guid) {
            Some(spec) => spec.network,
            None => return Explained::default(),
        };
        let had = self.with(guid, |repo| {
            repo.mirror.known().cloned().unwrap_or_default()
        });
        let new = slots
            .0
            .iter()
            .filter(|(service, slot)| had.0.get(*service) != Some(slot));
        let fields = new.map(|(service, slot)| {
            let was = had
                .0
                .get(service)
                .map(|slot| network.address(*slot).to_string());
            let address = network.address(*slot).to_string();
            Field::new(format!("address {service}"), was, Some(address))
        });
        Explained {
            fields: fields.collect(),
            because: Some("its services have addresses of their own".to_owned()),
            ..Explained::default()
        }
    }

    /// Inside the image the slots are what was mirrored just now, or somebody
    /// changed them there.
    fn slots(&self, guid: Guid, slots: &Slots) -> Explained {
        let mirrors = |step: &Step| matches!(step, Step::MirrorSlots(of, _) if *of == guid);
        let seen = self.with(guid, |repo| repo.slots.known().cloned());
        match seen {
            Some(seen) if seen != *slots && !self.plans(&mirrors) => {
                drift(".rediacc.json", "not as mirrored", Some("as mirrored"))
            }
            _ => Explained::default(),
        }
    }

    fn start_daemon(&self, guid: Guid) -> Explained {
        let opens = |step: &Step| matches!(step, Step::Mount(Volume::Image(of)) | Step::Format { volume: Volume::Image(of), .. } if *of == guid);
        let daemon = self.with(guid, |repo| repo.daemon.known().copied());
        if self.plans(&opens) {
            return match self.is_made(Volume::Image(guid)) {
                true => Explained::default(),
                false => drift("state", "closed", Some("running")),
            };
        }
        match daemon {
            None => drift("daemon", "not running", Some("running")),
            Some(daemon) if !daemon.serving => drift("daemon", "dead", Some("running")),
            Some(_) => drift("daemon", "without its supervisor", Some("supervised")),
        }
    }

    /// The running containers of a repository, or of one project.
    fn running(&self, guid: Guid, only: Option<&Name>, because: &str) -> Vec<Stopped> {
        let containers = self.with(guid, |repo| repo.containers.known().cloned());
        let projects = containers.into_iter().flatten();
        projects
            .filter(|(project, _)| only.is_none_or(|only| only == project))
            .flat_map(|(_, containers)| containers)
            .filter(|(_, container)| container.state == ContainerState::Running)
            .map(|(service, _)| self.stopped(guid, &service, vec![because.to_owned()], false))
            .collect()
    }

    fn stopped(&self, guid: Guid, service: &str, because: Vec<String>, replaced: bool) -> Stopped {
        Stopped {
            container: service.to_owned(),
            because,
            replaced,
            routes: routes_to(self.observed, guid, service),
            last_start: None,
        }
    }

    fn write_files(&self, guid: Guid, project: &ProjectSpec) -> Explained {
        let after: BTreeMap<_, _> = project
            .files
            .files()
            .iter()
            .map(|(path, file)| (path.clone(), FileSeen::of(&file.bytes, file.executable)))
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
    fn files(
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
    fn lay(&self, at: &Actual, guid: Guid, project: &Name) -> BTreeMap<RelPath, FileSeen> {
        let none = Repository::default();
        let repo = at.repo(guid, &none).unwrap_or(&none);
        let files = repo.files.known().and_then(|all| all.get(project));
        files.map(|files| files.files.clone()).unwrap_or_default()
    }

    fn fetch(&self, guid: Guid, project: &ProjectSpec) -> Explained {
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

    fn up(&self, guid: Guid, project: &ProjectSpec) -> Explained {
        let seen = self.with(guid, |repo| {
            let all = repo.containers.known();
            all.and_then(|all| all.get(&project.name)).cloned()
        });
        let lay = self.lay(self.observed, guid, &project.name);
        let is_new = seen.is_none() && lay.is_empty();
        let seen = seen.unwrap_or_default();
        let why = Causes::of(&lay, project);
        let mut part = Explained::default();
        for (name, service) in &project.services {
            let field = format!("container {name}");
            match seen.get(name) {
                None if is_new || why.is_new(name) => {
                    part.fields
                        .push(Field::new(field, None, Some("running".to_owned())));
                }
                None => part.fields.push(
                    Field::new(
                        field,
                        Some("missing".to_owned()),
                        Some("running".to_owned()),
                    )
                    .drifted(),
                ),
                Some(container) => {
                    let stale = container.stale_image;
                    let differs = container.config_hash != service.config_hash;
                    let runs = container.state == ContainerState::Running;
                    if differs || stale {
                        let because = why.of_service(name, stale);
                        if runs {
                            part.stops.push(self.stopped(guid, name, because, true));
                        } else {
                            let field = Field::new(
                                field,
                                Some(state(container)),
                                Some("running".to_owned()),
                            );
                            part.fields.push(field.note(because.join(", ")));
                        }
                    } else if !runs {
                        let done =
                            service.completes && container.state == ContainerState::Exited(0);
                        if !done {
                            let field = Field::new(
                                field,
                                Some(state(container)),
                                Some("running".to_owned()),
                            );
                            part.fields.push(field.drifted());
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
                part.fields.push(field.note(because.join(", ")));
            }
        }
        let mut because: Vec<String> = part.fields.iter().map(Field::because).collect();
        for stop in &part.stops {
            because.extend(stop.because.clone());
        }
        because.dedup();
        part.because = (!because.is_empty() && !is_new).then(|| because.join(", "));
        part
    }

    fn wait(&self, guid: Guid, project: &ProjectSpec) -> Explained {
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

    fn route(&self, name: &Name, route: &RouteRecord) -> Explained {
        let was = self
            .before
            .routes
            .known()
            .and_then(|routes| routes.get(name));
        let leads = |route: &RouteRecord| {
            let repository = self.desired.name(route.repository);
            format!("{repository}/{}", route.service)
        };
        let Some(was) = was else {
            let to = format!("{} → {}:{}", route.host, leads(route), route.port);
            return Explained {
                fields: vec![Field::new("host", None, Some(to))],
                action: Some(Action::Create),
                ..Explained::default()
            };
        };
        let all = [
            ("host", was.host.to_string(), route.host.to_string()),
            ("service", leads(was), leads(route)),
            ("port", was.port.to_string(), route.port.to_string()),
            (
                "address",
                was.address.to_string(),
                route.address.to_string(),
            ),
            (
                "owner",
                was.owner.source.clone(),
                route.owner.source.clone(),
            ),
        ];
        let differ = all.into_iter().filter(|(_, from, to)| from != to);
        let fields: Vec<Field> = differ
            .map(|(field, from, to)| Field::new(field, Some(from), Some(to)))
            .collect();
        let because: Vec<String> = fields.iter().map(Field::because).collect();
        Explained {
            because: Some(because.join(", ")),
            fields,
            ..Explained::default()
        }
    }

    /// What the proxy reads and should not, or should and does not. What this
    /// plan notes or forgets is told of with its route.
    fn publish(&self, table: &RouteTable) -> Explained {
        let none = RouteTable::new();
        let was = match &self.before.published {
            Part::Known(was) => was,
            _ => &none,
        };
        let names: BTreeSet<&Name> = was.keys().chain(table.keys()).collect();
        let told = |name: &Name| {
            self.plans(&|step| match step {
                Step::RecordRoute { name: of, .. } | Step::ForgetRoute(of) => of == name,
                _ => false,
            })
        };
        let shown = |table: &RouteTable, name: &Name| {
            let route = table.get(name)?;
            Some(format!("{} → {}", route.host, route.backend))
        };
        let differ = names
            .into_iter()
            .filter(|name| was.get(*name) != table.get(*name) && !told(name));
        let fields: Vec<Field> = differ
            .map(|name| {
                let field = Field::new(
                    format!("route {name}"),
                    shown(was, name),
                    shown(table, name),
                );
                match (was.contains_key(name), table.contains_key(name)) {
                    (false, true) => field.note("its service runs"),
                    (true, false) => field.note("its service does not run"),
                    _ => field,
                }
                .drifted()
            })
            .collect();
        Explained {
            because: Some("what is published is what was seen to run".to_owned()),
            fields,
            ..Explained::default()
        }
    }
}

/// What a container does, in words.
fn state(container: &Container) -> String {
    match container.state {
        ContainerState::Running => "running".to_owned(),
        ContainerState::Exited(status) => format!("exited {status}"),
        ContainerState::Other => "not running".to_owned(),
    }
}
