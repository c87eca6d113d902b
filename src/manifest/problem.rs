use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// One mistake: where it is and what to write instead.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The file, below the folder as it was given.
    pub file: PathBuf,
    /// Its line, from 1.
    pub line: usize,
    /// Its column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// The cure.
    pub label: String,
    pub(super) excerpt: Option<Excerpt>,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (file, line, column) = (self.file.display(), self.line, self.column);
        write!(
            f,
            "{file}:{line}:{column}: {}: {}",
            self.message, self.label
        )
    }
}

/// The offending line and the part of it that is meant.
#[derive(Clone, Debug)]
pub(super) struct Excerpt {
    pub line: String,
    pub span: Range<usize>,
}

impl Problem {
    /// The same with nothing of its line but what is meant: the rest may be secret.
    pub(super) fn hiding_the_rest(mut self) -> Self {
        if let Some(excerpt) = &mut self.excerpt {
            let meant = &excerpt.line[excerpt.span.clone()];
            excerpt.line = format!("{}{meant} …", " ".repeat(excerpt.span.start));
        }
        self
    }

    /// A problem of a whole file or folder.
    pub(super) fn of_file(file: PathBuf, message: String, label: String) -> Self {
        Self {
            file,
            line: 1,
            column: 1,
            message: shown(&message),
            label: shown(&label),
            excerpt: None,
        }
    }
}

/// A text file, kept for its excerpts.
#[derive(Debug)]
pub(super) struct Source {
    pub file: PathBuf,
    pub text: String,
}

/// A part of a file, in bytes.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub source: Arc<Source>,
    pub span: Range<usize>,
}

impl Place {
    /// Line and column, both from 1.
    pub fn line_column(&self) -> (usize, usize) {
        let before = &self.source.text[..self.start()];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        (line, before[line_start..].chars().count() + 1)
    }

    /// `file:line:column`
    pub fn shown(&self) -> String {
        let (line, column) = self.line_column();
        format!("{}:{line}:{column}", self.source.file.display())
    }

    /// A problem at this place.
    pub fn problem(&self, message: impl AsRef<str>, label: impl AsRef<str>) -> Problem {
        let text = &self.source.text;
        let start = self.start();
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line = text[line_start..].lines().next().unwrap_or_default();
        let from = (start - line_start).min(line.len());
        let to = boundary(line, self.span.end.saturating_sub(line_start)).max(from);
        // Something has to be pointed at, and not beyond the line.
        let to = if to > from {
            to
        } else {
            from + line[from..].chars().next().map_or(0, char::len_utf8)
        };
        let (number, column) = self.line_column();
        Problem {
            file: self.source.file.clone(),
            line: number,
            column,
            message: shown(message.as_ref()),
            label: shown(label.as_ref()),
            excerpt: Some(Excerpt {
                line: line.to_owned(),
                span: from..to,
            }),
        }
    }

    fn start(&self) -> usize {
        boundary(&self.source.text, self.span.start)
    }
}

/// The last character boundary at or before `at`.
fn boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Text that cannot move the cursor of whoever reads it: control characters and
/// those that reorder text are escaped.
pub(super) fn shown(text: &str) -> String {
    let hostile = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut out = text
        .chars()
        .take(LONGEST)
        .fold(String::new(), |mut out, c| {
            if hostile(c) {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
            out
        });
    if text.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    out
}

/// Nobody reads a longer message.
const LONGEST: usize = 300;

/// More problems than anybody reads: hostile input could bring thousands.
const KEPT: usize = 1000;

/// Collects problems.
#[derive(Debug, Default)]
pub(super) struct Report {
    problems: RefCell<Vec<Problem>>,
    count: Cell<usize>,
}

impl Report {
    pub fn push(&self, problem: Problem) {
        self.count.set(self.count.get() + 1);
        if self.problems.borrow().len() < KEPT {
            self.problems.borrow_mut().push(problem);
        }
    }

    pub fn at(&self, place: &Place, message: impl AsRef<str>, label: impl AsRef<str>) {
        if self.problems.borrow().len() < KEPT {
            self.push(place.problem(message, label));
        } else {
            self.count.set(self.count.get() + 1);
        }
    }

    /// How many there were, kept or not.
    pub fn count(&self) -> usize {
        self.count.get()
    }

    pub fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }
}
