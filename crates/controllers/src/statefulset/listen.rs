//! Which sets are looked at when something changes.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use stead_informer::semantics::Selector;
use stead_informer::{Change, Informers, Key, Queue};

use super::adopt::controller_of;
use super::identity;
use crate::owned::owner_of;

/// Notes which sets to look at when something changes.
pub(super) fn listen(informers: &Informers, queue: &Queue<Key>) {
    let sets = queue.clone();
    informers
        .stateful_sets
        .on_change(move |change| sets.add(Key::of(&**change.object())));
    let (pods, known) = (queue.clone(), informers.stateful_sets.clone());
    informers.pods.on_change(move |change| {
        if let Change::Updated { old, .. } = change
            && let Some(set) = owning_set(&old.metadata)
        {
            pods.add(set);
        }
        let pod = change.object();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for set in sets_of(pod, &known.in_namespace(namespace)) {
            pods.add(set);
        }
    });
    let revisions = queue.clone();
    informers.revisions.on_change(move |change| {
        if let Some(set) = owning_set(&change.object().metadata) {
            revisions.add(set);
        }
    });
    // A claim's name ends in its set's and the ordinal, but begins with a template's, which may
    // hold hyphens too: all sets of the namespace whose claim it could be are looked at.
    let (claims, known) = (queue.clone(), informers.stateful_sets.clone());
    informers.claims.on_change(move |change| {
        let claim = change.object();
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        let Some((stem, _)) = identity::parse_name(claim.metadata.name.as_deref().unwrap_or_default()) else {
            return;
        };
        for set in known.in_namespace(namespace) {
            let name = set.metadata.name.as_deref().unwrap_or_default();
            let is_of = |template: &str| {
                stem.strip_prefix(template)
                    .and_then(|rest| rest.strip_prefix('-'))
                    == Some(name)
            };
            if identity::template_names(&set).any(is_of) {
                claims.add(Key::of(&*set));
            }
        }
    });
}

/// The sets that a pod concerns: the one that it belongs to; the one that wants its name, and may wait for it; and,
/// as long as it belongs to nobody, those that select it, which may adopt it. `known` are those of its namespace.
fn sets_of(pod: &Pod, known: &[Arc<StatefulSet>]) -> Vec<Key> {
    let mut sets: Vec<Key> = owning_set(&pod.metadata).into_iter().collect();
    let name = identity::parse_name(pod.metadata.name.as_deref().unwrap_or_default());
    let is_free = controller_of(&pod.metadata).is_none();
    for set in known {
        let wants = name.is_some_and(|(name, _)| set.metadata.name.as_deref() == Some(name));
        let selects = || Selector::new(&set.spec.selector).matches(pod.metadata.labels.as_ref());
        let key = Key::of(&**set);
        if (wants || is_free && selects()) && !sets.contains(&key) {
            sets.push(key);
        }
    }
    sets
}

/// The set that controls an object.
fn owning_set(meta: &ObjectMeta) -> Option<Key> {
    owner_of(meta, "StatefulSet")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn sets_of_pod(name: &str, app: &str, owner: Option<(&str, &str)>) -> Vec<String> {
        let known = ["web", "db"].map(|name| {
            let set = json!({"metadata": {"namespace": "a", "name": name}, "spec": {
                "selector": {"matchLabels": {"app": name}}, "template": {},
            }});
            Arc::new(serde_json::from_value::<StatefulSet>(set).expect("a set"))
        });
        let owners: Vec<Value> = owner
            .map(|(kind, name)| json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": "u", "controller": true}))
            .into_iter()
            .collect();
        let pod = json!({"metadata": {
            "namespace": "a", "name": name, "labels": {"app": app}, "ownerReferences": owners,
        }});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        sets_of(&pod, &known).into_iter().map(|key| key.name).collect()
    }

    #[test]
    fn a_pod_concerns_its_owner_whoever_wants_its_name_and_who_may_adopt_it() {
        let of = sets_of_pod;
        assert_eq!(of("web-0", "web", Some(("StatefulSet", "web"))), ["web"]);
        assert_eq!(of("x", "web", None), ["web"]);
        assert_eq!(of("web-0", "other", None), ["web"]);
        // The name that it has may be what another set waits for, whoever has it.
        assert_eq!(of("web-0", "web", Some(("Job", "x"))), ["web"]);
        assert_eq!(of("web-0", "web", Some(("StatefulSet", "db"))), ["db", "web"]);
        assert_eq!(of("web-0", "db", None), ["web", "db"]);
        assert_eq!(of("web-00", "other", None), Vec::<String>::new());
        assert_eq!(of("none-0", "other", None), Vec::<String>::new());
    }
}
