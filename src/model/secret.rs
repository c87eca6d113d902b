use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Guid;

/// Where a secret is to be had. The secret itself is read at the moment of use,
/// by `host`, and by nobody else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SecretRef {
    /// What was typed, or came by standard input.
    Typed,
    /// A file, absolute.
    File(PathBuf),
    /// A systemd credential, by its name.
    Credential(String),
    /// What a program prints: an argument vector.
    Command(Vec<String>),
    /// A file encrypted with age for this machine's identity, absolute.
    Age(PathBuf),
    /// The key that opens a repository at boot.
    Key(Guid),
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretRef::Typed => f.write_str("standard input"),
            SecretRef::File(path) => write!(f, "file {}", path.display()),
            SecretRef::Credential(name) => write!(f, "credential {name}"),
            SecretRef::Command(command) => {
                let program = command.first().map_or("", String::as_str);
                write!(f, "command {}", program.escape_debug())
            }
            SecretRef::Age(path) => write!(f, "age file {}", path.display()),
            SecretRef::Key(_) => f.write_str("its key for boot"),
        }
    }
}

/// How an image is encrypted: with which passphrase, and how that is stretched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The passphrase.
    pub passphrase: SecretRef,
    /// How it is stretched.
    pub pbkdf: Pbkdf,
}

/// How LUKS stretches a passphrase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pbkdf {
    /// Costs memory too: whoever guesses needs as much.
    #[default]
    Argon2id,
    /// Costs time alone, for machines with little memory.
    Pbkdf2,
}

impl Pbkdf {
    /// All of them, as they are written.
    pub const NAMES: [(&'static str, Self); 2] =
        [("argon2id", Self::Argon2id), ("pbkdf2", Self::Pbkdf2)];
}

impl fmt::Display for Pbkdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = Self::NAMES.into_iter();
        let name = names.find(|(_, pbkdf)| pbkdf == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

/// Names that say themselves that what they hold is secret, without the signs
/// between their words.
const WORDS: [&str; 9] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "credential",
    "apikey",
    "accesskey",
    "privatekey",
];

/// Whether a name says that what it holds is secret: `API_KEY`, `db-password`.
pub fn is_called_secret(name: &str) -> bool {
    let plain: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    WORDS.iter().any(|word| plain.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_a_name_is_written_it_says_the_same() {
        for name in [
            "API_KEY",
            "apiKey",
            "db-password",
            "SESSION_SECRETS",
            "x.token",
        ] {
            assert!(is_called_secret(name), "{name}");
        }
        for name in ["LOG", "key", "image", "keys", ""] {
            assert!(!is_called_secret(name), "{name}");
        }
    }
}
