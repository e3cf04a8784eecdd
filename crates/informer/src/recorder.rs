//! Records events about objects, as `kubectl describe` and `kubectl events` show them.
//!
//! Events are written by a task of the recorder's own, in order; whoever records never waits. An
//! event of the same object, reason and message as one before is counted on that one; an object
//! that has very many in a short time is cut short, as client-go's correlator does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::Task;

/// Events that may wait to be written; more are dropped, for they tell of trouble, not of state.
const QUEUE: usize = 4096;
/// An object's events in a row before they are limited, and then one in this long.
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);
/// Objects that are remembered.
const REMEMBERED: usize = 4096;

/// Whether an event tells of something ordinary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// It does.
    Normal,
    /// It tells of trouble.
    Warning,
}

/// What is to be recorded.
struct Record {
    about: ObjectReference,
    event_type: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

/// Records the events of one component. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    records: mpsc::Sender<Record>,
}

impl Recorder {
    /// A recorder and the task that writes its events, which ends with `shutdown` after what was
    /// recorded by then is written. `host` is the node, for components of a node.
    pub fn new(
        client: Client,
        component: &'static str,
        host: Option<String>,
        shutdown: CancellationToken,
    ) -> (Recorder, Task) {
        let (records, incoming) = mpsc::channel(QUEUE);
        let source = EventSource {
            component: Some(component.to_owned()),
            host,
        };
        let writer = Writer {
            client,
            source,
            seen: HashMap::new(),
            buckets: HashMap::new(),
        };
        (Recorder { records }, Box::pin(writer.run(incoming, shutdown)))
    }

    /// Records an event about an object.
    pub fn record(
        &self,
        about: ObjectReference,
        event_type: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let record = Record {
            about,
            event_type,
            reason: reason.to_owned(),
            message: message.into(),
            at: Timestamp::now(),
        };
        if self.records.try_send(record).is_err() {
            tracing::debug!(reason, "an event was dropped: too many wait");
        }
    }

    /// Records that the work on an object panicked, if the object is still there.
    pub fn panicked<K: Resource<DynamicType = ()>>(&self, object: Option<&K>) {
        if let Some(object) = object {
            self.panicked_on(reference(object));
        }
    }

    /// Records that the work on an object panicked.
    pub fn panicked_on(&self, about: ObjectReference) {
        let message = "the work on this object failed; this is a defect of stead, and it is tried again";
        self.record(about, EventType::Warning, "ControllerPanic", message);
    }
}

/// A reference to an object, for events about it.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// What makes two events the same.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Same {
    object: Arc<str>,
    field: Option<String>,
    reason: String,
    message: String,
}

struct Seen {
    name: String,
    count: i32,
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

struct Writer {
    client: Client,
    source: EventSource,
    seen: HashMap<Same, Seen>,
    buckets: HashMap<Arc<str>, Bucket>,
}

impl Writer {
    async fn run(mut self, mut incoming: mpsc::Receiver<Record>, shutdown: CancellationToken) {
        loop {
            let record = tokio::select! {
                biased;
                record = incoming.recv() => record,
                () = shutdown.cancelled() => return,
            };
            let Some(record) = record else { return };
            if let Err(error) = self.write(&record).await {
                tracing::debug!(reason = record.reason, %error, "an event was not written");
            }
        }
    }

    async fn write(&mut self, record: &Record) -> Result<(), kube::Error> {
        let object: Arc<str> = record.about.uid.clone().unwrap_or_default().into();
        if !self.allows(&object, record.at) {
            return Ok(());
        }
        if self.seen.len() >= REMEMBERED {
            self.seen.clear();
            self.buckets.clear();
        }
        let same = Same {
            object,
            field: record.about.field_path.clone(),
            reason: record.reason.clone(),
            message: record.message.clone(),
        };
        let namespace = record
            .about
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        let events: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        if let Some(seen) = self.seen.get_mut(&same) {
            seen.count += 1;
            let patch =
                json!({"count": seen.count, "lastTimestamp": Time(record.at), "message": record.message});
            match events
                .patch(&seen.name, &PatchParams::default(), &Patch::Merge(&patch))
                .await
            {
                Ok(_) => return Ok(()),
                // It has been deleted meanwhile: a new one begins.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let event = self.event(record, &namespace);
        let name = event.metadata.name.clone().unwrap_or_default();
        events.create(&PostParams::default(), &event).await?;
        self.seen.insert(same, Seen { name, count: 1 });
        Ok(())
    }

    fn event(&self, record: &Record, namespace: &str) -> Event {
        let about = record.about.name.as_deref().unwrap_or_default();
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{about}.{:x}", record.at.as_nanosecond())),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: record.about.clone(),
            type_: Some(match record.event_type {
                EventType::Normal => "Normal".to_owned(),
                EventType::Warning => "Warning".to_owned(),
            }),
            reason: Some(record.reason.clone()),
            message: Some(record.message.clone()),
            first_timestamp: Some(Time(record.at)),
            last_timestamp: Some(Time(record.at)),
            count: Some(1),
            source: Some(self.source.clone()),
            reporting_component: self.source.component.clone(),
            reporting_instance: self.source.host.clone(),
            ..Event::default()
        }
    }

    /// Whether an object may have another event now.
    fn allows(&mut self, object: &Arc<str>, now: Timestamp) -> bool {
        let bucket = self.buckets.entry(Arc::clone(object)).or_insert(Bucket {
            tokens: BURST,
            at: now,
        });
        let passed = now.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + passed / REFILL.as_secs_f64()).min(BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}
