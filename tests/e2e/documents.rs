//! Documents whose commands are run as they stand: `docs/statefulset.md`.

use anyhow::{Context, Result, bail, ensure};
use stead_tests::artifacts::root;
use stead_tests::{Cluster, on_a_cluster};

use crate::Tests;
use crate::replays::image;

pub(crate) const TESTS: Tests = &[("documents: what docs/statefulset.md shows is so", stateful_sets)];

fn stateful_sets() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&image())?;
        let text = std::fs::read_to_string(root().join("docs/statefulset.md"))?;
        let commands = commands(&text)?;
        ensure!(commands.len() > 30, "only {} commands", commands.len());
        for command in &commands {
            command.run(cluster).with_context(|| command.line.clone())?;
        }
        Ok(())
    })
}

/// A command, and what it says: lines in which `...` stands for anything, also for nothing or for several lines.
#[derive(Debug, Default, PartialEq)]
struct Command {
    line: String,
    input: Option<String>,
    says: Vec<String>,
}

/// The commands of the blocks that are marked as `console`.
fn commands(text: &str) -> Result<Vec<Command>> {
    let mut commands: Vec<Command> = Vec::new();
    let mut is_console = false;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            is_console = language == "console";
        } else if let Some(line) = line.strip_prefix("$ ").filter(|_| is_console) {
            let line = line
                .strip_prefix("kubectl ")
                .with_context(|| format!("no kubectl: {line}"))?;
            let mut command = Command::default();
            command.line = match line.strip_suffix(" <<EOF") {
                Some(line) => {
                    let input: Vec<&str> = lines.by_ref().take_while(|line| *line != "EOF").collect();
                    command.input = Some(input.join("\n"));
                    line.to_owned()
                }
                None => line.to_owned(),
            };
            commands.push(command);
        } else if is_console && !line.is_empty() {
            let command = commands.last_mut().context("output before the first command")?;
            command.says.push(line.to_owned());
        }
    }
    Ok(commands)
}

impl Command {
    fn run(&self, cluster: &Cluster) -> Result<()> {
        let mut program = cluster.kubectl(&self.line);
        if let Some(input) = &self.input {
            program = program.stdin(input.as_str());
        }
        let outcome = program.run()?;
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        let fails = self.says.iter().any(|line| line.starts_with("The StatefulSet "));
        // What was to go may have gone already.
        let is_gone = self.line.starts_with("wait --for=delete") && said.contains("NotFound");
        ensure!(is_gone || (outcome.code != 0) == fails, "{outcome}");
        if !is_gone && !matches(&self.says, &said) {
            bail!("the document has\n{}\nbut it says\n{said}", self.says.join("\n"));
        }
        Ok(())
    }
}

/// Whether what was said is as it should be; spaces at the ends of lines do not count.
fn matches(expected: &[String], said: &str) -> bool {
    let said: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let mut rest = said.join("\n");
    let mut is_open = false;
    let pattern = expected.join("\n");
    let mut parts = pattern.split("...").map(str::trim).peekable();
    while let Some(part) = parts.next() {
        let Some(at) = rest
            .find(part)
            .filter(|at| is_open || rest[..*at].trim().is_empty())
        else {
            return false;
        };
        rest.drain(..at + part.len());
        is_open = true;
        if parts.peek().is_none() {
            return part.is_empty() || rest.trim().is_empty();
        }
    }
    true
}
