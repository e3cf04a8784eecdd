//! stead, end to end: what a user types, and what must come of it.

mod access;
mod applying;
mod churn;
mod commands;
mod crashes;
mod crowd;
mod deployments;
mod disks;
mod documents;
mod faults;
mod footprint;
mod jobs;
mod kubectls;
mod lifecycle;
mod lives;
mod malformed;
mod manifests;
mod mistakes;
mod network;
mod pod_spec;
mod pods;
mod registries;
mod replays;
mod replays_of_sets;
mod rubbish;
mod servers;
mod site;
mod slow_clients;
mod statefulsets;
mod streams;
mod updates;
mod upstream;
mod walk;
mod watching;
mod ways_in;

use std::process::ExitCode;

use anyhow::Context as _;

fn main() -> ExitCode {
    let together = [
        walk::TESTS,
        statefulsets::TESTS,
        updates::TESTS,
        upstream::TESTS,
        documents::TESTS,
        deployments::TESTS,
        jobs::TESTS,
        access::TESTS,
        applying::TESTS,
        replays_of_sets::TESTS,
        replays::TESTS,
        lives::TESTS,
        lifecycle::TESTS,
        pods::TESTS,
        pod_spec::TESTS,
        registries::TESTS,
        streams::TESTS,
        commands::TESTS,
        kubectls::TESTS,
        network::TESTS,
        ways_in::TESTS,
        mistakes::TESTS,
        malformed::TESTS,
        rubbish::TESTS,
        servers::TESTS,
        crashes::TESTS,
        disks::TESTS,
        faults::TESTS,
    ];
    let alone = [faults::HEAVY, slow_clients::TESTS, crowd::TESTS, churn::TESTS];
    stead_tests::main(&together.concat(), &alone.concat())
}

/// Tests with their names.
type Tests = &'static [stead_tests::Test];

/// Checks that `text` contains each of `parts`.
fn check_contains(text: &str, parts: &[&str]) -> anyhow::Result<()> {
    for part in parts {
        anyhow::ensure!(text.contains(part), "no {part:?} in:\n{text}");
    }
    Ok(())
}

/// Checks that a command said each of `parts`, and that it failed if the first of them is `!`.
fn answered(outcome: &stead_tests::Outcome, parts: &[&str]) -> anyhow::Result<()> {
    let (fails, parts) = match parts.split_first() {
        Some((&"!", parts)) => (true, parts),
        _ => (false, parts),
    };
    anyhow::ensure!((outcome.code != 0) == fails, "{outcome}");
    outcome.says(parts)
}

/// Commands of `kubectl`, one after another, each with what it [`answered`].
fn follow(cluster: &stead_tests::Cluster<'_>, commands: &[(&str, &[&str])]) -> anyhow::Result<()> {
    for (line, parts) in commands {
        let outcome = cluster.kubectl(line).run()?;
        answered(&outcome, parts).with_context(|| (*line).to_owned())?;
    }
    Ok(())
}

/// Is this pod Ready, in a change that was watched?
fn is_ready(pod: &serde_json::Value) -> bool {
    let conditions = pod
        .pointer("/status/conditions")
        .and_then(serde_json::Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        let is = |field, value| {
            condition
                .pointer(field)
                .is_some_and(|found: &serde_json::Value| found == value)
        };
        is("/type", "Ready") && is("/status", "True")
    })
}
