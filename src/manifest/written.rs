//! Compose files as they are written: where a setting stands, and what compose would
//! fetch or read before anybody could judge it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::compose::{is_elsewhere, one_or_many};
use super::problem::{Place, Source};
use super::tree::{Node, parse};
use crate::model::{FileSet, RelPath};

/// How many files may name each other.
const FILES: usize = 100;

/// The compose files of a project, with those that they include and extend.
#[derive(Debug, Default)]
pub struct Written {
    documents: Vec<(Arc<Source>, Node)>,
    services: BTreeSet<String>,
    seen: BTreeSet<PathBuf>,
}

/// Where compose files are read.
struct Reading<'a> {
    read: &'a dyn Fn(&Path) -> io::Result<String>,
    /// As a path is shown.
    shown: &'a dyn Fn(&Path) -> PathBuf,
    /// Judges a path that a file names, where somebody wants to know.
    check: Option<&'a Beneath<'a>>,
    problems: Vec<String>,
}

/// What files may name: what lies beneath a folder, also behind links.
struct Beneath<'a> {
    folder: &'a Path,
    /// Only what comes from another machine is refused.
    insist: bool,
}

impl Written {
    /// Among the files that a Service brings along, for places alone.
    pub fn of(files: &FileSet, compose_file: &RelPath, project: &str) -> Self {
        let read = |path: &Path| {
            let path = path.to_str().and_then(|path| path.parse::<RelPath>().ok());
            let file = path.and_then(|path| files.files().get(&path).cloned());
            let file = file.ok_or(io::ErrorKind::NotFound)?;
            String::from_utf8(file.bytes().to_vec()).map_err(io::Error::other)
        };
        let mut reading = Reading {
            read: &read,
            shown: &|path| Path::new(project).join(path),
            check: None,
            problems: Vec::new(),
        };
        let mut written = Self::default();
        let file = Path::new(compose_file.as_str());
        written.follow(file, Path::new(""), true, &mut reading);
        written
    }

    /// On the machine: the files of a project in `directory` that lies in the
    /// repository mounted at `mount`. With `insist` only what comes from another
    /// machine is refused.
    ///
    /// # Errors
    ///
    /// Everything that cannot be read, or that compose must not fetch or read.
    pub fn read(
        files: &[PathBuf],
        directory: &Path,
        mount: &Path,
        insist: bool,
    ) -> Result<Self, Vec<String>> {
        let beneath = Beneath {
            folder: mount,
            insist,
        };
        // Compose reads these without being told to.
        let beside = directory.join(".env");
        let read = files.iter().chain([&beside]);
        let out = read.filter(|path| !insist && !beneath.holds(path));
        let problems = out.map(|path| {
            let path = path.display();
            format!("`{path}` leaves the repository: put a file there, and no link")
        });
        let mut reading = Reading {
            read: &|path| std::fs::read_to_string(path),
            shown: &Path::to_path_buf,
            check: Some(&beneath),
            problems: problems.collect(),
        };
        let mut written = Self::default();
        for file in files {
            written.follow(file, directory, true, &mut reading);
        }
        match reading.problems.is_empty() {
            true => Ok(written),
            false => Err(reading.problems),
        }
    }

    /// The services that they define.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.services.iter().map(String::as_str)
    }

    /// Where a setting stands, or what of the way to it does: `file:line:column`.
    pub fn place(&self, at: &[String]) -> Option<String> {
        let mut best: Option<(usize, Place)> = None;
        // What stands in a later file overrides.
        for (source, document) in self.documents.iter().rev() {
            let mut node = document;
            for (depth, key) in at.iter().enumerate() {
                let mut entries = node.entries().iter();
                let Some((name, value)) = entries.find(|(name, _)| name.text() == Some(key)) else {
                    break;
                };
                if best.as_ref().is_none_or(|(deepest, _)| depth > *deepest) {
                    best = Some((depth, name.place(source)));
                }
                node = value;
            }
        }
        // That there are services at all helps nobody.
        let best = best.filter(|(depth, _)| *depth > 0 || at.len() == 1);
        best.map(|(_, place)| place.shown())
    }

    /// Reads a file whose paths begin in `base`.
    fn follow(&mut self, path: &Path, base: &Path, counts: bool, reading: &mut Reading<'_>) {
        if self.seen.len() >= FILES || !self.seen.insert(path.to_owned()) {
            return;
        }
        let shown = (reading.shown)(path);
        let text = match (reading.read)(path) {
            Ok(text) => text,
            Err(error) => {
                return reading
                    .problems
                    .push(format!("{}: {error}", shown.display()));
            }
        };
        let source = Source::new(shown, text);
        let documents = match parse(&source) {
            Ok(documents) => documents,
            Err(problem) => return reading.problems.push(problem.to_string()),
        };
        for document in documents {
            self.document(&document, &source, base, counts, reading);
            self.documents.push((source.clone(), document));
        }
    }

    fn document(
        &mut self,
        document: &Node,
        source: &Arc<Source>,
        base: &Path,
        counts: bool,
        reading: &mut Reading<'_>,
    ) {
        let services = document.get("services").map_or(&[][..], Node::entries);
        for (name, service) in services {
            self.services
                .extend(name.text().filter(|_| counts).map(str::to_owned));
            for field in ["env_file", "label_file"] {
                for entry in service.get(field).map_or(&[][..], one_or_many) {
                    reading.named(entry.get("path").unwrap_or(entry), source, base);
                }
            }
            let extended = service
                .get("extends")
                .and_then(|extends| extends.get("file"));
            if let Some(file) = extended.and_then(|file| reading.named(file, source, base)) {
                self.follow(&file, file.parent().unwrap_or(base), false, reading);
            }
        }
        for entry in document.get("include").map_or(&[][..], one_or_many) {
            for file in entry.get("env_file").map_or(&[][..], one_or_many) {
                reading.named(file, source, base);
            }
            let own = entry.get("project_directory");
            let own = own.and_then(|folder| reading.named(folder, source, base));
            for file in one_or_many(entry.get("path").unwrap_or(entry)) {
                if let Some(file) = reading.named(file, source, base) {
                    let above = file.parent().unwrap_or(base);
                    let base = own.as_deref().unwrap_or(above).to_owned();
                    self.follow(&file, &base, counts, reading);
                }
            }
        }
    }
}

impl Reading<'_> {
    /// The path that a value names, where compose may have it.
    fn named(&mut self, value: &Node, source: &Arc<Source>, base: &Path) -> Option<PathBuf> {
        let text = value.text()?;
        let path = normal(&base.join(text));
        let Some(beneath) = self.check else {
            return Some(path);
        };
        let (why, cure) = if is_elsewhere(text) {
            let cure = "put a copy beside the compose file and name that";
            ("comes from another machine", cure)
        } else if beneath.insist {
            return Some(path);
        } else if text.contains('$') {
            let cure = "write the path itself, without a variable";
            ("is not known before compose runs", cure)
        } else if !beneath.holds(&path) {
            let cure = "put it into the repository and name it from there";
            ("leaves the repository", cure)
        } else {
            return Some(path);
        };
        let place = value.place(source);
        let problem = place.problem(format!("`{text}` {why}"), cure);
        self.problems.push(problem.to_string());
        None
    }
}

impl Beneath<'_> {
    /// Whether the path lies in the folder, whatever links it leads through. What is
    /// not there yet leads through none.
    fn holds(&self, path: &Path) -> bool {
        // The folder itself may lie behind a link.
        let folder = std::fs::canonicalize(self.folder);
        let folder = folder.unwrap_or_else(|_| self.folder.to_owned());
        let real = match std::fs::canonicalize(path) {
            Ok(real) => real.starts_with(folder),
            Err(_) => std::fs::symlink_metadata(path).is_err(),
        };
        real && path.starts_with(self.folder)
    }
}

/// A path without `.` and `..`, by its text alone.
pub(crate) fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_compose_reads_by_itself_is_no_link_out_of_the_repository() {
        let folder = tempfile::tempdir().unwrap();
        let (mount, link) = (folder.path().join("mount"), folder.path().join("link"));
        let web = mount.join("web");
        std::fs::create_dir_all(&web).unwrap();
        symlink(&mount, &link).unwrap();
        let file = web.join("compose.yml");
        std::fs::write(&file, "services: { api: { image: x } }\n").unwrap();
        std::fs::write(folder.path().join("secret"), "services: {}\n").unwrap();
        let read = |file: &Path, insist| {
            let files = [file.to_owned()];
            Written::read(&files, &web, &mount, insist).map(drop)
        };
        assert_eq!(read(&file, false), Ok(()));
        let behind = [link.join("web/compose.yml")];
        assert!(Written::read(&behind, &link.join("web"), &link, false).is_ok());

        let other = web.join("other.yml");
        symlink(folder.path().join("secret"), &other).unwrap();
        let why = read(&other, false).unwrap_err();
        assert!(why[0].contains("other.yml"), "{why:?}");
        assert_eq!(read(&other, true), Ok(()));
        symlink(folder.path().join("secret"), web.join(".env")).unwrap();
        let why = read(&file, false).unwrap_err();
        assert!(why[0].contains(".env"), "{why:?}");
    }
}
