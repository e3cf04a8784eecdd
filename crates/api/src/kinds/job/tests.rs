use serde_json::json;

use super::*;

/// A Job as it is stored, with what differs from the simplest one.
fn job(change: impl FnOnce(&mut Value)) -> Value {
    let mut job = json!({
        "metadata": {"name": "j", "uid": "u"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}},
    });
    change(&mut job);
    (KIND.logic.set_defaults)(&mut job).expect("defaults");
    (KIND.logic.prepare_for_create)(&mut job).expect("a new Job");
    job
}

fn check(job: &Value) -> Vec<String> {
    let mut errors = Errors::new();
    (KIND.logic.validate)(job, &mut errors).expect("a Job");
    errors.iter().map(ToString::to_string).collect()
}

fn check_update(new: &Value, old: &Value) -> Vec<String> {
    let mut errors = Errors::new();
    (KIND.logic.validate_update)(new, old, &mut errors).expect("a Job");
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_job_gets_defaults_a_selector_and_labels() {
    let plain = job(|_| {});
    assert_eq!(check(&plain), [""; 0]);
    let spec = &plain["spec"];
    assert_eq!(
        (&spec["parallelism"], &spec["completions"], &spec["backoffLimit"]),
        (&json!(1), &json!(1), &json!(6))
    );
    assert_eq!(spec["podReplacementPolicy"], "TerminatingOrFailed");
    assert_eq!(
        spec["selector"]["matchLabels"],
        json!({"batch.kubernetes.io/controller-uid": "u"})
    );
    let labels = json!({
        "controller-uid": "u", "job-name": "j",
        "batch.kubernetes.io/controller-uid": "u", "batch.kubernetes.io/job-name": "j",
    });
    assert_eq!(spec["template"]["metadata"]["labels"], labels);
    assert_eq!(plain["metadata"]["labels"], labels);
    // Only how many run at a time is given: as many as have succeeded once one has.
    let queue = job(|job| job["spec"]["parallelism"] = json!(3));
    assert!(queue["spec"].get("completions").is_none());
    let own = job(|job| job["metadata"]["labels"] = json!({"a": "b"}));
    assert_eq!(own["metadata"]["labels"], json!({"a": "b"}));
    let per_index = job(|job| {
        job["spec"]["completionMode"] = json!("Indexed");
        job["spec"]["completions"] = json!(2);
        job["spec"]["backoffLimitPerIndex"] = json!(1);
    });
    assert_eq!(per_index["spec"]["backoffLimit"], json!(i32::MAX));
}

#[test]
fn what_cannot_be_is_refused() {
    for (field, value, expected) in [
        (
            "parallelism",
            json!(-1),
            "spec.parallelism: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "completionMode",
            json!("Odd"),
            "spec.completionMode: Unsupported value: \"Odd\": supported values: \"NonIndexed\", \"Indexed\"",
        ),
        (
            "completionMode",
            json!("Indexed"),
            "spec.completions: Required value: when completion mode is Indexed",
        ),
        (
            "managedBy",
            json!("me"),
            "spec.managedBy: Invalid value: \"me\": must be a domain-prefixed path (such as \"acme.io/foo\")",
        ),
        (
            "backoffLimitPerIndex",
            json!(1),
            "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
        ),
        (
            "podReplacementPolicy",
            json!("Never"),
            "spec.podReplacementPolicy: Unsupported value: \"Never\": supported values: \"Failed\", \"TerminatingOrFailed\"",
        ),
        (
            "successPolicy",
            json!({"rules": []}),
            "spec.successPolicy: Invalid value: batch.SuccessPolicy{Rules:[]batch.SuccessPolicyRule{}}: requires indexed completion mode",
        ),
        (
            "podFailurePolicy",
            json!({"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "containerName": "x", "values": [0]}}]}),
            "spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set; \
             spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: \"x\": must be one of the container or initContainer names in the pod template; \
             spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator",
        ),
        (
            "podFailurePolicy",
            json!({"rules": [{"action": "Ignore"}]}),
            "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
        ),
    ] {
        let job = job(|job| {
            job["spec"]["parallelism"] = json!(1);
            job["spec"][field] = value.clone();
        });
        assert_eq!(check(&job).join("; "), expected, "{field}: {value}");
    }
    let lasting = job(|job| job["spec"]["template"]["spec"]["restartPolicy"] = json!("Always"));
    assert_eq!(
        check(&lasting),
        ["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""]
    );
    let long = job(|job| {
        job["metadata"]["name"] = json!("j".repeat(62));
        job["spec"]["completionMode"] = json!("Indexed");
        job["spec"]["completions"] = json!(1);
    });
    assert_eq!(check(&long).len(), 1, "{:?}", check(&long));
    assert!(check(&long)[0].contains("will not able to create pod with invalid DNS label"));
}

#[test]
fn a_selector_of_ones_own_needs_manual_selector() {
    let labels = |job: &mut Value| {
        job["spec"]["selector"] = json!({"matchLabels": {"app": "x"}});
        job["spec"]["template"]["metadata"] = json!({"labels": {"app": "x"}});
    };
    let selected = job(labels);
    assert_eq!(
        check(&selected),
        [
            "spec.selector: Invalid value: v1.LabelSelector{MatchLabels:map[string]string{\"app\":\"x\", \"batch.kubernetes.io/controller-uid\":\"u\"}, MatchExpressions:[]v1.LabelSelectorRequirement(nil)}: `selector` not auto-generated"
        ]
    );
    let manual = job(|job| {
        labels(job);
        job["spec"]["manualSelector"] = json!(true);
    });
    assert_eq!(check(&manual), [""; 0]);
    assert_eq!(manual["spec"]["selector"], json!({"matchLabels": {"app": "x"}}));
}

#[test]
fn only_some_fields_change() {
    let old = job(|_| {});
    let changed = |field: &str, value: Value| {
        let mut new = old.clone();
        new["spec"][field] = value;
        check_update(&new, &old)
    };
    for (field, value) in [
        ("parallelism", json!(4)),
        ("backoffLimit", json!(1)),
        ("suspend", json!(true)),
        ("activeDeadlineSeconds", json!(5)),
        ("ttlSecondsAfterFinished", json!(5)),
    ] {
        assert_eq!(changed(field, value), [""; 0], "{field}");
    }
    assert_eq!(
        changed("completions", json!(2)),
        ["spec.completions: Invalid value: 2: field is immutable"]
    );
    assert_eq!(
        changed("managedBy", json!("a/b")),
        ["spec.managedBy: Invalid value: \"a/b\": field is immutable"]
    );
    let mut moved = old.clone();
    moved["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"});
    assert_eq!(check_update(&moved, &old).len(), 1);
    let mut suspended = old.clone();
    suspended["spec"]["suspend"] = json!(true);
    moved["spec"]["suspend"] = json!(true);
    assert_eq!(check_update(&moved, &suspended), [""; 0]);
}

#[test]
fn a_status_says_nothing_that_cannot_be() {
    let with = |status: Value| {
        let mut job = job(|_| {});
        job["status"] = status;
        job
    };
    let check = |new: Value, old: Value| -> Vec<String> {
        let mut errors = Errors::new();
        (KIND.logic.validate_status_update)(&with(new), &with(old), &mut errors).expect("a Job");
        errors.iter().map(ToString::to_string).collect()
    };
    let condition = |kind: &str| json!({"type": kind, "status": "True"});
    let complete = json!({
        "startTime": "2024-01-01T00:00:00Z", "completionTime": "2024-01-01T00:00:05Z", "succeeded": 1,
        "conditions": [condition("SuccessCriteriaMet"), condition("Complete")],
    });
    assert_eq!(check(complete.clone(), json!({})), [""; 0]);
    let mut hasty = complete.clone();
    hasty["conditions"] = json!([condition("Complete")]);
    hasty["active"] = json!(1);
    assert_eq!(
        check(hasty, json!({})),
        [
            "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
            "status.active: Invalid value: 1: active>0 is invalid for finished job",
        ]
    );
    assert_eq!(
        check(json!({"failed": 1}), json!({"failed": 2})),
        ["status.failed: Invalid value: 1: cannot decrease the failed counter"]
    );
    let undone = check(
        json!({"startTime": "2024-01-01T00:00:00Z", "succeeded": 1}),
        complete,
    );
    assert_eq!(undone.len(), 2, "{undone:?}");
}

#[test]
fn a_row_shows_how_far_a_job_has_come() {
    let at = |second: i64| Timestamp::from_second(1_704_067_200 + second).expect("a time");
    let row = |change: &dyn Fn(&mut Value), status: Value| {
        let mut job = job(change);
        job["status"] = status;
        let row = (KIND.logic.row)(&job, at(90)).expect("a row");
        row[1..4].to_vec()
    };
    let start = "2024-01-01T00:00:00Z";
    assert_eq!(
        row(&|_| {}, json!({"startTime": start})),
        [json!("Running"), json!("0/1"), json!("90s")]
    );
    let complete = json!({
        "startTime": start, "completionTime": "2024-01-01T00:00:05Z", "succeeded": 1,
        "conditions": [{"type": "Complete", "status": "True"}],
    });
    assert_eq!(
        row(&|_| {}, complete),
        [json!("Complete"), json!("1/1"), json!("5s")]
    );
    let suspended = json!({"conditions": [{"type": "Suspended", "status": "True"}]});
    let queue = |job: &mut Value| job["spec"]["parallelism"] = json!(3);
    assert_eq!(
        row(&queue, suspended),
        [json!("Suspended"), json!("0/1 of 3"), json!("")]
    );
}
