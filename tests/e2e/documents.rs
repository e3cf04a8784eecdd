//! Documents whose commands are run as they stand: `docs/statefulset.md`.

use anyhow::{Context, Result, bail, ensure};
use stead_tests::artifacts::root;
use stead_tests::console::{Step, matches, steps};
use stead_tests::{Cluster, on_a_cluster};

use crate::Tests;
use crate::replays::image;

pub(crate) const TESTS: Tests = &[("documents: what docs/statefulset.md shows is so", stateful_sets)];

fn stateful_sets() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&image())?;
        let text = std::fs::read_to_string(root().join("docs/statefulset.md"))?;
        let steps = steps(&text)?;
        ensure!(steps.len() > 30, "only {} commands", steps.len());
        for step in &steps {
            run(step, cluster).with_context(|| step.line.clone())?;
        }
        Ok(())
    })
}

fn run(step: &Step, cluster: &Cluster) -> Result<()> {
    let line = step
        .line
        .strip_prefix("kubectl ")
        .with_context(|| format!("no kubectl: {}", step.line))?;
    let mut program = cluster.kubectl(line);
    if let Some(input) = &step.input {
        program = program.stdin(input.as_str());
    }
    let outcome = program.run()?;
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    let fails = step.says.iter().any(|line| line.starts_with("The StatefulSet "));
    // What was to go may have gone already.
    let is_gone = line.starts_with("wait --for=delete") && said.contains("NotFound");
    ensure!(is_gone || (outcome.code != 0) == fails, "{outcome}");
    if !is_gone && !matches(&step.says, &said) {
        bail!("the document has\n{}\nbut it says\n{said}", step.says.join("\n"));
    }
    Ok(())
}
