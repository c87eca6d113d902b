//! Kind `Repository`.

use schemars::JsonSchema;
use serde::Serialize;

use super::nothing;
use super::text::{AbsolutePath, Guid, ImageSize, Name, NetworkId, RelativePath, RepositoryMemory};

/// What the repository should be: new, with `size` and `encryption`, or a copy of
/// another, with `forkOf`.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("oneOf" = [
    { "required": ["size", "encryption"], "not": { "required": ["forkOf"] } },
    { "required": ["forkOf"], "not": { "required": ["encryption"] } },
]))]
pub struct RepositorySpec {
    /// At least this large, 64M or more. It grows while in use, and never shrinks.
    /// A copy is as large as its parent where nothing is said.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "ImageSize")]
    pub size: Option<ImageSize>,
    /// How its image is encrypted: with LUKS2 and the passphrase that is found
    /// there, or `none`. Which of the two is read at creation alone.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Encryption")]
    pub encryption: Option<Encryption>,
    /// The repository that this one is a copy of: made in a moment whatever its
    /// size, with a network of its own. Read at creation alone.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "ForkOf")]
    pub fork_of: Option<ForkOf>,
    /// Whether it comes back at boot without its passphrase. Left out, it stays as
    /// `renet repository autostart` says.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "bool", example = true)]
    pub autostart: Option<bool>,
    /// Snapshots of it that are made by themselves, and how many of those are kept.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Snapshots")]
    pub snapshots: Option<Snapshots>,
    /// What it should be doing.
    #[serde(default)]
    pub state: RunState,
    /// Its network: a multiple of 64 that no other repository has. Left out, one
    /// is chosen at its creation and kept. Read at creation alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "NetworkId")]
    pub network_id: Option<u32>,
    /// Its guid, which is also its image's file name. Left out, one is made at
    /// its creation and kept. Read at creation alone, or to take over an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Guid")]
    pub guid: Option<String>,
    /// What becomes of its data when this manifest goes. Of a copy with a `ttl` it is
    /// Delete where nothing is said.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Whether it may not be deleted. Lifting it takes an apply of its own.
    #[serde(default)]
    #[schemars(example = true)]
    pub protected: bool,
    /// What its daemon and all its containers may take together. Changing it restarts
    /// nothing. Kept where systemd and cgroup v2 rule the machine.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "RepositoryLimits")]
    pub limits: Option<RepositoryLimits>,
}

/// What a repository may take at most.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RepositoryLimits {
    /// Memory, at least `256M`. What needs more is ended by the kernel.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "RepositoryMemory")]
    pub memory: Option<RepositoryMemory>,
    /// Processors: `0.5` is half of one.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "f64", range(min = 0.01, max = 1024.0), example = 1.5)]
    pub cpus: Option<f64>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "u32", range(min = 256, max = 4_194_304), example = 4096)]
    pub pids: Option<u32>,
}

/// What a repository should be doing.
#[derive(Default, Serialize, JsonSchema)]
#[schemars(inline)]
pub enum RunState {
    /// Mounted, its daemon up, its projects running.
    #[default]
    Running,
    /// Mounted, its daemon up, nothing running.
    Stopped,
    /// Closed.
    Offline,
}

/// What becomes of a repository's data when its manifest goes.
#[derive(Default, Serialize, JsonSchema)]
#[schemars(inline)]
pub enum DeletionPolicy {
    /// It is closed and left, unmanaged.
    #[default]
    Retain,
    /// Its image goes to the trash for 7 days.
    Delete,
}

/// How an image is encrypted.
#[derive(JsonSchema)]
#[schemars(inline, untagged)]
pub enum Encryption {
    None(NoEncryption),
    Sealed(SealedBy),
}

/// Not at all.
#[derive(JsonSchema)]
#[schemars(inline, extend("const" = "none"))]
pub struct NoEncryption(pub String);

/// With LUKS2.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SealedBy {
    /// Where the passphrase is.
    pub passphrase_from: SecretSource,
    /// How it is stretched. Read at creation alone.
    #[serde(default)]
    pub pbkdf: Pbkdf,
}

/// How a passphrase is stretched.
#[derive(Default, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Pbkdf {
    /// It costs memory too.
    #[default]
    Argon2id,
    /// It costs time alone: for machines with little memory.
    Pbkdf2,
}

/// Where a secret is: one of the four.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct SecretSource {
    /// A file on the machine that root alone can read. A line end that closes it
    /// does not count.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "AbsolutePath")]
    pub file: Option<String>,
    /// A systemd credential, by its name.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "CredentialName")]
    pub credential: Option<String>,
    /// A file encrypted with age for this machine, from the folder that this
    /// manifest lies in.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "RelativePath")]
    pub age: Option<String>,
    /// A program and its arguments; what it prints is the secret.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Vec<CommandWord>", length(min = 1))]
    pub command: Option<Vec<String>>,
}

/// A word of a command.
#[derive(JsonSchema)]
#[schemars(inline, example = &"/usr/local/bin/secret")]
pub struct CommandWord(#[schemars(regex(pattern = r"^[^\x00-\x1f\x7f-\x9f]+$"))] pub String);

/// The name of a systemd credential.
#[derive(JsonSchema)]
#[schemars(inline, example = &"shop")]
pub struct CredentialName(
    #[schemars(regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"))] pub String,
);

/// When snapshots are made, and how many are kept.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Snapshots {
    /// The time between two, from `1m` to `8760h`.
    #[schemars(with = "Lifetime")]
    pub every: String,
    /// How many are kept. Those that a command made are not counted, and stay.
    #[schemars(range(min = 1, max = 1000), example = 24)]
    pub keep: u32,
}

/// Of which repository another is a copy.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ForkOf {
    /// The name of the other.
    #[schemars(with = "Name")]
    pub repository: String,
    /// What the copy is for.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Name")]
    pub tag: Option<String>,
    /// How long it lives, from `1m` to `8760h`; then it deletes itself, unless it
    /// is protected.
    #[serde(default, skip_serializing_if = "nothing")]
    #[schemars(with = "Lifetime")]
    pub ttl: Option<String>,
}

/// Hours, minutes and seconds.
#[derive(JsonSchema)]
#[schemars(inline, example = &"8h")]
pub struct Lifetime(
    #[schemars(regex(pattern = r"^(?=.)([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$"))] pub String,
);
