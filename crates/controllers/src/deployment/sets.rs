//! A Deployment's ReplicaSets: which is the newest template's, what a new one looks like, and the books that are kept
//! in annotations. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::plan::Bounds;
use crate::hash::hash;
use crate::owned::owner_reference;

/// The label of a ReplicaSet and its pods with the hash of their template.
pub(super) const HASH_LABEL: &str = "pod-template-hash";
/// The annotation with the number of a rollout.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Former numbers of a ReplicaSet that is used again.
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The replicas that the Deployment had when the ReplicaSet was last scaled, and the most there could be.
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// What is kept of former numbers, in letters.
const HISTORY_LIMIT: usize = 2000;
/// What is the Deployment's own.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// The replicas that a set is to have.
pub(super) fn size(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

fn annotation<'s>(set: &'s ReplicaSet, name: &str) -> Option<&'s str> {
    set.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// What a set's annotation says of the Deployment's replicas.
pub(super) fn desired(set: &ReplicaSet) -> Option<i32> {
    annotation(set, DESIRED)?.parse().ok()
}

/// The most replicas there could be when a set was last scaled.
pub(super) fn most(set: &ReplicaSet) -> Option<i32> {
    annotation(set, MAX)?.parse().ok()
}

/// The number of a set's rollout.
pub(super) fn revision(set: &ReplicaSet) -> i64 {
    annotation(set, REVISION)
        .and_then(|revision| revision.parse().ok())
        .unwrap_or(0)
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    // Absent and empty are the same.
    let meta = template.metadata.get_or_insert_default();
    meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
    meta.annotations = meta
        .annotations
        .take()
        .filter(|annotations| !annotations.is_empty());
    template
}

/// Whether a set is of a Deployment's template.
pub(super) fn is_of_template(set: &ReplicaSet, deployment: &Deployment) -> bool {
    let of_set = set.spec.template.as_ref();
    of_set.is_some_and(|template| without_hash(template) == without_hash(&deployment.spec.template))
}

/// The set of the newest template, and the others, each by age.
pub(super) fn divide(
    deployment: &Deployment,
    mut sets: Vec<Arc<ReplicaSet>>,
) -> (Option<Arc<ReplicaSet>>, Vec<Arc<ReplicaSet>>) {
    sets.sort_by_key(|set| {
        (
            set.metadata.creation_timestamp.as_ref().map(|time| time.0),
            set.metadata.name.clone(),
        )
    });
    let newest = sets.iter().position(|set| is_of_template(set, deployment));
    let newest = newest.map(|at| sets.remove(at));
    (newest, sets)
}

/// A set of a Deployment's template, of the size and with the number given.
pub(super) fn new_set(deployment: &Deployment, bounds: &Bounds, replicas: i32, number: i64) -> ReplicaSet {
    let spec = &deployment.spec;
    let mut template = spec.template.clone();
    let collisions = deployment
        .status
        .as_ref()
        .and_then(|status| status.collision_count);
    let data = serde_json::to_string(&template).unwrap_or_default();
    let hash = hash(&data, collisions.unwrap_or(0));
    let meta = template.metadata.get_or_insert_default();
    meta.labels
        .get_or_insert_default()
        .insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = meta.labels.clone();
    let mut selector = spec.selector.clone();
    selector
        .match_labels
        .get_or_insert_default()
        .insert(HASH_LABEL.to_owned(), hash.clone());
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            labels,
            owner_references: Some(vec![owner_reference(
                ("apps/v1", "Deployment"),
                &deployment.metadata,
            )]),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        },
        status: None,
    };
    set.metadata.annotations = Some(handed_on(deployment));
    note_number(&mut set, number);
    note_sizes(&mut set, bounds);
    set
}

/// Brings the set of the newest template up to date: its number, the Deployment's annotations, `minReadySeconds`.
/// Whether anything has changed.
pub(super) fn update(set: &mut ReplicaSet, deployment: &Deployment, number: i64) -> bool {
    let before = set.clone();
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.extend(handed_on(deployment));
    note_number(set, number);
    set.spec.min_ready_seconds = deployment.spec.min_ready_seconds;
    set.metadata.annotations != before.metadata.annotations
        || set.spec.min_ready_seconds.unwrap_or(0) != before.spec.min_ready_seconds.unwrap_or(0)
}

/// The annotations that a Deployment hands on.
fn handed_on(deployment: &Deployment) -> BTreeMap<String, String> {
    let annotations = deployment.metadata.annotations.iter().flatten();
    annotations
        .filter(|(name, _)| !NOT_COPIED.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Gives a set a newer number, and keeps the former one.
fn note_number(set: &mut ReplicaSet, number: i64) {
    let before = revision(set);
    if before >= number {
        return;
    }
    let annotations = set.metadata.annotations.get_or_insert_default();
    if let Some(old) = annotations.insert(REVISION.to_owned(), number.to_string()) {
        let history = annotations.entry(REVISION_HISTORY.to_owned()).or_default();
        if !history.is_empty() {
            history.push(',');
        }
        history.push_str(&old);
        while history.len() > HISTORY_LIMIT {
            let rest = history.split_once(',').map_or("", |(_, rest)| rest).to_owned();
            *history = rest;
        }
    }
}

/// Notes the Deployment's size; whether it was another.
pub(super) fn note_sizes(set: &mut ReplicaSet, bounds: &Bounds) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let mut is_new = false;
    for (name, number) in [(DESIRED, bounds.replicas), (MAX, bounds.most())] {
        let number = number.to_string();
        is_new |= annotations.insert(name.to_owned(), number.clone()) != Some(number);
    }
    is_new
}

/// The sets to be deleted: those of old templates that nothing uses, the oldest numbers first, beyond the limit.
pub(super) fn superfluous(old: &[Arc<ReplicaSet>], limit: Option<i32>) -> Vec<&ReplicaSet> {
    let Some(limit) = limit.filter(|limit| *limit != i32::MAX) else {
        return Vec::new();
    };
    let mut sets: Vec<&ReplicaSet> = old
        .iter()
        .map(|set| &**set)
        .filter(|set| set.metadata.deletion_timestamp.is_none())
        .collect();
    sets.sort_by_key(|set| revision(set));
    sets.truncate(sets.len().saturating_sub(usize::try_from(limit).unwrap_or(0)));
    sets.retain(|set| {
        let status = set.status.clone().unwrap_or_default();
        let is_observed = set.metadata.generation <= status.observed_generation;
        status.replicas == 0 && size(set) == 0 && is_observed
    });
    sets
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub(crate) fn deployment(replicas: i32, image: &str) -> Deployment {
        let deployment = json!({
            "metadata": {"name": "web", "namespace": "a", "uid": "d", "generation": 1, "annotations": {"team": "db"}},
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
                "progressDeadlineSeconds": 600,
            },
        });
        serde_json::from_value(deployment).expect("a Deployment")
    }

    #[test]
    fn a_set_of_the_template_is_found_by_it_and_has_all_that_the_deployment_hands_on() {
        let (one, two) = (deployment(3, "one"), deployment(3, "two"));
        let bounds = Bounds::of(&one);
        let first = new_set(&one, &bounds, 3, 1);
        let hash = first
            .metadata
            .name
            .as_deref()
            .and_then(|name| name.strip_prefix("web-"))
            .expect("a name");
        let spec = first.spec.clone();
        assert_eq!(spec.selector.match_labels.expect("labels")[HASH_LABEL], hash);
        let labels = spec
            .template
            .and_then(|template| template.metadata?.labels)
            .expect("labels");
        assert_eq!(labels[HASH_LABEL], hash);
        let annotations = first.metadata.annotations.clone().expect("annotations");
        let expected = [(DESIRED, "3"), (MAX, "4"), (REVISION, "1"), ("team", "db")];
        assert_eq!(annotations.len(), expected.len());
        assert!(
            expected.iter().all(|(name, value)| annotations[*name] == *value),
            "{annotations:?}"
        );
        assert!(is_of_template(&first, &one) && !is_of_template(&first, &two));
        let second = new_set(&two, &bounds, 0, 2);
        let (newest, old) = divide(&two, vec![Arc::new(first.clone()), Arc::new(second)]);
        assert_eq!(newest.map(|set| revision(&set)), Some(2));
        assert_eq!(old.len(), 1);
    }

    #[test]
    fn a_template_that_comes_back_has_the_newest_number_and_its_former_ones() {
        let one = deployment(3, "one");
        let mut set = new_set(&one, &Bounds::of(&one), 3, 1);
        assert!(!update(&mut set, &one, 1));
        assert!(update(&mut set, &one, 4));
        assert!(update(&mut set, &one, 6));
        assert_eq!(annotation(&set, REVISION_HISTORY), Some("1,4"));
        assert_eq!(revision(&set), 6);
    }

    #[test]
    fn old_sets_go_beyond_the_limit_but_none_that_is_used() {
        let one = deployment(3, "one");
        let set = |replicas, number| Arc::new(new_set(&one, &Bounds::of(&one), replicas, number));
        let sets = [set(0, 3), set(1, 1), set(0, 2)];
        let gone = |limit| {
            superfluous(&sets, limit)
                .into_iter()
                .map(revision)
                .collect::<Vec<_>>()
        };
        assert_eq!(gone(None), Vec::<i64>::new());
        assert_eq!(gone(Some(0)), [2, 3]);
        assert_eq!(gone(Some(1)), [2]);
        assert_eq!(gone(Some(2)), Vec::<i64>::new());
    }
}
