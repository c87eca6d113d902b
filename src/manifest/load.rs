use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::compose::is_yaml;
use super::decode::{Context, Document, claims, document};
use super::problem::{Place, Problem, Report, Source};
use super::root::{EntryKind, Refusal, Root, TEXT_LIMIT};
use super::tree::{Node, parse};
use super::{Folder, Manifests, check};
use crate::model::RelPath;

/// Reads a folder of manifests. Runs no program, opens no connection.
pub fn load(folder: &Path) -> Folder {
    let source = absolute(folder);
    let mut files = 0;
    let mut empty = false;
    let mut manifests = Manifests::default();
    let report = Report::default();
    match open(&source, folder) {
        Ok(root) => manifests = read(&root, folder, &mut files, &mut empty, &report),
        Err(problem) => report.push(*problem),
    }
    let mut problems = report.into_problems();
    problems.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    // Two Services can name one broken compose file.
    problems.dedup_by(|a, b| {
        (&a.file, a.line, a.column, &a.message) == (&b.file, b.line, b.column, &b.message)
    });
    Folder {
        source,
        manifests,
        problems,
        empty,
        files,
    }
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

/// A YAML file that is not one of renet's as far as it can tell.
struct Stranger {
    path: RelPath,
    problem: Problem,
}

fn read(
    root: &Root,
    given: &Path,
    files: &mut usize,
    empty: &mut bool,
    report: &Report,
) -> Manifests {
    let mut paths = Vec::new();
    let mut complete = walk(root, None, &mut paths, report);
    let mut strangers = Vec::new();
    let mut projects = Vec::new();
    let mut all = Vec::new();
    for path in paths {
        let source = match text(root, &path) {
            Ok(text) => Arc::new(Source {
                file: root.shown(&path),
                text,
            }),
            Err(refusal) => {
                *files += 1;
                complete = false;
                refuse(root, &path, &refusal, report);
                continue;
            }
        };
        let parsed = parse(&source);
        let ours = claims(&source.text);
        let documents = match parsed {
            Ok(documents)
                if ours
                    || documents
                        .iter()
                        .any(|node| node.get("apiVersion").is_some()) =>
            {
                documents
            }
            Ok(documents) if documents.is_empty() => {
                *files += 1;
                continue;
            }
            Ok(documents) => {
                // A compose file that no Service names (yet).
                if !documents.iter().all(|node| node.get("services").is_some()) {
                    strangers.push(stranger(path, &source, &documents));
                }
                continue;
            }
            Err(problem) if ours => {
                *files += 1;
                complete = false;
                report.push(*problem);
                continue;
            }
            Err(problem) => {
                strangers.push(Stranger {
                    path,
                    problem: *problem,
                });
                continue;
            }
        };
        *files += 1;
        let dir = path.parent();
        for node in &documents {
            let mut context = Context {
                root,
                source: &source,
                dir: dir.as_ref(),
                report,
                projects: &mut projects,
            };
            match document(node, &mut context) {
                Some(found) => all.push(found),
                None => complete = false,
            }
        }
    }
    for stranger in strangers {
        if !projects
            .iter()
            .any(|project| project.covers(&stranger.path))
        {
            *files += 1;
            complete = false;
            report.push(stranger.problem);
        }
    }
    if all.is_empty() && report.count() == 0 {
        *empty = true;
        report.push(Problem::of_file(
            given.to_owned(),
            format!("no manifests found in `{}`", given.display()),
            "manifests are *.yaml or *.yml files with `apiVersion: renet/v1`".into(),
        ));
    }
    check::check(&mut all, complete, report);
    collect(all.into_iter().filter_map(|found| found.document))
}

fn stranger(path: RelPath, source: &Arc<Source>, documents: &[Node]) -> Stranger {
    let first = documents.first();
    let at = first.and_then(|node| node.entries().first().map(|(key, _)| key).or(Some(node)));
    let place = at.map_or_else(
        || Place {
            source: source.clone(),
            span: 0..0,
        },
        |node| node.place(source),
    );
    let problem = place.problem(
        "not a manifest: no apiVersion",
        "start it with `apiVersion: renet/v1`, or move it out of the folder",
    );
    Stranger { path, problem }
}

fn text(root: &Root, path: &RelPath) -> Result<String, Refusal> {
    let content = root.read(path, TEXT_LIMIT)?;
    String::from_utf8(content.bytes)
        .map_err(|_| Refusal::new("is not UTF-8 text", "write it as UTF-8"))
}

fn refuse(root: &Root, path: &RelPath, refusal: &Refusal, report: &Report) {
    report.push(Problem::of_file(
        root.shown(path),
        format!("`{path}` {}", refusal.why),
        refusal.cure.clone(),
    ));
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
                refuse(root, &entry.path, &Refusal::link(), report);
            }
            EntryKind::File if is_yaml(&entry.path) => paths.push(entry.path),
            EntryKind::Other if is_yaml(&entry.path) => {
                complete = false;
                refuse(root, &entry.path, &Refusal::special(), report);
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
