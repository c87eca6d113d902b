//! What may never be, whoever planned it: looked at before and after every step.

use std::collections::{BTreeMap, BTreeSet};

use super::World;
use crate::model::{
    Actual, ContainerState, Function, Guid, Kept, Made, MadeBy, Name, NetworkId, Object, OnFailure,
    Part, Patch, ProjectSpec, Record, Slots, Step, Verdict, Volume,
};

impl World {
    pub(super) fn record(&self, guid: Guid) -> Option<&Record> {
        self.actual.repositories.known()?.get(&guid)?.record.known()
    }

    /// What may not be done, whatever the planner thought.
    pub(super) fn check_before(&mut self, step: &Step, seen: &Actual) {
        let mut wrong = Vec::new();
        if self.is_left_alone(step, seen) {
            wrong.push("it is to be left alone".to_owned());
        }
        if let Some(guid) = step.object().repository() {
            let repo = seen.repositories.known().and_then(|all| all.get(&guid));
            if repo.is_some_and(|repo| repo.record.is_unknown()) {
                wrong.push("its record cannot be read".to_owned());
            }
            let mounted = repo.is_some_and(|repo| repo.storage.mount.known().is_some());
            if !mounted && matches!(step, Step::WriteFiles { .. } | Step::WriteSlots(..)) {
                wrong.push("it is closed".to_owned());
            }
            if let Some(record) = self.record(guid) {
                wrong.extend(self.forbidden(step, guid, record));
            }
        }
        match step {
            Step::Fork { guid, .. }
                if self.actual.repository(*guid).is_ok_and(|repo| {
                    !repo.storage.file.is_absent() || !repo.trash.is_absent()
                }) =>
            {
                wrong.push("over data".to_owned());
            }
            Step::Replace { guid, with, .. } => {
                let repo = self.actual.repository(*guid).unwrap_or_default();
                if !repo.storage.device.is_absent() || !repo.daemon.is_absent() {
                    wrong.push("the image is open".to_owned());
                }
                if !repo.replaced.is_absent() {
                    wrong.push("another image waits to be kept".to_owned());
                }
                if !self.snapshots.contains_key(&(*guid, *with)) {
                    wrong.push("there is no such snapshot".to_owned());
                }
            }
            Step::KeepReplaced { guid, at } if self.snapshots.contains_key(&(*guid, *at)) => {
                wrong.push("over a snapshot".to_owned());
            }
            Step::Format { volume, .. }
                if self
                    .actual
                    .storage(*volume)
                    .is_ok_and(|storage| !storage.file.is_absent()) =>
            {
                wrong.push("over data".to_owned());
            }
            Step::Format {
                volume: Volume::Datastore,
                size,
                ..
            } => {
                let disk = self.actual.datastore.disk.known();
                if disk.is_some_and(|disk| disk.refused.is_some() || disk.size != *size) {
                    wrong.push("over what is on a device".to_owned());
                }
            }
            Step::Up { guid, project, .. } => {
                wrong.extend(self.unsaved(*guid, project));
                wrong.extend(self.untried(*guid, project));
                let of = (*guid, project.name.clone(), project.hash.clone());
                let known = self.failing.get(&of);
                let again = known.is_some_and(|run| *run != self.run);
                let retry = self.acting.as_ref().is_some_and(|acting| acting.retry);
                if again && !retry {
                    wrong.push("this revision failed in an earlier run".to_owned());
                }
                for on in &project.depends_on {
                    if !self.is_well(*guid, on) {
                        wrong.push(format!("{on}, on which it depends, is not well"));
                    }
                }
            }
            _ => {}
        }
        let wrong = wrong.into_iter().map(|what| format!("{step}: {what}"));
        self.violations.extend(wrong);
    }

    /// An update starts nothing before the data from before it is safe.
    fn unsaved(&self, guid: Guid, project: &ProjectSpec) -> Option<String> {
        let repo = self.actual.repository(guid).ok()?;
        let kept = repo.revisions.known()?.get(&project.name)?;
        let newest = kept.last()?;
        let record = repo.record.known()?;
        let has_them = |kept: &Kept| {
            let spec = kept.spec.as_ref();
            spec.is_some_and(|spec| spec.files.digest() == project.files.digest())
        };
        // After a failure they may be those of one that came back.
        let failed = record.failed.contains_key(&project.name);
        let written = !(has_them(newest) || failed && kept.iter().any(has_them));
        // What comes back after a failure is no update.
        let comes_back = record.failed.contains_key(&project.name)
            && kept.iter().any(|kept| kept.hash == project.hash);
        if newest.hash == project.hash || comes_back || project.on_failure == OnFailure::Stop {
            return None;
        }
        if record.updates(&project.name) != Some(&project.hash) {
            return Some("no update of it was begun".to_owned());
        }
        // Beside another the snapshot is from before that one.
        let under_way = record.unfinished.as_ref();
        let alone = under_way.filter(|under_way| under_way.projects.len() == 1)?;
        let saved = self.snapshots.get(&(guid, alone.snapshot))?;
        let files = saved.files.known()?.get(&project.name)?;
        (written && files.digest == *project.files.digest())
            .then(|| "its snapshot holds the new files".to_owned())
    }

    /// What is to be tried on a copy first was well there before it runs here.
    fn untried(&self, guid: Guid, project: &ProjectSpec) -> Option<String> {
        let repo = self.actual.repository(guid).ok()?;
        let kept = repo.revisions.known()?.get(&project.name)?;
        let was_well = kept.iter().any(|kept| kept.hash == project.hash);
        let record = repo.record.known()?;
        let verdict = record.verdict(&project.name, &project.hash);
        let all = repo.containers.known();
        let runs = all.and_then(|all| all.get(&project.name));
        let runs_already = runs.is_some_and(|runs| {
            !runs.is_empty()
                && runs.iter().all(|(name, container)| {
                    let service = project.services.get(name);
                    service.is_some_and(|service| service.config_hash == container.config_hash)
                })
        });
        let tried = was_well || runs_already || verdict == Some(&Verdict::Well);
        (project.fork_first && !tried).then(|| "it was not tried on a copy".to_owned())
    }

    /// What routes can lead to: what runs in each repository, and the addresses there.
    pub(super) fn routed(&self) -> BTreeMap<Guid, (Part<Slots>, Vec<String>)> {
        let all = self.actual.repositories.known().into_iter().flatten();
        let each = all.map(|(guid, repo)| {
            let serves = repo.daemon.known().is_some_and(|daemon| daemon.serving);
            let projects = repo.containers.known().filter(|_| serves);
            let containers = projects.into_iter().flat_map(BTreeMap::values).flatten();
            let runs = containers.filter(|(_, one)| one.state == ContainerState::Running);
            let runs: Vec<String> = runs.map(|(name, _)| name.clone()).collect();
            (*guid, (repo.mirror.clone(), runs))
        });
        each.filter(|(_, (_, runs))| !runs.is_empty()).collect()
    }

    /// Whether every container of a project is well.
    pub(super) fn is_well(&self, guid: Guid, project: &Name) -> bool {
        let all = self.actual.repositories.known();
        let repo = all.and_then(|all| all.get(&guid));
        let projects = repo.and_then(|repo| repo.containers.known());
        let containers = projects.and_then(|projects| projects.get(project));
        containers.is_some_and(|containers| {
            let mut all = containers.values();
            all.all(|container| container.is_well(true))
        })
    }

    /// Nothing at all changes on a machine that is left alone, nor of a route that is.
    fn is_left_alone(&self, step: &Step, seen: &Actual) -> bool {
        let told = self.acting.as_ref().is_none_or(|acting| acting.command);
        // Behind a closed datastore nobody knows.
        let machine = seen.machine.known();
        let machine = machine.and_then(|machine| machine.suspended.as_ref());
        let route = match step.object() {
            Object::Route(name) => {
                let routes = seen.routes.known();
                routes.and_then(|routes| routes.get(&name)?.suspended.as_ref())
            }
            _ => None,
        };
        let mut suspensions = machine.into_iter().chain(route);
        !told && suspensions.any(|suspension| suspension.holds_at(self.actual.now))
    }

    /// Nothing of what belongs to others, is suspended or protected changes; what
    /// is due by its own record goes.
    pub(super) fn forbidden(&self, step: &Step, guid: Guid, record: &Record) -> Option<String> {
        let now = self.actual.now;
        if let Step::Record(_, Patch::Delete(Some(_))) = step
            && record.protected
        {
            return Some("it is protected".to_owned());
        }
        let acting = self.acting.as_ref()?;
        let told = acting.told.contains(&guid);
        if let Step::DropSnapshot { permit, at, .. } = step {
            let all = self.actual.repository(guid).unwrap_or_default();
            let snapshot = all.snapshots.known().and_then(|all| all.get(at));
            let under_way = record.unfinished.as_ref();
            let needed = under_way.is_some_and(|one| one.snapshot == *at)
                || record.rewind.is_some_and(|rewind| rewind.to == *at);
            let by_rule = snapshot.is_some_and(|snapshot| match snapshot.made_by {
                MadeBy::Command | MadeBy::Rewind => false,
                MadeBy::Rule => true,
                MadeBy::Update => !needed,
            });
            if permit.guid() != guid || !told && !by_rule && record.is_live() {
                return Some("without leave".to_owned());
            }
        }
        if let Step::Purge { permit, .. } = step {
            let due = record
                .deleted
                .as_ref()
                .is_some_and(|stone| stone.due <= now);
            if permit.guid() != guid || !told && !due {
                return Some("without leave".to_owned());
            }
        }
        if told {
            return None;
        }
        let over = record.expires.is_some_and(|at| at <= now);
        if let Step::Thaw(_) = step {
            return None;
        }
        let buries = matches!(
            step,
            Step::StopDaemon { .. }
                | Step::Hook {
                    function: Function::Down,
                    ..
                }
                | Step::Unmount(_)
                | Step::Close(_)
                | Step::Detach(_)
                | Step::ClearStaging(_)
                | Step::KeepReplaced { .. }
                | Step::Trash(_)
                | Step::Purge { .. }
                | Step::DropSnapshot { .. }
                | Step::DropRecord(_)
                | Step::Record(_, Patch::Purged | Patch::Delete(Some(_)))
        );
        if buries && (over || record.deleted.is_some()) {
            return None;
        }
        let others = record.owner.as_ref().is_some_and(|is| *is != acting.owner);
        if others && !acting.take_over {
            return Some("it belongs to another source".to_owned());
        }
        let project = match step.object() {
            Object::Service(_, project) => record.suspended_projects.get(&project),
            _ => None,
        };
        let mut suspensions = record.suspended.iter().chain(project);
        suspensions
            .any(|suspension| suspension.holds_at(now))
            .then(|| "it is suspended".to_owned())
    }

    /// What holds at every instant.
    pub(super) fn check_after(&mut self, step: &Step) {
        let mut wrong = Vec::new();
        let none = BTreeMap::new();
        let all = self.actual.repositories.known().unwrap_or(&none);
        for guid in self.contents.keys() {
            let places = all.get(guid).map_or(0, |repo| {
                usize::from(!repo.storage.file.is_absent()) + usize::from(!repo.trash.is_absent())
            });
            if places != 1 && self.actual.datastore.storage.mount.known().is_some() {
                wrong.push(format!("the image of {guid} lies in {places} places"));
            }
        }
        let records = || all.values().filter_map(|repo| repo.record.known());
        let live: Vec<&Name> = records()
            .filter(|record| record.is_live())
            .map(|record| &record.name)
            .collect();
        if live.iter().collect::<BTreeSet<_>>().len() != live.len() {
            wrong.push(format!("one name for two repositories: {live:?}"));
        }
        let networks: Vec<NetworkId> = records().filter_map(Record::holds_network).collect();
        if networks.iter().collect::<BTreeSet<_>>().len() != networks.len() {
            wrong.push("one network for two repositories".to_owned());
        }
        let mut running = BTreeSet::new();
        for (guid, repo) in all {
            let serves = repo.daemon.known().is_some_and(|daemon| daemon.serving);
            let projects = repo.containers.known().filter(|_| serves);
            let containers = projects.into_iter().flat_map(BTreeMap::values);
            for container in containers.flat_map(BTreeMap::values) {
                if container.state == ContainerState::Running
                    && let Made::Is(id) = &container.id
                    && !running.insert(id)
                {
                    wrong.push(format!("a container of another repository runs in {guid}"));
                }
            }
        }
        for (guid, repo) in all {
            let open = repo.storage.mapper.known().is_some();
            if repo.storage.is_sealed() == Ok(true) && repo.storage.mount.known().is_some() && !open
            {
                wrong.push(format!("{guid} is mounted and not open"));
            }
        }
        for (name, entry) in self.actual.published.known().into_iter().flatten() {
            if !self.ever_well.contains(entry.backend.ip()) {
                wrong.push(format!("route {name} leads to what never ran"));
            }
        }
        let wrong = wrong
            .into_iter()
            .map(|what| format!("after {step}: {what}"));
        self.violations.extend(wrong);
        match step {
            // Well again, gone, or forgotten with its record: it may be tried anew.
            Step::Record(guid, Patch::Passed(project)) | Step::EraseFiles { guid, project } => {
                self.failing
                    .retain(|(of, name, _), _| of != guid || name != project);
            }
            Step::Reserve { guid, .. } => self.failing.retain(|(of, ..), _| of != guid),
            _ => {}
        }
    }
}
