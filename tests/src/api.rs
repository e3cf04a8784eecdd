//! The API itself, for tests that say requests rather than commands.
//!
//! A `kubectl proxy` on a socket brings the certificates along, so that this speaks plain HTTP/1.1: one
//! connection for a request, which is all that tests need.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::stream::Stream;
use crate::{Cluster, PATIENCE};

/// A way to the API of a cluster.
#[derive(Debug)]
pub struct Api {
    socket: PathBuf,
    /// Only kept: threads share the rest.
    _proxy: Mutex<Stream>,
    _dir: tempfile::TempDir,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its HTTP code.
    pub code: u16,
    /// Its body.
    pub body: Value,
}

impl Api {
    /// Opens it. It is closed when this is dropped.
    ///
    /// # Errors
    /// When `kubectl proxy` cannot be started.
    pub fn open(cluster: &Cluster) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("stead-api-").tempdir()?;
        let socket = dir.path().join("socket");
        let line = format!("proxy --unix-socket={}", socket.display());
        let mut proxy = cluster.kubectl(&line).start()?;
        proxy.line("Starting to serve on")?;
        Ok(Self {
            socket,
            _proxy: Mutex::new(proxy),
            _dir: dir,
        })
    }

    /// Asks, and reads the whole answer.
    ///
    /// # Errors
    /// When there is none; an answer with an error's code is one.
    pub fn ask(&self, method: &str, path: &str, kind: &str, body: &Value) -> Result<Answer> {
        self.ask_bytes(method, path, kind, text_of(body).as_bytes())
    }

    /// The same with a body that need not be what its kind says.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn ask_bytes(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Result<Answer> {
        let (code, mut reader) = self.send(method, path, kind, body)?;
        let mut text = String::new();
        reader
            .read_to_string(&mut text)
            .with_context(|| format!("read the answer of {method} {path}"))?;
        let body = serde_json::from_str(&text).with_context(|| format!("{method} {path}: {text:?}"))?;
        Ok(Answer { code, body })
    }

    /// Asks for an object.
    ///
    /// # Errors
    /// When it is not there.
    pub fn get(&self, path: &str) -> Result<Value> {
        let answer = self.ask("GET", path, "", &Value::Null)?;
        ensure!(answer.code == 200, "GET {path}: {} {}", answer.code, answer.body);
        Ok(answer.body)
    }

    /// Writes an object.
    ///
    /// # Errors
    /// When it is refused.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let answer = self.ask("POST", path, "application/json", body)?;
        ensure!(answer.code < 300, "POST {path}: {} {}", answer.code, answer.body);
        Ok(answer.body)
    }

    /// Follows the changes of a list's objects. Those that are there come first.
    ///
    /// # Errors
    /// When it is refused.
    pub fn watch(&self, path: &str) -> Result<Changes> {
        let path = format!("{path}?watch=true&allowWatchBookmarks=false");
        let (code, reader) = self.send("GET", &path, "", &[])?;
        ensure!(code == 200, "GET {path}: {code}");
        Ok(Changes {
            path,
            lines: BufReader::new(reader),
            line: Vec::new(),
        })
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Result<(u16, Body)> {
        let stream = UnixStream::connect(&self.socket).context("connect to kubectl proxy")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        if !body.is_empty() {
            head += &format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
        }
        (&stream).write_all(format!("{head}\r\n").as_bytes())?;
        // A body that is too large may be refused before it has been read.
        let _ = (&stream).write_all(body);
        let mut reader = BufReader::new(stream);
        let status = line(&mut reader)?;
        let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let code = code.with_context(|| format!("{method} {path}: {status:?}"))?;
        let mut length = None;
        loop {
            let header = line(&mut reader)?.to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = Some(value.trim().parse()?);
            }
            if header.starts_with("transfer-encoding:") && header.ends_with("chunked") {
                return Ok((code, Body::new(reader, Some(0), true)));
            }
        }
        Ok((code, Body::new(reader, length, false)))
    }
}

/// A body as it is sent; null is none.
fn text_of(body: &Value) -> String {
    if body.is_null() {
        String::new()
    } else {
        body.to_string()
    }
}

/// The changes of objects, as they happen.
#[derive(Debug)]
pub struct Changes {
    path: String,
    lines: BufReader<Body>,
    /// What has come of the next line.
    line: Vec<u8>,
}

impl Changes {
    /// Waits for the next change: its type (`ADDED`, `MODIFIED`, `DELETED`) and the object. Nothing when none
    /// comes until then.
    ///
    /// # Errors
    /// When the watch ends.
    pub fn next(&mut self, until: Instant) -> Result<Option<(String, Value)>> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let stream = self.lines.get_ref().reader.get_ref();
            stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            match self.lines.read_until(b'\n', &mut self.line) {
                Ok(_) if self.line.ends_with(b"\n") => break,
                Ok(_) => bail!("the watch of {} ended", self.path),
                Err(error) if is_timeout(&error) && Instant::now() >= until => return Ok(None),
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error).with_context(|| format!("watch {}", self.path)),
            }
        }
        let line = std::mem::take(&mut self.line);
        let mut change: Value = serde_json::from_slice(&line)
            .with_context(|| format!("not a change: {:?}", String::from_utf8_lossy(&line)))?;
        let kind = change.get("type").and_then(Value::as_str).unwrap_or_default();
        Ok(Some((kind.to_owned(), change["object"].take())))
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn line(reader: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line).context("read from kubectl proxy")?;
    Ok(line.trim_end().to_owned())
}

/// The body of an answer, freed of how it was sent.
#[derive(Debug)]
struct Body {
    reader: BufReader<UnixStream>,
    /// What is left of the body, or of its current chunk; none: all until the end.
    left: Option<usize>,
    chunked: bool,
    /// What has come of the line that says how long the next chunk is.
    size: Vec<u8>,
}

impl Body {
    fn new(reader: BufReader<UnixStream>, left: Option<usize>, chunked: bool) -> Self {
        Self {
            reader,
            left,
            chunked,
            size: Vec::new(),
        }
    }

    /// Reads how long the next chunk is: a number alone in a line, after the line's end of the chunk before.
    fn next_chunk(&mut self) -> std::io::Result<usize> {
        loop {
            self.reader.read_until(b'\n', &mut self.size)?;
            if !self.size.ends_with(b"\n") {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let line = String::from_utf8_lossy(&std::mem::take(&mut self.size))
                .trim()
                .to_owned();
            if !line.is_empty() {
                let size = usize::from_str_radix(&line, 16);
                return size.map_err(|_| std::io::Error::other(format!("a chunk of {line:?} bytes")));
            }
        }
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.chunked && self.left == Some(0) {
            let size = self.next_chunk()?;
            self.chunked = size > 0;
            self.left = Some(size);
        }
        let most = self.left.unwrap_or(usize::MAX).min(buffer.len());
        let read = self.reader.read(&mut buffer[..most])?;
        if let Some(left) = &mut self.left {
            *left -= read;
        }
        Ok(read)
    }
}
