//! What a server is made of, and how a request finds its handler.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures::FutureExt as _;
use http::request::Parts;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use stead_api::error::ApiError;
use stead_api::kinds::api_service;
use stead_api::registry::{self, Kind, Registry};
use stead_store::{OpenError, Options, Store};
use tokio_util::sync::CancellationToken;

use crate::audit::{Audit, Trail};
use crate::authn::TokenKey;
use crate::authz::Asked;
use crate::compress::compressed;
use crate::fairness::Fairness;
use crate::identity::Identity;
use crate::metrics::Metrics;
use crate::node_proxy::NodeClient;
use crate::request::{Query, ResourcePath, Target, Verb};
use crate::respond::Accepted;
use crate::stored::Stored;
use crate::{authz, body, nonresource, resource, respond, reviews, subresource};

/// What a server needs to know of its cluster.
#[derive(Debug, Clone)]
pub struct Config {
    /// First address and prefix length of the cluster IPs.
    pub service_range: (Ipv4Addr, u8),
    /// Ports for Services of type NodePort; Kubernetes' default is 30000 to 32767.
    pub node_ports: RangeInclusive<u16>,
    /// `host:port` where clients outside reach the server; shown in `/api`.
    pub address: String,
    /// The `iss` of service account tokens.
    pub issuer: String,
    /// stead's own version; `/version` shows it as the build metadata.
    pub version: String,
    /// What is written down of requests; none if nothing is.
    pub audit: Option<Arc<Audit>>,
    /// What else of this process `/metrics` shows, in Prometheus' text format.
    pub more_metrics: fn() -> String,
}

/// The server. Cheap to clone.
#[derive(Clone)]
pub struct ApiServer {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) registry: &'static Registry,
    pub(crate) store: Store<Stored>,
    pub(crate) tokens: TokenKey,
    pub(crate) nodes: NodeClient,
    pub(crate) metrics: Metrics,
    pub(crate) fairness: Fairness,
    /// Ends watches and other long answers.
    pub(crate) shutdown: CancellationToken,
}

impl ApiServer {
    /// Opens the store in a directory and makes a server over it. `tokens` signs and checks service
    /// account tokens, `nodes` is how the server reaches the nodes' own API.
    pub fn open(
        config: Config,
        dir: &Path,
        tokens: TokenKey,
        nodes: NodeClient,
    ) -> Result<ApiServer, OpenError> {
        let store = Store::open(Options::new(dir))?;
        let inner = Inner {
            config,
            registry: registry::builtin(),
            store,
            tokens,
            nodes,
            metrics: Metrics::default(),
            fairness: Fairness::default(),
            shutdown: CancellationToken::new(),
        };
        Ok(ApiServer {
            inner: Arc::new(inner),
        })
    }

    /// The server as a service. A request is made by the [`Identity`] in its extensions, which only
    /// the caller within this process can put there; without one, by whoever its credentials show.
    pub fn router(&self) -> Router {
        Router::new().fallback(serve).with_state(self.clone())
    }

    /// Ends all watches and other long answers, and closes the store once its writes are durable.
    pub async fn close(&self) {
        self.inner.shutdown.cancel();
        self.inner.store.close().await;
    }
}

/// A request for a resource, all checked: what a handler gets.
pub(crate) struct Call<'r> {
    pub(crate) server: &'r Inner,
    pub(crate) identity: &'r Identity,
    pub(crate) kind: &'static Kind,
    pub(crate) path: &'r ResourcePath,
    pub(crate) query: &'r Query,
    pub(crate) headers: &'r http::HeaderMap,
    pub(crate) accepted: Accepted,
}

impl Call<'_> {
    /// 404 for the object that the path names.
    pub(crate) fn not_found(&self) -> ApiError {
        ApiError::not_found(self.kind.group, self.kind.plural, &self.path.name)
    }

    /// The key of the object that the path names.
    pub(crate) fn key(&self) -> String {
        crate::stored::key::object(self.kind, &self.path.namespace, &self.path.name)
    }
}

async fn serve(State(server): State<ApiServer>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let started = std::time::Instant::now();
    let encoding = Accepted::of_errors(&parts.headers, &Query::parse(parts.uri.query()));
    // A mistake of ours in one request must not take down the connection that others share.
    let mut trail = None;
    let answer = AssertUnwindSafe(handle(&server, &parts, body, &mut trail))
        .catch_unwind()
        .await;
    let panicked = answer.is_err();
    let response = match answer {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => respond::error(encoding, &error),
        Err(_) => {
            tracing::error!(method = %parts.method, path = parts.uri.path(), "a request's handler panicked");
            respond::error(
                encoding,
                &ApiError::internal("the handler of this request failed"),
            )
        }
    };
    let response = match trail {
        Some(trail) => trail.answered(response, panicked).await,
        None => response,
    };
    server
        .inner
        .metrics
        .request(&parts.method, response.status(), started.elapsed());
    compressed(&parts.headers, response).await
}

async fn handle(
    server: &ApiServer,
    parts: &Parts,
    body: Body,
    trail: &mut Option<Trail>,
) -> Result<Response, ApiError> {
    let inner = &*server.inner;
    let query = Query::parse(parts.uri.query());
    let target = Target::parse(parts.uri.path());
    let verb = match &target {
        Target::Resource(path) => Verb::of(&parts.method, path, &query),
        Target::Other(_) => None,
    };
    let follow = |who| {
        let audit = inner.config.audit.as_ref()?;
        Trail::begin(audit, parts, &target, verb, who)
    };
    let own = match parts.extensions.get::<Identity>() {
        Some(identity) => identity.clone(),
        None => inner.authenticate(&parts.headers).inspect_err(|_| {
            *trail = follow((None, None));
        })?,
    };
    let identity = inner.impersonate(&own, &parts.headers).inspect_err(|_| {
        *trail = follow((Some(&own), None));
    })?;
    *trail = follow((Some(&own), identity.as_ref()));
    let identity = identity.unwrap_or(own);
    let mut check = |asked: &Asked<'_>| {
        let decision = inner.authorize(&identity, asked);
        if let Some(trail) = trail {
            trail.decided(&decision);
        }
        inner.confirm(&identity, asked, decision)
    };
    match target {
        Target::Other(path) => {
            let verb = authz::verb_of_path(&parts.method);
            check(&Asked::Path { verb, path: &path })?;
            nonresource::serve(inner, &parts.headers, &path, &query)
        }
        Target::Resource(path) => {
            let selector = authz::selector(&query);
            check(&authz::of_request(verb, &path, selector.as_ref()))?;
            let kind = match find(inner.registry, &path) {
                Err(_) if inner.is_served_elsewhere(&path.group, &path.version) => return Ok(unavailable()),
                found => found?,
            };
            let Some(verb) = verb.filter(|verb| is_allowed(kind, &path, *verb)) else {
                return Err(not_allowed());
            };
            let streams = matches!(verb, Verb::List | Verb::Watch);
            let accepted = Accepted::parse(&parts.headers, &query, streams)?;
            let headers = &parts.headers;
            let call = Call {
                server: inner,
                identity: &identity,
                kind,
                path: &path,
                query: &query,
                headers,
                accepted,
            };
            route(server, &call, verb, parts, body, trail).await
        }
    }
}

async fn route(
    server: &ApiServer,
    call: &Call<'_>,
    verb: Verb,
    parts: &Parts,
    body: Body,
    trail: &mut Option<Trail>,
) -> Result<Response, ApiError> {
    match call.path.subresource.as_str() {
        "exec" | "attach" | "portforward" | "log" => return subresource::node(call, parts, body).await,
        "proxy" => return subresource::proxy(call, parts, body).await,
        _ => {}
    }
    // Who is slow to send keeps nobody waiting.
    let body = read_body(body).await?;
    if let Some(trail) = trail {
        trail.sent(call.headers, &body);
    }
    let _place = match verb {
        Verb::Watch => None,
        _ => call.server.fairness.enter(call.identity, call.headers).await?,
    };
    if !call.path.subresource.is_empty() {
        return subresource::serve(call, verb, &body).await;
    }
    match verb {
        Verb::Get => resource::get(call),
        Verb::List => resource::list(call).await,
        Verb::Watch => resource::watch(server, call).await,
        Verb::Create if call.kind.kind == "Binding" => subresource::bind(call, &body).await,
        Verb::Create if reviews::is_review(call.kind) => reviews::create(call, &body),
        Verb::Create => resource::create(call, &body).await,
        Verb::Update => resource::update(call, &body).await,
        Verb::Patch => resource::patch(call, &body).await,
        Verb::Delete => resource::delete(call, &body).await,
        Verb::DeleteCollection => resource::delete_collection(call, &body).await,
    }
}

async fn read_body(body: Body) -> Result<Bytes, ApiError> {
    match Limited::new(body, body::MAX_BYTES).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {}", body::MAX_BYTES),
        )),
        Err(error) => Err(ApiError::bad_request(format!(
            "the body of the request could not be read: {error}"
        ))),
    }
}

/// The kind that a path leads to.
fn find(registry: &Registry, path: &ResourcePath) -> Result<&'static Kind, ApiError> {
    registry
        .resource(&path.group, &path.version, &path.resource)
        .filter(|kind| path.subresource.is_empty() || kind.subresource(&path.subresource).is_some())
        .filter(|_| path.rest.is_empty() || path.subresource == "proxy")
        .filter(|kind| {
            if kind.namespaced {
                path.name.is_empty() || !path.namespace.is_empty()
            } else {
                path.namespace.is_empty()
            }
        })
        .ok_or_else(no_such_resource)
}

fn is_allowed(kind: &Kind, path: &ResourcePath, verb: Verb) -> bool {
    if let Some(subresource) = kind.subresource(&path.subresource) {
        return subresource.verbs.contains(&verb.name());
    }
    let fits = match verb {
        // A namespaced object is created in its namespace's collection.
        Verb::Create => path.name.is_empty() && kind.namespaced != path.namespace.is_empty(),
        Verb::Update | Verb::Patch => !path.name.is_empty(),
        _ => true,
    };
    fits && kind.verbs.contains(&verb.name())
}

fn without_details(code: u16, reason: &'static str, message: &str) -> ApiError {
    ApiError {
        details: Some(serde_json::json!({})),
        ..ApiError::new(code, reason, message)
    }
}

impl Inner {
    /// Whether a group and version is that of a server behind an APIService, to which requests are not passed on.
    pub(crate) fn is_served_elsewhere(&self, group: &str, version: &str) -> bool {
        let name = format!("{version}.{group}");
        let found = self.find((api_service::GROUP, "apiservices"), "", &name);
        found.is_some_and(|(_, stored)| stored.value()["spec"]["service"].is_object())
    }
}

/// 503 for what a server serves that cannot be asked.
pub(crate) fn unavailable() -> Response {
    respond::text(503, "service unavailable\n")
}

/// 404 for a path that leads nowhere.
pub(crate) fn no_such_resource() -> ApiError {
    without_details(
        404,
        "NotFound",
        "the server could not find the requested resource",
    )
}

/// 405.
pub(crate) fn not_allowed() -> ApiError {
    without_details(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
    )
}
