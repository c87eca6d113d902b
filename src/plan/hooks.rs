//! When the functions of Rediaccfiles run.

use std::sync::Arc;

use super::script::Script;
use crate::model::{
    Blocked, Digest, Environment, Function, Guid, Hook, Kin, Name, NetworkId, Object, Step, Stop,
    hook,
};

/// The project in the repository's own folder.
const ROOT: &str = "root";

impl Script<'_> {
    /// Runs a function of a hook, unless these inputs failed before.
    pub(super) fn run_hook(
        &mut self,
        guid: Guid,
        network: NetworkId,
        hook: Arc<Hook>,
        revision: Option<&Digest>,
        function: Function,
    ) -> Result<(), Stop> {
        let repo = self.repo(guid)?;
        let run = repo.hook_run(&hook.project, function)?;
        let failed = run.is_some_and(|run| run.is_failure_of(&hook));
        if failed && !self.desired.asked.retry {
            return Err(Stop::Block(Blocked::REVISION_FAILED));
        }
        self.want(Step::Hook {
            guid,
            network,
            hook,
            revision: revision.cloned(),
            function,
        })
    }

    /// Starts what no manifest names by the hooks that lie in the repository: all are
    /// prepared first, then its own is run, then those of its folders by name. One of
    /// a folder that fails holds up no other.
    pub(super) fn hooks_up(&mut self, guid: Guid, network: NetworkId) -> Result<(), Stop> {
        let hooks = self.unmanaged(guid, network)?;
        self.refuse_calls(guid, &hooks)?;
        for function in [Function::Prep, Function::Up] {
            for hook in &hooks {
                if !hook.defines(function)
                    || function == Function::Prep && self.ran_up(guid, network, hook)?
                {
                    continue;
                }
                let object = Object::Service(guid, hook.project.clone());
                let ran = match self.limits.tried.get(&object) {
                    Some(why) => Err(Stop::Block(why.clone())),
                    None => self.run_hook(guid, network, hook.clone(), None, function),
                };
                match ran {
                    Ok(()) => {}
                    Err(Stop::Hidden) => return Err(Stop::Hidden),
                    Err(Stop::Block(why)) => {
                        self.plan.blocked.insert(object, why);
                        if function == Function::Prep || hook.project.as_str() == ROOT {
                            return Ok(());
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn ran_up(&self, guid: Guid, network: NetworkId, hook: &Arc<Hook>) -> Result<bool, Stop> {
        let up = Step::Hook {
            guid,
            network,
            hook: hook.clone(),
            revision: None,
            function: Function::Up,
        };
        Ok(hook.defines(Function::Up) && up.holds(&self.scratch)?)
    }

    /// The hooks in a repository that are no declared project's, its own first.
    fn unmanaged(&self, guid: Guid, network: NetworkId) -> Result<Vec<Arc<Hook>>, Stop> {
        let repo = self.repo(guid)?;
        let owned = repo.record.get()?.map(|record| &record.projects);
        let found = repo.hooks.get()?.into_iter().flatten();
        let found = found.map(|(project, _)| project);
        let mut projects: Vec<&Name> = found
            .filter(|project| owned.is_none_or(|owned| !owned.contains(*project)))
            .collect();
        projects.sort_by_key(|project| (project.as_str() != ROOT, *project));
        let mut hooks = Vec::new();
        for project in projects {
            hooks.extend(self.found_hook(guid, network, project)?.map(Arc::new));
        }
        Ok(hooks)
    }

    /// Before anything runs, all of it must be fit to.
    fn refuse_calls(&self, guid: Guid, hooks: &[Arc<Hook>]) -> Result<(), Stop> {
        let repo = self.repo(guid)?;
        let found = repo.hooks.get()?;
        let refused = hooks.iter().flat_map(|hook| {
            let file = found.and_then(|all| all.get(&hook.project));
            let refused = file.into_iter().flat_map(|file| &file.refused);
            refused.map(|one| match hook.project.as_str() {
                ROOT => format!("{}:{one}", hook.file),
                project => format!("{project}/{}:{one}", hook.file),
            })
        });
        let refused: Vec<String> = refused.collect();
        match refused.is_empty() {
            true => Ok(()),
            false => Err(Stop::Block(Blocked::Unresolved(refused.join("\n")))),
        }
    }

    /// Runs `down` of every hook that was run, in the reverse order: all are tried.
    /// What cannot be seen holds nothing up.
    pub(super) fn hooks_down(&mut self, guid: Guid, network: NetworkId) -> Result<(), Stop> {
        let repo = self.repo(guid)?;
        let runs = repo.record.known().map(|record| &record.hooks);
        let mut projects: Vec<&Name> = runs.into_iter().flatten().map(|(name, _)| name).collect();
        projects.sort_by_key(|project| (project.as_str() != ROOT, *project));
        for project in projects.into_iter().rev() {
            self.hook_down(guid, network, project)?;
        }
        Ok(())
    }

    /// Runs `down` of a project's hook, as it lies in the repository. One that failed
    /// holds up nothing.
    pub(super) fn hook_down(
        &mut self,
        guid: Guid,
        network: NetworkId,
        project: &Name,
    ) -> Result<(), Stop> {
        let repo = self.repo(guid)?;
        let serves = repo.daemon.known().is_some_and(|daemon| daemon.serving);
        if !serves || repo.hooks.known().is_none() || repo.slots.is_unknown() {
            return Ok(());
        }
        let run = repo.hook_run(project, Function::Down)?.cloned();
        let failed = |hook: &Hook| run.as_ref().is_some_and(|run| run.is_failure_of(hook));
        match self.found_hook(guid, network, project)? {
            Some(hook) if hook.defines(Function::Down) && !failed(&hook) => self.want(Step::Hook {
                guid,
                network,
                hook: hook.into(),
                revision: None,
                function: Function::Down,
            }),
            _ => Ok(()),
        }
    }

    /// The hook that lies in a project's folder.
    fn found_hook(
        &self,
        guid: Guid,
        network: NetworkId,
        project: &Name,
    ) -> Result<Option<Hook>, Stop> {
        let repo = self.repo(guid)?;
        let Some(found) = repo.hooks.get()?.and_then(|all| all.get(project)) else {
            return Ok(None);
        };
        let slots = repo.slots.get()?.cloned().unwrap_or_default();
        let kin = Kin::of(
            self.record(guid)?
                .and_then(|record| record.lineage)
                .as_ref(),
        );
        let environment = Environment(hook::variables(guid, network, &slots, kin));
        Ok(Some(Hook::new(
            project.clone(),
            found,
            &found.digest,
            environment,
        )))
    }
}
