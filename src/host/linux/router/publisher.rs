//! Writes what Traefik reads, and what the router remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::files::{read_json, write_json, write_unsynced};
use super::super::{proxy, routes};
use super::{MODE, Seen, Written, certificates, observe_published};
use crate::host::{Done, StepError};
use crate::model::{Format, Layout, Name, NetworkId, Part, RouteTable};
use crate::router::{Certificate, Container, Containers, Input, Kept, Table, Tables, render};

/// What is given out.
#[derive(Default, Serialize, Deserialize)]
struct State {
    format: Format,
    #[serde(flatten)]
    kept: Kept,
}

/// What one daemon was last seen to have.
#[derive(Serialize, Deserialize)]
struct Memory {
    format: Format,
    /// Those that ask for routes.
    containers: Vec<Container>,
}

/// How a file was when it was last looked at.
pub(super) type Stamp = Option<(u64, u64, i64, i64)>;

pub(super) fn stamp(path: &Path) -> Stamp {
    let meta = fs::metadata(path).ok()?;
    // A change of who can read it counts.
    Some((meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec()))
}

/// Publishes one table after the other. Whoever publishes has the routes' lock.
pub(super) struct Publisher {
    layout: Layout,
    tables: Tables,
    /// For a daemon that cannot be asked, what it had goes on.
    remembered: Containers,
    /// The lists of which that is a part.
    whole: Containers,
    /// Whether more, or less, is given out than is written down.
    owes: bool,
    manifests: RouteTable,
    stamps: Vec<Stamp>,
}

impl Publisher {
    /// Goes on from what is written down, and from these manifests where what Traefik
    /// reads was edited or torn.
    pub(super) fn open(layout: &Layout, last: RouteTable) -> Result<Self, StepError> {
        let path = layout.router_state();
        let (kept, owes) = match read_json::<State>(&path) {
            Part::Known(state) => (state.kept, false),
            Part::Unknown(why) => {
                return Err(StepError::machine(format!(
                    "{why}; without that file hosts and ports are given out anew"
                )));
            }
            Part::Absent | Part::Hidden => (Kept::default(), true),
        };
        let published = observe_published(layout).known().cloned();
        let mut publisher = Self {
            layout: layout.clone(),
            tables: Tables::new(kept),
            remembered: remembered(layout),
            whole: Containers::new(),
            owes,
            manifests: published.unwrap_or(last),
            stamps: Vec::new(),
        };
        publisher.stamps = publisher.stamp();
        Ok(publisher)
    }

    /// Whether nobody else wrote since.
    pub(super) fn is_current(&self) -> bool {
        self.stamps == self.stamp()
    }

    /// The Route manifests that are published.
    pub(super) fn manifests(&self) -> &RouteTable {
        &self.manifests
    }

    fn stamp(&self) -> Vec<Stamp> {
        let layout = &self.layout;
        let files: [PathBuf; 3] = [
            layout.router_state(),
            layout.router_containers(),
            layout.published_routes(),
        ];
        files.iter().map(|path| stamp(path)).collect()
    }

    /// Makes the table; writes nothing.
    pub(super) fn make(&mut self, seen: &Seen, manifests: &RouteTable) -> Table {
        let mut containers = seen.asked.clone();
        for network in &seen.mute {
            let before = self.remembered.get(network).cloned();
            containers.insert(*network, before.unwrap_or_default());
        }
        let declared: BTreeSet<Name> = match routes::observe_records(&self.layout) {
            Part::Known(records) => records.into_keys().collect(),
            _ => manifests.keys().cloned().collect(),
        };
        let certificates: Vec<Certificate> = seen
            .certificates
            .iter()
            .map(|found| found.certificate.clone())
            .collect();
        let away = seen.mute.union(&seen.stopped).copied().collect();
        let table = self.tables.next(&Input {
            proxy: &proxy::spec(&self.layout).unwrap_or_default(),
            manifests,
            declared: &declared,
            containers: &containers,
            away: &away,
            certificates: &certificates,
            no_orders: seen.no_orders.as_ref(),
        });
        self.owes |= self.tables.gave();
        table
    }

    /// Writes what differs, each file in one move. What Traefik reads is made beside the
    /// folder that it watches: it would read a temporary one inside.
    pub(super) fn write(
        &mut self,
        seen: &Seen,
        manifests: &RouteTable,
    ) -> Result<Written, StepError> {
        let table = self.make(seen, manifests);
        let Some(text) = render(&table, manifests) else {
            return Err(StepError::machine(
                "the route table does not read back as it was written",
            ));
        };
        let mut done = Done::Already;
        // First: nothing is published that somebody else could get.
        if self.owes {
            let (path, kept) = (self.layout.router_state(), self.tables.kept());
            let state = State {
                format: Format,
                kept: kept.clone(),
            };
            write_json(&path, &state, MODE).map_err(|error| failed(&path, &error))?;
            self.owes = false;
            done = Done::Changed;
        }
        let layout = &self.layout;
        let target = layout.published_routes();
        let old = fs::read(&target).unwrap_or_default();
        // Whatever is published: the proxy reads them again at its start.
        certificates::copy(layout, &seen.certificates)
            .map_err(|error| failed(&layout.proxy(), &error))?;
        if old != text.as_bytes() {
            let beside = layout.proxy().join("traefik/renet.yml.new");
            fs::create_dir_all(layout.proxy_dynamic())
                .and_then(|()| write_unsynced(&beside, text.as_bytes(), MODE))
                .and_then(|()| fs::rename(&beside, &target))
                .map_err(|error| failed(&target, &error))?;
            done = Done::Changed;
            certificates::sweep(layout, [&text, &String::from_utf8_lossy(&old)]);
        }
        self.manifests.clone_from(manifests);
        if self.remember(seen)? {
            done = Done::Changed;
        }
        self.stamps = self.stamp();
        Ok(Written {
            done,
            table,
            foreign: foreign(&self.layout),
        })
    }

    /// Notes what each daemon has; says whether that is anything new.
    fn remember(&mut self, seen: &Seen) -> Result<bool, StepError> {
        let folder = self.layout.router_containers();
        let mut changed = false;
        for (network, containers) in &seen.asked {
            let known = self.whole.get(network);
            if known.is_some_and(|known| Arc::ptr_eq(known, containers)) {
                continue;
            }
            let asking = containers.iter().filter(|one| one.asks());
            let asking: Vec<Container> = asking.cloned().collect();
            let before = self.remembered.get(network).map(|before| before.as_slice());
            if before.unwrap_or_default() != asking {
                let path = file(&folder, *network);
                let memory = Memory {
                    format: Format,
                    containers: asking,
                };
                write_json(&path, &memory, MODE).map_err(|error| failed(&path, &error))?;
                let asking = Arc::new(memory.containers);
                self.remembered.insert(*network, asking);
                changed = true;
            }
            self.whole.insert(*network, containers.clone());
        }
        let known = self.remembered.keys().chain(self.whole.keys());
        let gone: BTreeSet<NetworkId> = known
            .filter(|network| !seen.asked.contains_key(network) && !seen.mute.contains(network))
            .copied()
            .collect();
        for network in gone {
            self.whole.remove(&network);
            if self.remembered.contains_key(&network) {
                let path = file(&folder, network);
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(failed(&path, &error));
                    }
                    _ => {}
                }
                self.remembered.remove(&network);
                changed = true;
            }
        }
        Ok(changed)
    }
}

fn file(folder: &Path, network: NetworkId) -> PathBuf {
    folder.join(format!("{network}.json"))
}

/// What each daemon was last seen to have. What cannot be read is seen again as soon as
/// its daemon answers.
fn remembered(layout: &Layout) -> Containers {
    let entries = fs::read_dir(layout.router_containers());
    let entries = entries.into_iter().flatten().flatten();
    let read = entries.filter_map(|entry| {
        let name = entry.file_name();
        let network: u32 = name.to_str()?.strip_suffix(".json")?.parse().ok()?;
        let network = NetworkId::try_from(network).ok()?;
        match read_json::<Memory>(&entry.path()) {
            Part::Known(memory) => Some((network, Arc::new(memory.containers))),
            _ => None,
        }
    });
    read.collect::<BTreeMap<_, _>>()
}

fn failed(path: &Path, error: &io::Error) -> StepError {
    StepError::machine(format!("{}: {error}", path.display()))
}

/// Files of others in the folder that Traefik watches which it cannot read.
pub(super) fn foreign(layout: &Layout) -> Vec<String> {
    let ours = layout.published_routes();
    let entries = fs::read_dir(layout.proxy_dynamic()).into_iter().flatten();
    let mut wrong: Vec<String> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| *path != ours && path.is_file())
        .filter(|path| {
            let ending = path.extension().and_then(|ending| ending.to_str());
            matches!(ending, Some("yml" | "yaml"))
        })
        .filter(|path| {
            let text = fs::read_to_string(path);
            text.map_or(true, |text| {
                serde_yaml::from_str::<serde_json::Value>(&text).is_err()
            })
        })
        .map(|path| path.display().to_string())
        .collect();
    wrong.sort();
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Published;

    fn manifests() -> RouteTable {
        let route = Published {
            host: "shop.example.com".parse().unwrap(),
            backend: "127.0.11.2:8080".parse().unwrap(),
            tls: None,
        };
        RouteTable::from([("shop-web".parse().unwrap(), route)])
    }

    fn open(layout: &Layout) -> Publisher {
        Publisher::open(layout, RouteTable::new()).unwrap()
    }

    fn lab() -> (tempfile::TempDir, Layout) {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let layout = Layout::new(folder.path()).unwrap();
        (folder, layout)
    }

    #[test]
    fn what_is_published_reads_back_and_an_edit_does_not() {
        let (_folder, layout) = lab();
        assert_eq!(observe_published(&layout), Part::Absent);
        let seen = Seen::default();
        for table in [manifests(), RouteTable::new()] {
            let first = open(&layout).write(&seen, &table).unwrap();
            assert_eq!(first.done, Done::Changed);
            assert_eq!(observe_published(&layout), Part::Known(table.clone()));
            let mut again = open(&layout);
            assert_eq!(again.write(&seen, &table).unwrap().done, Done::Already);
            assert_eq!(again.write(&seen, &table).unwrap().done, Done::Already);
            assert!(again.is_current());
        }
        let before = open(&layout);
        fs::write(layout.published_routes(), "{\"http\": 1}").unwrap();
        assert!(!before.is_current());
        assert_eq!(observe_published(&layout), Part::Absent);
        // Nothing else lies in the folder that Traefik reads.
        assert_eq!(fs::read_dir(layout.proxy_dynamic()).unwrap().count(), 1);
        fs::write(layout.proxy_dynamic().join("mine.yml"), "a: [").unwrap();
        assert_eq!(foreign(&layout).len(), 1);
    }

    #[test]
    fn a_torn_state_changes_nothing_and_is_named() {
        let (_folder, layout) = lab();
        open(&layout).write(&Seen::default(), &manifests()).unwrap();
        fs::write(layout.router_state(), "{").unwrap();
        let error = Publisher::open(&layout, RouteTable::new()).err().unwrap();
        assert!(error.to_string().contains("state.json"), "{error}");
        assert_eq!(observe_published(&layout), Part::Known(manifests()));
    }

    /// What a daemon had goes on while it cannot be asked, also for a router that has just
    /// begun, and is forgotten with the daemon.
    #[test]
    fn what_a_daemon_had_is_remembered_until_it_is_gone() {
        let (_folder, layout) = lab();
        let network = NetworkId::FIRST;
        let labels = [
            ("rediacc.service_name", "web"),
            ("rediacc.service_ip", "127.0.11.2"),
            ("rediacc.domain", "shop.example.com"),
            ("rediacc.service_port", "80"),
        ];
        let one = Container {
            network,
            name: "web".to_owned(),
            labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            tcp: BTreeSet::new(),
            udp: BTreeSet::new(),
            runs: true,
            serves: true,
        };
        let silent = Container {
            name: "db".to_owned(),
            labels: BTreeMap::new(),
            ..one.clone()
        };
        let there = Seen {
            asked: [(network, Arc::new(vec![silent, one]))].into(),
            ..Seen::default()
        };
        let mute = Seen {
            mute: [network].into(),
            ..Seen::default()
        };
        let none = RouteTable::new();
        let mut publisher = open(&layout);
        let first = publisher.write(&there, &none).unwrap();
        assert_eq!((first.done, first.table.asked()), (Done::Changed, 1));
        for publisher in [&mut publisher, &mut open(&layout)] {
            let again = publisher.write(&mute, &none).unwrap();
            assert_eq!(again.done, Done::Already);
            assert_eq!(again.table, first.table);
        }
        let gone = publisher.write(&Seen::default(), &none).unwrap();
        assert_eq!((gone.done, gone.table.asked()), (Done::Changed, 0));
        assert_eq!(open(&layout).write(&mute, &none).unwrap().table.asked(), 0);
    }
}
