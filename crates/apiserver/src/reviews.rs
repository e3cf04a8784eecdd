//! Answers to reviews: who a token is, and who may do what ("Checking API access", TokenReview).

use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};
use stead_api::error::ApiError;
use stead_api::registry::Kind;

use crate::authn::TokenRefused;
use crate::authz::{Asked, Found, Rule};
use crate::body::{self, Expected};
use crate::identity::Identity;
use crate::options::WriteOptions;
use crate::resource::fit_to_namespace;
use crate::respond;
use crate::server::Call;

/// Whether objects of a kind are questions that are answered at once.
pub(crate) fn is_review(kind: &Kind) -> bool {
    matches!(kind.group, "authentication.k8s.io" | "authorization.k8s.io")
}

/// POST of a review.
pub(crate) fn create(call: &Call<'_>, body: &Bytes) -> Result<Response, ApiError> {
    let options = WriteOptions::parse(call.query, "CreateOptions")?;
    let expected = Expected::of(call.kind);
    let mut review = body::decode(call.headers, body, &expected, options.field_validation)?.object;
    fit_to_namespace(call, &mut review)?;
    let mut errors = stead_api::error::Errors::new();
    (call.kind.logic.validate)(&review, &mut errors).map_err(ApiError::internal)?;
    if !errors.is_empty() {
        // Upstream names neither the kind nor an object.
        return Err(ApiError::invalid(call.kind.group, "", "", &errors));
    }
    review["status"] = match call.kind.kind {
        "TokenReview" => review_token(call, &review)?,
        "SelfSubjectReview" => json!({"userInfo": user(call.identity)}),
        "SelfSubjectRulesReview" => {
            let namespace = text(&review["spec"]["namespace"]).to_owned();
            review["spec"] = json!({});
            review_rules(call, &namespace)?
        }
        "SelfSubjectAccessReview" => review_access(call, call.identity, &review["spec"]),
        _ => review_access(call, &subject(&review["spec"]), &review["spec"]),
    };
    Ok(respond::value(201, call.accepted.encoding, &review))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A user as the API shows it (`UserInfo`).
pub(crate) fn user(identity: &Identity) -> Value {
    let mut user = json!({"username": identity.name, "groups": identity.groups});
    if !identity.uid.is_empty() {
        user["uid"] = identity.uid.as_str().into();
    }
    if !identity.extra.is_empty() {
        user["extra"] = json!(identity.extra);
    }
    user
}

fn review_token(call: &Call<'_>, review: &Value) -> Result<Value, ApiError> {
    let token = text(&review["spec"]["token"]);
    if token.is_empty() {
        return Err(ApiError::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    let mut audiences = texts(&review["spec"]["audiences"]);
    if audiences.is_empty() {
        audiences.push(call.server.tokens.issuer().to_owned());
    }
    let refused = |why: &str| json!({"user": {}, "error": why});
    let now = jiff::Timestamp::now();
    Ok(match call.server.verify_token(token, &audiences, now) {
        Ok((identity, audiences)) => json!({
            "authenticated": true,
            "user": user(&identity),
            "audiences": audiences,
        }),
        Err(TokenRefused::Unknown) => refused("invalid bearer token"),
        Err(TokenRefused::Because(why)) => refused(&format!("[invalid bearer token, {why}]")),
    })
}

/// Whom an access review is about.
fn subject(spec: &Value) -> Identity {
    Identity {
        name: text(&spec["user"]).to_owned(),
        uid: text(&spec["uid"]).to_owned(),
        groups: texts(&spec["groups"]),
        extra: serde_json::from_value(spec["extra"].clone()).unwrap_or_default(),
        is_part: false,
    }
}

fn review_access(call: &Call<'_>, identity: &Identity, spec: &Value) -> Value {
    let resource = &spec["resourceAttributes"];
    let asked = if resource.is_object() {
        Asked::Resource {
            verb: text(&resource["verb"]),
            group: text(&resource["group"]),
            resource: text(&resource["resource"]),
            subresource: text(&resource["subresource"]),
            namespace: text(&resource["namespace"]),
            name: text(&resource["name"]),
        }
    } else {
        let other = &spec["nonResourceAttributes"];
        Asked::Path {
            verb: text(&other["verb"]),
            path: text(&other["path"]),
        }
    };
    let decision = call.server.authorize(identity, &asked);
    let mut status = json!({"allowed": decision.allowed});
    if !decision.reason.is_empty() {
        status["reason"] = decision.reason.into();
    }
    status
}

fn review_rules(call: &Call<'_>, namespace: &str) -> Result<Value, ApiError> {
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let (mut resource_rules, mut path_rules, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    call.server.visit_rules(call.identity, namespace, |found| {
        match found {
            Found::Rules(rules, _) => {
                let of_path = |rule: &&Rule| !rule.non_resource_urls.is_empty();
                path_rules.extend(rules.iter().filter(of_path).map(|rule| json!(rule)));
                resource_rules.extend(rules.iter().filter(|rule| !of_path(rule)).map(|rule| json!(rule)));
            }
            Found::Missing(why) => missing.push(why),
        }
        false
    });
    let mut status = json!({
        "resourceRules": resource_rules,
        "nonResourceRules": path_rules,
        "incomplete": !missing.is_empty(),
    });
    if !missing.is_empty() {
        status["evaluationError"] = missing.join(", ").into();
    }
    Ok(status)
}
