//! What people read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use similar::TextDiff;

use crate::execute::{Performed, Report, Wave};
use crate::host::Done;
use crate::model::{Blocked, Danger, Desired, FileSeen, Guid, Object, Patch, ProjectSpec, Step};
use crate::plan::Plan;

/// `diff`'s exit code: 0 in sync, 1 differs, 3 where a part cannot be read.
pub fn diff_code(plan: &Plan) -> u8 {
    let unknown = plan
        .blocked
        .values()
        .any(|why| matches!(why, Blocked::Unknown(_)));
    match (unknown, plan.in_sync()) {
        (true, _) => 3,
        (false, true) => 0,
        (false, false) => 1,
    }
}

/// The columns of a terminal that nobody measured.
pub const WIDTH: usize = 80;

/// A repository as people name it.
pub fn name(desired: &Desired, guid: Guid) -> String {
    match desired.names.get(&guid) {
        Some(name) => name.to_string(),
        None => guid.to_string(),
    }
}

/// What goes on, in a few words.
pub fn short(desired: &Desired, step: &Step) -> String {
    let text = step.to_string();
    let what = text.split("  ").next().unwrap_or_default();
    format!("{} {what}", title(desired, &step.object()))
}

/// Things in sync that deserve a word.
pub fn notes(wave: &Wave) -> String {
    let mut out = String::new();
    for (object, note) in &wave.plan.notes {
        let title = title(&wave.desired, object);
        let _ = writeln!(out, "{} {title}: {note}", kind(object));
    }
    for (object, why) in wave.plan.blocked.iter().filter(|(_, why)| why.is_quiet()) {
        let title = title(&wave.desired, object);
        let _ = writeln!(out, "{} {title}: {}: {why}", kind(object), why.reason());
    }
    out
}

/// The object as people name it: `shop/web`.
fn title(desired: &Desired, object: &Object) -> String {
    let name = |guid: &Guid| name(desired, *guid);
    match object {
        Object::Machine => "machine".to_owned(),
        Object::Datastore => "datastore".to_owned(),
        Object::Repository(guid) => name(guid),
        Object::Service(guid, project) => format!("{}/{project}", name(guid)),
        Object::Route(route) => route.to_string(),
        Object::Proxy => "proxy".to_owned(),
    }
}

fn kind(object: &Object) -> &'static str {
    match object {
        Object::Machine => "Machine",
        Object::Datastore => "Datastore",
        Object::Repository(_) => "Repository",
        Object::Service(..) => "Service",
        Object::Route(_) => "Route",
        Object::Proxy => "Proxy",
    }
}

/// The plan, object by object: what would change and why, what is in the way,
/// what it costs.
pub fn plan(wave: &Wave) -> String {
    let mut out = String::new();
    let mut objects: Vec<Object> = Vec::new();
    for object in wave
        .plan
        .steps
        .iter()
        .map(Step::object)
        .chain(wave.plan.blocked.keys().cloned())
    {
        if !objects.contains(&object) {
            objects.push(object);
        }
    }
    for object in &objects {
        let _ = writeln!(out, "{} {}", kind(object), title(&wave.desired, object));
        for step in wave
            .plan
            .steps
            .iter()
            .filter(|step| step.object() == *object)
        {
            let _ = writeln!(out, "  {} {step}", symbol(step));
            if let Step::WriteFiles { project, .. } = step {
                out.push_str(&files(wave, object, project));
            }
        }
        for danger in &wave.plan.danger {
            if let (Danger::Stops(guid, project, service), Object::Service(g, p)) = (danger, object)
                && (guid, project) == (g, p)
            {
                let _ = writeln!(out, "    → stops and recreates container {service}");
            }
        }
        if let Some(why) = wave.plan.blocked.get(object) {
            let _ = writeln!(out, "  ! {}: {why}", why.reason());
        }
    }
    if wave.plan.in_sync() {
        out.clear();
    }
    out.push_str(&notes(wave));
    if wave.plan.in_sync() {
        out.push_str(&in_sync(wave, Duration::ZERO));
        out.push('\n');
        return out;
    }
    let more = if wave.plan.more.is_empty() {
        ""
    } else {
        ", and what then can be seen"
    };
    let mut risk: Vec<String> = wave
        .plan
        .discards()
        .map(|guid| at_risk(wave, guid))
        .collect();
    risk.dedup();
    let risk = match risk.is_empty() {
        true => "No data at risk".to_owned(),
        false => format!("DATA AT RISK: {}", risk.join(", ")),
    };
    let _ = writeln!(
        out,
        "\nPlan: {}{more}; {} blocked. {risk}.",
        count(wave.plan.steps.len(), "step"),
        hard(&wave.plan)
    );
    out
}

/// Objects that cannot become what they should.
fn hard(plan: &Plan) -> usize {
    plan.blocked.values().filter(|why| !why.is_quiet()).count()
}

/// A repository whose data would go to the trash, with its size.
fn at_risk(wave: &Wave, guid: Guid) -> String {
    let none = crate::model::Repository::default();
    let repo = wave.actual.repo(guid, &none).unwrap_or(&none);
    match repo.storage.file.known() {
        Some(size) => format!("{} ({size})", name(&wave.desired, guid)),
        None => name(&wave.desired, guid),
    }
}

fn symbol(step: &Step) -> char {
    match step {
        Step::Format { .. } | Step::Reserve { .. } | Step::RecordRoute { .. } => '+',
        Step::Down { .. }
        | Step::StopDaemon { .. }
        | Step::Unmount(_)
        | Step::Detach(_)
        | Step::EraseFiles { .. }
        | Step::ForgetRoute(_)
        | Step::StopProxy
        | Step::Trash(_)
        | Step::Purge { .. }
        | Step::DropRecord(_)
        | Step::Record(_, Patch::Delete(Some(_)) | Patch::Release) => '-',
        _ => '~',
    }
}

/// The managed files that differ, as a unified diff.
fn files(wave: &Wave, object: &Object, project: &ProjectSpec) -> String {
    let Object::Service(guid, name) = object else {
        return String::new();
    };
    let empty = BTreeMap::new();
    let before = wave
        .actual
        .repositories
        .known()
        .and_then(|all| all.get(guid))
        .and_then(|repo| repo.files.known())
        .and_then(|files| files.get(name))
        .map_or(&empty, |files| &files.files);
    let after: BTreeMap<_, _> = project
        .files
        .files()
        .iter()
        .map(|(path, file)| (path.clone(), FileSeen::of(&file.bytes, file.executable)))
        .collect();
    let mut out = String::new();
    let paths: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for path in paths {
        let (old, new) = (before.get(path), after.get(path));
        if old == new {
            continue;
        }
        let (sign, texts) = match (old, new) {
            (None, _) => ('+', None),
            (_, None) => ('-', None),
            (Some(old), Some(new)) => ('~', old.text.as_ref().zip(new.text.as_ref())),
        };
        let _ = writeln!(out, "    {sign} {path}");
        if let Some((old, new)) = texts {
            let diff = TextDiff::from_lines(&**old, &**new);
            for line in diff.unified_diff().context_radius(1).to_string().lines() {
                let _ = writeln!(out, "      {line}");
            }
        }
    }
    out
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// The one line of a run that had nothing to do.
pub fn in_sync(wave: &Wave, took: Duration) -> String {
    let desired = &wave.desired;
    let services: usize = desired
        .repositories
        .values()
        .map(|repo| repo.projects.len())
        .sum();
    let repositories = match desired.repositories.len() {
        1 => "1 repository".to_owned(),
        many => format!("{many} repositories"),
    };
    let timed = if took.is_zero() {
        String::new()
    } else {
        format!(
            " (looked at {} in {:.2}s)",
            count(looked_at(wave), "thing"),
            took.as_secs_f64()
        )
    };
    format!(
        "In sync: {repositories}, {}, {}{timed}.",
        count(services, "service"),
        count(desired.routes.len(), "route")
    )
}

/// How many parts of the machine were compared.
fn looked_at(wave: &Wave) -> usize {
    const DATASTORE_AND_PROXY: usize = 6; // file, device, mount, layout, proxy, table
    const REPOSITORY: usize = 7; // record, slots twice, file, device, mount, daemon
    const PROJECT: usize = 2; // files, images
    let repositories = &wave.desired.repositories;
    let projects = repositories
        .values()
        .flat_map(|repo| repo.projects.values());
    let (projects, services) = projects.fold((0, 0), |(projects, services), project| {
        (projects + 1, services + project.services.len())
    });
    DATASTORE_AND_PROXY
        + repositories.len() * REPOSITORY
        + projects * PROJECT
        + services
        + wave.desired.routes.len()
}

/// The line of one step.
pub fn performed(desired: &Desired, performed: &Performed) -> String {
    let title = title(desired, &performed.step.object());
    let step = performed.step.to_string();
    let took = performed.took.as_secs_f64();
    match &performed.outcome {
        Ok(Done::Changed) => format!("  {title:<14} {step:<58} {took:>5.1}s"),
        Ok(Done::Already) => format!("  {title:<14} {step:<58}   was so"),
        Err(error) => {
            let mut out = format!(
                "error: {} {title}: {} failed\n",
                kind(&performed.step.object()),
                words(&step)
            );
            let _ = writeln!(out, "  step:    {}", words(&step));
            if let Some(program) = &error.program {
                let _ = writeln!(out, "  program: {program}");
            }
            let _ = write!(
                out,
                "  said:    {}",
                error.message.trim_end().replace('\n', "\n           ")
            );
            out
        }
    }
}

/// The step without its column padding.
fn words(step: &str) -> String {
    step.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a run came to.
pub fn report(report: &Report, took: Duration) -> String {
    let mut out = String::new();
    let done = report
        .performed
        .iter()
        .filter(|one| matches!(one.outcome, Ok(Done::Changed)))
        .count();
    for (_, busy) in &report.busy {
        let _ = writeln!(out, "busy: {busy}");
    }
    let hard_ones = report.last.plan.blocked.iter();
    for (object, why) in hard_ones.filter(|(_, why)| !why.is_quiet()) {
        let title = title(&report.last.desired, object);
        let _ = writeln!(
            out,
            "blocked: {} {title}: {}: {why}",
            kind(object),
            why.reason()
        );
    }
    let end = if report.in_sync() {
        "In sync.".to_owned()
    } else {
        match report.interrupted {
            true => "Interrupted; the next run goes on from here.".to_owned(),
            false => format!("Not in sync: {} blocked.", hard(&report.last.plan)),
        }
    };
    let _ = writeln!(
        out,
        "Applied {} in {:.1}s. {end}",
        count(done, "step"),
        took.as_secs_f64()
    );
    out
}
