//! What a webhook is asked, and what its answer means (`AdmissionReview`): pure functions.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use stead_api::error::{ApiError, quote};
use stead_api::meta;
use stead_api::registry::Kind;

use super::hook::Operation;
use crate::options::DeleteOptions;
use crate::request::Query;
use crate::resource::new_uid;
use crate::reviews::user;
use crate::server::Call;

/// A request that webhooks are asked about.
pub(super) struct Request<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) operation: Operation,
    /// The kind of the objects of a subresource that has its own.
    pub(super) part: Option<Part>,
    pub(super) old: Option<&'a Value>,
    pub(super) dry_run: bool,
    pub(super) options: Value,
}

/// A kind that is only that of a subresource's objects, such as Scale.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
}

/// The options of a write, from its query.
pub(super) fn write_options(query: &Query, kind: &str, dry_run: bool) -> Value {
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    for field in ["fieldManager", "fieldValidation"] {
        if let Some(value) = query.text(field) {
            options[field] = value.into();
        }
    }
    if dry_run {
        options["dryRun"] = json!(["All"]);
    }
    options
}

/// The options of a deletion.
pub(super) fn delete_options(options: &DeleteOptions) -> Value {
    let mut shown = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
    if let Some(seconds) = options.grace_period_seconds {
        shown["gracePeriodSeconds"] = seconds.into();
    }
    if let Some(policy) = options.propagation {
        shown["propagationPolicy"] = policy.name().into();
    }
    let mut preconditions = Map::new();
    for (field, value) in [
        ("uid", &options.uid),
        ("resourceVersion", &options.resource_version),
    ] {
        if let Some(value) = value {
            preconditions.insert(field.to_owned(), value.as_str().into());
        }
    }
    if !preconditions.is_empty() {
        shown["preconditions"] = preconditions.into();
    }
    if options.dry_run {
        shown["dryRun"] = json!(["All"]);
    }
    shown
}

impl Request<'_> {
    /// An object of one kind as one of an equivalent kind.
    pub(super) fn convert(&self, object: &Value, from: &Kind, to: &Kind) -> Value {
        let object = object.clone();
        if self.part.is_some() || std::ptr::eq(from, to) {
            return object;
        }
        let stored = from
            .stored_as
            .map_or_else(|| object.clone(), |stored| (stored.to_stored)(object.clone()));
        match to.stored_as {
            Some(as_stored) => (as_stored.from_stored)(stored),
            None => stored,
        }
    }

    /// The object as it was before, or is to be.
    fn subject<'s>(&'s self, new: Option<&'s Value>) -> &'s Value {
        new.or(self.old).unwrap_or(&Value::Null)
    }

    /// The question in a version of AdmissionReview, and its uid. It is asked as if the request was for `seen`, which is
    /// its kind or an equivalent one.
    pub(super) fn review(&self, version: &str, new: Option<&Value>, seen: &Kind) -> (String, Value) {
        let kind = self.call.kind;
        let uid = new_uid();
        let group_kind = |kind: &Kind| match self.part {
            Some(part) => json!({"group": part.group, "version": part.version, "kind": part.kind}),
            None => json!({"group": kind.group, "version": kind.version, "kind": kind.kind}),
        };
        let resource =
            |kind: &Kind| json!({"group": kind.group, "version": kind.version, "resource": kind.plural});
        let subject = self.subject(new);
        let path = self.call.path;
        let name = match meta::name(subject) {
            "" => path.name.as_str(),
            name => name,
        };
        let shown = |object: &Value| self.convert(object, kind, seen);
        let mut request = json!({
            "uid": uid,
            "kind": group_kind(seen),
            "resource": resource(seen),
            "requestKind": group_kind(kind),
            "requestResource": resource(kind),
            "name": name,
            "operation": self.operation.name(),
            "userInfo": user(self.call.identity),
            "object": new.map(shown),
            "oldObject": self.old.map(shown),
            "dryRun": self.dry_run,
            "options": self.options,
        });
        let subresource = path.subresource.as_str();
        if !subresource.is_empty() {
            request["subResource"] = subresource.into();
            request["requestSubResource"] = subresource.into();
        }
        let namespace = if kind.kind == "Namespace" {
            name
        } else if kind.namespaced && self.part.is_some() {
            &path.namespace
        } else {
            meta::namespace(subject)
        };
        if !namespace.is_empty() {
            request["namespace"] = namespace.into();
        }
        let review = json!({
            "kind": "AdmissionReview",
            "apiVersion": format!("admission.k8s.io/{version}"),
            "request": request,
        });
        (uid, review)
    }
}

/// What a webhook says.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// Why the request is refused.
    pub(super) refusal: Option<ApiError>,
    /// A JSON patch; only of those that may change objects.
    pub(super) patch: Option<Vec<u8>>,
    pub(super) warnings: Vec<String>,
}

/// Reads a webhook's answer to a question. The error says why it is none.
pub(super) fn read(
    name: &str,
    version: &str,
    uid: &str,
    body: &[u8],
    changes: bool,
) -> Result<Answer, String> {
    let review: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let response = &review["response"];
    if !response.is_object() {
        return Err("webhook response was absent".to_owned());
    }
    let found = |field: &str| review[field].as_str().unwrap_or_default();
    let wanted = format!("admission.k8s.io/{version}");
    if (found("apiVersion"), found("kind")) != (wanted.as_str(), "AdmissionReview") {
        return Err(format!(
            "expected webhook response of {wanted}, Kind=AdmissionReview, got {}, Kind={}",
            found("apiVersion"),
            found("kind")
        ));
    }
    let answered = response["uid"].as_str().unwrap_or_default();
    // The older version did not ask for it.
    if answered != uid && version == "v1" {
        return Err(format!(
            "expected response.uid={}, got {}",
            quote(uid),
            quote(answered)
        ));
    }
    let warnings = response["warnings"].as_array().into_iter().flatten();
    let mut answer = Answer {
        warnings: warnings.filter_map(Value::as_str).map(str::to_owned).collect(),
        ..Answer::default()
    };
    if response["allowed"] != true {
        answer.refusal = Some(refusal(name, &response["status"]));
        return Ok(answer);
    }
    let patch = response["patch"].as_str().unwrap_or_default();
    let patch_type = response["patchType"].as_str().unwrap_or_default();
    if patch.is_empty() {
        return Ok(answer);
    }
    if !changes {
        return Err("a validating webhook may not send a patch".to_owned());
    }
    if version == "v1" && patch_type != "JSONPatch" {
        let why = if patch_type.is_empty() {
            "response.patchType must be set if response.patch is set".to_owned()
        } else {
            format!("response.patchType: unsupported patch type {}", quote(patch_type))
        };
        return Err(why);
    }
    let patch = STANDARD
        .decode(patch)
        .map_err(|error| format!("response.patch: {error}"))?;
    answer.patch = Some(patch);
    Ok(answer)
}

/// The refusal that a webhook's status stands for.
fn refusal(name: &str, status: &Value) -> ApiError {
    let text = |field: &str| status[field].as_str().unwrap_or_default();
    let denied = format!("admission webhook {} denied the request", quote(name));
    let message = match (text("message"), text("reason")) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok());
    let code = code.filter(|code| (400..600).contains(code)).unwrap_or(400);
    ApiError {
        details: status["details"].is_object().then(|| status["details"].clone()),
        ..ApiError::new(code, text("reason").to_owned(), message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(response: Value) -> Result<Answer, String> {
        let mut response = response;
        if response["uid"].is_null() {
            response["uid"] = "u".into();
        }
        let review =
            json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response});
        read("a.b.c", "v1", "u", review.to_string().as_bytes(), true)
    }

    #[test]
    fn a_refusal_has_code_reason_and_words() {
        let refused = |status: Value| {
            let answer = answer(json!({"allowed": false, "status": status})).expect("an answer");
            let error = answer.refusal.expect("a refusal");
            (error.code, error.reason.into_owned(), error.message)
        };
        let denied = "admission webhook \"a.b.c\" denied the request";
        assert_eq!(
            refused(json!({"message": "no", "code": 418, "reason": "Teapot"})),
            (418, "Teapot".to_owned(), format!("{denied}: no"))
        );
        assert_eq!(
            refused(json!({"code": 200})),
            (400, String::new(), format!("{denied} without explanation"))
        );
    }

    #[test]
    fn a_patch_has_its_type() {
        let patch = STANDARD.encode("[]");
        let good =
            answer(json!({"allowed": true, "patch": patch, "patchType": "JSONPatch"})).expect("an answer");
        assert_eq!(good.patch.as_deref(), Some(&b"[]"[..]));
        for (bad, why) in [
            (json!({"allowed": true, "patch": patch}), "patchType must be set"),
            (
                json!({"allowed": true, "patch": "%", "patchType": "JSONPatch"}),
                "response.patch",
            ),
            (
                json!({"allowed": true, "uid": "x"}),
                "expected response.uid=\"u\", got \"x\"",
            ),
        ] {
            let error = answer(bad).expect_err("it is no answer");
            assert!(error.contains(why), "{error}");
        }
        assert!(read("a", "v1", "u", b"{}", true).is_err_and(|why| why == "webhook response was absent"));
        assert!(read("a", "v1", "u", b"nonsense", true).is_err());
    }
}
