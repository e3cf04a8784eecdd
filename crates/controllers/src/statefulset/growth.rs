//! Claims follow their templates, as KEP-4650 has them: they grow, and get the labels, annotations and attributes
//! class that their template has got. What a claim has beyond its template stays. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::{Map, Value, json};
use stead_informer::semantics::volumes::{is_too_small, requested, storage_request};

/// The annotation that has claims stay as they were made, and their templates as well.
const CLAIM_TEMPLATES: &str = "stead.dev/claim-templates";

/// Whether the claims of a set follow their templates.
pub(super) fn follows(set: &StatefulSet) -> bool {
    let annotations = set.metadata.annotations.as_ref();
    annotations
        .and_then(|annotations| annotations.get(CLAIM_TEMPLATES))
        .is_none_or(|value| value != "fixed")
}

/// How a claim stands to its template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub(super) enum Growth {
    /// It is as its template.
    #[default]
    Done,
    /// It has been asked to be, and is not yet.
    UnderWay,
    /// It is to be asked.
    Due,
}

/// How a claim stands to its template.
pub(super) fn growth(claim: &PersistentVolumeClaim, template: &PersistentVolumeClaim) -> Growth {
    if change(claim, template).is_some() {
        Growth::Due
    } else if is_resizing(claim) {
        Growth::UnderWay
    } else {
        Growth::Done
    }
}

/// What a claim is to change so as to be as its template, as a merge patch; none if it is so, or cannot change.
pub(super) fn change(claim: &PersistentVolumeClaim, template: &PersistentVolumeClaim) -> Option<Value> {
    let status = claim.status.as_ref();
    let is_bound = status.and_then(|status| status.phase.as_deref()) == Some("Bound");
    if !is_bound || claim.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let mut spec = Map::new();
    if is_larger(template, claim) {
        let wanted = storage_request(template);
        spec.insert("resources".to_owned(), json!({"requests": {"storage": wanted}}));
    }
    let class = |claim: &PersistentVolumeClaim| claim.spec.as_ref()?.volume_attributes_class_name.clone();
    if let Some(wanted) = class(template)
        && class(claim).as_ref() != Some(&wanted)
    {
        spec.insert("volumeAttributesClassName".to_owned(), wanted.into());
    }
    let mut metadata = Map::new();
    let (has, wants) = (&claim.metadata, &template.metadata);
    for (field, has, wants) in [
        ("labels", &has.labels, &wants.labels),
        ("annotations", &has.annotations, &wants.annotations),
    ] {
        let missing = missing(has.as_ref(), wants.as_ref());
        if !missing.is_empty() {
            metadata.insert(field.to_owned(), json!(missing));
        }
    }
    if spec.is_empty() && metadata.is_empty() {
        return None;
    }
    metadata.insert(
        "resourceVersion".to_owned(),
        json!(claim.metadata.resource_version),
    );
    Some(json!({"metadata": metadata, "spec": spec}))
}

type Texts = BTreeMap<String, String>;

fn missing<'w>(has: Option<&Texts>, wants: Option<&'w Texts>) -> BTreeMap<&'w String, &'w String> {
    let is_missing = |(key, value): &(&String, &String)| has.and_then(|has| has.get(*key)) != Some(*value);
    wants.into_iter().flatten().filter(is_missing).collect()
}

fn is_larger(template: &PersistentVolumeClaim, claim: &PersistentVolumeClaim) -> bool {
    // Mostly they are written alike.
    storage_request(template) != storage_request(claim) && requested(template) > requested(claim)
}

/// Whether the volume is smaller than the claim, and its node needs no restart of the pod to change that.
fn is_resizing(claim: &PersistentVolumeClaim) -> bool {
    let Some(status) = &claim.status else {
        return false;
    };
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let waits_for_restart = conditions
        .iter()
        .any(|condition| condition.type_ == "FileSystemResizePending" && condition.status == "True");
    is_too_small(claim) && !waits_for_restart
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(storage: &str, status: Value) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": {"labels": {"a": "b", "own": "x"}, "resourceVersion": "7"},
            "spec": {"resources": {"requests": {"storage": storage}}},
            "status": status,
        }))
        .expect("a claim")
    }

    fn template(value: Value) -> PersistentVolumeClaim {
        serde_json::from_value(value).expect("a claim")
    }

    #[test]
    fn a_claim_grows_and_never_shrinks() {
        let bound = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
        let resizing = json!({
            "phase": "Bound", "capacity": {"storage": "1Gi"},
            "conditions": [{"type": "FileSystemResizePending", "status": "True"}],
        });
        for (has, status, wants, expected) in [
            ("1Gi", &bound, "1Gi", Growth::Done),
            ("1Gi", &bound, "1024Mi", Growth::Done),
            ("1Gi", &bound, "2Gi", Growth::Due),
            ("1Gi", &bound, "1Mi", Growth::Done),
            ("2Gi", &bound, "2Gi", Growth::UnderWay),
            ("2Gi", &bound, "3Gi", Growth::Due),
            ("2Gi", &resizing, "2Gi", Growth::Done),
            // It has no volume that could grow.
            ("1Gi", &json!({"phase": "Pending"}), "2Gi", Growth::Done),
        ] {
            let wanted = template(json!({"spec": {"resources": {"requests": {"storage": wants}}}}));
            let claim = claim(has, status.clone());
            assert_eq!(growth(&claim, &wanted), expected, "{has} {wants} {status}");
        }
    }

    #[test]
    fn what_a_template_has_got_is_added_to_what_the_claim_has() {
        let wanted = template(json!({
            "metadata": {"labels": {"a": "c"}, "annotations": {"backup": "nightly"}},
            "spec": {"volumeAttributesClassName": "fast", "resources": {"requests": {"storage": "2Gi"}}},
        }));
        let bound = json!({"phase": "Bound"});
        let expected = json!({
            "metadata": {"labels": {"a": "c"}, "annotations": {"backup": "nightly"}, "resourceVersion": "7"},
            "spec": {"volumeAttributesClassName": "fast", "resources": {"requests": {"storage": "2Gi"}}},
        });
        assert_eq!(change(&claim("1Gi", bound.clone()), &wanted), Some(expected));
        let has_it = template(json!({"metadata": {"labels": {"own": "x"}}, "spec": {}}));
        assert_eq!(change(&claim("1Gi", bound), &has_it), None);
    }
}
