//! What the server counts of itself, in Prometheus' text format (`/metrics`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{Method, StatusCode};

/// Counters of requests.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(String, u16), Series>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Series {
    count: u64,
    seconds: f64,
}

impl Metrics {
    /// Counts an answered request.
    pub(crate) fn request(&self, method: &Method, status: StatusCode, took: Duration) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let series = requests.entry((method.to_string(), status.as_u16())).or_default();
        series.count += 1;
        series.seconds += took.as_secs_f64();
    }

    /// All of it as text.
    pub(crate) fn render(&self, store: &stead_store::Metrics) -> String {
        let requests = self
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut text = String::new();
        let mut family = |name: &str, help: &str, samples: Vec<(String, f64)>| {
            // Writing to a String cannot fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} counter\n");
            for (labels, value) in samples {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        let by_request = |value: fn(&Series) -> f64| {
            requests
                .iter()
                .map(|((method, code), series)| {
                    (format!("{{verb=\"{method}\",code=\"{code}\"}}"), value(series))
                })
                .collect()
        };
        family(
            "apiserver_request_total",
            "Requests answered.",
            by_request(|series| series.count as f64),
        );
        family(
            "apiserver_request_seconds_total",
            "Time until the answer began.",
            by_request(|series| series.seconds),
        );
        for (name, help, value) in [
            (
                "stead_store_commits_total",
                "Transactions committed.",
                store.commits as f64,
            ),
            (
                "stead_store_batches_total",
                "Batches that shared one sync.",
                store.batches as f64,
            ),
            (
                "stead_store_conflicts_total",
                "Transactions whose condition did not hold.",
                store.conflicts as f64,
            ),
            (
                "stead_store_failures_total",
                "Transactions that could not be written.",
                store.failures as f64,
            ),
            (
                "stead_store_log_bytes_total",
                "Bytes written to the log.",
                store.log_bytes as f64,
            ),
            (
                "stead_store_log_seconds_total",
                "Time spent writing and syncing.",
                store.log_time.as_secs_f64(),
            ),
        ] {
            family(name, help, vec![(String::new(), value)]);
        }
        text
    }
}
