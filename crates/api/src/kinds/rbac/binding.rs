//! RoleBinding and ClusterRoleBinding: who has a role.

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::GROUP;
use crate::error::{Errors, Path};
use crate::go;
use crate::kinds::{name_cell, text};
use crate::names;
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Kind};
use crate::table::age;

pub(in super::super) static KIND: Kind = Kind {
    columns: COLUMNS,
    ..super::kind(
        "RoleBinding",
        ("rolebindings", "rolebinding"),
        "io.k8s.api.rbac.v1.RoleBinding",
        Logic::of::<RoleBinding>(),
    )
};

pub(in super::super) static CLUSTER_KIND: Kind = Kind {
    namespaced: false,
    columns: COLUMNS,
    ..super::kind(
        "ClusterRoleBinding",
        ("clusterrolebindings", "clusterrolebinding"),
        "io.k8s.api.rbac.v1.ClusterRoleBinding",
        Logic::of::<ClusterRoleBinding>(),
    )
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Role", "the role that is bound"),
    Column::AGE,
    Column::wide("Users", "users who have it"),
    Column::wide("Groups", "groups whose members have it"),
    Column::wide("ServiceAccounts", "service accounts that have it"),
];

/// A binding, of either kind.
trait Binding {
    /// The kinds of roles that it can bind.
    const ROLES: &'static [&'static str];
    /// Whether it lives in a namespace, which service accounts are of where none is named.
    const NAMESPACED: bool;

    fn parts(&mut self) -> (&mut RoleRef, &mut Option<Vec<Subject>>);
    fn role(&self) -> &RoleRef;
    fn subjects(&self) -> &[Subject];
    fn metadata(&self) -> &ObjectMeta;
}

macro_rules! binding {
    ($ty:ty, $roles:expr, $namespaced:expr) => {
        impl Binding for $ty {
            const ROLES: &'static [&'static str] = $roles;
            const NAMESPACED: bool = $namespaced;

            fn parts(&mut self) -> (&mut RoleRef, &mut Option<Vec<Subject>>) {
                (&mut self.role_ref, &mut self.subjects)
            }

            fn role(&self) -> &RoleRef {
                &self.role_ref
            }

            fn subjects(&self) -> &[Subject] {
                self.subjects.as_deref().unwrap_or_default()
            }

            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }
        }

        impl ApiObject for $ty {
            fn set_defaults(&mut self) {
                set_defaults(self);
            }

            fn validate(&self, errors: &mut Errors) {
                validate(self, errors);
            }

            fn validate_update(&self, old: &$ty, errors: &mut Errors) {
                validate(self, errors);
                if self.role_ref != old.role_ref {
                    let shown = go::syntax("rbac.RoleRef", &self.role_ref);
                    errors.invalid(&Path::new("roleRef"), &shown, "cannot change roleRef");
                }
            }

            fn row(&self, now: Timestamp) -> Vec<Value> {
                row(self, now)
            }
        }
    };
}

binding!(RoleBinding, &["Role", "ClusterRole"], true);
binding!(ClusterRoleBinding, &["ClusterRole"], false);

fn set_defaults(binding: &mut impl Binding) {
    let (role, subjects) = binding.parts();
    let fill = |group: &mut Option<String>| {
        if text(group).is_empty() {
            *group = Some(GROUP.to_owned());
        }
    };
    fill(&mut role.api_group);
    for subject in subjects.iter_mut().flatten() {
        if matches!(subject.kind.as_str(), "User" | "Group") {
            fill(&mut subject.api_group);
        }
    }
}

fn validate<B: Binding>(binding: &B, errors: &mut Errors) {
    let role = binding.role();
    let path = Path::new("roleRef");
    errors.one_of(&path.child("apiGroup"), text(&role.api_group), &[GROUP]);
    errors.one_of(&path.child("kind"), &role.kind, B::ROLES);
    if role.name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        errors.invalid_each(&path.child("name"), &role.name, names::path_segment(&role.name));
    }
    for (at, subject) in binding.subjects().iter().enumerate() {
        validate_subject(subject, B::NAMESPACED, &Path::new("subjects").index(at), errors);
    }
}

fn validate_subject(subject: &Subject, namespaced: bool, path: &Path, errors: &mut Errors) {
    let name = path.child("name");
    errors.present(&name, &subject.name);
    let group = text(&subject.api_group);
    match subject.kind.as_str() {
        "ServiceAccount" => {
            if !subject.name.is_empty() {
                errors.invalid_each(&name, &subject.name, names::dns_subdomain(&subject.name));
            }
            errors.one_of(&path.child("apiGroup"), group, &[""]);
            if !namespaced {
                errors.present(&path.child("namespace"), text(&subject.namespace));
            }
        }
        "User" | "Group" => errors.one_of(&path.child("apiGroup"), group, &[GROUP]),
        kind => errors.not_supported(&path.child("kind"), kind, &["ServiceAccount", "User", "Group"]),
    }
}

fn row(binding: &impl Binding, now: Timestamp) -> Vec<Value> {
    let role = binding.role();
    let metadata = binding.metadata();
    let all = |kind: &str, shown: fn(&Subject) -> String| -> Value {
        let subjects = binding.subjects().iter().filter(|subject| subject.kind == kind);
        subjects.map(shown).collect::<Vec<_>>().join(", ").into()
    };
    let name = |subject: &Subject| subject.name.clone();
    vec![
        name_cell(metadata),
        format!("{}/{}", role.kind, role.name).into(),
        age(metadata.creation_timestamp.as_ref(), now),
        all("User", name),
        all("Group", name),
        all("ServiceAccount", |subject| {
            format!("{}/{}", text(&subject.namespace), subject.name)
        }),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn groups_are_filled_in_and_subjects_checked() {
        let mut binding: RoleBinding = serde_json::from_value(json!({
            "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [
                {"kind": "User", "name": "jane"},
                {"kind": "ServiceAccount", "name": "a", "apiGroup": "x"},
                {"kind": "Robot", "name": "r"},
            ],
        }))
        .expect("a binding");
        set_defaults(&mut binding);
        let mut errors = Errors::new();
        validate(&binding, &mut errors);
        assert_eq!(
            errors.summary(),
            "[subjects[1].apiGroup: Unsupported value: \"x\": supported values: \"\", subjects[2].kind: \
             Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"]"
        );
    }

    #[test]
    fn a_cluster_wide_binding_names_namespaces() {
        let mut binding: ClusterRoleBinding = serde_json::from_value(json!({
            "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "ServiceAccount", "name": "a"}],
        }))
        .expect("a binding");
        set_defaults(&mut binding);
        let mut errors = Errors::new();
        validate(&binding, &mut errors);
        assert_eq!(
            errors.summary(),
            "[roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\", \
             subjects[0].namespace: Required value]"
        );
    }
}
