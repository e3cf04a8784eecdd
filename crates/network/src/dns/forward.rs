//! Questions about names outside the cluster, passed on to the machine's resolvers.
//!
//! The question is passed on as it came, byte for byte but for its id, over the transport it came by. There
//! is no cache: the machine's resolvers have one, and answers that nobody keeps here are never stale.

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// The machine's resolvers.
pub struct Upstreams {
    servers: RwLock<Vec<SocketAddr>>,
    /// The server that answered last; the others are asked after it.
    preferred: AtomicUsize,
    questions: Semaphore,
}

/// How a question is passed on.
#[derive(Clone, Copy)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// How long a server may take before the next one is asked. Clients give up after five seconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// Each costs a socket. More than these fail at once, so that a flood does not pile up.
const QUESTIONS_AT_A_TIME: usize = 512;
const LARGEST_DATAGRAM: usize = 65535;
const HEADER_BYTES: usize = 12;

impl Upstreams {
    /// Resolvers to ask in this order. With none, questions outside the cluster fail at once.
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self {
            servers: RwLock::new(servers),
            preferred: AtomicUsize::new(0),
            questions: Semaphore::new(QUESTIONS_AT_A_TIME),
        }
    }

    /// Replaces the resolvers, as when the machine has changed networks.
    pub fn set(&self, servers: Vec<SocketAddr>) {
        *self.servers.write().unwrap_or_else(PoisonError::into_inner) = servers;
    }

    /// Passes a question on and returns the first answer, or the last failure if all fail. `own` are
    /// addresses never to ask. Nothing when no server answers.
    pub(super) async fn relay(&self, question: &[u8], by: Transport, own: &[SocketAddr]) -> Option<Message> {
        let servers = self.in_order(own);
        let _permit = self.questions.try_acquire().ok()?;
        let mut failure = None;
        for (place, server) in servers {
            match timeout(PATIENCE, exchange(question, server, by)).await {
                Ok(Ok(answer)) if is_failure(answer.metadata.response_code) => failure = Some(answer),
                Ok(Ok(answer)) => {
                    self.preferred.store(place, Ordering::Relaxed);
                    return Some(answer);
                }
                Ok(Err(error)) => tracing::debug!(%error, %server, "ask an upstream resolver"),
                Err(_) => tracing::debug!(%server, "an upstream resolver does not answer"),
            }
        }
        failure
    }

    /// Asks for the records at a name.
    pub(super) async fn resolve(&self, name: &Name, kind: RecordType, own: &[SocketAddr]) -> Option<Message> {
        let mut question = Message::query();
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(name.clone(), kind));
        self.relay(&question.to_vec().ok()?, Transport::Udp, own).await
    }

    /// The servers with their places in the list, the one that answered last first.
    fn in_order(&self, own: &[SocketAddr]) -> Vec<(usize, SocketAddr)> {
        let servers = self.servers.read().unwrap_or_else(PoisonError::into_inner);
        let mut servers: Vec<_> = servers
            .iter()
            .copied()
            .enumerate()
            .filter(|(_, server)| !own.contains(server))
            .collect();
        let preferred = self.preferred.load(Ordering::Relaxed);
        servers.sort_by_key(|(place, _)| *place != preferred);
        servers
    }
}

/// Whether another server may know better.
fn is_failure(code: ResponseCode) -> bool {
    matches!(
        code,
        ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp
    )
}

async fn exchange(question: &[u8], server: SocketAddr, by: Transport) -> io::Result<Message> {
    // An id of ours, and for UDP a random source port: both must be guessed to forge an answer.
    let id = Message::query().metadata.id;
    let mut question = question.to_vec();
    let header = question
        .get_mut(..HEADER_BYTES)
        .ok_or(io::ErrorKind::InvalidInput)?;
    header[..2].copy_from_slice(&id.to_be_bytes());
    let asked = parse(&question)?;
    match by {
        Transport::Udp => exchange_udp(&question, &asked, server).await,
        Transport::Tcp => exchange_tcp(&question, &asked, server).await,
    }
}

async fn exchange_udp(question: &[u8], asked: &Message, server: SocketAddr) -> io::Result<Message> {
    let any = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut datagram = vec![0; LARGEST_DATAGRAM];
    loop {
        let length = socket.recv(&mut datagram).await?;
        // Anything else is a late answer to somebody else, or a forgery.
        if let Ok(answer) = parse(&datagram[..length])
            && answers(&answer, asked)
        {
            return Ok(answer);
        }
    }
}

async fn exchange_tcp(question: &[u8], asked: &Message, server: SocketAddr) -> io::Result<Message> {
    let length = u16::try_from(question.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut stream = TcpStream::connect(server).await?;
    stream
        .write_all(&[&length.to_be_bytes(), question].concat())
        .await?;
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await?;
    let answer = parse(&bytes)?;
    if answers(&answer, asked) {
        Ok(answer)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

fn parse(bytes: &[u8]) -> io::Result<Message> {
    Message::from_vec(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn answers(answer: &Message, asked: &Message) -> bool {
    answer.metadata.id == asked.metadata.id && answer.queries == asked.queries
}
