//! Running commands in a container and attaching to it: one session, whatever the client speaks.
//!
//! A client asks for it over WebSocket (`v5.channel.k8s.io`, `v4.channel.k8s.io`, the older `channel.k8s.io`,
//! and their `base64.` variants) or over SPDY/3.1 (versions 5 to 1). The kubelet's handler calls [`accept`],
//! sends the answer, and then, in a task of its own, [`Upgrade::open`]s the [`Session`]:
//!
//! ```no_run
//! use stead_streaming::remotecommand::{Exit, Streams, accept};
//! use tokio::io::AsyncWriteExt;
//!
//! # fn handler(mut request: http::Request<()>) -> Result<(), stead_streaming::Rejection> {
//! let wanted = Streams::from_query(request.uri().query().unwrap_or_default())?;
//! let (response, upgrade) = accept(&mut request, wanted)?;
//! # drop(response);
//! let task = async move {
//!     let mut session = upgrade.open(Default::default()).await?;
//!     if let Some(stdout) = &mut session.stdout {
//!         stdout.write_all(b"hello\n").await?;
//!     }
//!     session.finish(&Exit::Success).await?;
//!     Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
//! };
//! # drop(task);
//! # Ok(())
//! # }
//! ```

mod channels;
mod exit;
mod size;
mod spdy;

use std::time::Duration;

use http::{Request, Response};

pub use exit::Exit;
use exit::StatusForm;
pub(crate) use size::read_all as read_sizes;
pub use size::{Sizes, TerminalSize};

use crate::connection::{Connection, HungUp, Timing};
use crate::inbox::Input;
use crate::outbox::Output;
use crate::upgrade::{self, Offer, Pending, Rejection};
use crate::websocket::channel::{Dialect, Encoding};

/// The streams that a client asks for in the query.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streams {
    /// It has something to send.
    pub stdin: bool,
    /// It wants standard output.
    pub stdout: bool,
    /// It wants standard error.
    pub stderr: bool,
    /// The command gets a terminal, whose size the client may set; standard error is then part of its output.
    pub tty: bool,
}

impl Streams {
    /// From the query of a request to a kubelet: `input`, `output`, `error` and `tty`, each 1 if wanted. With
    /// a terminal there is no standard error. Asking for no stream at all is an error.
    pub fn from_query(query: &str) -> Result<Self, Rejection> {
        let is_wanted = |name| upgrade::query_values(query, name).next() == Some("1");
        let tty = is_wanted("tty");
        let (stdin, stdout, stderr) = (
            is_wanted("input"),
            is_wanted("output"),
            is_wanted("error") && !tty,
        );
        if !stdin && !stdout && !stderr {
            return Err(Rejection::Query(
                "you must specify at least 1 of stdin, stdout, stderr".to_owned(),
            ));
        }
        Ok(Self {
            stdin,
            stdout,
            stderr,
            tty,
        })
    }
}

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    /// `resize`: with a terminal, the client opens a stream for its sizes.
    Spdy {
        resize: bool,
    },
    Channels(Dialect),
}

type Protocol = (Transport, StatusForm);

const SPDY: &[(&str, Protocol)] = {
    use StatusForm::{Json, Text};
    const NEW: Transport = Transport::Spdy { resize: true };
    const OLD: Transport = Transport::Spdy { resize: false };
    &[
        ("v5.channel.k8s.io", (NEW, Json)),
        ("v4.channel.k8s.io", (NEW, Json)),
        ("v3.channel.k8s.io", (NEW, Text)),
        ("v2.channel.k8s.io", (OLD, Text)),
        ("channel.k8s.io", (OLD, Text)),
    ]
};

const BINARY: Transport = Transport::Channels(Dialect {
    encoding: Encoding::Binary,
    ends: false,
});

const WEBSOCKET: &[(&str, Protocol)] = {
    use StatusForm::{Json, Text};
    const ENDING: Transport = Transport::Channels(Dialect {
        encoding: Encoding::Binary,
        ends: true,
    });
    const BASE64: Transport = Transport::Channels(Dialect {
        encoding: Encoding::Base64,
        ends: false,
    });
    &[
        ("v5.channel.k8s.io", (ENDING, Json)),
        ("v4.channel.k8s.io", (BINARY, Json)),
        ("v4.base64.channel.k8s.io", (BASE64, Json)),
        ("channel.k8s.io", (BINARY, Text)),
        ("base64.channel.k8s.io", (BASE64, Text)),
    ]
};

/// Looks at a request to run a command or to attach, and answers it. The answer, status 101, must be sent for
/// the [`Upgrade`] to go on; a [`Rejection`] has an answer of its own.
///
/// The connection is taken out of the request's extensions.
pub fn accept<B>(request: &mut Request<B>, wanted: Streams) -> Result<(Response<()>, Upgrade), Rejection> {
    let (response, (transport, form)) = match Offer::of(request)? {
        Offer::Spdy { protocols } => {
            let (name, protocol) = upgrade::choose(&protocols, SPDY)?;
            (upgrade::to_spdy(name), protocol)
        }
        Offer::WebSocket { protocols, key } if protocols.is_empty() => {
            (upgrade::to_websocket(None, &key), (BINARY, StatusForm::Text))
        }
        Offer::WebSocket { protocols, key } => {
            let (name, protocol) = upgrade::choose(&protocols, WEBSOCKET)?;
            (upgrade::to_websocket(Some(name), &key), protocol)
        }
    };
    Ok((
        response,
        Upgrade {
            pending: Pending::take(request)?,
            transport,
            form,
            wanted,
        },
    ))
}

/// A connection that is about to become a [`Session`].
#[derive(Debug)]
pub struct Upgrade {
    pending: Pending,
    transport: Transport,
    form: StatusForm,
    wanted: Streams,
}

/// There is no session.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The answer could not be sent.
    #[error("upgrade a connection")]
    Upgrade(#[source] hyper::Error),
    /// The client did not open the streams it asked for.
    #[error("wait for a client to create its streams: none of type {missing} after {waited:?}")]
    NoStream {
        /// One of those that are missing.
        missing: &'static str,
        /// How long it had.
        waited: Duration,
    },
    /// The client closed the connection.
    #[error("wait for a client to create its streams: it has closed the connection")]
    Closed,
}

impl Upgrade {
    /// Waits for the connection and its streams. Cancelled, the connection is closed.
    pub async fn open(self, timing: Timing) -> Result<Session, OpenError> {
        let io = self.pending.io().await.map_err(OpenError::Upgrade)?;
        match self.transport {
            Transport::Spdy { resize } => {
                let resize = resize && self.wanted.tty;
                spdy::open(io, self.wanted, resize, self.form, timing).await
            }
            Transport::Channels(dialect) => channels::open(io, self.wanted, dialect, self.form, timing).await,
        }
    }
}

/// The streams between a client and a command. Which of them there are is what the client asked for.
///
/// To end it, call [`Session::finish`]. A session that is only dropped is cut off, which clients over SPDY take
/// for success: their protocol has no other sign of it.
#[derive(Debug)]
pub struct Session {
    /// Ends when the client has ended it (before version 5, WebSockets cannot), or is gone.
    pub stdin: Option<Input>,
    /// What is written is queued for the client.
    pub stdout: Option<Output>,
    /// The same.
    pub stderr: Option<Output>,
    /// With a terminal; not before version 3.
    pub sizes: Option<Sizes>,
    ending: Ending,
    connection: Connection,
}

/// What is needed to end a session in the client's protocol.
#[derive(Debug)]
enum Ending {
    Spdy(spdy::Ending),
    Channels(channels::Ending),
}

impl Session {
    /// Completes when the client is gone. A command may then be stopped, or left to itself.
    pub fn hung_up(&self) -> impl Future<Output = ()> + Send + use<> {
        self.connection.closed().clone().cancelled_owned()
    }

    /// Ends the session: everything written so far is sent, then how the command ended, and the connection is
    /// closed. Input that was not read is thrown away, and what others still write fails.
    ///
    /// Returns when the client has closed too, or does not for half a minute. Cancelled, the connection is cut
    /// off.
    pub async fn finish(self, exit: &Exit) -> Result<(), HungUp> {
        let Self {
            ending, connection, ..
        } = self;
        match ending {
            Ending::Spdy(ending) => {
                let last = ending.prepare(exit);
                // The streams live as long as the connection: its frames go nowhere else.
                connection.finish(last).await
            }
            Ending::Channels(ending) => connection.finish(ending.prepare(exit)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_query_says_which_streams_are_wanted() {
        let check = |query: &str, expected: Option<(bool, bool, bool, bool)>| {
            let streams = Streams::from_query(query).ok();
            let flags = streams.map(|streams| (streams.stdin, streams.stdout, streams.stderr, streams.tty));
            assert_eq!(flags, expected, "{query}");
        };
        check(
            "command=sh&input=1&output=1&error=1",
            Some((true, true, true, false)),
        );
        check(
            "command=sh&input=1&output=1&error=1&tty=1",
            Some((true, true, false, true)),
        );
        check("output=1&input=0", Some((false, true, false, false)));
        check("command=output&error=1", Some((false, false, true, false)));
        check("error=1&tty=1", None);
        check("", None);
    }
}
