//! What the tests share: an image made of busybox, an engine in temporary directories, and waiting.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use stead_runtime::config::{ContainerConfig, LogConfig, PodConfig};
use stead_runtime::images::{Digest, ImageStore, LoadOptions};
use stead_runtime::{Config, ContainerInfo, ContainerState, Event, Events, ExitRecord, Found, Pod, Runtime};

/// The name of the test image.
pub(crate) const IMAGE: &str = "busybox:test";
const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 34] = [
    "awk", "cat", "chmod", "cp", "dd", "df", "echo", "env", "false", "grep", "head", "hostname", "id",
    "kill", "ls", "mkdir", "mknod", "mount", "nc", "ps", "pwd", "readlink", "rm", "seq", "sh", "sleep",
    "stat", "stty", "tail", "test", "touch", "true", "wc", "yes",
];

/// A tar archive in memory.
pub(crate) struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub(crate) fn new() -> Self {
        let mut builder = tar::Builder::new(Vec::new());
        builder.mode(tar::HeaderMode::Deterministic);
        Self(builder)
    }

    pub(crate) fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header
    }

    pub(crate) fn dir(mut self, path: &str, mode: u32) -> Self {
        let mut header = Self::header(tar::EntryType::Directory, mode);
        self.0
            .append_data(&mut header, path, std::io::empty())
            .expect("a tar in memory");
        self
    }

    pub(crate) fn file(mut self, path: &str, mode: u32, data: impl AsRef<[u8]>) -> Self {
        let mut header = Self::header(tar::EntryType::Regular, mode);
        header.set_size(data.as_ref().len() as u64);
        self.0
            .append_data(&mut header, path, data.as_ref())
            .expect("a tar in memory");
        self
    }

    pub(crate) fn symlink(mut self, path: &str, target: &str) -> Self {
        let mut header = Self::header(tar::EntryType::Symlink, 0o777);
        self.0
            .append_link(&mut header, path, target)
            .expect("a tar in memory");
        self
    }

    /// An entry with any name and kind, also such as the tar crate would refuse to write.
    pub(crate) fn raw(mut self, kind: tar::EntryType, path: &str, link: &str, data: &[u8]) -> Self {
        let mut header = Self::header(kind, 0o644);
        header.set_size(data.len() as u64);
        let ustar = header.as_ustar_mut().expect("a ustar header");
        ustar.name[..path.len()].copy_from_slice(path.as_bytes());
        ustar.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, data).expect("a tar in memory");
        self
    }

    pub(crate) fn entry(mut self, header: &tar::Header, data: &[u8]) -> Self {
        self.0.append(header, data).expect("a tar in memory");
        self
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("a tar in memory")
    }
}

/// A root file system with busybox.
pub(crate) fn busybox_layer() -> Vec<u8> {
    let busybox =
        fs::read(BUSYBOX).unwrap_or_else(|error| panic!("install busybox-static: {BUSYBOX}: {error}"));
    let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:44:web:/srv:/bin/sh\n";
    let mut tar = Tar::new()
        .dir("bin", 0o755)
        .file("bin/busybox", 0o755, busybox)
        .dir("etc", 0o755)
        .file("etc/passwd", 0o644, passwd)
        .file("etc/group", 0o644, "root:x:0:\nweb:x:44:\nlog:x:4:web\n")
        .dir("root", 0o700)
        .dir("srv", 0o755)
        .dir("tmp", 0o1777);
    for applet in APPLETS {
        tar = tar.symlink(&format!("bin/{applet}"), "busybox");
    }
    tar.bytes()
}

/// What `docker save` would write for an image with these (uncompressed) layers.
pub(crate) fn docker_archive(tags: &[&str], config: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<_> = layers
        .iter()
        .map(|layer| format!("\"{}\"", Digest::of(layer)))
        .collect();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{config},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    );
    let config_name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    let names: Vec<_> = (0..layers.len()).map(|n| format!("{n}/layer.tar")).collect();
    let quoted = |names: Vec<String>| {
        names
            .iter()
            .map(|n| format!("{n:?}"))
            .collect::<Vec<_>>()
            .join(",")
    };
    let manifest = format!(
        r#"[{{"Config":"{config_name}","RepoTags":[{}],"Layers":[{}]}}]"#,
        quoted(tags.iter().map(|&t| t.to_owned()).collect()),
        quoted(names.clone())
    );
    let mut tar = Tar::new();
    for (name, layer) in names.iter().zip(layers) {
        tar = tar.file(name, 0o644, layer);
    }
    tar.file(&config_name, 0o644, config)
        .file("manifest.json", 0o644, manifest)
        .bytes()
}

pub(crate) fn busybox_archive(tags: &[&str]) -> Vec<u8> {
    docker_archive(
        tags,
        r#"{"Cmd":["sh"],"Env":["FROM_IMAGE=yes"]}"#,
        &[busybox_layer()],
    )
}

static STORE: OnceLock<(Arc<ImageStore>, PathBuf)> = OnceLock::new();

/// One store for all tests of a process; see [`remove_images`].
pub(crate) fn images() -> Arc<ImageStore> {
    let (store, _) = STORE.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary directory").keep();
        let store = ImageStore::open(dir.join("images")).expect("an image store");
        store
            .load(&busybox_archive(&[IMAGE])[..], &LoadOptions::default())
            .expect("load busybox");
        (Arc::new(store), dir)
    });
    Arc::clone(store)
}

/// To be called when all tests are done: a static is never dropped.
pub(crate) fn remove_images() {
    if let Some((_, dir)) = STORE.get() {
        fs::remove_dir_all(dir).expect("remove the image store");
    }
}

/// An engine with directories and a cgroup of its own. When it goes, so does everything in it.
pub(crate) struct Engine {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) cgroup: String,
    pub(crate) runtime: Runtime,
    pub(crate) events: Events,
}

impl Engine {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let name = dir
            .path()
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a plain name");
        let cgroup = format!("stead-test-{}", name.trim_start_matches('.'));
        let (runtime, events, found) = open(dir.path(), &cgroup, images()).await;
        assert!(found.alive.is_empty() && found.dead.is_empty());
        Self {
            dir,
            cgroup,
            runtime,
            events,
        }
    }

    /// Lets go of everything and starts anew, as a restarted server does.
    pub(crate) async fn restart(&mut self) -> Found {
        self.runtime.clone().close().await;
        let (runtime, events, found) = open(self.dir.path(), &self.cgroup, images()).await;
        (self.runtime, self.events) = (runtime, events);
        found
    }

    pub(crate) async fn pod(&self) -> Pod {
        self.runtime.create_pod(pod_config()).await.expect("create a pod")
    }

    /// Waits for the end of a container.
    pub(crate) async fn exit(&mut self, id: &str) -> ExitRecord {
        loop {
            match within(self.events.next()).await.expect("the events go on") {
                Event::ContainerExited { container, exit, .. } if container == id => return exit,
                _ => {}
            }
        }
    }

    /// Runs a container to its end; its record and what it logged.
    pub(crate) async fn run(&mut self, pod: &Pod, config: ContainerConfig) -> (ExitRecord, String) {
        let log = self.dir.path().join(format!("{}.log", config.name));
        let config = ContainerConfig {
            log: Some(LogConfig::new(&log)),
            ..config
        };
        let info = pod.start_container(config).await.expect("start a container");
        let exit = self.exit(&info.id).await;
        (exit, log_text(&log))
    }

    /// Gives the directory on; what runs goes on running.
    pub(crate) fn keep_dir(mut self) -> tempfile::TempDir {
        self.cgroup.clear();
        let placeholder = tempfile::tempdir().expect("a temporary directory");
        std::mem::replace(&mut self.dir, placeholder)
    }

    pub(crate) fn cgroup_dirs(&self) -> Vec<PathBuf> {
        let root = Path::new("/sys/fs/cgroup");
        let below = fs::read_dir(root)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        below
            .chain([root.to_owned()])
            .map(|dir| dir.join(&self.cgroup))
            .filter(|dir| dir.is_dir())
            .collect()
    }
}

pub(crate) async fn open(dir: &Path, cgroup: &str, images: Arc<ImageStore>) -> (Runtime, Events, Found) {
    let config = Config {
        state_dir: dir.join("state"),
        run_dir: dir.join("run"),
        cgroup: cgroup.to_owned(),
    };
    Runtime::open(config, images).await.expect("open the runtime")
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.cgroup.is_empty() {
            return;
        }
        // A test that failed has left pods; their shims die, and with them everything else.
        for pod in self.runtime.pods() {
            kill(pod.pid());
        }
        for dir in self.cgroup_dirs() {
            for _ in 0..200 {
                if remove_cgroup(&dir).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn remove_cgroup(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove_cgroup(&entry.path())?;
    }
    fs::remove_dir(dir)
}

pub(crate) fn kill(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
}

/// A signal's number.
pub(crate) fn libc_signal(name: &str) -> i32 {
    format!("SIG{name}")
        .parse::<nix::sys::signal::Signal>()
        .expect("a signal") as i32
}

pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie that nobody has waited for yet is dead.
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

pub(crate) fn pod_config() -> PodConfig {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    PodConfig::new(
        format!("uid-{}-{n}", std::process::id()),
        "default",
        format!("pod-{n}"),
    )
}

/// A container that runs a shell script.
pub(crate) fn script(name: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        name: name.to_owned(),
        image: IMAGE.to_owned(),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        ..ContainerConfig::default()
    }
}

pub(crate) fn pid_of(info: &ContainerInfo) -> i32 {
    match info.state {
        ContainerState::Running { pid, .. } => pid,
        ContainerState::Exited(_) => panic!("{} has ended", info.name),
    }
}

/// The text of a log without times and streams.
pub(crate) fn log_text(path: &Path) -> String {
    let log = fs::read_to_string(path).unwrap_or_default();
    let mut text = String::new();
    for line in log.lines() {
        let mut fields = line.splitn(4, ' ');
        let tag = fields.nth(2).expect("a tag");
        text.push_str(fields.next().expect("a text"));
        if tag == "F" {
            text.push('\n');
        }
    }
    text
}

/// Nothing here takes long; a test that waits for what does not come says so.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("it takes too long")
}

/// Waits for a condition that no event tells of.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what}: it takes too long");
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("gzip in memory");
    encoder.finish().expect("gzip in memory")
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 1).expect("zstd in memory")
}
