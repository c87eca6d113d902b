//! What commands ask of single repositories.

use super::script::Script;
use crate::model::{
    Act, Blocked, Guid, MadeBy, Name, NetworkId, Patch, Record, Size, Step, Stop, Volume,
};

impl Script<'_> {
    /// What a command asks of a repository.
    pub(super) fn act(&mut self, guid: Guid, act: &Act) -> Result<(), Stop> {
        let record = self.record(guid)?;
        let patch = |patch| Step::Record(guid, patch);
        match act {
            Act::Adopt { name, network } => {
                self.reserve(guid, name, *network)?;
                self.bring_back(guid)?;
                return self.want(patch(Patch::Created));
            }
            Act::Create {
                name,
                network,
                size,
                seal,
            } => {
                self.reserve(guid, name, *network)?;
                self.make_blank(guid, *size, seal.as_ref())?;
                self.want(patch(Patch::Created))?;
                let passphrase = seal.as_ref().map(|seal| &seal.passphrase);
                return self.open(Volume::Image(guid), passphrase);
            }
            Act::Fork {
                name,
                network,
                lineage,
                expires,
                autostart,
            } => {
                self.reserve(guid, name, *network)?;
                self.want(patch(Patch::Fork(lineage.clone())))?;
                if let Some(at) = expires {
                    self.want(patch(Patch::Expire(*at)))?;
                }
                self.make_copy(guid, lineage)?;
                self.want(patch(Patch::Created))?;
                if *autostart {
                    self.keep_parents_key(guid, lineage.parent)?;
                }
                return Ok(());
            }
            _ => {}
        }
        let Some(record) = record else {
            return Ok(());
        };
        let on_deleted = matches!(
            act,
            Act::Resume | Act::Close | Act::Delete { .. } | Act::Restore
        );
        if let Some(stone) = record.deleted.as_ref().filter(|_| !on_deleted) {
            return Err(Stop::Block(Blocked::Deleted {
                at: stone.at,
                by: stone.by.clone(),
            }));
        }
        match act {
            Act::Adopt { .. } | Act::Create { .. } | Act::Fork { .. } => Ok(()),
            Act::Expand(size) => self.expand(guid, *size),
            Act::Snapshot(at) => self.take_snapshot(guid, *at, MadeBy::Command, None),
            Act::DropSnapshot(at, permit) => self.want(Step::DropSnapshot {
                guid,
                at: *at,
                permit: permit.clone(),
            }),
            Act::Autostart(autostart) => {
                self.want(patch(Patch::Autostart(*autostart)))?;
                self.settle_key(guid, Some(*autostart), None)
            }
            Act::Mount { network } => self.mount(guid, *network),
            Act::Suspend(suspension) => self.want(patch(Patch::Suspend(Some(suspension.clone())))),
            Act::SuspendProject(project, suspension) => self.want(patch(Patch::SuspendProject(
                project.clone(),
                Some(suspension.clone()),
            ))),
            Act::ResumeProject(project) => {
                self.want(patch(Patch::SuspendProject(project.clone(), None)))
            }
            Act::Rollback(project) => self.take_back(guid, record.network, project),
            Act::Rewind {
                project,
                rewind,
                up,
            } => {
                self.rewind(guid, project.as_ref(), *rewind)?;
                self.finish_rewind(guid, record.network)?;
                match up {
                    true => self.act(guid, &Act::Up { network: None }),
                    false => Ok(()),
                }
            }
            Act::Resume => {
                self.want(patch(Patch::Unhold))?;
                self.want(patch(Patch::Suspend(None)))
            }
            Act::Up { network } => {
                self.mount(guid, *network)?;
                self.clean(guid)?;
                let network = network.unwrap_or(record.network);
                self.want(Step::StartDaemon { guid, network })?;
                self.hooks_up(guid, network)
            }
            Act::Down { suspension, close } => {
                if record.owner.is_some() {
                    let suspension = Some(suspension.clone());
                    self.want(patch(Patch::Suspend(suspension)))?;
                }
                if *close {
                    return self.close(guid, record.network);
                }
                match self.repo(guid)?.serves()? {
                    true => {
                        self.hooks_down(guid, record.network)?;
                        self.stop_projects(guid, record.network)
                    }
                    false => Ok(()),
                }
            }
            Act::StopDaemon(suspension) => {
                if suspension.is_some() && record.owner.is_some() {
                    self.want(patch(Patch::Suspend(suspension.clone())))?;
                }
                let network = record.network;
                self.want(Step::StopDaemon { guid, network })
            }
            Act::Close => self.shut(guid, record.network),
            Act::Delete { stone, permit } => {
                self.mark_deleted(guid, stone.clone())?;
                self.bury(guid)?;
                match permit {
                    Some(permit) => self.destroy(guid, permit.clone()),
                    None => Ok(()),
                }
            }
            Act::Restore => {
                if !record.is_live() {
                    self.name_is_free(guid, &record.name)?;
                    // Otherwise the source that let it go would do so again; and
                    // first, so that no half of this looks like a manifest's own.
                    self.want(patch(Patch::Release))?;
                }
                self.want(patch(Patch::Delete(None)))?;
                self.bring_back(guid)
            }
        }
    }

    fn reserve(&mut self, guid: Guid, name: &Name, network: NetworkId) -> Result<(), Stop> {
        if self.record(guid)?.is_none() {
            self.name_is_free(guid, name)?;
            self.network_is_free(guid, network)?;
        }
        self.want(Step::Reserve {
            guid,
            name: name.clone(),
            network,
            trial_of: None,
        })
    }

    /// Open, whoever closed it.
    fn mount(&mut self, guid: Guid, network: Option<NetworkId>) -> Result<(), Stop> {
        self.want(Step::Record(guid, Patch::Suspend(None)))?;
        self.want(Step::ClearStaging(Volume::Image(guid)))?;
        self.bring_back(guid)?;
        if self.repo(guid)?.storage.file.get()?.is_none() {
            return Err(Stop::Block(Blocked::ImageMissing));
        }
        if let Some(record) = self.record(guid)? {
            self.finish_rewind(guid, record.network)?;
        }
        if let Some(network) = network {
            self.give_network(guid, network)?;
        }
        self.open(Volume::Image(guid), None)?;
        self.settle_key(guid, None, None)
    }

    /// A copy that was never up gets the network that is asked for.
    fn give_network(&mut self, guid: Guid, network: NetworkId) -> Result<(), Stop> {
        let record = self.record(guid)?;
        if record
            .as_ref()
            .is_some_and(|record| record.network == network)
        {
            return Ok(());
        }
        if !record.as_ref().is_some_and(Record::is_uncleaned_fork) {
            return Err(Stop::Block(Blocked::Immutable {
                field: "networkId",
                is: record.map_or(String::new(), |record| record.network.to_string()),
                wanted: network.to_string(),
            }));
        }
        self.network_is_free(guid, network)?;
        self.want(Step::Record(guid, Patch::Network(network)))
    }

    /// At least this large, open or closed.
    fn expand(&mut self, guid: Guid, size: Size) -> Result<(), Stop> {
        let volume = Volume::Image(guid);
        if self.repo(guid)?.storage.file.get()?.is_none() {
            return Err(Stop::Block(Blocked::ImageMissing));
        }
        self.grow_file(volume, size)?;
        let storage = self.scratch.storage(volume)?;
        if storage.device.get()?.is_none() {
            return Ok(());
        }
        self.grow_layers(volume)
    }
}
