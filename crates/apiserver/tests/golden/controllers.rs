//! What a case waits for that a controller does. None runs here, so that the replay does it.

use k8s_openapi::api::rbac::v1::ClusterRole;
use serde_json::{Value, json};
use stead_api::kinds::rbac::collected;

use crate::case::{self, WaitFor};
use crate::fixture::{Fixture, Result};

/// The collections in which dependents are looked for.
const DEPENDENTS: &[&str] = &["configmaps"];

/// Does what makes a step's wait end.
pub(crate) async fn act(fixture: &Fixture, wait: &WaitFor, path: &str) -> Result<()> {
    if let Some(account) = path.strip_suffix("/serviceaccounts/default") {
        let namespace = account.rsplit('/').next().unwrap_or_default();
        return fixture.make_account(namespace).await;
    }
    if path.contains("/clusterroles/") {
        return aggregate(fixture, path).await;
    }
    if let Some(name) = wait.field.strip_prefix("status/used/") {
        return use_quota(fixture, path, &name.replace("~1", "/"), &wait.equals).await;
    }
    match (wait.field.as_str(), &wait.equals) {
        ("code", gone) if *gone == json!(404) => collect(fixture, path).await,
        ("metadata/deletionGracePeriodSeconds", _) => send(fixture, "DELETE", path, None).await.map(drop),
        (field, value) => match field.strip_prefix("status/") {
            Some(field) => {
                let mut patch = json!({"status": {field: value}});
                if path.contains("/poddisruptionbudgets/") {
                    // What else its controller writes of one pod, of which one must be there.
                    patch["status"]["observedGeneration"] = 1.into();
                    patch["status"]["desiredHealthy"] = value.clone();
                }
                let path = format!("{path}/status");
                send(fixture, "PATCH", &path, Some(patch)).await.map(drop)
            }
            None => Err(format!("nothing here makes what the case waits for: {path} {field}").into()),
        },
    }
}

/// What the garbage collector does until an object is gone.
/// Puts a quota in force, of which something is used already, and of all else nothing.
async fn use_quota(fixture: &Fixture, path: &str, name: &str, used: &Value) -> Result<()> {
    let quota = send(fixture, "GET", path, None).await?;
    let hard = quota["spec"]["hard"].clone();
    let mut status = json!({"hard": hard, "used": {}});
    for bounded in hard.as_object().into_iter().flatten().map(|(bounded, _)| bounded) {
        status["used"][bounded] = "0".into();
    }
    status["used"][name] = used.clone();
    let path = format!("{path}/status");
    send(fixture, "PATCH", &path, Some(json!({"status": status})))
        .await
        .map(drop)
}

async fn collect(fixture: &Fixture, path: &str) -> Result<()> {
    let object = send(fixture, "GET", path, None).await?;
    let finalizers = object["metadata"]["finalizers"].as_array();
    let Some(finalizers) = finalizers.filter(|finalizers| !finalizers.is_empty()) else {
        return send(fixture, "DELETE", path, None).await.map(drop);
    };
    if finalizers.contains(&json!("orphan")) {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        for plural in DEPENDENTS {
            orphan(
                fixture,
                &format!("/api/v1/namespaces/{namespace}/{plural}"),
                &object["metadata"]["uid"],
            )
            .await?;
        }
    }
    let patch = json!({"metadata": {"finalizers": null}});
    send(fixture, "PATCH", path, Some(patch)).await.map(drop)
}

/// Gives an aggregated role the rules that it collects.
async fn aggregate(fixture: &Fixture, path: &str) -> Result<()> {
    let (collection, _) = path.rsplit_once('/').unwrap_or((path, ""));
    let list = send(fixture, "GET", collection, None).await?;
    let roles: Vec<ClusterRole> = serde_json::from_value(list["items"].clone())?;
    let role = serde_json::from_value(send(fixture, "GET", path, None).await?)?;
    let patch = json!({"rules": collected(&role, &roles)});
    send(fixture, "PATCH", path, Some(patch)).await.map(drop)
}

/// Takes an owner away from whatever it owns in a collection.
async fn orphan(fixture: &Fixture, collection: &str, owner: &Value) -> Result<()> {
    let list = send(fixture, "GET", collection, None).await?;
    for item in list["items"].as_array().into_iter().flatten() {
        let owners = item["metadata"]["ownerReferences"].as_array();
        if owners.into_iter().flatten().any(|own| own["uid"] == *owner) {
            let name = item["metadata"]["name"].as_str().unwrap_or_default();
            let patch = json!({"metadata": {"ownerReferences": null}});
            send(fixture, "PATCH", &format!("{collection}/{name}"), Some(patch)).await?;
        }
    }
    Ok(())
}

async fn send(fixture: &Fixture, method: &str, path: &str, body: Option<Value>) -> Result<Value> {
    let request = case::Request {
        method: method.to_owned(),
        path: path.to_owned(),
        content_type: body.is_some().then(|| "application/merge-patch+json".to_owned()),
        body: body.map(serde_json::from_value).transpose()?,
        ..case::Request::default()
    };
    let answered = fixture.send(&request, None).await?;
    if answered.code < 300 {
        Ok(serde_json::from_str(&answered.body)?)
    } else {
        Err(answered.body.into())
    }
}
