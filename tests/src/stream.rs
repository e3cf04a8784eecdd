//! A program that is followed while it runs.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::PATIENCE;

/// A running program. It is killed when this is dropped.
#[derive(Debug)]
pub struct Stream {
    line: String,
    child: Child,
    lines: Receiver<String>,
    /// What was taken from `lines`, for errors.
    seen: Vec<String>,
}

impl Stream {
    pub(crate) fn new(line: String, mut child: Child) -> Self {
        let (sender, lines) = channel();
        if let Some(pipe) = child.stdout.take() {
            forward(pipe, sender.clone());
        }
        if let Some(pipe) = child.stderr.take() {
            forward(pipe, sender);
        }
        Self {
            line,
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// The process id of what was started, as this program sees it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that contains `part`, and returns it. Lines before it are passed over.
    ///
    /// # Errors
    /// When the program ends or [`PATIENCE`] does, without such a line.
    pub fn line(&mut self, part: &str) -> Result<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(part) {
                        return Ok(line);
                    }
                }
                Err(why) => {
                    let why = match why {
                        RecvTimeoutError::Timeout => "did not say",
                        RecvTimeoutError::Disconnected => "ended without saying",
                    };
                    bail!("`{}` {why} {part:?}, but:\n{}", self.line, self.seen.join("\n"))
                }
            }
        }
    }

    /// Types into it.
    ///
    /// # Errors
    /// When it no longer reads.
    pub fn write(&mut self, text: &str) -> Result<()> {
        self.write_bytes(text.as_bytes())
    }

    /// Writes to its input, which stays open.
    ///
    /// # Errors
    /// When it no longer reads.
    pub fn write_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let line = &self.line;
        let pipe = self.child.stdin.as_mut().context("its input was closed")?;
        pipe.write_all(bytes)
            .and_then(|()| pipe.flush())
            .with_context(|| format!("write to `{line}`"))
    }

    /// Ends its input.
    pub fn close(&mut self) {
        self.child.stdin = None;
    }

    /// Waits for its end. Returns the lines not yet seen, and its exit code.
    ///
    /// # Errors
    /// When it goes on for longer than [`PATIENCE`].
    pub fn end(mut self) -> Result<(Vec<String>, Option<i32>)> {
        self.close();
        let until = Instant::now() + PATIENCE;
        let mut rest = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => rest.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("`{}` does not end; it said:\n{}", self.line, rest.join("\n"))
                }
            }
        }
        let status = self.child.wait().context("wait")?;
        Ok((rest, status.code()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn forward(pipe: impl Read + Send + 'static, lines: Sender<String>) {
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while pipe.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&bytes);
            let sent = lines.send(text.trim_end_matches(['\r', '\n']).to_owned());
            bytes.clear();
            if sent.is_err() {
                return;
            }
        }
    });
}
