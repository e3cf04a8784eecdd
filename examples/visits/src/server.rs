//! Serving clients: a fixed number of threads that each take one client at a time.
//!
//! The kernel keeps clients that come meanwhile waiting, so any number is served with bounded memory. No
//! client can hold a thread for longer than [`PATIENCE`].

use std::io::{self, Read};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::http::{self, Method, ReadError, Request, Response, Status};
use crate::ledger::Ledger;

const THREADS: usize = 32;
/// How long a client may take to ask, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// What is read of a body that nobody wants, so that the client gets to see the answer.
const MAX_UNREAD_BYTES: u64 = 64 * 1024;

/// What clients see.
pub(crate) struct App {
    pub(crate) name: String,
    pub(crate) ledger: Ledger,
    /// Takes a line about each client that is worth one.
    pub(crate) log: fn(&str),
}

impl App {
    fn answer(&self, request: &Request) -> Response {
        match (&request.method, request.path.as_str()) {
            (Method::Other, _) => Response::new(Status::MethodNotAllowed, "only GET and HEAD are served"),
            (_, "/healthz") => Response::new(Status::Ok, "ok"),
            (Method::Get, "/") => match self.ledger.add(jiff::Timestamp::now()) {
                Ok(count) => {
                    let visits = if count == 1 { "visit" } else { "visits" };
                    Response::new(Status::Ok, format!("{}: {count} {visits}", self.name))
                }
                Err(error) => Response::new(
                    Status::InternalServerError,
                    format!("{}: cannot write down the visit: {error}", self.name),
                ),
            },
            // To ask without looking is no visit.
            (Method::Head, "/") => Response::new(Status::Ok, ""),
            (_, path) => Response::new(Status::NotFound, format!("nothing at {path}")),
        }
    }
}

/// A server that runs until [`Server::stop`].
pub(crate) struct Server {
    listener: Arc<TcpListener>,
    threads: Vec<JoinHandle<()>>,
}

/// Starts to serve `app`.
pub(crate) fn start(listener: TcpListener, app: Arc<App>) -> io::Result<Server> {
    let listener = Arc::new(listener);
    let threads = (0..THREADS)
        .map(|_| {
            let (listener, app) = (Arc::clone(&listener), Arc::clone(&app));
            std::thread::Builder::new()
                .stack_size(64 * 1024)
                .spawn(move || serve(&listener, &app))
        })
        .collect::<io::Result<_>>()?;
    Ok(Server { listener, threads })
}

impl Server {
    /// Accepts no more clients, and returns when those accepted have been answered.
    pub(crate) fn stop(self) {
        // Wakes all that wait in `accept`.
        let _ = nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, app: &App) {
    loop {
        match listener.accept() {
            Ok((client, peer)) => {
                if let Some(line) = converse(client, app) {
                    (app.log)(&format!("{} {line}", peer.ip()));
                }
            }
            // What `stop` makes of a listener.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
            // The client went away, or descriptors are short for a moment: both pass.
            Err(_) => std::thread::yield_now(),
        }
    }
}

/// Serves one client. Returns what to write to the log: probes are not worth a line.
fn converse(client: TcpStream, app: &App) -> Option<String> {
    let until = Instant::now() + PATIENCE;
    client.set_write_timeout(Some(PATIENCE)).ok()?;
    let request = http::read_request(Hurried {
        client: &client,
        until,
    });
    let (response, with_body, line) = match &request {
        Ok(request) => {
            let response = app.answer(request);
            let line = (request.path != "/healthz").then(|| response.body.clone());
            (response, request.method != Method::Head, line)
        }
        Err(ReadError::Closed) => return None,
        Err(error) => (Response::from(error), true, Some(format!("{error:?}"))),
    };
    http::write_response(&client, &response, with_body).ok()?;
    // Closing with something unread would reset the connection, which can overtake the answer.
    client.shutdown(Shutdown::Write).ok()?;
    let rest = Hurried {
        client: &client,
        until,
    };
    let _ = io::copy(&mut rest.take(MAX_UNREAD_BYTES), &mut io::sink());
    line
}

/// Reads from a client until a point in time.
struct Hurried<'a> {
    client: &'a TcpStream,
    until: Instant,
}

impl Read for Hurried<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.client.set_read_timeout(Some(left))?;
        let mut client = self.client;
        client.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::io::Write;
    use std::net::SocketAddr;

    /// A running server; the directory goes with it.
    struct Running {
        server: Server,
        address: SocketAddr,
        _dir: tempfile::TempDir,
    }

    fn running() -> Running {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let app = App {
            name: "visits-0".to_owned(),
            ledger: Ledger::open(dir.path()).unwrap(),
            log: |_| {},
        };
        Running {
            server: start(listener, Arc::new(app)).unwrap(),
            address,
            _dir: dir,
        }
    }

    impl Running {
        fn ask(&self, request: &str) -> String {
            let mut client = TcpStream::connect(self.address).unwrap();
            client.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            answer
        }

        #[track_caller]
        fn check(&self, request: &str, status: &str, body: &str) {
            let answer = self.ask(&format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n"));
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            assert_eq!(answer.split_once("\r\n\r\n").unwrap().1, body);
        }
    }

    #[test]
    fn only_looking_at_the_page_counts() {
        let running = running();
        running.check("GET /healthz", "200", "ok\n");
        running.check("GET /", "200", "visits-0: 1 visit\n");
        running.check("HEAD /", "200", "");
        running.check("GET /favicon.ico", "404", "nothing at /favicon.ico\n");
        running.check("POST /", "405", "only GET and HEAD are served\n");
        running.check("GET /?again", "200", "visits-0: 2 visits\n");
        running.server.stop();
    }

    #[test]
    fn bad_requests_are_answered() {
        let running = running();
        assert!(running.ask("hello\r\n\r\n").starts_with("HTTP/1.1 400 "));
        let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(20_000));
        assert!(running.ask(&long).starts_with("HTTP/1.1 431 "));
        running.check("GET /", "200", "visits-0: 1 visit\n");
        running.server.stop();
    }

    #[test]
    fn clients_beyond_the_threads_wait_for_their_turn() {
        let running = running();
        std::thread::scope(|scope| {
            for _ in 0..4 * THREADS {
                scope.spawn(|| running.ask("GET / HTTP/1.1\r\n\r\n"));
            }
        });
        running.check("GET /", "200", &format!("visits-0: {} visits\n", 4 * THREADS + 1));
        running.server.stop();
    }

    #[test]
    fn stopping_answers_who_is_being_served_and_nobody_else() {
        let Running {
            server,
            address,
            _dir,
        } = running();
        let mut served = TcpStream::connect(address).unwrap();
        served.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        // Once a later client is answered, the first one has long been accepted: the queue has an order.
        let mut later = TcpStream::connect(address).unwrap();
        later.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
        later.read_to_string(&mut String::new()).unwrap();
        drop(later);
        let stopping = std::thread::spawn(move || server.stop());
        let mut answer = String::new();
        served.write_all(b"\r\n").unwrap();
        served.read_to_string(&mut answer).unwrap();
        drop(served);
        stopping.join().unwrap();
        assert!(answer.contains("visits-0: 1 visit"), "{answer}");
        assert!(TcpStream::connect(address).is_err());
    }
}
