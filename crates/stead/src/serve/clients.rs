//! How the parts of this process reach the API: through the server's own router, as themselves.

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::Request;
use kube::Client;
use stead_apiserver::Identity;
use tower::ServiceExt as _;

/// A client that makes its requests as an identity, without a socket.
pub(super) fn client(router: &Router, identity: Identity) -> Client {
    let router = router.clone();
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let router = router.clone();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(identity.clone());
        async move {
            let response: Result<Response, Infallible> = router.oneshot(request).await;
            response
        }
    });
    Client::new(service, "default")
}
