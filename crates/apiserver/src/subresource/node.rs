//! What a pod's node answers: `log`, `exec`, `attach`, `portforward`.

use std::net::{IpAddr, SocketAddr};

use axum::body::Body;
use axum::response::Response;
use http::Method;
use http::request::Parts;
use serde_json::{Value, json};
use stead_api::error::ApiError;
use stead_api::meta;

use crate::admission::webhook::{Part, Write as Webhooks};
use crate::resource::{creation, current};
use crate::server::Call;

/// Names the container that commands mean when they name none.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Passes a request on to the node that runs the pod. Who speaks to a process by WebSocket, which
/// begins with GET, needs leave to create, as who does so by POST (since 1.35).
pub(crate) async fn serve(call: &Call<'_>, parts: &Parts, body: Body) -> Result<Response, ApiError> {
    let pod = current(call)?.value();
    let subresource = call.path.subresource.as_str();
    if subresource != "log" && parts.method == Method::GET {
        call.server.check(call.identity, &creation(call))?;
    }
    let place = format!("{}/{}", meta::namespace(&pod), meta::name(&pod));
    let uri = match subresource {
        "portforward" => format!(
            "/portForward/{place}{}",
            query(&call_pairs(call, &["ports", "port"]))
        ),
        "log" => {
            let container = container(call, &pod)?;
            let pairs = call_pairs(
                call,
                &[
                    "follow",
                    "previous",
                    "sinceSeconds",
                    "sinceTime",
                    "timestamps",
                    "tailLines",
                    "limitBytes",
                    "stream",
                ],
            );
            format!("/containerLogs/{place}/{container}{}", query(&pairs))
        }
        _ => {
            let container = container(call, &pod)?;
            let mut pairs = call_pairs(call, &["command"]);
            for (ours, theirs) in [
                ("stdin", "input"),
                ("stdout", "output"),
                ("stderr", "error"),
                ("tty", "tty"),
            ] {
                if call.query.is_true(ours) {
                    pairs.push((theirs.to_owned(), "1".to_owned()));
                }
            }
            format!("/{subresource}/{place}/{container}{}", query(&pairs))
        }
    };
    let node = node_address(call, &pod)?;
    let options = stream_options(call);
    if let Some(options) = &options {
        admit(call, options).await?;
    }
    call.server
        .nodes
        .forward(node, &uri, parts, body, &call.server.shutdown)
        .await
}

/// What a stream is asked for, as an object; none for logs, which only read.
fn stream_options(call: &Call<'_>) -> Option<(&'static str, Value)> {
    let kind = match call.path.subresource.as_str() {
        "exec" => "PodExecOptions",
        "attach" => "PodAttachOptions",
        "portforward" => "PodPortForwardOptions",
        _ => return None,
    };
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    for name in ["stdin", "stdout", "stderr", "tty"] {
        if call.query.is_true(name) {
            options[name] = true.into();
        }
    }
    if let Some(container) = call.query.text("container") {
        options["container"] = container.into();
    }
    let command = call.query.all("command");
    if !command.is_empty() {
        options["command"] = command.into();
    }
    let ports: Vec<u16> = call
        .query
        .all("ports")
        .iter()
        .filter_map(|port| port.parse().ok())
        .collect();
    if !ports.is_empty() {
        options["ports"] = ports.into();
    }
    Some((kind, options))
}

/// Lets webhooks refuse a stream.
async fn admit(call: &Call<'_>, (kind, options): &(&'static str, Value)) -> Result<(), ApiError> {
    let part = Part {
        group: "",
        version: "v1",
        kind,
    };
    match Webhooks::connection(call, part) {
        // Nobody reads the warnings of an answer that is a stream.
        Some(webhooks) => Box::pin(webhooks.validate(Some(options), &mut Vec::new())).await,
        None => Ok(()),
    }
}

fn call_pairs(call: &Call<'_>, names: &[&str]) -> Vec<(String, String)> {
    let pairs = names
        .iter()
        .flat_map(|name| call.query.all(name).into_iter().map(move |value| (*name, value)));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn query(pairs: &[(String, String)]) -> String {
    let texts: Vec<_> = pairs
        .iter()
        .map(|(name, value)| format!("{name}={}", percent_encode(value)))
        .collect();
    if texts.is_empty() {
        String::new()
    } else {
        format!("?{}", texts.join("&"))
    }
}

fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// The container that a request means.
fn container(call: &Call<'_>, pod: &Value) -> Result<String, ApiError> {
    let names = |list: &str| -> Vec<&str> {
        pod["spec"][list]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|c| c["name"].as_str())
            .collect()
    };
    let (containers, init) = (names("containers"), names("initContainers"));
    let ephemeral = names("ephemeralContainers");
    let pod_name = meta::name(pod);
    match call.query.text("container") {
        Some(name)
            if containers
                .iter()
                .chain(&init)
                .chain(&ephemeral)
                .any(|own| *own == name) =>
        {
            Ok(name.to_owned())
        }
        Some(name) => Err(ApiError::bad_request(format!(
            "container {name} is not valid for pod {pod_name}"
        ))),
        None => {
            let default = pod["metadata"]["annotations"][DEFAULT_CONTAINER].as_str();
            if let Some(name) = default.filter(|name| containers.contains(name)) {
                return Ok(name.to_owned());
            }
            match containers[..] {
                [only] => Ok(only.to_owned()),
                _ => {
                    let mut message = format!(
                        "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                        containers.join(" ")
                    );
                    if !init.is_empty() {
                        message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                    }
                    Err(ApiError::bad_request(message))
                }
            }
        }
    }
}

/// Where the node of a pod serves its API.
fn node_address(call: &Call<'_>, pod: &Value) -> Result<SocketAddr, ApiError> {
    let name = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if name.is_empty() {
        return Err(ApiError::bad_request(format!(
            "pod {} does not have a host assigned",
            meta::name(pod)
        )));
    }
    address_of(call, name)
}

/// Where a node serves its API.
pub(super) fn address_of(call: &Call<'_>, name: &str) -> Result<SocketAddr, ApiError> {
    let found = call.server.find(("", "nodes"), "", name);
    let (_, stored) = found.ok_or_else(|| ApiError::not_found("", "nodes", name))?;
    let node = stored.value();
    let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
    let address = addresses
        .filter(|address| address["type"] == "InternalIP")
        .find_map(|address| address["address"].as_str()?.parse::<IpAddr>().ok());
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    match (address, port.and_then(|port| u16::try_from(port).ok())) {
        (Some(address), Some(port)) => Ok(SocketAddr::new(address, port)),
        _ => Err(ApiError::internal(format!(
            "node {name} has no address or port to be reached at"
        ))),
    }
}
