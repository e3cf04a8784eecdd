//! Deployment (apps/v1).

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStatus, DeploymentStrategy, RollingUpdateDeployment,
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
use crate::table::age;

pub(super) static KIND: Kind = Kind {
    short_names: &["deploy"],
    categories: &["all"],
    subresources: &[Subresource::SCALE, Subresource::status("Deployment")],
    update_metadata: &[MetadataCheck::Update],
    // Annotations go on to ReplicaSets, so that the controller has to look at them, too.
    generation: Generation::SpecAndAnnotations,
    columns: &[
        Column::NAME,
        Column::new("Ready", "pods that are ready, of those wanted"),
        Column::new("Up-to-date", "pods made from the template as it is now"),
        Column::new("Available", "pods that have been ready for long enough"),
        Column::AGE,
        Column::wide("Containers", "names of its containers"),
        Column::wide("Images", "their images"),
        Column::wide("Selector", "which pods are its own"),
    ],
    ..Kind::new(
        ("apps", "v1", "Deployment"),
        ("deployments", "deployment"),
        "io.k8s.api.apps.v1.Deployment",
        workload::logic::<Deployment>(),
    )
};

const RECREATE: &str = "Recreate";
const ROLLING_UPDATE: &str = "RollingUpdate";

impl Workload for Deployment {
    fn check(&self, has_selector: bool, errors: &mut Errors) {
        let selector = Given::new(&self.spec.selector, has_selector);
        validate_spec(&self.spec, &selector, &Options::default(), errors);
    }

    fn check_update(&self, old: &Deployment, has_selector: bool, errors: &mut Errors) {
        let selector = Given::new(&self.spec.selector, has_selector);
        let options = workload::options_after(&old.spec.template);
        validate_spec(&self.spec, &selector, &options, errors);
        workload::validate_same_selector(&selector, &old.spec.selector, errors);
    }
}

impl ApiObject for Deployment {
    fn set_defaults(&mut self) {
        let spec = &mut self.spec;
        spec.replicas.get_or_insert(1);
        let strategy = spec.strategy.get_or_insert_default();
        pod::fill(&mut strategy.type_, ROLLING_UPDATE);
        if text(&strategy.type_) == ROLLING_UPDATE {
            let quarter = || IntOrString::String("25%".to_owned());
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.max_unavailable.get_or_insert_with(quarter);
            rolling.max_surge.get_or_insert_with(quarter);
        }
        spec.revision_history_limit.get_or_insert(10);
        spec.progress_deadline_seconds.get_or_insert(600);
        pod::set_template_defaults(&mut spec.template);
    }

    fn prepare_for_create(&mut self) {
        self.status = Some(DeploymentStatus::default());
        if let Some(spec) = &mut self.spec.template.spec {
            pod::drop_disabled_fields(spec, None);
        }
    }

    fn prepare_for_update(&mut self, old: &Deployment) {
        if let Some(spec) = &mut self.spec.template.spec {
            pod::drop_disabled_fields(spec, old.spec.template.spec.as_ref());
        }
    }

    fn prepare_for_status_update(&mut self, old: &Deployment) {
        self.metadata.labels.clone_from(&old.metadata.labels);
    }

    fn validate_status_update(&self, old: &Deployment, errors: &mut Errors) {
        let status = self.status.clone().unwrap_or_default();
        validate_status(&status, errors);
        let before = old.status.as_ref().and_then(|status| status.collision_count);
        workload::validate_collisions(status.collision_count, before, errors);
    }

    fn warnings(&self, old: Option<&Deployment>) -> Vec<String> {
        let mut warnings = Vec::new();
        if old.is_none() {
            warnings.extend(workload::name_warning(&self.metadata));
        }
        if old.is_none_or(|old| !same(&old.spec, &self.spec)) {
            warnings.extend(workload::template_warnings(&self.spec.template));
        }
        warnings
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let status = self.status.clone().unwrap_or_default();
        let (ready, wanted) = (
            status.ready_replicas.unwrap_or(0),
            self.spec.replicas.unwrap_or(0),
        );
        let [containers, images] = workload::containers_and_images(&self.spec.template);
        vec![
            name_cell(&self.metadata),
            format!("{ready}/{wanted}").into(),
            status.updated_replicas.unwrap_or(0).into(),
            status.available_replicas.unwrap_or(0).into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
            containers,
            images,
            workload::selector_cell(&self.spec.selector),
        ]
    }
}

fn validate_spec(spec: &DeploymentSpec, selector: &Given<'_>, options: &Options, errors: &mut Errors) {
    let path = Path::new("spec");
    errors.nonnegative(&path.child("replicas"), spec.replicas.unwrap_or(0).into());
    workload::validate_of_replica_set(selector, &spec.template, options, errors);
    let strategy = spec.strategy.clone().unwrap_or_default();
    validate_strategy(&strategy, &path.child("strategy"), errors);
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    errors.nonnegative(&path.child("minReadySeconds"), min_ready.into());
    let limit = spec.revision_history_limit.unwrap_or(0);
    errors.nonnegative(&path.child("revisionHistoryLimit"), limit.into());
    if let Some(deadline) = spec.progress_deadline_seconds {
        let path = path.child("progressDeadlineSeconds");
        errors.nonnegative(&path, deadline.into());
        if deadline <= min_ready {
            errors.invalid(&path, &deadline, "must be greater than minReadySeconds");
        }
    }
}

fn validate_strategy(strategy: &DeploymentStrategy, path: &Path, errors: &mut Errors) {
    let at = path.child("rollingUpdate");
    match (text(&strategy.type_), &strategy.rolling_update) {
        (RECREATE, None) => {}
        (RECREATE, Some(_)) => {
            let why = format!("may not be specified when strategy `type` is '{RECREATE}'");
            errors.forbidden(&at, &why);
        }
        (ROLLING_UPDATE, None) => errors.required(&at, "this should be defaulted and never be nil"),
        (ROLLING_UPDATE, Some(rolling)) => validate_rolling(rolling, &at, errors),
        _ => {
            let shown = go::syntax("apps.DeploymentStrategy", strategy);
            errors.not_supported(path, &shown, &[RECREATE, ROLLING_UPDATE]);
        }
    }
}

fn validate_rolling(rolling: &RollingUpdateDeployment, path: &Path, errors: &mut Errors) {
    let (at_unavailable, at_surge) = (path.child("maxUnavailable"), path.child("maxSurge"));
    let zero = IntOrString::Int(0);
    let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
    let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
    let most_unavailable = workload::validate_int_or_percent(unavailable, &at_unavailable, errors);
    let most_surge = workload::validate_int_or_percent(surge, &at_surge, errors);
    if most_unavailable == 0 && most_surge == 0 {
        let shown = workload::int_or_percent(unavailable);
        errors.invalid(&at_unavailable, &shown, "may not be 0 when `maxSurge` is 0");
    }
    workload::validate_at_most_all(unavailable, &at_unavailable, errors);
}

fn validate_status(status: &DeploymentStatus, errors: &mut Errors) {
    let number = |value: Option<i32>| value.unwrap_or(0);
    let parts = [
        ("updatedReplicas", number(status.updated_replicas)),
        ("readyReplicas", number(status.ready_replicas)),
        ("availableReplicas", number(status.available_replicas)),
    ];
    let others = [
        ("unavailableReplicas", number(status.unavailable_replicas).into()),
        ("terminatingReplicas", number(status.terminating_replicas).into()),
        ("observedGeneration", status.observed_generation.unwrap_or(0)),
        ("collisionCount", number(status.collision_count).into()),
    ];
    workload::validate_counts(number(status.replicas), &parts, &others, errors);
    workload::validate_available(
        number(status.available_replicas),
        number(status.ready_replicas),
        errors,
    );
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(change: impl FnOnce(&mut Value)) -> Value {
        let mut deployment = json!({
            "metadata": {"name": "web"},
            "spec": {
                "selector": {"matchLabels": {"app": "x"}},
                "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
            },
        });
        change(&mut deployment);
        (KIND.logic.set_defaults)(&mut deployment).expect("defaults");
        deployment
    }

    fn check(deployment: &Value) -> Vec<String> {
        let mut errors = Errors::new();
        (KIND.logic.validate)(deployment, &mut errors).expect("a Deployment");
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn strategies_and_numbers_are_checked() {
        let rolling = |surge: Value, unavailable: Value| json!({"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
        for (field, value, expected) in [
            (
                "replicas",
                json!(-1),
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                "progressDeadlineSeconds",
                json!(0),
                "spec.progressDeadlineSeconds: Invalid value: 0: must be greater than minReadySeconds",
            ),
            (
                "revisionHistoryLimit",
                json!(-1),
                "spec.revisionHistoryLimit: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                "strategy",
                json!({"type": "Odd"}),
                "spec.strategy: Unsupported value: apps.DeploymentStrategy{Type:\"Odd\", RollingUpdate:(*apps.RollingUpdateDeployment)(nil)}: supported values: \"Recreate\", \"RollingUpdate\"",
            ),
            (
                "strategy",
                json!({"type": "Recreate", "rollingUpdate": {}}),
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
            ),
            (
                "strategy",
                rolling(json!(0), json!("0%")),
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: intstr.IntOrString{Type:1, IntVal:0, StrVal:\"0%\"}: may not be 0 when `maxSurge` is 0",
            ),
            (
                "strategy",
                rolling(json!("200%"), json!("101%")),
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: intstr.IntOrString{Type:1, IntVal:0, StrVal:\"101%\"}: must not be greater than 100%",
            ),
            (
                "strategy",
                rolling(json!(-1), json!(1)),
                "spec.strategy.rollingUpdate.maxSurge: Invalid value: -1: must be greater than or equal to 0",
            ),
        ] {
            let deployment = deployment(|deployment| deployment["spec"][field] = value.clone());
            assert_eq!(check(&deployment), [expected], "{field}: {value}");
        }
        let recreated = deployment(|deployment| deployment["spec"]["strategy"] = json!({"type": "Recreate"}));
        assert_eq!(check(&recreated), Vec::<String>::new());
        assert!(recreated.pointer("/spec/strategy/rollingUpdate").is_none());
    }

    #[test]
    fn pods_run_until_they_are_deleted() {
        let deployment = deployment(|deployment| {
            deployment["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
            deployment["spec"]["template"]["spec"]["activeDeadlineSeconds"] = json!(5);
        });
        assert_eq!(
            check(&deployment),
            [
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
            ]
        );
    }

    #[test]
    fn a_selector_is_given_selects_the_template_and_stays() {
        let labels = "spec.template.metadata.labels: Invalid value: map[string]string{\"app\":\"x\"}: `selector` does not match template `labels`";
        let without = deployment(|deployment| deployment["spec"]["selector"] = Value::Null);
        assert_eq!(check(&without), ["spec.selector: Required value", labels]);
        let empty = deployment(|deployment| deployment["spec"]["selector"] = json!({}));
        assert_eq!(
            check(&empty),
            [
                "spec.selector: Invalid value: v1.LabelSelector{MatchLabels:map[string]string(nil), MatchExpressions:[]v1.LabelSelectorRequirement(nil)}: empty selector is invalid for deployment"
            ]
        );
        let update = |new: &Value| {
            let mut errors = Errors::new();
            (KIND.logic.validate_update)(new, &deployment(|_| {}), &mut errors).expect("Deployments");
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(update(&deployment(|_| {})), Vec::<String>::new());
        assert_eq!(
            update(&without).last().map(String::as_str),
            Some("spec.selector: Invalid value: \"null\": field is immutable")
        );
    }

    #[test]
    fn a_status_counts_no_more_than_there_is() {
        let with = |status: Value| {
            let mut deployment = deployment(|_| {});
            deployment["status"] = status;
            deployment
        };
        let old = with(json!({"collisionCount": 2}));
        for (status, expected) in [
            (
                json!({"replicas": 1, "readyReplicas": 2, "collisionCount": 2}),
                "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
            ),
            (
                json!({"replicas": 2, "readyReplicas": 1, "availableReplicas": 2, "collisionCount": 3}),
                "status.availableReplicas: Invalid value: 2: cannot be greater than readyReplicas",
            ),
            (
                json!({"collisionCount": 1}),
                "status.collisionCount: Invalid value: 1: cannot be decremented",
            ),
            (json!({"unavailableReplicas": 4, "collisionCount": 2}), "[]"),
        ] {
            let mut errors = Errors::new();
            (KIND.logic.validate_status_update)(&with(status), &old, &mut errors).expect("Deployments");
            assert_eq!(errors.summary(), expected);
        }
    }
}
