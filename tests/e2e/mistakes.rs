//! What goes wrong by a user's mistake must say so in words that help.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Result, ensure};
use stead_tests::artifacts::{self, Image};
use stead_tests::{Cluster, on_a_cluster, on_a_machine};

use crate::manifests::{pod, set};
use crate::{Tests, check_contains};

pub(crate) const TESTS: Tests = &[
    (
        "mistakes: bad manifests are refused in Kubernetes' words",
        manifests,
    ),
    ("mistakes: a taken port", taken_port),
    ("mistakes: not being root", not_root),
    ("mistakes: a broken image file", broken_image),
    ("mistakes: an unknown image", unknown_image),
    ("mistakes: a bad command line", command_line),
    ("mistakes: commands to a cluster that does not run", stopped),
];

fn manifests() -> Result<()> {
    on_a_cluster(|cluster| {
        let good = set("web", 1, &[]);
        for (from, to, said) in [
            ("replicas: 1", "replica: 1", "unknown field \"spec.replica\""),
            ("replicas: 1", "replicas: many", "replicas"),
            (
                "replicas: 1",
                "replicas: -1",
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                "{name: web}",
                "{name: Web_1}",
                "a lowercase RFC 1123 label must consist of",
            ),
            (
                "{matchLabels: {app: web}}",
                "{matchLabels: {app: other}}",
                "`selector` does not match template `labels`",
            ),
            (
                "image: visits:1",
                "imagePullPolicy: Always",
                "spec.template.spec.containers[0].image: Required value",
            ),
            (
                "mountPath: /data",
                "mountPath: ''",
                "spec.template.spec.containers[0].volumeMounts[0].mountPath: Required value",
            ),
            (
                "storage: 1Mi",
                "storage: lots",
                "quantities must match the regular expression",
            ),
            (
                "kind: StatefulSet",
                "kind: StatefulSte",
                "no matches for kind \"StatefulSte\"",
            ),
            (
                "apps/v1",
                "apps/v2",
                "no matches for kind \"StatefulSet\" in version \"apps/v2\"",
            ),
            ("  replicas: 1", "\treplicas: 1", "error parsing"),
        ] {
            ensure!(good.contains(from), "{from}");
            let outcome = cluster
                .kubectl("apply -f -")
                .stdin(good.replacen(from, to, 1))
                .fails()?;
            outcome.says(&[said])?;
            let sets = cluster.kubectl("get sts,pods -o name").ok()?;
            ensure!(sets.is_empty(), "{said}: {sets}");
        }
        // What may not change after creation.
        cluster.apply(&good)?;
        let changed = good.replace("serviceName: web-headless", "serviceName: other");
        cluster
            .kubectl("apply -f -")
            .stdin(changed)
            .fails()?
            .says(&["updates to statefulset spec for fields other than"])?;
        cluster
            .kubectl("apply -n absent -f -")
            .stdin(good)
            .fails()?
            .says(&["namespaces \"absent\" not found"])
    })
}

fn taken_port() -> Result<()> {
    on_a_machine(|machine| {
        machine.run("busybox httpd -p 127.0.0.1:6443 -h /var/lib").ok()?;
        let cluster = Cluster::new(machine, "data")?;
        let config = cluster.kubeconfig().display();
        let outcome = cluster
            .stead(&format!(
                "up --detach --listen 127.0.0.1:6443 --kubeconfig {config}"
            ))?
            .fails()?;
        outcome.says(&["127.0.0.1:6443", "in use"])?;
        // Unasked for a port, it takes the next free one.
        cluster.up()?;
        let server = cluster
            .kubectl("config view --minify -o 'jsonpath={.clusters[0].cluster.server}'")
            .ok()?;
        ensure!(server == "https://127.0.0.1:6444", "{server}");
        cluster.kubectl("get nodes").ok()?;
        cluster.delete()?;
        machine.run("busybox killall busybox").ok().map(drop)
    })
}

fn not_root() -> Result<()> {
    on_a_machine(|machine| {
        // Where nobody can get at it.
        fs::set_permissions(machine.dir(), fs::Permissions::from_mode(0o755))?;
        let stead = machine.dir().join("stead");
        fs::copy(artifacts::stead()?, &stead)?;
        let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups --";
        for command in ["up --detach", "up", "down", "delete --yes"] {
            let line = format!("{nobody} {} {command}", stead.display());
            let outcome = machine.run(&line).fails()?;
            outcome.says(&["root"])?;
            ensure!(!outcome.stderr.contains("panicked"), "{outcome}");
        }
        machine
            .run(&format!("{nobody} {} version", stead.display()))
            .ok()?;
        fs::remove_file(stead)?;
        Ok(())
    })
}

fn broken_image() -> Result<()> {
    on_a_cluster(|cluster| {
        let dir = cluster.machine.dir().join("broken");
        fs::create_dir(&dir)?;
        let whole = fs::read(Image::new("tool:1").file()?)?;
        let mut changed = whole.clone();
        // In the middle of the layer: its digest no longer fits.
        let middle = changed.len() / 2;
        changed[middle] ^= 0xff;
        for (name, bytes, said) in [
            ("text", &b"this is no archive"[..], "text"),
            ("empty", &b""[..], "empty"),
            ("half", &whole[..whole.len() / 2], "half"),
            ("changed", &changed[..], "digest"),
        ] {
            let file = dir.join(name);
            fs::write(&file, bytes)?;
            let outcome = cluster
                .stead(&format!("image load {}", file.display()))?
                .fails()?;
            outcome.says(&[said])?;
            ensure!(!outcome.stderr.contains("panicked"), "{outcome}");
        }
        let missing = cluster.stead("image load /no/such/file.tar")?.fails()?;
        missing.says(&["/no/such/file.tar", "No such file"])?;
        let images = cluster.stead("image ls --output json")?.ok()?;
        ensure!(!images.contains("tool"), "{images}");
        // From standard input, whole, it goes.
        cluster.stead("image load -")?.stdin(whole).ok()?;
        let images = cluster.stead("image ls --output json")?.ok()?;
        check_contains(&images, &["docker.io/library/tool:1"])?;
        cluster.stead("image rm tool:1")?.ok()?;
        let again = cluster.stead("image rm tool:1")?.fails()?;
        again.says(&["tool:1"])?;
        fs::remove_dir_all(dir)?;
        Ok(())
    })
}

fn unknown_image() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.apply(&pod("it", "true", &[]).replace("tool:1", "unknown:1"))?;
        cluster.wait_for(
            "pod/it",
            "jsonpath={.status.containerStatuses[0].state.waiting.reason}=ImagePullBackOff",
        )?;
        let events = cluster.kubectl("describe pod it").ok()?;
        check_contains(
            &events,
            &["Failed to pull image \"unknown:1\"", "ErrImagePull", "BackOff"],
        )?;
        let never = pod("never", "true", &["imagePullPolicy: Never"]);
        cluster.apply(&never.replace("tool:1", "unknown:1"))?;
        cluster.wait_for(
            "pod/never",
            "jsonpath={.status.containerStatuses[0].state.waiting.reason}=ErrImageNeverPull",
        )?;
        // Once it is there, the pod runs: nothing else is to be done.
        cluster.load(&Image::new("unknown:1"))?;
        cluster.wait_for(
            "pod/never",
            "jsonpath={.status.containerStatuses[0].restartCount}=1",
        )?;
        cluster
            .stead("image pull nowhere.example/app:1")?
            .fails()?
            .says(&["nowhere.example"])?;
        cluster.stead("image pull 'Not A Name'")?.fails().map(drop)
    })
}

fn command_line() -> Result<()> {
    on_a_machine(|machine| {
        let cluster = Cluster::new(machine, "data")?;
        for (line, said) in [
            ("upp", "upp"),
            ("up --detached", "--detach"),
            ("up --listen nowhere", "nowhere"),
            ("status --output yaml", "yaml"),
            ("image load", "FILE.tar"),
        ] {
            let outcome = cluster.stead(line)?.fails()?;
            ensure!(outcome.code == 2, "{outcome}");
            outcome.says(&[said])?;
        }
        Ok(())
    })
}

fn stopped() -> Result<()> {
    on_a_machine(|machine| {
        let cluster = Cluster::new(machine, "data")?;
        let file = Image::new("tool:1").file()?;
        for line in [&format!("image load {}", file.display()), "image ls", "logs"] {
            let outcome = cluster.stead(line)?.fails()?;
            let up = format!("`stead --data-dir {} up`", cluster.data_dir().display());
            outcome.says(&[&up])?;
        }
        ensure!(
            !cluster.data_dir().exists(),
            "asking made {:?}",
            cluster.data_dir()
        );
        Ok(())
    })
}
