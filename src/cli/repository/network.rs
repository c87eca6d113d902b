//! The network that a command on a repository says.

use crate::cli::Failure;
use crate::cli::session::Session;
use crate::model::{Actual, Guid, NetworkId, Record};
use crate::resolve::free_network;

/// The network that the caller takes it for, or gives it.
#[derive(Debug, clap::Args)]
pub struct Network {
    /// Its network; refused where it has another
    #[arg(long, value_name = "ID")]
    network_id: Option<u32>,
}

impl Network {
    /// What was said.
    pub fn said(&self) -> Result<Option<NetworkId>, Failure> {
        let id = self.network_id.map(NetworkId::try_from).transpose();
        id.map_err(|error| Failure::usage(error.to_string()))
    }

    /// Refuses another network than the repository's.
    pub fn check(&self, record: &Record) -> Result<(), Failure> {
        let is: u32 = record.network.into();
        match self.network_id {
            Some(said) if said != is => Err(Failure {
                code: 3,
                message: format!(
                    "{} has network {is}, not {said}; nothing was changed",
                    record.name
                ),
            }),
            _ => Ok(()),
        }
    }
}

/// The network of a new repository: the one that is said, where nobody has it, else
/// the next.
pub fn settle(
    session: &Session,
    actual: &Actual,
    guid: Guid,
    said: Option<NetworkId>,
) -> Result<NetworkId, Failure> {
    let refuse = |message: String| Failure { code: 3, message };
    let here = actual.repository(guid).ok();
    let here = here.and_then(|repo| repo.record.known().map(|record| record.network));
    let Some(said) = said else {
        let free = || free_network(actual, guid, &session.ids);
        return here
            .map_or_else(free, Ok)
            .map_err(|why| refuse(why.to_string()));
    };
    let all = actual.repositories.known().into_iter().flatten();
    for (other, repo) in all {
        if let Some(record) = repo.record.known()
            && *other != guid
            && record.holds_network() == Some(said)
        {
            let message = format!(
                "network id in use by {} ({other}); nothing was changed",
                record.name
            );
            return Err(refuse(message));
        }
    }
    Ok(said)
}
