//! A plan in a file: made by `diff --out`, carried out by `apply FILE` only while
//! nothing that it was made of has changed.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Failure;
use super::session::{Meant, Session};
use crate::execute::Wave;
use crate::host::linux::files::write_json;
use crate::model::Digest;
use crate::plan::changes::Changes;
use crate::resolve::Drawn;

/// What is in the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SavedPlan {
    /// How it is written.
    format: u32,
    /// When it was made.
    made: Timestamp,
    /// The folder of manifests.
    folder: PathBuf,
    /// What the manifests said.
    revision: Digest,
    prune: bool,
    take_over: bool,
    retry: bool,
    only: Vec<String>,
    /// The ids that new objects get.
    ids: Drawn,
    /// The plan, as `diff -o json` prints it.
    plan: Value,
}

const FORMAT: u32 = 1;

impl SavedPlan {
    /// What was shown.
    pub fn of(session: &Session, meant: &Meant, changes: &Changes) -> anyhow::Result<Self> {
        let asked = &session.source.asked;
        Ok(Self {
            format: FORMAT,
            made: Timestamp::now(),
            folder: session.folder.clone(),
            revision: session.source.manifests.digest(),
            prune: meant.prune,
            take_over: meant.take_over,
            retry: meant.retry,
            only: asked.only.iter().map(ToString::to_string).collect(),
            ids: session.ids.drawn(),
            plan: serde_json::to_value(changes)?,
        })
    }

    /// Writes it for its owner alone: it shows what is about to happen.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        write_json(path, self, 0o600).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads it.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("cannot read the plan {name}: {error}")))?;
        let saved: Self = serde_json::from_str(&text).map_err(|error| {
            Failure::usage(format!(
                "{name} is not a saved plan: {error}; make one with `renet diff --out {name}`"
            ))
        })?;
        match saved.format {
            FORMAT => Ok(saved),
            other => Err(Failure::usage(format!(
                "{name} was written in format {other}, this renet reads {FORMAT}; \
                 make it again with `renet diff --out {name}`"
            ))
            .into()),
        }
    }

    /// How the command was meant that made it.
    pub fn meant(&self) -> Result<Meant, Failure> {
        let only = self.only.iter().map(|text| super::named(text));
        Ok(Meant {
            file: Some(self.folder.clone()),
            prune: self.prune,
            take_over: self.take_over,
            retry: self.retry,
            only: only.collect::<Result<_, _>>()?,
            ids: Some(self.ids.clone()),
            ..Meant::default()
        })
    }

    /// Refuses a plan when anything that it was made of is different now.
    pub fn check(&self, session: &Session, wave: &Wave, now: &Changes) -> Result<(), Failure> {
        let mut differs = Vec::new();
        if session.source.manifests.digest() != self.revision {
            let folder = self.folder.display();
            differs.push(format!("the manifests in {folder} have changed since"));
        }
        if self.plan.get("digest") != serde_json::to_value(&now.digest).ok().as_ref() {
            differs.extend(self.objects(now));
        }
        if differs.is_empty() {
            return Ok(());
        }
        let age = wave.actual.now.duration_since(self.made).as_secs().max(0);
        Err(Failure {
            code: 3,
            message: format!(
                "the plan is stale: it was made {age}s ago of something else; nothing was changed\n  {}\n\
                 look again with `renet diff`",
                differs.join("\n  ")
            ),
        })
    }

    /// The objects about which the two plans say different things.
    fn objects(&self, now: &Changes) -> Vec<String> {
        let name = |change: &Value| {
            change
                .get("object")
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let was = self.plan.get("objects").and_then(Value::as_array);
        let was: Vec<(Option<String>, &Value)> = was
            .into_iter()
            .flatten()
            .map(|one| (name(one), one))
            .collect();
        let is: Vec<Value> = now
            .objects
            .iter()
            .filter_map(|one| serde_json::to_value(one).ok())
            .collect();
        let mut differs: Vec<String> = Vec::new();
        for one in &is {
            let of = name(one);
            let object = of.clone().unwrap_or_default();
            match was.iter().find(|(name, _)| *name == of) {
                None => differs.push(format!("{object} was in sync then")),
                Some((_, before)) if *before != one => {
                    differs.push(format!("{object} is not as it was then"));
                }
                Some(_) => {}
            }
        }
        for (of, _) in &was {
            if !is.iter().any(|one| name(one) == *of) {
                let object = of.clone().unwrap_or_default();
                differs.push(format!("{object} is in sync now"));
            }
        }
        if differs.is_empty() {
            differs.push("what it would stop or retire is different".to_owned());
        }
        differs
    }
}
