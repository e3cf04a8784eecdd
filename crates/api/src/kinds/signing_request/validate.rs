//! What a request may ask for, and what may become of it.

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};

use super::content::{Request, check_certificates};
use super::{APPROVED, DENIED, FAILED, conditions};
use crate::error::{Errors, GoSyntax, Path};
use crate::{go, names};

/// What an update may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MayChange {
    /// Nothing but the metadata.
    Nothing,
    /// The certificate, and conditions other than those of the approval.
    Certificate,
    /// The conditions.
    Approval,
}

/// Sorted, as errors list them.
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const STATUSES: [&str; 3] = ["False", "True", "Unknown"];
/// Signs for clients of the first versions of this API only.
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
const SHORTEST_SECONDS: i32 = 600;
const LONGEST_DOMAIN: usize = 253;
const LONGEST_SIGNER: usize = LONGEST_DOMAIN + 1 + 253 + 1 + 63;

pub(super) fn request(object: &CertificateSigningRequest, errors: &mut Errors) {
    let spec = &object.spec;
    let path = Path::new("spec");
    if let Err(error) = Request::parse(&spec.request.0) {
        let bytes: Vec<String> = spec.request.0.iter().map(|byte| format!("{byte:#x}")).collect();
        let shown = GoSyntax(format!("[]byte{{{}}}", bytes.join(", ")));
        errors.invalid(&path.child("request"), &shown, &error.to_string());
    }
    let usages = spec.usages.as_deref().unwrap_or_default();
    let usages_path = path.child("usages");
    if usages.is_empty() {
        errors.required(&usages_path, "usages must be provided");
    }
    for (at, usage) in usages.iter().enumerate() {
        errors.one_of(&usages_path.index(at), usage, &USAGES);
    }
    for (at, usage) in usages.iter().enumerate() {
        if usages[..at].contains(usage) {
            errors.duplicate(&usages_path.index(at), usage);
        }
    }
    signer_name(&spec.signer_name, &path.child("signerName"), errors);
    if let Some(seconds) = spec
        .expiration_seconds
        .filter(|seconds| *seconds < SHORTEST_SECONDS)
    {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid(&path.child("expirationSeconds"), &seconds, why);
    }
    validate_conditions(object, errors);
    let certificate = object
        .status
        .as_ref()
        .and_then(|status| status.certificate.as_ref());
    if let Some(certificate) = certificate.filter(|certificate| !certificate.0.is_empty())
        && let Err(error) = check_certificates(&certificate.0)
    {
        let path = Path::new("status").child("certificate");
        errors.invalid(
            &path,
            &GoSyntax("\"<certificate data>\"".to_owned()),
            &error.to_string(),
        );
    }
}

pub(super) fn update(
    new: &CertificateSigningRequest,
    old: &CertificateSigningRequest,
    may_change: MayChange,
    errors: &mut Errors,
) {
    request(new, errors);
    let path = Path::new("status");
    let conditions_path = path.child("conditions");
    for of in [APPROVED, DENIED, FAILED] {
        if of_type(new, of).len() < of_type(old, of).len() {
            let why = format!("updates may not remove a condition of type \"{of}\"");
            errors.forbidden(&conditions_path, &why);
        }
    }
    for of in [APPROVED, DENIED] {
        let (new, old) = (of_type(new, of), of_type(old, of));
        if may_change == MayChange::Approval || new.len() < old.len() {
            continue;
        }
        if new.len() > old.len() {
            let why = format!("updates may not add a condition of type \"{of}\"");
            errors.forbidden(&conditions_path, &why);
        } else if new != old {
            let ty = "[]certificates.CertificateSigningRequestCondition";
            let json = |conditions| serde_json::to_value(conditions).unwrap_or_default();
            let why = format!(
                "updates may not modify a condition of type \"{of}\"\n{}",
                go::diff(ty, &json(&old), &json(&new))
            );
            errors.forbidden(&conditions_path, &why);
        }
    }
    let certificate = |object: &CertificateSigningRequest| {
        let status = object.status.as_ref();
        let certificate = status.and_then(|status| status.certificate.clone());
        certificate.unwrap_or_default().0
    };
    let (new, old) = (certificate(new), certificate(old));
    if new != old {
        let path = path.child("certificate");
        if may_change != MayChange::Certificate {
            errors.forbidden(&path, "updates may not set certificate content");
        } else if !old.is_empty() {
            errors.forbidden(&path, "updates may not modify existing certificate content");
        }
    }
}

fn of_type<'r>(
    request: &'r CertificateSigningRequest,
    of: &str,
) -> Vec<&'r CertificateSigningRequestCondition> {
    conditions(request)
        .iter()
        .filter(|condition| condition.type_ == of)
        .collect()
}

fn validate_conditions(object: &CertificateSigningRequest, errors: &mut Errors) {
    let path = Path::new("status").child("conditions");
    let conditions = conditions(object);
    for (at, condition) in conditions.iter().enumerate() {
        let path = path.index(at);
        let (of, status) = (condition.type_.as_str(), condition.status.as_str());
        errors.present(&path.child("type"), of);
        let allowed = if [APPROVED, DENIED, FAILED].contains(&of) {
            &STATUSES[1..2]
        } else {
            &STATUSES
        };
        if status.is_empty() {
            errors.required(&path.child("status"), "");
        } else {
            errors.one_of(&path.child("status"), status, allowed);
        }
        let before = |of: &str| conditions[..at].iter().any(|other| other.type_ == of);
        if (of == APPROVED && before(DENIED)) || (of == DENIED && before(APPROVED)) {
            let why = "Approved and Denied conditions are mutually exclusive";
            errors.invalid(&path.child("type"), of, why);
        }
        if before(of) {
            errors.duplicate(&path.child("type"), of);
        }
    }
}

/// A signer's name is a domain, and a path within it of a few labels.
fn signer_name(name: &str, path: &Path, errors: &mut Errors) {
    if name == LEGACY_SIGNER {
        let why = "the legacy signerName is not allowed via this API version";
        errors.invalid(path, name, why);
        return;
    }
    if name.is_empty() {
        errors.required(path, "signerName must be provided");
        return;
    }
    let mut parts = name.split('/');
    let (Some(domain), Some(rest), None) = (parts.next(), parts.next(), parts.next()) else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.invalid(path, name, why);
        return;
    };
    if domain.len() > LONGEST_DOMAIN {
        errors.too_long(path, LONGEST_DOMAIN);
    }
    labels(domain, names::dns_label, path, errors);
    if !domain.contains('.') {
        let why = "should be a domain with at least two segments separated by dots";
        errors.invalid(path, domain, why);
    }
    labels(rest, names::dns_subdomain, path, errors);
    if name.len() > LONGEST_SIGNER {
        errors.too_long(path, LONGEST_SIGNER);
    }
}

/// Tells of the first label that is none.
fn labels(text: &str, rule: names::NameRule, path: &Path, errors: &mut Errors) {
    let bad = text
        .split('.')
        .map(|label| (label, rule(label)))
        .find(|(_, objections)| !objections.is_empty());
    if let Some((label, objections)) = bad {
        for objection in objections {
            let quoted = crate::error::quote(label);
            errors.invalid(path, text, &format!("validating label {quoted}: {objection}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of_signer(name: &str) -> String {
        let mut errors = Errors::new();
        signer_name(name, &Path::new("spec").child("signerName"), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn signers_have_a_domain_and_a_path() {
        for (name, expected) in [
            ("example.com/signer", ""),
            ("example.com/ns.signer", ""),
            ("", "spec.signerName: Required value: signerName must be provided"),
            (
                "signer",
                "spec.signerName: Invalid value: \"signer\": must be a fully qualified domain and path of the form \
                 'example.com/signer-name'",
            ),
            (
                "example/signer",
                "spec.signerName: Invalid value: \"example\": should be a domain with at least two segments separated by dots",
            ),
            (
                LEGACY_SIGNER,
                "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed \
                 via this API version",
            ),
        ] {
            assert_eq!(of_signer(name), expected, "{name}");
        }
        assert!(
            of_signer("Example.com/x").contains("validating label \"Example\": a lowercase RFC 1123 label")
        );
    }

    #[test]
    fn a_request_must_be_one_and_name_usages() {
        let request: CertificateSigningRequest = serde_json::from_value(json!({"spec": {
            "request": "YQ==", "signerName": "a.b/c", "expirationSeconds": 60, "usages": ["any", "any", "flying"],
        }}))
        .expect("a request");
        let mut errors = Errors::new();
        super::request(&request, &mut errors);
        let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            found[0],
            "spec.request: Invalid value: []byte{0x61}: PEM block type must be CERTIFICATE REQUEST"
        );
        let fields: Vec<_> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(
            fields[1..],
            ["spec.usages[2]", "spec.usages[1]", "spec.expirationSeconds"]
        );
    }
}
