use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::problem::{Place, Report, Source};
use super::tree::{Kind, Node};
use super::values::{listed, near};

/// The fields of one mapping while it is decoded: each is asked for by name, and
/// what was not asked for is unknown.
pub(super) struct Fields<'a> {
    source: &'a Arc<Source>,
    report: &'a Report,
    entries: &'a [(Node, Node)],
    /// Where a missing field is reported.
    at: Place,
    asked: RefCell<Vec<&'static str>>,
    /// Reported at the end, when a misspelt field can be told from a missing one.
    missing: RefCell<Vec<(&'static str, String)>>,
    /// Where it stands in its document.
    #[cfg(test)]
    path: String,
}

#[cfg(test)]
thread_local! {
    /// Every field that was asked for, by its path, and whether it must be there.
    pub(super) static ASKED: RefCell<std::collections::BTreeSet<(String, bool)>> =
        RefCell::default();
}

impl<'a> Fields<'a> {
    /// The fields of a document.
    pub fn of_document(node: &'a Node, source: &'a Arc<Source>, report: &'a Report) -> Self {
        let at = node.entries().first().map_or(node, |(key, _)| key);
        Self::new(node, at.place(source), source, report)
    }

    fn new(node: &'a Node, at: Place, source: &'a Arc<Source>, report: &'a Report) -> Self {
        Self {
            source,
            report,
            entries: node.entries(),
            at,
            asked: RefCell::default(),
            missing: RefCell::default(),
            #[cfg(test)]
            path: String::new(),
        }
    }

    /// A field's key and value.
    pub fn entry(&self, name: &'static str) -> Option<&'a (Node, Node)> {
        #[cfg(test)]
        self.note(name, false);
        self.asked.borrow_mut().push(name);
        self.entries
            .iter()
            .find(|(key, _)| key.text() == Some(name))
    }

    /// Notes for the test that holds the schema against the decoder.
    #[cfg(test)]
    fn note(&self, name: &str, required: bool) {
        ASKED.with_borrow_mut(|asked| {
            let path = |required| (format!("{}{name}", self.path), required);
            // What is required is asked for twice.
            if !asked.contains(&path(true)) {
                asked.remove(&path(!required));
                asked.insert(path(required));
            }
        });
    }

    /// Whether a field is there, whatever it holds.
    pub fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|(key, _)| key.text() == Some(name))
    }

    /// Where the mapping begins.
    pub fn start(&self) -> Place {
        self.at.clone()
    }

    /// Notes a field that is missing because of what the others say.
    pub fn lacks(&self, name: &'static str, cure: &str) {
        self.missing.borrow_mut().push((name, cure.to_owned()));
    }

    /// The place of a field's value.
    pub fn place(&self, name: &str) -> Place {
        self.entries
            .iter()
            .find(|(key, _)| key.text() == Some(name))
            .map_or_else(|| self.at.clone(), |(_, value)| value.place(self.source))
    }

    /// The mapping in a field.
    pub fn map(&self, name: &'static str) -> Option<Fields<'a>> {
        let (key, value) = self.entry(name)?;
        self.inner(name, name, key, value)
    }

    /// The entries of a mapping in a field, whose keys are not ours.
    pub fn each(&self, name: &'static str) -> &'a [(Node, Node)] {
        self.map(name).map_or(&[], |map| map.entries)
    }

    /// The mapping at an entry of the mapping in a field.
    pub fn item(&self, of: &str, key: &Node, value: &'a Node) -> Option<Fields<'a>> {
        let name = key.text().unwrap_or_default();
        self.inner(name, &format!("{of}.*"), key, value)
    }

    fn inner(&self, name: &str, _path: &str, key: &Node, value: &'a Node) -> Option<Fields<'a>> {
        let place = key.place(self.source);
        match value.kind {
            Kind::Map(_) => {
                let fields = Self::new(value, place, self.source, self.report);
                #[cfg(test)]
                let fields = Self {
                    path: format!("{}{_path}.", self.path),
                    ..fields
                };
                Some(fields)
            }
            Kind::Unknown => None,
            Kind::Null => {
                self.report.at(
                    &place,
                    format!("`{name}` is empty"),
                    "write its fields below it, indented",
                );
                None
            }
            _ => {
                self.report.at(
                    &value.place(self.source),
                    format!("`{name}` must be a mapping, not {}", value.what()),
                    "write its fields below it, indented",
                );
                None
            }
        }
    }

    /// The mapping in a field that must be there.
    pub fn required_map(&self, name: &'static str, cure: &str) -> Option<Fields<'a>> {
        if self.missing(name, cure) {
            return None;
        }
        self.map(name)
    }

    /// Notes a field that is missing.
    fn missing(&self, name: &'static str, cure: &str) -> bool {
        #[cfg(test)]
        self.note(name, true);
        let missing = self.entry(name).is_none();
        if missing {
            self.missing.borrow_mut().push((name, cure.to_owned()));
        }
        missing
    }

    /// A field that must be there; `cure` is what to add.
    pub fn required<T>(
        &self,
        name: &'static str,
        cure: &str,
        read: impl Fn(&Node) -> Result<T, String>,
    ) -> Option<T> {
        if self.missing(name, cure) {
            return None;
        }
        self.optional(name, read)
    }

    /// A field that may be there.
    pub fn optional<T>(
        &self,
        name: &'static str,
        read: impl Fn(&Node) -> Result<T, String>,
    ) -> Option<T> {
        let (key, value) = self.entry(name)?;
        self.read(name, key, value, read)
    }

    /// Reads one value; an error is reported where it stands, or where it is missing.
    fn read<T>(
        &self,
        name: &str,
        key: &Node,
        value: &Node,
        read: impl Fn(&Node) -> Result<T, String>,
    ) -> Option<T> {
        if matches!(value.kind, Kind::Unknown) {
            return None;
        }
        let read = read(value).map_err(|error| self.refuse(key, value, name, &error));
        read.ok()
    }

    /// Reports a value that cannot be read.
    fn refuse(&self, key: &Node, value: &Node, name: &str, error: &str) {
        let at = if value.span.is_empty() { key } else { value };
        // Types of the model say both in one sentence.
        let (message, cure) = match error.rsplit_once("; ") {
            Some((message, cure)) => match message.strip_prefix("this ") {
                Some(rest) => (format!("`{name}` {rest}"), cure),
                None => (message.to_owned(), cure),
            },
            None if value.is_null() => (format!("`{name}` is empty"), error),
            None => (format!("bad `{name}`"), error),
        };
        self.report.at(&at.place(self.source), message, cure);
    }

    /// Checks a field that holds values by name.
    pub fn checked(
        &self,
        name: &'static str,
        check_name: impl Fn(&str) -> Result<(), String>,
        check_value: impl Fn(&Node) -> Result<(), String>,
    ) {
        let Some(fields) = self.map(name) else { return };
        for (key, value) in fields.entries {
            let Some(key_text) = key.text() else {
                self.report.at(
                    &key.place(self.source),
                    format!("a name in `{name}` must be text, not {}", key.what()),
                    "write it in quotes",
                );
                continue;
            };
            if let Err(error) = check_name(key_text) {
                self.refuse(key, key, key_text, &error);
            }
            if matches!(value.kind, Kind::Unknown) {
                continue;
            }
            if let Err(error) = check_value(value) {
                self.refuse(key, value, key_text, &error);
            }
        }
    }

    /// The texts that a field holds by name.
    pub fn values(&self, name: &'static str) -> BTreeMap<String, String> {
        let entries = self
            .entry(name)
            .map_or(&[][..], |(_, value)| value.entries());
        let texts = entries
            .iter()
            .filter_map(|(key, value)| Some((key.text()?.to_owned(), value.text()?.to_owned())));
        texts.collect()
    }

    /// A field that may be there and holds a list; each item with its place.
    pub fn list<T>(
        &self,
        name: &'static str,
        cure: &str,
        read: impl Fn(&Node) -> Result<T, String>,
    ) -> Vec<(T, Place)> {
        let Some((key, value)) = self.entry(name) else {
            return Vec::new();
        };
        let Kind::List(items) = &value.kind else {
            let at = if value.is_null() { key } else { value };
            let message = format!("`{name}` must be a list, not {}", value.what());
            let cure = format!("write a list, like {cure}");
            self.report.at(&at.place(self.source), message, cure);
            return Vec::new();
        };
        let read = items
            .iter()
            .map(|item| Some((self.read(name, key, item, &read)?, item.place(self.source))));
        read.flatten().collect()
    }

    /// Reports what nobody asked for and what is missing. Every decoder ends
    /// with it.
    pub fn finish(self) {
        let known = self.asked.borrow();
        let mut missing = self.missing.into_inner();
        for (key, _) in self.entries {
            let place = key.place(self.source);
            match key.text() {
                Some(name) if known.contains(&name) => {}
                Some(name) => {
                    let label = match near(name, known.iter().copied()) {
                        Some(meant) => {
                            missing.retain(|(field, _)| *field != meant);
                            format!("did you mean `{meant}`?")
                        }
                        None => format!("known here: {}", listed(known.iter())),
                    };
                    self.report
                        .at(&place, format!("unknown field `{name}`"), label);
                }
                None => self.report.at(
                    &place,
                    format!("a field's name must be text, not {}", key.what()),
                    format!("known here: {}", listed(known.iter())),
                ),
            }
        }
        for (name, cure) in missing {
            self.report.at(
                &self.at,
                format!("missing field `{name}`"),
                format!("add {cure}"),
            );
        }
    }
}
