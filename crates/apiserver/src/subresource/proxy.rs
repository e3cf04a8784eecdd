//! `proxy` of pods, services and nodes: a request goes on to what is behind them ("Access Services
//! Running on Clusters"; `kubectl proxy`).

use std::net::{IpAddr, SocketAddr};

use axum::body::Body;
use axum::response::Response;
use http::header::LOCATION;
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use serde_json::Value;
use stead_api::error::ApiError;

use super::node::address_of;
use crate::endpoints::Unreachable;
use crate::node_proxy::{NotPassed, Speak};
use crate::request::ResourcePath;
use crate::resource::current;
use crate::server::Call;

/// Passes a request on to what the path names: `[SCHEME:]NAME[:PORT]/proxy/PATH`.
pub(crate) async fn serve(call: &Call<'_>, parts: &Parts, body: Body) -> Result<Response, ApiError> {
    let (before, after) = split(parts.uri.path());
    if after.is_empty() && parts.method.is_safe() {
        // What links in the answer are relative to.
        return Ok(moved(&format!("{before}/")));
    }
    let meant = Meant::read(&call.path.name)?;
    let path = ResourcePath {
        name: meant.name.to_owned(),
        ..call.path.clone()
    };
    let named = Call { path: &path, ..*call };
    let to = match call.kind.plural {
        "nodes" => (address_of(call, meant.name)?, Speak::Node),
        "services" => (service(&named, &meant)?, meant.speak),
        _ => (pod(&current(&named)?.value(), &meant)?, meant.speak),
    };
    let query = parts
        .uri
        .query()
        .map_or(String::new(), |query| format!("?{query}"));
    let after = if after.is_empty() { "/" } else { after };
    let passed = call
        .server
        .nodes
        .pass(to, &format!("{after}{query}"), parts, body, &call.server.shutdown)
        .await;
    let mut response = passed.map_err(|error| match error {
        NotPassed::Unreachable(why) => ApiError::new(
            503,
            "ServiceUnavailable",
            format!("error trying to reach service: dial tcp {}: {why}", to.0),
        ),
        NotPassed::Refused(error) => error,
    })?;
    // Where the server behind sends one to is seen from here under the same path.
    let location = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
    if let Some(seen) = location.and_then(|location| relocated(location, before))
        && let Ok(seen) = HeaderValue::from_str(&seen)
    {
        response.headers_mut().insert(LOCATION, seen);
    }
    Ok(response)
}

/// A path up to its `proxy`, and what follows.
fn split(path: &str) -> (&str, &str) {
    let end = path.find("/proxy/").map(|at| at + "/proxy".len());
    path.split_at(end.unwrap_or(path.len()))
}

fn relocated(location: &str, before: &str) -> Option<String> {
    (location.starts_with('/') && !location.starts_with("//")).then(|| format!("{before}{location}"))
}

fn moved(to: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(to) = HeaderValue::from_str(to) {
        response.headers_mut().insert(LOCATION, to);
    }
    response
}

/// What a name with scheme and port means.
#[derive(Debug, PartialEq, Eq)]
struct Meant<'a> {
    speak: Speak,
    name: &'a str,
    /// A number or a name; empty for the one there is.
    port: &'a str,
}

impl<'a> Meant<'a> {
    fn read(text: &'a str) -> Result<Meant<'a>, ApiError> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts[..] {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => ("?", "", ""),
        };
        let speak = match scheme {
            "" | "http" => Speak::Http,
            "https" => Speak::Https,
            _ => {
                return Err(ApiError::bad_request(format!(
                    "invalid request {}: it must be NAME, NAME:PORT or SCHEME:NAME:PORT, where SCHEME is http or https",
                    stead_api::error::quote(text)
                )));
            }
        };
        Ok(Meant { speak, name, port })
    }
}

fn service(call: &Call<'_>, meant: &Meant<'_>) -> Result<SocketAddr, ApiError> {
    let number = meant.port.parse::<i32>().ok();
    let found = call.server.endpoint(
        &call.path.namespace,
        meant.name,
        |own| match number {
            Some(number) => own.port == number,
            None => own.name.as_deref().unwrap_or_default() == meant.port,
        },
        meant.port,
    );
    found.map_err(|error| match error {
        Unreachable::Service(_) => call.not_found(),
        error => ApiError::new(503, "ServiceUnavailable", error.why()),
    })
}

/// Where a pod is reached: at the port that is named, or else the first that it has.
fn pod(pod: &Value, meant: &Meant<'_>) -> Result<SocketAddr, ApiError> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let number = |port: &Value| {
        port["containerPort"]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok())
    };
    let port = match meant.port.parse::<u16>() {
        Ok(port) => Some(port),
        Err(_) if meant.port.is_empty() => ports.next().map_or(Some(80), number),
        Err(_) => ports.find(|port| port["name"] == meant.port).and_then(number),
    };
    let port = port.ok_or_else(|| {
        ApiError::bad_request(format!(
            "the pod has no port {}",
            stead_api::error::quote(meant.port)
        ))
    })?;
    let address = pod["status"]["podIP"].as_str().unwrap_or_default();
    let address: IpAddr = address.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "address {} of the pod cannot be reached",
            stead_api::error::quote(address)
        ))
    })?;
    if is_local(address) {
        return Err(ApiError::bad_request("address not allowed"));
    }
    Ok(SocketAddr::new(address, port))
}

/// Addresses of this computer or link alone, which a pod's status must not lead to.
fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_unspecified()
        }
        IpAddr::V6(address) => {
            let link_local = address.segments()[0] & 0xffc0 == 0xfe80;
            address.is_loopback() || link_local || address.is_multicast() || address.is_unspecified()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_may_say_scheme_and_port() {
        let read = |text| Meant::read(text).ok();
        let meant = |speak, name, port| Some(Meant { speak, name, port });
        assert_eq!(read("a"), meant(Speak::Http, "a", ""));
        assert_eq!(read("a:80"), meant(Speak::Http, "a", "80"));
        assert_eq!(read("https:a:web"), meant(Speak::Https, "a", "web"));
        assert_eq!(read("http:a:"), meant(Speak::Http, "a", ""));
        assert_eq!(read("ftp:a:1"), None);
        assert_eq!(read("a:b:c:d"), None);
    }

    #[test]
    fn a_pod_is_reached_at_its_port() {
        let object = |ip: &str| {
            json!({"spec": {"containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}, {"containerPort": 9}]}]},
            "status": {"podIP": ip}})
        };
        let at = |ip: &str, port: &str| {
            let meant = Meant {
                speak: Speak::Http,
                name: "p",
                port,
            };
            pod(&object(ip), &meant).ok().map(|address| address.to_string())
        };
        assert_eq!(at("10.1.2.3", "").as_deref(), Some("10.1.2.3:8080"));
        assert_eq!(at("10.1.2.3", "web").as_deref(), Some("10.1.2.3:8080"));
        assert_eq!(at("10.1.2.3", "9").as_deref(), Some("10.1.2.3:9"));
        assert_eq!(at("10.1.2.3", "other"), None);
        assert_eq!(at("", "9"), None);
        for local in ["127.0.0.1", "169.254.169.254", "::1", "fe80::1", "0.0.0.0"] {
            assert_eq!(at(local, "9"), None, "{local}");
        }
    }

    #[test]
    fn the_rest_of_a_path_goes_on() {
        let path = "/api/v1/namespaces/n/pods/p/proxy/a/proxy/b/";
        assert_eq!(split(path), ("/api/v1/namespaces/n/pods/p/proxy", "/a/proxy/b/"));
        assert_eq!(split("/api/v1/nodes/n/proxy"), ("/api/v1/nodes/n/proxy", ""));
        assert_eq!(relocated("/x", "/base/proxy").as_deref(), Some("/base/proxy/x"));
        assert_eq!(relocated("https://other/x", "/base/proxy"), None);
    }
}
