//! The set's conditions: `Available`, `Progressing` and `Stuck`. Kubernetes has none (kubernetes#133696 and its like
//! have been asking for years); the first two mean what they do for Deployments. A pure function.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSetCondition, StatefulSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::growth::Growth;
use super::state::{Observed, Pod, Spec, Strategy};
use super::stuck::Standing;
use super::trouble::Trouble;

/// The condition that names the holes among the ordinals; there only if there are some.
const LEFT_OUT: &str = "OrdinalsLeftOut";

/// The conditions of a set with these pods, on the ground of those it has: those of others stay as they are, and
/// times change with the status of a condition only.
pub(super) fn conditions(
    spec: &Spec,
    status: &StatefulSetStatus,
    seen: &Observed,
    standing: &Standing,
    now: Timestamp,
) -> Vec<StatefulSetCondition> {
    let mut conditions = status.conditions.clone().unwrap_or_default();
    if spec.deleting {
        return conditions;
    }
    let (is_progressing, progress, what) = progress(spec, status, seen, standing);
    let range = spec.ordinals();
    let available = seen
        .pods
        .iter()
        .filter(|pod| range.contains(pod.ordinal) && !pod.is_unavailable())
        .count();
    let is_available = available >= spec.replicas as usize;
    let reason = if is_available {
        "AllAvailable"
    } else {
        "ReplicasUnavailable"
    };
    let message = format!("{available} of {} replicas are available", spec.replicas);
    let holes = range.holes(spec.start);
    if holes.is_empty() {
        conditions.retain(|condition| condition.type_.as_deref() != Some(LEFT_OUT));
    }
    let shown = (!holes.is_empty()).then_some((LEFT_OUT, true, "Annotation", holes.as_str()));
    let trouble = standing.trouble.as_ref();
    let (stuck, why) = trouble.map_or(("NotStuck", ""), |trouble| (trouble.reason, &trouble.message));
    let all = [
        ("Available", is_available, reason, message.as_str()),
        ("Progressing", is_progressing, progress, what.as_str()),
        ("Stuck", trouble.is_some(), stuck, why),
    ];
    for (kind, is_true, reason, message) in all.into_iter().chain(shown) {
        put(&mut conditions, kind, is_true, (reason, message), now);
    }
    conditions
}

/// The conditions of a set that could not be looked at further: those that it has, and what holds it up.
pub(super) fn held_up(
    status: &StatefulSetStatus,
    trouble: &Trouble,
    now: Timestamp,
) -> Vec<StatefulSetCondition> {
    let mut conditions = status.conditions.clone().unwrap_or_default();
    let message = trouble.message.as_str();
    put(&mut conditions, "Progressing", false, ("Stuck", message), now);
    put(&mut conditions, "Stuck", true, (trouble.reason, message), now);
    conditions
}

/// Puts a condition among others; its time changes with its status only.
fn put(
    conditions: &mut Vec<StatefulSetCondition>,
    kind: &str,
    is_true: bool,
    (reason, message): (&str, &str),
    now: Timestamp,
) {
    let status = if is_true { "True" } else { "False" };
    let at = conditions
        .iter()
        .position(|condition| condition.type_.as_deref() == Some(kind));
    let before = at
        .map(|at| &conditions[at])
        .filter(|before| before.status.as_deref() == Some(status));
    let since = before.and_then(|before| before.last_transition_time.clone());
    // As the API has them, so that what was written is what is read.
    let second = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let condition = StatefulSetCondition {
        type_: Some(kind.to_owned()),
        status: Some(status.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()).filter(|message| !message.is_empty()),
        last_transition_time: since.or(Some(Time(second))),
    };
    match at {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

/// Whether the set gets on or has arrived, in a word, and in words.
fn progress(
    spec: &Spec,
    status: &StatefulSetStatus,
    seen: &Observed,
    standing: &Standing,
) -> (bool, &'static str, String) {
    if let Some(trouble) = &standing.trouble {
        return (false, "Stuck", trouble.message.clone());
    }
    let range = spec.ordinals();
    let (replicas, others): (Vec<&Pod>, Vec<&Pod>) =
        seen.pods.iter().partition(|pod| range.contains(pod.ordinal));
    let outdated = replicas.iter().filter(|pod| !pod.is_update).count();
    let kept = match spec.strategy {
        Strategy::RollingUpdate { .. } => {
            let lowest = spec.lowest();
            replicas
                .iter()
                .filter(|pod| !pod.is_update && pod.ordinal < lowest)
                .count()
        }
        Strategy::OnDelete => outdated,
        Strategy::Recreate => 0,
    };
    let updated = replicas.len() - outdated;
    if outdated > kept {
        let total = spec.replicas as usize - kept.min(spec.replicas as usize);
        return (
            true,
            "Updating",
            format!("{updated} of {total} replicas have the newest template"),
        );
    }
    if !others.is_empty() {
        let message = format!(
            "{} pods beyond the {} replicas are to end",
            others.len(),
            spec.replicas
        );
        return (true, "ScalingDown", message);
    }
    if replicas.len() < spec.replicas as usize {
        let message = format!("{} of {} pods have been made", replicas.len(), spec.replicas);
        return (true, "CreatingPods", message);
    }
    let available = status.available_replicas.unwrap_or(0);
    if replicas.iter().any(|pod| pod.is_unavailable()) {
        let mut message = format!("{available} of {} replicas are available", spec.replicas);
        if let Some(slow) = &standing.slow {
            message = format!("{message}; {}", slow.message);
        }
        return (true, "WaitingForPods", message);
    }
    let growing = growing(spec, seen);
    if growing > 0 {
        let message = format!("claims of {growing} replicas do not have the size of their templates yet");
        return (true, "GrowingClaims", message);
    }
    let message = match (kept, spec.strategy) {
        (0, _) => format!("all {} replicas have the newest template", spec.replicas),
        (kept, Strategy::OnDelete) => {
            format!("{kept} replicas get the newest template when they are deleted")
        }
        (kept, _) => format!("the partition keeps {kept} replicas from the newest template"),
    };
    (true, "Complete", message)
}

/// How many replicas have claims that are still to follow their templates.
fn growing(spec: &Spec, seen: &Observed) -> usize {
    let lowest = spec.lowest();
    let is_growing = |pod: &&Pod| seen.growth_of(pod, spec, lowest) != Growth::Done;
    seen.pods.iter().filter(is_growing).count()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::statefulset::ordinals::LeftOut;
    use crate::statefulset::state::builders::{old, parallel, pod, set, terminating, unready};

    fn seen(pods: &[Pod]) -> Observed {
        Observed {
            pods: pods.to_vec(),
            claims: BTreeMap::new(),
        }
    }

    /// The conditions of a set that waits for nothing.
    fn plain(
        spec: &Spec,
        status: &StatefulSetStatus,
        pods: &[Pod],
        now: Timestamp,
    ) -> Vec<StatefulSetCondition> {
        conditions(spec, status, &seen(pods), &Standing::default(), now)
    }

    /// Status and reason of each, in their order.
    fn shown(conditions: &[StatefulSetCondition]) -> Vec<String> {
        let show = |condition: &StatefulSetCondition| {
            let reason = condition.reason.as_deref().unwrap_or_default();
            let word = |text: &Option<String>| text.clone().unwrap_or_default();
            format!("{}={} {reason}", word(&condition.type_), word(&condition.status))
        };
        conditions.iter().map(show).collect()
    }

    fn check(spec: &Spec, pods: &[Pod], trouble: Option<&Trouble>, expected: [&str; 3]) {
        let standing = Standing {
            trouble: trouble.cloned(),
            ..Standing::default()
        };
        let status = StatefulSetStatus::default();
        let found = conditions(spec, &status, &seen(pods), &standing, Timestamp::UNIX_EPOCH);
        assert_eq!(shown(&found), expected, "{pods:?}");
    }

    #[test]
    fn conditions_say_where_a_set_is() {
        let out = "Available=False ReplicasUnavailable";
        let all = "Available=True AllAvailable";
        let fine = "Stuck=False NotStuck";
        check(&set(0), &[], None, [all, "Progressing=True Complete", fine]);
        check(
            &set(2),
            &[pod(0)],
            None,
            [out, "Progressing=True CreatingPods", fine],
        );
        check(
            &set(1),
            &[unready(0)],
            None,
            [out, "Progressing=True WaitingForPods", fine],
        );
        check(&set(1), &[pod(0)], None, [all, "Progressing=True Complete", fine]);
        check(
            &set(1),
            &[pod(0), pod(1)],
            None,
            [all, "Progressing=True ScalingDown", fine],
        );
        check(
            &parallel(2),
            &[old(pod(0)), pod(1)],
            None,
            [all, "Progressing=True Updating", fine],
        );
        check(
            &set(1),
            &[terminating(0)],
            None,
            [out, "Progressing=True WaitingForPods", fine],
        );
        let on_delete = Spec {
            strategy: Strategy::OnDelete,
            ..set(1)
        };
        check(
            &on_delete,
            &[old(pod(0))],
            None,
            [all, "Progressing=True Complete", fine],
        );
        let trouble = Trouble::new("ImageMissing", "it is nowhere".to_owned());
        let expected = [out, "Progressing=False Stuck", "Stuck=True ImageMissing"];
        check(&set(1), &[unready(0)], Some(&trouble), expected);
    }

    #[test]
    fn progress_says_what_is_slow() {
        let standing = Standing {
            slow: Some(Trouble::new("ProbeFails", "its probe fails: 503".into())),
            ..Standing::default()
        };
        let status = StatefulSetStatus::default();
        let found = conditions(
            &set(1),
            &status,
            &seen(&[unready(0)]),
            &standing,
            Timestamp::UNIX_EPOCH,
        );
        let message = "0 of 1 replicas are available; its probe fails: 503";
        assert_eq!(found[1].message.as_deref(), Some(message));
        assert_eq!(found[2].status.as_deref(), Some("False"));
    }

    #[test]
    fn ordinals_that_are_left_out_are_shown() {
        let with_hole = Spec {
            left_out: LeftOut::parse("1").expect("an ordinal"),
            ..set(2)
        };
        let mut status = StatefulSetStatus::default();
        let found = plain(&with_hole, &status, &[pod(0), pod(2)], Timestamp::UNIX_EPOCH);
        let expected = [
            "Available=True AllAvailable",
            "Progressing=True Complete",
            "Stuck=False NotStuck",
            "OrdinalsLeftOut=True Annotation",
        ];
        assert_eq!(shown(&found), expected);
        assert_eq!(found[3].message.as_deref(), Some("1"));
        status.conditions = Some(found);
        let filled = plain(&set(2), &status, &[pod(0), pod(1)], Timestamp::UNIX_EPOCH);
        assert_eq!(shown(&filled), expected[..3]);
    }

    #[test]
    fn a_set_that_cannot_be_looked_at_is_stuck_and_keeps_the_rest() {
        let mut status = StatefulSetStatus::default();
        let before = plain(&set(1), &status, &[pod(0)], Timestamp::UNIX_EPOCH);
        status.conditions = Some(before);
        let trouble = Trouble::new("Refused", "create revision web-1: too large".to_owned());
        let found = held_up(&status, &trouble, Timestamp::UNIX_EPOCH);
        let expected = [
            "Available=True AllAvailable",
            "Progressing=False Stuck",
            "Stuck=True Refused",
        ];
        assert_eq!(shown(&found), expected);
        assert_eq!(found[2].message.as_deref(), Some(trouble.message.as_str()));
    }

    #[test]
    fn those_of_others_stay_and_times_change_with_the_status() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let foreign = StatefulSetCondition {
            type_: Some("Backup".into()),
            status: Some("True".into()),
            ..StatefulSetCondition::default()
        };
        let mut status = StatefulSetStatus {
            conditions: Some(vec![foreign.clone()]),
            ..StatefulSetStatus::default()
        };
        let first = plain(&set(1), &status, &[unready(0)], at(1));
        assert_eq!(first[0], foreign);
        status.conditions = Some(first.clone());
        assert_eq!(plain(&set(1), &status, &[unready(0)], at(2)), first);
        let later = plain(&set(1), &status, &[pod(0)], at(3));
        let times: Vec<_> = later[1..]
            .iter()
            .map(|condition| {
                condition
                    .last_transition_time
                    .as_ref()
                    .map(|time| time.0.as_second())
            })
            .collect();
        assert_eq!(times, [Some(3), Some(1), Some(1)]);
    }
}
