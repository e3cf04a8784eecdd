//! Connections into pods: `exec`, `attach`, `portForward`.
//!
//! A request is looked at, answered with the change of protocol, and then carried by a task of its own
//! ([`Sessions`]). What is spoken is `stead-streaming`'s, the processes are `stead-runtime`'s; here
//! the two are joined. Refusals are plain text in the kubelet's words: clients of SPDY put
//! "unable to upgrade connection: " before them.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures::FutureExt as _;
use stead_informer::Key;
use stead_runtime::{Attach, AttachConfig, ContainerInfo, Exec, ExecConfig, Pod};
use stead_streaming::remotecommand::{self, Exit, Session, Sizes, Streams, TerminalSize};
use stead_streaming::{Rejection, Timing, portforward};
use tokio::io::{AsyncRead, AsyncWrite, copy};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::node::Node;

/// The tasks that carry streams, and their end.
#[derive(Default)]
pub(crate) struct Sessions {
    tasks: TaskTracker,
    closing: CancellationToken,
}

impl Sessions {
    fn spawn(&self, session: impl Future<Output = ()> + Send + 'static) {
        let closing = self.closing.clone();
        self.tasks.spawn(async move {
            closing.run_until_cancelled_owned(session).await;
        });
    }

    /// Cuts off all of them, and waits until they have ended.
    pub(crate) async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Why a request is not answered with streams.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Refused {
    #[error("pod does not exist")]
    NoPod,
    #[error("pod not found ({0:?})")]
    PodNotRunning(String),
    #[error("container not found ({0:?})")]
    NoContainer(String),
    #[error(transparent)]
    Upgrade(#[from] Rejection),
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let code = match &self {
            Refused::Upgrade(rejection) => return rejection.response().map(Body::from),
            Refused::NoPod => StatusCode::NOT_FOUND,
            // The kubelet has no better code for these.
            Refused::PodNotRunning(_) | Refused::NoContainer(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (code, self.to_string()).into_response()
    }
}

/// Runs a command in a container: `/exec/{namespace}/{pod}/{container}?command=…&input=1&output=1&…`.
pub(super) async fn exec(
    State(node): State<Arc<Node>>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    mut request: Request,
) -> Result<Response, Refused> {
    let wanted = Streams::from_query(request.uri().query().unwrap_or_default())?;
    let (pod, info) = node.running(&namespace, &name, &container)?;
    let config = ExecConfig {
        command: command(request.uri()),
        tty: wanted.tty,
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr,
        ..ExecConfig::default()
    };
    let (response, upgrade) = remotecommand::accept(&mut request, wanted)?;
    node.sessions.spawn(async move {
        let Some(mut session) = open(upgrade).await else {
            return;
        };
        let exit = match pod.exec(&info.id, config).await {
            Ok(exec) => converse(&mut session, exec).await,
            Err(error) => Some(exec_failure(&format!("failed to exec in container: {error}"))),
        };
        finish(session, exit).await;
    });
    Ok(response.map(|()| Body::empty()))
}

/// Connects to a container's first process: `/attach/{namespace}/{pod}/{container}?input=1&output=1&…`.
pub(super) async fn attach(
    State(node): State<Arc<Node>>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    mut request: Request,
) -> Result<Response, Refused> {
    let wanted = Streams::from_query(request.uri().query().unwrap_or_default())?;
    let (pod, info) = node.running(&namespace, &name, &container)?;
    let (response, upgrade) = remotecommand::accept(&mut request, wanted)?;
    let config = AttachConfig {
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr,
    };
    let session = {
        let node = Arc::clone(&node);
        async move {
            let Some(mut session) = open(upgrade).await else {
                return;
            };
            let ended = node.end_of_container(&pod, &info.id);
            let exit = match pod.attach(&info.id, config).await {
                Ok(attached) => follow(&mut session, attached, &pod, &info.id, ended).await,
                Err(error) => Some(Exit::Failed(format!("error attaching to container: {error}"))),
            };
            finish(session, exit).await;
        }
    };
    node.sessions.spawn(session);
    Ok(response.map(|()| Body::empty()))
}

/// Forwards connections to ports of a pod, on its loopback: `/portForward/{namespace}/{pod}`.
pub(super) async fn port_forward(
    State(node): State<Arc<Node>>,
    Path((namespace, name)): Path<(String, String)>,
    mut request: Request,
) -> Result<Response, Refused> {
    let (pod, uid) = node.sandbox(&namespace, &name)?;
    let pod = pod.ok_or_else(|| Refused::PodNotRunning(format!("{name}_{namespace}")))?;
    let (response, upgrade) = portforward::accept(&mut request)?;
    let target = portforward::Target { pod: name, uid };
    node.sessions.spawn(async move {
        let connect = move |port| {
            let pod = pod.clone();
            async move { pod.connect(port).await.map_err(io::Error::other) }
        };
        if let Err(error) = upgrade.serve(target, Timing::default(), connect).await {
            tracing::debug!(%error, "ports were not forwarded");
        }
    });
    Ok(response.map(|()| Body::empty()))
}

impl Node {
    /// The sandbox of a pod of the API, if it has one, and the pod's uid.
    fn sandbox(&self, namespace: &str, name: &str) -> Result<(Option<Pod>, String), Refused> {
        let pod = self
            .informers
            .pods
            .get(&Key::new(namespace, name))
            .ok_or(Refused::NoPod)?;
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        Ok((self.runtime.pod(&uid), uid))
    }

    fn running(&self, namespace: &str, name: &str, container: &str) -> Result<(Pod, ContainerInfo), Refused> {
        let (sandbox, _) = self.sandbox(namespace, name)?;
        let found = sandbox.and_then(|pod| {
            let info = running(pod.containers(), container)?;
            Some((pod, info))
        });
        found.ok_or_else(|| Refused::NoContainer(container.to_owned()))
    }
}

/// The container of a name that runs.
fn running(containers: Vec<ContainerInfo>, name: &str) -> Option<ContainerInfo> {
    containers
        .into_iter()
        .find(|info| info.name == name && info.is_running())
}

/// The words of a command, as the query has them.
fn command(uri: &Uri) -> Vec<String> {
    let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
    let pairs = pairs.map(|pairs| pairs.0).unwrap_or_default();
    pairs
        .into_iter()
        .filter(|(name, _)| name == "command")
        .map(|(_, word)| word)
        .collect()
}

fn exec_failure(why: &str) -> Exit {
    Exit::Failed(format!("error executing command in container: {why}"))
}

async fn open(upgrade: remotecommand::Upgrade) -> Option<Session> {
    let opened = upgrade.open(Timing::default()).await;
    opened
        .inspect_err(|error| tracing::debug!(%error, "a client opened no streams"))
        .ok()
}

/// Tells the client how it ended; `None`: the client is gone.
async fn finish(session: Session, exit: Option<Exit>) {
    let Some(exit) = exit else { return };
    if let Err(error) = session.finish(&exit).await {
        tracing::debug!(%error, "a client did not hear the end of its session");
    }
}

/// Carries a command's streams until it has ended and all it wrote is sent. A client that goes away
/// takes the command's streams with it: its input ends, its terminal hangs up.
async fn converse(session: &mut Session, mut exec: Exec) -> Option<Exit> {
    let input = pour(session.stdin.take(), exec.stdin.take()).fuse();
    let (stdout, stderr) = (exec.stdout.take(), exec.stderr.take());
    let outputs = outputs(session, stdout, stderr);
    let hung_up = session.hung_up();
    let mut sizes = session.sizes.take();
    tokio::pin!(input, outputs, hung_up);
    let mut all_sent = false;
    let ended = loop {
        tokio::select! {
            () = &mut hung_up => return None,
            ended = exec.wait() => break ended,
            size = next_size(&mut sizes) => {
                if let Err(error) = exec.resize(size.rows, size.columns) {
                    tracing::debug!(%error, "a terminal has not changed its size");
                }
            }
            () = &mut input => {}
            () = &mut outputs, if !all_sent => all_sent = true,
        }
    };
    // What it wrote may still be on its way, also by processes that it left behind.
    if !all_sent {
        tokio::select! {
            () = &mut hung_up => return None,
            () = &mut outputs => {}
        }
    }
    Some(match ended {
        Ok(code) => Exit::from_code(code),
        Err(error) => exec_failure(&error.to_string()),
    })
}

/// Carries a container's streams until it has ended. Its input stays open when the client's ends, but
/// for one that is meant for one client only (`stdinOnce`).
async fn follow(
    session: &mut Session,
    attached: Attach,
    pod: &Pod,
    id: &str,
    ended: CancellationToken,
) -> Option<Exit> {
    let Attach {
        stdin,
        stdout,
        stderr,
    } = attached;
    let has_output = stdout.is_some() || stderr.is_some();
    let input = pour(session.stdin.take(), stdin).fuse();
    let outputs = outputs(session, stdout, stderr);
    let hung_up = session.hung_up();
    let mut sizes = session.sizes.take();
    tokio::pin!(input, outputs, hung_up);
    loop {
        tokio::select! {
            () = &mut hung_up => return None,
            // Its outputs end with the container; what is still in them is the client's.
            () = &mut outputs, if has_output => return Some(Exit::Success),
            () = ended.cancelled(), if !has_output => return Some(Exit::Success),
            size = next_size(&mut sizes) => {
                if let Err(error) = pod.resize(id, size.rows, size.columns).await {
                    tracing::debug!(%error, "a terminal has not changed its size");
                }
            }
            () = &mut input => {}
        }
    }
}

/// Carries both outputs to the client, until both have ended.
fn outputs<O>(
    session: &mut Session,
    stdout: Option<O>,
    stderr: Option<O>,
) -> impl Future<Output = ()> + use<O>
where
    O: AsyncRead + Unpin,
{
    let (to_stdout, to_stderr) = (session.stdout.take(), session.stderr.take());
    async move {
        tokio::join!(pour(stdout, to_stdout), pour(stderr, to_stderr));
    }
}

/// Carries bytes until there are no more, or nobody takes them. Both ends are closed then.
async fn pour(from: Option<impl AsyncRead + Unpin>, to: Option<impl AsyncWrite + Unpin>) {
    let (Some(mut from), Some(mut to)) = (from, to) else {
        return;
    };
    if let Err(error) = copy(&mut from, &mut to).await {
        tracing::debug!(%error, "a stream was cut off");
    }
}

/// The next size of the client's terminal; never, if there will be none.
async fn next_size(sizes: &mut Option<Sizes>) -> TerminalSize {
    while let Some(stream) = sizes {
        match stream.next().await {
            // Clients that do not know theirs say so.
            Some(size) if size.rows == 0 || size.columns == 0 => {}
            Some(size) => return size,
            None => *sizes = None,
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use stead_runtime::images::Digest;
    use stead_runtime::{ContainerState, ExitRecord};

    use super::*;

    fn container(name: &str, attempt: u32, runs: bool) -> ContainerInfo {
        let started_at = Timestamp::UNIX_EPOCH;
        ContainerInfo {
            id: format!("{name}-{attempt}"),
            name: name.to_owned(),
            attempt,
            image: "i".to_owned(),
            image_id: Digest::of(b""),
            state: if runs {
                ContainerState::Running { pid: 7, started_at }
            } else {
                let finished_at = started_at;
                ContainerState::Exited(ExitRecord {
                    exit_code: 0,
                    signal: None,
                    oom_killed: false,
                    started_at,
                    finished_at,
                })
            },
            log: None,
            tty: false,
            stdin: false,
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn the_attempt_that_runs_is_meant() {
        let containers = || {
            vec![
                container("a", 0, false),
                container("a", 1, true),
                container("b", 0, false),
            ]
        };
        assert_eq!(running(containers(), "a").map(|info| info.attempt), Some(1));
        assert_eq!(running(containers(), "b"), None);
        assert_eq!(running(containers(), "c"), None);
    }

    #[test]
    fn words_of_a_command_keep_their_order_and_their_letters() {
        let words = |query: &str| command(&format!("/exec/n/p/c?{query}").parse().expect("a path"));
        assert_eq!(
            words("command=sh&command=-c&command=echo%20%22a+b%2Bc%22&output=1"),
            ["sh", "-c", "echo \"a b+c\""]
        );
        assert_eq!(words("command=&command=%C3%A9"), ["", "é"]);
        assert!(words("output=1").is_empty());
    }

    #[test]
    fn refusals_are_the_kubelets() {
        let shown = |refused: Refused| (refused.to_string(), refused.into_response().status().as_u16());
        assert_eq!(shown(Refused::NoPod), ("pod does not exist".to_owned(), 404));
        assert_eq!(
            shown(Refused::NoContainer("web".into())),
            ("container not found (\"web\")".to_owned(), 500)
        );
        assert_eq!(
            shown(Refused::PodNotRunning("p_n".into())),
            ("pod not found (\"p_n\")".to_owned(), 500)
        );
        assert_eq!(shown(Refused::Upgrade(Rejection::NotAsked)).1, 400);
    }

    #[tokio::test]
    async fn sessions_end_when_they_are_closed() {
        let sessions = Sessions::default();
        sessions.spawn(std::future::pending());
        sessions.close().await;
        assert!(sessions.tasks.is_empty());
    }
}
