//! Many clients that do not read what they asked for.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stead_tests::artifacts::Image;
use stead_tests::{Cluster, Stream, on_a_cluster};

use crate::Tests;
use crate::manifests::pod;

pub(crate) const TESTS: Tests = &[("faults: 50 slow clients stop nobody", slow_clients)];

/// Of each kind.
const CLIENTS: usize = 25;
/// A change, and how many there are: more than what a connection takes on its way, with these buffers.
const CHANGE_BYTES: usize = 250_000;
const CHANGES: usize = 8;
const SMALL_BUFFERS: &str =
    "for each in tcp_rmem tcp_wmem; do echo 4096 16384 131072 >/proc/sys/net/ipv4/$each; done";

/// Starts clients, `$1` of them, that ask for `$2` and never read the answer, and ends them with its input.
const CLIENTS_SCRIPT: &str = r#"
i=0
while [ $i -lt "$1" ]; do
    curl --silent --no-buffer --cacert ca --cert cert --key key "$2" | sleep 1000 &
    i=$((i + 1))
done
echo asked
cat >/dev/null
trap "" TERM
kill 0
wait
"#;

fn slow_clients() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.machine.run("sh -s").stdin(SMALL_BUFFERS).ok()?;
        cluster.load(&Image::new("tool:1"))?;
        let chatter = format!("while true; do echo {}; done", "x".repeat(1000));
        cluster.apply(&pod("chatty", &chatter, &[]))?;
        cluster.wait_for("pod/chatty", "condition=Ready")?;
        let dir = credentials(cluster)?;
        let asked = [
            "api/v1/namespaces/default/configmaps?watch=true",
            "api/v1/namespaces/default/pods/chatty/log?follow=true",
        ];
        let mut clients = asked
            .iter()
            .map(|path| clients(cluster, path))
            .collect::<Result<Vec<_>>>()?;
        for group in &mut clients {
            group.line("asked")?;
        }

        let mut changes = cluster.watch("configmaps")?;
        let begin = Instant::now();
        for number in 0..CHANGES {
            let value = number.to_string().repeat(CHANGE_BYTES / number.to_string().len());
            cluster.apply(&format!(
                "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: big, labels: {{number: '{number}'}}}}, \
                 data: {{value: '{value}'}}}}"
            ))?;
            let wanted = number.to_string();
            while changes.next()?.1["metadata"]["labels"]["number"] != wanted {}
        }
        let took = begin.elapsed();
        ensure!(took < Duration::from_secs(30), "{CHANGES} changes took {took:?}");
        let last = cluster.kubectl("logs chatty --tail=2").ok()?;
        ensure!(last.lines().count() == 2, "{} lines", last.lines().count());
        cluster.apply(&pod("other", "exec sleep 1000000", &[]))?;
        cluster.wait_for("pod/other", "condition=Ready")?;
        let memory = resident(cluster)?;
        ensure!(memory < 300 << 20, "the server has {} MiB", memory >> 20);
        for mut group in clients {
            group.close();
            group.end()?;
        }
        fs::remove_dir_all(dir)?;
        Ok(())
    })
}

/// Puts the administrator's certificate and key where curl reads them.
fn credentials(cluster: &Cluster) -> Result<std::path::PathBuf> {
    let dir = cluster.machine.dir().join("credentials");
    fs::create_dir(&dir)?;
    for (name, field) in [
        ("ca", "clusters[0].cluster.certificate-authority-data"),
        ("cert", "users[0].user.client-certificate-data"),
        ("key", "users[0].user.client-key-data"),
    ] {
        let view = format!("config view --raw --minify -o 'jsonpath={{.{field}}}'");
        let text = cluster.kubectl(&view).ok()?;
        let decoded = cluster.machine.client("base64 -d").stdin(text).ok()?;
        fs::write(dir.join(name), decoded)?;
    }
    Ok(dir)
}

fn clients(cluster: &Cluster, path: &str) -> Result<Stream> {
    let server = cluster
        .kubectl("config view --minify -o 'jsonpath={.clusters[0].cluster.server}'")
        .ok()?;
    let dir = cluster.machine.dir().join("credentials");
    let script = format!("cd {}\n{CLIENTS_SCRIPT}", dir.display());
    // A session of its own, all of which is ended at once.
    cluster
        .machine
        .run(&format!("setsid sh -c '{script}' sh {CLIENTS} {server}/{path}"))
        .start()
}

/// The bytes of memory that the server has.
fn resident(cluster: &Cluster) -> Result<u64> {
    let path = cluster
        .machine
        .root()
        .join(format!("proc/{}/status", cluster.server_pid()?));
    let status = fs::read_to_string(path)?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: u64 = kib.context("no VmRSS")?.trim().parse()?;
    Ok(kib << 10)
}
