//! How containers and pods end, and what their statuses say of it.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stead_tests::Cluster;

use super::{Part, check_status, full_name, pod, told};

pub(super) const PARTS: &[Part] = &[
    ("last words", last_words),
    ("a deadline", deadline),
    ("an eviction", eviction),
    ("memory runs out", memory),
    ("a container that keeps ending is waited for", crash_loop),
    ("a command that does not exist", no_command),
];

const NEVER: &str = "restartPolicy: Never";
const FAILED: &str = "jsonpath={.status.phase}=Failed";
const ENDED: &str = "/containerStatuses/0/state/terminated";

fn last_words(cluster: &Cluster) -> Result<()> {
    let logs = "terminationMessagePolicy: FallbackToLogsOnError";
    let path = "terminationMessagePath: /tmp/words";
    let cases: &[(&str, &str, &[&str], &str, &str)] = &[
        (
            "words",
            "echo said; echo -n because >/dev/termination-log; exit 3",
            &[],
            "3",
            "because",
        ),
        (
            "elsewhere",
            "echo -n there >/tmp/words; exit 1",
            &[path],
            "1",
            "there",
        ),
        (
            "logged",
            "echo one; echo two >&2; exit 1",
            &[logs],
            "1",
            "one\ntwo\n",
        ),
        (
            "both",
            "echo said; echo -n written >/dev/termination-log; exit 1",
            &[logs],
            "1",
            "written",
        ),
        ("well", "echo said", &[logs], "0", "null"),
        ("silent", "echo said; exit 1", &[], "1", "null"),
    ];
    for (name, script, more, ..) in cases {
        cluster.apply(&pod(name, script, more, &[NEVER]))?;
    }
    for (name, _, _, code, message) in cases {
        let phase = if *code == "0" { "Succeeded" } else { "Failed" };
        cluster.wait_for(
            &format!("pod/{name}"),
            &format!("jsonpath={{.status.phase}}={phase}"),
        )?;
        check_status(
            cluster,
            name,
            &[
                (&format!("{ENDED}/exitCode"), code),
                (&format!("{ENDED}/message"), message),
            ],
        )?;
    }
    Ok(())
}

fn deadline(cluster: &Cluster) -> Result<()> {
    const SAID: &str = "Pod was active on the node longer than the specified deadline";
    cluster.apply(&pod(
        "late",
        "exec sleep 10000",
        &[],
        &["activeDeadlineSeconds: 1"],
    ))?;
    cluster.wait_for("pod/late", FAILED)?;
    check_status(
        cluster,
        "late",
        &[("/reason", "DeadlineExceeded"), ("/message", SAID)],
    )?;
    let event = told(cluster, "late", "DeadlineExceeded")?;
    ensure!(event == format!("Normal DeadlineExceeded {SAID}"), "{event}");
    Ok(())
}

fn eviction(cluster: &Cluster) -> Result<()> {
    cluster.apply(&pod("evicted", "exec sleep 10000", &[], &[]))?;
    cluster.wait_for("pod/evicted", "condition=Ready")?;
    let mut changes = cluster.watch("pods")?;
    let eviction =
        "{\"apiVersion\": \"policy/v1\", \"kind\": \"Eviction\", \"metadata\": {\"name\": \"evicted\"}}";
    let path = "/api/v1/namespaces/default/pods/evicted/eviction";
    let said = cluster
        .kubectl(&format!("create --raw {path} -f -"))
        .stdin(eviction)
        .ok()?;
    ensure!(said.contains("\"Success\""), "{said}");
    loop {
        let (kind, object) = changes.next()?;
        if object["metadata"]["name"] != "evicted" || kind != "DELETED" {
            continue;
        }
        let conditions = object["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        let target = conditions.find(|condition| condition["type"] == "DisruptionTarget");
        let is_told = target.is_some_and(|target| {
            target["status"] == "True"
                && target["reason"] == "EvictionByEvictionAPI"
                && target["message"] == "Eviction API: evicting"
        });
        ensure!(is_told, "{object}");
        return Ok(());
    }
}

fn memory(cluster: &Cluster) -> Result<()> {
    let small = "resources: {limits: {memory: 16Mi}}";
    cluster.apply(&pod("greedy", "exec tail /dev/zero", &[small], &[NEVER]))?;
    cluster.wait_for("pod/greedy", FAILED)?;
    check_status(
        cluster,
        "greedy",
        &[
            (&format!("{ENDED}/exitCode"), "137"),
            (&format!("{ENDED}/reason"), "OOMKilled"),
        ],
    )
}

fn crash_loop(cluster: &Cluster) -> Result<()> {
    let mut changes = cluster.watch("pods")?;
    cluster.apply(&pod("frail", "exit 1", &[], &[]))?;
    let mut ended = None;
    let started = loop {
        let (_, object) = changes.next()?;
        if object["metadata"]["name"] != "frail" {
            continue;
        }
        let container = &object["status"]["containerStatuses"][0];
        let restarts = container["restartCount"].as_u64().unwrap_or_default();
        let waiting = &container["state"]["waiting"];
        // It has been started again at once, and then is waited for.
        if waiting["reason"] == "CrashLoopBackOff" && ended.is_none() {
            let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
            let message = format!("back-off 10s restarting failed container=main pod=frail_default({uid})");
            let last = &container["lastState"]["terminated"];
            let is_so = restarts == 1 && waiting["message"] == message.as_str() && last["exitCode"] == 1;
            ensure!(is_so, "{container}, expected {message:?}");
            ended = Some(seconds(&last["finishedAt"])?);
        }
        // What it did then may be over already.
        let state = &container["state"];
        let runs = state.get("running").or(state.get("terminated"));
        let runs = runs.or(container["lastState"].get("terminated"));
        if let (2, Some(runs)) = (restarts, runs) {
            break seconds(&runs["startedAt"])?;
        }
    };
    let ended = ended.context("it was not waited for")?;
    // It may be midnight meanwhile.
    let waited = (started + DAY - ended) % DAY;
    ensure!((10..15).contains(&waited), "it waited {waited} seconds");
    let event = told(cluster, "frail", "BackOff")?;
    let name = full_name(cluster, "frail")?;
    let expected = format!("Warning BackOff Back-off restarting failed container main in pod {name}");
    ensure!(event == expected, "{event}, expected {expected}");
    cluster.kubectl("delete pod frail").ok().map(drop)
}

const DAY: u64 = 24 * 60 * 60;

/// The time of the day, of `2026-01-01T12:34:56Z`.
fn seconds(time: &Value) -> Result<u64> {
    let text = time.as_str().and_then(|text| text.get(11..19));
    let mut parts = text.with_context(|| format!("no time: {time}"))?.split(':');
    parts.try_fold(0, |sum, part| Ok(sum * 60 + part.parse::<u64>()?))
}

fn no_command(cluster: &Cluster) -> Result<()> {
    let manifest = pod("absent", "", &[], &[NEVER]).replace("[sh, -c, '']", "[/no/such]");
    cluster.apply(&manifest)?;
    cluster.wait_for("pod/absent", FAILED)?;
    check_status(
        cluster,
        "absent",
        &[
            (&format!("{ENDED}/exitCode"), "128"),
            (&format!("{ENDED}/reason"), "StartError"),
            ("/containerStatuses/0/restartCount", "0"),
        ],
    )?;
    let object = cluster.get("pod absent")?;
    let container = &object["status"]["containerStatuses"][0];
    let ended = &container["state"]["terminated"];
    ensure!(
        ended["containerID"].is_string() && ended["containerID"] == container["containerID"],
        "{container}"
    );
    let said = ended["message"].as_str().unwrap_or_default();
    ensure!(
        said.contains("exec: \"/no/such\": stat /no/such: no such file or directory"),
        "{said}"
    );
    let event = told(cluster, "absent", "Failed")?;
    ensure!(event == format!("Warning Failed Error: {said}"), "{event}");
    Ok(())
}
