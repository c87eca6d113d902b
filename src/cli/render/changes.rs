//! A plan as people read it: object by object, what changes and why.

use std::fmt::Write as _;

use anstyle::Style;
use similar::{ChangeTag, TextDiff};

use super::kind_and_name;
use super::style::{ADDED, CHANGED, DIM, REMOVED, TITLE, paint};
use crate::cli::output;
use crate::model::Size;
use crate::plan::changes::{
    Action, AtRisk, Change, Changes, Field, FileAction, FileChange, Planned, Stopped, Summary,
};

/// The widest name of a field that keeps its column.
const NAME: usize = 16;
/// The widest value that keeps its column.
const VALUE: usize = 32;

/// What would change; nothing where all is in sync.
pub fn changes(changes: &Changes, width: usize) -> String {
    let mut out = String::new();
    for change in &changes.objects {
        object(&mut out, change, width);
    }
    out.push_str(&notes(changes));
    if !changes.in_sync {
        let _ = writeln!(out, "\n{}", summary(changes, width));
    }
    out
}

/// Objects in sync that deserve a word.
pub fn notes(changes: &Changes) -> String {
    let notes = changes.notes.iter();
    let lines = notes.map(|note| format!("{}: {}\n", kind_and_name(&note.object), note.message));
    lines.collect()
}

/// The steps of a plan, by what causes them.
pub fn steps(changes: &Changes) -> String {
    let mut out = String::new();
    let mut number = 0;
    for change in &changes.objects {
        let mut cause = None;
        for Planned { step, because } in &change.steps {
            if cause.replace(because) != Some(because) {
                let name = kind_and_name(&change.object);
                let because = paint(DIM, format!("because {because}"));
                let _ = writeln!(out, "  {} {because}", paint(TITLE, name));
            }
            number += 1;
            let _ = writeln!(out, "  {number:>3}. {step}");
        }
    }
    out
}

/// `Plan: 1 to create, 2 to change, …`
fn summary(changes: &Changes, width: usize) -> String {
    let Summary {
        create,
        change,
        mend,
        delete,
        blocked,
    } = changes.summary;
    let mut out =
        format!("Plan: {create} to create, {change} to change, {mend} to mend, {delete} to delete");
    if blocked > 0 {
        let _ = write!(out, ", {blocked} blocked");
    }
    if changes.objects.iter().any(|change| change.more) {
        out.push_str(", and what then can be seen");
    }
    let risks: Vec<String> = changes.data_at_risk.iter().map(at_risk).collect();
    let (style, risk) = match risks.is_empty() {
        true => (Style::new(), "No data at risk.".to_owned()),
        false => (REMOVED, format!("DATA AT RISK: {}.", risks.join(", "))),
    };
    let fits = out.chars().count() + 2 + risk.chars().count() <= width;
    let gap = if fits { " " } else { "\n" };
    format!("{out}.{gap}{}", paint(style, risk))
}

fn at_risk(risk: &AtRisk) -> String {
    match risk.bytes {
        Some(bytes) => format!("{} ({})", risk.repository, Size::bytes(bytes)),
        None => risk.repository.clone(),
    }
}

fn object(out: &mut String, change: &Change, width: usize) {
    let _ = writeln!(out, "{}", paint(TITLE, kind_and_name(&change.object)));
    let before = out.len();
    files(out, change);
    for field in &change.fields {
        self::field(out, change.action, field, width);
    }
    for stop in &change.stops {
        stopped(out, stop, width);
    }
    if out.len() == before {
        // Only renet's own notes differ.
        for step in &change.steps {
            let _ = writeln!(out, "  {} {}", symbol(change.action), step.step);
        }
    }
    if let Some(why) = &change.blocked {
        let line = format!("{}: {}", why.reason, why.message);
        wrapped(out, &paint(CHANGED, "!"), &line, width);
    }
}

fn symbol(action: Action) -> String {
    match action {
        Action::Create => paint(ADDED, "+"),
        Action::Delete => paint(REMOVED, "-"),
        Action::Change | Action::Mend | Action::Blocked => paint(CHANGED, "~"),
    }
}

fn field(out: &mut String, action: Action, field: &Field, width: usize) {
    let (symbol, value) = match (&field.from, &field.to) {
        (Some(from), Some(to)) => (symbol(Action::Change), format!("{from} → {to}")),
        (None, Some(to)) => (symbol(Action::Create), to.clone()),
        (Some(from), None) => (symbol(Action::Delete), from.clone()),
        (None, None) => (symbol(action), String::new()),
    };
    let notes = [field.drift.then_some("drift"), field.note.as_deref()];
    let note: Vec<&str> = notes.into_iter().flatten().collect();
    let note = note.join(": ");
    let line = format!("{:<NAME$} {value}", field.field);
    let _ = write!(out, "  {symbol} {line}");
    let used = 4 + line.chars().count();
    let column = (4 + NAME + 1 + VALUE).max(used) + 2;
    if note.is_empty() {
        out.push('\n');
    } else if column + note.chars().count() <= width {
        let _ = writeln!(out, "{:gap$}{}", "", paint(DIM, note), gap = column - used);
    } else {
        out.push('\n');
        wrapped(out, " ", &note, width);
    }
}

fn files(out: &mut String, change: &Change) {
    const LISTED: usize = 3;
    let gone_or_new = |action| {
        let files = change.files.iter();
        let files: Vec<&str> = files
            .filter(|file| file.change == action)
            .map(|file| file.path.as_str())
            .collect();
        files
    };
    for (action, sign) in [
        (FileAction::Added, Action::Create),
        (FileAction::Removed, Action::Delete),
    ] {
        let files = gone_or_new(action);
        let names = files[..files.len().min(LISTED)].join(", ");
        let rest = match files.len().saturating_sub(LISTED) {
            0 => String::new(),
            rest => format!(" and {rest} more"),
        };
        if !files.is_empty() {
            let _ = writeln!(out, "  {} {:<NAME$} {names}{rest}", symbol(sign), "files");
        }
    }
    let changed = change.files.iter();
    for file in changed.filter(|file| file.change == FileAction::Changed) {
        self::file(out, file);
    }
}

fn file(out: &mut String, file: &FileChange) {
    let symbol = symbol(Action::Change);
    let note = file
        .note
        .as_ref()
        .map_or(String::new(), |note| paint(DIM, format!("  {note}")));
    let _ = writeln!(out, "  {symbol} {}{note}", file.path);
    if let Some(diff) = &file.diff {
        lines(out, diff);
    }
}

/// The lines of a unified diff; what differs within a line is marked where there
/// are colours.
fn lines(out: &mut String, diff: &str) {
    let all: Vec<&str> = diff.lines().collect();
    let mut at = 0;
    while at < all.len() {
        let run = |from: usize, sign: char| {
            let lines = all[from..].iter();
            lines.take_while(|line| line.starts_with(sign)).count()
        };
        let (gone, come) = (run(at, '-'), run(at + run(at, '-'), '+'));
        if gone > 0 && gone == come {
            let pairs: Vec<(String, String)> = (at..at + gone)
                .map(|line| marked(&all[line][1..], &all[line + gone][1..]))
                .collect();
            for (old, _) in &pairs {
                let _ = writeln!(out, "      {}{old}", paint(REMOVED, "-"));
            }
            for (_, new) in &pairs {
                let _ = writeln!(out, "      {}{new}", paint(ADDED, "+"));
            }
            at += gone + come;
            continue;
        }
        let line = all[at];
        let shown = match line.chars().next() {
            Some('-') => paint(REMOVED, line),
            Some('+') => paint(ADDED, line),
            Some('@') => paint(DIM, hunk(line)),
            _ => line.to_owned(),
        };
        let _ = writeln!(out, "      {shown}");
        at += 1;
    }
}

/// `@@ services.web @@`, or where no keys are known the line's number.
fn hunk(header: &str) -> String {
    let mut parts = header.splitn(3, "@@");
    let (_, numbers, place) = (parts.next(), parts.next(), parts.next());
    let place = place.unwrap_or_default().trim();
    if !place.is_empty() {
        return format!("@@ {place} @@");
    }
    let line = numbers.and_then(|numbers| numbers.trim().split(['-', ',', ' ']).nth(1));
    format!("@@ line {} @@", line.unwrap_or("1"))
}

fn marked(old: &str, new: &str) -> (String, String) {
    let diff = TextDiff::from_words(old, new);
    let (mut gone, mut come) = (String::new(), String::new());
    for change in diff.iter_all_changes() {
        let text = change.value();
        match change.tag() {
            ChangeTag::Equal => {
                gone.push_str(&paint(REMOVED, text));
                come.push_str(&paint(ADDED, text));
            }
            ChangeTag::Delete => gone.push_str(&paint(REMOVED.bold().underline(), text)),
            ChangeTag::Insert => come.push_str(&paint(ADDED.bold().underline(), text)),
        }
    }
    (gone, come)
}

fn stopped(out: &mut String, stop: &Stopped, width: usize) {
    let symbol = match stop.replaced {
        true => format!("{}/{}", paint(REMOVED, "-"), paint(ADDED, "+")),
        false => format!("  {}", paint(REMOVED, "-")),
    };
    let name = format!("container {}", stop.container);
    let _ = writeln!(
        out,
        "{symbol} {name:<NAME$} because {}",
        stop.because.join(", ")
    );
    let what = match stop.replaced {
        true => "stops and is recreated",
        false => "stops",
    };
    let routes = match (stop.routes.as_slice(), stop.replaced) {
        ([], _) => String::new(),
        (routes, true) => format!("; no answer meanwhile: {}", listed(routes)),
        (routes, false) => format!("; no answer from then on: {}", listed(routes)),
    };
    let took = stop.last_start.map_or(String::new(), |took| {
        format!(" (the last start took {:.1}s)", took as f64 / 1000.0)
    });
    wrapped(out, " ", &format!("{what}{took}{routes}"), width);
}

fn listed(routes: &[String]) -> String {
    let routes: Vec<String> = routes
        .iter()
        .map(|route| format!("route {route}"))
        .collect();
    routes.join(", ")
}

/// A text with a sign before it, in as many lines as it needs.
fn wrapped(out: &mut String, sign: &str, text: &str, width: usize) {
    for (at, line) in output::wrapped(text, width.saturating_sub(4))
        .iter()
        .enumerate()
    {
        let sign = if at == 0 { sign } else { " " };
        let _ = writeln!(out, "  {sign} {line}");
    }
}
