//! A pod that an earlier server had: its shim is found and asked, or it is made sure that it is dead.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{ContainerInfo, ContainerState, Pod, ShimContainer, ShimEvent};
use crate::blocking::blocking;
use crate::config::{NetworkMode, PodConfig};
use crate::ready;
use crate::record::{self, EXIT_FILE, ExitRecord};
use crate::runtime::connection::{Connection, Peer, RequestError};
use crate::runtime::dirs::{self, POD_FILE, PodDirs};
use crate::runtime::launch;
use crate::runtime::shim::{self, ShimError};
use crate::runtime::{DeadPod, Shared};
use crate::shim::protocol::{Answer, Op};

/// What became of a pod that an earlier server had.
pub(in crate::runtime) enum Adopted {
    Alive(Pod),
    /// `None` if not even its description is left.
    Dead(Option<Box<DeadPod>>),
}

/// Finds out about a pod that an earlier server had.
///
/// A shim may die just while it is looked for; then it is looked for again, and is found dead.
pub(in crate::runtime) async fn adopt(shared: &Arc<Shared>, uid: &str) -> Result<Adopted, ShimError> {
    let dirs = shared.dirs(uid);
    let config = read_config(&dirs);
    let failed = |source| ShimError::File {
        action: "talk to",
        path: dirs.socket(),
        source,
    };
    let mut meetings = 0;
    while let Some(socket) = shim::find(&dirs).await? {
        meetings += 1;
        let connection = Connection::new(socket).map_err(failed)?;
        let peer = match connection.peer() {
            Ok(peer) => peer,
            // Gone without a trace, so that the next look does not find it.
            Err(error) if meetings < MEETINGS => {
                tracing::debug!(pod = uid, %error, "a shim has gone while it was looked for");
                continue;
            }
            Err(error) => return Err(failed(error)),
        };
        let Some(config) = &config else {
            tracing::warn!(pod = uid, "a pod whose description is gone is ended");
            let _ = rustix::process::pidfd_send_signal(&peer.pidfd, rustix::process::Signal::KILL);
            wait_for_end(peer.pidfd).await.map_err(failed)?;
            continue;
        };
        match meet(connection, config, &peer).await {
            Ok(met) => return Ok(Adopted::Alive(met.take_over(shared, config.clone(), peer).await)),
            Err(error) => {
                let ends = wait_for_end(peer.pidfd).await.is_ok();
                if !ends || meetings == MEETINGS {
                    return Err(failed(io::Error::other(error)));
                }
            }
        }
    }
    let kill = async { shared.cgroups.kill(&shared.cgroups.pod(uid)?).await };
    kill.await.map_err(|error| failed(io::Error::other(error)))?;
    let containers = blocking(move || dead_containers(&dirs)).await;
    Ok(Adopted::Dead(
        config.map(|config| Box::new(DeadPod { config, containers })),
    ))
}

/// How often a shim is looked for that is there and then is not. Only a dying one does that, and only once.
const MEETINGS: usize = 10;
/// How long a shim that no longer answers may take to end. Its socket is closed a moment before.
const DYING: Duration = Duration::from_secs(10);

async fn wait_for_end(pidfd: OwnedFd) -> io::Result<()> {
    let end = tokio::time::timeout(DYING, ready::process_end(pidfd));
    end.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A shim that has told what it has.
struct Met {
    connection: Connection,
    netns: Option<OwnedFd>,
    known: Vec<ShimContainer>,
    /// What has happened since.
    events: Vec<ShimEvent>,
}

/// Asks a shim what it has. Before the pod exists for anyone else, as the shim may yet turn out to be dying.
async fn meet(connection: Connection, config: &PodConfig, peer: &Peer) -> Result<Met, RequestError> {
    let mut events = Vec::new();
    let known = tokio::select! {
        known = greet(&connection) => known?,
        () = connection.run(|event| events.push(event)) => return Err(RequestError::Lost),
    };
    let netns = match config.network {
        NetworkMode::Pod => {
            let path = format!("/proc/{}/ns/net", peer.pid);
            // It cannot be opened when the process has ended.
            Some(fs::File::open(path).map_err(|_| RequestError::Lost)?.into())
        }
        NetworkMode::Host => None,
    };
    Ok(Met {
        connection,
        netns,
        known,
        events,
    })
}

impl Met {
    async fn take_over(self, shared: &Arc<Shared>, config: PodConfig, peer: Peer) -> Pod {
        let pod = Pod::new(shared, config, self.connection, (peer.pid, self.netns));
        pod.spawn_task(peer.pidfd);
        pod.take_over(self.known).await;
        self.events.into_iter().for_each(|event| pod.heard(event));
        pod
    }
}

/// Agrees on a version with a shim, and asks which containers it has.
pub(super) async fn greet(connection: &Connection) -> Result<Vec<ShimContainer>, RequestError> {
    connection.hello().await?;
    match connection.request(Op::List, &[]).await? {
        (Answer::Containers(known), _) => Ok(known),
        _ => Err(RequestError::Nonsense),
    }
}

fn read_config(dirs: &PodDirs) -> Option<PodConfig> {
    let state = fs::File::open(&dirs.state).ok()?;
    record::read_json(&state, POD_FILE).ok().flatten()
}

/// The containers of a pod whose shim has died. One that left no record was killed with its shim; that is
/// recorded now, so that it will be the same story next time.
pub(super) fn dead_containers(dirs: &PodDirs) -> Vec<ContainerInfo> {
    let mut containers = Vec::new();
    for id in dirs::names(&dirs.containers()) {
        let bundle = dirs.bundle(&id);
        // Without a description it had not been started.
        let Some(meant) = launch::read_meant(&bundle) else {
            continue;
        };
        let exit = exit_or_killed(&bundle);
        containers.push(ContainerInfo::new(id, &meant, ContainerState::Exited(exit)));
    }
    containers
}

fn exit_or_killed(bundle: &std::path::Path) -> ExitRecord {
    let dir = fs::File::open(bundle);
    let recorded = dir
        .as_ref()
        .ok()
        .and_then(|dir| record::read_json(dir, EXIT_FILE).ok().flatten());
    recorded.unwrap_or_else(|| {
        let now = Timestamp::now();
        let exit = ExitRecord {
            exit_code: 128 + libc::SIGKILL,
            signal: Some(libc::SIGKILL),
            oom_killed: false,
            started_at: now,
            finished_at: now,
        };
        if let Err(error) = dir.and_then(|dir| record::write_json(&dir, EXIT_FILE, &exit)) {
            tracing::warn!(?bundle, %error, "the end of a container cannot be recorded");
        }
        exit
    })
}
