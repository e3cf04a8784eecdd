//! Ways to a service from this machine: load balancers' addresses, `stead service`, and the tunnel.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use stead_tests::artifacts::{self, Image};
use stead_tests::{Cluster, eventually, kubectl, on_a_cluster};

use crate::manifests::set;
use crate::{Tests, check_contains};

pub(crate) const TESTS: Tests = &[
    (
        "ways in: load balancers have addresses of their own",
        load_balancers,
    ),
    ("ways in: stead service and the tunnel", service_and_tunnel),
    ("ways in: stead status and stead kubectl", at_a_glance),
    ("ways in: without load balancers, services stay pending", without),
    (
        "ways in: opened to other machines, each port is one service's",
        exposed,
    ),
    ("ways in: through the API", through_the_api),
];

/// A Service of the pods `app`.
fn service(name: &str, spec: &str) -> String {
    let base = "apiVersion: v1\nkind: Service\n";
    format!("{base}metadata: {{name: {name}}}\nspec: {{selector: {{app: app}}, {spec}}}\n")
}

const BALANCED: &str = "type: LoadBalancer, ports: [{name: http, port: 80, targetPort: 8080}]";

/// Two pods, and two Services that both have them at port 80.
fn two_balanced(cluster: &Cluster) -> Result<[String; 2]> {
    cluster.load(&Image::visits()?)?;
    cluster.apply(&set("app", 2, &["podManagementPolicy: Parallel"]))?;
    cluster.apply(&service("one", BALANCED))?;
    cluster.apply(&service("two", BALANCED))?;
    cluster.rolled_out("app")?;
    Ok([address(cluster, "one")?, address(cluster, "two")?])
}

/// The address of a Service's load balancer, as soon as it has one.
fn address(cluster: &Cluster, service: &str) -> Result<String> {
    cluster.wait_for(
        &format!("svc/{service}"),
        "jsonpath={.status.loadBalancer.ingress[0].ip}",
    )?;
    cluster.field(&format!("svc {service}"), "/status/loadBalancer/ingress/0/ip")
}

fn load_balancers() -> Result<()> {
    on_a_cluster(|cluster| {
        let addresses = two_balanced(cluster)?;
        let [one, two] = &addresses;
        ensure!(one != two, "{addresses:?}");
        for address in &addresses {
            let url = format!("http://{address}/");
            eventually("the service answers", || cluster.curl(&url))?;
            let mut seen = BTreeSet::new();
            for _ in 0..40 {
                seen.extend(cluster.curl(&url)?.split(':').next().map(str::to_owned));
            }
            ensure!(seen.len() == 2, "{url} leads to {seen:?}");
            let said = cluster.in_pod("app-0", &format!("wget -qO- {url}"))?;
            check_contains(&said, &["app-"])?;
        }
        let shown = cluster.kubectl("get svc one").ok()?;
        check_contains(&shown, &["LoadBalancer", one, "80:3"])?;
        check_contains(
            &cluster.kubectl("describe svc one").ok()?,
            &["EnsuredLoadBalancer"],
        )?;
        // Asked for, it is that one; taken, it is said whose it is.
        let asking = |ip: &str| service("three", &format!("loadBalancerIP: {ip}, {BALANCED}"));
        cluster.apply(&asking(two))?;
        eventually("it is said why", || {
            let said = cluster.kubectl("describe svc three").ok()?;
            check_contains(
                &said,
                &["SyncLoadBalancerFailed", "is that of Service default/two"],
            )
        })?;
        // What is given back goes to who waits for it.
        cluster
            .kubectl("patch svc two -p '{\"spec\":{\"type\":\"ClusterIP\"}}'")
            .ok()?;
        ensure!(address(cluster, "three")? == *two);
        let status = cluster.field("svc two", "/status/loadBalancer")?;
        ensure!(status == "{}", "{status}");
        // They stay, whatever becomes of the server.
        cluster.kill_server()?;
        cluster.up()?;
        ensure!(address(cluster, "one")? == *one && address(cluster, "three")? == *two);
        cluster.down()?;
        cluster.up()?;
        cluster.rolled_out("app")?;
        eventually("the service answers", || cluster.curl(&format!("http://{one}/"))).map(drop)
    })
}

fn service_and_tunnel() -> Result<()> {
    on_a_cluster(|cluster| {
        let [one, two] = two_balanced(cluster)?;
        cluster.apply(&service("alone", "ports: [{port: 80}]").replace("app: app", "app: none"))?;
        let list = cluster.stead("service list")?.ok()?;
        let lines: Vec<&str> = list.lines().collect();
        ensure!(lines.len() > 5 && lines[0].starts_with("|----"), "{list}");
        let has_line = |cells: [&str; 4]| {
            let is_it = |line: &&str| {
                line.split('|')
                    .map(str::trim)
                    .filter(|cell| !cell.is_empty())
                    .eq(cells)
            };
            ensure!(list.lines().any(|line| is_it(&line)), "no {cells:?} in:\n{list}");
            Ok(())
        };
        has_line(["NAMESPACE", "NAME", "TARGET PORT", "URL"])?;
        let url = format!("http://{one}:80");
        has_line(["default", "one", "http/80", &url])?;
        has_line(["default", "app-headless", "http/8080", "none (headless)"])?;
        let said = cluster.stead("service one --url")?.ok()?;
        ensure!(said == format!("{url}\n"), "{said:?}");
        check_contains(&cluster.curl(said.trim())?, &["app-"])?;
        let table = cluster.stead("service one")?.ok()?;
        check_contains(&table, &["NAMESPACE", &url])?;

        for (line, why) in [
            ("service absent --wait 0", "there is no service \"absent\""),
            (
                "service one --namespace absent --wait 0",
                "in the namespace \"absent\"",
            ),
            ("service app-headless", "is headless"),
            ("service alone --wait 0", "has no ready pod (waited 0 s)"),
            ("service ../images", "is no name"),
            (
                "service list --namespace absent",
                "there is no service in \"absent\"",
            ),
        ] {
            let outcome = cluster.stead(line)?.run()?;
            ensure!(outcome.code == 1, "{outcome}");
            outcome.says(&[why])?;
        }

        let outcome = cluster.stead("tunnel status")?.run()?;
        ensure!(outcome.code == 3, "{outcome}");
        outcome.says(&["There is no tunnel", "tunnel start"])?;
        let refused = cluster.curl("http://127.0.0.1:80/");
        ensure!(refused.is_err(), "{refused:?}");
        let table = cluster.stead("tunnel start")?.ok()?;
        check_contains(&table, &["default/one", "127.0.0.1:80", "forwarded"])?;
        check_contains(&table, &["the port is that of default/one", &format!("{two}:80")])?;
        check_contains(&cluster.curl("http://127.0.0.1:80/")?, &["app-"])?;
        // What comes later is forwarded, too, and what goes is not.
        cluster.apply(&service("later", &BALANCED.replace("80,", "8081,")))?;
        eventually("it is forwarded", || cluster.curl("http://127.0.0.1:8081/"))?;
        cluster.kubectl("delete svc later").ok()?;
        eventually("it is not any more", || {
            ensure!(cluster.curl("http://127.0.0.1:8081/").is_err());
            Ok(())
        })?;
        cluster.kubectl("delete svc one").ok()?;
        eventually("the next one has the port", || {
            let table = cluster.stead("tunnel status")?.ok()?;
            let line = table.lines().find(|line| line.starts_with("default/two"));
            check_contains(line.context("no line")?, &["forwarded"])
        })?;
        check_contains(&cluster.curl("http://127.0.0.1:80/")?, &["app-"])?;
        check_contains(&cluster.stead("tunnel stop")?.ok()?, &["closed"])?;
        let refused = cluster.curl("http://127.0.0.1:80/");
        ensure!(refused.is_err(), "{refused:?}");
        cluster.stead("tunnel stop")?.ok().map(drop)
    })
}

fn without() -> Result<()> {
    on_a_cluster(|cluster| {
        let [one, _] = two_balanced(cluster)?;
        cluster.down()?;
        let kubeconfig = cluster.kubeconfig().display();
        cluster
            .stead(&format!(
                "up --detach --load-balancer none --kubeconfig {kubeconfig}"
            ))?
            .ok()?;
        cluster.apply(&service("later", BALANCED))?;
        cluster.rolled_out("app")?;
        // The one has what it had; the other has a port of the node.
        let shown = cluster.kubectl("get svc").ok()?;
        let line = |name: &str| {
            shown
                .lines()
                .find(|line| line.starts_with(name))
                .context("no line")
        };
        check_contains(line("later")?, &["<pending>"])?;
        check_contains(line("one")?, &[&one])?;
        let url = cluster.stead("service later --url --wait 0")?.ok()?;
        let port = cluster.field("svc later", "/spec/ports/0/nodePort")?;
        ensure!(url.trim().ends_with(&format!(":{port}")), "{url}");
        check_contains(&cluster.curl(url.trim())?, &["app-"])
    })
}

fn exposed() -> Result<()> {
    on_a_cluster(|cluster| {
        let [one, two] = two_balanced(cluster)?;
        let from_outside = |port: &str| {
            let curl = "curl --silent --show-error --fail --max-time 2";
            let line = format!("ip netns exec outside {curl} http://192.0.2.2:{port}/");
            cluster.machine.run(&line).ok()
        };
        let node_port = cluster.field("svc one", "/spec/ports/0/nodePort")?;
        for port in ["80", &node_port] {
            ensure!(from_outside(port).is_err(), "port {port} is open");
        }
        cluster.down()?;
        let kubeconfig = cluster.kubeconfig().display();
        cluster
            .stead(&format!("up --detach --expose --kubeconfig {kubeconfig}"))?
            .ok()?;
        cluster.rolled_out("app")?;
        for port in ["80", &node_port] {
            let said = eventually("it answers other machines", || from_outside(port))?;
            check_contains(&said, &["app-"])?;
        }
        // Here, it is reached as ever; the other one has to wait for the port.
        check_contains(&cluster.curl(&format!("http://{one}/"))?, &["app-"])?;
        eventually("it is said whose the port is", || {
            let said = cluster.kubectl("describe svc two").ok()?;
            let why = "port 80/TCP of this machine is that of Service default/one";
            check_contains(&said, &["SyncLoadBalancerFailed", why])
        })?;
        check_contains(&cluster.kubectl("get svc two").ok()?, &["<pending>"])?;
        cluster.kubectl("delete svc one").ok()?;
        ensure!(address(cluster, "two").is_ok(), "no address instead of {two}");
        check_contains(
            &eventually("the next one answers", || from_outside("80"))?,
            &["app-"],
        )?;
        cluster.kubectl("delete svc two").ok()?;
        eventually("the port is closed", || {
            ensure!(from_outside("80").is_err());
            Ok(())
        })
    })
}

/// What one looks at first.
fn at_a_glance() -> Result<()> {
    on_a_cluster(|cluster| {
        two_balanced(cluster)?;
        let said = cluster.stead("status")?.ok()?;
        let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let expected = [
            ["NAMESPACE", "STATEFULSET", "READY", "CLAIMS"]
                .map(str::to_owned)
                .to_vec(),
            ["default", "app", "2/2", "2/2", "bound"]
                .map(str::to_owned)
                .to_vec(),
        ];
        for line in expected {
            ensure!(
                said.lines().map(cells).any(|cells| cells == line),
                "no {line:?} in:\n{said}"
            );
        }
        let stead = artifacts::stead()?.display().to_string();
        let data = cluster.data_dir().display();
        // The name of a kubectl has its version here.
        let bin = tempfile::tempdir()?;
        std::os::unix::fs::symlink(kubectl::newest()?.path(), bin.path().join("kubectl"))?;
        let run = |path: &str| {
            let line = format!("env PATH={path} {stead} --data-dir {data} kubectl get sts app --output name");
            cluster.machine.run(&line)
        };
        let said = run(&bin.path().display().to_string()).ok()?;
        ensure!(said == "statefulset.apps/app\n", "{said:?}");
        run("/nowhere")
            .fails()?
            .says(&["there is no kubectl on the PATH"])
    })
}

fn through_the_api() -> Result<()> {
    on_a_cluster(|cluster| {
        two_balanced(cluster)?;
        let node = cluster.field("nodes", "/items/0/metadata/name")?;
        let raw = |path: &str| cluster.kubectl(&format!("get --raw {path}"));
        let base = "/api/v1/namespaces/default";
        for (path, said) in [
            (format!("{base}/services/one:80/proxy/"), "app-"),
            (format!("{base}/services/http:one:http/proxy/"), "app-"),
            (format!("{base}/pods/app-0:8080/proxy/"), "app-0"),
            (format!("/api/v1/nodes/{node}/proxy/healthz"), "ok"),
        ] {
            check_contains(&raw(&path).ok()?, &[said])?;
        }
        for (path, said) in [
            (
                format!("{base}/services/none/proxy/"),
                "services \"none\" not found",
            ),
            (
                format!("{base}/services/one:81/proxy/"),
                "no service port 81 found for service",
            ),
            (
                format!("{base}/pods/app-0:1/proxy/"),
                "error trying to reach service: dial tcp",
            ),
            (
                format!("{base}/pods/ftp:app-0:1/proxy/"),
                "SCHEME is http or https",
            ),
            (
                format!("{base}/pods/app-0:8080/proxy/ --as=jane"),
                "cannot get resource \"pods/proxy\"",
            ),
        ] {
            raw(&path).fails()?.says(&[said])?;
        }
        Ok(())
    })
}
