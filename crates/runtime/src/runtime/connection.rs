//! The server's end of a shim's socket: many requests at a time, each answered when it is.
//!
//! A [`Connection`] is shared by everyone who talks to a pod; [`Connection::run`] reads what the shim says
//! and is driven by the pod's one task. When it returns, nothing more will come: whoever waits for an
//! answer or for the end of a process is told that the connection is lost.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::ready;
use crate::shim::protocol::{
    Answer, Event, Failure, MAX_MESSAGE_BYTES, Message, OLDEST_VERSION, Op, Request, VERSION,
};
use crate::shim::socket;

/// A request was not carried out, or nobody knows.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// The shim's own words.
    #[error("{}", .0.message)]
    Refused(Failure),
    /// The shim has died, or cut the connection.
    #[error("the pod's shim does not answer")]
    Lost,
    #[error("send a request to the pod's shim: {0}")]
    Send(#[source] io::Error),
    /// Something else than what the request is answered with.
    #[error("the pod's shim gave an answer that does not fit the question")]
    Nonsense,
}

type Reply = Result<(Answer, Option<OwnedFd>), Failure>;

/// The process at the other end of a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) pid: i32,
    /// Sure to mean the same process.
    pub(crate) pidfd: OwnedFd,
}

/// A connection to a shim.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: AsyncFd<OwnedFd>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    last_id: u64,
    closed: bool,
    replies: HashMap<u64, oneshot::Sender<Reply>>,
    /// Processes started by `Exec`, by the id of that request.
    execs: HashMap<u64, oneshot::Sender<i32>>,
}

impl Connection {
    /// Takes over a connected socket.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let socket = ready::watch(socket, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            socket,
            waiting: Mutex::default(),
        })
    }

    /// Reads what the shim says until it closes the connection; hands events on.
    pub(crate) async fn run(&self, mut on_event: impl FnMut(Event)) {
        // One message at a time; only as much of it is touched as messages are long.
        let mut buffer = vec![0; MAX_MESSAGE_BYTES];
        loop {
            let receive = |fd: &OwnedFd| socket::receive(fd, &mut buffer);
            let received = self.socket.async_io(Interest::READABLE, receive).await;
            if !self.hear(received, &buffer, &mut on_event) {
                break;
            }
        }
        self.close();
    }

    /// The shim has ended: reads what it has said before, and closes the connection.
    pub(crate) fn finish(&self, mut on_event: impl FnMut(Event)) {
        let mut buffer = vec![0; MAX_MESSAGE_BYTES];
        while self.hear(socket::receive(&self.socket, &mut buffer), &buffer, &mut on_event) {}
        self.close();
    }

    /// Whoever waits for something, or will, is told that it will not come.
    pub(crate) fn close(&self) {
        *self.waiting() = Waiting {
            closed: true,
            ..Waiting::default()
        };
    }

    /// Passes a message on to whom it concerns; `false` if it was none.
    fn hear(
        &self,
        received: io::Result<(usize, Vec<OwnedFd>)>,
        buffer: &[u8],
        on_event: &mut impl FnMut(Event),
    ) -> bool {
        let (message, fd) = match received {
            Ok((0, _)) => return false,
            Ok((length, mut fds)) => match serde_json::from_slice(&buffer[..length]) {
                Ok(message) => (message, fds.pop()),
                Err(error) => {
                    tracing::warn!(%error, "a shim said something that is not part of the protocol");
                    return false;
                }
            },
            Err(error) => {
                tracing::debug!(%error, "the connection to a shim has ended");
                return false;
            }
        };
        match message {
            Message::Reply { id, result } => {
                if let Some(waiter) = self.waiting().replies.remove(&id) {
                    // Whoever asked may have stopped waiting.
                    let _ = waiter.send(result.map(|answer| (answer, fd)));
                }
            }
            Message::Event(Event::ExecExited { exec, exit_code }) => {
                if let Some(waiter) = self.waiting().execs.remove(&exec) {
                    let _ = waiter.send(exit_code);
                }
            }
            Message::Event(event) => on_event(event),
        }
        true
    }

    /// Agrees on a version. First on every connection.
    pub(crate) async fn hello(&self) -> Result<(), RequestError> {
        let op = Op::Hello {
            oldest: OLDEST_VERSION,
            newest: VERSION,
        };
        match self.request(op, &[]).await? {
            (Answer::Hello { .. }, _) => Ok(()),
            _ => Err(RequestError::Nonsense),
        }
    }

    /// Asks, and waits for the answer. Cancelled, the request is carried out all the same.
    pub(crate) async fn request(
        &self,
        op: Op,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Answer, Option<OwnedFd>), RequestError> {
        let (id, reply) = self.expect_reply()?;
        self.send(&Request { id, op }, fds).await?;
        reply
            .await
            .map_err(|_| RequestError::Lost)?
            .map_err(RequestError::Refused)
    }

    /// Asks for something that is answered with no more than that it has been done.
    pub(crate) async fn order(
        &self,
        op: Op,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Option<OwnedFd>, RequestError> {
        match self.request(op, fds).await? {
            (Answer::Done, fd) => Ok(fd),
            _ => Err(RequestError::Nonsense),
        }
    }

    /// Starts a process; gives its id, its terminal, and what will tell of its end.
    pub(crate) async fn exec(
        &self,
        op: Op,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(u64, Option<OwnedFd>, oneshot::Receiver<i32>), RequestError> {
        let (id, reply) = self.expect_reply()?;
        let (exited, exit) = oneshot::channel();
        self.waiting().execs.insert(id, exited);
        let started = async {
            self.send(&Request { id, op }, fds).await?;
            match reply
                .await
                .map_err(|_| RequestError::Lost)?
                .map_err(RequestError::Refused)?
            {
                (Answer::ExecStarted { .. }, fd) => Ok(fd),
                _ => Err(RequestError::Nonsense),
            }
        };
        match started.await {
            Ok(fd) => Ok((id, fd, exit)),
            Err(error) => {
                self.waiting().execs.remove(&id);
                Err(error)
            }
        }
    }

    fn expect_reply(&self) -> Result<(u64, oneshot::Receiver<Reply>), RequestError> {
        let mut waiting = self.waiting();
        if waiting.closed {
            return Err(RequestError::Lost);
        }
        waiting.last_id += 1;
        let id = waiting.last_id;
        let (sender, receiver) = oneshot::channel();
        waiting.replies.insert(id, sender);
        Ok((id, receiver))
    }

    async fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), RequestError> {
        let send = |fd: &OwnedFd| socket::send(fd, request, fds);
        let sent = self.socket.async_io(Interest::WRITABLE, send).await;
        sent.map_err(|error| {
            self.waiting().replies.remove(&request.id);
            match error.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => RequestError::Lost,
                _ => RequestError::Send(error),
            }
        })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Held for a lookup at a time; no panic can leave it half changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who is at the other end.
    ///
    /// # Errors
    /// When it has ended, so far that it has closed the socket.
    pub(crate) fn peer(&self) -> io::Result<Peer> {
        let pid = rustix::net::sockopt::socket_peercred(self.socket.as_fd())?.pid;
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
        // If the peer had died before the pidfd was made, the socket would be closed now.
        let mut fds = [rustix::event::PollFd::new(
            &self.socket,
            rustix::event::PollFlags::empty(),
        )];
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut fds, Some(&now))?;
        if fds[0].revents().contains(rustix::event::PollFlags::HUP) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let pid = pid.as_raw_pid();
        Ok(Peer { pid, pidfd })
    }
}
