//! Admission of requests for certificates: who asks is written down, and only those approve and sign
//! who may do so for the signer.

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde::Deserialize as _;
use serde_json::{Value, json};
use stead_api::error::{ApiError, quote};
use stead_api::kinds::signing_request::{Request, stamp_conditions};
use stead_api::meta;
use stead_api::registry::Kind;

use crate::authz::Asked;
use crate::identity::MASTERS;
use crate::resource::Change;
use crate::server::Call;

const GROUP: &str = "certificates.k8s.io";
const PLURAL: &str = "certificatesigningrequests";
/// Signs for clients of the API server, but for administrators.
pub(crate) const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// Whether a kind is that of requests for certificates.
pub(crate) fn is_request(kind: &Kind) -> bool {
    kind.group == GROUP && kind.plural == PLURAL
}

/// Writes down who asks.
pub(super) fn settle_create(call: &Call<'_>, object: &mut Value) -> Result<(), ApiError> {
    let Some(spec) = object["spec"].as_object_mut() else {
        // Validation will say so.
        return Ok(());
    };
    let identity = call.identity;
    for (field, value) in [
        ("username", json!(identity.name)),
        ("uid", json!(identity.uid)),
        ("groups", json!(identity.groups)),
        ("extra", json!(identity.extra)),
    ] {
        spec.insert(field.to_owned(), value);
    }
    let asks_for_masters = || {
        let request = CertificateSigningRequest::deserialize(&*object).ok()?;
        let request = Request::parse(&request.spec.request.0).ok()?;
        Some(request.organizations.iter().any(|group| group == MASTERS))
    };
    if object["spec"]["signerName"] == CLIENT_SIGNER && asks_for_masters() == Some(true) {
        let why = format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed");
        return Err(refused(object, &why));
    }
    Ok(())
}

/// Refuses approvals and certificates of those who may not give them.
pub(super) fn check_part(
    call: &Call<'_>,
    object: &Value,
    old: &Value,
    change: Change,
) -> Result<(), ApiError> {
    let same = |field: &str| object["status"][field] == old["status"][field];
    let verb = match change {
        Change::Approval => "approve",
        Change::Status if !same("certificate") || !same("conditions") => "sign",
        _ => return Ok(()),
    };
    let signer = old["spec"]["signerName"].as_str().unwrap_or_default();
    let domain = signer.split('/').next().unwrap_or_default();
    let all_of_domain = format!("{domain}/*");
    let may = [signer, &all_of_domain].into_iter().any(|name| {
        let asked = Asked::Resource {
            verb,
            group: GROUP,
            resource: "signers",
            subresource: "",
            namespace: "",
            name,
        };
        call.server.authorize(call.identity, &asked).allowed
    });
    if may {
        return Ok(());
    }
    let why = format!(
        "user not permitted to {verb} requests with signerName {}",
        quote(signer)
    );
    Err(refused(object, &why))
}

/// An approval changes the conditions only.
pub(crate) fn keep_certificate(new: &mut Value, old: &Value) {
    let certificate = old["status"]["certificate"].clone();
    if let Some(status) = new["status"].as_object_mut() {
        status.remove("certificate");
        if !certificate.is_null() {
            status.insert("certificate".to_owned(), certificate);
        }
    }
}

/// Says of each condition since when it is as it is.
pub(crate) fn stamp(new: &mut Value, old: &Value) -> Result<(), ApiError> {
    let failed = |error: serde_json::Error| ApiError::internal(error);
    let mut request = CertificateSigningRequest::deserialize(&*new).map_err(failed)?;
    let old = CertificateSigningRequest::deserialize(old).map_err(failed)?;
    stamp_conditions(&mut request, &old, Timestamp::now());
    *new = serde_json::to_value(&request).map_err(failed)?;
    Ok(())
}

fn refused(object: &Value, why: &str) -> ApiError {
    ApiError::forbidden(GROUP, PLURAL, meta::name(object), why)
}
