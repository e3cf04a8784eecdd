//! What is to become of an object with owners: a pure function of what the API says of them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::PropagationPolicy;

use crate::inventory::{FOREGROUND, Item, ORPHAN};

/// What the API says of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// It is there and stays.
    Solid,
    /// It is not there, or is another one by now.
    Dangling,
    /// It is on its way out and waits for its dependents.
    Waiting,
}

/// What is to be done with an object.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// Nothing: it has an owner.
    Keep,
    /// It keeps only these owners.
    KeepOwners(Vec<OwnerReference>),
    /// It is to go.
    Delete {
        /// Together with its dependents, or before them.
        propagation: PropagationPolicy,
        /// Its owners, no longer waiting for it, where they and it might wait for each other.
        unblocked: Option<Vec<OwnerReference>>,
    },
}

/// The dependents of an object, as far as they matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dependents {
    /// None.
    None,
    /// Some.
    Some,
    /// Some, of which one waits for its own dependents: perhaps for this object.
    Waiting,
}

/// Decides. `owners` are the states of the object's owners, in order.
pub(super) fn verdict(item: &Item, owners: &[Owner], dependents: Dependents) -> Verdict {
    let references = item.owners();
    if references.is_empty() {
        return Verdict::Keep;
    }
    if owners.contains(&Owner::Solid) {
        let solid = references
            .iter()
            .zip(owners)
            .filter(|(_, owner)| **owner == Owner::Solid);
        let solid: Vec<_> = solid.map(|(reference, _)| reference.clone()).collect();
        return if solid.len() == references.len() {
            Verdict::Keep
        } else {
            Verdict::KeepOwners(solid)
        };
    }
    if owners.contains(&Owner::Waiting) && dependents != Dependents::None {
        let unblock = |reference: &OwnerReference| OwnerReference {
            block_owner_deletion: Some(false),
            ..reference.clone()
        };
        let unblocked = (dependents == Dependents::Waiting).then(|| references.iter().map(unblock).collect());
        return Verdict::Delete {
            propagation: PropagationPolicy::Foreground,
            unblocked,
        };
    }
    // What a former deletion asked for is honoured.
    let propagation = if item.has_finalizer(ORPHAN) {
        PropagationPolicy::Orphan
    } else if item.has_finalizer(FOREGROUND) {
        PropagationPolicy::Foreground
    } else {
        PropagationPolicy::Background
    };
    Verdict::Delete {
        propagation,
        unblocked: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::garbage::graph::tests::item;

    fn check(finalizers: &[&str], owners: &[Owner], dependents: Dependents, expected: &str) {
        let references: Vec<_> = (0..owners.len())
            .map(|index| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": format!("o{index}"), "uid": index.to_string(), "blockOwnerDeletion": true}))
            .collect();
        let item = item(
            "ns",
            "a",
            json!({"ownerReferences": references, "finalizers": finalizers}),
        );
        let shown = match verdict(&item, owners, dependents) {
            Verdict::Keep => "keep".to_owned(),
            Verdict::KeepOwners(owners) => {
                let names: Vec<_> = owners.into_iter().map(|owner| owner.name).collect();
                format!("keep {}", names.join(","))
            }
            Verdict::Delete {
                propagation,
                unblocked,
            } => {
                format!(
                    "delete {propagation:?}{}",
                    if unblocked.is_some() { " unblocked" } else { "" }
                )
            }
        };
        assert_eq!(shown, expected, "{finalizers:?} {owners:?} {dependents:?}");
    }

    #[test]
    fn an_object_stays_with_its_last_owner() {
        use Owner::{Dangling, Solid, Waiting};
        check(&[], &[], Dependents::None, "keep");
        check(&[], &[Solid], Dependents::Some, "keep");
        check(&[], &[Dangling, Solid], Dependents::None, "keep o1");
        check(&[], &[Solid, Waiting, Dangling], Dependents::None, "keep o0");
        check(&[], &[Dangling], Dependents::None, "delete Background");
        check(&[], &[Dangling, Dangling], Dependents::Some, "delete Background");
        check(&[ORPHAN], &[Dangling], Dependents::Some, "delete Orphan");
        check(&[FOREGROUND], &[Dangling], Dependents::Some, "delete Foreground");
    }

    #[test]
    fn dependents_of_an_owner_that_waits_take_their_own_with_them() {
        use Owner::{Dangling, Waiting};
        check(&[], &[Waiting], Dependents::None, "delete Background");
        check(&[], &[Waiting, Dangling], Dependents::Some, "delete Foreground");
        check(
            &[],
            &[Waiting],
            Dependents::Waiting,
            "delete Foreground unblocked",
        );
    }
}
