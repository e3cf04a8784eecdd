//! The node's own API, which the API server calls for clients: logs, exec, attach, port-forward.
//!
//! The paths are the kubelet's of Kubernetes, so that any API server may call them.

mod logs;
mod streams;

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{any, get};
use k8s_openapi::api::core::v1::Pod;
use stead_informer::Key;

use crate::node::Node;

pub(crate) use self::streams::Sessions;

/// All of it.
pub(crate) fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs::serve))
        .route("/exec/{namespace}/{pod}/{container}", any(streams::exec))
        .route("/attach/{namespace}/{pod}/{container}", any(streams::attach))
        .route("/portForward/{namespace}/{pod}", any(streams::port_forward))
        .with_state(node)
}

/// An answer that is not what was asked for.
pub(crate) struct Refusal(StatusCode, String);

impl axum::response::IntoResponse for Refusal {
    fn into_response(self) -> Response {
        // The API server passes it on to a client that expects a Status.
        let Refusal(code, message) = self;
        let reason = match code {
            StatusCode::NOT_FOUND => "NotFound",
            StatusCode::BAD_REQUEST => "BadRequest",
            _ => "InternalError",
        };
        let status = serde_json::json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code.as_u16(),
        });
        (code, [("content-type", "application/json")], status.to_string()).into_response()
    }
}

impl Node {
    /// A pod of this node.
    fn pod(&self, namespace: &str, name: &str) -> Result<Arc<Pod>, Refusal> {
        let pod = self.informers.pods.get(&Key::new(namespace, name));
        pod.ok_or_else(|| Refusal(StatusCode::NOT_FOUND, format!("pod \"{name}\" not found")))
    }
}
