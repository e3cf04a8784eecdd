//! The commands' side of the control socket.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::body::Body;
use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use http::{Method, Request, Response};
use http_body_util::{BodyDataStream, BodyExt as _};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncBufReadExt as _;
use tokio::net::UnixStream;
use tokio_util::io::StreamReader;

use super::{Failure, ForwardRow, ImageRow, Named, Pull, PullLine, ServiceRow, Status};
use crate::place::Place;

/// How long a server may take to say that it is there.
const PATIENCE: Duration = Duration::from_secs(15);

/// A connection to a running server.
pub(crate) struct Control {
    sender: http1::SendRequest<Body>,
}

impl Control {
    /// Connects; `None` where no server runs. One that is being killed may still take connections, and so does
    /// the kernel for one that hangs.
    pub(crate) async fn connect(place: &Place) -> anyhow::Result<Option<Control>> {
        let path = place.socket();
        let stream = match UnixStream::connect(&path).await {
            Ok(stream) => stream,
            Err(error) if is_nobody(&error) => return Ok(None),
            Err(error) => return Err(error).with_context(|| at(&path)),
        };
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .with_context(|| at(&path))?;
        // It ends with the sender, or with this process.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let mut control = Control { sender };
        match tokio::time::timeout(PATIENCE, control.status()).await {
            Ok(Ok(_)) => Ok(Some(control)),
            Ok(Err(error)) if is_broken_off(&error) => Ok(None),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let pid = pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
                bail!(
                    "the server (process {pid}) does not answer at {}; see its log, {}; `kill -KILL {pid}` ends it and \
                     leaves the pods alone, and the next `stead{} up` takes them over",
                    path.display(),
                    place.log().display(),
                    place.flag()
                )
            }
        }
    }

    /// Connects to a server that has to run.
    ///
    /// # Errors
    /// Also when none does.
    pub(crate) async fn of_running(place: &Place) -> anyhow::Result<Control> {
        match Control::connect(place).await? {
            Some(control) => Ok(control),
            None => bail!(
                "the cluster does not run; start it with `stead{} up`",
                place.flag()
            ),
        }
    }

    /// How the cluster is.
    pub(crate) async fn status(&mut self) -> anyhow::Result<Status> {
        self.ask(Method::GET, "/status", Body::empty()).await
    }

    /// All images.
    pub(crate) async fn images(&mut self) -> anyhow::Result<Vec<ImageRow>> {
        self.ask(Method::GET, "/images", Body::empty()).await
    }

    /// Loads the images of an archive.
    pub(crate) async fn load(
        &mut self,
        archive: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> anyhow::Result<Vec<ImageRow>> {
        self.ask(Method::POST, "/images", Body::from_stream(archive))
            .await
    }

    /// Removes a name or an image.
    pub(crate) async fn remove(&mut self, name: &str) -> anyhow::Result<()> {
        self.send(Method::DELETE, "/images", named(name)?).await.map(drop)
    }

    /// Pulls an image; returns its id.
    pub(crate) async fn pull(
        &mut self,
        pull: &Pull,
        progress: impl Fn(u64, Option<u64>),
    ) -> anyhow::Result<String> {
        let answer = self.send(Method::POST, "/images/pull", json(pull)?).await?;
        let body = BodyDataStream::new(answer.into_body()).map_err(io::Error::other);
        let mut lines = StreamReader::new(body).lines();
        while let Some(line) = lines.next_line().await.context("hear from the server")? {
            match serde_json::from_str(&line).context("understand the server")? {
                PullLine::Progress { bytes, total } => progress(bytes, total),
                PullLine::Done { id } => return Ok(id),
                PullLine::Failed(why) => bail!("{why}"),
            }
        }
        bail!("the server ended before the image was pulled")
    }

    /// All Services.
    pub(crate) async fn services(&mut self) -> anyhow::Result<Vec<ServiceRow>> {
        self.ask(Method::GET, "/services", Body::empty()).await
    }

    /// A Service, as soon as it can be reached, or after so many seconds as it is then.
    pub(crate) async fn service(
        &mut self,
        namespace: &str,
        name: &str,
        seconds: u64,
    ) -> anyhow::Result<Option<ServiceRow>> {
        let path = format!("/services/{namespace}/{name}?seconds={seconds}");
        self.ask(Method::GET, &path, Body::empty()).await
    }

    /// What the tunnel forwards; `None` if it is closed.
    pub(crate) async fn tunnel(&mut self) -> anyhow::Result<Option<Vec<ForwardRow>>> {
        self.ask(Method::GET, "/tunnel", Body::empty()).await
    }

    /// Opens the tunnel.
    pub(crate) async fn open_tunnel(&mut self) -> anyhow::Result<Option<Vec<ForwardRow>>> {
        self.ask(Method::POST, "/tunnel", Body::empty()).await
    }

    /// Closes the tunnel; whether it was open.
    pub(crate) async fn close_tunnel(&mut self) -> anyhow::Result<bool> {
        self.ask(Method::DELETE, "/tunnel", Body::empty()).await
    }

    /// Has the pods stopped and the server end, and waits until it has.
    pub(crate) async fn down(&mut self) -> anyhow::Result<()> {
        let pid = self.status().await?.server.pid;
        // Opened before it is told: a number can be another process's a moment later.
        let process = open_process(pid)?;
        self.send(Method::POST, "/down", Body::empty()).await?;
        tokio::task::spawn_blocking(move || wait(&process)).await?
    }

    async fn ask<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Body,
    ) -> anyhow::Result<T> {
        let answer = self.send(method, path, body).await?;
        let bytes = whole(answer).await?;
        serde_json::from_slice(&bytes).context("understand the server; is it of another version?")
    }

    async fn send(&mut self, method: Method, path: &str, body: Body) -> anyhow::Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "stead")
            .header("content-type", "application/json")
            .body(body)?;
        let answer = self
            .sender
            .send_request(request)
            .await
            .context("speak with the server")?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let code = answer.status();
        let bytes = whole(answer).await?;
        match serde_json::from_slice::<Failure>(&bytes) {
            Ok(failure) => bail!("{}", failure.error),
            Err(_) => bail!("the server answered {code}; is it of another version?"),
        }
    }
}

/// The body of an answer.
async fn whole(answer: Response<Incoming>) -> anyhow::Result<Bytes> {
    let body = answer.into_body().collect().await;
    Ok(body.context("hear from the server")?.to_bytes())
}

fn at(path: &Path) -> String {
    format!("speak with the server at {}", path.display())
}

/// Nobody listens at a socket.
fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

/// The server has ended before it answered.
fn is_broken_off(error: &anyhow::Error) -> bool {
    let is_ended =
        |error: &hyper::Error| error.is_closed() || error.is_canceled() || error.is_incomplete_message();
    let is_cut = |error: &io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        )
    };
    error.chain().any(|cause| {
        cause.downcast_ref::<hyper::Error>().is_some_and(is_ended)
            || cause.downcast_ref::<io::Error>().is_some_and(is_cut)
    })
}

fn named(name: &str) -> anyhow::Result<Body> {
    json(&Named {
        name: name.to_owned(),
    })
}

fn json(value: &impl Serialize) -> anyhow::Result<Body> {
    Ok(Body::from(serde_json::to_vec(value)?))
}

fn open_process(pid: u32) -> anyhow::Result<OwnedFd> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("the server has no process id")?;
    pidfd_open(pid, PidfdFlags::empty()).context("follow the server's process")
}

/// Waits until a process has ended.
fn wait(process: &OwnedFd) -> anyhow::Result<()> {
    loop {
        let mut polled = [PollFd::new(process, PollFlags::IN)];
        match poll(&mut polled, None) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for the server's end"),
        }
    }
}
