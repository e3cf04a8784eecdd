//! Who containers run as, and whose their files are.

use anyhow::{Result, ensure};
use stead_tests::Cluster;
use stead_tests::artifacts::Image;

use super::{Part, full_name, pod, status, told};

pub(super) const PARTS: &[Part] = &[
    ("users and groups", ids),
    ("a claim's files are given to a group", claim),
    ("a container that is not to be root", non_root),
];

fn ids(cluster: &Cluster) -> Result<()> {
    let security =
        "securityContext: {runAsUser: 1234, runAsGroup: 2345, fsGroup: 3456, supplementalGroups: [4567]}";
    let volume = "volumes: [{name: work, emptyDir: {}}, {name: fast, emptyDir: {medium: Memory}}]";
    let mounts = "volumeMounts: [{name: work, mountPath: /work}, {name: fast, mountPath: /fast}]";
    let own = "securityContext: {runAsUser: 1111, runAsGroup: 0}";
    let manifest = format!(
        "{}    - name: other\n      image: tool:1\n      command: [sleep, '10000']\n      {own}\n",
        pod("someone", "exec sleep 10000", &[mounts], &[security, volume])
    );
    cluster.apply(&manifest)?;
    cluster.wait_for("pod/someone", "condition=Ready")?;
    for (script, expected) in [
        ("id -u; id -g", "1234\n2345\n"),
        ("id -G | tr \" \" \"\\n\" | sort", "2345\n3456\n4567\n"),
        ("stat -c \"%u %g %a\" /work /fast", "0 3456 2777\n0 3456 2777\n"),
        (
            "for in in /work /fast; do touch $in/file; stat -c \"%u %g\" $in/file; done",
            "1234 3456\n1234 3456\n",
        ),
    ] {
        let said = cluster.in_pod("someone", script)?;
        ensure!(said == expected, "{script}: {said:?}, expected {expected:?}");
    }
    let said = cluster.in_pod("someone --container=other", "id -u; id -g")?;
    ensure!(said == "1111\n0\n", "{said:?}");
    let said = cluster.in_pod("someone --container=other", "id -G | tr \" \" \"\\n\" | sort")?;
    ensure!(said == "0\n3456\n4567\n", "{said:?}");
    Ok(())
}

fn claim(cluster: &Cluster) -> Result<()> {
    cluster.apply(
        "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: shared}, spec: {accessModes: [ReadWriteOnce], \
         resources: {requests: {storage: 1Mi}}}}",
    )?;
    let shown = "stat -c \"%u %g %a %n\" /data /data/dir /data/dir/file";
    let make = format!(
        "mkdir /data/dir; echo old >/data/dir/file; ln -s /etc/passwd /data/link; chown 1000:1000 /data/dir/file; \
         chmod 755 /data /data/dir; chmod 640 /data/dir/file; {shown}"
    );
    let write = format!("echo new >>/data/dir/file && {shown}");
    let private = format!("chgrp 0 /data/dir/file; chmod 600 /data/dir/file; {shown}");
    let group = |group: u32, policy: &str| {
        format!("securityContext: {{runAsUser: 1001, fsGroup: {group}, fsGroupChangePolicy: {policy}}}")
    };
    // One after the other, each with what it prints.
    for (name, script, security, expected) in [
        (
            "made",
            make,
            String::new(),
            "0 0 755 /data\n0 0 755 /data/dir\n1000 1000 640 /data/dir/file\n",
        ),
        (
            "always",
            write.clone(),
            group(3456, "Always"),
            "0 3456 2775 /data\n0 3456 2775 /data/dir\n1000 3456 660 /data/dir/file\n",
        ),
        (
            "private",
            private,
            String::new(),
            "0 3456 2775 /data\n0 3456 2775 /data/dir\n1000 0 600 /data/dir/file\n",
        ),
        (
            "matching",
            shown.to_owned(),
            group(3456, "OnRootMismatch"),
            "0 3456 2775 /data\n0 3456 2775 /data/dir\n1000 0 600 /data/dir/file\n",
        ),
        (
            "other",
            write,
            group(4567, "OnRootMismatch"),
            "0 4567 2775 /data\n0 4567 2775 /data/dir\n1000 4567 660 /data/dir/file\n",
        ),
    ] {
        let volume = "volumes: [{name: data, persistentVolumeClaim: {claimName: shared}}]";
        let mount = "volumeMounts: [{name: data, mountPath: /data}]";
        let mut spec = vec!["restartPolicy: Never", volume];
        if !security.is_empty() {
            spec.push(&security);
        }
        cluster.apply(&pod(name, &script, &[mount], &spec))?;
        cluster.wait_for(
            &format!("pod/{name}"),
            "jsonpath={.status.containerStatuses[0].state.terminated}",
        )?;
        let said = cluster.kubectl(&format!("logs {name}")).ok()?;
        ensure!(said == expected, "{name}: {said:?}, expected {expected:?}");
    }
    let etc = cluster.machine.run("stat -c '%g' /etc/passwd").ok()?;
    ensure!(etc == "0\n", "a link was followed");
    Ok(())
}

fn non_root(cluster: &Cluster) -> Result<()> {
    cluster.load(&Image::new("web:1").arg("--user", "web"))?;
    for (name, image, security, said) in [
        (
            "root",
            "tool:1",
            "runAsNonRoot: true",
            "container has runAsNonRoot and image will run as root",
        ),
        (
            "asked",
            "tool:1",
            "runAsNonRoot: true, runAsUser: 0",
            "container's runAsUser breaks non-root policy",
        ),
        (
            "named",
            "web:1",
            "runAsNonRoot: true",
            "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root",
        ),
    ] {
        let security = format!("securityContext: {{{security}}}");
        let manifest = pod(name, "exec sleep 10000", &[&security], &[]).replace("tool:1", image);
        cluster.apply(&manifest)?;
        cluster.wait_for(
            &format!("pod/{name}"),
            "jsonpath={.status.containerStatuses[0].state.waiting.reason}=CreateContainerConfigError",
        )?;
        let full_name = full_name(cluster, name)?;
        let expected = format!("{said} (pod: \"{full_name}\", container: main)");
        let found = status(cluster, name, "/containerStatuses/0/state/waiting/message")?;
        ensure!(found == expected, "{name}: {found:?}, expected {expected:?}");
        let event = told(cluster, name, "Error: ")?;
        ensure!(event == format!("Warning Failed Error: {expected}"), "{event}");
        ensure!(status(cluster, name, "/phase")? == "Pending");
    }
    let security = "securityContext: {runAsNonRoot: true, runAsUser: 1000}";
    cluster.apply(&pod("modest", "exec sleep 10000", &[security], &[]))?;
    cluster.wait_for("pod/modest", "condition=Ready")
}
