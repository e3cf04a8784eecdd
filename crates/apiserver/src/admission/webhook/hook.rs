//! A webhook as it is configured, and which requests it is for: pure functions.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;
use serde_json::Value;
use stead_api::selector::Selector;

/// A webhook of a configuration.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Hook {
    pub(super) name: String,
    pub(super) client_config: ClientConfig,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    failure_policy: Option<String>,
    #[serde(default)]
    match_policy: Option<String>,
    #[serde(default)]
    namespace_selector: Option<LabelSelector>,
    #[serde(default)]
    object_selector: Option<LabelSelector>,
    #[serde(default)]
    pub(super) timeout_seconds: Option<u64>,
    #[serde(default)]
    pub(super) admission_review_versions: Vec<String>,
    #[serde(default)]
    reinvocation_policy: Option<String>,
}

/// Where a webhook is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ClientConfig {
    #[serde(default)]
    pub(super) url: Option<String>,
    #[serde(default)]
    pub(super) service: Option<ServiceReference>,
    /// Base64 of PEM.
    #[serde(default)]
    ca_bundle: Option<String>,
}

/// A Service that leads to a webhook.
#[derive(Debug, Deserialize)]
pub(super) struct ServiceReference {
    pub(super) namespace: String,
    pub(super) name: String,
    #[serde(default)]
    pub(super) path: Option<String>,
    #[serde(default)]
    pub(super) port: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    operations: Vec<String>,
    api_groups: Vec<String>,
    api_versions: Vec<String>,
    resources: Vec<String>,
    scope: Option<String>,
}

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    /// As rules and reviews name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// A request, as far as rules look at it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) operation: Operation,
    pub(super) group: &'a str,
    pub(super) version: &'a str,
    pub(super) resource: &'a str,
    /// Empty for the resource itself.
    pub(super) subresource: &'a str,
    pub(super) namespaced: bool,
}

impl ClientConfig {
    /// The certificates of authorities in PEM.
    pub(super) fn ca(&self) -> Vec<u8> {
        let bundle = self.ca_bundle.as_deref().unwrap_or_default();
        STANDARD.decode(bundle).unwrap_or_default()
    }
}

impl Hook {
    /// The webhooks of a configuration.
    pub(crate) fn read(configuration: &Value) -> Vec<Hook> {
        let hooks = configuration["webhooks"].as_array().into_iter().flatten();
        // Validation lets nothing else in.
        hooks.filter_map(|hook| Hook::deserialize(hook).ok()).collect()
    }

    /// Whether a request goes on when the webhook cannot be asked.
    pub(super) fn fails_open(&self) -> bool {
        self.failure_policy.as_deref() == Some("Ignore")
    }

    /// Whether it is asked once more when others have changed the object after it.
    pub(super) fn is_reinvoked(&self) -> bool {
        self.reinvocation_policy.as_deref() == Some("IfNeeded")
    }

    /// Whether its rules are meant for a resource in all its groups and versions.
    pub(super) fn takes_equivalents(&self) -> bool {
        self.match_policy.as_deref() != Some("Exact")
    }

    /// Whether its rules are for a request.
    pub(super) fn is_for(&self, target: &Target<'_>) -> bool {
        self.rules.iter().any(|rule| rule.is_for(target))
    }

    /// Whether objects of a namespace with these labels concern it.
    pub(super) fn takes_namespace(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        takes(self.namespace_selector.as_ref(), labels)
    }

    /// Whether its selector chooses an object, as it is to be or as it was.
    pub(super) fn takes_object(&self, versions: [Option<&Value>; 2]) -> bool {
        let Some(selector) = &self.object_selector else {
            return true;
        };
        versions
            .into_iter()
            .flatten()
            .any(|object| takes(Some(selector), Some(&labels(object))))
    }
}

/// An object's labels.
pub(super) fn labels(object: &Value) -> BTreeMap<String, String> {
    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
    labels
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

fn takes(selector: Option<&LabelSelector>, labels: Option<&BTreeMap<String, String>>) -> bool {
    selector.is_none_or(|selector| {
        Selector::from_label_selector(Some(selector)).is_ok_and(|selector| selector.matches(labels))
    })
}

impl Rule {
    fn is_for(&self, target: &Target<'_>) -> bool {
        let has = |list: &[String], value: &str| list.iter().any(|own| own == "*" || own == value);
        let scope = match self.scope.as_deref() {
            Some("Namespaced") => target.namespaced,
            Some("Cluster") => !target.namespaced,
            _ => true,
        };
        scope
            && has(&self.operations, target.operation.name())
            && has(&self.api_groups, target.group)
            && has(&self.api_versions, target.version)
            && self.resources.iter().any(|own| {
                let (resource, subresource) = own.split_once('/').unwrap_or((own, ""));
                (resource == "*" || resource == target.resource)
                    && (subresource == target.subresource || subresource == "*")
            })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hook(more: &Value) -> Hook {
        let mut hook = json!({
            "name": "a.b.c",
            "clientConfig": {"url": "https://h/x"},
            "rules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"],
                "resources": ["pods", "*/status"], "scope": "Namespaced"}],
        });
        for (field, value) in more.as_object().into_iter().flatten() {
            hook[field] = value.clone();
        }
        Hook::deserialize(&hook).expect("a webhook")
    }

    const POD: Target<'static> = Target {
        operation: Operation::Create,
        group: "",
        version: "v1",
        resource: "pods",
        subresource: "",
        namespaced: true,
    };

    #[test]
    fn rules_choose_requests() {
        let hook = hook(&json!({}));
        for (target, expected) in [
            (POD, true),
            (
                Target {
                    operation: Operation::Delete,
                    ..POD
                },
                false,
            ),
            (Target { group: "apps", ..POD }, false),
            (
                Target {
                    resource: "secrets",
                    ..POD
                },
                false,
            ),
            (
                Target {
                    resource: "services",
                    subresource: "status",
                    ..POD
                },
                true,
            ),
            (
                Target {
                    subresource: "scale",
                    ..POD
                },
                false,
            ),
            (
                Target {
                    namespaced: false,
                    ..POD
                },
                false,
            ),
        ] {
            assert_eq!(hook.is_for(&target), expected, "{target:?}");
        }
    }

    #[test]
    fn an_object_is_chosen_as_it_is_or_was() {
        let hook = hook(&json!({"objectSelector": {"matchLabels": {"guard": "yes"}}}));
        let (with, without) = (
            json!({"metadata": {"labels": {"guard": "yes"}}}),
            json!({"metadata": {}}),
        );
        assert!(hook.takes_object([Some(&with), None]));
        assert!(hook.takes_object([Some(&without), Some(&with)]));
        assert!(!hook.takes_object([Some(&without), None]));
    }
}
