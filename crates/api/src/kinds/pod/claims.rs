//! Claims of devices ("Dynamic Resource Allocation").

use k8s_openapi::api::core::v1::{PodResourceClaim, PodSpec};

use crate::error::{Errors, Path};
use crate::{go, names};

/// The names of a pod's claims.
pub(super) fn names(spec: &PodSpec) -> Vec<&str> {
    let claims = spec.resource_claims.iter().flatten();
    claims
        .map(|claim| claim.name.as_str())
        .filter(|name| !name.is_empty())
        .collect()
}

/// Checks a pod's claims.
pub(super) fn validate_all(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let claims = spec.resource_claims.as_deref().unwrap_or_default();
    for (at, claim) in claims.iter().enumerate() {
        let path = path.index(at);
        let name = path.child("name");
        if claim.name.is_empty() {
            errors.required(&name, "");
        } else if claims[..at].iter().any(|other| other.name == claim.name) {
            errors.duplicate(&name, &claim.name);
        } else {
            errors.invalid_each(&name, &claim.name, names::dns_label(&claim.name));
        }
        validate_source(claim, &path, errors);
    }
}

fn validate_source(claim: &PodResourceClaim, path: &Path, errors: &mut Errors) {
    let shown = || go::syntax("core.PodResourceClaim", claim);
    match (&claim.resource_claim_name, &claim.resource_claim_template_name) {
        (Some(_), Some(_)) => {
            let why = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
            errors.invalid(path, &shown(), why);
        }
        (None, None) => {
            let why = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
            errors.invalid(path, &shown(), why);
        }
        _ => {}
    }
    for (field, name) in [
        ("resourceClaimName", &claim.resource_claim_name),
        ("resourceClaimTemplateName", &claim.resource_claim_template_name),
    ] {
        if let Some(name) = name {
            errors.invalid_each(&path.child(field), name, names::dns_subdomain(name));
        }
    }
}
