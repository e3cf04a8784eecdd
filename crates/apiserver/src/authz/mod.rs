//! What an identity may do ("Authorization", "Using RBAC Authorization").
//!
//! Members of `system:masters` and the parts of this process may do everything; nodes what pods on them
//! need; everyone else what roles that are bound to them grant.

mod aggregation;
pub(crate) mod defaults;
mod escalation;
mod node;
mod policy;
mod rules;

use http::Method;
use stead_api::error::{ApiError, quote};
use stead_api::selector::FieldSelector;

pub(crate) use escalation::check as check_escalation;
pub(crate) use node::LEASES as NODE_LEASES;
pub(crate) use policy::{Found, Policy};
pub(crate) use rules::{Asked, Rule};

use crate::identity::{Identity, MASTERS};
use crate::request::{Query, ResourcePath, Verb};
use crate::server::Inner;

/// Whether somebody may do what they ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) allowed: bool,
    /// By which binding, or what went wrong; may be empty.
    pub(crate) reason: String,
}

impl Inner {
    /// Decides by the roles that are bound to somebody.
    pub(crate) fn authorize(&self, identity: &Identity, asked: &Asked<'_>) -> Decision {
        if is_system(identity) {
            return Decision {
                allowed: true,
                reason: String::new(),
            };
        }
        let mut decision = Decision::default();
        let mut missing = Vec::new();
        if let Some(node) = identity.node() {
            match node::decide(self, node, asked) {
                Ok(()) => {
                    decision.allowed = true;
                    return decision;
                }
                Err(why) if why.is_empty() => {}
                Err(why) => missing.push(why),
            }
        }
        self.visit_rules(identity, asked.namespace(), |found| {
            match found {
                Found::Rules(rules, reason) => {
                    decision.allowed = rules.iter().any(|rule| rule.grants(asked));
                    if decision.allowed {
                        decision.reason = reason();
                    }
                }
                Found::Missing(why) => missing.push(why),
            }
            decision.allowed
        });
        if !decision.allowed {
            decision.reason = match &missing[..] {
                [] => String::new(),
                [one] if identity.node().is_some() => one.clone(),
                [one] => format!("RBAC: {one}"),
                all => format!("RBAC: [{}]", all.join(", ")),
            };
        }
        decision
    }

    /// Refuses what somebody may not do.
    pub(crate) fn check(&self, identity: &Identity, asked: &Asked<'_>) -> Result<(), ApiError> {
        self.confirm(identity, asked, self.authorize(identity, asked))
    }

    /// A decision as an answer.
    pub(crate) fn confirm(
        &self,
        identity: &Identity,
        asked: &Asked<'_>,
        decision: Decision,
    ) -> Result<(), ApiError> {
        if decision.allowed {
            Ok(())
        } else {
            Err(forbidden(identity, asked, &decision.reason))
        }
    }
}

/// What a request for a resource asks for.
pub(crate) fn of_request<'a>(
    verb: Option<Verb>,
    path: &'a ResourcePath,
    selected: Option<&'a FieldSelector>,
) -> Asked<'a> {
    // A list of one named object is like the object.
    let selected = selected
        .filter(|_| matches!(verb, Some(Verb::List | Verb::Watch)))
        .and_then(|selector| selector.required("metadata.name"));
    Asked::Resource {
        verb: verb.map_or("", Verb::name),
        group: &path.group,
        resource: &path.resource,
        subresource: &path.subresource,
        // A namespace is within itself.
        namespace: if path.resource == "namespaces" {
            &path.name
        } else {
            &path.namespace
        },
        name: selected.unwrap_or(&path.name),
    }
}

/// The field selector of a request, if it is well-formed.
pub(crate) fn selector(query: &Query) -> Option<FieldSelector> {
    FieldSelector::parse(query.text("fieldSelector")?).ok()
}

/// The verb of a request for a path that is no resource.
pub(crate) fn verb_of_path(method: &Method) -> &'static str {
    match *method {
        Method::HEAD => "head",
        Method::GET => "get",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "options",
    }
}

/// The refusal, in upstream's words.
fn forbidden(identity: &Identity, asked: &Asked<'_>, reason: &str) -> ApiError {
    let user = quote(&identity.name);
    let reason = if reason.is_empty() {
        String::new()
    } else {
        format!(": {reason}")
    };
    match *asked {
        Asked::Resource {
            verb,
            group,
            resource,
            subresource,
            namespace,
            name,
        } => {
            let whole = if subresource.is_empty() {
                resource.to_owned()
            } else {
                format!("{resource}/{subresource}")
            };
            let scope = if namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {}", quote(namespace))
            };
            let why = format!(
                "User {user} cannot {verb} resource {} in API group {} {scope}{reason}",
                quote(&whole),
                quote(group),
            );
            ApiError::forbidden(group, resource, name, &why)
        }
        Asked::Path { verb, path } => {
            let message = format!(
                "forbidden: User {user} cannot {verb} path {}{reason}",
                quote(path)
            );
            ApiError {
                details: Some(serde_json::json!({})),
                ..ApiError::new(403, "Forbidden", message)
            }
        }
    }
}

pub(crate) fn is_system(identity: &Identity) -> bool {
    identity.is_in(MASTERS) || identity.is_component()
}
