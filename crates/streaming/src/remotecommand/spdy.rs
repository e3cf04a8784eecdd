//! A session over SPDY: the client opens one stream for each thing, and says in a header for what.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::exit::{self, Exit, StatusForm};
use super::{OpenError, Session, Sizes, Streams};
use crate::connection::{Io, Timing};
use crate::spdy::frame::{self, Goodbye, Reset};
use crate::spdy::{Headers, Stream, session};

/// What a stream is for: its `streamType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Error,
    Stdin,
    Stdout,
    Stderr,
    Resize,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Error, Self::Stdin, Self::Stdout, Self::Stderr, Self::Resize];

    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Stdin => "stdin",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Resize => "resize",
        }
    }

    fn of(headers: &Headers) -> Option<Self> {
        let name = headers.get("streamtype")?;
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    fn is_needed(self, wanted: Streams, resize: bool) -> bool {
        match self {
            Self::Error => true,
            Self::Stdin => wanted.stdin,
            Self::Stdout => wanted.stdout,
            Self::Stderr => wanted.stderr,
            Self::Resize => resize,
        }
    }
}

type Opened = BTreeMap<Kind, Stream>;

/// The client's streams, and what to say on them at the end.
#[derive(Debug)]
pub(super) struct Ending {
    streams: Opened,
    form: StatusForm,
}

/// Waits for the streams.
pub(super) async fn open(
    io: Io,
    wanted: Streams,
    resize: bool,
    form: StatusForm,
    timing: Timing,
) -> Result<Session, OpenError> {
    let (connection, mut opened) = session::start(io, timing.idle, |_, headers| Kind::of(headers));
    let mut streams = Opened::new();
    let is_needed = |kind: &Kind| kind.is_needed(wanted, resize);
    let collecting = collect(&mut opened, &mut streams, is_needed);
    match timeout(timing.creation, collecting).await {
        Ok(true) => {}
        Ok(false) => return Err(OpenError::Closed),
        Err(_) => return Err(missing(&streams, is_needed, timing.creation)),
    }
    // What nobody asked for is opened all the same by some, and must not hold up the rest.
    streams
        .iter()
        .filter(|(kind, _)| !is_needed(kind))
        .for_each(|(_, stream)| stream.ignore_input());
    let output = |kind| {
        streams
            .get(&kind)
            .filter(|_| is_needed(&kind))
            .map(Stream::output)
    };
    let input = |kind| streams.get(&kind).filter(|_| is_needed(&kind)).map(Stream::input);
    Ok(Session {
        stdin: input(Kind::Stdin),
        stdout: output(Kind::Stdout),
        stderr: output(Kind::Stderr),
        sizes: input(Kind::Resize).map(Sizes::new),
        ending: super::Ending::Spdy(Ending { streams, form }),
        connection,
    })
}

/// Takes streams until all that are needed are there; false if the connection ends before.
async fn collect(
    opened: &mut mpsc::Receiver<(Kind, Stream)>,
    streams: &mut Opened,
    is_needed: impl Fn(&Kind) -> bool,
) -> bool {
    while Kind::ALL
        .iter()
        .any(|kind| is_needed(kind) && !streams.contains_key(kind))
    {
        let Some((kind, stream)) = opened.recv().await else {
            return false;
        };
        match streams.entry(kind) {
            Entry::Occupied(_) => stream.reset(Reset::Refused).await,
            Entry::Vacant(place) => {
                place.insert(stream);
            }
        }
    }
    true
}

fn missing(streams: &Opened, is_needed: impl Fn(&Kind) -> bool, waited: Duration) -> OpenError {
    let missing = Kind::ALL
        .iter()
        .find(|kind| is_needed(kind) && !streams.contains_key(kind));
    OpenError::NoStream {
        missing: missing.map_or("unknown", |kind| kind.name()),
        waited,
    }
}

impl Ending {
    /// Stops waiting for anyone to read input, and returns the last frames: the status, the end of every
    /// stream, and of the connection.
    ///
    /// The status comes first, because clients of the first version do not wait for it once the outputs end.
    pub(super) fn prepare(&self, exit: &Exit) -> Bytes {
        let mut frames = BytesMut::new();
        for (kind, stream) in &self.streams {
            stream.ignore_input();
            let bytes = if *kind == Kind::Error {
                exit::status(exit, self.form)
            } else {
                Vec::new()
            };
            frames.extend_from_slice(&frame::data(stream.id(), &bytes, true));
        }
        let last = self.streams.values().map(Stream::id).max().unwrap_or_default();
        frames.extend_from_slice(&frame::goaway(last, Goodbye::Ok));
        frames.freeze()
    }
}
