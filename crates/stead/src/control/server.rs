//! The server's side of the control socket.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::future::BoxFuture;
use futures::{FutureExt as _, TryStreamExt as _};
use stead_informer::{Informers, Key};
use stead_runtime::images::{ImageStore, LoadOptions, Progress, PullOptions, Reference};
use stead_runtime::{ContainerState, Runtime};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_util::io::{StreamReader, SyncIoBridge};
use tokio_util::sync::CancellationToken;

use super::sets;
use super::{
    ContainerStatus, Failure, ForwardRow, ImageRow, Named, NodeStatus, Patience, PodStatus, Pull, PullLine,
    ServerStatus, ServiceRow, Status,
};
use crate::place::Place;
use crate::serve::{End, Services, Tunnel, version};

/// What the commands can ask for.
#[derive(Clone)]
pub(crate) struct Controls {
    pub(crate) address: SocketAddr,
    pub(crate) node: String,
    pub(crate) runtime: Runtime,
    pub(crate) images: Arc<ImageStore>,
    pub(crate) informers: Informers,
    pub(crate) network: stead_network::Network,
    pub(crate) services: Services,
    pub(crate) tunnel: Tunnel,
    pub(crate) end: mpsc::Sender<End>,
}

/// Listens. Whoever holds the lock of the data directory may take over what a former server left.
pub(crate) fn bind(place: &Place) -> anyhow::Result<UnixListener> {
    let path = place.socket();
    let listen = || {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    listen().with_context(|| format!("listen on {}", path.display()))
}

/// Answers until cancelled.
pub(crate) async fn serve(listener: UnixListener, controls: Controls, shutdown: CancellationToken) {
    let router = Router::new()
        .route("/status", get(status))
        .route("/images", get(images).post(load).delete(remove))
        .route("/images/pull", post(pull))
        .route("/services", get(services))
        .route("/services/{namespace}/{name}", get(service))
        .route("/tunnel", get(forwards).post(open_tunnel).delete(close_tunnel))
        .route("/down", post(down))
        .layer(DefaultBodyLimit::disable())
        .with_state(controls);
    let served = axum::serve(listener, router)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the control socket is not served any more");
    }
}

/// Why something was not done.
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(Failure { error: self.1 })).into_response()
    }
}

fn refused(error: &dyn std::fmt::Display) -> Refused {
    Refused(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
}

async fn status(State(controls): State<Controls>) -> Json<Status> {
    let node = controls.informers.nodes.get(&Key::new("", &controls.node));
    let conditions = node
        .as_ref()
        .and_then(|node| node.status.as_ref()?.conditions.as_deref())
        .unwrap_or_default();
    let ready = conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let mut pods: Vec<PodStatus> = controls.runtime.pods().iter().map(pod_status).collect();
    pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let obstacles = controls.network.obstacles().unwrap_or_default();
    Json(Status {
        server: ServerStatus {
            pid: std::process::id(),
            address: format!("https://{}", controls.address),
            version: version(),
        },
        node: NodeStatus {
            name: controls.node,
            ready,
        },
        stateful_sets: sets::all(&controls.informers),
        pods,
        warnings: obstacles.iter().map(ToString::to_string).collect(),
    })
}

fn pod_status(pod: &stead_runtime::Pod) -> PodStatus {
    let config = pod.config();
    let containers = pod
        .containers()
        .into_iter()
        .filter_map(|container| match container.state {
            ContainerState::Running { pid, .. } => Some(ContainerStatus {
                name: container.name,
                pid,
            }),
            ContainerState::Exited(_) => None,
        });
    PodStatus {
        namespace: config.namespace.clone(),
        name: config.name.clone(),
        uid: config.uid.clone(),
        shim_pid: pod.pid(),
        containers: containers.collect(),
    }
}

async fn images(State(controls): State<Controls>) -> Json<Vec<ImageRow>> {
    Json(controls.images.list().into_iter().map(ImageRow::from).collect())
}

/// Loads the archive that the body is; answers with the names that it has given.
async fn load(State(controls): State<Controls>, request: Request) -> Result<Json<Vec<ImageRow>>, Refused> {
    let body = request.into_body().into_data_stream().map_err(io::Error::other);
    let mut archive = SyncIoBridge::new(StreamReader::new(body));
    let images = controls.images;
    let loaded = tokio::task::spawn_blocking(move || {
        let loaded = images.load(&mut archive, &LoadOptions::default());
        // Whoever sends hears the answer only when all has been taken; an archive may end before its file does.
        io::copy(&mut archive, &mut io::sink())?;
        anyhow::Ok(loaded?)
    });
    let loaded = loaded.await;
    let loaded = loaded
        .map_err(|error| refused(&error))?
        .map_err(|error| refused(&error))?;
    let rows = loaded.into_iter().map(|image| ImageRow {
        id: image.id.to_string(),
        repo_tags: image.names,
        repo_digests: Vec::new(),
        bytes: 0,
    });
    Ok(Json(rows.collect()))
}

async fn remove(State(controls): State<Controls>, Json(named): Json<Named>) -> Result<(), Refused> {
    let images = controls.images;
    let removed = tokio::task::spawn_blocking(move || images.remove(&named.name)).await;
    removed
        .map_err(|error| refused(&error))?
        .map_err(|error| refused(&error))
}

/// Pulls an image; the answer's lines tell how far it is.
async fn pull(State(controls): State<Controls>, Json(pull): Json<Pull>) -> Result<Body, Refused> {
    let reference: Reference = pull.name.parse().map_err(|error| refused(&error))?;
    let (lines, progress) = mpsc::channel(16);
    let options = PullOptions {
        // How far it was a moment ago matters to nobody.
        progress: Some(Arc::new(move |Progress { bytes, total }| {
            let _ = lines.try_send(PullLine::Progress { bytes, total });
        })),
        credentials: pull.credentials,
        ..PullOptions::default()
    };
    let outcome = async move {
        match controls.images.pull(&reference, &options).await {
            Ok(id) => PullLine::Done { id: id.to_string() },
            Err(error) => PullLine::Failed(error.to_string()),
        }
    };
    let pulling = Pulling {
        outcome: outcome.boxed(),
        progress,
        ended: false,
    };
    Ok(Body::from_stream(futures::stream::unfold(pulling, Pulling::next)))
}

/// A pull, driven by whoever reads the answer: it ends when they hang up.
struct Pulling {
    outcome: BoxFuture<'static, PullLine>,
    progress: mpsc::Receiver<PullLine>,
    ended: bool,
}

impl Pulling {
    async fn next(mut self) -> Option<(serde_json::Result<String>, Pulling)> {
        if self.ended {
            return None;
        }
        let line = tokio::select! {
            line = &mut self.outcome => {
                self.ended = true;
                line
            }
            Some(line) = self.progress.recv() => line,
        };
        Some((serde_json::to_string(&line).map(|line| line + "\n"), self))
    }
}

async fn services(State(controls): State<Controls>) -> Json<Vec<ServiceRow>> {
    Json(controls.services.all())
}

/// A Service, as soon as it can be reached or the patience is at its end.
async fn service(
    State(controls): State<Controls>,
    Path((namespace, name)): Path<(String, String)>,
    Query(patience): Query<Patience>,
) -> Json<Option<ServiceRow>> {
    let patience = Duration::from_secs(patience.seconds);
    Json(controls.services.get(&namespace, &name, patience).await)
}

async fn forwards(State(controls): State<Controls>) -> Json<Option<Vec<ForwardRow>>> {
    Json(controls.tunnel.rows())
}

async fn open_tunnel(State(controls): State<Controls>) -> Json<Option<Vec<ForwardRow>>> {
    controls.tunnel.open().await;
    Json(controls.tunnel.rows())
}

/// Whether it was open.
async fn close_tunnel(State(controls): State<Controls>) -> Json<bool> {
    Json(controls.tunnel.close())
}

async fn down(State(controls): State<Controls>) -> Result<(), Refused> {
    controls
        .end
        .send(End::Down)
        .await
        .map_err(|error| refused(&error))
}
