//! The roles and bindings that every cluster has.

use std::collections::BTreeMap;

use k8s_openapi::api::rbac::v1::{
    AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, RoleRef, Subject,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use stead_api::kinds::rbac::{GROUP, collected};

const TABLE: &str = include_str!("defaults.txt");
const READ: [&str; 3] = ["get", "list", "watch"];
const WRITE: [&str; 5] = ["create", "delete", "deletecollection", "patch", "update"];
/// How deep roles collect from roles that collect.
const DEPTH: usize = 3;
/// The annotation that keeps a default role as it is, if it is `false`.
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// The default roles and who has them, from `defaults.txt`. Aggregated roles have their rules.
pub(crate) fn policy() -> (Vec<ClusterRole>, Vec<ClusterRoleBinding>) {
    let (mut roles, mut bindings): (Vec<ClusterRole>, Vec<_>) = (Vec::new(), Vec::new());
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        if let Some((name, marks)) = line.strip_prefix('[').and_then(|line| line.split_once(']')) {
            let marks: Vec<&str> = marks.split_whitespace().collect();
            let groups: Vec<&str> = marks.iter().filter_map(|mark| mark.strip_prefix('@')).collect();
            if !groups.is_empty() {
                bindings.push(binding(name, &groups));
            }
            roles.push(role(name, &marks));
        } else if let Some(role) = roles.last_mut() {
            role.rules.get_or_insert_default().push(rule(line));
        }
    }
    roles.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    for _ in 0..DEPTH {
        let before = roles.clone();
        for role in &mut roles {
            if let Some(rules) = collected(role, &before) {
                role.rules = Some(rules);
            }
        }
    }
    (roles, bindings)
}

/// A stored default role with the rules that it should have and lacks; none where it is as it should
/// be, or where somebody has said that it is to be left alone.
pub(crate) fn completed(stored: &ClusterRole, default: &ClusterRole) -> Option<ClusterRole> {
    let annotations = stored.metadata.annotations.as_ref();
    let kept = annotations
        .and_then(|all| all.get(AUTO_UPDATE))
        .is_some_and(|value| value == "false");
    let own = stored.rules.as_deref().unwrap_or_default();
    let lacking: Vec<PolicyRule> = default
        .rules
        .iter()
        .flatten()
        .filter(|rule| !own.contains(rule))
        .cloned()
        .collect();
    if kept || lacking.is_empty() {
        return None;
    }
    let mut role = stored.clone();
    role.rules.get_or_insert_default().extend(lacking);
    Some(role)
}

fn metadata(name: &str) -> ObjectMeta {
    let text = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    ObjectMeta {
        name: Some(name.to_owned()),
        annotations: Some(text(AUTO_UPDATE, "true")),
        labels: Some(text("kubernetes.io/bootstrapping", "rbac-defaults")),
        ..ObjectMeta::default()
    }
}

fn part_of(role: &str) -> String {
    format!("{GROUP}/aggregate-to-{role}")
}

fn role(name: &str, marks: &[&str]) -> ClusterRole {
    let mut metadata = metadata(name);
    for of in marks.iter().filter_map(|mark| mark.strip_prefix('+')) {
        let labels = metadata.labels.get_or_insert_default();
        labels.insert(part_of(of), "true".to_owned());
    }
    let selectors: Vec<LabelSelector> = marks
        .iter()
        .filter_map(|mark| mark.strip_prefix('<'))
        .map(|role| LabelSelector {
            match_labels: Some(BTreeMap::from([(part_of(role), "true".to_owned())])),
            ..LabelSelector::default()
        })
        .collect();
    ClusterRole {
        metadata,
        aggregation_rule: (!selectors.is_empty()).then_some(AggregationRule {
            cluster_role_selectors: Some(selectors),
        }),
        rules: None,
    }
}

fn binding(name: &str, groups: &[&str]) -> ClusterRoleBinding {
    ClusterRoleBinding {
        metadata: metadata(name),
        role_ref: RoleRef {
            api_group: Some(GROUP.to_owned()),
            kind: "ClusterRole".to_owned(),
            name: name.to_owned(),
        },
        subjects: Some(
            groups
                .iter()
                .map(|group| Subject {
                    api_group: Some(GROUP.to_owned()),
                    kind: "Group".to_owned(),
                    name: (*group).to_owned(),
                    namespace: None,
                })
                .collect(),
        ),
    }
}

fn rule(line: &str) -> PolicyRule {
    let mut words = line.split_whitespace();
    let mut next = || words.next().unwrap_or_default();
    let verbs: Vec<String> = match next() {
        "r" => READ.map(str::to_owned).to_vec(),
        "w" => WRITE.map(str::to_owned).to_vec(),
        "rw" => READ.iter().chain(&WRITE).map(|verb| (*verb).to_owned()).collect(),
        verbs => verbs.split(',').map(str::to_owned).collect(),
    };
    let group = next();
    let things: Vec<String> = words.map(str::to_owned).collect();
    if group == "/" {
        return PolicyRule {
            non_resource_urls: Some(things),
            verbs,
            ..PolicyRule::default()
        };
    }
    let group = if group == "core" { "" } else { group };
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(things),
        verbs,
        ..PolicyRule::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use stead_api::registry;

    use super::*;

    #[test]
    fn the_table_makes_valid_roles() {
        let (roles, bindings) = policy();
        let kinds = registry::builtin();
        let check = |plural: &str, object: Value| {
            let kind = kinds.resource(GROUP, "v1", plural).expect("it is registered");
            let errors = kind.validate_create(&object).expect("it is of its kind");
            assert!(errors.is_empty(), "{}: {object}", errors.summary());
        };
        for role in &roles {
            assert!(
                role.rules.as_ref().is_some_and(|rules| !rules.is_empty()),
                "{role:?}"
            );
            check(
                "clusterroles",
                serde_json::to_value(role).expect("a role is JSON"),
            );
        }
        for binding in &bindings {
            check(
                "clusterrolebindings",
                serde_json::to_value(binding).expect("a binding is JSON"),
            );
        }
    }

    #[test]
    fn editors_may_do_what_viewers_may() {
        let (roles, _) = policy();
        let rules = |name: &str| {
            let role = roles
                .iter()
                .find(|role| role.metadata.name.as_deref() == Some(name));
            role.and_then(|role| role.rules.clone()).unwrap_or_default()
        };
        let (view, edit, admin) = (rules("view"), rules("edit"), rules("admin"));
        assert!(view.iter().all(|rule| edit.contains(rule)));
        assert!(edit.iter().all(|rule| admin.contains(rule)));
        assert!(view.len() < edit.len() && edit.len() < admin.len());
    }
}
