use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use super::hidden::hidden;

/// One mistake: where it is and what to write instead.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The file, below the folder as it was given.
    pub file: PathBuf,
    /// Its line, from 1.
    pub line: usize,
    /// Its column in characters, from 1.
    pub column: usize,
    /// How many characters of the line are meant; 0 where the whole file is.
    pub length: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub cure: String,
    pub(super) excerpt: Option<Excerpt>,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (file, line, column) = (shown(&self.file.to_string_lossy()), self.line, self.column);
        write!(f, "{file}:{line}:{column}: {}: {}", self.message, self.cure)
    }
}

/// The offending line, without what may be a secret, and the part of it that is meant.
#[derive(Clone, Debug)]
pub(super) struct Excerpt {
    pub line: String,
    pub span: Range<usize>,
}

impl Problem {
    /// A problem of a whole file or folder.
    pub(super) fn of_file(file: PathBuf, message: String, cure: String) -> Self {
        Self {
            file,
            line: 1,
            column: 1,
            length: 0,
            message: shown(&message),
            cure: shown(&cure),
            excerpt: None,
        }
    }
}

/// A text file, kept for its excerpts.
#[derive(Debug)]
pub(super) struct Source {
    pub file: PathBuf,
    pub text: String,
    hidden: OnceLock<Vec<Range<usize>>>,
    /// Where each line but the first begins.
    lines: OnceLock<Vec<usize>>,
}

impl Source {
    pub fn new(file: PathBuf, text: String) -> Arc<Self> {
        Arc::new(Self {
            file,
            text,
            hidden: OnceLock::new(),
            lines: OnceLock::new(),
        })
    }

    /// Where the line begins that holds this byte, and its number, from 1.
    fn line_at(&self, byte: usize) -> (usize, usize) {
        let ends = || self.text.match_indices('\n').map(|(at, _)| at + 1);
        let starts = self.lines.get_or_init(|| ends().collect());
        let before = starts.partition_point(|start| *start <= byte);
        let start = before.checked_sub(1).map_or(0, |last| starts[last]);
        (start, before + 1)
    }

    /// A line without what may be a secret, and where a part of it then is.
    fn redacted(&self, line: Range<usize>, part: Range<usize>) -> Excerpt {
        let mut out = Excerpt {
            line: String::new(),
            span: part.start - line.start..part.end - line.start,
        };
        let mut from = line.start;
        for span in self.hidden.get_or_init(|| hidden(&self.text)) {
            let (start, end) = (span.start.max(from), span.end.min(line.end));
            if start >= end {
                continue;
            }
            out.line.push_str(&self.text[from..start]);
            from = end;
            let shown = out.line.len();
            if end <= part.start {
                // The column of what is meant tells its length anyway.
                let width = self.text[start..end].chars().count();
                out.line.extend(std::iter::repeat_n('*', width));
                let shift = (end - start) - width;
                out.span = out.span.start - shift..out.span.end - shift;
                continue;
            }
            out.line.push_str(HIDDEN);
            if start <= part.start {
                out.span.start = shown;
            }
            if end >= part.end && start < part.end {
                out.span.end = shown + HIDDEN.len();
            } else if end < part.end {
                out.span.end = out.span.end + HIDDEN.len() - (end - start);
            }
        }
        out.line.push_str(&self.text[from..line.end]);
        out
    }
}

/// Stands for what may be a secret; says nothing of its length.
const HIDDEN: &str = "***";

/// A part of a file, in bytes.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub source: Arc<Source>,
    pub span: Range<usize>,
}

impl Place {
    /// Line and column, both from 1.
    pub fn line_column(&self) -> (usize, usize) {
        let at = self.start();
        let (start, line) = self.source.line_at(at);
        (line, self.source.text[start..at].chars().count() + 1)
    }

    /// `file:line:column`
    pub fn shown(&self) -> String {
        let (line, column) = self.line_column();
        format!("{}:{line}:{column}", self.source.file.display())
    }

    /// A problem at this place.
    pub fn problem(&self, message: impl AsRef<str>, cure: impl AsRef<str>) -> Problem {
        let text = &self.source.text;
        let from = self.start();
        let (line_start, number) = self.source.line_at(from);
        let line = text[line_start..].lines().next().unwrap_or_default();
        let line_end = line_start + line.len();
        let from = from.min(line_end);
        let to = boundary(text, self.span.end.min(line_end)).max(from);
        // Something has to be pointed at, and not beyond the line.
        let to = if to > from {
            to
        } else {
            let next = text[from..line_end].chars().next();
            from + next.map_or(0, char::len_utf8)
        };
        let excerpt = self.source.redacted(line_start..line_end, from..to);
        let Range { start, end } = excerpt.span;
        Problem {
            file: self.source.file.clone(),
            line: number,
            column: excerpt.line[..start].chars().count() + 1,
            length: excerpt.line[start..end].chars().count(),
            message: shown(message.as_ref()),
            cure: shown(cure.as_ref()),
            excerpt: Some(excerpt),
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

/// Whether a character can move the cursor of whoever reads it, reorder what stands
/// around it, or is not to be seen at all.
pub(super) fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{e0000}'..='\u{e007f}')
}

/// Text with its hostile characters escaped.
pub(super) fn shown(text: &str) -> String {
    let mut out = text
        .chars()
        .take(LONGEST)
        .fold(String::new(), |mut out, c| {
            if is_hostile(c) {
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

    pub fn at(&self, place: &Place, message: impl AsRef<str>, cure: impl AsRef<str>) {
        if self.problems.borrow().len() < KEPT {
            self.push(place.problem(message, cure));
        } else {
            self.count.set(self.count.get() + 1);
        }
    }

    /// Takes over what another has collected.
    pub fn extend(&self, problems: &[Problem], count: usize) {
        let mut all = self.problems.borrow_mut();
        let room = KEPT.saturating_sub(all.len());
        all.extend(problems.iter().take(room).cloned());
        self.count.set(self.count.get() + count);
    }

    /// How many there were, kept or not.
    pub fn count(&self) -> usize {
        self.count.get()
    }

    pub fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }
}
