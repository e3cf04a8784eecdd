//! What namespaces and token secrets should hold: pure functions.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::ROOT_CERTIFICATES;

/// On a token secret: its account.
pub(super) const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
/// On a token secret: its account's uid.
pub(super) const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// The type of token secrets.
const TOKEN_TYPE: &str = "kubernetes.io/service-account-token";
const CERTIFICATE_KEY: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const DESCRIPTION_TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// Whether things can be made in a namespace.
pub(super) fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    phase != Some("Terminating") && namespace.metadata.deletion_timestamp.is_none()
}

/// The ConfigMap with the cluster's certificate, new or put right.
pub(super) fn root_certificates(existing: Option<&ConfigMap>, root_ca: &str) -> ConfigMap {
    let mut wanted = existing.cloned().unwrap_or_else(|| ConfigMap {
        metadata: ObjectMeta {
            name: Some(ROOT_CERTIFICATES.to_owned()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    });
    wanted.data = Some(BTreeMap::from([(CERTIFICATE_KEY.to_owned(), root_ca.to_owned())]));
    let annotations = wanted.metadata.annotations.get_or_insert_default();
    let description = annotations.entry(DESCRIPTION.to_owned()).or_default();
    if description.is_empty() {
        DESCRIPTION_TEXT.clone_into(description);
    }
    wanted
}

/// What is to be done with a secret that names an account.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum TokenStep {
    /// Nothing.
    None,
    /// Its account is gone, and it goes too.
    Delete,
    /// It is to be like this, with a token if it has none.
    Fill {
        /// The secret without the token.
        secret: Box<Secret>,
        /// Whether a token is to be made.
        needs_token: bool,
    },
}

/// `account` is the account that the secret names, if there is one.
pub(super) fn token_step(secret: &Secret, account: Option<&ServiceAccount>, root_ca: &str) -> TokenStep {
    if secret.type_.as_deref() != Some(TOKEN_TYPE) {
        return TokenStep::None;
    }
    let annotations = secret.metadata.annotations.as_ref();
    let uid = annotations
        .and_then(|annotations| annotations.get(ACCOUNT_UID))
        .filter(|uid| !uid.is_empty());
    let Some(account) = account.filter(|account| uid.is_none() || account.metadata.uid.as_ref() == uid)
    else {
        return TokenStep::Delete;
    };
    let mut filled = secret.clone();
    let data = filled.data.get_or_insert_default();
    let needs_token = data.get("token").is_none_or(|token| token.0.is_empty());
    data.insert(
        CERTIFICATE_KEY.to_owned(),
        ByteString(root_ca.as_bytes().to_vec()),
    );
    let namespace = secret.metadata.namespace.clone().unwrap_or_default();
    data.entry("namespace".to_owned())
        .or_insert_with(|| ByteString(namespace.into_bytes()));
    let uid = account.metadata.uid.clone().unwrap_or_default();
    filled
        .metadata
        .annotations
        .get_or_insert_default()
        .insert(ACCOUNT_UID.to_owned(), uid);
    if !needs_token && filled == *secret {
        return TokenStep::None;
    }
    TokenStep::Fill {
        secret: Box::new(filled),
        needs_token,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn certificates_are_put_right_and_other_annotations_stay() {
        let fresh = root_certificates(None, "PEM");
        assert_eq!(root_certificates(Some(&fresh), "PEM"), fresh);
        let mut changed = fresh.clone();
        changed.data = Some(
            [
                ("ca.crt".to_owned(), "x".to_owned()),
                ("more".to_owned(), "y".to_owned()),
            ]
            .into(),
        );
        changed
            .metadata
            .annotations
            .get_or_insert_default()
            .insert("mine".to_owned(), "1".to_owned());
        let right = root_certificates(Some(&changed), "PEM");
        assert_eq!(right.data, fresh.data);
        assert_eq!(
            right.metadata.annotations.map(|annotations| annotations.len()),
            Some(2)
        );
    }

    fn secret(uid: &str, data: Value) -> Secret {
        serde_json::from_value(json!({
            "metadata": {"name": "tok", "namespace": "ns", "annotations": {ACCOUNT_NAME: "default", ACCOUNT_UID: uid}},
            "type": TOKEN_TYPE,
            "data": data,
        }))
        .expect("a secret")
    }

    fn account(uid: &str) -> ServiceAccount {
        serde_json::from_value(json!({"metadata": {"name": "default", "uid": uid}})).expect("an account")
    }

    #[test]
    fn a_token_secret_is_filled_once_and_goes_with_its_account() {
        let TokenStep::Fill {
            secret: mut filled,
            needs_token: true,
        } = token_step(&secret("", json!({})), Some(&account("u1")), "PEM")
        else {
            panic!("it is empty")
        };
        let data = filled.data.get_or_insert_default();
        assert_eq!(data.keys().collect::<Vec<_>>(), ["ca.crt", "namespace"]);
        data.insert("token".to_owned(), ByteString(b"t".to_vec()));
        assert_eq!(token_step(&filled, Some(&account("u1")), "PEM"), TokenStep::None);
        assert_eq!(
            token_step(&filled, Some(&account("u2")), "PEM"),
            TokenStep::Delete
        );
        assert_eq!(token_step(&filled, None, "PEM"), TokenStep::Delete);
    }

    #[test]
    fn other_secrets_are_left_alone() {
        let mut other = secret("", json!({}));
        other.type_ = Some("Opaque".to_owned());
        assert_eq!(token_step(&other, None, "PEM"), TokenStep::None);
    }
}
