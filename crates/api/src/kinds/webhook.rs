//! MutatingWebhookConfiguration and ValidatingWebhookConfiguration (admissionregistration.k8s.io/v1).
//! See "Dynamic Admission Control".

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations, ServiceReference,
    ValidatingWebhook, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde_json::Value;

use super::name_cell;
use crate::error::{Errors, GoSyntax, Path};
use crate::go;
use crate::names;
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Generation, Kind};
use crate::selector::validate_label_selector;
use crate::table::age;

const GROUP: &str = "admissionregistration.k8s.io";
/// The versions of AdmissionReview that a webhook may be sent.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const SIDE_EFFECTS: [&str; 2] = ["None", "NoneOnDryRun"];
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const HTTPS: &str = "desired format: https://host[/path]";

pub(super) static MUTATING: Kind = kind(
    "MutatingWebhookConfiguration",
    ("mutatingwebhookconfigurations", "mutatingwebhookconfiguration"),
    "io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration",
    Logic::of::<MutatingWebhookConfiguration>(),
);

pub(super) static VALIDATING: Kind = kind(
    "ValidatingWebhookConfiguration",
    (
        "validatingwebhookconfigurations",
        "validatingwebhookconfiguration",
    ),
    "io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration",
    Logic::of::<ValidatingWebhookConfiguration>(),
);

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::integer("Webhooks", "how many webhooks it has"),
    Column::AGE,
];

const fn kind(
    kind: &'static str,
    names: (&'static str, &'static str),
    type_name: &'static str,
    logic: Logic,
) -> Kind {
    Kind {
        namespaced: false,
        categories: &["api-extensions"],
        unconditional_update: false,
        generation: Generation::Content,
        columns: COLUMNS,
        ..Kind::new((GROUP, "v1", kind), names, type_name, logic)
    }
}

/// What both kinds of webhooks have.
struct Hook<'a> {
    name: &'a str,
    client: &'a WebhookClientConfig,
    rules: &'a [RuleWithOperations],
    failure_policy: Option<&'a str>,
    match_policy: Option<&'a str>,
    side_effects: &'a str,
    timeout_seconds: Option<i32>,
    namespaces: Option<&'a LabelSelector>,
    objects: Option<&'a LabelSelector>,
    review_versions: &'a [String],
    conditions: &'a [MatchCondition],
    reinvocation: Option<&'a str>,
}

macro_rules! hooks {
    ($configuration:ty, $webhook:ty, $defaults:expr, $reinvocation:expr) => {
        impl ApiObject for $configuration {
            fn set_defaults(&mut self) {
                for hook in self.webhooks.iter_mut().flatten() {
                    let text = |field: &mut Option<String>, value: &str| {
                        field.get_or_insert_with(|| value.to_owned());
                    };
                    text(&mut hook.failure_policy, "Fail");
                    text(&mut hook.match_policy, "Equivalent");
                    hook.namespace_selector.get_or_insert_default();
                    hook.object_selector.get_or_insert_default();
                    hook.timeout_seconds.get_or_insert(10);
                    for rule in hook.rules.iter_mut().flatten() {
                        text(&mut rule.scope, "*");
                    }
                    if let Some(service) = &mut hook.client_config.service {
                        service.port.get_or_insert(443);
                    }
                    $defaults(hook);
                }
            }

            fn validate(&self, errors: &mut Errors) {
                let hooks = self.webhooks.iter().flatten().map(|hook| Hook {
                    name: &hook.name,
                    client: &hook.client_config,
                    rules: hook.rules.as_deref().unwrap_or_default(),
                    failure_policy: hook.failure_policy.as_deref(),
                    match_policy: hook.match_policy.as_deref(),
                    side_effects: &hook.side_effects,
                    timeout_seconds: hook.timeout_seconds,
                    namespaces: hook.namespace_selector.as_ref(),
                    objects: hook.object_selector.as_ref(),
                    review_versions: &hook.admission_review_versions,
                    conditions: hook.match_conditions.as_deref().unwrap_or_default(),
                    reinvocation: $reinvocation(hook),
                });
                validate(hooks, errors);
            }

            fn row(&self, now: Timestamp) -> Vec<Value> {
                row(
                    &self.metadata,
                    self.webhooks.as_ref().map_or(0, Vec::len),
                    now,
                )
            }
        }
    };
}

hooks!(
    MutatingWebhookConfiguration,
    MutatingWebhook,
    |hook: &mut MutatingWebhook| {
        hook.reinvocation_policy.get_or_insert_with(|| "Never".to_owned());
    },
    reinvocation
);
hooks!(
    ValidatingWebhookConfiguration,
    ValidatingWebhook,
    |_: &mut ValidatingWebhook| {},
    |_: &ValidatingWebhook| None
);

fn reinvocation(hook: &MutatingWebhook) -> Option<&str> {
    hook.reinvocation_policy.as_deref()
}

fn row(metadata: &ObjectMeta, hooks: usize, now: Timestamp) -> Vec<Value> {
    vec![
        name_cell(metadata),
        hooks.into(),
        age(metadata.creation_timestamp.as_ref(), now),
    ]
}

fn validate<'a>(hooks: impl Iterator<Item = Hook<'a>>, errors: &mut Errors) {
    let mut names = BTreeSet::new();
    for (at, hook) in hooks.enumerate() {
        let path = Path::new("webhooks").index(at);
        validate_hook(&hook, &path, errors);
        if !names.insert(hook.name.to_owned()) && !hook.name.is_empty() {
            errors.duplicate(&path.child("name"), hook.name);
        }
    }
}

fn validate_hook(hook: &Hook<'_>, path: &Path, errors: &mut Errors) {
    validate_name(hook.name, &path.child("name"), errors);
    for (at, rule) in hook.rules.iter().enumerate() {
        validate_rule(rule, &path.child("rules").index(at), errors);
    }
    let mut one_of = |field: &str, value: Option<&str>, supported: &[&str]| {
        if let Some(value) = value {
            errors.one_of(&path.child(field), value, supported);
        }
    };
    one_of("failurePolicy", hook.failure_policy, &["Fail", "Ignore"]);
    one_of("matchPolicy", hook.match_policy, &["Equivalent", "Exact"]);
    if hook.side_effects.is_empty() {
        errors.required(
            &path.child("sideEffects"),
            "must specify one of None, NoneOnDryRun",
        );
    } else {
        errors.one_of(&path.child("sideEffects"), hook.side_effects, &SIDE_EFFECTS);
    }
    if let Some(seconds) = hook.timeout_seconds.filter(|seconds| !(1..=30).contains(seconds)) {
        errors.invalid(
            &path.child("timeoutSeconds"),
            &seconds,
            "the timeout value must be between 1 and 30 seconds",
        );
    }
    for (field, selector) in [
        ("namespaceSelector", hook.namespaces),
        ("objectSelector", hook.objects),
    ] {
        if let Some(selector) = selector {
            validate_label_selector(selector, &path.child(field), errors);
        }
    }
    validate_client(hook.client, &path.child("clientConfig"), errors);
    if let Some(policy) = hook.reinvocation {
        errors.one_of(&path.child("reinvocationPolicy"), policy, &["IfNeeded", "Never"]);
    }
    if !hook.conditions.is_empty() {
        errors.forbidden(
            &path.child("matchConditions"),
            "conditions are not evaluated by this server yet: leave them out, or choose by rules and selectors",
        );
    }
    validate_versions(
        hook.review_versions,
        &path.child("admissionReviewVersions"),
        errors,
    );
}

fn validate_name(name: &str, path: &Path, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    let objections = names::dns_subdomain(name);
    if objections.is_empty() && name.split('.').count() < 3 {
        errors.invalid(
            path,
            name,
            "should be a domain with at least three segments separated by dots",
        );
    }
    errors.invalid_each(path, name, objections);
}

fn validate_versions(versions: &[String], path: &Path, errors: &mut Errors) {
    if versions.is_empty() {
        errors.required(path, "must specify one of v1, v1beta1");
    } else if !versions
        .iter()
        .any(|version| REVIEW_VERSIONS.contains(&version.as_str()))
    {
        let shown = go::syntax("[]string", &versions);
        errors.invalid(path, &shown, "must include at least one of v1, v1beta1");
    }
}

fn validate_rule(rule: &RuleWithOperations, path: &Path, errors: &mut Errors) {
    let list = |field: &Option<Vec<String>>| field.clone().unwrap_or_default();
    let (operations, resources) = (list(&rule.operations), list(&rule.resources));
    let operations_path = path.child("operations");
    if operations.is_empty() {
        errors.required(&operations_path, "");
    }
    if operations.len() > 1 && operations.iter().any(|operation| operation == "*") {
        let quoted: Vec<String> = operations.iter().map(|text| crate::error::quote(text)).collect();
        let shown = GoSyntax(format!(
            "[]admissionregistration.OperationType{{{}}}",
            quoted.join(", ")
        ));
        errors.invalid(
            &operations_path,
            &shown,
            "if '*' is present, must not specify other operations",
        );
    }
    for (at, operation) in operations.iter().enumerate() {
        errors.one_of(&operations_path.index(at), operation, &OPERATIONS);
    }
    for (field, values, what) in [
        ("apiGroups", list(&rule.api_groups), "API groups"),
        ("apiVersions", list(&rule.api_versions), "API versions"),
    ] {
        let path = path.child(field);
        if values.is_empty() {
            errors.required(&path, "");
        }
        if values.len() > 1 && values.iter().any(|value| value == "*") {
            let why = format!("if '*' is present, must not specify other {what}");
            errors.invalid(&path, &go::syntax("[]string", &values), &why);
        }
        for (at, value) in values.iter().enumerate() {
            if value.is_empty() && field == "apiVersions" {
                errors.required(&path.index(at), "");
            }
        }
    }
    validate_resources(&resources, &path.child("resources"), errors);
    if let Some(scope) = &rule.scope {
        errors.one_of(&path.child("scope"), scope, &["*", "Cluster", "Namespaced"]);
    }
}

fn validate_resources(resources: &[String], path: &Path, errors: &mut Errors) {
    if resources.is_empty() {
        errors.required(path, "");
    }
    let has = |wanted: &str| resources.iter().any(|resource| resource == wanted);
    for (at, resource) in resources.iter().enumerate() {
        let path = path.index(at);
        if resource.is_empty() {
            errors.required(&path, "");
        }
        let Some((of, sub)) = resource.split_once('/') else {
            continue;
        };
        for whole in [format!("{of}/*"), format!("*/{sub}")] {
            if whole != *resource && whole != "*/*" && has(&whole) {
                let why = format!("if '{whole}' is present, must not specify {resource}");
                errors.invalid(&path, resource, &why);
            }
        }
    }
    let shown = || go::syntax("[]string", &resources);
    if resources.len() > 1 && has("*/*") {
        errors.invalid(
            path,
            &shown(),
            "if '*/*' is present, must not specify other resources",
        );
    }
    if has("*")
        && resources
            .iter()
            .any(|resource| resource != "*" && !resource.contains('/'))
    {
        errors.invalid(
            path,
            &shown(),
            "if '*' is present, must not specify other resources without subresources",
        );
    }
}

fn validate_client(client: &WebhookClientConfig, path: &Path, errors: &mut Errors) {
    match (&client.url, &client.service) {
        (Some(url), None) => validate_url(url, &path.child("url"), errors),
        (None, Some(service)) => validate_service(service, &path.child("service"), errors),
        _ => errors.required(path, "exactly one of url or service is required"),
    }
}

fn validate_url(url: &str, path: &Path, errors: &mut Errors) {
    let Some((scheme, rest)) = url.split_once("://") else {
        errors.invalid(
            path,
            "",
            &format!("'https' is the only allowed URL scheme; {HTTPS}"),
        );
        return;
    };
    if scheme != "https" {
        let why = format!("'https' is the only allowed URL scheme; {HTTPS}");
        errors.invalid(path, scheme, &why);
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest.split('/').next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if host.is_empty() {
        errors.invalid(path, host, &format!("host must be specified; {HTTPS}"));
    }
    for (part, what) in [
        (user, "user information is"),
        (fragment, "fragments are"),
        (query, "query parameters are"),
    ] {
        if !part.is_empty() {
            errors.invalid(path, part, &format!("{what} not permitted in the URL; {HTTPS}"));
        }
    }
}

fn validate_service(service: &ServiceReference, path: &Path, errors: &mut Errors) {
    if service.name.is_empty() {
        errors.required(&path.child("name"), "service name is required");
    }
    if service.namespace.is_empty() {
        errors.required(&path.child("namespace"), "service namespace is required");
    }
    let port = service.port.unwrap_or(443);
    for objection in names::port_number(port.into()) {
        let why = format!("port is not valid: {objection}");
        errors.invalid(&path.child("port"), &port, &why);
    }
    if let Some(given) = service.path.as_deref().filter(|given| !given.starts_with('/')) {
        let why = "must start with a '/'";
        errors.invalid(&path.child("path"), given, why);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_webhook_is_filled_in_and_checked() {
        let mut configuration: MutatingWebhookConfiguration = serde_json::from_value(json!({"webhooks": [{
            "name": "a.b.c",
            "clientConfig": {"service": {"name": "s", "namespace": "n"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }]}))
        .expect("a configuration");
        configuration.set_defaults();
        let shown = serde_json::to_value(&configuration).expect("it is JSON");
        let hook = &shown["webhooks"][0];
        assert_eq!(hook["clientConfig"]["service"]["port"], 443);
        assert_eq!(hook["rules"][0]["scope"], "*");
        assert_eq!(
            (
                &hook["failurePolicy"],
                &hook["reinvocationPolicy"],
                &hook["timeoutSeconds"]
            ),
            (&json!("Fail"), &json!("Never"), &json!(10))
        );
        let mut errors = Errors::new();
        configuration.validate(&mut errors);
        assert!(errors.is_empty(), "{}", errors.summary());
    }

    #[test]
    fn addresses_are_https_and_nothing_else() {
        for (url, objection) in [
            ("https://host/path", ""),
            ("http://host", "scheme"),
            ("https:///x", "host must"),
            ("https://u@h/x", "user information"),
            ("https://h/x?a=b", "query parameters"),
            ("https://h/x#y", "fragments"),
            ("nonsense", "scheme"),
        ] {
            let mut errors = Errors::new();
            validate_url(url, &Path::new("url"), &mut errors);
            assert_eq!(
                errors.is_empty(),
                objection.is_empty(),
                "{url}: {}",
                errors.summary()
            );
            assert!(
                errors.summary().contains(objection),
                "{url}: {}",
                errors.summary()
            );
        }
    }
}
