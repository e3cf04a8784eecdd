//! Logs of containers.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde::Deserialize;
use stead_runtime::logs::{LogOptions, LogStream, read};
use tokio_util::sync::CancellationToken;

use super::Refusal;
use crate::node::Node;

/// `PodLogOptions`, as the query has them.
#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Options {
    follow: Option<String>,
    previous: Option<String>,
    since_seconds: Option<i64>,
    since_time: Option<String>,
    timestamps: Option<String>,
    tail_lines: Option<i64>,
    limit_bytes: Option<i64>,
    stream: Option<String>,
}

fn flag(value: &Option<String>) -> bool {
    value
        .as_deref()
        .is_some_and(|value| !matches!(value, "" | "0" | "false"))
}

pub(super) async fn serve(
    State(node): State<Arc<Node>>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    Query(options): Query<Options>,
) -> Result<Response, Refusal> {
    let pod = node.pod(&namespace, &name)?;
    let attempt = attempt(&pod, &container, flag(&options.previous))?;
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let path = node
        .config
        .pod_dirs(uid, &namespace, &name)
        .log(&container, attempt);
    let follow = flag(&options.follow).then(|| node.end_of(&pod, &container, attempt));
    let wanted = log_options(&options, follow)?;
    match read(path, wanted).await {
        Ok(stream) => Ok(([("content-type", "text/plain")], Body::from_stream(stream)).into_response()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(not_yet(&pod, &container)),
        Err(error) => Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

fn log_options(options: &Options, follow: Option<CancellationToken>) -> Result<LogOptions, Refusal> {
    let invalid = |what: &str| Refusal(StatusCode::BAD_REQUEST, format!("invalid {what}"));
    let count = |value: Option<i64>, what: &str| {
        value
            .map(|value| u64::try_from(value).map_err(|_| invalid(what)))
            .transpose()
    };
    let since = match (
        options.since_seconds,
        options.since_time.as_deref().filter(|time| !time.is_empty()),
    ) {
        (Some(seconds), _) => {
            let ago = jiff::SignedDuration::from_secs(seconds);
            Some(
                Timestamp::now()
                    .checked_sub(ago)
                    .map_err(|_| invalid("sinceSeconds"))?,
            )
        }
        (None, Some(time)) => Some(time.parse().map_err(|_| invalid("sinceTime"))?),
        (None, None) => None,
    };
    Ok(LogOptions {
        tail_lines: count(options.tail_lines, "tailLines")?,
        since,
        timestamps: flag(&options.timestamps),
        stream: match options.stream.as_deref() {
            Some("Stdout") => Some(LogStream::Stdout),
            Some("Stderr") => Some(LogStream::Stderr),
            _ => None,
        },
        limit_bytes: count(options.limit_bytes, "limitBytes")?,
        follow,
    })
}

fn status<'p>(pod: &'p Pod, container: &str) -> Option<&'p ContainerStatus> {
    let status = pod.status.as_ref()?;
    let main = status.container_statuses.iter().flatten();
    main.chain(status.init_container_statuses.iter().flatten())
        .find(|status| status.name == container)
}

/// Which attempt's log is meant.
fn attempt(pod: &Pod, container: &str, previous: bool) -> Result<u32, Refusal> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let bad = |message: String| Refusal(StatusCode::BAD_REQUEST, message);
    let Some(status) = status(pod, container) else {
        return Err(not_yet(pod, container));
    };
    let count = u32::try_from(status.restart_count).unwrap_or(0);
    let waits = status.state.as_ref().is_some_and(|state| state.waiting.is_some());
    let has_ended = status
        .last_state
        .as_ref()
        .is_some_and(|last| last.terminated.is_some());
    if previous {
        // A container that waits for its restart has its last attempt behind it.
        return match (waits && has_ended, count) {
            (true, count) => Ok(count),
            (false, 0) => Err(bad(format!(
                "previous terminated container \"{container}\" in pod \"{name}\" not found"
            ))),
            (false, count) => Ok(count - 1),
        };
    }
    if waits && !has_ended {
        return Err(not_yet(pod, container));
    }
    Ok(count)
}

/// 400 for a container that has no log yet, in the kubelet's words.
fn not_yet(pod: &Pod, container: &str) -> Refusal {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let waiting = status(pod, container)
        .and_then(|status| status.state.as_ref())
        .and_then(|state| state.waiting.as_ref());
    let why = match waiting.and_then(|waiting| waiting.reason.as_deref()) {
        Some("ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull") => {
            "trying and failing to pull image".to_owned()
        }
        Some(reason) => reason.to_owned(),
        None => "not available".to_owned(),
    };
    Refusal(
        StatusCode::BAD_REQUEST,
        format!("container \"{container}\" in pod \"{name}\" is waiting to start: {why}"),
    )
}

impl Node {
    /// Cancelled when a container's attempt has ended, so that a log that is followed ends too.
    fn end_of(&self, pod: &Pod, container: &str, attempt: u32) -> CancellationToken {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let pod = self.runtime.pod(uid);
        let found = pod.and_then(|pod| {
            let infos = pod.containers();
            let info = infos
                .into_iter()
                .find(|info| info.name == container && info.attempt == attempt)?;
            Some(self.end_of_container(&pod, &info.id))
        });
        found.unwrap_or_else(|| {
            let ended = CancellationToken::new();
            ended.cancel();
            ended
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(state: Value, last: Value, restarts: i32) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "status": {"containerStatuses": [{
                "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": restarts,
                "state": state, "lastState": last,
            }]},
        }))
        .expect("a pod")
    }

    #[test]
    fn the_attempt_follows_from_the_status() {
        let ended = || json!({"terminated": {"exitCode": 1}});
        let waiting = || json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let creating = || json!({"waiting": {"reason": "ContainerCreating"}});
        for (state, last, restarts, previous, expected) in [
            (json!({"running": {}}), json!({}), 0, false, Ok(0)),
            (json!({"running": {}}), ended(), 3, false, Ok(3)),
            (json!({"running": {}}), ended(), 3, true, Ok(2)),
            (waiting(), ended(), 3, false, Ok(3)),
            (waiting(), ended(), 3, true, Ok(3)),
            (
                json!({"running": {}}),
                json!({}),
                0,
                true,
                Err("previous terminated container \"c\" in pod \"p\" not found"),
            ),
            (
                creating(),
                json!({}),
                0,
                false,
                Err("container \"c\" in pod \"p\" is waiting to start: ContainerCreating"),
            ),
        ] {
            let pod = pod(state.clone(), last, restarts);
            let found = attempt(&pod, "c", previous).map_err(|Refusal(_, message)| message);
            assert_eq!(found, expected.map_err(str::to_owned), "{state} {previous}");
        }
    }
}
