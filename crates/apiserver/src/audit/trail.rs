//! What is written down of one request while it is answered.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::HeaderMap;
use http::header::USER_AGENT;
use http::request::Parts;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};
use stead_api::{meta, time};

use super::Audit;
use super::policy::{Extent, Level, Place, Seen, Stage};
use crate::authz::Decision;
use crate::body;
use crate::identity::Identity;
use crate::listen::Peer;
use crate::request::{Target, Verb};
use crate::resource::new_uid;
use crate::reviews::user;

/// The larger part of the event, and what of it is to be written.
pub(crate) struct Trail {
    audit: Arc<Audit>,
    extent: Extent,
    event: Value,
    /// Its answer has no end that one could wait for.
    long: bool,
}

impl Trail {
    /// Begins to write down a request. `identity` made it, as `acting` if that is somebody else; none
    /// for somebody whose credentials are no good.
    pub(crate) fn begin(
        audit: &Arc<Audit>,
        parts: &Parts,
        target: &Target,
        verb: Option<Verb>,
        (identity, acting): (Option<&Identity>, Option<&Identity>),
    ) -> Option<Trail> {
        let method = parts.method.as_str().to_ascii_lowercase();
        let verb_name = match verb {
            Some(verb) => verb.name(),
            None => method.as_str(),
        };
        let place = match target {
            Target::Resource(path) => Place::Resource(path),
            Target::Other(path) => Place::Path(path),
        };
        let seen = Seen {
            identity: acting.or(identity),
            verb: verb_name,
            target: place,
        };
        let extent = audit.policy.extent(&seen)?;
        let mut event = json!({
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": extent.level.name(),
            "auditID": new_uid(),
            "requestURI": parts.uri.path_and_query().map_or("/", |path| path.as_str()),
            "verb": verb_name,
            "user": identity.map(user).unwrap_or_else(|| json!({})),
            "requestReceivedTimestamp": now(),
        });
        if let Some(acting) = acting {
            event["impersonatedUser"] = user(acting);
        }
        if let Some(Peer(peer)) = parts.extensions.get::<Peer>() {
            event["sourceIPs"] = json!([peer.ip()]);
        }
        if let Some(agent) = parts
            .headers
            .get(USER_AGENT)
            .and_then(|agent| agent.to_str().ok())
        {
            event["userAgent"] = agent.into();
        }
        let mut long = verb == Some(Verb::Watch);
        if let Target::Resource(path) = target {
            long |= matches!(
                path.subresource.as_str(),
                "exec" | "attach" | "portforward" | "log"
            );
            for (field, value) in [
                ("resource", &path.resource),
                ("namespace", &path.namespace),
                ("name", &path.name),
                ("apiGroup", &path.group),
                ("apiVersion", &path.version),
                ("subresource", &path.subresource),
            ] {
                if !value.is_empty() {
                    event["objectRef"][field] = value.as_str().into();
                }
            }
        }
        let trail = Trail {
            audit: Arc::clone(audit),
            extent,
            event,
            long,
        };
        trail.write(Stage::RequestReceived);
        Some(trail)
    }

    /// Notes whether the request is allowed.
    pub(crate) fn decided(&mut self, decision: &Decision) {
        let word = if decision.allowed { "allow" } else { "forbid" };
        self.event["annotations"] = json!({
            "authorization.k8s.io/decision": word,
            "authorization.k8s.io/reason": decision.reason,
        });
    }

    /// Notes the request's body.
    pub(crate) fn sent(&mut self, headers: &HeaderMap, body: &Bytes) {
        if self.extent.level >= Level::Request
            && let Some(object) = body::look(headers, body)
        {
            let name = meta::name(&object);
            if self.event["objectRef"]["name"].is_null() && !name.is_empty() {
                self.event["objectRef"]["name"] = name.into();
            }
            self.event["requestObject"] = self.shown(object);
        }
    }

    /// Notes the answer, and writes down how the request ended.
    pub(crate) async fn answered(mut self, response: Response, panicked: bool) -> Response {
        let status = response.status();
        self.event["responseStatus"] = json!({"metadata": {}, "code": status.as_u16()});
        if panicked {
            self.write(Stage::Panic);
            return response;
        }
        if self.long && status.is_success() {
            self.write(Stage::ResponseStarted);
            return response.map(|body| Body::new(Watched { body, trail: self }));
        }
        let wants_body = self.extent.level == Level::RequestResponse || !status.is_success();
        if !wants_body {
            self.write(Stage::ResponseComplete);
            return response;
        }
        let (parts, body) = response.into_parts();
        let bytes = match body.collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(_) => Bytes::new(),
        };
        if let Some(object) = body::look(&parts.headers, &bytes) {
            if object["kind"] == "Status" {
                for field in ["status", "message", "reason", "details"] {
                    if !object[field].is_null() {
                        self.event["responseStatus"][field] = object[field].clone();
                    }
                }
            }
            if self.extent.level == Level::RequestResponse {
                self.event["responseObject"] = self.shown(object);
            }
        }
        self.write(Stage::ResponseComplete);
        Response::from_parts(parts, Body::from(bytes))
    }

    fn shown(&self, mut object: Value) -> Value {
        if self.extent.omit_managed_fields {
            for item in object["items"].as_array_mut().into_iter().flatten() {
                meta::remove(item, "managedFields");
            }
            if object["metadata"].is_object() {
                meta::remove(&mut object, "managedFields");
            }
        }
        object
    }

    fn write(&self, stage: Stage) {
        if self.extent.omitted.contains(&stage) {
            return;
        }
        let mut event = self.event.clone();
        event["stage"] = stage.name().into();
        event["stageTimestamp"] = now().into();
        self.audit.log.write(&event);
    }
}

fn now() -> String {
    time::rfc3339_micro(Timestamp::now())
}

/// An answer without an end that is known: when it is over, that is written down.
struct Watched {
    body: Body,
    trail: Trail,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.trail.write(Stage::ResponseComplete);
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
