//! Carrying bytes between a client's stream and a connection to the pod.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, copy};
use tokio::time::timeout;

use crate::connection::Io;
use crate::inbox::Input;
use crate::outbox::Output;

/// How long one direction may go on after the other has ended.
///
/// kubectl says the same for a local program that has said all and still listens and for one that is gone, and
/// goes on to throw away what is sent to it. So there must be an end to it; containerd waits one second.
const HALF_CLOSED: Duration = Duration::from_secs(60);

/// Carries bytes both ways until both have ended. `pod_is_done` runs when the pod has said all. An error is one
/// of reading from the pod, or of a direction that went on for too long.
pub(super) async fn carry(
    mut input: Input,
    mut output: Output,
    pod: Io,
    pod_is_done: impl Future<Output = ()>,
) -> io::Result<()> {
    let (mut from_pod, mut to_pod) = tokio::io::split(pod);
    let up = async move {
        // A pod that does not listen may still have something to say; what then comes for it is thrown away.
        let copied = copy(&mut input, &mut to_pod).await;
        drop(input);
        let ended = to_pod.shutdown().await;
        if let Err(error) = copied.and(ended) {
            tracing::debug!(%error, "a pod does not listen any more");
        }
    };
    let down = async {
        copy(&mut from_pod, &mut output).await?;
        pod_is_done.await;
        Ok(())
    };
    tokio::pin!(up, down);
    tokio::select! {
        () = &mut up => timeout(HALF_CLOSED, down).await?,
        result = &mut down => {
            result?;
            Ok(timeout(HALF_CLOSED, up).await?)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, DuplexStream};
    use tokio::sync::mpsc;

    use super::*;
    use crate::inbox::Inbox;
    use crate::outbox::{self, Framing, Packet};
    use crate::websocket::channel::Encoding;

    struct Ends {
        client: Arc<Inbox>,
        packets: mpsc::Receiver<Packet>,
        pod: DuplexStream,
        carrying: tokio::task::JoinHandle<io::Result<()>>,
    }

    fn start() -> Ends {
        let (outbox, packets) = outbox::queue();
        let client = Arc::new(Inbox::default());
        let (pod, far) = tokio::io::duplex(1024);
        let input = Input::new(Arc::clone(&client));
        let output = outbox.output(Framing::Channel {
            number: 0,
            encoding: Encoding::Binary,
        });
        let done = async move { outbox.send(Bytes::from_static(b"done")).await.unwrap() };
        let carrying = tokio::spawn(carry(input, output, Box::new(far), done));
        Ends {
            client,
            packets,
            pod,
            carrying,
        }
    }

    async fn packet(packets: &mut mpsc::Receiver<Packet>) -> Bytes {
        match packets.recv().await {
            Some(Packet::Frame(frame) | Packet::Last(frame)) => frame,
            Some(Packet::Ping) | None => panic!("no packet"),
        }
    }

    #[tokio::test]
    async fn each_direction_ends_on_its_own() {
        let mut ends = start();
        ends.client.feed(Bytes::from_static(b"question")).await;
        ends.client.end();
        let mut question = String::new();
        ends.pod.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        ends.pod.write_all(b"answer").await.unwrap();
        assert_eq!(packet(&mut ends.packets).await, b"\0answer"[..]);
        drop(ends.pod);
        assert_eq!(packet(&mut ends.packets).await, b"done"[..]);
        ends.carrying.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_pod_that_does_not_listen_is_heard_to_its_end() {
        let mut ends = start();
        let to_pod = vec![1; 100_000].into();
        ends.pod.write_all(&[2; 1000]).await.unwrap();
        let client = Arc::clone(&ends.client);
        let sending = tokio::spawn(async move { client.feed(to_pod).await });
        drop(ends.pod);
        let mut length = 0;
        while length < 1000 {
            length += packet(&mut ends.packets).await.len() - 1;
        }
        assert_eq!(packet(&mut ends.packets).await, b"done"[..]);
        sending.await.unwrap();
        ends.carrying.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_direction_does_not_go_on_for_ever_after_the_other() {
        let mut ends = start();
        ends.client.end();
        ends.pod.write_all(b"x").await.unwrap();
        assert_eq!(packet(&mut ends.packets).await, b"\0x"[..]);
        let error = ends.carrying.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
