//! Changing a StatefulSet's template: rolling updates, partitions, rollback.

use anyhow::{Result, ensure};
use stead_tests::artifacts::Image;
use stead_tests::{Cluster, on_a_cluster};

use crate::manifests::set;
use crate::statefulsets::{gone_for_good, name};
use crate::{Tests, check_contains, is_ready};

pub(crate) const TESTS: Tests = &[
    ("updates: roll from the last pod to the first, and back", rolling),
    ("updates: stop at the partition", partition),
    ("updates: OnDelete waits for the pods to be deleted", on_delete),
    (
        "updates: a broken one stops at the first pod, and can be undone",
        broken,
    ),
    ("updates: a restart rolls", restart),
    (
        "updates: a revision's name is another when it is taken",
        collision,
    ),
];

fn three_replicas(cluster: &Cluster, more: &[&str]) -> Result<()> {
    cluster.load(&Image::visits()?)?;
    cluster.apply(&set("web", 3, more))?;
    cluster.wait_for("sts/web", "jsonpath={.status.readyReplicas}=3")
}

fn images(cluster: &Cluster) -> Result<String> {
    let path = "jsonpath={.items[*].spec.containers[0].image}";
    cluster
        .kubectl(&format!("get pods --sort-by=.metadata.name -o '{path}'"))
        .ok()
}

fn rolling() -> Result<()> {
    on_a_cluster(|cluster| {
        three_replicas(cluster, &[])?;
        cluster.in_pod("web-1", "echo kept >/data/kept")?;
        let mut changes = cluster.watch("pods")?;
        // It has begun when it shows the pods that are there.
        for _ in 0..3 {
            changes.next()?;
        }
        cluster.kubectl("set image sts/web visits=visits:2").ok()?;
        let mut order = Vec::new();
        let mut replaced: Option<String> = None;
        while order.len() < 3 {
            let (kind, pod) = changes.next()?;
            let name = name(&pod)?;
            match kind.as_str() {
                "DELETED" => {
                    ensure!(
                        replaced.is_none(),
                        "{name} is replaced before {replaced:?} is ready"
                    );
                    replaced = Some(name);
                }
                _ if is_ready(&pod) && replaced.as_ref() == Some(&name) => order.extend(replaced.take()),
                _ => {}
            }
        }
        ensure!(order == ["web-2", "web-1", "web-0"], "{order:?}");
        check_contains(&cluster.rolled_out("web")?, &["roll out complete"])?;
        ensure!(images(cluster)? == "visits:2 visits:2 visits:2");
        ensure!(cluster.in_pod("web-1", "cat /data/kept")? == "kept\n");
        let status = cluster.get("sts web")?["status"].take();
        ensure!(
            status["currentRevision"] == status["updateRevision"] && status["updatedReplicas"] == 3,
            "{status}"
        );

        let history = cluster.kubectl("rollout history sts/web").ok()?;
        ensure!(
            history.lines().any(|line| line.starts_with('1'))
                && history.lines().any(|line| line.starts_with('2')),
            "{history}"
        );
        let first = cluster.kubectl("rollout history sts/web --revision=1").ok()?;
        check_contains(&first, &["visits:1"])?;

        let said = cluster.kubectl("rollout undo sts/web").ok()?;
        check_contains(&said, &["rolled back"])?;
        cluster.rolled_out("web")?;
        ensure!(images(cluster)? == "visits:1 visits:1 visits:1");
        let revision = cluster.field("sts web", "/status/currentRevision")?;
        let number = cluster.field(&format!("controllerrevision {revision}"), "/revision")?;
        ensure!(number == "3", "the old revision is now number {number}");
        Ok(())
    })
}

fn partition() -> Result<()> {
    on_a_cluster(|cluster| {
        let strategy = "updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: 2}}";
        three_replicas(cluster, &[strategy])?;
        let before = cluster.uids(&["web-0", "web-1"])?;
        cluster.kubectl("set image sts/web visits=visits:2").ok()?;
        check_contains(
            &cluster.rolled_out("web")?,
            &["partitioned roll out complete: 1 new pods have been updated"],
        )?;
        ensure!(images(cluster)? == "visits:1 visits:1 visits:2");
        ensure!(cluster.uids(&["web-0", "web-1"])? == before);
        // A pod below the partition comes back as it was.
        cluster.kubectl("delete pod web-0").ok()?;
        cluster.wait_for("sts/web", "jsonpath={.status.readyReplicas}=3")?;
        ensure!(images(cluster)? == "visits:1 visits:1 visits:2");
        let patch = r#"{"spec":{"updateStrategy":{"rollingUpdate":{"partition":0}}}}"#;
        cluster.kubectl(&format!("patch sts web -p '{patch}'")).ok()?;
        cluster.rolled_out("web")?;
        ensure!(images(cluster)? == "visits:2 visits:2 visits:2");
        Ok(())
    })
}

fn on_delete() -> Result<()> {
    on_a_cluster(|cluster| {
        three_replicas(cluster, &["updateStrategy: {type: OnDelete}"])?;
        cluster.kubectl("set image sts/web visits=visits:2").ok()?;
        cluster.wait_for("sts/web", "jsonpath={.status.observedGeneration}=2")?;
        ensure!(images(cluster)? == "visits:1 visits:1 visits:1");
        cluster.kubectl("delete pod web-1").ok()?;
        cluster.wait_for("sts/web", "jsonpath={.status.updatedReplicas}=1")?;
        cluster.wait_for("sts/web", "jsonpath={.status.readyReplicas}=3")?;
        ensure!(images(cluster)? == "visits:1 visits:2 visits:1");
        Ok(())
    })
}

fn broken() -> Result<()> {
    on_a_cluster(|cluster| {
        three_replicas(cluster, &[])?;
        let before = cluster.uids(&["web-0", "web-1"])?;
        cluster.kubectl("set image sts/web visits=visits:missing").ok()?;
        cluster.wait_for("sts/web", "jsonpath={.status.updatedReplicas}=1")?;
        cluster.wait_for("pod/web-2", "condition=Ready=false")?;
        ensure!(images(cluster)? == "visits:1 visits:1 visits:missing");
        ensure!(cluster.uids(&["web-0", "web-1"])? == before);
        cluster.kubectl("rollout undo sts/web").ok()?;
        // As the documentation of Kubernetes says ("Forced rollback"): the broken pod is to be deleted by hand.
        cluster.kubectl("delete pod web-2").ok()?;
        cluster.rolled_out("web")?;
        ensure!(images(cluster)? == "visits:1 visits:1 visits:1");
        ensure!(cluster.uids(&["web-0", "web-1"])? == before);
        Ok(())
    })
}

fn restart() -> Result<()> {
    on_a_cluster(|cluster| {
        three_replicas(cluster, &[])?;
        let before = cluster.uids(&["web-0", "web-1", "web-2"])?;
        cluster.kubectl("rollout restart sts/web").ok()?;
        cluster.rolled_out("web")?;
        let after = cluster.uids(&["web-0", "web-1", "web-2"])?;
        ensure!(
            before.iter().zip(&after).all(|(old, new)| old != new),
            "{before:?} {after:?}"
        );
        Ok(())
    })
}

/// A revision's name is made of what it holds. A former set's may still be there, and so may anything else.
fn collision() -> Result<()> {
    on_a_cluster(|cluster| {
        let manifest = set("web", 0, &[]);
        let revision = |collisions: &str| {
            cluster.wait_for(
                "sts/web",
                &format!("jsonpath={{.status.collisionCount}}={collisions}"),
            )?;
            cluster.field("sts web", "/status/updateRevision")
        };
        cluster.apply(&manifest)?;
        let first = revision("0")?;
        cluster.kubectl("delete sts web").ok()?;
        cluster.apply(&manifest)?;
        ensure!(
            revision("0")? == first,
            "a new set of the same template has another revision"
        );
        cluster.kubectl("delete sts web --cascade=foreground").ok()?;
        gone_for_good(cluster, &format!("controllerrevision/{first}"))?;
        cluster.apply(&format!(
            "{{apiVersion: apps/v1, kind: ControllerRevision, metadata: {{name: {first}}}, revision: 1, data: {{}}}}"
        ))?;
        cluster.apply(&manifest)?;
        let second = revision("1")?;
        ensure!(second != first && second.starts_with("web-"), "{second}");
        Ok(())
    })
}
