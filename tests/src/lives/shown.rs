//! What a watch shows of a pod, in the form in which it is compared.

use serde_json::{Map, Value, json};

/// The values of a run, for which recordings have placeholders.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// `<ns>`.
    pub namespace: String,
    /// `n1`.
    pub node: String,
    /// `<node-ip>`; any other address is `<pod-ip>`.
    pub node_ip: String,
    /// `<uid>`.
    pub uid: String,
}

/// Times, and others that recordings leave out because they differ from run to run.
const UNRECORDED: &[&str] = &[
    "startTime",
    "startedAt",
    "finishedAt",
    "lastProbeTime",
    "lastTransitionTime",
    "imageID",
];

/// The lists of containers' statuses.
pub(super) const CONTAINERS: [&str; 3] = [
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
];

impl Run {
    /// A text of this run, with placeholders.
    pub fn scrub_text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (value, placeholder) in [(&self.uid, "<uid>"), (&self.namespace, "<ns>")] {
            if !value.is_empty() {
                text = text.replace(value.as_str(), placeholder);
            }
        }
        match text.strip_suffix(&format!(" to {}", self.node)) {
            Some(start) => format!("{start} to n1"),
            None => text,
        }
    }

    fn scrub(&self, name: &str, value: &Value) -> Value {
        match (name, value) {
            ("containerID", Value::String(id)) if id.contains("://") => json!("<id>"),
            ("hostIP" | "podIP" | "ip", Value::String(ip)) if *ip == self.node_ip => json!("<node-ip>"),
            ("hostIP" | "podIP" | "ip", Value::String(ip)) if ip.parse::<std::net::IpAddr>().is_ok() => {
                json!("<pod-ip>")
            }
            (_, Value::String(text)) => json!(self.scrub_text(text)),
            (_, Value::Array(items)) => items.iter().map(|item| self.scrub(name, item)).collect(),
            (_, Value::Object(fields)) => fields
                .iter()
                .filter(|(name, _)| !UNRECORDED.contains(&name.as_str()))
                .map(|(name, value)| (name.clone(), self.scrub(name, value)))
                .collect(),
            (_, other) => other.clone(),
        }
    }
}

/// What a change of a pod shows, with placeholders.
pub fn snapshot(event: &str, pod: &Value, run: &Run) -> Value {
    json!({
        "event": event,
        "deleting": pod.pointer("/metadata/deletionTimestamp").is_some(),
        "status": normal(&run.scrub("status", &pod["status"])),
    })
}

/// A status whose conditions and containers go by their names, as their order says nothing.
pub(super) fn normal(status: &Value) -> Value {
    let mut status = status.clone();
    by_name(&mut status, "conditions", "type");
    for list in CONTAINERS {
        by_name(&mut status, list, "name");
        for (_, container) in status[list].as_object_mut().into_iter().flatten() {
            if container["lastState"].is_null() {
                container["lastState"] = json!({});
            }
        }
        if status[list].is_null()
            && let Some(fields) = status.as_object_mut()
        {
            fields.remove(list);
        }
    }
    status
}

fn by_name(status: &mut Value, list: &str, key: &str) {
    if let Some(Value::Array(items)) = status.get(list) {
        let named = items.iter().map(|item| {
            let mut item = item.clone();
            let name = item.as_object_mut().and_then(|fields| fields.remove(key));
            let name = name.as_ref().and_then(Value::as_str).unwrap_or_default();
            (name.to_owned(), item)
        });
        let named: Map<String, Value> = named.collect();
        status[list] = Value::Object(named);
    }
}
