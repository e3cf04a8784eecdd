//! WebSocket connections, as a set of channels ([`channel`], [`receive`]) or as one stream of bytes
//! ([`tunnel`]).
//!
//! The WebSocket protocol itself, with its pings and its closing handshake, is tungstenite's.

pub(crate) mod channel;
pub(crate) mod tunnel;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::SplitStream;
use tokio::sync::Notify;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::activity::Activity;
use crate::connection::{Connection, Io, Parts, Wire};
use crate::inbox::Inbox;
use crate::outbox;
use channel::{Dialect, Event};

/// How large a client's message may be; as the kubelet has it. Some clients send a whole file in one.
const MAX_MESSAGE: usize = 32 << 20;

const BUFFER: usize = 32 * 1024;

/// The channels of a client, by their numbers. What comes for others is thrown away.
pub(crate) type Channels = Vec<Option<Arc<Inbox>>>;

/// Takes the server's side of an upgraded connection.
pub(crate) async fn socket(io: Io) -> WebSocketStream<Io> {
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// What shows how far a client is.
#[derive(Debug, Default)]
pub(crate) struct Signs {
    /// Notified when it has answered a ping.
    pub(crate) answered: Notify,
    /// Notified when it has said something on a channel, or ended one.
    pub(crate) spoke: Notify,
}

/// Starts a connection with channels. `signs` are given as they come.
pub(crate) async fn start(
    io: Io,
    dialect: Dialect,
    channels: Channels,
    idle: Duration,
    signs: Arc<Signs>,
) -> Connection {
    let (sink, messages) = socket(io).await.split();
    let (outbox, packets) = outbox::queue();
    let activity = Arc::new(Activity::new());
    let reading = receive(messages, dialect, channels, Arc::clone(&activity), signs);
    let wire = Wire::Messages(sink, dialect.encoding);
    Connection::start(
        Parts {
            outbox,
            packets,
            wire,
            activity,
            reading,
        },
        idle,
    )
}

/// Distributes what comes over the channels until the connection ends.
async fn receive(
    mut messages: SplitStream<WebSocketStream<Io>>,
    dialect: Dialect,
    channels: Channels,
    activity: Arc<Activity>,
    signs: Arc<Signs>,
) {
    while let Some(message) = messages.next().await {
        activity.note();
        let bytes = match message {
            Ok(Message::Binary(bytes)) => bytes,
            Ok(Message::Text(text)) => Bytes::from(text),
            Ok(Message::Pong(_)) => {
                signs.answered.notify_one();
                continue;
            }
            Ok(_) => continue,
            Err(error) => {
                tracing::debug!(%error, "a client's WebSocket connection broke off");
                break;
            }
        };
        let channel = |number| channels.get(usize::from(number)).and_then(Option::as_ref);
        match channel::parse(dialect, bytes) {
            Ok(Event::Data {
                channel: number,
                bytes,
            }) => {
                signs.spoke.notify_one();
                if let Some(inbox) = channel(number) {
                    inbox.feed(bytes).await;
                }
            }
            Ok(Event::End { channel: number }) => {
                signs.spoke.notify_one();
                if let Some(inbox) = channel(number) {
                    inbox.end();
                }
            }
            Ok(Event::Nothing) => {}
            Err(error) => {
                tracing::debug!(%error, "a client broke the channel protocol");
                break;
            }
        }
    }
    for inbox in channels.iter().flatten() {
        inbox.end();
    }
}
