use std::collections::BTreeSet;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use serde::Serialize;

use super::problem::{Problem, shown};
use super::{Folder, Manifests};

/// Nobody reads more at once, and hostile input could bring thousands.
const DRAWN: usize = 100;

/// A folder's validation as programs read it. These fields stay; more may come.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Validation {
    /// Whether the folder has no error.
    pub valid: bool,
    /// The folder: absolute.
    pub folder: String,
    /// How many manifest files were read.
    pub files: usize,
    /// How many of them have an error.
    pub bad_files: usize,
    /// How many documents have no error.
    pub documents: usize,
    /// How many errors there are. Of very many only the first 1000 are listed.
    pub errors: usize,
    /// The errors, by file, line and column.
    pub problems: Vec<Listed>,
}

/// One error as programs read it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    /// The file, below the folder as it was given.
    pub file: String,
    /// Its line, from 1.
    pub line: usize,
    /// Its column in characters, from 1.
    pub column: usize,
    /// How many characters of the line are meant; 0 where the whole file is.
    pub length: usize,
    /// What is wrong. Never holds a secret.
    pub message: String,
    /// What to do about it.
    pub cure: String,
}

impl Folder {
    /// All problems and counts, for programs.
    pub fn validation(&self) -> Validation {
        let listed = |problem: &Problem| Listed {
            file: shown(&problem.file.to_string_lossy()),
            line: problem.line,
            column: problem.column,
            length: problem.length,
            message: problem.message.clone(),
            cure: problem.cure.clone(),
        };
        Validation {
            valid: self.problems.is_empty(),
            folder: shown(&self.source.to_string_lossy()),
            files: self.files,
            bad_files: self.bad_files(),
            documents: self.manifests.len(),
            errors: self.problems.len() + self.unlisted,
            problems: self.problems.iter().map(listed).collect(),
        }
    }

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
            out.push_str(&draw(problem, &renderer, width));
            out.push('\n');
        }
        let more = self.problems.len().saturating_sub(DRAWN) + self.unlisted;
        if more > 0 {
            out.push_str(&format!("and {}\n", count(more, "more error")));
        }
        out + &self.summary() + "\n"
    }

    fn bad_files(&self) -> usize {
        let files: BTreeSet<_> = self.problems.iter().map(|problem| &problem.file).collect();
        files.len()
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
        let errors = count(self.problems.len() + self.unlisted, "error");
        let bad = self.bad_files();
        // Some may lie in files that are no manifests.
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

fn draw(problem: &Problem, renderer: &Renderer, width: usize) -> String {
    let path = shown(&problem.file.to_string_lossy());
    let message = wrap(&problem.message, width, "error: ".len());
    let title = Level::ERROR.primary_title(message);
    let margin = problem.line.to_string().len() + "  = help: ".len();
    let help = || Level::HELP.message(wrap(&problem.cure, width, margin));
    let Some(excerpt) = &problem.excerpt else {
        let group = title.element(Origin::path(path)).element(help());
        return renderer.render(&[group]);
    };
    let pointer = AnnotationKind::Primary.span(excerpt.span.clone());
    let snippet = Snippet::source(excerpt.line.as_str())
        .line_start(problem.line)
        .path(path);
    // Beside what it is about where it fits, else below.
    let before = excerpt.line[..excerpt.span.end].chars().count();
    let gutter = problem.line.to_string().len() + " | ".len();
    let end = gutter + before + 1 + problem.cure.chars().count();
    let group = if end <= width {
        title.element(snippet.annotation(pointer.label(problem.cure.as_str())))
    } else {
        title.element(snippet.annotation(pointer)).element(help())
    };
    renderer.render(&[group])
}

/// Breaks a text into lines that fit beside a margin, between words.
fn wrap(text: &str, width: usize, margin: usize) -> String {
    let room = width.saturating_sub(margin).max(20);
    let mut out = String::new();
    let mut column = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > room {
            out.push('\n');
            column = 0;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out
}

fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}
