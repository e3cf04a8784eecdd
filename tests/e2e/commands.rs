//! What else one does with kubectl.

use anyhow::{Result, ensure};
use stead_tests::artifacts::Image;
use stead_tests::{kubectl, on_a_cluster};

use crate::manifests::{pod, set};
use crate::{Tests, check_contains};

pub(crate) const TESTS: Tests = &[
    ("kubectl: create, with both versions", create),
    ("kubectl: label, annotate, patch, edit, diff and dry runs", change),
    ("kubectl: describe, events, wait and explain", look),
    ("kubectl: discovery and raw paths", discovery),
    (
        "kubectl: namespaces, and what is in them, go together",
        namespaces,
    ),
    (
        "kubectl: delete in the foreground and in the background",
        cascades,
    ),
];

/// From 1.32, kubectl sends protobuf for these.
fn create() -> Result<()> {
    on_a_cluster(|cluster| {
        for kubectl in [kubectl::oldest()?, kubectl::newest()?] {
            let cluster = cluster.with_kubectl(kubectl);
            for (create, get, field, value) in [
                (
                    "configmap settings --from-literal=color=blue",
                    "cm settings",
                    "/data/color",
                    "blue",
                ),
                (
                    "secret generic keys --from-literal=password=hidden",
                    "secret keys",
                    "/data/password",
                    "aGlkZGVu",
                ),
                ("serviceaccount worker", "sa worker", "/metadata/name", "worker"),
                ("namespace other", "ns other", "/status/phase", "Active"),
                (
                    "service clusterip plain --tcp=80:8080",
                    "svc plain",
                    "/spec/ports/0/targetPort",
                    "8080",
                ),
            ] {
                let said = cluster.kubectl(&format!("create {create}")).ok()?;
                check_contains(&said, &["created"])?;
                let found = cluster.field(get, field)?;
                ensure!(found == value, "{create}: {found}");
                let again = cluster.kubectl(&format!("create {create}")).fails()?;
                again.says(&["already exists"])?;
                cluster.kubectl(&format!("delete {get}")).ok()?;
            }
            let token = cluster.kubectl("create token default").ok()?;
            ensure!(token.split('.').count() == 3, "{token}");
        }
        Ok(())
    })
}

fn change() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster
            .kubectl("create configmap settings --from-literal=color=blue")
            .ok()?;
        cluster.kubectl("label cm settings tier=web").ok()?;
        cluster
            .kubectl("label cm settings tier=db")
            .fails()?
            .says(&["overwrite"])?;
        cluster.kubectl("label cm settings tier=db --overwrite").ok()?;
        cluster.kubectl("annotate cm settings note=x").ok()?;
        let selected = cluster.kubectl("get cm -l tier=db -o name").ok()?;
        ensure!(selected == "configmap/settings\n", "{selected}");
        cluster.kubectl("label cm settings tier-").ok()?;
        ensure!(cluster.field("cm settings", "/metadata/labels")? == "null");

        cluster
            .kubectl("patch cm settings --type=merge -p '{\"data\":{\"color\":\"red\",\"size\":\"large\"}}'")
            .ok()?;
        cluster
            .kubectl("patch cm settings --type=json -p '[{\"op\":\"remove\",\"path\":\"/data/size\"}]'")
            .ok()?;
        ensure!(cluster.field("cm settings", "/data")? == r#"{"color":"red"}"#);

        cluster
            .kubectl("edit cm settings")
            .env("KUBE_EDITOR", "sed -i s/red/green/")
            .ok()?;
        ensure!(cluster.field("cm settings", "/data/color")? == "green");

        let manifest = |color: &str| {
            format!(
                "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: other}}, data: {{color: {color}}}}}"
            )
        };
        cluster.apply(&manifest("blue"))?;
        cluster
            .kubectl("diff -f -")
            .stdin(manifest("blue"))
            .ok()
            .map(drop)?;
        let diff = cluster.kubectl("diff -f -").stdin(manifest("red")).run()?;
        ensure!(diff.code == 1, "{diff}");
        diff.says(&["-  color: blue", "+  color: red"])?;
        let dry = cluster
            .kubectl("apply --dry-run=server -f -")
            .stdin(manifest("red"))
            .ok()?;
        check_contains(&dry, &["configured (server dry run)"])?;
        ensure!(cluster.field("cm other", "/data/color")? == "blue");
        check_contains(&cluster.apply(&manifest("blue"))?, &["unchanged"])?;
        check_contains(&cluster.apply(&manifest("red"))?, &["configured"])?;
        cluster.kubectl("replace -f -").stdin(manifest("white")).ok()?;
        ensure!(cluster.field("cm other", "/data/color")? == "white");
        Ok(())
    })
}

fn look() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::visits()?)?;
        cluster.apply(&set("web", 1, &[]))?;
        cluster.rolled_out("web")?;
        let pod = cluster.kubectl("describe pod web-0").ok()?;
        check_contains(
            &pod,
            &[
                "Name:             web-0",
                "Controlled By:  StatefulSet/web",
                "ClaimName:  data-web-0",
                "Scheduled",
                "Successfully assigned default/web-0 to",
                "Pulled",
                "Created",
                "Started",
            ],
        )?;
        let set = cluster.kubectl("describe sts web").ok()?;
        check_contains(
            &set,
            &[
                "Pods Status:        1 Running / 0 Waiting / 0 Succeeded / 0 Failed",
                "SuccessfulCreate",
                "create Pod web-0 in StatefulSet web successful",
            ],
        )?;
        for kind in [
            "svc web-headless",
            "pvc data-web-0",
            "node",
            "ns default",
            "pv",
            "sc standard",
        ] {
            cluster.kubectl(&format!("describe {kind}")).ok()?;
        }
        let events = cluster.kubectl("events --for pod/web-0").ok()?;
        check_contains(&events, &["Started"])?;
        let sorted = cluster
            .kubectl("get events --sort-by=.metadata.creationTimestamp")
            .ok()?;
        check_contains(&sorted, &["pod/web-0", "statefulset/web"])?;
        cluster.wait_for("pod/web-0", "condition=Ready")?;
        let late = cluster
            .kubectl("wait pod/web-0 --for=condition=Never --timeout=100ms")
            .fails()?;
        late.says(&["timed out waiting for the condition"])?;
        let wide = cluster.kubectl("get pods -o wide").ok()?;
        check_contains(&wide, &["IP", "NODE", "READINESS GATES"])?;
        let explained = cluster.kubectl("explain sts.spec.replicas").ok()?;
        check_contains(&explained, &["replicas", "integer"])
    })
}

fn discovery() -> Result<()> {
    on_a_cluster(|cluster| {
        for kubectl in [kubectl::oldest()?, kubectl::newest()?] {
            let cluster = cluster.with_kubectl(kubectl);
            let kinds = cluster.kubectl("api-resources").ok()?;
            check_contains(
                &kinds,
                &["statefulsets", "persistentvolumeclaims", "pvc", "storageclasses"],
            )?;
            check_contains(&cluster.kubectl("api-versions").ok()?, &["apps/v1"])?;
        }
        for path in ["/livez", "/readyz"] {
            let said = cluster.kubectl(&format!("get --raw {path}")).ok()?;
            ensure!(said == "ok", "{path}: {said}");
        }
        ensure!(!cluster.kubectl("get --raw /metrics").ok()?.is_empty());
        cluster
            .kubectl("get absent")
            .fails()?
            .says(&["the server doesn't have a resource type \"absent\""])?;
        Ok(())
    })
}

fn namespaces() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::visits()?)?;
        cluster.kubectl("create ns shop").ok()?;
        cluster
            .kubectl("apply -n shop -f -")
            .stdin(set("web", 1, &[]))
            .ok()?;
        cluster
            .kubectl("rollout status -n shop sts/web --timeout=60s")
            .ok()?;
        let sa = cluster.kubectl("get sa,cm -n shop -o name").ok()?;
        check_contains(&sa, &["serviceaccount/default", "configmap/kube-root-ca.crt"])?;
        cluster.kubectl("delete ns shop").ok()?;
        let all = cluster.kubectl("get pods,sts,svc,pvc,pv -A -o name").ok()?;
        ensure!(all == "service/kubernetes\nservice/kube-dns\n", "{all}");
        cluster.kubectl("delete ns default").fails()?.says(&["forbidden"])
    })
}

fn cascades() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::visits()?)?;
        for cascade in ["foreground", "background"] {
            cluster.apply(&set("web", 2, &[]))?;
            cluster.rolled_out("web")?;
            cluster
                .kubectl(&format!("delete sts web --cascade={cascade}"))
                .ok()?;
            let pods = cluster.kubectl("get pods -o name").ok()?;
            // In the foreground, the set is gone only when its pods are.
            ensure!(cascade == "background" || pods.is_empty(), "{pods}");
            crate::walk::gone(cluster, "web-0")?;
            crate::walk::gone(cluster, "web-1")?;
        }
        cluster.load(&Image::new("tool:1"))?;
        cluster.apply(&pod("stuck", "trap : TERM; while true; do sleep 1; done", &[]))?;
        cluster.wait_for("pod/stuck", "condition=Ready")?;
        cluster.kubectl("delete pod stuck --now").ok()?;
        let pods = cluster.kubectl("get pods -o name").ok()?;
        ensure!(pods.is_empty(), "{pods}");
        Ok(())
    })
}
