//! Running programs, with a limit in time, and errors that say all there is to say.

use std::fmt;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::stream::Stream;

/// A program about to be run.
#[derive(Debug)]
pub struct Program {
    /// What a person would have typed.
    line: String,
    /// What gets it where it has to run, such as `nsenter …`.
    prefix: Vec<String>,
    words: Vec<String>,
    env: Vec<(String, String)>,
    stdin: Vec<u8>,
    limit: Duration,
}

/// How a program ended, and what it said.
#[derive(Debug)]
pub struct Outcome {
    line: String,
    /// Its exit code; 128 more than the signal that ended it; or 124 when it took too long.
    pub code: i32,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Program {
    pub(crate) fn new(line: String, prefix: Vec<String>, words: Vec<String>) -> Self {
        Self {
            line,
            prefix,
            words,
            env: Vec::new(),
            stdin: Vec::new(),
            limit: crate::PATIENCE,
        }
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// What the program reads. Nothing, unless this is called.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Ends the program when it takes longer; [`crate::PATIENCE`] unless this is called.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs to the end, however it ends.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn run(mut self) -> Result<Outcome> {
        let seconds = self.limit.as_secs_f64().to_string();
        let timeout = ["timeout", "--kill-after=5", &seconds].map(str::to_owned);
        self.prefix.splice(0..0, timeout);
        let stdin = std::mem::take(&mut self.stdin);
        let mut child = self.spawn()?;
        let writer = child.stdin.take().map(|mut pipe| {
            // A program need not read what it is given.
            std::thread::spawn(move || drop(pipe.write_all(&stdin)))
        });
        let stdout = child.stdout.take().map(collect);
        let stderr = child.stderr.take().map(collect);
        let status = child
            .wait()
            .with_context(|| format!("wait for {:?}", self.line))?;
        if let Some(writer) = writer {
            let _ = writer.join();
        }
        let text = |collected| {
            text(collected).with_context(|| format!("`{}` left its output to another program", self.line))
        };
        Ok(Outcome {
            stdout: text(stdout)?,
            stderr: text(stderr)?,
            code: code(status),
            line: self.line,
        })
    }

    /// Runs to a good end, and returns what it wrote to its standard output.
    ///
    /// # Errors
    /// When it ends with another code than 0.
    pub fn ok(self) -> Result<String> {
        let outcome = self.run()?;
        if outcome.code != 0 {
            bail!("it failed: {outcome}");
        }
        Ok(outcome.stdout)
    }

    /// Runs to a bad end: its own, not one that the limit or a signal brought about.
    ///
    /// # Errors
    /// When it ends otherwise.
    pub fn fails(self) -> Result<Outcome> {
        let outcome = self.run()?;
        if !(1..124).contains(&outcome.code) {
            bail!("it should have failed by itself: {outcome}");
        }
        Ok(outcome)
    }

    /// Starts it, to be followed while it runs. Its standard error goes the same way as its standard output.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(self) -> Result<Stream> {
        let line = self.line.clone();
        Ok(Stream::new(line, self.spawn()?))
    }

    fn spawn(&self) -> Result<Child> {
        let mut words = self.prefix.iter().chain(&self.words);
        let program = words.next().context("no program")?;
        Command::new(program)
            .args(words)
            .env_remove("KUBECONFIG")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("run {program:?} for {:?}", self.line))
    }
}

impl Outcome {
    /// Checks what it said, on standard output or error.
    ///
    /// # Errors
    /// When it did not say one of `parts`.
    pub fn says(&self, parts: &[&str]) -> Result<()> {
        for part in parts {
            if !self.stdout.contains(part) && !self.stderr.contains(part) {
                bail!("it should have said {part:?}: {self}");
            }
        }
        Ok(())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ended with {}", self.line, self.code)?;
        for (name, said) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !said.trim().is_empty() {
                write!(f, "\n--- {name}\n{}", said.trim_end())?;
            }
        }
        Ok(())
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, collected) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    collected
}

/// What was collected, of a program that has ended. One that it started may have its output still, and then
/// whoever waits for the output's end, as `$(…)` in a shell does, waits in vain.
fn text(collected: Option<Receiver<Vec<u8>>>) -> Option<String> {
    let bytes = collected?.recv_timeout(Duration::from_secs(2)).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    let by_signal = || status.signal().map(|signal| 128 + signal);
    status.code().or_else(by_signal).unwrap_or(-1)
}
