use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ParseError;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const UNITS: [(&str, u32); 5] = [("K", 10), ("M", 20), ("G", 30), ("T", 40), ("P", 50)];

/// An amount of storage in bytes, written `512M`, `2G`, `2GiB` or `1.5T`:
/// powers of 1024 whatever the spelling, no suffix means bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

impl Size {
    /// The smallest image that renet makes (DESIGN §8, ruling 4).
    pub const SMALLEST_IMAGE: Size = Size(64 * MIB);

    /// The smallest datastore that renet makes: less leaves BTRFS no room to work.
    pub const SMALLEST_DATASTORE: Size = Size(256 * MIB);

    /// An amount in bytes.
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// An amount in MiB.
    pub const fn mib(mib: u64) -> Self {
        Self(mib * MIB)
    }

    /// The amount in bytes.
    pub const fn as_bytes(self) -> u64 {
        self.0
    }

    /// The next multiple of 1 MiB: images and their file systems then end on a
    /// block boundary on every layer.
    pub const fn round_up_mib(self) -> Self {
        Self(self.0.div_ceil(MIB) * MIB)
    }

    /// The multiple of 1 MiB that is not more.
    pub const fn round_down_mib(self) -> Self {
        Self(self.0 / MIB * MIB)
    }
}

impl FromStr for Size {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = || {
            ParseError::new(format!(
                "`{text}` is not a size; write a number and K, M, G or T, like `512M` or `2G` (powers of 1024)"
            ))
        };
        let trimmed = text.trim();
        let digits_end = trimmed
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits_end);
        let unit = unit.trim();
        let shift = if unit.is_empty() || unit.eq_ignore_ascii_case("B") {
            0
        } else {
            let letter = unit.get(..1).ok_or_else(bad)?;
            let tail = &unit[1..];
            if !["", "B", "b", "iB", "ib"].contains(&tail) {
                return Err(bad());
            }
            UNITS
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(letter))
                .ok_or_else(bad)?
                .1
        };
        let (whole, fraction) = match number.split_once('.') {
            Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
            Some(_) => return Err(bad()),
            None => (number, ""),
        };
        // Nine decimals are a billionth of the unit; more is noise and would overflow.
        if whole.is_empty() || fraction.len() > 9 || fraction.contains('.') {
            return Err(bad());
        }
        let whole: u64 = whole.parse().map_err(|_| bad())?;
        let whole = whole
            .checked_mul(1 << shift)
            .filter(|bytes| *bytes <= i64::MAX as u64)
            .ok_or_else(bad)?;
        let fraction = if fraction.is_empty() {
            0
        } else {
            let scale = 10_u128.pow(fraction.len() as u32);
            let value: u128 = fraction.parse().map_err(|_| bad())?;
            (value * (1_u128 << shift) / scale) as u64
        };
        let bytes = whole + fraction;
        if bytes == 0 {
            return Err(ParseError::new(format!("`{text}`: a size cannot be zero")));
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < KIB {
            return write!(f, "{}B", self.0);
        }
        let (name, shift) = UNITS
            .iter()
            .rev()
            .find(|(_, shift)| self.0 >= 1 << shift)
            .copied()
            .unwrap_or(UNITS[0]);
        let unit = 1_u64 << shift;
        if self.0.is_multiple_of(unit) {
            write!(f, "{}{name}iB", self.0 / unit)
        } else {
            write!(f, "{:.1}{name}iB", self.0 as f64 / unit as f64)
        }
    }
}

impl Serialize for Size {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Text {
            Bytes(u64),
            Written(String),
        }
        match Text::deserialize(deserializer)? {
            Text::Bytes(bytes) => Ok(Self(bytes)),
            Text::Written(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024_whatever_the_spelling() {
        for (text, bytes) in [
            ("512M", 512 << 20),
            ("2G", 2_u64 << 30),
            ("2GiB", 2 << 30),
            ("2GB", 2 << 30),
            ("2g", 2 << 30),
            ("1.5T", 3 << 39),
            ("64", 64),
            ("0.5K", 512),
        ] {
            assert_eq!(text.parse::<Size>().unwrap().as_bytes(), bytes, "{text}");
        }
    }

    #[test]
    fn o26_bad_sizes_are_refused() {
        for text in [
            "invalid",
            "-1G",
            "0",
            "1X",
            "",
            "G",
            "1.",
            ".5G",
            "1..5G",
            "1GG",
            "9999999999T",
            "1.1234567890G",
            "1e3",
            "٣G",
            "0.0G",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn whole_units_are_shown_whole() {
        assert_eq!(Size::mib(64).to_string(), "64MiB");
        assert_eq!(Size::mib(2048).to_string(), "2GiB");
        assert_eq!(Size::mib(1100).to_string(), "1.1GiB");
        assert_eq!(Size::bytes(12).to_string(), "12B");
    }
}
