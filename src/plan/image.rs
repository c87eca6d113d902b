//! A repository's image, and the datastore's file: made, grown, opened, closed.

use jiff::Timestamp;

use super::script::Script;
use crate::model::{
    Blocked, DataLossPermit, Guid, Header, Lineage, MadeBy, Name, NetworkId, Object, Origin, Part,
    Patch, Record, RepositorySpec, Schedule, Seal, SecretRef, Size, Snapshot, Step, Stop, Volume,
};

impl Script<'_> {
    /// The image that a manifest asks for is there, made from what it says.
    pub(super) fn make(&mut self, spec: &RepositorySpec) -> Result<(), Stop> {
        let guid = spec.guid;
        match &spec.origin {
            Origin::Blank(seal) => {
                self.is_as_created(guid, "forkOf", "none", |record| record.lineage.is_none())?;
                self.make_blank(guid, spec.size, seal.as_ref())?;
                let header = self.repo(guid)?.storage.header.clone();
                if let Part::Known(header) = header {
                    let words = |sealed| if sealed { "encrypted" } else { "none" };
                    let sealed = header != Header::Plain;
                    if sealed != seal.is_some() {
                        return Err(Stop::Block(Blocked::Immutable {
                            field: "encryption",
                            is: words(sealed).to_owned(),
                            wanted: words(seal.is_some()).to_owned(),
                        }));
                    }
                }
                Ok(())
            }
            Origin::Fork { lineage, ttl } => {
                let parent = lineage.parent;
                let wanted = self.desired.name(parent);
                self.is_as_created(guid, "forkOf", &wanted, |record| {
                    let is = record.lineage.as_ref();
                    is.is_some_and(|is| is.parent == parent)
                })?;
                let record = self.record(guid)?;
                let noted = record
                    .as_ref()
                    .is_some_and(|record| record.lineage.is_some());
                // An image that was there before anybody asked for the copy is none.
                if !noted && self.repo(guid)?.storage.file.get()?.is_some() {
                    return Err(Stop::Block(Blocked::Immutable {
                        field: "forkOf",
                        is: "none".to_owned(),
                        wanted,
                    }));
                }
                if !record.is_some_and(|record| record.created) {
                    self.want(Step::Record(guid, Patch::Fork(lineage.clone())))?;
                    if let Some(ttl) = ttl {
                        let at = self.scratch.now + *ttl;
                        self.want(Step::Record(guid, Patch::Expire(at)))?;
                    }
                }
                self.make_copy(guid, lineage)
            }
        }
    }

    /// What is read at creation alone is still so.
    fn is_as_created(
        &self,
        guid: Guid,
        field: &'static str,
        wanted: &str,
        holds: impl FnOnce(&Record) -> bool,
    ) -> Result<(), Stop> {
        let record = self.record(guid)?.filter(|record| record.created);
        let Some(record) = record.filter(|record| !holds(record)) else {
            return Ok(());
        };
        let is = record
            .lineage
            .map(|lineage| self.desired.name(lineage.parent));
        Err(Stop::Block(Blocked::Immutable {
            field,
            is: is.unwrap_or_else(|| "none".to_owned()),
            wanted: wanted.to_owned(),
        }))
    }

    /// Makes an empty image where there is none.
    pub(super) fn make_blank(
        &mut self,
        guid: Guid,
        size: Size,
        seal: Option<&Seal>,
    ) -> Result<(), Stop> {
        let volume = Volume::Image(guid);
        self.want(Step::ClearStaging(volume))?;
        if self.repo(guid)?.storage.file.get()?.is_some() {
            return Ok(());
        }
        self.has_room(size)?;
        if let Some(seal) = seal {
            self.at_hand(&seal.passphrase)?;
        }
        self.want(Step::Format {
            volume,
            size,
            uuid: guid.as_uuid(),
            seal: seal.cloned(),
        })
    }

    /// Makes an image as a copy of another where there is none.
    pub(super) fn make_copy(&mut self, guid: Guid, lineage: &Lineage) -> Result<(), Stop> {
        let from = lineage.parent;
        self.want(Step::ClearStaging(Volume::Image(guid)))?;
        if self.repo(guid)?.storage.file.get()?.is_some() {
            return Ok(());
        }
        let parent = self.repo(from)?;
        let object = Object::Repository(from);
        if !parent.record.get()?.is_some_and(Record::is_live) {
            let gone = format!(
                "{}, of which it is to be a copy, is gone",
                self.desired.name(from)
            );
            return Err(Stop::Block(Blocked::Unresolved(gone)));
        }
        if let Some(at) = lineage.snapshot {
            let all = parent.snapshots.get()?;
            let Some(snapshot) = all.and_then(|all| all.get(&at)) else {
                let gone = format!(
                    "there is no snapshot {} of {}",
                    Snapshot::shown(at),
                    self.desired.name(from)
                );
                return Err(Stop::Block(Blocked::Unresolved(gone)));
            };
            self.has_room(snapshot.size)?;
            return self.want(Step::Fork {
                guid,
                from,
                snapshot: lineage.snapshot,
            });
        }
        let Some(size) = parent.storage.file.get()?.copied() else {
            // It is made by its own plan, if at all.
            let on = self.desired.label(&object);
            return match self.desired.repositories.contains_key(&from)
                && !self.plan.blocked.contains_key(&object)
            {
                true => Err(Stop::Hidden),
                false => Err(Stop::Block(Blocked::DependencyBlocked { on })),
            };
        };
        // Its own plan lets its writers go on.
        if parent.storage.frozen.get()?.is_some() {
            return Err(Stop::Hidden);
        }
        self.has_room(size)?;
        self.want(Step::Fork {
            guid,
            from,
            snapshot: None,
        })
    }

    /// A snapshot of what is there.
    pub(super) fn take_snapshot(
        &mut self,
        guid: Guid,
        at: Timestamp,
        made_by: MadeBy,
        project: Option<&Name>,
    ) -> Result<(), Stop> {
        self.want(Step::ClearStaging(Volume::Image(guid)))?;
        if self.repo(guid)?.storage.file.get()?.is_none() {
            return Err(Stop::Block(Blocked::ImageMissing));
        }
        self.want(Step::Snapshot {
            guid,
            at,
            made_by,
            project: project.cloned(),
        })
    }

    /// The snapshots that a rule makes: one when the last is old enough, and none
    /// more than it keeps. Others are not counted, and stay.
    pub(super) fn keep_snapshots(&mut self, guid: Guid, rule: &Schedule) -> Result<(), Stop> {
        let now = Snapshot::moment(self.scratch.now);
        let last = self.scheduled(guid)?.last().copied();
        let due = last.is_none_or(|last| last + rule.every <= now);
        if due && self.is_nearly_full()? {
            let note = "no snapshot is made while the datastore is nearly full";
            let note = (Object::Repository(guid), note.to_owned());
            self.plan.notes.push(note);
        } else if due {
            self.take_snapshot(guid, now, MadeBy::Rule, None)?;
        }
        let made = self.scheduled(guid)?;
        for (index, at) in made.iter().enumerate() {
            let newer = made.len() - index - 1;
            if let Some(permit) = DataLossPermit::outnumbered(guid, newer, rule.keep) {
                let at = *at;
                self.want(Step::DropSnapshot { guid, at, permit })?;
            }
        }
        Ok(())
    }

    /// The snapshots that rules made, oldest first.
    fn scheduled(&self, guid: Guid) -> Result<Vec<Timestamp>, Stop> {
        let repo = self.repo(guid)?;
        let all = repo.snapshots.get()?.into_iter().flatten();
        let all = all.filter(|(_, snapshot)| snapshot.made_by == MadeBy::Rule);
        Ok(all.map(|(at, _)| *at).collect())
    }

    /// Destroys every snapshot of a repository that goes for good.
    pub(super) fn drop_snapshots(
        &mut self,
        guid: Guid,
        permit: &DataLossPermit,
    ) -> Result<(), Stop> {
        let repo = self.repo(guid)?;
        let all = repo.snapshots.get()?.into_iter().flatten();
        let all: Vec<Timestamp> = all.map(|(at, _)| *at).collect();
        for at in all {
            let permit = permit.clone();
            self.want(Step::DropSnapshot { guid, at, permit })?;
        }
        Ok(())
    }

    /// The key that opens the parent at boot opens its copy too.
    pub(super) fn keep_parents_key(&mut self, guid: Guid, from: Guid) -> Result<(), Stop> {
        self.want(Step::Record(guid, Patch::Autostart(true)))?;
        let has_key = self.repo(from)?.key.get()?.is_some();
        // A kill may have left the parent's key without its slot.
        let copy = self.scratch.storage(Volume::Image(guid))?;
        let has_slot = copy.header.get()?.is_some_and(Header::has_key);
        if has_key && has_slot {
            self.want(Step::CopyKey { guid, from })?;
        }
        Ok(())
    }

    /// An image that was made once is there, in the trash, or missing.
    pub(super) fn bring_back(&mut self, guid: Guid) -> Result<(), Stop> {
        let repo = self.repo(guid)?;
        if repo.storage.file.get()?.is_some() {
            return Ok(());
        }
        // Also one whose record was lost: nothing is made beside it.
        if repo.trash.get()?.is_some() {
            return self.want(Step::Untrash(guid));
        }
        match repo.record.get()?.is_some_and(|record| record.created) {
            true => Err(Stop::Block(Blocked::ImageMissing)),
            false => Ok(()),
        }
    }

    /// Lets an image's file be at least this large, where there is room.
    pub(super) fn grow_file(&mut self, volume: Volume, size: Size) -> Result<(), Stop> {
        let is = self.scratch.storage(volume)?.file.get()?.copied();
        let grows = is.map_or(0, |is| size.as_bytes().saturating_sub(is.as_bytes()));
        if grows > 0 && volume != Volume::Datastore {
            self.has_room(Size::bytes(grows))?;
        }
        self.want(Step::GrowFile { volume, size })
    }

    /// Attaches, opens, mounts, and lets every layer see the size of the one below.
    pub(super) fn open(
        &mut self,
        volume: Volume,
        passphrase: Option<&SecretRef>,
    ) -> Result<(), Stop> {
        let storage = self.scratch.storage(volume)?;
        match volume {
            Volume::Image(guid) if storage.is_sealed()? => {
                if storage.mapper.get()?.is_none() {
                    let with = self.keys(guid, passphrase)?;
                    self.want(Step::Open { guid, with })?;
                }
            }
            _ => self.want(Step::Attach(volume))?,
        }
        self.grow_layers(volume)?;
        if self.scratch.storage(volume)?.mount.get()?.is_some() {
            return Ok(());
        }
        self.want(Step::Mount(volume))?;
        self.want(Step::GrowFs(volume))
    }

    /// Lets every layer that is there see the size of the one below.
    pub(super) fn grow_layers(&mut self, volume: Volume) -> Result<(), Stop> {
        self.want(Step::GrowDevice(volume))?;
        let storage = self.scratch.storage(volume)?;
        if let Volume::Image(guid) = volume
            && storage.mapper.get()?.is_some()
        {
            self.want(Step::GrowMapper(guid))?;
        }
        match storage.mount.get()? {
            Some(_) => self.want(Step::GrowFs(volume)),
            None => Ok(()),
        }
    }

    /// What opens an encrypted image and is at hand.
    fn keys(&self, guid: Guid, passphrase: Option<&SecretRef>) -> Result<Vec<SecretRef>, Stop> {
        let repo = self.repo(guid)?;
        let has_slot = repo.storage.header.get()?.is_some_and(Header::has_key);
        let mut with = Vec::new();
        if has_slot && repo.key.known().is_some() {
            with.push(SecretRef::Key(guid));
        }
        let asked = self.passphrase(passphrase);
        match asked {
            Ok(found) => with.push(found),
            Err(why) if with.is_empty() => return Err(why),
            Err(_) => {}
        }
        Ok(with)
    }

    /// What was typed, else what the manifest says.
    fn passphrase(&self, said: Option<&SecretRef>) -> Result<SecretRef, Stop> {
        let typed = SecretRef::Typed;
        if self.at_hand(&typed).is_ok() {
            return Ok(typed);
        }
        let said = said.unwrap_or(&typed);
        self.at_hand(said).map(|()| said.clone())
    }

    fn at_hand(&self, secret: &SecretRef) -> Result<(), Stop> {
        let why = match self.scratch.secrets.get(secret) {
            Some(Part::Known(())) => return Ok(()),
            Some(Part::Unknown(why)) => why.clone(),
            _ => secret.to_string(),
        };
        Err(Stop::Block(Blocked::PassphraseRequired { from: why }))
    }

    /// The key that opens it at boot is there, or not, as is said; a copy keeps no
    /// slot for a key that is its parent's.
    pub(super) fn settle_key(
        &mut self,
        guid: Guid,
        autostart: Option<bool>,
        passphrase: Option<&SecretRef>,
    ) -> Result<(), Stop> {
        if !self.scratch.storage(Volume::Image(guid))?.is_sealed()? {
            return Ok(());
        }
        let repo = self.repo(guid)?;
        let wanted = autostart.or(repo.record.get()?.map(|record| record.autostart));
        if wanted != Some(true) {
            // A slot whose key is not renet's may be all that its owner has.
            let copied = match repo
                .record
                .get()?
                .filter(|record| record.is_uncleaned_fork())
            {
                Some(Record {
                    lineage: Some(lineage),
                    ..
                }) => self.repo(lineage.parent)?.key.known().is_some(),
                _ => false,
            };
            return match repo.key.get()?.is_some() || copied {
                true => self.want(Step::DropKey(guid)),
                false => Ok(()),
            };
        }
        let has_slot = repo.storage.header.get()?.is_some_and(Header::has_key);
        if has_slot && repo.key.get()?.is_some() {
            return Ok(());
        }
        match (self.passphrase(passphrase), repo.storage.mapper.get()?) {
            (Ok(with), _) => self.want(Step::EnrolKey {
                guid,
                with: vec![with],
            }),
            // What is open goes on without.
            (Err(_), Some(_)) => {
                let note = "its key for boot is missing, and its passphrase is not at hand";
                let note = (Object::Repository(guid), note.to_owned());
                self.plan.notes.push(note);
                Ok(())
            }
            (Err(why), None) => Err(why),
        }
    }

    /// What a copy brought along of its parent's containers is cleared before a
    /// daemon could start any.
    pub(super) fn clean(&mut self, guid: Guid) -> Result<(), Stop> {
        if !self
            .record(guid)?
            .is_some_and(|record| record.is_uncleaned_fork())
        {
            return Ok(());
        }
        self.want(Step::CleanFork(guid))?;
        self.want(Step::Record(guid, Patch::Cleaned))
    }

    /// Down by its own hooks, then shut.
    pub(super) fn close(&mut self, guid: Guid, network: NetworkId) -> Result<(), Stop> {
        self.hooks_down(guid, network)?;
        self.shut(guid, network)
    }

    /// Stopped, unmounted, closed and detached.
    pub(super) fn shut(&mut self, guid: Guid, network: NetworkId) -> Result<(), Stop> {
        let volume = Volume::Image(guid);
        self.want(Step::StopDaemon { guid, network })?;
        self.want(Step::Unmount(volume))?;
        self.want(Step::Close(guid))?;
        self.want(Step::Detach(volume))
    }

    /// What all images promise, and a reserve, must fit the datastore, or what the
    /// Machine says may be promised; as much as the reserve must really be free.
    fn has_room(&self, wanted: Size) -> Result<(), Stop> {
        const RESERVE_PERCENT: u64 = 5; // BTRFS needs unallocated space to free any
        let Some(total) = self.scratch.datastore.storage.file.get()? else {
            return Ok(());
        };
        let mut promised = 0;
        for repo in self.scratch.repositories.get()?.into_iter().flatten() {
            for image in [&repo.1.storage.file, &repo.1.trash] {
                promised += image.known().map_or(0, |size| size.as_bytes());
            }
        }
        let percent = total.as_bytes() / 100;
        let usable = percent * (100 - RESERVE_PERCENT);
        // A command has no manifest: what the last one said is noted.
        let noted = self.scratch.machine.known();
        let overcommit = match &self.desired.machine {
            Some(_) => self.desired.overcommit,
            None => noted.and_then(|noted| noted.overcommit),
        };
        let most = usable / 100 * u64::from(overcommit.unwrap_or(100));
        let really = self.scratch.datastore.free.known();
        let little = really.filter(|free| free.as_bytes() < percent * RESERVE_PERCENT);
        if let Some(free) = little {
            return Err(Stop::Block(Blocked::NearlyFull { free: *free }));
        }
        let left = Size::bytes(most.saturating_sub(promised));
        match wanted > left {
            true => Err(Stop::Block(Blocked::NoRoom { wanted, left })),
            false => Ok(()),
        }
    }
}
