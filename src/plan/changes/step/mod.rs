//! What each step changes, and why.

mod project;
mod record;
mod route;
mod volume;

use std::collections::BTreeMap;

use super::{Action, Explained, Field};
use crate::model::{
    Actual, Desired, Guid, MadeBy, Name, Part, Repository, RunState, Snapshot, Step, Volume,
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
        Step::Thaw(_) => drift("writers", "frozen", None),
        Step::Fork { from, .. } => Explained {
            fields: vec![Field::new("forkOf", None, Some(desired.name(*from)))],
            action: Some(Action::Create),
            because: Some("it is new".to_owned()),
            ..Explained::default()
        },
        // It is there for the time of the update alone.
        Step::Snapshot {
            made_by: MadeBy::Update,
            ..
        } => silent("its manifest changed"),
        Step::Snapshot { at, made_by, .. } => Explained {
            fields: vec![Field::new("snapshot", None, Some(Snapshot::shown(*at)))],
            because: (*made_by == MadeBy::Rule).then(|| "the last one is old enough".to_owned()),
            ..Explained::default()
        },
        Step::Replace { .. } | Step::KeepReplaced { .. } => Explained::default(),
        Step::DropSnapshot { at, .. } => one("snapshot", Some(Snapshot::shown(*at)), None),
        Step::EnrolKey { .. } | Step::CopyKey { .. } => {
            one("key for boot", None, Some("made".to_owned()))
        }
        Step::DropKey(_) => one("key for boot", Some("there".to_owned()), None),
        Step::CleanFork(_) => Explained::default(),
        Step::Format { size, volume, .. } => Explained {
            fields: view.formatted(*volume, *size),
            action: Some(Action::Create),
            because: Some("it is new".to_owned()),
            ..Explained::default()
        },
        Step::GrowFile { volume, size } => view.grow(*volume, size.to_string()),
        Step::GrowDevice(volume) | Step::GrowFs(volume) => view.finish_growth(*volume),
        Step::GrowMapper(guid) => view.finish_growth(Volume::Image(*guid)),
        Step::Attach(volume) | Step::Mount(volume) => view.open(*volume),
        Step::Open { guid, .. } => view.open(Volume::Image(*guid)),
        Step::Unmount(volume) | Step::Detach(volume) => view.close(*volume),
        Step::Close(guid) => view.close(Volume::Image(*guid)),
        Step::LayOut if view.is_made(Volume::Datastore) => Explained::default(),
        Step::LayOut => drift("folders", "missing", Some("laid out")),
        Step::NoteDatastore(_) => Explained::default(),
        Step::CloseDatastore(by) => switch("closed", by.is_some()),
        Step::SuspendMachine(by) | Step::SuspendRoute(_, by) => switch("suspended", by.is_some()),
        Step::KeepReserve(_) if view.is_made(Volume::Datastore) => Explained::default(),
        Step::KeepReserve(size) => {
            drift("emergency reserve", "given back", Some(&size.to_string()))
        }
        Step::GiveReserve => one("emergency reserve", Some("kept".to_owned()), None),
        Step::ClaimMachine {
            name, overcommit, ..
        } => {
            let noted = before.machine.known();
            let was = noted.and_then(|machine| machine.name.clone());
            let promised = noted.and_then(|machine| machine.overcommit);
            let times = |hundredths: u32| format!("{} times", f64::from(hundredths) / 100.0);
            let text = |name: &Name| Some(name.to_string());
            let name = (was.as_ref() != Some(name))
                .then(|| Field::new("name", was.as_ref().and_then(text), text(name)));
            let overcommit = (promised != *overcommit)
                .then(|| Field::new("overcommit", promised.map(times), overcommit.map(times)));
            let fields: Vec<Field> = name.into_iter().chain(overcommit).collect();
            let is_new = was.is_none();
            Explained {
                because: match is_new {
                    true => Some("it has no name yet".to_owned()),
                    false => fields.first().map(Field::because),
                },
                fields,
                action: is_new.then_some(Action::Create),
                ..Explained::default()
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
        Step::StopDaemon { guid, .. } => {
            let state = view.state(*guid, "running");
            let unseen = view.with(*guid, |repo| repo.containers == Part::Hidden);
            let fields = match unseen {
                true => vec![state.note("whatever runs in it stops; none of it can be seen now")],
                false => vec![state],
            };
            Explained {
                stops: view.running(*guid, None, "the repository is closed"),
                fields,
                ..Explained::default()
            }
        }
        Step::WriteFiles { guid, project } => view.write_files(*guid, project),
        Step::KeepRevision { .. } => Explained::default(),
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
        Step::Hook {
            guid,
            hook,
            function,
            ..
        } => view.hook(*guid, hook, *function),
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
                let (was, is) = (&was.spec, spec);
                let (name, from, to) = match was.run_as != is.run_as && was.http == is.http {
                    true => ("runAs", was.run_as.to_string(), is.run_as.to_string()),
                    false => ("http", was.http.to_string(), is.http.to_string()),
                };
                let field = Field::new(name, Some(from), Some(to));
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

/// What nobody needs to see but among the steps.
fn silent(because: &str) -> Explained {
    Explained {
        because: Some(because.to_owned()),
        ..Explained::default()
    }
}

fn one(field: &str, from: Option<String>, to: Option<String>) -> Explained {
    Field::new(field, from, to).into()
}

/// What becomes so, or is so no longer.
fn switch(field: &str, on: bool) -> Explained {
    one(field, Some((!on).to_string()), Some(on.to_string()))
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
        let makes = |step: &Step| match step {
            Step::Format { volume: made, .. } => *made == volume,
            Step::Fork { guid, .. } => Volume::Image(*guid) == volume,
            _ => false,
        };
        self.plan.steps.iter().any(makes)
    }

    fn plans(&self, of: &dyn Fn(&Step) -> bool) -> bool {
        self.plan.steps.iter().any(of)
    }
}
