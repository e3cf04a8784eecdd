//! What is told of objects that are kept though nothing acts on them: an event, stored with the object.

use jiff::Timestamp;
use serde_json::{Value, json};
use stead_api::meta;
use stead_api::registry::Kind;
use stead_store::{Condition, Txn};

use crate::resource::new_uid;
use crate::server::Inner;
use crate::stored::{encode, key};

const REASON: &str = "NoEffect";
/// Where events of objects outside namespaces are.
const DEFAULT_NAMESPACE: &str = "default";

/// Adds what is told of an object, if anything is, to its creation.
pub(crate) fn add_to(txn: Txn, server: &Inner, event: Option<Value>) -> Txn {
    let events = server.registry.resource("", "v1", "events");
    match (event, events) {
        (Some(event), Some(events)) => {
            let key = key::object(events, meta::namespace(&event), meta::name(&event));
            txn.put(key, encode(&event), Condition::Absent)
        }
        _ => txn,
    }
}

/// What is told of a new object of a kind.
pub(crate) fn event(kind: &Kind, object: &Value, now: Timestamp) -> Option<Value> {
    let message = kind.caveat?;
    let namespace = match meta::namespace(object) {
        "" => DEFAULT_NAMESPACE,
        namespace => namespace,
    };
    let time = stead_api::time::rfc3339(now);
    let mut about = json!({
        "apiVersion": kind.api_version(),
        "kind": kind.kind,
        "name": meta::name(object),
        "uid": meta::uid(object),
    });
    if !meta::namespace(object).is_empty() {
        about["namespace"] = namespace.into();
    }
    Some(json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": format!("{}.{:x}", meta::name(object), now.as_nanosecond()),
            "namespace": namespace,
            "uid": new_uid(),
            "creationTimestamp": time,
        },
        "involvedObject": about,
        "type": "Warning",
        "reason": REASON,
        "message": message,
        "source": {"component": "stead"},
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
        "eventTime": null,
        "reportingComponent": "stead",
        "reportingInstance": "",
    }))
}

#[cfg(test)]
mod tests {
    use stead_api::registry;

    use super::*;

    #[test]
    fn an_event_says_what_is_not_done() {
        let kind = |group, plural| {
            registry::builtin()
                .resource(group, "v1", plural)
                .expect("it is registered")
        };
        let object = json!({"metadata": {"name": "i", "namespace": "n", "uid": "u"}});
        let told = event(
            kind("networking.k8s.io", "ingresses"),
            &object,
            Timestamp::UNIX_EPOCH,
        )
        .expect("it has a caveat");
        assert_eq!(told["involvedObject"]["namespace"], "n");
        assert_eq!(told["metadata"]["namespace"], "n");
        let errors = kind("", "events").validate_create(&told).expect("an event");
        assert!(errors.is_empty(), "{}", errors.summary());
        assert_eq!(
            event(kind("", "configmaps"), &object, Timestamp::UNIX_EPOCH),
            None
        );
    }
}
