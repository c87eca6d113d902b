//! What commands have in common: a machine, its locks, what is wanted of it,
//! and a run with its exit code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Method;

use super::given::Given;
use super::interrupt::Interrupt;
use super::progress::Lines;
use super::render::Outcome;
use super::{Failure, need_root, output, render};
use crate::agent::{self, last_status};
use crate::execute::{
    FileLocks, Lock, Locking as _, Mode, Options, Report, Shown, Wave, look, look_for, run,
};
use crate::host::linux::secrets::Secrets;
use crate::host::linux::{LinuxHost, router};
use crate::manifest::{self, OneFile};
use crate::model::{
    Actual, Asked, Blocked, Digest, Guid, Layout, Named, Object, Owner, Prune, suggest,
};
use crate::plan::changes::{Changes, Warned};
use crate::resolve::{Drawn, Ids, Source};

/// A machine, and what is wanted of it.
pub struct Session {
    pub layout: Layout,
    pub host: LinuxHost,
    pub ids: Ids,
    pub source: Source,
    /// Whether a manifest could not be read: the rest is done all the same.
    pub invalid: bool,
    /// The folder of manifests, absolute.
    pub folder: PathBuf,
    /// What a command has seen of its repository on the way.
    seen: Option<(Guid, Actual)>,
    began: Instant,
}

/// How a command on a folder is meant.
#[derive(Clone, Debug, Default)]
pub struct Meant {
    pub file: Option<PathBuf>,
    pub retry: bool,
    pub take_over: bool,
    pub prune: bool,
    /// Names and plan digests.
    pub confirm: Vec<String>,
    /// The objects that are meant, where not all are.
    pub only: BTreeSet<Named>,
    /// The ids that an earlier command drew.
    pub ids: Option<Drawn>,
}

impl Meant {
    /// What cannot be said of one file of a folder.
    fn check_file(&self) -> Result<(), Failure> {
        let wrong = match (self.prune, self.only.is_empty()) {
            (true, _) => {
                "`--prune` retires what a folder no longer declares, and -f names one file of it"
            }
            (_, false) => "-f names a file, which means the objects in it and needs no `--only`",
            _ => return Ok(()),
        };
        Err(Failure::usage(format!(
            "{wrong}: leave that out, or name the folder"
        )))
    }
}

/// The objects that a command means.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Selection {
    /// Only this object and what it stands on: `repository/NAME` with all of its
    /// services, `service/REPOSITORY/NAME`, `route/NAME`; may be repeated
    #[arg(long = "only", value_name = "KIND/NAME", id = "only", value_parser = super::named)]
    only: Vec<Named>,
}

impl Selection {
    /// What was said.
    pub fn only(&self) -> BTreeSet<Named> {
        self.only.iter().cloned().collect()
    }
}

impl Session {
    /// Opens a folder. What is wrong with it is said; where nothing of it can be
    /// read, nothing is done.
    pub fn open(layout: Layout, meant: &Meant) -> anyhow::Result<Self> {
        let began = Instant::now();
        need_root()?;
        let (folder, only) = match meant.file.as_deref().map(Given::read).transpose()? {
            None => (manifest::load(&layout.desired()), meant.only.clone()),
            Some(Given::Folder(folder)) => (folder, meant.only.clone()),
            Some(Given::File(one)) => {
                meant.check_file()?;
                if one.declares.is_empty() {
                    return Err(nothing_in(one).into());
                }
                (one.folder, one.declares)
            }
        };
        let invalid = !folder.problems.is_empty();
        let emptied = folder.empty && meant.prune;
        if invalid && !emptied {
            let text = folder.render(false, render::WIDTH).trim_end().to_owned();
            if folder.is_nothing() {
                return Err(Failure::usage(text).into());
            }
            output::warn(&format!("{text}\n"));
        }
        let digest = meant.confirm.iter().find(|said| Digest::is_short(said));
        let prune = match (invalid && !emptied, meant.prune) {
            (true, _) => Prune::Incomplete,
            (false, true) => Prune::Retire(digest.map(|said| Digest::typed(said))),
            (false, false) => Prune::Keep,
        };
        let backing = folder.manifests.backing();
        let secrets = Secrets::asked(folder.manifests.secrets());
        let source = Source {
            owner: Owner {
                source: folder.source.display().to_string(),
            },
            manifests: Arc::new(folder.manifests),
            layout: layout.clone(),
            asked: Asked {
                retry: meant.retry,
                take_over: meant.take_over,
                prune,
                only,
                ..Asked::default()
            },
            acts: Default::default(),
            store: None,
        };
        let ids = Ids::random(&layout);
        Ok(Self {
            host: LinuxHost::new(layout.clone(), backing, std::env::current_exe()?)
                .with_secrets(secrets),
            ids: match &meant.ids {
                Some(drawn) => ids.with(drawn.clone()),
                None => ids,
            },
            layout,
            source,
            invalid: invalid && !emptied,
            folder: folder.source,
            seen: None,
            began,
        })
    }

    /// A command's own session: it wants nothing yet.
    pub fn command(layout: Layout) -> anyhow::Result<Self> {
        need_root()?;
        let source = Source {
            owner: Owner {
                source: "command".to_owned(),
            },
            manifests: Arc::default(),
            layout: layout.clone(),
            asked: Asked::default(),
            acts: Default::default(),
            store: None,
        };
        Ok(Self {
            host: LinuxHost::new(layout.clone(), None, std::env::current_exe()?),
            ids: Ids::random(&layout),
            layout,
            source,
            invalid: false,
            folder: PathBuf::new(),
            seen: None,
            began: Instant::now(),
        })
    }

    /// Opens the folder anew where it has changed since.
    pub fn renew(&mut self, meant: &Meant) -> anyhow::Result<()> {
        let folder = manifest::load(&self.folder);
        let is_same = folder.manifests.digest() == self.source.manifests.digest()
            && folder.problems.is_empty() != self.invalid;
        if !is_same {
            *self = Self::open(self.layout.clone(), meant)?;
        }
        Ok(())
    }

    /// Remembers what was seen of a repository on the way, with what is at hand now.
    pub fn sees(&mut self, guid: Guid, seen: Actual) {
        let secrets = self.host.at_hand();
        self.seen = Some((guid, Actual { secrets, ..seen }));
    }

    /// One look, without locks.
    pub async fn look(&self) -> Wave {
        look(&self.host, &self.source, &self.ids).await
    }

    /// Refuses a file of a folder, where all of it is to be shown.
    pub fn check_whole(&self) -> Result<(), Failure> {
        match self.source.asked.only.is_empty() {
            true => Ok(()),
            false => Err(Failure::usage("-f names a file here: name its folder")),
        }
    }

    /// Whether everything that was named is declared.
    pub fn check_selection(&self, wave: &Wave) -> Result<(), Failure> {
        let declared = self.source.manifests.declared();
        let declared: BTreeSet<String> = declared.iter().map(Named::to_string).collect();
        for named in &self.source.asked.only {
            // Also by guid.
            let guid = named
                .repository()
                .and_then(|said| said.parse::<Guid>().ok());
            let name = guid.and_then(|guid| wave.desired.names.get(&guid));
            let label = match (named, name) {
                (Named::Repository(_), Some(name)) => format!("repository/{name}"),
                (Named::Service(_, service), Some(name)) => format!("service/{name}/{service}"),
                _ => named.to_string(),
            };
            if declared.contains(&label) {
                continue;
            }
            let near = suggest(&label, declared.iter().map(String::as_str));
            let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            return Err(Failure::usage(format!(
                "no manifest declares `{named}`{near}"
            )));
        }
        Ok(())
    }

    /// What the plan changes, and how long what it interrupts took last time.
    pub fn changes(&self, wave: &Wave) -> Changes {
        let status = last_status(&self.layout.agent());
        let none = BTreeMap::new();
        let starts = status.known().map_or(&none, |status| &status.starts);
        wave.changes().expecting(starts)
    }

    /// Says what deserves a word.
    pub fn warn(&self, warned: &[Warned]) {
        output::warn(&render::warnings(warned, output::width()));
    }

    /// The one line of a command that found nothing to do.
    pub fn in_sync(&self, wave: &Wave) -> String {
        render::in_sync(wave, self.began.elapsed())
    }

    /// The machine's locks; who waits is told for whom.
    pub fn locks(&self, patience: Duration) -> FileLocks {
        FileLocks::new(self.layout.locks(), patience, |lock, holder| {
            output::warn(&format!("waiting for the lock `{lock}`: {holder}\n"));
        })
    }

    /// Runs what was shown, and nothing worse.
    pub async fn run(&self, shown: Option<Shown>, how: &How) -> Report {
        self.run_from(None, shown, how).await
    }

    /// The same from a look of a moment ago, with as much in it as is worked on.
    async fn run_from(&self, first: Option<Box<Wave>>, shown: Option<Shown>, how: &How) -> Report {
        let interrupt = Interrupt::listen();
        let options = Options {
            shown,
            limit: how.limit,
            cancel: interrupt.token(),
            only: how.only,
            first,
            keep_routes: how.keep_routes,
        };
        let locks = self.locks(how.lock_wait);
        let lines = Lines::new(how.quiet);
        let report = run(
            &self.host,
            &locks,
            &self.source,
            &self.ids,
            &options,
            &lines,
        )
        .await;
        lines.end();
        if !how.keep_routes && !report.performed.is_empty() {
            self.route(&locks).await;
        }
        report
    }

    /// What labels of new containers ask for is published when the command ends: by the
    /// router, else here. What goes wrong there, `renet proxy status` tells.
    async fn route(&self, locks: &FileLocks) {
        let layout = &self.layout;
        let asked = router::ask(layout, Method::POST, "/refresh").await;
        if !matches!(asked, Ok(None)) || !layout.published_routes().exists() {
            return;
        }
        if let Ok(_held) = locks.lock(Lock::Routes, Mode::Alone).await
            && let Err(error) = router::refresh(layout).await
        {
            output::warn(&format!("warning: routes: {error}\n"));
        }
    }

    /// Writes down what a run of the folder came to, by the name of its command.
    pub async fn note(&self, by: &str, report: &Report) {
        const PATIENCE: Duration = Duration::from_millis(200);
        let locks = FileLocks::new(self.layout.locks(), PATIENCE, |_, _| ());
        agent::note(&self.layout.agent(), &locks, &self.source, by, report).await;
    }

    /// Says what a run came to.
    pub fn say(&self, report: &Report) {
        let outcome = Outcome::of(report, self.code(report), self.began.elapsed());
        output::say(&render::report(&outcome));
    }

    /// The exit code of DESIGN §5; where several apply, the worst word wins.
    pub fn code(&self, report: &Report) -> u8 {
        if report.interrupted {
            Interrupt::code()
        } else if !report.busy.is_empty() {
            5
        } else if self.invalid || is_another_machines(&report.last) {
            2
        } else if !report.last.plan.in_sync() || fell_short(report) {
            3
        } else {
            0
        }
    }

    /// Opens the datastore, and nothing in it.
    pub async fn open_datastore(&self) -> Report {
        let how = How {
            only: Some(NOBODY),
            ..How::default()
        };
        let mut report = self.run(None, &how).await;
        report.last.keep_only(&self.source, NOBODY);
        report
    }

    /// Looks, shows what is in the way of a small command, runs it, and says how
    /// it ended.
    pub async fn carry_out(&self, guid: Guid, done: &str, already: &str) -> anyhow::Result<u8> {
        self.carry_out_on(Some(guid), done, already).await
    }

    /// The same for the datastore, the machine or routes, without a repository.
    pub async fn carry_out_on(
        &self,
        guid: Option<Guid>,
        done: &str,
        already: &str,
    ) -> anyhow::Result<u8> {
        self.carry_out_saying(guid, |_| done.to_owned(), already)
            .await
    }

    /// The same, where what is to be said at its end depends on what came of it.
    pub async fn carry_out_saying(
        &self,
        guid: Option<Guid>,
        done: impl FnOnce(&Wave) -> String,
        already: &str,
    ) -> anyhow::Result<u8> {
        let only = guid.unwrap_or(NOBODY);
        let seen = self.seen.as_ref().filter(|(of, _)| *of == only);
        let seen = seen.map(|(_, seen)| seen.clone());
        let shown = look_for(&self.host, &self.source, &self.ids, only, seen).await;
        if shown.plan.in_sync() && shown.plan.more.is_empty() {
            output::say(&format!("{already}\n"));
            return Ok(0);
        }
        let how = How {
            only: Some(only),
            ..How::default()
        };
        let bound = Shown::of(&shown.plan);
        let mut report = self
            .run_from(Some(Box::new(shown)), Some(bound), &how)
            .await;
        report.last.keep_only(&self.source, only);
        if report.in_sync() {
            output::say(&format!("{}\n", done(&report.last)));
        } else {
            self.say(&report);
        }
        Ok(self.code(&report))
    }
}

/// A guid that no repository has.
const NOBODY: Guid = Guid::new(uuid::Uuid::nil());

/// How a run waits.
#[derive(Clone, Debug)]
pub struct How {
    pub lock_wait: Duration,
    /// How long each project may take to get well, whatever its manifest says.
    pub limit: Option<Duration>,
    pub only: Option<Guid>,
    pub keep_routes: bool,
    /// Standard output is for the result alone.
    pub quiet: bool,
}

impl Default for How {
    fn default() -> Self {
        Self {
            lock_wait: Duration::from_secs(30),
            limit: None,
            only: None,
            keep_routes: false,
            quiet: false,
        }
    }
}

/// Of a file that declares nothing which could be done.
fn nothing_in(one: OneFile) -> Failure {
    let alone = one.alone();
    Failure::usage(match alone.problems.is_empty() {
        true => "-f names a file that declares nothing: name another, or the folder".to_owned(),
        false => alone.render(false, render::WIDTH).trim_end().to_owned(),
    })
}

/// The folder is meant for a machine of another name.
pub fn is_another_machines(wave: &Wave) -> bool {
    let why = wave.plan.blocked.get(&Object::Machine);
    matches!(why, Some(Blocked::Immutable { .. }))
}

/// Whether a step failed that held up nothing.
fn fell_short(report: &Report) -> bool {
    let mut performed = report.performed.iter();
    performed.any(|one| one.outcome.is_err() && one.step.holds_up_nothing())
}
