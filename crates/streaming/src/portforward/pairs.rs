//! Which error stream and which data stream belong together.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::spdy::Headers;

/// What a client says of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) kind: Kind,
    pub(super) port: u16,
    /// The same for both streams of a connection.
    pub(super) request: String,
}

/// What a stream is for: its `streamType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Error,
    Data,
}

impl Label {
    /// Reads a stream's headers; none, if the kubelet would refuse the stream.
    pub(super) fn of(stream: u32, headers: &Headers) -> Option<Self> {
        Self::from_values(
            stream,
            headers.get("streamtype")?,
            headers.get("port")?,
            headers.get("requestid"),
        )
    }

    fn from_values(stream: u32, kind: &str, port: &str, request: Option<&str>) -> Option<Self> {
        let kind = match kind {
            "error" => Kind::Error,
            "data" => Kind::Data,
            _ => return None,
        };
        let port = port.parse().ok().filter(|port| *port > 0)?;
        let request = match request.filter(|request| !request.is_empty()) {
            Some(request) => request.to_owned(),
            // Clients before 1.2 give no number, but open the two streams one after the other.
            None if kind == Kind::Data => stream.saturating_sub(2).to_string(),
            None => stream.to_string(),
        };
        Some(Self { kind, port, request })
    }
}

/// Both streams of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pair<S> {
    pub(super) port: u16,
    pub(super) data: S,
    pub(super) error: S,
}

/// One stream of a connection, for as long as its other is awaited.
#[derive(Debug)]
struct Half<S> {
    kind: Kind,
    stream: S,
    deadline: Instant,
}

/// The streams that wait for their other.
#[derive(Debug)]
pub(super) struct Pairs<S> {
    waiting: HashMap<String, Half<S>>,
    patience: Duration,
}

/// What became of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Added<S> {
    Waiting,
    Complete(Pair<S>),
    /// There is one of its kind already.
    Duplicate(S),
}

impl<S> Pairs<S> {
    /// `patience`: how long a stream waits for its other.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            waiting: HashMap::new(),
            patience,
        }
    }

    pub(super) fn add(&mut self, label: Label, stream: S, now: Instant) -> Added<S> {
        let Label { kind, port, request } = label;
        let Some(other) = self.waiting.remove(&request) else {
            self.waiting.insert(
                request,
                Half {
                    kind,
                    stream,
                    deadline: now + self.patience,
                },
            );
            return Added::Waiting;
        };
        match (kind, other.kind) {
            (Kind::Error, Kind::Data) => Added::Complete(Pair {
                port,
                data: other.stream,
                error: stream,
            }),
            (Kind::Data, Kind::Error) => Added::Complete(Pair {
                port,
                data: stream,
                error: other.stream,
            }),
            _ => {
                self.waiting.insert(request, other);
                Added::Duplicate(stream)
            }
        }
    }

    /// When the next stream will have waited long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.values().map(|half| half.deadline).min()
    }

    /// Takes out the streams that have waited long enough, with the request of each.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<(String, S)> {
        let expired = self.waiting.extract_if(|_, half| half.deadline <= now);
        expired.map(|(request, half)| (request, half.stream)).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn label(kind: Kind, request: &str) -> Label {
        Label {
            kind,
            port: 80,
            request: request.to_owned(),
        }
    }

    #[test]
    fn labels_are_read_as_the_kubelet_reads_them() {
        let read = |kind, port, request| Label::from_values(7, kind, port, request);
        assert_eq!(read("error", "80", Some("0")), Some(label(Kind::Error, "0")));
        assert_eq!(
            read("data", "80", None),
            Some(label(Kind::Data, "5")),
            "follows its error stream"
        );
        assert_eq!(read("error", "80", None), Some(label(Kind::Error, "7")));
        for (kind, port) in [
            ("stdin", "80"),
            ("data", "0"),
            ("data", "65536"),
            ("data", "-1"),
            ("data", ""),
        ] {
            assert_eq!(read(kind, port, Some("0")), None, "{kind} {port}");
        }
    }

    #[test]
    fn two_streams_of_one_request_are_a_pair_in_either_order() {
        let (mut pairs, now) = (Pairs::new(PATIENCE), Instant::now());
        assert_eq!(pairs.add(label(Kind::Error, "a"), 1, now), Added::Waiting);
        assert_eq!(pairs.add(label(Kind::Data, "b"), 2, now), Added::Waiting);
        let complete = |data, error| {
            Added::Complete(Pair {
                port: 80,
                data,
                error,
            })
        };
        assert_eq!(pairs.add(label(Kind::Error, "b"), 3, now), complete(2, 3));
        assert_eq!(pairs.add(label(Kind::Data, "a"), 4, now), complete(4, 1));
        assert_eq!(pairs.deadline(), None);
    }

    #[test]
    fn a_second_stream_of_a_kind_is_a_duplicate() {
        let (mut pairs, now) = (Pairs::new(PATIENCE), Instant::now());
        pairs.add(label(Kind::Data, "a"), 1, now);
        assert_eq!(pairs.add(label(Kind::Data, "a"), 2, now), Added::Duplicate(2));
        let pair = Pair {
            port: 80,
            data: 1,
            error: 3,
        };
        assert_eq!(pairs.add(label(Kind::Error, "a"), 3, now), Added::Complete(pair));
    }

    #[test]
    fn a_stream_waits_for_its_other_only_so_long() {
        let (mut pairs, now) = (Pairs::new(PATIENCE), Instant::now());
        pairs.add(label(Kind::Data, "a"), 1, now);
        pairs.add(label(Kind::Data, "b"), 2, now + PATIENCE);
        assert_eq!(pairs.deadline(), Some(now + PATIENCE));
        assert_eq!(pairs.expired(now), []);
        assert_eq!(pairs.expired(now + PATIENCE), [("a".to_owned(), 1)]);
        assert_eq!(pairs.deadline(), Some(now + 2 * PATIENCE));
    }
}
