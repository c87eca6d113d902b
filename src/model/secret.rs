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
