use std::collections::BTreeSet;

use super::script::Script;
use crate::model::{
    Actual, Blocked, ContainerState, Desired, Guid, Health, Name, Object, Part, Repository,
    RouteRecord, RouteTable, RunState, Shared, Slots, Step, Stop, Suspension,
};

/// The route table, from what was *observed*: it never names a service that was
/// not seen running, and drops one only when it was seen not to run. What cannot
/// be seen stays as it is published: for other objects only absent is absence.
/// So do the routes of `busy` repositories, on which this plan has yet to work.
pub fn table(desired: &Desired, observed: &Actual, busy: &BTreeSet<Guid>) -> RouteTable {
    let none = RouteTable::new();
    let published = observed.published.known().unwrap_or(&none);
    let mut table = RouteTable::new();
    for (name, route) in observed.routes.known().into_iter().flatten() {
        let entry = route.published();
        let running = match busy.contains(&route.repository) {
            true => None,
            false => running(desired, observed, route),
        };
        match running {
            Some(true) => {
                table.insert(name.clone(), entry);
            }
            Some(false) => {}
            None => {
                if let Some(kept) = published.get(name) {
                    table.insert(name.clone(), kept.clone());
                }
            }
        }
    }
    table
}

/// Whether the route's service serves; `None` where that cannot be seen.
fn running(desired: &Desired, observed: &Actual, route: &RouteRecord) -> Option<bool> {
    let spec = desired.repositories.get(&route.repository);
    let nothing = Shared::<Repository>::default();
    let repo = match &observed.repositories {
        Part::Known(all) => all.get(&route.repository).unwrap_or(&nothing),
        Part::Absent => &nothing,
        _ => return None,
    };
    let record = repo.record.known();
    // Noted before its record was lost: that address may be somebody else's now.
    let slot = |slots: &Slots| slots.0.get(&route.service).copied();
    let slot = repo.mirror.known().and_then(slot);
    if let (Some(record), Some(slot)) = (record, slot)
        && record.network.address(slot) != route.address
    {
        return Some(false);
    }
    let holds = |suspension: &Suspension| suspension.holds_at(observed.now);
    // Whatever runs: what is published stays, and nothing comes.
    if route.suspended.as_ref().is_some_and(holds) {
        return None;
    }
    let suspended = record
        .and_then(|record| record.suspended.as_ref())
        .is_some_and(holds);
    match &repo.containers {
        Part::Known(projects) => {
            let container = projects
                .get(&route.project)
                .and_then(|services| services.get(&route.service));
            let Some(container) = container else {
                return Some(false);
            };
            match (container.state, container.health) {
                (ContainerState::Running, Health::Healthy) => Some(true),
                // Started a moment ago: what is published stays until it is known.
                (ContainerState::Running, _) => None,
                _ => Some(false),
            }
        }
        // Told to be down and seen to have no daemon: it is down.
        _ if repo.daemon.is_absent()
            && (suspended || spec.is_some_and(|spec| spec.state != RunState::Running)) =>
        {
            Some(false)
        }
        Part::Absent => Some(false),
        _ => None,
    }
}

impl Script<'_> {
    /// All routes, and the proxy that serves them.
    pub(super) fn routes(&mut self, observed: &Actual) {
        if self.base_blocked().is_some() {
            return;
        }
        self.retire_routes();
        for name in self.desired.routes.keys() {
            let object = Object::Route(name.clone());
            if self.is_meant(&object) {
                self.group(object, |script| script.route(name));
            }
        }
        self.group(Object::Proxy, |script| script.proxy(observed));
    }

    fn route(&mut self, name: &Name) -> Result<(), Stop> {
        let spec = &self.desired.routes[name];
        let repository = Object::Repository(spec.repository);
        let held = self.plan.blocked.get(&repository);
        if held.is_some_and(|why| !why.is_quiet()) {
            let on = match self.desired.repositories.get(&spec.repository) {
                Some(repository) => format!("repository {}", repository.name),
                None => "its repository".to_owned(),
            };
            return Err(Stop::Block(Blocked::DependencyBlocked { on }));
        }
        let known = self
            .scratch
            .routes
            .get()?
            .and_then(|routes| routes.get(name));
        let elsewhere = known.filter(|route| route.owner != self.desired.owner);
        if let Some(route) = elsewhere.filter(|_| !self.desired.asked.take_over) {
            return Err(Stop::Block(Blocked::OwnedElsewhere {
                owner: route.owner.source.clone(),
            }));
        }
        let repo = self.repo(spec.repository)?;
        let slots = repo.mirror.get()?;
        let slot = slots.and_then(|slots| slots.0.get(&spec.service));
        let network = repo.record.get()?.map(|record| record.network);
        let address = slot
            .zip(network)
            .map(|(slot, network)| network.address(*slot));
        if address != Some(spec.address) {
            // It is settled by its repository: on the way, or when that is no
            // longer left alone.
            return Err(match held {
                Some(why) => Stop::Block(why.clone()),
                None => Stop::Hidden,
            });
        }
        let route = RouteRecord {
            owner: self.desired.owner.clone(),
            host: spec.host.clone(),
            repository: spec.repository,
            project: spec.project.clone(),
            service: spec.service.clone(),
            port: spec.port,
            address: spec.address,
            tls: spec.tls,
            suspended: known.and_then(|route| route.suspended.clone()),
        };
        self.want(Step::RecordRoute {
            name: name.clone(),
            route,
        })
    }

    fn proxy(&mut self, observed: &Actual) -> Result<(), Stop> {
        let routes = self.scratch.routes.get()?;
        let any = routes.is_some_and(|routes| !routes.is_empty());
        if !any && !self.desired.labelled {
            // The last route went.
            self.want(Step::PublishRoutes(RouteTable::new()))?;
            let asked = self.scratch.proxy.get()?.is_some_and(|proxy| proxy.asked);
            if self.desired.proxy.is_some() && !asked {
                self.want(Step::StopProxy)?;
            }
            return Ok(());
        }
        if let Some(spec) = &self.desired.proxy {
            self.want(Step::StartProxy(spec.clone()))?;
        }
        // From what was seen, never from what this plan hopes for.
        let busy: BTreeSet<Guid> = self
            .plan
            .steps
            .iter()
            .filter_map(|step| step.object().repository())
            .chain(self.limits.busy.iter().copied())
            .collect();
        if !busy.is_empty() {
            self.plan.more.insert(Object::Proxy);
        }
        // A route noted by this very plan is published by the next wave.
        self.want(Step::PublishRoutes(table(self.desired, observed, &busy)))
    }
}
