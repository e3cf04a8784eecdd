//! Documents whose commands are run as they stand.

use anyhow::{Context, Result, bail, ensure};
use stead_tests::artifacts::root;
use stead_tests::console::{Console, Step, matches, steps};
use stead_tests::{Cluster, on_a_cluster, on_a_machine};

use crate::Tests;
use crate::replays::image;

pub(crate) const TESTS: Tests = &[
    ("documents: what docs/statefulset.md shows is so", stateful_sets),
    ("documents: getting started", || follow("getting-started")),
    ("documents: coming from minikube, kind or k3s", coming_from_others),
    ("documents: troubleshooting", || follow("troubleshooting")),
];

/// Follows a page from the first cluster to the last command, on a machine of its own.
fn follow(page: &str) -> Result<()> {
    on_a_machine(|machine| Console::new(machine)?.follow(&path(page)).map(drop))
}

fn path(page: &str) -> String {
    format!("docs/{page}.md")
}

/// What its table has of ours, the page shows; words in capitals stand for any.
fn coming_from_others() -> Result<()> {
    const PAGE: &str = "coming-from-minikube-kind-k3s";
    let text = std::fs::read_to_string(root().join(path(PAGE)))?;
    let steps = steps(&text)?;
    let table = text.lines().filter(|line| line.starts_with('|'));
    let ours: Vec<&str> = table
        .flat_map(|line| line.split('`').filter(|code| code.starts_with("stead ")))
        .collect();
    ensure!(ours.len() > 10, "{ours:?}");
    let is_word = |(asked, shown): (&str, &str)| asked == shown || asked.starts_with(char::is_uppercase);
    for command in ours {
        let is_it = |step: &Step| {
            let (asked, shown) = (command.split(' '), step.line.split(' '));
            asked.clone().count() <= shown.clone().count() && asked.zip(shown).all(is_word)
        };
        ensure!(steps.iter().any(is_it), "{command} is not shown");
    }
    follow(PAGE)
}

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
