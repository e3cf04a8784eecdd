//! Events are kept for an hour (`--event-ttl`).

use std::time::Duration;

use jiff::Timestamp;
use stead_api::meta;
use stead_store::{Condition, Txn};

use crate::server::Inner;
use crate::stored::key;

/// How long an event is kept after its last change.
const TTL_SECONDS: i64 = 3600;
/// How often is looked for old ones. An event may outlive its time by this.
const PERIOD: Duration = Duration::from_secs(300);

impl Inner {
    /// Deletes old events, until the server goes down.
    pub(crate) async fn expire_events(&self) {
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
            self.expire_events_at(Timestamp::now()).await;
        }
    }

    async fn expire_events_at(&self, now: Timestamp) {
        let Some(kind) = self.registry.resource("", "v1", "events") else {
            return;
        };
        let snapshot = self.store.snapshot();
        let prefix = key::prefix(kind, "");
        for (event_key, entry) in snapshot.prefix(&prefix) {
            if is_old(&entry.value.value(), now) {
                let txn = Txn::new().delete(&**event_key, Condition::Unchanged(entry.mod_revision));
                if let Err(error) = self.store.commit(txn).await {
                    // A changed event is young again; anything else is tried again next time.
                    tracing::debug!(key = %event_key, %error, "an old event was not deleted");
                }
            }
        }
    }
}

/// Whether the last thing that an event tells of is long ago.
fn is_old(event: &serde_json::Value, now: Timestamp) -> bool {
    let times = [
        event["series"]["lastObservedTime"].as_str(),
        event["lastTimestamp"].as_str(),
        event["eventTime"].as_str(),
        Some(meta::text(event, "creationTimestamp")),
    ];
    let last = times
        .into_iter()
        .flatten()
        .filter_map(|time| time.parse::<Timestamp>().ok())
        .max();
    last.is_some_and(|last| now.as_second() - last.as_second() > TTL_SECONDS)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_ages_from_its_last_occurrence() {
        let now: Timestamp = "2026-01-01T02:00:00Z".parse().expect("a time");
        let event = |last: &str| {
            json!({
                "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
                "lastTimestamp": last,
            })
        };
        assert!(is_old(&event("2026-01-01T00:30:00Z"), now));
        assert!(!is_old(&event("2026-01-01T01:30:00Z"), now));
        assert!(!is_old(&json!({}), now));
    }
}
