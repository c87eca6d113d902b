//! Which labels of Traefik's there are, and what each of them holds.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::{MOST_TEXT, shorten};

/// One line a label: what it holds, and its path; `*` is any name, `[]` an index.
const TABLE: &str = include_str!("schema.txt");

/// What a label holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Any text.
    Text,
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Int,
    /// A time: seconds, or `1m30s`.
    Time,
    /// Texts with commas between.
    List,
    /// `true` for a part without settings.
    Empty,
    /// Nothing that a container may say, and why.
    Deny(&'static str),
}

/// A place in the tree of all labels.
#[derive(Debug, Default)]
pub(super) struct Place {
    kind: Option<Kind>,
    /// By their name in lower case: Traefik takes them in any.
    fields: BTreeMap<String, (&'static str, Place)>,
    any: Option<Box<Place>>,
    index: Option<Box<Place>>,
}

impl Place {
    /// The whole tree.
    pub(super) fn root() -> &'static Place {
        static ROOT: OnceLock<Place> = OnceLock::new();
        ROOT.get_or_init(|| {
            let mut root = Place::default();
            for line in TABLE.lines() {
                let (kind, rest) = line.split_once(' ').expect("a kind and a path");
                let (path, why) = rest.trim().split_once(' ').unwrap_or((rest.trim(), ""));
                let kind = match kind {
                    "text" => Kind::Text,
                    "bool" => Kind::Bool,
                    "int" => Kind::Int,
                    "time" => Kind::Time,
                    "list" => Kind::List,
                    "empty" => Kind::Empty,
                    "deny" => Kind::Deny(why),
                    other => unreachable!("{other} in the table of labels"),
                };
                let mut place = &mut root;
                for word in path.split('.') {
                    place = match word {
                        "*" => place.any.get_or_insert_default(),
                        "[]" => place.index.get_or_insert_default(),
                        word => {
                            let field = place.fields.entry(word.to_ascii_lowercase());
                            &mut field.or_insert_with(|| (word, Place::default())).1
                        }
                    };
                }
                place.kind = Some(kind);
            }
            root
        })
    }

    /// What lies below, and how it is written there.
    pub(super) fn field<'a>(&self, word: &'a str) -> Option<(Step<'a>, &Place)> {
        if let Some(index) = word.strip_prefix('[') {
            const MOST: usize = 64;
            let index = index.strip_suffix(']')?.parse().ok()?;
            let below = self.index.as_deref().filter(|_| index < MOST)?;
            return Some((Step::Index(index), below));
        }
        if let Some((name, place)) = self.fields.get(&word.to_ascii_lowercase()) {
            return Some((Step::Field(name), place));
        }
        let any = self.any.as_deref()?;
        Some((Step::Key(word), any))
    }

    /// What is written there.
    pub(super) fn kind(&self) -> Option<Kind> {
        self.kind
    }
}

/// A step down the tree.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step<'a> {
    /// A field, as Traefik spells it.
    Field(&'static str),
    /// A name that the label gives.
    Key(&'a str),
    /// A place in a list.
    Index(usize),
}

/// Reads the text of a label; `None` where it says that the part is not there.
pub(super) fn read(kind: Kind, text: &str) -> Result<Option<Value>, String> {
    if text.len() > MOST_TEXT {
        return Err(format!(
            "its text has {} bytes, and may have {MOST_TEXT}",
            text.len()
        ));
    }
    if text.chars().any(char::is_control) {
        return Err("its text has a line break or another control character".to_owned());
    }
    let wrong = |what: &str| format!("`{}` is no {what}", shorten(text));
    Ok(match kind {
        Kind::Text => Some(json!(text)),
        Kind::Bool => Some(json!(boolean(text).ok_or_else(|| wrong("true or false"))?)),
        Kind::Int => {
            let number: i64 = text.parse().map_err(|_| wrong("whole number"))?;
            Some(json!(number))
        }
        Kind::Time => Some(json!(time(text).ok_or_else(|| wrong("time like `10s`"))?)),
        Kind::List => {
            let items: Vec<&str> = text.split(',').map(str::trim).collect();
            Some(json!(items))
        }
        Kind::Empty => match boolean(text) {
            Some(true) => Some(json!({})),
            Some(false) => None,
            None => return Err(wrong("true or false")),
        },
        Kind::Deny(why) => return Err(why.to_owned()),
    })
}

/// The words that Traefik takes.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A time as Traefik writes it: a bare number is seconds.
fn time(text: &str) -> Option<String> {
    if text.parse::<u32>().is_ok() {
        return Some(format!("{text}s"));
    }
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        rest[..digits].parse::<f64>().ok()?;
        rest = &rest[digits..];
        let units = ["ms", "us", "µs", "ns", "h", "m", "s"];
        let unit = units.into_iter().find(|unit| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
    }
    // Longer ones overflow where they are counted in nanoseconds.
    (!text.is_empty() && text.len() <= 20).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_what_traefik_takes() {
        for (text, read) in [("10", "10s"), ("1m30s", "1m30s"), ("1.5h", "1.5h")] {
            assert_eq!(time(text).as_deref(), Some(read));
        }
        for wrong in ["", "s", "1d", "-1s", "1 s", "99999999999999999999h"] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
    }
}
