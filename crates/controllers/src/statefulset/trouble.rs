//! Why a pod does not get on, in words that a person can act on: a pure function of the pod.
//!
//! Only what does not pass by itself soon is trouble; a pod that is about to start has none. Texts do not change
//! from one attempt to the next, so that a set that is stuck has nothing to write.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    Container, ContainerStateTerminated, ContainerStatus, PersistentVolumeClaim, Pod, PodCondition,
};

use super::explain::{Question, Which};
use stead_informer::semantics::pods::condition;

/// How long after the end of its grace period a pod is said not to end.
const ENDS_WITHIN: SignedDuration = SignedDuration::from_secs(10);

/// How long a pod may be without a node before that is trouble. Times are in whole seconds, so that it is less.
const SCHEDULED_WITHIN: SignedDuration = SignedDuration::from_secs(1);

/// What holds a pod, or a set, up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    /// A word for programs.
    pub(super) reason: &'static str,
    /// What is the matter, with the pod's name.
    pub(super) message: String,
}

impl Trouble {
    pub(super) fn new(reason: &'static str, message: String) -> Trouble {
        Trouble { reason, message }
    }
}

/// What is known of why a pod does not get on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Finding {
    /// What holds it up, if anything.
    pub(super) trouble: Option<Trouble>,
    /// What an event may tell of it.
    pub(super) question: Option<Question>,
    /// When more will be known, though nothing changes.
    pub(super) look: Option<Timestamp>,
}

impl Finding {
    fn trouble(reason: &'static str, message: String) -> Finding {
        Finding {
            trouble: Some(Trouble::new(reason, message)),
            ..Finding::default()
        }
    }

    fn later(look: Timestamp) -> Finding {
        Finding {
            look: Some(look),
            ..Finding::default()
        }
    }
}

/// What holds a pod up. `waiting` is a claim of it that has no volume yet.
pub(super) fn trouble(pod: &Pod, waiting: Option<&PersistentVolumeClaim>, now: Timestamp) -> Finding {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if let Some(deletion) = &pod.metadata.deletion_timestamp {
        return ending(pod, name, deletion.0, now);
    }
    let has_node = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    if let Some(claim) = waiting.filter(|_| !has_node) {
        return unbound(pod, name, claim, now);
    }
    if let Some(scheduled) = condition(pod, "PodScheduled")
        && scheduled.status == "False"
    {
        return unscheduled(name, scheduled, now);
    }
    let Some(spec) = &pod.spec else {
        return Finding::default();
    };
    let status = pod.status.as_ref();
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    let init_statuses = status.and_then(|status| status.init_container_statuses.as_deref());
    let statuses = status.and_then(|status| status.container_statuses.as_deref());
    let all = [
        (inits, init_statuses.unwrap_or_default()),
        (&spec.containers[..], statuses.unwrap_or_default()),
    ];
    let mut slow = Finding::default();
    for (containers, statuses) in all {
        for container in containers {
            let status = statuses.iter().find(|status| status.name == container.name);
            match status.map(|status| of_container(pod, container, status, now)) {
                Some(found) if found.trouble.is_some() => return found,
                Some(found) => {
                    slow.look = [slow.look, found.look].into_iter().flatten().min();
                    slow.question = slow.question.or(found.question);
                }
                None => {}
            }
        }
    }
    slow
}

/// A pod that no node fits.
fn unscheduled(name: &str, scheduled: &PodCondition, now: Timestamp) -> Finding {
    // Something may be about to come, such as a volume.
    let since = scheduled.last_transition_time.as_ref().map(|time| time.0);
    let due = since.and_then(|since| since.checked_add(SCHEDULED_WITHIN).ok());
    if let Some(due) = due.filter(|due| now < *due) {
        return Finding::later(due);
    }
    let why = scheduled.message.as_deref().unwrap_or("no node fits");
    Finding::trouble("Unschedulable", format!("pod {name} has no node: {why}"))
}

/// A pod without a node that has a claim without a volume: either can be what the other waits for. A warning about the
/// claim says that it is the claim.
fn unbound(pod: &Pod, name: &str, claim: &PersistentVolumeClaim, now: Timestamp) -> Finding {
    let scheduled = condition(pod, "PodScheduled").filter(|scheduled| scheduled.status == "False");
    let mut found = scheduled.map_or_else(Finding::default, |scheduled| unscheduled(name, scheduled, now));
    let claim_name = claim.metadata.name.as_deref().unwrap_or_default();
    let message = format!("pod {name} has no node, as its claim {claim_name} has no volume");
    found.question = Some(Question {
        about: claim.metadata.uid.clone().unwrap_or_default(),
        which: Which::Warning,
        then: Trouble::new("ClaimPending", message),
        is_trouble: true,
    });
    // The pod's scheduling waits for the volume without saying so, and events make no look: the next ones come
    // after as long again.
    let made = pod
        .metadata
        .creation_timestamp
        .as_ref()
        .map_or(now, |time| time.0);
    let age = u64::try_from(now.duration_since(made).as_secs()).unwrap_or(0);
    let again = (age + 1).next_power_of_two();
    let again = SignedDuration::from_secs(i64::try_from(again).unwrap_or(i64::MAX));
    let look = made.saturating_add(again).unwrap_or(Timestamp::MAX);
    found.look = Some(found.look.map_or(look, |due| due.min(look)));
    found
}

/// A pod that is to end, and does not.
fn ending(pod: &Pod, name: &str, deletion: Timestamp, now: Timestamp) -> Finding {
    let due = deletion.saturating_add(ENDS_WITHIN).unwrap_or(deletion);
    if now < due {
        return Finding::later(due);
    }
    let finalizers = pod.metadata.finalizers.as_deref().unwrap_or_default();
    let message = if finalizers.is_empty() {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let node = node.unwrap_or("its node");
        format!(
            "pod {name} was to have ended at {deletion}, but {node} has not said that it did; if that node is gone \
             for good: kubectl delete pod {name} --force"
        )
    } else {
        format!(
            "pod {name} is kept by its finalizers {}, which someone has to take away",
            finalizers.join(", ")
        )
    };
    Finding::trouble("PodDoesNotEnd", message)
}

fn of_container(of: &Pod, container: &Container, status: &ContainerStatus, now: Timestamp) -> Finding {
    let pod = of.metadata.name.as_deref().unwrap_or_default();
    let state = status.state.clone().unwrap_or_default();
    let name = &container.name;
    if let Some(waiting) = state.waiting {
        let why = waiting.message.unwrap_or_default();
        let image = container.image.as_deref().unwrap_or_default();
        return match waiting.reason.as_deref().unwrap_or_default() {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
                // The second of the two says it after its own words.
                let why = why
                    .rsplit_once("ErrImagePull: ")
                    .map_or(why.as_str(), |(_, why)| why);
                let message = format!("pod {pod}: container {name} has no image {image}: {why}");
                Finding::trouble("ImageMissing", message)
            }
            "CrashLoopBackOff" => crashing(pod, name, status),
            "CreateContainerConfigError"
            | "CreateContainerError"
            | "RunContainerError"
            | "PostStartHookError" => {
                let message = format!("pod {pod}: container {name} cannot be started: {why}");
                Finding::trouble("ContainerCannotStart", message)
            }
            _ => Finding::default(),
        };
    }
    if !status.ready && status.restart_count > 0 && last_end(status).is_some_and(|last| last.exit_code != 0) {
        return crashing(pod, name, status);
    }
    let Some(running) = state.running.filter(|_| !status.ready) else {
        return Finding::default();
    };
    let began = running.started_at.map_or(now, |time| time.0);
    let (probe, kind) = if status.started == Some(false) {
        (&container.startup_probe, "startup")
    } else {
        (&container.readiness_probe, "readiness")
    };
    let Some(probe) = probe else {
        return Finding::default();
    };
    let message = format!("pod {pod}: container {name} runs, but its {kind} probe fails");
    let question = Some(Question {
        about: of.metadata.uid.clone().unwrap_or_default(),
        which: Which::Unhealthy,
        then: Trouble::new("ProbeFails", message.clone()),
        is_trouble: false,
    });
    let period = probe.period_seconds.unwrap_or(10).max(1);
    let patience = period.saturating_mul(probe.failure_threshold.unwrap_or(3).max(1));
    let delay = probe.initial_delay_seconds.unwrap_or(0);
    let after = |seconds: i32| {
        let at = began.saturating_add(SignedDuration::from_secs(seconds.into()));
        at.unwrap_or(Timestamp::MAX)
    };
    let due = after(patience.saturating_add(delay));
    if now < due {
        // Its answers come with its period, and are told of by events.
        let age = i32::try_from(now.duration_since(began).as_secs()).unwrap_or(i32::MAX);
        let answers = age
            .saturating_sub(delay)
            .div_euclid(period)
            .saturating_add(1)
            .max(0);
        let next = delay.saturating_add(answers.saturating_mul(period));
        // The first is there soon, or when the probe has timed out.
        let first = delay.saturating_add(1);
        let next = if age < first {
            first
        } else {
            next.saturating_add(1)
        };
        return Finding {
            question,
            ..Finding::later(due.min(after(next)))
        };
    }
    Finding {
        question,
        ..Finding::trouble(
            "ProbeFails",
            format!("{message}; its answer is shown by: kubectl describe pod {pod}"),
        )
    }
}

fn last_end(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.last_state.as_ref()?.terminated.as_ref()
}

fn crashing(pod: &str, name: &str, status: &ContainerStatus) -> Finding {
    let how = match last_end(status) {
        Some(last) if last.reason.as_deref() == Some("OOMKilled") => {
            " as it used more memory than its limit allows".to_owned()
        }
        Some(last) => format!(" with exit code {}", last.exit_code),
        None => String::new(),
    };
    let message = format!(
        "pod {pod}: container {name} ends again and again{how}; see: kubectl logs {pod} -c {name} -p"
    );
    Finding::trouble("CrashLoop", message)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn of(pod: Value, now: i64) -> Result<Option<(&'static str, String)>, i64> {
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let found = trouble(&pod, None, at(now));
        match found.look {
            Some(look) => Err(look.as_second()),
            None => Ok(found.trouble.map(|trouble| (trouble.reason, trouble.message))),
        }
    }

    fn with(container: Value, status: Value) -> Value {
        let mut container = container;
        container["name"] = json!("c");
        let mut status = status;
        for (field, value) in [("name", json!("c")), ("image", json!("")), ("imageID", json!(""))] {
            status[field] = value;
        }
        for (field, value) in [("ready", json!(false)), ("restartCount", json!(0))] {
            status
                .as_object_mut()
                .expect("a status")
                .entry(field)
                .or_insert(value);
        }
        json!({
            "metadata": {"name": "web-1"},
            "spec": {"containers": [container]},
            "status": {"phase": "Pending", "containerStatuses": [status]},
        })
    }

    #[test]
    fn a_pod_that_starts_or_runs_is_in_no_trouble() {
        let creating = json!({"state": {"waiting": {"reason": "ContainerCreating"}}});
        let running = json!({"ready": true, "state": {"running": {"startedAt": "1970-01-01T00:00:01Z"}}});
        for status in [creating, running, json!({})] {
            assert_eq!(of(with(json!({}), status), 100), Ok(None));
        }
        assert_eq!(of(json!({"metadata": {"name": "web-1"}}), 1), Ok(None));
    }

    #[test]
    fn what_is_missing_is_named() {
        let waiting = |reason: &str, message: &str| {
            let status = json!({"state": {"waiting": {"reason": reason, "message": message}}});
            let found = of(with(json!({"image": "visits:9"}), status), 0).expect("known");
            found.expect("trouble")
        };
        let missing = (
            "ImageMissing",
            "pod web-1: container c has no image visits:9: it is nowhere".to_owned(),
        );
        assert_eq!(waiting("ErrImagePull", "it is nowhere"), missing);
        // So it says the same, whether it tries or waits.
        let back_off = "Back-off pulling image \"visits:9\": ErrImagePull: it is nowhere";
        assert_eq!(waiting("ImagePullBackOff", back_off), missing);
        let (reason, message) = waiting("CreateContainerConfigError", "configmap \"x\" not found");
        assert_eq!(reason, "ContainerCannotStart");
        assert!(message.ends_with("configmap \"x\" not found"), "{message}");
        let mut unscheduled = with(json!({}), json!({}));
        unscheduled["status"]["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "message": "0/1 nodes are available",
            "lastTransitionTime": "1970-01-01T00:01:40Z",
        }]);
        assert_eq!(of(unscheduled.clone(), 100), Err(101));
        let message = "pod web-1 has no node: 0/1 nodes are available".to_owned();
        assert_eq!(of(unscheduled, 101), Ok(Some(("Unschedulable", message))));
    }

    #[test]
    fn a_claim_without_a_volume_is_asked_about() {
        let claim: PersistentVolumeClaim =
            serde_json::from_value(json!({"metadata": {"name": "data-web-1", "uid": "c"}})).expect("a claim");
        let mut pod = json!({"metadata": {"name": "web-1", "creationTimestamp": "1970-01-01T00:01:40Z"}, "spec": {"containers": []}});
        let of = |pod: &Value, now| {
            let pod: Pod = serde_json::from_value(pod.clone()).expect("a pod");
            trouble(&pod, Some(&claim), at(now))
        };
        for (now, look) in [
            (100, 101),
            (101, 102),
            (102, 104),
            (103, 104),
            (104, 108),
            (5100, 8292),
        ] {
            let found = of(&pod, now);
            assert_eq!((found.trouble, found.look), (None, Some(at(look))), "{now}");
            let question = found.question.expect("a question");
            assert_eq!(
                (question.about.as_str(), question.then.reason),
                ("c", "ClaimPending")
            );
        }
        let why = "pod has unbound immediate PersistentVolumeClaims";
        pod["status"] = json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": why}]});
        assert_eq!(
            of(&pod, 103).trouble.map(|trouble| trouble.reason),
            Some("Unschedulable")
        );
        pod["spec"]["nodeName"] = json!("n");
        assert_eq!(of(&pod, 103).question, None);
    }

    #[test]
    fn a_container_that_crashes_says_how_but_not_how_often() {
        let status = |restarts: i32| {
            json!({
                "restartCount": restarts,
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": format!("back-off {restarts}s")}},
                "lastState": {"terminated": {"exitCode": 7, "reason": "Error"}},
            })
        };
        let first = of(with(json!({}), status(1)), 0);
        assert_eq!(first, of(with(json!({}), status(2)), 9));
        // Nor whether it waits or runs just now.
        let mut again = status(3);
        again["state"] = json!({"running": {"startedAt": "1970-01-01T00:00:09Z"}});
        assert_eq!(first, of(with(json!({}), again.clone()), 9));
        again["ready"] = json!(true);
        assert_eq!(of(with(json!({}), again), 9), Ok(None));
        let (reason, message) = first.expect("known").expect("trouble");
        assert!(
            reason == "CrashLoop" && message.contains("exit code 7"),
            "{message}"
        );
    }

    #[test]
    fn a_probe_has_its_time() {
        let probe = json!({"initialDelaySeconds": 2, "periodSeconds": 1, "failureThreshold": 3});
        let running = |started: bool| json!({"started": started, "state": {"running": {"startedAt": "1970-01-01T00:01:40Z"}}});
        let ready = json!({"readinessProbe": probe, "image": "i"});
        assert_eq!(of(with(ready.clone(), running(true)), 104), Err(105));
        // Meanwhile it is asked for what it says, a second after its period.
        assert_eq!(of(with(ready.clone(), running(true)), 101), Err(103));
        let slow = json!({"periodSeconds": 5});
        let slow = |now| of(with(json!({"readinessProbe": slow}), running(true)), now);
        assert_eq!(
            [slow(100), slow(101), slow(105), slow(106)],
            [Err(101), Err(106), Err(111), Err(111)]
        );
        let pod: Pod = serde_json::from_value(with(ready.clone(), running(true))).expect("a pod");
        let question = trouble(&pod, None, at(101)).question.expect("a question");
        assert_eq!((question.which, question.is_trouble), (Which::Unhealthy, false));
        let (reason, message) = of(with(ready.clone(), running(true)), 105)
            .expect("known")
            .expect("trouble");
        assert!(
            reason == "ProbeFails" && message.contains("readiness"),
            "{message}"
        );
        assert_eq!(of(with(ready, running(false)), 105), Ok(None));
        let startup = json!({"startupProbe": probe});
        assert!(of(with(startup, running(false)), 105).is_ok_and(|found| found.is_some()));
    }

    #[test]
    fn a_pod_that_does_not_end_says_what_keeps_it() {
        let mut pod = with(json!({}), json!({}));
        pod["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:01:40Z");
        pod["spec"]["nodeName"] = json!("n1");
        assert_eq!(of(pod.clone(), 109), Err(110));
        let (_, message) = of(pod.clone(), 110).expect("known").expect("trouble");
        assert!(message.contains("n1") && message.contains("--force"), "{message}");
        pod["metadata"]["finalizers"] = json!(["a/b"]);
        let (_, message) = of(pod, 110).expect("known").expect("trouble");
        assert!(message.contains("a/b"), "{message}");
    }
}
