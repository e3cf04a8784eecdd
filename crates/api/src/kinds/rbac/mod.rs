//! Roles and bindings (rbac.authorization.k8s.io/v1): who may do what. See "Using RBAC
//! Authorization".

mod binding;
mod role;

pub(super) use binding::{CLUSTER_KIND as CLUSTER_BINDING, KIND as BINDING};
pub(super) use role::{CLUSTER_KIND as CLUSTER_ROLE, KIND as ROLE};

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};

use crate::names;
use crate::object::Logic;
use crate::registry::{Kind, MetadataCheck};
use crate::selector::Selector;

/// The API group of roles, and of the users and groups that bindings name.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// What the four kinds have in common.
const fn kind(
    kind: &'static str,
    names: (&'static str, &'static str),
    type_name: &'static str,
    logic: Logic,
) -> Kind {
    Kind {
        create_on_update: true,
        name_rule: names::path_segment,
        update_metadata: &[MetadataCheck::Create, MetadataCheck::Update],
        ..Kind::new((GROUP, "v1", kind), names, type_name, logic)
    }
}

/// The rules that an aggregated role collects from others ("Aggregated ClusterRoles"): each once, in
/// the order of the roles. None for a role that collects nothing. `roles` go by name.
pub fn collected<'r>(
    role: &ClusterRole,
    roles: impl IntoIterator<Item = &'r ClusterRole>,
) -> Option<Vec<PolicyRule>> {
    let rule = role.aggregation_rule.as_ref()?;
    let selectors: Vec<Selector> = rule
        .cluster_role_selectors
        .iter()
        .flatten()
        // What cannot be read selects nothing.
        .filter_map(|selector| Selector::from_label_selector(Some(selector)).ok())
        .collect();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for other in roles {
        let labels = other.metadata.labels.as_ref();
        let own = other.metadata.name == role.metadata.name;
        if own || !selectors.iter().any(|selector| selector.matches(labels)) {
            continue;
        }
        for rule in other.rules.iter().flatten() {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    Some(rules)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_role_collects_the_rules_of_labelled_ones() {
        let roles: Vec<ClusterRole> = [
            json!({"metadata": {"name": "a", "labels": {"x": "1"}}, "rules": [{"verbs": ["get"]}, {"verbs": ["list"]}]}),
            json!({"metadata": {"name": "all", "labels": {"x": "1"}}, "rules": [{"verbs": ["*"]}],
                "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"x": "1"}}]}}),
            json!({"metadata": {"name": "b", "labels": {"x": "1"}}, "rules": [{"verbs": ["list"]}]}),
            json!({"metadata": {"name": "c"}, "rules": [{"verbs": ["delete"]}]}),
        ]
        .into_iter()
        .map(|role| serde_json::from_value(role).expect("a role"))
        .collect();
        let verbs: Vec<Vec<String>> = collected(&roles[1], &roles)
            .expect("it collects")
            .into_iter()
            .map(|rule| rule.verbs)
            .collect();
        assert_eq!(verbs, [["get"], ["list"]]);
        assert!(collected(&roles[0], &roles).is_none());
    }
}
