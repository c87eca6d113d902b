use std::collections::BTreeMap;

use uuid::Uuid;

use crate::model::{Digest, Guid, Layout, Name, NetworkId};

/// Where new ids come from. One value serves a whole run, so that what a dry
/// run drew is what the run uses; tests give it fixed ones.
#[derive(Clone, Debug)]
pub struct Ids {
    first: NetworkId,
    datastore: Option<Uuid>,
    guids: BTreeMap<Name, Guid>,
    /// `None` draws at random; else ids are derived from the seed.
    seed: Option<Uuid>,
}

impl Ids {
    /// Random guids. Networks start at 2816, or, beneath a root of its own, at
    /// an id derived from that root, so that parallel roots do not meet.
    pub fn random(layout: &Layout) -> Self {
        Self {
            first: first_network(layout),
            datastore: None,
            guids: BTreeMap::new(),
            seed: None,
        }
    }

    /// The same ids for the same names, every time.
    pub fn fixed(first: NetworkId) -> Self {
        Self {
            first,
            datastore: None,
            guids: BTreeMap::new(),
            seed: Some(Uuid::NAMESPACE_OID),
        }
    }

    /// The lowest network id to give out.
    pub fn first_network(&self) -> NetworkId {
        self.first
    }

    /// The guid that a new repository of this name gets.
    pub fn guid(&mut self, name: &Name) -> Guid {
        let seed = self.seed;
        *self
            .guids
            .entry(name.clone())
            .or_insert_with(|| Guid::new(draw(seed, name.as_str())))
    }

    /// The UUID that a new datastore gets.
    pub fn datastore(&mut self) -> Uuid {
        let seed = self.seed;
        *self
            .datastore
            .get_or_insert_with(|| draw(seed, "datastore"))
    }
}

fn draw(seed: Option<Uuid>, name: &str) -> Uuid {
    match seed {
        Some(seed) => Uuid::new_v5(&seed, name.as_bytes()),
        None => Uuid::new_v4(),
    }
}

fn first_network(layout: &Layout) -> NetworkId {
    // Room for 16 repositories each in the upper half: the lower belongs to the machine.
    const ROOMS: u64 = 8_000;
    const ROOM: u32 = 16 * NetworkId::STEP;
    const UPPER_HALF: u32 = 8_388_608;
    if layout.is_machine() {
        return NetworkId::FIRST;
    }
    let digest = Digest::of(layout.root().as_os_str().as_encoded_bytes());
    let number = u64::from_str_radix(&digest.as_str()[..12], 16).unwrap_or_default();
    let room = (number % ROOMS) as u32;
    NetworkId::try_from(UPPER_HALF + room * ROOM).unwrap_or(NetworkId::FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parallel_roots_get_networks_of_their_own() {
        let first = |root: &str| Ids::random(&Layout::new(root).unwrap()).first_network();
        assert_eq!(first("/"), NetworkId::FIRST);
        assert_ne!(first("/tmp/a"), first("/tmp/b"));
        assert!(first("/tmp/a") > NetworkId::FIRST);
    }

    #[test]
    fn a_name_draws_its_guid_once() {
        let mut ids = Ids::random(&Layout::new("/").unwrap());
        let name: Name = "shop".parse().unwrap();
        assert_eq!(ids.guid(&name), ids.guid(&name));
    }
}
