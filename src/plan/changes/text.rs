use std::fmt::Write as _;

use similar::{ChangeTag, TextDiff};

use super::{FileAction, FileChange};
use crate::model::FileSeen;

/// Lines around a change that are shown with it.
const CONTEXT: usize = 1;

/// What a value is shown as that nobody else is to read.
const HIDDEN: &str = "(value hidden)";

/// What becomes of one managed file.
pub(super) fn change(path: &str, old: Option<&FileSeen>, new: Option<&FileSeen>) -> FileChange {
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
            (Some(old), Some(new)) if holds_values(path) => note = Some(keys(&old, &new)),
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
        true => "only comments or spaces differ".to_owned(),
        false => format!("{}; values hidden", differ.join(", ")),
    }
}

/// The lines that differ. The place of a hunk is a line number and, in YAML, the
/// keys that it stands under.
fn unified(path: &str, old: &str, new: &str) -> String {
    let yaml = path.ends_with(".yml") || path.ends_with(".yaml");
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
        for change in hunk.iter_changes() {
            let sign = match change.tag() {
                ChangeTag::Equal => ' ',
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
            };
            let line = change.value().trim_end_matches(['\n', '\r']);
            let _ = writeln!(out, "{sign}{}", shown(line));
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

/// A line without control characters, and without the value of what is called
/// like a secret.
fn shown(line: &str) -> String {
    const SECRET: [&str; 6] = [
        "PASSW",
        "SECRET",
        "TOKEN",
        "CREDENTIAL",
        "API_KEY",
        "PRIVATE_KEY",
    ];
    let clean: String = line
        .chars()
        .map(|c| {
            if c.is_control() && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect();
    let Some(at) = clean.find([':', '=']) else {
        return clean;
    };
    let (key, value) = clean.split_at(at);
    let is_secret = SECRET.iter().any(|word| key.to_uppercase().contains(word));
    // A mapping, or a place to read it from, is no value.
    let bare = value[1..].trim();
    if !is_secret || bare.is_empty() || bare.starts_with("${") {
        return clean;
    }
    let space = if value[1..].starts_with(' ') { " " } else { "" };
    format!("{key}{}{space}{HIDDEN}", &value[..1])
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
        let change = change("docker-compose.yml", Some(&file(old)), Some(&file(&new)));
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
        let env = change(".env", Some(&file(old)), Some(&file(new)));
        assert_eq!(
            env.note.unwrap(),
            "DB_PASSWORD changed, B added; values hidden"
        );
        assert_eq!(env.diff, None);
        let yaml = |value: &str| {
            file(&format!(
                "environment:\n  DB_PASSWORD: {value}\n  list: [x]\n  - API_TOKEN={value}\n"
            ))
        };
        let shown = change("a.yml", Some(&yaml("canary-1")), Some(&yaml("canary-2")));
        let diff = shown.diff.unwrap();
        assert!(!diff.contains("canary"), "{diff}");
        assert!(diff.contains("-  DB_PASSWORD: (value hidden)"), "{diff}");
        assert!(diff.contains("+  - API_TOKEN=(value hidden)"), "{diff}");
    }

    #[test]
    fn where_a_secret_comes_from_is_shown() {
        assert_eq!(
            shown("  DB_PASSWORD: ${DB_PASSWORD}"),
            "  DB_PASSWORD: ${DB_PASSWORD}"
        );
        assert_eq!(shown("secrets:"), "secrets:");
        assert_eq!(shown("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
    }

    #[test]
    fn a_bit_is_a_change_too() {
        let old = file("x");
        let new = FileSeen::of(b"x", true);
        let change = change("run", Some(&old), Some(&new));
        assert_eq!(change.note.unwrap(), "becomes executable");
    }
}
