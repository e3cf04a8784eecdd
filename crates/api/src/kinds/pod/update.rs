//! What of a pod can be changed.

use k8s_openapi::api::core::v1::{
    Affinity, Container, NodeAffinity, NodeSelectorTerm, PodSchedulingGate, PodSpec, Toleration,
};
use serde_json::json;

use super::containers::validate_image_of_pod;
use super::scheduling::validate_tolerations;
use crate::error::{Errors, GoSyntax, Path};
use crate::go;
use crate::kinds::{same, text};

const CHANGEABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
    `spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const NODE_SELECTOR_TERMS: [&str; 4] = [
    "affinity",
    "nodeAffinity",
    "requiredDuringSchedulingIgnoredDuringExecution",
    "nodeSelectorTerms",
];

/// Checks what an update changes in a spec that is well formed.
pub(super) fn validate(new: &PodSpec, old: &PodSpec, path: &Path, errors: &mut Errors) {
    let empty = Vec::new();
    let init = |spec: &PodSpec| spec.init_containers.as_ref().unwrap_or(&empty).clone();
    if !validate_containers(
        &new.containers,
        &old.containers,
        &path.child("containers"),
        errors,
    ) || !validate_containers(&init(new), &init(old), &path.child("initContainers"), errors)
        || !validate_deadline(new, old, &path.child("activeDeadlineSeconds"), errors)
    {
        return;
    }
    let list = |tolerations: &Option<Vec<Toleration>>| tolerations.clone().unwrap_or_default();
    let at = path.child("tolerations");
    validate_added_tolerations(&list(&new.tolerations), &list(&old.tolerations), &at, errors);
    let gates = |gates: &Option<Vec<PodSchedulingGate>>| gates.clone().unwrap_or_default();
    let old_gates = gates(&old.scheduling_gates);
    validate_removed_gates(
        &gates(&new.scheduling_gates),
        &old_gates,
        &path.child("schedulingGates"),
        errors,
    );
    if same(new, old) {
        return;
    }
    // What may change is put back, so that only what may not is left.
    let mut rest = new.clone();
    put_images_back(&mut rest.containers, &old.containers);
    if let (Some(rest), Some(old)) = (&mut rest.init_containers, &old.init_containers) {
        put_images_back(rest, old);
    }
    rest.active_deadline_seconds = old.active_deadline_seconds;
    rest.scheduling_gates.clone_from(&old.scheduling_gates);
    rest.tolerations.clone_from(&old.tolerations);
    if old
        .termination_grace_period_seconds
        .is_some_and(|period| period < 0)
        && rest.termination_grace_period_seconds == Some(1)
    {
        rest.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    if !old_gates.is_empty() {
        put_placement_back(&mut rest, old, path, errors);
    }
    if !same(&rest, old) {
        let difference = go::diff("core.PodSpec", &json!(old), &json!(rest));
        errors.forbidden(path, &format!("{CHANGEABLE}\n{difference}"));
    }
}

fn validate_containers(new: &[Container], old: &[Container], path: &Path, errors: &mut Errors) -> bool {
    if new.len() != old.len() {
        errors.forbidden(path, "pod updates may not add or remove containers");
        return false;
    }
    for (at, container) in new.iter().enumerate() {
        errors.present(&path.index(at).child("image"), text(&container.image));
        validate_image_of_pod(container, &path.index(at), errors);
    }
    true
}

/// A deadline can be set or come nearer.
fn validate_deadline(new: &PodSpec, old: &PodSpec, path: &Path, errors: &mut Errors) -> bool {
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            errors.invalid(path, &new, &crate::names::in_range(0, i32::MAX.into()));
            false
        }
        (Some(new), Some(old)) if old < new => {
            errors.invalid(path, &new, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            errors.invalid(
                path,
                "null",
                "must not update from a positive integer to nil value",
            );
            true
        }
        _ => true,
    }
}

fn validate_added_tolerations(new: &[Toleration], old: &[Toleration], path: &Path, errors: &mut Errors) {
    let is_kept = |old: &Toleration| {
        let like = |new: &Toleration| {
            same(
                &Toleration {
                    toleration_seconds: new.toleration_seconds,
                    ..old.clone()
                },
                new,
            )
        };
        new.iter().any(like)
    };
    if old.iter().all(is_kept) {
        validate_tolerations(new, path, errors);
    } else {
        errors.forbidden(
            path,
            "existing toleration can not be modified except its tolerationSeconds",
        );
    }
}

fn validate_removed_gates(
    new: &[PodSchedulingGate],
    old: &[PodSchedulingGate],
    path: &Path,
    errors: &mut Errors,
) {
    for (at, gate) in new.iter().enumerate() {
        let is_last = new[at + 1..].iter().all(|other| other.name != gate.name);
        if is_last && old.iter().all(|other| other.name != gate.name) {
            let why = format!(
                "only deletion is allowed, but found new scheduling gate '{}'",
                gate.name
            );
            errors.forbidden(&path.index(at).child("name"), &why);
        }
    }
}

fn put_images_back(new: &mut [Container], old: &[Container]) {
    for (new, old) in new.iter_mut().zip(old) {
        new.image.clone_from(&old.image);
    }
}

/// While a pod is gated, the nodes that it may run on can become fewer.
fn put_placement_back(rest: &mut PodSpec, old: &PodSpec, path: &Path, errors: &mut Errors) {
    let selector = rest.node_selector.clone().unwrap_or_default();
    let is_kept = |(key, value): (&String, &String)| selector.get(key) == Some(value);
    if !old.node_selector.iter().flatten().all(is_kept) {
        let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        let shown = go::syntax("map[string]string", &rest.node_selector);
        errors.invalid(&path.child("nodeSelector"), &shown, why);
    }
    rest.node_selector.clone_from(&old.node_selector);
    let node_affinity = |spec: &PodSpec| {
        spec.affinity
            .as_ref()
            .and_then(|affinity| affinity.node_affinity.clone())
    };
    let (new_affinity, old_affinity) = (node_affinity(rest), node_affinity(old));
    if new_affinity == old_affinity {
        return;
    }
    validate_node_affinity(new_affinity.as_ref(), old_affinity.as_ref(), path, errors);
    match &mut rest.affinity {
        Some(affinity)
            if old.affinity.is_none()
                && affinity.pod_affinity.is_none()
                && affinity.pod_anti_affinity.is_none() =>
        {
            rest.affinity = None;
        }
        Some(affinity) => affinity.node_affinity = old_affinity,
        None => {
            rest.affinity = Some(Affinity {
                node_affinity: old_affinity,
                ..Affinity::default()
            })
        }
    }
}

fn validate_node_affinity(
    new: Option<&NodeAffinity>,
    old: Option<&NodeAffinity>,
    path: &Path,
    errors: &mut Errors,
) {
    let terms = |affinity: Option<&NodeAffinity>| -> Vec<NodeSelectorTerm> {
        let required = affinity.and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
        required.map_or_else(Vec::new, |selector| selector.node_selector_terms.clone())
    };
    let (new, old) = (terms(new), terms(old));
    let path = NODE_SELECTOR_TERMS
        .iter()
        .fold(path.clone(), |path, field| path.child(field));
    if !old.is_empty() && new.len() != old.len() {
        let shown = go::syntax("[]core.NodeSelectorTerm", &new);
        errors.invalid(
            &path,
            &shown,
            "no additions/deletions to non-empty NodeSelectorTerms list are allowed",
        );
        return;
    }
    for (at, (new, _)) in new
        .iter()
        .zip(&old)
        .enumerate()
        .filter(|(_, (new, old))| !has_only_additions(new, old))
    {
        let shown: GoSyntax = go::syntax("core.NodeSelectorTerm", new);
        let why = "only additions are allowed (no mutations or deletions)";
        errors.invalid(&path.index(at), &shown, why);
    }
}

fn has_only_additions(new: &NodeSelectorTerm, old: &NodeSelectorTerm) -> bool {
    let (new_labels, old_labels) = (
        new.match_expressions.as_deref().unwrap_or_default(),
        old.match_expressions.as_deref().unwrap_or_default(),
    );
    let (new_fields, old_fields) = (
        new.match_fields.as_deref().unwrap_or_default(),
        old.match_fields.as_deref().unwrap_or_default(),
    );
    // A term without conditions selects nothing, and would select something with one.
    let was_empty = old_labels.is_empty() && old_fields.is_empty();
    let is_empty = new_labels.is_empty() && new_fields.is_empty();
    (is_empty || !was_empty) && new_labels.starts_with(old_labels) && new_fields.starts_with(old_fields)
}
