//! What a compose project brings along. Compose itself is not asked: only the
//! places where a file of it can name others are looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::found::claims;
use super::problem::{Place, Report, Source};
use super::root::{EntryKind, Refusal, Root, TEXT_LIMIT};
use super::tree::{Kind, Node, duplicates, parse};
use super::values::is_plain;
use crate::model::{FileEntry, FileSet, Rediaccfile, RelPath};

const FILE_LIMIT: usize = 64 << 20;
const PROJECT_LIMIT: usize = 512 << 20;
const FILES_LIMIT: usize = 20_000;

/// A compose project as gathered.
pub(super) struct Project {
    pub files: FileSet,
    /// By path in the project.
    pub compose_file: RelPath,
    pub services: Vec<(String, Place)>,
}

/// Which files belong to a project and are no manifests.
pub(super) struct Reach {
    folder: Option<RelPath>,
    files: BTreeSet<RelPath>,
}

impl Reach {
    /// Whether a file lies in the project.
    pub fn covers(&self, path: &RelPath) -> bool {
        self.files.contains(path)
            || self
                .folder
                .as_ref()
                .is_some_and(|folder| path.strip_prefix(folder).is_some())
    }
}

/// What the manifest itself puts into the project's directory.
pub(super) struct Managed {
    /// By path in the project.
    pub path: RelPath,
    pub content: Content,
    /// Where its content is named.
    pub place: Place,
}

/// Where a managed file comes from: paths are beneath the root.
pub(super) enum Content {
    File(RelPath),
    Folder(RelPath),
    Inline(String),
}

/// Reads the compose file at `path` beneath the root and everything it names,
/// and the managed files.
pub(super) fn gather(
    root: &Root,
    path: &RelPath,
    place: &Place,
    managed: &[Managed],
    report: &Report,
) -> (Project, Reach) {
    let folder = path.parent();
    let compose_file = folder
        .as_ref()
        .and_then(|folder| path.strip_prefix(folder))
        .unwrap_or_else(|| path.clone());
    if !path.as_str().split('/').all(is_plain) {
        report.at(
            place,
            format!("`{path}` is no path that renet takes"),
            "use no characters that mean something to a shell, and no `-` first",
        );
    }
    let mut gather = Gather {
        root,
        report,
        folder: folder.as_ref(),
        files: BTreeMap::new(),
        origins: BTreeMap::new(),
        bytes: 0,
        full: false,
        seen: BTreeSet::new(),
        services: Vec::new(),
    };
    for managed in managed {
        gather.manage(managed);
    }
    gather.compose(&compose_file, place, true);
    gather.refuse_files_as_folders();
    gather.refuse_calls();
    let origins = gather.origins.values();
    let reach = Reach {
        files: origins.filter_map(|origin| origin.from.clone()).collect(),
        folder: folder.clone(),
    };
    let project = Project {
        services: std::mem::take(&mut gather.services),
        files: FileSet::new(std::mem::take(&mut gather.files)),
        compose_file,
    };
    (project, reach)
}

/// Where a file of the project comes from.
struct Origin {
    /// Its path beneath the root; none if it stands in the manifest.
    from: Option<RelPath>,
    place: Place,
}

impl Origin {
    fn shown(&self) -> String {
        let from = self.from.as_ref();
        from.map_or_else(|| "`inline:`".into(), |from| format!("`{from}`"))
    }
}

struct Gather<'a> {
    root: &'a Root,
    report: &'a Report,
    /// The project's folder beneath the root.
    folder: Option<&'a RelPath>,
    files: BTreeMap<RelPath, FileEntry>,
    origins: BTreeMap<RelPath, Origin>,
    bytes: usize,
    /// A limit was reached, and said.
    full: bool,
    seen: BTreeSet<RelPath>,
    services: Vec<(String, Place)>,
}

impl Gather<'_> {
    fn full_path(&self, path: &RelPath) -> RelPath {
        self.folder
            .map_or_else(|| path.clone(), |folder| path.beneath(folder))
    }

    /// Reads a compose file; `counts` if its services are the project's.
    fn compose(&mut self, path: &RelPath, place: &Place, counts: bool) {
        if !self.seen.insert(path.clone()) {
            return;
        }
        let full = self.full_path(path);
        let entry = match self.root.read(&full, TEXT_LIMIT) {
            Ok(entry) => entry,
            Err(refusal) => return self.refuse(place, &format!("`{full}`"), &refusal),
        };
        let Ok(text) = str::from_utf8(entry.bytes()).map(str::to_owned) else {
            let refusal = Refusal::new("is not UTF-8 text", "write it as UTF-8");
            return self.refuse(place, &format!("`{full}`"), &refusal);
        };
        if let Some(origin) = self.origins.get(path) {
            self.report.at(
                &origin.place,
                format!("`{path}` is a compose file of this project, and comes along by itself"),
                "choose another path, or remove it",
            );
        }
        self.put(path, Some(&full), entry, place);
        let file = self.root.shown(&full);
        let source = Source::new(file, text);
        let documents = match parse(&source) {
            Ok(documents) => documents,
            Err(problem) => return self.report.push(*problem),
        };
        let [document] = documents.as_slice() else {
            let whole = Place {
                source: source.clone(),
                span: 0..0,
            };
            let message = match documents.len() {
                0 => "this compose file is empty".to_owned(),
                many => format!("this compose file holds {many} documents"),
            };
            return self
                .report
                .at(&whole, message, "write one document with `services:`");
        };
        duplicates(document, &source, self.report);
        let dir = path.parent();
        let dir = dir.as_ref().map_or("", RelPath::as_str);
        let services = document.get("services");
        if counts {
            self.count(document, services, &source);
        }
        for (_, service) in services.map_or(&[][..], Node::entries) {
            self.service(service, dir, &source);
        }
        for section in ["configs", "secrets"] {
            for (_, entry) in document.get(section).map_or(&[][..], Node::entries) {
                if let Some(file) = entry.get("file") {
                    self.bring(file, dir, &source);
                }
            }
        }
        if let Some(include) = document.get("include") {
            for entry in one_or_many(include) {
                for file in one_or_many(entry.get("path").unwrap_or(entry)) {
                    self.other(file, dir, &source, counts);
                }
                for file in entry.get("env_file").map_or(&[][..], one_or_many) {
                    self.bring(file, dir, &source);
                }
            }
        }
    }

    /// The names of the services.
    fn count(&mut self, document: &Node, services: Option<&Node>, source: &Arc<Source>) {
        match services {
            Some(Node {
                kind: Kind::Map(entries),
                ..
            }) if !entries.is_empty() => {
                for (key, _) in entries {
                    let place = key.place(source);
                    match key.text().filter(|name| is_service_name(name)) {
                        Some(name) => self.services.push((name.to_owned(), place)),
                        None => self.report.at(
                            &place,
                            match key.text() {
                                Some(name) => format!("`{name}` is no name of a service"),
                                None => format!("{} is no name of a service", key.what()),
                            },
                            "use letters, digits, `.`, `_` and `-`, with no `-` first",
                        ),
                    }
                }
            }
            None if document.get("include").is_some() => {}
            other => {
                let at = other
                    .filter(|node| !node.span.is_empty())
                    .unwrap_or(document);
                let at = at.entries().first().map_or(at, |(key, _)| key);
                self.report.at(
                    &at.place(source),
                    "this compose file defines no services",
                    "add `services:` with at least one service",
                );
            }
        }
    }

    fn service(&mut self, service: &Node, dir: &str, source: &Arc<Source>) {
        if let Some(build) = service.get("build") {
            match build.get("context") {
                Some(context) => self.context(context, dir, source),
                None if build.text().is_some() => self.context(build, dir, source),
                // `context:` is `.` if not said.
                None => self.bring_path(dir, &build.place(source)),
            }
            for (_, context) in build
                .get("additional_contexts")
                .map_or(&[][..], Node::entries)
            {
                self.context(context, dir, source);
            }
            if let Some(file) = build.get("dockerfile")
                && let Some(text) = file.text()
                && let Err(refusal) = resolve("", text)
            {
                self.refuse(&file.place(source), &format!("`{text}`"), &refusal);
            }
        }
        for field in ["env_file", "label_file"] {
            for entry in service.get(field).map_or(&[][..], one_or_many) {
                let required = !matches!(
                    entry.get("required").map(|node| &node.kind),
                    Some(Kind::Bool(false))
                );
                let file = entry.get("path").unwrap_or(entry);
                if required || self.exists(file, dir) {
                    self.bring(file, dir, source);
                }
            }
        }
        if let Some(file) = service
            .get("extends")
            .and_then(|extends| extends.get("file"))
        {
            self.other(file, dir, source, false);
        }
    }

    fn exists(&self, file: &Node, dir: &str) -> bool {
        let path = file.text().and_then(|text| resolve(dir, text).ok());
        let path = path.and_then(|path| path.parse().ok());
        path.is_some_and(|path| {
            self.is_managed(&path)
                || !self
                    .root
                    .kind(&self.full_path(&path))
                    .is_err_and(|refusal| refusal.missing)
        })
    }

    /// Another compose file.
    fn other(&mut self, file: &Node, dir: &str, source: &Arc<Source>, counts: bool) {
        let place = file.place(source);
        let Some(text) = file.text() else { return };
        match resolve(dir, text) {
            Err(refusal) => self.refuse(&place, &format!("`{text}`"), &refusal),
            Ok(path) => match path.parse::<RelPath>() {
                Ok(path) => self.compose(&path, &place, counts),
                Err(error) => self.report.at(&place, "bad path", error.to_string()),
            },
        }
    }

    /// A build context, which may also be an image or another service.
    fn context(&mut self, context: &Node, dir: &str, source: &Arc<Source>) {
        let elsewhere = ["docker-image://", "service:"];
        let text = context.text().unwrap_or_default();
        if !elsewhere.iter().any(|prefix| text.starts_with(prefix)) {
            self.bring(context, dir, source);
        }
    }

    /// A file or folder that a value names.
    fn bring(&mut self, value: &Node, dir: &str, source: &Arc<Source>) {
        let place = value.place(source);
        let Some(text) = value.text() else {
            return self.report.at(
                &place,
                format!("this must be a path, not {}", value.what()),
                "write the path of a file beside the compose file",
            );
        };
        match resolve(dir, text) {
            Ok(path) => self.bring_path(&path, &place),
            Err(refusal) => self.refuse(&place, &format!("`{text}`"), &refusal),
        }
    }

    fn bring_path(&mut self, path: &str, place: &Place) {
        if path.is_empty() {
            return self.bring_folder(self.folder, None, place);
        }
        match path.parse::<RelPath>() {
            Err(error) => self.report.at(place, "bad path", error.to_string()),
            Ok(path) => {
                let full = self.full_path(&path);
                match self.root.kind(&full) {
                    Ok(EntryKind::Folder) => self.bring_folder(Some(&full), Some(&path), place),
                    Ok(_) => self.bring_file(&full, &path, place),
                    Err(refusal) if refusal.missing && self.is_managed(&path) => {}
                    Err(refusal) => self.refuse(place, &format!("`{full}`"), &refusal),
                }
            }
        }
    }

    /// Whether the manifest itself puts something there.
    fn is_managed(&self, path: &RelPath) -> bool {
        let mut paths = self.origins.keys();
        paths.any(|managed| managed == path || managed.strip_prefix(path).is_some())
    }

    fn manage(&mut self, managed: &Managed) {
        let (path, place) = (&managed.path, &managed.place);
        match &managed.content {
            Content::File(from) => self.bring_file(from, path, place),
            Content::Folder(from) => self.bring_folder(Some(from), Some(path), place),
            Content::Inline(text) => {
                let entry = FileEntry::new(text.as_bytes().to_vec(), false);
                if self.is_free(path, None, place) {
                    self.put(path, None, entry, place);
                }
            }
        }
    }

    /// Whether nothing else comes to that path; the same file may twice.
    fn is_free(&self, path: &RelPath, from: Option<&RelPath>, place: &Place) -> bool {
        let Some(first) = self.origins.get(path) else {
            return true;
        };
        if from.is_none() || first.from.as_ref() != from {
            let second = Origin {
                from: from.cloned(),
                place: place.clone(),
            };
            self.report.at(
                place,
                format!(
                    "`{path}` comes from {} and from {}",
                    first.shown(),
                    second.shown()
                ),
                format!("first at {}: remove one", first.place.shown()),
            );
        }
        false
    }

    fn put(&mut self, path: &RelPath, from: Option<&RelPath>, entry: FileEntry, place: &Place) {
        self.bytes += entry.bytes().len();
        if self.bytes > PROJECT_LIMIT || self.files.len() >= FILES_LIMIT {
            self.full = true;
            return self.report.at(
                place,
                format!(
                    "this project brings along more than {} MiB or {FILES_LIMIT} files",
                    PROJECT_LIMIT >> 20
                ),
                "name a smaller context",
            );
        }
        self.files.insert(path.clone(), entry);
        let origin = Origin {
            from: from.cloned(),
            place: place.clone(),
        };
        self.origins.insert(path.clone(), origin);
    }

    /// A path that is a file and, for others, a folder.
    fn refuse_files_as_folders(&self) {
        for (path, origin) in &self.origins {
            let mut above = path.parent();
            while let Some(folder) = above {
                if let Some(file) = self.origins.get(&folder) {
                    self.report.at(
                        &origin.place,
                        format!("`{path}` lies in `{folder}`, which is a file"),
                        format!("first at {}: rename one", file.place.shown()),
                    );
                }
                above = folder.parent();
            }
        }
    }

    /// What the project's Rediaccfile may not call.
    fn refuse_calls(&self) {
        let named = |path: &RelPath| Rediaccfile::is_called(path.as_str());
        let mut found = self.files.iter().filter(|(path, _)| named(path));
        let Some((path, entry)) = found.next() else {
            return;
        };
        let origin = &self.origins[path];
        if let Some((other, _)) = found.next() {
            let message = format!("`{path}` and `{other}` are both this project's Rediaccfile");
            self.report.at(&origin.place, message, "keep one of them");
        }
        let Ok(text) = str::from_utf8(entry.bytes()) else {
            let message = format!("`{path}` is not UTF-8 text");
            return self.report.at(&origin.place, message, "write it as UTF-8");
        };
        let source = origin.from.as_ref();
        let source = source.map(|from| Source::new(self.root.shown(from), text.to_owned()));
        for one in Rediaccfile::read(path.as_str(), text).refused {
            let (place, line) = match &source {
                Some(source) => {
                    let place = Place {
                        source: source.clone(),
                        span: one.span,
                    };
                    (place, String::new())
                }
                None => (
                    origin.place.clone(),
                    format!(" in line {} of `{path}`", one.line),
                ),
            };
            let message = format!("`{}`{line} passes by renet", one.call);
            self.report.at(&place, message, one.cure);
        }
    }

    /// Everything beneath the folder `full`, at `path` in the project.
    fn bring_folder(&mut self, full: Option<&RelPath>, path: Option<&RelPath>, place: &Place) {
        let entries = match self.root.list(full) {
            Ok(entries) => entries,
            Err(refusal) => {
                let shown = full.map_or(".", RelPath::as_str);
                return self.refuse(place, &format!("`{shown}`"), &refusal);
            }
        };
        for entry in entries {
            if self.full {
                return;
            }
            let name = full.map_or_else(
                || Some(entry.path.clone()),
                |full| entry.path.strip_prefix(full),
            );
            let Some(name) = name else { continue };
            let path = path.map_or_else(|| name.clone(), |path| name.beneath(path));
            match entry.kind {
                EntryKind::Folder if name.as_str() == ".git" => {}
                EntryKind::Folder => self.bring_folder(Some(&entry.path), Some(&path), place),
                EntryKind::File => self.bring_file(&entry.path, &path, place),
                EntryKind::Link => {
                    self.refuse(place, &format!("`{}`", entry.path), &Refusal::link());
                }
                EntryKind::Other => {
                    self.refuse(place, &format!("`{}`", entry.path), &Refusal::special());
                }
            }
        }
    }

    /// The file `full`, at `path` in the project.
    fn bring_file(&mut self, full: &RelPath, path: &RelPath, place: &Place) {
        if self.full || !self.is_free(path, Some(full), place) {
            return;
        }
        let entry = match self.root.read(full, FILE_LIMIT) {
            Ok(entry) => entry,
            Err(refusal) => return self.refuse(place, &format!("`{full}`"), &refusal),
        };
        // A manifest beside a context is none of its files.
        if is_yaml(path) && str::from_utf8(entry.bytes()).is_ok_and(claims) {
            return;
        }
        self.put(path, Some(full), entry, place);
    }

    fn refuse(&self, place: &Place, subject: &str, refusal: &Refusal) {
        self.report
            .at(place, format!("{subject} {}", refusal.why), &refusal.cure);
    }
}

/// The items of a list, or the one value.
pub(super) fn one_or_many(node: &Node) -> &[Node] {
    match &node.kind {
        Kind::List(items) => items,
        _ => std::slice::from_ref(node),
    }
}

/// As compose has it, and none that could be taken for an option.
pub(super) fn is_service_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('-')
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

pub(super) fn is_yaml(path: &RelPath) -> bool {
    [".yaml", ".yml"]
        .iter()
        .any(|end| path.as_str().ends_with(end))
}

/// Whether compose would fetch it: by a scheme, or as git names a repository.
pub(super) fn is_elsewhere(text: &str) -> bool {
    let scheme = text.split_once(':');
    let scheme = scheme.is_some_and(|(scheme, _)| !scheme.contains('/') && !scheme.contains('$'));
    let git = text
        .split('#')
        .next()
        .is_some_and(|url| url.ends_with(".git"));
    let hosted = text.starts_with("git@") || text.starts_with("github.com/");
    scheme || git || hosted || text.contains("://")
}

/// A path in the project that a file in its folder `dir` names; empty for the
/// project's folder itself.
fn resolve(dir: &str, text: &str) -> Result<String, Refusal> {
    if is_elsewhere(text) {
        return Err(Refusal::new(
            "comes from elsewhere",
            "put a copy beside the compose file and name that",
        ));
    }
    if text.contains('$') {
        return Err(Refusal::new(
            "is not known before compose runs",
            "write the path itself, without a variable",
        ));
    }
    let outside = || {
        Refusal::new(
            "leads out of the project's folder",
            "move it beside the compose file and name it from there",
        )
    };
    if text.starts_with('/') || text.starts_with('~') {
        return Err(outside());
    }
    let mut parts: Vec<&str> = dir.split('/').filter(|part| !part.is_empty()).collect();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop().ok_or_else(outside)?;
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}
