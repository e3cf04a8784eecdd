//! Jobs, through the oldest and the newest `kubectl` at hand, as Helm's hooks use them, and through a crash.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stead_tests::artifacts::Image;
use stead_tests::{Cluster, eventually, kubectl, on_a_cluster};

use crate::site::two_tools;
use crate::{Tests, follow};

pub(crate) const TESTS: Tests = &[
    ("jobs: run, fail, wait, and go when their time is up", by_hand),
    ("jobs: a hook is made anew for each release", hooks),
    ("jobs: each index has its number and its name", indexes),
    ("jobs: each pod counts once though the server is killed", crash),
    ("jobs: made on a schedule, and by hand from it", on_schedule),
];

/// A command, and what it says when it has done it; after `!`, what it says when it fails.
const COMMANDS: &[(&str, &[&str])] = &[
    ("create job hello --image=tool:1 -- echo good day", &["created"]),
    (
        "wait --for=condition=complete job/hello --timeout=60s",
        &["condition met"],
    ),
    ("logs job/hello", &["good day"]),
    (
        "get job hello -o wide",
        &[
            "STATUS",
            "Complete",
            "1/1",
            "DURATION",
            "hello",
            "tool:1",
            "controller-uid=",
        ],
    ),
    (
        "get pods -l job-name=hello -o jsonpath={.items[*].status.phase}",
        &["Succeeded"],
    ),
    (
        "describe job hello",
        &[
            "0 Active (0 Ready) / 1 Succeeded / 0 Failed",
            "SuccessfulCreate",
            "Completed",
            "Job completed",
        ],
    ),
    ("get jobs --field-selector=status.successful=1", &["hello"]),
    (
        "patch job hello -p '{\"spec\":{\"completions\":2}}'",
        &["!", "spec.completions: Invalid value: 2: field is immutable"],
    ),
    ("create job bad --image=tool:1 -- false", &["created"]),
    ("patch job bad -p '{\"spec\":{\"backoffLimit\":0}}'", &["patched"]),
    (
        "wait --for=condition=failed job/bad --timeout=60s",
        &["condition met"],
    ),
    ("get job bad", &["Failed", "0/1"]),
    ("describe job bad", &["BackoffLimitExceeded"]),
    (
        "create job long --image=tool:1 -- sh -c 'trap \"exit 0\" TERM; sleep 1000000 & wait'",
        &["created"],
    ),
    (
        "wait --for=jsonpath={.status.ready}=1 job/long --timeout=60s",
        &["condition met"],
    ),
    ("patch job long -p '{\"spec\":{\"suspend\":true}}'", &["patched"]),
    (
        "wait --for=condition=suspended job/long --timeout=60s",
        &["condition met"],
    ),
    ("get job long", &["Suspended"]),
    ("patch job long -p '{\"spec\":{\"suspend\":false}}'", &["patched"]),
    (
        "wait --for=jsonpath={.status.ready}=1 job/long --timeout=60s",
        &["condition met"],
    ),
    (
        "patch job long -p '{\"spec\":{\"activeDeadlineSeconds\":1}}'",
        &["patched"],
    ),
    (
        "wait --for=condition=failed job/long --timeout=60s",
        &["condition met"],
    ),
    (
        "describe job long",
        &["DeadlineExceeded", "0 Active (0 Ready) / 0 Succeeded / 1 Failed"],
    ),
    ("delete job long bad", &["deleted"]),
    (
        "patch job hello -p '{\"spec\":{\"ttlSecondsAfterFinished\":0}}'",
        &["patched"],
    ),
];

fn by_hand() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&two_tools())?;
        for kubectl in [kubectl::oldest()?, kubectl::newest()?] {
            let cluster = &cluster.with_kubectl(kubectl);
            follow(cluster, COMMANDS)?;
            eventually("all goes with the jobs", || {
                let left = cluster.kubectl("get pods,jobs -o name").ok()?;
                ensure!(left.is_empty(), "{left}");
                Ok(())
            })?;
        }
        Ok(())
    })
}

/// A Job of these fields.
fn job(name: &str, spec: &str, command: &str) -> String {
    format!(
        "{{apiVersion: batch/v1, kind: Job, metadata: {{name: {name}}}, spec: {{{spec} template: {{spec: {{\
         restartPolicy: Never, terminationGracePeriodSeconds: 1, \
         containers: [{{name: main, image: 'tool:1', command: [sh, -c, '{command}']}}]}}}}}}}}"
    )
}

fn complete(cluster: &Cluster, name: &str) -> Result<Value> {
    cluster.wait_for(&format!("job/{name}"), "condition=complete")?;
    Ok(cluster.get(&format!("job {name}"))?["status"].take())
}

/// As Helm does with a hook that is deleted before it is made again: it makes it, waits until it is complete, and
/// goes on; for the next release it deletes it, waits until it is gone, and makes it again.
fn hooks() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::new("tool:1"))?;
        for release in ["one", "two"] {
            cluster
                .kubectl("delete job migrate --ignore-not-found --cascade=background --wait")
                .ok()?;
            cluster.apply(&job("migrate", "backoffLimit: 0,", &format!("echo {release}")))?;
            complete(cluster, "migrate")?;
            let log = cluster.kubectl("logs job/migrate").ok()?;
            ensure!(log.trim() == release, "{log}");
        }
        // Without a policy, a Job's pods stay.
        let path = "/apis/batch/v1/namespaces/default/jobs/migrate";
        cluster.kubectl(&format!("delete --raw {path}")).ok()?;
        eventually("the job goes, and its last pod has no owner", || {
            let jobs = cluster.kubectl("get jobs -o name").ok()?;
            let pods = cluster.get("pods")?;
            let pods = pods["items"].as_array().context("pods")?;
            let is_free = |pod: &&Value| {
                let meta = &pod["metadata"];
                meta.get("ownerReferences").is_none() && meta.get("finalizers").is_none()
            };
            ensure!(
                jobs.is_empty() && pods.iter().filter(is_free).count() == 1,
                "{jobs} {pods:?}"
            );
            Ok(())
        })
    })
}

fn indexes() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::new("tool:1"))?;
        let spec = "completions: 3, parallelism: 3, completionMode: Indexed,";
        cluster.apply(&job("count", spec, "echo $(hostname) has $JOB_COMPLETION_INDEX"))?;
        let status = complete(cluster, "count")?;
        ensure!(status["completedIndexes"] == "0-2", "{status}");
        for index in 0..3 {
            let label = format!("batch.kubernetes.io/job-completion-index={index}");
            let log = cluster.kubectl(&format!("logs -l {label}")).ok()?;
            ensure!(log.trim() == format!("count-{index} has {index}"), "{log}");
        }
        Ok(())
    })
}

fn crash() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::new("tool:1"))?;
        cluster.apply(&job("work", "completions: 8, parallelism: 2,", "sleep 0.3"))?;
        for succeeded in [1, 3] {
            eventually("some have succeeded", || {
                let found = cluster.field("job work", "/status/succeeded")?;
                let found: u32 = found.parse().unwrap_or(0);
                ensure!(found >= succeeded, "{found}");
                Ok(())
            })?;
            cluster.kill_server()?;
            cluster.up()?;
        }
        let status = complete(cluster, "work")?;
        ensure!(status["succeeded"] == 8, "{status}");
        ensure!(status.get("failed").is_none(), "{status}");
        let pods = cluster.get("pods")?;
        let pods = pods["items"].as_array().context("pods")?;
        let ended = pods
            .iter()
            .filter(|pod| pod["status"]["phase"] == "Succeeded")
            .count();
        ensure!(ended == 8 && pods.len() == 8, "{ended} of {}", pods.len());
        Ok(())
    })
}

/// In this order; the schedule is one that is soon due.
const CRON_COMMANDS: &[(&str, &[&str])] = &[
    (
        "create cronjob tick --image=tool:1 --schedule='@every 1s' -- echo tick",
        &["created"],
    ),
    (
        "wait --for=jsonpath={.status.lastSuccessfulTime} cronjob/tick --timeout=60s",
        &["condition met"],
    ),
    (
        "patch cronjob tick -p '{\"spec\":{\"suspend\":true,\"timeZone\":\"Asia/Kolkata\"}}'",
        &["patched"],
    ),
    (
        "get cronjob tick",
        &["SCHEDULE", "TIMEZONE", "@every 1s", "Asia/Kolkata", "True"],
    ),
    (
        "describe cronjob tick",
        &["SuccessfulCreate", "Created job tick-", "SawCompletedJob"],
    ),
    ("create job by-hand --from=cronjob/tick", &["created"]),
    (
        "wait --for=condition=complete job/by-hand --timeout=60s",
        &["condition met"],
    ),
    ("logs job/by-hand", &["tick"]),
    (
        "patch cronjob tick -p '{\"spec\":{\"schedule\":\"often\"}}'",
        &["!", "expected exactly 5 fields, found 1: [often]"],
    ),
    (
        "patch cronjob tick -p '{\"spec\":{\"timeZone\":\"Mars/Base\"}}'",
        &["!", "unknown time zone Mars/Base"],
    ),
    ("delete cronjob tick", &["deleted"]),
];

fn on_schedule() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::new("tool:1"))?;
        follow(cluster, CRON_COMMANDS)?;
        eventually("its jobs go with it, and their pods", || {
            let left = cluster.kubectl("get pods,jobs -o name").ok()?;
            ensure!(left.is_empty(), "{left}");
            Ok(())
        })
    })
}
