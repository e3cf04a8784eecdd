//! How long a Job waits after failures ("Pod backoff failure policy"). Told by the pods themselves, so that a restart
//! forgets nothing. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::JobSpec;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::pod::{all_failures_before, ended_at, has_failed, has_succeeded, phase};

const FIRST: SignedDuration = SignedDuration::from_secs(10);
const LONGEST: SignedDuration = SignedDuration::from_mins(10);

/// The wait after so many failures in a row.
fn delay(failures: usize) -> SignedDuration {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    let factor = 1_i32.checked_shl(doublings.min(30)).unwrap_or(i32::MAX);
    match failures {
        0 => SignedDuration::ZERO,
        _ => FIRST.saturating_mul(factor).min(LONGEST),
    }
}

/// Until when no pod is made, as some have failed since the last that succeeded.
pub(super) fn until(spec: &JobSpec, pods: &[&Pod]) -> Option<Timestamp> {
    let succeeded = pods.iter().filter(|pod| has_succeeded(pod));
    let success = succeeded.map(|pod| ended_at(pod)).max();
    let failed = pods.iter().filter(|pod| has_failed(pod, spec));
    let ends: Vec<Timestamp> = failed
        .map(|pod| ended_at(pod))
        .filter(|end| success.is_none_or(|success| *end > success))
        .collect();
    let last = ends.iter().max()?;
    last.checked_add(delay(ends.len())).ok()
}

/// Until when a pod that failed is not replaced, where each index has its own count.
pub(super) fn until_replaced(pod: &Pod) -> Timestamp {
    let failures = usize::try_from(all_failures_before(pod)).unwrap_or(0) + 1;
    let end = ended_at(pod);
    end.checked_add(delay(failures)).unwrap_or(end)
}

/// Whether containers that are started again in their pods were so too often.
pub(super) fn restarted_too_often(spec: &JobSpec, pods: &[&Pod]) -> bool {
    let template = spec.template.spec.as_ref();
    let policy = template.and_then(|pod| pod.restart_policy.as_deref());
    if policy != Some("OnFailure") {
        return false;
    }
    let alive = pods
        .iter()
        .filter(|pod| matches!(phase(pod), "Running" | "Pending"));
    let restarts: i32 = alive
        .filter_map(|pod| pod.status.as_ref())
        .flat_map(|status| [&status.init_container_statuses, &status.container_statuses])
        .flat_map(|statuses| statuses.iter().flatten())
        .map(|container: &ContainerStatus| container.restart_count)
        .sum();
    match spec.backoff_limit.unwrap_or(i32::MAX) {
        0 => restarts > 0,
        limit => restarts >= limit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_ten_minutes() {
        let seconds = [0, 1, 2, 3, 6, 7, 8, 40, usize::MAX].map(|failures| delay(failures).as_secs());
        assert_eq!(seconds, [0, 10, 20, 40, 320, 600, 600, 600, 600]);
    }
}
