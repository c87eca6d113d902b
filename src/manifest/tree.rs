use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::Spanned;

use super::problem::{Place, Problem, Report, Source};

/// A YAML value that knows its place.
#[derive(Debug)]
pub(super) struct Node {
    pub kind: Kind,
    pub span: Range<usize>,
}

#[derive(Debug)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

impl Node {
    pub fn place(&self, source: &Arc<Source>) -> Place {
        Place {
            source: source.clone(),
            span: self.span.clone(),
        }
    }

    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self.kind, Kind::Null)
    }

    pub fn entries(&self) -> &[(Node, Node)] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }

    pub fn items(&self) -> &[Node] {
        match &self.kind {
            Kind::List(items) => items,
            _ => &[],
        }
    }

    /// The value of a key of a mapping.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries()
            .iter()
            .find(|(name, _)| name.text() == Some(key))
            .map(|(_, value)| value)
    }

    /// What it is, for people.
    pub fn what(&self) -> String {
        match &self.kind {
            Kind::Null => "nothing".into(),
            Kind::Bool(value) => format!("the boolean `{value}`"),
            Kind::Number(value) => format!("the number `{value}`"),
            Kind::Text(value) => format!("the text `{value}`"),
            Kind::List(_) => "a list".into(),
            Kind::Map(_) => "a mapping".into(),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Kind>::deserialize(deserializer)?;
        let span = spanned.referenced.span();
        let start = span.byte_offset().unwrap_or_default() as usize;
        Ok(Self {
            kind: spanned.value,
            span: start..start.saturating_add(span.byte_len().unwrap_or_default() as usize),
        })
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KindVisitor)
    }
}

struct KindVisitor;

impl<'de> Visitor<'de> for KindVisitor {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
        Ok(Kind::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
        Ok(Kind::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
        Ok(Kind::Number(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Kind, E> {
        Ok(Kind::Number(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Kind, E> {
        Ok(Kind::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Kind, E> {
        Ok(Kind::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Kind, E> {
        Ok(Kind::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Kind, E> {
        Ok(Kind::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Kind, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Kind::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Kind::Map(entries))
    }
}

/// The documents of a file; the error says why it cannot be read at all.
pub(super) fn parse(source: &Arc<Source>) -> Result<Vec<Node>, Box<Problem>> {
    let options = serde_yaml::options! {
        strict_booleans: true,
        with_snippet: false,
        // Reported by `duplicates`, all of them and with both places.
        duplicate_keys: serde_yaml::options::DuplicateKeyPolicy::PassThrough,
        budget: serde_yaml::budget! {
            max_reader_input_bytes: Some(super::root::TEXT_LIMIT),
            max_total_scalar_bytes: super::root::TEXT_LIMIT,
            max_recorded_anchor_bytes: super::root::TEXT_LIMIT,
            max_events: 80_000,
            max_nodes: 20_000,
            max_documents: 100,
            max_depth: 64,
        },
    };
    serde_yaml::from_multiple_with_options(&source.text, options)
        .map_err(|error| Box::new(syntax(source, &error)))
}

fn syntax(source: &Arc<Source>, error: &serde_yaml::Error) -> Problem {
    let error = error.without_snippet();
    let start = error
        .location()
        .map_or(0, |at| offset(&source.text, at.line(), at.column()));
    let words = error.to_string();
    // The place is drawn already.
    let words = words.split(" at line ").next().unwrap_or(&words);
    let words = words.lines().next().unwrap_or(words);
    let place = Place {
        source: source.clone(),
        span: start..start,
    };
    if words.starts_with("budget breached") {
        return place.problem(
            "this file holds too much",
            "at most 100 documents and 20,000 values in a file: split it",
        );
    }
    place.problem("this is not YAML that renet can read", words)
}

/// The byte at which a line and column (in characters) begin.
fn offset(text: &str, line: u64, column: u64) -> usize {
    let line_start: usize = text
        .split_inclusive('\n')
        .take(line.saturating_sub(1) as usize)
        .map(str::len)
        .sum();
    let rest = &text[line_start..];
    line_start
        + rest
            .char_indices()
            .nth(column.saturating_sub(1) as usize)
            .map_or(rest.len(), |(at, _)| at)
}

/// Reports the keys of a document that are there twice.
pub(super) fn duplicates(node: &Node, source: &Arc<Source>, report: &Report) {
    let mut first = std::collections::HashMap::new();
    for (key, value) in node.entries() {
        if let Some(name) = key.text() {
            let place = key.place(source);
            match first.get(name) {
                None => {
                    first.insert(name, place);
                }
                Some(earlier) => report.at(
                    &place,
                    format!("`{name}` is set twice"),
                    format!("first set on line {}; keep one", earlier.line_column().0),
                ),
            }
        }
        duplicates(value, source, report);
    }
    for item in node.items() {
        duplicates(item, source, report);
    }
}
