//! `pods/binding`: a scheduler's decision, taken once.

use axum::response::Response;
use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Binding;
use serde_json::{Value, json};
use stead_api::error::{ApiError, Errors, quote};
use stead_api::meta;
use stead_store::{CommitError, Condition, Txn};

use super::{decide, success};
use crate::body::{self, Expected};
use crate::options::WriteOptions;
use crate::request::ResourcePath;
use crate::resource::current;
use crate::respond;
use crate::server::Call;
use crate::stored::encode;

const ATTEMPTS: usize = 8;

pub(super) async fn create(call: &Call<'_>, body: &Bytes) -> Result<Response, ApiError> {
    let options = WriteOptions::parse(call.query, "CreateOptions")?;
    let expected = Expected::named("", "v1", "Binding", "io.k8s.api.core.v1.Binding");
    let mut binding = body::decode(call.headers, body, &expected, options.field_validation)?.object;
    let mut warnings = Vec::new();
    decide(
        call,
        &expected,
        None,
        &mut binding,
        &mut warnings,
        options.dry_run,
    )
    .await?;
    let node = target(&binding)?;
    for _ in 0..ATTEMPTS {
        let old = current(call)?;
        let bound = bind(old.value(), &binding, &node)?;
        let done = || {
            let mut response = success(call);
            respond::warn(&mut response, &warnings);
            response
        };
        if options.dry_run {
            return Ok(done());
        }
        let txn = Txn::new().put(call.key(), encode(&bound), Condition::Unchanged(old.revision()));
        match call.server.store.commit(txn).await {
            Ok(_) => return Ok(done()),
            Err(CommitError::Conflict(_)) => {}
            Err(error) => return Err(ApiError::internal(error)),
        }
    }
    Err(ApiError::internal("the pod changes too often to be bound"))
}

/// POST of a Binding to the collection of them: what it names is the pod.
pub(crate) async fn create_named(call: &Call<'_>, body: &Bytes) -> Result<Response, ApiError> {
    let options = WriteOptions::parse(call.query, "CreateOptions")?;
    let binding = body::decode(
        call.headers,
        body,
        &Expected::of(call.kind),
        options.field_validation,
    )?
    .object;
    let kind = call
        .server
        .registry
        .resource("", "v1", "pods")
        .expect("pods are registered");
    let path = ResourcePath {
        resource: kind.plural.to_owned(),
        name: meta::name(&binding).to_owned(),
        subresource: "binding".to_owned(),
        ..call.path.clone()
    };
    create(
        &Call {
            kind,
            path: &path,
            ..*call
        },
        body,
    )
    .await
}

fn target(binding: &Value) -> Result<String, ApiError> {
    let typed: Binding = serde_json::from_value(binding.clone()).map_err(ApiError::internal)?;
    let mut errors = Errors::new();
    stead_api::kinds::binding::validate(&typed, &mut errors);
    if !errors.is_empty() {
        // Upstream does not make the status of an invalid object of it.
        return Err(ApiError::new(500, "", errors.summary()));
    }
    Ok(typed.target.name.unwrap_or_default())
}

/// The pod, bound.
fn bind(mut pod: Value, binding: &Value, node: &str) -> Result<Value, ApiError> {
    let name = meta::name(&pod).to_owned();
    let conflict = |why: String| Err(ApiError::conflict("", "pods/binding", &name, &why));
    let uid = meta::uid(binding);
    if !uid.is_empty() && uid != meta::uid(&pod) {
        return conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            meta::uid(&pod)
        ));
    }
    if meta::is_deleting(&pod) {
        return conflict(format!(
            "pod {name} is being deleted, cannot be assigned to a host"
        ));
    }
    if let Some(taken) = pod["spec"]["nodeName"].as_str().filter(|taken| !taken.is_empty()) {
        return conflict(format!("pod {name} is already assigned to node {}", quote(taken)));
    }
    if pod["spec"]["schedulingGates"]
        .as_array()
        .is_some_and(|gates| !gates.is_empty())
    {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    pod["spec"]["nodeName"] = node.into();
    for (key, value) in binding["metadata"]["annotations"]
        .as_object()
        .into_iter()
        .flatten()
    {
        pod["metadata"]["annotations"][key] = value.clone();
    }
    let condition = json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": stead_api::time::rfc3339(Timestamp::now()),
    });
    match pod["status"]["conditions"].as_array_mut() {
        Some(conditions) => {
            conditions.retain(|condition| condition["type"] != "PodScheduled");
            conditions.push(condition);
        }
        None => pod["status"]["conditions"] = json!([condition]),
    }
    Ok(pod)
}
