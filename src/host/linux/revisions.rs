//! Revisions of projects that were well, kept inside the image: with all that starting
//! them again needs, however their manifests change.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::beneath::Beneath;
use crate::host::{Done, StepError};
use crate::model::{
    Digest, Environment, FileEntry, FileSet, Format, Guid, Hook, Kept, Layout, Name, Part,
    ProjectSpec, Record, RelPath, Revisions, ServiceSpec,
};

/// Where they are: a copy brings along its parent's, which are none of its own.
fn folder(guid: Guid) -> String {
    format!(".rediacc/revisions/{guid}")
}

/// They hold what the environment holds.
const MODE: u32 = 0o600;

/// How one is written.
#[derive(Serialize, Deserialize)]
struct Written {
    format: Format,
    files: BTreeMap<RelPath, WrittenFile>,
    compose: String,
    services: BTreeMap<String, ServiceSpec>,
    /// What its hook finds in its environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    environment: Option<BTreeMap<String, String>>,
    #[serde(default)]
    depends_on: BTreeSet<Name>,
    healthy_within: SignedDuration,
}

#[derive(Serialize, Deserialize)]
struct WrittenFile {
    /// Its bytes, in base64.
    content: String,
    executable: bool,
}

impl From<&ProjectSpec> for Written {
    fn from(project: &ProjectSpec) -> Self {
        let files = project.files.files().iter();
        let files = files.map(|(path, file)| {
            let written = WrittenFile {
                content: STANDARD.encode(file.bytes()),
                executable: file.executable(),
            };
            (path.clone(), written)
        });
        Self {
            format: Format,
            files: files.collect(),
            compose: project.compose.to_string(),
            services: project.services.clone(),
            environment: project.hook.as_ref().map(|hook| hook.environment.0.clone()),
            depends_on: project.depends_on.clone(),
            healthy_within: project.healthy_within,
        }
    }
}

impl Written {
    fn read(self, name: &Name) -> Option<ProjectSpec> {
        let mut files = BTreeMap::new();
        for (path, file) in self.files {
            let bytes = STANDARD.decode(file.content).ok()?;
            files.insert(path, FileEntry::new(bytes, file.executable));
        }
        let files = Arc::new(FileSet::new(files));
        let hook = self.environment.and_then(|environment| {
            let found = files.rediaccfile()?;
            let environment = Environment(environment);
            Some(Hook::new(name.clone(), &found, files.digest(), environment))
        });
        let spec = ProjectSpec::new(name.clone(), files, self.compose.into(), self.services);
        Some(ProjectSpec {
            depends_on: self.depends_on,
            healthy_within: self.healthy_within,
            ..spec.with_hook(hook)
        })
    }
}

/// `0000000007-{hash}.json`: the number says which is newer.
fn file(number: u32, hash: &Digest) -> String {
    format!("{number:010}-{hash}.json")
}

fn of_file(name: &str) -> Option<(u32, Digest)> {
    let (number, hash) = name.strip_suffix(".json")?.split_once('-')?;
    Some((number.parse().ok()?, Digest::typed(hash)))
}

/// The files of one project, oldest first.
fn listed(folder: &Beneath) -> io::Result<Vec<(u32, Digest)>> {
    let names = folder.names()?;
    let mut all: Vec<_> = names.iter().filter_map(|name| of_file(name)).collect();
    all.sort_by_key(|(number, _)| *number);
    Ok(all)
}

/// What is kept of each project in a mounted image; what it was where that is needed.
pub(super) fn observe(layout: &Layout, guid: Guid, record: &Part<Record>) -> Part<Revisions> {
    let record = record.known();
    let look = || -> io::Result<Revisions> {
        let mut revisions = Revisions::new();
        let Some(all) = Beneath::new(&layout.mount(guid))?.folder(&folder(guid))? else {
            return Ok(revisions);
        };
        for name in all.names()? {
            let Ok(project) = name.parse::<Name>() else {
                continue;
            };
            let Some(own) = all.folder(&name)? else {
                continue;
            };
            let needed = record.is_some_and(|record| record.needs_revisions(&project));
            let found = listed(&own)?;
            let newest = found.len().saturating_sub(Kept::COUNT);
            let kept: Vec<Kept> = found[newest..]
                .iter()
                .map(|(number, hash)| Kept {
                    hash: hash.clone(),
                    spec: needed
                        .then(|| read(&own, &project, *number, hash))
                        .flatten(),
                })
                .collect();
            if !kept.is_empty() {
                revisions.insert(project, kept);
            }
        }
        Ok(revisions)
    };
    match look() {
        Ok(all) => Part::Known(all),
        Err(error) => {
            let place = layout.mount(guid).join(folder(guid));
            Part::Unknown(format!("{}: {error}", place.display()))
        }
    }
}

/// One, where it is whole: it is what its name says.
fn read(folder: &Beneath, project: &Name, number: u32, hash: &Digest) -> Option<Arc<ProjectSpec>> {
    let found = folder.read(&file(number, hash)).ok()??;
    let written: Written = serde_json::from_slice(&found.bytes).ok()?;
    let spec = written.read(project).filter(|spec| spec.hash == *hash);
    if spec.is_none() {
        tracing::warn!(%project, revision = hash.short(), "a kept revision cannot be read");
    }
    spec.map(Arc::new)
}

/// Keeps a revision as the newest one.
pub(super) fn keep(layout: &Layout, guid: Guid, project: &ProjectSpec) -> Result<Done, StepError> {
    let place = format!("{}/{}", folder(guid), project.name);
    let write = || -> io::Result<()> {
        let folder = Beneath::new(&layout.mount(guid))?.make_folder(&place)?;
        let before = listed(&folder)?;
        let number = before
            .last()
            .map_or(0, |(number, _)| number.saturating_add(1));
        let bytes = serde_json::to_vec(&Written::from(project))?;
        folder.write(&file(number, &project.hash), &bytes, MODE)?;
        let older: Vec<_> = before
            .iter()
            .filter(|(_, hash)| *hash != project.hash)
            .collect();
        let stay = older.len().saturating_sub(Kept::COUNT - 1);
        let surplus = older[..stay].iter().copied();
        let same = before.iter().filter(|(_, hash)| *hash == project.hash);
        for (number, hash) in surplus.chain(same) {
            remove(&folder, &file(*number, hash))?;
        }
        Ok(())
    };
    match write() {
        Ok(()) => Ok(Done::Changed),
        Err(error) => {
            let place = layout.mount(guid).join(place);
            Err(StepError::machine(format!("{}: {error}", place.display())))
        }
    }
}

/// Forgets all of a project.
pub(super) fn forget(root: &Beneath, guid: Guid, project: &Name) -> io::Result<()> {
    let place = format!("{}/{project}", folder(guid));
    let names = match root.folder(&place)? {
        Some(folder) => folder.names()?,
        None => return Ok(()),
    };
    names
        .iter()
        .try_for_each(|name| remove(root, &format!("{place}/{name}")))
}

fn remove(folder: &Beneath, path: &str) -> io::Result<()> {
    folder.remove(&path.parse::<RelPath>().map_err(io::Error::other)?)
}
