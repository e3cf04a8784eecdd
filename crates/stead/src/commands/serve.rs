//! `stead serve`: the server in a process of its own. `up` starts it and reads what it reports.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use crate::place::Place;
use crate::serve::{End, Server};
use crate::{cli, log};

/// A line of the server's standard output, until it is ready.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Report {
    /// What it is doing.
    Doing(String),
    /// The node is Ready; the API is at this address.
    Ready(SocketAddr),
    /// It has given up.
    Failed(String),
}

/// Serves until told to end.
pub(super) fn serve(place: Place, options: cli::Serve) -> anyhow::Result<()> {
    // A session of its own: what happens to the terminal that it was started from is nothing to it.
    // It fails where it leads one already, under a service manager.
    let _ = rustix::process::setsid();
    let work = async {
        let server = match start(place, options, |what| report(&Report::Doing(what.to_owned()))).await {
            Ok(server) => server,
            Err(error) => {
                report(&Report::Failed(format!("{error:#}")));
                return Err(error);
            }
        };
        report(&Report::Ready(server.address()));
        // Whoever read that goes away.
        let null = File::options()
            .write(true)
            .open("/dev/null")
            .context("open /dev/null")?;
        rustix::stdio::dup2_stdout(&null).context("let go of standard output")?;
        until_ended(server).await
    };
    run(work)
}

/// Begins to log, and starts the server of a place.
pub(super) async fn start(
    place: Place,
    options: cli::Serve,
    report: impl Fn(&str),
) -> anyhow::Result<Server> {
    crate::cluster::make_data_dir(&place)?;
    log::begin(log::open(&place.log())?)?;
    Server::start(place, options, report)
        .await
        .inspect_err(|error| tracing::error!("{error:#}"))
}

/// Serves until a command or a signal ends it. `SIGTERM` is a service manager's: the pods go on.
async fn until_ended(mut server: Server) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("hear of SIGTERM")?;
    let end = tokio::select! {
        end = server.asked_to_end() => end,
        _ = terminate.recv() => End::Leave,
    };
    let ended = server.end(end).await;
    if let Err(error) = &ended {
        tracing::error!("{error:#}");
    }
    ended
}

/// Runs a server's work on threads of its own.
pub(super) fn run(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    // Both TLS and the registry client take the process's provider. It can be set once only.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start")?;
    runtime.block_on(work)
}

fn report(report: &Report) {
    // Where nobody listens, the log has it too.
    if let Ok(line) = serde_json::to_string(report) {
        let mut out = std::io::stdout();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}
