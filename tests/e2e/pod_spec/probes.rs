//! When a pod is ready, and when it is restarted.

use std::fs;

use anyhow::{Context, Result, ensure};
use stead_tests::Cluster;

use super::health::Health;
use super::{Part, check_status, host_dir, on_host, pod, status, told};

pub(super) const PARTS: &[Part] = &[
    ("a startup probe holds the others back", startup),
    ("a container that does not start up is restarted", startup_fails),
    ("a gRPC probe asks a health service", grpc),
    ("a gRPC probe to nobody", grpc_to_nobody),
    ("a probe of a port that has no name", unknown_port),
    ("readiness gates", gates),
];

fn startup(cluster: &Cluster) -> Result<()> {
    let dir = host_dir(cluster, "slow")?;
    let (mount, volume) = on_host(&dir);
    let go = "exec: {command: [test, -e, /host/go]}, periodSeconds: 1";
    let startup = format!("startupProbe: {{{go}, failureThreshold: 100}}");
    // Either would fail before the pod has started up.
    let liveness = format!("livenessProbe: {{{go}, failureThreshold: 1}}");
    let readiness = format!("readinessProbe: {{{go}, failureThreshold: 1}}");
    let probes = [mount, &startup, &liveness, &readiness];
    cluster.apply(&pod("slow", "exec sleep 10000", &probes, &[&volume]))?;
    let event = told(cluster, "slow", "Unhealthy")?;
    ensure!(
        event.starts_with("Warning Unhealthy Startup probe failed: "),
        "{event}"
    );
    let container = "/containerStatuses/0";
    check_status(
        cluster,
        "slow",
        &[
            (&format!("{container}/started"), "false"),
            (&format!("{container}/ready"), "false"),
            (&format!("{container}/restartCount"), "0"),
        ],
    )?;
    fs::write(dir.join("go"), "")?;
    cluster.wait_for("pod/slow", "condition=Ready")?;
    check_status(
        cluster,
        "slow",
        &[
            (&format!("{container}/started"), "true"),
            (&format!("{container}/restartCount"), "0"),
        ],
    )?;
    let events = cluster.kubectl("events --for pod/slow").ok()?;
    ensure!(
        !events.contains("Liveness") && !events.contains("Readiness"),
        "{events}"
    );
    // From then on it counts.
    fs::remove_file(dir.join("go"))?;
    let event = told(cluster, "slow", "Killing")?;
    let expected = "Normal Killing Container main failed liveness probe, will be restarted";
    ensure!(event == expected, "{event}");
    Ok(())
}

fn startup_fails(cluster: &Cluster) -> Result<()> {
    let probe = "startupProbe: {exec: {command: ['false']}, periodSeconds: 1, failureThreshold: 2}";
    cluster.apply(&pod("stuck", "exec sleep 10000", &[probe], &[]))?;
    let event = told(cluster, "stuck", "Killing")?;
    let expected = "Normal Killing Container main failed startup probe, will be restarted";
    ensure!(event == expected, "{event}");
    cluster.wait_for(
        "pod/stuck",
        "jsonpath={.status.containerStatuses[0].restartCount}=1",
    )?;
    let code = status(
        cluster,
        "stuck",
        "/containerStatuses/0/lastState/terminated/exitCode",
    )?;
    ensure!(code == "137", "{code}");
    cluster.kubectl("delete pod stuck").ok().map(drop)
}

fn grpc(cluster: &Cluster) -> Result<()> {
    let health = Health::serve(cluster.machine)?;
    let probe = format!(
        "readinessProbe: {{grpc: {{port: {}}}, periodSeconds: 1}}",
        health.port
    );
    // The service is the machine's, so that the pod's address has to be.
    cluster.apply(&pod(
        "served",
        "exec sleep 10000",
        &[&probe],
        &["hostNetwork: true"],
    ))?;
    let event = told(cluster, "served", "Unhealthy")?;
    let expected =
        "Warning Unhealthy Readiness probe failed: service unhealthy (responded with \"NOT_SERVING\")";
    ensure!(event == expected, "{event}");
    health.set(Health::SERVING);
    cluster.wait_for("pod/served", "condition=Ready")?;
    health.set(Health::NOT_SERVING);
    cluster.wait_for("pod/served", "condition=Ready=false")
}

fn grpc_to_nobody(cluster: &Cluster) -> Result<()> {
    let probe = "readinessProbe: {grpc: {port: 9, service: s}, periodSeconds: 1}";
    cluster.apply(&pod("unserved", "exec sleep 10000", &[probe], &[]))?;
    let event = told(cluster, "unserved", "Unhealthy")?;
    let address = status(cluster, "unserved", "/podIP")?;
    let expected = format!(
        "Warning Unhealthy Readiness probe failed: timeout: failed to connect service \"{address}:9\" within 1s: \
         context deadline exceeded"
    );
    ensure!(event == expected, "{event}, expected {expected}");
    Ok(())
}

fn unknown_port(cluster: &Cluster) -> Result<()> {
    let probe = "readinessProbe: {httpGet: {port: nowhere}, periodSeconds: 1}";
    cluster.apply(&pod("nowhere", "exec sleep 10000", &[probe], &[]))?;
    cluster.wait_for(
        "pod/nowhere",
        "jsonpath={.status.containerStatuses[0].started}=true",
    )?;
    let event = told(cluster, "nowhere", "Unhealthy")?;
    let expected = "Warning Unhealthy Readiness probe errored and resulted in unknown state: ";
    ensure!(event.starts_with(expected), "{event}");
    let ready = status(cluster, "nowhere", "/containerStatuses/0/ready")?;
    ensure!(ready == "false", "{ready}");
    Ok(())
}

fn gates(cluster: &Cluster) -> Result<()> {
    const GATE: &str = "example.com/open";
    let gate = format!("readinessGates: [{{conditionType: {GATE}}}]");
    cluster.apply(&pod("gated", "exec sleep 10000", &[], &[&gate]))?;
    cluster.wait_for("pod/gated", "condition=ContainersReady")?;
    let closed = |message: &str| -> Result<()> {
        let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].message}";
        cluster.wait_for("pod/gated", &format!("{path}={message}"))?;
        let object = cluster.get("pod gated")?;
        let conditions = object["status"]["conditions"].as_array().context("conditions")?;
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
        let ready = ready.context("a condition")?;
        ensure!(
            ready["status"] == "False" && ready["reason"] == "ReadinessGatesNotReady",
            "{ready}"
        );
        Ok(())
    };
    closed(&format!(
        "corresponding condition of pod readiness gate \"{GATE}\" does not exist."
    ))?;
    let set = |value: &str| {
        let condition = format!("{{\"type\":\"{GATE}\",\"status\":\"{value}\"}}");
        let patch = format!("{{\"status\":{{\"conditions\":[{condition}]}}}}");
        cluster
            .kubectl(&format!("patch pod gated --subresource=status -p '{patch}'"))
            .ok()
    };
    set("False")?;
    closed(&format!(
        "the status of pod readiness gate \"{GATE}\" is not \"True\", but False"
    ))?;
    set("True")?;
    cluster.wait_for("pod/gated", "condition=Ready")?;
    set("False")?;
    cluster.wait_for("pod/gated", "condition=Ready=false")
}
