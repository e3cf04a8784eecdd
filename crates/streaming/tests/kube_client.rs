//! Sessions with a client of another make, `kube`'s, over WebSockets and a loopback port.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use futures::SinkExt;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{AttachParams, AttachedProcess, TerminalSize};
use kube::{Api, Client, Config};
use stead_streaming::portforward::{self, Target};
use stead_streaming::remotecommand::{self, Exit, Session, Streams};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What a test does with a session: it gives how the command ended.
type Command = fn(Session) -> futures::future::BoxFuture<'static, (Session, Exit)>;

/// A node that runs one command, or forwards to a listener that echoes.
struct Node {
    client: Client,
    _tasks: JoinSet<()>,
    /// They outlive the HTTP connections that they came from.
    _sessions: Sessions,
}

type Sessions = Arc<Mutex<JoinSet<()>>>;

impl Node {
    async fn new(command: Command) -> Self {
        let echo = echo().await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        let sessions = Sessions::default();
        let started = Arc::clone(&sessions);
        tasks.spawn(echo.1);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let started = Arc::clone(&started);
                let service = service_fn(move |request| {
                    let response = answer(request, command, echo.0, &mut started.lock().unwrap());
                    async { Ok::<_, Infallible>(response) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades();
                connections.spawn(async {
                    let _ = connection.await;
                });
            }
        });
        let config = Config::new(format!("http://{address}").parse().unwrap());
        Self {
            client: Client::try_from(config).unwrap(),
            _tasks: tasks,
            _sessions: sessions,
        }
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "n")
    }

    async fn exec(&self, params: &AttachParams) -> AttachedProcess {
        self.pods().exec("p", ["command"], params).await.unwrap()
    }
}

/// A listener that sends back what it receives, and the task behind it.
async fn echo() -> (SocketAddr, impl Future<Output = ()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            connections.spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    };
    (address, serve)
}

fn answer(
    mut request: Request<Incoming>,
    command: Command,
    echo: SocketAddr,
    sessions: &mut JoinSet<()>,
) -> Response<String> {
    if request.uri().path().ends_with("/portforward") {
        let (response, upgrade) = portforward::accept(&mut request).unwrap();
        let target = Target {
            pod: "p".to_owned(),
            uid: "u".to_owned(),
        };
        sessions.spawn(async move {
            let connect = move |port| {
                let refused = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "nobody there");
                async move {
                    if port == 80 {
                        TcpStream::connect(echo).await
                    } else {
                        Err(refused)
                    }
                }
            };
            upgrade.serve(target, Default::default(), connect).await.unwrap();
        });
        return response.map(|()| String::new());
    }
    let is_wanted = |name: &str| request.uri().query().unwrap().contains(&format!("{name}=true"));
    let wanted = Streams {
        stdin: is_wanted("stdin"),
        stdout: is_wanted("stdout"),
        stderr: is_wanted("stderr"),
        tty: is_wanted("tty"),
    };
    let (response, upgrade) = remotecommand::accept(&mut request, wanted).unwrap();
    sessions.spawn(async move {
        let session = upgrade.open(Default::default()).await.unwrap();
        let (session, exit) = command(session).await;
        session.finish(&exit).await.unwrap();
    });
    response.map(|()| String::new())
}

async fn status(process: &mut AttachedProcess) -> Status {
    process.take_status().unwrap().await.unwrap()
}

#[tokio::test]
async fn output_arrives_before_the_exit_code() {
    let node = Node::new(|mut session| {
        Box::pin(async move {
            session
                .stdout
                .as_mut()
                .unwrap()
                .write_all(&vec![b'x'; 1 << 20])
                .await
                .unwrap();
            session.stderr.as_mut().unwrap().write_all(b"oh").await.unwrap();
            (session, Exit::Code(3))
        })
    });
    let node = node.await;
    let mut process = node
        .exec(&AttachParams::default().max_stdout_buf_size(1 << 16))
        .await;
    let (mut stdout, mut stderr) = (process.stdout().unwrap(), process.stderr().unwrap());
    let ended = status(&mut process);
    let (mut out, mut err) = (Vec::new(), String::new());
    let (out_length, err_length, ended) = tokio::join!(
        stdout.read_to_end(&mut out),
        stderr.read_to_string(&mut err),
        ended
    );
    assert_eq!(
        (out_length.unwrap(), err_length.unwrap(), err.as_str()),
        (1 << 20, 2, "oh")
    );
    assert_eq!(ended.reason.as_deref(), Some("NonZeroExitCode"));
    assert_eq!(
        ended.details.unwrap().causes.unwrap()[0].message.as_deref(),
        Some("3")
    );
    process.join().await.unwrap();
}

#[tokio::test]
async fn input_and_the_size_of_the_terminal_reach_the_command() {
    let node = Node::new(|mut session| {
        Box::pin(async move {
            let size = session.sizes.as_mut().unwrap().next().await.unwrap();
            let mut line = [0; 5];
            session
                .stdin
                .as_mut()
                .unwrap()
                .read_exact(&mut line)
                .await
                .unwrap();
            let text = format!(
                "{} {}x{}",
                String::from_utf8_lossy(&line),
                size.columns,
                size.rows
            );
            session
                .stdout
                .as_mut()
                .unwrap()
                .write_all(text.as_bytes())
                .await
                .unwrap();
            (session, Exit::Success)
        })
    });
    let node = node.await;
    let mut process = node.exec(&AttachParams::interactive_tty()).await;
    process
        .terminal_size()
        .unwrap()
        .send(TerminalSize {
            width: 80,
            height: 24,
        })
        .await
        .unwrap();
    process.stdin().unwrap().write_all(b"hello").await.unwrap();
    let mut text = String::new();
    process.stdout().unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello 80x24");
    assert_eq!(status(&mut process).await.status.as_deref(), Some("Success"));
    process.join().await.unwrap();
}

#[tokio::test]
async fn a_command_that_was_not_run_says_why() {
    let node =
        Node::new(|session| Box::pin(async { (session, Exit::Failed("it is gone".to_owned())) })).await;
    let mut process = node.exec(&AttachParams::default()).await;
    let status = status(&mut process).await;
    assert_eq!(status.reason.as_deref(), Some("InternalError"));
    assert_eq!(
        status.message.as_deref(),
        Some("Internal error occurred: it is gone")
    );
}

#[tokio::test]
async fn a_client_that_goes_away_is_noticed() {
    static GONE: tokio::sync::Notify = tokio::sync::Notify::const_new();
    let node = Node::new(|mut session| {
        Box::pin(async move {
            session.stdout.as_mut().unwrap().write_all(b"x").await.unwrap();
            session.hung_up().await;
            GONE.notify_one();
            std::future::pending().await
        })
    });
    let node = node.await;
    let mut process = node.exec(&AttachParams::interactive_tty()).await;
    // The command has begun: else there would be nobody to notice.
    process.stdout().unwrap().read_exact(&mut [0]).await.unwrap();
    process.abort();
    drop(process);
    GONE.notified().await;
}

#[tokio::test]
async fn connections_are_forwarded_and_refusals_told() {
    let node = Node::new(|_| unreachable!()).await;
    let mut forwarder = node.pods().portforward("p", &[80, 81]).await.unwrap();
    let mut open = forwarder.take_stream(80).unwrap();
    open.write_all(b"ping").await.unwrap();
    let mut pong = [0; 4];
    open.read_exact(&mut pong).await.unwrap();
    assert_eq!(&pong, b"ping");
    let error = forwarder.take_error(81).unwrap().await.unwrap();
    assert_eq!(error, "error forwarding port 81 to pod p, uid u: nobody there");
}
