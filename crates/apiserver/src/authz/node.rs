//! What nodes may do ("Using Node Authorization"): what the role `system:node` says, but read only what
//! pods on them need. Of secrets, config maps, claims and volumes they reach those by name.

use std::sync::LazyLock;

use serde_json::Value;
use stead_api::error::quote;

use super::defaults;
use super::policy::rules;
use super::rules::{Asked, Rule};
use crate::server::Inner;

const ROLE: &str = "system:node";
/// Where nodes' leases are.
pub(crate) const LEASES: &str = "kube-node-lease";

static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let (roles, _) = defaults::policy();
    let role = roles
        .iter()
        .find(|role| role.metadata.name.as_deref() == Some(ROLE));
    let role = role.and_then(|role| serde_json::to_value(role).ok());
    role.as_ref().map(rules).unwrap_or_default()
});

/// What a pod uses, of which its node may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Used {
    Secret,
    ConfigMap,
    Claim,
}

/// Whether a node may do something; if not, why.
pub(super) fn decide(server: &Inner, node: &str, asked: &Asked<'_>) -> Result<(), String> {
    let Asked::Resource {
        verb,
        group,
        resource,
        subresource,
        namespace,
        name,
    } = *asked
    else {
        return Err(String::new());
    };
    let related = |is: bool| {
        if is {
            Ok(())
        } else {
            Err(format!(
                "no relationship found between node '{node}' and this object"
            ))
        }
    };
    let uses = |what: Used| {
        if name.is_empty() {
            return Err("can only read resources of this type by name".to_owned());
        }
        related(pods_of(server, node, namespace).any(|pod| uses(&pod, what, name)))
    };
    let granted = RULES.iter().any(|rule| rule.grants(asked));
    match (group, resource, subresource) {
        _ if !granted => Err(String::new()),
        ("", "secrets", "") => uses(Used::Secret),
        ("", "configmaps", "") => uses(Used::ConfigMap),
        ("", "persistentvolumeclaims", "") => uses(Used::Claim),
        ("", "persistentvolumes", "") => related(is_volume_of(server, node, name)),
        ("", "pods", "") if verb == "get" => related(
            get(server, "", "pods", namespace, name).is_none_or(|pod| pod["spec"]["nodeName"] == node),
        ),
        ("", "serviceaccounts", "token") => {
            related(pods_of(server, node, namespace).any(|pod| pod["spec"]["serviceAccountName"] == name))
        }
        ("storage.k8s.io", "volumeattachments", "") => related(
            get(server, "storage.k8s.io", "volumeattachments", "", name)
                .is_some_and(|attachment| attachment["spec"]["nodeName"] == node),
        ),
        ("storage.k8s.io", "csinodes", "") => own(name, node, verb),
        ("coordination.k8s.io", "leases", "") if namespace == LEASES => own(name, node, verb),
        ("coordination.k8s.io", "leases", "") => Err(format!(
            "can only access leases in the {} system namespace",
            quote(LEASES)
        )),
        _ => Ok(()),
    }
}

/// Objects that are named as their node. What is to be created has no name yet.
fn own(name: &str, node: &str, verb: &str) -> Result<(), String> {
    if name == node || (verb == "create" && name.is_empty()) {
        Ok(())
    } else {
        Err("can only access an object with the same name as the requesting node".to_owned())
    }
}

fn get(server: &Inner, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
    let (_, stored) = server.find((group, plural), namespace, name)?;
    Some(stored.value())
}

/// Pods of a namespace (of all, if it is empty) that are bound to a node.
fn pods_of(server: &Inner, node: &str, namespace: &str) -> impl Iterator<Item = Value> {
    let pods = server.all(("", "pods"), namespace).into_iter();
    pods.map(|pod| pod.value())
        .filter(move |pod| pod["spec"]["nodeName"] == node)
}

fn is_volume_of(server: &Inner, node: &str, name: &str) -> bool {
    let Some(volume) = get(server, "", "persistentvolumes", "", name) else {
        return false;
    };
    let claim = &volume["spec"]["claimRef"];
    let text = |field: &str| claim[field].as_str().unwrap_or_default();
    let (namespace, claim) = (text("namespace"), text("name"));
    !claim.is_empty() && pods_of(server, node, namespace).any(|pod| uses(&pod, Used::Claim, claim))
}

/// Whether a pod names something, anywhere in its spec.
fn uses(pod: &Value, what: Used, name: &str) -> bool {
    let in_place = |value: &Value| match what {
        Used::Claim => {
            let own = stead_api::meta::name(pod);
            let ephemeral = value["ephemeral"].is_object()
                && value["name"]
                    .as_str()
                    .is_some_and(|volume| format!("{own}-{volume}") == name);
            ephemeral || value["persistentVolumeClaim"]["claimName"] == name
        }
        Used::ConfigMap => ["configMapKeyRef", "configMapRef", "configMap"]
            .iter()
            .any(|field| value[*field]["name"] == name),
        Used::Secret => {
            let pull = value["imagePullSecrets"].as_array().into_iter().flatten();
            value["secret"]["secretName"] == name
                || pull.clone().any(|secret| secret["name"] == name)
                || value.as_object().is_some_and(|members| {
                    let refers = |field: &str| {
                        field.starts_with("secret") || field.ends_with("SecretRef") || field == "secretRef"
                    };
                    members
                        .iter()
                        .any(|(field, value)| refers(field) && value["name"] == name)
                })
        }
    };
    fn any(value: &Value, is: &dyn Fn(&Value) -> bool) -> bool {
        match value {
            Value::Object(members) => is(value) || members.values().any(|value| any(value, is)),
            Value::Array(items) => items.iter().any(|value| any(value, is)),
            _ => false,
        }
    }
    any(&pod["spec"], &in_place)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_uses_what_its_spec_names() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"name": "c",
                "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}}],
                "envFrom": [{"configMapRef": {"name": "all"}}, {"secretRef": {"name": "env"}}]}],
            "volumes": [
                {"name": "a", "secret": {"secretName": "mounted"}},
                {"name": "b", "projected": {"sources": [{"secret": {"name": "projected"}}, {"configMap": {"name": "shown"}}]}},
                {"name": "c", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "d", "ephemeral": {}},
                {"name": "e", "csi": {"driver": "x", "nodePublishSecretRef": {"name": "csi"}}},
            ],
        }});
        for (what, names) in [
            (
                Used::Secret,
                &["pull", "key", "env", "mounted", "projected", "csi"][..],
            ),
            (Used::ConfigMap, &["all", "shown"]),
            (Used::Claim, &["data", "p-d"]),
        ] {
            for name in names {
                assert!(uses(&pod, what, name), "{what:?} {name}");
            }
            assert!(!uses(&pod, what, "other") && !uses(&pod, what, "c"), "{what:?}");
        }
        assert!(!uses(&pod, Used::Secret, "all") && !uses(&pod, Used::ConfigMap, "key"));
    }

    #[test]
    fn the_role_of_nodes_is_there() {
        assert!(RULES.len() > 10);
    }
}
