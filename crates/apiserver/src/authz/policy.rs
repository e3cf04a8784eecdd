//! Roles and bindings as they are stored, and which rules they give to whom.

use serde::Deserialize;
use serde_json::Value;
use stead_api::error::{ApiError, quote};
use stead_api::kinds::rbac::GROUP;

use super::rules::Rule;
use crate::admission::webhook::Hook;
use crate::identity::{Identity, account_of};
use crate::server::Inner;
use crate::stored::{Stored, key};

/// What matters of a stored object that the server itself goes by.
pub(crate) enum Policy {
    /// A role's rules.
    Role(Vec<Rule>),
    /// A binding.
    Binding(Binding),
    /// Webhooks of a configuration.
    Webhooks(Vec<Hook>),
}

impl Policy {
    /// Reads a role, a binding or a configuration of webhooks.
    pub(crate) fn read(object: &Value) -> Policy {
        if object["roleRef"].is_object() {
            Policy::Binding(Binding::deserialize(object).unwrap_or_default())
        } else if object["webhooks"].is_array() {
            Policy::Webhooks(Hook::read(object))
        } else {
            Policy::Role(rules(object))
        }
    }
}

/// The rules of a role.
pub(crate) fn rules(role: &Value) -> Vec<Rule> {
    Option::<Vec<Rule>>::deserialize(&role["rules"])
        .ok()
        .flatten()
        .unwrap_or_default()
}

/// Who has which role.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Binding {
    metadata: Metadata,
    role_ref: RoleRef,
    subjects: Option<Vec<Subject>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: String,
    namespace: String,
}

/// A role by kind and name.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct RoleRef {
    pub(crate) kind: String,
    pub(crate) name: String,
}

impl RoleRef {
    /// The resource of its kind.
    pub(crate) fn plural(&self) -> &'static str {
        if self.kind == "Role" {
            "roles"
        } else {
            "clusterroles"
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Subject {
    kind: String,
    name: String,
    namespace: String,
}

impl Subject {
    fn is(&self, identity: &Identity, namespace: &str) -> bool {
        match self.kind.as_str() {
            "User" => self.name == identity.name,
            "Group" => identity.is_in(&self.name),
            "ServiceAccount" => {
                let own = if self.namespace.is_empty() {
                    namespace
                } else {
                    &self.namespace
                };
                account_of(&identity.name) == Some((own, &self.name))
            }
            _ => false,
        }
    }
}

impl Binding {
    /// Why a rule holds for somebody, in upstream's words.
    fn reason(&self, subject: &Subject) -> String {
        let role = format!("{} {}", self.role_ref.kind, quote(&self.role_ref.name));
        let subject = match subject.kind.as_str() {
            "ServiceAccount" => {
                let own = if subject.namespace.is_empty() {
                    &self.metadata.namespace
                } else {
                    &subject.namespace
                };
                format!("ServiceAccount {}", quote(&format!("{}/{own}", subject.name)))
            }
            kind => format!("{kind} {}", quote(&subject.name)),
        };
        let (kind, name) = if self.metadata.namespace.is_empty() {
            ("ClusterRoleBinding", self.metadata.name.clone())
        } else {
            (
                "RoleBinding",
                format!("{}/{}", self.metadata.name, self.metadata.namespace),
            )
        };
        format!("RBAC: allowed by {kind} {} of {role} to {subject}", quote(&name))
    }
}

/// What bindings say of somebody, one after another.
pub(crate) enum Found<'a> {
    /// The rules of a role that they have, and why.
    Rules(&'a [Rule], &'a dyn Fn() -> String),
    /// A role is bound that is not there.
    Missing(String),
}

impl Inner {
    /// Goes through the rules that hold for somebody in a namespace (empty: in the cluster), until
    /// `visit` says that it has seen enough.
    pub(crate) fn visit_rules(
        &self,
        identity: &Identity,
        namespace: &str,
        mut visit: impl FnMut(Found<'_>) -> bool,
    ) {
        let snapshot = self.store.snapshot();
        let prefix = |plural: &str, namespace: &str| {
            self.registry
                .resource(GROUP, "v1", plural)
                .map(|kind| key::prefix(kind, namespace))
        };
        let mut places = vec![prefix("clusterrolebindings", "")];
        if !namespace.is_empty() {
            places.push(prefix("rolebindings", namespace));
        }
        for prefix in places.iter().flatten() {
            for (_, entry) in snapshot.prefix(prefix) {
                let Policy::Binding(binding) = entry.value.policy() else {
                    continue;
                };
                let own = &binding.metadata.namespace;
                let mut subjects = binding.subjects.iter().flatten();
                let Some(subject) = subjects.find(|subject| subject.is(identity, own)) else {
                    continue;
                };
                let enough = match self.role(&binding.role_ref, own) {
                    Ok(role) => match role.policy() {
                        Policy::Role(rules) => visit(Found::Rules(rules, &|| binding.reason(subject))),
                        _ => false,
                    },
                    Err(_) => visit(Found::Missing(format!(
                        "{}.{GROUP} {} not found",
                        binding.role_ref.kind.to_lowercase(),
                        quote(&binding.role_ref.name)
                    ))),
                };
                if enough {
                    return;
                }
            }
        }
    }

    /// The role that a binding of a namespace names.
    pub(super) fn role(&self, reference: &RoleRef, namespace: &str) -> Result<Stored, ApiError> {
        let plural = reference.plural();
        let namespace = if plural == "roles" { namespace } else { "" };
        let found = self.find((GROUP, plural), namespace, &reference.name);
        found
            .map(|(_, role)| role)
            .ok_or_else(|| ApiError::not_found(GROUP, plural, &reference.name))
    }
}
