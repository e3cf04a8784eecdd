//! Node selectors: which nodes a pod's or a volume's node affinity means ("Node affinity").

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

/// Whether a node is one that a selector means: one of its terms must hold.
pub fn matches(selector: &NodeSelector, node: &Node) -> bool {
    selector
        .node_selector_terms
        .iter()
        .any(|term| term_matches(term, node))
}

/// Whether a term holds for a node: all its requirements must. An empty term holds for none.
pub fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let labels = node.metadata.labels.as_ref();
    expressions
        .iter()
        .all(|requirement| label_meets(requirement, labels))
        && fields.iter().all(|requirement| field_meets(requirement, node))
}

fn label_meets(requirement: &NodeSelectorRequirement, labels: Option<&BTreeMap<String, String>>) -> bool {
    let found = labels.and_then(|labels| labels.get(&requirement.key));
    let values = requirement.values.as_deref().unwrap_or_default();
    let is_one = || found.is_some_and(|found| values.contains(found));
    let compared = || {
        let limit: i64 = values.first()?.parse().ok()?;
        Some(found?.parse::<i64>().ok()?.cmp(&limit))
    };
    match requirement.operator.as_str() {
        "In" => is_one(),
        "NotIn" => !is_one(),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => compared().is_some_and(|ordering| ordering.is_gt()),
        "Lt" => compared().is_some_and(|ordering| ordering.is_lt()),
        _ => false,
    }
}

/// The only field is the node's name.
fn field_meets(requirement: &NodeSelectorRequirement, node: &Node) -> bool {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let is_one = requirement.values.iter().flatten().any(|value| value == name);
    match (requirement.key.as_str(), requirement.operator.as_str()) {
        ("metadata.name", "In") => is_one,
        ("metadata.name", "NotIn") => !is_one,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(terms: Value, expected: bool) {
        let node: Node = serde_json::from_value(
            json!({"metadata": {"name": "n1", "labels": {"disk": "ssd", "cpus": "8"}}}),
        )
        .expect("a node");
        let shown = terms.to_string();
        let selector: NodeSelector =
            serde_json::from_value(json!({"nodeSelectorTerms": terms})).expect("a selector");
        assert_eq!(matches(&selector, &node), expected, "{shown}");
    }

    #[test]
    fn one_term_must_hold_and_all_of_its_requirements() {
        let label = |operator: &str, key: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        check(json!([]), false);
        check(json!([{}]), false);
        check(json!([label("In", "disk", &["ssd", "hdd"])]), true);
        check(
            json!([label("In", "disk", &["hdd"]), label("Exists", "cpus", &[])]),
            true,
        );
        check(json!([label("NotIn", "zone", &["a"])]), true);
        check(json!([label("DoesNotExist", "disk", &[])]), false);
        check(json!([label("Gt", "cpus", &["4"])]), true);
        check(json!([label("Lt", "cpus", &["8"])]), false);
        check(json!([label("Gt", "disk", &["4"])]), false);
        let name = |operator: &str, value: &str| json!([{"matchFields": [{"key": "metadata.name", "operator": operator, "values": [value]}]}]);
        check(name("In", "n1"), true);
        check(name("In", "n2"), false);
        check(name("NotIn", "n2"), true);
    }
}
