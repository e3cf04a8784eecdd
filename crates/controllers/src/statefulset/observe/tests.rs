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
    let doomed = Claims { doomed: true, ..none };
    assert_eq!(seen(owner("p0"), pod("", false)), doomed);
    assert_eq!(seen(owner("p0"), pod("p1", false)), doomed);
}

#[test]
fn what_a_set_leaves_out_has_its_default() {
    let spec_of = |wanted: serde_json::Value| {
        let set = serde_json::from_value(serde_json::json!({"metadata": {"name": "web"}, "spec": wanted}));
        spec(&set.expect("a set"))
    };
    let plain = spec_of(serde_json::json!({"selector": {}, "template": {}}));
    assert_eq!(
        (plain.replicas, plain.start, plain.policy),
        (1, 0, Policy::OrderedReady)
    );
    let rolling = Strategy::RollingUpdate {
        partition: 0,
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
    assert_eq!(
        (full.start, full.replicas, full.policy),
        (3, 10, Policy::Parallel)
    );
    let rolling = Strategy::RollingUpdate {
        partition: 2,
        max_unavailable: 2,
    };
    assert_eq!(full.strategy, rolling);
}

#[test]
fn a_percentage_is_of_the_replicas_and_at_least_one() {
    let of = |text: &str, replicas| max_unavailable(Some(&IntOrString::String(text.to_owned())), replicas);
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

#[test]
fn a_pod_was_never_ready_if_that_is_certain() {
    let condition = |status: &str, second: u32| serde_json::json!([{"type": "Ready", "status": status, "lastTransitionTime": format!("2026-01-01T00:00:{second:02}Z")}]);
    let probe = serde_json::json!({"exec": {"command": ["true"]}});
    let none = serde_json::Value::Null;
    for (conditions, probe, restarts, expected) in [
        (serde_json::json!([]), &none, 0, true),
        (condition("False", 5), &none, 0, true),
        (condition("False", 5), &probe, 3, true),
        // It changed since, or is ready.
        (condition("False", 6), &none, 0, false),
        (condition("True", 5), &none, 0, false),
        (condition("True", 9), &none, 0, false),
        // It ended, and may have been ready within that second.
        (condition("False", 5), &none, 1, false),
    ] {
        let pod = serde_json::json!({
            "metadata": {"name": "web-0"},
            "spec": {"containers": [{"name": "c", "readinessProbe": probe}]},
            "status": {
                "startTime": "2026-01-01T00:00:05Z",
                "conditions": conditions,
                "containerStatuses": [
                    {"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": restarts},
                ],
            },
        });
        let mut pod: PodObject = serde_json::from_value(pod).expect("a pod");
        assert_eq!(never_ready(&pod), expected, "{pod:?}");
        // Without the time of its start, it may have been.
        pod.status.as_mut().expect("a status").start_time = None;
        assert_eq!(never_ready(&pod), condition_count(&pod) == 0, "{pod:?}");
    }
}

fn condition_count(pod: &PodObject) -> usize {
    let status = pod.status.as_ref().expect("a status");
    status.conditions.as_ref().map_or(0, Vec::len)
}

#[test]
fn an_annotation_has_broken_rollouts_wait() {
    for (annotations, heals) in [
        (serde_json::json!({}), true),
        (serde_json::json!({"stead.dev/broken-rollout": "wait"}), false),
        (serde_json::json!({"stead.dev/broken-rollout": "heal"}), true),
    ] {
        let set = serde_json::json!({
            "metadata": {"name": "web", "annotations": annotations},
            "spec": {"selector": {}, "template": {}, "updateStrategy": {"type": "Recreate"}},
        });
        let spec = spec(&serde_json::from_value(set).expect("a set"));
        assert_eq!((spec.heals, spec.strategy), (heals, Strategy::Recreate));
    }
}
