//! DaemonSet (apps/v1): a pod on each node that fits.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    DaemonSet, DaemonSetSpec, DaemonSetStatus, DaemonSetUpdateStrategy, RollingUpdateDaemonSet,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::pod::{self, Options};
use super::workload::{self, Given, Workload};
use super::{name_cell, same, text};
use crate::error::{Errors, Path};
use crate::go;
use crate::object::ApiObject;
use crate::registry::{Column, Generation, Kind, MetadataCheck, Subresource};
use crate::selector::Selector;
use crate::table::age;

pub(super) static KIND: Kind = Kind {
    short_names: &["ds"],
    categories: &["all"],
    subresources: &[Subresource::status("DaemonSet")],
    update_metadata: &[MetadataCheck::Update],
    generation: Generation::Spec,
    columns: &[
        Column::NAME,
        Column::integer("Desired", "nodes that are to run its pod"),
        Column::integer("Current", "nodes that have one"),
        Column::integer("Ready", "pods that are ready"),
        Column::integer("Up-to-date", "pods made from the template as it is now"),
        Column::integer("Available", "pods that have been ready for long enough"),
        Column::new("Node Selector", "labels of the nodes"),
        Column::AGE,
        Column::wide("Containers", "names of its containers"),
        Column::wide("Images", "their images"),
        Column::wide("Selector", "which pods are its own"),
    ],
    caveat: Some(
        "no controller makes the pods of DaemonSets here yet: the object is kept, and nothing comes of it",
    ),
    ..Kind::new(
        ("apps", "v1", "DaemonSet"),
        ("daemonsets", "daemonset"),
        "io.k8s.api.apps.v1.DaemonSet",
        workload::logic::<DaemonSet>(),
    )
};

const ROLLING_UPDATE: &str = "RollingUpdate";
const ON_DELETE: &str = "OnDelete";
/// Counts changes of the template, as the generation did before there was one.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

impl Workload for DaemonSet {
    fn check(&self, has_selector: bool, errors: &mut Errors) {
        let spec = &self.spec;
        let selector = Given::new(&spec.selector, has_selector);
        validate_spec(spec, &selector, &Options::default(), errors);
    }

    fn check_update(&self, old: &DaemonSet, has_selector: bool, errors: &mut Errors) {
        let (spec, old) = (&self.spec, &old.spec);
        let selector = Given::new(&spec.selector, has_selector);
        let options = workload::options_after(&old.template);
        validate_spec(spec, &selector, &options, errors);
        workload::validate_same_selector(&selector, &old.selector, errors);
    }
}

impl ApiObject for DaemonSet {
    fn set_defaults(&mut self) {
        let spec = &mut self.spec;
        let strategy = spec.update_strategy.get_or_insert_default();
        pod::fill(&mut strategy.type_, ROLLING_UPDATE);
        if text(&strategy.type_) == ROLLING_UPDATE {
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
            rolling.max_surge.get_or_insert(IntOrString::Int(0));
        }
        spec.revision_history_limit.get_or_insert(10);
        pod::set_template_defaults(&mut spec.template);
    }

    fn prepare_for_create(&mut self) {
        self.status = Some(DaemonSetStatus::default());
        count_templates(self, 1);
        if let Some(spec) = &mut self.spec.template.spec {
            pod::drop_disabled_fields(spec, None);
        }
    }

    fn prepare_for_update(&mut self, old: &DaemonSet) {
        let (template, before) = (&mut self.spec.template, &old.spec.template);
        if let Some(spec) = &mut template.spec {
            pod::drop_disabled_fields(spec, before.spec.as_ref());
        }
        let changed = !same(template, before);
        let annotations = old.metadata.annotations.as_ref();
        let count = annotations.and_then(|all| all.get(TEMPLATE_GENERATION)?.parse::<i64>().ok());
        if let Some(count) = count {
            count_templates(self, count + i64::from(changed));
        }
    }

    fn prepare_for_status_update(&mut self, old: &DaemonSet) {
        let annotations = old.metadata.annotations.as_ref();
        let count = annotations.and_then(|all| all.get(TEMPLATE_GENERATION)?.parse::<i64>().ok());
        if let Some(count) = count {
            count_templates(self, count);
        }
    }

    fn validate_status_update(&self, old: &DaemonSet, errors: &mut Errors) {
        let status = self.status.clone().unwrap_or_default();
        let path = Path::new("status");
        for (field, value) in [
            ("currentNumberScheduled", status.current_number_scheduled),
            ("numberMisscheduled", status.number_misscheduled),
            ("desiredNumberScheduled", status.desired_number_scheduled),
            ("numberReady", status.number_ready),
            (
                "updatedNumberScheduled",
                status.updated_number_scheduled.unwrap_or(0),
            ),
            ("numberAvailable", status.number_available.unwrap_or(0)),
            ("numberUnavailable", status.number_unavailable.unwrap_or(0)),
        ] {
            errors.nonnegative(&path.child(field), value.into());
        }
        let observed = status.observed_generation.unwrap_or(0);
        errors.nonnegative(&path.child("observedGeneration"), observed);
        let before = old.status.as_ref().and_then(|status| status.collision_count);
        workload::validate_collisions(status.collision_count, before, errors);
    }

    fn warnings(&self, old: Option<&DaemonSet>) -> Vec<String> {
        if old.is_some_and(|old| same(&old.spec, &self.spec)) {
            return Vec::new();
        }
        workload::template_warnings(&self.spec.template)
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (&self.spec, self.status.clone().unwrap_or_default());
        let [containers, images] = workload::containers_and_images(&spec.template);
        let nodes = spec
            .template
            .spec
            .as_ref()
            .and_then(|pod| pod.node_selector.as_ref());
        let nodes = Selector::from_labels(nodes.into_iter().flatten()).to_string();
        vec![
            name_cell(&self.metadata),
            status.desired_number_scheduled.into(),
            status.current_number_scheduled.into(),
            status.number_ready.into(),
            status.updated_number_scheduled.unwrap_or(0).into(),
            status.number_available.unwrap_or(0).into(),
            if nodes.is_empty() {
                "<none>".to_owned()
            } else {
                nodes
            }
            .into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
            containers,
            images,
            workload::selector_cell(&spec.selector),
        ]
    }
}

/// Notes how often the template has changed.
fn count_templates(set: &mut DaemonSet, count: i64) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(TEMPLATE_GENERATION.to_owned(), count.to_string());
}

fn validate_spec(spec: &DaemonSetSpec, selector: &Given<'_>, options: &Options, errors: &mut Errors) {
    let path = Path::new("spec");
    selector.validate("daemonset", &path.child("selector"), errors);
    let template = path.child("template");
    selector.validate_labels(&spec.template, &template, errors);
    pod::validate_template(&spec.template, options, &template, errors);
    workload::validate_lasting(&spec.template, "DaemonSet", &template, errors);
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    errors.nonnegative(&path.child("minReadySeconds"), min_ready.into());
    let strategy = spec.update_strategy.clone().unwrap_or_default();
    validate_strategy(&strategy, &path.child("updateStrategy"), errors);
    if let Some(limit) = spec.revision_history_limit {
        errors.nonnegative(&path.child("revisionHistoryLimit"), limit.into());
    }
}

fn validate_strategy(strategy: &DaemonSetUpdateStrategy, path: &Path, errors: &mut Errors) {
    match text(&strategy.type_) {
        ON_DELETE => {}
        ROLLING_UPDATE => match &strategy.rolling_update {
            None => errors.required(&path.child("rollingUpdate"), ""),
            Some(rolling) => validate_rolling(rolling, &path.child("rollingUpdate"), errors),
        },
        other => errors.not_supported(&path.child("type"), other, &[ON_DELETE, ROLLING_UPDATE]),
    }
}

fn validate_rolling(rolling: &RollingUpdateDaemonSet, path: &Path, errors: &mut Errors) {
    let zero = IntOrString::Int(0);
    let mut check = |field: &str, amount: &Option<IntOrString>| {
        let (path, amount) = (path.child(field), amount.as_ref().unwrap_or(&zero));
        let number = workload::validate_int_or_percent(amount, &path, errors);
        workload::validate_at_most_all(amount, &path, errors);
        number
    };
    let unavailable = check("maxUnavailable", &rolling.max_unavailable);
    let surge = check("maxSurge", &rolling.max_surge);
    let shown = |amount: &Option<IntOrString>| go::syntax("intstr.IntOrString", &amount);
    match (unavailable, surge) {
        (0, 0) => errors.required(&path.child("maxUnavailable"), "cannot be 0 when maxSurge is 0"),
        (unavailable, surge) if unavailable != 0 && surge != 0 => errors.invalid(
            &path.child("maxSurge"),
            &shown(&rolling.max_surge),
            "may not be set when maxUnavailable is non-zero",
        ),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(strategy: Value) -> Value {
        json!({"metadata": {"name": "d"}, "spec": {
            "selector": {"matchLabels": {"app": "d"}},
            "updateStrategy": strategy,
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        }})
    }

    #[test]
    fn an_update_takes_pods_away_or_adds_some_not_both() {
        for (strategy, expected) in [
            (json!({}), ""),
            (json!({"type": "OnDelete"}), ""),
            (json!({"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}), ""),
            (
                json!({"rollingUpdate": {"maxUnavailable": 0}}),
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
            ),
            (
                json!({"rollingUpdate": {"maxSurge": 1}}),
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: intstr.IntOrString{Type:0, IntVal:1, StrVal:\"\"}: may not be set when maxUnavailable is non-zero",
            ),
            (
                json!({"type": "Recreate"}),
                "spec.updateStrategy.type: Unsupported value: \"Recreate\": supported values: \"OnDelete\", \"RollingUpdate\"",
            ),
        ] {
            let mut set = set(strategy);
            (KIND.logic.set_defaults)(&mut set).expect("defaults");
            let mut errors = Errors::new();
            (KIND.logic.validate)(&set, &mut errors).expect("a DaemonSet");
            let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(said.join("\n"), expected, "{}", set["spec"]["updateStrategy"]);
        }
    }

    #[test]
    fn changes_of_the_template_are_counted() {
        let mut old = set(json!({}));
        (KIND.logic.prepare_for_create)(&mut old).expect("a DaemonSet");
        let count = |set: &Value| set["metadata"]["annotations"][TEMPLATE_GENERATION].clone();
        assert_eq!(count(&old), "1");
        let mut new = old.clone();
        new["spec"]["template"]["spec"]["containers"][0]["image"] = "j".into();
        (KIND.logic.prepare_for_update)(&mut new, &old).expect("a DaemonSet");
        assert_eq!(count(&new), "2");
        let mut same = old.clone();
        (KIND.logic.prepare_for_update)(&mut same, &old).expect("a DaemonSet");
        assert_eq!(count(&same), "1");
    }
}
