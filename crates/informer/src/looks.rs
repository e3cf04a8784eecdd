//! How often keys were worked on in this process, and for how long.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

#[derive(Debug, Default, Clone, Copy)]
struct Looks {
    count: u64,
    time: Duration,
}

static LOOKS: Mutex<BTreeMap<&str, Looks>> = Mutex::new(BTreeMap::new());

/// Counts one look of a controller.
pub(crate) fn note(controller: &'static str, took: Duration) {
    let mut all = LOOKS.lock().unwrap_or_else(PoisonError::into_inner);
    let looks = all.entry(controller).or_default();
    looks.count += 1;
    looks.time += took;
}

/// What each controller of this process has worked on, in Prometheus' text format, under the names that Kubernetes'
/// controller manager has for it.
pub fn metrics() -> String {
    const NAME: &str = "workqueue_work_duration_seconds";
    let all = LOOKS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut text =
        format!("# HELP {NAME} How long a controller works on an object.\n# TYPE {NAME} summary\n");
    for (controller, looks) in all {
        // Writing to a String cannot fail.
        let (count, seconds) = (looks.count, looks.time.as_secs_f64());
        let _ = writeln!(text, "{NAME}_sum{{name=\"{controller}\"}} {seconds}");
        let _ = writeln!(text, "{NAME}_count{{name=\"{controller}\"}} {count}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_counted() {
        note("looks-test", Duration::from_millis(1500));
        note("looks-test", Duration::from_millis(500));
        let text = metrics();
        assert!(text.contains("_sum{name=\"looks-test\"} 2\n"), "{text}");
        assert!(text.contains("_count{name=\"looks-test\"} 2\n"), "{text}");
    }
}
