//! Objects as they are stored and served: JSON, encoded once.
//!
//! What the store holds durably is an object's JSON without its resourceVersion, which is known
//! only when the write is committed. [`Object`] puts it in and keeps the result inside the frame of
//! a watch event, so that a get, a list item and a watch event are slices of the same bytes, and
//! no reader or watcher encodes anything. Objects are parsed again only where their content
//! matters: for selectors (once each), tables and writes.

use std::sync::{Arc, OnceLock};

use bytes::{BufMut as _, Bytes, BytesMut};
use serde_json::{Map, Value};
use stead_api::error::ApiError;
use stead_api::registry::{self, Kind};
use stead_store::Revision;

use crate::authz::Policy;

/// A stored object, shared between the index, the history and those who read it.
#[derive(Clone)]
pub(crate) struct Stored(Arc<Object>);

impl std::ops::Deref for Stored {
    type Target = Object;

    fn deref(&self) -> &Object {
        &self.0
    }
}

const FRAME: &[u8] = br#"{"type":"MODIFIED","object":"#;
const METADATA: &[u8] = br#"{"metadata":{"#;

/// An object at a revision.
pub(crate) struct Object {
    /// `{"type":"MODIFIED","object":{"kind":…,"apiVersion":…,"metadata":{"resourceVersion":…,…},…}}\n`
    frame: Bytes,
    /// Where `"metadata":` starts in the frame.
    metadata_at: u32,
    revision: Revision,
    facts: OnceLock<Box<Facts>>,
    policy: OnceLock<Box<Policy>>,
    protobuf: OnceLock<Box<Bytes>>,
}

/// What selectors ask of an object.
pub(crate) struct Facts {
    /// Its labels.
    pub(crate) labels: Map<String, Value>,
    /// Its selectable fields that are not empty.
    fields: Vec<(&'static str, String)>,
}

impl Facts {
    /// The value of a field; empty where there is none.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        self.fields
            .iter()
            .find(|(field, _)| *field == name)
            .map(|(_, value)| value.clone())
    }
}

/// The bytes to store for an object: what it is in two lines, then its JSON without
/// `apiVersion`, `kind` and `metadata.resourceVersion`, metadata first.
pub(crate) fn encode(object: &Value) -> Bytes {
    let mut bytes = Vec::with_capacity(1024);
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    for part in [text("apiVersion"), "\n", text("kind"), "\n"] {
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes.extend_from_slice(b"{\"metadata\":");
    let mut metadata = object["metadata"].as_object().cloned().unwrap_or_default();
    metadata.remove("resourceVersion");
    // Writing to a Vec and of a map with string keys cannot fail.
    serde_json::to_writer(&mut bytes, &metadata).expect("a JSON value has a JSON encoding");
    for (name, value) in object.as_object().into_iter().flatten() {
        if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            bytes.push(b',');
            serde_json::to_writer(&mut bytes, name).expect("a string has a JSON encoding");
            bytes.push(b':');
            serde_json::to_writer(&mut bytes, value).expect("a JSON value has a JSON encoding");
        }
    }
    bytes.push(b'}');
    bytes.into()
}

impl stead_store::Value for Stored {
    fn decode(_key: &str, bytes: &Bytes, revision: Revision) -> Stored {
        let mut lines = bytes.splitn(3, |byte| *byte == b'\n');
        let mut line = || lines.next().unwrap_or_default();
        let (api_version, kind, json) = (line(), line(), line());
        let rest = json.strip_prefix(METADATA).unwrap_or(b"}}");
        let version = revision.get().to_string();
        let mut frame = BytesMut::with_capacity(bytes.len() + version.len() + 100);
        frame.put_slice(FRAME);
        for part in [
            &br#"{"kind":""#[..],
            kind,
            br#"","apiVersion":""#,
            api_version,
            b"\",",
        ] {
            frame.put_slice(part);
        }
        let metadata_at = frame.len() as u32;
        for part in [
            &METADATA[1..],
            br#""resourceVersion":""#,
            version.as_bytes(),
            b"\"",
        ] {
            frame.put_slice(part);
        }
        if rest.first() != Some(&b'}') {
            frame.put_u8(b',');
        }
        frame.put_slice(rest);
        frame.put_slice(b"}\n");
        Stored(Arc::new(Object {
            frame: frame.freeze(),
            metadata_at,
            revision,
            facts: OnceLock::new(),
            policy: OnceLock::new(),
            protobuf: OnceLock::new(),
        }))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let head = &self.frame[FRAME.len()..self.metadata_at as usize];
        // `{"kind":"K","apiVersion":"V",`: neither holds a quote.
        let mut texts = head.split(|byte| *byte == b'"');
        let (kind, api_version) = (texts.nth(3).unwrap_or_default(), texts.nth(3).unwrap_or_default());
        for part in [api_version, b"\n", kind, b"\n", METADATA] {
            out.extend_from_slice(part);
        }
        let rest =
            &self.frame[self.version_at() + self.revision.get().to_string().len() + 1..self.frame.len() - 2];
        out.extend_from_slice(rest.strip_prefix(b",").unwrap_or(rest));
    }
}

impl Object {
    /// The revision it was last written at.
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// Its JSON.
    pub(crate) fn json(&self) -> Bytes {
        self.frame.slice(FRAME.len()..self.frame.len() - 2)
    }

    /// Its JSON as an item of a typed list, which has neither kind nor apiVersion, without the
    /// opening brace.
    pub(crate) fn item(&self) -> &[u8] {
        &self.frame[self.metadata_at as usize..self.frame.len() - 2]
    }

    /// The event that says it was modified, as a line.
    pub(crate) fn modified(&self) -> Bytes {
        self.frame.clone()
    }

    /// The event of another type, as a line.
    pub(crate) fn event(&self, event_type: &str) -> Bytes {
        self.event_of(event_type, self.json().as_ref())
    }

    /// The event that says it is gone since a revision, as a line.
    pub(crate) fn deleted(&self, revision: Revision) -> Bytes {
        self.event_of("DELETED", &self.at(revision))
    }

    fn event_of(&self, event_type: &str, json: &[u8]) -> Bytes {
        let mut line = BytesMut::with_capacity(json.len() + 40);
        for part in [
            &br#"{"type":""#[..],
            event_type.as_bytes(),
            br#"","object":"#,
            json,
            b"}\n",
        ] {
            line.put_slice(part);
        }
        line.freeze()
    }

    /// Where the digits of its resourceVersion begin in the frame.
    fn version_at(&self) -> usize {
        self.metadata_at as usize + METADATA.len() - 1 + br#""resourceVersion":""#.len()
    }

    /// Its JSON with another resourceVersion, which is how the last state of a deleted object is
    /// shown.
    pub(crate) fn at(&self, revision: Revision) -> Bytes {
        let version_at = self.version_at();
        let old = self.revision.get().to_string().len();
        let (head, rest) = self.frame[..self.frame.len() - 2].split_at(version_at);
        let mut json = BytesMut::with_capacity(self.frame.len() + 4);
        json.put_slice(&head[FRAME.len()..]);
        json.put_slice(revision.get().to_string().as_bytes());
        json.put_slice(&rest[old..]);
        json.freeze()
    }

    /// Its JSON, parsed.
    pub(crate) fn value(&self) -> Value {
        // Only what `encode` made gets here.
        serde_json::from_slice(&self.json()).unwrap_or_default()
    }

    /// What selectors ask; parsed at the first call.
    pub(crate) fn facts(&self) -> &Facts {
        self.facts.get_or_init(|| {
            let mut value = self.value();
            let kind = registry::builtin().kind(
                value["apiVersion"].as_str().unwrap_or_default(),
                value["kind"].as_str().unwrap_or_default(),
            );
            let fields = kind.map(|kind| selectable(kind, &value)).unwrap_or_default();
            let labels = match value["metadata"]["labels"].take() {
                Value::Object(labels) => labels,
                _ => Map::new(),
            };
            Box::new(Facts { labels, fields })
        })
    }

    /// Its envelope of protobuf; encoded at the first call and kept, so that all who watch share it.
    pub(crate) fn protobuf(&self) -> Result<Bytes, ApiError> {
        if let Some(envelope) = self.protobuf.get() {
            return Ok(Bytes::clone(envelope));
        }
        let envelope = Bytes::from(crate::protobuf::seal(&self.value())?);
        Ok(Bytes::clone(self.protobuf.get_or_init(|| Box::new(envelope))))
    }

    /// It as something that the server itself goes by; parsed at the first call.
    pub(crate) fn policy(&self) -> &Policy {
        self.policy.get_or_init(|| Box::new(Policy::read(&self.value())))
    }
}

fn selectable(kind: &'static Kind, object: &Value) -> Vec<(&'static str, String)> {
    let own = kind.selectable.iter().map(|(name, _)| *name);
    ["metadata.name", "metadata.namespace"]
        .into_iter()
        .chain(own)
        .filter_map(|name| Some((name, kind.field(object, name)?)))
        .filter(|(_, value)| !value.is_empty())
        .collect()
}

/// The store's keys: `/RESOURCE[.GROUP]/[NAMESPACE/]NAME`.
pub(crate) mod key {
    use stead_api::error::qualified;
    use stead_api::registry::Kind;

    /// The key of an object. `namespace` is empty for kinds outside namespaces.
    pub(crate) fn object(kind: &Kind, namespace: &str, name: &str) -> String {
        format!("{}{name}", prefix(kind, namespace))
    }

    /// The prefix of a kind's objects in a namespace, or in all where it is empty.
    pub(crate) fn prefix(kind: &Kind, namespace: &str) -> String {
        let group = kind.stored_as.map_or(kind.group, |stored| stored.group);
        let resource = qualified(group, kind.plural);
        if namespace.is_empty() {
            format!("/{resource}/")
        } else {
            format!("/{resource}/{namespace}/")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stead_store::Value as _;

    use super::*;

    fn stored(object: &Value, revision: u64) -> Stored {
        Stored::decode("/configmaps/default/a", &encode(object), Revision::new(revision))
    }

    #[test]
    fn an_object_comes_back_with_its_resource_version() {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "a", "resourceVersion": "1", "labels": {"app": "web"}},
            "data": {"k": "v\n\"x\""},
        });
        let stored = stored(&object, 17);
        let mut expected = object;
        expected["metadata"]["resourceVersion"] = "17".into();
        assert_eq!(stored.value(), expected);
        let item: Value = serde_json::from_slice(&[b"{", stored.item()].concat()).expect("an item is JSON");
        assert_eq!(item["metadata"]["resourceVersion"], "17");
        assert!(item.get("kind").is_none() && item.get("apiVersion").is_none());
        assert_eq!(stored.facts().labels["app"], "web");
        assert_eq!(stored.facts().field("metadata.name").as_deref(), Some("a"));
    }

    #[test]
    fn what_is_stored_comes_back_as_it_was() {
        for object in [
            json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "a"}, "spec": {"x": [1]}}),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}}),
        ] {
            let bytes = encode(&object);
            let mut again = Vec::new();
            Stored::decode("/x", &bytes, Revision::new(42)).encode(&mut again);
            assert_eq!(String::from_utf8_lossy(&again), String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn events_are_lines_of_json() {
        let stored = stored(
            &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}),
            9,
        );
        for (line, event_type, version) in [
            (stored.modified(), "MODIFIED", "9"),
            (stored.event("ADDED"), "ADDED", "9"),
            (stored.deleted(Revision::new(1234)), "DELETED", "1234"),
        ] {
            assert!(line.ends_with(b"\n"));
            let event: Value = serde_json::from_slice(&line).expect("an event is JSON");
            assert_eq!(event["type"], event_type);
            assert_eq!(event["object"]["metadata"]["resourceVersion"], version);
            assert_eq!(event["object"]["kind"], "ConfigMap");
        }
    }

    #[test]
    fn metadata_without_fields_is_no_trouble() {
        let stored = stored(
            &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}}),
            3,
        );
        assert_eq!(stored.value()["metadata"], json!({"resourceVersion": "3"}));
    }
}
