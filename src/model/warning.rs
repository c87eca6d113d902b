use std::fmt;

use serde::{Deserialize, Serialize};

use super::hook::ip_variable;
use super::{Actual, Desired, Object, Repository};

/// A setting of a compose file that does nothing, or something else than it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// Where it stands, `file:line:column`, where that was found.
    pub place: Option<String>,
    /// What becomes of it.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Everything that deserves a word of what is meant: what compose files say that does
/// something else, and where containers listen.
pub fn warnings(desired: &Desired, actual: &Actual) -> Vec<(Object, Warning)> {
    let said = desired.warnings();
    let mut all: Vec<(Object, Warning)> = said
        .map(|(object, warning)| (object, warning.clone()))
        .collect();
    let none = Repository::default();
    let declared = desired.repositories.values();
    for spec in declared.filter(|spec| spec.tries.is_empty()) {
        let seen = actual.repo(spec.guid, &none).unwrap_or(&none);
        let containers = seen.containers.known().into_iter().flatten();
        for (project, containers) in
            containers.filter(|(name, _)| spec.projects.contains_key(*name))
        {
            let object = Object::Service(spec.guid, project.clone());
            if !desired.asked.means(&object, Some(&spec.name)) {
                continue;
            }
            let open = containers
                .iter()
                .filter(|(_, one)| !one.everywhere.is_empty());
            all.extend(open.map(|(service, container)| {
                let ports: Vec<&str> = container.everywhere.iter().map(String::as_str).collect();
                let warning = Warning {
                    place: None,
                    message: format!(
                        "{service} listens on {} of every address of this machine: whoever \
                         reaches it reaches that, and so does every other repository; let it \
                         listen on its own address, `${{{}}}`",
                        ports.join(", "),
                        ip_variable(service)
                    ),
                };
                (object.clone(), warning)
            }));
        }
    }
    all
}
