//! What a diff does not show, because it may be a secret (L62).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::model::{FileSeen, RelPath, is_called_secret};

/// What stands in the place of a value that nobody else is to read.
pub(super) const HIDDEN: &str = "(value hidden)";
/// In the place of one that is another than before.
pub(super) const CHANGED: &str = "(changed, value hidden)";

/// Compose names secrets under it, and holds none.
const NAMES: &str = "secrets";

/// What a file holds that nobody is to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holds {
    /// Variables: their names may be read.
    Variables,
    /// A secret: nothing of it.
    Secret,
}

/// What a project's compose files say of the others. Both sides of a change are
/// asked: what was a secret stays one.
pub(super) fn files<'a>(
    sides: impl IntoIterator<Item = &'a BTreeMap<RelPath, FileSeen>>,
) -> BTreeMap<String, Holds> {
    let mut named: BTreeMap<String, Holds> = BTreeMap::new();
    for (path, file) in sides.into_iter().flatten() {
        let Some(compose) = file.text.as_deref().and_then(|text| compose(path, text)) else {
            continue;
        };
        let folder = path.as_str().rsplit_once('/').map(|(folder, _)| folder);
        let mut note = |file: &Value, holds: Holds| {
            let said = file.get("path").unwrap_or(file).as_str();
            let Some(said) = said.map(|said| said.strip_prefix("./").unwrap_or(said)) else {
                return;
            };
            let beside = match folder {
                Some(folder) => format!("{folder}/{said}"),
                None => said.to_owned(),
            };
            let known = named.entry(beside).or_insert(holds);
            *known = holds.max(*known);
        };
        let entries = |key: &str| {
            let map = compose.get(key).and_then(Value::as_object);
            map.into_iter().flatten().map(|(_, entry)| entry)
        };
        for file in entries("secrets").filter_map(|secret| secret.get("file")) {
            note(file, Holds::Secret);
        }
        for lists in entries("services").filter_map(|service| service.get("env_file")) {
            match lists {
                Value::Array(lists) => lists.iter().for_each(|list| note(list, Holds::Variables)),
                list => note(list, Holds::Variables),
            }
        }
    }
    named
}

/// A text that is a compose file.
pub(super) fn compose(path: &RelPath, text: &str) -> Option<Value> {
    let file: Value = is_yaml(path.as_str())
        .then(|| serde_yaml::from_str(text).ok())
        .flatten()?;
    file.get("services")?.as_object()?;
    Some(file)
}

pub(super) fn is_yaml(path: &str) -> bool {
    path.ends_with(".yml") || path.ends_with(".yaml")
}

/// The lines of a text as they are shown: without control characters, without the
/// values of what is called like a secret, without passwords in URLs.
pub(super) fn lines(text: &str) -> Vec<String> {
    // Where the value of a secret stands on the lines below, indented deeper.
    let mut above: Option<usize> = None;
    let shown = text.lines().map(|line| {
        let line: String = line
            .chars()
            .map(|c| {
                if c.is_control() && c != '\t' {
                    '\u{fffd}'
                } else {
                    c
                }
            })
            .collect();
        let indent = line.len() - line.trim_start().len();
        if above.is_some_and(|above| indent > above || line.trim().is_empty()) {
            return match line.trim().is_empty() {
                true => line,
                false => format!("{}{HIDDEN}", &line[..indent]),
            };
        }
        let (line, below) = masked(&line);
        above = below.then_some(indent);
        line
    });
    shown.collect()
}

/// A line without its secrets, and whether one stands below it.
fn masked(line: &str) -> (String, bool) {
    for (at, _) in line.match_indices([':', '=']) {
        let before = line[..at].trim_end_matches(['"', '\'', ' ']);
        let key = before.rsplit(|c: char| !c.is_ascii_alphanumeric() && !"_-.".contains(c));
        let key = key.into_iter().next().unwrap_or_default();
        if key == NAMES || !is_called_secret(key) {
            continue;
        }
        let rest = &line[at + 1..];
        let value = rest.trim();
        // What the value comes from is shown.
        if is_reference(value) {
            continue;
        }
        let space = &rest[..rest.len() - rest.trim_start().len()];
        return match value.is_empty() || value.starts_with(['|', '>', '#', '&']) {
            true => (line[..at + 1].to_owned(), true),
            false => (format!("{}{space}{HIDDEN}", &line[..at + 1]), false),
        };
    }
    (without_passwords(line), false)
}

/// `${NAME}`, and nothing that it would be by default.
fn is_reference(value: &str) -> bool {
    let plain = value.trim_matches(['"', '\'']);
    let name = plain
        .strip_prefix("${")
        .and_then(|rest| rest.strip_suffix('}'));
    name.is_some_and(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
}

/// `postgres://user:(value hidden)@db`
fn without_passwords(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(['/', ' ', '"', '\'']).unwrap_or(after.len());
        let (authority, beyond) = after.split_at(end);
        match authority.rsplit_once('@') {
            Some((user, host)) if user.contains(':') => {
                let user = user.split(':').next().unwrap_or_default();
                out.push_str(&format!("{user}:{HIDDEN}@{host}"));
            }
            _ => out.push_str(authority),
        }
        rest = beyond;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        lines(text).join("\n")
    }

    #[test]
    fn l62_a_secret_is_hidden_however_it_is_written() {
        for text in [
            "DB_PASSWORD: canary",
            "  - API_TOKEN=canary",
            "environment: { LOG: info, DB_PASSWORD: canary, B: canary }",
            "environment: {\"DB_PASSWORD\": \"canary\"}",
            "command: [\"--password=canary\"]",
            "PASSWORD: |\n  canary\n\n  canary",
            "PASSWORD:\n  canary",
            "PASSWORD: ${PASSWORD:-canary}",
            "DATABASE: postgres://shop:canary@db/shop",
            "a: http://x/ http://u:can@ary@host/",
        ] {
            let shown = shown(text);
            assert!(
                !shown.contains("canary") && !shown.contains("can@"),
                "{shown}"
            );
            assert!(shown.contains(HIDDEN), "{shown}");
        }
    }

    #[test]
    fn what_is_no_secret_is_shown_as_it_is() {
        for text in [
            "  LOG: info",
            "DB_PASSWORD: ${DB_PASSWORD}",
            "secrets: [db]",
            "secrets:\n  db:\n    file: ./db.txt",
            "a: http://host:80/x@y",
        ] {
            assert_eq!(shown(text), text);
        }
        let after = shown("PASSWORD: |\n  x\nLOG: info");
        assert!(after.ends_with("\nLOG: info"), "{after}");
        assert_eq!(shown("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
    }

    #[test]
    fn compose_says_which_files_are_secret() {
        let seen = |text: &str| FileSeen::of(text.as_bytes(), false);
        let one = "services: { web: { env_file: [./a.conf, { path: b.conf }] }, x: { env_file: c } }\nsecrets: { db: { file: ./db.txt } }";
        let side = BTreeMap::from([
            ("docker-compose.yml".parse().unwrap(), seen(one)),
            (
                "sub/extra.yaml".parse().unwrap(),
                seen("services: {}\nsecrets: { k: { file: key } }"),
            ),
            (
                "other.yml".parse().unwrap(),
                seen("secrets: { db: { file: no } }"),
            ),
        ]);
        let found = files([&side]);
        let of = |holds: Holds| {
            let found = found.iter().filter(|(_, is)| **is == holds);
            found.map(|(path, _)| path.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(of(Holds::Variables), ["a.conf", "b.conf", "c"]);
        assert_eq!(of(Holds::Secret), ["db.txt", "sub/key"]);
    }
}
