//! What renet writes inside an image: the slots, and the projects' files with
//! the list of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::beneath::{Beneath, Found};
use super::files::{read_json, write_json};
use super::{records, revisions};
use crate::host::{Done, StepError};
use crate::model::{
    FileSeen, FileSet, FilesSeen, Guid, Layout, Name, Part, ProjectSpec, Rediaccfile, RelPath,
    Slots,
};

const SLOTS: &str = ".rediacc.json";
const INDEXES: &str = ".rediacc/files";

/// The files that renet wrote for a project.
#[derive(Serialize, Deserialize)]
struct Index {
    files: BTreeSet<RelPath>,
}

fn open(layout: &Layout, guid: Guid) -> io::Result<Beneath> {
    Beneath::new(&layout.mount(guid))
}

fn json<T: serde::de::DeserializeOwned>(what: &str, read: io::Result<Option<Found>>) -> Part<T> {
    match read {
        Ok(None) => Part::Absent,
        Ok(Some(found)) => match serde_json::from_slice(&found.bytes) {
            Ok(value) => Part::Known(value),
            Err(error) => Part::Unknown(format!("{what}: {error}")),
        },
        Err(error) => Part::Unknown(format!("{what}: {error}")),
    }
}

/// The slots inside a mounted image.
pub(super) fn slots(layout: &Layout, guid: Guid) -> Part<Slots> {
    let path = layout.slots(guid);
    records::slots(&path, slots_value(layout, guid))
}

fn slots_value(layout: &Layout, guid: Guid) -> Part<Value> {
    let shown = layout.slots(guid).display().to_string();
    json(&shown, open(layout, guid).and_then(|root| root.read(SLOTS)))
}

/// Writes the slots inside a mounted image.
pub(super) fn write_slots(layout: &Layout, guid: Guid, slots: &Slots) -> Result<Done, StepError> {
    let existing = match slots_value(layout, guid) {
        Part::Known(value) => Some(value),
        Part::Unknown(why) => return Err(StepError::machine(why)),
        Part::Absent | Part::Hidden => None,
    };
    let all = records::with_slots(existing, slots)?;
    write_slots_value(layout, guid, &all)?;
    Ok(Done::Changed)
}

fn write_slots_value(layout: &Layout, guid: Guid, value: &Value) -> Result<(), StepError> {
    let write = || -> io::Result<()> {
        let mut bytes = serde_json::to_vec_pretty(value)?;
        bytes.push(b'\n');
        open(layout, guid)?.write(SLOTS, &bytes, 0o644)
    };
    write().map_err(records::failed(&layout.slots(guid)))
}

/// Gives the slot of a service away, inside the image and outside of it.
///
/// # Errors
///
/// Where either file cannot be read or written.
pub fn release_slot(layout: &Layout, guid: Guid, service: &str) -> Result<(), StepError> {
    let without = |mut value: Value| {
        let services = value.get_mut("services").and_then(Value::as_object_mut);
        services.map(|services| services.remove(service));
        value
    };
    let outside = layout.mirror(guid);
    if let Some(value) = records::readable(slots_value(layout, guid))? {
        write_slots_value(layout, guid, &without(value))?;
    }
    if let Some(value) = records::readable(read_json(&outside))? {
        let written = write_json(&outside, &without(value), records::MODE);
        written.map_err(records::failed(&outside))?;
    }
    Ok(())
}

/// The files of every project in a mounted image, as they really lie there.
pub(super) fn observe(layout: &Layout, guid: Guid) -> Part<BTreeMap<Name, FilesSeen>> {
    let look = || -> io::Result<BTreeMap<Name, FilesSeen>> {
        let root = open(layout, guid)?;
        let Some(indexes) = root.folder(INDEXES)? else {
            return Ok(BTreeMap::new());
        };
        let mut all = BTreeMap::new();
        for name in indexes.names()? {
            let project = name.strip_suffix(".json").map(str::parse::<Name>);
            let Some(Ok(project)) = project else {
                continue;
            };
            // A list that cannot be read counts as none: the files are written again.
            if let Part::Known(index) = json::<Index>(&name, indexes.read(&name)) {
                let seen = seen(root.folder(project.as_str())?, &index)?;
                all.insert(project, seen);
            }
        }
        Ok(all)
    };
    match look() {
        Ok(all) => Part::Known(all),
        Err(error) => Part::Unknown(format!("{}: {error}", layout.mount(guid).display())),
    }
}

/// Every Rediaccfile in a mounted image: in its own folder, and one below.
pub(super) fn hooks(layout: &Layout, guid: Guid) -> Part<BTreeMap<Name, Rediaccfile>> {
    let look = || -> io::Result<BTreeMap<Name, Rediaccfile>> {
        let root = open(layout, guid)?;
        let mut all = BTreeMap::new();
        for name in root.names()? {
            let Ok(project) = name.parse::<Name>() else {
                continue;
            };
            // That is what the repository's own folder is called.
            if name == "root" {
                continue;
            }
            if let Some(folder) = root.folder(&name)? {
                all.extend(hook(&folder)?.map(|found| (project, found)));
            }
        }
        let own = "root".parse::<Name>().map_err(io::Error::other)?;
        all.extend(hook(&root)?.map(|found| (own, found)));
        Ok(all)
    };
    match look() {
        Ok(all) => Part::Known(all),
        Err(error) => Part::Unknown(format!("{}: {error}", layout.mount(guid).display())),
    }
}

fn hook(folder: &Beneath) -> io::Result<Option<Rediaccfile>> {
    let mut names = folder.names()?;
    names.sort_unstable();
    names.retain(|name| Rediaccfile::is_called(name));
    for name in names {
        if let Some(found) = folder.read(&name)? {
            let text = String::from_utf8_lossy(&found.bytes);
            return Ok(Some(Rediaccfile::read(&name, &text)));
        }
    }
    Ok(None)
}

fn seen(folder: Option<Beneath>, index: &Index) -> io::Result<FilesSeen> {
    let mut files = BTreeMap::new();
    if let Some(folder) = folder {
        for path in &index.files {
            if let Some(found) = folder.read(path.as_str())? {
                files.insert(path.clone(), FileSeen::of(&found.bytes, found.executable));
            }
        }
    }
    let each = files
        .iter()
        .map(|(path, file)| (path, &file.digest, file.executable));
    Ok(FilesSeen {
        digest: FileSet::digest_of(each),
        files,
    })
}

/// Removes the files that renet wrote for a project, and the list of them last.
/// What else lies in its folder stays.
pub(super) fn erase(layout: &Layout, guid: Guid, project: &Name) -> Result<Done, StepError> {
    let shown = layout.project(guid, project);
    let fail = |error: io::Error| StepError::machine(format!("{}: {error}", shown.display()));
    let path = |text: &str| {
        text.parse::<RelPath>()
            .map_err(|error| StepError::machine(error.to_string()))
    };
    let root = open(layout, guid).map_err(fail)?;
    revisions::forget(&root, guid, project).map_err(fail)?;
    let index_path = format!("{INDEXES}/{project}.json");
    if let Part::Known(index) = json::<Index>(&index_path, root.read(&index_path)) {
        let folder = path(project.as_str())?;
        for file in &index.files {
            root.remove(&file.beneath(&folder)).map_err(fail)?;
        }
    }
    root.remove(&path(&index_path)?).map_err(fail)?;
    Ok(Done::Changed)
}

/// Removes the files that are no longer the project's, writes the others, and
/// lists them last: a crash before leaves a digest that fits nothing.
pub(super) fn write(layout: &Layout, guid: Guid, project: &ProjectSpec) -> Result<Done, StepError> {
    let shown = layout.project(guid, &project.name);
    let fail = |path: &dyn std::fmt::Display| {
        let at = format!("{}/{path}", shown.display());
        move |error: io::Error| StepError::machine(format!("{at}: {error}"))
    };
    let root = open(layout, guid).map_err(fail(&""))?;
    let index_path = format!("{INDEXES}/{}.json", project.name);
    let before = match json::<Index>(&index_path, root.read(&index_path)) {
        Part::Known(index) => index.files,
        _ => BTreeSet::new(),
    };
    let folder = root.make_folder(project.name.as_str()).map_err(fail(&""))?;
    // Before the others: a folder may be a file now, or the other way round.
    for path in &before {
        if !project.files.files().contains_key(path) {
            folder.remove(path).map_err(fail(path))?;
        }
    }
    for (path, file) in project.files.files() {
        let mode = if file.executable() { 0o755 } else { 0o644 };
        let same = folder
            .read(path.as_str())
            .map_err(fail(path))?
            .is_some_and(|found| {
                found.bytes == file.bytes() && found.executable == file.executable()
            });
        // A file that is in place stays: containers may have it mounted by its inode.
        if !same {
            folder
                .write(path.as_str(), file.bytes(), mode)
                .map_err(fail(path))?;
        }
    }
    let index = Index {
        files: project.files.files().keys().cloned().collect(),
    };
    let listed = serde_json::to_vec_pretty(&index)
        .map_err(io::Error::from)
        .and_then(|bytes| root.write(&index_path, &bytes, 0o644));
    listed.map_err(fail(&index_path))?;
    Ok(Done::Changed)
}
