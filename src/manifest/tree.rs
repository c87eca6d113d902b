use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use granit_parser::{ErrorKind, Event, Options, Parser, ScalarStyle, ScanError, Span, Tag};

use super::problem::{Place, Problem, Report, Source};
use super::root::TEXT_LIMIT;

/// How deep values may lie in each other. What walks a tree may recurse.
const DEPTH: usize = 64;
/// How many values a file may hold, those that its aliases repeat included.
const NODES: usize = 20_000;
/// How many documents a file may hold.
const DOCUMENTS: usize = 100;

/// A YAML value that knows its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub kind: Kind,
    pub span: Range<usize>,
    /// It came from a variable that may hold a secret: no message repeats it.
    pub hidden: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    /// As it is written.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    /// It depends on a variable that nobody knows, which is said elsewhere.
    Unknown,
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

    /// What it is, for people. Never its value, which may be a secret.
    pub fn what(&self) -> &'static str {
        match &self.kind {
            Kind::Null => "nothing",
            Kind::Bool(_) => "true or false",
            Kind::Number(_) => "a number",
            Kind::Text(_) => "text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
            Kind::Unknown => "a variable",
        }
    }
}

/// The documents of a file; the error says why it cannot be read at all.
pub(super) fn parse(source: &Arc<Source>) -> Result<Vec<Node>, Box<Problem>> {
    documents(&source.text).map_err(|refusal| {
        let place = Place {
            source: source.clone(),
            span: refusal.span,
        };
        Box::new(place.problem(refusal.message, refusal.cure))
    })
}

/// Why a text is not read.
pub(super) struct Refusal {
    span: Range<usize>,
    message: String,
    cure: String,
}

impl Refusal {
    fn new(span: Range<usize>, message: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            span,
            message: message.into(),
            cure: cure.into(),
        }
    }

    fn depth(span: Range<usize>) -> Self {
        Self::new(
            span,
            "values are nested too deeply here",
            format!("a file may nest them {DEPTH} deep"),
        )
    }
}

/// The documents of a text.
pub(super) fn documents(text: &str) -> Result<Vec<Node>, Refusal> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.emit_unresolved_aliases = true;
    let mut parser = Parser::new_from_str_with_options(text, options);
    let mut builder = Builder::default();
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| syntax(text, &error))?;
        builder.take(event, range(text, &span))?;
    }
    Ok(builder.documents)
}

fn range(text: &str, span: &Span) -> Range<usize> {
    let start = span.start.byte_offset().unwrap_or_default();
    let end = span.end.byte_offset().unwrap_or(start);
    let end = end.clamp(start.min(text.len()), text.len());
    // The end of a block is where the next one begins.
    let shown = text.get(start..end).map_or(0, |text| text.trim_end().len());
    start..start + shown
}

/// Builds the trees without recursion: its depth is bounded, and hostile.
#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Tree>,
    nodes: usize,
    bytes: usize,
}

/// A list or mapping whose end is still to come.
struct Open {
    kind: Opened,
    span: Range<usize>,
    anchor: usize,
    extent: Extent,
}

enum Opened {
    List(Vec<Node>),
    Map(Vec<(Node, Node)>, Option<Node>),
}

/// How large a tree is.
#[derive(Clone, Copy, Default)]
struct Extent {
    nodes: usize,
    bytes: usize,
    height: usize,
}

#[derive(Clone)]
struct Tree {
    node: Node,
    extent: Extent,
}

impl Builder {
    fn take(&mut self, event: Event, span: Range<usize>) -> Result<(), Refusal> {
        match event {
            Event::DocumentStart(..) if self.documents.len() == DOCUMENTS => {
                return Err(Refusal::new(
                    span,
                    format!("this file holds more than {DOCUMENTS} documents"),
                    "split it into several files",
                ));
            }
            // An anchor is known in its own document only.
            Event::DocumentStart(..) => self.anchors.clear(),
            Event::Scalar(text, style, anchor, tag) => {
                let extent = Extent {
                    nodes: 1,
                    bytes: text.len(),
                    height: 0,
                };
                let node = Node {
                    kind: scalar(&text, style, tag.as_deref()),
                    span,
                    hidden: false,
                };
                self.add(Tree { node, extent }, anchor)?;
            }
            Event::SequenceStart(_, anchor, _) => {
                self.open(Opened::List(Vec::new()), span, anchor)?;
            }
            Event::MappingStart(_, anchor, _) => {
                self.open(Opened::Map(Vec::new(), None), span, anchor)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(&span)?,
            Event::Alias(id) => match self.anchors.get(&id).cloned() {
                Some(mut tree) => {
                    tree.node.span = span;
                    self.add(tree, 0)?;
                }
                None => {
                    return Err(Refusal::new(
                        span,
                        "this alias stands inside of what it repeats",
                        "write the value itself",
                    ));
                }
            },
            Event::UnresolvedAlias(name) => {
                return Err(Refusal::new(
                    span,
                    format!("no `&{name}` stands before this alias"),
                    "put text that begins with `*` in quotes, or define the anchor above",
                ));
            }
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, kind: Opened, span: Range<usize>, anchor: usize) -> Result<(), Refusal> {
        if self.open.len() == DEPTH {
            return Err(Refusal::depth(span));
        }
        self.open.push(Open {
            kind,
            span,
            anchor,
            extent: Extent::default(),
        });
        Ok(())
    }

    fn close(&mut self, end: &Range<usize>) -> Result<(), Refusal> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let kind = match open.kind {
            Opened::List(items) => Kind::List(items),
            Opened::Map(entries, _) => Kind::Map(merged(entries)),
        };
        let span = open.span.start..end.end.max(open.span.end);
        let node = Node {
            kind,
            span,
            hidden: false,
        };
        let extent = Extent {
            nodes: open.extent.nodes + 1,
            height: open.extent.height + 1,
            ..open.extent
        };
        // Its content was counted as it came.
        self.nodes -= open.extent.nodes;
        self.bytes -= open.extent.bytes;
        self.add(Tree { node, extent }, open.anchor)
    }

    fn add(&mut self, tree: Tree, anchor: usize) -> Result<(), Refusal> {
        let Tree { node, extent } = tree;
        let copies = if anchor == 0 { 1 } else { 2 };
        self.nodes += extent.nodes * copies;
        self.bytes += extent.bytes * copies;
        if self.open.len() + extent.height > DEPTH {
            return Err(Refusal::depth(node.span));
        }
        if self.nodes > NODES || self.bytes > TEXT_LIMIT {
            return Err(Refusal::new(
                node.span,
                "this file holds too much",
                format!("a file may hold {NODES} values, repeated ones included: split it"),
            ));
        }
        if anchor != 0 {
            let node = node.clone();
            self.anchors.insert(anchor, Tree { node, extent });
        }
        let Some(open) = self.open.last_mut() else {
            self.documents.push(node);
            return Ok(());
        };
        open.extent.nodes += extent.nodes * copies;
        open.extent.bytes += extent.bytes * copies;
        open.extent.height = open.extent.height.max(extent.height);
        match &mut open.kind {
            Opened::List(items) => items.push(node),
            Opened::Map(entries, key) => match key.take() {
                None => *key = Some(node),
                Some(key) => entries.push((key, node)),
            },
        }
        Ok(())
    }
}

/// The entries of a mapping with those that `<<` brings in: what stands there itself
/// comes first.
fn merged(entries: Vec<(Node, Node)>) -> Vec<(Node, Node)> {
    let is_merge = |(key, value): &(Node, Node)| {
        let maps = |node: &Node| matches!(node.kind, Kind::Map(_));
        key.text() == Some("<<") && (maps(value) || value.items().iter().all(maps))
    };
    if !entries.iter().any(is_merge) {
        return entries;
    }
    let (merges, mut entries): (Vec<_>, Vec<_>) = entries.into_iter().partition(is_merge);
    for (_, value) in merges {
        let maps = match value.kind {
            Kind::List(items) => items,
            _ => vec![value],
        };
        for map in maps {
            let Kind::Map(more) = map.kind else { continue };
            for (key, value) in more {
                let name = key.text();
                if !entries.iter().any(|(key, _)| key.text() == name) {
                    entries.push((key, value));
                }
            }
        }
    }
    entries
}

/// A scalar by YAML's core schema.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Kind {
    let said = tag.is_some_and(|tag| tag.is_yaml_core_schema_tag("str") || tag.original() == "!");
    if style != ScalarStyle::Plain || said {
        return Kind::Text(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
        "true" | "True" | "TRUE" => Kind::Bool(true),
        "false" | "False" | "FALSE" => Kind::Bool(false),
        _ if is_number(text) => Kind::Number(text.to_owned()),
        _ => Kind::Text(text.to_owned()),
    }
}

fn is_number(text: &str) -> bool {
    let all = |digits: &str, radix| !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
    if let Some(digits) = text.strip_prefix("0x") {
        return all(digits, 16);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return all(digits, 8);
    }
    let plain = text.strip_prefix(['-', '+']).unwrap_or(text);
    match plain {
        ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN" => true,
        // Rust would read `inf` too.
        _ => {
            plain.starts_with(|c: char| c.is_ascii_digit() || c == '.')
                && plain.parse::<f64>().is_ok()
        }
    }
}

/// A syntax error in words that say what to write.
fn syntax(text: &str, error: &ScanError) -> Refusal {
    use ErrorKind as E;
    let at = error.marker().byte_offset().unwrap_or(text.len());
    // At the end of the file there is nothing to point at.
    let at = at.min(text.trim_end().len());
    let span = at..at;
    let (message, cure) = match error.kind() {
        _ if text[at..].starts_with("<<<<<<<") => (
            "a merge conflict begins here",
            "resolve it: keep one side and remove the marks",
        ),
        // It splits there.
        _ if text[..at].ends_with('$') && text[at..].starts_with('{') => (
            "inside of `{ }` and `[ ]` a variable must stand in quotes",
            "write `\"${name}\"`, quotes around the whole value",
        ),
        E::RecursionLimitExceeded => return Refusal::depth(span),
        E::TabNotAllowed | E::TabInBlockIndentation | E::TabInIndentation => {
            ("a tab cannot indent YAML", "indent with spaces")
        }
        E::UnclosedQuotedScalar | E::DocumentIndicatorInQuotedScalar => (
            "a quote that is opened here is not closed",
            "close it on the same line",
        ),
        E::UnclosedFlowCollection { open: '[' }
        | E::UnexpectedEofFlowSequence
        | E::ExpectedFlowSequenceSeparator => (
            "a list in `[ ]` is not closed, or lacks a comma here",
            "separate its values with `,` and close it with `]`",
        ),
        E::UnclosedFlowCollection { .. }
        | E::UnexpectedEofFlowMapping
        | E::UnexpectedEofImplicitFlowMapping
        | E::ExpectedFlowMappingSeparator => (
            "a mapping in `{ }` is not closed, or lacks a comma here",
            "separate its fields with `,` and close it with `}`",
        ),
        E::MisplacedFlowCollectionEnd | E::MismatchedFlowCollectionEnd { .. } => (
            "this bracket closes nothing that is open",
            "remove it, or open it before",
        ),
        E::UnexpectedCharacter { .. } => (
            "a plain value cannot begin with this character",
            "put the value in quotes",
        ),
        E::MappingValueNotAllowed | E::InvalidMappingValueWhitespace | E::MappingKeyNotAllowed => (
            "a `:` cannot stand here",
            "put text that holds `: ` in quotes, or align this line with its neighbours",
        ),
        E::SimpleKeyExpected | E::InvalidSimpleKey | E::InvalidColonPlacement => (
            "this line is no `key: value`",
            "write a `:` and a space after the key",
        ),
        E::ExpectedBlockMappingKey
        | E::ExpectedBlockSequenceEntry
        | E::InvalidIndentation
        | E::BlockSequenceEntryNotAllowed
        | E::InvalidFlowScalarIndent
        | E::InvalidQuotedScalarIndent => (
            "this line is indented unlike the lines that it belongs to",
            "align it with its neighbours",
        ),
        E::UnknownQuotedScalarEscape
        | E::InvalidQuotedScalarHexEscape
        | E::InvalidUnicodeEscape => (
            "a `\\` in double quotes begins an escape that does not exist",
            "write `\\\\`, or put the value in single quotes",
        ),
        E::UndeclaredTagHandle | E::ExpectedTagBang | E::MissingTagUri => (
            "text that begins with `!` is a tag",
            "put the value in quotes",
        ),
        E::MissingAnchorOrAliasName => (
            "text that begins with `*` or `&` refers to another value",
            "put the value in quotes",
        ),
        other => {
            let words = format!("YAML says: {other}");
            return Refusal::new(span, "this is not YAML that renet can read", words);
        }
    };
    Refusal::new(span, message, cure)
}

/// Reports the keys of a document that are there twice.
pub(super) fn duplicates(node: &Node, source: &Arc<Source>, report: &Report) {
    let entries = node.entries();
    let mut keys: Vec<(&str, usize)> = entries
        .iter()
        .enumerate()
        .filter_map(|(index, (key, _))| Some((key.text()?, index)))
        .collect();
    keys.sort_unstable();
    for same in keys.chunk_by(|a, b| a.0 == b.0) {
        let [(name, first), again @ ..] = same else {
            continue;
        };
        if again.is_empty() {
            continue;
        }
        let (line, _) = entries[*first].0.place(source).line_column();
        for (_, index) in again {
            report.at(
                &entries[*index].0.place(source),
                format!("`{name}` is set twice"),
                format!("first set on line {line}: keep one"),
            );
        }
    }
    for (_, value) in entries {
        duplicates(value, source, report);
    }
    for item in node.items() {
        duplicates(item, source, report);
    }
}
