//! Deleting objects: at once, gracefully, or once their finalizers are done ("Garbage Collection",
//! "Finalizers", "Termination of Pods").

use axum::response::Response;
use bytes::Bytes;
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};
use stead_api::error::ApiError;
use stead_api::meta::{self, FOREGROUND_FINALIZER, ORPHAN_FINALIZER};
use stead_api::registry::Kind;
use stead_store::{CommitError, Condition, Txn};

use super::list::{answer, page};
use super::read::{closed, show, view};
use super::write::{commit_error, modified};
use crate::admission;
use crate::admission::webhook::Write as Webhooks;
use crate::body::{media_type, yaml_to_json};
use crate::options::{DeleteOptions, ListOptions, Propagation, delete_body};
use crate::respond;
use crate::server::Call;
use crate::services;
use crate::stored::{Stored, encode, key};

const ATTEMPTS: usize = 8;

/// Kinds whose deletion is answered with the object rather than a Status.
const RETURNED: [&str; 7] = [
    "pods",
    "services",
    "serviceaccounts",
    "persistentvolumes",
    "persistentvolumeclaims",
    "storageclasses",
    "namespaces",
];

/// What a deletion does to an object.
#[derive(Debug, PartialEq)]
pub(crate) enum Removal {
    /// It goes at once.
    Now,
    /// It is marked, and stays until its finalizers or its node are done.
    Marked(Box<Value>),
    /// It has been marked already, and nothing changes.
    Unchanged,
}

/// DELETE of an object.
pub(crate) async fn delete(call: &Call<'_>, body: &Bytes) -> Result<Response, ApiError> {
    let options = DeleteOptions::parse(call.query, parse_body(call, body)?)?;
    let name = call.path.name.as_str();
    let mut warnings = Vec::new();
    if call.kind.orphans_dependents && options.propagation.is_none() {
        warnings.push(format!(
            "child pods are preserved by default when {} are deleted; set propagationPolicy=Background to remove \
             them or set propagationPolicy=Orphan to suppress this warning",
            call.kind.plural
        ));
    }
    let (object, gone) = remove(call, &call.path.namespace, name, &options, &mut warnings).await?;
    let mut response = if gone && !RETURNED.contains(&call.kind.plural) {
        respond::value(200, call.accepted.encoding, &success(call.kind, &object))
    } else {
        show(call, 200, &object)?
    };
    respond::warn(&mut response, &warnings);
    Ok(response)
}

/// DELETE of a collection.
pub(crate) async fn delete_collection(call: &Call<'_>, body: &Bytes) -> Result<Response, ApiError> {
    let options = DeleteOptions::parse(call.query, parse_body(call, body)?)?;
    let list = ListOptions::parse(call.query, call.kind, false)?;
    let page = page(call.server, call.kind, &call.path.namespace, &list).await?;
    let mut warnings = Vec::new();
    for object in &page.items {
        let object = object.value();
        let (namespace, name) = (meta::namespace(&object), meta::name(&object));
        match remove(call, namespace, name, &options, &mut warnings).await {
            Err(error) if error.code != 404 => return Err(error),
            _ => {}
        }
    }
    let mut response = answer(call, &page)?;
    respond::warn(&mut response, &warnings);
    Ok(response)
}

fn parse_body(call: &Call<'_>, body: &Bytes) -> Result<Option<Value>, ApiError> {
    if body.is_empty() {
        return Ok(None);
    }
    let malformed = |why: String| {
        ApiError::new(
            500,
            "",
            format!("couldn't get version/kind; json parse error: {why}"),
        )
    };
    let value = match media_type(call.headers).as_str() {
        "application/vnd.kubernetes.protobuf" => protobuf_options(body)?,
        "application/yaml" => {
            let json = yaml_to_json(body).map_err(malformed)?;
            serde_json::from_str(&json).map_err(|error| malformed(error.to_string()))?
        }
        _ => serde_json::from_slice(body).map_err(|error| {
            malformed(stead_api::json::syntax_error(body).unwrap_or_else(|| error.to_string()))
        })?,
    };
    delete_body(value).map(Some)
}

fn protobuf_options(body: &[u8]) -> Result<Value, ApiError> {
    use stead_api::schema::{builtin, from_protobuf, open_envelope};
    let ty = builtin().find("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions");
    let ty = ty.expect("DeleteOptions is in the table");
    open_envelope(body)
        .map_err(|error| error.to_string())
        .and_then(|envelope| from_protobuf(builtin(), ty, envelope.raw).map_err(|error| error.to_string()))
        .map_err(|error| ApiError::new(500, "", error))
}

/// Deletes an object, or marks it for deletion. Gives what is left of it, or was, and whether it
/// is gone.
pub(crate) async fn remove(
    call: &Call<'_>,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
    warnings: &mut Vec<String>,
) -> Result<(Value, bool), ApiError> {
    let kind = call.kind;
    admission::check_delete(call, name)?;
    let object_key = key::object(kind, namespace, name);
    for _ in 0..ATTEMPTS {
        let not_found = || ApiError::not_found(kind.group, kind.plural, name);
        let stored: Stored = call.server.store.get(&object_key).ok_or_else(not_found)?.value;
        let object = view(kind, &stored);
        check_preconditions(kind, &object, options)?;
        admission::nodes::check(call, None, Some(&object))?;
        if let Some(webhooks) = Webhooks::deletion(call, &object, options) {
            Box::pin(webhooks.validate(None, warnings)).await?;
        }
        let condition = Condition::Unchanged(stored.revision());
        let (txn, gone) = match plan(kind, &object, options, Timestamp::now()) {
            Removal::Unchanged => return Ok((object, false)),
            Removal::Now if options.dry_run => return Ok((mark_now(object), true)),
            Removal::Marked(marked) if options.dry_run => return Ok((*marked, false)),
            Removal::Now => (
                services::release(Txn::new().delete(object_key.clone(), condition), kind, &object),
                true,
            ),
            Removal::Marked(marked) => {
                let stored_form = match kind.stored_as {
                    None => *marked,
                    Some(stored) => (stored.to_stored)(*marked),
                };
                (
                    Txn::new().put(object_key.clone(), encode(&stored_form), condition),
                    false,
                )
            }
        };
        match call.server.store.commit(txn).await {
            Ok(committed) if gone => {
                let mut object = if kind.plural == "pods" {
                    mark_now(object)
                } else {
                    object
                };
                meta::set(
                    &mut object,
                    "resourceVersion",
                    committed.revision.get().to_string(),
                );
                return Ok((object, true));
            }
            Ok(committed) => {
                let entry = committed
                    .events
                    .first()
                    .and_then(|event| event.current())
                    .ok_or_else(closed)?;
                return Ok((view(kind, &entry.value), false));
            }
            Err(CommitError::Conflict(_)) => {}
            Err(error) => return Err(commit_error(&error)),
        }
    }
    Err(modified(call))
}

/// What is to be done with an object whose deletion is asked for.
fn plan(kind: &Kind, object: &Value, options: &DeleteOptions, now: Timestamp) -> Removal {
    let grace = if kind.plural == "pods" {
        pod_grace(object, options)
    } else {
        0
    };
    let finalizers = finalizers_for(kind, object, options.propagation);
    let namespace_content = kind.kind == "Namespace"
        && object["spec"]["finalizers"]
            .as_array()
            .is_some_and(|finalizers| !finalizers.is_empty());
    let stays = grace > 0 || !finalizers.is_empty() || namespace_content;
    if !stays {
        return Removal::Now;
    }
    let metadata = &object["metadata"];
    let same_finalizers = meta::finalizers(object) == finalizers;
    if meta::is_deleting(object) {
        let set = metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        if same_finalizers && set <= grace {
            return Removal::Unchanged;
        }
    }
    let mut marked = object.clone();
    let was_deleting = meta::is_deleting(object);
    if !was_deleting
        || metadata["deletionGracePeriodSeconds"]
            .as_i64()
            .is_some_and(|set| set > grace)
    {
        let end = now.saturating_add(grace.seconds()).unwrap_or(now);
        meta::set(&mut marked, "deletionTimestamp", stead_api::time::rfc3339(end));
        // A namespace has no grace period: its content decides.
        if !namespace_content {
            meta::set(&mut marked, "deletionGracePeriodSeconds", grace);
        }
        if let Some(generation) = metadata["generation"]
            .as_i64()
            .filter(|generation| *generation > 0)
        {
            meta::set(&mut marked, "generation", generation + 1);
        }
    }
    if finalizers.is_empty() {
        meta::remove(&mut marked, "finalizers");
    } else {
        meta::set(
            &mut marked,
            "finalizers",
            finalizers
                .iter()
                .map(|name| Value::from(*name))
                .collect::<Vec<_>>(),
        );
    }
    if namespace_content {
        marked["status"]["phase"] = "Terminating".into();
    }
    Removal::Marked(Box::new(marked))
}

/// The finalizers once the propagation policy has had its say.
fn finalizers_for<'o>(kind: &Kind, object: &'o Value, propagation: Option<Propagation>) -> Vec<&'o str> {
    let own = meta::finalizers(object);
    let decided = own
        .iter()
        .any(|name| [ORPHAN_FINALIZER, FOREGROUND_FINALIZER].contains(name));
    let usual = (kind.orphans_dependents && !decided).then_some(Propagation::Orphan);
    let wanted = match propagation.or(usual) {
        Some(Propagation::Orphan) => Some(ORPHAN_FINALIZER),
        Some(Propagation::Foreground) => Some(FOREGROUND_FINALIZER),
        Some(Propagation::Background) => None,
        // Without a policy, what a former deletion asked for stays.
        None => return own,
    };
    let mut finalizers: Vec<&str> = own
        .into_iter()
        .filter(|name| ![ORPHAN_FINALIZER, FOREGROUND_FINALIZER].contains(name))
        .collect();
    finalizers.extend(wanted);
    finalizers
}

/// How long a pod gets: none if nothing of it runs on a node; never longer than it has got before.
fn pod_grace(pod: &Value, options: &DeleteOptions) -> i64 {
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
    if pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty) || ended {
        return 0;
    }
    let asked = options
        .grace_period_seconds
        .or(pod["spec"]["terminationGracePeriodSeconds"].as_i64());
    // A negative period is as one second.
    let asked = match asked.unwrap_or(30) {
        ..0 => 1,
        seconds => seconds,
    };
    match pod["metadata"]["deletionGracePeriodSeconds"].as_i64() {
        Some(set) if meta::is_deleting(pod) => {
            if options.grace_period_seconds.is_none() {
                set
            } else {
                asked.min(set)
            }
        }
        _ => asked,
    }
}

fn mark_now(mut object: Value) -> Value {
    if !meta::is_deleting(&object) {
        meta::set(
            &mut object,
            "deletionTimestamp",
            stead_api::time::rfc3339(Timestamp::now()),
        );
    }
    meta::set(&mut object, "deletionGracePeriodSeconds", 0);
    object
}

fn check_preconditions(kind: &Kind, object: &Value, options: &DeleteOptions) -> Result<(), ApiError> {
    let conflict = |why: String| {
        Err(ApiError::conflict(
            kind.group,
            kind.kind,
            meta::name(object),
            &why,
        ))
    };
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != meta::uid(object)) {
        return conflict(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            meta::uid(object)
        ));
    }
    let own = meta::text(object, "resourceVersion");
    if let Some(version) = options
        .resource_version
        .as_deref()
        .filter(|version| *version != own)
    {
        return conflict(format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({own}). The object might have been modified"
        ));
    }
    Ok(())
}

fn success(kind: &Kind, object: &Value) -> Value {
    let mut details = json!({"name": meta::name(object), "kind": kind.plural, "uid": meta::uid(object)});
    if !kind.group.is_empty() {
        details["group"] = kind.group.into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

#[cfg(test)]
mod tests {
    use stead_api::registry;

    use super::*;

    fn plan_of(plural: &str, object: &Value, options: &DeleteOptions) -> Removal {
        let kind = registry::builtin()
            .resource("", "v1", plural)
            .expect("a core kind");
        plan(
            kind,
            object,
            options,
            Timestamp::from_second(1_000_000).expect("a time"),
        )
    }

    #[test]
    fn an_object_without_finalizers_goes_at_once() {
        let object = json!({"metadata": {"name": "a"}});
        assert_eq!(
            plan_of("configmaps", &object, &DeleteOptions::default()),
            Removal::Now
        );
        let background = DeleteOptions {
            propagation: Some(Propagation::Background),
            ..DeleteOptions::default()
        };
        assert_eq!(plan_of("configmaps", &object, &background), Removal::Now);
    }

    #[test]
    fn a_policy_becomes_a_finalizer() {
        let object = json!({"metadata": {"name": "a", "generation": 1}});
        let orphan = DeleteOptions {
            propagation: Some(Propagation::Orphan),
            ..DeleteOptions::default()
        };
        let Removal::Marked(marked) = plan_of("configmaps", &object, &orphan) else {
            panic!("it stays")
        };
        assert_eq!(marked["metadata"]["finalizers"], json!(["orphan"]));
        assert_eq!(marked["metadata"]["generation"], 2);
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    }

    #[test]
    fn a_running_pod_gets_its_grace_period_and_never_a_longer_one() {
        let mut pod =
            json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 7}});
        let Removal::Marked(marked) = plan_of("pods", &pod, &DeleteOptions::default()) else {
            panic!("it stays")
        };
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 7);
        pod = *marked;
        let grace = |seconds| DeleteOptions {
            grace_period_seconds: Some(seconds),
            ..DeleteOptions::default()
        };
        assert_eq!(plan_of("pods", &pod, &grace(60)), Removal::Unchanged);
        assert_eq!(
            plan_of("pods", &pod, &DeleteOptions::default()),
            Removal::Unchanged
        );
        let Removal::Marked(shorter) = plan_of("pods", &pod, &grace(2)) else {
            panic!("it stays")
        };
        assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 2);
        assert_eq!(plan_of("pods", &pod, &grace(0)), Removal::Now);
    }

    #[test]
    fn a_pod_that_runs_nowhere_goes_at_once() {
        let waiting = json!({"metadata": {"name": "p"}, "spec": {"terminationGracePeriodSeconds": 7}});
        assert_eq!(plan_of("pods", &waiting, &DeleteOptions::default()), Removal::Now);
        let ended =
            json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n"}, "status": {"phase": "Failed"}});
        assert_eq!(plan_of("pods", &ended, &DeleteOptions::default()), Removal::Now);
    }
}
