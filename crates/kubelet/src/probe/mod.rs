//! Probes: what a probe asks for, one try of it (`check`), and the task that tries again and again
//! (`runner`). See "Liveness, Readiness, and Startup Probes".

mod check;
mod runner;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe as ApiProbe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

pub(crate) use check::{Outcome, Prober, check};
pub(crate) use runner::{Report, run};

/// Which of a container's probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    /// As events write it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Readiness => "Readiness",
            Kind::Liveness => "Liveness",
        }
    }
}

/// What a probe does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Exec(Vec<String>),
    Http {
        https: bool,
        host: Option<String>,
        port: u16,
        path: String,
        headers: Vec<(String, String)>,
    },
    Tcp {
        host: Option<String>,
        port: u16,
    },
    Grpc {
        port: u16,
        service: String,
    },
    /// One that cannot be tried, and why: its port is unknown.
    Unknown(String),
}

/// A probe with its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) kind: Kind,
    pub(crate) target: Target,
    pub(crate) initial_delay: Duration,
    pub(crate) period: Duration,
    pub(crate) timeout: Duration,
    pub(crate) success_threshold: u32,
    pub(crate) failure_threshold: u32,
    /// How long the container gets when this probe ends it, if it says so.
    pub(crate) grace: Option<Duration>,
}

/// The probes of a container.
pub(crate) fn probes(container: &Container) -> BTreeMap<Kind, Probe> {
    [
        (Kind::Startup, &container.startup_probe),
        (Kind::Readiness, &container.readiness_probe),
        (Kind::Liveness, &container.liveness_probe),
    ]
    .into_iter()
    .filter_map(|(kind, probe)| Some((kind, parse(kind, probe.as_ref()?, container))))
    .collect()
}

fn parse(kind: Kind, probe: &ApiProbe, container: &Container) -> Probe {
    let seconds = |value: Option<i32>, default: u64| {
        Duration::from_secs(
            value
                .and_then(|value| u64::try_from(value).ok())
                .unwrap_or(default),
        )
    };
    let count = |value: Option<i32>, default: u32| {
        value
            .and_then(|value| u32::try_from(value).ok())
            .unwrap_or(default)
    };
    Probe {
        kind,
        target: target(probe, container).unwrap_or_else(Target::Unknown),
        initial_delay: seconds(probe.initial_delay_seconds, 0),
        period: seconds(probe.period_seconds, 10).max(Duration::from_secs(1)),
        timeout: seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1)),
        success_threshold: count(probe.success_threshold, 1).max(1),
        failure_threshold: count(probe.failure_threshold, 3).max(1),
        grace: probe
            .termination_grace_period_seconds
            .and_then(|s| u64::try_from(s).ok())
            .map(Duration::from_secs),
    }
}

fn target(probe: &ApiProbe, container: &Container) -> Result<Target, String> {
    if let Some(exec) = &probe.exec {
        return Ok(Target::Exec(exec.command.clone().unwrap_or_default()));
    }
    if let Some(http) = &probe.http_get {
        return http_target(http, container);
    }
    if let Some(tcp) = &probe.tcp_socket {
        return Ok(Target::Tcp {
            host: tcp.host.clone().filter(|host| !host.is_empty()),
            port: port_number(&tcp.port, container)?,
        });
    }
    // The API server refuses a probe without a handler.
    let grpc = probe.grpc.as_ref().ok_or("missing probe handler")?;
    Ok(Target::Grpc {
        port: port(grpc.port)?,
        service: grpc.service.clone().unwrap_or_default(),
    })
}

/// What an HTTP request of a probe or hook goes to.
pub(crate) fn http_target(http: &HTTPGetAction, container: &Container) -> Result<Target, String> {
    Ok(Target::Http {
        https: http.scheme.as_deref() == Some("HTTPS"),
        host: http.host.clone().filter(|host| !host.is_empty()),
        port: port_number(&http.port, container)?,
        path: http.path.clone().unwrap_or_else(|| "/".to_owned()),
        headers: http
            .http_headers
            .iter()
            .flatten()
            .map(|header| (header.name.clone(), header.value.clone()))
            .collect(),
    })
}

fn port(number: i32) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("invalid port number: {number}")),
    }
}

/// A port by number, or by the name it has in the container; or why there is none, as Go says it.
fn port_number(wanted: &IntOrString, container: &Container) -> Result<u16, String> {
    let name = match wanted {
        IntOrString::Int(number) => return port(*number),
        IntOrString::String(name) => name,
    };
    let mut ports = container.ports.iter().flatten();
    match ports.find(|port| port.name.as_ref() == Some(name)) {
        Some(named) => port(named.container_port),
        None => {
            let number = name
                .parse()
                .map_err(|_| format!("strconv.Atoi: parsing {name:?}: invalid syntax"));
            number.and_then(port)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn probes_have_kubernetes_defaults_and_know_ports_by_name() {
        let container: Container = serde_json::from_value(json!({
            "name": "c",
            "ports": [{"name": "web", "containerPort": 8080}],
            "readinessProbe": {"httpGet": {"port": "web"}},
            "livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 5, "failureThreshold": 1},
            "startupProbe": {"tcpSocket": {"port": "nope"}},
        }))
        .expect("a container");
        let probes = probes(&container);
        let nowhere = "strconv.Atoi: parsing \"nope\": invalid syntax".to_owned();
        assert_eq!(probes[&Kind::Startup].target, Target::Unknown(nowhere));
        let ready = &probes[&Kind::Readiness];
        assert_eq!(
            (
                ready.period.as_secs(),
                ready.timeout.as_secs(),
                ready.failure_threshold
            ),
            (10, 1, 3)
        );
        assert!(matches!(&ready.target, Target::Http { port: 8080, path, .. } if path == "/"));
        assert_eq!(probes[&Kind::Liveness].period.as_secs(), 5);
    }
}
