//! Whole requests to an API server in this process, with the administrator's rights: paths, queries, media types,
//! bodies as JSON, YAML and protobuf, patches, tables. All writes are dry runs.

use std::net::Ipv4Addr;
use std::sync::LazyLock;
use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use stead_apiserver::authn::TokenKey;
use stead_apiserver::bootstrap::Addresses;
use stead_apiserver::pki::Pki;
use stead_apiserver::{ApiServer, Config, Identity, NodeClient};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

use crate::{kind, sample, split_line};

/// Of an answer that goes on, such as a watch, so much is read.
const PATIENCE: Duration = Duration::from_millis(5);
const NAMESPACE: &str = "golden";

struct Server {
    api: ApiServer,
    runtime: Runtime,
    _dir: TempDir,
}

static SERVER: LazyLock<Server> = LazyLock::new(|| start().expect("start a server"));

/// The line of a request, as `PATCH /api/v1/…`, one with a media type and what is accepted, and the body.
pub fn requests(input: &[u8]) {
    let (line, rest) = split_line(input);
    let (media, body) = split_line(rest);
    let (Ok(line), Ok(media)) = (std::str::from_utf8(line), std::str::from_utf8(media)) else {
        return;
    };
    let (method, path) = line.split_once(' ').unwrap_or(("GET", line));
    // Nothing is kept, so that each input finds the same.
    let separator = if path.contains('?') { '&' } else { '?' };
    let (media, accept) = media.split_once(' ').unwrap_or((media, "application/json"));
    let request = Request::builder()
        .method(method)
        .uri(format!("{path}{separator}dryRun=All&timeoutSeconds=1"))
        .header(header::CONTENT_TYPE, media)
        .header(header::ACCEPT, accept)
        .extension(Identity::new("admin", ["system:masters"]))
        .body(Body::from(body.to_vec()));
    // What is not HTTP does not come so far.
    let Ok(request) = request else {
        return;
    };
    let (code, answer) = SERVER.runtime.block_on(answer(request));
    let failed = code == StatusCode::INTERNAL_SERVER_ERROR
        && [
            "the handler of this request failed",
            "read the object as its kind",
        ]
        .iter()
        .any(|words| answer.contains(words));
    assert!(!failed, "{method} {path}: {answer}");
}

async fn answer(request: Request<Body>) -> (StatusCode, String) {
    let response = SERVER
        .api
        .router()
        .oneshot(request)
        .await
        .expect("it always answers");
    let code = response.status();
    let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await;
    let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes());
    (
        code,
        String::from_utf8_lossy(&body.unwrap_or_default()).into_owned(),
    )
}

fn start() -> Result<Server, Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
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
    // There is no node.
    let nodes = NodeClient::new(pki.client_config(&pki.client("apiserver", &[])?)?);
    let api = ApiServer::open(config, &dir.path().join("store"), key, nodes)?;
    let addresses = Addresses {
        service: Ipv4Addr::new(10, 96, 0, 1),
        endpoint: "10.200.0.1:6443".parse()?,
        dns: Ipv4Addr::new(10, 96, 0, 10),
    };
    runtime.block_on(async {
        api.bootstrap(&addresses).await?;
        for (path, object) in objects() {
            let request = Request::post(path)
                .header(header::CONTENT_TYPE, "application/json")
                .extension(Identity::new("admin", ["system:masters"]))
                .body(Body::from(object.to_string()))?;
            let answer = api.router().oneshot(request).await?;
            assert_eq!(answer.status(), StatusCode::CREATED, "{object}");
        }
        Ok::<_, Box<dyn std::error::Error>>(())
    })?;
    Ok(Server {
        api,
        runtime,
        _dir: dir,
    })
}

/// What inputs find: the names that most recorded requests use.
fn objects() -> Vec<(String, Value)> {
    let core = format!("/api/v1/namespaces/{NAMESPACE}");
    let apps = format!("/apis/apps/v1/namespaces/{NAMESPACE}");
    let metadata = |name: &str| json!({"name": name, "labels": {"app": "web"}});
    let pod =
        json!({"containers": [{"name": "c", "image": "busybox:1.35", "ports": [{"containerPort": 80}]}]});
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": pod});
    let set = json!({
        "replicas": 2, "serviceName": "web", "selector": {"matchLabels": {"app": "web"}}, "template": template,
    });
    let mut deployment = set.clone();
    if let Some(spec) = deployment.as_object_mut() {
        spec.remove("serviceName");
    }
    vec![
        (
            "/api/v1/namespaces".to_owned(),
            json!({"metadata": {"name": NAMESPACE}}),
        ),
        (
            format!("{core}/serviceaccounts"),
            json!({"metadata": {"name": "default"}}),
        ),
        (
            format!("{core}/configmaps"),
            json!({"metadata": metadata("cm"), "data": {"a": "1"}}),
        ),
        (
            format!("{core}/secrets"),
            json!({"metadata": metadata("s"), "data": {"a": "AA=="}}),
        ),
        (
            format!("{core}/pods"),
            json!({"metadata": metadata("p"), "spec": pod}),
        ),
        (
            format!("{core}/services"),
            json!({"metadata": metadata("web"), "spec": {"ports": [{"port": 80}]}}),
        ),
        (
            format!("{apps}/statefulsets"),
            json!({"metadata": metadata("web"), "spec": set}),
        ),
        (
            format!("{apps}/deployments"),
            json!({"metadata": metadata("web"), "spec": deployment}),
        ),
    ]
}

/// A request that creates or replaces an object of a kind with any of its fields set.
pub fn sample(random: &mut fastrand::Rng) -> Vec<u8> {
    let kind = kind(&[random.u8(..), random.u8(..)]);
    let base = if kind.group.is_empty() { "/api" } else { "/apis" };
    let place = if kind.namespaced {
        format!("/namespaces/{NAMESPACE}")
    } else {
        String::new()
    };
    let collection = format!("{base}/{}{place}/{}", kind.api_version(), kind.plural);
    let mut object = sample::object(kind, random);
    object["metadata"]["name"] = "web".into();
    object["metadata"]["namespace"] = if kind.namespaced {
        NAMESPACE.into()
    } else {
        Value::Null
    };
    let media = ["application/json", "application/yaml"][random.usize(..2)];
    let line = match random.u8(..3) {
        0 => format!("PUT {collection}/web"),
        1 => {
            return format!(
                "PATCH {collection}/web?fieldManager=m&force=true\napplication/apply-patch+yaml\n{object}"
            )
            .into_bytes();
        }
        _ => format!("POST {collection}"),
    };
    format!("{line}\n{media}\n{object}").into_bytes()
}
