//! Answers as `application/vnd.kubernetes.protobuf`: which type of the table an answer is of, and
//! its envelope.

use serde_json::Value;
use stead_api::error::ApiError;
use stead_api::registry::{self, Kind};
use stead_api::schema::{self, TypeId, UnfitError, builtin};

/// Where the types that belong to no group are.
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// An answer in its envelope, whatever its kind.
///
/// # Errors
/// 406 for kinds that have no protobuf form.
pub(crate) fn seal(object: &Value) -> Result<Vec<u8>, ApiError> {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let ty = type_of(api_version, kind).ok_or_else(|| no_form(kind))?;
    schema::seal(builtin(), ty, (api_version, kind), object).map_err(unfit)
}

/// A list in its envelope. Its items are all of one kind, and are asked for one by one.
///
/// # Errors
/// 406 for kinds that have no protobuf form.
pub(crate) fn seal_list(
    (api_version, kind): (&str, &str),
    metadata: &Value,
    (item_api_version, item_kind): (&str, &str),
    items: impl DoubleEndedIterator<Item = Value>,
) -> Result<Vec<u8>, ApiError> {
    let list_meta = find("ListMeta").ok_or_else(|| no_form(kind))?;
    let ty = type_of(item_api_version, item_kind).ok_or_else(|| no_form(kind))?;
    schema::seal_list(builtin(), (api_version, kind), (list_meta, metadata), ty, items).map_err(unfit)
}

/// The type of a kind: that of a resource, or of what is in the same package or in none.
pub(crate) fn type_of(api_version: &str, kind: &str) -> Option<TypeId> {
    if let Some(kind) = registry::builtin().kind(api_version, kind) {
        return Some(kind.type_id());
    }
    let sibling = registry::builtin()
        .kinds()
        .find(|other| registry::api_version(other.group, other.version) == api_version);
    sibling
        .and_then(package)
        .and_then(|package| builtin().find(&format!("{package}.{kind}")))
        .or_else(|| find(kind))
}

fn package(kind: &'static Kind) -> Option<&'static str> {
    kind.type_name.rsplit_once('.').map(|(package, _)| package)
}

fn find(kind: &str) -> Option<TypeId> {
    builtin().find(&format!("{META}.{kind}"))
}

fn no_form(kind: &str) -> ApiError {
    ApiError::new(
        406,
        "NotAcceptable",
        format!(
            "object *v1.{kind} does not implement the protobuf marshalling interface and cannot be encoded to a protobuf message"
        ),
    )
}

fn unfit(error: UnfitError) -> ApiError {
    ApiError::internal(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_of_the_types_that_their_kinds_name() {
        for (api_version, kind, expected) in [
            ("v1", "Pod", "io.k8s.api.core.v1.Pod"),
            ("autoscaling/v1", "Scale", "io.k8s.api.autoscaling.v1.Scale"),
            (
                "authentication.k8s.io/v1",
                "TokenRequest",
                "io.k8s.api.authentication.v1.TokenRequest",
            ),
            ("v1", "Status", "io.k8s.apimachinery.pkg.apis.meta.v1.Status"),
            (
                "",
                "APIVersions",
                "io.k8s.apimachinery.pkg.apis.meta.v1.APIVersions",
            ),
            (
                "meta.k8s.io/v1",
                "PartialObjectMetadata",
                "io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata",
            ),
            ("meta.k8s.io/v1", "Table", ""),
        ] {
            let name = type_of(api_version, kind).map_or("", |ty| builtin().get(ty).name);
            assert_eq!(name, expected, "{kind}");
        }
    }

    #[test]
    fn what_has_no_form_is_not_acceptable() {
        let table = serde_json::json!({"apiVersion": "meta.k8s.io/v1", "kind": "Table"});
        assert_eq!(seal(&table).map_err(|error| error.code), Err(406));
    }
}
