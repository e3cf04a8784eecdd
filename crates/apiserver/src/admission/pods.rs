//! Admission of pods: their service account and its token, tolerations; what their classes say.

use serde_json::{Value, json};
use stead_api::error::ApiError;
use stead_api::meta;

use super::{find, limits, priority, runtime_class};
use crate::resource::random_suffix;
use crate::server::Call;

/// Where containers find the token of their service account.
const TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// An hour, and a little so that it is not a round number; upstream's own.
const TOKEN_SECONDS: i64 = 3607;
/// Pods of upstream's mirror annotation are copies of what a node runs anyway.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// How long a pod stays on a node that does not answer, unless it says so itself.
const NOT_READY_SECONDS: i64 = 300;

pub(super) fn admit_create(call: &Call<'_>, pod: &mut Value) -> Result<(), ApiError> {
    if !pod["spec"].is_object() {
        // Validation will say so.
        return Ok(());
    }
    limits::apply(call, pod);
    if pod["metadata"]["annotations"][MIRROR].is_null() {
        service_account(call, pod)?;
    }
    default_tolerations(pod);
    priority::admit_pod(call, pod)?;
    runtime_class::admit_pod(call, pod)
}

fn service_account(call: &Call<'_>, pod: &mut Value) -> Result<(), ApiError> {
    let given = pod["spec"]["serviceAccountName"]
        .as_str()
        .or(pod["spec"]["serviceAccount"].as_str());
    let name = given
        .filter(|name| !name.is_empty())
        .unwrap_or("default")
        .to_owned();
    let namespace = meta::namespace(pod).to_owned();
    let Some((_, account)) = find(call, "serviceaccounts", &namespace, &name) else {
        let why = format!(
            "error looking up service account {namespace}/{name}: serviceaccount {} not found",
            stead_api::error::quote(&name)
        );
        return Err(ApiError::forbidden("", "pods", meta::name(pod), &why));
    };
    let account = account.value();
    let spec = &mut pod["spec"];
    spec["serviceAccountName"] = name.clone().into();
    spec["serviceAccount"] = name.into();
    let secrets = &account["imagePullSecrets"];
    if spec["imagePullSecrets"].as_array().is_none_or(Vec::is_empty) && secrets.is_array() {
        spec["imagePullSecrets"] = secrets.clone();
    }
    let automount = spec["automountServiceAccountToken"]
        .as_bool()
        .or(account["automountServiceAccountToken"].as_bool())
        .unwrap_or(true);
    if automount {
        mount_token(spec);
    }
    Ok(())
}

/// Adds the projected volume with the token, the cluster's CA and the namespace, and mounts it
/// where a container has nothing of its own.
fn mount_token(spec: &mut Value) {
    let is_token_volume = |volume: &Value| {
        volume["name"]
            .as_str()
            .is_some_and(|name| name.starts_with("kube-api-access-"))
    };
    let existing = spec["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|volume| is_token_volume(volume));
    let name = match existing {
        Some(volume) => volume["name"].as_str().unwrap_or_default().to_owned(),
        None => format!("kube-api-access-{}", random_suffix(5)),
    };
    let had_volume = existing.is_some();
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            let mounts = container["volumeMounts"].as_array().into_iter().flatten();
            if mounts.clone().any(|mount| mount["mountPath"] == TOKEN_DIR) || !container.is_object() {
                continue;
            }
            let mount = json!({"name": name, "readOnly": true, "mountPath": TOKEN_DIR});
            match container["volumeMounts"].as_array_mut() {
                Some(mounts) => mounts.push(mount),
                None => container["volumeMounts"] = json!([mount]),
            }
            mounted = true;
        }
    }
    if mounted && !had_volume {
        let volume = json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{
                "path": "namespace",
                "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
            }]}},
        ]}});
        match spec["volumes"].as_array_mut() {
            Some(volumes) => volumes.push(volume),
            None => spec["volumes"] = json!([volume]),
        }
    }
}

/// Tolerations for nodes that stop answering, where the pod has none of its own.
pub(super) fn default_tolerations(pod: &mut Value) {
    let Some(spec) = pod["spec"].as_object_mut() else {
        return;
    };
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Some(tolerations) = tolerations.as_array_mut() else {
        return;
    };
    for taint in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = tolerations.iter().any(|toleration| {
            let text = |field: &str| toleration[field].as_str().unwrap_or_default();
            let key = text("key");
            (key == taint || (key.is_empty() && text("operator") == "Exists"))
                && matches!(text("effect"), "" | "NoExecute")
        });
        if !tolerated {
            tolerations.push(json!({
                "key": taint,
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": NOT_READY_SECONDS,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toleration_of_everything_needs_no_defaults() {
        let mut pod = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        default_tolerations(&mut pod);
        assert_eq!(pod["spec"]["tolerations"], json!([{"operator": "Exists"}]));
        let mut pod = json!({"spec": {}});
        default_tolerations(&mut pod);
        assert_eq!(pod["spec"]["tolerations"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn the_token_is_mounted_once_in_every_container() {
        let mut spec = json!({"containers": [
            {"name": "a"},
            {"name": "b", "volumeMounts": [{"name": "own", "mountPath": TOKEN_DIR}]},
        ]});
        mount_token(&mut spec);
        let before = spec.clone();
        mount_token(&mut spec);
        assert_eq!(spec, before);
        assert_eq!(spec["volumes"].as_array().map(Vec::len), Some(1));
        assert_eq!(
            spec["containers"][0]["volumeMounts"][0]["name"],
            spec["volumes"][0]["name"]
        );
        assert_eq!(
            spec["containers"][1]["volumeMounts"].as_array().map(Vec::len),
            Some(1)
        );
    }
}
