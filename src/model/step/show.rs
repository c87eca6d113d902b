use std::fmt;

use uuid::Uuid;

use super::Step;
use crate::model::{DeletionPolicy, Name, Patch, Snapshot, Verdict, Volume};

/// The line that the operator reads, with ids as they are.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tell(f, &|id| id.to_string())
    }
}

impl Step {
    /// The line that the operator reads: what is done, and to what size or name;
    /// `id` says how people know what has an id.
    pub fn line(&self, id: &dyn Fn(Uuid) -> String) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.tell(&mut out, id);
        out
    }

    fn tell(&self, f: &mut dyn fmt::Write, id: &dyn Fn(Uuid) -> String) -> fmt::Result {
        match self {
            Step::ClearStaging(_) => f.write_str("clear half-made image"),
            Step::Format {
                volume: Volume::Datastore,
                size,
                ..
            } => {
                write!(f, "create datastore        {size}, btrfs")
            }
            Step::Format { size, seal, .. } => {
                let sealed = if seal.is_some() { ", encrypted" } else { "" };
                write!(f, "create image            {size}, ext4{sealed}")
            }
            Step::Fork {
                from,
                snapshot: Some(at),
                ..
            } => write!(
                f,
                "copy image              of {}, as of {}",
                id(from.as_uuid()),
                Snapshot::shown(*at)
            ),
            Step::Fork { from, .. } => {
                write!(f, "copy image              of {}", id(from.as_uuid()))
            }
            Step::Snapshot { at, .. } => {
                write!(f, "make snapshot           {}", Snapshot::shown(*at))
            }
            Step::DropSnapshot { at, permit, .. } => write!(
                f,
                "destroy snapshot        {}: {}",
                Snapshot::shown(*at),
                permit.reason()
            ),
            Step::Replace { with, .. } => {
                write!(
                    f,
                    "replace image           by that of {}",
                    Snapshot::shown(*with)
                )
            }
            Step::KeepReplaced { at, .. } => {
                write!(f, "keep replaced image     {}", Snapshot::shown(*at))
            }
            Step::Thaw(_) => f.write_str("thaw"),
            Step::Open { .. } => f.write_str("open"),
            Step::GrowMapper(_) => f.write_str("grow mapping"),
            Step::EnrolKey { .. } => f.write_str("make key for boot"),
            Step::CopyKey { .. } => f.write_str("copy key for boot"),
            Step::DropKey(_) => f.write_str("destroy key for boot"),
            Step::Close(_) => f.write_str("close"),
            Step::CleanFork(_) => f.write_str("clear copied containers"),
            Step::GrowFile { size, .. } => write!(f, "grow file               to {size}"),
            Step::Attach(_) => f.write_str("attach"),
            Step::GrowDevice(_) => f.write_str("grow device"),
            Step::Mount(_) => f.write_str("mount"),
            Step::GrowFs(_) => f.write_str("grow file system"),
            Step::Unmount(_) => f.write_str("unmount"),
            Step::Detach(_) => f.write_str("detach"),
            Step::LayOut => f.write_str("lay out folders"),
            Step::NoteDatastore(uuid) => write!(f, "note datastore          {}", id(*uuid)),
            Step::CloseDatastore(Some(by)) => write!(f, "leave closed            by {}", by.by),
            Step::CloseDatastore(None) => f.write_str("no longer leave closed"),
            Step::KeepReserve(size) => write!(f, "keep reserve            {size}"),
            Step::GiveReserve => f.write_str("give reserve back"),
            Step::ClaimMachine { name, .. } => write!(f, "name machine            {name}"),
            Step::SuspendMachine(Some(by)) | Step::SuspendRoute(_, Some(by)) => {
                write!(f, "suspend                 by {}", by.by)
            }
            Step::SuspendMachine(None) | Step::SuspendRoute(_, None) => f.write_str("resume"),
            Step::Reserve { network, .. } => write!(f, "reserve                 network {network}"),
            Step::Record(_, patch) => match patch {
                Patch::Claim(owner) => write!(f, "adopt                   for {}", owner.source),
                Patch::Release => f.write_str("release                 unmanaged from now on"),
                Patch::Rename(name) => write!(f, "rename                  to {name}"),
                Patch::Fork(lineage) => {
                    let parent = id(lineage.parent.as_uuid());
                    write!(f, "note parent             {parent}")
                }
                Patch::Network(network) => write!(f, "note network            {network}"),
                Patch::Cleaned => f.write_str("note cleared copy"),
                Patch::Autostart(true) => f.write_str("start at boot"),
                Patch::Autostart(false) => f.write_str("stay closed at boot"),
                Patch::Expire(at) => write!(f, "note end                {at}"),
                Patch::Created => f.write_str("note image"),
                Patch::Policy(DeletionPolicy::Retain) => {
                    f.write_str("note policy             retain without a manifest")
                }
                Patch::Policy(DeletionPolicy::Delete) => {
                    f.write_str("note policy             delete without a manifest")
                }
                Patch::Limit(limits) => write!(f, "note limits             {limits}"),
                Patch::Protect(true) => f.write_str("protect"),
                Patch::Protect(false) => f.write_str("lift protection"),
                Patch::Suspend(Some(by)) | Patch::SuspendProject(_, Some(by)) => {
                    write!(f, "suspend                 by {}", by.by)
                }
                Patch::Suspend(None) | Patch::SuspendProject(_, None) => f.write_str("resume"),
                Patch::Delete(Some(stone)) => {
                    write!(f, "mark deleted            due {}", stone.due)
                }
                Patch::Delete(None) => f.write_str("mark restored"),
                Patch::Unhold => f.write_str("ask for a new one"),
                Patch::Purged => f.write_str("free network"),
                Patch::OwnProject(_, on) => match on.is_empty() {
                    true => f.write_str("own project"),
                    false => {
                        let on: Vec<&str> = on.iter().map(Name::as_str).collect();
                        write!(f, "own project             after {}", on.join(", "))
                    }
                },
                Patch::DisownProject(_) => f.write_str("disown project"),
                Patch::Failed(_, hash) => write!(f, "note failed revision    {}", hash.short()),
                Patch::Begin { .. } => f.write_str("begin update"),
                Patch::End(_) => f.write_str("end update"),
                Patch::Rewind(rewind) => {
                    write!(
                        f,
                        "begin rewind            to {}",
                        Snapshot::shown(rewind.to)
                    )
                }
                Patch::Rewound => f.write_str("end rewind"),
                Patch::Passed(_) => f.write_str("forget failed revision"),
                Patch::Try(_, None) => f.write_str("end trial"),
                Patch::Try(_, Some(trial)) => {
                    let what = match trial.verdict {
                        Verdict::Pending => "try on a copy first   ",
                        Verdict::Well => "note well on a copy   ",
                        Verdict::Failed(_) => "note failed on a copy ",
                    };
                    write!(f, "{what}  {}", trial.revision.short())
                }
            },
            Step::Trash(_) => f.write_str("move to trash"),
            Step::Untrash(_) => f.write_str("bring back from trash"),
            Step::Purge { permit, .. } => write!(f, "destroy                 {}", permit.reason()),
            Step::DropRecord(_) => f.write_str("forget"),
            Step::MirrorSlots(_, slots) | Step::WriteSlots(_, slots) => {
                let place = if matches!(self, Step::WriteSlots(..)) {
                    "write"
                } else {
                    "mirror"
                };
                write!(f, "{:<24}", format!("{place} slots"))?;
                for (index, (service, slot)) in slots.0.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{service}={}", slot.get())?;
                }
                Ok(())
            }
            Step::StartDaemon { network, .. } => {
                write!(f, "start daemon            network {network}")
            }
            Step::StopDaemon { network, .. } => {
                write!(f, "stop daemon             network {network}")
            }
            Step::WriteFiles { project, .. } => {
                let files = project.files.files().len();
                let plural = if files == 1 { "" } else { "s" };
                write!(f, "write files             {files} file{plural}")
            }
            Step::KeepRevision { .. } => f.write_str("keep revision"),
            Step::EraseFiles { .. } => f.write_str("remove files"),
            Step::FetchImages { project, .. } => {
                let images: Vec<String> = project.images().into_iter().collect();
                write!(f, "fetch images            {}", images.join(", "))
            }
            Step::Up { project, .. } => {
                let names: Vec<&str> = project.services.keys().map(String::as_str).collect();
                write!(f, "up                      {}", names.join(", "))
            }
            Step::Wait { project, .. } => {
                write!(
                    f,
                    "wait until well         up to {:#}",
                    project.healthy_within
                )
            }
            Step::Down { .. } => f.write_str("down"),
            Step::Hook { hook, function, .. } => {
                write!(
                    f,
                    "run hook                {} of {}",
                    function.name(),
                    hook.file
                )
            }
            Step::RecordRoute { route, .. } => write!(
                f,
                "note route              {} → {}:{}",
                route.host, route.service, route.port
            ),
            Step::ForgetRoute(_) => f.write_str("forget route"),
            Step::StartProxy(spec) => write!(f, "start proxy             port {}", spec.http),
            Step::StopProxy => f.write_str("stop proxy"),
            Step::PublishRoutes(table) => {
                let hosts: Vec<&str> = table.values().map(|route| route.host.as_str()).collect();
                write!(f, "publish routes          {}", hosts.join(", "))
            }
        }
    }
}
