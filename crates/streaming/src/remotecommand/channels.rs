//! A session over WebSocket: each thing has a channel of its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::exit::{self, Exit, StatusForm};
use super::{OpenError, Session, Sizes, Streams};
use crate::connection::{Connection, Io, Timing};
use crate::inbox::{Inbox, Input};
use crate::outbox::Framing;
use crate::websocket::channel::{self, Dialect, Encoding};
use crate::websocket::{self, Channels, Signs};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// How long a client may take to answer a ping, which WebSockets must; then it is taken to be ready.
const PATIENCE_WITH_PONG: Duration = Duration::from_secs(5);

/// The client's channels, and what to say at the end.
#[derive(Debug)]
pub(super) struct Ending {
    channels: Channels,
    encoding: Encoding,
    form: StatusForm,
}

/// Starts the channels.
pub(super) async fn open(
    io: Io,
    wanted: Streams,
    dialect: Dialect,
    form: StatusForm,
    timing: Timing,
) -> Result<Session, OpenError> {
    let inbox = |wanted: bool| wanted.then(|| Arc::new(Inbox::default()));
    let mut channels: Channels = vec![None; 5];
    channels[usize::from(STDIN)] = inbox(wanted.stdin);
    channels[usize::from(RESIZE)] = inbox(wanted.tty);
    let signs = Arc::new(Signs::default());
    let connection = websocket::start(io, dialect, channels.clone(), timing.idle, Arc::clone(&signs)).await;
    let encoding = dialect.encoding;
    if dialect.ends {
        until_it_reads(&connection, &signs).await?;
    } else {
        // Tells the client that the session stands, as the kubelet does.
        let greeting = channel::message(encoding, greeted(wanted), b"");
        let sent = connection.outbox().send(greeting).await;
        sent.map_err(|_| OpenError::Closed)?;
    }
    let input = |number: u8| channels[usize::from(number)].clone().map(Input::new);
    let output = |wanted: bool, number| {
        wanted.then(|| connection.outbox().output(Framing::Channel { number, encoding }))
    };
    Ok(Session {
        stdin: input(STDIN),
        stdout: output(wanted.stdout, STDOUT),
        stderr: output(wanted.stderr, STDERR),
        sizes: input(RESIZE).map(Sizes::new),
        ending: super::Ending::Channels(Ending {
            channels,
            encoding,
            form,
        }),
        connection,
    })
}

/// Waits until the client reads what it is sent. `kubectl` 1.31 to 1.33 begins that after it is connected, and
/// throws away what came before, so that the output of a quick command could be lost. It makes its channels
/// while it answers the first ping; by the second answer it has them. By the time that it says something on one,
/// it has them all; and what it says may be so much that no answer comes through before a command reads it.
async fn until_it_reads(connection: &Connection, signs: &Signs) -> Result<(), OpenError> {
    for _ in 0..2 {
        connection.outbox().ping().await.map_err(|_| OpenError::Closed)?;
        tokio::select! {
            () = signs.answered.notified() => {}
            () = signs.spoke.notified() => return Ok(()),
            () = connection.closed().cancelled() => return Err(OpenError::Closed),
            () = tokio::time::sleep(PATIENCE_WITH_PONG) => return Ok(()),
        }
    }
    Ok(())
}

/// The first channel on which the client listens.
fn greeted(wanted: Streams) -> u8 {
    match wanted {
        Streams { stdout: true, .. } => STDOUT,
        Streams { stderr: true, .. } => STDERR,
        _ => ERROR,
    }
}

impl Ending {
    /// Stops waiting for anyone to read input, and returns the last message: the status, or nothing.
    pub(super) fn prepare(&self, exit: &Exit) -> Bytes {
        self.channels.iter().flatten().for_each(|inbox| inbox.abandon());
        let status = exit::status(exit, self.form);
        if status.is_empty() {
            Bytes::new()
        } else {
            channel::message(self.encoding, ERROR, &status)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures::SinkExt;
    use tokio::time::Instant;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_with_much_to_say_is_not_waited_for() {
        let (here, there) = tokio::io::duplex(1024);
        let mut client = WebSocketStream::from_raw_socket(there, Role::Client, None).await;
        let client = tokio::spawn(async move {
            let much = Message::Binary(vec![STDIN; 1 << 20].into());
            client.send(much).await
        });
        let wanted = Streams {
            stdin: true,
            stdout: true,
            ..Streams::default()
        };
        let dialect = Dialect {
            encoding: Encoding::Binary,
            ends: true,
        };
        let begin = Instant::now();
        let session = open(
            Box::new(here),
            wanted,
            dialect,
            StatusForm::Json,
            Timing::default(),
        );
        let session = session.await.unwrap();
        assert!(begin.elapsed() < PATIENCE_WITH_PONG, "{:?}", begin.elapsed());
        drop(session.stdin);
        client.await.unwrap().unwrap();
    }
}
