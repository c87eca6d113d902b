//! The table as Traefik's file provider reads it. JSON is YAML.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::asked::WEB;
use super::tls::WEBSECURE;
use super::{MOST_PRIORITY, Table};
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
fn guard(root: &mut Map<String, Value>, secure: bool) {
    const NAME: &str = "renet.dots";
    let Some(Value::Object(http)) = root.get_mut("http") else {
        return;
    };
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
    let mut all = vec![("routers", NAME.to_owned(), router.clone())];
    if secure {
        let mut router = router;
        router["entryPoints"] = json!([WEBSECURE]);
        router["tls"] = json!({});
        all.push(("routers", format!("{NAME}.https"), router));
    }
    all.push(("middlewares", NAME.to_owned(), refuse));
    for (kind, name, value) in all {
        let parts = http.entry(kind).or_insert_with(|| json!({}));
        if let Value::Object(parts) = parts {
            parts.insert(name, value);
        }
    }
}

/// What Traefik is told.
pub fn body(table: &Table) -> Value {
    let mut root = Map::new();
    for (protocol, section) in &table.sections {
        let kinds = [
            ("routers", &section.routers),
            ("services", &section.services),
            ("middlewares", &section.middlewares),
        ];
        // Traefik takes no empty ones.
        let kinds = kinds.into_iter().filter(|(_, parts)| !parts.is_empty());
        let kinds: Map<String, Value> = kinds
            .map(|(kind, parts)| (kind.to_owned(), json!(parts)))
            .collect();
        if !kinds.is_empty() {
            root.insert(protocol.as_str().to_owned(), Value::Object(kinds));
        }
    }
    guard(&mut root, table.tls.is_some());
    if let Some(tls) = &table.tls {
        root.insert("tls".to_owned(), tls.clone());
    }
    Value::Object(root)
}

/// Traefik takes the file for a template before it reads it, and templates see its
/// environment: no text of a label may be one. Only texts have two braces in a row, and
/// there one of them can be written otherwise.
fn plain(json: &str) -> String {
    json.replace("{{", "{\\u007b")
}

/// The file. The same table gives the same bytes.
pub fn render(table: &Table, manifests: &RouteTable) -> String {
    let body = plain(&format!("{:#}\n", body(table)));
    let head = Head {
        manifests: Cow::Borrowed(manifests),
        digest: digest(&body),
    };
    // Maps of texts and numbers always can be written.
    let head = serde_json::to_string(&head).unwrap_or_default();
    format!("{MARK}{head}\n{body}")
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
