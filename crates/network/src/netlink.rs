//! One netlink conversation with the kernel, without an actor, a task or a wait.
//!
//! The kernel handles a netlink request while the process is inside `send`: when that returns, the answers
//! are in the socket's queue (a dump continues inside each `recv`). So a request is two short system calls
//! on the calling thread, and several requests can share one `send`, which is what makes attaching a pod
//! cheap. For the same reason no call here ever waits for an answer: a missing one is an error.
//!
//! Assumes that the socket is used for nothing but requests (no multicast groups). The socket belongs to
//! the network namespace of the thread that opened it.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use nix::libc::MSG_DONTWAIT;
use nix::sys::socket::{setsockopt, sockopt};
use std::io;

/// An open socket for one netlink protocol.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// A message and the `NLM_F_*` flags it is sent with, beside "request" and "acknowledge".
pub(crate) struct Request<M> {
    pub(crate) message: M,
    pub(crate) flags: u16,
}

/// A batch that the kernel turned down, of which nothing took effect.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Sequence number of the first message that was refused.
    pub(crate) sequence: u32,
    pub(crate) source: io::Error,
}

/// Enough for the largest datagram of a dump, which the kernel makes 32 KiB at most, and for the echo of a
/// refused message, whose attributes are 64 KiB at most.
const RECEIVE_BYTES: usize = 80 * 1024;

/// How often a dump is begun anew because the tables changed under it, before that is an error.
const DUMP_ATTEMPTS: usize = 20;

impl Netlink {
    /// Opens a socket for `protocol` (`NETLINK_ROUTE`, `NETLINK_NETFILTER`) in this thread's namespace.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends all requests in one system call and returns the outcome of each. A failed request does not
    /// keep the kernel from carrying out the ones after it.
    pub(crate) fn transact<M>(&mut self, requests: Vec<Request<M>>) -> io::Result<Vec<io::Result<()>>>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let first = self.sequence.wrapping_add(1);
        let mut outcomes: Vec<Option<io::Result<()>>> = requests.iter().map(|_| None).collect();
        let mut buffer = Vec::new();
        for request in requests {
            self.append(&mut buffer, request.message, request.flags | NLM_F_ACK);
        }
        self.socket.send(&buffer, 0)?;
        while outcomes.iter().any(Option::is_none) {
            for message in parse::<M>(&self.receive()?) {
                if let NetlinkPayload::Error(error) = message.payload {
                    let index = message.header.sequence_number.wrapping_sub(first) as usize;
                    if let Some(outcome) = outcomes.get_mut(index) {
                        *outcome = Some(if error.code.is_none() {
                            Ok(())
                        } else {
                            Err(error.to_io())
                        });
                    }
                }
            }
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    /// Sends a request that is answered by one message.
    pub(crate) fn query<M>(&mut self, message: M) -> io::Result<M>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut buffer = Vec::new();
        self.append(&mut buffer, message, 0);
        self.socket.send(&buffer, 0)?;
        loop {
            for message in parse(&self.receive()?) {
                match message.payload {
                    _ if message.header.sequence_number != self.sequence => {}
                    NetlinkPayload::InnerMessage(answer) => return Ok(answer),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }

    /// Sends a request that is answered by a list. An entry that cannot be understood is left out: a kind
    /// of link this program does not know must not keep it from working with the others.
    pub(crate) fn dump<M>(&mut self, message: M) -> io::Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Clone,
    {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(entries) = self.dump_once(message.clone())? {
                return Ok(entries);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "the list kept changing while it was read",
        ))
    }

    /// The list, or nothing when it changed while it was read.
    fn dump_once<M>(&mut self, message: M) -> io::Result<Option<Vec<M>>>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut buffer = Vec::new();
        self.append(&mut buffer, message, NLM_F_DUMP);
        self.socket.send(&buffer, 0)?;
        let (mut entries, mut whole) = (Vec::new(), true);
        loop {
            for message in parse(&self.receive()?) {
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(entry) => entries.push(entry),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Done(_) => return Ok(whole.then_some(entries)),
                    _ => {}
                }
            }
        }
    }

    /// Sends a batch of already encoded messages that take effect together or not at all. Only refusals
    /// are read: the kernel has dealt with the whole batch when `send` returns.
    pub(crate) fn send_batch(&mut self, batch: &[u8]) -> Result<(), Refused> {
        let failed = |source| Refused { sequence: 0, source };
        self.make_room(batch.len()).map_err(failed)?;
        self.socket.send(batch, 0).map_err(failed)?;
        let mut refused = None;
        loop {
            let answers = match self.receive() {
                Ok(answers) => answers,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // More refusals than the queue holds; the first ones are in it.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => continue,
                Err(error) => return Err(failed(error)),
            };
            for message in parse::<Opaque>(&answers) {
                if let NetlinkPayload::Error(error) = message.payload
                    && error.code.is_some()
                {
                    let sequence = message.header.sequence_number;
                    refused.get_or_insert(Refused {
                        sequence,
                        source: error.to_io(),
                    });
                }
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// A datagram must fit into the socket's send buffer, whose default is far below a large rule set.
    fn make_room(&mut self, bytes: usize) -> io::Result<()> {
        // Half of what the kernel reports is for its own bookkeeping.
        let available = nix::sys::socket::getsockopt(&self.socket, sockopt::SndBuf)? / 2;
        if bytes + 4096 > available {
            setsockopt(&self.socket, sockopt::SndBufForce, &(bytes + 4096))?;
        }
        Ok(())
    }

    fn append<M: NetlinkSerializable>(&mut self, buffer: &mut Vec<u8>, message: M, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags | NLM_F_REQUEST;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = buffer.len();
        buffer.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut buffer[start..]);
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
        let length = self
            .socket
            .recv(&mut buffer, MSG_DONTWAIT | nix::libc::MSG_TRUNC)?;
        if length > buffer.len() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a netlink answer was cut off",
            ));
        }
        Ok(buffer)
    }
}

/// The messages of one datagram.
pub(crate) fn parse<M: NetlinkDeserializable>(datagram: &[u8]) -> Vec<NetlinkMessage<M>> {
    let mut messages = Vec::new();
    let mut rest = datagram;
    while let Some(length) = rest
        .first_chunk()
        .map(|bytes| u32::from_ne_bytes(*bytes) as usize)
    {
        if length < 16 || length > rest.len() {
            break;
        }
        match NetlinkMessage::deserialize(&rest[..length]) {
            Ok(message) => messages.push(message),
            Err(error) => tracing::debug!(%error, "left out a netlink message"),
        }
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    messages
}

/// For answers of which only the outcome matters.
struct Opaque;

impl NetlinkDeserializable for Opaque {
    type Error = std::convert::Infallible;

    fn deserialize(_: &NetlinkHeader, _: &[u8]) -> Result<Self, Self::Error> {
        Ok(Self)
    }
}
