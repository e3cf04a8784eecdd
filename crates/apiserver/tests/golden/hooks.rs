//! The webhooks of a case: an HTTPS server that answers as the case says, and remembers what it was
//! asked.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path as Segment, State};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use stead_apiserver::listen;
use stead_apiserver::pki::Pki;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::fixture::Result;

/// What a webhook says.
#[derive(Deserialize, Default, Clone)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Script {
    /// The answer, as it is.
    raw: Option<String>,
    /// The answer within a review; a patch is written as a list.
    response: Value,
    delay_seconds: u64,
}

/// Scripts by the last segment of the path.
pub(crate) type Scripts = BTreeMap<String, Script>;

struct Shared {
    scripts: Scripts,
    asked: Mutex<HashMap<String, Vec<Value>>>,
}

/// The webhooks of a case, while it is played.
pub(crate) struct Hooks {
    shared: Arc<Shared>,
    /// What `{hook}` and `{hookCA}` stand for.
    pub(crate) names: BTreeMap<String, String>,
    shutdown: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

impl Hooks {
    /// Starts to serve them.
    pub(crate) async fn start(scripts: Scripts, pki: &Path) -> Result<Hooks> {
        let pki = Pki::open_or_make(pki)?;
        let local = IpAddr::from(Ipv4Addr::LOCALHOST);
        let tls = pki.server_config(&pki.server("hook", &[], &[local])?, &["http/1.1"])?;
        let listener = TcpListener::bind((local, 0)).await?;
        let names = BTreeMap::from([
            ("hook".to_owned(), format!("https://{}", listener.local_addr()?)),
            ("hookCA".to_owned(), STANDARD.encode(pki.ca_pem())),
        ]);
        let shared = Arc::new(Shared {
            scripts,
            asked: Mutex::default(),
        });
        let router = Router::new()
            .route("/{name}", post(answer))
            .with_state(Arc::clone(&shared));
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(listen::serve(listener, tls, router, shutdown.clone()));
        Ok(Hooks {
            shared,
            names,
            shutdown,
            server,
        })
    }

    /// What a webhook was asked, in order.
    pub(crate) fn asked(&self, name: &str) -> Vec<Value> {
        let asked = self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.get(name).cloned().unwrap_or_default()
    }

    pub(crate) async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        Ok(self.server.await?)
    }
}

async fn answer(State(shared): State<Arc<Shared>>, Segment(name): Segment<String>, body: Bytes) -> String {
    let review: Value = serde_json::from_slice(&body).unwrap_or_default();
    let uid = review["request"]["uid"].clone();
    shared
        .asked
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry(name.clone())
        .or_default()
        .push(review);
    let script = shared.scripts.get(&name).cloned().unwrap_or_default();
    // A webhook that is slow is what some cases are about.
    tokio::time::sleep(Duration::from_secs(script.delay_seconds)).await;
    if let Some(raw) = script.raw {
        return raw;
    }
    let mut response = script.response;
    response["uid"] = uid;
    if response["patch"].is_array() {
        response["patch"] = STANDARD.encode(response["patch"].to_string()).into();
    }
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response}).to_string()
}
