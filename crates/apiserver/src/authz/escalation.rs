//! Nobody grants what they do not hold ("Privilege escalation prevention and bootstrapping").

use serde::Deserialize as _;
use serde_json::{Value, json};
use stead_api::error::{ApiError, quote, quote_all};
use stead_api::kinds::rbac::GROUP;
use stead_api::meta;

use super::is_system;
use super::policy::{Found, Policy, RoleRef, rules};
use super::rules::{self, Asked, Rule};
use crate::server::Call;

/// Checks a role or binding that is to be written over an older one, or none.
pub(crate) fn check(call: &Call<'_>, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    if call.kind.group != GROUP || is_system(call.identity) {
        return Ok(());
    }
    match call.kind.plural {
        "roles" | "clusterroles" => check_role(call, object, old),
        _ => check_binding(call, object),
    }
}

fn check_role(call: &Call<'_>, role: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let same = |field: &str| old.is_some_and(|old| old[field] == role[field]);
    if same("rules") && (same("aggregationRule") || role["aggregationRule"].is_null()) {
        return Ok(());
    }
    if may(call, "escalate", call.kind.plural, meta::name(role)) {
        return Ok(());
    }
    let mut wanted = rules(role);
    if !role["aggregationRule"].is_null() && !same("aggregationRule") {
        // Whatever others put into the roles that it collects.
        wanted.extend(
            [
                json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}),
                json!({"nonResourceURLs": ["*"], "verbs": ["*"]}),
            ]
            .iter()
            .filter_map(|rule| Rule::deserialize(rule).ok()),
        );
    }
    confirm(call, role, &wanted)
}

fn check_binding(call: &Call<'_>, binding: &Value) -> Result<(), ApiError> {
    let reference = RoleRef::deserialize(&binding["roleRef"]).unwrap_or_default();
    if may(call, "bind", reference.plural(), &reference.name) {
        return Ok(());
    }
    let role = call.server.role(&reference, meta::namespace(binding))?;
    match role.policy() {
        Policy::Role(wanted) => confirm(call, binding, wanted),
        _ => Ok(()),
    }
}

fn may(call: &Call<'_>, verb: &str, resource: &str, name: &str) -> bool {
    let asked = Asked::Resource {
        verb,
        group: GROUP,
        resource,
        subresource: "",
        namespace: &call.path.namespace,
        name,
    };
    call.server.authorize(call.identity, &asked).allowed
}

/// Refuses what the writer does not hold.
fn confirm(call: &Call<'_>, object: &Value, wanted: &[Rule]) -> Result<(), ApiError> {
    let identity = call.identity;
    let (mut held, mut unresolved) = (Vec::new(), Vec::new());
    call.server.visit_rules(identity, &call.path.namespace, |found| {
        match found {
            Found::Rules(rules, _) => held.extend_from_slice(rules),
            Found::Missing(why) => unresolved.push(why),
        }
        false
    });
    let missing = rules::missing(&held, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let mut why = format!(
        "user {} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        quote(&identity.name),
        quote_all(&identity.groups),
        missing.join("\n")
    );
    if !unresolved.is_empty() {
        why.push_str(&format!("; resolution errors: [{}]", unresolved.join(", ")));
    }
    Err(ApiError::forbidden(
        GROUP,
        call.kind.plural,
        meta::name(object),
        &why,
    ))
}
