//! ReplicaSet (apps/v1).

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

use super::pod::{self, Options};
use super::workload::{self, Given, Workload};
use super::{name_cell, same};
use crate::error::{Errors, Path};
use crate::object::ApiObject;
use crate::registry::{Column, Generation, Kind, MetadataCheck, Subresource};
use crate::table::age;

pub(super) static KIND: Kind = Kind {
    short_names: &["rs"],
    categories: &["all"],
    subresources: &[Subresource::SCALE, Subresource::status("ReplicaSet")],
    update_metadata: &[MetadataCheck::Update],
    generation: Generation::Spec,
    columns: &[
        Column::NAME,
        Column::integer("Desired", "pods that are wanted"),
        Column::integer("Current", "pods that there are"),
        Column::integer("Ready", "pods that are ready"),
        Column::AGE,
        Column::wide("Containers", "names of its containers"),
        Column::wide("Images", "their images"),
        Column::wide("Selector", "which pods are its own"),
    ],
    ..Kind::new(
        ("apps", "v1", "ReplicaSet"),
        ("replicasets", "replicaset"),
        "io.k8s.api.apps.v1.ReplicaSet",
        workload::logic::<ReplicaSet>(),
    )
};

impl Workload for ReplicaSet {
    fn check(&self, has_selector: bool, errors: &mut Errors) {
        let selector = Given::new(&self.spec.selector, has_selector);
        validate_spec(&self.spec, &selector, &Options::default(), errors);
    }

    fn check_update(&self, old: &ReplicaSet, has_selector: bool, errors: &mut Errors) {
        let selector = Given::new(&self.spec.selector, has_selector);
        let options = workload::options_after(&template(&old.spec));
        validate_spec(&self.spec, &selector, &options, errors);
        workload::validate_same_selector(&selector, &old.spec.selector, errors);
    }
}

fn template(spec: &ReplicaSetSpec) -> PodTemplateSpec {
    spec.template.clone().unwrap_or_default()
}

impl ApiObject for ReplicaSet {
    fn set_defaults(&mut self) {
        self.spec.replicas.get_or_insert(1);
        pod::set_template_defaults(self.spec.template.get_or_insert_default());
    }

    fn prepare_for_create(&mut self) {
        self.status = Some(ReplicaSetStatus::default());
        if let Some(spec) = self
            .spec
            .template
            .as_mut()
            .and_then(|template| template.spec.as_mut())
        {
            pod::drop_disabled_fields(spec, None);
        }
    }

    fn prepare_for_update(&mut self, old: &ReplicaSet) {
        if let Some(spec) = self
            .spec
            .template
            .as_mut()
            .and_then(|template| template.spec.as_mut())
        {
            pod::drop_disabled_fields(spec, template(&old.spec).spec.as_ref());
        }
    }

    fn validate_status_update(&self, _: &ReplicaSet, errors: &mut Errors) {
        validate_status(&self.status.clone().unwrap_or_default(), errors);
    }

    fn warnings(&self, old: Option<&ReplicaSet>) -> Vec<String> {
        let mut warnings = Vec::new();
        if old.is_none() {
            warnings.extend(workload::name_warning(&self.metadata));
        }
        if old.is_none_or(|old| !same(&old.spec, &self.spec)) {
            warnings.extend(workload::template_warnings(&template(&self.spec)));
        }
        warnings
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let status = self.status.clone().unwrap_or_default();
        let [containers, images] = workload::containers_and_images(&template(&self.spec));
        vec![
            name_cell(&self.metadata),
            self.spec.replicas.unwrap_or(0).into(),
            status.replicas.into(),
            status.ready_replicas.unwrap_or(0).into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
            containers,
            images,
            workload::selector_cell(&self.spec.selector),
        ]
    }
}

fn validate_spec(spec: &ReplicaSetSpec, selector: &Given<'_>, options: &Options, errors: &mut Errors) {
    let path = Path::new("spec");
    errors.nonnegative(&path.child("replicas"), spec.replicas.unwrap_or(0).into());
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    errors.nonnegative(&path.child("minReadySeconds"), min_ready.into());
    workload::validate_of_replica_set(selector, &template(spec), options, errors);
}

fn validate_status(status: &ReplicaSetStatus, errors: &mut Errors) {
    let number = |value: Option<i32>| value.unwrap_or(0);
    let parts = [
        ("fullyLabeledReplicas", number(status.fully_labeled_replicas)),
        ("readyReplicas", number(status.ready_replicas)),
        ("availableReplicas", number(status.available_replicas)),
    ];
    let others = [
        ("terminatingReplicas", number(status.terminating_replicas).into()),
        ("observedGeneration", status.observed_generation.unwrap_or(0)),
    ];
    workload::validate_counts(status.replicas, &parts, &others, errors);
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

    #[test]
    fn a_set_has_defaults_and_is_checked() {
        let mut set = json!({
            "metadata": {"name": "web"},
            "spec": {
                "minReadySeconds": -1,
                "selector": {"matchLabels": {"app": "y"}},
                "template": {"metadata": {"labels": {"app": "x"}}, "spec": {
                    "restartPolicy": "OnFailure", "containers": [{"name": "c", "image": "i"}],
                }},
            },
        });
        (KIND.logic.set_defaults)(&mut set).expect("defaults");
        assert_eq!(set["spec"]["replicas"], json!(1));
        let mut errors = Errors::new();
        (KIND.logic.validate)(&set, &mut errors).expect("a ReplicaSet");
        let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0",
                "spec.template.metadata.labels: Invalid value: map[string]string{\"app\":\"x\"}: `selector` does not match template `labels`",
                "spec.template.spec.restartPolicy: Unsupported value: \"OnFailure\": supported values: \"Always\"",
            ]
        );
    }

    #[test]
    fn a_row_shows_what_is_wanted_and_what_there_is() {
        let set = json!({
            "metadata": {"name": "web"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "x"}},
                "template": {"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "j"}]}}},
            "status": {"replicas": 2, "readyReplicas": 1},
        });
        let row = (KIND.logic.row)(&set, Timestamp::UNIX_EPOCH).expect("a row");
        let expected = json!(["web", 3, 2, 1, "<unknown>", "a,b", "i,j", "app=x"]);
        assert_eq!(Value::Array(row), expected);
    }
}
