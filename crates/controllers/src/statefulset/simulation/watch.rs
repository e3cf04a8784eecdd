//! Watches of the simulated API server: they lag, break, repeat a change, and end with 410 Gone or without a sign.
//!
//! Within a watch the order is kept, as HTTP does; each kind has its own.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::api::refusal;
use super::store::{Kind, version_of};
use super::wire::sleep;
use super::world::World;

/// A watch of one kind, from a version on.
pub(super) struct Watch {
    world: World,
    controller: usize,
    kind: Kind,
    changed: Arc<Notify>,
    /// Which change comes next, and what is to be sent before it.
    next: usize,
    queued: VecDeque<Bytes>,
    /// When the change before was shown.
    last: u64,
    end: Option<End>,
}

/// How a watch ends.
#[derive(Clone, Copy)]
enum End {
    /// As if its time was up.
    Closed,
    Broken,
    /// With 410 Gone: the history is not kept for so long.
    Gone,
    /// Without a sign: nothing comes any more.
    Silent,
}

impl Watch {
    pub(super) fn new(world: World, controller: usize, kind: Kind, from: u64) -> Watch {
        let (changed, next) = {
            let state = world.lock();
            let table = state.store.table(kind);
            (table.changed(), table.index_at(from) + 1)
        };
        Watch {
            world,
            controller,
            kind,
            changed,
            next,
            queued: VecDeque::new(),
            last: 0,
            end: None,
        }
    }

    pub(super) fn body(self) -> UnsyncBoxBody<Bytes, io::Error> {
        let frames = futures::stream::unfold(self, |mut watch| async move {
            let bytes = watch.next().await?;
            Some((bytes.map(Frame::data), watch))
        });
        StreamBody::new(frames.fuse()).boxed_unsync()
    }

    async fn next(&mut self) -> Option<Result<Bytes, io::Error>> {
        if let Some(bytes) = self.queued.pop_front() {
            return Some(Ok(bytes));
        }
        match self.end {
            None => {}
            Some(End::Closed) => return None,
            Some(End::Broken) => {
                self.end = Some(End::Closed);
                return Some(Err(io::ErrorKind::ConnectionReset.into()));
            }
            Some(End::Gone) => {
                self.end = Some(End::Closed);
                let (_, status) = refusal(410, "Expired", "too old resource version");
                return Some(Ok(
                    format!("{}\n", json!({"type": "ERROR", "object": status})).into()
                ));
            }
            Some(End::Silent) => return std::future::pending().await,
        }
        let changed = Arc::clone(&self.changed);
        let due = loop {
            let changed = changed.notified();
            {
                let mut state = self.world.lock();
                if let Some(change) = state.store.table(self.kind).history.get(self.next) {
                    let due = change.at;
                    let delay = if state.is_faulty { state.delay() } else { 0 };
                    self.last = self.last.max(due + delay);
                    break self.last.saturating_sub(state.now());
                }
            }
            changed.await;
        };
        sleep(due).await;
        Some(Ok(self.show()))
    }

    /// Shows the next change; and what else comes to pass.
    fn show(&mut self) -> Bytes {
        let mut state = self.world.lock();
        let change = &state.store.table(self.kind).history[self.next];
        let version = change.version;
        let defect = state.controllers[self.controller].defect;
        let is_sound = std::ptr::eq(defect, &raw const super::mutants::SOUND);
        let line = if is_sound {
            change.line.clone()
        } else {
            let (verb, mut object) = (change.event.0, Value::clone(&change.event.1));
            (defect.view)(self.kind, &mut object);
            format!("{}\n", json!({"type": verb, "object": object})).into()
        };
        debug_assert_eq!(version_of(&change.event.1), version);
        state.show(self.controller, self.kind, version);
        self.next += 1;
        if state.is_faulty {
            if state.one_in(40) {
                self.queued.push_back(line.clone());
            }
            if state.one_in(20) {
                let (_, kind, api) = self.kind.names();
                let meta = json!({"resourceVersion": version.to_string()});
                let bookmark = json!({"type": "BOOKMARK", "object": {"kind": kind, "apiVersion": api, "metadata": meta}});
                self.queued.push_back(format!("{bookmark}\n").into());
            }
            self.end = match state.rng.u64(0..400) {
                0..8 => Some(End::Closed),
                8..12 => Some(End::Broken),
                12..16 => Some(End::Gone),
                16 => Some(End::Silent),
                _ => None,
            };
            if self.end.is_some() {
                let (kind, controller) = (self.kind, self.controller);
                state.tell("network", || {
                    format!("controller {controller}'s watch of {kind:?} ends")
                });
            }
        }
        line
    }
}
