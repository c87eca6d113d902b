use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A value that does not have the form it must have. The message says what to
/// write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

impl ParseError {
    /// An error with its message.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// Types that serialise as their text and can only be read back if it is valid.
macro_rules! by_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
by_text!(Guid, Name, HostName, RelPath);

/// The identity of a repository: a UUID, which is also its image's file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid(Uuid);

impl Guid {
    /// A guid from a UUID.
    pub const fn new(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// As a UUID.
    pub const fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl FromStr for Guid {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        // Only the hyphenated form: it is the only one that names files.
        match Uuid::try_parse(text) {
            Ok(uuid) if text.len() == 36 => Ok(Self(uuid)),
            _ => Err(ParseError::new(format!(
                "`{}` is not a guid; write a UUID like `5d0e6f3a-1f3c-4c58-9a53-0d6f2a1b7c9e`",
                text.escape_debug()
            ))),
        }
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// A name as DNS labels have it: 1 to 63 of `a-z`, `0-9` and `-`, with a letter
/// or digit at both ends. A name that reads as a UUID is refused, because a UUID
/// always means a guid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_label(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.chars().all(|c| edge(c) || c == '-')
        && text.starts_with(edge)
        && text.ends_with(edge)
}

impl FromStr for Name {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let shown = text.escape_debug();
        if !is_label(text) {
            return Err(ParseError::new(format!(
                "`{shown}` is not a name; use 1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends"
            )));
        }
        if Uuid::try_parse(text).is_ok() {
            return Err(ParseError::new(format!(
                "`{shown}` reads as a guid; a name must not"
            )));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A host name: DNS labels joined by dots, at most 253 characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);

impl HostName {
    /// The host name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.len() <= 253 && text.split('.').all(is_label) {
            Ok(Self(text.into()))
        } else {
            Err(ParseError::new(format!(
                "`{}` is not a host name; write labels of a-z, 0-9 and `-` joined by dots, like `shop.example.com`",
                text.escape_debug()
            )))
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A path that stays beneath the folder it is joined to: relative, no `..`, no
/// empty or `.` part, no control characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Arc<str>);

impl RelPath {
    /// The path as text, parts joined by `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path of the folder it lies in; `None` for a file at the top.
    pub fn parent(&self) -> Option<RelPath> {
        self.0.rsplit_once('/').map(|(dir, _)| RelPath(dir.into()))
    }

    /// What comes below `base`; `None` where it is not beneath it.
    pub fn strip_prefix(&self, base: &RelPath) -> Option<RelPath> {
        let rest = self.0.strip_prefix(&*base.0)?.strip_prefix('/')?;
        Some(RelPath(rest.into()))
    }

    /// This path below `base`.
    pub fn beneath(&self, base: &RelPath) -> RelPath {
        RelPath(format!("{}/{}", base.0, self.0).into())
    }
}

impl FromStr for RelPath {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let text = text.strip_prefix("./").unwrap_or(text);
        let good = text.len() <= 1024
            && !text.starts_with('/')
            && !text.contains(char::is_control)
            && text.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if good {
            Ok(Self(text.into()))
        } else {
            Err(ParseError::new(format!(
                "`{}` is not a path beneath its folder; write a relative path without `..`, like `web/docker-compose.yml`",
                text.escape_debug()
            )))
        }
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The number of a repository's network: a multiple of 64 from 2816 to
/// 16 711 680. Read as a 32-bit number added to 127.0.0.0 it is the base of its
/// `/26`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct NetworkId(u32);

impl NetworkId {
    /// The lowest id; keeps clear of 127.0.0.x.
    pub const FIRST: NetworkId = NetworkId(2816);
    /// The highest id.
    pub const LAST: NetworkId = NetworkId(16_711_680);
    /// Addresses in one network.
    pub const STEP: u32 = 64;

    /// The id as a number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The next id, while there is one.
    pub fn next(self) -> Option<NetworkId> {
        NetworkId::try_from(self.0 + Self::STEP).ok()
    }

    /// The network that an address of 127.0.0.0/8 lies in; `None` for others.
    pub fn of(address: Ipv4Addr) -> Option<NetworkId> {
        let bits = u32::from(address);
        if bits >> 24 != 127 {
            return None;
        }
        NetworkId::try_from((bits & 0x00ff_ffff) / Self::STEP * Self::STEP).ok()
    }

    /// The address of a slot: base + 2 + slot.
    pub fn address(self, slot: Slot) -> Ipv4Addr {
        Ipv4Addr::from((127 << 24) + self.0 + 2 + u32::from(slot.get()))
    }
}

impl TryFrom<u32> for NetworkId {
    type Error = ParseError;

    fn try_from(id: u32) -> Result<Self, ParseError> {
        if (Self::FIRST.0..=Self::LAST.0).contains(&id) && id.is_multiple_of(Self::STEP) {
            Ok(Self(id))
        } else {
            Err(ParseError::new(format!(
                "{id} is not a network id; write a multiple of 64 from 2816 to 16711680"
            )))
        }
    }
}

impl From<NetworkId> for u32 {
    fn from(id: NetworkId) -> u32 {
        id.0
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A service's stable index in its network, 0 to 60.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Slot(u8);

impl Slot {
    /// How many services one repository can have.
    pub const COUNT: u8 = 61;

    /// The slot as a number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Slot {
    type Error = ParseError;

    fn try_from(slot: u8) -> Result<Self, ParseError> {
        if slot < Self::COUNT {
            Ok(Self(slot))
        } else {
            Err(ParseError::new(format!(
                "{slot} is not a slot; slots go from 0 to 60"
            )))
        }
    }
}

impl From<Slot> for u8 {
    fn from(slot: Slot) -> u8 {
        slot.0
    }
}

/// Which service has which slot. Slots never move; a removed service keeps its.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slots(pub BTreeMap<String, Slot>);

/// Why services cannot all have their slot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotsError {
    /// More services than addresses.
    #[error("service `{0}` has no slot left: a repository holds at most 61 services")]
    Full(String),
    /// Inside and outside of the image disagree.
    #[error(
        "service `{service}` has slot {inside} in .rediacc.json but slot {outside} in its mirror; slots never move: put one of the two right"
    )]
    Differ {
        /// The service.
        service: String,
        /// Its slot inside the image.
        inside: u8,
        /// Its slot in the mirror.
        outside: u8,
    },
}

impl Slots {
    /// What both sides together say.
    pub fn merge(inside: Option<&Slots>, outside: Option<&Slots>) -> Result<Slots, SlotsError> {
        let mut all = inside.cloned().unwrap_or_default();
        for (service, slot) in outside.iter().flat_map(|slots| &slots.0) {
            let known = *all.0.entry(service.clone()).or_insert(*slot);
            if known != *slot {
                return Err(SlotsError::Differ {
                    service: service.clone(),
                    inside: known.get(),
                    outside: slot.get(),
                });
            }
        }
        Ok(all)
    }

    /// Gives every service that has none the lowest free slot, in the order given.
    pub fn allocate<'a>(
        mut self,
        services: impl IntoIterator<Item = &'a str>,
    ) -> Result<Slots, SlotsError> {
        let mut taken: BTreeSet<u8> = self.0.values().map(|slot| slot.get()).collect();
        for service in services {
            if self.0.contains_key(service) {
                continue;
            }
            let free = (0..Slot::COUNT)
                .find(|slot| !taken.contains(slot))
                .ok_or_else(|| SlotsError::Full(service.to_owned()))?;
            taken.insert(free);
            self.0.insert(service.to_owned(), Slot(free));
        }
        Ok(self)
    }
}

/// The candidate most like `word`, if one is near enough to be meant.
pub fn suggest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Half of the letters in place is what spell checkers of compilers ask for.
    const NEAR: f32 = 0.6;
    candidates
        .into_iter()
        .filter(|candidate| most_alike(word, candidate) >= NEAR)
        .map(|candidate| {
            let ratio = similar::TextDiff::from_chars(word, candidate).ratio();
            (candidate, ratio)
        })
        .filter(|(_, ratio)| *ratio >= NEAR)
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(candidate, _)| candidate)
}

/// What the ratio of two words cannot exceed: that of their letters in any order.
/// Comparing takes far longer, and most words are nothing alike.
fn most_alike(a: &str, b: &str) -> f32 {
    let mut letters = [0_i32; 256];
    let place = |c: char| c as usize % 256;
    a.chars().for_each(|c| letters[place(c)] += 1);
    let taken = b.chars().filter(|c| {
        let left = &mut letters[place(*c)];
        *left -= 1;
        *left >= 0
    });
    let shared = taken.count();
    let all = a.chars().count() + b.chars().count();
    2.0 * shared as f32 / all.max(1) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_compared_could_not_have_been_meant() {
        let words = [
            "size",
            "sise",
            "wev",
            "web",
            "encryption",
            "",
            "ü",
            "Üö",
            "aab",
            "baa",
        ];
        for a in words {
            for b in words
                .into_iter()
                .filter(|b| !(a.is_empty() && b.is_empty()))
            {
                let ratio = similar::TextDiff::from_chars(a, b).ratio();
                assert!(most_alike(a, b) >= ratio, "{a} {b}");
            }
        }
        assert!(most_alike("size", "network") < 0.6);
        assert_eq!(suggest("sise", ["network", "size", "state"]), Some("size"));
    }

    #[test]
    fn o43_the_address_formula_gives_the_documented_addresses() {
        for (id, slot, address) in [
            (2816, 0, "127.0.11.2"),
            (2816, 1, "127.0.11.3"),
            (2816, 60, "127.0.11.62"),
            (2880, 0, "127.0.11.66"),
            (3072, 0, "127.0.12.2"),
            (6336, 1, "127.0.24.195"),
            (16640, 60, "127.0.65.62"),
            (65536, 0, "127.1.0.2"),
        ] {
            let network = NetworkId::try_from(id).unwrap();
            let slot = Slot::try_from(slot).unwrap();
            let got = network.address(slot);
            assert_eq!(got.to_string(), address, "network {id}");
            assert_eq!(NetworkId::of(got), Some(network));
        }
    }

    #[test]
    fn network_ids_are_multiples_of_64_in_range() {
        for bad in [0, 64, 2800, 2815, 2817, 16_711_681, 16_711_744] {
            assert!(NetworkId::try_from(bad).is_err(), "{bad}");
        }
        assert_eq!(NetworkId::LAST.next(), None);
        assert_eq!(NetworkId::FIRST.next().unwrap().get(), 2880);
        assert_eq!(NetworkId::of(Ipv4Addr::new(10, 0, 11, 2)), None);
        assert_eq!(NetworkId::of(Ipv4Addr::LOCALHOST), None);
    }

    #[test]
    fn names_are_dns_labels_and_never_guids() {
        for good in ["a", "shop", "shop-2", "0", &"x".repeat(63)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a b",
            "a_b",
            "a.b",
            "ü",
            "a\n",
            "../x",
            &"x".repeat(64),
            "5d0e6f3a-1f3c-4c58-9a53-0d6f2a1b7c9e",
            "5d0e6f3a1f3c4c589a530d6f2a1b7c9e",
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn paths_cannot_leave_their_folder() {
        for bad in [
            "",
            "/etc/passwd",
            "..",
            "a/../b",
            "a//b",
            "a/",
            "./.",
            "a\0b",
            "a\nb",
        ] {
            assert!(bad.parse::<RelPath>().is_err(), "{bad:?}");
        }
        let path: RelPath = "./web/docker-compose.yml".parse().unwrap();
        assert_eq!(path.as_str(), "web/docker-compose.yml");
        assert_eq!(path.parent().unwrap().as_str(), "web");
    }

    #[test]
    fn slots_never_move_and_new_services_take_the_lowest_free_one() {
        let first = Slots::default()
            .allocate(["api", "postgres", "redis"])
            .unwrap();
        let after = {
            let mut kept = first.clone();
            kept.0.remove("postgres");
            kept.allocate(["zeta", "api"]).unwrap()
        };
        assert_eq!(after.0["zeta"].get(), 1);
        assert_eq!(after.0["api"], first.0["api"]);
        assert_eq!(after.0["redis"], first.0["redis"]);
    }

    #[test]
    fn the_62nd_service_is_refused_naming_the_limit() {
        let names: Vec<String> = (0..62).map(|n| format!("s{n:02}")).collect();
        let error = Slots::default()
            .allocate(names.iter().map(String::as_str))
            .unwrap_err();
        assert!(error.to_string().contains("at most 61"), "{error}");
    }

    #[test]
    fn a_slot_that_differs_from_its_mirror_names_both() {
        let inside = Slots::default().allocate(["api"]).unwrap();
        let outside = Slots::default().allocate(["web", "api"]).unwrap();
        let error = Slots::merge(Some(&inside), Some(&outside)).unwrap_err();
        assert!(error.to_string().contains("slot 0") && error.to_string().contains("slot 1"));
    }
}
