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

use std::fs;
use std::ops::Range;
use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::artifacts;
use crate::cluster::Cluster;
use crate::kubectl;
use crate::machine::Machine;

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

/// A line without what differs from run to run: ages, times, addresses, the kernel's and generated numbers, uids
/// and hashes of revisions, how wide columns are. Names, sizes, states and `2/3` stay.
pub fn shape(line: &str) -> String {
    for heading in ["LAST DEPLOYED:", "Last Started:", "Last Completed:"] {
        if line.starts_with(heading) {
            return heading.to_owned();
        }
    }
    let words: Vec<String> = line.split_whitespace().map(shape_of_word).collect();
    words.join(" ")
}

fn shape_of_word(word: &str) -> String {
    let is_number = word.chars().all(|char| char.is_ascii_digit() || char == '.');
    if is_number && word.parse::<f64>().is_ok() {
        return "N".to_owned();
    }
    if is_age(word.trim_start_matches('(')) {
        return "AGE".to_owned();
    }
    if word.len() > 3 && word.chars().all(|char| "|-".contains(char)) {
        return "|-".to_owned();
    }
    let mut shape = String::new();
    let mut rest = word;
    while !rest.is_empty() {
        let (name, length) = PATTERNS
            .iter()
            .find_map(|(name, pattern)| Some((*name, begins_with(rest, pattern)?)))
            .or_else(|| Some(("HASH", generated(&shape, rest)?)))
            .unwrap_or_else(|| {
                let digits = rest.chars().take_while(char::is_ascii_digit).count();
                match digits {
                    0 => {
                        let length = rest.chars().next().map_or(1, char::len_utf8);
                        (&rest[..length], length)
                    }
                    1..5 => (&rest[..digits], digits),
                    _ => ("N", digits),
                }
            });
        shape.push_str(name);
        rest = &rest[length..];
    }
    shape
}

/// How long the part of a name is that begins a text, if it was generated: a hash, or what makes a pod's name from
/// that of its ReplicaSet, which ends with a hash.
fn generated(before: &str, text: &str) -> Option<usize> {
    let is_begin = before.is_empty() || before.ends_with(['-', '/']);
    let part = text.split('-').next().filter(|_| is_begin)?;
    let is_long = part.len() > 7 || (part.len() == 5 && before.ends_with("HASH-"));
    (is_long && part.chars().all(|char| HASH.contains(char))).then_some(part.len())
}

/// The letters that Kubernetes makes hashes of.
const HASH: &str = "bcdfghjklmnpqrstvwxz2456789";

/// `9+` is one to nine digits, `9` a digit, `f` a hexadecimal one.
const PATTERNS: &[(&str, &str)] = &[
    ("UUID", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
    ("IP", "9+.9+.9+.9+"),
    ("DATE", "9999-99-99"),
    ("TIME", "99:99:99"),
];

/// How much of a text is as the pattern says, if it begins so.
fn begins_with(text: &str, pattern: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 0;
    let mut signs = pattern.bytes().peekable();
    while let Some(sign) = signs.next() {
        let byte = bytes.get(at)?;
        let is_it = match sign {
            b'9' => byte.is_ascii_digit(),
            b'f' => byte.is_ascii_hexdigit(),
            other => *byte == other,
        };
        if !is_it {
            return None;
        }
        at += 1;
        if signs.next_if_eq(&b'+').is_some() {
            at += bytes[at..]
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .count();
        }
    }
    Some(at)
}

/// `12s`, `3m5s`, `2d`.
fn is_age(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_digit())
        && word.split_inclusive(['s', 'm', 'h', 'd']).all(|part| {
            match part.strip_suffix(['s', 'm', 'h', 'd']) {
                Some(number) => number.parse::<u64>().is_ok(),
                None => false,
            }
        })
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

/// Set to write what commands say into the documents, rather than to compare.
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
        symlink(artifacts::helm()?, bin.join("helm"))?;
        symlink(kubectl::newest()?.path(), bin.join("kubectl"))?;
        Ok(Self { machine, dir })
    }

    /// Runs a document's commands, in order, and compares what they say with what it has. `name` is its path
    /// from the project's folder. Where `STEAD_LABS_WRITE` is set, what they say is written into it.
    ///
    /// # Errors
    /// When a command fails, but for one that is to say `Error…` or `error: …`; or says something else.
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
        let is_error = |line: &str| line.starts_with("Error") || line.starts_with("error: ");
        if is_writing() {
            ensure!(outcome.code == 0 || text.lines().any(is_error), "{outcome}");
        } else {
            let fails = step.says.iter().any(|line| is_error(line));
            ensure!((outcome.code != 0) == fails, "{outcome}");
            let shapes = |lines: &mut dyn Iterator<Item = &str>| lines.map(shape).collect::<Vec<_>>();
            let expected = shapes(&mut step.says.iter().map(String::as_str));
            if !matches(&expected, &shapes(&mut text.lines()).join("\n")) {
                bail!("the document has\n{}\nbut it says\n{text}", step.says.join("\n"));
            }
        }
        Ok(Said {
            line: step.line.clone(),
            text,
        })
    }
}

fn is_writing() -> bool {
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

/// What is to be shown of an output: how often a wait says that it waits is chance.
fn shown(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in text.trim_end().lines().map(str::trim_end) {
        let is_chance = line.starts_with("Waiting for ");
        match (is_chance, lines.last().map(String::as_str)) {
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

    #[test]
    fn shapes_leave_out_what_differs() {
        for (line, shaped) in [
            (
                "pod/web-0   1/1     Running   0     2m3s",
                "pod/web-0 1/1 Running N AGE",
            ),
            (
                "app  NodePort 10.96.213.123 <none> 80:32380/TCP",
                "app NodePort IP <none> 80:N/TCP",
            ),
            ("pvc-a48a963a-cbb8-4ede-bb86-89ec2a4843df 100Mi", "pvc-UUID 100Mi"),
            ("chart-1701168705-app-python-helm-0", "chart-N-app-python-helm-0"),
            ("web-5d4f8c7b9 done in 0.11 s", "web-HASH done in N s"),
            ("pod/web-5d4f8c7b9-x2b4c", "pod/web-HASH-HASH"),
            ("web-5d4567899-24567 web-x2b4c", "web-HASH-HASH web-x2b4c"),
            (
                "| default | http://172.16.0.1:5000 |",
                "| default | http://IP:5000 |",
            ),
            ("2026-11-26 01:22:41 ok", "DATE TIME ok"),
            ("|-----|------|", "|-"),
            ("LAST DEPLOYED: Thu Nov 26", "LAST DEPLOYED:"),
        ] {
            assert_eq!(shape(line), shaped, "{line}");
        }
    }
}
