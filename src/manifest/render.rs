use std::collections::BTreeSet;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};

use super::problem::{Problem, shown};
use super::{Folder, Manifests};

/// Nobody reads more at once, and hostile input could bring thousands.
const DRAWN: usize = 100;

impl Folder {
    /// All problems, drawn, and a last line that sums up.
    pub fn render(&self, color: bool, width: usize) -> String {
        let renderer = if color {
            Renderer::styled()
        } else {
            Renderer::plain()
        }
        .term_width(width);
        let mut out = String::new();
        for problem in self.problems.iter().take(DRAWN) {
            out.push_str(&draw(problem, &renderer));
            out.push('\n');
        }
        if let Some(more @ 1..) = self.problems.len().checked_sub(DRAWN) {
            out.push_str(&format!("and {}\n", count(more, "more error")));
        }
        out + &self.summary() + "\n"
    }

    fn summary(&self) -> String {
        let name = self
            .source
            .file_name()
            .unwrap_or(self.source.as_os_str())
            .to_string_lossy();
        let name = shown(&name);
        let files = self.files;
        if self.problems.is_empty() {
            let documents = count(self.manifests.len(), "document");
            return format!("{name}: {documents} in {}, no errors", count(files, "file"));
        }
        let errors = count(self.problems.len(), "error");
        let bad = self
            .problems
            .iter()
            .map(|problem| &problem.file)
            .collect::<BTreeSet<_>>()
            .len();
        if bad > files {
            format!("{name}: {errors}; nothing was changed")
        } else {
            let files = count(files, "file");
            format!("{name}: {errors} in {bad} of {files}; nothing was changed")
        }
    }
}

impl Manifests {
    /// How many documents these are.
    fn len(&self) -> usize {
        usize::from(self.machine.is_some())
            + self.repositories.len()
            + self.services.len()
            + self.routes.len()
    }
}

fn draw(problem: &Problem, renderer: &Renderer) -> String {
    let path = shown(&problem.file.to_string_lossy());
    let title = Level::ERROR.primary_title(problem.message.as_str());
    let group = match &problem.excerpt {
        Some(excerpt) => title.element(
            Snippet::source(excerpt.line.as_str())
                .line_start(problem.line)
                .path(path)
                .annotation(
                    AnnotationKind::Primary
                        .span(excerpt.span.clone())
                        .label(problem.label.as_str()),
                ),
        ),
        None => title
            .element(Origin::path(path))
            .element(Level::HELP.message(problem.label.as_str())),
    };
    renderer.render(&[group])
}

fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}
