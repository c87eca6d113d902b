use super::script::Script;
use crate::model::{Blocked, Guid, Object, Part, Size, Step, Stop, Volume};

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
            let found = match identity {
                Some(other) => format!("{other} instead of {note}"),
                None => format!("{note} is gone"),
            };
            return Err(Stop::Block(Blocked::DatastoreMissing { found }));
        }
        if file.is_none() && self.desired.datastore.is_none() {
            return Err(Stop::Block(Blocked::NoDatastore));
        }
        let volume = Volume::Datastore;
        let spec = self.desired.datastore.clone();
        if let (None, Some(spec)) = (file, &spec) {
            self.want(Step::ClearStaging(volume))?;
            self.want(Step::Format {
                volume,
                size: spec.size,
                uuid: spec.uuid,
                seal: None,
            })?;
        }
        if let Some(spec) = &spec {
            self.want(Step::GrowFile {
                volume,
                size: spec.size,
            })?;
            self.note_larger(Object::Datastore, volume, spec.size)?;
        }
        self.open(volume, None)?;
        self.want(Step::LayOut)?;
        let uuid = self.scratch.datastore.identity.get()?.copied();
        if let Some(uuid) = uuid {
            self.want(Step::NoteDatastore(uuid))?;
        }
        // Whose repositories cannot be listed has none that could be in sync.
        match &self.scratch.repositories {
            Part::Unknown(why) => Err(Stop::Block(Blocked::Unknown(why.clone()))),
            _ => Ok(()),
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
