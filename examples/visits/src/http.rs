//! As much of HTTP/1.1 as this app needs: reading a request's head, and writing a short answer.

use std::io::{self, Read, Write};

/// The longest head (request line and headers) that is read.
const MAX_HEAD_BYTES: usize = 8 * 1024;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: Method,
    /// Without the query.
    pub(crate) path: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    Other,
}

/// Why there is no request to answer.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The client hung up, having said nothing. Some probes do.
    Closed,
    /// What it said is not HTTP/1.
    Malformed,
    TooLong,
    Io(io::Error),
}

/// What a request is answered with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: Status,
    pub(crate) body: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Ok,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    HeaderFieldsTooLarge,
    InternalServerError,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::RequestTimeout => "408 Request Timeout",
            Self::HeaderFieldsTooLarge => "431 Request Header Fields Too Large",
            Self::InternalServerError => "500 Internal Server Error",
        }
    }
}

impl Response {
    pub(crate) fn new(status: Status, body: impl Into<String>) -> Self {
        let body = body.into();
        Self { status, body }
    }
}

impl From<&ReadError> for Response {
    fn from(error: &ReadError) -> Self {
        match error {
            ReadError::TooLong => Self::new(Status::HeaderFieldsTooLarge, "the request's head is too long"),
            ReadError::Io(error) if is_timeout(error) => {
                Self::new(Status::RequestTimeout, "the request took too long")
            }
            _ => Self::new(Status::BadRequest, "not an HTTP/1 request"),
        }
    }
}

/// Reads up to the empty line that ends a request's head. A body is not read: nothing here takes one.
pub(crate) fn read_request(mut client: impl Read) -> Result<Request, ReadError> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    let end = loop {
        let read = client.read(&mut piece).map_err(ReadError::Io)?;
        if read == 0 {
            return Err(match head.is_empty() {
                true => ReadError::Closed,
                false => ReadError::Malformed,
            });
        }
        // The end may have begun in the piece before.
        let from = head.len().saturating_sub(3);
        head.extend_from_slice(&piece[..read]);
        if let Some(end) = head[from..].windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break from + end;
        }
        if head.len() > MAX_HEAD_BYTES {
            return Err(ReadError::TooLong);
        }
    };
    if end > MAX_HEAD_BYTES {
        return Err(ReadError::TooLong);
    }
    std::str::from_utf8(&head[..end])
        .ok()
        .and_then(parse)
        .ok_or(ReadError::Malformed)
}

/// Answers, and says that the connection ends.
pub(crate) fn write_response(mut client: impl Write, response: &Response, with_body: bool) -> io::Result<()> {
    let Response { status, body } = response;
    let mut text = format!(
        "HTTP/1.1 {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n",
        status.line(),
        body.len() + 1
    );
    if *status == Status::MethodNotAllowed {
        text.push_str("Allow: GET, HEAD\r\n");
    }
    text.push_str("\r\n");
    if with_body {
        text.push_str(body);
        text.push('\n');
    }
    client.write_all(text.as_bytes())
}

fn parse(head: &str) -> Option<Request> {
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() || !matches!(version, "HTTP/1.0" | "HTTP/1.1") || !target.starts_with('/') {
        return None;
    }
    if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    // A header is a name, which is one word, and a value.
    let is_header = |line: &str| {
        line.split_once(':')
            .is_some_and(|(name, _)| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()))
    };
    if !lines.all(is_header) {
        return None;
    }
    let path = target.split('?').next().unwrap_or(target).to_owned();
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        _ => Method::Other,
    };
    Some(Request { method, path })
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn check(text: &str, expected: Option<(Method, &str)>) {
        let read = read_request(text.as_bytes()).ok();
        let expected = expected.map(|(method, path)| Request {
            method,
            path: path.to_owned(),
        });
        assert_eq!(read, expected, "{text:?}");
    }

    #[test]
    fn requests_are_read() {
        check("GET / HTTP/1.1\r\n\r\n", Some((Method::Get, "/")));
        check(
            "GET /?from=here HTTP/1.0\r\nHost: x\r\nA: b: c\r\n\r\n",
            Some((Method::Get, "/")),
        );
        check("HEAD /healthz HTTP/1.1\r\n\r\n", Some((Method::Head, "/healthz")));
        check(
            "POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
            Some((Method::Other, "/a")),
        );
    }

    #[test]
    fn what_is_not_http_is_refused() {
        for text in [
            "GET /\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET / HTTP/2\r\n\r\n",
            "get / HTTP/1.1\r\n\r\n",
            "GET elsewhere HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1 more\r\n\r\n",
            "GET / HTTP/1.1\r\nno header\r\n\r\n",
            "GET / HTTP/1.1\r\nspaced name: x\r\n\r\n",
            "GET / HTTP/1.1\r\n: x\r\n\r\n",
            "\r\n\r\n",
            "\u{16}\u{3}\u{1}\r\n\r\n",
            "GET / HTTP/1.1\r\n",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn a_head_that_comes_in_pieces_is_read() {
        struct Drip<'a>(&'a [u8]);
        impl Read for Drip<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0
                    .take(1)
                    .read(buffer)
                    .inspect(|read| self.0 = &self.0[*read..])
            }
        }
        let request = read_request(Drip(b"GET /x HTTP/1.1\r\nHost: y\r\n\r\n")).unwrap();
        assert_eq!(request.path, "/x");
    }

    #[test]
    fn a_head_without_end_is_given_up() {
        let endless = b"GET / HTTP/1.1\r\nA: ".chain(io::repeat(b'x'));
        assert!(matches!(read_request(endless), Err(ReadError::TooLong)));
        assert!(matches!(read_request(io::empty()), Err(ReadError::Closed)));
    }

    #[test]
    fn an_answer_has_its_length_and_ends_the_connection() {
        let mut out = Vec::new();
        write_response(&mut out, &Response::new(Status::Ok, "hé"), true).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 4\r\n\
             Connection: close\r\n\r\nhé\n"
        );
    }
}
