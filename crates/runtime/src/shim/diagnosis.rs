//! What libcontainer says when it fails, beside the error it returns.
//!
//! Of an error in the container's first process only the outermost words come back to the worker ("failed
//! to prepare rootfs"); the reason is in what the library logs on the way. So a worker collects the errors
//! that are logged, its own and those of the processes it forks, in a file in memory that all of them
//! write to, and adds the first to its report.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Read, Seek, Write};

use rustix::fs::MemfdFlags;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The errors logged so far.
pub(super) struct Diagnosis(File);

impl Diagnosis {
    /// From now on, errors are collected. Once in the life of a process.
    pub(super) fn begin() -> io::Result<Self> {
        let file = File::from(rustix::fs::memfd_create("errors", MemfdFlags::CLOEXEC)?);
        let collector = Collector(file.try_clone()?);
        tracing::subscriber::set_global_default(collector).map_err(io::Error::other)?;
        Ok(Self(file))
    }

    /// The first error: the later ones are told by whoever passes it on.
    pub(super) fn first(mut self) -> Option<String> {
        let mut text = String::new();
        self.0.rewind().ok()?;
        self.0.read_to_string(&mut text).ok()?;
        text.lines().next().map(str::to_owned)
    }
}

struct Collector(File);

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR && metadata.is_event()
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        line.0 = line.0.replace('\n', " ");
        line.0.push('\n');
        // The offset is shared by all who have inherited the file, so nothing is overwritten.
        let _ = (&self.0).write_all(line.0.as_bytes());
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// An event in one line: its message, and what it mentions.
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if !self.0.is_empty() {
            self.0.push_str(", ");
        }
        // A string takes any text.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, "{name}: {value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_error_is_kept_with_what_it_mentions() {
        let diagnosis = Diagnosis::begin().unwrap();
        tracing::warn!("not an error");
        tracing::error!(path = "/x", "failed to mount");
        tracing::error!("failed to prepare");
        assert_eq!(diagnosis.first().unwrap(), r#"failed to mount, path: "/x""#);
    }
}
