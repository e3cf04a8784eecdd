//! The task behind a probe: tries at the right times, and tells when the result has changed.
//!
//! A readiness or startup probe runs first when its container has started (after
//! `initialDelaySeconds`), then every period. Until it has first succeeded it is also tried in between,
//! from a few milliseconds on with doubling waits: a success counts, a failure of such an extra try
//! counts for nothing. So a container is ready when it is, not at the next tick.
//!
//! Without a delay the very first try is an extra one too, as no program is ready at once: the tries
//! that count, those of a liveness probe as well, begin a period after the start, which is when
//! Kubernetes' first comes at the latest.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Kind, Outcome, Probe, Target};

/// What a probe has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Report {
    /// It has succeeded as often in a row as it must.
    Passed,
    /// It has failed as often in a row as it may.
    Failed,
    /// A try failed, for the events.
    Unhealthy(String),
    /// A try could not be made, for the events.
    Errored(String),
}

/// The first wait of the extra tries.
fn first_extra(target: &Target) -> Duration {
    match target {
        // A process in the container costs more than a connection.
        Target::Exec(_) => Duration::from_millis(50),
        _ => Duration::from_millis(5),
    }
}

/// Tries until dropped, or until nobody listens any more, which `tell` says by `false`. A startup
/// probe ends when it has passed. `check` is one try.
pub(crate) async fn run<F: Future<Output = Outcome>>(
    probe: Probe,
    mut check: impl FnMut() -> F,
    mut tell: impl FnMut(Report) -> bool,
) {
    let mut counts = Counts::default();
    let begin = Instant::now();
    let eager = probe.kind != Kind::Liveness;
    let mut extra = eager.then(|| first_extra(&probe.target));
    let mut next = begin
        + if probe.initial_delay.is_zero() {
            probe.period
        } else {
            probe.initial_delay
        };
    let mut at = if probe.initial_delay.is_zero() {
        begin
    } else {
        next
    };
    loop {
        // Up to the next try that counts.
        while let Some(wait) = extra.filter(|_| at < next) {
            sleep_until(at).await;
            at = Instant::now() + wait;
            extra = Some(wait * 2);
            match check().await {
                // One success is one success, however often it is tried.
                Outcome::Success => {
                    extra = None;
                    if !counts.take(Outcome::Success, &probe).into_iter().all(&mut tell) {
                        return;
                    }
                }
                Outcome::Failure(_) | Outcome::Unknown(_) => {}
            }
        }
        if probe.kind == Kind::Startup && counts.has_passed {
            return;
        }
        sleep_until(next).await;
        if !counts.take(check().await, &probe).into_iter().all(&mut tell) {
            return;
        }
        if counts.has_succeeded {
            extra = None;
        }
        if let Some(wait) = extra {
            at = Instant::now() + wait;
        }
        // A try that took longer leaves out those that were due meanwhile.
        next = (next + probe.period).max(Instant::now());
    }
}

/// Successes and failures in a row.
#[derive(Debug, Default)]
struct Counts {
    successes: u32,
    failures: u32,
    /// The last that was told.
    told: Option<bool>,
    has_succeeded: bool,
    has_passed: bool,
}

impl Counts {
    /// Counts a try. Gives what there is to tell.
    fn take(&mut self, outcome: Outcome, probe: &Probe) -> Vec<Report> {
        let mut reports = Vec::new();
        match outcome {
            Outcome::Success => {
                self.failures = 0;
                self.successes += 1;
                self.has_succeeded = true;
                if self.successes >= probe.success_threshold && self.told != Some(true) {
                    self.told = Some(true);
                    self.has_passed = true;
                    reports.push(Report::Passed);
                }
            }
            // It is neither a success nor a failure.
            Outcome::Unknown(why) => reports.push(Report::Errored(why)),
            Outcome::Failure(why) => {
                self.successes = 0;
                self.failures += 1;
                reports.push(Report::Unhealthy(why));
                // A liveness or startup probe tells again: the container may still be there.
                let repeat =
                    probe.kind != Kind::Readiness && self.failures.is_multiple_of(probe.failure_threshold);
                if self.failures >= probe.failure_threshold && (self.told != Some(false) || repeat) {
                    self.told = Some(false);
                    reports.push(Report::Failed);
                }
            }
        }
        reports
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn probe(kind: Kind) -> Probe {
        Probe {
            kind,
            target: Target::Tcp { host: None, port: 1 },
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            success_threshold: 1,
            failure_threshold: 3,
            grace: None,
        }
    }

    /// Runs a probe for a while against something that is healthy at the times given, and gives
    /// what it told, with the milliseconds at which it did.
    async fn told(probe: Probe, millis: u64, healthy: impl Fn(u128) -> bool) -> Vec<(u128, Report)> {
        let start = Instant::now();
        let log = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&log);
        let tell = move |report| {
            if matches!(report, Report::Passed | Report::Failed) {
                seen.lock()
                    .expect("no panic")
                    .push((start.elapsed().as_millis(), report));
            }
            true
        };
        let check = || {
            let healthy = healthy(start.elapsed().as_millis());
            async move {
                if healthy {
                    Outcome::Success
                } else {
                    Outcome::Failure("no".into())
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(millis), run(probe, check, tell)).await;
        std::mem::take(&mut *log.lock().expect("no panic"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_container_is_ready_within_milliseconds_of_being_so() {
        let reports = told(probe(Kind::Readiness), 3000, |at| at >= 40).await;
        assert_eq!(reports.len(), 1);
        assert!((40..=80).contains(&reports[0].0), "{reports:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn extra_failures_count_for_nothing() {
        // Three tries that count fail, at 1, 2 and 3 s; the many in between do not hasten it.
        let reports = told(probe(Kind::Startup), 3500, |_| false).await;
        assert_eq!(reports, [(3000, Report::Failed)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_that_is_not_there_at_once_is_not_called_unhealthy() {
        let told = |probe: Probe| async move {
            let log = Arc::new(Mutex::new(Vec::new()));
            let seen = Arc::clone(&log);
            let tell = move |report| {
                seen.lock().expect("no panic").push(report);
                true
            };
            let start = Instant::now();
            let check = || async move {
                if start.elapsed() < Duration::from_millis(300) {
                    Outcome::Failure("no".into())
                } else {
                    Outcome::Success
                }
            };
            let _ = tokio::time::timeout(Duration::from_secs(2), run(probe, check, tell)).await;
            std::mem::take(&mut *log.lock().expect("no panic"))
        };
        for kind in [Kind::Startup, Kind::Readiness, Kind::Liveness] {
            assert_eq!(
                told(Probe {
                    failure_threshold: 1,
                    ..probe(kind)
                })
                .await,
                [Report::Passed],
                "{kind:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn extra_tries_make_one_success_of_the_many_that_are_wanted() {
        let three = Probe {
            success_threshold: 3,
            ..probe(Kind::Readiness)
        };
        // At once, and at 1 and 2 s.
        assert_eq!(told(three, 5000, |_| true).await, [(2000, Report::Passed)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_tried_is_told_and_counts_for_nothing() {
        let mut counts = Counts::default();
        let probe = Probe {
            failure_threshold: 1,
            ..probe(Kind::Liveness)
        };
        let unknown = Outcome::Unknown("no port".into());
        assert_eq!(counts.take(unknown, &probe), [Report::Errored("no port".into())]);
        assert_eq!(counts.failures, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn readiness_flips_with_the_thresholds() {
        let reports = told(probe(Kind::Readiness), 9500, |at| !(1500..5500).contains(&at)).await;
        assert_eq!(
            reports,
            [
                (0, Report::Passed),
                (4000, Report::Failed),
                (6000, Report::Passed)
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_try_waits_for_the_initial_delay() {
        let delayed = Probe {
            initial_delay: Duration::from_secs(2),
            ..probe(Kind::Readiness)
        };
        assert_eq!(told(delayed, 5000, |_| true).await, [(2000, Report::Passed)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_liveness_probe_makes_no_extra_tries() {
        let tries = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&tries);
        told(probe(Kind::Liveness), 3500, move |_| {
            *counted.lock().expect("no panic") += 1;
            false
        })
        .await;
        assert_eq!(*tries.lock().expect("no panic"), 3);
    }
}
