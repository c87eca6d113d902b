//! The table as Traefik's file provider reads it. JSON is YAML.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::asked::WEB;
use super::page::{lines, plain};
use super::tls::WEBSECURE;
use super::{MOST_PRIORITY, Protocol, Section, Table};
use crate::model::{Digest, RouteTable};

/// Says whose the file is, and that nobody edited it since.
const MARK: &str = "# renet ";

#[derive(Serialize, Deserialize)]
struct Head<'a> {
    /// The Route manifests in the table, served or held by somebody else.
    manifests: Cow<'a, RouteTable>,
    /// Of everything below.
    digest: Digest,
}

/// Answers `/..;/` with 400. Traefik takes it for a name, and some services for `/../`:
/// such a request would pass by a router that asks for a password.
fn guard(secure: bool) -> Section {
    const NAME: &str = "renet.dots";
    let router = json!({
        "entryPoints": [WEB],
        "rule": "PathRegexp(`/[.][.]?;`)",
        "priority": MOST_PRIORITY,
        "middlewares": [NAME],
        "service": "noop@internal",
    });
    // Nobody has that address.
    let refuse = json!({"ipAllowList": {
        "sourceRange": ["255.255.255.255"],
        "rejectStatusCode": 400,
    }});
    let mut guard = Section::default();
    guard.routers.insert(NAME.to_owned(), router.clone());
    guard.middlewares.insert(NAME.to_owned(), refuse);
    if secure {
        let mut router = router;
        router["entryPoints"] = json!([WEBSECURE]);
        router["tls"] = json!({});
        guard.routers.insert(format!("{NAME}.https"), router);
    }
    guard
}

/// What is guarded, where there is anything to guard.
fn guards(table: &Table) -> BTreeMap<Protocol, Section> {
    let guard = || (Protocol::Http, guard(table.tls.is_some()));
    table.has(Protocol::Http).then(guard).into_iter().collect()
}

/// What Traefik is told.
pub fn body(table: &Table) -> Value {
    let mut root = Map::new();
    let mut sections = table.sections();
    for (protocol, guard) in guards(table) {
        sections.entry(protocol).or_default().extend(&guard);
    }
    for (protocol, section) in sections {
        // Traefik takes no empty ones.
        let kinds = section.kinds().into_iter();
        let kinds: Map<String, Value> = kinds
            .filter(|(_, parts)| !parts.is_empty())
            .map(|(kind, parts)| (kind.to_owned(), json!(parts)))
            .collect();
        if !kinds.is_empty() {
            root.insert(protocol.as_str().to_owned(), Value::Object(kinds));
        }
    }
    if let Some(tls) = &table.tls {
        root.insert("tls".to_owned(), tls.clone());
    }
    Value::Object(root)
}

/// [`body`] as it stands in the file, from the lines that each repository has.
fn text(table: &Table) -> Option<String> {
    let guards = lines(&guards(table))?;
    let mut all: BTreeMap<&str, BTreeMap<&str, BTreeMap<&str, &str>>> = BTreeMap::new();
    let mut pages = Vec::new();
    for page in table.pages() {
        pages.push(page.lines()?);
    }
    for lines in pages.into_iter().chain([guards.as_slice()]).flatten() {
        let kinds = all.entry(lines.protocol.as_str()).or_default();
        let names = kinds.entry(lines.kind).or_default();
        names.insert(&lines.first, &lines.text);
    }
    let mut parts: Vec<String> = all
        .into_iter()
        .map(|(protocol, kinds)| {
            let kinds: Vec<String> = kinds
                .into_iter()
                .map(|(kind, names)| {
                    let names: Vec<&str> = names.into_values().collect();
                    format!("    \"{kind}\": {{\n{}\n    }}", names.join(",\n"))
                })
                .collect();
            format!("  \"{protocol}\": {{\n{}\n  }}", kinds.join(",\n"))
        })
        .collect();
    if let Some(tls) = &table.tls {
        let tls = plain(&format!("{tls:#}")).replace('\n', "\n  ");
        parts.push(format!("  \"tls\": {tls}"));
        // As `body` has them.
        parts.sort();
    }
    Some(match parts.is_empty() {
        true => "{}\n".to_owned(),
        false => format!("{{\n{}\n}}\n", parts.join(",\n")),
    })
}

/// The file. The same table gives the same bytes; nothing where they would not read back.
pub fn render(table: &Table, manifests: &RouteTable) -> Option<String> {
    let body = text(table)?;
    let head = Head {
        manifests: Cow::Borrowed(manifests),
        digest: digest(&body),
    };
    let head = serde_json::to_string(&head).ok()?;
    let read: Head = serde_json::from_str(&head).ok()?;
    (*read.manifests == *manifests).then(|| format!("{MARK}{head}\n{body}"))
}

/// The Route manifests of a published file; `None` where it was edited or torn.
pub fn parse(text: &str) -> Option<RouteTable> {
    let (head, body) = text.strip_prefix(MARK)?.split_once('\n')?;
    let head: Head = serde_json::from_str(head).ok()?;
    if digest(body) != head.digest {
        return None;
    }
    serde_json::from_str::<Value>(body).ok()?;
    Some(head.manifests.into_owned())
}

fn digest(body: &str) -> Digest {
    Digest::of(body.as_bytes())
}
