//! The cluster's own life: up, down, delete, crashes, and others beside it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stead_tests::artifacts::{self, Image};
use stead_tests::{Cluster, Machine, eventually, on_a_cluster, on_a_machine};

use crate::manifests::{VISITS, set};
use crate::{Tests, check_contains};

pub(crate) const TESTS: Tests = &[
    ("life: up, and up again", up_twice),
    ("life: several at once come to one cluster", at_once),
    ("life: after down and up, everything is as it was", down_and_up),
    ("life: killing the server disturbs no pod", killed_server),
    (
        "life: what happened while the server was dead is noticed",
        dead_server,
    ),
    ("life: two clusters side by side", side_by_side),
    (
        "life: the user's kubeconfig gains a context and loses it again",
        kubeconfig,
    ),
    ("life: up in the foreground ends with Ctrl-C", foreground),
    ("life: delete asks, and names the claims", delete_asks),
    ("life: version, completion and logs", small_commands),
];

const PODS: [&str; 3] = ["web-0", "web-1", "web-2"];

/// What must stay the same of the pods while only the server comes and goes.
#[derive(Debug, PartialEq)]
struct Running {
    uids: Vec<String>,
    /// Of each container: its id, and how often it was restarted.
    containers: Vec<(Value, Value)>,
    /// Of each pod: the shim's and the containers' processes.
    processes: Value,
}

fn running(cluster: &Cluster) -> Result<Running> {
    let containers = PODS.iter().map(|pod| {
        let mut status = cluster.get(&format!("pod {pod}"))?["status"]["containerStatuses"][0].take();
        Ok((status["containerID"].take(), status["restartCount"].take()))
    });
    let mut status = cluster.status()?;
    let pods = status["pods"].as_array_mut().context("no pods in the status")?;
    pods.sort_by_key(|pod| pod["name"].to_string());
    Ok(Running {
        uids: cluster.uids(&PODS)?,
        containers: containers.collect::<Result<_>>()?,
        processes: status["pods"].take(),
    })
}

fn three_pods(cluster: &Cluster) -> Result<()> {
    cluster.load(&Image::visits()?)?;
    cluster.apply(&set("web", 3, &[]))?;
    cluster.rolled_out("web")?;
    for pod in PODS {
        cluster.in_pod(pod, "wget -qO- 127.0.0.1:8080")?;
    }
    Ok(())
}

fn up_twice() -> Result<()> {
    on_a_machine(|machine| {
        let cluster = Cluster::new(machine, "data")?;
        let stopped = cluster.stead("status")?.run()?;
        ensure!(stopped.code == 3, "{stopped}");
        cluster.up()?;
        // It does not return before the API answers and the node is Ready.
        let nodes = cluster.kubectl("get nodes --no-headers").ok()?;
        ensure!(nodes.split_whitespace().nth(1) == Some("Ready"), "{nodes}");
        let pid = cluster.server_pid()?;
        let again = cluster.up()?;
        check_contains(&again, &["already"])?;
        ensure!(cluster.server_pid()? == pid);
        cluster.stead("status")?.ok()?;
        cluster.down()?;
        ensure!(cluster.stead("status")?.run()?.code == 3);
        // With nothing to stop, there is nothing wrong.
        cluster.stead("down")?.ok()?;
        cluster.delete()
    })
}

fn at_once() -> Result<()> {
    on_a_machine(|machine| {
        let cluster = Cluster::new(machine, "data")?;
        let config = cluster.kubeconfig().display().to_string();
        let start = |command: &str| {
            let kubeconfig = if command == "down" {
                String::new()
            } else {
                format!(" --kubeconfig {config}")
            };
            cluster.stead(&format!("{command}{kubeconfig}"))?.start()
        };
        // At the very first start, and later; and with one that stops it at the same time.
        for commands in [
            &["up --detach"; 3][..],
            &["up --detach", "down", "up --detach", "up --detach"],
            &["down", "up --detach", "down"],
        ] {
            let all = commands
                .iter()
                .map(|line| start(line))
                .collect::<Result<Vec<_>>>()?;
            for (line, one) in commands.iter().zip(all) {
                let (said, code) = one.end()?;
                ensure!(
                    code == Some(0),
                    "`{line}` of {commands:?} ended with {code:?}: {said:#?}"
                );
            }
            let processes = machine.processes()?;
            let servers = processes
                .iter()
                .filter(|process| process.ends_with(" serve"))
                .count();
            ensure!(servers < 2, "{processes:#?}");
            if commands.iter().all(|line| *line != "down") {
                ensure!(servers == 1, "{processes:#?}");
                cluster.kubectl("get nodes").ok()?;
            }
        }
        machine.note_cgroups()?;
        cluster.delete()
    })
}

fn down_and_up() -> Result<()> {
    on_a_cluster(|cluster| {
        three_pods(cluster)?;
        let before = cluster.uids(&PODS)?;
        let volume = cluster.field("pvc data-web-0", "/spec/volumeName")?;
        cluster.down()?;
        let processes = cluster.machine.processes()?;
        ensure!(processes.len() == 2, "after down: {processes:#?}");
        cluster.kubectl("get pods").fails()?;
        cluster.up()?;
        for pod in PODS {
            // Their old status says Ready until the node has looked.
            eventually("the pod runs again", || {
                cluster.in_pod(pod, "wget -qO- 127.0.0.1:8080/healthz")
            })?;
            cluster.wait_for(&format!("pod/{pod}"), "condition=Ready")?;
        }
        ensure!(cluster.uids(&PODS)? == before, "the pods were replaced");
        ensure!(cluster.field("pvc data-web-0", "/spec/volumeName")? == volume);
        ensure!(
            cluster
                .in_pod("web-0", "wget -qO- 127.0.0.1:8080")?
                .contains("2 visits")
        );
        Ok(())
    })
}

fn killed_server() -> Result<()> {
    on_a_cluster(|cluster| {
        three_pods(cluster)?;
        let before = running(cluster)?;
        let address = cluster.field("pod web-1", "/status/podIP")?;
        let ask = || cluster.curl(&format!("http://{address}:8080/"));
        for visits in [2, 4, 6] {
            cluster.kill_server()?;
            check_contains(&ask()?, &[&format!("{visits} visits")])?;
            cluster.up()?;
            ensure!(running(cluster)? == before, "{:#?}", running(cluster)?);
            check_contains(&ask()?, &[&format!("{} visits", visits + 1)])?;
        }
        // The new server can do with the old pods what the old one could.
        check_contains(&cluster.in_pod("web-2", "cat /data/visits")?, &["visit 1 at"])?;
        check_contains(&cluster.kubectl("logs web-2").ok()?, &["listening on port 8080"])?;
        cluster.kubectl("delete pod web-2").ok()?;
        cluster.wait_for("sts/web", "jsonpath={.status.readyReplicas}=3")
    })
}

fn dead_server() -> Result<()> {
    on_a_cluster(|cluster| {
        three_pods(cluster)?;
        let status = cluster.status()?;
        let pods = status["pods"].as_array().context("no pods in the status")?;
        let web_1 = pods
            .iter()
            .find(|pod| pod["name"] == "web-1")
            .context("no web-1")?;
        let pid = &web_1["containers"][0]["pid"];
        let before = cluster.uids(&PODS)?;
        cluster.kill_server()?;
        cluster.machine.run(&format!("kill -KILL {pid}")).ok()?;
        cluster.up()?;
        cluster.wait_for(
            "pod/web-1",
            "jsonpath={.status.containerStatuses[0].restartCount}=1",
        )?;
        cluster.wait_for("pod/web-1", "condition=Ready")?;
        ensure!(cluster.uids(&PODS)? == before);
        let status = cluster.get("pod web-1")?["status"]["containerStatuses"][0].take();
        ensure!(status["lastState"]["terminated"]["exitCode"] == 137, "{status}");
        Ok(())
    })
}

fn side_by_side() -> Result<()> {
    on_a_machine(|machine| {
        let [one, two] = [Cluster::new(machine, "one")?, Cluster::new(machine, "two")?];
        for cluster in [&one, &two] {
            cluster.up()?;
            cluster.load(&Image::visits()?)?;
            cluster.apply(VISITS)?;
        }
        for (cluster, visits) in [(&one, 1), (&two, 2)] {
            cluster.rolled_out("visits")?;
            let all = format!("for i in $(seq {visits}); do wget -qO- visits-2.visits-headless:8080; done");
            cluster.in_pod("visits-0", &all)?;
        }
        let addresses = [&one, &two].map(|cluster| cluster.field("pod visits-2", "/status/podIP"));
        let [first, second] = addresses;
        ensure!(first? != second?);
        check_visits_2(&one, 1)?;
        check_visits_2(&two, 2)?;
        for cluster in [&one, &two] {
            let port = cluster.field("svc visits", "/spec/ports/0/nodePort")?;
            eventually("the node port answers", || {
                cluster.curl(&format!("http://127.0.0.1:{port}/healthz"))
            })?;
        }
        let named = fs::read_to_string(two.kubeconfig())?;
        check_contains(&named, &["stead-"])?;
        one.delete()?;
        check_visits_2(&two, 2)?;
        two.kubectl("delete pod visits-2").ok()?;
        two.wait_for("sts/visits", "jsonpath={.status.readyReplicas}=3")?;
        check_visits_2(&two, 2)?;
        two.delete()
    })
}

fn check_visits_2(cluster: &Cluster, visits: usize) -> Result<()> {
    let lines = cluster.in_pod("visits-2", "cat /data/visits")?;
    ensure!(lines.lines().count() == visits, "{lines}");
    Ok(())
}

fn kubeconfig() -> Result<()> {
    on_a_machine(|machine| {
        let stead = artifacts::stead()?.display().to_string();
        let kubectl = stead_tests::kubectl::newest()?.path().display().to_string();
        let config = machine.dir().join("home/.kube/config");
        fs::create_dir_all(machine.dir().join("home/.kube"))?;
        fs::write(&config, OTHER)?;
        machine.run(&format!("{stead} up --detach")).ok()?;
        machine.note_cgroups()?;
        let view = |path: &str| {
            let line = format!("{kubectl} config view -o 'jsonpath={path}'");
            machine.client(&line).ok()
        };
        ensure!(view("{.current-context}")? == "stead");
        ensure!(view("{.contexts[*].name}")? == "other stead");
        ensure!(view("{.users[?(@.name==\"other\")].user.username}")? == "someone");
        ensure!(view("{.clusters[?(@.name==\"other\")].cluster.server}")? == "https://127.0.0.1:1");
        let mode = fs::metadata(&config)?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "the mode is {mode:o}");
        machine.client(&format!("{kubectl} get nodes")).ok()?;
        let server = view("{.clusters[?(@.name==\"stead\")].cluster.server}")?;
        ensure!(server == "https://127.0.0.1:6443", "{server}");

        machine.run(&format!("{stead} delete --yes")).ok()?;
        ensure!(view("{.contexts[*].name}")? == "other");
        ensure!(view("{.users[*].name}")? == "other");
        ensure!(view("{.clusters[*].name}")? == "other");
        Ok(())
    })
}

const OTHER: &str = "
apiVersion: v1
kind: Config
current-context: other
clusters: [{name: other, cluster: {server: 'https://127.0.0.1:1'}}]
contexts: [{name: other, context: {cluster: other, user: other}}]
users: [{name: other, user: {username: someone, password: secret}}]
";

fn foreground() -> Result<()> {
    on_a_machine(|machine| {
        let cluster = Cluster::new(machine, "data")?;
        let config = cluster.kubeconfig().display().to_string();
        let mut up = cluster.stead(&format!("up --kubeconfig {config}"))?.start()?;
        eventually("the cluster runs", || cluster.stead("status")?.ok())?;
        machine.note_cgroups()?;
        eventually("the API answers", || cluster.kubectl("get nodes").ok())?;
        interrupt(machine, "stead up")?;
        // As a terminal would, this goes on showing what it says.
        while up.line("").is_ok() {}
        let (_, code) = up.end()?;
        ensure!(code == Some(0), "it ended with {code:?}");
        ensure!(cluster.stead("status")?.run()?.code == 3);
        cluster.delete()
    })
}

/// What Ctrl-C does to a program.
fn interrupt(machine: &Machine, line: &str) -> Result<()> {
    let processes = machine.processes()?;
    let process = processes.iter().find(|process| process.contains(line));
    let pid = process.and_then(|process| process.split(' ').next());
    let pid = pid.with_context(|| format!("no {line} in {processes:#?}"))?;
    machine.run(&format!("kill -INT {pid}")).ok().map(drop)
}

fn delete_asks() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::visits()?)?;
        cluster.apply(&set("web", 2, &[]))?;
        cluster.rolled_out("web")?;
        let asked = cluster.stead("delete")?.stdin("n\n").run()?;
        asked.says(&["data-web-0", "data-web-1"])?;
        ensure!(cluster.field("pvc data-web-0", "/status/phase")? == "Bound");
        Ok(())
    })
}

fn small_commands() -> Result<()> {
    on_a_cluster(|cluster| {
        let version = cluster.stead("version")?.ok()?;
        check_contains(&version, &["stead"])?;
        let server = cluster.kubectl("version -o json").ok()?;
        check_contains(&server, &["+stead."])?;
        for shell in ["bash", "zsh", "fish"] {
            let script = cluster.stead(&format!("completion {shell}"))?.ok()?;
            check_contains(&script, &["stead", "detach"])?;
        }
        ensure!(!cluster.stead("logs")?.ok()?.is_empty());
        let status = cluster.status()?;
        for field in [
            "/server/pid",
            "/server/address",
            "/server/version",
            "/node",
            "/pods",
        ] {
            ensure!(status.pointer(field).is_some(), "no {field} in {status}");
        }
        Ok(())
    })
}
