//! The only room that touches the machine.
//!
//! [`Host`] has two verbs, observe and perform; [`ComposeDoor`] is the one door
//! through which `resolve` asks a real program.

pub mod linux;
pub mod sim;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

use crate::model::{Actual, Digest, FileSet, Guid, Name, ProjectSpec, RelPath, Step, Warning};

/// A machine: what it is, and the one way to change it.
pub trait Host: ComposeDoor + Send + Sync {
    /// Looks at what is in scope. Never fails as a whole: each part says for
    /// itself whether it was seen. Looking starts nothing.
    fn observe(&self, scope: Scope) -> impl Future<Output = Actual> + Send;

    /// Performs one step. A step that fails frees what it itself opened.
    fn perform(&self, step: &Step, cx: &Cx)
    -> impl Future<Output = Result<Done, StepError>> + Send;
}

/// How much is looked at. The datastore, all records, images and routes always are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything of every repository.
    All,
    /// Everything of this one; of others their records and images.
    Repository(Guid),
    /// Of every repository its record and image.
    Records,
}

impl Scope {
    /// Whether everything of the repository is looked at.
    pub fn covers(self, guid: Guid) -> bool {
        match self {
            Scope::All => true,
            Scope::Repository(only) => only == guid,
            Scope::Records => false,
        }
    }
}

/// What a step is given besides itself.
#[derive(Clone, Debug, Default)]
pub struct Cx {
    /// How long a `Wait` may take, where whoever runs it says so.
    pub limit: Option<Duration>,
    /// How long a `Wait` went on before: that counts against its limit.
    pub waited: Duration,
    /// Descriptors of locks, which short programs inherit: so that none of them
    /// outlives its lock.
    pub locks: Vec<Arc<File>>,
    /// Who hears what hooks print, a line at a time.
    pub lines: Option<UnboundedSender<String>>,
}

impl Cx {
    /// How long waiting for the project may take in all.
    pub fn limit(&self, project: &ProjectSpec) -> Duration {
        let said = self.limit;
        said.unwrap_or_else(|| project.healthy_within.unsigned_abs())
    }
}

/// What performing a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The machine was so already.
    Already,
    /// The machine was changed.
    Changed,
}

/// Where the cause of a failed step lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// In the machine: the same step may work next time.
    Machine,
    /// In the revision that was applied: it is remembered and not tried again.
    Revision,
    /// Somebody else was quicker: what is to be done has to be found out again.
    Race,
}

/// A step that failed: which program, and its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepError {
    /// Where the cause lies.
    pub blame: Blame,
    /// The program and how it ended, where one ran: `mkfs.ext4 (exit 1)`.
    pub program: Option<String>,
    /// What it said, or what renet itself found.
    pub message: String,
}

impl StepError {
    /// Somebody else was quicker.
    pub fn race(message: impl Into<String>) -> Self {
        Self {
            blame: Blame::Race,
            ..Self::machine(message)
        }
    }

    /// A failure that renet found by itself.
    pub fn machine(message: impl Into<String>) -> Self {
        Self {
            blame: Blame::Machine,
            program: None,
            message: message.into(),
        }
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(program) = &self.program {
            write!(f, "{program}: ")?;
        }
        f.write_str(self.message.trim_end())
    }
}

impl std::error::Error for StepError {}

/// A machine that several look after.
impl<H: Host> Host for Arc<H> {
    fn observe(&self, scope: Scope) -> impl Future<Output = Actual> + Send {
        H::observe(self, scope)
    }

    fn perform(
        &self,
        step: &Step,
        cx: &Cx,
    ) -> impl Future<Output = Result<Done, StepError>> + Send {
        H::perform(self, step, cx)
    }
}

impl<H: ComposeDoor> ComposeDoor for Arc<H> {
    fn config(&self, input: &ComposeInput) -> impl Future<Output = Result<Value, String>> + Send {
        H::config(self, input)
    }

    fn hashes(
        &self,
        input: &ComposeInput,
        text: &str,
    ) -> impl Future<Output = Result<BTreeMap<String, String>, String>> + Send {
        H::hashes(self, input, text)
    }

    fn recall(&self, key: &Digest) -> Option<ComposeOutput> {
        H::recall(self, key)
    }

    fn remember(&self, key: &Digest, output: &ComposeOutput) {
        H::remember(self, key, output);
    }
}

/// A compose project to be resolved.
#[derive(Clone, Debug)]
pub struct ComposeInput {
    /// The repository.
    pub guid: Guid,
    /// The project: its directory's name.
    pub project: Name,
    /// The files of the project's directory, as they will be.
    pub files: std::sync::Arc<FileSet>,
    /// The compose file among them.
    pub compose_file: RelPath,
    /// What compose may interpolate; nothing else is in its environment.
    pub environment: BTreeMap<String, String>,
}

/// What resolving a project gave.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ComposeOutput {
    /// The resolved, transformed file (JSON).
    pub text: String,
    /// Compose's hash of each service in that very text.
    pub hashes: BTreeMap<String, String>,
    /// What of the file as written does not do what it says.
    pub warnings: Vec<Warning>,
}

/// The compose resolver's door to the program.
pub trait ComposeDoor {
    /// `docker compose config`: the file as compose understands it, with paths
    /// as they will be beneath `mounts/{guid}/{project}`.
    fn config(&self, input: &ComposeInput) -> impl Future<Output = Result<Value, String>> + Send;

    /// `docker compose config --hash` of a resolved text.
    fn hashes(
        &self,
        input: &ComposeInput,
        text: &str,
    ) -> impl Future<Output = Result<BTreeMap<String, String>, String>> + Send;

    /// What was resolved before from the same inputs.
    fn recall(&self, key: &Digest) -> Option<ComposeOutput>;

    /// Keeps what was resolved, readable for root alone.
    fn remember(&self, key: &Digest, output: &ComposeOutput);
}
