//! `stead up`: start the cluster, or say that it already runs.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use rustix::fs::FlockOperation;
use stead_apiserver::identity::MASTERS;
use stead_apiserver::pki::Pki;
use tokio::signal::unix::{SignalKind, signal};

use super::serve::{self, Report};
use super::{block_on, print};
use crate::cli;
use crate::cluster::{Cluster, make_data_dir};
use crate::control::client::Control;
use crate::kubeconfig::{self, Access};
use crate::place::Place;
use crate::progress::Step;
use crate::serve::{End, Server};

/// Starts the cluster of a place.
pub(super) fn up(place: &Place, options: cli::Up) -> anyhow::Result<()> {
    let kubeconfig = match options.kubeconfig {
        Some(path) => std::path::absolute(&path).with_context(|| format!("find {}", path.display()))?,
        None => kubeconfig::default_path()?,
    };
    make_data_dir(place)?;
    // Two that start at once: the second finds what the first has started.
    let changing = change(place)?;
    // Whoever held the lock before may have deleted it.
    make_data_dir(place)?;
    if let Some(status) = block_on(async {
        match Control::connect(place).await? {
            Some(mut control) => control.status().await.map(Some),
            None => Ok(None),
        }
    })? {
        print(&format!(
            "The cluster {:?} already runs at {} (server process {}).",
            place.name(),
            status.server.address,
            status.server.pid
        ))?;
        let address = status.server.address.trim_start_matches("https://").parse();
        return write_kubeconfig(place, &kubeconfig, address.context("read the server's address")?);
    }
    if options.detach {
        let step = Step::begin(format!("Starting the cluster {:?}", place.name()));
        let address = start_detached(place, options.serve, |what| step.now(what));
        let address = address.inspect_err(|_| forget(place))?;
        step.done();
        write_kubeconfig(place, &kubeconfig, address)?;
        how_to_go_on(place)
    } else {
        serve::run(foreground(place, options.serve, &kubeconfig, changing))
    }
}

/// Waits until nobody else starts or ends the cluster, and keeps others from it as long as the file
/// is open.
pub(super) fn change(place: &Place) -> anyhow::Result<File> {
    let path = place.change_lock();
    let open = || loop {
        fs::create_dir_all(place.run())?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let file = match file {
            // The directory was removed just now.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            file => file?,
        };
        rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        // Who held it before may have removed it; then it keeps nobody from anything.
        if fs::metadata(&path).is_ok_and(|there| is_same(&there, &file)) {
            return Ok::<_, std::io::Error>(file);
        }
    };
    open().with_context(|| format!("lock {}", path.display()))
}

/// Leaves no run directory behind where nothing has come of a start. With anything else in it than the lock
/// it stays: there are pods.
fn forget(place: &Place) {
    let lock = place.change_lock();
    let mut entries = fs::read_dir(place.run()).into_iter().flatten().flatten();
    if entries.all(|entry| entry.path() == lock) {
        place.remove_run();
    }
}

fn is_same(there: &fs::Metadata, file: &File) -> bool {
    file.metadata()
        .is_ok_and(|ours| (ours.dev(), ours.ino()) == (there.dev(), there.ino()))
}

/// Starts the server as a process of its own, and waits until it is ready.
pub(super) fn start_detached(
    place: &Place,
    options: cli::Serve,
    doing: impl Fn(&str),
) -> anyhow::Result<SocketAddr> {
    let log = crate::log::open(&place.log())?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("stead")
        .arg("--data-dir")
        .arg(place.data())
        .arg("serve");
    if let Some(listen) = options.listen {
        command.arg("--listen").arg(listen.to_string());
    }
    if options.load_balancer == cli::LoadBalancer::None {
        command.args(["--load-balancer", "none"]);
    }
    if options.expose {
        command.arg("--expose");
    }
    for (option, file) in [
        ("--audit-policy", options.audit_policy),
        ("--audit-log", options.audit_log),
    ] {
        if let Some(file) = file {
            let file = std::path::absolute(&file).with_context(|| format!("find {file:?}"))?;
            command.arg(option).arg(file);
        }
    }
    // A directory that someone may want to unmount is no place to stay in.
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    let mut child = command.spawn().context("start the server")?;
    let output = child.stdout.take().context("the server has no output")?;
    for line in BufReader::new(output).lines() {
        let line = line.context("hear from the server")?;
        match serde_json::from_str(&line) {
            Ok(Report::Doing(what)) => doing(&what),
            Ok(Report::Ready(address)) => return Ok(address),
            Ok(Report::Failed(why)) => bail!("{why}"),
            Err(_) => bail!("the server said {line:?}"),
        }
    }
    let status = child.wait().context("wait for the server")?;
    bail!(
        "the server ended ({status}) before it was ready; see {}",
        place.log().display()
    )
}

async fn foreground(
    place: &Place,
    options: cli::Serve,
    kubeconfig: &Path,
    changing: File,
) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("hear of Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("hear of SIGTERM")?;
    let step = Step::begin(format!("Starting the cluster {:?}", place.name()));
    let mut server: Server = tokio::select! {
        server = serve::start(place.clone(), options, |what| step.now(what)) => server.inspect_err(|_| forget(place))?,
        _ = interrupt.recv() => bail!("interrupted; what was begun is taken up by the next `stead up`"),
    };
    step.done();
    write_kubeconfig(place, kubeconfig, server.address())?;
    drop(changing);
    print("Press Ctrl-C to stop the pods and the cluster.")?;
    let end = tokio::select! {
        _ = interrupt.recv() => End::Down,
        _ = terminate.recv() => End::Leave,
        end = server.asked_to_end() => end,
    };
    if end == End::Leave {
        return server.end(end).await;
    }
    let step = Step::begin(format!("Stopping the cluster {:?}", place.name()));
    server.end(end).await?;
    step.done();
    Ok(())
}

/// Puts the administrator's access into a kubeconfig, and remembers where.
fn write_kubeconfig(place: &Place, path: &Path, address: SocketAddr) -> anyhow::Result<()> {
    let pki = Pki::open(&place.pki()).context("open the certificates")?;
    let admin = pki.client("kubernetes-admin", &[MASTERS])?;
    // Whoever listens on all addresses is reached by this machine's own.
    let host = if address.ip().is_unspecified() {
        "127.0.0.1".to_owned()
    } else {
        address.ip().to_string()
    };
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host
    };
    let name = place.name();
    kubeconfig::add_to(
        path,
        &Access {
            name: &name,
            server: &format!("https://{host}:{}", address.port()),
            ca: kubeconfig::base64(pki.ca_pem()),
            certificate: kubeconfig::base64(&admin.certificate_pem),
            key: kubeconfig::base64(&admin.key_pem),
        },
    )?;
    if let Some(mut cluster) = Cluster::read(place)?
        && !cluster.kubeconfigs.iter().any(|known| known == path)
    {
        cluster.kubeconfigs.push(path.to_owned());
        cluster.write(place)?;
    }
    print(&format!(
        "kubectl now uses the context {name:?} in {}.",
        path.display()
    ))
}

fn how_to_go_on(place: &Place) -> anyhow::Result<()> {
    print(&format!(
        "Try `kubectl get nodes`; `stead{} down` stops the cluster and keeps its state.",
        place.flag()
    ))
}
