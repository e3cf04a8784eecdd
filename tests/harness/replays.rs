//! Tests of how recordings are compared with what happens.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stead_tests::Test;
use stead_tests::replay::{
    Case, Differences, Names, Naming, Order, PodEvent, Pods, Progress, compare, compare_events, progress,
    shown,
};

pub(crate) const TESTS: &[Test] = &[
    ("replays: what becomes of a pod is told once", a_pods_life),
    ("replays: an evicted pod has failed", a_failed_pod),
    (
        "replays: a pod that goes at once is terminating first",
        a_short_end,
    ),
    ("replays: a job's pod is told when it is let go", a_jobs_pod),
    ("replays: order counts where it must", orders),
    (
        "replays: what differs from run to run is not shown",
        what_is_shown,
    ),
    ("replays: any other difference is found", what_is_found),
    ("replays: events may be neither missing nor too many", events),
    ("replays: sets may be scaled in fewer steps", scaling_at_once),
    ("replays: names of a run become placeholders", placeholders),
    (
        "replays: what is listed as different changes what is expected",
        different,
    ),
    ("replays: what is listed must be about something", idle),
];

fn pod(ready: bool, more: Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": "web-0", "labels": {"controller-revision-hash": "web-abc"}},
        "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": if ready { "True" } else { "False" }},
        ]},
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        pod["metadata"][name] = value.clone();
    }
    pod
}

fn told(changes: &[(&str, Value)]) -> Vec<String> {
    let (mut pods, mut names) = (Pods::default(), Names::default());
    let events = changes
        .iter()
        .flat_map(|(kind, pod)| pods.change(kind, pod, &mut names));
    events
        .map(|PodEvent(what, pod, revision)| format!("{what} {pod} {revision}"))
        .collect()
}

fn check_told(changes: &[(&str, Value)], expected: &[&str]) -> Result<()> {
    let told = told(changes);
    ensure!(told == expected, "{told:?}, expected {expected:?}");
    Ok(())
}

fn a_pods_life() -> Result<()> {
    let going = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
    check_told(
        &[
            ("ADDED", pod(false, json!({}))),
            ("MODIFIED", pod(false, json!({}))),
            ("MODIFIED", pod(true, json!({}))),
            ("MODIFIED", pod(true, json!({"resourceVersion": "9"}))),
            ("MODIFIED", pod(false, json!({}))),
            ("MODIFIED", pod(true, json!({}))),
            ("MODIFIED", pod(true, going.clone())),
            // That its containers end is a part of its end.
            ("MODIFIED", pod(false, going.clone())),
            ("DELETED", pod(false, going)),
            (
                "ADDED",
                pod(false, json!({"labels": {"controller-revision-hash": "web-def"}})),
            ),
        ],
        &[
            "created web-0 r1",
            "ready web-0 r1",
            "unready web-0 r1",
            "ready web-0 r1",
            "terminating web-0 r1",
            "deleted web-0 r1",
            "created web-0 r2",
        ],
    )
}

fn a_failed_pod() -> Result<()> {
    let mut failed = pod(false, json!({"labels": {}}));
    failed["status"]["phase"] = json!("Failed");
    check_told(
        &[("ADDED", pod(true, json!({"labels": {}}))), ("MODIFIED", failed)],
        &["created web-0 -", "ready web-0 -", "failed web-0 -"],
    )
}

fn a_short_end() -> Result<()> {
    let gone = pod(true, json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}));
    check_told(
        &[("ADDED", pod(true, json!({}))), ("DELETED", gone)],
        &[
            "created web-0 r1",
            "ready web-0 r1",
            "terminating web-0 r1",
            "deleted web-0 r1",
        ],
    )
}

fn a_jobs_pod() -> Result<()> {
    let labels = json!({"batch.kubernetes.io/job-name": "job"});
    let kept = json!({"labels": labels, "finalizers": ["batch.kubernetes.io/job-tracking"]});
    let mut ended = pod(false, json!({"labels": labels}));
    ended["status"]["phase"] = json!("Succeeded");
    let going = json!({"labels": labels, "deletionTimestamp": "2026-01-01T00:00:00Z"});
    check_told(
        &[
            ("ADDED", pod(true, kept.clone())),
            ("MODIFIED", ended),
            ("DELETED", pod(false, going.clone())),
            ("ADDED", pod(false, kept)),
            ("DELETED", pod(false, going)),
        ],
        &[
            "created web-0 -",
            "succeeded web-0 -",
            "untracked web-0 -",
            "terminating web-0 -",
            "deleted web-0 -",
            "created web-0 -",
            "terminating web-0 -",
            "untracked web-0 -",
            "deleted web-0 -",
        ],
    )
}

fn orders() -> Result<()> {
    let parse = |lines: &[&str]| -> Vec<PodEvent> {
        let event = |line: &&str| {
            let (what, pod) = line.split_once(' ').unwrap_or((line, ""));
            PodEvent(what.to_owned(), pod.to_owned(), "r1".to_owned())
        };
        lines.iter().map(event).collect()
    };
    let expected = parse(&["created a", "created b", "ready a", "ready b"]);
    let (partial, complete) = (Some(Progress::Partial), Some(Progress::Complete));
    for (seen, exact, per_pod) in [
        (vec![], partial, partial),
        (vec!["created a", "created b"], partial, partial),
        (vec!["created b", "ready b"], None, partial),
        (
            vec!["created b", "ready b", "created a", "ready a"],
            None,
            complete,
        ),
        (
            vec!["created a", "created b", "ready a", "ready b"],
            complete,
            complete,
        ),
        (vec!["ready a"], None, None),
        (vec!["created a", "created a"], None, None),
        (vec!["created c"], None, None),
    ] {
        let events = parse(&seen);
        for (order, expected_progress) in [(Order::Exact, exact), (Order::PerPod, per_pod)] {
            let found = progress(&expected, &events, order, Naming::Named).ok();
            ensure!(found == expected_progress, "{seen:?} {order:?}: {found:?}");
        }
    }
    // Where pods are interchangeable, each has had one of the lives in the end.
    let any = |events: &[&str]| {
        let events = parse(events);
        progress(&expected, &events, Order::PerPod, Naming::Interchangeable).ok()
    };
    let swapped: Vec<String> = expected
        .iter()
        .map(|PodEvent(what, pod, _)| format!("{what} {}", if pod == "a" { "b" } else { "a" }))
        .collect();
    let swapped: Vec<&str> = swapped.iter().map(String::as_str).collect();
    assert_eq!(any(&swapped), Some(Progress::Complete));
    assert_eq!(any(&swapped[1..]), Some(Progress::Partial));
    assert_eq!(any(&vec!["deleted a"; swapped.len()]), None);
    let error = progress(&expected, &parse(&["ready a"]), Order::Exact, Naming::Named).err();
    let error = error.context("an error")?;
    ensure!(
        error.contains("  ready a r1\nbut should\n  created a r1"),
        "{error}"
    );
    Ok(())
}

fn what_is_shown() -> Result<()> {
    let set = json!({
        "metadata": {
            "name": "web", "generation": 2, "uid": "1", "resourceVersion": "2", "labels": {},
            "deletionTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": [{"kind": "Database", "name": "db", "uid": "3", "controller": false}],
        },
        "spec": {"replicas": 1},
        "status": {"replicas": 1, "readyReplicas": 0, "observedGeneration": 2, "collisionCount": 0},
    });
    let expected = json!({
        "name": "web", "deleting": true,
        "ownerReferences": [{"kind": "Database", "name": "db", "controller": false}],
        "status": {"replicas": 1, "observed": true},
    });
    let found = shown("statefulsets", &set, None, Naming::Named);
    ensure!(found == expected, "{found}");
    let slice = json!({
        "metadata": {"name": "web-x7k2p", "generateName": "web-"},
        "endpoints": [
            {"addresses": ["10.1.2.3"], "nodeName": "n", "targetRef": {"name": "a", "uid": "1"}},
            {"addresses": ["192.0.2.7"]},
        ],
    });
    let expected = json!({
        "name": "web-*",
        "endpoints": [
            {"addresses": ["<ip>"], "targetRef": {"name": "a"}},
            {"addresses": ["192.0.2.7"]},
        ],
    });
    let found = shown("endpointslices", &slice, None, Naming::Named);
    ensure!(found == expected, "{found}");
    let certificates = json!({"metadata": {"name": "c"}, "data": {"ca.crt": "…", "b": ""}});
    let found = shown("configmaps", &certificates, None, Naming::Named);
    ensure!(found == json!({"name": "c", "data": ["b", "ca.crt"]}), "{found}");
    let pod = json!({"metadata": {"name": "p"}, "spec": {"hostname": "h", "nodeName": "n", "priority": 1}});
    let found = shown("pods", &pod, Some(&["spec.priority".to_owned()]), Naming::Named);
    ensure!(
        found == json!({"name": "p", "spec.hostname": "h", "spec.priority": 1}),
        "{found}"
    );
    Ok(())
}

fn what_is_found() -> Result<()> {
    let check = |expected: Value, actual: Value, differences: &[&str]| {
        let found = compare(&expected, &actual);
        ensure!(found == differences, "{expected} {actual}: {found:?}");
        Ok(())
    };
    check(json!({"a": 1}), json!({"a": 1}), &[])?;
    check(
        json!({"a": 1}),
        json!({"b": 1}),
        &["/a: null, expected 1", "/b: 1, expected null"],
    )?;
    check(
        json!(404),
        json!({"name": "x"}),
        &[r#": {"name":"x"}, expected 404"#],
    )?;
    // Objects in any order, texts in theirs.
    check(json!([{"a": 1}, {"b": 2}]), json!([{"b": 2}, {"a": 1}]), &[])?;
    check(
        json!(["a", "b"]),
        json!(["b", "a"]),
        &[r#"/0: "b", expected "a""#, r#"/1: "a", expected "b""#],
    )?;
    check(json!([{"a": 1}]), json!([]), &[r#": [], expected [{"a":1}]"#])?;
    check(json!({"v": "<volume>"}), json!({"v": "any"}), &[])?;
    check(
        json!({"v": "<volume>"}),
        json!({}),
        &[r#"/v: null, expected "<volume>""#],
    )
}

fn events() -> Result<()> {
    let event = |message: &str| ["Set", "web", "Normal", "Made", message].map(str::to_owned);
    let expected = [event("made a"), event("made b")];
    let check = |actual: &[[String; 5]], may_miss: &[String], differences: &[&str]| {
        let found = compare_events(&expected, actual, may_miss);
        ensure!(found == differences, "{actual:?}: {found:?}");
        Ok(())
    };
    check(&[event("made b"), event("made a"), event("made a")], &[], &[])?;
    check(&[event("made a")], &[], &["no event: Set web Normal Made made b"])?;
    check(&[event("made a")], &["made ".to_owned()], &[])?;
    let three = [event("made a"), event("made b"), event("made c")];
    check(
        &three,
        &["made ".to_owned()],
        &["an event too many: Set web Normal Made made c"],
    )
}

fn scaling_at_once() -> Result<()> {
    let event = |text: &str| ["Deployment", "web", "Normal", "ScalingReplicaSet", text].map(str::to_owned);
    let expected = [
        event("Scaled up replica set b to 2 from 1"),
        event("Scaled up replica set b to 3 from 2"),
        event("Scaled down replica set a to 2 from 3"),
    ];
    let found = |texts: &[&str]| {
        let actual: Vec<_> = texts.iter().map(|text| event(text)).collect();
        compare_events(&expected, &actual, &[]).len()
    };
    let down = "Scaled down replica set a to 2 from 3";
    let at_once = found(&["Scaled up replica set b to 3 from 1", down]);
    let half = found(&["Scaled up replica set b to 2 from 1", down]);
    let too_far = found(&["Scaled up replica set b to 4 from 1", down]);
    let other = found(&["Scaled up replica set a to 3 from 1", down]);
    let all = [at_once, half, too_far, other];
    ensure!(all == [0, 1, 3, 3], "{all:?}");
    Ok(())
}

fn placeholders() -> Result<()> {
    let mut names = Names {
        namespace: "replay-x".to_owned(),
        node: "n1".to_owned(),
        second_image: "busybox:1.36".to_owned(),
        dir: "/volumes".to_owned(),
        ..Names::default()
    };
    let numbers = ["web-b", "web-a", "web-b"].map(|revision| names.revision(revision));
    ensure!(numbers == ["r1", "r2", "r1"], "{numbers:?}");
    let filled = names.fill("/tmp/{ns}-a {ns} {node} {image2} {uid:/x}");
    ensure!(
        filled == "/volumes/replay-x-a replay-x n1 busybox:1.36 {uid:/x}",
        "{filled}"
    );
    let scrubbed = names.scrub(json!(["web-a", "n1", "in replay-x", {"image": "busybox:1.36"}]));
    let expected = json!(["{r2}", "<node>", "in {ns}", {"image": "{image2}"}]);
    ensure!(scrubbed == expected, "{scrubbed}");
    Ok(())
}

fn case() -> Result<Case> {
    Ok(serde_json::from_value(json!({
        "scenario": "endpoints-x", "order": "perPod", "see": ["/endpoints/web"],
        "events": [["Set", "web", "Normal", "Made", "a"]],
        "steps": [{
            "step": "look", "do": [], "answers": [], "podEvents": [], "notBefore": 8,
            "state": {
                "/endpoints/web": {"name": "web", "labels": {"of": "svc"}},
                "/things": [{"name": "a", "hash": "old"}, {"name": "b", "hash": "old"}],
            },
        }],
    }))?)
}

fn different() -> Result<()> {
    let differences = Differences::parse(
        r#"{"notYet": [], "differs": [
            {"cases": "endpoints-*", "why": "", "see": "/endpoints/web", "set": {"/labels/example.com~1by": "x", "/labels/of": null}},
            {"cases": "endpoints-x", "why": "", "see": "/things", "only": {"/name": "b"}, "set": {"/name": "c"}},
            {"cases": "endpoints-x", "why": "", "texts": {"old": "new"}},
            {"cases": "endpoints-x", "why": "", "notBefore": 6},
            {"cases": "endpoints-x", "why": "", "withoutEvents": [["Set", "web", "Normal", "Made", "a"]]}
        ]}"#,
    )?;
    let mut cases = [case()?];
    differences.apply(&mut cases)?;
    let step = &cases[0].steps[0];
    let endpoints = &step.state["/endpoints/web"];
    ensure!(
        *endpoints == json!({"name": "web", "labels": {"example.com/by": "x"}}),
        "{endpoints}"
    );
    let things = &step.state["/things"];
    let expected = json!([{"name": "a", "hash": "new"}, {"name": "c", "hash": "new"}]);
    ensure!(*things == expected, "{things}");
    ensure!(step.not_before == 6.0 && cases[0].events.is_empty(), "{cases:?}");
    Ok(())
}

fn idle() -> Result<()> {
    for (list, entry) in [
        (
            "differs",
            r#"{"cases": "other", "why": "", "texts": {"old": "new"}}"#,
        ),
        (
            "differs",
            r#"{"cases": "endpoints-x", "why": "", "texts": {"older": "new"}}"#,
        ),
        (
            "differs",
            r#"{"cases": "endpoints-x", "why": "", "see": "/things", "set": {"/hash": "old"}}"#,
        ),
        ("notYet", r#"{"case": "endpoints-x", "why": "", "step": "none"}"#),
        ("notYet", r#"{"case": "other", "why": "", "step": "events"}"#),
    ] {
        let other = if list == "differs" { "notYet" } else { "differs" };
        let differences = Differences::parse(&format!(r#"{{"{list}": [{entry}], "{other}": []}}"#))?;
        ensure!(differences.apply(&mut [case()?]).is_err(), "{entry}");
    }
    let fine = r#"{"differs": [], "notYet": [{"case": "endpoints-x", "why": "", "step": "look"}]}"#;
    Differences::parse(fine)?.apply(&mut [case()?])
}
