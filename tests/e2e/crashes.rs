//! Processes of a cluster are killed, one or all of them: nothing is lost, nothing runs twice, nothing is left.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stead_tests::artifacts::Image;
use stead_tests::{Cluster, Machine, eventually, on_a_cluster, on_a_machine};

use crate::Tests;
use crate::footprint::Footprint;
use crate::manifests::{locking_set, pod};

pub(crate) const TESTS: Tests = &[
    (
        "crash: a container, a shim, and server and shims at once",
        containers_and_shims,
    ),
    ("crash: after a reboot the same pods come back", reboot),
    ("crash: down and delete after a crash leave nothing", ends),
    ("crash: a half-loaded image is gone", half_an_image),
    ("crash: a start that was killed is taken up by the next", starts),
];

const PODS: [&str; 3] = ["web-0", "web-1", "web-2"];

fn three_pods(cluster: &Cluster) -> Result<()> {
    cluster.load(&Image::new("tool:1"))?;
    cluster.apply(&locking_set("web", 3, &[]))?;
    cluster.rolled_out("web").map(drop)
}

/// A pod's processes, from the status: its shim, and its container's first.
fn processes(cluster: &Cluster, pod: &str) -> Result<(u64, u64)> {
    let status = cluster.status()?;
    let pods = status["pods"].as_array().context("no pods in the status")?;
    let found = pods.iter().find(|found| found["name"] == pod);
    let found = found.with_context(|| format!("no {pod} in {status}"))?;
    let pid = |pointer| found.pointer(pointer).and_then(Value::as_u64);
    let both = pid("/shimPid").zip(pid("/containers/0/pid"));
    both.with_context(|| format!("no processes of {pod} in {status}"))
}

fn kill(machine: &Machine, pids: &[u64]) -> Result<()> {
    let pids: Vec<_> = pids.iter().map(u64::to_string).collect();
    machine
        .run(&format!("kill -KILL {}", pids.join(" ")))
        .ok()
        .map(drop)
}

/// Waits until a pod's container has been restarted so often, and runs; checks that as many have started.
fn restarted(cluster: &Cluster, pod: &str, times: usize) -> Result<()> {
    cluster.wait_for(
        &format!("pod/{pod}"),
        &format!("jsonpath={{.status.containerStatuses[0].restartCount}}={times}"),
    )?;
    cluster.wait_for(&format!("pod/{pod}"), "condition=Ready")?;
    let mut status = cluster.get(&format!("pod {pod}"))?["status"]["containerStatuses"][0].take();
    let exit = status["lastState"]["terminated"].take();
    // 3 would be that the one before still ran.
    ensure!(exit["exitCode"] == 137, "{pod} ended with {exit}");
    eventually("as many have started", || {
        let starts = cluster.in_pod(pod, "cat /data/starts")?;
        ensure!(starts.lines().count() == times + 1, "{pod} started {starts:?}");
        Ok(())
    })
}

fn containers_and_shims() -> Result<()> {
    on_a_cluster(|cluster| {
        let machine = cluster.machine;
        let before = Footprint::of(cluster)?;
        three_pods(cluster)?;
        let uids = cluster.uids(&PODS)?;
        let untouched = processes(cluster, "web-0")?;
        kill(machine, &[processes(cluster, "web-1")?.1])?;
        kill(machine, &[processes(cluster, "web-2")?.0])?;
        for pod in ["web-1", "web-2"] {
            restarted(cluster, pod, 1)?;
        }
        ensure!(processes(cluster, "web-0")? == untouched, "web-0 was disturbed");

        let mut all = vec![cluster.server_pid()?];
        for pod in PODS {
            all.push(processes(cluster, pod)?.0);
        }
        kill(machine, &all)?;
        cluster.up()?;
        for (pod, times) in [("web-0", 1), ("web-1", 2), ("web-2", 2)] {
            restarted(cluster, pod, times)?;
        }
        // A shim that dies just before, or while, the next server looks for it.
        let shim = processes(cluster, "web-0")?.0;
        kill(machine, &[cluster.server_pid()?])?;
        std::thread::scope(|scope| {
            let up = scope.spawn(|| cluster.up());
            let killed = kill(machine, &[shim]);
            up.join().expect("it does not panic")?;
            killed
        })?;
        restarted(cluster, "web-0", 2)?;
        ensure!(cluster.uids(&PODS)? == uids, "the pods were replaced");

        cluster.kubectl("delete sts,pvc --all").ok()?;
        before.returns(cluster)
    })
}

fn reboot() -> Result<()> {
    let disk = tempfile::Builder::new().prefix("stead-disk-").tempdir()?;
    let uids = {
        let machine = Machine::new()?;
        let cluster = Cluster::on_disk(&machine, disk.path())?;
        cluster.up()?;
        three_pods(&cluster)?;
        cluster.apply(&pod("lone", "exec sleep 1000000", &[]))?;
        cluster.wait_for("pod/lone", "condition=Ready")?;
        for pod in PODS {
            cluster.in_pod(pod, "hostname >/data/name; sync")?;
        }
        machine.note_cgroups()?;
        cluster.uids(&[PODS[0], PODS[1], PODS[2], "lone"])?
        // Here the power is cut: processes, mounts, links, rules and `/run` are gone, all at once.
    };
    on_a_machine(|machine| {
        let cluster = Cluster::on_disk(machine, disk.path())?;
        cluster.up()?;
        for pod in PODS {
            restarted(&cluster, pod, 1)?;
            ensure!(cluster.in_pod(pod, "cat /data/name")? == format!("{pod}\n"));
        }
        cluster.wait_for("pod/lone", "condition=Ready")?;
        ensure!(cluster.uids(&[PODS[0], PODS[1], PODS[2], "lone"])? == uids);
        let ready = cluster.field("sts web", "/status/readyReplicas")?;
        ensure!(ready == "3", "{ready} are ready");
        cluster.delete()?;
        ensure!(!cluster.data_dir().exists(), "data is left");
        Ok(())
    })
}

fn ends() -> Result<()> {
    on_a_machine(|machine| {
        let cluster = Cluster::new(machine, "data")?;
        cluster.up()?;
        cluster.down()?;
        let down = Footprint::in_the_kernel(&cluster)?;
        for (round, (server, shims)) in [(true, false), (false, true), (true, true)].iter().enumerate() {
            cluster.up()?;
            if round == 0 {
                three_pods(&cluster)?;
            }
            for pod in PODS {
                cluster.wait_for(&format!("pod/{pod}"), "condition=Ready")?;
            }
            crash(&cluster, *server, *shims)?;
            cluster.down()?;
            // What is kept of containers changes; what they have in the kernel must be gone.
            down.returns(&cluster)?;
        }
        for (server, shims) in [(true, false), (true, true)] {
            cluster.up()?;
            three_pods(&cluster)?;
            crash(&cluster, server, shims)?;
            cluster.delete()?;
            machine.check_nothing_is_left()?;
        }
        Ok(())
    })
}

/// Kills the server or all shims, or both.
fn crash(cluster: &Cluster, server: bool, shims: bool) -> Result<()> {
    let mut pids = Vec::new();
    if server {
        pids.push(cluster.server_pid()?);
    }
    if shims {
        for pod in PODS {
            pids.push(processes(cluster, pod)?.0);
        }
    }
    cluster.machine.note_cgroups()?;
    kill(cluster.machine, &pids)
}

fn half_an_image() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::new("other:1"))?;
        let before = Footprint::of_parts(cluster, &["images"])?;
        let bytes = fs::read(Image::new("tool:1").file()?)?;
        let mut load = cluster.stead("image load -")?.start()?;
        load.write_bytes(&bytes[..bytes.len() / 2])?;
        eventually("the server has begun", || {
            let images = Footprint::of_parts(cluster, &["images"])?;
            ensure!(images.has_more_files_than(&before), "nothing has changed");
            Ok(())
        })?;
        cluster.kill_server()?;
        let (said, code) = load.end()?;
        ensure!(
            code == Some(1) && !said.is_empty(),
            "it ended with {code:?}: {said:?}"
        );
        cluster.up()?;
        before.returns(cluster)?;
        cluster.load(&Image::new("tool:1"))?;
        cluster.apply(&pod("lone", "exec sleep 1000000", &[]))?;
        cluster.wait_for("pod/lone", "condition=Ready")
    })
}

fn starts() -> Result<()> {
    on_a_machine(|machine| {
        let cluster = Cluster::new(machine, "data")?;
        let config = cluster.kubeconfig().display().to_string();
        for round in 0..12 {
            let up = cluster
                .stead(&format!("up --detach --kubeconfig {config}"))?
                .start()?;
            // From before the data directory is made until after the node is Ready.
            std::thread::sleep(Duration::from_millis(15 + round * 25));
            let mut pids: Vec<u64> = Vec::new();
            for process in machine.processes()? {
                if process.contains("stead") {
                    pids.extend(process.split(' ').next().and_then(|pid| pid.parse::<u64>().ok()));
                }
            }
            // Some may have ended meanwhile.
            let _ = kill(machine, &pids);
            up.end()?;
            match round % 3 {
                0 => cluster.delete()?,
                1 => cluster.up().map(drop)?,
                _ => cluster.down()?,
            }
        }
        cluster.up()?;
        cluster.kubectl("get nodes").ok()?;
        cluster.delete()
    })
}
