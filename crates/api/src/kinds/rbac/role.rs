//! Role and ClusterRole: rules that grant verbs on resources and paths.

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::{AggregationRule, ClusterRole, PolicyRule, Role};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use crate::error::{Errors, Path};
use crate::go;
use crate::kinds::name_cell;
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Kind};
use crate::selector::validate_label_selector;

pub(in super::super) static KIND: Kind = Kind {
    columns: COLUMNS,
    ..super::kind(
        "Role",
        ("roles", "role"),
        "io.k8s.api.rbac.v1.Role",
        Logic::of::<Role>(),
    )
};

pub(in super::super) static CLUSTER_KIND: Kind = Kind {
    namespaced: false,
    columns: COLUMNS,
    ..super::kind(
        "ClusterRole",
        ("clusterroles", "clusterrole"),
        "io.k8s.api.rbac.v1.ClusterRole",
        Logic::of::<ClusterRole>(),
    )
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column {
        ty: "date",
        ..Column::new("Created At", "when it was created")
    },
];

impl ApiObject for Role {
    fn validate(&self, errors: &mut Errors) {
        validate_rules(self.rules.as_deref(), true, errors);
    }

    fn row(&self, _now: Timestamp) -> Vec<Value> {
        row(&self.metadata)
    }
}

impl ApiObject for ClusterRole {
    fn validate(&self, errors: &mut Errors) {
        validate_rules(self.rules.as_deref(), false, errors);
        if let Some(rule) = &self.aggregation_rule {
            validate_aggregation(rule, errors);
        }
    }

    fn row(&self, _now: Timestamp) -> Vec<Value> {
        row(&self.metadata)
    }
}

fn validate_rules(rules: Option<&[PolicyRule]>, namespaced: bool, errors: &mut Errors) {
    let path = Path::new("rules");
    for (at, rule) in rules.into_iter().flatten().enumerate() {
        validate_rule(rule, namespaced, &path.index(at), errors);
    }
}

fn validate_rule(rule: &PolicyRule, namespaced: bool, path: &Path, errors: &mut Errors) {
    let is_given = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    if rule.verbs.is_empty() {
        errors.required(&path.child("verbs"), "verbs must contain at least one value");
    }
    if is_given(&rule.non_resource_urls) {
        let path = path.child("nonResourceURLs");
        let shown = go::syntax("[]string", &rule.non_resource_urls);
        if namespaced {
            errors.invalid(
                &path,
                &shown,
                "namespaced rules cannot apply to non-resource URLs",
            );
        }
        if is_given(&rule.api_groups) || is_given(&rule.resources) || is_given(&rule.resource_names) {
            errors.invalid(
                &path,
                &shown,
                "rules cannot apply to both regular resources and non-resource URLs",
            );
        }
        return;
    }
    if !is_given(&rule.api_groups) {
        errors.required(
            &path.child("apiGroups"),
            "resource rules must supply at least one api group",
        );
    }
    if !is_given(&rule.resources) {
        errors.required(
            &path.child("resources"),
            "resource rules must supply at least one resource",
        );
    }
}

fn validate_aggregation(rule: &AggregationRule, errors: &mut Errors) {
    let path = Path::new("aggregationRule").child("clusterRoleSelectors");
    let selectors = rule.cluster_role_selectors.as_deref().unwrap_or_default();
    if selectors.is_empty() {
        errors.required(
            &path,
            "at least one clusterRoleSelector required if aggregationRule is non-nil",
        );
    }
    for (at, selector) in selectors.iter().enumerate() {
        validate_label_selector(selector, &path.index(at), errors);
    }
}

fn row(metadata: &ObjectMeta) -> Vec<Value> {
    let created = metadata.creation_timestamp.as_ref();
    vec![
        name_cell(metadata),
        created.map_or(Value::Null, |time| crate::time::rfc3339(time.0).into()),
    ]
}
