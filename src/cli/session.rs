//! What `diff`, `apply` and `get` have in common: a folder, a host, ids.

use std::path::PathBuf;

use super::{Failure, need_root};
use crate::execute::{Wave, look};
use crate::host::linux::LinuxHost;
use crate::manifest::{self, Folder};
use crate::model::{Layout, Owner};
use crate::plan::Tried;
use crate::resolve::{Ids, Source};

/// A command on a folder.
pub struct Session {
    pub layout: Layout,
    pub folder: Folder,
    pub host: LinuxHost,
    pub ids: Ids,
    retry: bool,
}

impl Session {
    /// Opens the folder, or says everything that is wrong with it.
    pub fn open(layout: Layout, file: Option<PathBuf>, retry: bool) -> anyhow::Result<Self> {
        need_root()?;
        let folder = manifest::load(&file.unwrap_or_else(|| layout.desired()));
        if !folder.problems.is_empty() {
            return Err(Failure::usage(folder.render(false, 80).trim_end().to_owned()).into());
        }
        let backing = folder
            .manifests
            .machine
            .as_ref()
            .and_then(|machine| machine.datastore.as_ref())
            .and_then(|datastore| datastore.backing_file.clone());
        let host = LinuxHost::new(layout.clone(), backing, std::env::current_exe()?);
        let ids = Ids::random(&layout);
        Ok(Self {
            layout,
            folder,
            host,
            ids,
            retry,
        })
    }

    /// What is resolved, and from where.
    pub fn source(&self) -> Source<'_> {
        Source {
            owner: Owner {
                source: self.folder.source.display().to_string(),
            },
            manifests: &self.folder.manifests,
            layout: &self.layout,
            retry: self.retry,
        }
    }

    /// One look, without locks.
    pub async fn look(&self) -> Wave {
        look(
            &self.host,
            &self.source(),
            &mut self.ids.clone(),
            &Tried::new(),
        )
        .await
    }
}
