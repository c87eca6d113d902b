use std::fmt::Write as _;

use similar::{ChangeTag, TextDiff};

use super::hidden::{self, Holds};
use super::{FileAction, FileChange};
use crate::model::FileSeen;

/// Lines around a change that are shown with it.
const CONTEXT: usize = 1;

/// What becomes of one managed file.
/// `holds` says what of it nobody is to read.
pub(super) fn change(
    path: &str,
    old: Option<&FileSeen>,
    new: Option<&FileSeen>,
    holds: Option<Holds>,
) -> FileChange {
    let change = match (old, new) {
        (None, _) => FileAction::Added,
        (_, None) => FileAction::Removed,
        _ => FileAction::Changed,
    };
    let (mut diff, mut note) = (None, None);
    // A file that is not there has no lines.
    let text = |file: Option<&FileSeen>| match file {
        Some(file) => file.text.clone(),
        None => Some("".into()),
    };
    match (old, new) {
        (Some(old), Some(new)) if old.digest == new.digest => {
            note = Some(match new.executable {
                true => "becomes executable".to_owned(),
                false => "is no longer executable".to_owned(),
            });
        }
        _ => match (text(old), text(new)) {
            _ if holds == Some(Holds::Secret) => note = Some("value hidden".to_owned()),
            (Some(old), Some(new)) if holds.is_some() || holds_values(path) => {
                note = Some(keys(&old, &new));
            }
            (Some(old), Some(new)) => diff = Some(unified(path, &old, &new)),
            _ => note = Some("not a short text".to_owned()),
        },
    }
    FileChange {
        path: path.to_owned(),
        change,
        diff,
        note,
    }
}

/// Whether a file is a list of variables: their values may be secrets.
fn holds_values(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.ends_with(".env") || name.starts_with(".env")
}

/// The variables of an environment file that differ, without their values.
fn keys(old: &str, new: &str) -> String {
    let read = |text: &str| -> Vec<(String, String)> {
        let lines = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'));
        lines
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.trim().to_owned(), value.to_owned()))
            .collect()
    };
    let (old, new) = (read(old), read(new));
    let of = |all: &[(String, String)], key: &str| {
        all.iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.clone())
    };
    let mut differ: Vec<String> = Vec::new();
    for (key, _) in new.iter().chain(&old) {
        let word = match (of(&old, key), of(&new, key)) {
            (None, _) => "added",
            (_, None) => "removed",
            (was, is) if was != is => "changed",
            _ => continue,
        };
        let line = format!("{key} {word}");
        if !differ.contains(&line) {
            differ.push(line);
        }
    }
    match differ.is_empty() {
        true => "values hidden".to_owned(),
        false => format!("{}; values hidden", differ.join(", ")),
    }
}

/// The lines that differ. The place of a hunk is a line number and, in YAML, the
/// keys that it stands under.
fn unified(path: &str, old: &str, new: &str) -> String {
    let yaml = hidden::is_yaml(path);
    let (olds, news) = (hidden::lines(old), hidden::lines(new));
    let diff = TextDiff::from_lines(old, new);
    let lines: Vec<&str> = old.lines().collect();
    let mut out = String::new();
    for hunk in diff.unified_diff().context_radius(CONTEXT).iter_hunks() {
        let place = hunk
            .ops()
            .iter()
            .find(|op| op.tag() != similar::DiffTag::Equal);
        let at = place.map_or(0, |op| op.old_range().start);
        let heading = match yaml {
            true => keys_above(&lines, at),
            false => String::new(),
        };
        let header = hunk.header().to_string();
        let header = format!("{} {heading}", header.trim_end());
        let _ = writeln!(out, "{}", header.trim_end());
        let mut gone: Vec<&str> = Vec::new();
        for change in hunk.iter_changes() {
            let (sign, lines, at) = match change.tag() {
                ChangeTag::Equal => (' ', &olds, change.old_index()),
                ChangeTag::Delete => ('-', &olds, change.old_index()),
                ChangeTag::Insert => ('+', &news, change.new_index()),
            };
            let line = at.and_then(|at| lines.get(at));
            let line = line.map_or("", String::as_str);
            if sign == '-' {
                gone.push(line);
            }
            // All of the difference is in what is not shown.
            let line = match sign == '+' && gone.contains(&line) {
                true => line.replace(hidden::HIDDEN, hidden::CHANGED),
                false => line.to_owned(),
            };
            let _ = writeln!(out, "{sign}{line}");
        }
    }
    out
}

/// The keys that a line of YAML stands under: `services.web`.
fn keys_above(lines: &[&str], at: usize) -> String {
    let depth = |line: &str| line.len() - line.trim_start().len();
    let Some(mut deepest) = lines.get(at).map(|line| depth(line)) else {
        return String::new();
    };
    let mut keys = Vec::new();
    for line in lines[..at].iter().rev() {
        let text = line.trim();
        let key = text
            .strip_suffix(':')
            .filter(|key| !key.starts_with(['#', '-']));
        if let Some(key) = key
            && depth(line) < deepest
        {
            deepest = depth(line);
            keys.push(key);
        }
    }
    keys.reverse();
    keys.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> FileSeen {
        FileSeen::of(text.as_bytes(), false)
    }

    #[test]
    fn a_hunk_says_what_it_stands_under() {
        let old =
            "services:\n  web:\n    image: web:1.4\n    command: run\n  db:\n    image: db:1\n";
        let new = old.replace("1.4", "1.5");
        let change = change(
            "docker-compose.yml",
            Some(&file(old)),
            Some(&file(&new)),
            None,
        );
        assert_eq!(
            change.diff.unwrap(),
            "@@ -2,3 +2,3 @@ services.web\n   web:\n-    image: web:1.4\n+    image: web:1.5\n     command: run\n"
        );
    }

    #[test]
    fn l62_values_that_may_be_secrets_are_not_shown() {
        let (old, new) = (
            "A=1\nDB_PASSWORD=canary-1\n",
            "A=1\nDB_PASSWORD=canary-2\nB=canary-3\n",
        );
        let env = change(".env", Some(&file(old)), Some(&file(new)), None);
        let note = env.note.unwrap();
        assert_eq!(note, "DB_PASSWORD changed, B added; values hidden");
        assert_eq!(env.diff, None);
        // The key stands further up than what is shown of the text.
        let yaml = |value: &str| file(&format!("KEY:\n API_TOKEN: |\n  1\n  2\n  3\n  {value}\n"));
        let shown = change(
            "a.yml",
            Some(&yaml("canary-1")),
            Some(&yaml("canary-2")),
            None,
        );
        let diff = shown.diff.unwrap();
        assert!(
            diff.contains("-  (value hidden)") && !diff.contains("canary"),
            "{diff}"
        );
        for (old, new) in [
            (None, Some("canary")),
            (Some("canary"), None),
            (Some("canary"), Some("x")),
        ] {
            let (old, new) = (old.map(file), new.map(file));
            let change = change("db.txt", old.as_ref(), new.as_ref(), Some(Holds::Secret));
            assert_eq!(
                (change.diff, change.note.unwrap()),
                (None, "value hidden".into())
            );
        }
    }

    #[test]
    fn a_bit_is_a_change_too() {
        let old = file("x");
        let new = FileSeen::of(b"x", true);
        let change = change("run", Some(&old), Some(&new), None);
        assert_eq!(change.note.unwrap(), "becomes executable");
    }
}
