//! The sockets of a cluster, and the certificates they are served with.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, bail};
use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use rustls::ServerConfig;
use stead_apiserver::Identity;
use stead_apiserver::identity::MASTERS;
use stead_apiserver::pki::Pki;
use tokio::net::TcpListener;

use crate::cluster::Cluster;

/// Kubernetes' own port of the API.
pub(super) const API_PORT: u16 = 6443;
/// Kubernetes' own port of a node's API.
pub(super) const NODE_PORT: u16 = 10250;
/// How many ports after the usual one are tried.
const PORTS_TRIED: u16 = 1000;

/// Listens for clients on this machine: where the user says, or where it was last, or at the first
/// port that is free.
pub(super) async fn for_clients(
    wanted: Option<SocketAddr>,
    last: Option<u16>,
) -> anyhow::Result<TcpListener> {
    if let Some(address) = wanted {
        return match TcpListener::bind(address).await {
            Ok(listener) => Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                bail!("{address} is in use by another program; name another with --listen, or none")
            }
            Err(error) => Err(error).with_context(|| format!("listen on {address}")),
        };
    }
    let usual = API_PORT..API_PORT + PORTS_TRIED;
    for port in last.into_iter().chain(usual) {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error).with_context(|| format!("listen on {address}")),
        }
    }
    bail!("no port from {API_PORT} on is free; name one with --listen")
}

/// Listens on the cluster's own address; at another port where the usual one is taken, by someone
/// who listens on all addresses.
pub(super) async fn for_cluster(address: Ipv4Addr, port: u16) -> anyhow::Result<TcpListener> {
    match TcpListener::bind((address, port)).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => TcpListener::bind((address, 0)).await,
        bound => bound,
    }
    .with_context(|| format!("listen on {address}:{port}"))
}

/// The API server's certificate, for all names and addresses that it is reached by.
pub(super) fn api_tls(pki: &Pki, cluster: &Cluster, listening: IpAddr) -> anyhow::Result<ServerConfig> {
    let mut names: Vec<String> = [
        "",
        ".default",
        ".default.svc",
        ".default.svc.cluster",
        ".default.svc.cluster.local",
    ]
    .map(|rest| format!("kubernetes{rest}"))
    .into();
    names.extend(["localhost".to_owned(), cluster.node.clone()]);
    let mut addresses: Vec<IpAddr> = vec![
        Ipv4Addr::LOCALHOST.into(),
        cluster.ranges.node.into(),
        cluster.ranges.api().into(),
    ];
    if listening.is_unspecified() {
        addresses.extend(own_addresses());
    } else if !addresses.contains(&listening) {
        addresses.push(listening);
    }
    let leaf = pki.server("kube-apiserver", &names, &addresses)?;
    Ok(pki.server_config(&leaf, &["h2", "http/1.1"])?)
}

/// The address that packets to elsewhere leave from; nothing is sent to find out.
fn own_addresses() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // An address of TEST-NET-1, which is routed like any other.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// The node's certificate.
pub(super) fn node_tls(pki: &Pki, cluster: &Cluster) -> anyhow::Result<ServerConfig> {
    let name = format!("system:node:{}", cluster.node);
    let leaf = pki.server(
        &name,
        std::slice::from_ref(&cluster.node),
        &[cluster.ranges.node.into()],
    )?;
    Ok(pki.server_config(&leaf, &["http/1.1"])?)
}

/// Lets only the API server, and who may do everything, into the node's API.
pub(super) fn guarded(node: Router) -> Router {
    node.layer(middleware::from_fn(|request: Request, next: Next| async move {
        let refused = |code: StatusCode, text: &'static str| -> Response { (code, text).into_response() };
        match request.extensions().get::<Identity>() {
            Some(identity) if identity.is_in(MASTERS) => next.run(request).await,
            Some(_) => refused(StatusCode::FORBIDDEN, "Forbidden"),
            None => refused(StatusCode::UNAUTHORIZED, "Unauthorized"),
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_an_error_only_where_it_was_asked_for() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = taken.local_addr().expect("an address");
        let error = for_clients(Some(address), None)
            .await
            .expect_err("refused")
            .to_string();
        assert!(
            error.contains(&address.to_string()) && error.contains("--listen"),
            "{error}"
        );
        let other = for_clients(None, Some(address.port()))
            .await
            .expect("the next free port");
        assert_ne!(other.local_addr().expect("an address").port(), address.port());
    }
}
