//! One try of a probe.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use stead_runtime::{ExecConfig, ExecSyncError, Pod};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Probe, Target};

/// As much of an answer or output as events show.
const MAX_OUTPUT: usize = 10 * 1024;
/// The wait before a connection is tried again within a probe.
const CONNECT_AGAIN: Duration = Duration::from_millis(20);
/// Redirects that are followed.
const MAX_REDIRECTS: usize = 10;

/// How a try ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It succeeded.
    Success,
    /// It failed; what events say of it.
    Failure(String),
    /// It could not be tried, and why.
    Unknown(String),
}

/// What probes of a container are run against.
#[derive(Clone)]
pub(crate) struct Prober {
    pub(crate) pod: Pod,
    /// The container's id.
    pub(crate) container: String,
    /// Where the pod is reached.
    pub(crate) ip: IpAddr,
}

/// Tries once; it takes the probe's timeout at most.
pub(crate) async fn check(prober: &Prober, probe: &Probe) -> Outcome {
    let timeout = probe.timeout;
    let address = |host: &Option<String>, port: u16| {
        let ip = host
            .as_deref()
            .and_then(|host| host.parse().ok())
            .unwrap_or(prober.ip);
        SocketAddr::new(ip, port)
    };
    let tried = async {
        match &probe.target {
            Target::Exec(_) | Target::Unknown(_) => Ok(()),
            Target::Http {
                https,
                host,
                port,
                path,
                headers,
            } => {
                let address = address(host, *port);
                http_get(address, *https, path, headers).await
            }
            Target::Tcp { host, port } => {
                let address = address(host, *port);
                connect(address).await.map(|_| ())
            }
            Target::Grpc { port, service } => grpc(SocketAddr::new(prober.ip, *port), service).await,
        }
    };
    match &probe.target {
        // It sees to its own timeout, so that what it started does not stay behind.
        Target::Exec(command) => exec(prober, command, timeout).await,
        Target::Unknown(why) => Outcome::Unknown(why.clone()),
        target => {
            let result = tokio::time::timeout(timeout, tried).await;
            match result.unwrap_or_else(|_| Err(late(target, prober, timeout))) {
                Ok(()) => Outcome::Success,
                Err(why) => Outcome::Failure(why),
            }
        }
    }
}

fn late(target: &Target, prober: &Prober, timeout: Duration) -> String {
    match target {
        Target::Http {
            https, port, path, ..
        } => format!(
            "Get \"{}://{}:{port}{path}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            if *https { "https" } else { "http" },
            prober.ip,
        ),
        Target::Tcp { port, .. } => format!("dial tcp {}:{port}: i/o timeout", prober.ip),
        Target::Grpc { port, .. } => {
            format!(
                "timeout: failed to connect service \"{}:{port}\" within {}s: context deadline exceeded",
                prober.ip,
                timeout.as_secs()
            )
        }
        Target::Exec(_) | Target::Unknown(_) => String::new(),
    }
}

async fn exec(prober: &Prober, command: &[String], timeout: Duration) -> Outcome {
    let config = ExecConfig::new(command.to_vec());
    match prober
        .pod
        .exec_sync(&prober.container, config, Some(timeout), MAX_OUTPUT)
        .await
    {
        Ok(output) if output.exit_code == 0 => Outcome::Success,
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            Outcome::Failure(String::from_utf8_lossy(&text).into_owned())
        }
        Err(ExecSyncError::TimedOut(command)) => Outcome::Failure(format!(
            "command timed out: \"{command}\" timed out after {}s",
            timeout.as_secs()
        )),
        Err(error) => Outcome::Unknown(error.to_string()),
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| {
        // As Go writes it; without the number that Rust adds.
        let text = error.to_string().to_lowercase();
        let text = text.split(" (os error").next().unwrap_or_default();
        format!("dial tcp {address}: connect: {text}")
    })
}

/// Tries until somebody is there, as clients of gRPC do; the probe's timeout ends it.
async fn connect_in_time(address: SocketAddr) -> TcpStream {
    loop {
        match TcpStream::connect(address).await {
            Ok(stream) => return stream,
            Err(_) => tokio::time::sleep(CONNECT_AGAIN).await,
        }
    }
}

async fn http_get(
    address: SocketAddr,
    https: bool,
    path: &str,
    headers: &[(String, String)],
) -> Result<(), String> {
    let scheme = if https { "https" } else { "http" };
    let mut path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    for _ in 0..=MAX_REDIRECTS {
        let url = format!("{scheme}://{address}{path}");
        let response = get(address, https, &path, headers)
            .await
            .map_err(|why| format!("Get \"{url}\": {why}"))?;
        let status = response.status().as_u16();
        match redirect(&response, address) {
            Some(next) if (300..400).contains(&status) => path = next,
            _ if (200..400).contains(&status) => return Ok(()),
            _ => return Err(format!("HTTP probe failed with statuscode: {status}")),
        }
    }
    Err(format!(
        "Get \"{scheme}://{address}{path}\": stopped after {MAX_REDIRECTS} redirects"
    ))
}

/// Where a redirect leads, if it stays with the container. One that leads elsewhere is a success.
fn redirect(response: &Response<Incoming>, address: SocketAddr) -> Option<String> {
    let location: Uri = response.headers().get("location")?.to_str().ok()?.parse().ok()?;
    let stays = location
        .host()
        .is_none_or(|host| host == address.ip().to_string());
    let path = location.path_and_query().map(|path| path.as_str().to_owned())?;
    (stays && location.port_u16().is_none_or(|port| port == address.port())).then_some(path)
}

async fn get(
    address: SocketAddr,
    https: bool,
    path: &str,
    headers: &[(String, String)],
) -> Result<Response<Incoming>, String> {
    let mut request = Request::get(path)
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let own = request.headers_mut();
    let text = |value: &str| HeaderValue::from_str(value).map_err(|error| error.to_string());
    own.insert("host", text(&address.to_string())?);
    own.insert(
        "user-agent",
        HeaderValue::from_static(concat!("kube-probe/stead-", env!("CARGO_PKG_VERSION"))),
    );
    own.insert("accept", HeaderValue::from_static("*/*"));
    own.insert("connection", HeaderValue::from_static("close"));
    for (name, value) in headers {
        let name: HeaderName = name.parse().map_err(|_| format!("invalid header {name}"))?;
        // An empty Accept takes the header away, as upstream has it.
        if name == "accept" && value.is_empty() {
            own.remove(name);
        } else {
            own.insert(name, text(value)?);
        }
    }
    let stream = connect(address).await?;
    if https {
        let name = ServerName::IpAddress(address.ip().into());
        let stream = TLS
            .connect(name, stream)
            .await
            .map_err(|error| error.to_string())?;
        answer(stream, request).await
    } else {
        answer(stream, request).await
    }
}

async fn answer<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // The connection is driven here, for as long as the answer takes; nothing stays behind.
    tokio::pin!(connection);
    let answered = sender.send_request(request);
    tokio::pin!(answered);
    tokio::select! {
        response = &mut answered => response.map_err(|error| error.to_string()),
        ended = &mut connection => match ended {
            Ok(()) => answered.await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        },
    }
}

/// `grpc.health.v1.Health/Check`: a message with one string, answered by one with a number, of which
/// 1 is SERVING.
async fn grpc(address: SocketAddr, service: &str) -> Result<(), String> {
    let stream = connect_in_time(address).await;
    let failed = |error: &dyn std::fmt::Display| format!("error: health rpc failed: {error}");
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    let mut message = vec![0];
    let body = named(service);
    message.extend((body.len() as u32).to_be_bytes());
    message.extend(body);
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(http_body_util::Full::new(Bytes::from(message)))
        .map_err(|error| failed(&error))?;
    tokio::pin!(connection);
    let exchange = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| failed(&error))?;
        let headers = response.headers().clone();
        let collected = Limited::new(response.into_body(), MAX_OUTPUT).collect().await;
        let collected = collected.map_err(|error| failed(&error))?;
        let status = collected
            .trailers()
            .and_then(|trailers| trailers.get("grpc-status"))
            .or(headers.get("grpc-status"));
        match status.and_then(|status| status.to_str().ok()) {
            None | Some("0") => Ok(collected.to_bytes()),
            Some("12") => Err(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)"
                    .to_owned(),
            ),
            Some(code) => {
                let said = collected
                    .trailers()
                    .or(Some(&headers))
                    .and_then(|from| from.get("grpc-message"));
                let said = said.and_then(|said| said.to_str().ok()).unwrap_or_default();
                Err(failed(&format!(
                    "rpc error: code = {} desc = {said}",
                    code_name(code)
                )))
            }
        }
    };
    tokio::pin!(exchange);
    let answer = tokio::select! {
        answer = &mut exchange => answer?,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await?,
            Err(error) => return Err(failed(&error)),
        },
    };
    match answer.get(5..).unwrap_or_default() {
        [0x08, 1] => Ok(()),
        [0x08, status] => Err(unhealthy(*status)),
        _ => Err(unhealthy(0)),
    }
}

/// A status of gRPC as Go's client writes it.
fn code_name(code: &str) -> &str {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    let number = code.parse::<usize>().ok();
    number
        .and_then(|number| NAMES.get(number).copied())
        .unwrap_or(code)
}

fn unhealthy(status: u8) -> String {
    let name = match status {
        0 => "UNKNOWN".to_owned(),
        2 => "NOT_SERVING".to_owned(),
        3 => "SERVICE_UNKNOWN".to_owned(),
        other => other.to_string(),
    };
    format!("service unhealthy (responded with {name:?})")
}

/// A `HealthCheckRequest`: its one field is the service's name, after a varint of its length.
fn named(service: &str) -> Vec<u8> {
    if service.is_empty() {
        return Vec::new();
    }
    let mut body = vec![0x0a];
    let mut length = service.len();
    while length >= 0x80 {
        body.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    body.push(length as u8);
    body.extend(service.as_bytes());
    body
}

/// TLS that takes any certificate: a probe asks whether somebody answers, not who.
static TLS: LazyLock<TlsConnector> = LazyLock::new(|| {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the ring provider serves the default protocol versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
});

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers each connection with the next of these texts.
    async fn server(answers: Vec<String>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        address
    }

    fn answer(status: &str, header: &str) -> String {
        format!("HTTP/1.1 {status}\r\n{header}content-length: 0\r\n\r\n")
    }

    #[tokio::test]
    async fn http_answers_below_400_are_successes() {
        for (status, expected) in [
            ("200 OK", Ok(())),
            ("399 Odd", Ok(())),
            (
                "404 Not Found",
                Err("HTTP probe failed with statuscode: 404".to_owned()),
            ),
            (
                "500 Broken",
                Err("HTTP probe failed with statuscode: 500".to_owned()),
            ),
        ] {
            let address = server(vec![answer(status, "")]).await;
            assert_eq!(http_get(address, false, "/", &[]).await, expected, "{status}");
        }
    }

    #[tokio::test]
    async fn redirects_are_followed_within_the_container_only() {
        let moved = |to: &str| answer("302 Found", &format!("location: {to}\r\n"));
        let address = server(vec![moved("/next"), answer("500 Broken", "")]).await;
        assert!(http_get(address, false, "/", &[]).await.is_err());
        let address = server(vec![moved("http://example.com/")]).await;
        assert_eq!(http_get(address, false, "/", &[]).await, Ok(()));
    }

    #[test]
    fn the_name_of_a_service_may_be_long() {
        assert_eq!(named(""), b"");
        assert_eq!(named("ab"), b"\x0a\x02ab");
        let long = "x".repeat(300);
        assert_eq!(named(&long)[..3], [0x0a, 0xac, 0x02]);
        assert_eq!(named(&long).len(), 303);
    }

    #[tokio::test]
    async fn nobody_there_is_said_as_go_says_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        assert_eq!(
            http_get(address, false, "/x", &[]).await,
            Err(format!(
                "Get \"http://{address}/x\": dial tcp {address}: connect: connection refused"
            ))
        );
    }
}
