//! The node agent: runs the pods that are bound to its node, and tells the API how they are.
//!
//! Reading order: [`Kubelet`] (what a node is made of), `node` (what its parts share, and the node's
//! own object), `pods` (a worker for each pod), `pod` (the worker: `plan` and `status` are pure),
//! `volume`, `probe`, `images`, `services` (the proxy's rules and cluster DNS), `server` (the node's
//! own API). It knows the cluster only through a `kube::Client` and the informers over it;
//! containers are `stead-runtime`'s, links and rules `stead-network`'s.
//!
//! It holds no state that a restart would lose: what runs is asked of the runtime, what should run
//! of the API.

mod config;
mod images;
mod node;
mod pod;
mod pods;
mod probe;
mod server;
mod services;
mod volume;

use std::fs::Permissions;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use axum::Router;
use futures::future::BoxFuture;
use kube::Client;
use stead_informer::{Informers, Recorder, Task};
use stead_network::dns::{DnsServer, Upstreams, Zone, ZoneOptions};
use stead_network::{Ipam, Network, Proxy};
use stead_runtime::images::ImageStore;
use stead_runtime::{Events, Found, Runtime};
use tokio_util::sync::CancellationToken;

pub use config::Config;

use crate::node::Node;
use crate::pods::Pods;
use crate::services::{Place, Services};

/// What a kubelet stands on.
pub struct Parts {
    /// How the API is reached, as the node's own identity.
    pub client: Client,
    /// Informers that do not run yet.
    pub informers: Informers,
    /// Records the kubelet's events.
    pub recorder: Recorder,
    /// The container engine, what it tells, and what it found at its start.
    pub runtime: (Runtime, Events, Found),
    /// The engine's images.
    pub images: Arc<ImageStore>,
    /// The node's network, set up.
    pub network: Network,
}

/// A node cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory cannot be made.
    #[error("make {path:?}")]
    Dir {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The domain of the cluster's names is none.
    #[error(transparent)]
    Domain(#[from] stead_network::dns::InvalidDomain),
    /// Cluster DNS cannot listen.
    #[error("serve cluster DNS")]
    Dns(#[from] stead_network::dns::BindError),
}

/// A node's agent.
pub struct Kubelet {
    node: Arc<Node>,
    pods: Pods,
    events: Events,
    services: Services,
    dns: DnsServer,
}

impl Kubelet {
    /// Makes the agent. It hears of changes from now on, so this comes before the informers run.
    pub fn new(config: Config, parts: Parts) -> BoxFuture<'static, Result<Kubelet, StartError>> {
        Box::pin(async move {
            for path in [config.pods_dir(), config.run_pods_dir()] {
                let failed = |source| StartError::Dir {
                    path: path.clone(),
                    source,
                };
                std::fs::create_dir_all(&path).map_err(failed)?;
                // Volumes are for the containers they are mounted into, not for other users of the machine.
                std::fs::set_permissions(&path, Permissions::from_mode(0o750)).map_err(failed)?;
            }
            let (runtime, events, found) = parts.runtime;
            let ranges = parts.network.ranges().clone();
            let zone = Arc::new(Zone::new(ZoneOptions {
                domain: config.cluster_domain.clone(),
                name_servers: vec![config.cluster_dns],
                ranges: vec![ranges.services, ranges.pods],
            })?);
            let upstreams = Arc::new(Upstreams::new(config.resolv_conf.upstreams()));
            let address = SocketAddr::new(config.cluster_dns.into(), 53);
            let dns = DnsServer::bind(&[address], Arc::clone(&zone), upstreams).await?;
            let proxy = Proxy::new(&parts.network, tokio::runtime::Handle::current());
            let place = Place {
                node: config.node_name.clone(),
                is_exposed: parts.network.is_exposed(),
            };
            let services = Services::new(&parts.informers, place, proxy, zone);
            let facts = node::facts(&config);
            let node = Arc::new(Node {
                ipam: Mutex::new(Ipam::new(ranges.node_pods)),
                client: parts.client,
                informers: parts.informers,
                recorder: parts.recorder,
                runtime,
                images: parts.images,
                network: parts.network,
                exits: node::Exits::default(),
                sessions: server::Sessions::default(),
                facts,
                config,
            });
            let pods = Pods::new(Arc::clone(&node), found);
            pods.listen();
            Ok(Kubelet {
                node,
                pods,
                events,
                services,
                dns,
            })
        })
    }

    /// The node's own API: logs, exec, attach, port-forward. Whoever serves it sees to it that only
    /// the API server is let in.
    pub fn router(&self) -> Router {
        server::router(Arc::clone(&self.node))
    }

    /// The pods, to be stopped when the node goes down.
    pub fn parking(&self) -> Parking {
        Parking {
            pods: self.pods.clone(),
        }
    }

    /// The tasks of the agent, until cancelled. `ready` is cancelled once the node is registered.
    pub fn run(self, shutdown: &CancellationToken, ready: CancellationToken) -> Vec<Task> {
        let Kubelet {
            node,
            pods,
            events,
            services,
            dns,
        } = self;
        let (alive, orphans, followed) = (Arc::clone(&node), pods.clone(), pods);
        let tokens: [CancellationToken; 7] = std::array::from_fn(|_| shutdown.clone());
        let [
            for_node,
            for_events,
            for_services,
            for_dns,
            for_orphans,
            for_uplinks,
            for_sessions,
        ] = tokens;
        let connected = Arc::clone(&node);
        let network = node.network.clone();
        vec![
            Box::pin(async move {
                node.register(&for_node).await;
                ready.cancel();
                alive.keep_alive(for_node).await;
            }),
            Box::pin(async move { followed.follow_runtime(events, for_events).await }),
            Box::pin(services.run(for_services)),
            Box::pin(async move {
                if let Err(error) = dns.run(for_dns).await {
                    tracing::error!(%error, "cluster DNS ended");
                }
            }),
            Box::pin(async move {
                let informers = orphans.informers();
                tokio::select! {
                    () = for_orphans.cancelled() => {}
                    () = informers.pods.synced() => orphans.remove_orphans().await,
                }
            }),
            Box::pin(async move {
                for_sessions.cancelled().await;
                connected.sessions.close().await;
            }),
            Box::pin(async move {
                if let Err(error) = network.follow_uplinks(for_uplinks).await {
                    tracing::warn!(%error, "changes of the machine's network are not followed");
                }
            }),
        ]
    }
}

/// Stops the node's pods.
pub struct Parking {
    pods: Pods,
}

impl Parking {
    /// Stops all pods, each in its grace period, and forgets nothing of them: when the node is back,
    /// they are.
    pub async fn park(&self) {
        self.pods.park().await;
    }
}
