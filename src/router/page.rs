//! What one repository has in the table.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use super::{Parts, Protocol, Row, Section, Table};

/// The routes of one repository.
#[derive(Clone, Debug, Default)]
pub(super) struct Page {
    sections: BTreeMap<Protocol, Section>,
    /// In order.
    rows: Vec<Row>,
    refused: usize,
    redirects: bool,
    lines: OnceLock<Option<Vec<Lines>>>,
}

/// What stands together in the file: things of one kind, by name.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    pub(super) protocol: Protocol,
    pub(super) kind: &'static str,
    /// The first name.
    pub(super) first: String,
    /// Without a comma at the end.
    pub(super) text: String,
}

impl PartialEq for Page {
    fn eq(&self, other: &Self) -> bool {
        self.sections == other.sections
            && self.rows == other.rows
            && self.redirects == other.redirects
    }
}

impl Page {
    /// `redirects` where any of it sends requests to HTTPS.
    pub(super) fn new(
        sections: BTreeMap<Protocol, Section>,
        mut rows: Vec<Row>,
        redirects: bool,
    ) -> Self {
        rows.sort();
        Self {
            sections,
            refused: rows.iter().filter(|row| row.refused.is_some()).count(),
            rows,
            redirects,
            lines: OnceLock::new(),
        }
    }

    pub(super) fn redirects(&self) -> bool {
        self.redirects
    }

    /// Its lines in the file; nothing where they would not read back.
    pub(super) fn lines(&self) -> Option<&[Lines]> {
        self.lines.get_or_init(|| lines(&self.sections)).as_deref()
    }
}

/// How far the things of one kind stand from the margin.
const MARGIN: &str = "      ";

/// What begins with `2816.` stands together: no name of others comes between.
pub(super) fn lines(sections: &BTreeMap<Protocol, Section>) -> Option<Vec<Lines>> {
    let mut all: Vec<Lines> = Vec::new();
    for (&protocol, section) in sections {
        for (kind, parts) in section.kinds() {
            let mut before: Option<&str> = None;
            for (name, value) in parts {
                let line = line(name, value)?;
                let scope = name.split_once('.').map(|(scope, _)| scope);
                match all.last_mut() {
                    Some(lines) if scope.is_some() && scope == before => {
                        lines.text.push_str(",\n");
                        lines.text.push_str(&line);
                    }
                    _ => all.push(Lines {
                        protocol,
                        kind,
                        first: name.clone(),
                        text: line,
                    }),
                }
                before = scope;
            }
        }
    }
    Some(all)
}

fn line(name: &str, value: &Value) -> Option<String> {
    let key = plain(&Value::from(name).to_string());
    let text = plain(&format!("{value:#}"));
    let reads = |text: &str, wanted: &Value| {
        let read: Option<Value> = serde_json::from_str(text).ok();
        read.as_ref() == Some(wanted)
    };
    if !reads(&key, &Value::from(name)) || !reads(&text, value) {
        return None;
    }
    // In JSON no text has a line's end in it.
    let text = text.replace('\n', &format!("\n{MARGIN}"));
    Some(format!("{MARGIN}{key}: {text}"))
}

/// Traefik takes the file for a template before it reads it, and templates see its
/// environment: no text of a label may be one. Only texts have two braces in a row, and
/// there one of them can be written otherwise.
pub(super) fn plain(json: &str) -> String {
    json.replace("{{", "{\\u007b")
}

impl Section {
    /// What it has, in the order of the file.
    pub(super) fn kinds(&self) -> [(&'static str, &Parts); 3] {
        [
            ("middlewares", &self.middlewares),
            ("routers", &self.routers),
            ("services", &self.services),
        ]
    }

    pub(super) fn extend(&mut self, other: &Section) {
        let copy = |parts: &Parts| parts.clone().into_iter();
        self.routers.extend(copy(&other.routers));
        self.services.extend(copy(&other.services));
        self.middlewares.extend(copy(&other.middlewares));
    }
}

impl Table {
    pub(super) fn pages(&self) -> impl Iterator<Item = &Page> {
        self.pages.values().chain([&self.common]).map(Arc::as_ref)
    }

    /// Everything that Traefik is told, by protocol.
    pub fn sections(&self) -> BTreeMap<Protocol, Section> {
        let mut all: BTreeMap<Protocol, Section> = BTreeMap::new();
        for (protocol, section) in self.pages().flat_map(|page| &page.sections) {
            all.entry(*protocol).or_default().extend(section);
        }
        all
    }

    /// Whether Traefik is told anything of a protocol.
    pub(super) fn has(&self, protocol: Protocol) -> bool {
        let sections = self.pages().filter_map(|page| page.sections.get(&protocol));
        let mut kinds = sections.flat_map(|section| section.kinds());
        kinds.any(|(_, parts)| !parts.is_empty())
    }

    /// Every route that was asked for, served or not, in order.
    pub fn rows(&self) -> Vec<&Row> {
        let mut rows: Vec<&Row> = self.pages().flat_map(|page| &page.rows).collect();
        rows.sort();
        rows
    }

    /// How many routes were asked for.
    pub fn asked(&self) -> usize {
        self.pages().map(|page| page.rows.len()).sum()
    }

    /// How many of them were refused.
    pub fn refused(&self) -> usize {
        self.pages().map(|page| page.refused).sum()
    }

    /// How many routers a protocol has, and how many services.
    pub fn count(&self, protocol: Protocol) -> (usize, usize) {
        let sections = self.pages().filter_map(|page| page.sections.get(&protocol));
        sections.fold((0, 0), |(routers, services), section| {
            (
                routers + section.routers.len(),
                services + section.services.len(),
            )
        })
    }
}
