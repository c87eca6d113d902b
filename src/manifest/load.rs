use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::compose::{Reach, is_yaml};
use super::decode::document;
use super::found::{Context, Document, Found, claims};
use super::problem::{Place, Problem, Report, Source};
use super::root::{EntryKind, Refusal, Root, TEXT_LIMIT, Trace};
use super::tree::{Node, parse};
use super::variables::{Declared, Variables, declared};
use super::{Folder, Manifests, check};
use crate::model::{Named, RelPath};

/// Reads a folder of manifests. Runs no program, opens no connection.
pub fn load(folder: &Path) -> Folder {
    Loader::new(folder).load()
}

/// What a folder says in one of its files.
pub struct OneFile {
    /// The whole folder.
    pub folder: Folder,
    /// What the file declares, of what has no problem.
    pub declares: BTreeSet<Named>,
    /// The files whose problems are the file's: itself, and what it brings along.
    files: BTreeSet<PathBuf>,
}

/// Reads the folder that a manifest lies in; `None` where the folder has no such
/// manifest.
pub fn load_file(file: &Path) -> Option<OneFile> {
    let above = file.parent().filter(|above| *above != Path::new(""));
    let mut loader = Loader::new(above.unwrap_or(Path::new(".")));
    let folder = loader.load();
    let path: RelPath = file.file_name()?.to_str()?.parse().ok()?;
    let unit = loader.units.get(&path)?;
    let problems = unit.problems.iter().chain(&unit.stranger);
    let mut files: BTreeSet<PathBuf> = problems.map(|problem| problem.file.clone()).collect();
    files.insert(loader.folder.join(path.as_str()));
    let documents = unit.found.iter().filter_map(|found| found.document.clone());
    let mut declares = collect(documents).declared();
    let all = folder.manifests.declared();
    declares.retain(|named| all.contains(named));
    Some(OneFile {
        folder,
        declares,
        files,
    })
}

impl OneFile {
    /// The folder as if it held nothing else.
    pub fn alone(self) -> Folder {
        let mut folder = self.folder;
        folder
            .problems
            .retain(|problem| self.files.contains(&problem.file));
        folder.manifests.retain(&self.declares);
        folder.files = 1;
        folder
    }
}

/// Reads a folder of manifests again and again, and of its files only those anew that
/// may have changed since, as git's index knows them.
pub struct Loader {
    folder: PathBuf,
    units: BTreeMap<RelPath, Unit>,
    variables: Variables,
}

impl Loader {
    /// A loader that has read nothing yet.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            units: BTreeMap::new(),
            variables: Variables::default(),
        }
    }

    /// Reads the folder as it is now.
    pub fn load(&mut self) -> Folder {
        let source = absolute(&self.folder);
        let report = Report::default();
        let mut out = Folder {
            source,
            manifests: Manifests::default(),
            problems: Vec::new(),
            unlisted: 0,
            empty: false,
            files: 0,
        };
        match open(&out.source, &self.folder) {
            Ok(root) => {
                let complete = self.read(&root, &report);
                self.compare(complete, &mut out, &report);
            }
            Err(problem) => report.push(*problem),
        }
        let count = report.count();
        let mut problems = report.into_problems();
        out.unlisted = count - problems.len();
        problems.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        // Two Services can name one broken compose file.
        problems.dedup_by(|a, b| {
            (&a.file, a.line, a.column, &a.message) == (&b.file, b.line, b.column, &b.message)
        });
        out.problems = problems;
        out
    }

    /// Brings the units up to date; `false` if something could not be looked at.
    fn read(&mut self, root: &Root, report: &Report) -> bool {
        let now = SystemTime::now();
        let mut paths = Vec::new();
        let complete = walk(root, None, &mut paths, report);
        root.take_trace();
        let mut old = std::mem::take(&mut self.units);
        let (mut kept, mut parsed) = (Vec::new(), Vec::new());
        for path in paths {
            match old.remove(&path).filter(|unit| unit.holds(root)) {
                Some(unit) => kept.push((path, unit)),
                None => {
                    let file = Parsed::read(root, &path, now);
                    parsed.push((path, file));
                }
            }
        }
        let all = || {
            let kept = kept.iter().map(|(_, unit)| &unit.parsed);
            kept.chain(parsed.iter().map(|(_, file)| &file.about))
        };
        let whole = complete && all().all(|about| about.complete);
        let machines = all().flat_map(|about| &about.declared);
        let variables = Variables::of(machines, whole);
        for (path, unit) in kept {
            match unit.parsed.source.clone() {
                Some(source) if variables != self.variables && Variables::used(&source) => {
                    parsed.push((path, Parsed::again(unit.parsed, source)));
                }
                _ => {
                    self.units.insert(path, unit);
                }
            }
        }
        self.variables = variables;
        for (path, file) in parsed {
            let unit = file.decode(root, &path, now, &self.variables);
            self.units.insert(path, unit);
        }
        complete
    }

    /// Puts the units together.
    fn compare(&self, mut complete: bool, out: &mut Folder, report: &Report) {
        let units = || self.units.values();
        let covered = |path: &RelPath| {
            units()
                .flat_map(|unit| &unit.projects)
                .any(|project| project.covers(path))
        };
        for (path, unit) in &self.units {
            report.extend(&unit.problems, unit.count);
            complete &= unit.complete;
            out.files += usize::from(unit.is_manifest);
            if let Some(stranger) = unit.stranger.as_ref().filter(|_| !covered(path)) {
                out.files += 1;
                complete = false;
                report.push(stranger.clone());
            }
        }
        let all: Vec<&Found> = units().flat_map(|unit| &unit.found).collect();
        if all.is_empty() && report.count() == 0 {
            out.empty = true;
            report.push(Problem::of_file(
                self.folder.clone(),
                format!("no manifests found in `{}`", self.folder.display()),
                "manifests are *.yaml or *.yml files with `apiVersion: renet/v1`".into(),
            ));
        }
        let bad = check::check(&all, complete, report);
        let good = all
            .iter()
            .enumerate()
            .filter(|(index, _)| !bad.contains(index));
        out.manifests = collect(good.filter_map(|(_, found)| found.document.clone()));
    }
}

/// A file and what it brought, as long as nothing of that changes.
struct Unit {
    parsed: About,
    /// What was looked at to decode it.
    trace: Trace,
    /// It counts as a manifest.
    is_manifest: bool,
    /// Everything that it defines is known.
    complete: bool,
    found: Vec<Found>,
    projects: Vec<Reach>,
    problems: Vec<Problem>,
    /// How many problems there were, kept or not.
    count: usize,
    /// It is a problem unless it belongs to a project.
    stranger: Option<Problem>,
}

impl Unit {
    /// Whether everything still lies there as it did.
    fn holds(&self, root: &Root) -> bool {
        !self.parsed.racy
            && self
                .parsed
                .trace
                .iter()
                .chain(&self.trace)
                .all(|(path, seen)| root.seen(path.as_ref()) == *seen)
    }
}

/// What is known of a file before it is decoded.
struct About {
    /// How the file was found.
    trace: Trace,
    /// Something may have changed at the very time that it was read.
    racy: bool,
    source: Option<Arc<Source>>,
    /// The variables of its Machine.
    declared: Vec<Declared>,
    /// It could be read.
    complete: bool,
}

/// A file that is to be decoded.
struct Parsed {
    about: About,
    documents: Result<Vec<Node>, Box<Problem>>,
}

impl Parsed {
    fn read(root: &Root, path: &RelPath, now: SystemTime) -> Self {
        let text = text(root, path);
        let trace = root.take_trace();
        let racy = is_racy(&trace, now);
        let (source, documents) = match text {
            Ok(text) => {
                let source = Source::new(root.shown(path), text);
                let documents = parse(&source);
                (Some(source), documents)
            }
            Err(refusal) => (None, Err(Box::new(refused(root, path, &refusal)))),
        };
        let declared = documents.as_deref().map_or(Vec::new(), declared);
        Self {
            about: About {
                trace,
                racy,
                complete: documents.is_ok()
                    || source.as_ref().is_some_and(|source| !claims(&source.text)),
                source,
                declared,
            },
            documents,
        }
    }

    /// The same file for other variables.
    fn again(about: About, source: Arc<Source>) -> Self {
        Self {
            documents: parse(&source),
            about,
        }
    }

    fn decode(self, root: &Root, path: &RelPath, now: SystemTime, variables: &Variables) -> Unit {
        let mut unit = Unit {
            parsed: self.about,
            trace: Trace::new(),
            is_manifest: true,
            complete: true,
            found: Vec::new(),
            projects: Vec::new(),
            problems: Vec::new(),
            count: 0,
            stranger: None,
        };
        let source = unit.parsed.source.clone();
        let ours = source.as_ref().is_none_or(|source| claims(&source.text));
        let documents = match self.documents {
            Ok(documents) => documents,
            Err(problem) => {
                unit.complete = !ours;
                unit.is_manifest = ours;
                match ours {
                    true => (unit.problems, unit.count) = (vec![*problem], 1),
                    false => unit.stranger = Some(*problem),
                }
                return unit;
            }
        };
        let Some(source) = source else { return unit };
        let has = |field| move |node: &Node| node.get(field).is_some();
        if !ours && !documents.is_empty() && !documents.iter().any(has("apiVersion")) {
            unit.is_manifest = false;
            // A compose file is none, even if no Service names it (yet).
            if !documents.iter().all(has("services")) {
                unit.stranger = Some(stranger(&source, &documents));
            }
            return unit;
        }
        let report = Report::default();
        let dir = path.parent();
        for mut node in documents {
            let whole = variables.put_into(&mut node, &source, &report);
            let mut context = Context {
                root,
                source: &source,
                dir: dir.as_ref(),
                report: &report,
                projects: &mut unit.projects,
            };
            match document(&node, &mut context) {
                Some(mut found) => {
                    found.document = found.document.filter(|_| whole);
                    unit.found.push(found);
                }
                None => unit.complete = false,
            }
        }
        unit.trace = root.take_trace();
        unit.parsed.racy |= is_racy(&unit.trace, now);
        unit.count = report.count();
        unit.problems = report.into_problems();
        unit
    }
}

fn is_racy(trace: &Trace, now: SystemTime) -> bool {
    let mut stamps = trace.iter().filter_map(|(_, seen)| seen.as_ref().ok());
    stamps.any(|stamp| stamp.is_racy(now))
}

/// An absolute path without `.` and `..`; links are not followed.
fn absolute(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}

fn open(source: &Path, given: &Path) -> Result<Root, Box<Problem>> {
    let problem = |message: String, cure: &str| {
        Box::new(Problem::of_file(given.to_owned(), message, cure.to_owned()))
    };
    let shown = given.display();
    let meta = std::fs::metadata(source).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => problem(
            format!("no manifests found in `{shown}`: it does not exist"),
            "create the folder, or name another with -f",
        ),
        _ => unreadable(given, &error),
    })?;
    if !meta.is_dir() {
        return Err(problem(
            format!("no manifests found in `{shown}`: a folder is wanted, and this is none"),
            "name the folder that the manifest lies in",
        ));
    }
    Root::open(source, given).map_err(|error| unreadable(given, &error))
}

fn unreadable(given: &Path, error: &std::io::Error) -> Box<Problem> {
    Box::new(Problem::of_file(
        given.to_owned(),
        format!("no manifests found in `{}`: {error}", given.display()),
        "make the folder readable, or name another with -f".into(),
    ))
}

/// The problem of a YAML file that is not one of renet's as far as it can tell.
fn stranger(source: &Arc<Source>, documents: &[Node]) -> Problem {
    let first = documents.first();
    let at = first.and_then(|node| node.entries().first().map(|(key, _)| key).or(Some(node)));
    let place = Place {
        source: source.clone(),
        span: at.map_or(0..0, |node| node.span.clone()),
    };
    place.problem(
        "not a manifest: no apiVersion",
        "start it with `apiVersion: renet/v1`, or move it out of the folder",
    )
}

fn text(root: &Root, path: &RelPath) -> Result<String, Refusal> {
    let file = root.read(path, TEXT_LIMIT)?;
    let text = str::from_utf8(file.bytes());
    text.map(str::to_owned)
        .map_err(|_| Refusal::new("is not UTF-8 text", "write it as UTF-8"))
}

fn refused(root: &Root, path: &RelPath, refusal: &Refusal) -> Problem {
    Problem::of_file(
        root.shown(path),
        format!("`{path}` {}", refusal.why),
        refusal.cure.clone(),
    )
}

/// Finds the YAML files; `false` if something could not be looked at.
fn walk(root: &Root, folder: Option<&RelPath>, paths: &mut Vec<RelPath>, report: &Report) -> bool {
    let entries = match root.list(folder) {
        Ok(entries) => entries,
        Err(refusal) => {
            let shown = folder.map_or_else(PathBuf::new, |folder| root.shown(folder));
            report.push(Problem::of_file(
                shown,
                format!("`{}` {}", folder.map_or(".", RelPath::as_str), refusal.why),
                refusal.cure,
            ));
            return false;
        }
    };
    let mut complete = true;
    for entry in entries {
        let name = entry.path.as_str().rsplit('/').next().unwrap_or_default();
        match entry.kind {
            EntryKind::Folder if name.starts_with('.') => {}
            EntryKind::Folder => complete &= walk(root, Some(&entry.path), paths, report),
            EntryKind::Link => {
                complete = false;
                report.push(refused(root, &entry.path, &Refusal::link()));
            }
            EntryKind::File if is_yaml(&entry.path) => paths.push(entry.path),
            EntryKind::Other if is_yaml(&entry.path) => {
                complete = false;
                report.push(refused(root, &entry.path, &Refusal::special()));
            }
            EntryKind::File | EntryKind::Other => {}
        }
    }
    complete
}

fn collect(documents: impl Iterator<Item = Document>) -> Manifests {
    let mut manifests = Manifests::default();
    for document in documents {
        match document {
            Document::Machine(machine) => manifests.machine = Some(machine),
            Document::Repository(repository) => {
                manifests
                    .repositories
                    .insert(repository.name.clone(), repository);
            }
            Document::Service(service) => {
                let key = (service.repository.clone(), service.name.clone());
                manifests.services.insert(key, service);
            }
            Document::Route(route) => {
                manifests.routes.insert(route.name.clone(), route);
            }
        }
    }
    manifests
}
