//! A cluster at work: what it is made of, in which order it starts and ends.
//!
//! Start: the data directory is locked; the store and the engine are opened, which find what a former server
//! left, or refuse what they cannot read, before anything on the machine is changed; then the network is set
//! up; the API listens; then everything that speaks to it begins, and the
//! cluster is ready when its node is registered.
//!
//! End: either the pods are parked first ([`End::Down`]), or they are left running for the next server
//! ([`End::Leave`]). Then the parts stop, the listeners, the store, and last the lock is let go.

mod clients;
mod host_ports;
mod listeners;
mod memory;
mod parts;
mod services;
mod tunnel;

use std::fs::{File, OpenOptions};
use std::net::{SocketAddr, SocketAddrV4};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::fs::FlockOperation;
use stead_apiserver::audit::Audit;
use stead_apiserver::authn::TokenKey;
use stead_apiserver::bootstrap::Addresses;
use stead_apiserver::identity::MASTERS;
use stead_apiserver::pki::{Pki, PkiError};
use stead_apiserver::{ApiServer, NodeClient, listen};
use stead_network::{Network, NetworkError, Options};
use stead_runtime::images::ImageStore;
use stead_runtime::{Events, Found, Runtime};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, drafts, make_data_dir};
use crate::place::Place;
use crate::{cli, control};
use parts::{Ground, Parts};
pub(crate) use services::Services;
pub(crate) use tunnel::Tunnel;

/// stead's own version.
pub(crate) const OWN_VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long the data directory's last user may take to be gone.
const PATIENCE_FOR_LOCK: Duration = Duration::from_secs(15);

/// The version as Kubernetes' clients see it.
pub(crate) fn version() -> String {
    let (major, minor, patch) = stead_api::KUBERNETES_VERSION;
    format!("v{major}.{minor}.{patch}+stead.{OWN_VERSION}")
}

/// What becomes of the pods when the server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// They are stopped, each in its grace period, and the machine's network is put back.
    Down,
    /// They go on, and the next server adopts them.
    Leave,
}

/// A cluster that runs.
pub(crate) struct Server {
    place: Place,
    address: SocketAddr,
    api: ApiServer,
    runtime: Runtime,
    network: Network,
    parking: stead_kubelet::Parking,
    /// Ends the parts.
    shutdown: CancellationToken,
    /// Ends the listeners, after the parts.
    closing: CancellationToken,
    tasks: JoinSet<()>,
    listeners: JoinSet<()>,
    ends: mpsc::Receiver<End>,
    _lock: File,
}

impl Server {
    /// Starts the cluster of a place. Returns when its node is Ready; `report` hears what is being done.
    pub(crate) async fn start(
        place: Place,
        options: cli::Serve,
        report: impl Fn(&str),
    ) -> anyhow::Result<Server> {
        report("opening the data directory");
        let (lock, mut cluster) = open_data_dir(&place)?;
        let clients = listeners::for_clients(options.listen, cluster.port).await?;
        let address = clients.local_addr().context("ask for the API's address")?;

        report("opening the store");
        let pki = open_pki(&place).context("open the certificates")?;
        let audit = open_audit(&place, &options)?;
        let api = open_api(&place, &cluster, &pki, address, audit)?;
        let router = api.router();

        report("finding containers");
        let (images, (runtime, events, found)) = open_engine(&place).await?;
        if !found.alive.is_empty() {
            tracing::info!(pods = found.alive.len(), "pods of a former server are adopted");
        }

        report("setting up the network");
        let network = set_up_network(&place, &cluster, options.expose)?;
        let cluster_api = listeners::for_cluster(cluster.ranges.node, listeners::API_PORT).await?;
        let node_api = listeners::for_cluster(cluster.ranges.node, listeners::NODE_PORT).await?;
        let node_port = node_api
            .local_addr()
            .context("ask for the node's address")?
            .port();

        api.bootstrap(&Addresses {
            service: cluster.ranges.api(),
            endpoint: SocketAddrV4::new(
                cluster.ranges.node,
                cluster_api
                    .local_addr()
                    .context("ask for the API's address")?
                    .port(),
            ),
            dns: cluster.ranges.dns(),
        })
        .await?;

        report("starting the node");
        let (shutdown, closing) = (CancellationToken::new(), CancellationToken::new());
        let made = parts::make(Ground {
            place: &place,
            cluster: &cluster,
            router: &router,
            pki: &pki,
            network: network.clone(),
            runtime: (runtime.clone(), events, found),
            images: Arc::clone(&images),
            node_port,
            load_balancer: options.load_balancer,
            expose: options.expose,
            shutdown: &shutdown,
        })
        .await?;
        let Parts {
            tasks: work,
            recorders,
            parking,
            node_api: node_router,
            registered,
            informers,
            services,
        } = made;

        let mut listening = JoinSet::new();
        let mut serve = |listener: TcpListener, tls, router| {
            listening.spawn(listen::serve(listener, tls, router, closing.clone()));
        };
        serve(
            clients,
            listeners::api_tls(&pki, &cluster, address.ip())?,
            router.clone(),
        );
        serve(
            cluster_api,
            listeners::api_tls(&pki, &cluster, address.ip())?,
            router,
        );
        serve(
            node_api,
            listeners::node_tls(&pki, &cluster)?,
            listeners::guarded(node_router),
        );

        let mut tasks = JoinSet::new();
        for task in work.into_iter().chain(recorders) {
            tasks.spawn(task);
        }
        tasks.spawn(memory::let_go(shutdown.clone()));
        let keeper = api.clone();
        tasks.spawn(async move { keeper.run(&pki).await });
        registered.cancelled().await;

        if cluster.port != Some(address.port()) {
            cluster.port = Some(address.port());
            cluster.write(&place)?;
        }
        let (end, ends) = mpsc::channel(1);
        let controls = control::server::Controls {
            address,
            node: cluster.node.clone(),
            runtime: runtime.clone(),
            images,
            informers,
            network: network.clone(),
            tunnel: Tunnel::new(services.clone(), closing.clone()),
            services,
            end,
        };
        let socket = control::server::bind(&place)?;
        listening.spawn(control::server::serve(socket, controls, closing.clone()));
        tell_obstacles(&network);
        tracing::info!(%address, version = version(), "the cluster is up");
        Ok(Server {
            place,
            address,
            api,
            runtime,
            network,
            parking,
            shutdown,
            closing,
            tasks,
            listeners: listening,
            ends,
            _lock: lock,
        })
    }

    /// Where the API is reached on this machine.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until a command asks for the end.
    pub(crate) async fn asked_to_end(&mut self) -> End {
        // The control socket, which has the other end, is served as long as this server is.
        self.ends.recv().await.unwrap_or(End::Leave)
    }

    /// Ends.
    pub(crate) async fn end(self, end: End) -> anyhow::Result<()> {
        let Server {
            place,
            api,
            runtime,
            network,
            parking,
            shutdown,
            closing,
            tasks,
            listeners,
            _lock,
            ..
        } = self;
        tracing::info!(?end, "the server ends");
        if end == End::Down {
            parking.park().await;
        }
        shutdown.cancel();
        // Watches of those who are still there end with this, so that their connections can.
        closing.cancel();
        api.close().await;
        join(tasks).await;
        join(listeners).await;
        runtime.close().await;
        drop(network);
        if end == End::Down {
            leave_machine(&place).await?;
        }
        // The socket is gone with us; a client that finds it is told so by the lock.
        let _ = std::fs::remove_file(place.socket());
        Ok(())
    }
}

/// Takes away what a cluster whose pods have ended has made in the kernel.
pub(crate) async fn leave_machine(place: &Place) -> anyhow::Result<()> {
    Network::down(place.id()).context("put the machine's network back")?;
    stead_runtime::remove_cgroups(&place.cgroup())
        .await
        .context("remove the pods' control groups")
}

async fn join(mut tasks: JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a part of the server failed");
        }
    }
}

fn open_data_dir(place: &Place) -> anyhow::Result<(File, Cluster)> {
    make_data_dir(place)?;
    let lock = lock(place)?;
    // Whoever wrote them was killed.
    for draft in drafts(place) {
        let _ = std::fs::remove_file(draft);
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(place.run())
        .with_context(|| format!("make {}", place.run().display()))?;
    let cluster = match Cluster::read(place)? {
        Some(cluster) => cluster,
        None => {
            let cluster = Cluster::new()?;
            cluster.write(place)?;
            cluster
        }
    };
    Ok((lock, cluster))
}

/// Locks the data directory, as long as the file is open.
pub(crate) fn lock(place: &Place) -> anyhow::Result<File> {
    let path = place.server_lock();
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    let (locked, waiting) = std::sync::mpsc::channel();
    // A server that has just been killed has the lock until its last page is freed.
    std::thread::spawn(move || {
        let outcome = rustix::fs::flock(&file, FlockOperation::LockExclusive);
        let _ = locked.send(outcome.map(|()| file));
    });
    match waiting.recv_timeout(PATIENCE_FOR_LOCK) {
        Ok(outcome) => outcome.with_context(|| format!("lock {}", path.display())),
        Err(_) => bail!(
            "{} is in use by another stead, which does not answer at {}; see its log: {}",
            place.data().display(),
            place.socket().display(),
            place.log().display()
        ),
    }
}

fn set_up_network(place: &Place, cluster: &Cluster, expose: bool) -> anyhow::Result<Network> {
    let options = Options {
        cluster: place.id(),
        ranges: cluster.ranges.clone(),
        expose,
    };
    Network::up(options).map_err(|error| match error {
        NetworkError::RangeTaken(range) => anyhow::anyhow!(
            "something on this machine has a route to {range} now, which this cluster's addresses are in; \
             remove that route (see `ip route`), or start another cluster with --data-dir"
        ),
        error => anyhow::Error::new(error).context("set up the network"),
    })
}

/// Certificates are made for a cluster that is only now begun. The store is made after them.
fn open_pki(place: &Place) -> Result<Pki, PkiError> {
    if place.store().exists() {
        Pki::open(&place.pki())
    } else {
        Pki::open_or_make(&place.pki())
    }
}

fn open_audit(place: &Place, options: &cli::Serve) -> anyhow::Result<Option<Arc<Audit>>> {
    let Some(policy) = &options.audit_policy else {
        return Ok(None);
    };
    let log = options.audit_log.clone().unwrap_or_else(|| place.audit_log());
    Ok(Some(Arc::new(Audit::open(policy, &log)?)))
}

fn open_api(
    place: &Place,
    cluster: &Cluster,
    pki: &Pki,
    address: SocketAddr,
    audit: Option<Arc<Audit>>,
) -> anyhow::Result<ApiServer> {
    let issuer = "https://kubernetes.default.svc.cluster.local".to_owned();
    let tokens = TokenKey::new(pki.token_key(), &issuer)?;
    let to_nodes = pki.client("kube-apiserver-kubelet-client", &[MASTERS])?;
    let config = stead_apiserver::Config {
        service_range: (
            cluster.ranges.services.network(),
            cluster.ranges.services.prefix_len(),
        ),
        node_ports: 30_000..=32_767,
        address: address.to_string(),
        issuer,
        version: OWN_VERSION.to_owned(),
        audit,
        more_metrics: stead_informer::metrics,
    };
    let nodes = NodeClient::new(pki.client_config(&to_nodes)?);
    ApiServer::open(config, &place.store(), tokens, nodes)
        .with_context(|| format!("open the store in {}", place.store().display()))
}

/// Opens the image store and the engine over it.
pub(crate) async fn open_engine(
    place: &Place,
) -> anyhow::Result<(Arc<ImageStore>, (Runtime, Events, Found))> {
    let images = Arc::new(
        ImageStore::open(place.images())
            .with_context(|| format!("open the images in {}", place.images().display()))?,
    );
    let config = stead_runtime::Config {
        state_dir: place.runtime(),
        run_dir: place.run().join("runtime"),
        cgroup: place.cgroup(),
    };
    let engine = Runtime::open(config, Arc::clone(&images))
        .await
        .context("start the container engine")?;
    Ok((images, engine))
}

/// What is in the way of pods' packets is not ours to change, but to be told.
fn tell_obstacles(network: &Network) {
    match network.obstacles() {
        Ok(obstacles) => {
            for obstacle in obstacles {
                tracing::warn!("{obstacle}");
            }
        }
        Err(error) => tracing::warn!(%error, "look for what keeps packets from pods"),
    }
}
