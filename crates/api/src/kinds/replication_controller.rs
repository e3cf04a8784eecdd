//! ReplicationController (core/v1): what there was before ReplicaSets.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerSpec, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::pod::{self, Options};
use super::{name_cell, same, workload};
use crate::error::{Errors, Path};
use crate::go;
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Generation, Kind, MetadataCheck, Subresource};
use crate::selector::Selector;
use crate::table::age;

pub(super) static KIND: Kind = Kind {
    short_names: &["rc"],
    categories: &["all"],
    subresources: &[Subresource::SCALE, Subresource::status("ReplicationController")],
    update_metadata: &[MetadataCheck::Update],
    generation: Generation::Spec,
    orphans_dependents: true,
    selectable: &[("status.replicas", &["status", "replicas"])],
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
    caveat: Some(
        "no controller makes the pods of ReplicationControllers here yet: the object is kept, and nothing comes of it; \
         use a Deployment or a ReplicaSet",
    ),
    ..Kind::new(
        ("", "v1", "ReplicationController"),
        ("replicationcontrollers", "replicationcontroller"),
        "io.k8s.api.core.v1.ReplicationController",
        Logic::of::<ReplicationController>(),
    )
};

fn spec_of(controller: &ReplicationController) -> ReplicationControllerSpec {
    controller.spec.clone().unwrap_or_default()
}

fn template_of(controller: &ReplicationController) -> PodTemplateSpec {
    spec_of(controller).template.unwrap_or_default()
}

impl ApiObject for ReplicationController {
    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        if let Some(template) = &mut spec.template {
            pod::set_template_defaults(template);
            // What it selects, and its own labels, are those of its pods unless it is said.
            let labels = template
                .metadata
                .as_ref()
                .and_then(|metadata| metadata.labels.clone());
            if let Some(labels) = labels.filter(|labels| !labels.is_empty()) {
                if spec.selector.as_ref().is_none_or(|selector| selector.is_empty()) {
                    spec.selector = Some(labels.clone());
                }
                if self.metadata.labels.as_ref().is_none_or(|own| own.is_empty()) {
                    self.metadata.labels = Some(labels);
                }
            }
        }
    }

    fn prepare_for_create(&mut self) {
        self.status = Some(ReplicationControllerStatus::default());
        let template = self.spec.as_mut().and_then(|spec| spec.template.as_mut());
        if let Some(spec) = template.and_then(|template| template.spec.as_mut()) {
            pod::drop_disabled_fields(spec, None);
        }
    }

    fn prepare_for_update(&mut self, old: &ReplicationController) {
        let before = template_of(old).spec;
        let template = self.spec.as_mut().and_then(|spec| spec.template.as_mut());
        if let Some(spec) = template.and_then(|template| template.spec.as_mut()) {
            pod::drop_disabled_fields(spec, before.as_ref());
        }
    }

    fn validate(&self, errors: &mut Errors) {
        validate_spec(&spec_of(self), &Options::default(), errors);
    }

    fn validate_update(&self, old: &ReplicationController, errors: &mut Errors) {
        let options = workload::options_after(&template_of(old));
        validate_spec(&spec_of(self), &options, errors);
    }

    fn validate_status_update(&self, _: &ReplicationController, errors: &mut Errors) {
        let status = self.status.clone().unwrap_or_default();
        let number = |value: Option<i32>| value.unwrap_or(0);
        let parts = [
            ("fullyLabeledReplicas", number(status.fully_labeled_replicas)),
            ("readyReplicas", number(status.ready_replicas)),
            ("availableReplicas", number(status.available_replicas)),
        ];
        let others = [("observedGeneration", status.observed_generation.unwrap_or(0))];
        workload::validate_counts(status.replicas, &parts, &others, errors);
        workload::validate_available(
            number(status.available_replicas),
            number(status.ready_replicas),
            errors,
        );
    }

    fn warnings(&self, old: Option<&ReplicationController>) -> Vec<String> {
        let mut warnings = Vec::new();
        if old.is_none() {
            warnings.extend(workload::name_warning(&self.metadata));
        }
        if old.is_none_or(|old| !same(&old.spec, &self.spec)) {
            warnings.extend(workload::template_warnings(&template_of(self)));
        }
        warnings
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (spec_of(self), self.status.clone().unwrap_or_default());
        let [containers, images] = workload::containers_and_images(&template_of(self));
        let selector = Selector::from_labels(spec.selector.iter().flatten()).to_string();
        vec![
            name_cell(&self.metadata),
            spec.replicas.unwrap_or(0).into(),
            status.replicas.into(),
            status.ready_replicas.unwrap_or(0).into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
            containers,
            images,
            if selector.is_empty() {
                "<none>".to_owned()
            } else {
                selector
            }
            .into(),
        ]
    }
}

fn validate_spec(spec: &ReplicationControllerSpec, options: &Options, errors: &mut Errors) {
    let path = Path::new("spec");
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    errors.nonnegative(&path.child("minReadySeconds"), min_ready.into());
    let selector = spec.selector.clone().unwrap_or_default();
    if selector.is_empty() {
        errors.required(&path.child("selector"), "");
    }
    errors.nonnegative(&path.child("replicas"), spec.replicas.unwrap_or(0).into());
    let path = path.child("template");
    let Some(template) = &spec.template else {
        errors.required(&path, "");
        return;
    };
    let labels = template
        .metadata
        .as_ref()
        .and_then(|ObjectMeta { labels, .. }| labels.as_ref());
    if !selector.is_empty() && !Selector::from_labels(&selector).matches(labels) {
        let shown = go::syntax("map[string]string", &labels);
        let path = path.child("metadata").child("labels");
        errors.invalid(&path, &shown, "`selector` does not match template `labels`");
    }
    pod::validate_template(template, options, &path, errors);
    workload::validate_lasting(template, "ReplicationController", &path, errors);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_it_selects_is_what_it_makes_unless_it_is_said() {
        let mut controller = json!({"metadata": {"name": "r"}, "spec": {
            "template": {"metadata": {"labels": {"app": "r"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        }});
        (KIND.logic.set_defaults)(&mut controller).expect("defaults");
        assert_eq!(controller["spec"]["selector"], json!({"app": "r"}));
        assert_eq!(controller["metadata"]["labels"], json!({"app": "r"}));
        assert_eq!(controller["spec"]["replicas"], 1);
        let said = |controller: &Value| {
            let mut errors = Errors::new();
            (KIND.logic.validate)(controller, &mut errors).expect("a controller");
            errors
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n")
        };
        assert_eq!(said(&controller), "");
        controller["spec"]["selector"] = json!({"app": "other"});
        assert_eq!(
            said(&controller),
            "spec.template.metadata.labels: Invalid value: map[string]string{\"app\":\"r\"}: `selector` does not match template `labels`"
        );
        assert_eq!(
            said(&json!({"metadata": {"name": "r"}, "spec": {}})),
            "spec.selector: Required value\nspec.template: Required value"
        );
    }
}
