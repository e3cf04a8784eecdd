//! Images from a registry (Debian's `docker-registry`) on a loopback address of the machine, which is one that
//! speaks plain HTTP.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use stead_tests::artifacts::{self, Image};
use stead_tests::{Cluster, Machine, Stream, eventually, on_a_cluster};

use crate::manifests::pod;
use crate::{Tests, answered, check_contains};

pub(crate) const TESTS: Tests = &[
    (
        "registries: an image is pulled by name, by stead and by pods",
        by_name,
    ),
    ("registries: one that wants to know who asks", with_authentication),
    ("images: what is loaded anew under a name runs next", loaded_anew),
];

/// Anyone may push here and pull.
const OPEN: &str = "127.0.0.1:5000";
/// The same images, for the user `user` with the password `secret`.
const CLOSED: &str = "127.0.0.1:5001";
const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
/// The same, as `docker login` writes it down.
const AUTHS: &str = r#"{"auths": {"127.0.0.1:5001": {"auth": "dXNlcjpzZWNyZXQ="}}}"#;

/// Two images of one name, as of a program that was built again.
fn loaded_anew() -> Result<()> {
    on_a_cluster(|cluster| {
        for build in ["first", "second"] {
            let image = Image::new(&format!("{build}:1"))
                .arg("--tag", "app:1")
                .arg("--env", &format!("BUILD={build}"));
            cluster.load(&image)?;
            let run = format!("run {build} --image=app:1 --restart=Never -- sh -c 'echo it is $BUILD'");
            cluster.kubectl(&run).ok()?;
            cluster.wait_for(&format!("pod/{build}"), "jsonpath={.status.phase}=Succeeded")?;
            let said = cluster.kubectl(&format!("logs {build}")).ok()?;
            ensure!(said.trim() == format!("it is {build}"), "{said}");
        }
        Ok(())
    })
}

/// Pushes the image in the archive `$1` as `$2`, with curl.
const PUSH: &str = r#"
set -eu
url=http://${2%%/*}/v2/${2#*/}
tag=${url##*:} url=${url%:*}
dir=$(mktemp -d)
trap 'rm -r "$dir"' EXIT
tar -xf "$1" -C "$dir"
cd "$dir"
described() {
    digest=sha256:$(sha256sum <"$2" | cut -d' ' -f1)
    to=$(curl -fsS -X POST -D - -o /dev/null "$url/blobs/uploads/" | tr -d '\r' | sed -n 's/^Location: //p')
    curl -fsS -X PUT -H 'Content-Type: application/octet-stream' --data-binary "@$2" "$to&digest=$digest" >&2
    printf '{"mediaType":"application/vnd.oci.image.%s","digest":"%s","size":%s}' "$1" "$digest" "$(stat -c %s "$2")"
}
config=$(described config.v1+json [0-9a-f]*.json)
layer=$(described layer.v1.tar */layer.tar)
type=application/vnd.oci.image.manifest.v1+json
printf '{"schemaVersion":2,"mediaType":"%s","config":%s,"layers":[%s]}' "$type" "$config" "$layer" >manifest
curl -fsS -X PUT -H "Content-Type: $type" --data-binary @manifest "$url/manifests/$tag"
"#;

/// Both registries, with an image `app:1` in them. They end when this is dropped.
struct Registries {
    dir: tempfile::TempDir,
    _running: Vec<Stream>,
}

impl Registries {
    fn start(machine: &Machine, program: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("stead-registry-").tempdir()?;
        let path = |name: &str| dir.path().join(name);
        fs::write(path("htpasswd"), HTPASSWD)?;
        let auth = format!(
            "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            path("htpasswd").display()
        );
        let images = path("images");
        let mut running = Vec::new();
        for (address, auth) in [(OPEN, ""), (CLOSED, auth.as_str())] {
            let config = path(address);
            let text = format!(
                "version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '{address}'}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}}}\n{auth}",
                images.display()
            );
            fs::write(&config, text)?;
            let line = format!("{} serve {}", program.display(), config.display());
            running.push(machine.client(&line).start()?);
            let answers = format!("curl --silent --max-time 1 http://{address}/v2/");
            eventually("the registry answers", || machine.client(&answers).ok())?;
        }
        let image = Image::new("tool:1").file()?;
        fs::write(path("push"), PUSH)?;
        let push = format!("sh {} {} {OPEN}/app:1", path("push").display(), image.display());
        machine.client(&push).ok()?;
        Ok(Self {
            dir,
            _running: running,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn on_a_cluster_with_registries(test: fn(&Cluster, &Registries) -> Result<()>) -> Result<()> {
    let Some(program) = artifacts::registry() else {
        eprintln!("skipped: no docker-registry; `make registry` fetches it");
        return Ok(());
    };
    on_a_cluster(|cluster| test(cluster, &Registries::start(cluster.machine, &program)?))
}

/// A pod of an image. `more` is more of its spec.
fn pod_of(name: &str, image: &str, more: &str) -> String {
    let pod = pod(name, "exec sleep 10000", &[]);
    pod.replace("image: tool:1", &format!("image: {image}")) + more
}

fn by_name() -> Result<()> {
    on_a_cluster_with_registries(|cluster, _| {
        let name = format!("{OPEN}/app:1");
        let pull = format!("image pull {name}");
        let said = cluster.stead(&pull)?.ok()?;
        check_contains(&said, &[&format!("Pulled image: {name} (")])?;
        check_contains(&cluster.stead("image ls")?.ok()?, &[&format!("{OPEN}/app")])?;
        answered(
            &cluster.stead(&format!("image pull {OPEN}/app:2"))?.run()?,
            &["!", "not found"],
        )?;

        // A pod pulls what is not there, and says so.
        cluster.stead(&format!("image rm {name}"))?.ok()?;
        cluster.apply(&pod_of("it", &name, ""))?;
        cluster.wait_for("pod/it", "condition=Ready")?;
        let said = cluster.kubectl("describe pod it").ok()?;
        let pulled = format!("Successfully pulled image \"{name}\" in ");
        check_contains(&said, &[&format!("Pulling image \"{name}\""), &pulled])?;
        cluster.kubectl("delete pod it --now").ok()?;

        // On a terminal one sees how far it is; also when the cluster is down, and nobody else has the images.
        cluster.stead(&format!("image rm {name}"))?.ok()?;
        cluster.down()?;
        let stead = artifacts::stead()?.display().to_string();
        let data = cluster.data_dir().display().to_string();
        let inner = format!("{stead} {pull} --data-dir {data}");
        let outcome = cluster
            .machine
            .run(&format!("script --quiet --return --command '{inner}' /dev/null"))
            .run()?;
        answered(
            &outcome,
            &[&format!("Pulling {name} ["), "MiB/", "Pulled image: "],
        )?;
        cluster.up().map(drop)
    })
}

fn with_authentication() -> Result<()> {
    on_a_cluster_with_registries(|cluster, registries| {
        let name = format!("{CLOSED}/app:1");
        let pull = format!("image pull {name}");
        let refused = cluster.stead(&pull)?.run()?;
        answered(&refused, &["!", "may require authorization"])?;
        // As whom `docker login` has written down.
        fs::write(registries.path("config.json"), AUTHS)?;
        let config = registries.path("").display().to_string();
        cluster.stead(&pull)?.env("DOCKER_CONFIG", &config).ok()?;
        cluster.stead(&format!("image rm {name}"))?.ok()?;

        // Pods have secrets for that; a wrong one is none.
        let secret = format!("create secret docker-registry --docker-server={CLOSED} --docker-username=user");
        for (name, password) in [("wrong", "guessed"), ("right", "secret")] {
            cluster
                .kubectl(&format!("{secret} --docker-password={password} {name}"))
                .ok()?;
        }
        for (pod, more) in [("nobody", ""), ("guest", "  imagePullSecrets: [{name: wrong}]\n")] {
            cluster.apply(&pod_of(pod, &name, more))?;
            let reason = "jsonpath={.status.containerStatuses[0].state.waiting.reason}=ImagePullBackOff";
            cluster.wait_for(&format!("pod/{pod}"), reason)?;
            let said = cluster.kubectl(&format!("describe pod {pod}")).ok()?;
            check_contains(&said, &["pull access denied", "ErrImagePull"])?;
        }
        cluster.apply(&pod_of("user", &name, "  imagePullSecrets: [{name: right}]\n"))?;
        cluster.wait_for("pod/user", "condition=Ready")?;
        ensure!(cluster.field("pod user", "/status/containerStatuses/0/restartCount")? == "0");
        cluster
            .kubectl("delete pod nobody guest user --now")
            .ok()
            .map(drop)
    })
}
