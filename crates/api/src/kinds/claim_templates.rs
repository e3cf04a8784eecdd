//! How a StatefulSet's claim templates can change: as claims themselves can (KEP-4650). Kubernetes has them fixed.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec};

use super::persistent_volume_claim::{requested, spec_of, storage_of, take_growth_back};
use super::same;
use crate::error::{Errors, Path};
use crate::meta::validate_annotations;
use crate::selector::validate_labels;

/// With the value `fixed`, the annotation that has claim templates stay as they are.
const FIXED: &str = "stead.dev/claim-templates";
const CAN_CHANGE: &str = "only spec.resources.requests.storage, spec.volumeAttributesClassName, metadata.labels and \
    metadata.annotations can change, as claims that are there already follow no other change";

/// Checks a change of the templates. Not so where they are fixed, or are not the same ones: that is refused as other
/// changes of the set are. Gives whether it has been checked.
pub(super) fn validate_change(new: &StatefulSet, old: &StatefulSet, errors: &mut Errors) -> bool {
    let annotations = new.metadata.annotations.as_ref();
    let is_fixed = annotations.is_some_and(|all| all.get(FIXED).is_some_and(|value| value == "fixed"));
    let (new, old) = (templates(new), templates(old));
    let name = |template: &PersistentVolumeClaim| template.metadata.name.clone();
    if is_fixed || !new.iter().map(name).eq(old.iter().map(name)) {
        return false;
    }
    let path = Path::new("spec").child("volumeClaimTemplates");
    for (at, (new, old)) in new.iter().zip(old).enumerate() {
        if !same(new, old) {
            validate_template(new, old, &path.index(at), errors);
        }
    }
    true
}

fn templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    set.spec.volume_claim_templates.as_deref().unwrap_or_default()
}

fn validate_template(
    new: &PersistentVolumeClaim,
    old: &PersistentVolumeClaim,
    path: &Path,
    errors: &mut Errors,
) {
    let metadata = path.child("metadata");
    validate_labels(new.metadata.labels.as_ref(), &metadata.child("labels"), errors);
    validate_annotations(
        new.metadata.annotations.as_ref(),
        &metadata.child("annotations"),
        errors,
    );
    let mut rest = new.clone();
    rest.metadata.labels.clone_from(&old.metadata.labels);
    rest.metadata.annotations.clone_from(&old.metadata.annotations);
    // What the server fills in is not compared.
    rest.status.clone_from(&old.status);
    let (old_spec, new_spec) = (spec_of(old), spec_of(new));
    take_growth_back(rest.spec.get_or_insert_default(), &old_spec);
    let is_sized = |spec: &PersistentVolumeClaimSpec| storage_of(spec).is_some();
    let (was, is) = (requested(&old_spec), requested(&new_spec));
    if !same(&rest, old) || is_sized(&new_spec) != is_sized(&old_spec) {
        errors.forbidden(path, CAN_CHANGE);
    } else if is < was {
        let path = path
            .child("spec")
            .child("resources")
            .child("requests")
            .child("storage");
        errors.forbidden(
            &path,
            &format!("can not be less than before, which was {was}: claims do not shrink"),
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    type Change = fn(&mut Value);

    fn set(template: Value, annotations: Value) -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "annotations": annotations},
            "spec": {"selector": {}, "template": {}, "volumeClaimTemplates": [template]},
        }))
        .expect("a set")
    }

    fn template(change: impl FnOnce(&mut Value)) -> Value {
        let mut template = json!({
            "metadata": {"name": "data", "labels": {"a": "b"}},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}},
        });
        change(&mut template);
        template
    }

    #[test]
    fn templates_change_as_claims_can() {
        let old = set(template(|_| {}), json!({}));
        let storage = "spec.volumeClaimTemplates[0].spec.resources.requests.storage: Forbidden: can not be less than \
            before, which was 2Gi: claims do not shrink";
        let other = format!("spec.volumeClaimTemplates[0]: Forbidden: {CAN_CHANGE}");
        let checks: [(Change, &str); 8] = [
            (|_| {}, "[]"),
            (
                |new| new["spec"]["resources"]["requests"]["storage"] = json!("3Gi"),
                "[]",
            ),
            (
                |new| new["spec"]["volumeAttributesClassName"] = json!("fast"),
                "[]",
            ),
            (
                |new| new["metadata"] = json!({"name": "data", "annotations": {"x": "y"}}),
                "[]",
            ),
            (
                |new| new["spec"]["resources"]["requests"]["storage"] = json!("1Gi"),
                storage,
            ),
            (|new| new["spec"]["resources"]["requests"] = json!({}), &other),
            (|new| new["spec"]["accessModes"] = json!(["ReadOnlyMany"]), &other),
            (|new| new["spec"]["storageClassName"] = json!("x"), &other),
        ];
        for (change, expected) in checks {
            let new = set(template(change), json!({}));
            let mut errors = Errors::new();
            assert!(validate_change(&new, &old, &mut errors));
            assert_eq!(errors.summary(), expected);
        }
        let mut errors = Errors::new();
        let bad = set(
            template(|new| new["metadata"]["labels"]["a"] = json!("-")),
            json!({}),
        );
        assert!(validate_change(&bad, &old, &mut errors));
        assert!(
            errors
                .summary()
                .starts_with("spec.volumeClaimTemplates[0].metadata.labels: Invalid value")
        );
    }

    #[test]
    fn other_templates_and_fixed_ones_change_as_in_kubernetes() {
        let old = set(template(|_| {}), json!({}));
        let mut errors = Errors::new();
        let grown = template(|new| new["spec"]["resources"]["requests"]["storage"] = json!("3Gi"));
        let renamed = template(|new| new["metadata"]["name"] = json!("other"));
        assert!(!validate_change(&set(renamed, json!({})), &old, &mut errors));
        assert!(!validate_change(
            &set(grown, json!({FIXED: "fixed"})),
            &old,
            &mut errors
        ));
        assert!(errors.is_empty());
    }
}
