//! The Machine's `spec.variables`, put into the string values of other manifests after
//! they were parsed: never as text, never into keys or `inline:` bodies.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::hidden::is_secret;
use super::problem::{Place, Report, Source, is_hostile};
use super::tree::{Kind, Node};
use super::values::{listed, near, text};

/// What one Machine document declares; a value is missing where it is not readable.
/// `None` where not even the names are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Declared(Option<BTreeMap<String, Option<String>>>);

/// What the Machines of a file declare.
pub(super) fn declared(documents: &[Node]) -> Vec<Declared> {
    let machines = documents.iter().filter(|document| is_machine(document));
    machines.map(|machine| Declared(read(machine))).collect()
}

fn is_machine(document: &Node) -> bool {
    document.get("kind").and_then(Node::text) == Some("Machine")
}

fn read(machine: &Node) -> Option<BTreeMap<String, Option<String>>> {
    let spec = machine.get("spec")?;
    let Some(variables) = spec.get("variables") else {
        return matches!(spec.kind, Kind::Map(_)).then(BTreeMap::new);
    };
    let Kind::Map(entries) = &variables.kind else {
        return None;
    };
    let pairs = entries.iter().map(|(key, value)| {
        let name = key.text().unwrap_or_default().to_owned();
        let value = check_value(value).ok().and(value.text());
        (name, value.map(str::to_owned))
    });
    Some(pairs.collect())
}

/// Whether a variable can have a name; the error says why not.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    match is_name(name) {
        true => Ok(()),
        false => Err(format!(
            "`{name}` is no name of a variable; use letters, digits and `_`, with no digit first"
        )),
    }
}

/// Whether a variable can have a value; the error says why not.
pub(super) fn check_value(value: &Node) -> Result<(), String> {
    let text: String = text(value)?;
    if text.contains("${") {
        return Err("a variable cannot use another; write its value".into());
    }
    if text.contains(is_hostile) {
        return Err("the value of a variable has a line break or an invisible character; write one line of visible text".into());
    }
    Ok(())
}

/// Whether a variable can have this name.
pub(super) fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The variables of a folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Variables {
    values: BTreeMap<String, Option<String>>,
    /// There are no others.
    complete: bool,
}

/// A text with variables put in.
struct Expanded {
    text: String,
    /// One of the variables may hold a secret.
    hidden: bool,
}

/// Why a text cannot be expanded.
enum Fault<'a> {
    Open,
    Name(&'a str),
    /// The variable exists, or may exist, but its value cannot be read.
    Unknown,
    Undefined(&'a str),
}

impl Variables {
    /// The variables of a folder from its Machines. `complete` where all of its files
    /// could be read.
    pub fn of<'a>(machines: impl Iterator<Item = &'a Declared>, complete: bool) -> Self {
        let machines: Vec<_> = machines.collect();
        match machines.as_slice() {
            [] => Self {
                values: BTreeMap::new(),
                complete,
            },
            [Declared(Some(values))] => Self {
                values: values.clone(),
                complete: true,
            },
            // Which of two is meant is not for renet to guess.
            _ => Self::default(),
        }
    }

    /// Whether a file could hold a variable.
    pub fn used(source: &Source) -> bool {
        source.text.contains("${")
    }

    /// Puts the variables into a document; `false` if the value of one is not known,
    /// and the document so not what it is meant to be.
    pub fn put_into(&self, document: &mut Node, source: &Arc<Source>, report: &Report) -> bool {
        is_machine(document) || self.put(document, source, report)
    }

    fn put(&self, node: &mut Node, source: &Arc<Source>, report: &Report) -> bool {
        let place = node.place(source);
        match &mut node.kind {
            Kind::Text(text) if text.contains("${") => match self.expand(text) {
                Ok(expanded) => {
                    *text = expanded.text;
                    node.hidden |= expanded.hidden;
                    true
                }
                Err(fault) => {
                    self.explain(&fault, place, report);
                    node.kind = Kind::Unknown;
                    false
                }
            },
            Kind::List(items) => {
                let mut whole = true;
                for item in items {
                    whole &= self.put(item, source, report);
                }
                whole
            }
            Kind::Map(entries) => {
                let mut whole = true;
                for (key, value) in entries {
                    let is_body = key.text() == Some("inline") && value.text().is_some();
                    whole &= is_body || self.put(value, source, report);
                }
                whole
            }
            _ => true,
        }
    }

    fn expand<'a>(&self, text: &'a str) -> Result<Expanded, Fault<'a>> {
        let mut out = Expanded {
            text: String::new(),
            hidden: false,
        };
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if let Some(before) = rest[..at].strip_suffix('$') {
                out.text.push_str(before);
                out.text.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            out.text.push_str(&rest[..at]);
            let (name, after) = rest[at + 2..].split_once('}').ok_or(Fault::Open)?;
            if !is_name(name) {
                return Err(Fault::Name(name));
            }
            match self.values.get(name) {
                Some(Some(value)) => out.text.push_str(value),
                None if self.complete => return Err(Fault::Undefined(name)),
                _ => return Err(Fault::Unknown),
            }
            out.hidden |= is_secret(name);
            rest = after;
        }
        out.text.push_str(rest);
        Ok(out)
    }

    fn explain(&self, fault: &Fault, place: Place, report: &Report) {
        let literal = "for a literal `${` write `$${`";
        match fault {
            Fault::Unknown => {}
            Fault::Open => report.at(
                &within(place, "${"),
                "a variable that begins here has no `}`",
                format!("write `${{name}}`; {literal}"),
            ),
            Fault::Name(name) => report.at(
                &within(place, &format!("${{{name}}}")),
                format!("`{name}` is no name of a variable"),
                format!("write `${{name}}`; {literal}"),
            ),
            Fault::Undefined(name) => {
                let known = || self.values.keys().map(String::as_str);
                let cure = match near(name, known()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if self.values.is_empty() => {
                        format!("define it under `spec.variables` of the Machine; {literal}")
                    }
                    None => format!("variables of the Machine: {}", listed(known())),
                };
                report.at(
                    &within(place, &format!("${{{name}}}")),
                    format!("variable `{name}` is not defined"),
                    cure,
                );
            }
        }
    }
}

/// The part of a value that is meant, where it stands there as it reads.
fn within(place: Place, part: &str) -> Place {
    let text = place.source.text.get(place.span.clone());
    match text.and_then(|text| text.find(part)) {
        Some(at) => {
            let start = place.span.start + at;
            Place {
                span: start..start + part.len(),
                ..place
            }
        }
        None => place,
    }
}
