use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fields::{Fields, near, number, plain, text};
use super::problem::{Place, Report, Source, is_hostile};
use super::proxy::proxy;
use super::repository::{absolute, repository, yes_or_no};
use super::root::Root;
use super::service::service;
use super::tree::{Kind, Node, duplicates};
use super::{
    Digested, Machine, MachineDatastore, MovedFrom, Repository, Route, Service, compose, variables,
};
use crate::model::{HostName, Name, RelPath, Size};

const KINDS: [&str; 4] = ["Machine", "Repository", "Service", "Route"];
const API: &str = "renet/v1";

/// A document of a file.
pub(super) struct Found {
    pub kind: &'static str,
    pub name: Option<Name>,
    /// Where the name stands.
    pub at: Place,
    /// The repository of a Service.
    pub repository: Option<Name>,
    /// Where values stand that are compared with those of other documents.
    pub places: BTreeMap<&'static str, Place>,
    /// The compose services that a Service defines.
    pub services: Vec<(String, Place)>,
    /// The Services that a Service depends on.
    pub depends_on: Vec<(Name, Place)>,
    /// Missing where something is wrong with it.
    pub document: Option<Document>,
}

#[derive(Clone)]
pub(super) enum Document {
    Machine(Digested<Machine>),
    Repository(Digested<Repository>),
    Service(Digested<Service>),
    Route(Digested<Route>),
}

impl Found {
    pub fn place(&self, field: &str) -> &Place {
        self.places.get(field).unwrap_or(&self.at)
    }
}

/// What decoding a document needs to know.
pub(super) struct Context<'a> {
    pub root: &'a Root,
    pub source: &'a Arc<Source>,
    /// The folder of the manifest.
    pub dir: Option<&'a RelPath>,
    pub report: &'a Report,
    /// The compose projects that were met, and what they brought along.
    pub projects: &'a mut Vec<compose::Reach>,
}

/// Whether a text says that it is one of renet's manifests.
pub(super) fn claims(text: &str) -> bool {
    text.lines()
        .filter_map(|line| {
            line.trim_start_matches('\u{feff}')
                .strip_prefix("apiVersion:")
        })
        .any(|rest| {
            rest.trim_start()
                .trim_start_matches(['"', '\''])
                .starts_with("renet/")
        })
}

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

fn machine(spec: &Fields, name: Option<&Name>, context: &Context) -> Option<Machine> {
    let datastore = spec.map("datastore").map(|fields| {
        let datastore = datastore(&fields, context);
        fields.finish();
        datastore
    });
    let proxy = spec.map("proxy").map(|fields| {
        let proxy = proxy(&fields, context);
        fields.finish();
        proxy
    });
    let overcommit = spec.optional("overcommit", overcommit);
    let base_domain = spec.optional("baseDomain", text::<HostName>);
    spec.checked("variables", variables::check_name, variables::check_value);
    Some(Machine {
        name: name?.clone(),
        variables: spec.values("variables"),
        datastore: match datastore {
            Some(datastore) => Some(datastore?),
            None => None,
        },
        overcommit,
        base_domain,
        proxy: proxy.unwrap_or_default(),
    })
}

fn datastore(fields: &Fields, context: &Context) -> Option<MachineDatastore> {
    let size = fields.optional("size", |node| {
        size(node, Size::SMALLEST_DATASTORE, "a datastore")
    });
    let path = fields.optional("backingFile", |node| {
        match absolute(&text::<PathBuf>(node)?, "/mnt/rediacc.img")? {
            path if path.starts_with("/dev") => {
                Err("this is no file; a device is named by `device:` alone".into())
            }
            path => Ok(path),
        }
    });
    let device = fields.optional("device", |node| device(&text::<PathBuf>(node)?));
    if !fields.has("device") {
        if !fields.has("size") {
            fields.lacks("size", "`size:`, like `size: 20G`, or `device: /dev/…`");
        }
        return size.map(|size| MachineDatastore::File { size, path });
    }
    let said = match (fields.has("size"), fields.has("backingFile")) {
        (false, false) => return device.map(MachineDatastore::Device),
        (true, false) => "`size:`",
        (false, true) => "`backingFile:`",
        (true, true) => "`size:` and `backingFile:`",
    };
    context.report.at(
        &fields.place("device"),
        "a datastore on a device is all of that device, and in no file",
        format!("remove `device:`, or {said}"),
    );
    None
}

/// The path of a block device.
pub(crate) fn device(path: &Path) -> Result<PathBuf, String> {
    const EXAMPLE: &str = "/dev/disk/by-id/…";
    match absolute(path, EXAMPLE) {
        Ok(path) if path.starts_with("/dev") && path != Path::new("/dev") => Ok(path),
        _ => Err(format!(
            "write the path of a device below /dev, like `{EXAMPLE}`"
        )),
    }
}

/// How much more than there is may be promised, in hundredths.
fn overcommit(node: &Node) -> Result<u32, String> {
    let cure = "write how many times the room may be promised, from 1 to 100, like `2.0`";
    let times: f64 = number(node, cure)?;
    match (1.0..=100.0).contains(&times) {
        true => Ok((times * 100.0).round() as u32),
        false => Err(cure.to_owned()),
    }
}

fn moved(node: &Node) -> Result<MovedFrom, String> {
    match node.text() {
        Some("none") => Ok(MovedFrom::Nothing),
        _ => text(node).map(MovedFrom::Name),
    }
}

fn route(spec: &Fields, found: &mut Found) -> Option<Route> {
    let service = spec.required("service", "`service:`, like `service: shop/web`", |node| {
        let text: String = text(node)?;
        let cure = "write `repository/service`, like `shop/web`";
        match text.split_once('/') {
            Some((repository, service)) if compose::is_service_name(service) => {
                let repository = repository
                    .parse::<Name>()
                    .map_err(|error| error.to_string())?;
                Ok((repository, service.to_owned()))
            }
            _ => Err(cure.into()),
        }
    });
    let port = spec.required("port", "`port:`, that the service listens on", port);
    let host = spec.required(
        "host",
        "`host:`, like `host: shop.example.com`",
        text::<HostName>,
    );
    let tls = spec.optional("tls", yes_or_no);
    for field in ["service", "host", "tls"] {
        found.places.insert(field, spec.place(field));
    }
    let (repository, service) = service?;
    Some(Route {
        name: found.name.clone()?,
        repository,
        service,
        port: port?,
        host: host?,
        tls,
    })
}
