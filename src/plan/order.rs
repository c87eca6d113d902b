use std::collections::{BTreeMap, BTreeSet};

use crate::model::Name;

/// Which projects each project depends on.
pub(super) type Dependencies = BTreeMap<Name, BTreeSet<Name>>;

/// Puts each project after those that it depends on, otherwise by name. Where
/// some wait for each other the first by name comes first.
pub(super) fn in_order(
    projects: impl IntoIterator<Item = Name>,
    depends_on: &Dependencies,
) -> Vec<Name> {
    let mut left: BTreeSet<Name> = projects.into_iter().collect();
    let mut ordered = Vec::new();
    while let Some(first) = left.first() {
        let is_free = |name: &&Name| {
            let mut on = depends_on.get(*name).into_iter().flatten();
            on.all(|on| !left.contains(on))
        };
        let next = left.iter().find(is_free).unwrap_or(first).clone();
        left.remove(&next);
        ordered.push(next);
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first_and_names_decide_the_rest() {
        let order = |pairs: &[(&str, &[&str])]| {
            let name = |text: &str| text.parse::<Name>().unwrap();
            let all = pairs.iter().map(|(project, on)| {
                let on = on.iter().map(|on| name(on)).collect();
                (name(project), on)
            });
            let all: Dependencies = all.collect();
            let ordered = in_order(all.keys().cloned(), &all);
            let ordered: Vec<&str> = ordered.iter().map(Name::as_str).collect();
            ordered.join(" ")
        };
        assert_eq!(order(&[("c", &[]), ("a", &["b"]), ("b", &["c"])]), "c b a");
        assert_eq!(order(&[("b", &[]), ("a", &[]), ("c", &["a"])]), "a b c");
        assert_eq!(order(&[("a", &["gone"]), ("b", &[])]), "a b");
        assert_eq!(
            order(&[("a", &["b"]), ("b", &["a"]), ("c", &["b"])]),
            "a b c"
        );
    }
}
