//! What containers do when they start and before they stop.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use stead_tests::Cluster;

use super::{Part, full_name, host_dir, on_host, pod, told};

pub(super) const PARTS: &[Part] = &[
    ("postStart comes before Ready", post_start),
    ("a postStart that fails ends the container", post_start_fails),
    ("preStop comes before SIGTERM", pre_stop),
    ("preStop asks by HTTP", pre_stop_http),
    ("preStop sleeps", pre_stop_sleep),
    ("a preStop that fails is told", pre_stop_fails),
];

const PATIENT: &str = "terminationGracePeriodSeconds: 30";

/// As [`pod`], with time to end well.
fn patient_pod(name: &str, script: &str, container: &[&str], spec: &[&str]) -> String {
    pod(name, script, container, spec).replace("terminationGracePeriodSeconds: 1", PATIENT)
}

fn post_start(cluster: &Cluster) -> Result<()> {
    let dir = host_dir(cluster, "greeted")?;
    let (mount, volume) = on_host(&dir);
    let hook = "lifecycle: {postStart: {exec: {command: [sh, -c, 'sleep 0.5; echo \"$HOSTNAME\" >/host/greeting']}}}";
    cluster.apply(&pod("greeted", "exec sleep 10000", &[mount, hook], &[&volume]))?;
    cluster.wait_for("pod/greeted", "condition=Ready")?;
    let greeting = fs::read_to_string(dir.join("greeting"))?;
    ensure!(greeting == "greeted\n", "{greeting:?}");
    Ok(())
}

fn post_start_fails(cluster: &Cluster) -> Result<()> {
    let hook = "lifecycle: {postStart: {exec: {command: [sh, -c, 'echo lost >&2; exit 5']}}}";
    cluster.apply(&pod("refused", "exec sleep 10000", &[hook], &[]))?;
    let waits = "jsonpath={.status.containerStatuses[0].state.waiting.reason}=PostStartHookError";
    cluster.wait_for("pod/refused", waits)?;
    let name = full_name(cluster, "refused")?;
    let object = cluster.get("pod refused")?;
    let container = &object["status"]["containerStatuses"][0];
    let said = container["state"]["waiting"]["message"]
        .as_str()
        .unwrap_or_default();
    // A hook may fail once more meanwhile, or be waited for: then this is another state.
    if container["state"]["waiting"]["reason"] == "PostStartHookError" {
        let expected = format!(
            "Exec lifecycle hook ([sh -c echo lost >&2; exit 5]) for Container \"main\" in Pod \"{name}\" failed - \
             error: command 'sh -c echo lost >&2; exit 5' exited with 5: lost\n, message: \"lost\\n\""
        );
        ensure!(said == expected, "{said:?}, expected {expected:?}");
    }
    let event = told(cluster, "refused", "PostStartHook failed")?;
    ensure!(
        event == "Warning FailedPostStartHook PostStartHook failed",
        "{event}"
    );
    let event = told(cluster, "refused", "Killing")?;
    ensure!(event == "Normal Killing FailedPostStartHook", "{event}");
    cluster.kubectl("delete pod refused").ok().map(drop)
}

fn pre_stop(cluster: &Cluster) -> Result<()> {
    let dir = host_dir(cluster, "farewell")?;
    let (mount, volume) = on_host(&dir);
    let hook = "lifecycle: {preStop: {exec: {command: [sh, -c, 'sleep 0.5; echo hook >>/host/said']}}}";
    let script =
        "trap \"echo asked >>/host/said; exit 0\" TERM; touch /tmp/up; while true; do sleep 0.05; done";
    let ready = "readinessProbe: {exec: {command: [test, -e, /tmp/up]}, periodSeconds: 1}";
    cluster.apply(&patient_pod(
        "farewell",
        script,
        &[mount, hook, ready],
        &[&volume],
    ))?;
    cluster.wait_for("pod/farewell", "condition=Ready")?;
    cluster.kubectl("delete pod farewell").ok()?;
    let said = fs::read_to_string(dir.join("said"))?;
    ensure!(said == "hook\nasked\n", "{said:?}");
    Ok(())
}

fn pre_stop_http(cluster: &Cluster) -> Result<()> {
    let dir = host_dir(cluster, "called")?;
    let (mount, volume) = on_host(&dir);
    let hook = "lifecycle: {preStop: {httpGet: {path: '/cgi-bin/end?well', port: http, httpHeaders: [{name: X-Word, value: bye}]}}}";
    let ports = "ports: [{name: http, containerPort: 8080}]";
    let ready = "readinessProbe: {tcpSocket: {port: http}, periodSeconds: 1}";
    let script =
        "mkdir -p /www/cgi-bin; cp /host/end /www/cgi-bin/end; exec busybox httpd -f -p 8080 -h /www";
    let end = "#!/bin/sh\necho \"$REQUEST_METHOD $QUERY_STRING\" >/host/asked\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\n";
    fs::write(dir.join("end"), end)?;
    cluster
        .machine
        .run(&format!("chmod 755 {}", dir.join("end").display()))
        .ok()?;
    cluster.apply(&pod("called", script, &[mount, hook, ports, ready], &[&volume]))?;
    cluster.wait_for("pod/called", "condition=Ready")?;
    cluster.kubectl("delete pod called").ok()?;
    let asked = fs::read_to_string(dir.join("asked"))?;
    ensure!(asked == "GET well\n", "{asked:?}");
    Ok(())
}

fn pre_stop_sleep(cluster: &Cluster) -> Result<()> {
    let hook = "lifecycle: {preStop: {sleep: {seconds: 2}}}";
    let script = "trap \"exit 0\" TERM; touch /tmp/up; while true; do sleep 0.05; done";
    let ready = "readinessProbe: {exec: {command: [test, -e, /tmp/up]}, periodSeconds: 1}";
    cluster.apply(&patient_pod("sleepy", script, &[hook, ready], &[]))?;
    cluster.wait_for("pod/sleepy", "condition=Ready")?;
    let begin = Instant::now();
    cluster.kubectl("delete pod sleepy").ok()?;
    let took = begin.elapsed();
    ensure!(
        took >= Duration::from_secs(2) && took < Duration::from_secs(20),
        "it took {took:?}"
    );
    Ok(())
}

fn pre_stop_fails(cluster: &Cluster) -> Result<()> {
    let hook = "lifecycle: {preStop: {exec: {command: ['false']}}}";
    cluster.apply(&pod("clumsy", "exec sleep 10000", &[hook], &[]))?;
    cluster.wait_for("pod/clumsy", "condition=Ready")?;
    cluster.kubectl("delete pod clumsy").ok()?;
    let event = told(cluster, "clumsy", "PreStopHook")?;
    ensure!(event == "Warning FailedPreStopHook PreStopHook failed", "{event}");
    Ok(())
}
