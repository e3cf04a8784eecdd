//! Names and addresses: between pods, from the machine, and to the outside.

use anyhow::{Context, Result, ensure};
use stead_tests::artifacts::Image;
use stead_tests::{Cluster, Outside, eventually, on_a_cluster};

use crate::manifests::{VISITS, pod};
use crate::{Tests, check_contains};

pub(crate) const TESTS: Tests = &[
    ("network: services, from the machine and from pods", services),
    ("network: names, from pods", names),
    ("network: pods reach the outside", outside),
    ("network: pods reach the API", api),
    ("network: ClientIP affinity keeps to one pod", affinity),
    ("network: a service without pods refuses at once", no_endpoints),
];

fn three_visits(cluster: &Cluster) -> Result<()> {
    cluster.load(&Image::visits()?)?;
    cluster.apply(VISITS)?;
    cluster.rolled_out("visits").map(drop)
}

/// The settings that a stock Debian has, and other clusters need changed.
fn check_settings(cluster: &Cluster) -> Result<()> {
    let script = "cat /proc/sys/net/ipv4/conf/*/route_localnet; cat /proc/sys/net/bridge/bridge-nf-call-iptables 2>/dev/null || true";
    let settings = cluster.machine.run(&format!("sh -c '{script}'")).ok()?;
    ensure!(
        settings.lines().all(|line| line == "0"),
        "route_localnet or bridge-nf-call-iptables is on: {settings}"
    );
    Ok(())
}

fn services() -> Result<()> {
    on_a_cluster(|cluster| {
        check_settings(cluster)?;
        three_visits(cluster)?;
        let service = cluster.get("svc visits")?["spec"].take();
        let address = service["clusterIP"].as_str().unwrap_or_default();
        let port = &service["ports"][0]["nodePort"];
        let node = cluster.field("node", "/items/0/status/addresses/0/address")?;
        let urls = [
            format!("http://{address}/"),
            format!("http://127.0.0.1:{port}/"),
            format!("http://localhost:{port}/"),
            format!("http://{node}:{port}/"),
        ];
        for url in &urls {
            eventually("the service answers", || cluster.curl(url))?;
        }
        // Each of the pods gets its share.
        for url in &urls {
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..60 {
                let said = cluster.curl(url)?;
                seen.extend(said.split(':').next().map(str::to_owned));
            }
            ensure!(seen.len() == 3, "{url} leads to {seen:?}");
        }
        for url in [urls[0].as_str(), urls[3].as_str(), "http://visits/"] {
            let said = cluster.in_pod("visits-1", &format!("wget -qO- {url}"))?;
            check_contains(&said, &["visits-"])?;
        }
        // A pod that is not ready gets no visitors.
        let slices = cluster.kubectl("get endpointslices -l kubernetes.io/service-name=visits -o jsonpath='{.items[*].endpoints[*].targetRef.name}'").ok()?;
        ensure!(slices.split(' ').count() == 3, "{slices}");
        cluster.kubectl("scale sts visits --replicas=1").ok()?;
        cluster.wait_for("sts/visits", "jsonpath={.status.replicas}=1")?;
        for _ in 0..10 {
            check_contains(&cluster.curl(&urls[0])?, &["visits-0"])?;
        }
        check_settings(cluster)
    })
}

fn names() -> Result<()> {
    on_a_cluster(|cluster| {
        three_visits(cluster)?;
        let address = |pod: &str| cluster.field(&format!("pod {pod}"), "/status/podIP");
        let service = cluster.field("svc visits", "/spec/clusterIP")?;
        for (name, found) in [
            ("visits-2.visits-headless", address("visits-2")?),
            ("visits-2.visits-headless.default", address("visits-2")?),
            (
                "visits-1.visits-headless.default.svc.cluster.local",
                address("visits-1")?,
            ),
            ("visits.default.svc.cluster.local", service.clone()),
            ("visits", service),
        ] {
            // A wget says whom it asks; nslookup of busybox ignores the search list of resolv.conf.
            let said = cluster.in_pod("visits-0", &format!("wget -O- http://{name}:9 2>&1 || true"))?;
            check_contains(&said, &[&format!("({found}:9)")])?;
        }
        let all = cluster.in_pod("visits-0", "nslookup visits-headless.default.svc.cluster.local")?;
        for pod in ["visits-0", "visits-1", "visits-2"] {
            check_contains(&all, &[&address(pod)?])?;
        }
        let back = cluster.in_pod("visits-0", &format!("nslookup {}", address("visits-1")?))?;
        check_contains(&back, &["visits-1.visits-headless.default.svc.cluster.local"])?;
        let ports = cluster.in_pod(
            "visits-0",
            "nslookup -type=srv _http._tcp.visits-headless.default.svc.cluster.local",
        )?;
        check_contains(
            &ports,
            &["8080 visits-1.visits-headless.default.svc.cluster.local"],
        )?;
        let config = cluster.in_pod("visits-0", "cat /etc/resolv.conf")?;
        check_contains(
            &config,
            &[
                "search default.svc.cluster.local svc.cluster.local cluster.local",
                "options ndots:5",
            ],
        )?;
        let missing = cluster.in_pod("visits-0", "nslookup absent.default.svc.cluster.local || true")?;
        check_contains(&missing, &["NXDOMAIN"])?;
        let hosts = cluster.in_pod("visits-0", "cat /etc/hosts")?;
        check_contains(
            &hosts,
            &[&format!(
                "{}\tvisits-0.visits-headless.default.svc.cluster.local\tvisits-0",
                address("visits-0")?
            )],
        )
    })
}

fn outside() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::new("tool:1"))?;
        cluster.apply(&pod("it", "exec sleep 10000", &[]))?;
        cluster.wait_for("pod/it", "condition=Ready")?;
        let outside = cluster.machine.outside()?;
        let server = outside.serve_once()?;
        // It comes from the machine's address: nobody outside knows the pod's.
        let said = cluster.in_pod("it", &format!("wget -qO- http://{server}"))?;
        ensure!(said == "192.0.2.2\n", "{said:?}");
        outside.serve_name("outside.example", Outside::ADDRESS)?;
        let found = cluster.in_pod("it", "nslookup outside.example")?;
        check_contains(&found, &["192.0.2.1"])
    })
}

fn api() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::new("tool:1"))?;
        cluster.apply(&pod("it", "exec sleep 10000", &[]))?;
        cluster.wait_for("pod/it", "condition=Ready")?;
        // busybox's TLS is too old for any Kubernetes; so the machine's curl goes where the pod is.
        let status = cluster.status()?;
        let pid = status.pointer("/pods/0/containers/0/pid").context("no process")?;
        let account = format!("/proc/{pid}/root/var/run/secrets/kubernetes.io/serviceaccount");
        let address = cluster.in_pod("it", "echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT")?;
        let get = |path: &str| {
            let url = format!("https://kubernetes.default.svc{path}");
            let name = format!("--connect-to kubernetes.default.svc:443:{}", address.trim());
            let token = format!("--header \"Authorization: Bearer $(cat {account}/token)\"");
            let curl = format!("curl --silent --show-error --cacert {account}/ca.crt {token} {name} {url}");
            let enter = format!("nsenter --target {pid} --net sh -c '{curl}'");
            cluster.machine.run(&enter).ok()
        };
        check_contains(&get("/version")?, &["+stead."])?;
        // It is known, and may not do much.
        let secrets = get("/api/v1/namespaces/default/secrets")?;
        check_contains(&secrets, &["403", "system:serviceaccount:default:default"])?;
        let endpoints = cluster.kubectl("get endpoints kubernetes --no-headers").ok()?;
        ensure!(!endpoints.contains("<none>"), "{endpoints}");
        Ok(())
    })
}

fn affinity() -> Result<()> {
    on_a_cluster(|cluster| {
        three_visits(cluster)?;
        cluster
            .kubectl("patch svc visits -p '{\"spec\":{\"sessionAffinity\":\"ClientIP\"}}'")
            .ok()?;
        let address = cluster.field("svc visits", "/spec/clusterIP")?;
        let ask = || cluster.in_pod("visits-0", &format!("wget -qO- http://{address}/"));
        eventually("the same pod answers ten times", || {
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..10 {
                seen.extend(ask()?.split(':').next().map(str::to_owned));
            }
            ensure!(seen.len() == 1, "{seen:?}");
            Ok(())
        })
    })
}

fn no_endpoints() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.apply(
            "{apiVersion: v1, kind: Service, metadata: {name: empty}, spec: {selector: {app: none}, ports: [{port: 80}]}}",
        )?;
        let address = cluster.field("svc empty", "/spec/clusterIP")?;
        let refused = cluster
            .machine
            .client(&format!(
                "curl --silent --show-error --max-time 5 http://{address}/"
            ))
            .fails()?;
        // curl's code for "failed to connect"; 28 would be "took too long".
        ensure!(refused.code == 7, "{refused}");
        Ok(())
    })
}
