//! ServiceAccount (core/v1).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, ServiceAccount};
use serde_json::Value;

use super::name_cell;
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Kind, Subresource};
use crate::table::age;

pub(super) static KIND: Kind = Kind {
    short_names: &["sa"],
    subresources: &[Subresource {
        name: "token",
        group_version: Some(("authentication.k8s.io", "v1")),
        kind: "TokenRequest",
        verbs: &["create"],
    }],
    columns: &[
        Column::NAME,
        Column::new("Secrets", "number of secrets"),
        Column::AGE,
    ],
    ..Kind::new(
        ("", "v1", "ServiceAccount"),
        ("serviceaccounts", "serviceaccount"),
        "io.k8s.api.core.v1.ServiceAccount",
        Logic::of::<ServiceAccount>(),
    )
};

const ENFORCE_MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";

/// Of the secrets only the names are kept.
fn clean_secrets(account: &mut ServiceAccount) {
    for secret in account.secrets.iter_mut().flatten() {
        *secret = ObjectReference {
            name: secret.name.take(),
            ..ObjectReference::default()
        };
    }
}

fn is_enforced(account: &ServiceAccount) -> bool {
    account
        .metadata
        .annotations
        .as_ref()
        .is_some_and(|all| all.contains_key(ENFORCE_MOUNTABLE))
}

impl ApiObject for ServiceAccount {
    fn prepare_for_create(&mut self) {
        clean_secrets(self);
    }

    fn prepare_for_update(&mut self, _old: &ServiceAccount) {
        clean_secrets(self);
    }

    fn warnings(&self, old: Option<&ServiceAccount>) -> Vec<String> {
        if !is_enforced(self) || old.is_some_and(is_enforced) {
            return Vec::new();
        }
        vec![format!(
            "metadata.annotations[{ENFORCE_MOUNTABLE}]: deprecated in v1.32+; prefer separate namespaces to \
             isolate access to mounted secrets"
        )]
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![
            name_cell(&self.metadata),
            self.secrets.as_ref().map_or(0, Vec::len).into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
        ]
    }
}
