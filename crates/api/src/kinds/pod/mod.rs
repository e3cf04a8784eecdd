//! Pod (core/v1), and the parts of it that templates share.
//!
//! Each module is a subject: its defaults and checks. [`spec`] has the order in which Kubernetes
//! makes the checks. What admission adds (service account, default tolerations, priority) is not
//! here.

mod annotations;
mod claims;
mod containers;
mod defaults;
mod disabled;
mod dns;
mod env;
mod handlers;
mod image;
pub(crate) mod mounts;
mod options;
mod pod_resources;
mod projected;
pub mod qos;
mod restart;
mod row;
mod scheduling;
mod security;
mod spec;
mod spread;
mod status;
mod update;
mod visit;
pub(crate) mod volume_defaults;
mod volumes;
mod warnings;
mod windows;

pub(crate) use defaults::{fill, set_template_defaults};
pub(crate) use disabled::drop_fields as drop_disabled_fields;
pub(crate) use handlers::validate_port;
pub(crate) use options::Options;
pub use pod_resources::{Total, total};
pub(crate) use scheduling::validate_tolerations;
use spec::validate_spec;
pub(crate) use spec::{validate_template, validate_template_metadata};
pub(crate) use warnings::of_spec as spec_warnings;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodSpec, PodStatus};
use serde_json::Value;

use crate::error::{Errors, Path};
use crate::kinds::text;
use crate::names;
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Generation, Kind, Subresource};

pub(super) static KIND: Kind = Kind {
    short_names: &["po"],
    categories: &["all"],
    subresources: &[
        Subresource::part("attach", "PodAttachOptions", &["create", "get"]),
        Subresource::part("binding", "Binding", &["create"]),
        Subresource {
            group_version: Some(("policy", "v1")),
            ..Subresource::part("eviction", "Eviction", &["create"])
        },
        Subresource::part("exec", "PodExecOptions", &["create", "get"]),
        Subresource::part("log", "Pod", &["get"]),
        Subresource::part("portforward", "PodPortForwardOptions", &["create", "get"]),
        Subresource::proxy("PodProxyOptions"),
        Subresource::status("Pod"),
    ],
    // Since 1.33 a kubelet says by it which spec its status is of.
    generation: Generation::Spec,
    selectable: &[
        ("spec.nodeName", &["spec", "nodeName"]),
        ("spec.restartPolicy", &["spec", "restartPolicy"]),
        ("spec.schedulerName", &["spec", "schedulerName"]),
        ("spec.serviceAccountName", &["spec", "serviceAccountName"]),
        ("spec.hostNetwork", &["spec", "hostNetwork"]),
        ("status.phase", &["status", "phase"]),
        ("status.podIP", &["status", "podIP"]),
        ("status.podIPs", &["status", "podIPs"]),
        ("status.nominatedNodeName", &["status", "nominatedNodeName"]),
    ],
    columns: &[
        Column::NAME,
        Column::new("Ready", "containers that are ready, of all"),
        Column::new("Status", "what the containers are at"),
        Column::new(
            "Restarts",
            "how often containers have been restarted, and when last",
        ),
        Column::AGE,
        Column::wide("IP", "address of the pod"),
        Column::wide("Node", "where it runs"),
        Column::wide("Nominated Node", "where it will run once others have made room"),
        Column::wide(
            "Readiness Gates",
            "conditions that are met, of all that it waits for",
        ),
    ],
    ..Kind::new(
        ("", "v1", "Pod"),
        ("pods", "pod"),
        "io.k8s.api.core.v1.Pod",
        Logic::of::<Pod>(),
    )
};

/// The spec, which every pod has once its defaults are set.
fn spec_of(pod: &Pod) -> std::borrow::Cow<'_, PodSpec> {
    use std::borrow::Cow;
    pod.spec
        .as_ref()
        .map_or_else(|| Cow::Owned(PodSpec::default()), Cow::Borrowed)
}

impl ApiObject for Pod {
    fn set_defaults(&mut self) {
        defaults::set_pod_defaults(self);
    }

    fn prepare_for_create(&mut self) {
        self.status = None;
        if let Some(spec) = &mut self.spec {
            drop_disabled_fields(spec, None);
        }
        scheduling::resolve_label_keys(self);
        annotations::set_app_armor_fields(self);
        let spec = self.spec.get_or_insert_default();
        pod_resources::set_defaults(spec);
        let is_gated = spec
            .scheduling_gates
            .as_ref()
            .is_some_and(|gates| !gates.is_empty());
        self.status = Some(PodStatus {
            phase: Some("Pending".to_owned()),
            qos_class: Some(qos::class(spec).to_owned()),
            conditions: is_gated.then(|| vec![gated_condition()]),
            ..PodStatus::default()
        });
    }

    fn prepare_for_update(&mut self, old: &Pod) {
        let spec = self.spec.get_or_insert_default();
        let old = old.spec.as_ref();
        // A client that does not know of the resources of pods is not to take them away.
        if spec.resources.is_none() {
            spec.resources = old.and_then(|old| old.resources.clone());
        }
        drop_disabled_fields(spec, old);
    }

    fn prepare_for_status_update(&mut self, old: &Pod) {
        status::prepare(self, old);
    }

    fn validate(&self, errors: &mut Errors) {
        let options = Options {
            is_pod: true,
            ..Options::default()
        };
        validate_pod(self, &options, errors);
        let (spec, path) = (spec_of(self), Path::new("spec"));
        if spec
            .ephemeral_containers
            .as_ref()
            .is_some_and(|list| !list.is_empty())
        {
            errors.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
        }
        let is_gated = spec
            .scheduling_gates
            .as_ref()
            .is_some_and(|gates| !gates.is_empty());
        if is_gated && !text(&spec.node_name).is_empty() {
            let why = "cannot be set until all schedulingGates have been cleared";
            errors.forbidden(&path.child("nodeName"), why);
        }
        let annotations = self.metadata.annotations.as_ref();
        annotations::validate_seccomp_agrees(annotations, &spec, &path, errors);
        annotations::validate_app_armor_agrees(annotations, &spec, &path, errors);
    }

    fn validate_update(&self, old: &Pod, errors: &mut Errors) {
        let (new_annotations, old_annotations) = (
            self.metadata.annotations.as_ref(),
            old.metadata.annotations.as_ref(),
        );
        let (spec, old_spec) = (spec_of(self), spec_of(old));
        let options = Options {
            is_pod: true,
            ..Options::after(Some(&old_spec), old_annotations)
        };
        validate_pod(self, &options, errors);
        let path = Path::new("metadata").child("annotations");
        annotations::validate_update(new_annotations, old_annotations, &path, errors);
        annotations::validate(new_annotations, &spec, &options, &path, errors);
        update::validate(&spec, &old_spec, &Path::new("spec"), errors);
    }

    fn validate_status_update(&self, old: &Pod, errors: &mut Errors) {
        let (new_annotations, old_annotations) = (
            self.metadata.annotations.as_ref(),
            old.metadata.annotations.as_ref(),
        );
        let path = Path::new("metadata").child("annotations");
        annotations::validate_update(new_annotations, old_annotations, &path, errors);
        let options = Options::after(old.spec.as_ref(), old_annotations);
        annotations::validate(new_annotations, &spec_of(self), &options, &path, errors);
        status::validate(self, old, errors);
    }

    /// Pods are changed by controllers, who read no warnings.
    fn warnings(&self, old: Option<&Pod>) -> Vec<String> {
        if old.is_some() {
            return Vec::new();
        }
        let mut warnings = Vec::new();
        let objections = names::dns_label(text(&self.metadata.name));
        if !objections.is_empty() {
            warnings.push(format!(
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a \
                 DNS label is recommended: [{}]",
                objections.join(" ")
            ));
        }
        warnings.extend(spec_warnings(&self.metadata, &spec_of(self), &Path::root()));
        warnings
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        row::cells(self, now)
    }
}

/// The checks that creation and update have in common.
fn validate_pod(pod: &Pod, options: &Options, errors: &mut Errors) {
    let spec = spec_of(pod);
    let path = Path::new("spec");
    let at = Path::new("metadata").child("annotations");
    annotations::validate(pod.metadata.annotations.as_ref(), &spec, options, &at, errors);
    validate_spec(&spec, text(&pod.metadata.name), options, &path, errors);
    if text(&spec.service_account_name).is_empty() {
        for (at, volume) in spec.volumes.iter().flatten().enumerate() {
            let path = path
                .child("volumes")
                .index(at)
                .child("projected")
                .child("sources");
            let sources = volume
                .projected
                .iter()
                .flat_map(|projected| projected.sources.iter().flatten());
            for (at, _) in sources
                .enumerate()
                .filter(|(_, source)| source.service_account_token.is_some())
            {
                let path = path.index(at).child("serviceAccountToken");
                errors.forbidden(&path, "must not be specified when serviceAccountName is not set");
            }
        }
    }
    let period = spec.termination_grace_period_seconds.unwrap_or(0);
    errors.nonnegative(&path.child("terminationGracePeriodSeconds"), period);
    for (field, list) in [
        ("containers", Some(&spec.containers)),
        ("initContainers", spec.init_containers.as_ref()),
    ] {
        for (at, container) in list.into_iter().flatten().enumerate() {
            containers::validate_image_of_pod(container, &path.child(field).index(at), errors);
        }
    }
}

/// A gated pod waits for its gates before it waits for a node.
fn gated_condition() -> PodCondition {
    PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("SchedulingGated".to_owned()),
        message: Some("Scheduling is blocked due to non-empty scheduling gates".to_owned()),
        ..PodCondition::default()
    }
}
