//! What no message and no excerpt shows, because it may be a secret.

use std::ops::Range;

use super::tree::{Kind, Node, documents};
use super::values::near;
use crate::model::is_called_secret;

/// Fields whose values may be secrets, whatever they are called below.
const FIELDS: [&str; 5] = ["environment", "secrets", "encryption", "inline", "content"];
/// Those of them that are easily misspelt, and their neighbours, which are no secrets.
const MISSPELT: [&str; 6] = [
    "environment",
    "secrets",
    "encryption",
    "services",
    "envfile",
    "extends",
];
/// Fields that say where a secret is, and hold none.
const REFERENCES: [&str; 3] = ["file", "age", "external"];

/// How many keys of a text that is no YAML are looked at: each takes a while.
const KEYS: usize = 5_000;

/// Whether what stands under a key may be a secret. A misspelt field counts.
pub(super) fn is_secret(key: &str) -> bool {
    let plain: String = key
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    let alike = |word: &&str| word.len().abs_diff(plain.len()) <= 3;
    FIELDS.contains(&&*plain)
        || is_called_secret(&plain)
        || near(&plain, MISSPELT.into_iter().filter(alike))
            .is_some_and(|field| FIELDS.contains(&field))
}

/// The parts of a manifest or compose file that are never shown.
pub(super) fn hidden(text: &str) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    match documents(text) {
        Ok(documents) => documents.iter().for_each(|node| walk(node, &mut spans)),
        Err(_) => guess(text, &mut spans),
    }
    spans.sort_by_key(|span| span.start);
    spans
}

fn walk(node: &Node, spans: &mut Vec<Range<usize>>) {
    for (key, value) in node.entries() {
        if key.text().is_some_and(is_secret) {
            hide(value, spans);
        } else {
            walk(value, spans);
        }
    }
    node.items().iter().for_each(|item| walk(item, spans));
}

fn hide(node: &Node, spans: &mut Vec<Range<usize>>) {
    match &node.kind {
        Kind::Map(entries) => {
            for (key, value) in entries {
                let refers = key.text().is_some_and(|key| REFERENCES.contains(&key));
                if !refers || value.text().is_none() {
                    hide(value, spans);
                }
            }
        }
        Kind::List(items) => items.iter().for_each(|item| hide(item, spans)),
        // `encryption: none`
        Kind::Text(text) if text == "none" => {}
        _ => spans.push(node.span.clone()),
    }
}

/// Where a text that is not YAML may hold secrets: after such a key on its line, and on
/// the lines that are indented deeper.
fn guess(text: &str, spans: &mut Vec<Range<usize>>) {
    let mut within = None;
    let mut looked = 0;
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let end = start + line.trim_end().len();
        let content = line.trim_start_matches([' ', '\t', '-']);
        let indent = line.len() - content.len();
        if within.is_some_and(|above| indent > above || content.trim().is_empty()) {
            let key = content.find(": ").map_or(0, |at| at + 2);
            spans.push(start + indent + key..end);
        } else {
            let colon = line.match_indices(':').map(|(at, _)| at).find(|at| {
                looked += 1;
                if looked > KEYS {
                    return true;
                }
                let before = line[..*at].trim_end_matches(['"', '\'', ' ']);
                let key = before.rsplit(|c: char| !c.is_ascii_alphanumeric() && !"_-".contains(c));
                key.into_iter().next().is_some_and(is_secret)
            });
            within = colon.map(|at| {
                let value = line[at + 1..].trim();
                if !["", "none"].contains(&value) {
                    spans.push(end - value.len()..end);
                }
                line.len() - line.trim_start_matches([' ', '\t']).len()
            });
        }
        start += line.len();
    }
    spans.retain(|span| !span.is_empty());
}
