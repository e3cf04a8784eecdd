//! Parts of objects that are resources of their own: status, approval, scale, binding, eviction, token,
//! finalize; and those that a pod's node answers.

mod bind;
mod budget;
mod evict;
mod node;
mod proxy;
mod scale;
mod token;

use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};
use stead_api::error::ApiError;

pub(crate) use bind::create_named as bind;
pub(crate) use node::serve as node;
pub(crate) use proxy::serve as proxy;

use crate::admission::webhook::Write as Webhooks;
use crate::body::Expected;
use crate::request::Verb;
use crate::resource::{self, Change};
use crate::server::{Call, not_allowed};

/// Serves a subresource whose body has been read.
pub(crate) async fn serve(call: &Call<'_>, verb: Verb, body: &Bytes) -> Result<Response, ApiError> {
    let change = match call.path.subresource.as_str() {
        "status" => Change::Status,
        "approval" => Change::Approval,
        "finalize" => Change::Finalize,
        "scale" => return scale::serve(call, verb, body).await,
        "binding" => return bind::create(call, body).await,
        "eviction" => return evict::create(call, body).await,
        "token" => return token::create(call, body).await,
        _ => return Err(not_allowed()),
    };
    match verb {
        Verb::Get => resource::get(call),
        Verb::Update => resource::update_part(call, body, change).await,
        Verb::Patch => resource::patch_part(call, body, change).await,
        _ => Err(not_allowed()),
    }
}

/// Lets webhooks change and refuse an object of a kind that only a subresource has.
async fn decide(
    call: &Call<'_>,
    expected: &Expected,
    old: Option<&Value>,
    object: &mut Value,
    warnings: &mut Vec<String>,
    dry_run: bool,
) -> Result<(), ApiError> {
    match Webhooks::part(call, expected.part(), old, dry_run) {
        Some(webhooks) => Box::pin(webhooks.decide(expected.ty, object, warnings)).await,
        None => Ok(()),
    }
}

/// The answer to a create that has nothing else to say.
fn success(call: &Call<'_>) -> Response {
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    crate::respond::value(201, call.accepted.encoding, &status)
}
