//! Programs that misbehave, and manifests and images that cannot work: each ends in a clear message, and
//! nobody else suffers.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use stead_tests::artifacts::Image;
use stead_tests::{Cluster, eventually, on_a_cluster};

use crate::manifests::{pod, set};
use crate::{Tests, check_contains};

pub(crate) const TESTS: Tests = &[
    ("faults: a command that does not exist", no_command),
    ("faults: a claim of a class that does not exist", no_class),
    (
        "faults: images that reach out of their directory",
        escaping_images,
    ),
];

/// Those that keep the whole computer busy.
pub(crate) const HEAVY: Tests = &[
    ("faults: programs that do not behave", programs),
    ("faults: a program that floods its log", flood),
];

fn no_command() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::new("tool:1"))?;
        for (name, command, said) in [
            (
                "absolute",
                "/no/such",
                "exec: \"/no/such\": stat /no/such: no such file or directory",
            ),
            (
                "named",
                "nothing",
                "exec: \"nothing\": executable file not found in $PATH",
            ),
        ] {
            let manifest = pod(name, "", &[]).replace("[sh, -c, '']", &format!("[{command}]"));
            cluster.apply(&manifest)?;
            cluster.wait_for(
                &format!("pod/{name}"),
                // Which it is for ten seconds.
                "jsonpath={.status.containerStatuses[0].state.waiting.reason}=CrashLoopBackOff",
            )?;
            let status = cluster.get(&format!("pod {name}"))?["status"].take();
            let exit = &status["containerStatuses"][0]["lastState"]["terminated"];
            ensure!(
                exit["reason"] == "StartError" && exit["exitCode"] == 128,
                "{status}"
            );
            check_contains(
                &exit["message"].to_string().replace("\\\"", "\""),
                &[
                    "OCI runtime create failed",
                    "unable to start container process",
                    said,
                ],
            )?;
            check_contains(
                &cluster.kubectl(&format!("describe pod {name}")).ok()?,
                &["Failed", said],
            )?;
            cluster.kubectl(&format!("delete pod {name}")).ok()?;
        }
        Ok(())
    })
}

fn no_class() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::visits()?)?;
        let class = "resources: {requests: {storage: 1Mi}}";
        let manifest = set("web", 1, &[]);
        ensure!(manifest.contains(class));
        cluster.apply(&manifest.replace(class, &format!("storageClassName: golden, {class}")))?;
        eventually("the set's pod is there", || cluster.get("pod web-0"))?;
        cluster.wait_for("pod/web-0", "condition=PodScheduled=false")?;
        eventually("an event says why", || {
            check_contains(
                &cluster.kubectl("describe pvc data-web-0").ok()?,
                &[
                    "ProvisioningFailed",
                    "storageclass.storage.k8s.io \"golden\" not found",
                ],
            )
        })?;
        ensure!(cluster.field("pvc data-web-0", "/status/phase")? == "Pending");
        check_contains(
            &cluster.kubectl("describe pod web-0").ok()?,
            &["FailedScheduling", "unbound immediate PersistentVolumeClaims"],
        )?;
        // With the class all goes on.
        let class = cluster.get("storageclass standard")?;
        let named = |field: &str| class[field].as_str().map(str::to_owned).context("no such field");
        cluster.apply(&format!(
            "{{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {{name: golden}}, \
             provisioner: {}, volumeBindingMode: {}}}",
            named("provisioner")?,
            named("volumeBindingMode")?
        ))?;
        cluster.rolled_out("web").map(drop)
    })
}

/// Writes a `docker save` archive whose only layer is the archive that this `tar` command line writes, in
/// the machine's folder.
fn image(dir: &Path, name: &str, script: &str) -> Result<String> {
    let work = dir.join(name);
    fs::create_dir(&work)?;
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let script = format!(
        r#"set -eu
        cd {work:?}
        mkdir top && cd top
        {script}
        cd ..
        diff=$(sha256sum layer.tar | cut -d' ' -f1)
        printf '{{"architecture":"{architecture}","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["sha256:%s"]}}}}' "$diff" >config.json
        printf '[{{"Config":"config.json","RepoTags":["{name}:1"],"Layers":["layer.tar"]}}]' >manifest.json
        tar -cf ../{name}.tar manifest.json config.json layer.tar"#
    );
    let made = Command::new("sh").arg("-c").arg(script).output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::remove_dir_all(work)?;
    Ok(dir.join(format!("{name}.tar")).display().to_string())
}

fn escaping_images() -> Result<()> {
    on_a_cluster(|cluster| {
        let dir = cluster.machine.dir().join("escapes");
        fs::create_dir(&dir)?;
        // What is refused, and with which words.
        for (name, script, said) in [
            (
                "climbs",
                "echo x >x; tar -cPf ../layer.tar --transform 's,^x,../../escaped,' x",
                "../../escaped",
            ),
            (
                "linked",
                "tar -cf ../layer.tar -T /dev/null; ln -s /etc out; echo x >x
                 tar -cf ../layer.tar out; tar -rf ../layer.tar --transform 's,^x,out/escaped,' x",
                "out/escaped",
            ),
            (
                "hard",
                "echo x >x; ln x y; tar -cPf ../layer.tar --transform 's,^x,/etc/passwd,h' x y; tar -f ../layer.tar --delete /etc/passwd",
                "make \"y\"",
            ),
        ] {
            let file = image(&dir, name, script)?;
            let outcome = cluster.stead(&format!("image load {file}"))?.fails()?;
            outcome.says(&[said])?;
            ensure!(!outcome.stderr.contains("panicked"), "{outcome}");
        }
        // Devices are left out, and an absolute path is one within the image.
        let file = image(
            &dir,
            "devices",
            "mknod disk b 8 0; mknod mem c 1 1; echo x >x
             tar -cPf ../layer.tar --transform 's,^x,/etc/stead-escaped,' disk mem x",
        )?;
        cluster.stead(&format!("image load {file}"))?.ok()?;
        let script = "find / -xdev -maxdepth 4 ( -name escaped -o -name stead-escaped ) -not -path /proc/*";
        let found = cluster.machine.run(script).run()?.stdout;
        let outside: Vec<_> = found
            .lines()
            .filter(|path| !path.contains("/images/layers/"))
            .collect();
        ensure!(outside.is_empty(), "{outside:?}");
        let images = cluster.data_dir().join("images").display().to_string();
        let devices = cluster
            .machine
            .run(&format!("find {images} -type b -o -name mem"))
            .ok()?;
        ensure!(devices.is_empty(), "{devices}");
        let images = cluster.stead("image ls")?.ok()?;
        ensure!(images.contains("devices"), "{images}");
        for refused in ["climbs", "linked", "hard"] {
            ensure!(!images.contains(refused), "{images}");
        }
        fs::remove_dir_all(dir)?;
        Ok(())
    })
}

fn programs() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::new("tool:1"))?;
        let scripts = [
            // A process that is never the same for long, beside many that come and go.
            (
                "forks",
                "comet() { comet & exit; }; comet & while true; do sleep 0.2 & done 2>/dev/null",
            ),
            ("deaf", "trap \"\" TERM INT HUP; while true; do sleep 1; done"),
            ("silent", "exec <&- >&- 2>&-; while true; do sleep 1; done"),
        ];
        for (name, script) in scripts {
            cluster.apply(&pod(name, script, &[]))?;
        }
        for (name, _) in scripts {
            cluster.wait_for(&format!("pod/{name}"), "condition=Ready")?;
        }
        ensure!(cluster.kubectl("logs silent").ok()?.is_empty());
        cluster.in_pod("silent", "echo here")?;
        // Meanwhile others start.
        cluster.apply(&pod("other", "exec sleep 1000000", &[]))?;
        cluster.wait_for("pod/other", "condition=Ready")?;
        cluster.kubectl("delete pod --all").ok()?;
        check_ended(cluster)
    })
}

/// Checks that of the pods no process is left.
fn check_ended(cluster: &Cluster) -> Result<()> {
    let processes = cluster.machine.processes()?;
    let left: Vec<_> = processes
        .iter()
        .filter(|process| process.contains("sleep"))
        .collect();
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

fn flood() -> Result<()> {
    const MIB: u64 = 1 << 20;
    on_a_cluster(|cluster| {
        cluster.load(&Image::new("tool:1"))?;
        // 100 MB, several times what is kept, and then on and on.
        let line = "x".repeat(1000);
        let flood = format!("yes {line} | head -c 100000000; echo done >/tmp/done; yes {line}");
        let probe = "readinessProbe: {exec: {command: [test, -e, /tmp/done]}, periodSeconds: 1}";
        cluster.apply(&pod("flood", &flood, &[probe]))?;
        cluster.apply(&pod("other", "echo here; exec sleep 1000000", &[]))?;
        cluster.wait_for("pod/other", "condition=Ready")?;
        ensure!(cluster.kubectl("logs other").ok()? == "here\n");
        cluster.wait_for("pod/flood", "condition=Ready")?;
        let kept = size_of(&cluster.data_dir().join("kubelet"))?;
        ensure!(
            (10 * MIB..70 * MIB).contains(&kept),
            "{} MiB are kept",
            kept / MIB
        );
        // However fast it grows.
        let tail = cluster.kubectl("logs flood --tail=3").ok()?;
        ensure!(
            tail.lines().eq([&line; 3]),
            "{} lines of {} bytes",
            tail.lines().count(),
            tail.len()
        );
        cluster.kubectl("delete pod flood").ok()?;
        eventually("the log goes with its pod", || {
            let kept = size_of(&cluster.data_dir().join("kubelet"))?;
            ensure!(kept < MIB, "{kept} bytes are kept");
            Ok(())
        })
    })
}

/// The bytes of all files below a directory.
fn size_of(dir: &Path) -> Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            size += size_of(&entry.path())?;
        } else if kind.is_file() {
            // One that is rotated away meanwhile has no size.
            size += entry.metadata().map_or(0, |data| data.len());
        }
    }
    Ok(size)
}
