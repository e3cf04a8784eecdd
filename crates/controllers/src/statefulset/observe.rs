//! From the objects of the API to what the planner needs to know of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ContainerStatus, PersistentVolumeClaim, Pod as PodObject};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use stead_informer::semantics::pods::{condition, ready_since};

use super::backoff::Backoff;
use super::growth;
use super::identity::{REVISION_LABEL, claim_name, claim_templates, matches, parse_name, template_names};
use super::ordinals::LeftOut;
use super::retention::{PodRef, is_doomed, is_stale, wanted_owners};
use super::state::{Claims, Observed, Ordinal, Phase, Pod, Policy, Spec, Strategy};
use super::status::Revisions;
use super::trouble::Trouble;

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
        left_out: left_out(set).unwrap_or_default(),
        policy: match spec.pod_management_policy.as_deref() {
            Some("Parallel") => Policy::Parallel,
            _ => Policy::OrderedReady,
        },
        strategy: match strategy.type_.as_deref() {
            Some("OnDelete") => Strategy::OnDelete,
            Some("Recreate") => Strategy::Recreate,
            _ => Strategy::RollingUpdate {
                partition: rolling
                    .as_ref()
                    .and_then(|rolling| u32::try_from(rolling.partition?).ok())
                    .unwrap_or(0),
                max_unavailable: max_unavailable(
                    rolling.and_then(|rolling| rolling.max_unavailable).as_ref(),
                    replicas,
                ),
            },
        },
        heals: !waits_when_broken(set),
        grows: growth::follows(set),
        deleting: set.metadata.deletion_timestamp.is_some(),
    }
}

/// The annotation that names ordinals which are to have no replica.
const LEFT_OUT: &str = "stead.dev/left-out-ordinals";

fn left_out(set: &StatefulSet) -> Result<LeftOut, String> {
    let annotations = set.metadata.annotations.as_ref();
    let value = annotations.and_then(|annotations| annotations.get(LEFT_OUT));
    value.map_or(Ok(LeftOut::default()), |text| LeftOut::parse(text))
}

/// What a set asks for that cannot be understood: nothing is done before that is put right, as the wrong pods could go.
pub(super) fn misunderstood(set: &StatefulSet) -> Option<Trouble> {
    let part = left_out(set).err()?;
    let message = format!(
        "annotation {LEFT_OUT} has {part:?}, which is neither an ordinal nor a range of ordinals: write them as in 1,4-6"
    );
    Some(Trouble::new("InvalidAnnotation", message))
}

/// The annotation that has a broken rollout wait until a person deletes the pod, as it does upstream.
const BROKEN_ROLLOUT: &str = "stead.dev/broken-rollout";

fn waits_when_broken(set: &StatefulSet) -> bool {
    let annotations = set.metadata.annotations.as_ref();
    annotations
        .and_then(|annotations| annotations.get(BROKEN_ROLLOUT))
        .is_some_and(|value| value == "wait")
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

/// When a ready pod will have been so for long enough, if that is still to come.
pub(super) fn available_at(pod: &PodObject, min_ready_seconds: i32, now: Timestamp) -> Option<Timestamp> {
    let at = ready_since(pod)?
        .checked_add(jiff::SignedDuration::from_secs(min_ready_seconds.into()))
        .ok()?;
    (at > now).then_some(at)
}

/// Whether a pod has not been ready since it started, for certain: its Ready condition has not changed since. In
/// doubt, it was: times are in whole seconds, so that containers that no probe holds back may have been ready and
/// ended within the pod's first one.
fn never_ready(pod: &PodObject) -> bool {
    let Some(ready) = condition(pod, "Ready") else {
        return true;
    };
    let status = pod.status.as_ref();
    let started = status.and_then(|status| status.start_time.as_ref());
    let changed = ready.last_transition_time.as_ref();
    let unchanged = matches!((started, changed), (Some(started), Some(changed)) if changed.0 <= started.0);
    let containers = pod.spec.as_ref().map_or(&[][..], |spec| &spec.containers);
    let is_probed = containers
        .iter()
        .any(|container| container.readiness_probe.is_some());
    let statuses = status.and_then(|status| status.container_statuses.as_deref());
    let has_ended = |container: &ContainerStatus| {
        let ended = container
            .state
            .as_ref()
            .is_some_and(|state| state.terminated.is_some());
        ended || container.restart_count > 0
    };
    let may_have_been = !is_probed && statuses.unwrap_or_default().iter().any(has_ended);
    ready.status != "True" && unchanged && !may_have_been
}

pub(super) fn phase(pod: &PodObject, min_ready_seconds: i32, now: Timestamp) -> Phase {
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

/// The pods of a set, by name.
#[derive(Default)]
pub(super) struct OwnPods {
    pub(super) objects: Vec<Arc<PodObject>>,
    /// What is known of each of them already ([`super::memory`]); it is taken from here.
    pub(super) known: Vec<Option<Pod>>,
}

impl OwnPods {
    pub(super) fn add(&mut self, object: Arc<PodObject>, known: Option<Pod>) {
        self.objects.push(object);
        self.known.push(known);
    }
}

/// All that the planner is to know. `claims` looks up a claim of the set's namespace by name; `backoff` remembers
/// which pods ended early.
pub(super) fn observe(
    set: &StatefulSet,
    spec: &Spec,
    own: &mut OwnPods,
    revisions: &Revisions,
    claims: impl Fn(&str) -> Option<Arc<PersistentVolumeClaim>>,
    backoff: &mut Backoff,
    now: Timestamp,
) -> Observed {
    let min_ready_seconds = set.spec.min_ready_seconds.unwrap_or(0);
    let pods: Vec<Pod> = own
        .objects
        .iter()
        .zip(std::mem::take(&mut own.known))
        .filter_map(|(pod, known)| {
            if known.is_some() {
                return known;
            }
            let (_, ordinal) = parse_name(pod.metadata.name.as_deref().unwrap_or_default())?;
            let phase = phase(pod, min_ready_seconds, now);
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            let held_back = phase == Phase::Ended && {
                let created = pod
                    .metadata
                    .creation_timestamp
                    .as_ref()
                    .map_or(now, |time| time.0);
                backoff.until(ordinal, &uid, created, now) > now
            };
            Some(Pod {
                ordinal,
                uid,
                phase,
                terminating: pod.metadata.deletion_timestamp.is_some(),
                is_update: revision_name(pod) == revisions.update,
                is_current: revision_name(pod) == revisions.current,
                never_ready: never_ready(pod),
                held_back,
                identity_matches: matches(set, pod, ordinal),
            })
        })
        .collect();
    let claims = if template_names(set).next().is_none() {
        BTreeMap::new()
    } else {
        let present = pods.iter().map(|pod| (pod.ordinal, pod.uid.as_str()));
        let missing = spec.to_make(&pods).into_iter().map(|ordinal| (ordinal, ""));
        let ordinals = spec.ordinals();
        missing
            .chain(present)
            .map(|(ordinal, uid)| {
                let pod = PodRef {
                    ordinal,
                    uid,
                    condemned: !ordinals.contains(ordinal),
                };
                (ordinal, claims_of(set, &pod, &claims))
            })
            .collect()
    };
    Observed { pods, claims }
}

fn claims_of(
    set: &StatefulSet,
    pod: &PodRef<'_>,
    find: &impl Fn(&str) -> Option<Arc<PersistentVolumeClaim>>,
) -> Claims {
    let set_name = set.metadata.name.as_deref().unwrap_or_default();
    let mut claims = Claims::default();
    for (name, template) in claim_templates(set) {
        match find(&claim_name(name, set_name, pod.ordinal)) {
            None => claims.missing = true,
            Some(claim) => {
                claims.deleting |= claim.metadata.deletion_timestamp.is_some();
                claims.doomed |= is_doomed(&claim, set, pod);
                // Without a pod there is nobody yet whom the claim could belong to; but it must not belong to the
                // former one any more.
                let counts = !pod.uid.is_empty() || is_stale(&claim, set, pod);
                claims.growth = claims.growth.max(growth::growth(&claim, template));
                claims.owners_differ |= counts && wanted_owners(&claim, set, pod).is_some();
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
mod tests;
