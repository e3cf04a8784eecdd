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
        "updates: a broken one stops at the first pod, says why, and heals when it is undone",
        broken,
    ),
    (
        "updates: a broken one waits for a person if the set says so",
        broken_waits,
    ),
    (
        "updates: a first template that never worked heals when it is put right",
        broken_from_the_start,
    ),
    (
        "updates: Recreate makes new pods when all old ones are gone",
        recreate,
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

/// Three replicas of which the last got stuck in an update.
fn stuck(cluster: &Cluster, more: &[&str]) -> Result<Vec<String>> {
    three_replicas(cluster, more)?;
    let before = cluster.uids(&["web-0", "web-1"])?;
    cluster.wait_for("sts/web", "condition=Available")?;
    cluster.kubectl("set image sts/web visits=visits:missing").ok()?;
    cluster.wait_for("sts/web", "condition=Stuck")?;
    let status = cluster.get("sts web")?["status"].take();
    let condition = |kind: &str| {
        let conditions = status["conditions"].as_array().into_iter().flatten();
        let mut found = conditions.filter(|condition| condition["type"] == kind);
        found.next().map(ToString::to_string).unwrap_or_default()
    };
    check_contains(
        &condition("Stuck"),
        &[
            "ImageMissing",
            "pod web-2: container visits has no image visits:missing",
        ],
    )?;
    check_contains(
        &condition("Available"),
        &["False", "2 of 3 replicas are available"],
    )?;
    check_contains(&condition("Progressing"), &["False"])?;
    check_contains(
        &cluster.kubectl("describe sts web").ok()?,
        &["Stuck", "pod web-2: container visits has no image"],
    )?;
    ensure!(images(cluster)? == "visits:1 visits:1 visits:missing");
    ensure!(cluster.uids(&["web-0", "web-1"])? == before);
    Ok(before)
}

fn broken() -> Result<()> {
    on_a_cluster(|cluster| {
        let before = stuck(cluster, &[])?;
        cluster.kubectl("rollout undo sts/web").ok()?;
        cluster.rolled_out("web")?;
        ensure!(images(cluster)? == "visits:1 visits:1 visits:1");
        ensure!(cluster.uids(&["web-0", "web-1"])? == before);
        cluster.wait_for("sts/web", "condition=Available")?;
        cluster.wait_for("sts/web", "condition=Stuck=false")
    })
}

/// As the documentation of Kubernetes says ("Forced rollback"): the broken pod is to be deleted by hand.
fn broken_waits() -> Result<()> {
    on_a_cluster(|cluster| {
        let before = stuck(cluster, &[])?;
        let broken = cluster.uids(&["web-2"])?;
        cluster
            .kubectl("annotate sts web stead.dev/broken-rollout=wait")
            .ok()?;
        cluster.kubectl("rollout undo sts/web").ok()?;
        cluster.wait_for("sts/web", "jsonpath={.status.observedGeneration}=3")?;
        cluster.wait_for("sts/web", "condition=Stuck")?;
        ensure!(cluster.uids(&["web-2"])? == broken);
        cluster.kubectl("delete pod web-2").ok()?;
        cluster.rolled_out("web")?;
        ensure!(images(cluster)? == "visits:1 visits:1 visits:1");
        ensure!(cluster.uids(&["web-0", "web-1"])? == before);
        Ok(())
    })
}

fn broken_from_the_start() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::visits()?)?;
        cluster.apply(&set("web", 2, &[]).replace("visits:1", "visits:missing"))?;
        cluster.wait_for("sts/web", "condition=Stuck")?;
        cluster.kubectl("set image sts/web visits=visits:1").ok()?;
        cluster.rolled_out("web")?;
        ensure!(images(cluster)? == "visits:1 visits:1");
        Ok(())
    })
}

fn recreate() -> Result<()> {
    on_a_cluster(|cluster| {
        three_replicas(cluster, &["updateStrategy: {type: Recreate}"])?;
        cluster.in_pod("web-1", "echo kept >/data/kept")?;
        let mut changes = cluster.watch("pods")?;
        // It has begun when it shows the pods that are there.
        for _ in 0..3 {
            changes.next()?;
        }
        cluster.kubectl("set image sts/web visits=visits:2").ok()?;
        let (mut gone, mut made) = (0, Vec::new());
        while made.len() < 3 {
            let (kind, pod) = changes.next()?;
            match kind.as_str() {
                "DELETED" => gone += 1,
                "ADDED" => {
                    ensure!(gone == 3, "{} is made when {gone} are gone", name(&pod)?);
                    made.push(name(&pod)?);
                }
                _ => {}
            }
        }
        ensure!(made == ["web-0", "web-1", "web-2"], "{made:?}");
        cluster.wait_for("sts/web", "condition=Available")?;
        ensure!(images(cluster)? == "visits:2 visits:2 visits:2");
        ensure!(cluster.in_pod("web-1", "cat /data/kept")? == "kept\n");
        let status = cluster.get("sts web")?["status"].take();
        ensure!(status["currentRevision"] == status["updateRevision"], "{status}");
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
