//! What a document was found to say, and what reading it needs to know.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::problem::{Place, Report, Source};
use super::root::Root;
use super::{Digested, Machine, Repository, Route, Service, compose};
use crate::model::{Name, RelPath};

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
