//! What an identity may do.
//!
//! Roles and bindings are not evaluated yet. Until they are: the group `system:masters` and the
//! parts of the system itself (by the names and groups upstream gives them) may do everything;
//! everyone else only what upstream's default roles give to all (`system:discovery`,
//! `system:public-info-viewer`).

use http::Method;
use stead_api::error::{ApiError, quote};

use crate::identity::{AUTHENTICATED, Identity, MASTERS};
use crate::request::ResourcePath;

/// Checks a request for a resource.
pub(crate) fn resource(identity: &Identity, verb: &str, path: &ResourcePath) -> Result<(), ApiError> {
    if is_system(identity) {
        return Ok(());
    }
    let subresource = if path.subresource.is_empty() {
        String::new()
    } else {
        format!("/{}", path.subresource)
    };
    // A namespace is within itself.
    let namespace = if path.resource == "namespaces" {
        &path.name
    } else {
        &path.namespace
    };
    let scope = if namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {}", quote(namespace))
    };
    let why = format!(
        "User {} cannot {verb} resource {} in API group {} {scope}",
        quote(&identity.name),
        quote(&format!("{}{subresource}", path.resource)),
        quote(&path.group),
    );
    Err(ApiError::forbidden(&path.group, &path.resource, &path.name, &why))
}

/// Checks a request for anything else.
pub(crate) fn non_resource(identity: &Identity, method: &Method, path: &str) -> Result<(), ApiError> {
    let is_under = |prefix: &str| path == prefix || path.starts_with(&format!("{prefix}/"));
    let public = ["/healthz", "/livez", "/readyz", "/version"]
        .into_iter()
        .any(is_under);
    let discovery = ["/api", "/apis", "/openapi"].into_iter().any(is_under);
    let reads = matches!(*method, Method::GET | Method::HEAD);
    if is_system(identity) || (reads && (public || (discovery && identity.is_in(AUTHENTICATED)))) {
        return Ok(());
    }
    let verb = match *method {
        Method::HEAD => "head",
        Method::GET => "get",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "options",
    };
    let message = format!(
        "forbidden: User {} cannot {verb} path {}",
        quote(&identity.name),
        quote(path)
    );
    Err(ApiError {
        details: Some(serde_json::json!({})),
        ..ApiError::new(403, "Forbidden", message)
    })
}

/// Checks that an identity may act as a user.
pub(crate) fn impersonate(identity: &Identity, user: &str) -> Result<(), ApiError> {
    if is_system(identity) {
        return Ok(());
    }
    let account = user
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'));
    let (resource, name, scope) = match account {
        Some((namespace, name)) => (
            "serviceaccounts",
            name,
            format!("in the namespace {}", quote(namespace)),
        ),
        None => ("users", user, "at the cluster scope".to_owned()),
    };
    let why = format!(
        "User {} cannot impersonate resource {} in API group \"\" {scope}",
        quote(&identity.name),
        quote(resource)
    );
    Err(ApiError::forbidden("", resource, name, &why))
}

fn is_system(identity: &Identity) -> bool {
    identity.is_in(MASTERS)
        || identity.is_in("system:nodes")
        || matches!(
            identity.name.as_str(),
            "system:kube-scheduler" | "system:kube-controller-manager"
        )
}
