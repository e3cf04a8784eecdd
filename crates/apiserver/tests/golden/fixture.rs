//! A server in this process, over a directory of its own, and requests to it.

use std::error::Error;
use std::net::Ipv4Addr;
use std::time::Duration;

use axum::body::Body;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderName, HeaderValue, Request, Response, header};
use http_body_util::BodyExt as _;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};
use stead_apiserver::authn::TokenKey;
use stead_apiserver::bootstrap::Addresses;
use stead_apiserver::pki::Pki;
use stead_apiserver::{ApiServer, Config, Identity, NodeClient};
use tempfile::TempDir;
use tower::ServiceExt as _;

use crate::case;
use crate::hooks::{Hooks, Scripts};

/// A watch that has nothing to say ends by its own timeout, well within this.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running server.
pub(crate) struct Fixture {
    server: ApiServer,
    pki: Pki,
    dir: TempDir,
}

/// What came back.
pub(crate) struct Answered {
    pub(crate) code: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: String,
}

impl Answered {
    /// A document that was found.
    pub(crate) fn of(body: &Value) -> Answered {
        Answered {
            code: 200,
            headers: http::HeaderMap::new(),
            body: body.to_string(),
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

impl Fixture {
    /// Starts a server with what every cluster has, and a namespace with its service account.
    pub(crate) async fn start(namespace: &str) -> Result<Fixture> {
        let dir = TempDir::new()?;
        let config = Config {
            service_range: (Ipv4Addr::new(10, 96, 0, 0), 16),
            node_ports: 30000..=32767,
            address: "127.0.0.1:6443".to_owned(),
            issuer: "https://kubernetes.default.svc".to_owned(),
            version: "0.0.0".to_owned(),
            audit: None,
            more_metrics: String::new,
        };
        let pki = Pki::open_or_make(&dir.path().join("pki"))?;
        let key = TokenKey::new(pki.token_key(), &config.issuer)?;
        // No case reaches a node.
        let nodes = NodeClient::new(pki.client_config(&pki.client("apiserver", &[])?)?);
        let server = ApiServer::open(config, &dir.path().join("store"), key, nodes)?;
        let addresses = Addresses {
            service: Ipv4Addr::new(10, 96, 0, 1),
            endpoint: "10.200.0.1:6443".parse()?,
            dns: Ipv4Addr::new(10, 96, 0, 10),
        };
        server.bootstrap(&addresses).await?;
        let fixture = Fixture { server, pki, dir };
        fixture.create("/api/v1/namespaces", namespace).await?;
        fixture.make_account(namespace).await?;
        Ok(fixture)
    }

    /// Does the server's own chores until it is closed.
    pub(crate) async fn run(&self) {
        self.server.run(&self.pki).await;
    }

    /// The webhooks of a case.
    pub(crate) async fn webhooks(&self, scripts: Scripts) -> Result<Hooks> {
        Hooks::start(scripts, &self.dir.path().join("hook")).await
    }

    /// What the service account controller does.
    pub(crate) async fn make_account(&self, namespace: &str) -> Result<()> {
        self.create(
            &format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
            "default",
        )
        .await
    }

    async fn create(&self, path: &str, name: &str) -> Result<()> {
        let request = case::Request {
            method: "POST".to_owned(),
            path: path.to_owned(),
            body: Some(serde_json::from_value(json!({"metadata": {"name": name}}))?),
            ..case::Request::default()
        };
        let answered = self.send(&request, None).await?;
        if answered.code == 201 {
            Ok(())
        } else {
            Err(answered.body.into())
        }
    }

    /// Sends a request as it is; reads so many lines of the answer, or all.
    pub(crate) async fn send(&self, request: &case::Request, lines: Option<usize>) -> Result<Answered> {
        let response =
            tokio::time::timeout(PATIENCE, self.server.router().oneshot(http_request(request)?)).await??;
        tokio::time::timeout(PATIENCE, read(response, lines)).await?
    }

    pub(crate) async fn close(self) {
        self.server.close().await;
    }
}

/// A request for a certificate, as a field holds it.
pub(crate) fn request(subject: &case::Subject) -> Result<String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, subject.cn.as_str());
    params
        .distinguished_name
        .push(DnType::OrganizationName, subject.org.as_str());
    let pem = params.serialize_request(&KeyPair::generate()?)?.pem()?;
    Ok(BASE64_STANDARD.encode(pem))
}

fn http_request(request: &case::Request) -> Result<Request<Body>> {
    let body = match &request.body {
        None => Body::empty(),
        Some(body) => Body::from(body.text()),
    };
    let mut made = Request::builder()
        .method(request.method.as_str())
        .uri(&request.path)
        .body(body)?;
    let headers = made.headers_mut();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static("apirec/1.0"));
    if request.body.is_some() {
        let media = request.content_type.as_deref().unwrap_or("application/json");
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_str(media)?);
    }
    let mut by_certificate = true;
    for (name, value) in &request.headers {
        if name == "Anonymous" {
            by_certificate = false;
            continue;
        }
        by_certificate &= name != "Authorization";
        let name: HeaderName = name.parse()?;
        headers.remove(&name);
        let values = match value {
            Value::Array(values) => values.iter().collect(),
            value => vec![value],
        };
        for value in values.into_iter().filter_map(Value::as_str) {
            headers.append(&name, HeaderValue::from_str(value)?);
        }
    }
    if by_certificate {
        made.extensions_mut()
            .insert(Identity::new("admin", ["system:masters"]));
    }
    Ok(made)
}

async fn read(response: Response<Body>, lines: Option<usize>) -> Result<Answered> {
    let (parts, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    let is_enough = |bytes: &[u8]| {
        lines.is_some_and(|lines| bytes.iter().filter(|byte| **byte == b'\n').count() >= lines)
    };
    while !is_enough(&bytes) {
        match body.frame().await {
            Some(frame) => bytes.extend(frame?.into_data().unwrap_or_default()),
            None => break,
        }
    }
    Ok(Answered {
        code: parts.status.as_u16(),
        headers: parts.headers,
        body: String::from_utf8_lossy(&bytes).into_owned(),
    })
}
