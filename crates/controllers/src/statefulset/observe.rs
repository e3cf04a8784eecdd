//! From the objects of the API to what the planner needs to know of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod as PodObject};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::identity::{REVISION_LABEL, claim_name, matches, parse_name, template_names};
use super::retention::{PodRef, claims_go_on_scale_down, is_stale, wanted_owners};
use super::state::{Claims, Observed, Ordinal, Phase, Pod, Policy, Spec, Strategy};

/// What a set asks for.
pub(super) fn spec(set: &StatefulSet) -> Spec {
    let spec = set.spec.clone();
    let replicas = u32::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    let strategy = spec.update_strategy.unwrap_or_default();
    let rolling = strategy.rolling_update;
    Spec {
        replicas,
        start: spec
            .ordinals
            .and_then(|ordinals| ordinals.start)
            .and_then(|start| u32::try_from(start).ok())
            .unwrap_or(0),
        policy: match spec.pod_management_policy.as_deref() {
            Some("Parallel") => Policy::Parallel,
            _ => Policy::OrderedReady,
        },
        strategy: match strategy.type_.as_deref() {
            Some("OnDelete") => Strategy::OnDelete,
            _ => Strategy::RollingUpdate {
                partition: rolling
                    .as_ref()
                    .map(|rolling| u32::try_from(rolling.partition.unwrap_or(0)).unwrap_or(0)),
                max_unavailable: max_unavailable(
                    rolling.and_then(|rolling| rolling.max_unavailable).as_ref(),
                    replicas,
                ),
            },
        },
        claims_go_on_scale_down: claims_go_on_scale_down(set),
        deleting: set.metadata.deletion_timestamp.is_some(),
    }
}

/// A number, or a percentage of the replicas rounded down; one at the least.
fn max_unavailable(value: Option<&IntOrString>, replicas: u32) -> u32 {
    let number = match value {
        None => 1,
        Some(IntOrString::Int(number)) => u32::try_from(*number).unwrap_or(0),
        Some(IntOrString::String(text)) => {
            let percent: u64 = text
                .strip_suffix('%')
                .and_then(|digits| digits.parse().ok())
                .unwrap_or(0);
            u32::try_from(u64::from(replicas) * percent.min(100) / 100).unwrap_or(0)
        }
    };
    number.max(1)
}

/// The revision that a pod was made from.
pub(super) fn revision_name(pod: &PodObject) -> &str {
    let labels = pod.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(REVISION_LABEL))
        .map(String::as_str)
        .unwrap_or_default()
}

/// Since when a pod is ready, if it is.
fn ready_since(pod: &PodObject) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let ready = conditions
        .iter()
        .find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
    Some(
        ready
            .last_transition_time
            .as_ref()
            .map(|time| time.0)
            .unwrap_or_default(),
    )
}

/// When a ready pod will have been so for long enough, if that is still to come.
pub(super) fn available_at(pod: &PodObject, min_ready_seconds: i32, now: Timestamp) -> Option<Timestamp> {
    let at = ready_since(pod)?
        .checked_add(jiff::SignedDuration::from_secs(min_ready_seconds.into()))
        .ok()?;
    (at > now).then_some(at)
}

fn phase(pod: &PodObject, min_ready_seconds: i32, now: Timestamp) -> Phase {
    match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Running") => {
            let ready = ready_since(pod).is_some();
            Phase::Running {
                ready,
                available: ready && available_at(pod, min_ready_seconds, now).is_none(),
            }
        }
        Some("Failed" | "Succeeded") => Phase::Ended,
        _ => Phase::Pending,
    }
}

/// All that the planner is to know. `claims` looks up a claim of the set's namespace by name.
pub(super) fn observe(
    set: &StatefulSet,
    spec: &Spec,
    pods: &[Arc<PodObject>],
    update_revision: &str,
    claims: impl Fn(&str) -> Option<Arc<PersistentVolumeClaim>>,
    now: Timestamp,
) -> Observed {
    let min_ready_seconds = set.spec.min_ready_seconds.unwrap_or(0);
    let pods: Vec<Pod> = pods
        .iter()
        .filter_map(|pod| {
            let (_, ordinal) = parse_name(pod.metadata.name.as_deref().unwrap_or_default())?;
            Some(Pod {
                ordinal,
                uid: pod.metadata.uid.clone().unwrap_or_default(),
                phase: phase(pod, min_ready_seconds, now),
                terminating: pod.metadata.deletion_timestamp.is_some(),
                is_update: revision_name(pod) == update_revision,
                identity_matches: matches(set, pod, ordinal),
            })
        })
        .collect();
    let claims = if template_names(set).next().is_none() {
        BTreeMap::new()
    } else {
        let ordinals = spec.ordinals().chain(pods.iter().map(|pod| pod.ordinal));
        ordinals
            .map(|ordinal| {
                let uid = pods
                    .iter()
                    .find(|pod| pod.ordinal == ordinal)
                    .map_or("", |pod| pod.uid.as_str());
                let pod = PodRef {
                    ordinal,
                    uid,
                    condemned: !spec.ordinals().contains(&ordinal),
                };
                (ordinal, claims_of(set, &pod, &claims))
            })
            .collect()
    };
    let current_replicas = set
        .status
        .as_ref()
        .and_then(|status| status.current_replicas)
        .unwrap_or(0);
    Observed {
        pods,
        claims,
        current_replicas: u32::try_from(current_replicas).unwrap_or(0),
    }
}

fn claims_of(
    set: &StatefulSet,
    pod: &PodRef<'_>,
    find: &impl Fn(&str) -> Option<Arc<PersistentVolumeClaim>>,
) -> Claims {
    let set_name = set.metadata.name.as_deref().unwrap_or_default();
    let mut claims = Claims::default();
    for template in template_names(set) {
        match find(&claim_name(template, set_name, pod.ordinal)) {
            None => claims.missing = true,
            Some(claim) => {
                claims.deleting |= claim.metadata.deletion_timestamp.is_some();
                claims.stale |= is_stale(&claim, set, pod);
                // Without a pod there is nobody yet whom the claim could belong to.
                claims.owners_differ |= !pod.uid.is_empty() && wanted_owners(&claim, set, pod).is_some();
            }
        }
    }
    claims
}

/// The claims of a replica by their templates' order, as `ordinal`s' names.
pub(super) fn claim_names(set: &StatefulSet, ordinal: Ordinal) -> Vec<String> {
    let set_name = set.metadata.name.as_deref().unwrap_or_default();
    template_names(set)
        .map(|template| claim_name(template, set_name, ordinal))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_seen_as_missing_going_or_of_others() {
        let set: StatefulSet = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "uid": "s1"},
            "spec": {
                "selector": {}, "template": {},
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Delete"},
                "volumeClaimTemplates": [
                    {"metadata": {"name": "data"}, "spec": {}},
                    {"metadata": {"name": "log"}, "spec": {}},
                ],
            },
        }))
        .expect("a set");
        let pod = |uid: &'static str, condemned| PodRef {
            ordinal: 0,
            uid,
            condemned,
        };
        let seen = |meta: serde_json::Value, pod: PodRef<'_>| {
            let claim: PersistentVolumeClaim =
                serde_json::from_value(serde_json::json!({"metadata": meta})).expect("a claim");
            let claim = Arc::new(claim);
            let log = Arc::new(PersistentVolumeClaim::default());
            claims_of(&set, &pod, &|name: &str| match name {
                "data-web-0" => Some(Arc::clone(&claim)),
                "log-web-0" if pod.uid != "alone" => Some(Arc::clone(&log)),
                _ => None,
            })
        };
        let owner = |uid: &str| {
            let owner = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": uid});
            serde_json::json!({"ownerReferences": [owner]})
        };
        let none = Claims::default();
        let plain = || serde_json::json!({});
        assert_eq!(seen(plain(), pod("p1", false)), none);
        let missing = Claims {
            missing: true,
            ..none
        };
        assert_eq!(seen(plain(), pod("alone", false)), missing);
        let going = serde_json::json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        let deleting = Claims {
            deleting: true,
            ..none
        };
        assert_eq!(seen(going, pod("", false)), deleting);
        // Scaled down, the pod owns its claims; scaled up again, the former pod still does.
        let owners_differ = Claims {
            owners_differ: true,
            ..none
        };
        assert_eq!(seen(plain(), pod("p1", true)), owners_differ);
        let stale = Claims { stale: true, ..none };
        assert_eq!(seen(owner("p0"), pod("", false)), stale);
        assert_eq!(seen(owner("p0"), pod("p1", false)), stale);
    }

    #[test]
    fn what_a_set_leaves_out_has_its_default() {
        let spec_of = |wanted: serde_json::Value| {
            let set =
                serde_json::from_value(serde_json::json!({"metadata": {"name": "web"}, "spec": wanted}));
            spec(&set.expect("a set"))
        };
        let plain = spec_of(serde_json::json!({"selector": {}, "template": {}}));
        assert_eq!(
            (plain.replicas, plain.start, plain.policy),
            (1, 0, Policy::OrderedReady)
        );
        let rolling = Strategy::RollingUpdate {
            partition: None,
            max_unavailable: 1,
        };
        assert_eq!(plain.strategy, rolling);
        let full = spec_of(serde_json::json!({
            "selector": {}, "template": {}, "replicas": 10, "ordinals": {"start": 3},
            "podManagementPolicy": "Parallel",
            "updateStrategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"partition": 2, "maxUnavailable": "25%"},
            },
        }));
        assert_eq!((full.ordinals(), full.policy), (3..13, Policy::Parallel));
        let rolling = Strategy::RollingUpdate {
            partition: Some(2),
            max_unavailable: 2,
        };
        assert_eq!(full.strategy, rolling);
    }

    #[test]
    fn a_percentage_is_of_the_replicas_and_at_least_one() {
        let of =
            |text: &str, replicas| max_unavailable(Some(&IntOrString::String(text.to_owned())), replicas);
        assert_eq!((of("50%", 5), of("10%", 3), of("100%", 4)), (2, 1, 4));
        assert_eq!(max_unavailable(Some(&IntOrString::Int(3)), 1), 3);
        assert_eq!(max_unavailable(None, 9), 1);
    }

    #[test]
    fn a_pod_is_available_some_time_after_it_is_ready() {
        let pod: PodObject = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web-0"},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            ]},
        }))
        .expect("a pod");
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        let early = at("2026-01-01T00:00:05Z");
        assert_eq!(
            phase(&pod, 10, early),
            Phase::Running {
                ready: true,
                available: false
            }
        );
        assert_eq!(available_at(&pod, 10, early), Some(at("2026-01-01T00:00:10Z")));
        assert_eq!(
            phase(&pod, 10, at("2026-01-01T00:00:10Z")),
            Phase::Running {
                ready: true,
                available: true
            }
        );
        assert_eq!(
            phase(&pod, 0, early),
            Phase::Running {
                ready: true,
                available: true
            }
        );
    }
}
