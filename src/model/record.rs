use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use jiff::Timestamp;

use super::revision::{note_failed, read_failed};
use super::{
    Digest, FailedRevisions, Guid, HookRuns, HostName, Name, NetworkId, ResourceLimits, Slots,
    Trial, Verdict,
};

/// The format of a file that renet keeps. A file of a newer renet is not read:
/// what it means is not known here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub struct Format;

impl Format {
    const NEWEST: u32 = 1;
}

impl From<Format> for u32 {
    fn from(_: Format) -> u32 {
        Format::NEWEST
    }
}

impl TryFrom<u32> for Format {
    type Error = String;

    fn try_from(format: u32) -> Result<Self, String> {
        match format {
            Format::NEWEST => Ok(Format),
            _ => Err(format!(
                "it has format {format}, this renet knows format {}: use the renet that wrote it",
                Format::NEWEST
            )),
        }
    }
}

/// Which source declares an object, and as what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// The absolute path of the folder, as given (or git URL and path).
    pub source: String,
}

/// What renet must remember about a repository and no machine can show.
/// Kept in `.interim/state/{guid}/record.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// How it is written.
    pub format: Format,
    /// The repository's name.
    pub name: Name,
    /// Its network.
    pub network: NetworkId,
    /// Who declares it; `None` is unmanaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Whether its image was once committed: then it is never made again.
    #[serde(default)]
    pub created: bool,
    /// The projects that renet started.
    #[serde(default)]
    pub projects: BTreeSet<Name>,
    /// Which projects each of them depends on: they are stopped in reverse.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub depends_on: BTreeMap<Name, BTreeSet<Name>>,
    /// Revisions that failed.
    #[serde(default, deserialize_with = "read_failed")]
    pub failed: FailedRevisions,
    /// The updates that are under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<Unfinished>,
    /// The data is on its way back to what it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewind: Option<Rewind>,
    /// Revisions that are tried on a copy first; in the copy's own record those that it
    /// is there to try.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub trials: BTreeMap<Name, Trial>,
    /// How hooks ended that were run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hooks: HookRuns,
    /// What becomes of the data when the manifest goes.
    #[serde(default)]
    pub policy: DeletionPolicy,
    /// Whether it may not be deleted.
    #[serde(default)]
    pub protected: bool,
    /// What its daemon and its containers may take together.
    #[serde(default, skip_serializing_if = "ResourceLimits::is_none")]
    pub limits: ResourceLimits,
    /// Told to be left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<Suspension>,
    /// Projects that were told to be left alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub suspended_projects: BTreeMap<Name, Suspension>,
    /// Of which repository it is a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<Lineage>,
    /// Whether what it copied along with its parent was cleared, so that a daemon
    /// may start on it.
    #[serde(default)]
    pub cleaned: bool,
    /// Whether it comes back at boot.
    #[serde(default)]
    pub autostart: bool,
    /// When it deletes itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Deleted: its image is in the trash, or on its way there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Tombstone>,
    /// Fields of a newer renet, kept as they are.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl Record {
    /// A new repository's record.
    pub fn new(name: Name, network: NetworkId) -> Self {
        Self {
            format: Format,
            name,
            network,
            owner: None,
            created: false,
            projects: BTreeSet::new(),
            depends_on: BTreeMap::new(),
            failed: FailedRevisions::new(),
            unfinished: None,
            rewind: None,
            trials: BTreeMap::new(),
            hooks: HookRuns::new(),
            policy: DeletionPolicy::default(),
            protected: false,
            limits: ResourceLimits::default(),
            suspended: None,
            suspended_projects: BTreeMap::new(),
            lineage: None,
            cleaned: false,
            autostart: false,
            expires: None,
            deleted: None,
            other: BTreeMap::new(),
        }
    }

    /// A new repository's record; of one that is there to try changes of another, it says
    /// so from the first.
    pub fn reserved(name: Name, network: NetworkId, trial_of: Option<Guid>) -> Self {
        Self {
            lineage: trial_of.map(Lineage::trial_of),
            ..Self::new(name, network)
        }
    }

    /// Whether it holds the containers of its parent, which may never run in it.
    pub fn is_uncleaned_fork(&self) -> bool {
        self.lineage.is_some() && !self.cleaned
    }

    /// The repository whose changes this one is there to try.
    pub fn trial_of(&self) -> Option<Guid> {
        let lineage = self.lineage.as_ref().filter(|lineage| lineage.trial);
        lineage.map(|lineage| lineage.parent)
    }

    /// What came of trying this revision of a project on a copy.
    pub fn verdict(&self, project: &Name, revision: &Digest) -> Option<&Verdict> {
        let trial = self.trials.get(project)?;
        (trial.revision == *revision).then_some(&trial.verdict)
    }

    /// Whether this revision of a project failed.
    pub fn has_failed(&self, project: &Name, hash: &Digest) -> bool {
        let failed = self.failed.get(project);
        failed.is_some_and(|all| all.contains(hash))
    }

    /// Whether one that was well before may have to run in the place of its present one.
    pub fn needs_revisions(&self, project: &Name) -> bool {
        self.failed.contains_key(project) || self.trials.contains_key(project)
    }

    /// The revision that the project becomes by an update that is under way.
    pub fn updates(&self, project: &Name) -> Option<&Digest> {
        self.unfinished.as_ref()?.projects.get(project)
    }

    /// Whether it is alive: a deleted one holds its network, but not its name.
    pub fn is_live(&self) -> bool {
        self.deleted.is_none()
    }

    /// The network that it keeps from others, which a purged one does not.
    pub fn holds_network(&self) -> Option<NetworkId> {
        let purged = self.deleted.as_ref().is_some_and(|stone| stone.purged);
        (!purged).then_some(self.network)
    }
}

/// Updates that are under way: they began, and neither went well nor were taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfinished {
    /// The snapshot of the data from before the first of them.
    pub snapshot: Timestamp,
    /// The revision that each project becomes.
    pub projects: BTreeMap<Name, Digest>,
}

/// A repository's data goes back to what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewind {
    /// The snapshot to which.
    pub to: Timestamp,
    /// The snapshot as which what is there by then is kept.
    pub keep: Timestamp,
}

/// Of which repository another is a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The other, which may be gone by now.
    pub parent: Guid,
    /// What the copy is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Name>,
    /// The snapshot of the other that it is a copy of; without it, of what is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Timestamp>,
    /// Whether it is there to try changes of the other, and goes by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trial: bool,
}

impl Lineage {
    /// A copy of what is there.
    pub fn of(parent: Guid) -> Self {
        Self {
            parent,
            tag: None,
            snapshot: None,
            trial: false,
        }
    }

    /// A copy to try changes on.
    pub fn trial_of(parent: Guid) -> Self {
        Self {
            tag: "trial".parse().ok(),
            trial: true,
            ..Self::of(parent)
        }
    }
}

/// How a repository came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kin {
    /// By itself.
    Own,
    /// As a copy of another.
    Fork,
    /// As a copy that is there to try changes.
    Trial,
}

impl Kin {
    /// What it is by its lineage.
    pub fn of(lineage: Option<&Lineage>) -> Self {
        match lineage {
            None => Kin::Own,
            Some(lineage) if lineage.trial => Kin::Trial,
            Some(_) => Kin::Fork,
        }
    }
}

/// What becomes of a repository's data when its manifest goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DeletionPolicy {
    /// The repository is closed and left, unmanaged.
    #[default]
    Retain,
    /// The image goes to the trash.
    Delete,
}

/// Somebody said that an object is to be left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// Who: the user, and the command.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when; without it until it is lifted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Suspension {
    /// Whether it holds at that time.
    pub fn holds_at(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// What is left of a deleted repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// When it was deleted.
    pub at: Timestamp,
    /// By whom: the user and the command, or the source that no longer declares it.
    pub by: String,
    /// Why.
    pub why: Gone,
    /// When its image may be destroyed.
    pub due: Timestamp,
    /// Whether a manifest of its name stays without a repository, until somebody
    /// restores this one or asks for a new one.
    #[serde(default)]
    pub held: bool,
    /// Whether its image was destroyed.
    #[serde(default)]
    pub purged: bool,
}

/// Why a repository was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Gone {
    /// Its manifest went; when it comes back, so does the repository.
    Pruned,
    /// A command said so.
    Command,
    /// Its time was over.
    Expired,
}

/// One change of a record. Applying it twice changes nothing the second time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Patch {
    /// The source declares this repository now.
    Claim(Owner),
    /// No source declares it any more.
    Release,
    /// It is called so now.
    Rename(Name),
    /// It becomes a copy of another.
    Fork(Lineage),
    /// It gets this network: a copy that was never up.
    Network(NetworkId),
    /// What was copied along with its parent was cleared.
    Cleaned,
    /// Whether it comes back at boot.
    Autostart(bool),
    /// When it deletes itself.
    Expire(Timestamp),
    /// The image was committed.
    Created,
    /// What becomes of the data when the manifest goes.
    Policy(DeletionPolicy),
    /// Whether it may be deleted.
    Protect(bool),
    /// Told to be left alone, or no longer.
    Suspend(Option<Suspension>),
    /// A project is told to be left alone, or no longer.
    SuspendProject(Name, Option<Suspension>),
    /// Deleted, or brought back.
    Delete(Option<Tombstone>),
    /// A manifest of its name gets a new repository.
    Unhold,
    /// The image was destroyed: the network is free.
    Purged,
    /// renet starts and stops this project, which depends on those.
    OwnProject(Name, BTreeSet<Name>),
    /// renet took this project down.
    DisownProject(Name),
    /// What its daemon and its containers may take together.
    Limit(ResourceLimits),
    /// This revision of the project failed.
    Failed(Name, Digest),
    /// An update begins, or goes on to a newer revision. Beside one that is under way
    /// that one's snapshot stays.
    Begin {
        /// The project.
        project: Name,
        /// The revision that it becomes.
        to: Digest,
        /// The snapshot of the data from before.
        snapshot: Timestamp,
    },
    /// The update of the project is over.
    End(Name),
    /// The data goes back to what it was.
    Rewind(Rewind),
    /// It is back: no update is under way, and no hook did its work on it.
    Rewound,
    /// The project is well, or gone: no revision of it is held as failed.
    Passed(Name),
    /// A revision of the project is tried on a copy first, or what came of that; or no
    /// longer.
    Try(Name, Option<Trial>),
}

impl Patch {
    /// Changes the record.
    pub fn apply(&self, record: &mut Record) {
        match self {
            Patch::Claim(owner) => record.owner = Some(owner.clone()),
            Patch::Release => record.owner = None,
            Patch::Rename(name) => record.name = name.clone(),
            Patch::Fork(lineage) => record.lineage = Some(lineage.clone()),
            Patch::Network(network) => record.network = *network,
            Patch::Cleaned => record.cleaned = true,
            Patch::Autostart(autostart) => record.autostart = *autostart,
            Patch::Expire(at) => record.expires = Some(*at),
            Patch::Created => record.created = true,
            Patch::Policy(policy) => record.policy = *policy,
            Patch::Protect(protected) => record.protected = *protected,
            Patch::Limit(limits) => record.limits = *limits,
            Patch::Suspend(suspension) => record.suspended = suspension.clone(),
            Patch::SuspendProject(project, Some(suspension)) => {
                let all = &mut record.suspended_projects;
                all.insert(project.clone(), suspension.clone());
            }
            Patch::SuspendProject(project, None) => {
                record.suspended_projects.remove(project);
            }
            Patch::Delete(stone) => record.deleted = stone.clone(),
            Patch::Unhold => {
                if let Some(stone) = &mut record.deleted {
                    stone.held = false;
                }
            }
            Patch::Purged => {
                if let Some(stone) = &mut record.deleted {
                    stone.purged = true;
                }
            }
            Patch::OwnProject(project, depends_on) => {
                record.projects.insert(project.clone());
                match depends_on.is_empty() {
                    true => record.depends_on.remove(project),
                    false => record
                        .depends_on
                        .insert(project.clone(), depends_on.clone()),
                };
            }
            Patch::DisownProject(project) => {
                record.projects.remove(project);
                record.depends_on.remove(project);
                record.hooks.remove(project);
            }
            Patch::Failed(project, hash) => {
                note_failed(&mut record.failed, project, hash);
            }
            Patch::Begin {
                project,
                to,
                snapshot,
            } => {
                let under_way = record.unfinished.get_or_insert_with(|| Unfinished {
                    snapshot: *snapshot,
                    projects: BTreeMap::new(),
                });
                under_way.projects.insert(project.clone(), to.clone());
            }
            Patch::End(project) => {
                if let Some(under_way) = &mut record.unfinished {
                    under_way.projects.remove(project);
                }
                record
                    .unfinished
                    .take_if(|under_way| under_way.projects.is_empty());
            }
            Patch::Rewind(rewind) => {
                record.rewind = Some(*rewind);
                // The snapshot may be from before its parent's containers were removed.
                record.cleaned = false;
            }
            Patch::Rewound => {
                record.rewind = None;
                record.unfinished = None;
                // What failed fails again.
                for runs in record.hooks.values_mut() {
                    runs.retain(|_, run| run.status != 0);
                }
                record.hooks.retain(|_, runs| !runs.is_empty());
            }
            Patch::Passed(project) => {
                record.failed.remove(project);
            }
            Patch::Try(project, Some(trial)) => {
                record.trials.insert(project.clone(), trial.clone());
            }
            Patch::Try(project, None) => {
                record.trials.remove(project);
            }
        }
    }

    /// Whether the record says so already.
    pub fn holds(&self, record: &Record) -> bool {
        match self {
            Patch::Claim(owner) => record.owner.as_ref() == Some(owner),
            Patch::Release => record.owner.is_none(),
            Patch::Rename(name) => record.name == *name,
            Patch::Fork(lineage) => record.lineage.as_ref() == Some(lineage),
            Patch::Network(network) => record.network == *network,
            Patch::Cleaned => record.cleaned,
            Patch::Autostart(autostart) => record.autostart == *autostart,
            // The first word stands: saying it again moves no date.
            Patch::Expire(_) => record.expires.is_some(),
            Patch::Created => record.created,
            Patch::Policy(policy) => record.policy == *policy,
            Patch::Protect(protected) => record.protected == *protected,
            Patch::Limit(limits) => record.limits == *limits,
            Patch::Suspend(suspension) => record.suspended == *suspension,
            Patch::SuspendProject(project, suspension) => {
                record.suspended_projects.get(project) == suspension.as_ref()
            }
            // The first word stands: saying it again moves no date.
            Patch::Delete(stone) => record.deleted.is_some() == stone.is_some(),
            Patch::Unhold => record.deleted.as_ref().is_none_or(|stone| !stone.held),
            Patch::Purged => record.deleted.as_ref().is_none_or(|stone| stone.purged),
            Patch::OwnProject(project, depends_on) => {
                let none = BTreeSet::new();
                record.projects.contains(project)
                    && record.depends_on.get(project).unwrap_or(&none) == depends_on
            }
            Patch::DisownProject(project) => !record.projects.contains(project),
            Patch::Failed(project, hash) => record.has_failed(project, hash),
            Patch::Begin { project, to, .. } => record.updates(project) == Some(to),
            Patch::End(project) => record.updates(project).is_none(),
            Patch::Rewind(rewind) => record.rewind.as_ref() == Some(rewind),
            Patch::Rewound => record.rewind.is_none(),
            Patch::Passed(project) => !record.failed.contains_key(project),
            Patch::Try(project, trial) => record.trials.get(project) == trial.as_ref(),
        }
    }
}

/// What renet remembers about the machine: `.interim/state/machine.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRecord {
    /// How it is written.
    pub format: Format,
    /// The machine's name, from its manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Who declares the Machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// How much more than there is may be promised to repositories, in hundredths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overcommit: Option<u32>,
    /// The lowest network id that was never given out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_network: Option<NetworkId>,
    /// Who said that all of it is to be left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<Suspension>,
    /// Fields of a newer renet, kept as they are.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// A Route manifest as last applied: the router's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRecord {
    /// Who declares it.
    pub owner: Owner,
    /// The host it answers to.
    pub host: HostName,
    /// The repository's guid.
    pub repository: super::Guid,
    /// The project in it.
    pub project: Name,
    /// The compose service in the project.
    pub service: String,
    /// The port that the service listens on.
    pub port: u16,
    /// The service's address, which never changes while it has its slot.
    pub address: std::net::Ipv4Addr,
    /// Whether it is served over HTTPS; where nothing is said, if a certificate is to be
    /// had for its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<bool>,
    /// Who said that it is to be left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<Suspension>,
}

impl RouteRecord {
    /// The route as it is published.
    pub fn published(&self) -> super::Published {
        super::Published {
            host: self.host.clone(),
            backend: std::net::SocketAddrV4::new(self.address, self.port),
            tls: self.tls,
        }
    }
}

/// The slots file inside the image, as it is written: `.rediacc.json`.
pub fn slots_json(existing: Option<serde_json::Value>, slots: &Slots) -> serde_json::Value {
    use serde_json::{Value, json};
    let mut root = match existing {
        Some(Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    let services = root.entry("services").or_insert_with(|| json!({}));
    if !services.is_object() {
        *services = json!({});
    }
    for (service, slot) in &slots.0 {
        let entry = services
            .as_object_mut()
            .expect("made an object just above")
            .entry(service)
            .or_insert_with(|| json!({}));
        if !entry.is_object() {
            *entry = json!({});
        }
        entry["slot"] = json!(slot.get());
    }
    Value::Object(root)
}

/// Refuses slots that two services have.
pub fn slots_are_distinct(slots: &Slots) -> Result<(), String> {
    let mut taken = BTreeMap::new();
    for (service, slot) in &slots.0 {
        if let Some(other) = taken.insert(slot, service) {
            let slot = slot.get();
            return Err(format!(
                "both `{other}` and `{service}` would have slot {slot}"
            ));
        }
    }
    Ok(())
}

/// Reads the slots out of a `.rediacc.json`.
pub fn slots_from_json(root: &serde_json::Value) -> Result<Slots, String> {
    let Some(services) = root.get("services") else {
        return Ok(Slots::default());
    };
    let services = services.as_object().ok_or("`services` is not a mapping")?;
    let mut slots = Slots::default();
    for (service, entry) in services {
        let Some(slot) = entry.get("slot") else {
            continue;
        };
        let slot = slot
            .as_u64()
            .and_then(|slot| u8::try_from(slot).ok())
            .and_then(|slot| slot.try_into().ok())
            .ok_or_else(|| format!("`services.{service}.slot` is not a slot from 0 to 60"))?;
        slots.0.insert(service.clone(), slot);
    }
    Ok(slots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn writing_slots_keeps_every_key_it_does_not_know() {
        let before =
            json!({"is_fork": true, "services": {"api": {"slot": 0, "restart_policy": "always"}}});
        let slots = slots_from_json(&before).unwrap().allocate(["web"]).unwrap();
        let after = slots_json(Some(before), &slots);
        assert_eq!(after["is_fork"], json!(true));
        assert_eq!(after["services"]["api"]["restart_policy"], json!("always"));
        assert_eq!(after["services"]["web"]["slot"], json!(1));
    }

    #[test]
    fn a_slot_out_of_range_is_an_error_with_its_place() {
        let error = slots_from_json(&json!({"services": {"api": {"slot": 61}}})).unwrap_err();
        assert!(error.contains("services.api.slot"), "{error}");
    }
}
