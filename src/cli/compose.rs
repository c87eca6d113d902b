use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::passthrough::{Here, Known, Options, Target};
use super::{Failure, compose_flags, output, render};
use crate::execute::{Lock, Locking as _, Mode};
use crate::host::linux::compose::OnDisk;
use crate::host::linux::{links, passthrough};
use crate::host::{Cx, Host as _, Scope};
use crate::manifest::{self, Written};
use crate::model::{Environment, Kin, Layout, Name, Part, Repository, Slots, Step};
use crate::resolve::{Context, outside, refusals, transform};

/// Run a command of compose's on a repository's own daemon, with the project in whose
/// folder it is called
#[derive(Debug, clap::Args)]
#[command(override_usage = "renet compose [--network-id ID] [--unsafe] -- ARGS...")]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// Give compose also what reaches beyond the repository
    #[arg(long = "unsafe")]
    insist: bool,
    /// What compose is told, like `-- up -d`
    #[arg(last = true, required = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

/// None of them says which daemon answers.
const KNOWN: [Known; 14] = [
    ("all-resources", None, false),
    ("ansi", None, true),
    ("compatibility", None, false),
    ("dry-run", None, false),
    ("env-file", None, true),
    ("file", Some('f'), true),
    ("help", Some('h'), false),
    ("parallel", None, true),
    ("profile", None, true),
    ("progress", None, true),
    ("project-directory", None, true),
    ("project-name", Some('p'), true),
    ("verbose", None, false),
    ("version", Some('v'), false),
];
/// The files that compose looks for, in its order.
const FILES: [&str; 4] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
    "docker-compose.yaml",
];
/// What lies beside a file is read after it.
const OVERRIDES: [&str; 4] = [
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];
/// Commands that need no file, and those of them that need no daemon.
const WITHOUT_FILE: [&str; 4] = ["", "help", "ls", "version"];
const WITHOUT_DAEMON: [&str; 5] = ["", "config", "convert", "help", "version"];
/// Commands that make containers: the addresses of their services are written down.
const MAKING: [&str; 6] = ["create", "restart", "run", "scale", "start", "up"];

/// Of which repository it is a copy, where that is known, and what the copy is for.
async fn copy_of(here: &Here) -> Option<(Name, Name)> {
    let lineage = here.record.lineage.as_ref()?;
    let tag = lineage.tag.clone()?;
    let actual = here.session.host.observe(Scope::Records).await;
    let parent = actual.repository(lineage.parent).ok()?;
    Some((parent.record.known()?.name.clone(), tag))
}

/// Compose's own exit code; 2, 3 or 5 where it was not called.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let options = Options::parse(&args.args, &KNOWN)?;
    if !args.insist {
        compose_flags::judge(&options.rest)?;
    }
    let here = args.target.find(layout).await?;
    let command = options.command();
    let without_file = WITHOUT_FILE.contains(&command) || options.has("help");
    if !WITHOUT_DAEMON.contains(&command) && !options.has("help") {
        here.must_answer().await?;
    }
    let (layout, network) = (here.session.layout.clone(), here.record.network);
    if without_file {
        return Err(passthrough::compose(&layout, network, None, &args.args).into());
    }
    let project = Project::find(&here, &options)?;
    let text = project.given(&here, &options, args.insist).await?;
    if ["down", "rm", "stop"].contains(&command) {
        say_managed(&here, &project.name);
    }
    let mut given = vec![OsString::from("--project-directory")];
    given.push(project.directory.into());
    given.push("-p".into());
    given.push(project.name.as_str().into());
    let ours = ["file", "project-directory", "project-name"];
    given.extend(options.arguments(|name| !ours.contains(&name)));
    given.extend(options.rest);
    Err(passthrough::compose(&layout, network, Some(&text), &given).into())
}

/// What is managed comes back.
fn say_managed(here: &Here, project: &Name) {
    let record = &here.record;
    let (Some(owner), true) = (&record.owner, record.projects.contains(project)) else {
        return;
    };
    let now = jiff::Timestamp::now();
    let suspended = record.suspended.iter();
    let mut suspended = suspended.chain(record.suspended_projects.get(project));
    if !suspended.any(|by| by.holds_at(now)) {
        let (name, source) = (&record.name, &owner.source);
        output::warn(&format!(
            "service/{name}/{project} is declared in {source} and will be started again; \
             `renet suspend service/{name}/{project}` leaves it alone\n"
        ));
    }
}

/// A project in a repository.
struct Project {
    name: Name,
    directory: PathBuf,
    files: Vec<PathBuf>,
    /// What its manifest says, where it has one.
    manifest: Option<manifest::Service>,
}

impl Project {
    fn find(here: &Here, options: &Options) -> Result<Self, Failure> {
        let layout = &here.session.layout;
        let mount = layout.mount(here.guid);
        let absolute = |path: &OsString| match &here.folder {
            Some(folder) => manifest::normal(&folder.join(path)),
            None => {
                let folder = std::env::current_dir().unwrap_or_default();
                manifest::normal(&folder.join(path))
            }
        };
        let mut files: Vec<PathBuf> = options.values("file").map(absolute).collect();
        if files.iter().any(|file| file.ends_with("-")) {
            return Err(Failure::usage(
                "a compose file is read from a file, not from `-`",
            ));
        }
        let said = options.values("project-directory").last().map(absolute);
        let directory = match (&said, files.first()) {
            (Some(said), _) => said.clone(),
            (None, Some(file)) => file.parent().unwrap_or(&mount).to_owned(),
            (None, None) => {
                let start = here.folder.as_deref();
                let above = start.into_iter().flat_map(Path::ancestors);
                let mut inside = above.take_while(|folder| folder.starts_with(&mount));
                let found = inside.find(|folder| {
                    !standard(folder).is_empty() || declared(here, folder).is_some()
                });
                found.ok_or_else(|| nothing_in(here))?.to_owned()
            }
        };
        let name = name_of(&mount, &directory)?;
        if let Some(said) = options.values("project-name").last()
            && said.to_str() != Some(name.as_str())
        {
            let said = said.to_string_lossy();
            return Err(Failure::usage(format!(
                "the project in {} is called {name}, not {said}: leave `--project-name` out",
                directory.display()
            )));
        }
        let manifest = declared(here, &directory);
        if files.is_empty() {
            let own = manifest
                .as_ref()
                .map(|it| directory.join(it.compose_file.as_str()));
            files = match own {
                Some(file) => vec![file],
                None => standard(&directory),
            };
        }
        if files.is_empty() {
            return Err(nothing_in(here));
        }
        Ok(Self {
            name,
            directory,
            files,
            manifest,
        })
    }

    /// The text that compose is given: resolved, judged and transformed.
    async fn given(&self, here: &Here, options: &Options, insist: bool) -> anyhow::Result<String> {
        let layout = &here.session.layout;
        let mount = layout.mount(here.guid);
        let refuse = |message: String| Failure { code: 3, message };
        let written = Written::read(&self.files, &self.directory, &mount, insist)
            .map_err(|problems| refuse(problems.join("\n")))?;
        let slots = slots(here, &written, MAKING.contains(&options.command())).await?;
        let none = Environment::default();
        let unlimited = BTreeMap::new();
        let manifest = self.manifest.as_ref();
        let copy_of = copy_of(here).await;
        let context = Context {
            guid: here.guid,
            repository: &here.record.name,
            copy_of: copy_of.as_ref().map(|(parent, tag)| (parent, tag)),
            kin: Kin::of(here.record.lineage.as_ref()),
            network: here.record.network,
            outside: outside(layout, here.record.network, &self.name),
            directory: self.directory.clone(),
            project: &self.name,
            compose_files: self.files.clone(),
            slots: &slots,
            files: manifest.map(|manifest| &*manifest.files),
            environment: manifest.map_or(&none, |manifest| &manifest.environment),
            limits: manifest.map_or(&unlimited, |manifest| &manifest.limits),
            insist,
            mount,
        };
        let project = OnDisk {
            files: self.files.clone(),
            options: options.arguments(|name| ["compatibility", "env-file"].contains(&name)),
            directory: self.directory.clone(),
            project: self.name.clone(),
            variables: context.interpolation(),
        };
        let config = project.config(layout).await?;
        let given = transform(config, &context).map_err(|refused| {
            let refused = refusals(&refused, &written);
            refuse(format!(
                "{refused}\nwhoever takes that upon himself runs `renet compose --unsafe -- …`"
            ))
        })?;
        if !insist {
            links::check(&given.config, &context.mount).map_err(refuse)?;
        }
        for warning in &given.warnings {
            output::warn(&render::warning(
                &warning.warning(&written),
                output::width(),
            ));
        }
        Ok(given.config.to_string())
    }
}

/// The files of a folder that compose would take by itself.
fn standard(folder: &Path) -> Vec<PathBuf> {
    let there = |name: &&&str| folder.join(name).is_file();
    let Some(file) = FILES.iter().find(there) else {
        return Vec::new();
    };
    let beside = OVERRIDES.iter().find(there);
    let all = std::iter::once(file).chain(beside);
    all.map(|name| folder.join(name)).collect()
}

/// A project lies in the repository's own folder, where it is called `root`, or in one
/// directly in that.
fn name_of(mount: &Path, directory: &Path) -> Result<Name, Failure> {
    let wrong = || {
        Failure::usage(format!(
            "{} is no project's folder: those lie directly in {}",
            directory.display(),
            mount.display()
        ))
    };
    let below = directory.strip_prefix(mount).map_err(|_| wrong())?;
    let name = below.to_str().ok_or_else(wrong)?;
    match name {
        "" => "root".parse().map_err(|_| wrong()),
        // It would be taken for the project in the repository's own folder.
        "root" => Err(wrong()),
        name => name.parse().map_err(|_| wrong()),
    }
}

/// What the manifests that declare the repository say of the project in that folder.
fn declared(here: &Here, folder: &Path) -> Option<manifest::Service> {
    let owner = here.record.owner.as_ref()?;
    let mount = here.session.layout.mount(here.guid);
    let name = folder.strip_prefix(mount).ok()?.to_str()?.parse().ok()?;
    let all = manifest::load(Path::new(&owner.source)).manifests;
    let service = all.services.get(&(here.record.name.clone(), name))?;
    Some((**service).clone())
}

/// The folders of a repository in which projects lie, and their compose files.
fn projects(mount: &Path) -> BTreeMap<PathBuf, Vec<PathBuf>> {
    let folders = std::fs::read_dir(mount).into_iter().flatten().flatten();
    let folders = folders.map(|entry| entry.path()).chain([mount.to_owned()]);
    let found = folders.map(|folder| (standard(&folder), folder));
    let found = found.filter(|(files, _)| !files.is_empty());
    found.map(|(files, folder)| (folder, files)).collect()
}

/// The projects that have a service of that name: in the repository, or declared.
pub fn projects_with(here: &Here, service: &str) -> anyhow::Result<BTreeSet<String>> {
    let mount = here.session.layout.mount(here.guid);
    let mut found = BTreeSet::new();
    for (folder, files) in projects(&mount) {
        // What cannot be read may have it.
        let written = Written::read(&files, &folder, &mount, true)
            .map_err(|problems| anyhow::anyhow!("{}", problems.join("\n")))?;
        if written.services().any(|name| name == service) {
            found.insert(name_of(&mount, &folder)?.to_string());
        }
    }
    if let Some(owner) = &here.record.owner {
        let manifests = manifest::load(Path::new(&owner.source)).manifests;
        let declared = manifests.services_of(&here.record.name);
        let declared = declared.filter(|one| one.services.iter().any(|name| name == service));
        found.extend(declared.map(|one| one.name.to_string()));
    }
    Ok(found)
}

fn nothing_in(here: &Here) -> Failure {
    let mount = here.session.layout.mount(here.guid);
    let name = &here.record.name;
    let folders = projects(&mount).into_keys();
    let folders: String = folders
        .map(|folder| format!("\n  {}", folder.display()))
        .collect();
    let listed = match folders.is_empty() {
        true => format!("no folder of {} has one", mount.display()),
        false => format!("the projects of {name} are in:{folders}"),
    };
    Failure {
        code: 3,
        message: format!(
            "there is no compose file here (looked for {}); {listed}",
            FILES.join(", ")
        ),
    }
}

/// The slots of the repository; every service of the files has one, and where
/// containers are made they are written down.
async fn slots(here: &Here, written: &Written, making: bool) -> anyhow::Result<Slots> {
    let (session, guid) = (&here.session, here.guid);
    let seen = settled(&*here.look().await)?;
    let wanted = seen.clone().allocate(written.services())?;
    if !making || seen == wanted {
        return Ok(wanted);
    }
    // The repository's own lock may be held by whoever runs the hook that calls this.
    let locks = session.locks(std::time::Duration::from_secs(30));
    let held = locks.lock(Lock::Machine, Mode::Alone).await;
    let _held = held.map_err(|busy| Failure {
        code: 5,
        message: busy.to_string(),
    })?;
    let wanted = settled(&*here.look().await)?.allocate(written.services())?;
    for step in [
        Step::WriteSlots(guid, wanted.clone()),
        Step::MirrorSlots(guid, wanted.clone()),
    ] {
        session.host.perform(&step, &Cx::default()).await?;
    }
    Ok(wanted)
}

/// What both sides say, where both can be read.
pub fn settled(repo: &Repository) -> anyhow::Result<Slots> {
    for part in [&repo.slots, &repo.mirror] {
        if let Part::Unknown(why) = part {
            anyhow::bail!("{why}");
        }
    }
    Ok(Slots::merge(repo.slots.known(), repo.mirror.known())?)
}
