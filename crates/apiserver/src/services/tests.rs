//! Allocation as part of writes, against a server in this process.

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt as _;
use tempfile::TempDir;
use tower::ServiceExt as _;

use super::*;
use crate::authn::TokenKey;
use crate::identity::{Identity, MASTERS};
use crate::node_proxy::NodeClient;
use crate::pki::Pki;
use crate::server::{ApiServer, Config};

const COLLECTION: &str = "/api/v1/namespaces/default/services";

/// A server, and requests to it.
pub(crate) struct Fixture {
    server: ApiServer,
    dir: TempDir,
}

fn open(dir: &TempDir) -> ApiServer {
    let config = Config {
        service_range: (Ipv4Addr::new(10, 96, 0, 0), 16),
        node_ports: 30000..=30003,
        address: "127.0.0.1:6443".to_owned(),
        issuer: "https://kubernetes.default.svc".to_owned(),
        version: "0.0.0".to_owned(),
        audit: None,
        more_metrics: String::new,
    };
    let pki = Pki::open_or_make(&dir.path().join("pki")).expect("certificates");
    let key = TokenKey::new(pki.token_key(), &config.issuer).expect("a key");
    let certificate = pki.client("apiserver", &[]).expect("a certificate");
    let nodes = NodeClient::new(pki.client_config(&certificate).expect("a client"));
    ApiServer::open(config, &dir.path().join("store"), key, nodes).expect("a server")
}

impl Fixture {
    pub(crate) async fn start() -> Fixture {
        let dir = TempDir::new().expect("a directory");
        let fixture = Fixture {
            server: open(&dir),
            dir,
        };
        let namespace = json!({"metadata": {"name": "default"}});
        assert_eq!(
            fixture.send("POST", "/api/v1/namespaces", &namespace).await.0,
            201
        );
        fixture
    }

    /// Over the same directory, as after a crash.
    async fn restart(self) -> Fixture {
        self.server.close().await;
        Fixture {
            server: open(&self.dir),
            dir: self.dir,
        }
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let media = if method == "PATCH" {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let body = if body.is_null() {
            Body::empty()
        } else {
            Body::from(body.to_string())
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", media);
        let mut request = request.body(body).expect("a request");
        request.extensions_mut().insert(Identity::new("test", [MASTERS]));
        // A router's error type has no values.
        let response = self.server.router().oneshot(request).await.expect("an answer");
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (code, serde_json::from_slice(&body).expect("an answer in JSON"))
    }

    async fn create(&self, name: &str, spec: &Value, query: &str) -> (u16, Value) {
        let service = json!({"metadata": {"name": name}, "spec": spec});
        self.send("POST", &format!("{COLLECTION}{query}"), &service).await
    }

    /// What is given out, without the prefix of its key.
    fn given_out(&self) -> Vec<String> {
        let snapshot = self.server.inner.store.snapshot();
        let keys = |prefix: &'static str| {
            let keys = snapshot
                .prefix(prefix)
                .map(|(key, _)| key[prefix.len()..].to_owned());
            keys.collect::<Vec<_>>()
        };
        [keys(IP_ADDRESSES), keys(NODE_PORTS)].concat()
    }
}

fn node_port() -> Value {
    json!({"type": "NodePort", "clusterIP": "10.96.0.7", "ports": [{"port": 80, "nodePort": 30001}]})
}

#[tokio::test]
async fn what_a_service_has_is_its_own_until_it_is_gone() {
    let fixture = Fixture::start().await;
    assert_eq!(fixture.create("a", &node_port(), "").await.0, 201);
    assert_eq!(fixture.given_out(), ["10.96.0.7", "30001"]);

    let fixture = fixture.restart().await;
    let (code, refused) = fixture.create("b", &node_port(), "").await;
    assert_eq!(code, 422);
    let message = refused["message"].as_str().unwrap_or_default();
    assert!(
        message.ends_with("failed to allocate IP 10.96.0.7: provided IP is already allocated"),
        "{message}"
    );
    assert_eq!(
        fixture.given_out(),
        ["10.96.0.7", "30001"],
        "who is refused takes nothing"
    );

    assert_eq!(
        fixture
            .send("DELETE", &format!("{COLLECTION}/a"), &Value::Null)
            .await
            .0,
        200
    );
    assert_eq!(fixture.given_out(), Vec::<String>::new());
    assert_eq!(fixture.create("b", &node_port(), "").await.0, 201);
}

#[tokio::test]
async fn a_dry_run_chooses_and_takes_nothing() {
    let fixture = Fixture::start().await;
    let spec = json!({"type": "NodePort", "ports": [{"port": 80}]});
    let (code, service) = fixture.create("a", &spec, "?dryRun=All").await;
    assert_eq!(code, 201);
    assert!(service["spec"]["clusterIP"].is_string() && service["spec"]["ports"][0]["nodePort"].is_number());
    assert_eq!(fixture.given_out(), Vec::<String>::new());
}

#[tokio::test]
async fn a_change_of_type_gives_back_and_takes_again() {
    let fixture = Fixture::start().await;
    fixture.create("a", &node_port(), "").await;
    let path = format!("{COLLECTION}/a");
    for (patch, given_out) in [
        (json!({"type": "ClusterIP"}), 1),
        (
            json!({"type": "ExternalName", "externalName": "a.example.com"}),
            0,
        ),
        (
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "externalName": null}),
            3,
        ),
        (json!({"externalTrafficPolicy": "Cluster"}), 2),
    ] {
        let (code, answer) = fixture.send("PATCH", &path, &json!({"spec": patch})).await;
        assert_eq!(
            (code, fixture.given_out().len()),
            (200, given_out),
            "{patch}: {answer}"
        );
    }
}

#[tokio::test]
async fn writers_at_once_get_different_ports() {
    let fixture = Fixture::start().await;
    let spec = json!({"type": "NodePort", "ports": [{"port": 80}]});
    let names = ["a", "b", "c", "d"];
    let made = futures::future::join_all(names.iter().map(|name| fixture.create(name, &spec, ""))).await;
    let ports: BTreeSet<_> = made
        .iter()
        .map(|(_, service)| service["spec"]["ports"][0]["nodePort"].as_i64())
        .collect();
    assert_eq!(ports, (30000..=30003).map(Some).collect());
    let (code, refused) = fixture.create("e", &spec, "").await;
    assert_eq!(code, 500);
    assert_eq!(
        refused["message"],
        "Internal error occurred: failed to allocate a nodePort: range is full"
    );
}

#[tokio::test]
async fn the_addresses_of_the_system_are_those_that_were_asked_for() {
    let fixture = Fixture::start().await;
    let dns = Ipv4Addr::new(10, 96, 0, 10);
    let addresses = crate::bootstrap::Addresses {
        service: Ipv4Addr::new(10, 96, 0, 1),
        endpoint: "192.0.2.1:6443".parse().expect("an address"),
        dns,
    };
    fixture.server.bootstrap(&addresses).await.expect("bootstrap");
    let given_out = fixture.given_out();
    assert_eq!(given_out, ["10.96.0.1".to_owned(), dns.to_string()]);
    let (_, service) = fixture.create("a", &json!({"ports": [{"port": 80}]}), "").await;
    let address: Ipv4Addr = service["spec"]["clusterIP"]
        .as_str()
        .unwrap_or_default()
        .parse()
        .expect("an address");
    assert!(
        address > Ipv4Addr::new(10, 96, 1, 0),
        "{address} is of the upper band"
    );
}
