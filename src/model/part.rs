use super::Blocked;

/// One observed part of the machine.
///
/// `Hidden` and `Unknown` are different things: *Hidden* lies behind something
/// closed and is one step away (inside an unmounted image, behind a stopped
/// daemon); *Unknown* could not be read although it should have been readable,
/// and nothing is ever planned on top of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Part<T> {
    /// Seen, with its value.
    Known(T),
    /// Looked for, and not there.
    #[default]
    Absent,
    /// Behind something that is closed.
    Hidden,
    /// Could not be read; says what and why.
    Unknown(String),
}

/// Why planning for an object ends before its goal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// What comes next cannot be seen yet; another wave will.
    Hidden,
    /// Nothing may be done for this object.
    Block(Blocked),
}

impl<T> Part<T> {
    /// The value where there is one; `None` means *absent*. Hidden and unknown
    /// parts end the question, so `?` carries them to the planner.
    pub fn get(&self) -> Result<Option<&T>, Stop> {
        match self {
            Part::Known(value) => Ok(Some(value)),
            Part::Absent => Ok(None),
            Part::Hidden => Err(Stop::Hidden),
            Part::Unknown(why) => Err(Stop::Block(Blocked::Unknown(why.clone()))),
        }
    }

    /// The value if it is known, whatever else it is.
    pub fn known(&self) -> Option<&T> {
        match self {
            Part::Known(value) => Some(value),
            _ => None,
        }
    }

    /// Like [`Part::known`], to change it.
    pub fn known_mut(&mut self) -> Option<&mut T> {
        match self {
            Part::Known(value) => Some(value),
            _ => None,
        }
    }

    /// Whether the part was looked for and is not there.
    pub fn is_absent(&self) -> bool {
        matches!(self, Part::Absent)
    }

    /// Whether the part could not be read.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Part::Unknown(_))
    }

    /// Fills an absent part; hidden and unknown ones stay as they are.
    pub fn or_known(&mut self, value: T) {
        if self.is_absent() {
            *self = Part::Known(value);
        }
    }
}

impl<T> From<Option<T>> for Part<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Part::Absent, Part::Known)
    }
}
