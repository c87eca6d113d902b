//! Whose a host or an entry point is (ruling 16).

use std::collections::{BTreeMap, BTreeSet};

use super::{Claim, Container, Input};
use crate::model::{Name, NetworkId};

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
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) rank: Rank,
    pub(super) claim: Claim,
}

/// Who exists to have claims.
#[derive(Clone, Copy)]
pub(super) struct Claimants<'a> {
    input: &'a Input<'a>,
}

impl<'a> Claimants<'a> {
    pub(super) fn of(input: &'a Input<'a>) -> Self {
        Self { input }
    }

    /// Whether a network has a service that asks for anything.
    pub(super) fn has(self, network: NetworkId, service: &str) -> bool {
        self.any(network, service, |_| true)
    }

    /// Whether nobody can tell what a network has.
    pub(super) fn is_away(self, network: NetworkId) -> bool {
        self.input.away.contains(&network)
    }

    fn any(self, network: NetworkId, service: &str, is: fn(&Container) -> bool) -> bool {
        let all = self.input.containers.get(&network);
        let mut all = all.into_iter().flat_map(|all| all.iter());
        all.any(|one| one.asks() && is(one) && one.service() == service)
    }

    fn is_declared(self, route: &str) -> bool {
        let name: Result<Name, _> = route.parse();
        name.is_ok_and(|name| self.input.declared.contains(&name))
    }

    /// Whether whoever has the claim is still there.
    fn exist(self, claim: &Claim) -> bool {
        match route_of(claim) {
            Some(route) => self.is_declared(route),
            None => self.is_away(claim.network) || self.has(claim.network, &claim.by),
        }
    }

    /// Whether what claimed something runs, so that it would ask for it now.
    fn run(self, claim: &Claim) -> bool {
        !self.is_away(claim.network) && self.any(claim.network, &claim.by, |one| one.serves)
    }
}

fn route_of(claim: &Claim) -> Option<&str> {
    claim.by.strip_prefix("route/")
}

/// Everything that is claimed, and everybody who wants it.
#[derive(Debug, Default)]
pub(super) struct Claims {
    wishes: BTreeMap<String, Vec<Wish>>,
    wished: BTreeMap<NetworkId, BTreeSet<String>>,
    /// What each has: a network's services, or one Route manifest.
    held: BTreeMap<Holder, BTreeSet<String>>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Holder {
    Network(NetworkId),
    Route(String),
}

impl Holder {
    fn of(claim: &Claim) -> Self {
        match route_of(claim) {
            Some(route) => Holder::Route(route.to_owned()),
            None => Holder::Network(claim.network),
        }
    }
}

impl Claims {
    /// Nobody wants anything yet.
    pub(super) fn new(settled: &BTreeMap<String, Claim>) -> Self {
        let mut claims = Self::default();
        for (key, claim) in settled {
            let held = claims.held.entry(Holder::of(claim)).or_default();
            held.insert(key.clone());
        }
        claims
    }

    /// What the services of a network want now, instead of what they wanted. Gives the
    /// keys whose owner may be another for it.
    pub(super) fn want(
        &mut self,
        network: NetworkId,
        wishes: Vec<(String, Wish)>,
    ) -> BTreeSet<String> {
        let mut touched = self.wished.remove(&network).unwrap_or_default();
        for key in &touched {
            if let Some(all) = self.wishes.get_mut(key) {
                all.retain(|wish| wish.rank.network != network);
                if all.is_empty() {
                    self.wishes.remove(key);
                }
            }
        }
        let keys: BTreeSet<String> = wishes.iter().map(|(key, _)| key.clone()).collect();
        for (key, wish) in wishes {
            self.wishes.entry(key).or_default().push(wish);
        }
        touched.extend(keys.iter().cloned());
        self.wished.insert(network, keys);
        touched.extend(self.of(&Holder::Network(network)));
        touched
    }

    /// What a network's services have.
    pub(super) fn of_network(&self, network: NetworkId) -> impl Iterator<Item = String> {
        self.of(&Holder::Network(network))
    }

    /// What a Route manifest has.
    pub(super) fn of_route(&self, name: &Name) -> impl Iterator<Item = String> {
        self.of(&Holder::Route(name.to_string()))
    }

    fn of(&self, holder: &Holder) -> impl Iterator<Item = String> + use<> {
        let held = self.held.get(holder).cloned();
        held.unwrap_or_default().into_iter()
    }

    /// Settles whose a key is: its recorded claimant's while that exists, else the first
    /// of those who want it. Where that is somebody else than before, gives the networks
    /// to which it makes a difference.
    pub(super) fn settle(
        &mut self,
        key: &str,
        settled: &mut BTreeMap<String, Claim>,
        claimants: Claimants,
    ) -> Option<BTreeSet<NetworkId>> {
        let wishes = self.wishes.get(key).map_or(&[][..], Vec::as_slice);
        let before = settled.get(key);
        let stays = |claim: &&Claim| {
            if wishes.iter().any(|wish| wish.claim == **claim) {
                return true;
            }
            // A manifest's route has one claim: where its repository is another now, that.
            let moved = || wishes.iter().any(|wish| wish.claim.by == claim.by);
            // It runs, and no longer asks for it.
            let gave_up = match route_of(claim) {
                Some(_) => moved(),
                None => claimants.run(claim),
            };
            claimants.exist(claim) && !gave_up
        };
        let first = || wishes.iter().min_by_key(|wish| &wish.rank);
        let after = before.filter(stays).cloned();
        let after = after.or_else(|| first().map(|wish| wish.claim.clone()));
        if after.as_ref() == before {
            return None;
        }
        let networks = wishes.iter().map(|wish| wish.rank.network).collect();
        if let Some(before) = settled.remove(key) {
            let holder = Holder::of(&before);
            if let Some(held) = self.held.get_mut(&holder) {
                held.remove(key);
                if held.is_empty() {
                    self.held.remove(&holder);
                }
            }
        }
        if let Some(after) = after {
            let held = self.held.entry(Holder::of(&after)).or_default();
            held.insert(key.to_owned());
            settled.insert(key.to_owned(), after);
        }
        Some(networks)
    }
}

/// Whose something is already, while that claimant exists.
pub(super) fn holder<'a>(
    settled: &'a BTreeMap<String, Claim>,
    key: &str,
    claimants: Claimants,
) -> Option<&'a Claim> {
    settled.get(key).filter(|claim| claimants.exist(claim))
}
