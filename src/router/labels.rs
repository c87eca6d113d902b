//! `traefik.*` labels of one container, read strictly: one unreadable value would make
//! Traefik drop the whole file.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::schema::{self, Place, Step};
use super::{Container, Protocol, shorten};

/// Routers, services and middlewares, each read or refused.
#[derive(Clone, Debug, Default)]
pub(super) struct Declared {
    pub(super) sections: BTreeMap<Protocol, Parts>,
    /// Labels that belong to none of them, and why they say nothing.
    pub(super) refused: Vec<(String, String)>,
}

/// Of one protocol.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    pub(super) routers: Named,
    pub(super) services: Named,
    pub(super) middlewares: Named,
}

/// What is declared under each name, or why it is not.
pub(super) type Named = BTreeMap<String, Result<Map<String, Value>, String>>;

/// Whether the container wants the proxy to read its `traefik.*` labels.
pub(super) fn is_enabled(container: &Container) -> bool {
    let label = container.label("traefik.enable");
    label.is_some_and(|label| label.eq_ignore_ascii_case("true") || label == "1")
}

/// Reads all of them.
pub(super) fn declared(container: &Container) -> Declared {
    let mut found = Declared::default();
    for (label, text) in &container.labels {
        let Some(path) = label.strip_prefix("traefik.") else {
            continue;
        };
        let words: Vec<&str> = path.split('.').collect();
        match words.as_slice() {
            ["enable"] => {}
            [group, ..] if group.eq_ignore_ascii_case("docker") => {}
            [protocol, kind, name, rest @ ..] => {
                let Some((protocol, parts)) = find(&mut found, protocol, kind) else {
                    found.refused.push((
                        shorten(label),
                        "no container can set that for the whole proxy".to_owned(),
                    ));
                    continue;
                };
                // Names in any case are one: the first spelling counts.
                let known = parts.keys().find(|known| known.eq_ignore_ascii_case(name));
                let name = known.cloned().unwrap_or_else(|| (*name).to_owned());
                let part = parts
                    .entry(name.clone())
                    .or_insert_with(|| match fits(&name) {
                        true => Ok(Map::new()),
                        false => Err("its name may have letters, digits, `-` and `_`".to_owned()),
                    });
                let Ok(fields) = part else { continue };
                let place = Place::root()
                    .field(protocol.as_str())
                    .and_then(|(_, place)| place.field(kind))
                    .and_then(|(_, place)| place.field(&name))
                    .map(|(_, place)| place);
                let read = place.map_or_else(
                    || Err("there is no such label".to_owned()),
                    |place| put(fields, place, rest, text),
                );
                if let Err(why) = read {
                    *part = Err(format!("label {}: {why}", shorten(label)));
                }
            }
            _ => found
                .refused
                .push((shorten(label), "there is no such label".to_owned())),
        }
    }
    for parts in found.sections.values_mut() {
        for named in [
            &mut parts.routers,
            &mut parts.services,
            &mut parts.middlewares,
        ] {
            for part in named.values_mut().flatten() {
                gather(part);
            }
        }
    }
    found
}

fn find<'a>(
    found: &'a mut Declared,
    protocol: &str,
    kind: &str,
) -> Option<(Protocol, &'a mut Named)> {
    let protocol = [Protocol::Http, Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .find(|known| known.as_str().eq_ignore_ascii_case(protocol))?;
    let kind = kind.to_ascii_lowercase();
    if !["routers", "services", "middlewares"].contains(&kind.as_str()) {
        return None;
    }
    let parts = found.sections.entry(protocol).or_default();
    Some(match kind.as_str() {
        "routers" => (protocol, &mut parts.routers),
        "services" => (protocol, &mut parts.services),
        _ => (protocol, &mut parts.middlewares),
    })
}

fn fits(name: &str) -> bool {
    const MOST: usize = 100;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !name.is_empty() && name.len() <= MOST && name.chars().all(plain)
}

/// Puts what a label says where it belongs.
fn put(
    fields: &mut Map<String, Value>,
    place: &Place,
    path: &[&str],
    text: &str,
) -> Result<(), String> {
    // `domains[0]` is a field and an index.
    let words: Vec<&str> = path
        .iter()
        .flat_map(|word| match word.find('[') {
            Some(at) => vec![&word[..at], &word[at..]],
            None => vec![*word],
        })
        .collect();
    let mut place = place;
    let mut keys = Vec::new();
    for word in &words {
        let missing = || "there is no such label".to_owned();
        if let Some(schema::Kind::Deny(why)) = place.kind() {
            return Err(why.to_owned());
        }
        let (step, below) = place.field(word).ok_or_else(missing)?;
        place = below;
        keys.push(match step {
            Step::Field(name) => name.to_owned(),
            Step::Key(name)
                if name.is_empty() || name.len() > 200 || name.chars().any(char::is_control) =>
            {
                return Err("one of its words is empty, too long, or odd".to_owned());
            }
            Step::Key(name) => name.to_owned(),
            // Sorted as numbers are.
            Step::Index(index) => format!("[{index:03}"),
        });
    }
    let kind = place
        .kind()
        .ok_or("it is a group of settings, not one of them")?;
    let Some(value) = schema::read(kind, text)? else {
        return Ok(());
    };
    let Some((last, above)) = keys.split_last() else {
        return Err("there is no such label".to_owned());
    };
    let mut fields = fields;
    for key in above {
        let below = fields.entry(key.clone()).or_insert_with(|| json!({}));
        fields = below
            .as_object_mut()
            .ok_or("it is both one setting and a group of them")?;
    }
    // A group may be named by itself besides.
    match fields.get(last) {
        Some(Value::Object(_)) if kind == schema::Kind::Empty => {}
        _ => drop(fields.insert(last.clone(), value)),
    }
    Ok(())
}

/// Turns what was put by its index into lists.
fn gather(fields: &mut Map<String, Value>) {
    for value in fields.values_mut() {
        let Value::Object(below) = value else {
            continue;
        };
        gather(below);
        if !below.is_empty() && below.keys().all(|key| key.starts_with('[')) {
            *value = Value::Array(std::mem::take(below).into_iter().map(|(_, v)| v).collect());
        }
    }
}
