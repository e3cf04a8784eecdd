//! Probes: what a probe asks for, one try of it (`check`), and the task that tries again and again
//! (`runner`). See "Liveness, Readiness, and Startup Probes".

mod check;
mod runner;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe as ApiProbe};
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

/// The probes of a container. One whose port is unknown is left out; the API server refuses others.
pub(crate) fn probes(container: &Container) -> BTreeMap<Kind, Probe> {
    [
        (Kind::Startup, &container.startup_probe),
        (Kind::Readiness, &container.readiness_probe),
        (Kind::Liveness, &container.liveness_probe),
    ]
    .into_iter()
    .filter_map(|(kind, probe)| Some((kind, parse(kind, probe.as_ref()?, container)?)))
    .collect()
}

fn parse(kind: Kind, probe: &ApiProbe, container: &Container) -> Option<Probe> {
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
    let port = |port: &IntOrString| port_number(port, container);
    let target = if let Some(exec) = &probe.exec {
        Target::Exec(exec.command.clone().unwrap_or_default())
    } else if let Some(http) = &probe.http_get {
        Target::Http {
            https: http.scheme.as_deref() == Some("HTTPS"),
            host: http.host.clone().filter(|host| !host.is_empty()),
            port: port(&http.port)?,
            path: http.path.clone().unwrap_or_else(|| "/".to_owned()),
            headers: http
                .http_headers
                .iter()
                .flatten()
                .map(|header| (header.name.clone(), header.value.clone()))
                .collect(),
        }
    } else if let Some(tcp) = &probe.tcp_socket {
        Target::Tcp {
            host: tcp.host.clone().filter(|host| !host.is_empty()),
            port: port(&tcp.port)?,
        }
    } else {
        let grpc = probe.grpc.as_ref()?;
        Target::Grpc {
            port: u16::try_from(grpc.port).ok()?,
            service: grpc.service.clone().unwrap_or_default(),
        }
    };
    Some(Probe {
        kind,
        target,
        initial_delay: seconds(probe.initial_delay_seconds, 0),
        period: seconds(probe.period_seconds, 10).max(Duration::from_secs(1)),
        timeout: seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1)),
        success_threshold: count(probe.success_threshold, 1).max(1),
        failure_threshold: count(probe.failure_threshold, 3).max(1),
        grace: probe
            .termination_grace_period_seconds
            .and_then(|s| u64::try_from(s).ok())
            .map(Duration::from_secs),
    })
}

/// A port by number, or by the name it has in the container.
pub(crate) fn port_number(port: &IntOrString, container: &Container) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let named = container
                .ports
                .iter()
                .flatten()
                .find(|port| port.name.as_ref() == Some(name));
            named
                .and_then(|port| u16::try_from(port.container_port).ok())
                .or_else(|| name.parse().ok())
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
        assert_eq!(
            probes.keys().collect::<Vec<_>>(),
            [&Kind::Readiness, &Kind::Liveness]
        );
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
