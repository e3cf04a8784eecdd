//! Tests of how the lives of pods are compared with those recorded.

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use stead_tests::Test;
use stead_tests::lives::{Differences, Life, Recording, Rule, Run, Told, compare_told, snapshot};

pub(crate) const TESTS: &[Test] = &[
    ("lives: statuses may be passed over", passing_over),
    ("lives: no status may contradict", contradictions),
    ("lives: the last status has to come", the_end),
    ("lives: what is shown becomes comparable", what_is_shown),
    ("lives: a container that ended may be seen running", short_lives),
    ("lives: an address may be known earlier, not later", addresses),
    ("lives: how it ended before may be remembered", memories),
    ("lives: events are compared with their order", events),
    ("lives: differences change what is expected", different),
    ("lives: differences must be about something", idle),
];

fn container(state: &Value, restarts: u32) -> Value {
    let runs = !state["running"].is_null();
    json!({
        "name": "c", "state": state, "lastState": {}, "ready": runs, "started": runs,
        "restartCount": restarts, "image": "i",
    })
}

fn waiting() -> Value {
    container(&json!({"waiting": {"reason": "ContainerCreating"}}), 0)
}

fn running() -> Value {
    container(&json!({"running": {}}), 0)
}

fn ended(code: u32, restarts: u32) -> Value {
    let exit = json!({"exitCode": code, "reason": "Error", "containerID": "<id>"});
    container(&json!({"terminated": exit}), restarts)
}

fn status(phase: &str, ready: bool, container: &Value) -> Value {
    let yes = if ready { "True" } else { "False" };
    json!({
        "event": "MODIFIED",
        "deleting": false,
        "status": {
            "phase": phase,
            "hostIP": "<node-ip>",
            "conditions": [
                {"type": "Initialized", "status": "True"},
                {"type": "Ready", "status": yes},
                {"type": "ContainersReady", "status": yes},
            ],
            "containerStatuses": [container],
        },
    })
}

fn recording(statuses: &[Value]) -> Result<Recording> {
    Recording::parse(
        &json!({
            "scenario": "s",
            "pod": {},
            "actions": [],
            "watchedSeconds": 1,
            "statuses": statuses,
            "events": [{
                "source": "kubelet", "type": "Normal", "reason": "Created", "fieldPath": null,
                "message": "Created container c in <namespace>", "repeated": true,
            }],
        })
        .to_string(),
    )
}

/// The same as a watch would show it.
fn shown(status: &Value) -> Value {
    let mut pod = json!({"metadata": {}, "status": status["status"]});
    if status["deleting"] == true {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    snapshot(
        status["event"].as_str().unwrap_or_default(),
        &pod,
        &Run::default(),
    )
}

/// Shows statuses after each other; returns whether the recording's last one was among them.
fn live(recorded: &[Value], rules: &[Rule], seen: &[Value]) -> Result<bool> {
    let mut life = Life::new(&recording(recorded)?, rules.to_vec());
    for status in seen {
        life.see(&shown(status)).map_err(|text| anyhow!(text))?;
    }
    Ok(life.is_complete())
}

fn check_refused(result: Result<bool>, why: &str) -> Result<()> {
    let error = result.err().context("it was let pass")?.to_string();
    ensure!(error.contains(why), "{error}");
    Ok(())
}

/// A pod that starts, becomes ready, and ends.
fn whole() -> [Value; 4] {
    [
        status("Pending", false, &waiting()),
        status("Running", false, &running()),
        status("Running", true, &running()),
        status("Failed", false, &ended(3, 0)),
    ]
}

fn passing_over() -> Result<()> {
    let all = whole();
    ensure!(live(&all, &[], &all)?);
    ensure!(live(
        &all,
        &[],
        &[all[0].clone(), all[2].clone(), all[3].clone()]
    )?);
    // The same again is nothing new.
    ensure!(live(
        &all,
        &[],
        &[all[0].clone(), all[0].clone(), all[3].clone()]
    )?);
    Ok(())
}

fn contradictions() -> Result<()> {
    let all = whole();
    let back = [all[2].clone(), all[1].clone()];
    check_refused(live(&all, &[], &back), "a status that does not follow")?;
    for (pointer, value) in [
        ("/status/phase", json!("Unknown")),
        ("/status/reason", json!("Evicted")),
        ("/status/conditions/1/reason", json!("Late")),
        ("/status/conditions/1/message", json!("late")),
        ("/status/containerStatuses/0/ready", json!(true)),
        ("/status/containerStatuses/0/started", json!(true)),
        ("/status/containerStatuses/0/restartCount", json!(1)),
        ("/status/containerStatuses/0/image", json!("j")),
        (
            "/status/containerStatuses/0/lastState",
            json!({"terminated": {"exitCode": 3}}),
        ),
        ("/status/containerStatuses/0/state/terminated/exitCode", json!(4)),
        (
            "/status/containerStatuses/0/state/terminated/containerID",
            Value::Null,
        ),
        ("/status/hostIPs", json!([])),
        ("/deleting", json!(true)),
        ("/event", json!("DELETED")),
    ] {
        let mut other = all[3].clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap_or_default();
        let parent = other.pointer_mut(parent).context("a field")?;
        parent[name] = value;
        check_refused(live(&all, &[], &[all[2].clone(), other]), "it differs by")
            .with_context(|| pointer.to_owned())?;
    }
    Ok(())
}

fn the_end() -> Result<()> {
    let all = whole();
    ensure!(!live(&all, &[], &all[..3])?);
    ensure!(!live(&all, &[], &[])?);
    let mut life = Life::new(&recording(&all)?, Vec::new());
    ensure!(life.come() == 0);
    life.see(&shown(&all[2])).map_err(|text| anyhow!(text))?;
    ensure!(life.come() == 3, "{}", life.come());
    ensure!(life.story().contains("2: MODIFIED Running"), "{}", life.story());
    Ok(())
}

fn what_is_shown() -> Result<()> {
    let run = Run {
        namespace: "lives-s".to_owned(),
        node: "here".to_owned(),
        node_ip: "192.0.2.2".to_owned(),
        uid: "abc-1".to_owned(),
    };
    let pod = json!({
        "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"},
        "status": {
            "startTime": "2026-01-01T00:00:00Z",
            "hostIP": "192.0.2.2",
            "podIP": "10.42.0.7",
            "podIPs": [{"ip": "10.42.0.7"}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "containerStatuses": [{
                "name": "c",
                "imageID": "sha256:1",
                "containerID": "stead://1",
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
                "message": "p_lives-s(abc-1)",
            }],
        },
    });
    let shown = snapshot("MODIFIED", &pod, &run);
    let expected = json!({
        "event": "MODIFIED",
        "deleting": true,
        "status": {
            "hostIP": "<node-ip>",
            "podIP": "<pod-ip>",
            "podIPs": [{"ip": "<pod-ip>"}],
            "conditions": {"Ready": {"status": "True"}},
            "containerStatuses": {"c": {
                "containerID": "<id>",
                "state": {"running": {}},
                "lastState": {},
                "message": "p_<ns>(<uid>)",
            }},
        },
    });
    ensure!(shown == expected, "{shown}");
    let assigned = run.scrub_text("Successfully assigned lives-s/p to here");
    ensure!(assigned == "Successfully assigned <ns>/p to n1", "{assigned}");
    Ok(())
}

fn short_lives() -> Result<()> {
    let all = whole();
    let recorded = [all[0].clone(), all[3].clone()];
    let seen = [all[0].clone(), all[2].clone(), all[3].clone()];
    ensure!(live(&recorded, &[Rule::Running], &seen)?);
    check_refused(live(&recorded, &[], &seen), "/status/phase")?;
    // It has been ready at once, and has not run before.
    for other in [
        &all[1],
        &status("Running", true, &container(&json!({"running": {}}), 1)),
    ] {
        check_refused(
            live(&recorded, &[Rule::Running], std::slice::from_ref(other)),
            "differs",
        )?;
    }
    // Nor does it run again without having been recorded as started anew.
    let recorded = [all[2].clone(), all[3].clone()];
    let again = [all[3].clone(), all[2].clone()];
    check_refused(live(&recorded, &[Rule::Running], &again), "does not follow")
}

fn addresses() -> Result<()> {
    let mut with = status("Pending", false, &waiting());
    let without = with.clone();
    with["status"]["podIP"] = json!("10.42.0.7");
    with["status"]["podIPs"] = json!([{"ip": "10.42.0.7"}]);
    let mut recorded = with.clone();
    recorded["status"]["podIP"] = json!("<pod-ip>");
    recorded["status"]["podIPs"] = json!([{"ip": "<pod-ip>"}]);
    let one = std::slice::from_ref;
    ensure!(live(one(&without), &[Rule::Address], one(&with))?);
    check_refused(live(one(&without), &[], one(&with)), "/status/podIP")?;
    check_refused(
        live(one(&recorded), &[Rule::Address], one(&without)),
        "/status/podIP",
    )
}

fn memories() -> Result<()> {
    let mut kept = status("Running", false, &ended(0, 1));
    let forgotten = kept.clone();
    kept["status"]["containerStatuses"][0]["lastState"] = json!({"terminated": {"exitCode": 3}});
    let recorded = [kept.clone(), forgotten.clone()];
    let mut last = forgotten.clone();
    last["status"]["phase"] = json!("Failed");
    let recorded = [recorded.as_slice(), &[last.clone()]].concat();
    let mut end = kept.clone();
    end["status"]["phase"] = json!("Failed");
    let seen = [kept, end.clone()];
    ensure!(live(&recorded, &[Rule::LastState], &seen)?);
    check_refused(live(&recorded, &[], &seen), "does not follow")?;
    end["status"]["containerStatuses"][0]["lastState"] = json!({"terminated": {"exitCode": 4}});
    check_refused(live(&recorded, &[Rule::LastState], &[end]), "lastState")
}

fn told(source: &str, message: &str) -> Result<Told> {
    let event = json!({
        "count": 2, "type": "Normal", "reason": "Created", "message": message, "source": {"component": source},
    });
    Told::read(&event, &Run::default()).context("it is told")
}

fn events() -> Result<()> {
    let one = |message: &str| told("kubelet", message);
    let both = [one("a")?, one("b")?];
    let all = |told: &[Told]| compare_told(&both, told, &[]);
    ensure!(all(&both) == (Vec::new(), Vec::new()));
    ensure!(all(&[one("a")?, one("b")?, one("a")?]) == (Vec::new(), Vec::new()));
    let (missing, wrong) = all(&[one("a")?]);
    ensure!(missing.len() == 1 && missing[0].contains("\"b\"") && wrong.is_empty());
    let (missing, wrong) = all(&[one("a")?, one("b")?, one("c")?]);
    ensure!(
        missing.is_empty() && wrong.len() == 1 && wrong[0].contains("too many"),
        "{wrong:?}"
    );
    let (missing, wrong) = all(&[one("b")?, one("a")?]);
    ensure!(
        missing.is_empty() && wrong.len() == 1 && wrong[0].contains("order"),
        "{wrong:?}"
    );
    // Who else tells something may be faster or slower.
    let others = [told("scheduler", "s")?, one("a")?];
    let swapped = [one("a")?, told("scheduler", "s")?];
    ensure!(compare_told(&others, &swapped, &[]) == (Vec::new(), Vec::new()));
    let may = ["c".to_owned()];
    ensure!(compare_told(&both, &[one("a")?, one("b")?, one("c d")?], &may) == (Vec::new(), Vec::new()));
    let untold = json!({"count": 0, "reason": "Created", "source": {"component": "kubelet"}});
    ensure!(Told::read(&untold, &Run::default()).is_none());
    Ok(())
}

fn list(entries: &Value) -> Result<Differences> {
    let mut all = json!({"newer": [], "texts": [], "ends": [], "may": [], "mayTell": []});
    for (name, value) in entries.as_object().into_iter().flatten() {
        all[name] = value.clone();
    }
    Differences::parse(&all.to_string())
}

fn different() -> Result<()> {
    let differences = list(&json!({
        "newer": [{"fields": ["/hostIPs", "/conditions/*/observedGeneration"], "why": "w"}],
        "texts": [{"recorded": "Created container *", "now": "Container created", "why": "w"}],
        "ends": [{"case": "s", "with": "\"True\"", "why": "w"}],
        "may": [{"rule": "address", "why": "w"}, {"case": "s", "rule": "running", "why": "w"}],
        "mayTell": [{"case": "s", "message": "Late", "why": "w"}],
    }))?;
    let mut recordings = [recording(&whole())?];
    let waiting = json!({"conditions": {"Ready": {"status": "False"}}});
    recordings[0].statuses[1]["status"] = waiting.clone();
    differences.apply(&mut recordings)?;
    let [recording] = &recordings;
    ensure!(
        recording.events[0].message == "Container created",
        "{recording:?}"
    );
    ensure!(
        recording.goes_on && recording.statuses.len() == 1,
        "{recording:?}"
    );
    ensure!(differences.rules("s") == [Rule::Address, Rule::Running]);
    ensure!(differences.rules("t") == [Rule::Address]);
    ensure!(differences.may_tell("s") == ["Late"] && differences.may_tell("t").is_empty());
    let mut shown = json!({"status": waiting});
    shown["status"]["hostIPs"] = json!([]);
    shown["status"]["conditions"]["Ready"]["observedGeneration"] = json!(1);
    differences.without_newer(&mut shown);
    ensure!(
        shown == json!({"status": {"conditions": {"Ready": {"status": "False"}}}}),
        "{shown}"
    );
    Ok(())
}

fn idle() -> Result<()> {
    for entries in [
        json!({"texts": [{"recorded": "Nothing", "now": "Something", "why": "w"}]}),
        json!({"texts": [{"case": "t", "recorded": "Created", "now": "Made", "why": "w"}]}),
        json!({"ends": [{"case": "s", "with": "Nothing", "why": "w"}]}),
        json!({"ends": [{"case": "t", "why": "w"}]}),
        json!({"may": [{"case": "t", "rule": "running", "why": "w"}]}),
        json!({"mayTell": [{"case": "t", "message": "Late", "why": "w"}]}),
    ] {
        let applied = list(&entries)?.apply(&mut [recording(&whole())?]);
        ensure!(applied.is_err(), "{entries} passed");
    }
    ensure!(list(&json!({"may": [{"rule": "odd", "why": "w"}]})).is_err());
    Ok(())
}
