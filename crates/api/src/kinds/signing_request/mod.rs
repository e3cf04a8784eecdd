//! CertificateSigningRequest (certificates.k8s.io/v1): somebody asks for a certificate, somebody else
//! approves or denies it, and a signer signs. See "Certificates and Certificate Signing Requests".

mod content;
mod validate;

pub use content::{ContentError, Request};

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

use super::{name_cell, text};
use crate::error::Errors;
use crate::names;
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Kind, MetadataCheck, Subresource};
use crate::table::age;
use crate::time::human_duration;

const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";

pub(super) static KIND: Kind = Kind {
    short_names: &["csr"],
    namespaced: false,
    name_rule: names::path_segment,
    update_metadata: &[MetadataCheck::Create, MetadataCheck::Update],
    subresources: &[
        Subresource::part(
            "approval",
            "CertificateSigningRequest",
            &["get", "patch", "update"],
        ),
        Subresource::status("CertificateSigningRequest"),
    ],
    selectable: &[("spec.signerName", &["spec", "signerName"])],
    columns: &[
        Column::NAME,
        Column::AGE,
        Column::new("SignerName", "who is to sign"),
        Column::new("Requestor", "who asks"),
        Column::new("RequestedDuration", "how long the certificate is to be good"),
        Column::new("Condition", "what has become of the request"),
    ],
    ..Kind::new(
        ("certificates.k8s.io", "v1", "CertificateSigningRequest"),
        ("certificatesigningrequests", "certificatesigningrequest"),
        "io.k8s.api.certificates.v1.CertificateSigningRequest",
        Logic::of::<CertificateSigningRequest>(),
    )
};

impl ApiObject for CertificateSigningRequest {
    fn prepare_for_update(&mut self, old: &Self) {
        self.spec = old.spec.clone();
    }

    fn prepare_for_status_update(&mut self, old: &Self) {
        let status = self.status.get_or_insert_default();
        for of in [APPROVED, DENIED] {
            keep_conditions(status, old, of);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        validate::request(self, errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        validate::update(self, old, validate::MayChange::Nothing, errors);
    }

    fn validate_status_update(&self, old: &Self, errors: &mut Errors) {
        validate::update(self, old, validate::MayChange::Certificate, errors);
    }

    fn validate_approval_update(&self, old: &Self, errors: &mut Errors) {
        validate::update(self, old, validate::MayChange::Approval, errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = &self.spec;
        let duration = spec
            .expiration_seconds
            .map_or_else(|| "<none>".to_owned(), |seconds| human_duration(seconds.into()));
        vec![
            name_cell(&self.metadata),
            age(self.metadata.creation_timestamp.as_ref(), now),
            spec.signer_name.clone().into(),
            text(&spec.username).into(),
            duration.into(),
            condition(self).into(),
        ]
    }
}

/// The conditions of a request.
fn conditions(request: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    let status = request.status.as_ref();
    status
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default()
}

/// Whether a request has a condition of a type.
fn has(request: &CertificateSigningRequest, of: &str) -> bool {
    conditions(request).iter().any(|condition| condition.type_ == of)
}

/// Whether a signer may sign: the request is approved, and neither denied nor failed nor signed.
pub fn awaits_signature(request: &CertificateSigningRequest) -> bool {
    let is_signed = request
        .status
        .as_ref()
        .is_some_and(|status| status.certificate.is_some());
    has(request, APPROVED) && !has(request, DENIED) && !has(request, FAILED) && !is_signed
}

fn condition(request: &CertificateSigningRequest) -> String {
    let decided = if has(request, DENIED) {
        DENIED
    } else if has(request, APPROVED) {
        APPROVED
    } else {
        "Pending"
    };
    let certificate = request
        .status
        .as_ref()
        .and_then(|status| status.certificate.as_ref());
    let failed = if has(request, FAILED) { ",Failed" } else { "" };
    let issued = if certificate.is_some_and(|certificate| !certificate.0.is_empty()) {
        ",Issued"
    } else {
        ""
    };
    format!("{decided}{failed}{issued}")
}

/// Puts back conditions of a type, unless some were added or taken away, which is refused later.
fn keep_conditions(status: &mut CertificateSigningRequestStatus, old: &CertificateSigningRequest, of: &str) {
    let old: Vec<_> = conditions(old)
        .iter()
        .filter(|condition| condition.type_ == of)
        .collect();
    let mut new: Vec<_> = status
        .conditions
        .iter_mut()
        .flatten()
        .filter(|condition| condition.type_ == of)
        .collect();
    if old.len() == new.len() {
        for (new, old) in new.iter_mut().zip(old) {
            **new = old.clone();
        }
    }
}

/// Says of each condition since when it is as it is, where whoever wrote it did not.
pub fn stamp_conditions(
    request: &mut CertificateSigningRequest,
    old: &CertificateSigningRequest,
    now: Timestamp,
) {
    let status = request.status.as_mut();
    for condition in status
        .and_then(|status| status.conditions.as_mut())
        .into_iter()
        .flatten()
    {
        condition.last_update_time.get_or_insert(Time(now));
        if condition.last_transition_time.is_none() {
            let before = conditions(old)
                .iter()
                .find(|other| other.type_ == condition.type_ && other.status == condition.status);
            let since = before.and_then(|before| before.last_transition_time.clone());
            condition.last_transition_time = Some(since.unwrap_or(Time(now)));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(status: Value) -> CertificateSigningRequest {
        serde_json::from_value(json!({"status": status})).expect("a request")
    }

    fn conditions_of(types: &[&str]) -> Value {
        let conditions: Vec<Value> = types
            .iter()
            .map(|of| json!({"type": of, "status": "True"}))
            .collect();
        json!({"conditions": conditions})
    }

    #[test]
    fn a_row_says_what_has_become_of_a_request() {
        let mut issued = conditions_of(&["Approved"]);
        issued["certificate"] = "YQ==".into();
        for (status, expected) in [
            (json!({}), "Pending"),
            (conditions_of(&["Approved"]), "Approved"),
            (conditions_of(&["Approved", "Denied"]), "Denied"),
            (conditions_of(&["Approved", "Failed"]), "Approved,Failed"),
            (issued, "Approved,Issued"),
        ] {
            assert_eq!(condition(&request(status.clone())), expected, "{status}");
        }
    }

    #[test]
    fn only_what_is_approved_and_nothing_else_is_signed() {
        for (status, expected) in [
            (json!({}), false),
            (conditions_of(&["Approved"]), true),
            (conditions_of(&["Approved", "Denied"]), false),
            (conditions_of(&["Approved", "Failed"]), false),
            (
                json!({"conditions": conditions_of(&["Approved"])["conditions"], "certificate": "YQ=="}),
                false,
            ),
        ] {
            assert_eq!(awaits_signature(&request(status.clone())), expected, "{status}");
        }
    }

    #[test]
    fn a_status_update_leaves_the_approval_alone() {
        let old = request(json!({"conditions": [{"type": "Approved", "status": "True", "reason": "a"}]}));
        let mut new = request(json!({"conditions": [
            {"type": "Approved", "status": "True", "reason": "b"}, {"type": "Failed", "status": "True"},
        ]}));
        new.prepare_for_status_update(&old);
        assert_eq!(conditions(&new)[0].reason.as_deref(), Some("a"));
        assert_eq!(conditions(&new).len(), 2);
    }

    #[test]
    fn conditions_get_their_times() {
        let now = Timestamp::UNIX_EPOCH;
        let old = request(json!({"conditions": [
            {"type": "Approved", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"},
        ]}));
        let mut new = request(conditions_of(&["Approved", "Failed"]));
        stamp_conditions(&mut new, &old, now);
        let times: Vec<_> = conditions(&new)
            .iter()
            .map(|condition| condition.last_transition_time.clone().expect("a time").0)
            .collect();
        assert_eq!(times, ["2020-01-01T00:00:00Z".parse().expect("a time"), now]);
    }
}
