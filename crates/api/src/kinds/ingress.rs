//! Ingress (networking.k8s.io/v1): what of HTTP from outside goes to which Service. Kept and served;
//! what acts on it is an ingress controller, which this server does not bring along.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::TypedLocalObjectReference;
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, Ingress, IngressBackend, IngressLoadBalancerIngress, IngressRule, IngressServiceBackend,
    IngressSpec, IngressTLS,
};
use serde_json::Value;

use super::{ip, name_cell, reference_part, text};
use crate::error::{Errors, Path};
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Generation, Kind, Subresource};
use crate::table::age;
use crate::{go, names};

pub(super) static KIND: Kind = Kind {
    short_names: &["ing"],
    subresources: &[Subresource::status("Ingress")],
    generation: Generation::Spec,
    columns: &[
        Column::NAME,
        Column::new("Class", "the class that it is of"),
        Column::new("Hosts", "the hosts that its rules are for"),
        Column::new("Address", "where it is reached"),
        Column::new("Ports", "the ports at which it is reached"),
        Column::AGE,
    ],
    caveat: Some(
        "no ingress controller comes with this cluster: an Ingress has no effect until one is installed",
    ),
    ..Kind::new(
        ("networking.k8s.io", "v1", "Ingress"),
        ("ingresses", "ingress"),
        "io.k8s.api.networking.v1.Ingress",
        Logic::of::<Ingress>(),
    )
};

/// How the class was told before there was a field.
const CLASS: &str = "kubernetes.io/ingress.class";
const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];
const NOT_IN_PATHS: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const NOT_AT_ENDS: [&str; 2] = ["/..", "/."];
const NO_ADDRESS: &str = "must be a DNS name, not an IP address";
/// Hosts that a row lists.
const SHOWN: usize = 3;

/// What an update may keep as it is.
#[derive(Default)]
struct Options {
    secret_names: bool,
    wildcard_rules: bool,
}

impl ApiObject for Ingress {
    fn validate(&self, errors: &mut Errors) {
        let spec = self.spec.clone().unwrap_or_default();
        validate_spec(&spec, &Options::default(), errors);
        if let (Some(class), Some(name)) = (class_annotation(self), &spec.ingress_class_name)
            && class != name
        {
            let path = Path::new("annotations").child(CLASS);
            errors.invalid(
                &path,
                class,
                "must match `ingressClassName` when both are specified",
            );
        }
    }

    fn validate_update(&self, old: &Ingress, errors: &mut Errors) {
        let old = old.spec.clone().unwrap_or_default();
        let options = Options {
            secret_names: old
                .tls
                .iter()
                .flatten()
                .any(|tls| !secret_name_objections(tls).is_empty()),
            wildcard_rules: old
                .rules
                .iter()
                .flatten()
                .any(|rule| is_wildcard(rule) && !has_valid_paths(rule)),
        };
        validate_spec(&self.spec.clone().unwrap_or_default(), &options, errors);
    }

    fn validate_status_update(&self, old: &Ingress, errors: &mut Errors) {
        let old = addresses(old);
        let known: Vec<&str> = old.iter().filter_map(|address| address.ip.as_deref()).collect();
        let path = Path::new("status").child("loadBalancer").child("ingress");
        for (at, address) in addresses(self).iter().enumerate() {
            let path = path.index(at);
            let (address, host) = (text(&address.ip), text(&address.hostname));
            if !address.is_empty() {
                ip::validate(address, &known, &path.child("ip"), errors);
            }
            if !host.is_empty() {
                let path = path.child("hostname");
                errors.invalid_each(&path, host, names::dns_subdomain(host));
                if ip::parse(host).is_some() {
                    errors.invalid(&path, host, NO_ADDRESS);
                }
            }
        }
    }

    fn warnings(&self, old: Option<&Ingress>) -> Vec<String> {
        let named = self
            .spec
            .as_ref()
            .is_some_and(|spec| spec.ingress_class_name.is_some());
        if old.is_some() || named || class_annotation(self).is_none() {
            return Vec::new();
        }
        vec![format!(
            "annotation \"{CLASS}\" is deprecated, please use 'spec.ingressClassName' instead"
        )]
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let has_tls = spec.tls.as_ref().is_some_and(|tls| !tls.is_empty());
        let mut reached: Vec<String> = addresses(self)
            .iter()
            .filter_map(|address| {
                let ip = address.ip.clone().filter(|ip| !ip.is_empty());
                ip.or_else(|| address.hostname.clone().filter(|host| !host.is_empty()))
            })
            .collect();
        reached.sort();
        reached.dedup();
        vec![
            name_cell(&self.metadata),
            spec.ingress_class_name.as_deref().unwrap_or("<none>").into(),
            hosts(spec.rules.as_deref().unwrap_or_default()).into(),
            reached.join(",").into(),
            if has_tls { "80, 443" } else { "80" }.into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
        ]
    }
}

fn class_annotation(ingress: &Ingress) -> Option<&str> {
    let annotations = ingress.metadata.annotations.as_ref()?;
    annotations.get(CLASS).map(String::as_str)
}

fn addresses(ingress: &Ingress) -> &[IngressLoadBalancerIngress] {
    let balancer = ingress
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    balancer
        .and_then(|balancer| balancer.ingress.as_deref())
        .unwrap_or_default()
}

fn hosts(rules: &[IngressRule]) -> String {
    let hosts: Vec<&str> = rules
        .iter()
        .map(|rule| text(&rule.host))
        .filter(|host| !host.is_empty())
        .collect();
    match hosts.get(..SHOWN) {
        _ if hosts.is_empty() => "*".to_owned(),
        Some(shown) if hosts.len() > SHOWN => {
            format!("{} + {} more...", shown.join(","), hosts.len() - SHOWN)
        }
        _ => hosts.join(","),
    }
}

fn validate_spec(spec: &IngressSpec, options: &Options, errors: &mut Errors) {
    let path = Path::new("spec");
    let rules = spec.rules.as_deref().unwrap_or_default();
    if rules.is_empty() && spec.default_backend.is_none() {
        let shown = go::syntax("[]networking.IngressRule", &spec.rules);
        errors.invalid(
            &path,
            &shown,
            "either `defaultBackend` or `rules` must be specified",
        );
    }
    if let Some(backend) = &spec.default_backend {
        validate_backend(backend, &path.child("defaultBackend"), errors);
    }
    for (at, rule) in rules.iter().enumerate() {
        validate_rule(rule, options, &path.child("rules").index(at), errors);
    }
    for (at, tls) in spec.tls.iter().flatten().enumerate() {
        let path = path.child("tls").index(at);
        for (at, host) in tls.hosts.iter().flatten().enumerate() {
            validate_host(host, &path.child("hosts").index(at), errors);
        }
        if !options.secret_names {
            let path = path.child("secretName");
            errors.invalid_each(&path, text(&tls.secret_name), secret_name_objections(tls));
        }
    }
    if let Some(class) = &spec.ingress_class_name {
        errors.invalid_each(
            &path.child("ingressClassName"),
            class,
            names::dns_subdomain(class),
        );
    }
}

fn secret_name_objections(tls: &IngressTLS) -> Vec<String> {
    match text(&tls.secret_name) {
        "" => Vec::new(),
        name => names::dns_subdomain(name),
    }
}

fn validate_host(host: &str, path: &Path, errors: &mut Errors) {
    let objections = if host.contains('*') {
        names::wildcard_dns_subdomain(host)
    } else {
        names::dns_subdomain(host)
    };
    errors.invalid_each(path, host, objections);
}

fn is_wildcard(rule: &IngressRule) -> bool {
    text(&rule.host).contains('*')
}

fn has_valid_paths(rule: &IngressRule) -> bool {
    let mut errors = Errors::new();
    validate_paths(rule, &Path::root(), &mut errors);
    errors.is_empty()
}

fn validate_rule(rule: &IngressRule, options: &Options, path: &Path, errors: &mut Errors) {
    let host = text(&rule.host);
    if !host.is_empty() {
        let path = path.child("host");
        if ip::parse(host).is_some() {
            errors.invalid(&path, host, NO_ADDRESS);
        }
        validate_host(host, &path, errors);
    }
    if !is_wildcard(rule) || !options.wildcard_rules {
        validate_paths(rule, path, errors);
    }
}

fn validate_paths(rule: &IngressRule, path: &Path, errors: &mut Errors) {
    let Some(http) = &rule.http else { return };
    let path = path.child("http").child("paths");
    if http.paths.is_empty() {
        errors.required(&path, "");
    }
    for (at, one) in http.paths.iter().enumerate() {
        validate_path(one, &path.index(at), errors);
    }
}

fn validate_path(one: &HTTPIngressPath, path: &Path, errors: &mut Errors) {
    let given = text(&one.path);
    let at = path.child("path");
    match one.path_type.as_str() {
        "" => {
            errors.required(&path.child("pathType"), "pathType must be specified");
            return;
        }
        "Exact" | "Prefix" => {
            if !given.starts_with('/') {
                errors.invalid(&at, given, "must be an absolute path");
            }
            for part in NOT_IN_PATHS.iter().filter(|part| given.contains(**part)) {
                errors.invalid(&at, given, &format!("must not contain '{part}'"));
            }
            for end in NOT_AT_ENDS.iter().filter(|end| given.ends_with(**end)) {
                errors.invalid(&at, given, &format!("cannot end with '{end}'"));
            }
        }
        "ImplementationSpecific" => {
            if !given.is_empty() && !given.starts_with('/') {
                errors.invalid(&at, given, "must be an absolute path");
            }
        }
        other => errors.not_supported(&path.child("pathType"), other, &PATH_TYPES),
    }
    validate_backend(&one.backend, &path.child("backend"), errors);
}

fn validate_backend(backend: &IngressBackend, path: &Path, errors: &mut Errors) {
    match (&backend.resource, &backend.service) {
        (Some(_), Some(_)) => errors.invalid(path, "", "cannot set both resource and service backends"),
        (Some(resource), None) => validate_resource(resource, &path.child("resource"), errors),
        (None, Some(service)) => validate_service(service, path, errors),
        (None, None) => errors.invalid(path, "", "resource or service backend is required"),
    }
}

fn validate_resource(resource: &TypedLocalObjectReference, path: &Path, errors: &mut Errors) {
    if let Some(group) = &resource.api_group {
        errors.invalid_each(&path.child("apiGroup"), group, names::dns_subdomain(group));
    }
    reference_part(&resource.kind, &path.child("kind"), errors);
    reference_part(&resource.name, &path.child("name"), errors);
}

fn validate_service(service: &IngressServiceBackend, path: &Path, errors: &mut Errors) {
    let at = path.child("service");
    if service.name.is_empty() {
        errors.required(&at.child("name"), "");
    } else {
        errors.invalid_each(&at.child("name"), &service.name, names::dns_label(&service.name));
    }
    let port = service.port.clone().unwrap_or_default();
    let (name, number) = (text(&port.name), port.number.unwrap_or(0));
    let at = at.child("port");
    match (name, number) {
        ("", 0) => errors.required(path, "port name or number is required"),
        ("", number) => {
            errors.invalid_each(&at.child("number"), &number, names::port_number(number.into()));
        }
        (name, 0) => errors.invalid_each(&at.child("name"), name, names::port_name(name)),
        _ => errors.invalid(path, "", "cannot set both port name & port number"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ingress(spec: Value) -> Ingress {
        serde_json::from_value(json!({"metadata": {"name": "i"}, "spec": spec})).expect("an ingress")
    }

    fn rule(host: &str, path: Value) -> Value {
        json!({"rules": [{"host": host, "http": {"paths": [path]}}]})
    }

    #[test]
    fn rules_say_where_requests_go() {
        let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
        let path = |path: &str, of: &str| json!({"path": path, "pathType": of, "backend": backend});
        for (spec, expected) in [
            (rule("a.b", path("/", "Prefix")), ""),
            (rule("*.b", path("", "ImplementationSpecific")), ""),
            (
                json!({}),
                "spec: Invalid value: []networking.IngressRule(nil): either `defaultBackend` or `rules` must be specified",
            ),
            (
                rule("a.b", path("a//b", "Exact")),
                "[spec.rules[0].http.paths[0].path: Invalid value: \"a//b\": must be an absolute path, \
                 spec.rules[0].http.paths[0].path: Invalid value: \"a//b\": must not contain '//']",
            ),
            (
                rule("a.b", path("/", "Regex")),
                "spec.rules[0].http.paths[0].pathType: Unsupported value: \"Regex\": supported values: \"Exact\", \
                 \"ImplementationSpecific\", \"Prefix\"",
            ),
            (
                rule("10.0.0.1", path("/", "Exact")),
                "spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address",
            ),
            (
                json!({"defaultBackend": {"service": {"name": "s"}}}),
                "spec.defaultBackend: Required value: port name or number is required",
            ),
            (
                json!({"defaultBackend": {}}),
                "spec.defaultBackend: Invalid value: \"\": resource or service backend is required",
            ),
        ] {
            let mut errors = Errors::new();
            ingress(spec.clone()).validate(&mut errors);
            let found = if errors.is_empty() {
                String::new()
            } else {
                errors.summary()
            };
            assert_eq!(found, expected, "{spec}");
        }
    }

    #[test]
    fn a_row_has_three_hosts_and_counts_the_rest() {
        let rules: Vec<Value> = ["a", "b", "", "c", "d"]
            .iter()
            .map(|host| json!({"host": host}))
            .collect();
        let mut ingress = ingress(json!({"rules": rules, "tls": [{}]}));
        ingress.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [
            {"hostname": "x.example"}, {"ip": "10.0.0.1"}, {"ip": "10.0.0.1"},
        ]}}))
        .expect("a status");
        let row = ingress.row(Timestamp::UNIX_EPOCH);
        assert_eq!(
            row[1..5],
            ["<none>", "a,b,c + 1 more...", "10.0.0.1,x.example", "80, 443"].map(Value::from)
        );
    }
}
