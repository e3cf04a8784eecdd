//! What goes on while one watches: exec, attach, cp, logs, port-forward, get -w.

use anyhow::{Context, Result, ensure};
use stead_tests::artifacts::Image;
use stead_tests::{Cluster, kubectl, on_a_cluster};

use crate::manifests::pod;
use crate::{Tests, check_contains};

pub(crate) const TESTS: Tests = &[
    ("streams: exec", exec),
    ("streams: exec on a terminal", terminal),
    ("streams: cp", cp),
    ("streams: logs", logs),
    ("streams: port-forward", port_forward),
    ("streams: attach", attach),
    ("streams: get -w", get_watch),
];

fn with_pod(manifest: &str, test: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::new("tool:1"))?;
        cluster.load(&Image::visits()?)?;
        cluster.apply(manifest)?;
        cluster.wait_for("pod/it", "condition=Ready")?;
        test(cluster)
    })
}

fn exec() -> Result<()> {
    with_pod(&pod("it", "exec sleep 10000", &[]), |cluster| {
        let outcome = cluster
            .kubectl("exec it -- sh -c 'echo out; echo err >&2; exit 7'")
            .run()?;
        ensure!(outcome.code == 7, "{outcome}");
        ensure!(
            outcome.stdout == "out\n" && outcome.stderr.starts_with("err\n"),
            "{outcome}"
        );
        let echoed = cluster.kubectl("exec -i it -- cat").stdin("typed").ok()?;
        ensure!(echoed == "typed", "{echoed:?}");
        // More than any buffer on the way holds.
        let large = vec![b'x'; 3_000_000];
        let counted = cluster.kubectl("exec -i it -- wc -c").stdin(large).ok()?;
        ensure!(counted.trim() == "3000000", "{counted}");
        let large = cluster.kubectl("exec it -- head -c 3000000 /dev/zero").ok()?;
        ensure!(large.len() == 3_000_000, "{}", large.len());
        let missing = cluster.kubectl("exec it -- /no/such/program").run()?;
        ensure!(missing.code != 0, "{missing}");
        missing.says(&["no such file"])?;
        cluster
            .kubectl("exec absent -- true")
            .fails()?
            .says(&["pods \"absent\" not found"])?;
        cluster
            .kubectl("exec it -c absent -- true")
            .fails()?
            .says(&["absent"])
    })
}

/// `script` gives `kubectl` a terminal, as only a terminal makes it ask for one.
fn terminal() -> Result<()> {
    with_pod(&pod("it", "exec sleep 10000", &[]), |cluster| {
        let newest = kubectl::newest()?.path().display().to_string();
        let config = cluster.kubeconfig().display().to_string();
        // The size comes after the command has begun: until then there is none.
        let script = "tty; until stty size 2>/dev/null | busybox grep 99; do sleep 0.1; done; exit 5";
        let inner =
            format!("stty rows 33 cols 99; {newest} --kubeconfig {config} exec -it it -- sh -c \"{script}\"");
        let outcome = cluster
            .machine
            .client(&format!("script --quiet --return --command '{inner}' /dev/null"))
            .run()?;
        ensure!(outcome.code == 5, "{outcome}");
        outcome.says(&["/dev/pts/", "33 99"])
    })
}

fn cp() -> Result<()> {
    with_pod(&pod("it", "exec sleep 10000", &[]), |cluster| {
        let dir = cluster.machine.dir().join("copied");
        std::fs::create_dir(&dir)?;
        let (there, back) = (dir.join("there"), dir.join("back"));
        let bytes: Vec<u8> = (0..2_000_000_u32)
            .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0])
            .collect();
        std::fs::write(&there, &bytes)?;
        cluster
            .kubectl(&format!("cp {} it:/tmp/file", there.display()))
            .ok()?;
        cluster
            .kubectl(&format!("cp it:/tmp/file {}", back.display()))
            .ok()?;
        ensure!(std::fs::read(&back)? == bytes, "it came back different");
        std::fs::remove_dir_all(dir)?;
        Ok(())
    })
}

fn logs() -> Result<()> {
    let script =
        "for i in 1 2 3; do echo line $i; done; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo last";
    with_pod(
        &pod("it", script, &[]).replace("spec:", "spec:\n  restartPolicy: Never"),
        |cluster| {
            ensure!(cluster.kubectl("logs it").ok()? == "line 1\nline 2\nline 3\n");
            ensure!(cluster.kubectl("logs it --tail=1").ok()? == "line 3\n");
            ensure!(cluster.kubectl("logs it --since=1h --limit-bytes=7").ok()? == "line 1\n");
            let stamped = cluster.kubectl("logs it --timestamps --tail=1").ok()?;
            ensure!(stamped.ends_with("Z line 3\n"), "{stamped}");
            let labelled = cluster.kubectl("logs -l app=it --prefix --tail=1").ok()?;
            check_contains(&labelled, &["[pod/it/main] line 3"])?;
            let mut follow = cluster.kubectl("logs it -f").start()?;
            follow.line("line 3")?;
            cluster.in_pod("it", "touch /tmp/go")?;
            follow.line("last")?;
            // It ends with the container.
            let (rest, code) = follow.end()?;
            ensure!(code == Some(0) && rest.is_empty(), "{code:?} {rest:?}");
            cluster
                .kubectl("logs it --previous")
                .fails()?
                .says(&["previous terminated container \"main\" in pod \"it\" not found"])
        },
    )
}

fn port_forward() -> Result<()> {
    let manifest = "
apiVersion: v1
kind: Pod
metadata: {name: it, labels: {app: it}}
spec:
  containers:
    - {name: main, image: 'visits:1', ports: [{name: http, containerPort: 8080}], volumeMounts: [{name: data, mountPath: /data}]}
  volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Service
metadata: {name: it}
spec: {selector: {app: it}, ports: [{port: 80, targetPort: http}]}
";
    with_pod(manifest, |cluster| {
        for what in ["pod/it :8080", "svc/it :80"] {
            let mut forward = cluster.kubectl(&format!("port-forward {what}")).start()?;
            let line = forward.line("Forwarding from 127.0.0.1:")?;
            let port = line
                .split([':', ' '])
                .find_map(|word| word.parse::<u16>().ok())
                .context(line.clone())?;
            for _ in 0..3 {
                let said = cluster.curl(&format!("http://127.0.0.1:{port}/healthz"))?;
                ensure!(said == "ok\n", "{said:?}");
            }
        }
        Ok(())
    })
}

fn attach() -> Result<()> {
    let script = "while read line; do echo got $line; done";
    with_pod(&pod("it", script, &["stdin: true"]), |cluster| {
        let mut attached = cluster.kubectl("attach -i it").start()?;
        attached.write("one\n")?;
        attached.line("got one")?;
        attached.write("two\n")?;
        attached.line("got two")?;
        drop(attached);
        ensure!(cluster.kubectl("logs it").ok()? == "got one\ngot two\n");
        Ok(())
    })
}

fn get_watch() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::new("tool:1"))?;
        let mut watch = cluster.kubectl("get pods -w").start()?;
        cluster.apply(&pod("it", "exec sleep 10000", &[]))?;
        watch.line("NAME")?;
        let line = watch.line("Running")?;
        check_contains(&line, &["it", "1/1"])?;
        cluster.kubectl("delete pod it").ok()?;
        watch.line("Terminating")?;
        Ok(())
    })
}
