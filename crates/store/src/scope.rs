//! Groups of keys: those with the same first component (`/pods` of `/pods/default/web-0`).
//!
//! What is watched together is in one group; the events of other groups do not concern it.

/// Which events a watcher scans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Those of one group.
    Group(Box<str>),
    /// All.
    All,
}

impl Scope {
    /// The scope that holds every key with this prefix.
    pub(crate) fn of_prefix(prefix: &str) -> Self {
        let group = group_of(prefix);
        if group.len() < prefix.len() {
            Self::Group(group.into())
        } else {
            Self::All
        }
    }
}

/// The first component of a key: all before the second slash, or before the first if the key does
/// not start with one.
pub(crate) fn group_of(key: &str) -> &str {
    let start = usize::from(key.starts_with('/'));
    key[start..].find('/').map_or(key, |slash| &key[..start + slash])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_the_first_component() {
        for (key, group) in [
            ("/pods/default/web-0", "/pods"),
            ("/pods/", "/pods"),
            ("/pods", "/pods"),
            ("pods/x", "pods"),
            ("/", "/"),
            ("", ""),
            ("é/x", "é"),
        ] {
            assert_eq!(group_of(key), group, "{key}");
        }
    }

    #[test]
    fn a_prefix_that_may_have_keys_of_several_groups_has_all_in_its_scope() {
        for (prefix, group) in [
            ("/pods/default/", "/pods"),
            ("/pods/", "/pods"),
            ("pods/x", "pods"),
        ] {
            assert_eq!(Scope::of_prefix(prefix), Scope::Group(group.into()));
        }
        for prefix in ["", "/", "/pods", "pods"] {
            assert_eq!(Scope::of_prefix(prefix), Scope::All, "{prefix:?}");
        }
    }
}
