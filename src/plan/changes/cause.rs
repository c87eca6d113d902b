use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::hidden;
use crate::model::{FileSeen, Name, ProjectSpec, RelPath};

/// What forces the containers of a project to be made anew.
#[derive(Debug, Default)]
pub(super) struct Causes {
    /// By service, the settings that differ.
    settings: BTreeMap<String, Vec<String>>,
    /// Services that were not defined before.
    new: BTreeSet<String>,
    /// By service, the managed files that differ and that it uses.
    files: BTreeMap<String, Vec<String>>,
}

/// More causes than this say no more.
const MOST: usize = 3;

impl Causes {
    /// From the project's files as they lay there, and as they will; and from what
    /// compose was given last, where that is known: what the manifest puts into the
    /// environment is seen in that alone.
    pub fn of(
        before: &BTreeMap<RelPath, FileSeen>,
        given: Option<&str>,
        project: &ProjectSpec,
    ) -> Self {
        let mut causes = Self::default();
        let resolved: Value = serde_json::from_str(&project.compose).unwrap_or_default();
        let given: Option<Value> = given.and_then(|text| serde_json::from_str(text).ok());
        if let (Some(was), Some(is)) = (given.as_ref().and_then(defined), defined(&resolved)) {
            causes.compare(&was, &is);
        }
        let files = project.files.files();
        let mut changed: Vec<&RelPath> = Vec::new();
        for (path, file) in files {
            let after = FileSeen::from(file);
            let old = before.get(path);
            if old == Some(&after) {
                continue;
            }
            let services = |text: &Option<std::sync::Arc<str>>| services(path, text.as_deref()?);
            match (
                old.and_then(|old| services(&old.text)),
                services(&after.text),
            ) {
                (Some(_), Some(_)) if given.is_some() => {}
                (Some(old), Some(new)) => causes.compare(&old, &new),
                _ => changed.push(path),
            }
        }
        let gone = before.keys().filter(|path| !files.contains_key(*path));
        changed.extend(gone);
        let services = resolved.get("services").and_then(Value::as_object);
        for (service, config) in services.into_iter().flatten() {
            let mut used = Vec::new();
            let mut note = |text: &str| used.extend(inside(text, &project.name));
            texts(config, &mut note);
            // Configs and secrets are named there and defined beside the services.
            for kind in ["configs", "secrets"] {
                let named = config.get(kind).and_then(Value::as_array);
                for named in named.into_iter().flatten() {
                    let name = named.get("source").unwrap_or(named).as_str();
                    let defined = resolved.get(kind).zip(name);
                    let defined = defined.and_then(|(all, name)| all.get(name));
                    texts(defined.unwrap_or(&Value::Null), &mut note);
                }
            }
            let files = changed.iter().filter(|path| {
                used.iter().any(|used| {
                    used.is_empty()
                        || path.as_str() == *used
                        || path
                            .as_str()
                            .strip_prefix(used)
                            .is_some_and(|rest| rest.starts_with('/'))
                })
            });
            let files: Vec<String> = files.map(ToString::to_string).collect();
            causes.files.insert(service.clone(), files);
        }
        causes
    }

    fn compare(&mut self, old: &BTreeMap<String, Value>, new: &BTreeMap<String, Value>) {
        for (service, config) in new {
            let Some(was) = old.get(service) else {
                self.new.insert(service.clone());
                continue;
            };
            let place = format!("services.{service}");
            let differ = self.settings.entry(service.clone()).or_default();
            settings(&place, was, config, differ);
        }
    }

    /// Whether the service was not defined before.
    pub fn is_new(&self, service: &str) -> bool {
        self.new.contains(service)
    }

    /// Why the service's container is made anew.
    pub fn of_service(&self, service: &str, stale_image: bool) -> Vec<String> {
        let of =
            |all: &BTreeMap<String, Vec<String>>| all.get(service).cloned().unwrap_or_default();
        let mut because = of(&self.settings);
        because.extend(of(&self.files));
        if because.is_empty() && stale_image {
            because.push("its image was built or pulled anew".to_owned());
        }
        if because.is_empty() {
            because.push("its resolved configuration differs".to_owned());
        }
        because
    }
}

/// The first of many causes, in a line: `services.web.image, site.conf, 2 more`.
pub fn few(causes: &[String]) -> String {
    let mut few = causes.iter().take(MOST).cloned().collect::<Vec<_>>();
    match causes.len().saturating_sub(MOST) {
        0 => {}
        more => few.push(format!("{more} more")),
    }
    few.join(", ")
}

/// The services of a text that is a compose file.
fn services(path: &RelPath, text: &str) -> Option<BTreeMap<String, Value>> {
    let file = hidden::compose(path, text)?;
    Some(named(file.get("services")?.as_object()?))
}

fn named(services: &Map<String, Value>) -> BTreeMap<String, Value> {
    let services = services.iter();
    services
        .map(|(name, config)| (name.clone(), config.clone()))
        .collect()
}

/// The services of a resolved file, without what stands for the contents of files:
/// those are causes of their own.
fn defined(resolved: &Value) -> Option<BTreeMap<String, Value>> {
    let mut services = named(resolved.get("services")?.as_object()?);
    let all = services.values_mut().filter_map(Value::as_object_mut);
    for service in all {
        if let Some(labels) = service.get_mut("labels").and_then(Value::as_object_mut) {
            labels.retain(|label, _| !label.starts_with("renet."));
        }
        if let Some(build) = service.get_mut("build").and_then(Value::as_object_mut) {
            build.remove("tags");
            service.remove("image");
        }
    }
    Some(services)
}

/// The settings that differ, by their place: the deepest mapping's key.
fn settings(place: &str, old: &Value, new: &Value, differ: &mut Vec<String>) {
    if old == new {
        return;
    }
    let (Some(was), Some(is)) = (old.as_object(), new.as_object()) else {
        return differ.push(place.to_owned());
    };
    let keys: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    for key in keys {
        let place = format!("{place}.{key}");
        let of = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
        settings(&place, &of(was), &of(is), differ);
    }
}

fn texts(value: &Value, found: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => found(text),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(map) => map.values().for_each(|item| texts(item, found)),
        _ => {}
    }
}

/// The path in the project's directory that a resolved setting names.
fn inside(text: &str, project: &Name) -> Option<String> {
    let (_, beneath) = text.split_once("/mounts/")?;
    let (_guid, path) = beneath.split_once('/')?;
    let rest = path.strip_prefix(project.as_str())?;
    match rest.strip_prefix('/') {
        Some(rest) => Some(rest.to_owned()),
        None => rest.is_empty().then(String::new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_named_by_its_place() {
        let value = |text: &str| serde_yaml::from_str::<Value>(text).unwrap();
        let old = value("{ image: 'web:1.4', environment: { LOG: info, A: 1 }, ports: [1] }");
        let new =
            value("{ image: 'web:1.5', environment: { LOG: debug, A: 1 }, ports: [1, 2], x: 1 }");
        let mut differ = Vec::new();
        settings("services.web", &old, &new, &mut differ);
        assert_eq!(
            differ,
            [
                "services.web.environment.LOG",
                "services.web.image",
                "services.web.ports",
                "services.web.x",
            ]
        );
    }

    #[test]
    fn only_what_lies_in_the_project_is_one_of_its_files() {
        let project: Name = "web".parse().unwrap();
        let beneath = |text| inside(text, &project);
        assert_eq!(
            beneath("/mnt/rediacc/mounts/5d0e/web/nginx.conf"),
            Some("nginx.conf".into())
        );
        assert_eq!(beneath("/mnt/rediacc/mounts/5d0e/web"), Some(String::new()));
        assert_eq!(beneath("/mnt/rediacc/mounts/5d0e/website/a"), None);
        assert_eq!(beneath("web:1.5"), None);
    }
}
