//! ResourceQuota (core/v1): how much there may be in a namespace. See "Resource Quotas".

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus, ScopedResourceSelectorRequirement,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;
use serde_json::Value;

use super::resources::{amount, round_up, validate_amount, validate_quota_name};
use super::{FIELD_IMMUTABLE, name_cell};
use crate::error::{Errors, GoSyntax, Path, quote};
use crate::go;
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Kind, MetadataCheck, Subresource};
use crate::table::age;

pub(super) static KIND: Kind = Kind {
    short_names: &["quota"],
    subresources: &[Subresource::status("ResourceQuota")],
    update_metadata: &[MetadataCheck::Update, MetadataCheck::Create],
    columns: &[
        Column::NAME,
        Column::AGE,
        Column::new("Request", "what is asked for, of how much"),
        Column::new("Limit", "what is the most that may be used, of how much"),
    ],
    ..Kind::new(
        ("", "v1", "ResourceQuota"),
        ("resourcequotas", "resourcequota"),
        "io.k8s.api.core.v1.ResourceQuota",
        Logic::of::<ResourceQuota>(),
    )
};

const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];
/// What can be counted of pods of some scope.
const OF_PODS: [&str; 7] = [
    "pods",
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
];
const CONFLICTING: [[&str; 2]; 2] = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];

fn spec_of(quota: &ResourceQuota) -> ResourceQuotaSpec {
    quota.spec.clone().unwrap_or_default()
}

impl ApiObject for ResourceQuota {
    fn set_defaults(&mut self) {
        if let Some(spec) = &mut self.spec {
            round_up(&mut spec.hard);
        }
        if let Some(status) = &mut self.status {
            round_up(&mut status.hard);
            round_up(&mut status.used);
        }
    }

    fn prepare_for_create(&mut self) {
        self.status = Some(ResourceQuotaStatus::default());
    }

    fn validate(&self, errors: &mut Errors) {
        validate_spec(&spec_of(self), errors);
    }

    fn validate_update(&self, old: &ResourceQuota, errors: &mut Errors) {
        self.validate(errors);
        let (new, old) = (spec_of(self), spec_of(old));
        let sorted = |scopes: &Option<Vec<String>>| {
            let mut scopes = scopes.clone().unwrap_or_default();
            scopes.sort();
            scopes.dedup();
            scopes
        };
        if sorted(&new.scopes) != sorted(&old.scopes) {
            errors.invalid(
                &Path::new("scopes"),
                &scopes_shown(new.scopes.as_deref().unwrap_or_default()),
                FIELD_IMMUTABLE,
            );
        }
    }

    fn validate_status_update(&self, _: &ResourceQuota, errors: &mut Errors) {
        let status = self.status.clone().unwrap_or_default();
        let path = Path::new("status");
        for (field, list) in [("hard", &status.hard), ("used", &status.used)] {
            validate_list(list.as_ref(), &path.child(field), errors);
        }
    }

    fn warnings(&self, old: Option<&ResourceQuota>) -> Vec<String> {
        let hard = spec_of(self).hard.unwrap_or_default();
        let names = ["cpu", "memory", "storage", "ephemeral-storage"];
        let warned = |name: &&str| more_requests_than_limits(name, &hard);
        names
            .iter()
            .filter(|_| old.is_none())
            .filter_map(warned)
            .collect()
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let status = self.status.clone().unwrap_or_default();
        let (hard, used) = (status.hard.unwrap_or_default(), status.used.unwrap_or_default());
        let zero = Written("0".to_owned());
        let shown = |limits: bool| -> Value {
            let of = hard
                .iter()
                .filter(|(name, _)| name.starts_with("limits.") == limits)
                .map(|(name, most)| format!("{name}: {}/{}", used.get(name).unwrap_or(&zero).0, most.0));
            of.collect::<Vec<_>>().join(", ").into()
        };
        vec![
            name_cell(&self.metadata),
            age(self.metadata.creation_timestamp.as_ref(), now),
            shown(false),
            shown(true),
        ]
    }
}

/// What is told where more of a resource can be asked for than limits allow.
fn more_requests_than_limits(name: &str, hard: &BTreeMap<String, Written>) -> Option<String> {
    let (mut asked, limited) = (format!("requests.{name}"), format!("limits.{name}"));
    if !hard.contains_key(&asked) && matches!(name, "cpu" | "memory") {
        asked = name.to_owned();
    }
    let (request, limit) = (hard.get(&asked)?, hard.get(&limited)?);
    amount(request).exceeds(amount(limit)).then(|| {
        let (request, limit) = (&request.0, &limit.0);
        format!("ResourceQuota {asked} ({request}) should be less than {limited} ({limit})")
    })
}

fn validate_list(list: Option<&BTreeMap<String, Written>>, path: &Path, errors: &mut Errors) {
    for (name, quantity) in list.into_iter().flatten() {
        let path = path.key(name);
        validate_quota_name(name, &path, errors);
        validate_amount(name, quantity, &path, errors);
    }
}

fn scopes_shown(scopes: &[String]) -> GoSyntax {
    let quoted: Vec<String> = scopes.iter().map(|scope| quote(scope)).collect();
    GoSyntax(format!("[]core.ResourceQuotaScope{{{}}}", quoted.join(", ")))
}

fn validate_spec(spec: &ResourceQuotaSpec, errors: &mut Errors) {
    let path = Path::new("spec");
    validate_list(spec.hard.as_ref(), &path.child("hard"), errors);
    let hard: Vec<&str> = spec
        .hard
        .iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect();
    let scopes = spec.scopes.as_deref().unwrap_or_default();
    if !scopes.is_empty() {
        let shown = scopes_shown(scopes);
        let path = path.child("scopes");
        for scope in scopes {
            if !SCOPES.contains(&scope.as_str()) {
                errors.invalid(&path, &shown, "unsupported scope");
            }
            for name in &hard {
                if is_standard(name) && !is_of_scope(scope, name) {
                    errors.invalid(&path, &shown, "unsupported scope applied to resource");
                }
            }
        }
        validate_conflicts(scopes.iter().map(String::as_str), &path, &shown, errors);
    }
    if let Some(selector) = &spec.scope_selector {
        let path = path.child("scopeSelector");
        let requirements = selector.match_expressions.as_deref().unwrap_or_default();
        let shown = go::syntax("core.ScopeSelector", selector);
        let path = path.child("matchExpressions");
        for requirement in requirements {
            validate_requirement(requirement, &hard, &shown, &path, errors);
        }
        let names = requirements
            .iter()
            .map(|requirement| requirement.scope_name.as_str());
        // Kubernetes shows the scopes beside the selector here.
        validate_conflicts(names, &path, &scopes_shown(scopes), errors);
    }
}

fn validate_requirement(
    requirement: &ScopedResourceSelectorRequirement,
    hard: &[&str],
    shown: &GoSyntax,
    path: &Path,
    errors: &mut Errors,
) {
    let (scope, operator) = (requirement.scope_name.as_str(), requirement.operator.as_str());
    if !SCOPES.contains(&scope) {
        errors.invalid(&path.child("scopeName"), scope, "unsupported scope");
    }
    for name in hard {
        if is_standard(name) && !is_of_scope(scope, name) {
            errors.invalid(path, shown, "unsupported scope applied to resource");
        }
    }
    if !["PriorityClass", "VolumeAttributesClass"].contains(&scope) && operator != "Exists" {
        errors.invalid(
            &path.child("operator"),
            operator,
            "must be 'Exist' only operator when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
        );
    }
    let values = requirement.values.as_deref().unwrap_or_default();
    match operator {
        "In" | "NotIn" if values.is_empty() => errors.required(
            &path.child("values"),
            "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
        ),
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.invalid(
            &path.child("values"),
            &go::syntax("[]string", &values),
            "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
        ),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
}

fn validate_conflicts<'s>(
    scopes: impl Iterator<Item = &'s str>,
    path: &Path,
    shown: &GoSyntax,
    errors: &mut Errors,
) {
    let scopes: Vec<&str> = scopes.collect();
    for pair in CONFLICTING {
        if pair.iter().all(|scope| scopes.contains(scope)) {
            errors.invalid(path, shown, "conflicting scopes");
        }
    }
}

/// Whether a resource is one that Kubernetes itself counts.
fn is_standard(name: &str) -> bool {
    !name.contains('/')
}

fn is_of_scope(scope: &str, name: &str) -> bool {
    match scope {
        "BestEffort" => name == "pods",
        "VolumeAttributesClass" => name == "persistentvolumeclaims" || name == "requests.storage",
        "CrossNamespacePodAffinity"
        | "PriorityClass"
        | "NotBestEffort"
        | "NotTerminating"
        | "Terminating" => OF_PODS.contains(&name),
        _ => true,
    }
}
