//! From a request to a response.

use super::forward::{Transport, Upstreams};
use super::lookup::Lookup;
use super::zone::Zone;
use hickory_proto::op::{Edns, Message, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use std::net::SocketAddr;
use std::sync::Arc;

/// Answers requests from the zone, and from the upstream resolvers.
pub(super) struct Handler {
    zone: Arc<Zone>,
    upstreams: Arc<Upstreams>,
    /// The addresses of this server.
    own: Vec<SocketAddr>,
}

/// A response, before it is fitted into the client's buffer.
#[derive(Debug, Default)]
struct Answer {
    code: ResponseCode,
    authoritative: bool,
    truncated: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

/// A chain of aliases that is longer is taken for a loop.
const LONGEST_ALIAS_CHAIN: usize = 8;
/// The most that is sent over UDP, however much the client would take: longer datagrams get fragmented.
const LARGEST_ANSWER: u16 = 1232;

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        handle: R,
    ) -> ResponseInfo {
        let answer = self.answer(request).await;
        respond(request, answer, handle).await
    }
}

impl Handler {
    pub(super) fn new(zone: Arc<Zone>, upstreams: Arc<Upstreams>, own: Vec<SocketAddr>) -> Self {
        Self { zone, upstreams, own }
    }

    async fn answer(&self, request: &Request) -> Answer {
        if request.metadata.op_code != OpCode::Query {
            return Answer::failure(ResponseCode::NotImp);
        }
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return Answer::failure(ResponseCode::BADVERS);
        }
        let Ok(info) = request.request_info() else {
            return Answer::failure(ResponseCode::FormErr);
        };
        if info.query.query_class() != DNSClass::IN {
            return Answer::failure(ResponseCode::Refused);
        }
        let query = info.query.original();
        match self.zone.lookup(query.name(), query.query_type()) {
            Lookup::Foreign => {
                let by = match request.protocol() {
                    Protocol::Udp => Transport::Udp,
                    _ => Transport::Tcp,
                };
                let relayed = self.upstreams.relay(request.as_slice(), by, &self.own).await;
                relayed.map_or_else(|| Answer::failure(ResponseCode::ServFail), Answer::relayed)
            }
            Lookup::Alias { answer, target } => self.follow(*answer, target, query.query_type()).await,
            found => self.of_zone(found),
        }
    }

    fn of_zone(&self, lookup: Lookup) -> Answer {
        let missing = |code| Answer {
            code,
            authoritative: true,
            authorities: vec![self.zone.soa()],
            ..Answer::default()
        };
        match lookup {
            Lookup::Found { answers, additionals } => Answer {
                authoritative: true,
                answers,
                additionals,
                ..Answer::default()
            },
            Lookup::NoSuchRecord => missing(ResponseCode::NoError),
            Lookup::NoSuchName => missing(ResponseCode::NXDomain),
            Lookup::Foreign | Lookup::Alias { .. } => Answer::failure(ResponseCode::ServFail),
        }
    }

    /// Clients' resolvers expect an alias together with what it stands for.
    async fn follow(&self, alias: Record, mut target: Name, kind: RecordType) -> Answer {
        let mut chain = vec![alias];
        let mut last = Answer::failure(ResponseCode::ServFail);
        while chain.len() <= LONGEST_ALIAS_CHAIN {
            last = match self.zone.lookup(&target, kind) {
                Lookup::Alias { answer, target: next } => {
                    chain.push(*answer);
                    target = next;
                    continue;
                }
                Lookup::Foreign => {
                    let resolved = self.upstreams.resolve(&target, kind, &self.own).await;
                    resolved.map_or(last, Answer::relayed)
                }
                found => self.of_zone(found),
            };
            break;
        }
        last.answers.splice(0..0, chain);
        last.authoritative = true;
        last
    }
}

impl Answer {
    fn failure(code: ResponseCode) -> Self {
        Self {
            code,
            ..Self::default()
        }
    }

    fn relayed(message: Message) -> Self {
        Self {
            code: message.metadata.response_code,
            authoritative: message.metadata.authoritative,
            truncated: message.metadata.truncation,
            answers: message.answers,
            authorities: message.authorities,
            additionals: message.additionals,
        }
    }
}

async fn respond<R: ResponseHandler>(request: &Request, answer: Answer, mut handle: R) -> ResponseInfo {
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.response_code = answer.code;
    metadata.authoritative = answer.authoritative;
    metadata.truncation = answer.truncated;
    metadata.recursion_available = true;
    let edns = request.edns.as_ref().map(|asked| {
        let mut edns = Edns::new();
        edns.set_max_payload(asked.max_payload().clamp(512, LARGEST_ANSWER));
        edns.set_version(0);
        edns
    });
    let mut builder = MessageResponseBuilder::from_message_request(request);
    if let Some(edns) = &edns {
        builder.edns(edns);
    }
    // What does not fit is left out and the response marked as truncated; the client asks again over TCP.
    let response = builder.build(
        metadata,
        &answer.answers,
        &answer.authorities,
        [],
        &answer.additionals,
    );
    match handle.send_response(response).await {
        Ok(info) => info,
        Err(error) => {
            tracing::debug!(%error, client = %request.src(), "send a dns answer");
            failed(metadata)
        }
    }
}

/// What the server is told when nothing could be sent.
fn failed(mut metadata: Metadata) -> ResponseInfo {
    metadata.response_code = ResponseCode::ServFail;
    hickory_proto::op::Header {
        metadata,
        counts: hickory_proto::op::HeaderCounts::default(),
    }
    .into()
}
