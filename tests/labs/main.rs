//! The examples, end to end: each README's commands, as they stand, with the real Helm and kubectl, on a
//! machine of its own; and what must hold of what they said.
//!
//! `STEAD_LABS_WRITE=1` writes what the commands say into the READMEs.

mod app_python_helm;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use stead_tests::console::{Console, Said};
use stead_tests::{Test, on_a_machine};

fn main() -> ExitCode {
    let labs: &[Test] = &[("labs: app-python-helm", || {
        lab("app-python-helm", app_python_helm::check)
    })];
    stead_tests::main(labs, &[])
}

/// Follows an example's README, and checks what was said.
fn lab(name: &str, check: fn(&[Said]) -> Result<()>) -> Result<()> {
    on_a_machine(|machine| {
        let said = Console::new(machine)?.follow(&format!("examples/{name}/README.md"))?;
        check(&said)
    })
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
    let start = headings
        .find(heading)
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
