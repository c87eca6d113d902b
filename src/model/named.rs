use std::fmt;
use std::str::FromStr;

use super::{Guid, Name};

/// An object as people name it on a command line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Named {
    /// `repository/NAME`, by name or guid; with everything in it.
    Repository(String),
    /// `service/REPOSITORY/NAME`
    Service(String, Name),
    /// `route/NAME`
    Route(Name),
    /// `machine/NAME`
    Machine(Name),
}

/// What is no [`Named`].
#[derive(Debug, thiserror::Error)]
#[error(
    "`{}` is none of repository/NAME, service/REPOSITORY/NAME, route/NAME, machine/NAME",
    .0.escape_debug()
)]
pub struct NotNamed(String);

impl Named {
    /// The repository that it lies in.
    pub fn repository(&self) -> Option<&str> {
        match self {
            Self::Repository(name) | Self::Service(name, _) => Some(name),
            Self::Route(_) | Self::Machine(_) => None,
        }
    }

    /// Whether that repository is meant.
    pub fn is_in(&self, guid: Guid, name: Option<&Name>) -> bool {
        self.repository().is_some_and(|said| {
            name.is_some_and(|name| name.as_str() == said)
                || said.parse::<Guid>().is_ok_and(|said| said == guid)
        })
    }
}

impl FromStr for Named {
    type Err = NotNamed;

    fn from_str(text: &str) -> Result<Self, NotNamed> {
        let wrong = || NotNamed(text.to_owned());
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            ["repository", name] if !name.is_empty() => Ok(Self::Repository((*name).to_owned())),
            ["service", repository, name] if !repository.is_empty() => {
                let name = name.parse().map_err(|_| wrong())?;
                Ok(Self::Service((*repository).to_owned(), name))
            }
            ["route", name] => Ok(Self::Route(name.parse().map_err(|_| wrong())?)),
            ["machine", name] => Ok(Self::Machine(name.parse().map_err(|_| wrong())?)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repository(name) => write!(f, "repository/{name}"),
            Self::Service(repository, name) => write!(f, "service/{repository}/{name}"),
            Self::Route(name) => write!(f, "route/{name}"),
            Self::Machine(name) => write!(f, "machine/{name}"),
        }
    }
}
