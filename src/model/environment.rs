use std::collections::BTreeMap;
use std::fmt;

use super::Digest;

/// The variables that a manifest sets. Their values may be secret: what is shown
/// of them is their names, and a digest that tells one set from another.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(pub BTreeMap<String, String>);

impl Environment {
    /// Puts the names of the variables where a text repeats their values.
    pub fn hide(&self, text: &str) -> String {
        /// What is shorter is no secret, and is found in any text.
        const SHORTEST: usize = 4;
        let mut values: Vec<(&String, &String)> = self.0.iter().collect();
        values.retain(|(_, value)| value.len() >= SHORTEST);
        // One value may be a part of another.
        values.sort_by_key(|(_, value)| std::cmp::Reverse(value.len()));
        values.iter().fold(text.to_owned(), |text, (name, value)| {
            text.replace(value.as_str(), &format!("${{{name}}}"))
        })
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = self.0.iter().flat_map(|(name, value)| [name, value]);
        let digest = Digest::of_fields(fields.map(String::as_bytes));
        f.debug_set().entries(self.0.keys()).finish()?;
        write!(f, "@{digest:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_not_shown_and_still_tell_one_set_from_another() {
        let of = |value: &str| Environment(BTreeMap::from([("KEY".into(), value.into())]));
        let shown = format!("{:?}", of("hunter2"));
        assert!(
            shown.contains("KEY") && !shown.contains("hunter2"),
            "{shown}"
        );
        assert_ne!(shown, format!("{:?}", of("hunter3")));
        assert_eq!(of("hunter2").hide("no hunter2 here"), "no ${KEY} here");
    }
}
