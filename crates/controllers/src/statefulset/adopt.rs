//! Which pods and revisions are the set's: those it owns and selects; those without an owner that
//! it selects and that bear its name are adopted, those it owns but no longer selects are released.
//! See "Using labels and selectors" and `PodControllerRefManager`.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use stead_informer::semantics::Selector;

use super::identity::parse_name;
use crate::owned::relation;
pub(super) use crate::owned::{Relation, controller_of};

/// What a set has to do with a pod of its namespace.
pub(super) fn pod_relation(set: &StatefulSet, selector: &Selector, pod: &Pod) -> Relation {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let is_member = parse_name(name).is_some_and(|(parent, _)| Some(parent) == set.metadata.name.as_deref());
    let fits = selector.matches(pod.metadata.labels.as_ref()) && is_member;
    relation(&set.metadata, &pod.metadata, fits)
}

/// The revisions that the set selects and nobody else controls, with those to be adopted.
pub(super) fn revisions(
    set: &StatefulSet,
    selector: &Selector,
    all: &[Arc<ControllerRevision>],
) -> Vec<(Relation, ControllerRevision)> {
    all.iter()
        .filter_map(|revision| {
            let fits = selector.matches(revision.metadata.labels.as_ref());
            match relation(&set.metadata, &revision.metadata, fits) {
                Relation::None | Relation::Release => None,
                relation => Some((relation, ControllerRevision::clone(revision))),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(pod: serde_json::Value, set_deleting: bool, expected: Relation) {
        let mut set: StatefulSet =
            serde_json::from_value(json!({"metadata": {"name": "web", "uid": "s1"}})).expect("a set");
        if set_deleting {
            set.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                jiff::Timestamp::UNIX_EPOCH,
            ));
        }
        let selector = serde_json::from_value(json!({"matchLabels": {"app": "web"}})).expect("a selector");
        let selector = Selector::new(&selector);
        let shown = pod.to_string();
        let pod: Pod = serde_json::from_value(json!({"metadata": pod})).expect("a pod");
        assert_eq!(pod_relation(&set, &selector, &pod), expected, "{shown}");
    }

    #[test]
    fn revisions_of_others_and_those_not_selected_are_left_alone() {
        let set: StatefulSet =
            serde_json::from_value(json!({"metadata": {"name": "web", "uid": "s1"}})).expect("a set");
        let selector = serde_json::from_value(json!({"matchLabels": {"app": "web"}})).expect("a selector");
        let revision = |name: &str, app: &str, owner: Option<&str>| {
            let owners: Vec<_> = owner
                .map(|uid| json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": uid, "controller": true}))
                .into_iter()
                .collect();
            let meta = json!({"name": name, "labels": {"app": app}, "ownerReferences": owners});
            let revision = json!({"metadata": meta, "revision": 1, "data": {}});
            Arc::new(serde_json::from_value::<ControllerRevision>(revision).expect("a revision"))
        };
        let all = [
            revision("own", "web", Some("s1")),
            revision("orphan", "web", None),
            revision("of-a-former-set", "web", Some("s0")),
            revision("other", "db", None),
            revision("relabelled", "db", Some("s1")),
        ];
        let found: Vec<_> = revisions(&set, &Selector::new(&selector), &all)
            .into_iter()
            .map(|(relation, revision)| (relation, revision.metadata.name.unwrap_or_default()))
            .collect();
        let expected = [
            (Relation::Own, "own".to_owned()),
            (Relation::Adopt, "orphan".to_owned()),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn pods_are_owned_adopted_released_or_left_alone() {
        let owner = |uid: &str| json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": uid, "controller": true}]);
        let labels = json!({"app": "web"});
        check(
            json!({"name": "web-0", "labels": labels, "ownerReferences": owner("s1")}),
            false,
            Relation::Own,
        );
        check(json!({"name": "web-0", "labels": labels}), false, Relation::Adopt);
        check(json!({"name": "web-0", "labels": labels}), true, Relation::None);
        check(
            json!({"name": "web-0", "ownerReferences": owner("s1")}),
            false,
            Relation::Release,
        );
        check(
            json!({"name": "web-0", "ownerReferences": owner("s1")}),
            true,
            Relation::None,
        );
        check(
            json!({"name": "web-0", "labels": labels, "ownerReferences": owner("s2")}),
            false,
            Relation::None,
        );
        check(
            json!({"name": "other-0", "labels": labels}),
            false,
            Relation::None,
        );
        check(json!({"name": "web-0"}), false, Relation::None);
    }
}
