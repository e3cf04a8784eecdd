//! Ports of Services of type `LoadBalancer` on 127.0.0.1, for programs that know no other address.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::services::Services;
use crate::control::{ForwardRow, ServiceRow};

/// How long no connection is taken after one could not be.
const PAUSE: Duration = Duration::from_millis(100);

/// The tunnel: open or closed.
#[derive(Clone)]
pub(crate) struct Tunnel {
    services: Services,
    /// Cancelled when the server ends.
    shutdown: CancellationToken,
    open: Arc<Mutex<Option<Open>>>,
}

/// An open tunnel.
struct Open {
    close: CancellationToken,
    forwards: Arc<Mutex<Vec<Forward>>>,
}

/// A port of this machine, which is that of the target.
#[derive(Clone, PartialEq, Eq)]
struct Forward {
    service: String,
    target: SocketAddr,
    /// Why it is not forwarded.
    problem: Option<String>,
}

impl Tunnel {
    /// A closed one.
    pub(crate) fn new(services: Services, shutdown: CancellationToken) -> Tunnel {
        Tunnel {
            services,
            shutdown,
            open: Arc::default(),
        }
    }

    /// Opens it; if it is, it stays so.
    pub(crate) async fn open(&self) {
        let opened = {
            let mut open = self.state();
            if open.is_some() {
                return;
            }
            let opened = Open {
                close: self.shutdown.child_token(),
                forwards: Arc::default(),
            };
            let parts = (opened.close.clone(), Arc::clone(&opened.forwards));
            *open = Some(opened);
            parts
        };
        let (close, forwards) = opened;
        let mut listening = Listening::default();
        listening.follow(&self.services, &forwards).await;
        let services = self.services.clone();
        tokio::spawn(async move {
            let mut changes = services.changes();
            loop {
                tokio::select! {
                    () = close.cancelled() => break,
                    changed = changes.changed() => if changed.is_err() { break },
                }
                listening.follow(&services, &forwards).await;
            }
        });
    }

    /// Closes it, with all connections through it; whether it was open.
    pub(crate) fn close(&self) -> bool {
        let open = self.state().take();
        open.inspect(|open| open.close.cancel()).is_some()
    }

    /// What it forwards; `None` if it is closed.
    pub(crate) fn rows(&self) -> Option<Vec<ForwardRow>> {
        let open = self.state();
        let forwards = open
            .as_ref()?
            .forwards
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let row = |forward: &Forward| ForwardRow {
            service: forward.service.clone(),
            address: format!("127.0.0.1:{}", forward.target.port()),
            target: forward.target.to_string(),
            problem: forward.problem.clone(),
        };
        Some(forwards.iter().map(row).collect())
    }

    fn state(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The listeners of an open tunnel. Dropped, nobody listens any more.
#[derive(Default)]
struct Listening(BTreeMap<u16, (Forward, JoinSet<()>)>);

impl Listening {
    /// Listens where it has to just now.
    async fn follow(&mut self, services: &Services, told: &Mutex<Vec<Forward>>) {
        let mut wanted = wanted(&services.all());
        self.0.retain(|_, (forward, _)| wanted.contains(forward));
        for forward in wanted.iter_mut().filter(|forward| forward.problem.is_none()) {
            let port = forward.target.port();
            if self.0.contains_key(&port) {
                continue;
            }
            match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
                Ok(listener) => {
                    let mut task = JoinSet::new();
                    task.spawn(accept(listener, forward.target));
                    self.0.insert(port, (forward.clone(), task));
                }
                Err(error) => forward.problem = Some(format!("it cannot be listened on: {error}")),
            }
        }
        *told.lock().unwrap_or_else(PoisonError::into_inner) = wanted;
    }
}

/// What is to be forwarded. Of Services with one port, the first by name has it.
fn wanted(services: &[ServiceRow]) -> Vec<Forward> {
    let mut wanted: Vec<Forward> = Vec::new();
    for service in services {
        let Some(address) = service.address.as_ref().and_then(|address| address.parse().ok()) else {
            continue;
        };
        for port in service.ports.iter().filter(|port| port.is_tcp) {
            let first = wanted.iter().find(|other| other.target.port() == port.port);
            let problem = first.map(|first| format!("the port is that of {}; use the target", first.service));
            wanted.push(Forward {
                service: format!("{}/{}", service.namespace, service.name),
                target: SocketAddr::new(address, port.port),
                problem,
            });
        }
    }
    wanted
}

/// Takes connections until dropped, which ends them.
async fn accept(listener: TcpListener, target: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((mut client, _)) => {
                    connections.spawn(async move {
                        if let Ok(mut server) = TcpStream::connect(target).await {
                            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                        }
                    });
                }
                // Out of descriptors, which others than ours may let go of.
                Err(error) => {
                    tracing::warn!(%error, "the tunnel could not take a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}
