//! What the deletion of a namespace has come to: a pure function of what was found in it.
//!
//! Types, reasons and texts are those of upstream's `namespace/deletion`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NamespaceCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What is left of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remaining {
    pub(super) group: String,
    pub(super) plural: String,
    pub(super) count: usize,
    /// How many of them have which finalizer.
    pub(super) finalizers: BTreeMap<String, usize>,
}

/// What was found in a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Kinds of which something is left.
    pub(super) remaining: Vec<Remaining>,
    /// Group versions of which the kinds are not known.
    pub(super) unknown: Vec<String>,
    /// What could not be deleted, and why.
    pub(super) failures: Vec<String>,
}

impl Found {
    /// Whether nothing is left, and nothing can be.
    pub(super) fn is_empty(&self) -> bool {
        self.remaining.is_empty() && self.unknown.is_empty() && self.failures.is_empty()
    }
}

/// The conditions of a namespace of which this was found, with those that are others' concern; none
/// where they say so already.
pub(super) fn conditions(
    current: &[NamespaceCondition],
    found: &Found,
    now: Timestamp,
) -> Option<Vec<NamespaceCondition>> {
    let mut conditions = current.to_vec();
    let mut changed = false;
    for (condition_type, trouble, fine) in all(found) {
        let status = if trouble.is_some() { "True" } else { "False" };
        let (reason, message) = trouble.unwrap_or_else(|| (fine.0, fine.1.to_owned()));
        let wanted = |since| NamespaceCondition {
            type_: condition_type.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.clone()),
            last_transition_time: since,
        };
        match conditions
            .iter_mut()
            .find(|condition| condition.type_ == condition_type)
        {
            None => {
                conditions.push(wanted(Some(Time(now))));
                changed = true;
            }
            Some(old) => {
                let since = if old.status == status {
                    old.last_transition_time.clone()
                } else {
                    Some(Time(now))
                };
                let new = wanted(since);
                changed |= *old != new;
                *old = new;
            }
        }
    }
    changed.then_some(conditions)
}

type Trouble = (&'static str, String);
type Fine = (&'static str, &'static str);

/// Each condition's type, its reason and message if it is true, and those if it is not.
fn all(found: &Found) -> [(&'static str, Option<Trouble>, Fine); 5] {
    [
        (
            "NamespaceDeletionDiscoveryFailure",
            discovery_failure(&found.unknown),
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            content_failure(&found.failures),
            (
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            ),
        ),
        (
            "NamespaceContentRemaining",
            content_remaining(&found.remaining),
            ("ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            finalizers_remaining(&found.remaining),
            (
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished",
            ),
        ),
    ]
}

fn discovery_failure(unknown: &[String]) -> Option<Trouble> {
    if unknown.is_empty() {
        return None;
    }
    let each: Vec<_> = unknown
        .iter()
        .map(|version| format!("{version}: stale GroupVersion discovery: {version}"))
        .collect();
    let message = format!(
        "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
        unknown.len(),
        each.join(", ")
    );
    Some(("DiscoveryFailed", message))
}

fn content_failure(failures: &[String]) -> Option<Trouble> {
    if failures.is_empty() {
        return None;
    }
    let mut failures = failures.to_vec();
    failures.sort();
    let message = format!(
        "Failed to delete all resource types, {} remaining: {}",
        failures.len(),
        failures.join(", ")
    );
    Some(("ContentDeletionFailed", message))
}

fn content_remaining(remaining: &[Remaining]) -> Option<Trouble> {
    if remaining.is_empty() {
        return None;
    }
    let mut each: Vec<_> = remaining
        .iter()
        .map(|kind| {
            format!(
                "{}.{} has {} resource instances",
                kind.plural, kind.group, kind.count
            )
        })
        .collect();
    each.sort();
    Some((
        "SomeResourcesRemain",
        format!("Some resources are remaining: {}", each.join(", ")),
    ))
}

fn finalizers_remaining(remaining: &[Remaining]) -> Option<Trouble> {
    let mut totals: BTreeMap<&str, usize> = BTreeMap::new();
    for (finalizer, count) in remaining.iter().flat_map(|kind| &kind.finalizers) {
        *totals.entry(finalizer).or_default() += count;
    }
    if totals.is_empty() {
        return None;
    }
    let each: Vec<_> = totals
        .iter()
        .map(|(finalizer, count)| format!("{finalizer} in {count} resource instances"))
        .collect();
    let message = format!(
        "Some content in the namespace has finalizers remaining: {}",
        each.join(", ")
    );
    Some(("SomeFinalizersRemain", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remaining(plural: &str, group: &str, count: usize, finalizers: &[(&str, usize)]) -> Remaining {
        let finalizers = finalizers
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect();
        Remaining {
            group: group.to_owned(),
            plural: plural.to_owned(),
            count,
            finalizers,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    /// Conditions as `status reason: message`.
    fn check(found: &Found, expected: [&str; 5]) {
        let conditions = conditions(&[], found, at(1)).expect("there were none");
        let shown: Vec<_> = conditions
            .iter()
            .map(|condition| {
                let text = |field: &Option<String>| field.clone().unwrap_or_default();
                format!(
                    "{} {}: {}",
                    condition.status,
                    text(&condition.reason),
                    text(&condition.message)
                )
            })
            .collect();
        assert_eq!(shown, expected);
    }

    const DISCOVERED: &str = "False ResourcesDiscovered: All resources successfully discovered";
    const PARSED: &str = "False ParsedGroupVersions: All legacy kube types successfully parsed";
    const DELETED: &str =
        "False ContentDeleted: All content successfully deleted, may be waiting on finalization";
    const REMOVED: &str = "False ContentRemoved: All content successfully removed";
    const NO_FINALIZERS: &str = "False ContentHasNoFinalizers: All content-preserving finalizers finished";

    #[test]
    fn conditions_say_what_is_left_and_why() {
        check(
            &Found::default(),
            [DISCOVERED, PARSED, DELETED, REMOVED, NO_FINALIZERS],
        );
        let held = Found {
            remaining: vec![
                remaining("configmaps", "", 1, &[("example.com/hold", 1)]),
                remaining(
                    "certificates",
                    "cert-manager.io",
                    2,
                    &[("example.com/hold", 1), ("a/b", 1)],
                ),
            ],
            ..Found::default()
        };
        check(
            &held,
            [
                DISCOVERED,
                PARSED,
                DELETED,
                "True SomeResourcesRemain: Some resources are remaining: certificates.cert-manager.io has 2 resource instances, configmaps. has 1 resource instances",
                "True SomeFinalizersRemain: Some content in the namespace has finalizers remaining: a/b in 1 resource instances, example.com/hold in 2 resource instances",
            ],
        );
        let failed = Found {
            unknown: vec!["metrics.k8s.io/v1".to_owned()],
            failures: vec!["b".to_owned(), "a".to_owned()],
            ..Found::default()
        };
        check(
            &failed,
            [
                "True DiscoveryFailed: Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: metrics.k8s.io/v1: stale GroupVersion discovery: metrics.k8s.io/v1",
                PARSED,
                "True ContentDeletionFailed: Failed to delete all resource types, 2 remaining: a, b",
                REMOVED,
                NO_FINALIZERS,
            ],
        );
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let held = |count| Found {
            remaining: vec![remaining("pods", "", count, &[])],
            ..Found::default()
        };
        let first = conditions(&[], &held(2), at(1)).expect("new");
        assert_eq!(conditions(&first, &held(2), at(2)), None);
        let second = conditions(&first, &held(1), at(2)).expect("another count");
        let third = conditions(&second, &Found::default(), at(3)).expect("another status");
        let time = |conditions: &[NamespaceCondition]| {
            let remaining = conditions
                .iter()
                .find(|condition| condition.type_ == "NamespaceContentRemaining");
            remaining.and_then(|condition| condition.last_transition_time.as_ref().map(|time| time.0))
        };
        assert_eq!((time(&second), time(&third)), (Some(at(1)), Some(at(3))));
    }
}
