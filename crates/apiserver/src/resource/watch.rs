//! Watches: a stream of events, one JSON object a line, or one frame of protobuf ("Efficient
//! detection of changes").
//!
//! A watch holds a cursor into the store's history and nothing else; where the client wants whole
//! objects of the stored kind, what it is sent are the bytes that the store holds.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use jiff::Timestamp;
use rand::Rng as _;
use serde_json::{Value, json};
use stead_api::error::ApiError;
use stead_api::registry::Kind;
use stead_api::schema::watch_frame;
use stead_api::table::{Include, partial_metadata, table};
use stead_store::{Event, Revision, WatchError, Watcher};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

use super::list::selects;
use super::read::view;
use crate::options::{ListOptions, Version};
use crate::protobuf;
use crate::respond::{self, Encoding, Form};
use crate::server::{ApiServer, Call};
use crate::stored::{Stored, key};

/// How often a watch that asks for bookmarks gets one when nothing else happens.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);
/// Watches without a timeout last between one and two of these, as upstream's.
const MIN_TIMEOUT: Duration = Duration::from_secs(1800);
/// Marks the bookmark at the end of the initial events (KEP-3157).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// GET of a collection with `watch`.
pub(crate) async fn watch(server: &ApiServer, call: &Call<'_>) -> Result<Response, ApiError> {
    let options = ListOptions::parse(call.query, call.kind, true)?;
    let prefix = key::prefix(call.kind, &call.path.namespace);
    let store = &call.server.store;
    let (after, state) = match options.version {
        Version::Latest if options.initial_events == Some(false) => (store.revision(), None),
        Version::NotOlderThan(revision) | Version::Exact(revision) if revision.get() != 0 => {
            call.server.wait_for(revision).await?;
            let state = (options.initial_events == Some(true)).then(|| store.snapshot());
            (state.as_ref().map_or(revision, |state| state.revision()), state)
        }
        _ => {
            let state = store.snapshot();
            (state.revision(), Some(state))
        }
    };
    let mut renderer = Renderer {
        kind: call.kind,
        form: call.accepted.form,
        encoding: call.accepted.encoding,
        columns_sent: false,
    };
    let mut pending = Vec::new();
    for (_, entry) in state.iter().flat_map(|state| state.prefix(&prefix)) {
        if selects(&options, &entry.value) {
            pending.push(renderer.first(&entry.value)?);
        }
    }
    if options.initial_events == Some(true) && options.bookmarks {
        pending.push(renderer.bookmark(after, true));
    }
    let watcher = match store.watch(&prefix, after) {
        Ok(watcher) => Ok(watcher),
        Err(error) => {
            pending.push(renderer.too_old(after, error.oldest));
            Err(())
        }
    };
    let timeout = options
        .timeout
        .unwrap_or_else(|| MIN_TIMEOUT.mul_f64(rand::rng().random_range(1.0..2.0)));
    let start = Instant::now();
    let mut bookmarks = interval_at(start + BOOKMARK_PERIOD, BOOKMARK_PERIOD);
    bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watching = Watching {
        watcher: watcher.ok(),
        options,
        renderer,
        end: start + timeout,
        bookmarks,
        shutdown: server.inner.shutdown.clone(),
    };
    let encoding = call.accepted.encoding;
    Ok(respond::events(encoding, body(pending, watching)))
}

fn body(pending: Vec<Bytes>, watching: Watching) -> Body {
    let first = (!pending.is_empty()).then(|| pending.concat().into());
    let stream = stream::unfold((first, watching), |(first, mut watching)| async move {
        let chunk: Bytes = match first {
            Some(chunk) => chunk,
            None => watching.next().await?,
        };
        Some((Ok::<_, std::convert::Infallible>(chunk), (None, watching)))
    });
    Body::from_stream(stream)
}

/// A watch that goes on.
struct Watching {
    /// None once it is over.
    watcher: Option<Watcher<Stored>>,
    options: ListOptions,
    renderer: Renderer,
    end: Instant,
    bookmarks: Interval,
    shutdown: CancellationToken,
}

impl Watching {
    /// The next lines; none when the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let watcher = self.watcher.as_mut()?;
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return None,
                () = sleep_until(self.end) => return None,
                events = watcher.next() => match events {
                    Ok(events) => {
                        let lines = self.lines(&events);
                        if !lines.is_empty() {
                            return Some(lines);
                        }
                    }
                    Err(WatchError::Closed) => return None,
                    Err(WatchError::Compacted(error)) => {
                        let line = self.renderer.too_old(watcher.revision(), error.oldest);
                        self.watcher = None;
                        return Some(line);
                    }
                },
                _ = self.bookmarks.tick(), if self.options.bookmarks => {
                    if let Ok(revision) = watcher.progress() {
                        return Some(self.renderer.bookmark(revision, false));
                    }
                }
            }
        }
    }

    fn lines(&mut self, events: &[std::sync::Arc<Event<Stored>>]) -> Bytes {
        let mut lines: Vec<Bytes> = Vec::with_capacity(events.len());
        for event in events {
            match self.line(event) {
                Ok(Some(line)) => lines.push(line),
                Ok(None) => {}
                Err(error) => lines.push(self.renderer.error(&error)),
            }
        }
        if lines.len() == 1 {
            lines.remove(0)
        } else {
            lines.concat().into()
        }
    }

    /// What an event is to this watch: an object may come into its selection or leave it.
    fn line(&mut self, event: &Event<Stored>) -> Result<Option<Bytes>, ApiError> {
        let selected = |object: Option<&Stored>| object.is_some_and(|object| selects(&self.options, object));
        let current = event.current().map(|entry| &entry.value);
        let previous = event.previous().map(|entry| &entry.value);
        match (current, previous) {
            (Some(current), previous) if selected(Some(current)) => {
                let event_type = if selected(previous) { "MODIFIED" } else { "ADDED" };
                self.renderer.render(event_type, current).map(Some)
            }
            (_, Some(previous)) if selected(Some(previous)) => {
                self.renderer.deleted(previous, event.revision).map(Some)
            }
            _ => Ok(None),
        }
    }
}

/// Writes events as the client wants them.
struct Renderer {
    kind: &'static Kind,
    form: Form,
    encoding: Encoding,
    /// A table's columns are sent with its first row only.
    columns_sent: bool,
}

impl Renderer {
    fn as_stored(&self) -> bool {
        self.form == Form::Whole && self.kind.stored_as.is_none()
    }

    /// An object that is there when the watch begins.
    fn first(&mut self, object: &Stored) -> Result<Bytes, ApiError> {
        if self.as_stored() && self.encoding != Encoding::Protobuf {
            return Ok(object.event("ADDED"));
        }
        self.line("ADDED", &view(self.kind, object))
    }

    /// An object that was written since.
    fn render(&mut self, event_type: &str, object: &Stored) -> Result<Bytes, ApiError> {
        if self.as_stored() {
            if self.encoding == Encoding::Protobuf {
                return Ok(watch_frame(event_type, &object.protobuf()?).into());
            }
            return Ok(if event_type == "MODIFIED" {
                object.modified()
            } else {
                object.event(event_type)
            });
        }
        self.line(event_type, &view(self.kind, object))
    }

    fn deleted(&mut self, object: &Stored, revision: Revision) -> Result<Bytes, ApiError> {
        if self.as_stored() && self.encoding != Encoding::Protobuf {
            return Ok(object.deleted(revision));
        }
        let mut value = view(self.kind, object);
        value["metadata"]["resourceVersion"] = revision.get().to_string().into();
        self.line("DELETED", &value)
    }

    fn line(&mut self, event_type: &str, object: &Value) -> Result<Bytes, ApiError> {
        let shown = match self.form {
            Form::Whole => object.clone(),
            Form::PartialMetadata | Form::PartialMetadataList => partial_metadata(object),
            Form::Table(include) => {
                let version = &object["metadata"]["resourceVersion"];
                self.table([object], json!({"resourceVersion": version}), include)?
            }
        };
        self.event(event_type, &shown)
    }

    fn event(&self, event_type: &str, shown: &Value) -> Result<Bytes, ApiError> {
        Ok(match self.encoding {
            Encoding::Protobuf => watch_frame(event_type, &protobuf::seal(shown)?).into(),
            _ => event_line(event_type, shown),
        })
    }

    fn error(&self, error: &ApiError) -> Bytes {
        // A status always has a form.
        self.event("ERROR", &error.to_status()).unwrap_or_default()
    }

    /// The event that sends a client back to list.
    fn too_old(&self, wanted: Revision, oldest: Revision) -> Bytes {
        self.error(&ApiError::expired(format!(
            "too old resource version: {} ({})",
            wanted.get(),
            oldest.get()
        )))
    }

    fn table<'o>(
        &mut self,
        objects: impl IntoIterator<Item = &'o Value>,
        metadata: Value,
        include: Include,
    ) -> Result<Value, ApiError> {
        let mut table =
            table(self.kind, objects, metadata, include, Timestamp::now()).map_err(ApiError::internal)?;
        if std::mem::replace(&mut self.columns_sent, true) {
            table["columnDefinitions"] = Value::Null;
        }
        Ok(table)
    }

    /// Says up to where the watch has come.
    fn bookmark(&mut self, revision: Revision, initial_events_end: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.get().to_string()});
        if initial_events_end {
            metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let (kind, api_version) = match self.form {
            Form::Whole => (self.kind.kind.to_owned(), self.kind.api_version()),
            Form::PartialMetadata | Form::PartialMetadataList => {
                ("PartialObjectMetadata".to_owned(), "meta.k8s.io/v1".to_owned())
            }
            Form::Table(include) => {
                let table = self.table([], metadata, include).unwrap_or_default();
                return event_line("BOOKMARK", &table);
            }
        };
        let object = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
        // An object of nothing but metadata has a form in every kind.
        self.event("BOOKMARK", &object).unwrap_or_default()
    }
}

fn event_line(event_type: &str, object: &Value) -> Bytes {
    format!("{{\"type\":\"{event_type}\",\"object\":{object}}}\n").into()
}
