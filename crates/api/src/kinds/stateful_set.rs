//! StatefulSet (apps/v1).

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy,
    StatefulSetSpec, StatefulSetStatus,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, PodSpec, PodTemplateSpec, Volume};
use serde_json::Value;

use super::pod::{self, Options};
use super::workload::{self, Given, Workload};
use super::{claim_templates, name_cell, persistent_volume_claim, same, text};
use crate::error::{Errors, Path};
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Generation, Kind, MetadataCheck, Subresource};
use crate::table::age;
use crate::{go, names};

pub(super) static KIND: Kind = Kind {
    short_names: &["sts"],
    categories: &["all"],
    subresources: &[Subresource::SCALE, Subresource::status("StatefulSet")],
    name_rule: names::dns_label,
    // The name is not checked again: there may be sets from before it had to be a label.
    update_metadata: &[MetadataCheck::Update],
    generation: Generation::Spec,
    columns: &[
        Column::NAME,
        Column::new("Ready", "pods that are ready, of those wanted"),
        Column::AGE,
        Column::wide("Containers", "names of its containers"),
        Column::wide("Images", "their images"),
    ],
    ..Kind::new(
        ("apps", "v1", "StatefulSet"),
        ("statefulsets", "statefulset"),
        "io.k8s.api.apps.v1.StatefulSet",
        LOGIC,
    )
};

const WORKLOAD: Logic = workload::logic::<StatefulSet>();
const LOGIC: Logic = Logic {
    set_defaults: |set| {
        name_kind_of_templates(set);
        (WORKLOAD.set_defaults)(set)
    },
    ..WORKLOAD
};

/// Claim templates are claims, whatever they call themselves; the typed form has no other.
fn name_kind_of_templates(set: &mut Value) {
    let templates = set.pointer_mut("/spec/volumeClaimTemplates");
    let templates = templates.and_then(Value::as_array_mut);
    for template in templates
        .into_iter()
        .flatten()
        .filter(|template| template.is_object())
    {
        template["apiVersion"] = "v1".into();
        template["kind"] = "PersistentVolumeClaim".into();
    }
}

const UPDATE_FORBIDDEN: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', \
    'template', 'updateStrategy', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
const RETENTION: [&str; 2] = ["Retain", "Delete"];

/// The longest name whose pods can be made: each has the label `controller-revision-hash`, with this name, a
/// hyphen and a hash of ten letters at the most, and a label's value has 63. Names of pods are no longer than that
/// as ordinals have ten digits at the most.
const LONGEST_NAME: usize = 63 - 1 - 10;

/// Kubernetes accepts names of up to 63 letters, and then makes no pod (kubernetes#64023).
fn validate_name(name: &str, errors: &mut Errors) {
    // Whatever is longer is no label, and has been told so.
    if (LONGEST_NAME + 1..=63).contains(&name.len()) {
        let why = format!(
            "must be no more than {LONGEST_NAME} characters: the pods of a StatefulSet have labels of at most 63, \
             made of its name and up to 11 more"
        );
        errors.invalid(&Path::new("metadata").child("name"), name, &why);
    }
}

impl Workload for StatefulSet {
    fn check(&self, has_selector: bool, errors: &mut Errors) {
        validate_name(text(&self.metadata.name), errors);
        let checks = Checks {
            has_selector,
            ..Checks::default()
        };
        checks.validate(&self.spec, errors);
    }

    fn check_update(&self, old: &StatefulSet, has_selector: bool, errors: &mut Errors) {
        validate_update(self, old, has_selector, errors);
    }
}

impl ApiObject for StatefulSet {
    fn set_defaults(&mut self) {
        let spec = &mut self.spec;
        pod::fill(&mut spec.pod_management_policy, "OrderedReady");
        let strategy = spec.update_strategy.get_or_insert_default();
        if text(&strategy.type_).is_empty() {
            strategy.type_ = Some("RollingUpdate".to_owned());
            strategy.rolling_update.get_or_insert_default();
        }
        if let Some(rolling) = &mut strategy.rolling_update
            && text(&strategy.type_) == "RollingUpdate"
        {
            rolling.partition.get_or_insert(0);
        }
        let retention: &mut StatefulSetPersistentVolumeClaimRetentionPolicy = spec
            .persistent_volume_claim_retention_policy
            .get_or_insert_default();
        pod::fill(&mut retention.when_deleted, "Retain");
        pod::fill(&mut retention.when_scaled, "Retain");
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(10);
        pod::set_template_defaults(&mut spec.template);
        let claims = spec.volume_claim_templates.iter_mut().flatten();
        claims.for_each(persistent_volume_claim::set_claim_defaults);
    }

    fn prepare_for_create(&mut self) {
        self.status = Some(StatefulSetStatus::default());
        if let Some(spec) = &mut self.spec.template.spec {
            pod::drop_disabled_fields(spec, None);
        }
    }

    fn prepare_for_update(&mut self, old: &StatefulSet) {
        if let Some(spec) = &mut self.spec.template.spec {
            pod::drop_disabled_fields(spec, old.spec.template.spec.as_ref());
        }
    }

    fn validate_status_update(&self, old: &StatefulSet, errors: &mut Errors) {
        let status = self.status.clone().unwrap_or_default();
        validate_status(&status, errors);
        let before = old.status.as_ref().and_then(|status| status.collision_count);
        workload::validate_collisions(status.collision_count, before, errors);
    }

    fn warnings(&self, old: Option<&StatefulSet>) -> Vec<String> {
        let spec = &self.spec;
        let path = Path::new("spec");
        let mut warnings = Vec::new();
        let is_changed = old.is_none_or(|old| !same(&old.spec, spec));
        if is_changed {
            warnings.extend(workload::template_warnings(&spec.template));
        }
        for (at, claim) in spec.volume_claim_templates.iter().flatten().enumerate() {
            let path = path.child("volumeClaimTemplates").index(at);
            // Kubernetes has these paths.
            let path = if old.is_some() { path.child("Spec") } else { path };
            let claim = claim.spec.clone().unwrap_or_default();
            warnings.extend(persistent_volume_claim::spec_warnings(&claim, &path));
        }
        warnings
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let ready = self
            .status
            .as_ref()
            .and_then(|status| status.ready_replicas)
            .unwrap_or(0);
        let [containers, images] = workload::containers_and_images(&self.spec.template);
        vec![
            name_cell(&self.metadata),
            format!("{ready}/{}", self.spec.replicas.unwrap_or(0)).into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
            containers,
            images,
        ]
    }
}

fn validate_update(new: &StatefulSet, old: &StatefulSet, has_selector: bool, errors: &mut Errors) {
    let (spec, old_spec) = (&new.spec, &old.spec);
    let mut checks = Checks {
        options: workload::options_after(&old_spec.template),
        has_selector: true,
        is_update: true,
        skip_template: false,
    };
    // A set from before its template was checked can still be updated.
    let mut before = Errors::new();
    checks.validate(old_spec, &mut before);
    checks.skip_template = !before.is_empty();
    checks.has_selector = has_selector;
    checks.validate(spec, errors);
    // One from before it was refused may stay.
    if spec.revision_history_limit != old_spec.revision_history_limit {
        validate_history(spec, errors);
    }
    // What may change is put back, so that only what may not is left.
    let mut rest = spec.clone();
    rest.replicas = old_spec.replicas;
    rest.template.clone_from(&old_spec.template);
    rest.update_strategy.clone_from(&old_spec.update_strategy);
    rest.min_ready_seconds = old_spec.min_ready_seconds;
    rest.ordinals.clone_from(&old_spec.ordinals);
    let retention = &old_spec.persistent_volume_claim_retention_policy;
    rest.persistent_volume_claim_retention_policy
        .clone_from(retention);
    // Since 1.33 the limit of revisions can change as well.
    rest.revision_history_limit = old_spec.revision_history_limit;
    if claim_templates::validate_change(new, old, errors) {
        rest.volume_claim_templates
            .clone_from(&old_spec.volume_claim_templates);
    }
    if !same(&rest, old_spec) {
        errors.forbidden(&Path::new("spec"), UPDATE_FORBIDDEN);
    }
}

/// How strictly a spec is checked.
#[derive(Default)]
struct Checks {
    options: Options,
    has_selector: bool,
    /// What cannot change is taken as it is.
    is_update: bool,
    skip_template: bool,
}

impl Checks {
    fn validate(&self, spec: &StatefulSetSpec, errors: &mut Errors) {
        let path = Path::new("spec");
        validate_policies(spec, &path, errors);
        // Since 1.36 claims are checked when the set is made, rather than when its pods are.
        if !self.is_update {
            validate_history(spec, errors);
            for (at, claim) in spec.volume_claim_templates.iter().flatten().enumerate() {
                let path = path.child("volumeClaimTemplates").index(at).child("spec");
                let claim = claim.spec.clone().unwrap_or_default();
                persistent_volume_claim::validate_spec(&claim, false, &path, errors);
            }
        }
        errors.nonnegative(&path.child("replicas"), spec.replicas.unwrap_or(0).into());
        errors.nonnegative(
            &path.child("minReadySeconds"),
            spec.min_ready_seconds.unwrap_or(0).into(),
        );
        let start = spec
            .ordinals
            .as_ref()
            .and_then(|ordinals| ordinals.start)
            .unwrap_or(0);
        validate_start(start, spec.replicas.unwrap_or(0), &path, errors);
        // Since 1.33 there may be no service; the name of one is a label.
        let service = text(&spec.service_name);
        if !self.is_update && !service.is_empty() {
            errors.invalid_each(&path.child("serviceName"), service, names::dns_label(service));
        }
        let selector = Given::new(&spec.selector, self.has_selector);
        let is_selector = selector.validate("statefulset", &path.child("selector"), errors);
        if is_selector {
            selector.validate_labels(&spec.template, &path.child("template"), errors);
            self.validate_template(spec, &path.child("template"), errors);
        } else {
            selector.refuse("", &path.child("selector"), errors);
        }
        workload::validate_lasting(&spec.template, "StatefulSet", &path.child("template"), errors);
    }

    fn validate_template(&self, spec: &StatefulSetSpec, path: &Path, errors: &mut Errors) {
        // Since 1.34 the template of the pods is checked, as it will be when they are made.
        let as_made = as_made(spec);
        if self.skip_template {
            pod::validate_template_metadata(&as_made, &self.options, path, errors);
        } else {
            pod::validate_template(&as_made, &self.options, path, errors);
        }
    }
}

/// The template with what the controller puts into pods: their claims as volumes, and their names.
fn as_made(spec: &StatefulSetSpec) -> PodTemplateSpec {
    let mut template = spec.template.clone();
    let pod = template.spec.get_or_insert_with(PodSpec::default);
    pod.subdomain = None;
    pod.hostname = None;
    let mut volumes: Vec<Volume> = Vec::new();
    let names = spec
        .volume_claim_templates
        .iter()
        .flatten()
        .map(|claim| text(&claim.metadata.name));
    for name in names {
        if volumes.iter().all(|volume| volume.name != name) {
            let claim_name = name.to_owned();
            let source = PersistentVolumeClaimVolumeSource {
                claim_name: claim_name.clone(),
                read_only: None,
            };
            let persistent_volume_claim = Some(source);
            volumes.push(Volume {
                name: claim_name,
                persistent_volume_claim,
                ..Volume::default()
            });
        }
    }
    if !volumes.is_empty() {
        let mut own = pod.volumes.take().unwrap_or_default();
        own.retain(|volume| volumes.iter().all(|claim| claim.name != volume.name));
        volumes.append(&mut own);
        pod.volumes = Some(volumes);
    }
    template
}

/// A negative limit keeps all revisions, or so Kubernetes warns; 1.28 crashes on it.
fn validate_history(spec: &StatefulSetSpec, errors: &mut Errors) {
    let limit = spec.revision_history_limit.unwrap_or(0);
    errors.nonnegative(&Path::new("spec").child("revisionHistoryLimit"), limit.into());
}

/// The last replica has an ordinal, too.
fn validate_start(start: i32, replicas: i32, path: &Path, errors: &mut Errors) {
    let path = path.child("ordinals").child("start");
    errors.nonnegative(&path, start.into());
    if start > 0 && replicas > 0 && start.checked_add(replicas - 1).is_none() {
        let most = i64::from(i32::MAX) + 1 - i64::from(replicas);
        let why = format!(
            "must be less than or equal to {most}, as no ordinal is greater than {}",
            i32::MAX
        );
        errors.invalid(&path, &start, &why);
    }
}

fn validate_policies(spec: &StatefulSetSpec, path: &Path, errors: &mut Errors) {
    let at = path.child("podManagementPolicy");
    match text(&spec.pod_management_policy) {
        "" => errors.required(&at, ""),
        "OrderedReady" | "Parallel" => {}
        other => errors.invalid(&at, other, "must be 'OrderedReady' or 'Parallel'"),
    }
    let at = path.child("updateStrategy");
    let strategy = spec.update_strategy.clone().unwrap_or_default();
    match (text(&strategy.type_), &strategy.rolling_update) {
        ("", _) => errors.required(&at, ""),
        ("OnDelete" | "Recreate", Some(rolling)) => {
            let shown = go::syntax("apps.RollingUpdateStatefulSetStrategy", rolling);
            let why = "only allowed for updateStrategy 'RollingUpdate'";
            errors.invalid(&at.child("rollingUpdate"), &shown, why);
        }
        ("RollingUpdate", Some(rolling)) => validate_rolling(rolling, &at.child("rollingUpdate"), errors),
        // The last since 1.37 (KEP-3541), where it is behind a feature gate.
        ("OnDelete" | "RollingUpdate" | "Recreate", None) => {}
        _ => {
            let shown = go::syntax("apps.StatefulSetUpdateStrategy", &strategy);
            errors.invalid(&at, &shown, "must be 'RollingUpdate', 'OnDelete' or 'Recreate'");
        }
    }
    if let Some(retention) = &spec.persistent_volume_claim_retention_policy {
        let at = path.child("persistentVolumeClaimRetentionPolicy");
        errors.one_of(
            &at.child("whenDeleted"),
            text(&retention.when_deleted),
            &RETENTION,
        );
        errors.one_of(&at.child("whenScaled"), text(&retention.when_scaled), &RETENTION);
    }
}

fn validate_rolling(rolling: &RollingUpdateStatefulSetStrategy, path: &Path, errors: &mut Errors) {
    errors.nonnegative(&path.child("partition"), rolling.partition.unwrap_or(0).into());
    let Some(most) = &rolling.max_unavailable else {
        return;
    };
    let path = path.child("maxUnavailable");
    if workload::validate_int_or_percent(most, &path, errors) == 0 {
        errors.invalid(&path, &workload::int_or_percent(most), "cannot be 0");
    }
    workload::validate_at_most_all(most, &path, errors);
}

fn validate_status(status: &StatefulSetStatus, errors: &mut Errors) {
    let number = |value: Option<i32>| value.unwrap_or(0);
    let ready = number(status.ready_replicas);
    let parts = [
        ("readyReplicas", ready),
        ("currentReplicas", number(status.current_replicas)),
        ("updatedReplicas", number(status.updated_replicas)),
        ("availableReplicas", number(status.available_replicas)),
    ];
    let others = [
        ("observedGeneration", status.observed_generation.unwrap_or(0)),
        ("collisionCount", number(status.collision_count).into()),
    ];
    workload::validate_counts(status.replicas, &parts, &others, errors);
    let available = number(status.available_replicas);
    if available > ready {
        let why = "cannot be greater than status.readyReplicas";
        let path = Path::new("status").child("availableReplicas");
        errors.invalid(&path, &available, why);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(change: impl FnOnce(&mut Value)) -> Value {
        let mut set = json!({
            "metadata": {"name": "web"},
            "spec": {
                "selector": {"matchLabels": {"app": "x"}},
                "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
            },
        });
        change(&mut set);
        (KIND.logic.set_defaults)(&mut set).expect("defaults");
        set
    }

    fn check(set: &Value) -> Vec<String> {
        let mut errors = Errors::new();
        (KIND.logic.validate)(set, &mut errors).expect("a set");
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn claim_templates_are_claims_whatever_they_call_themselves() {
        let set =
            set(|set| set["spec"]["volumeClaimTemplates"] = json!([{"apiVersion": "v2", "kind": "Pod"}]));
        let template = &set["spec"]["volumeClaimTemplates"][0];
        assert_eq!(
            (&template["apiVersion"], &template["kind"]),
            (&json!("v1"), &json!("PersistentVolumeClaim"))
        );
    }

    #[test]
    fn selectors_are_given_and_select_the_template() {
        let labels = "spec.template.metadata.labels: Invalid value: map[string]string{\"app\":\"x\"}: `selector` does not match template `labels`";
        for (selector, expected) in [
            (json!({"matchLabels": {"app": "x"}}), vec![]),
            (Value::Null, vec!["spec.selector: Required value", labels]),
            (
                json!({}),
                vec![
                    "spec.selector: Invalid value: v1.LabelSelector{MatchLabels:map[string]string(nil), MatchExpressions:[]v1.LabelSelectorRequirement(nil)}: empty selector is invalid for statefulset",
                ],
            ),
            (json!({"matchLabels": {"app": "y"}}), vec![labels]),
            (
                json!({"matchExpressions": [{"key": "app", "operator": "Maybe"}]}),
                vec![
                    "spec.selector.matchExpressions[0].operator: Invalid value: \"Maybe\": not a valid selector operator",
                    "spec.selector: Invalid value: v1.LabelSelector{MatchLabels:map[string]string(nil), MatchExpressions:[]v1.LabelSelectorRequirement{v1.LabelSelectorRequirement{Key:\"app\", Operator:\"Maybe\", Values:[]string(nil)}}}",
                ],
            ),
        ] {
            assert_eq!(
                check(&set(|set| set["spec"]["selector"] = selector.clone())),
                expected,
                "{selector}"
            );
        }
    }

    #[test]
    fn strategies_and_numbers_are_checked() {
        for (field, value, expected) in [
            (
                "replicas",
                json!(-1),
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                "podManagementPolicy",
                json!("x"),
                "spec.podManagementPolicy: Invalid value: \"x\": must be 'OrderedReady' or 'Parallel'",
            ),
            (
                "updateStrategy",
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "150%"}}),
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: intstr.IntOrString{Type:1, IntVal:0, StrVal:\"150%\"}: must not be greater than 100%",
            ),
            (
                "updateStrategy",
                json!({"type": "Recreate", "rollingUpdate": {}}),
                "spec.updateStrategy.rollingUpdate: Invalid value: apps.RollingUpdateStatefulSetStrategy{Partition:0, MaxUnavailable:(*intstr.IntOrString)(nil)}: only allowed for updateStrategy 'RollingUpdate'",
            ),
            (
                "revisionHistoryLimit",
                json!(-1),
                "spec.revisionHistoryLimit: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                "ordinals",
                json!({"start": 2147483647}),
                "spec.ordinals.start: Invalid value: 2147483647: must be less than or equal to 2147483646, as no ordinal is greater than 2147483647",
            ),
            (
                "serviceName",
                json!("a.b"),
                "spec.serviceName: Invalid value: \"a.b\": must not contain dots",
            ),
            (
                "ordinals",
                json!({"start": -5}),
                "spec.ordinals.start: Invalid value: -5: must be greater than or equal to 0",
            ),
        ] {
            assert_eq!(
                check(&set(|set| {
                    set["spec"]["replicas"] = json!(2);
                    set["spec"][field] = value.clone();
                })),
                [expected],
                "{field}"
            );
        }
        for fine in [json!({"type": "Recreate"}), json!({"type": "OnDelete"})] {
            let set = set(|set| set["spec"]["updateStrategy"] = fine);
            assert_eq!(check(&set), Vec::<String>::new());
            assert!(set.pointer("/spec/updateStrategy/rollingUpdate").is_none());
        }
    }

    #[test]
    fn names_are_so_short_that_pods_can_be_made() {
        let named = |length: usize| check(&set(|set| set["metadata"]["name"] = "a".repeat(length).into()));
        assert_eq!(named(52), Vec::<String>::new());
        let said = named(53);
        assert!(said[0].contains("must be no more than 52 characters"), "{said:?}");
    }

    /// What was accepted once must not make a set immutable.
    #[test]
    fn a_negative_history_limit_from_before_may_stay_but_not_come() {
        let with = |limit: i32| set(|set| set["spec"]["revisionHistoryLimit"] = json!(limit));
        for (old, new, expected) in [
            (-1, -1, "[]"),
            (-1, 0, "[]"),
            (
                3,
                -1,
                "spec.revisionHistoryLimit: Invalid value: -1: must be greater than or equal to 0",
            ),
        ] {
            let mut errors = Errors::new();
            (KIND.logic.validate_update)(&with(new), &with(old), &mut errors).expect("sets");
            assert_eq!(errors.summary(), expected, "{old} -> {new}");
        }
    }

    #[test]
    fn mounts_of_claims_are_found() {
        let mounted = set(|set| {
            set["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] =
                json!([{"name": "data", "mountPath": "/d"}, {"name": "other", "mountPath": "/o"}]);
            set["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}}]);
        });
        assert_eq!(
            check(&mounted),
            ["spec.template.spec.containers[0].volumeMounts[1].name: Not found: \"other\""]
        );
    }

    #[test]
    fn few_fields_can_change() {
        let old = set(|_| {});
        for (field, value, allowed) in [
            ("replicas", json!(5), true),
            ("revisionHistoryLimit", json!(3), true),
            ("serviceName", json!("other"), false),
            ("podManagementPolicy", json!("Parallel"), false),
        ] {
            let new = set(|set| set["spec"][field] = value);
            let mut errors = Errors::new();
            (KIND.logic.validate_update)(&new, &old, &mut errors).expect("sets");
            let expected = if allowed {
                String::from("[]")
            } else {
                format!("spec: Forbidden: {UPDATE_FORBIDDEN}")
            };
            assert_eq!(errors.summary(), expected, "{field}");
        }
    }
}
