use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::{Digest, Guid, Layout, Name, NetworkId};

/// Where new ids come from. One value serves a whole run, so that what a dry
/// run drew is what the run uses; tests give it fixed ones.
#[derive(Debug)]
pub struct Ids {
    first: NetworkId,
    /// `None` draws at random; else ids are derived from the seed.
    seed: Option<Uuid>,
    drawn: Mutex<Drawn>,
}

/// The ids that were given to what is new.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Drawn {
    datastore: Option<Uuid>,
    guids: BTreeMap<Name, Guid>,
}

impl Ids {
    /// Random guids. Networks start at 2816, or, beneath a root of its own, at
    /// an id derived from that root, so that parallel roots do not meet.
    pub fn random(layout: &Layout) -> Self {
        Self {
            first: first_network(layout),
            seed: None,
            drawn: Mutex::default(),
        }
    }

    /// The same ids for the same names, every time.
    pub fn fixed(first: NetworkId) -> Self {
        Self {
            first,
            seed: Some(Uuid::NAMESPACE_OID),
            drawn: Mutex::default(),
        }
    }

    /// What was drawn so far.
    pub fn drawn(&self) -> Drawn {
        self.lock().clone()
    }

    /// Gives what an earlier command drew before drawing anew.
    pub fn with(self, drawn: Drawn) -> Self {
        *self.lock() = drawn;
        self
    }

    /// The lowest network id to give out.
    pub fn first_network(&self) -> NetworkId {
        self.first
    }

    /// The guid that a new repository of this name gets.
    pub fn guid(&self, name: &Name) -> Guid {
        *self
            .lock()
            .guids
            .entry(name.clone())
            .or_insert_with(|| Guid::new(draw(self.seed, name.as_str())))
    }

    /// The guid last drawn for this name is taken: the next one is another.
    pub fn used(&self, name: &Name) {
        if let Some(guid) = self.lock().guids.get_mut(name) {
            *guid = Guid::new(match self.seed {
                Some(_) => Uuid::new_v5(&guid.as_uuid(), name.as_str().as_bytes()),
                None => Uuid::new_v4(),
            });
        }
    }

    /// The UUID that a new datastore gets.
    pub fn datastore(&self) -> Uuid {
        *self
            .lock()
            .datastore
            .get_or_insert_with(|| draw(self.seed, "datastore"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Drawn> {
        self.drawn.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn what_was_drawn_is_given_again() {
        let ids = || Ids::random(&Layout::new("/").unwrap());
        let name: Name = "shop".parse().unwrap();
        let (before, guid) = (ids(), ids().guid(&name));
        let (first, store) = (before.guid(&name), before.datastore());
        let text = serde_json::to_string(&before.drawn()).unwrap();
        let after = ids().with(serde_json::from_str(&text).unwrap());
        assert_eq!((after.guid(&name), after.datastore()), (first, store));
        assert_ne!(guid, first);
    }

    #[test]
    fn a_name_draws_its_guid_once() {
        let ids = Ids::random(&Layout::new("/").unwrap());
        let name: Name = "shop".parse().unwrap();
        assert_eq!(ids.guid(&name), ids.guid(&name));
    }
}
