use std::fmt;

use serde::{Deserialize, Serialize};

/// A setting of a compose file that does nothing, or something else than it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// Where it stands, `file:line:column`, where that was found.
    pub place: Option<String>,
    /// What becomes of it.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}
