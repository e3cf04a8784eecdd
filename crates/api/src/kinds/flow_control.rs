//! FlowSchema and PriorityLevelConfiguration (flowcontrol.apiserver.k8s.io/v1). The server gives each
//! client its turn whatever they say: see "API Priority and Fairness" for what they mean upstream.

use jiff::Timestamp;
use k8s_openapi::api::flowcontrol::v1::{
    ExemptPriorityLevelConfiguration, FlowSchema, FlowSchemaSpec, LimitedPriorityLevelConfiguration,
    NonResourcePolicyRule, PolicyRulesWithSubjects, PriorityLevelConfiguration, QueuingConfiguration,
    ResourcePolicyRule, Subject,
};
use serde_json::Value;

use super::name_cell;
use crate::error::{Errors, Path};
use crate::go;
use crate::names;
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Generation, Kind, MetadataCheck, Subresource};
use crate::table::age;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const CAVEAT: &str = "requests are not ordered by flow schemas and priority levels here, but take turns by user and \
    program: the object is kept, and nothing comes of it";
/// The schema that alone may come before all others.
const EXEMPT: &str = "exempt";

pub(super) static SCHEMA: Kind = Kind {
    namespaced: false,
    subresources: &[Subresource::status("FlowSchema")],
    update_metadata: &[MetadataCheck::Update],
    generation: Generation::Spec,
    columns: &[
        Column::NAME,
        Column::new("PriorityLevel", "the level of its requests"),
        Column::new("MatchingPrecedence", "the order in which schemas are asked"),
        Column::new("DistinguisherMethod", "what tells its flows apart"),
        Column::AGE,
        Column::new("MissingPL", "whether its level is not there"),
    ],
    caveat: Some(CAVEAT),
    ..Kind::new(
        (GROUP, "v1", "FlowSchema"),
        ("flowschemas", "flowschema"),
        "io.k8s.api.flowcontrol.v1.FlowSchema",
        Logic::of::<FlowSchema>(),
    )
};

pub(super) static LEVEL: Kind = Kind {
    namespaced: false,
    subresources: &[Subresource::status("PriorityLevelConfiguration")],
    update_metadata: &[MetadataCheck::Update],
    generation: Generation::Spec,
    columns: &[
        Column::NAME,
        Column::new("Type", "whether its requests are limited"),
        Column::new(
            "NominalConcurrencyShares",
            "its share of what can be done at a time",
        ),
        Column::new("Queues", "queues that its flows are dealt to"),
        Column::new("HandSize", "queues that a flow may use"),
        Column::new("QueueLengthLimit", "requests that may wait in a queue"),
        Column::AGE,
    ],
    caveat: Some(CAVEAT),
    ..Kind::new(
        (GROUP, "v1", "PriorityLevelConfiguration"),
        ("prioritylevelconfigurations", "prioritylevelconfiguration"),
        "io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration",
        Logic::of::<PriorityLevelConfiguration>(),
    )
};

const VERBS: [&str; 9] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "proxy",
    "update",
    "watch",
];

impl ApiObject for FlowSchema {
    fn set_defaults(&mut self) {
        if self.spec.matching_precedence.unwrap_or(0) == 0 {
            self.spec.matching_precedence = Some(1000);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        validate_schema(&self.spec, name, errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone();
        let conditions = self
            .status
            .iter()
            .filter_map(|status| status.conditions.as_ref())
            .flatten();
        let dangling = conditions
            .filter(|condition| condition.type_ == "Dangling")
            .find_map(|condition| condition.status.clone());
        vec![
            name_cell(&self.metadata),
            spec.priority_level_configuration.name.into(),
            spec.matching_precedence.unwrap_or(0).to_string().into(),
            spec.distinguisher_method
                .map_or_else(|| "<none>".to_owned(), |method| method.type_)
                .into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
            dangling.unwrap_or_else(|| "?".to_owned()).into(),
        ]
    }
}

fn validate_schema(spec: &FlowSchemaSpec, name: &str, errors: &mut Errors) {
    let path = Path::new("spec");
    let precedence = spec.matching_precedence.unwrap_or(0);
    let at = path.child("matchingPrecedence");
    if precedence <= 0 {
        errors.invalid(&at, &precedence, "must be a positive value");
    }
    if precedence > 10_000 {
        errors.invalid(&at, &precedence, "must not be greater than 10000");
    }
    if precedence == 1 && name != EXEMPT {
        errors.invalid(
            &at,
            &precedence,
            "only the schema named 'exempt' may have matchingPrecedence 1",
        );
    }
    if let Some(method) = &spec.distinguisher_method {
        let path = path.child("distinguisherMethod").child("type");
        errors.one_of(&path, &method.type_, &["ByNamespace", "ByUser"]);
    }
    let level = path.child("priorityLevelConfiguration").child("name");
    let named = &spec.priority_level_configuration.name;
    if named.is_empty() {
        errors.required(&level, "must reference a priority level");
    } else {
        errors.invalid_each(&level, named, names::dns_subdomain(named));
    }
    for (at, rule) in spec.rules.iter().flatten().enumerate() {
        validate_rule(rule, &path.child("rules").index(at), errors);
    }
}

fn validate_rule(rule: &PolicyRulesWithSubjects, path: &Path, errors: &mut Errors) {
    if rule.subjects.is_empty() {
        errors.required(
            &path.child("subjects"),
            "subjects must contain at least one value",
        );
    }
    for (at, subject) in rule.subjects.iter().enumerate() {
        validate_subject(subject, &path.child("subjects").index(at), errors);
    }
    let (resources, others) = (
        rule.resource_rules.as_deref().unwrap_or_default(),
        rule.non_resource_rules.as_deref().unwrap_or_default(),
    );
    if resources.is_empty() && others.is_empty() {
        errors.required(
            path,
            "at least one of resourceRules and nonResourceRules has to be non-empty",
        );
    }
    for (at, rule) in resources.iter().enumerate() {
        validate_resource_rule(rule, &path.child("resourceRules").index(at), errors);
    }
    for (at, rule) in others.iter().enumerate() {
        validate_path_rule(rule, &path.child("nonResourceRules").index(at), errors);
    }
}

fn validate_subject(subject: &Subject, path: &Path, errors: &mut Errors) {
    let given = [
        ("user", "User", subject.user.is_some()),
        ("group", "Group", subject.group.is_some()),
        (
            "serviceAccount",
            "ServiceAccount",
            subject.service_account.is_some(),
        ),
    ];
    if !given.iter().any(|(_, kind, _)| *kind == subject.kind) {
        errors.not_supported(
            &path.child("kind"),
            &subject.kind,
            &["Group", "ServiceAccount", "User"],
        );
        return;
    }
    for (field, kind, is_given) in given {
        match (kind == subject.kind, is_given) {
            (true, false) => errors.required(
                &path.child(field),
                &format!("{field} is required when subject kind is '{kind}'"),
            ),
            (false, true) => errors.forbidden(
                &path.child(field),
                &format!("{field} is forbidden when subject kind is not '{kind}'"),
            ),
            _ => {}
        }
    }
    let name = |field: &str| path.child(field).child("name");
    match (&subject.user, &subject.group, &subject.service_account) {
        (Some(user), None, None) => errors.present(&name("user"), &user.name),
        (None, Some(group), None) => errors.present(&name("group"), &group.name),
        (None, None, Some(account)) => {
            errors.present(&name("serviceAccount"), &account.name);
            if !account.name.is_empty() && account.name != "*" {
                let objections = names::dns_subdomain(&account.name);
                errors.invalid_each(&name("serviceAccount"), &account.name, objections);
            }
            let namespace = path.child("serviceAccount").child("namespace");
            if account.namespace.is_empty() {
                errors.required(&namespace, "must specify namespace for service account");
            } else {
                errors.invalid_each(
                    &namespace,
                    &account.namespace,
                    names::dns_label(&account.namespace),
                );
            }
        }
        _ => {}
    }
}

/// Checks a list in which a star stands for all.
fn validate_list(list: &[String], none: &str, what: &str, path: &Path, errors: &mut Errors) {
    if list.is_empty() {
        errors.required(path, none);
    } else if list.len() > 1 && list.iter().any(|item| item == "*") {
        let why = format!("if '*' is present, must not specify other {what}");
        errors.invalid(path, &go::syntax("[]string", &list), &why);
    }
}

fn validate_verbs(verbs: &[String], known: &[&str], path: &Path, errors: &mut Errors) {
    let path = path.child("verbs");
    validate_list(
        verbs,
        "verbs must contain at least one value",
        "verbs",
        &path,
        errors,
    );
    if !verbs.is_empty()
        && !verbs
            .iter()
            .all(|verb| verb == "*" || known.contains(&verb.as_str()))
    {
        errors.not_supported(&path, &go::syntax("[]string", &verbs), known);
    }
}

fn validate_resource_rule(rule: &ResourcePolicyRule, path: &Path, errors: &mut Errors) {
    validate_verbs(&rule.verbs, &VERBS, path, errors);
    validate_list(
        &rule.api_groups,
        "resource rules must supply at least one api group",
        "api groups",
        &path.child("apiGroups"),
        errors,
    );
    validate_list(
        &rule.resources,
        "resource rules must supply at least one resource",
        "resources",
        &path.child("resources"),
        errors,
    );
    let namespaces = rule.namespaces.as_deref().unwrap_or_default();
    let path = path.child("namespaces");
    if namespaces.is_empty() {
        if !rule.cluster_scope.unwrap_or(false) {
            errors.required(
                &path,
                "resource rules that are not cluster scoped must supply at least one namespace",
            );
        }
        return;
    }
    validate_list(namespaces, "", "namespaces", &path, errors);
    for (at, namespace) in namespaces
        .iter()
        .enumerate()
        .filter(|(_, namespace)| *namespace != "*")
    {
        errors.invalid_each(&path.index(at), namespace, names::dns_label(namespace));
    }
}

fn validate_path_rule(rule: &NonResourcePolicyRule, path: &Path, errors: &mut Errors) {
    validate_verbs(
        &rule.verbs,
        &["delete", "get", "head", "options", "patch", "post", "put"],
        path,
        errors,
    );
    let urls = &rule.non_resource_urls;
    let path = path.child("nonResourceURLs");
    validate_list(
        urls,
        "nonResourceURLs must contain at least one value",
        "non-resource URLs",
        &path,
        errors,
    );
    for (at, url) in urls.iter().enumerate().filter(|(_, url)| *url != "*") {
        let path = path.index(at);
        if !url.starts_with('/') {
            errors.invalid(&path, url, "must start with slash");
        } else if url.contains(' ') {
            errors.invalid(&path, url, "must not contain white-space");
        } else if url.contains("//") {
            errors.invalid(&path, url, "must not contain double slash");
        } else if url.trim_end_matches('*').contains('*') || url.ends_with("**") {
            errors.invalid(&path, url, "wildcard can only do suffix matching");
        }
    }
}

impl ApiObject for PriorityLevelConfiguration {
    fn set_defaults(&mut self) {
        let spec = &mut self.spec;
        if let Some(limited) = &mut spec.limited {
            limited.nominal_concurrency_shares.get_or_insert(30);
            limited.lendable_percent.get_or_insert(0);
            if let Some(queuing) = &mut limited.limit_response.queuing {
                let fill = |field: &mut Option<i32>, value: i32| {
                    if field.unwrap_or(0) == 0 {
                        *field = Some(value);
                    }
                };
                fill(&mut queuing.hand_size, 8);
                fill(&mut queuing.queues, 64);
                fill(&mut queuing.queue_length_limit, 50);
            }
        }
        if let Some(exempt) = &mut spec.exempt {
            exempt.nominal_concurrency_shares.get_or_insert(0);
            exempt.lendable_percent.get_or_insert(0);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let spec = &self.spec;
        let path = Path::new("spec");
        match spec.type_.as_str() {
            "Exempt" => {
                if spec.limited.is_some() {
                    errors.forbidden(&path.child("limited"), "must be nil if the type is not Limited");
                }
                if let Some(exempt) = &spec.exempt {
                    validate_exempt(exempt, &path.child("exempt"), errors);
                }
            }
            "Limited" => {
                if spec.exempt.is_some() {
                    errors.forbidden(&path.child("exempt"), "must be nil if the type is Limited");
                }
                match &spec.limited {
                    None => errors.required(&path.child("limited"), "must not be empty when type is Limited"),
                    Some(limited) => validate_limited(limited, &path.child("limited"), errors),
                }
            }
            other => errors.not_supported(&path.child("type"), other, &["Exempt", "Limited"]),
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = &self.spec;
        let none = || "<none>".to_owned();
        let limited = spec.limited.as_ref();
        let shares = limited.and_then(|limited| limited.nominal_concurrency_shares);
        let queuing = limited.and_then(|limited| limited.limit_response.queuing.as_ref());
        let number = |of: fn(&QueuingConfiguration) -> Option<i32>| -> Value {
            queuing
                .map_or_else(none, |queuing| of(queuing).unwrap_or(0).to_string())
                .into()
        };
        vec![
            name_cell(&self.metadata),
            spec.type_.clone().into(),
            shares.map_or_else(none, |shares| shares.to_string()).into(),
            number(|queuing| queuing.queues),
            number(|queuing| queuing.hand_size),
            number(|queuing| queuing.queue_length_limit),
            age(self.metadata.creation_timestamp.as_ref(), now),
        ]
    }
}

fn validate_percent(percent: Option<i32>, path: &Path, errors: &mut Errors) {
    if let Some(percent) = percent.filter(|percent| !(0..=100).contains(percent)) {
        errors.invalid(path, &percent, "must be between 0 and 100, inclusive");
    }
}

fn validate_shares(shares: Option<i32>, path: &Path, errors: &mut Errors) {
    if let Some(shares) = shares.filter(|shares| *shares < 0) {
        errors.invalid(path, &shares, "must be a non-negative integer");
    }
}

fn validate_exempt(exempt: &ExemptPriorityLevelConfiguration, path: &Path, errors: &mut Errors) {
    validate_shares(
        exempt.nominal_concurrency_shares,
        &path.child("nominalConcurrencyShares"),
        errors,
    );
    validate_percent(exempt.lendable_percent, &path.child("lendablePercent"), errors);
}

fn validate_limited(limited: &LimitedPriorityLevelConfiguration, path: &Path, errors: &mut Errors) {
    validate_shares(
        limited.nominal_concurrency_shares,
        &path.child("nominalConcurrencyShares"),
        errors,
    );
    let response = &limited.limit_response;
    let at = path.child("limitResponse");
    let queuing = at.child("queuing");
    match (response.type_.as_str(), &response.queuing) {
        ("Reject", None) => {}
        ("Reject", Some(_)) => errors.forbidden(
            &queuing,
            "must be nil if limited.limitResponse.type is not Limited",
        ),
        ("Queue", None) => errors.required(
            &queuing,
            "must not be empty if limited.limitResponse.type is Limited",
        ),
        ("Queue", Some(config)) => validate_queuing(config, &queuing, errors),
        (other, _) => errors.not_supported(&at.child("type"), other, &["Queue", "Reject"]),
    }
    validate_percent(limited.lendable_percent, &path.child("lendablePercent"), errors);
    if let Some(percent) = limited.borrowing_limit_percent.filter(|percent| *percent < 0) {
        errors.invalid(
            &path.child("borrowingLimitPercent"),
            &percent,
            "if specified, must be a non-negative integer",
        );
    }
}

fn validate_queuing(queuing: &QueuingConfiguration, path: &Path, errors: &mut Errors) {
    const MOST: i32 = 10_000_000;
    let (queues, hand_size) = (queuing.queues.unwrap_or(0), queuing.hand_size.unwrap_or(0));
    for (field, value) in [
        ("queueLengthLimit", queuing.queue_length_limit.unwrap_or(0)),
        ("queues", queues),
    ] {
        if value <= 0 {
            errors.invalid(&path.child(field), &value, "must be positive");
        }
    }
    if queues > MOST {
        let why = format!("must not be greater than {MOST}");
        errors.invalid(&path.child("queues"), &queues, &why);
    }
    let hand = path.child("handSize");
    if hand_size <= 0 {
        errors.invalid(&hand, &hand_size, "must be positive");
    } else if hand_size > queues {
        let why = format!("should not be greater than queues ({queues})");
        errors.invalid(&hand, &hand_size, &why);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(kind: &Kind, mut object: Value) -> String {
        object["metadata"] = json!({"name": "x"});
        (kind.logic.set_defaults)(&mut object).expect("defaults");
        let mut errors = Errors::new();
        (kind.logic.validate)(&object, &mut errors).expect("it is of its kind");
        errors
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn a_level_is_limited_or_exempt() {
        let level = |spec: Value| said(&LEVEL, json!({"spec": spec}));
        assert_eq!(level(json!({"type": "Exempt"})), "");
        assert_eq!(
            level(json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}})),
            ""
        );
        assert_eq!(
            level(json!({"type": "Limited"})),
            "spec.limited: Required value: must not be empty when type is Limited"
        );
        assert_eq!(
            level(
                json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {"queues": 4}}}})
            ),
            "spec.limited.limitResponse.queuing.handSize: Invalid value: 8: should not be greater than queues (4)"
        );
    }

    #[test]
    fn a_schema_says_whose_requests_it_is_for() {
        let schema = |rule: Value| {
            said(
                &SCHEMA,
                json!({"spec": {"priorityLevelConfiguration": {"name": "l"}, "rules": [rule]}}),
            )
        };
        let user = json!([{"kind": "User", "user": {"name": "jane"}}]);
        let resources =
            json!([{"verbs": ["*"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["*"]}]);
        assert_eq!(schema(json!({"subjects": user, "resourceRules": resources})), "");
        assert_eq!(
            schema(json!({"subjects": user})),
            "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty"
        );
        assert_eq!(
            schema(
                json!({"subjects": [{"kind": "User", "group": {"name": "g"}}], "resourceRules": resources})
            ),
            "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'\n\
             spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'"
        );
    }
}
