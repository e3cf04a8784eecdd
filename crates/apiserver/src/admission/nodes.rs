//! What nodes may not write, though their role says so: other nodes, and pods that are not theirs
//! (NodeRestriction).

use std::collections::BTreeSet;

use serde_json::Value;
use stead_api::error::{ApiError, quote};
use stead_api::meta;

use crate::authz::NODE_LEASES;
use crate::server::Call;

/// Labels that a node may set on itself, beside those of no domain of Kubernetes.
const OWN_LABELS: [&str; 10] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "node.kubernetes.io/windows-build",
];
const OWN_PREFIXES: [&str; 2] = ["kubelet.kubernetes.io/", "node.kubernetes.io/"];
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Checks what is to be created (`new`), updated (both) or deleted (`old`) by a node.
pub(crate) fn check(call: &Call<'_>, new: Option<&Value>, old: Option<&Value>) -> Result<(), ApiError> {
    let Some(node) = call.identity.node() else {
        return Ok(());
    };
    let subresource = call.path.subresource.as_str();
    let checked = match (call.kind.group, call.kind.plural) {
        ("", "pods") => pod(node, subresource, new, old),
        ("", "nodes") => self_only(node, new, old).and_then(|()| match new {
            Some(new) => of_node(node, new, old),
            None => Ok(()),
        }),
        ("coordination.k8s.io", "leases") => lease(node, new, old),
        ("storage.k8s.io", "csinodes") => match name(new, old) {
            own if own == node => Ok(()),
            _ => Err("can only access CSINode with the same name as the requesting node".to_owned()),
        },
        ("", "serviceaccounts") if subresource == "token" => token(new),
        _ => Ok(()),
    };
    checked.map_err(|why| {
        let name = match name(new, old) {
            "" => &call.path.name,
            name => name,
        };
        ApiError::forbidden(call.kind.group, call.kind.plural, name, &why)
    })
}

fn name<'v>(new: Option<&'v Value>, old: Option<&'v Value>) -> &'v str {
    old.or(new).map(meta::name).unwrap_or_default()
}

fn pod(node: &str, subresource: &str, new: Option<&Value>, old: Option<&Value>) -> Result<(), String> {
    let quoted = quote(node);
    let own = |pod: &Value| pod["spec"]["nodeName"] == node;
    match (subresource, new, old) {
        ("", Some(pod), None) => {
            if pod["metadata"]["annotations"][MIRROR].is_null() {
                Err(format!(
                    "pod does not have {} annotation, node {quoted} can only create mirror pods",
                    quote(MIRROR)
                ))
            } else if !own(pod) {
                Err(format!(
                    "node {quoted} can only create pods with spec.nodeName set to itself"
                ))
            } else if pod["spec"]["serviceAccountName"]
                .as_str()
                .is_some_and(|name| !name.is_empty())
            {
                Err(format!(
                    "node {quoted} can not create pods that reference a service account"
                ))
            } else {
                Ok(())
            }
        }
        ("", None, Some(pod)) if !own(pod) => Err(format!(
            "node {quoted} can only delete pods with spec.nodeName set to itself"
        )),
        ("status", Some(new), Some(pod)) => {
            if !own(pod) {
                Err(format!(
                    "node {quoted} can only update pod status for pods with spec.nodeName set to itself"
                ))
            } else if new["metadata"]["labels"] != pod["metadata"]["labels"] {
                Err(format!("node {quoted} cannot update labels through pod status"))
            } else {
                Ok(())
            }
        }
        ("eviction", _, Some(pod)) if !own(pod) => Err(format!(
            "node {node} can only evict pods with spec.nodeName set to itself"
        )),
        ("", Some(_), Some(_)) => Err("unexpected operation \"UPDATE\"".to_owned()),
        _ => Ok(()),
    }
}

fn self_only(node: &str, new: Option<&Value>, old: Option<&Value>) -> Result<(), String> {
    match name(new, old) {
        own if own == node => Ok(()),
        other => Err(format!(
            "node {} is not allowed to modify node {}",
            quote(node),
            quote(other)
        )),
    }
}

fn of_node(node: &str, new: &Value, old: Option<&Value>) -> Result<(), String> {
    let labels = |object: &Value| {
        let labels = object["metadata"]["labels"].as_object();
        labels.cloned().unwrap_or_default()
    };
    let (after, before) = (labels(new), old.map(labels).unwrap_or_default());
    let changed: BTreeSet<&String> = after
        .keys()
        .chain(before.keys())
        .filter(|key| after.get(*key) != before.get(*key))
        .collect();
    let forbidden: Vec<&str> = changed
        .into_iter()
        .map(String::as_str)
        .filter(|key| !may_set(key))
        .collect();
    if !forbidden.is_empty() {
        let what = if old.is_some() {
            "modify labels"
        } else {
            "set the following labels"
        };
        return Err(format!(
            "node {} is not allowed to {what}: {}",
            quote(node),
            forbidden.join(", ")
        ));
    }
    match old {
        // A node may come with taints, but not change them.
        Some(old) if new["spec"]["taints"] != old["spec"]["taints"] => {
            Err(format!("node {} is not allowed to modify taints", quote(node)))
        }
        _ => Ok(()),
    }
}

fn may_set(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let within = |of: &str| domain == of || domain.ends_with(&format!(".{of}"));
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    if !within("kubernetes.io") && !within("k8s.io") {
        return true;
    }
    OWN_LABELS.contains(&label)
        || OWN_PREFIXES.iter().any(|prefix| {
            label.starts_with(prefix) || domain.ends_with(&format!(".{}", prefix.trim_end_matches('/')))
        })
}

fn lease(node: &str, new: Option<&Value>, old: Option<&Value>) -> Result<(), String> {
    let namespace = old.or(new).map(meta::namespace).unwrap_or_default();
    if namespace != NODE_LEASES {
        return Err(format!(
            "can only access leases in the {} system namespace",
            quote(NODE_LEASES)
        ));
    }
    if name(new, old) != node {
        return Err("can only access node lease with the same name as the requesting node".to_owned());
    }
    Ok(())
}

/// A node asks only for tokens that end with a pod. That the pod is its own is seen by the account.
fn token(request: Option<&Value>) -> Result<(), String> {
    let bound = &request.unwrap_or(&Value::Null)["spec"]["boundObjectRef"];
    if bound["kind"] != "Pod" {
        return Err("node requested token not bound to a pod".to_owned());
    }
    if bound["uid"].as_str().is_none_or(str::is_empty) {
        return Err("node requested token with a pod binding without a uid".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_writes_only_pods_that_are_its_own() {
        let on = |node: &str, labels: Value| json!({"metadata": {"name": "p", "labels": labels}, "spec": {"nodeName": node}});
        let (own, other) = (on("n", json!({})), on("m", json!({})));
        let labelled = on("n", json!({"a": "b"}));
        let mirror = json!({"metadata": {"annotations": {MIRROR: "x"}}, "spec": {"nodeName": "n"}});
        for (subresource, new, old, allowed) in [
            ("", Some(&mirror), None, true),
            ("", Some(&own), None, false),
            ("", None, Some(&own), true),
            ("", None, Some(&other), false),
            ("", Some(&own), Some(&own), false),
            ("status", Some(&own), Some(&own), true),
            ("status", Some(&labelled), Some(&own), false),
            ("status", Some(&other), Some(&other), false),
            ("eviction", None, Some(&own), true),
            ("eviction", None, Some(&other), false),
        ] {
            let result = pod("n", subresource, new, old);
            assert_eq!(
                result.is_ok(),
                allowed,
                "{subresource} {new:?} {old:?}: {result:?}"
            );
        }
    }

    #[test]
    fn a_node_sets_only_labels_and_taints_that_are_its_own() {
        let node = |labels: Value, taints: Value| json!({"metadata": {"name": "n", "labels": labels}, "spec": {"taints": taints}});
        let plain = node(json!({}), json!([]));
        for (new, old, allowed) in [
            (
                node(
                    json!({"kubernetes.io/hostname": "n", "team": "a"}),
                    json!([{"key": "a"}]),
                ),
                None,
                true,
            ),
            (
                node(json!({"node-restriction.kubernetes.io/x": "y"}), json!([])),
                None,
                false,
            ),
            (
                node(json!({"node-role.kubernetes.io/admin": ""}), json!([])),
                Some(&plain),
                false,
            ),
            (
                node(json!({"kubelet.kubernetes.io/x": ""}), json!([])),
                Some(&plain),
                true,
            ),
            (node(json!({}), json!([{"key": "a"}])), Some(&plain), false),
        ] {
            assert_eq!(of_node("n", &new, old).is_ok(), allowed, "{new}");
        }
        assert!(self_only("n", None, Some(&json!({"metadata": {"name": "m"}}))).is_err());
    }

    #[test]
    fn a_node_has_one_lease() {
        let lease_at =
            |namespace: &str, name: &str| json!({"metadata": {"namespace": namespace, "name": name}});
        assert!(lease("n", Some(&lease_at("kube-node-lease", "n")), None).is_ok());
        assert!(lease("n", Some(&lease_at("kube-node-lease", "m")), None).is_err());
        assert!(lease("n", Some(&lease_at("default", "n")), None).is_err());
    }
}
