//! Probes and lifecycle hooks.

use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, Lifecycle, PodSpec, Probe, SleepAction, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::error::{Errors, Path};
use crate::kinds::text;
use crate::names;

const SCHEMES: [&str; 2] = ["HTTP", "HTTPS"];
const HTTP_PROTOCOLS: [&str; 2] = ["HTTP1", "HTTP2"];
const GRPC_MODES: [&str; 2] = ["Plaintext", "TLS"];
const WINDOWS_SIGNALS: [&str; 2] = ["SIGKILL", "SIGTERM"];
const LINUX_SIGNALS: [&str; 65] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGRTMAX",
    "SIGRTMAX-1",
    "SIGRTMAX-10",
    "SIGRTMAX-11",
    "SIGRTMAX-12",
    "SIGRTMAX-13",
    "SIGRTMAX-14",
    "SIGRTMAX-2",
    "SIGRTMAX-3",
    "SIGRTMAX-4",
    "SIGRTMAX-5",
    "SIGRTMAX-6",
    "SIGRTMAX-7",
    "SIGRTMAX-8",
    "SIGRTMAX-9",
    "SIGRTMIN",
    "SIGRTMIN+1",
    "SIGRTMIN+10",
    "SIGRTMIN+11",
    "SIGRTMIN+12",
    "SIGRTMIN+13",
    "SIGRTMIN+14",
    "SIGRTMIN+15",
    "SIGRTMIN+2",
    "SIGRTMIN+3",
    "SIGRTMIN+4",
    "SIGRTMIN+5",
    "SIGRTMIN+6",
    "SIGRTMIN+7",
    "SIGRTMIN+8",
    "SIGRTMIN+9",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

/// Checks the hooks and probes of a container that goes on running.
pub(super) fn validate_all(container: &Container, spec: &PodSpec, path: &Path, errors: &mut Errors) {
    if let Some(lifecycle) = &container.lifecycle {
        validate_lifecycle(lifecycle, spec, &path.child("lifecycle"), errors);
    }
    let once = |probe: &Probe, path: &Path, errors: &mut Errors| {
        let threshold = probe.success_threshold.unwrap_or(0);
        if threshold != 1 {
            errors.invalid(&path.child("successThreshold"), &threshold, "must be 1");
        }
    };
    let mut validate = |field: &str, probe: &Option<Probe>, more: &dyn Fn(&Probe, &Path, &mut Errors)| {
        if let Some(probe) = probe {
            let path = path.child(field);
            validate_probe(probe, &path, errors);
            more(probe, &path, errors);
        }
    };
    validate("livenessProbe", &container.liveness_probe, &once);
    validate(
        "readinessProbe",
        &container.readiness_probe,
        &|probe, path, errors| {
            if let Some(period) = probe.termination_grace_period_seconds {
                let why = "must not be set for readinessProbes";
                errors.invalid(&path.child("terminationGracePeriodSeconds"), &period, why);
            }
        },
    );
    validate("startupProbe", &container.startup_probe, &once);
}

/// A container that runs once has neither.
pub(super) fn forbid(container: &Container, path: &Path, errors: &mut Errors) {
    for (field, is_set) in [
        ("lifecycle", container.lifecycle.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
    ] {
        if is_set {
            let why = "may not be set for init containers without restartPolicy=Always";
            errors.forbidden(&path.child(field), why);
        }
    }
}

fn validate_probe(probe: &Probe, path: &Path, errors: &mut Errors) {
    let handler = Handler {
        exec: probe.exec.as_ref(),
        http_get: probe.http_get.as_ref(),
        tcp_socket: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
        sleep: None,
    };
    handler.validate(None, path, errors);
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        errors.nonnegative(&path.child(field), value.unwrap_or(0).into());
    }
    if let Some(period) = probe
        .termination_grace_period_seconds
        .filter(|period| *period <= 0)
    {
        errors.invalid(
            &path.child("terminationGracePeriodSeconds"),
            &period,
            "must be greater than 0",
        );
    }
}

fn validate_lifecycle(lifecycle: &Lifecycle, spec: &PodSpec, path: &Path, errors: &mut Errors) {
    for (field, handler) in [
        ("postStart", &lifecycle.post_start),
        ("preStop", &lifecycle.pre_stop),
    ] {
        let Some(handler) = handler else { continue };
        let handler = Handler {
            exec: handler.exec.as_ref(),
            http_get: handler.http_get.as_ref(),
            tcp_socket: handler.tcp_socket.as_ref(),
            grpc: None,
            sleep: handler.sleep.as_ref(),
        };
        handler.validate(spec.termination_grace_period_seconds, &path.child(field), errors);
    }
    let Some(signal) = &lifecycle.stop_signal else {
        return;
    };
    let path = path.child("stopSignal");
    match spec.os.as_ref().map(|os| os.name.as_str()) {
        None => errors.forbidden(&path, "may not be set for containers with empty `spec.os.name`"),
        Some("windows") => errors.one_of(&path, signal, &WINDOWS_SIGNALS),
        Some("linux") => errors.one_of(&path, signal, &LINUX_SIGNALS),
        Some(_) => {}
    }
}

/// What a probe or hook does: one thing.
struct Handler<'h> {
    exec: Option<&'h ExecAction>,
    http_get: Option<&'h HTTPGetAction>,
    tcp_socket: Option<&'h TCPSocketAction>,
    grpc: Option<&'h GRPCAction>,
    sleep: Option<&'h SleepAction>,
}

impl Handler<'_> {
    fn validate(&self, grace_period: Option<i64>, path: &Path, errors: &mut Errors) {
        let mut found = false;
        let mut is_first = |field: &str, errors: &mut Errors| {
            if found {
                errors.forbidden(&path.child(field), "may not specify more than 1 handler type");
            }
            !std::mem::replace(&mut found, true)
        };
        if let Some(exec) = self.exec
            && is_first("exec", errors)
            && exec.command.as_ref().is_none_or(Vec::is_empty)
        {
            errors.required(&path.child("exec").child("command"), "");
        }
        if let Some(request) = self.http_get
            && is_first("httpGet", errors)
        {
            validate_request(request, &path.child("httpGet"), errors);
        }
        if let Some(socket) = self.tcp_socket
            && is_first("tcpSocket", errors)
        {
            validate_port(&socket.port, &path.child("tcpSocket").child("port"), errors);
        }
        if let Some(grpc) = self.grpc
            && is_first("grpc", errors)
        {
            let path = path.child("grpc");
            validate_port(&IntOrString::Int(grpc.port), &path.child("port"), errors);
            if let Some(mode) = &grpc.mode {
                errors.one_of(&path.child("mode"), mode, &GRPC_MODES);
            }
        }
        if let Some(sleep) = self.sleep
            && is_first("sleep", errors)
            && let Some(most) = grace_period
            && !(0..=most).contains(&sleep.seconds)
        {
            let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({most})");
            errors.invalid(&path.child("sleep"), &sleep.seconds, &why);
        }
        if !found {
            errors.required(path, "must specify a handler type");
        }
    }
}

fn validate_request(request: &HTTPGetAction, path: &Path, errors: &mut Errors) {
    errors.present(&path.child("path"), text(&request.path));
    validate_port(&request.port, &path.child("port"), errors);
    let scheme = text(&request.scheme);
    errors.one_of(&path.child("scheme"), scheme, &SCHEMES);
    for header in request.http_headers.iter().flatten() {
        errors.invalid_each(
            &path.child("httpHeaders"),
            &header.name,
            names::http_header_name(&header.name),
        );
    }
    if let Some(protocol) = &request.protocol {
        let at = path.child("protocol");
        errors.one_of(&at, protocol, &HTTP_PROTOCOLS);
        if protocol == "HTTP2" && scheme != "HTTP" {
            errors.invalid(&at, protocol, "is only supported with HTTP (H2C)");
        } else if protocol == "HTTP2" && !text(&request.host).is_empty() {
            let why = "must be empty when `protocol` is \"HTTP2\"";
            errors.invalid(&path.child("host"), text(&request.host), why);
        }
    }
}

/// Checks a port that may be given by number or by name.
pub(crate) fn validate_port(port: &IntOrString, path: &Path, errors: &mut Errors) {
    match port {
        IntOrString::Int(number) => {
            errors.invalid_each(path, number, names::port_number(i64::from(*number)));
        }
        IntOrString::String(name) => errors.invalid_each(path, name, names::port_name(name)),
    }
}
