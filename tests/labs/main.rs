//! The examples, end to end: each README's commands, as they stand, with the real Helm and kubectl, on a
//! machine of its own; and what must hold of what they said. And the tutorial, which uses them.
//!
//! `STEAD_LABS_WRITE=1` writes what the commands say into the documents.

mod app_python_helm;
mod app_python_hooks;
mod app_python_parallel;
mod app_python_php;
mod app_python_vault;
mod theory;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use stead_tests::console::{Console, Said};
use stead_tests::{Test, on_a_machine};

fn main() -> ExitCode {
    let labs: &[Test] = &[
        ("labs: app-python-helm", || {
            lab("app-python-helm", app_python_helm::check)
        }),
        ("labs: app-python-hooks", || {
            lab("app-python-hooks", app_python_hooks::check)
        }),
        ("labs: app-python-parallel", || {
            lab("app-python-parallel", app_python_parallel::check)
        }),
        ("labs: app-python-php", || {
            lab("app-python-php", app_python_php::check)
        }),
        ("labs: app-python-vault", || {
            lab("app-python-vault", app_python_vault::check)
        }),
        ("labs: theory", || lab("theory", theory::check)),
        ("labs: the tutorial", || follow("docs/tutorial.md").map(drop)),
    ];
    // One after another: all have the usual data directory, of which there is one at a time on a computer.
    stead_tests::main(&[], labs)
}

/// Follows an example's README, and checks what was said.
fn lab(name: &str, check: fn(&[Said]) -> Result<()>) -> Result<()> {
    check(&follow(&format!("examples/{name}/README.md"))?)
}

/// Runs a document's commands on a machine of its own.
fn follow(document: &str) -> Result<Vec<Said>> {
    let mut said = Vec::new();
    on_a_machine(|machine| {
        said = Console::new(machine)?.follow(document)?;
        Ok(())
    })?;
    Ok(said)
}

/// What the commands said that have `part` in them.
fn all<'s>(said: &'s [Said], part: &str) -> Vec<&'s str> {
    let are_it = said.iter().filter(|said| said.line.contains(part));
    are_it.map(|said| said.text.as_str()).collect()
}

/// The numbers that a command said, one a line.
fn numbers(text: &str) -> Result<Vec<u64>> {
    let number = |line: &str| {
        line.trim()
            .parse()
            .with_context(|| format!("no number: {line:?}"))
    };
    text.lines().map(number).collect()
}

/// The cells of a table's column, without its heading. Columns are found by where their headings begin.
fn column<'t>(table: &'t str, heading: &str) -> Result<Vec<&'t str>> {
    let mut lines = table.lines();
    let headings = lines.next().unwrap_or_default();
    // STORAGECLASS has AGE in it, and is another.
    let is_whole = |at: usize| {
        let (before, rest) = (&headings[..at], &headings[at + heading.len()..]);
        (before.is_empty() || before.ends_with(' ')) && (rest.is_empty() || rest.starts_with(' '))
    };
    let mut starts = headings.match_indices(heading).map(|(at, _)| at);
    let start = starts
        .find(|at| is_whole(*at))
        .with_context(|| format!("no {heading} in:\n{table}"))?;
    Ok(lines
        .map(|line| line.get(start..).unwrap_or_default())
        .map(|rest| rest.split("  ").next().unwrap_or_default().trim())
        .collect())
}

/// Checks that a column has these cells.
fn check_column(table: &str, heading: &str, cells: &[&str]) -> Result<()> {
    let found = column(table, heading)?;
    ensure!(
        found == cells,
        "{heading} is {found:?}, not {cells:?}, in:\n{table}"
    );
    Ok(())
}

/// The part of what `kubectl get KIND,…` said that is about `kind`.
fn table<'t>(text: &'t str, kind: &str) -> Result<&'t str> {
    let is_it = |table: &&str| table.lines().nth(1).is_some_and(|line| line.starts_with(kind));
    text.split("\n\n")
        .find(is_it)
        .with_context(|| format!("no {kind} in:\n{text}"))
}

/// How old is what is `age` old in a table: `2m3s`.
fn seconds(age: &str) -> Result<u64> {
    let mut sum = 0;
    for part in age.split_inclusive(['s', 'm', 'h']) {
        let (number, unit) = part.split_at(part.len() - 1);
        let unit = match unit {
            "s" => 1,
            "m" => 60,
            _ => 3600,
        };
        sum += unit
            * number
                .parse::<u64>()
                .with_context(|| format!("the age {age:?}"))?;
    }
    Ok(sum)
}
