//! Updates as transactions: a snapshot of the data comes first, and the record says
//! that one is under way until it is settled, whatever the manifests say by then.

use jiff::Timestamp;

use super::script::Script;
use super::stand_in::StandIns;
use crate::model::{
    Danger, DataLossPermit, Guid, MadeBy, OnFailure, Patch, ProjectSpec, Record, RepositorySpec,
    RunState, Step, Stop,
};

impl Script<'_> {
    /// Before anything of a project that was well once becomes something else: its data
    /// as it is now.
    pub(super) fn begin(
        &mut self,
        guid: Guid,
        project: &ProjectSpec,
        standing_in: &StandIns,
    ) -> Result<(), Stop> {
        if project.on_failure == OnFailure::Stop || standing_in.has(&project.name) {
            return Ok(());
        }
        let repo = self.repo(guid)?;
        let kept = repo.revisions.get()?.and_then(|all| all.get(&project.name));
        let newest = kept.and_then(|kept| kept.last());
        let Some(newest) = newest.filter(|newest| newest.hash != project.hash) else {
            return Ok(());
        };
        // One that went well and was not ended is over.
        let went_well = |record: &Record| record.updates(&project.name) == Some(&newest.hash);
        if self.record(guid)?.as_ref().is_some_and(went_well) {
            self.want(Step::Record(guid, Patch::End(project.name.clone())))?;
        }
        let under_way = self.record(guid)?.and_then(|record| record.unfinished);
        // What came before another that is under way is what it was before this one, too.
        let before = under_way.map(|under_way| under_way.snapshot);
        if project.on_failure == OnFailure::RollbackWithData {
            self.note_rewind(guid)?;
        }
        let snapshot = match before.or_else(|| self.taken_for_update(guid)) {
            Some(at) => at,
            None => {
                let at = self.free_moment(guid)?;
                self.take_snapshot(guid, at, MadeBy::Update, Some(&project.name))?;
                at
            }
        };
        self.want(Step::Record(
            guid,
            Patch::Begin {
                project: project.name.clone(),
                to: project.hash.clone(),
                snapshot,
            },
        ))
    }

    /// Ends updates that nobody else will: their project is gone, is to be stopped or to
    /// stay where it failed, or there is nothing that could come back.
    pub(super) fn settle(&mut self, spec: &RepositorySpec, standing_in: &StandIns) {
        let Ok(Some(record)) = self.record(spec.guid) else {
            return;
        };
        for name in record.trials.keys() {
            let runs = spec.state == RunState::Running && spec.declared.contains(name);
            if !runs {
                let end = Step::Record(spec.guid, Patch::Try(name.clone(), None));
                self.group(end.object(), |script| script.want(end));
            }
        }
        let under_way = record.unfinished.iter().flat_map(|all| all.projects.keys());
        for name in under_way {
            let runs = spec.state == RunState::Running && spec.declared.contains(name);
            let stays = spec.projects.get(name).is_some_and(|project| {
                let failed = record.has_failed(name, &project.hash);
                project.on_failure == OnFailure::Stop || failed && !standing_in.has(name)
            });
            if !runs || stays {
                let end = Step::Record(spec.guid, Patch::End(name.clone()));
                self.group(end.object(), |script| script.want(end));
            }
        }
    }

    /// The snapshots that updates made and nobody needs any more. After one that
    /// failed the last stays until all is well again.
    pub(super) fn drop_settled(&mut self, guid: Guid) -> Result<(), Stop> {
        let Some(record) = self.record(guid)? else {
            return Ok(());
        };
        let repo = self.repo(guid)?;
        let all = repo.snapshots.get()?.into_iter().flatten();
        let made = all.filter(|(_, snapshot)| snapshot.made_by == MadeBy::Update);
        let made: Vec<Timestamp> = made.map(|(at, _)| *at).collect();
        for at in &made {
            let newest = made.last() == Some(at);
            if let Some(permit) = DataLossPermit::settled(guid, *at, newest, &record) {
                let at = *at;
                self.want(Step::DropSnapshot { guid, at, permit })?;
            }
        }
        Ok(())
    }

    /// The snapshot that this plan takes for another update.
    fn taken_for_update(&self, of: Guid) -> Option<Timestamp> {
        let mut steps = self.plan.steps.iter();
        steps.find_map(|step| match step {
            Step::Snapshot {
                guid, at, made_by, ..
            } => (*guid == of && *made_by == MadeBy::Update).then_some(*at),
            _ => None,
        })
    }

    /// What it costs where the update fails and takes its data back.
    fn note_rewind(&mut self, guid: Guid) -> Result<(), Stop> {
        let network = self.record(guid)?.map(|record| record.network);
        let stop = network.map(|network| Step::StopDaemon { guid, network });
        let stops = stop.map(|stop| stop.danger(&self.scratch));
        self.plan.danger.extend(stops.into_iter().flatten());
        self.plan.danger.insert(Danger::TakesBack(guid));
        Ok(())
    }

    /// A time by which no snapshot is known.
    pub(super) fn free_moment(&self, guid: Guid) -> Result<Timestamp, Stop> {
        let repo = self.repo(guid)?;
        repo.snapshots.get()?;
        Ok(repo.free_moment(self.scratch.now))
    }
}
