//! The whole way of the example, as a user goes it.

use anyhow::{Context, Result, ensure};
use stead_tests::artifacts::{self, Image};
use stead_tests::kubectl::{self, Kubectl};
use stead_tests::{Cluster, eventually, on_a_cluster, on_a_machine};

use crate::manifests::VISITS;
use crate::{Tests, check_contains};

pub(crate) const TESTS: Tests = &[
    ("walk: with the oldest kubectl", || walk(kubectl::oldest()?)),
    ("walk: with the newest kubectl", || walk(kubectl::newest()?)),
    ("walk: the demo runs, twice, and leaves nothing", demo),
];

const PODS: [&str; 3] = ["visits-0", "visits-1", "visits-2"];

fn walk(kubectl: Kubectl) -> Result<()> {
    on_a_cluster(|cluster| {
        let cluster = &cluster.with_kubectl(kubectl);
        cluster.load(&Image::visits()?)?;
        let images = cluster.stead("image ls --output json")?.ok()?;
        check_contains(
            &images,
            &["docker.io/library/visits:1", "docker.io/library/visits:2"],
        )?;

        let said = cluster.apply(VISITS)?;
        check_contains(
            &said,
            &[
                "service/visits-headless created",
                "service/visits created",
                "statefulset.apps/visits created",
            ],
        )?;
        check_contains(&cluster.rolled_out("visits")?, &["3 new pods"])?;
        visit_the_service(cluster, 6)?;
        check_tables(cluster)?;

        // Each pod counts alone, on its own disk: a different number of visits to each.
        for (pod, visits) in PODS.into_iter().zip([10, 20, 30]) {
            let url = format!("http://{pod}.visits-headless:8080/");
            cluster.in_pod(
                "visits-0",
                &format!("for i in $(seq {visits}); do wget -qO- {url}; done"),
            )?;
        }
        let counts = counts(cluster)?;
        let [a, b, c] = counts;
        ensure!(a >= 10 && a < b && b < c && a + b + c == 66, "{counts:?}");

        let said = cluster.kubectl("delete sts visits").ok()?;
        check_contains(&said, &["\"visits\" deleted"])?;
        for pod in PODS {
            gone(cluster, pod)?;
        }
        check_contains(
            &cluster.kubectl("get pvc").ok()?,
            &["data-visits-0", "data-visits-1", "data-visits-2"],
        )?;

        let said = cluster.apply(VISITS)?;
        check_contains(
            &said,
            &["service/visits unchanged", "statefulset.apps/visits created"],
        )?;
        cluster.rolled_out("visits")?;
        ensure!(self::counts(cluster)? == counts, "the counts did not go on");
        visit_the_service(cluster, 1)?;
        let total: u64 = self::counts(cluster)?.iter().sum();
        ensure!(total == 67, "{total} visits");
        Ok(())
    })
}

/// Through the node port, on the loopback address.
fn visit_the_service(cluster: &Cluster, times: u32) -> Result<()> {
    let port = cluster.field("svc visits", "/spec/ports/0/nodePort")?;
    for _ in 0..times {
        // The pods were just now ready; the service follows them at once, but not before.
        let said = eventually("the service answers", || {
            cluster.curl(&format!("http://127.0.0.1:{port}/"))
        })?;
        check_contains(&said, &["visits-", ": ", " visit"])?;
    }
    Ok(())
}

fn check_tables(cluster: &Cluster) -> Result<()> {
    let table = cluster.kubectl("get po,sts,svc,pvc").ok()?;
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let row = |name: &str| {
        let row = rows.iter().find(|row| row.first() == Some(&name));
        row.with_context(|| format!("no {name} in:\n{table}"))
    };
    for pod in PODS {
        ensure!(
            row(&format!("pod/{pod}"))?[1..4] == ["1/1", "Running", "0"],
            "{table}"
        );
        let claim = row(&format!("persistentvolumeclaim/data-{pod}"))?;
        ensure!(
            claim[1] == "Bound" && claim[3..6] == ["10Mi", "RWO", "standard"],
            "{table}"
        );
    }
    ensure!(row("statefulset.apps/visits")?[1] == "3/3", "{table}");
    ensure!(row("service/visits")?[1] == "NodePort", "{table}");
    ensure!(row("service/visits-headless")?[2] == "None", "{table}");
    Ok(())
}

/// How many visits each pod has on its disk.
fn counts(cluster: &Cluster) -> Result<[u64; 3]> {
    let mut counts = [0; 3];
    for (pod, count) in PODS.iter().zip(&mut counts) {
        let text = cluster
            .kubectl(&format!("exec pod/{pod} -- cat /data/visits"))
            .ok()?;
        *count = text.lines().count() as u64;
    }
    Ok(counts)
}

/// Waits until a pod is gone. `kubectl wait --for=delete` says so in one way or another if it already is.
pub(crate) fn gone(cluster: &Cluster, pod: &str) -> Result<()> {
    let outcome = cluster
        .kubectl(&format!("wait --for=delete pod/{pod} --timeout=60s"))
        .run()?;
    ensure!(
        outcome.code == 0 || outcome.stderr.contains("NotFound"),
        "{outcome}"
    );
    Ok(())
}

/// `make demo` is building, and this script. The machine has a `/var/lib` of its own.
fn demo() -> Result<()> {
    on_a_machine(|machine| {
        machine.own_default_cluster()?;
        let demo = artifacts::root()
            .join("examples/visits/demo.sh")
            .display()
            .to_string();
        let stead = artifacts::stead()?.display().to_string();
        let image = Image::visits()?.file()?.display().to_string();
        let kubectl = kubectl::newest()?.path().display().to_string();
        for _ in 0..2 {
            let said = machine
                .run(&demo)
                .env("STEAD", &stead)
                .env("KUBECTL", &kubectl)
                .env("IMAGE", &image)
                .limit(stead_tests::PATIENCE * 3)
                .ok()?;
            check_contains(&said, &["visits-0", "data-visits-2", "make clean-demo"])?;
            machine.note_cgroups()?;
        }
        machine.run(&format!("{stead} delete --yes")).ok()?;
        Ok(())
    })
}
