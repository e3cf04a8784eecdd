//! The kinds that are served: one file or folder each, with the registry's entry and the kind's
//! logic (defaults, checks, table row). Beside them stands what several kinds share: [`ip`],
//! [`resources`], [`node_selector`], [`volume_source`], [`workload`].
//!
//! The checks follow Kubernetes v1.37. Where its words for an error differ from those of v1.28, the
//! older ones are used: they are what clients and tests have matched for years.

pub mod api_service;
mod autoscaler;
mod config_map;
mod controller_revision;
mod cron_job;
mod csi;
mod daemon_set;
mod deployment;
mod disruption_budget;
mod endpoint_slice;
mod endpoints;
mod event;
mod flow_control;
mod ingress;
mod ingress_class;
mod ip;
mod job;
mod lease;
mod limit_range;
mod namespace;
mod network_policy;
mod node;
mod node_selector;
mod persistent_volume;
mod pod_template;
mod replica_set;
mod replication_controller;
mod resource_quota;
pub(crate) mod resources;
mod review;
mod runtime_class;
mod same;
mod secret;
mod service_account;
mod volume_attachment;
mod volume_source;
mod webhook;
mod workload;

pub mod binding;
mod claim_templates;
pub mod persistent_volume_claim;
pub mod pod;
pub mod priority_class;
pub mod rbac;
pub mod scale;
pub mod service;
pub mod signing_request;
pub mod stateful_set;
pub mod storage_class;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use same::same;

use crate::error::{Errors, Path};
use crate::registry::Kind;
use crate::{meta, names, selector};

/// All built-in kinds, in the order of their groups.
pub(crate) fn all() -> Vec<&'static Kind> {
    vec![
        &binding::KIND,
        &config_map::KIND,
        &endpoints::KIND,
        &event::CORE_KIND,
        &limit_range::KIND,
        &namespace::KIND,
        &node::KIND,
        &persistent_volume::KIND,
        &persistent_volume_claim::KIND,
        &pod::KIND,
        &pod_template::KIND,
        &replication_controller::KIND,
        &resource_quota::KIND,
        &secret::KIND,
        &service::KIND,
        &service_account::KIND,
        &webhook::MUTATING,
        &webhook::VALIDATING,
        &api_service::KIND,
        &controller_revision::KIND,
        &daemon_set::KIND,
        &deployment::KIND,
        &replica_set::KIND,
        &stateful_set::KIND,
        &review::SELF_SUBJECT,
        &review::TOKEN,
        &review::ACCESS,
        &review::LOCAL_ACCESS,
        &review::SELF_ACCESS,
        &review::SELF_RULES,
        &autoscaler::KIND,
        &autoscaler::V1_KIND,
        &cron_job::KIND,
        &job::KIND,
        &signing_request::KIND,
        &lease::KIND,
        &endpoint_slice::KIND,
        &event::KIND,
        &flow_control::SCHEMA,
        &flow_control::LEVEL,
        &ingress_class::KIND,
        &ingress::KIND,
        &network_policy::KIND,
        &runtime_class::KIND,
        &disruption_budget::KIND,
        &rbac::ROLE,
        &rbac::BINDING,
        &rbac::CLUSTER_ROLE,
        &rbac::CLUSTER_BINDING,
        &priority_class::KIND,
        &csi::DRIVER,
        &csi::NODE,
        &csi::CAPACITY,
        &storage_class::KIND,
        &volume_attachment::KIND,
        &volume_attachment::CLASS,
    ]
}

/// A text that may be absent, which is as if it were empty.
fn text(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or_default()
}

/// The cell that names an object.
fn name_cell(metadata: &ObjectMeta) -> Value {
    metadata.name.clone().unwrap_or_default().into()
}

/// Checks a name that begins with a domain, such as `acme.io/foo`.
fn domain_prefixed_path(name: &str, path: &Path, errors: &mut Errors) {
    const PATH: &str = "[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+";
    match name.split_once('/') {
        _ if name.is_empty() => errors.required(path, ""),
        Some((host, rest)) if !host.is_empty() && !rest.is_empty() => {
            errors.invalid_each(path, host, names::dns_subdomain(host));
            let is_allowed = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c);
            if !rest.chars().all(is_allowed) {
                errors.invalid(path, rest, &names::regex_message("Invalid path", PATH, &[]));
            }
        }
        _ => errors.invalid(
            path,
            name,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        ),
    }
}

/// Checks the kind or the name of something that is referred to.
fn reference_part(part: &str, path: &Path, errors: &mut Errors) {
    if part.is_empty() {
        errors.required(path, "");
    } else {
        errors.invalid_each(path, part, names::path_segment(part));
    }
}

/// Checks the metadata of a template, of which only labels and annotations are used.
fn metadata_of_template(metadata: Option<&ObjectMeta>, path: &Path, errors: &mut Errors) {
    let Some(metadata) = metadata else { return };
    meta::validate_annotations(metadata.annotations.as_ref(), &path.child("annotations"), errors);
    selector::validate_labels(metadata.labels.as_ref(), &path.child("labels"), errors);
    for (field, is_set) in [
        ("name", metadata.name.is_some()),
        ("generateName", metadata.generate_name.is_some()),
        ("namespace", metadata.namespace.is_some()),
        ("selfLink", metadata.self_link.is_some()),
        ("uID", metadata.uid.is_some()),
        ("resourceVersion", metadata.resource_version.is_some()),
        (
            "generation",
            metadata.generation.is_some_and(|generation| generation != 0),
        ),
        ("creationTimestamp", metadata.creation_timestamp.is_some()),
        ("deletionTimestamp", metadata.deletion_timestamp.is_some()),
        (
            "deletionGracePeriodSeconds",
            metadata.deletion_grace_period_seconds.is_some(),
        ),
        ("ownerReferences", metadata.owner_references.is_some()),
        ("finalizers", metadata.finalizers.is_some()),
        ("managedFields", metadata.managed_fields.is_some()),
    ] {
        if is_set {
            errors.forbidden(&path.child(field), "cannot be set");
        }
    }
}

/// Why a field is as it was.
const FIELD_IMMUTABLE: &str = "field is immutable";
