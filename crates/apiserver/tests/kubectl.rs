//! The server through real kubectls, over TLS on loopback: what they ask of discovery, OpenAPI,
//! tables, patches and protobuf bodies. The whole system has its own tests; these need nothing but
//! this crate, and every `kubectl` and `kubectl.1.NN` that is at hand.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;
use stead_apiserver::authn::TokenKey;
use stead_apiserver::bootstrap::Addresses;
use stead_apiserver::pki::Pki;
use stead_apiserver::{ApiServer, Config, NodeClient, listen};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

const SET: &str = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  serviceName: web
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: c, image: 'busybox:1.35', env: [{name: A, value: '1'}], ports: [{containerPort: 80}]}
";

/// A server on a port of its own, and a kubeconfig of its administrator.
struct Cluster {
    server: ApiServer,
    shutdown: CancellationToken,
    runtime: Option<Runtime>,
    dir: TempDir,
}

impl Cluster {
    fn start() -> Cluster {
        let dir = TempDir::new().expect("a directory");
        let runtime = Runtime::new().expect("a runtime");
        let pki = Pki::open_or_make(&dir.path().join("pki")).expect("certificates");
        let admin = pki
            .client("kubernetes-admin", &["system:masters"])
            .expect("a certificate");
        let config = Config {
            service_range: (Ipv4Addr::new(10, 96, 0, 0), 16),
            node_ports: 30000..=32767,
            address: "127.0.0.1".to_owned(),
            issuer: "https://kubernetes.default.svc".to_owned(),
            version: "0.0.0".to_owned(),
            audit: None,
            more_metrics: String::new,
        };
        let tokens = TokenKey::new(pki.token_key(), &config.issuer).expect("a key");
        let nodes = NodeClient::new(pki.client_config(&admin).expect("a client"));
        let shutdown = CancellationToken::new();
        let (server, port) = runtime.block_on(async {
            let server = ApiServer::open(config, &dir.path().join("store"), tokens, nodes).expect("a store");
            let addresses = Addresses {
                service: Ipv4Addr::new(10, 96, 0, 1),
                endpoint: "10.200.0.1:6443".parse().expect("an address"),
                dns: Ipv4Addr::new(10, 96, 0, 10),
            };
            server
                .bootstrap(&addresses)
                .await
                .expect("what every cluster has");
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
            let port = listener.local_addr().expect("its address").port();
            let names = pki
                .server("kube-apiserver", &[], &[IpAddr::from(Ipv4Addr::LOCALHOST)])
                .expect("a certificate");
            let tls = pki
                .server_config(&names, &["h2", "http/1.1"])
                .expect("a TLS configuration");
            tokio::spawn(listen::serve(listener, tls, server.router(), shutdown.clone()));
            (server, port)
        });
        for (name, content) in [
            ("ca.crt", pki.ca_pem()),
            ("admin.crt", &admin.certificate_pem),
            ("admin.key", &admin.key_pem),
        ] {
            fs::write(dir.path().join(name), content).expect("a file");
        }
        let file = |name: &str| dir.path().join(name);
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "t",
            "clusters": [{"name": "t", "cluster": {
                "server": format!("https://127.0.0.1:{port}"), "certificate-authority": file("ca.crt"),
            }}],
            "users": [{"name": "t", "user": {
                "client-certificate": file("admin.crt"), "client-key": file("admin.key"),
            }}],
            "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}],
        });
        fs::write(file("kubeconfig"), kubeconfig.to_string()).expect("a file");
        Cluster {
            server,
            shutdown,
            runtime: Some(runtime),
            dir,
        }
    }

    /// Runs a kubectl; what it wrote to its output and its errors.
    fn run(&self, kubectl: &Path, arguments: &str, input: &str) -> Result<String, String> {
        let mut child = Command::new(kubectl)
            .args(arguments.split(' '))
            .env("KUBECONFIG", self.dir.path().join("kubeconfig"))
            .env("HOME", self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        child
            .stdin
            .take()
            .expect("it is piped")
            .write_all(input.as_bytes())
            .map_err(|error| error.to_string())?;
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        if output.status.success() {
            Ok(text)
        } else {
            Err(text)
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.block_on(self.server.close());
        }
    }
}

/// The oldest and the newest kubectl at hand; nothing where there is none.
fn kubectls() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let Some(found) = std::env::split_paths(&path)
        .map(|dir| dir.join("kubectl"))
        .find(|file| file.is_file())
    else {
        return Vec::new();
    };
    let real = fs::canonicalize(&found).unwrap_or(found);
    let beside = ["kubectl.1.28", "kubectl.1.33"].map(|name| real.with_file_name(name));
    let versions: Vec<PathBuf> = beside.into_iter().filter(|file| file.is_file()).collect();
    if versions.is_empty() { vec![real] } else { versions }
}

/// Runs the commands with each kubectl, on a cluster of its own; each answer must hold the text.
fn check(steps: &[(&str, &str, Result<&str, &str>)]) {
    let kubectls = kubectls();
    if kubectls.is_empty() {
        eprintln!("no kubectl is on the PATH: nothing was checked");
    }
    for kubectl in kubectls {
        let cluster = Cluster::start();
        for (arguments, input, expected) in steps {
            let shown = format!("{} {arguments}", kubectl.display());
            match (cluster.run(&kubectl, arguments, input), expected) {
                (Ok(found), Ok(text)) | (Err(found), Err(text)) => {
                    assert!(found.contains(text), "{shown}\n{found}\nshould hold {text:?}");
                }
                (found, _) => panic!("{shown}: {found:?}"),
            }
        }
    }
}

#[test]
fn manifests_are_applied_changed_and_deleted() {
    let changed = SET
        .replace("replicas: 3", "replicas: 5")
        .replace("value: '1'", "value: '2'");
    check(&[
        ("apply -f -", SET, Ok("statefulset.apps/web created")),
        ("apply -f -", SET, Ok("statefulset.apps/web unchanged")),
        ("diff -f -", &changed, Err("+  replicas: 5")),
        ("apply -f -", &changed, Ok("statefulset.apps/web configured")),
        (
            "get sts web -o jsonpath={.spec.replicas}/{.metadata.generation}",
            "",
            Ok("5/2"),
        ),
        (
            "scale sts web --replicas 2",
            "",
            Ok("statefulset.apps/web scaled"),
        ),
        ("get sts", "", Ok("web    0/2")),
        ("label sts web tier=front", "", Ok("statefulset.apps/web labeled")),
        ("get sts -l tier=front -o name", "", Ok("statefulset.apps/web")),
        (
            "patch sts web -p {\"spec\":{\"replicas\":1}}",
            "",
            Ok("statefulset.apps/web patched"),
        ),
        (
            "describe sts web",
            "",
            Ok("Replicas:           1 desired | 0 total"),
        ),
        (
            "delete sts web --wait=false",
            "",
            Ok("statefulset.apps \"web\" deleted"),
        ),
        ("get sts web", "", Err("statefulsets.apps \"web\" not found")),
    ]);
}

#[test]
fn mistakes_are_told() {
    check(&[
        (
            "apply -f -",
            &SET.replace("replicas:", "replcas:"),
            Err("unknown field \"spec.replcas\""),
        ),
        (
            "apply --dry-run=server -f -",
            SET,
            Ok("statefulset.apps/web created (server dry run)"),
        ),
        (
            "apply -f -",
            &SET.replace("image: 'busybox:1.35'", "image: ''"),
            Err("containers[0].image: Required value"),
        ),
        ("get sts web", "", Err("not found")),
        (
            "get nothings",
            "",
            Err("the server doesn't have a resource type \"nothings\""),
        ),
    ]);
}

#[test]
fn commands_that_send_protobuf_work() {
    check(&[
        ("create namespace other", "", Ok("namespace/other created")),
        (
            "create configmap c --from-literal=a=b -n other",
            "",
            Ok("configmap/c created"),
        ),
        (
            "create secret generic s --from-literal=a=b",
            "",
            Ok("secret/s created"),
        ),
        ("create serviceaccount a", "", Ok("serviceaccount/a created")),
        ("create token a", "", Ok("eyJ")),
        ("create service clusterip v --tcp=80", "", Ok("service/v created")),
        ("get cm c -n other -o jsonpath={.data.a}", "", Ok("b")),
        ("get all -A", "", Ok("service/kubernetes")),
    ]);
}

#[test]
fn types_are_explained() {
    check(&[
        (
            "explain sts.spec.template.spec.containers.ports",
            "",
            Ok("containerPort\t<integer>"),
        ),
        ("explain sts.spec.replicas", "", Ok("replicas <integer>")),
        ("explain pods", "", Ok("VERSION:")),
        ("api-resources -o name", "", Ok("statefulsets.apps")),
        ("version", "", Ok("+stead.0.0.0")),
    ]);
}
