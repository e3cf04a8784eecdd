//! PodTemplate (core/v1): a template of pods that stands for itself.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PodTemplate, PodTemplateSpec};
use serde_json::Value;

use super::pod::{self, Options};
use super::{name_cell, same, workload};
use crate::error::{Errors, Path};
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Generation, Kind, MetadataCheck};
use crate::selector::Selector;

pub(super) static KIND: Kind = Kind {
    update_metadata: &[MetadataCheck::Update],
    generation: Generation::Content,
    columns: &[
        Column::NAME,
        Column::new("Containers", "names of its containers"),
        Column::new("Images", "their images"),
        Column::new("Pod Labels", "labels of the pods"),
    ],
    ..Kind::new(
        ("", "v1", "PodTemplate"),
        ("podtemplates", "podtemplate"),
        "io.k8s.api.core.v1.PodTemplate",
        Logic::of::<PodTemplate>(),
    )
};

fn template_of(template: &PodTemplate) -> PodTemplateSpec {
    template.template.clone().unwrap_or_default()
}

impl ApiObject for PodTemplate {
    fn set_defaults(&mut self) {
        pod::set_template_defaults(self.template.get_or_insert_default());
    }

    fn prepare_for_create(&mut self) {
        if let Some(spec) = self.template.as_mut().and_then(|template| template.spec.as_mut()) {
            pod::drop_disabled_fields(spec, None);
        }
    }

    fn prepare_for_update(&mut self, old: &PodTemplate) {
        let before = template_of(old).spec;
        if let Some(spec) = self.template.as_mut().and_then(|template| template.spec.as_mut()) {
            pod::drop_disabled_fields(spec, before.as_ref());
        }
    }

    fn validate(&self, errors: &mut Errors) {
        pod::validate_template(
            &template_of(self),
            &Options::default(),
            &Path::new("template"),
            errors,
        );
    }

    fn validate_update(&self, old: &PodTemplate, errors: &mut Errors) {
        let options = workload::options_after(&template_of(old));
        pod::validate_template(&template_of(self), &options, &Path::new("template"), errors);
    }

    fn warnings(&self, old: Option<&PodTemplate>) -> Vec<String> {
        if old.is_some_and(|old| same(&old.template, &self.template)) {
            return Vec::new();
        }
        workload::template_warnings_at(&template_of(self), &Path::new("template"))
    }

    fn row(&self, _now: Timestamp) -> Vec<Value> {
        let template = template_of(self);
        let [containers, images] = workload::containers_and_images(&template);
        let labels = template.metadata.and_then(|metadata| metadata.labels);
        let labels = Selector::from_labels(labels.iter().flatten()).to_string();
        vec![
            name_cell(&self.metadata),
            containers,
            images,
            if labels.is_empty() {
                "<none>".to_owned()
            } else {
                labels
            }
            .into(),
        ]
    }
}
