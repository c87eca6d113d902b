//! Whose a host or an entry point is (ruling 16).

use std::collections::{BTreeMap, BTreeSet};

use super::{Claim, Container, Input};
use crate::model::NetworkId;

/// Who comes first where nobody had it before: manifests before labels, parents before
/// forks, the lower network, then the name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) is_label: bool,
    pub(super) is_fork: bool,
    pub(super) network: NetworkId,
    pub(super) name: String,
}

/// Somebody who wants something.
pub(super) struct Wish<'a> {
    pub(super) key: &'a str,
    pub(super) rank: &'a Rank,
    pub(super) claim: &'a Claim,
}

/// Settles whose each is: its recorded claimant's while that exists, else the first of
/// those who want it.
pub(super) fn settle(wishes: &[Wish], input: &Input) -> BTreeMap<String, Claim> {
    let mut settled = BTreeMap::new();
    let mut first: BTreeMap<&str, &Wish> = BTreeMap::new();
    let wanted: BTreeSet<(&str, &Claim)> = wishes.iter().map(|w| (w.key, w.claim)).collect();
    for wish in wishes {
        let known = first.entry(wish.key).or_insert(wish);
        if wish.rank < known.rank {
            *known = wish;
        }
    }
    let running: BTreeSet<(NetworkId, &str)> = services(input.containers, |c| c.serves);
    let there: BTreeSet<(NetworkId, &str)> = services(input.containers, |_| true);
    for (key, claim) in &input.kept.claims {
        let asks = wanted.contains(&(key.as_str(), claim));
        // A manifest's route has one claim: where its repository is another now, that.
        let moved = |wish: &Wish| wish.key == key && wish.claim.by == claim.by;
        let stays = match claim.by.strip_prefix("route/") {
            Some(name) => is_declared(input, name) && !wishes.iter().any(moved),
            None if input.away.contains(&claim.network) => true,
            // It runs, and no longer asks for it.
            None if running.contains(&(claim.network, claim.by.as_str())) => false,
            None => there.contains(&(claim.network, claim.by.as_str())),
        };
        if asks || stays {
            settled.insert(key.clone(), claim.clone());
        }
    }
    for (key, wish) in first {
        let entry = settled.entry(key.to_owned());
        entry.or_insert_with(|| wish.claim.clone());
    }
    settled
}

fn services(containers: &[Container], keep: fn(&Container) -> bool) -> BTreeSet<(NetworkId, &str)> {
    let kept = containers.iter().filter(|container| keep(container));
    kept.map(|container| (container.network, container.service()))
        .collect()
}

fn is_declared(input: &Input, name: &str) -> bool {
    name.parse()
        .is_ok_and(|name| input.declared.contains(&name))
}

/// Whose something is already, while that claimant exists.
pub(super) fn holder<'a>(input: &Input<'a>, key: &str) -> Option<&'a Claim> {
    let claim = input.kept.claims.get(key)?;
    let exists = match claim.by.strip_prefix("route/") {
        Some(name) => is_declared(input, name),
        None => {
            let there = |one: &Container| one.network == claim.network && one.service() == claim.by;
            input.away.contains(&claim.network) || input.containers.iter().any(there)
        }
    };
    exists.then_some(claim)
}
