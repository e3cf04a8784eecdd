//! Label selectors: which objects a selector of another object means.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

/// A `metav1.LabelSelector` to match labels with. `kube`'s own selectors parse texts; this one takes
/// the object's field as it is.
#[derive(Debug, Clone)]
pub struct Selector(LabelSelector);

impl Selector {
    /// Takes a selector that the API server has checked. An operator it does not know matches
    /// nothing.
    pub fn new(selector: &LabelSelector) -> Selector {
        Selector(selector.clone())
    }

    /// A selector that no labels meet.
    pub fn nothing() -> Selector {
        let one_of_none = LabelSelectorRequirement {
            operator: "In".to_owned(),
            ..LabelSelectorRequirement::default()
        };
        Selector(LabelSelector {
            match_expressions: Some(vec![one_of_none]),
            match_labels: None,
        })
    }

    /// Whether labels meet it.
    pub fn matches(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        let value = |key: &str| labels.and_then(|labels| labels.get(key));
        let equal = self
            .0
            .match_labels
            .iter()
            .flatten()
            .all(|(key, wanted)| value(key) == Some(wanted));
        equal
            && self.0.match_expressions.iter().flatten().all(|expression| {
                let found = value(&expression.key);
                let is_one = || {
                    let values = expression.values.as_deref().unwrap_or_default();
                    found.is_some_and(|found| values.contains(found))
                };
                match expression.operator.as_str() {
                    "In" => is_one(),
                    "NotIn" => !is_one(),
                    "Exists" => found.is_some(),
                    "DoesNotExist" => found.is_none(),
                    _ => false,
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_and_expressions_must_all_hold() {
        let labels = BTreeMap::from([
            ("app".to_owned(), "web".to_owned()),
            ("tier".to_owned(), "1".to_owned()),
        ]);
        for (selector, expected) in [
            (json!({}), true),
            (json!({"matchLabels": {"app": "web"}}), true),
            (json!({"matchLabels": {"app": "db"}}), false),
            (
                json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["1", "2"]}]}),
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["1"]}]}),
                false,
            ),
            (
                json!({"matchExpressions": [{"key": "old", "operator": "NotIn", "values": ["1"]}]}),
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "old", "operator": "Exists"}]}),
                false,
            ),
            (
                json!({"matchExpressions": [{"key": "old", "operator": "DoesNotExist"}]}),
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "app", "operator": "Odd"}]}),
                false,
            ),
        ] {
            let parsed: LabelSelector = serde_json::from_value(selector.clone()).expect("a selector");
            assert_eq!(
                Selector::new(&parsed).matches(Some(&labels)),
                expected,
                "{selector}"
            );
        }
    }
}
