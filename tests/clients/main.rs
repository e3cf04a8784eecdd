//! Other people's clients, unmodified, against clusters: each suite is a program of its own language, in the folder
//! of that name, which runs on a machine with a cluster of its own and says how many of its tests passed. `make
//! clients` prepares them. Helm has no program; what it is asked to do is in [`helm`].

mod helm;
mod kube_rs;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stead_tests::artifacts::{self, Image};
use stead_tests::{Cluster, Outcome, Test, on_a_cluster};

/// How long a suite may take.
const LIMIT: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let clients: &[Test] = &[
        ("clients: client-go, JSON", || go("application/json")),
        ("clients: client-go, protobuf", || {
            go("application/vnd.kubernetes.protobuf")
        }),
        ("clients: Helm 3", || helm::check(artifacts::helm()?, "--atomic")),
        ("clients: Helm 4", || {
            helm::check(artifacts::helm4()?, "--rollback-on-failure")
        }),
        ("clients: JavaScript", javascript),
        ("clients: kube-rs", kube_rs::check),
        ("clients: Python", python),
    ];
    stead_tests::main(clients, &[])
}

/// Runs a test on a cluster that has the image which the suites' pods run, by the names that they have for it.
fn on_a_cluster_with_busybox(test: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    let busybox = Image::new("busybox:1.36").arg("--tag", "busybox:stable");
    on_a_cluster(|cluster| {
        cluster.load(&busybox)?;
        test(cluster)
    })
}

/// A client's folder.
fn folder(client: &str) -> Result<PathBuf> {
    Ok(artifacts::clients()?.join(client))
}

/// Runs a suite's program, with variables. What it keeps for another time is removed.
fn run(cluster: &Cluster, line: &str, variables: &[(&str, &str)]) -> Result<Outcome> {
    let shown = |path: &Path| path.display().to_string();
    let temporary = tempfile::Builder::new().prefix("stead-clients-").tempdir()?;
    let mut program = cluster
        .machine
        .client(line)
        .env("KUBECONFIG", shown(cluster.kubeconfig()))
        .env("TMPDIR", shown(temporary.path()))
        .limit(LIMIT);
    for (name, value) in variables {
        program = program.env(name, *value);
    }
    let outcome = program.run()?;
    ensure!(outcome.code == 0, "it failed: {outcome}");
    Ok(outcome)
}

/// Says how many of a suite's tests passed.
#[expect(clippy::print_stdout, reason = "progress, for whoever runs the tests")]
fn tell(suite: &str, passed: usize) -> Result<()> {
    ensure!(passed > 0, "{suite} has run no tests");
    println!("{suite}: {passed} passed");
    Ok(())
}

/// The number that follows some words, at the last place where they are.
fn number_after(text: &str, words: &str) -> Result<usize> {
    let (_, rest) = text
        .rsplit_once(words)
        .with_context(|| format!("no {words:?} in:\n{text}"))?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits
        .parse()
        .with_context(|| format!("no number after {words:?} in:\n{text}"))
}

fn go(content_type: &str) -> Result<()> {
    let program = folder("go")?.join("suite");
    on_a_cluster_with_busybox(|cluster| {
        let line = format!("{} -test.v -test.parallel 8", program.display());
        let outcome = run(cluster, &line, &[("CONTENT_TYPE", content_type)])?;
        let passed = outcome.stdout.matches("--- PASS: ").count();
        tell(&format!("client-go, {content_type}"), passed)
    })
}

fn python() -> Result<()> {
    let python = folder("python")?.join("bin/python");
    let tests = artifacts::root().join("tests/clients/python");
    on_a_cluster_with_busybox(|cluster| {
        let line = format!(
            "{} -B -m unittest discover --verbose --start-directory {}",
            python.display(),
            tests.display()
        );
        let outcome = run(cluster, &line, &[])?;
        tell("Python", number_after(&outcome.stderr, "\nRan ")?)
    })
}

fn javascript() -> Result<()> {
    let folder = folder("javascript")?;
    on_a_cluster_with_busybox(|cluster| {
        let tests = ["objects", "streams"].map(|name| folder.join(format!("{name}.test.mjs")));
        let [objects, streams] = tests.map(|file| file.display().to_string());
        let outcome = run(cluster, &format!("node --test {objects} {streams}"), &[])?;
        tell("JavaScript", number_after(&outcome.stdout, "pass ")?)
    })
}
