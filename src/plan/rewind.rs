//! The data of a repository goes back to a snapshot, and what was there is kept as
//! another. It is begun in the record and finished before anything is opened, whatever
//! the manifests say by then.

use super::script::Script;
use crate::model::{
    Blocked, Guid, Name, NetworkId, Object, OnFailure, Patch, ProjectSpec, RepositorySpec, Rewind,
    Snapshot, Step, Stop, Volume,
};

impl Script<'_> {
    /// Where an update failed that is to take its data back, it does.
    pub(super) fn rewind_failed(&mut self, spec: &RepositorySpec) -> Result<(), Stop> {
        let guid = spec.guid;
        let Some(record) = self.record(guid)?.filter(|record| record.rewind.is_none()) else {
            return Ok(());
        };
        let Some(under_way) = &record.unfinished else {
            return Ok(());
        };
        let takes_back = |project: &ProjectSpec| {
            project.on_failure == OnFailure::RollbackWithData
                && record.updates(&project.name) == Some(&project.hash)
                && self.counts_as_failed(guid, &record, project)
        };
        if !spec.projects.values().any(|project| takes_back(project)) {
            return Ok(());
        }
        let rewind = Rewind {
            to: under_way.snapshot,
            keep: self.free_moment(guid)?,
        };
        self.want(Step::Record(guid, Patch::Rewind(rewind)))
    }

    /// What a command asks: the data of a snapshot comes back, and the present revision
    /// of a project, where one is named, counts as failed.
    pub(super) fn rewind(
        &mut self,
        guid: Guid,
        project: Option<&Name>,
        rewind: Rewind,
    ) -> Result<(), Stop> {
        let repo = self.repo(guid)?;
        let all = repo.snapshots.get()?;
        let done = all.is_some_and(|all| Snapshot::is_rewind(all, rewind.keep));
        let record = repo.record.get()?;
        if done || record.is_some_and(|record| record.rewind.is_some()) {
            return Ok(());
        }
        if !all.is_some_and(|all| all.contains_key(&rewind.to)) {
            let none = format!("there is no snapshot {}", Snapshot::shown(rewind.to));
            return Err(Stop::Block(Blocked::Unresolved(none)));
        }
        if let Some(project) = project {
            self.leave_aside(guid, project)?;
        }
        self.want(Step::Record(guid, Patch::Rewind(rewind)))
    }

    /// Finishes what was begun: nothing opens an image that another is to replace.
    pub(super) fn finish_rewind(&mut self, guid: Guid, network: NetworkId) -> Result<(), Stop> {
        let Some(rewind) = self.record(guid)?.and_then(|record| record.rewind) else {
            return self.keep_replaced(guid);
        };
        // Out of the trash first, where it is on its way back from there.
        self.bring_back(guid)?;
        let Rewind { to: with, keep } = self.with_room(guid, rewind)?;
        let replace = Step::Replace { guid, with, keep };
        if !replace.holds(&self.scratch)? {
            let repo = self.repo(guid)?;
            let all = repo.snapshots.get()?;
            if !all.is_some_and(|all| all.contains_key(&with)) {
                let note = format!(
                    "its data stays: snapshot {}, to which it was to go back, is gone",
                    Snapshot::shown(with)
                );
                self.plan.notes.push((Object::Repository(guid), note));
                return self.want(Step::Record(guid, Patch::Rewound));
            }
            self.close(guid, network)?;
            self.want(Step::ClearStaging(Volume::Image(guid)))?;
            self.want(replace)?;
        }
        self.keep_replaced(guid)?;
        self.want(Step::Record(guid, Patch::Rewound))
    }

    /// Where a snapshot was made meanwhile of the time by which the image is to be kept,
    /// it is kept by another: that snapshot is not this image.
    fn with_room(&mut self, guid: Guid, rewind: Rewind) -> Result<Rewind, Stop> {
        let repo = self.repo(guid)?;
        let all = repo.snapshots.get()?;
        let taken = all.is_some_and(|all| {
            all.contains_key(&rewind.keep) && !Snapshot::is_rewind(all, rewind.keep)
        });
        if !taken {
            return Ok(rewind);
        }
        let rewind = Rewind {
            keep: self.free_moment(guid)?,
            ..rewind
        };
        self.want(Step::Record(guid, Patch::Rewind(rewind)))?;
        Ok(rewind)
    }

    /// An image whose place another took becomes a snapshot.
    pub(super) fn keep_replaced(&mut self, guid: Guid) -> Result<(), Stop> {
        if self.repo(guid)?.replaced.get()?.is_none() {
            return Ok(());
        }
        let said = self.record(guid)?.and_then(|record| record.rewind);
        let at = match said {
            Some(rewind) => self.with_room(guid, rewind)?.keep,
            None => self.free_moment(guid)?,
        };
        self.want(Step::ClearStaging(Volume::Image(guid)))?;
        self.want(Step::KeepReplaced { guid, at })
    }
}
