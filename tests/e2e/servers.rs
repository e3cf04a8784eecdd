//! One server after another: under a service manager, from another build, one that hangs.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stead_tests::artifacts::{self, Image};
use stead_tests::{Cluster, Machine, Stream, eventually, on_a_cluster, on_a_machine};

use crate::footprint::Footprint;
use crate::manifests::{locking_set, pod};
use crate::{Tests, check_contains};

pub(crate) const TESTS: Tests = &[
    ("servers: a service's restart leaves the pods alone", service),
    ("servers: the next build takes the pods over", next_build),
    ("servers: one that hangs is told of, and can be replaced", hangs),
    (
        "servers: one that cannot be reached keeps its data directory",
        unreachable,
    ),
];

/// The unit that the project comes with.
const UNIT: &str = include_str!("../../contrib/systemd/stead.service");

fn two_pods(cluster: &Cluster) -> Result<()> {
    cluster.load(&Image::new("tool:1"))?;
    cluster.apply(&locking_set("web", 2, &[]))?;
    cluster.rolled_out("web").map(drop)
}

/// The processes of each pod, and how often its container has started.
fn pods(cluster: &Cluster) -> Result<BTreeMap<String, (String, String)>> {
    let status = cluster.status()?;
    let mut found = BTreeMap::new();
    for pod in status["pods"].as_array().context("no pods in the status")? {
        let name = pod["name"].as_str().context("no name")?;
        let pids = format!("{} {}", pod["shimPid"], pod["containers"][0]["pid"]);
        let starts = cluster.in_pod(name, "cat /data/starts")?;
        found.insert(name.to_owned(), (pids, starts));
    }
    ensure!(found.len() == 2, "{status}");
    Ok(found)
}

/// A setting of the unit.
fn setting(name: &str) -> Result<&'static str> {
    let line = UNIT
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    line.with_context(|| format!("no {name} in the unit"))
}

/// What a service manager does with the unit: runs its command, and signals that process only.
struct Service<'c> {
    cluster: &'c Cluster<'c>,
    main: Stream,
}

impl<'c> Service<'c> {
    fn start(cluster: &'c Cluster) -> Result<Self> {
        let command = setting("ExecStart")?;
        let arguments = command
            .strip_prefix("/usr/local/bin/stead ")
            .with_context(|| format!("{command:?} runs something else"))?;
        let config = cluster.kubeconfig().display().to_string();
        let arguments = arguments.replace("/root/.kube/config", &config);
        ensure!(
            arguments.contains(&config),
            "{command:?} does not say which kubeconfig"
        );
        let mut main = cluster.stead(&arguments)?.start()?;
        main.line("Press Ctrl-C")?;
        cluster.machine.note_cgroups()?;
        Ok(Self { cluster, main })
    }

    /// Ends it with a signal; how it ended.
    fn stop(self, signal: &str) -> Result<Option<i32>> {
        let pid = self.cluster.server_pid()?;
        self.cluster.machine.run(&format!("kill -{signal} {pid}")).ok()?;
        Ok(self.main.end()?.1)
    }
}

fn service() -> Result<()> {
    ensure!(setting("KillMode")? == "process" && setting("Delegate")? == "yes");
    ensure!(setting("Restart")? == "on-failure");
    on_a_machine(|machine| {
        let cluster = Cluster::new(machine, "data")?;
        let mut service = Service::start(&cluster)?;
        two_pods(&cluster)?;
        let before = pods(&cluster)?;
        for signal in ["TERM", "KILL", "TERM"] {
            let code = service.stop(signal)?;
            ensure!(
                (code == Some(0)) == (signal == "TERM"),
                "SIG{signal}: it ended with {code:?}"
            );
            service = Service::start(&cluster)?;
            ensure!(pods(&cluster)? == before, "SIG{signal} disturbed the pods");
        }
        // While it is stopped, pods go on, and the next one hears of one that has ended.
        service.stop("TERM")?;
        let pid = before["web-1"].0.split(' ').nth(1).context("no pid")?;
        machine.run(&format!("kill -KILL {pid}")).ok()?;
        service = Service::start(&cluster)?;
        cluster.wait_for(
            "pod/web-1",
            "jsonpath={.status.containerStatuses[0].restartCount}=1",
        )?;
        ensure!(pods(&cluster)?["web-0"] == before["web-0"]);
        // `down` ends the service well, so that the manager does not bring it back.
        cluster.down()?;
        let (_, code) = service.main.end()?;
        ensure!(code == Some(0), "after `down` it ended with {code:?}");
        ensure!(shims(machine)? == 0, "there are shims after `down`");
        let service = Service::start(&cluster)?;
        cluster.wait_for("pod/web-0", "condition=Ready")?;
        service.stop("TERM")?;
        ensure!(shims(machine)? == 2, "there are no pods after the service's end");
        cluster.delete()
    })
}

fn shims(machine: &Machine) -> Result<usize> {
    let processes = machine.processes()?;
    let shims = processes.iter().filter(|process| process.contains(" shim "));
    Ok(shims.count())
}

fn next_build() -> Result<()> {
    on_a_machine(|machine| {
        // A program that is removed when the next one is there, as a package manager does.
        let (old, new) = (machine.dir().join("stead-1"), machine.dir().join("stead-2"));
        fs::copy(artifacts::stead()?, &old)?;
        fs::copy(artifacts::stead()?, &new)?;
        fs::OpenOptions::new()
            .append(true)
            .open(&new)?
            .write_all(b"another build")?;
        let first = Cluster::new(machine, "data")?.with_stead(&old);
        first.up()?;
        let nothing = Footprint::of(&first)?;
        two_pods(&first)?;
        let before = pods(&first)?;
        let second = first.with_stead(&new);
        for (signal, cluster) in [("TERM", &second), ("KILL", &first.with_stead(&new))] {
            let pid = first.with_stead(&new).server_pid()?;
            machine.run(&format!("kill -{signal} {pid}")).ok()?;
            eventually("the server is gone", || {
                let gone = format!("{pid} ");
                ensure!(
                    !machine
                        .processes()?
                        .iter()
                        .any(|process| process.starts_with(&gone))
                );
                Ok(())
            })?;
            let _ = fs::remove_file(&old);
            cluster.up()?;
            ensure!(pods(cluster)? == before, "the pods were disturbed");
        }
        // All that a server does with shims, and one pod beside them that it has made itself.
        second.apply(&pod("new", "echo hello; exec sleep 1000000", &[]))?;
        second.wait_for("pod/new", "condition=Ready")?;
        check_contains(&second.kubectl("logs new").ok()?, &["hello"])?;
        ensure!(second.in_pod("web-0", "hostname")? == "web-0\n");
        for pod in ["web-0", "web-1"] {
            let main = before[pod].0.split(' ').nth(1).context("no pid")?;
            machine.run(&format!("kill -KILL {main}")).ok()?;
        }
        for pod in ["web-0", "web-1"] {
            second.wait_for(
                &format!("pod/{pod}"),
                "jsonpath={.status.containerStatuses[0].restartCount}=1",
            )?;
            second.wait_for(&format!("pod/{pod}"), "condition=Ready")?;
        }
        second.kubectl("delete sts,pod,pvc --all").ok()?;
        nothing.returns(&second)?;
        second.delete()?;
        fs::remove_file(new)?;
        Ok(())
    })
}

fn hangs() -> Result<()> {
    on_a_cluster(|cluster| {
        two_pods(cluster)?;
        let before = pods(cluster)?;
        let pid = cluster.server_pid()?;
        cluster.machine.run(&format!("kill -STOP {pid}")).ok()?;
        let begin = Instant::now();
        let said = cluster.stead("status")?.fails()?;
        let cure = format!("kill -KILL {pid}");
        said.says(&["does not answer", "server.log", &cure])?;
        ensure!(
            begin.elapsed() < Duration::from_secs(30),
            "it took {:?}",
            begin.elapsed()
        );
        cluster.machine.run(&cure).ok()?;
        cluster.up()?;
        ensure!(pods(cluster)? == before, "the pods were disturbed");
        Ok(())
    })
}

fn unreachable() -> Result<()> {
    on_a_cluster(|cluster| {
        two_pods(cluster)?;
        let before = pods(cluster)?;
        let pid = cluster.server_pid()?;
        cluster
            .machine
            .run("find /run/stead -name control.sock -delete")
            .ok()?;
        let config = cluster.kubeconfig().display();
        let refused = cluster
            .stead(&format!("up --detach --kubeconfig {config}"))?
            .fails()?;
        let data = cluster.data_dir().display().to_string();
        refused.says(&[&data, "in use by another stead", "server.log"])?;
        // It goes on meanwhile.
        ensure!(cluster.in_pod("web-0", "cat /data/starts")? == "start\n");
        cluster.machine.run(&format!("kill -KILL {pid}")).ok()?;
        cluster.up()?;
        ensure!(pods(cluster)? == before, "the pods were disturbed");
        Ok(())
    })
}
