use super::script::Script;
use crate::model::{Blocked, Guid, Object, Part, Size, Step, Stop, StoreAct, Suspension, Volume};

/// With less free than this, BTRFS may refuse whatever it is asked.
const LITTLE: Size = Size::mib(16);

/// With less free than this part of it, it is nearly full: a word before an outage.
const NEARLY_FULL: u64 = 20;

/// How much is kept back of a datastore of that size.
fn reserve(total: Size) -> Size {
    const PART: u64 = 64;
    let least = Size::mib(16).as_bytes();
    let most = Size::mib(512).as_bytes();
    Size::bytes((total.as_bytes() / PART).clamp(least, most))
}

impl Script<'_> {
    pub(super) fn datastore(&mut self) -> Result<(), Stop> {
        let seen = &self.scratch.datastore;
        let note = seen.note.get()?.copied();
        let file = seen.storage.file.get()?.copied();
        let identity = match seen.storage.file {
            Part::Absent => None,
            _ => seen.identity.get()?.copied(),
        };
        if let Some(note) = note
            && identity != Some(note)
        {
            let found = match (identity, &seen.disk) {
                (Some(other), _) => format!("{other} instead of {note}"),
                (None, Part::Known(disk)) => format!("{note} is not on {}", disk.path.display()),
                (None, Part::Unknown(why)) => why.clone(),
                (None, _) => format!("{note} is gone"),
            };
            return Err(Stop::Block(Blocked::DatastoreMissing { found }));
        }
        if file.is_none() && self.desired.datastore.is_none() {
            return Err(Stop::Block(Blocked::NoDatastore));
        }
        let volume = Volume::Datastore;
        let is_open = seen.storage.mount.known().is_some();
        let closed = seen
            .closed
            .get()?
            .filter(|by| by.holds_at(self.scratch.now))
            .cloned();
        match (&self.desired.store, closed) {
            (Some(StoreAct::Unmount(by)), _) => return self.close_datastore(Some(by.clone())),
            (Some(StoreAct::Close), _) => return self.close_datastore(None),
            (None | Some(StoreAct::Relieve), Some(by)) if !is_open => {
                return Err(Stop::Block(Blocked::Suspended(by)));
            }
            (_, Some(_)) => self.want(Step::CloseDatastore(None))?,
            (_, None) => {}
        }
        let spec = self.desired.datastore.clone();
        if let (None, Some(spec)) = (file, &spec) {
            let size = self.new_size(spec.size)?;
            self.want(Step::ClearStaging(volume))?;
            self.want(Step::Format {
                volume,
                size,
                uuid: spec.uuid,
                seal: None,
            })?;
        }
        // What is remembered in it may say that all of it is to be left alone.
        if file.is_some() && self.scratch.machine == Part::Hidden && !self.desired.is_command() {
            self.open(volume, None)?;
            return Err(Stop::Hidden);
        }
        if let Some(size) = spec.and_then(|spec| spec.size) {
            self.fits_disk(size)?;
            self.want(Step::GrowFile { volume, size })?;
            self.note_larger(Object::Datastore, volume, size)?;
        }
        self.open(volume, None)?;
        self.want(Step::LayOut)?;
        let uuid = self.scratch.datastore.identity.get()?.copied();
        if let Some(uuid) = uuid {
            self.want(Step::NoteDatastore(uuid))?;
        }
        self.keep_reserve()?;
        // Whose repositories cannot be listed has none that could be in sync.
        match &self.scratch.repositories {
            Part::Unknown(why) => Err(Stop::Block(Blocked::Unknown(why.clone()))),
            _ => Ok(()),
        }
    }

    /// How large a new one gets: as its device is, or as was said.
    fn new_size(&self, said: Option<Size>) -> Result<Size, Stop> {
        let disk = self.scratch.datastore.disk.get()?;
        if let Some(why) = disk.and_then(|disk| disk.refused.as_ref()) {
            return Err(Stop::Block(Blocked::Unresolved(why.clone())));
        }
        let size = disk.map(|disk| disk.size).or(said);
        size.ok_or(Stop::Block(Blocked::NoDatastore))
    }

    /// A device is as large as it is.
    fn fits_disk(&self, size: Size) -> Result<(), Stop> {
        let Some(disk) = self.scratch.datastore.disk.get()? else {
            return Ok(());
        };
        if disk.size >= size {
            return Ok(());
        }
        Err(Stop::Block(Blocked::Unresolved(format!(
            "the datastore is the device {path}, which has {is}, and {size} is wanted: make \
             that device larger, or write `device: {path}` instead of `size:`",
            path = disk.path.display(),
            is = disk.size,
        ))))
    }

    /// Nothing of it is open; who says so has it stay closed.
    fn close_datastore(&mut self, by: Option<Suspension>) -> Result<(), Stop> {
        let volume = Volume::Datastore;
        let all = self.scratch.repositories.known().into_iter().flatten();
        let open = all.filter(|(_, repo)| !repo.storage.device.is_absent());
        let open: Vec<String> = open.map(|(guid, _)| self.desired.name(*guid)).collect();
        if !open.is_empty() {
            let on = format!("repositories that are open: {}", open.join(", "));
            return Err(Stop::Block(Blocked::DependencyBlocked { on }));
        }
        if by.is_some() && self.scratch.datastore.closed.get()?.is_none() {
            self.want(Step::CloseDatastore(by))?;
        }
        self.want(Step::Unmount(volume))?;
        self.want(Step::Detach(volume))
    }

    /// A file that can be given back: with no byte free, BTRFS frees none either.
    fn keep_reserve(&mut self) -> Result<(), Stop> {
        // It is worth that much room only where there is some.
        const ROOM: u64 = 8;
        if self.desired.store == Some(StoreAct::Relieve) {
            return self.want(Step::GiveReserve);
        }
        let store = self.scratch.datastore.clone();
        let (Some(total), Some(free)) = (store.storage.file.get()?, store.free.known()) else {
            return Ok(());
        };
        let size = reserve(*total);
        if self.is_nearly_full()? {
            let note = format!(
                "nearly full: {free} of {total} are free; `renet prune --trash` or \
                 `renet datastore expand` give room"
            );
            self.plan.notes.push((Object::Datastore, note));
        }
        // Behind what is about to be opened: the next look sees it.
        if store.reserve == Part::Hidden {
            return Ok(());
        }
        match free.as_bytes() / ROOM >= size.as_bytes() {
            true => self.want(Step::KeepReserve(size)),
            false => Ok(()),
        }
    }

    pub(super) fn is_nearly_full(&self) -> Result<bool, Stop> {
        let store = &self.scratch.datastore;
        let (Some(total), Some(free)) = (store.storage.file.get()?, store.free.known()) else {
            return Ok(false);
        };
        Ok(free.as_bytes() < total.as_bytes() / NEARLY_FULL)
    }

    /// Gives the reserve back where nothing else is free: what frees needs room.
    pub(super) fn make_room_to_free(&mut self) -> Result<(), Stop> {
        let store = &self.scratch.datastore;
        let none_free = store.free.known().is_some_and(|free| *free < LITTLE);
        match none_free && store.reserve.known().is_some() {
            true => self.want(Step::GiveReserve),
            false => Ok(()),
        }
    }

    pub(super) fn note_larger(
        &mut self,
        object: Object,
        volume: Volume,
        wanted: Size,
    ) -> Result<(), Stop> {
        if let Some(is) = self.scratch.storage(volume)?.file.get()?
            && *is > wanted
        {
            let note = format!("{is} is larger than the {wanted} of its manifest; never shrunk");
            self.plan.notes.push((object, note));
        }
        Ok(())
    }

    pub(super) fn machine(&mut self) -> Result<(), Stop> {
        let Some(name) = self.desired.machine.clone() else {
            return Ok(());
        };
        let seen = self.scratch.machine.get()?.cloned();
        // Lost records took the machine's along: whose it is, nobody knows.
        let images = self.unknown_images()?;
        if seen.is_none() && !images.is_empty() {
            return Err(Stop::Block(Blocked::UnknownImage { images }));
        }
        let machine = seen.unwrap_or_default();
        let moves = self.desired.asked.take_over;
        // The name first: a folder for another machine changes nothing here.
        if let Some(is) = machine.name.filter(|is| *is != name && !moves) {
            return Err(Stop::Block(Blocked::Immutable {
                field: "the machine's name",
                is: is.to_string(),
                wanted: name.to_string(),
            }));
        }
        let owner = machine.owner.filter(|owner| *owner != self.desired.owner);
        if let Some(owner) = owner.filter(|_| !moves) {
            return Err(Stop::Block(Blocked::OwnedElsewhere {
                owner: owner.source,
            }));
        }
        self.want(Step::ClaimMachine {
            name,
            owner: self.desired.owner.clone(),
            overcommit: self.desired.overcommit,
        })
    }

    fn unknown_images(&self) -> Result<Vec<Guid>, Stop> {
        let all = self.scratch.repositories.get()?.into_iter().flatten();
        let unknown = all.filter(|(_, repo)| {
            let image = !repo.storage.file.is_absent() || !repo.trash.is_absent();
            repo.record.is_absent() && image
        });
        Ok(unknown.map(|(guid, _)| *guid).collect())
    }
}
