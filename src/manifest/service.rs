//! Kind `Service`, and how the Services of a repository depend on each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::SignedDuration;

use super::Service;
use super::compose::{self, Content, Managed};
use super::fields::Fields;
use super::found::{Context, Found};
use super::limits::{self, Least};
use super::problem::{Place, Report};
use super::tree::{Kind, Node};
use super::values::{listed, near, text, time, word, yes_or_no};
use super::variables;
use crate::model::{Environment, Name, OnFailure, ProjectSpec, RelPath, ResourceLimits, Size};

/// Reads the spec of a Service.
pub(super) fn service(spec: &Fields, found: &mut Found, context: &mut Context) -> Option<Service> {
    found.repository = spec.required("repository", "`repository:`, its name", text::<Name>);
    found.places.insert("repository", spec.place("repository"));
    if found
        .name
        .as_ref()
        .is_some_and(|name| name.as_str() == "root")
    {
        context.report.at(
            &found.at,
            "a Service cannot be called `root`",
            "choose another name: `root` is the project in the repository's own folder",
        );
    }
    let cure = "`compose: { file: … }`";
    let file = spec.required_map("compose", cure).and_then(|compose| {
        let cure = "`file:`, the compose file's path";
        let file = compose.required("file", cure, text::<RelPath>);
        let place = compose.place("file");
        compose.finish();
        Some((file?, place))
    });
    found.depends_on = spec.list("dependsOn", "`dependsOn: [db]`", text::<Name>);
    let wait = spec.map("wait").map(|wait| {
        let healthy = wait.required("healthy", "`healthy:`, like `healthy: 60s`", limit);
        wait.finish();
        healthy
    });
    let update = spec.map("update").map(|update| {
        let policies = [
            ("Rollback", OnFailure::Rollback),
            ("RollbackWithData", OnFailure::RollbackWithData),
            ("Stop", OnFailure::Stop),
        ];
        let on_failure = update.optional("onFailure", |node| {
            word(node, policies, "write Rollback, RollbackWithData or Stop")
        });
        let fork_first = update.optional("forkFirst", yes_or_no);
        update.finish();
        (
            on_failure.unwrap_or_default(),
            fork_first.unwrap_or_default(),
        )
    });
    let (on_failure, fork_first) = update.unwrap_or_default();
    let mut managed = managed(spec, context);
    managed.extend(rediaccfile(spec, context));
    let environment = environment(spec, context);
    let limits = service_limits(spec, context);
    let (file, place) = file?;
    let path = context
        .dir
        .map_or_else(|| file.clone(), |dir| file.beneath(dir));
    let (project, reach) = compose::gather(context.root, &path, &place, &managed, context.report);
    context.projects.push(reach);
    found.services = project.services;
    for (service, (_, place)) in &limits {
        is_defined(service, place, &found.services, context.report);
    }
    Some(Service {
        repository: found.repository.clone()?,
        name: found.name.clone()?,
        files: Arc::new(project.files),
        compose_file: project.compose_file,
        services: found
            .services
            .iter()
            .map(|(name, _)| name.clone())
            .collect(),
        environment,
        depends_on: found.depends_on.iter().map(|(on, _)| on.clone()).collect(),
        healthy_within: match wait {
            Some(limit) => limit?,
            None => ProjectSpec::HEALTHY_WITHIN,
        },
        on_failure,
        fork_first,
        limits: limits
            .into_iter()
            .map(|(service, (limits, _))| (service, limits))
            .collect(),
    })
}

/// The Rediaccfile, under the name by which hooks are found.
fn rediaccfile(spec: &Fields, context: &Context) -> Option<Managed> {
    let fields = spec.map("rediaccfile")?;
    let cure = "`file:`, the Rediaccfile's path";
    let file = fields.required("file", cure, text::<RelPath>);
    let place = fields.place("file");
    fields.finish();
    let file = file?;
    Some(Managed {
        path: "Rediaccfile".parse().ok()?,
        content: Content::File(match context.dir {
            Some(dir) => file.beneath(dir),
            None => file,
        }),
        place,
    })
}

/// What `files:` puts into the project's directory.
fn managed(spec: &Fields, context: &Context) -> Vec<Managed> {
    let (source, report) = (context.source, context.report);
    let beside = |path: RelPath| match context.dir {
        Some(dir) => path.beneath(dir),
        None => path,
    };
    let mut all = Vec::new();
    for (key, value) in spec.each("files") {
        let path = match text::<RelPath>(key) {
            Ok(path) => path,
            Err(cure) => {
                report.at(&key.place(source), "bad path in `files`", cure);
                continue;
            }
        };
        let Some(fields) = spec.item("files", key, value) else {
            continue;
        };
        let file = fields.optional("file", text::<RelPath>);
        let dir = fields.optional("dir", text::<RelPath>);
        let inline = fields.optional("inline", text::<String>);
        let given: Vec<&str> = ["file", "dir", "inline"]
            .into_iter()
            .filter(|name| value.get(name).is_some())
            .collect();
        let content = match (given.as_slice(), file, dir, inline) {
            (["file"], Some(file), ..) => Some((Content::File(beside(file)), "file")),
            (["dir"], _, Some(dir), _) => Some((Content::Folder(beside(dir)), "dir")),
            (["inline"], .., Some(text)) => Some((Content::Inline(text), "inline")),
            (["file" | "dir" | "inline"], ..) => None,
            ([], ..) if value.entries().is_empty() => {
                let cure = "add `file:`, `dir:` or `inline:`";
                let message = format!("`{path}` says nothing of what is in it");
                report.at(&key.place(source), message, cure);
                None
            }
            ([], ..) => None,
            (several, ..) => {
                let message = format!("`{path}` has more than one of {}", listed(several.iter()));
                report.at(&key.place(source), message, "keep one of them");
                None
            }
        };
        all.extend(content.map(|(content, field)| Managed {
            place: match field {
                "inline" => key.place(source),
                field => fields.place(field),
            },
            path,
            content,
        }));
        fields.finish();
    }
    all
}

/// The variables of `environment:`. No message repeats a value, and no excerpt
/// draws one (`hidden`).
fn environment(spec: &Fields, context: &Context) -> Environment {
    let mut variables = BTreeMap::new();
    let refuse = |key: &Node, message: String, cure: &str| {
        let place = key.place(context.source);
        context.report.at(&place, message, cure);
    };
    let entries = match spec.entry("environment") {
        None => &[][..],
        Some((
            _,
            Node {
                kind: Kind::Map(entries),
                ..
            },
        )) => entries,
        Some((key, _)) => {
            let message = "`environment` must be a mapping".to_owned();
            refuse(key, message, "write it like `environment: { LOG: info }`");
            &[]
        }
    };
    for (key, value) in entries {
        let refuse = |message: String, cure: &str| refuse(key, message, cure);
        let Some(name) = key.text().filter(|name| variables::is_name(name)) else {
            let cure = "use letters, digits and `_`, and no digit first";
            let said = match key.text() {
                Some(text) => format!("`{text}`"),
                None => key.what().to_string(),
            };
            refuse(format!("{said} is no name of a variable"), cure);
            continue;
        };
        if let Some(cure) = is_taken(name) {
            refuse(format!("`{name}` cannot be set here"), cure);
        }
        match (&value.kind, value.text()) {
            (_, Some(text)) if text.contains('\0') => {
                refuse(format!("`{name}` holds a null character"), "remove it");
            }
            (_, Some(text)) => {
                variables.insert(name.to_owned(), text.to_owned());
            }
            (Kind::Number(_) | Kind::Bool(_), _) => {
                refuse(
                    format!("`{name}` must be text"),
                    "write its value in quotes",
                );
            }
            // A variable that cannot be settled is reported where it is.
            (Kind::Unknown, _) => {}
            (Kind::Null, _) => {
                let cure = "write its value, `\"\"` for an empty one";
                refuse(format!("`{name}` is empty"), cure);
            }
            _ => refuse(
                format!("`{name}` must be text"),
                "write one value, in quotes",
            ),
        }
    }
    Environment(variables)
}

/// What to do instead, where a variable is not the manifest's to set: those of
/// renet, and those that say what compose itself does.
fn is_taken(name: &str) -> Option<&'static str> {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    if starts(&["REDIACC_"]) || name == "SERVICE_IP" || name.ends_with("_IP") {
        Some("choose another name: renet sets this one")
    } else if starts(&["COMPOSE_", "DOCKER_", "LD_"]) || ["PATH", "HOME"].contains(&name) {
        Some("set it in the compose file: here compose itself would obey it")
    } else {
        None
    }
}

/// What each service may take, and where that is said.
fn service_limits(spec: &Fields, context: &Context) -> BTreeMap<String, (ResourceLimits, Place)> {
    let mut all = BTreeMap::new();
    for (key, value) in spec.each("limits") {
        let place = key.place(context.source);
        let Some(name) = key.text() else {
            let message = format!("{} is no name of a service", key.what());
            context.report.at(&place, message, "write it in quotes");
            continue;
        };
        let Some(fields) = spec.item("limits", key, value) else {
            continue;
        };
        all.insert(name.to_owned(), (limits::limits(fields, &LEAST), place));
    }
    all
}

/// Less memory does not start: Docker refuses it.
const LEAST: Least = Least {
    memory: Size::mib(6),
    pids: 1,
    of: "a container",
};

/// What is limited is a service of the compose file, as far as that names all.
fn is_defined(service: &str, place: &Place, services: &[(String, Place)], report: &Report) {
    let names = || services.iter().map(|(name, _)| name.as_str());
    if names().next().is_none() || names().any(|name| name == service) {
        return;
    }
    let cure = match near(service, names()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("its services: {}", listed(names())),
    };
    let message = format!("the compose file defines no service `{service}`");
    report.at(place, message, cure);
}

/// How long something is waited for.
fn limit(node: &Node) -> Result<SignedDuration, String> {
    const LEAST: SignedDuration = SignedDuration::from_secs(1);
    const MOST: SignedDuration = SignedDuration::from_hours(1);
    let cure = "write a time from `1s` to `1h`, like `60s` or `2m30s`";
    time(node, LEAST..=MOST, cure)
}

/// Every Service depends on others of its own repository, and none on itself,
/// directly or through others. Where not all could be read, `complete` is false:
/// what is not among them may well be there.
pub(super) fn check(all: &[&Found], complete: bool, bad: &mut BTreeSet<usize>, report: &Report) {
    let services = all
        .iter()
        .enumerate()
        .filter(|(_, found)| found.kind == "Service");
    let named = services.clone().filter_map(|(index, found)| {
        let key = (found.repository.as_ref()?, found.name.as_ref()?);
        Some((key, index))
    });
    let known: BTreeMap<(&Name, &Name), usize> = named.collect();
    let complete = complete && known.len() == services.clone().count();
    let mut edges: Vec<Vec<(usize, usize)>> = vec![Vec::new(); all.len()];
    for ((repository, name), index) in &known {
        for (nth, (on, place)) in all[*index].depends_on.iter().enumerate() {
            if on == *name {
                bad.insert(*index);
                let message = format!("service `{name}` depends on itself");
                report.at(place, message, "remove it");
            } else if let Some(other) = known.get(&(*repository, on)) {
                edges[*index].push((*other, nth));
            } else if complete {
                bad.insert(*index);
                let message = format!(
                    "service `{name}` depends on `{on}`, which no Service of repository `{repository}` is called"
                );
                report.at(place, message, meant(all, &known, repository, name, on));
            }
        }
    }
    for circle in circles(&edges) {
        bad.extend(circle.iter().map(|(index, _)| *index));
        let names = circle.iter().chain(circle.first());
        let names: Vec<&str> = names
            .filter_map(|(index, _)| all[*index].name.as_ref())
            .map(Name::as_str)
            .collect();
        let Some((last, nth)) = circle.last() else {
            continue;
        };
        report.at(
            &all[*last].depends_on[*nth].1,
            format!("services wait for each other: {}", names.join(" → ")),
            "remove one of them from `dependsOn`",
        );
    }
}

/// What to write instead of a Service that is not there.
fn meant(
    all: &[&Found],
    known: &BTreeMap<(&Name, &Name), usize>,
    repository: &Name,
    of: &Name,
    on: &Name,
) -> String {
    let others = || {
        let others = known
            .iter()
            .filter(|((within, _), _)| *within == repository);
        others.filter(|((_, name), _)| *name != of)
    };
    let mut owners = others().filter(|(_, index)| {
        let mut services = all[**index].services.iter();
        services.any(|(service, _)| service == on.as_str())
    });
    if let Some(((_, owner), _)) = owners.next() {
        return format!("`{on}` is a service of `{owner}`: write `{owner}`");
    }
    let names = || others().map(|((_, name), _)| name.as_str());
    match near(on.as_str(), names()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if names().next().is_none() => format!("add a Service `{on}`, or remove it"),
        None => format!("other Services of `{repository}`: {}", listed(names())),
    }
}

/// The circles in a graph: each as its nodes, with the label of the edge that
/// leads from each to the next, and from the last to the first.
fn circles(edges: &[Vec<(usize, usize)>]) -> Vec<Vec<(usize, usize)>> {
    #[derive(Clone, Copy)]
    enum Seen {
        Not,
        OnTheWay(usize),
        Done,
    }
    let mut seen = vec![Seen::Not; edges.len()];
    let mut circles = Vec::new();
    for start in 0..edges.len() {
        if !matches!(seen[start], Seen::Not) {
            continue;
        }
        seen[start] = Seen::OnTheWay(0);
        // Each node with how many of its edges were followed.
        let mut way = vec![(start, 0)];
        while let Some((node, followed)) = way.last_mut() {
            let node = *node;
            let Some((to, _)) = edges[node].get(*followed) else {
                seen[node] = Seen::Done;
                way.pop();
                continue;
            };
            *followed += 1;
            match seen[*to] {
                Seen::Done => {}
                Seen::OnTheWay(depth) => {
                    let circle = way[depth..].iter();
                    circles.push(
                        circle
                            .map(|(node, followed)| (*node, edges[*node][followed - 1].1))
                            .collect(),
                    );
                }
                Seen::Not => {
                    seen[*to] = Seen::OnTheWay(way.len());
                    way.push((*to, 0));
                }
            }
        }
    }
    circles
}
