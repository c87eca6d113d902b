//! A plan as people read it: object by object, what changes and why.

use std::fmt::Write as _;

use anstyle::Style;
use similar::{ChangeTag, TextDiff};

use super::kind_and_name;
use super::style::{ADDED, CHANGED, DIM, REMOVED, TITLE, paint};
use crate::cli::output;
use crate::model::{Size, Warning};
use crate::plan::changes::{
    Action, AtRisk, Change, Changes, Field, FileAction, FileChange, IfItFails, Planned, Stopped,
    Summary, Warned, few,
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

/// The same, with every step and its cause.
pub fn plan(changes: &Changes, width: usize) -> String {
    let mut out = self::changes(changes, width);
    if !changes.in_sync {
        let _ = write!(out, "\nSteps:\n{}", steps(changes, width));
    }
    out
}

/// Objects in sync that deserve a word.
pub fn notes(changes: &Changes) -> String {
    let notes = changes.notes.iter();
    let lines = notes.map(|note| format!("{}: {}\n", kind_and_name(&note.object), note.message));
    lines.collect()
}

/// What of the compose files does not do what it says, each with its place.
pub fn warnings(warned: &[Warned], width: usize) -> String {
    let all = warned.iter().map(|one| {
        let one = Warning {
            place: one.place.clone(),
            message: one.message.clone(),
        };
        warning(&one, width)
    });
    all.collect()
}

/// `warning: web/docker-compose.yml:4:5: services.web.ports is ignored: …`
pub fn warning(warning: &Warning, width: usize) -> String {
    let lines = output::wrapped(&format!("warning: {warning}"), width.saturating_sub(4));
    let text = lines.join("\n    ") + "\n";
    text.replacen("warning", &paint(CHANGED, "warning"), 1)
}

/// The steps of a plan, by what causes them.
pub fn steps(changes: &Changes, width: usize) -> String {
    let mut out = String::new();
    let mut number = 0;
    for change in &changes.objects {
        let mut cause = None;
        for Planned { step, because } in &change.steps {
            if cause.replace(because) != Some(because) {
                let name = kind_and_name(&change.object);
                let because = format!("because {because}");
                let title = paint(TITLE, &name);
                if 3 + name.chars().count() + because.chars().count() <= width {
                    let _ = writeln!(out, "  {title} {}", paint(DIM, because));
                } else {
                    let _ = writeln!(out, "  {title}");
                    wrapped(&mut out, " ", &because, width);
                }
            }
            number += 1;
            let step = output::wrapped(step, width.saturating_sub(7)).join("\n       ");
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
    if out.chars().count() + 2 + risk.chars().count() <= width {
        return format!("{out}. {}", paint(style, risk));
    }
    out = output::wrapped(&(out + "."), width).join("\n");
    for line in output::wrapped(&risk, width) {
        let _ = write!(out, "\n{}", paint(style, line));
    }
    out
}

/// `shop (2GiB; newest snapshot 3h old, 2GiB; its fork preview stays)`
fn at_risk(risk: &AtRisk) -> String {
    let size = risk.bytes.map(|bytes| Size::bytes(bytes).to_string());
    let snapshot = match (&risk.newest_snapshot, risk.snapshots) {
        (Some(newest), _) => {
            let (age, size) = (output::short_time(newest.age), Size::bytes(newest.bytes));
            format!("newest snapshot {age} old, {size}")
        }
        (None, Some(_)) => "no snapshot".to_owned(),
        (None, None) => "its snapshots cannot be seen".to_owned(),
    };
    let forks = match risk.forks.as_slice() {
        [] => None,
        [one] => Some(format!("its fork {one} stays")),
        many => Some(format!("its forks {} stay", many.join(", "))),
    };
    let facts: Vec<String> = [size, Some(snapshot), forks]
        .into_iter()
        .flatten()
        .collect();
    format!("{} ({})", risk.repository, facts.join("; "))
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
    if let Some(fails) = &change.if_it_fails {
        wrapped(out, " ", &if_it_fails(fails), width);
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

/// `if it fails, revision 0a1b2c3d4e5f comes back`
fn if_it_fails(fails: &IfItFails) -> String {
    let mut text = format!("if it fails, revision {} comes back", fails.comes_back);
    if fails.takes_data_back {
        text += ", and all data of the repository as it was before: what is written meanwhile \
                 is kept as a snapshot";
    }
    if !fails.stops.is_empty() {
        let _ = write!(text, "; {} would stop for that", fails.stops.join(", "));
    }
    text
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
        self::file(out, file, &change.stops);
    }
}

fn file(out: &mut String, file: &FileChange, stops: &[Stopped]) {
    let symbol = symbol(Action::Change);
    let note = file
        .note
        .as_ref()
        .map_or(String::new(), |note| paint(DIM, format!("  {note}")));
    let forced = recreated(stops, |cause| cause == file.path);
    let _ = writeln!(out, "  {symbol} {}{note}{forced}", file.path);
    if let Some(diff) = &file.diff {
        lines(out, diff, stops);
    }
}

/// Says which containers are made anew for a reason.
fn recreated(stops: &[Stopped], is_cause: impl Fn(&str) -> bool) -> String {
    let stops = stops.iter().filter(|stop| stop.replaced);
    let stops = stops.filter(|stop| stop.because.iter().any(|cause| is_cause(cause)));
    let names: Vec<&str> = stops.map(|stop| stop.container.as_str()).collect();
    match names.is_empty() {
        true => String::new(),
        false => format!(
            "  {}",
            paint(REMOVED, format!("recreates {}", names.join(", ")))
        ),
    }
}

/// Whether a change beneath these keys of a compose file is a change of the setting.
fn is_beneath(keys: &str, lines: &[&str], setting: &str) -> bool {
    let Some(rest) = setting.strip_prefix(keys) else {
        return false;
    };
    let Some(rest) = rest.strip_prefix('.') else {
        return rest.is_empty();
    };
    let key = rest.split('.').next().unwrap_or_default();
    let mut changed = lines.iter().filter(|line| line.starts_with(['-', '+']));
    changed.any(|line| {
        let written = line[1..].trim_start().split([':', '=']).next();
        let written = written.map(|key| key.trim_matches(['"', '\'', ' ', '-']));
        written == Some(key)
    })
}

/// The lines of a unified diff; what differs within a line is marked where there
/// are colours.
fn lines(out: &mut String, diff: &str, stops: &[Stopped]) {
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
            Some('@') => {
                let within = all[at + 1..].iter();
                let within: Vec<&str> = within
                    .take_while(|line| !line.starts_with('@'))
                    .copied()
                    .collect();
                let keys = keys(line);
                let forced = recreated(stops, |cause| is_beneath(keys, &within, cause));
                paint(DIM, hunk(line)) + &forced
            }
            _ => line.to_owned(),
        };
        let _ = writeln!(out, "      {shown}");
        at += 1;
    }
}

/// `@@ services.web @@`, or where no keys are known the line's number.
fn hunk(header: &str) -> String {
    let keys = keys(header);
    if !keys.is_empty() {
        return format!("@@ {keys} @@");
    }
    let numbers = header.split("@@").nth(1);
    let line = numbers.and_then(|numbers| numbers.trim().split(['-', ',', ' ']).nth(1));
    format!("@@ line {} @@", line.unwrap_or("1"))
}

/// The keys that a hunk stands under, where they are known: `services.web`.
fn keys(header: &str) -> &str {
    header.splitn(3, "@@").nth(2).unwrap_or_default().trim()
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
    let because = format!("because {}", few(&stop.because));
    if 4 + name.chars().count().max(NAME) + 1 + because.chars().count() <= width {
        let _ = writeln!(out, "{symbol} {name:<NAME$} {because}");
    } else {
        let _ = writeln!(out, "{symbol} {name}");
        wrapped(out, " ", &because, width);
    }
    let what = match (stop.replaced, stop.last_start) {
        (true, Some(took)) => {
            let took = took as f64 / 1000.0;
            format!("is recreated: down for about {took:.1}s, as at the last start")
        }
        (true, None) => "is recreated: down until it has started again".to_owned(),
        (false, _) => "stops".to_owned(),
    };
    let routes = match (stop.routes.as_slice(), stop.replaced) {
        ([], _) => String::new(),
        (routes, true) => format!("; no answer meanwhile: {}", listed(routes)),
        (routes, false) => format!("; no answer from then on: {}", listed(routes)),
    };
    wrapped(out, " ", &format!("{what}{routes}"), width);
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
