use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};

use crate::model::Digest;

/// A document with the digest of what it says, which is made once: whoever reads a
/// folder again has the same documents, and few that are new.
#[derive(Clone)]
pub struct Digested<T>(Arc<Inner<T>>);

#[derive(Clone)]
struct Inner<T> {
    value: T,
    digest: OnceLock<Digest>,
}

impl<T: fmt::Debug> Digested<T> {
    /// The digest of everything that it says.
    pub fn digest(&self) -> &Digest {
        let Inner { value, digest } = &*self.0;
        // File sets and environments show their digests there.
        digest.get_or_init(|| Digest::of(format!("{value:?}").as_bytes()))
    }
}

impl<T> From<T> for Digested<T> {
    fn from(value: T) -> Self {
        Self(Arc::new(Inner {
            value,
            digest: OnceLock::new(),
        }))
    }
}

impl<T> Deref for Digested<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: Clone> DerefMut for Digested<T> {
    fn deref_mut(&mut self) -> &mut T {
        let inner = Arc::make_mut(&mut self.0);
        inner.digest.take();
        &mut inner.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Digested<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.value.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_changes_the_digest_and_no_clones() {
        let first = Digested::from(vec![1]);
        let mut second = first.clone();
        assert_eq!(first.digest(), second.digest());
        second.push(2);
        assert_ne!(first.digest(), second.digest());
        assert_eq!(
            (first.as_slice(), second.as_slice()),
            (&[1][..], &[1, 2][..])
        );
        second.pop();
        assert_eq!(first.digest(), second.digest());
    }
}
