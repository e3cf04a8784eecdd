//! The server over real sockets on loopback.

#![allow(clippy::unwrap_used)]

use super::{DnsServer, HeadlessEndpoint, ServeError, ServiceRecords, Upstreams, Zone, ZoneOptions};
use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const LOOPBACK: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

struct Running {
    address: SocketAddr,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Running {
    /// A server for some services that passes other questions to `upstreams` and to itself.
    async fn start(mut upstreams: Vec<SocketAddr>) -> Self {
        let zone = Zone::new(ZoneOptions {
            domain: "cluster.local".into(),
            name_servers: vec![Ipv4Addr::new(10, 96, 0, 10)],
            ranges: vec!["10.96.0.0/16".parse().unwrap()],
        });
        let zone = Arc::new(zone.unwrap());
        let addresses = |net: u8| vec![Ipv4Addr::new(10, 96, 0, net)];
        zone.set_service(
            "d",
            "web",
            ServiceRecords::ClusterIp {
                addresses: addresses(5),
                ports: Vec::new(),
            },
        );
        let endpoints = (0..100).map(|last| HeadlessEndpoint {
            address: Ipv4Addr::new(10, 244, 0, last),
            hostname: None,
            ports: Vec::new(),
        });
        zone.set_service("d", "many", ServiceRecords::Headless(endpoints.collect()));
        for (alias, target) in [
            ("outside", "example.com"),
            ("inside", "web.d.svc.cluster.local"),
            ("twice", "inside.d.svc.cluster.local"),
            ("loop", "loop.d.svc.cluster.local"),
            ("lost", "nothing.d.svc.cluster.local"),
        ] {
            zone.set_service("d", alias, ServiceRecords::External(target.into()));
        }
        let forwarder = Arc::new(Upstreams::new(Vec::new()));
        let server = loop {
            // The port that UDP gets may be taken for TCP.
            match DnsServer::bind(&[LOOPBACK.into()], Arc::clone(&zone), Arc::clone(&forwarder)).await {
                Ok(server) => break server,
                Err(error) => assert_eq!(error.source.kind(), ErrorKind::AddrInUse),
            }
        };
        let address = server.addresses()[0];
        upstreams.insert(0, address);
        forwarder.set(upstreams);
        let cancel = CancellationToken::new();
        let task = tokio::spawn(server.run(cancel.clone()));
        Self {
            address,
            cancel,
            task,
        }
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Message {
        udp(self.address, &question(name, kind)).await
    }
}

/// Another DNS server, which knows one address for every name. Counts the questions it gets.
struct Upstream {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    tasks: [JoinHandle<()>; 2],
}

impl Upstream {
    async fn start(code: ResponseCode, truncated: bool) -> Self {
        let (socket, listener) = loop {
            let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
            if let Ok(listener) = TcpListener::bind(socket.local_addr().unwrap()).await {
                break (socket, listener);
            }
        };
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let by_udp = tokio::spawn(async move {
            let mut datagram = [0; 512];
            loop {
                let (length, client) = socket.recv_from(&mut datagram).await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let answer = answer_to(&datagram[..length], code, truncated);
                // A forgery first, with another id.
                let mut forgery = answer.clone();
                forgery[0] ^= 1;
                socket.send_to(&forgery, client).await.unwrap();
                socket.send_to(&answer, client).await.unwrap();
            }
        });
        let by_tcp = tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let mut bytes = vec![0; usize::from(client.read_u16().await.unwrap())];
                client.read_exact(&mut bytes).await.unwrap();
                let answer = answer_to(&bytes, code, false);
                client.write_u16(answer.len() as u16).await.unwrap();
                client.write_all(&answer).await.unwrap();
            }
        });
        Self {
            address,
            asked,
            tasks: [by_udp, by_tcp],
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn answer_to(question: &[u8], code: ResponseCode, truncated: bool) -> Vec<u8> {
    let asked = Message::from_vec(question).unwrap();
    let mut answer = Message::response(asked.metadata.id, OpCode::Query);
    answer.metadata.response_code = code;
    answer.metadata.truncation = truncated;
    answer.add_queries(asked.queries.clone());
    let name = asked.queries[0].name().clone();
    if code == ResponseCode::NoError && asked.queries[0].query_type() == RecordType::A {
        answer.add_answer(Record::from_rdata(
            name,
            77,
            RData::A(A(Ipv4Addr::new(192, 0, 2, 1))),
        ));
    }
    answer.to_vec().unwrap()
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    question
}

async fn udp(server: SocketAddr, question: &Message) -> Message {
    let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
    socket.send_to(&question.to_vec().unwrap(), server).await.unwrap();
    let mut datagram = [0; 4096];
    let length = tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut datagram))
        .await
        .unwrap()
        .unwrap();
    let answer = Message::from_vec(&datagram[..length]).unwrap();
    assert_eq!(answer.metadata.id, question.metadata.id);
    answer
}

async fn tcp(server: SocketAddr, question: &Message) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let bytes = question.to_vec().unwrap();
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

fn show(message: &Message) -> String {
    let answers: Vec<_> = message
        .answers
        .iter()
        .map(|record| format!("{} {}", record.record_type(), record.data))
        .collect();
    format!("{:?} {}", message.metadata.response_code, answers.join(", "))
}

#[tokio::test]
async fn names_of_the_cluster_are_answered_over_udp_and_tcp() {
    let server = Running::start(Vec::new()).await;
    let question = question("WEB.d.svc.cluster.local.", RecordType::A);
    for answer in [
        udp(server.address, &question).await,
        tcp(server.address, &question).await,
    ] {
        assert_eq!(show(&answer), "NoError A 10.96.0.5");
        assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
        assert_eq!(answer.queries, question.queries);
    }
}

#[tokio::test]
async fn misses_come_with_the_soa_record_and_are_not_to_be_remembered() {
    let server = Running::start(Vec::new()).await;
    for (name, kind, code) in [
        (
            "web.d.svc.cluster.local.",
            RecordType::AAAA,
            ResponseCode::NoError,
        ),
        ("none.d.svc.cluster.local.", RecordType::A, ResponseCode::NXDomain),
    ] {
        let answer = server.ask(name, kind).await;
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (code, 0));
        assert!(answer.metadata.authoritative);
        let soa = &answer.authorities[0];
        assert_eq!((soa.record_type(), soa.ttl), (RecordType::SOA, 0));
    }
}

#[tokio::test]
async fn large_answers_are_cut_to_what_the_client_takes_and_whole_over_tcp() {
    let server = Running::start(Vec::new()).await;
    let mut question = question("many.d.svc.cluster.local.", RecordType::A);
    let plain = udp(server.address, &question).await;
    assert!(plain.metadata.truncation && plain.answers.len() < 30);
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    question.edns = Some(edns);
    let larger = udp(server.address, &question).await;
    assert!(larger.metadata.truncation && larger.answers.len() > 60);
    let whole = tcp(server.address, &question).await;
    assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 100));
    assert_eq!(whole.edns.unwrap().version(), 0);
}

#[tokio::test]
async fn other_names_are_asked_of_the_upstreams() {
    let upstream = Upstream::start(ResponseCode::NoError, false).await;
    let server = Running::start(vec![upstream.address]).await;
    let answer = server.ask("example.com.", RecordType::A).await;
    assert_eq!(
        (show(&answer), answer.answers[0].ttl),
        ("NoError A 192.0.2.1".into(), 77)
    );
    assert!(!answer.metadata.authoritative);
    assert_eq!(upstream.asked.load(Ordering::Relaxed), 1);
    // Names of the cluster are not.
    server.ask("none.cluster.local.", RecordType::A).await;
    server.ask("9.0.96.10.in-addr.arpa.", RecordType::PTR).await;
    assert_eq!(upstream.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_upstreams_cut_answer_makes_the_client_ask_over_tcp() {
    let upstream = Upstream::start(ResponseCode::NoError, true).await;
    let server = Running::start(vec![upstream.address]).await;
    assert!(
        server
            .ask("example.com.", RecordType::A)
            .await
            .metadata
            .truncation
    );
    let whole = tcp(server.address, &question("example.com.", RecordType::A)).await;
    assert_eq!(
        (show(&whole), whole.metadata.truncation),
        ("NoError A 192.0.2.1".into(), false)
    );
}

#[tokio::test]
async fn without_upstreams_other_names_fail_at_once_and_the_server_never_asks_itself() {
    let server = Running::start(Vec::new()).await;
    let start = Instant::now();
    assert_eq!(
        show(&server.ask("example.com.", RecordType::A).await),
        "ServFail "
    );
    assert!(start.elapsed() < Duration::from_millis(500));
}

#[tokio::test]
async fn the_next_upstream_is_asked_when_one_fails_and_is_preferred_from_then_on() {
    let failing = Upstream::start(ResponseCode::ServFail, false).await;
    let working = Upstream::start(ResponseCode::NoError, false).await;
    let server = Running::start(vec![failing.address, working.address]).await;
    for _ in 0..3 {
        assert_eq!(
            show(&server.ask("example.com.", RecordType::A).await),
            "NoError A 192.0.2.1"
        );
    }
    assert_eq!(failing.asked.load(Ordering::Relaxed), 1);
    assert_eq!(working.asked.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn an_upstreams_failure_is_passed_on_when_all_fail() {
    let refusing = Upstream::start(ResponseCode::Refused, false).await;
    let server = Running::start(vec![refusing.address]).await;
    assert_eq!(show(&server.ask("example.com.", RecordType::A).await), "Refused ");
    let unknowing = Upstream::start(ResponseCode::NXDomain, false).await;
    let server = Running::start(vec![unknowing.address, refusing.address]).await;
    assert_eq!(
        show(&server.ask("example.com.", RecordType::A).await),
        "NXDomain "
    );
}

#[tokio::test]
async fn aliases_are_answered_together_with_what_they_stand_for() {
    let upstream = Upstream::start(ResponseCode::NoError, false).await;
    let server = Running::start(vec![upstream.address]).await;
    for (name, expected) in [
        ("outside", "NoError CNAME example.com., A 192.0.2.1"),
        ("inside", "NoError CNAME web.d.svc.cluster.local., A 10.96.0.5"),
        (
            "twice",
            "NoError CNAME inside.d.svc.cluster.local., CNAME web.d.svc.cluster.local., A 10.96.0.5",
        ),
        ("lost", "NXDomain CNAME nothing.d.svc.cluster.local."),
    ] {
        let answer = server
            .ask(&format!("{name}.d.svc.cluster.local."), RecordType::A)
            .await;
        assert_eq!(show(&answer), expected);
    }
    let looping = server.ask("loop.d.svc.cluster.local.", RecordType::A).await;
    assert_eq!(looping.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn what_is_no_plain_question_is_turned_down() {
    let server = Running::start(Vec::new()).await;
    let name = "web.d.svc.cluster.local.";
    let mut chaos = question(name, RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(
        udp(server.address, &chaos).await.metadata.response_code,
        ResponseCode::Refused
    );
    let mut update = question(name, RecordType::SOA);
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(
        udp(server.address, &update).await.metadata.response_code,
        ResponseCode::NotImp
    );
    let mut newer = question(name, RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.edns = Some(edns);
    // 16: "bad version", or in signatures "bad signature".
    assert_eq!(
        u16::from(udp(server.address, &newer).await.metadata.response_code),
        16
    );
}

#[tokio::test]
async fn a_server_ends_when_it_is_cancelled_and_frees_its_address() {
    let server = Running::start(Vec::new()).await;
    let options = ZoneOptions {
        domain: "x".into(),
        name_servers: Vec::new(),
        ranges: Vec::new(),
    };
    let (zone, upstreams) = (
        Arc::new(Zone::new(options).unwrap()),
        Arc::new(Upstreams::new(Vec::new())),
    );
    let error = DnsServer::bind(&[server.address], zone, upstreams)
        .await
        .err()
        .unwrap();
    assert_eq!((error.address, error.protocol), (server.address, "udp"));
    server.cancel.cancel();
    tokio::time::timeout(Duration::from_secs(5), server.task)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    UdpSocket::bind(server.address).await.unwrap();
}
