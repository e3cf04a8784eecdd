//! The tests that kube-rs's crates have in themselves, for whoever has a cluster.

use anyhow::{Result, ensure};

use crate::{folder, number_after, on_a_cluster_with_busybox, run, tell};

/// The crates, each with those of its tests that are of no use here.
const CRATES: [(&str, &[&str]); 3] = [
    (
        "kube",
        // Custom resources are not served.
        &["test::derived_resource_queryable_and_has_subresources"],
    ),
    (
        "kube-client",
        &[
            // Nor requests of certificates, servers behind the server, and containers that join a pod.
            "test::csr_can_be_approved",
            "test::group_discovery_oneshot",
            "test::can_operate_on_ephemeral_containers",
        ],
    ),
    (
        "kube-runtime",
        // Nor is the state of components, which is deprecated.
        &["events::test::event_recorder_attaches_events_without_namespace"],
    ),
];

pub(crate) fn check() -> Result<()> {
    on_a_cluster_with_busybox(|cluster| {
        for (name, left_out) in CRATES {
            let program = folder("kube-rs")?.join(format!("{name}.tests"));
            let program = program.display();
            let known = run(cluster, &format!("{program} --list --ignored"), &[])?.stdout;
            for test in left_out {
                ensure!(known.contains(&format!("{test}: test")), "{name} has no {test}");
            }
            let skip: String = left_out.iter().map(|test| format!(" --skip {test}")).collect();
            // They list what others make and delete: one after the other.
            let line = format!("{program} --ignored --exact --test-threads 1{skip}");
            let outcome = run(cluster, &line, &[])?;
            tell(
                &format!("kube-rs, {name}"),
                number_after(&outcome.stdout, "test result: ok. ")?,
            )?;
        }
        Ok(())
    })
}
