//! `pods/eviction`: a deletion that budgets may refuse ("API-initiated Eviction").

use axum::response::Response;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use stead_api::error::ApiError;
use stead_api::meta;

use super::{budget, decide, success};
use crate::admission;
use crate::body::{self, Expected};
use crate::options::{DeleteOptions, FieldSource, FieldValidation, WriteOptions};
use crate::request::Query;
use crate::resource::{Change, Failure, current, remove, write_update};
use crate::server::Call;

pub(super) async fn create(call: &Call<'_>, body: &Bytes) -> Result<Response, ApiError> {
    let options = WriteOptions::parse(call.query, "CreateOptions")?;
    let expected = Expected::named("policy", "v1", "Eviction", "io.k8s.api.policy.v1.Eviction");
    let mut eviction = body::decode(call.headers, body, &expected, options.field_validation)?.object;
    let name = meta::name(&eviction);
    if !name.is_empty() && name != call.path.name {
        return Err(ApiError::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    let mut warnings = Vec::new();
    decide(
        call,
        &expected,
        None,
        &mut eviction,
        &mut warnings,
        options.dry_run,
    )
    .await?;
    let asked = &eviction["deleteOptions"];
    let mut delete = DeleteOptions::parse(&Query::default(), asked.is_object().then(|| asked.clone()))?;
    delete.dry_run |= options.dry_run;
    let pod = current(call)?.value();
    admission::nodes::check(call, None, Some(&pod))?;
    budget::ask(call, &pod, delete.dry_run).await?;
    if !delete.dry_run {
        mark(call).await?;
    }
    remove(
        call,
        &call.path.namespace,
        &call.path.name,
        &delete,
        &mut warnings,
    )
    .await?;
    let mut response = success(call);
    crate::respond::warn(&mut response, &warnings);
    Ok(response)
}

/// Says in the pod's status why it goes.
async fn mark(call: &Call<'_>) -> Result<(), ApiError> {
    let options = WriteOptions {
        fields: FieldSource::Sent,
        dry_run: false,
        field_validation: FieldValidation::Ignore,
    };
    loop {
        let old = current(call)?;
        let before = old.value();
        let mut pod = before.clone();
        if meta::is_deleting(&pod) || matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"))
        {
            return Ok(());
        }
        let condition = json!({
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting",
            "lastTransitionTime": stead_api::time::rfc3339(Timestamp::now()),
        });
        match &mut pod["status"]["conditions"] {
            Value::Array(conditions) => {
                conditions.retain(|condition| condition["type"] != "DisruptionTarget");
                conditions.push(condition);
            }
            other => *other = json!([condition]),
        }
        match write_update(call, &old, &before, pod, Change::Status, options, &mut Vec::new()).await {
            Err(Failure::LostRace(_)) => {}
            Err(Failure::Refused(error)) => return Err(error),
            Ok(_) => return Ok(()),
        }
    }
}
