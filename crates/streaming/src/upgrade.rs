//! From a request to an upgraded connection: what the client offers, what is chosen, and the answer.
//!
//! Of several protocols the one is chosen that the client names first, as the kubelet does.

use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::connection::Io;

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
const SPDY: &str = "SPDY/3.1";
const WEBSOCKET: &str = "websocket";

/// A request that is not upgraded. Shown, it is what the client is told.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Rejection {
    /// No upgrade is asked for, or to something unknown.
    #[error("unable to upgrade: missing upgrade headers in request")]
    NotAsked,
    /// The connection is none that can change its protocol.
    #[error("unable to upgrade: unable to hijack response")]
    NotPossible,
    /// A WebSocket handshake that is not as RFC 6455 wants it.
    #[error("unable to upgrade: the WebSocket handshake is wrong: {0}")]
    Handshake(&'static str),
    /// No protocol is named.
    #[error("unable to upgrade: header X-Stream-Protocol-Version does not exist in request")]
    NoProtocol,
    /// No protocol that is known here is named.
    #[error(
        "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {accepted:?}"
    )]
    NoCommonProtocol {
        /// What the client named.
        offered: Vec<String>,
        /// What it could have.
        accepted: Vec<&'static str>,
    },
    /// The query is not what the protocol wants.
    #[error("{0}")]
    Query(String),
}

impl Rejection {
    /// The status that the kubelet gives.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotAsked | Self::NoProtocol | Self::Handshake(_) | Self::Query(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::NoCommonProtocol { .. } => StatusCode::FORBIDDEN,
            Self::NotPossible => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The answer to the client.
    pub fn response(&self) -> Response<String> {
        let mut response = Response::new(format!("{self}\n"));
        *response.status_mut() = self.status();
        if let Self::NoCommonProtocol { accepted, .. } = self {
            for protocol in accepted {
                response
                    .headers_mut()
                    .append(ACCEPTED_PROTOCOLS, HeaderValue::from_static(protocol));
            }
        }
        response
    }
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    Spdy {
        protocols: Vec<String>,
    },
    WebSocket {
        protocols: Vec<String>,
        key: HeaderValue,
    },
}

impl Offer {
    pub(crate) fn of<B>(request: &Request<B>) -> Result<Self, Rejection> {
        let headers = request.headers();
        if !has_token(headers, &CONNECTION, "upgrade") {
            return Err(Rejection::NotAsked);
        }
        if has_token(headers, &UPGRADE, WEBSOCKET) {
            return Self::websocket(request.method(), headers);
        }
        if has_token(headers, &UPGRADE, SPDY) {
            let protocols = list(headers, &STREAM_PROTOCOL);
            return if protocols.is_empty() {
                Err(Rejection::NoProtocol)
            } else {
                Ok(Self::Spdy { protocols })
            };
        }
        Err(Rejection::NotAsked)
    }

    fn websocket(method: &Method, headers: &HeaderMap) -> Result<Self, Rejection> {
        if method != Method::GET {
            return Err(Rejection::Handshake("the method is not GET"));
        }
        if !has_token(headers, &SEC_WEBSOCKET_VERSION, "13") {
            return Err(Rejection::Handshake("the version is not 13"));
        }
        let key = headers
            .get(SEC_WEBSOCKET_KEY)
            .ok_or(Rejection::Handshake("there is no key"))?;
        Ok(Self::WebSocket {
            protocols: list(headers, &SEC_WEBSOCKET_PROTOCOL),
            key: key.clone(),
        })
    }
}

/// The first of the client's protocols that is known, and what is known of it.
pub(crate) fn choose<T: Copy>(
    offered: &[String],
    known: &[(&'static str, T)],
) -> Result<(&'static str, T), Rejection> {
    let find = |name: &String| known.iter().find(|(candidate, _)| candidate == name).copied();
    offered
        .iter()
        .find_map(find)
        .ok_or_else(|| Rejection::NoCommonProtocol {
            offered: offered.to_vec(),
            accepted: known.iter().map(|(name, _)| *name).collect(),
        })
}

/// The answer that changes the protocol to SPDY.
pub(crate) fn to_spdy(protocol: &'static str) -> Response<()> {
    let mut response = switching("Upgrade", SPDY);
    response
        .headers_mut()
        .insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    response
}

/// The answer that changes the protocol to WebSocket.
pub(crate) fn to_websocket(protocol: Option<&'static str>, key: &HeaderValue) -> Response<()> {
    let mut response = switching("Upgrade", WEBSOCKET);
    let headers = response.headers_mut();
    if let Ok(accept) = HeaderValue::try_from(derive_accept_key(key.as_bytes())) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(protocol) = protocol {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    response
}

fn switching(connection: &'static str, upgrade: &'static str) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static(connection));
    response
        .headers_mut()
        .insert(UPGRADE, HeaderValue::from_static(upgrade));
    response
}

/// A connection that changes its protocol as soon as the answer is sent.
#[derive(Debug)]
pub(crate) struct Pending(OnUpgrade);

impl Pending {
    pub(crate) fn take<B>(request: &mut Request<B>) -> Result<Self, Rejection> {
        request
            .extensions_mut()
            .remove()
            .map(Self)
            .ok_or(Rejection::NotPossible)
    }

    pub(crate) async fn io(self) -> Result<Io, hyper::Error> {
        Ok(Box::new(TokioIo::new(self.0.await?)))
    }
}

/// The values of a query's parameter, in order.
pub(crate) fn query_values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    query
        .split('&')
        .filter_map(move |pair| match pair.split_once('=') {
            Some((key, value)) => (key == name).then_some(value),
            None => (pair == name).then_some(""),
        })
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    list(headers, name)
        .iter()
        .any(|value| value.eq_ignore_ascii_case(token))
}

fn list(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let values = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let values = values.flat_map(|value| value.split(',')).map(str::trim);
    values
        .filter(|value| !value.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn request(method: &str, headers: &[(&'static str, &'static str)]) -> Request<()> {
        let mut request = Request::builder().method(method).body(()).unwrap();
        for (name, value) in headers {
            request
                .headers_mut()
                .append(*name, HeaderValue::from_static(value));
        }
        request
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn an_offer_is_what_the_headers_say() {
        let spdy = request(
            "POST",
            &[
                ("connection", "Upgrade"),
                ("upgrade", "SPDY/3.1"),
                ("x-stream-protocol-version", "v4.channel.k8s.io"),
                ("x-stream-protocol-version", "v3.channel.k8s.io, channel.k8s.io"),
            ],
        );
        let protocols = names(&["v4.channel.k8s.io", "v3.channel.k8s.io", "channel.k8s.io"]);
        assert_eq!(Offer::of(&spdy), Ok(Offer::Spdy { protocols }));
        let websocket = request(
            "GET",
            &[
                ("connection", "keep-alive, upgrade"),
                ("upgrade", "WebSocket"),
                ("sec-websocket-version", "13"),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ],
        );
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(
            Offer::of(&websocket),
            Ok(Offer::WebSocket {
                protocols: vec![],
                key
            })
        );
    }

    #[test]
    fn wrong_requests_are_rejected() {
        let check = |method, headers: &[_], status: u16| {
            let rejection = Offer::of(&request(method, headers)).unwrap_err();
            assert_eq!(rejection.response().status(), status, "{rejection}");
        };
        let (upgrade, websocket) = (("connection", "Upgrade"), ("upgrade", "websocket"));
        check("GET", &[], 400);
        check("GET", &[upgrade, ("upgrade", "h2c")], 400);
        check("POST", &[upgrade, ("upgrade", "SPDY/3.1")], 400);
        check("POST", &[upgrade, websocket], 400);
        check("GET", &[upgrade, websocket, ("sec-websocket-version", "8")], 400);
        check("GET", &[upgrade, websocket, ("sec-websocket-version", "13")], 400);
    }

    #[test]
    fn the_first_known_protocol_of_the_client_is_chosen() {
        let known = [("a", 1), ("b", 2)];
        assert_eq!(choose(&names(&["x", "b", "a"]), &known), Ok(("b", 2)));
        let rejection = choose(&names(&["x"]), &known).unwrap_err();
        let response = rejection.response();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        let accepted: Vec<_> = response.headers().get_all(ACCEPTED_PROTOCOLS).iter().collect();
        assert_eq!(accepted, ["a", "b"]);
    }

    #[test]
    fn answers_have_the_headers_that_clients_check() {
        let spdy = to_spdy("v4.channel.k8s.io");
        assert_eq!(spdy.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(spdy.headers()[UPGRADE], "SPDY/3.1");
        assert_eq!(spdy.headers()[CONNECTION], "Upgrade");
        assert_eq!(spdy.headers()[STREAM_PROTOCOL], "v4.channel.k8s.io");
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        let websocket = to_websocket(None, &key);
        assert_eq!(
            websocket.headers()[SEC_WEBSOCKET_ACCEPT],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert!(!websocket.headers().contains_key(SEC_WEBSOCKET_PROTOCOL));
    }

    #[test]
    fn query_values_come_in_order() {
        let values: Vec<_> = query_values("port=80&x&port=81,82&ports=1&x=2&port", "port").collect();
        assert_eq!(values, ["80", "81,82", ""]);
    }
}
