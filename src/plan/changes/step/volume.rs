use super::super::{Explained, Field};
use super::{View, drift, one, silent};
use crate::model::{Daemon, Guid, Patch, RunState, Size, Step, Volume};

impl View<'_> {
    pub(super) fn grow(&self, volume: Volume, to: String) -> Explained {
        let before = self.before.storage(volume).unwrap_or_default();
        let from = before.file.known().map(ToString::to_string);
        let field = Field::new("size", from, Some(to));
        match before.mount.known() {
            Some(_) => field.note("grows online, nothing stops").into(),
            None => field.into(),
        }
    }

    /// What a new volume is like, and on which device it is made.
    pub(super) fn formatted(&self, volume: Volume, size: Size) -> Vec<Field> {
        let disk = self.before.datastore.disk.known();
        let disk = disk.filter(|_| volume == Volume::Datastore);
        let device = disk.map(|disk| disk.path.display().to_string());
        let device = device.map(|path| Field::new("device", None, Some(path)));
        let size = Field::new("size", None, Some(size.to_string()));
        device.into_iter().chain([size]).collect()
    }

    /// The upper layers follow the file; where it did not grow just now, a
    /// growth was interrupted.
    pub(super) fn finish_growth(&self, volume: Volume) -> Explained {
        let grows =
            |step: &Step| matches!(step, Step::GrowFile { volume: of, .. } if *of == volume);
        if self.plans(&grows) || self.is_made(volume) {
            return Explained::default();
        }
        let Ok(storage) = self.before.storage(volume) else {
            return Explained::default();
        };
        let from = storage.mount.known().map(|mount| mount.size.to_string());
        let to = storage.file.known().map(ToString::to_string);
        let field = Field::new("size", from, to).drifted();
        let on_disk = self.before.datastore.disk.known().is_some();
        field
            .note(match volume == Volume::Datastore && on_disk {
                true => "its device is larger now",
                false => "a growth was interrupted",
            })
            .into()
    }

    pub(super) fn open(&self, volume: Volume) -> Explained {
        if self.is_made(volume) {
            return Explained::default();
        }
        let device = self.before.storage(volume);
        let attached = device.is_ok_and(|storage| storage.device.known().is_some());
        let closed = if attached { "not mounted" } else { "closed" };
        drift("state", closed, Some("mounted"))
    }

    pub(super) fn close(&self, volume: Volume) -> Explained {
        match volume {
            Volume::Image(guid) => {
                let mounted = self.with(guid, |repo| repo.storage.mount.known().is_some());
                let from = if mounted { "mounted" } else { "attached" };
                self.state(guid, from).into()
            }
            Volume::Datastore => one(
                "state",
                Some("mounted".to_owned()),
                Some("closed".to_owned()),
            ),
        }
    }

    pub(super) fn state(&self, guid: Guid, from: &str) -> Field {
        let to = match self.desired.repositories.get(&guid).map(|spec| spec.state) {
            Some(RunState::Stopped) => "Stopped",
            Some(RunState::Offline) => "Offline",
            _ => "closed",
        };
        Field::new("state", Some(from.to_owned()), Some(to.to_owned()))
    }

    pub(super) fn start_daemon(&self, guid: Guid) -> Explained {
        let opens = |step: &Step| matches!(step, Step::Mount(Volume::Image(of)) | Step::Format { volume: Volume::Image(of), .. } if *of == guid);
        let daemon = self.with(guid, |repo| repo.daemon.known().copied());
        if self.plans(&opens) {
            return match self.is_made(Volume::Image(guid)) {
                true => Explained::default(),
                false => drift("state", "closed", Some("running")),
            };
        }
        match daemon {
            None => drift("daemon", "not running", Some("running")),
            Some(daemon) if !daemon.serving => drift("daemon", "dead", Some("running")),
            Some(daemon) if !daemon.supervised => {
                drift("daemon", "without its supervisor", Some("supervised"))
            }
            Some(daemon) => self.limit(guid, &daemon),
        }
    }

    fn limit(&self, guid: Guid, daemon: &Daemon) -> Explained {
        let noted = |step: &Step| matches!(step, Step::Record(of, Patch::Limit(_)) if *of == guid);
        if self.plans(&noted) {
            return silent("its limits change");
        }
        let is = daemon.limits.unwrap_or_default().to_string();
        let to = self.with(guid, |repo| {
            repo.record.known().map(|record| record.limits.to_string())
        });
        drift("limits", &is, to.as_deref())
    }
}
