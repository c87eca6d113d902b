//! Single values, as people write them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use jiff::SignedDuration;

use super::problem::is_hostile;
use super::tree::{Kind, Node};
use crate::model::{Size, suggest};

/// The candidate that was probably meant.
pub(super) fn near<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // Comparing takes long for long words, and nobody means those.
    (word.len() <= 64)
        .then(|| suggest(word, candidates))
        .flatten()
}

/// `a, b, c`, each once.
pub(super) fn listed<T: Display>(items: impl Iterator<Item = T>) -> String {
    let mut seen = BTreeMap::new();
    for (order, item) in items.enumerate() {
        seen.entry(item.to_string()).or_insert(order);
    }
    let mut items: Vec<_> = seen.into_iter().collect();
    items.sort_by_key(|(_, order)| *order);
    let items: Vec<_> = items.into_iter().map(|(item, _)| item).collect();
    items.join(", ")
}

/// Reads text into a type that checks it.
pub(super) fn text<T: FromStr<Err: Display>>(node: &Node) -> Result<T, String> {
    match &node.kind {
        Kind::Text(text) => text.parse().map_err(|error: T::Err| match node.hidden {
            // The error may repeat it.
            true => "the value of this variable cannot stand here; look at its definition".into(),
            false => error.to_string(),
        }),
        Kind::Null => Err("write a value".into()),
        Kind::Number(_) | Kind::Bool(_) => Err(format!(
            "this must be text, and YAML reads {}; put it in quotes",
            node.what()
        )),
        _ => Err(format!(
            "this must be text, not {}; write one value",
            node.what()
        )),
    }
}

/// Reads text or a number into a type that checks it.
pub(super) fn plain<T: FromStr<Err: Display>>(node: &Node) -> Result<T, String> {
    match &node.kind {
        Kind::Number(value) => value.parse().map_err(|error: T::Err| error.to_string()),
        _ => text(node),
    }
}

/// Reads a whole number.
pub(super) fn number<T: FromStr>(node: &Node, cure: &str) -> Result<T, String> {
    match &node.kind {
        Kind::Number(value) => value.parse().map_err(|_| cure.to_owned()),
        Kind::Text(text) if text.parse::<T>().is_ok() => {
            Err("this must be a number, not text; write the number itself, without quotes".into())
        }
        _ => Err(cure.to_owned()),
    }
}

/// Reads a time within a range.
pub(super) fn time(
    node: &Node,
    range: RangeInclusive<SignedDuration>,
    cure: &str,
) -> Result<SignedDuration, String> {
    let text = match &node.kind {
        Kind::Number(number) => return Err(format!("a time has a unit; write `{number}s`")),
        _ => text::<String>(node)?,
    };
    // One form: the parser knows many more.
    let plain = text
        .chars()
        .all(|c| c.is_ascii_digit() || "hms".contains(c));
    let time: Option<SignedDuration> = text.parse().ok().filter(|_| plain);
    let time = time.ok_or(cure)?;
    match range.contains(&time) {
        true => Ok(time),
        false => Err(format!(
            "`{}` is too short or too long; {cure}",
            text.escape_debug()
        )),
    }
}

/// Reads a size of at least `least`.
pub(super) fn size(node: &Node, least: Size, of: &str) -> Result<Size, String> {
    let size: Size = plain(node)?;
    if size < least {
        let least = format!("{}M", least.as_bytes() >> 20);
        return Err(format!("{size} is too small; {of} has at least `{least}`"));
    }
    Ok(size)
}

/// Reads one of a few words.
pub(super) fn word<T, const N: usize>(
    node: &Node,
    words: [(&str, T); N],
    cure: &str,
) -> Result<T, String> {
    let text = node.text().unwrap_or_default();
    let near = near(text, words.iter().map(|(word, _)| *word));
    let near = near.map(|near| format!("did you mean `{near}`?"));
    let mut words = words.into_iter();
    match words.find(|(word, _)| *word == text) {
        Some((_, value)) => Ok(value),
        None => Err(near.unwrap_or_else(|| cure.to_owned())),
    }
}

/// Whether a part of a path is written as paths are that a person types.
pub(super) fn is_plain(part: &str) -> bool {
    let odd = |c: char| is_hostile(c) || "$&|;<>()*?[]{}!#~`\"'\\".contains(c);
    !part.starts_with('-') && !part.contains(odd)
}

pub(super) fn port(node: &Node) -> Result<u16, String> {
    let cure = "write a port from 1 to 65535";
    match number(node, cure)? {
        0 => Err(cure.into()),
        port => Ok(port),
    }
}

pub(super) fn yes_or_no(node: &Node) -> Result<bool, String> {
    match node.kind {
        Kind::Bool(yes) => Ok(yes),
        _ => Err("write true or false".into()),
    }
}

/// An absolute path as people type them.
pub(super) fn absolute(path: &Path, example: &str) -> Result<PathBuf, String> {
    let plain = |part: Component| match part {
        Component::Normal(part) => part.to_str().is_some_and(is_plain),
        Component::RootDir => true,
        _ => false,
    };
    if path.is_absolute() && path.file_name().is_some() && path.components().all(plain) {
        Ok(path.to_owned())
    } else {
        Err(format!("write an absolute path, like `{example}`"))
    }
}
