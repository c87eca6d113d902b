use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::model::{CrashLoop, Digest, Guid, Name, ProjectSpec};

/// So often in a row containers are started at once, the first time among them.
const AT_ONCE: u32 = 3;
const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(300);
/// What ran so long did not crash for the reason it did before.
const FORGIVEN: Duration = Duration::from_secs(600);

/// How often the containers of each project were started in a row: a crash loop is told
/// apart from a container that died once. Kubelet's numbers.
#[derive(Debug, Default)]
pub(super) struct Starts(BTreeMap<(Guid, Name), Start>);

#[derive(Debug)]
struct Start {
    revision: Digest,
    count: u32,
    last: Instant,
}

impl Start {
    /// When it may be started again.
    fn due(&self) -> Instant {
        let Some(doublings) = self.count.checked_sub(AT_ONCE) else {
            return self.last;
        };
        let wait = FIRST.saturating_mul(2u32.saturating_pow(doublings));
        self.last + wait.min(LONGEST)
    }
}

impl Starts {
    /// The containers of a project were started just now.
    pub(super) fn note(&mut self, guid: Guid, project: &ProjectSpec) {
        let now = Instant::now();
        let key = (guid, project.name.clone());
        let before = self.0.get(&key).filter(|before| {
            before.revision == project.hash && now.duration_since(before.last) < FORGIVEN
        });
        let start = Start {
            revision: project.hash.clone(),
            count: before.map_or(1, |before| before.count + 1),
            last: now,
        };
        self.0.insert(key, start);
    }

    /// What is not to be started again yet.
    pub(super) fn crashing(&self) -> BTreeMap<(Guid, Name), CrashLoop> {
        let now = Instant::now();
        let waiting = self.0.iter().filter(|(_, start)| start.due() > now);
        let each = waiting.map(|(key, start)| {
            let left = start.due().duration_since(now);
            let until = Timestamp::now().checked_add(left);
            let crash = CrashLoop {
                revision: start.revision.clone(),
                starts: start.count,
                until: until.unwrap_or(Timestamp::MAX),
            };
            (key.clone(), crash)
        });
        each.collect()
    }

    /// When something of a repository may be started again.
    pub(super) fn due(&self, guid: Guid) -> Option<Duration> {
        let now = Instant::now();
        let of = self.0.iter().filter(|((of, _), _)| *of == guid);
        let due = of.map(|(_, start)| start.due().saturating_duration_since(now));
        due.filter(|left| !left.is_zero()).min()
    }

    /// Repositories that are no longer declared.
    pub(super) fn retain(&mut self, is_declared: impl Fn(Guid) -> bool) {
        self.0.retain(|(guid, _), _| is_declared(*guid));
    }
}
