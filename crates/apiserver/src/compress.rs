//! Large answers, compressed for clients that ask for it (`APIResponseCompression`).

use std::io::Write as _;

use axum::body::Body;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue, VARY};
use http::{Response, header::CONTENT_TYPE};
use http_body::Body as _;
use http_body_util::BodyExt as _;

/// Smaller answers are sent as they are.
const THRESHOLD_BYTES: u64 = 128 * 1024;

/// A response as the client of a request may have it: objects and lists that are whole, and large,
/// are compressed; watches and other streams never are.
pub(crate) async fn compressed(request: &HeaderMap, response: Response<Body>) -> Response<Body> {
    let large = response
        .body()
        .size_hint()
        .exact()
        .is_some_and(|size| size > THRESHOLD_BYTES);
    if !large || !asks_for_gzip(request) || !holds_objects(response.headers()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(body) = body.collect().await else {
        // A body of a known size is in memory, so that reading it cannot fail.
        return Response::from_parts(parts, Body::empty());
    };
    let plain = body.to_bytes();
    let zipped = {
        let plain = plain.clone();
        tokio::task::spawn_blocking(move || gzip(&plain)).await
    };
    let Ok(Ok(zipped)) = zipped else {
        return Response::from_parts(parts, Body::from(plain));
    };
    parts.headers.remove(CONTENT_LENGTH);
    parts
        .headers
        .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts
        .headers
        .append(VARY, HeaderValue::from_static("Accept-Encoding"));
    Response::from_parts(parts, Body::from(zipped))
}

fn gzip(plain: &[u8]) -> std::io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 8), Compression::fast());
    encoder.write_all(plain)?;
    encoder.finish().map(Bytes::from)
}

fn asks_for_gzip(request: &HeaderMap) -> bool {
    request
        .get(ACCEPT_ENCODING)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.split(',').any(|coding| coding.trim() == "gzip"))
}

fn holds_objects(response: &HeaderMap) -> bool {
    let media = response.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    !response.contains_key(CONTENT_ENCODING)
        && media.is_some_and(|media| {
            ["application/json", "application/yaml", crate::respond::PROTOBUF].contains(&media)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn coding(accept: &'static str, media: &'static str, body: Body) -> Option<String> {
        let mut request = HeaderMap::new();
        request.insert(ACCEPT_ENCODING, HeaderValue::from_static(accept));
        let mut response = Response::new(body);
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(media));
        let response = compressed(&request, response).await;
        let coding = response.headers().get(CONTENT_ENCODING)?;
        coding.to_str().ok().map(str::to_owned)
    }

    #[tokio::test]
    async fn large_answers_are_compressed_where_asked_for() {
        let large = || Body::from(vec![b' '; 200_000]);
        let stream = Body::from_stream(futures::stream::iter([Ok::<_, std::io::Error>(vec![
            b' ';
            200_000
        ])]));
        for (accept, media, body, expected) in [
            ("gzip", "application/json", large(), Some("gzip")),
            ("deflate, gzip", crate::respond::PROTOBUF, large(), Some("gzip")),
            ("identity", "application/json", large(), None),
            ("gzip", "text/plain", large(), None),
            ("gzip", "application/json", Body::from("{}"), None),
            ("gzip", "application/json", stream, None),
        ] {
            assert_eq!(
                coding(accept, media, body).await.as_deref(),
                expected,
                "{accept} {media}"
            );
        }
    }
}
