//! What a plan changes, as people and programs read it: object by object, field
//! by field, old and new, and why.
//!
//! There is no comparing here that the planner does not do: each step of a plan
//! is asked what it changes on the way from what was seen to where it leads
//! (`step.rs`). What has no step is never listed, and every step has a cause.

mod cause;
mod failing;
mod hidden;
mod risk;
mod step;
mod text;

pub use cause::few;
pub use failing::IfItFails;
pub use risk::{AtRisk, LastSnapshot};

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use super::Plan;
use crate::model::{Actual, Blocked, Desired, Digest, Guid, Object, warnings};

/// Everything that a plan changes.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Changes {
    /// Nothing to do and nothing in the way.
    pub in_sync: bool,
    /// Identifies the plan: two plans with the same digest do the same to the
    /// same machine.
    #[schemars(with = "String")]
    pub digest: Digest,
    /// How many objects are created, changed and so on.
    pub summary: Summary,
    /// The objects that differ, in the order in which they are worked on.
    pub objects: Vec<Change>,
    /// Repositories whose data would go to the trash: each is confirmed by its name.
    pub data_at_risk: Vec<AtRisk>,
    /// Objects in sync that deserve a word: larger than declared, suspended, expired.
    pub notes: Vec<Note>,
    /// What of the compose files does not do what it says.
    pub warnings: Vec<Warned>,
}

/// How many objects are to be …
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// … made.
    pub create: usize,
    /// … changed.
    pub change: usize,
    /// … put right: they were as declared before.
    pub mend: usize,
    /// … removed or no longer managed.
    pub delete: usize,
    /// … left as they are, though they differ.
    pub blocked: usize,
}

/// What becomes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Nothing may be done for it.
    Blocked,
    /// It becomes again what its manifest says.
    Mend,
    /// It becomes what its manifest says now.
    Change,
    /// It is made.
    Create,
    /// It is removed, or no longer managed.
    Delete,
}

/// One object that differs.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// `repository/NAME`, `service/REPOSITORY/NAME`, `route/NAME`, `datastore`,
    /// `machine` or `proxy`.
    pub object: String,
    /// What becomes of it.
    pub action: Action,
    /// What changes, by field of its manifest or part of the machine.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Field>,
    /// The managed files that change.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileChange>,
    /// The containers that stop, for a moment or for good.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stops: Vec<Stopped>,
    /// What becomes of it where the change fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub if_it_fails: Option<IfItFails>,
    /// Why nothing may be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked: Option<Why>,
    /// The steps that lead there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Planned>,
    /// What comes then cannot be seen yet: it lies behind what is closed now.
    pub more: bool,
    /// The object as the planner names it.
    #[serde(skip)]
    pub of: Object,
}

/// A field that changes. Values are shown as a manifest would write them; a
/// secret's never is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Field {
    /// `size`, `host`, `container web`, …
    pub field: String,
    /// What it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What it becomes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// What to know about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Whether the machine went astray, rather than the manifest changed.
    pub drift: bool,
}

/// A managed file that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileChange {
    /// Its path in the project's directory.
    pub path: String,
    /// What becomes of it.
    pub change: FileAction,
    /// The lines that differ, as a unified diff; none where the file is not
    /// text, is long, or lists values that may be secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    /// What to know where no lines are shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What becomes of a managed file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum FileAction {
    /// It is written for the first time.
    Added,
    /// It is written anew.
    Changed,
    /// It goes.
    Removed,
}

/// A running container that stops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stopped {
    /// The compose service.
    pub container: String,
    /// The fields of the compose file, or the files, that force it.
    pub because: Vec<String>,
    /// Whether another one takes its place.
    pub replaced: bool,
    /// The routes that do not answer meanwhile.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<String>,
    /// How long the last start of its project's containers took, in milliseconds:
    /// about as long it is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_start: Option<u64>,
}

/// Why nothing may be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Why {
    /// A name of the public list.
    pub reason: &'static str,
    /// In words, with the way out.
    pub message: String,
}

impl From<&Blocked> for Why {
    fn from(why: &Blocked) -> Self {
        Self {
            reason: why.reason(),
            message: why.to_string(),
        }
    }
}

/// A step with its cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Planned {
    /// What is done.
    pub step: String,
    /// Why.
    pub because: String,
}

/// A word about an object in sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// The object, as in [`Change::object`].
    pub object: String,
    /// What there is to know.
    pub message: String,
}

/// A setting of a compose file that does nothing, or something else than it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Warned {
    /// The object, as in [`Change::object`].
    pub object: String,
    /// Where it stands, `file:line:column`, where that was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// What becomes of it.
    pub message: String,
}

impl Warned {
    /// Of everything that is wanted.
    pub fn all(desired: &Desired, actual: &Actual) -> Vec<Self> {
        let all = warnings(desired, actual).into_iter();
        let all = all.map(|(object, warning)| Self {
            object: desired.label(&object),
            place: warning.place,
            message: warning.message,
        });
        all.collect()
    }
}

/// What one step contributes.
#[derive(Debug, Default)]
struct Explained {
    fields: Vec<Field>,
    files: Vec<FileChange>,
    stops: Vec<Stopped>,
    /// Why, where it is not for the same reason as the step before.
    because: Option<String>,
    /// What becomes of the object, where the step alone says so.
    action: Option<Action>,
}

/// What the plan changes.
pub fn changes(desired: &Desired, actual: &Actual, plan: &Plan) -> Changes {
    let mut order: Vec<Object> = Vec::new();
    let mut all: BTreeMap<Object, Change> = BTreeMap::new();
    let mut scratch = actual.clone();
    for planned in &plan.steps {
        let object = planned.object();
        let part = step::explain(planned, &scratch, actual, desired, plan);
        let change = all.entry(object.clone()).or_insert_with(|| {
            order.push(object.clone());
            Change::of(desired, plan, &object)
        });
        let line = planned.line(&|id| told(id, desired, actual));
        change.add(&line, part);
        let fails = IfItFails::of(planned, &scratch, desired);
        change.if_it_fails = fails.or(change.if_it_fails.take());
        planned.effect(&mut scratch);
    }
    for (object, why) in plan.blocked.iter().filter(|(_, why)| !why.is_quiet()) {
        let change = all.entry(object.clone()).or_insert_with(|| {
            order.push(object.clone());
            Change {
                action: Action::Blocked,
                ..Change::of(desired, plan, object)
            }
        });
        change.blocked = Some(why.into());
    }
    let objects: Vec<Change> = order
        .iter()
        .filter_map(|object| all.remove(object))
        .collect();
    let mut changes = Changes {
        in_sync: plan.in_sync(),
        digest: Digest::of(b""),
        summary: Summary::of(&objects),
        objects,
        data_at_risk: plan
            .discards()
            .map(|guid| AtRisk::of(desired, actual, guid))
            .collect(),
        notes: notes(desired, plan),
        warnings: Warned::all(desired, actual),
    };
    changes.digest = digest(&changes, plan);
    changes
}

/// How a plan tells an id: by its name, and not at all where it was only drawn for
/// this plan.
fn told(id: Uuid, desired: &Desired, seen: &Actual) -> String {
    let guid = Guid::new(id);
    let name = desired.name(guid);
    let store = &seen.datastore;
    let is_there = store.identity.known() == Some(&id)
        || store.note.known() == Some(&id)
        || name != guid.to_string()
        || seen
            .repositories
            .known()
            .is_some_and(|all| all.contains_key(&guid));
    match is_there {
        true => name,
        false => "(new)".to_owned(),
    }
}

impl Changes {
    /// Adds how long the containers of each project took to start last time, in
    /// milliseconds, by the project's object.
    pub fn expecting(mut self, starts: &BTreeMap<String, u64>) -> Self {
        for change in &mut self.objects {
            let took = starts.get(&change.object).copied();
            for stop in change.stops.iter_mut().filter(|stop| stop.replaced) {
                stop.last_start = took;
            }
        }
        self
    }
}

impl Change {
    fn of(desired: &Desired, plan: &Plan, object: &Object) -> Self {
        Self {
            object: desired.label(object),
            action: match plan.retires.contains(object) {
                true => Action::Delete,
                false => Action::Mend,
            },
            fields: Vec::new(),
            files: Vec::new(),
            stops: Vec::new(),
            if_it_fails: None,
            blocked: None,
            steps: Vec::new(),
            more: plan.more.contains(object),
            of: object.clone(),
        }
    }

    fn add(&mut self, step: &str, part: Explained) {
        if let Some(action) = part.action {
            self.action = self.action.max(action);
        }
        let before = self.steps.last().map(|planned| planned.because.clone());
        let because = part.because.or(before);
        self.steps.push(Planned {
            step: step.split_whitespace().collect::<Vec<_>>().join(" "),
            because: because.unwrap_or_else(|| self.cause().to_owned()),
        });
        for field in part.fields {
            // What is opened or closed in several steps is one change of one field.
            match self.fields.iter_mut().find(|one| one.field == field.field) {
                Some(one) => one.to = field.to,
                None => self.fields.push(field),
            }
        }
        self.files.extend(part.files);
        self.stops.extend(part.stops);
        if self.action == Action::Mend && !self.is_drift() {
            self.action = Action::Change;
        }
    }

    /// Why, for a step that has no better reason.
    fn cause(&self) -> &'static str {
        match self.action {
            Action::Create => "it is new",
            Action::Change => "its manifest changed",
            Action::Delete => "no manifest names it any more",
            Action::Mend | Action::Blocked => "it is not as its manifest says",
        }
    }

    fn is_drift(&self) -> bool {
        self.fields.iter().all(|field| field.drift)
            && self.files.is_empty()
            && self.stops.is_empty()
    }
}

impl Summary {
    fn of(objects: &[Change]) -> Self {
        let mut summary = Self::default();
        for change in objects {
            match change.action {
                Action::Create => summary.create += 1,
                Action::Change => summary.change += 1,
                Action::Mend => summary.mend += 1,
                Action::Delete => summary.delete += 1,
                Action::Blocked => {}
            }
            summary.blocked += usize::from(change.blocked.is_some());
        }
        summary
    }
}

fn notes(desired: &Desired, plan: &Plan) -> Vec<Note> {
    let noted = plan
        .notes
        .iter()
        .map(|(object, note)| (object, note.clone()));
    let quiet = plan.blocked.iter().filter(|(_, why)| why.is_quiet());
    let quiet = quiet.map(|(object, why)| (object, format!("{}: {why}", why.reason())));
    noted
        .chain(quiet)
        .map(|(object, message)| Note {
            object: desired.label(object),
            message,
        })
        .collect()
}

/// Of what is done, to what, and what was seen of it.
fn digest(changes: &Changes, plan: &Plan) -> Digest {
    let mut fields: Vec<String> = plan
        .steps
        .iter()
        .map(|step| format!("{:?}", step.timeless()))
        .collect();
    for change in &changes.objects {
        fields.push(change.object.clone());
        fields.push(format!("{:?} {:?}", change.fields, change.files));
    }
    for (object, why) in &plan.blocked {
        fields.push(format!("{object:?} {}", why.reason()));
    }
    fields.push(format!("{:?} {:?}", plan.danger, plan.retires));
    Digest::of_fields(fields.iter().map(String::as_bytes))
}

/// The routes that lead to a compose service, whoever declares them.
fn routes_to(actual: &Actual, guid: Guid, service: &str) -> Vec<String> {
    let recorded = actual.routes.known().into_iter().flatten();
    recorded
        .filter(|(_, route)| route.repository == guid && route.service == service)
        .map(|(name, _)| name.to_string())
        .collect()
}
