//! Documents that show commands and what they say, in blocks marked as `console`: read, run as they stand,
//! and compared.
//!
//! ```console
//! $ kubectl get pods -o name
//! pod/web-0
//! ```
//!
//! `...` stands for anything, also for nothing or for several lines. What differs from run to run (ages,
//! addresses, numbers, see [`shape`]) need not be the same in a [`Console`].

mod shape;

use std::fs;
use std::ops::Range;
use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::artifacts;
use crate::cluster::Cluster;
use crate::kubectl;
use crate::machine::Machine;

pub use shape::shape;

/// A command, and what it says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// What is typed.
    pub line: String,
    /// What the command reads: the lines between `<<EOF` and `EOF`.
    pub input: Option<String>,
    /// The lines that it says, without empty ones.
    pub says: Vec<String>,
    /// Which lines of the document have what it says.
    place: Range<usize>,
}

/// The steps of a document, in order.
///
/// # Errors
/// When there is output before the first command of all.
pub fn steps(text: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let mut is_console = false;
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            is_console = language == "console";
        } else if let Some(line) = line.strip_prefix("$ ").filter(|_| is_console) {
            let mut step = Step::default();
            let mut last = number;
            step.line = line.strip_suffix(" <<EOF").unwrap_or(line).to_owned();
            while let Some(first) = step.line.strip_suffix(" \\") {
                let (number, next) = lines.next().context("a command ends with \\")?;
                step.line = format!("{first} {}", next.trim_start());
                last = number;
            }
            if line.ends_with(" <<EOF") {
                let input: Vec<_> = lines
                    .by_ref()
                    .inspect(|(number, _)| last = *number)
                    .map(|(_, line)| line)
                    .take_while(|line| *line != "EOF")
                    .collect();
                step.input = Some(input.join("\n"));
            }
            step.place = last + 1..last + 1;
            steps.push(step);
        } else if is_console {
            let step = steps.last_mut().context("output before the first command")?;
            if !line.is_empty() {
                step.says.push(line.to_owned());
                step.place.end = number + 1;
            }
        }
    }
    Ok(steps)
}

/// Whether what was said is as it should be; spaces at the ends of lines do not count.
pub fn matches(expected: &[String], said: &str) -> bool {
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

/// A shell on a machine, for one who follows a document: in the project's folder, with `stead`, `kubectl` and
/// `helm` on the PATH, and the machine's cluster of commands without options.
#[derive(Debug)]
pub struct Console<'m> {
    machine: &'m Machine,
    /// The programs, and what the shell remembers.
    dir: tempfile::TempDir,
}

/// A command that was run, and what it said.
#[derive(Debug)]
pub struct Said {
    /// What was typed.
    pub line: String,
    /// What it wrote to its output and error.
    pub text: String,
}

/// How long a command of a document may take.
const LIMIT: Duration = Duration::from_secs(180);

/// Set to write what commands say into documents, rather than to compare.
const WRITE: &str = "STEAD_LABS_WRITE";

impl<'m> Console<'m> {
    /// A shell on this machine.
    ///
    /// # Errors
    /// When a program is missing.
    pub fn new(machine: &'m Machine) -> Result<Self> {
        // If a test fails, its state is shown.
        Cluster::by_default(machine)?;
        let dir = tempfile::Builder::new().prefix("stead-console-").tempdir()?;
        let bin = dir.path().join("bin");
        fs::create_dir(&bin)?;
        symlink(artifacts::stead()?, bin.join("stead"))?;
        // Not every document needs it; one that does says so when it is not found.
        if let Ok(helm) = artifacts::helm() {
            symlink(helm, bin.join("helm"))?;
        }
        symlink(kubectl::newest()?.path(), bin.join("kubectl"))?;
        Ok(Self { machine, dir })
    }

    /// Runs a document's commands, in order, and compares what they say with what it has. `name` is its path
    /// from the project's folder. Where `STEAD_LABS_WRITE` is set, what they say is written into it.
    ///
    /// # Errors
    /// When a command fails, but for one that is to say so ([`is_error`]); or says something else.
    pub fn follow(&self, name: &str) -> Result<Vec<Said>> {
        let path = artifacts::root().join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("read {path:?}"))?;
        let steps = steps(&text)?;
        let mut said = Vec::new();
        for step in &steps {
            said.push(self.run(step).with_context(|| format!("{name}: {}", step.line))?);
        }
        if is_writing() {
            fs::write(&path, with_outputs(&text, &steps, &said))
                .with_context(|| format!("write {path:?}"))?;
        }
        Ok(said)
    }

    fn run(&self, step: &Step) -> Result<Said> {
        // What is exported is remembered, as in a shell that stays.
        let script = format!(
            "exec 2>&1; cd \"$ROOT\"; [ ! -e \"$STATE\" ] || . \"$STATE\"\n{}\n\
             code=$?; export -p >\"$STATE\"; exit $code",
            step.line
        );
        let words = ["bash", "-c", &script].map(str::to_owned).to_vec();
        let path = std::env::var("PATH").unwrap_or_default();
        let outcome = self
            .machine
            .program(step.line.clone(), words, true)
            .env("PATH", format!("{}/bin:{path}", self.dir.path().display()))
            .env("ROOT", artifacts::root().display().to_string())
            .env("STATE", self.dir.path().join("state").display().to_string())
            .stdin(step.input.clone().unwrap_or_default())
            .limit(LIMIT)
            .run()?;
        let home = self.machine.dir().join("home").display().to_string();
        let text = outcome.stdout.replace(&home, "/root");
        if is_writing() {
            ensure!(outcome.code == 0 || text.lines().any(is_error), "{outcome}");
            ensure!(!text.contains("error: timed out"), "{outcome}");
        } else {
            let fails = step.says.iter().any(|line| is_error(line));
            ensure!((outcome.code != 0) == fails, "{outcome}");
            let shapes = |lines: &mut dyn Iterator<Item = &str>| lines.map(shape).collect::<Vec<_>>();
            let expected = shapes(&mut step.says.iter().map(String::as_str));
            let told = &mut text.lines().filter(|line| !is_chance(line));
            if !matches(&expected, &shapes(told).join("\n")) {
                bail!("the document has\n{}\nbut it says\n{text}", step.says.join("\n"));
            }
        }
        Ok(Said {
            line: step.line.clone(),
            text,
        })
    }
}

/// Whether a command that says this fails.
fn is_error(line: &str) -> bool {
    const BEGINNINGS: [&str; 5] = [
        "Error",
        "error: ",
        "stead: ",
        "The connection to the server ",
        "The StatefulSet ",
    ];
    BEGINNINGS.iter().any(|beginning| line.starts_with(beginning))
}

/// Whether documents are being written, rather than compared.
pub fn is_writing() -> bool {
    std::env::var_os(WRITE).is_some()
}

/// A document with what was said in place of what it had.
fn with_outputs(text: &str, steps: &[Step], said: &[Said]) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    // From the end, so that places stay where they are.
    for (step, said) in steps.iter().zip(said).rev() {
        lines.splice(step.place.clone(), shown(&said.text));
    }
    lines.join("\n") + "\n"
}

/// How often a wait says that it waits.
fn is_chance(line: &str) -> bool {
    line.starts_with("Waiting for ")
}

/// What is to be shown of an output.
fn shown(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in text.trim_end().lines().map(str::trim_end) {
        match (is_chance(line), lines.last().map(String::as_str)) {
            (true, Some("...")) => {}
            (true, _) => lines.push("...".to_owned()),
            (false, _) => lines.push(line.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read() -> Result<()> {
        let text = "a\n```console\n$ one \\\n    more\nsays\n\nthis\n$ two <<EOF\nin\nput\nEOF\n```\n```\n$ no\n```\n";
        let steps = steps(text)?;
        let seen: Vec<_> = steps
            .iter()
            .map(|step| (step.line.as_str(), &step.says[..]))
            .collect();
        assert_eq!(
            seen,
            [
                ("one more", &["says".to_owned(), "this".to_owned()][..]),
                ("two", &[])
            ]
        );
        assert_eq!(steps[1].input.as_deref(), Some("in\nput"));
        let said = ["new\n", "three\n\nlines\n"].map(|text| Said {
            line: String::new(),
            text: text.to_owned(),
        });
        assert_eq!(
            with_outputs(text, &steps, &said),
            "a\n```console\n$ one \\\n    more\nnew\n$ two <<EOF\nin\nput\nEOF\nthree\n\nlines\n```\n```\n$ no\n```\n"
        );
        Ok(())
    }
}
