//! Parts of volumes, paths of the machine, and its network.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use anyhow::{Result, ensure};
use stead_tests::{Cluster, eventually};

use super::{Part, check_status, host_dir, on_host, pod, told};

pub(super) const PARTS: &[Part] = &[
    ("parts of a volume", sub_paths),
    (
        "paths of the machine must be what they are said to be",
        host_paths,
    ),
    ("a path of the machine is waited for", host_path_later),
    ("the machine's network", host_network),
];

fn sub_paths(cluster: &Cluster) -> Result<()> {
    let dir = host_dir(cluster, "partly")?;
    fs::write(dir.join("one"), "one\n")?;
    let (_, volume) = on_host(&dir);
    let env = "env: [{name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]";
    let mounts = "volumeMounts: [{name: host, mountPath: /logs, subPathExpr: logs/$(NAME)}, \
        {name: host, mountPath: /deep, subPath: a/b}, {name: host, mountPath: /etc/one, subPath: one, readOnly: true}]";
    cluster.apply(&pod("partly", "exec sleep 10000", &[env, mounts], &[&volume]))?;
    cluster.wait_for("pod/partly", "condition=Ready")?;
    cluster.in_pod("partly", "echo line >/logs/log; echo deep >/deep/file")?;
    ensure!(fs::read_to_string(dir.join("logs/partly/log"))? == "line\n");
    ensure!(fs::read_to_string(dir.join("a/b/file"))? == "deep\n");
    let said = cluster.in_pod(
        "partly",
        "cat /etc/one; echo two >/etc/one || echo refused; ls /deep /logs",
    )?;
    ensure!(said == "one\nrefused\n/deep:\nfile\n\n/logs:\nlog\n", "{said:?}");
    Ok(())
}

/// A pod whose `/host` is a path of the machine that has to be of a type.
fn typed(name: &str, path: &str, kind: &str) -> String {
    let volume = format!("volumes: [{{name: host, hostPath: {{path: {path:?}, type: {kind}}}}}]");
    let mount = "volumeMounts: [{name: host, mountPath: /host}]";
    pod(name, "exec sleep 10000", &[mount], &[&volume])
}

fn host_paths(cluster: &Cluster) -> Result<()> {
    let dir = host_dir(cluster, "typed")?;
    let path = |name: &str| dir.join(name).display().to_string();
    let socket = UnixListener::bind(dir.join("socket"))?;
    fs::write(dir.join("file"), "")?;
    // What is there, or is made.
    let good = [
        ("directory", ".", "Directory"),
        ("file", "file", "File"),
        ("socket", "socket", "Socket"),
        ("new-file", "made", "FileOrCreate"),
        ("new-directory", "deep/made", "DirectoryOrCreate"),
    ];
    // What is not, and what it should have been.
    let bad = [
        ("no-directory", "file", "Directory", "directory"),
        ("no-new-directory", "file", "DirectoryOrCreate", "directory"),
        ("no-file", "socket", "File", "file"),
        ("no-device", "file", "CharDevice", "character device"),
        ("no-disk", "file", "BlockDevice", "block device"),
        ("no-socket", "file", "Socket", "socket file"),
    ];
    for (name, file, kind) in good {
        cluster.apply(&typed(name, &path(file), kind))?;
    }
    for (name, file, kind, _) in bad {
        cluster.apply(&typed(name, &path(file), kind))?;
    }
    let device = pod("device", "exec sleep 10000", &[], &[]);
    cluster.apply(&device.replacen(
        "spec:",
        "spec:\n  volumes: [{name: host, hostPath: {path: /dev/null, type: CharDevice}}]",
        1,
    ))?;
    for name in good.iter().map(|(name, ..)| *name).chain(["device"]) {
        cluster.wait_for(&format!("pod/{name}"), "condition=Ready")?;
    }
    let mode = |name: &str| -> Result<u32> { Ok(fs::metadata(dir.join(name))?.permissions().mode()) };
    ensure!(mode("made")? == 0o100_644, "{:o}", mode("made")?);
    ensure!(mode("deep/made")? == 0o040_755, "{:o}", mode("deep/made")?);
    for (name, file, _, what) in bad {
        let event = told(cluster, name, "FailedMount")?;
        let expected = format!(
            "Warning FailedMount MountVolume.SetUp failed for volume \"host\" : hostPath type check failed: {} is not \
             a {what}",
            path(file)
        );
        ensure!(event == expected, "{event}, expected {expected}");
        let waiting = "/containerStatuses/0/state/waiting/reason";
        check_status(
            cluster,
            name,
            &[("/phase", "Pending"), (waiting, "ContainerCreating")],
        )?;
    }
    drop(socket);
    Ok(())
}

fn host_path_later(cluster: &Cluster) -> Result<()> {
    let dir = host_dir(cluster, "later")?;
    let path = dir.join("absent");
    cluster.apply(&typed("later", &path.display().to_string(), "Directory"))?;
    let event = told(cluster, "later", "FailedMount")?;
    let expected = format!(
        "hostPath type check failed: {} is not a directory",
        path.display()
    );
    ensure!(event.ends_with(&expected), "{event}");
    ensure!(!path.exists());
    fs::create_dir(&path)?;
    cluster.wait_for("pod/later", "condition=Ready")
}

fn host_network(cluster: &Cluster) -> Result<()> {
    let script = "mkdir /www; echo here >/www/index.html; exec busybox httpd -f -p 18080 -h /www";
    let probe = "readinessProbe: {tcpSocket: {port: 18080}, periodSeconds: 1}";
    cluster.apply(&pod("wide", script, &[probe], &["hostNetwork: true"]))?;
    cluster.wait_for("pod/wide", "condition=Ready")?;
    let node = cluster.field("nodes", "/items/0/status/addresses/0/address")?;
    check_status(cluster, "wide", &[("/podIP", &node), ("/hostIP", &node)])?;
    let links = cluster.in_pod("wide", "ip -o link")?;
    ensure!(links.contains("uplink"), "{links}");
    let machine = cluster.machine.run("hostname").ok()?;
    let hostname = cluster.in_pod("wide", "hostname")?;
    ensure!(hostname == machine, "{hostname:?}, not {machine:?}");
    eventually("it serves on the machine", || {
        let said = cluster.curl("http://127.0.0.1:18080/")?;
        ensure!(said == "here\n", "{said:?}");
        Ok(())
    })?;
    // Its port is taken: this one does not fit.
    let other = pod(
        "narrow",
        "exec sleep 10000",
        &["ports: [{containerPort: 18080}]"],
        &["hostNetwork: true"],
    );
    let first = other.replace("narrow", "first");
    cluster.apply(&first)?;
    cluster.wait_for("pod/first", "condition=Ready")?;
    cluster.apply(&other)?;
    let event = told(cluster, "narrow", "FailedScheduling")?;
    let expected = "1 node(s) didn't have free ports for the requested pod ports";
    ensure!(event.contains(expected), "{event}");
    Ok(())
}
