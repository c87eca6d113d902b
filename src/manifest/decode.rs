//! Reads one document: its kind, its metadata, and by its kind the rest.

use std::collections::BTreeMap;

use super::fields::Fields;
use super::found::{Context, Document, Found};
use super::machine::machine;
use super::repository::repository;
use super::route::route;
use super::service::service;
use super::tree::{Kind, Node, duplicates};
use super::values::{near, text};
use super::{Digested, MovedFrom, Repository};
use crate::model::Name;

const KINDS: [&str; 4] = ["Machine", "Repository", "Service", "Route"];
const API: &str = "renet/v1";

/// Reads one document; `None` if not even its kind is known.
pub(super) fn document(node: &Node, context: &mut Context) -> Option<Found> {
    let (source, report) = (context.source, context.report);
    let before = report.count();
    if let Some(second) = second_document(node) {
        report.at(
            &second.place(source),
            "a second document begins here, and nothing parts it from the first",
            "write a line `---` above it",
        );
        return None;
    }
    duplicates(node, source, report);
    if !matches!(node.kind, Kind::Map(_)) {
        report.at(
            &node.place(source),
            format!("a document must be a mapping, not {}", node.what()),
            format!("start it with `apiVersion: {API}`"),
        );
        return None;
    }
    let fields = Fields::of_document(node, source, report);
    let version = fields.required(
        "apiVersion",
        &format!("`apiVersion: {API}`"),
        |node| match node.text() {
            Some(API) => Ok(()),
            _ => Err(format!(
                "renet does not know this `apiVersion`; write `apiVersion: {API}`"
            )),
        },
    );
    // What another version knows is not known here.
    if version.is_none() && node.get("apiVersion").is_some() {
        return None;
    }
    let kinds = "one of Machine, Repository, Service, Route";
    let kind = fields.required("kind", &format!("`kind:` with {kinds}"), |node| {
        let text: String = text(node)?;
        KINDS
            .into_iter()
            .find(|kind| *kind == text)
            .ok_or_else(|| match near(&text, KINDS) {
                Some(near) => format!("renet has no such kind; did you mean `{near}`?"),
                None => format!("renet has no such kind; write {kinds}"),
            })
    });
    let metadata = fields.required_map("metadata", "`metadata: { name: … }`");
    let mut at = fields.place("kind");
    let (mut moved_from, mut at_moved) = (None, None);
    let name = metadata.and_then(|metadata| {
        let name = metadata.required("name", "`name:`", text::<Name>);
        if name.is_some() {
            at = metadata.place("name");
        }
        metadata.checked("labels", label_name, label_value);
        if let Some(annotations) = metadata.map("annotations") {
            moved_from = annotations.optional("renet/moved-from", moved);
            at_moved = Some(annotations.place("renet/moved-from"));
            annotations.finish();
        }
        metadata.finish();
        name
    });
    // Of a kind that nobody knows nothing can be said about the fields.
    let Some(kind) = kind else {
        let _ = fields.map("spec");
        fields.finish();
        return None;
    };
    if kind != "Repository"
        && moved_from.is_some()
        && let Some(place) = at_moved
    {
        report.at(
            &place,
            format!("`renet/moved-from` is for repositories, this is a {kind}"),
            "remove it: under another name this is another object",
        );
    }
    let mut found = Found {
        kind,
        name,
        at,
        repository: None,
        places: BTreeMap::new(),
        services: Vec::new(),
        depends_on: Vec::new(),
        document: None,
    };
    let cure = match kind {
        "Repository" => "`spec:` with `size:` and `encryption: none`",
        "Service" => "`spec:` with `repository:` and `compose:`",
        "Route" => "`spec:` with `service:`, `port:` and `host:`",
        _ => "`spec:`, `spec: {}` for all defaults",
    };
    let document = fields.required_map("spec", cure).and_then(|spec| {
        let document = match kind {
            "Machine" => machine(&spec, found.name.as_ref(), context)
                .map(Digested::from)
                .map(Document::Machine),
            "Repository" => repository(&spec, &mut found, context)
                .map(|repository| Repository {
                    moved_from,
                    ..repository
                })
                .map(Digested::from)
                .map(Document::Repository),
            "Service" => service(&spec, &mut found, context)
                .map(Digested::from)
                .map(Document::Service),
            _ => route(&spec, &mut found)
                .map(Digested::from)
                .map(Document::Route),
        };
        spec.finish();
        document
    });
    fields.finish();
    found.document = document.filter(|_| report.count() == before);
    Some(found)
}

/// Where a document begins that is not parted from the one before.
fn second_document(node: &Node) -> Option<&Node> {
    let keys = node.entries().iter().map(|(key, _)| key);
    let mut begins = keys.filter(|key| key.text() == Some("apiVersion"));
    begins.next()?;
    begins.next()
}

fn moved(node: &Node) -> Result<MovedFrom, String> {
    match node.text() {
        Some("none") => Ok(MovedFrom::Nothing),
        _ => text(node).map(MovedFrom::Name),
    }
}

const LABEL: &str = "use letters, digits, `-`, `_` and `.`, with a letter or digit at both ends";

fn is_label(text: &str, more: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    text.len() <= 253
        && text.starts_with(edge)
        && text.ends_with(edge)
        && text.chars().all(|c| edge(c) || more.contains(c))
}

fn label_name(name: &str) -> Result<(), String> {
    match is_label(name, "-_./") {
        true => Ok(()),
        false => Err(format!("`{name}` is no name of a label; {LABEL}")),
    }
}

fn label_value(value: &Node) -> Result<(), String> {
    let text: String = text(value)?;
    match text.is_empty() || is_label(&text, "-_.") {
        true => Ok(()),
        false => Err(format!("a label cannot have this value; {LABEL}")),
    }
}
