//! Everything a container needs before its shim can start it: directories, documents, cgroup, descriptors.
//!
//! Blocking work over plain inputs. What fails half-way is undone by [`discard`], which also removes what is
//! left of a container after its end.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::Spec;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::StartError;
use super::dirs::{self, CONTAINER_FILE, PodDirs, SPEC_FILE};
use crate::cgroup::devices::{Access, DeviceRule, DeviceRules};
use crate::cgroup::{CgroupPath, Cgroups};
use crate::config::{ContainerConfig, PidMode, PodConfig};
use crate::images::{Digest, Image, ImageStore};
use crate::oci::capabilities::Available;
use crate::oci::{self, Input, Node};
use crate::record;
use crate::shim::protocol::{Io, Log, Start, StartFds};

/// How a container was meant to be, in its directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Meant {
    pub(super) config: ContainerConfig,
    pub(super) image_id: Digest,
}

/// A container that is ready to be started.
pub(super) struct Launch {
    pub(super) start: Start,
    dir: OwnedFd,
    log_dir: Option<OwnedFd>,
    oom_counter: Option<OwnedFd>,
    cgroup: Option<OwnedFd>,
}

impl Launch {
    /// The descriptors of the request, in the protocol's order.
    pub(super) fn fds<'a>(&'a self, mount_namespace: &'a OwnedFd) -> Vec<BorrowedFd<'a>> {
        let optional = [&self.log_dir, &self.oom_counter, &self.cgroup]
            .into_iter()
            .flatten();
        [mount_namespace, &self.dir]
            .into_iter()
            .chain(optional)
            .map(AsFd::as_fd)
            .collect()
    }
}

/// What a launch is made from.
pub(super) struct Plan<'a> {
    pub(super) id: &'a str,
    pub(super) pod: &'a PodConfig,
    pub(super) container: &'a ContainerConfig,
    pub(super) image: &'a Image,
    pub(super) images: &'a ImageStore,
    pub(super) cgroups: &'a Cgroups,
    pub(super) dirs: &'a PodDirs,
    pub(super) available: Available,
}

/// Prepares a container. After an error, [`discard`] undoes what was done.
pub(super) fn prepare(plan: &Plan<'_>) -> Result<Launch, StartError> {
    let bundle = plan.dirs.bundle(plan.id);
    let pod_cgroup = plan.cgroups.pod(&plan.pod.uid)?;
    let cgroup = plan.cgroups.container(&pod_cgroup, plan.id)?;
    let run = &plan.image.config().run;
    let identity = oci::user::resolve(plan.images.users(plan.image), &plan.container.user, &run.user)
        .map_err(oci::SpecError::from)?;
    let nodes = nodes(plan.container)?;
    let visible = plan.cgroups.visible(&cgroup);
    let spec = oci::spec(&Input {
        pod: plan.pod,
        container: plan.container,
        image: plan.image.config(),
        identity: &identity,
        bundle: &bundle,
        cgroup: cgroup.absolute(),
        visible: &visible,
        cgroup_v2: plan.cgroups.is_v2(),
        available: plan.available,
        devices: &nodes,
    })?;
    plan.cgroups.create(&cgroup, &plan.container.resources)?;
    plan.cgroups
        .restrict_devices(&cgroup, &rules(plan.container, &nodes))?;
    let (directory, oom_counter) = (plan.cgroups.directory(&cgroup), plan.cgroups.oom_counter(&cgroup));

    let staged = oci::mounts::staged(plan.container, &visible, &bundle);
    let targets = staged
        .iter()
        .map(|staged| (staged.source.as_path(), staged.target.as_path()));
    make_bundle(&bundle, targets)?;
    write_documents(plan, &bundle, &spec)?;

    let log = plan.container.log.as_ref();
    let log_dir = log
        .map(|log| open_dir(log.path.parent().unwrap_or(Path::new("/"))))
        .transpose()?;
    let fds = StartFds {
        log_dir: log_dir.is_some(),
        oom_counter: oom_counter.is_some(),
        cgroup: directory.is_some(),
    };
    let start = Start {
        container: plan.id.to_owned(),
        layers_dir: plan.images.layers_dir(),
        layers: layers(plan)?,
        cwd: oci::working_dir(plan.container, &run.working_dir)?,
        uid: identity.uid,
        cgroup_tasks: plan.cgroups.container_tasks(&cgroup),
        cgroup_is_v2: directory.as_ref().is_some_and(|directory| directory.is_v2),
        staged,
        io: io_of(plan.container)?,
        oom_score_adj: plan.container.oom_score_adj,
        rlimits: plan.container.rlimits.clone(),
        own_pid_namespace: plan.pod.pid == PidMode::Container,
        dies_with_parent: plan.pod.pid == PidMode::Host,
        fds,
        bundle: bundle.clone(),
    };
    Ok(Launch {
        start,
        dir: open_dir(&bundle)?,
        log_dir,
        oom_counter,
        cgroup: directory.map(|directory| directory.fd),
    })
}

/// Removes what is left of a container: its cgroup, which must be empty, and its directory.
pub(super) fn discard(cgroups: &Cgroups, cgroup: &CgroupPath, bundle: &Path) -> Result<(), StartError> {
    cgroups.remove(cgroup)?;
    dirs::remove(bundle).map_err(file("remove", bundle))
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StartError {
    let path = path.to_owned();
    move |source| StartError::File { action, path, source }
}

fn open_dir(path: &Path) -> Result<OwnedFd, StartError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| file("open", path)(error.into()))
}

/// The bundle's directories, and mount points for what is staged.
fn make_bundle<'a>(
    bundle: &Path,
    staged: impl Iterator<Item = (&'a Path, &'a Path)>,
) -> Result<(), StartError> {
    dirs::make_private(bundle).map_err(file("make", bundle))?;
    for name in ["rootfs", "upper", "work", "shm"] {
        let path = bundle.join(name);
        // The root of a container is everyone's to enter; its mode is that of the topmost directory.
        fs::DirBuilder::new()
            .mode(0o755)
            .create(&path)
            .map_err(file("make", &path))?;
    }
    for (source, target) in staged {
        let is_dir = fs::metadata(source).map_err(file("look at", source))?.is_dir();
        let made = if is_dir {
            fs::create_dir(target)
        } else {
            File::create(target).map(drop)
        };
        made.map_err(file("make", target))?;
    }
    Ok(())
}

fn write_documents(plan: &Plan<'_>, bundle: &Path, spec: &Spec) -> Result<(), StartError> {
    let meant = Meant {
        config: plan.container.clone(),
        image_id: plan.image.id().clone(),
    };
    let dir = open_dir(bundle)?;
    let write = || {
        record::write_json(&dir, CONTAINER_FILE, &meant)?;
        record::write_json(&dir, SPEC_FILE, spec)
    };
    write().map_err(file("write the documents in", bundle))
}

fn layers(plan: &Plan<'_>) -> Result<Vec<String>, StartError> {
    let layers = plan.image.layers();
    if !layers.is_empty() {
        return Ok(layers);
    }
    // An overlay needs something below. An image of nothing at all is a curiosity, but a legal one.
    let nothing = plan.dirs.bundle(plan.id).join("nothing");
    dirs::make_private(&nothing).map_err(file("make", &nothing))?;
    Ok(vec![nothing.display().to_string()])
}

fn io_of(container: &ContainerConfig) -> Result<Io, StartError> {
    let log = match &container.log {
        None => None,
        Some(log) => {
            let name = log.path.file_name().and_then(|name| name.to_str());
            let name =
                name.ok_or_else(|| file("use as a log", &log.path)(io::ErrorKind::InvalidInput.into()))?;
            Some(Log {
                name: name.to_owned(),
                max_bytes: log.max_bytes,
                max_files: log.max_files,
            })
        }
    };
    Ok(Io {
        tty: container.tty,
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        log,
    })
}

/// The device nodes to make: those asked for, or for a privileged container all of the host's.
fn nodes(container: &ContainerConfig) -> Result<Vec<Node>, StartError> {
    let mut nodes = Vec::new();
    if container.security.privileged {
        host_nodes(Path::new("/dev"), &mut nodes);
    }
    for device in &container.devices {
        let path = &device.host_path;
        let access = Access::parse(&device.permissions);
        let node = node(path, access).map_err(file("look at", path))?;
        let node = node.ok_or_else(|| file("use as a device", path)(io::ErrorKind::InvalidInput.into()))?;
        nodes.retain(|other| other.path != device.container_path);
        nodes.push(Node {
            path: device.container_path.clone(),
            ..node
        });
    }
    Ok(nodes)
}

fn node(path: &Path, access: Access) -> io::Result<Option<Node>> {
    let Some(rule) = DeviceRule::of_node(path, access)? else {
        return Ok(None);
    };
    let metadata = fs::metadata(path)?;
    let (mode, uid, gid) = (metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
    Ok(Some(Node {
        path: path.to_owned(),
        rule,
        mode,
        uid,
        gid,
    }))
}

/// What of `/dev` a container has for itself in any case.
const OWN: [&str; 10] = [
    "pts", "shm", "fd", "mqueue", "console", "ptmx", "null", "zero", "tty", "full",
];

fn host_nodes(dir: &Path, nodes: &mut Vec<Node>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let own = dir == Path::new("/dev") && OWN.iter().any(|own| entry.file_name() == *own);
        match entry.file_type() {
            _ if own => {}
            Ok(kind) if kind.is_dir() => host_nodes(&path, nodes),
            // Devices come and go; one that has gone is not needed.
            Ok(kind) if !kind.is_symlink() => nodes.extend(node(&path, Access::parse("rwm")).ok().flatten()),
            _ => {}
        }
    }
}

fn rules(container: &ContainerConfig, nodes: &[Node]) -> DeviceRules {
    match container.security.privileged {
        true => DeviceRules::All,
        false => DeviceRules::container(nodes.iter().map(|node| node.rule)),
    }
}

/// Reads how a container was meant to be; `None` if it never came so far.
pub(super) fn read_meant(bundle: &Path) -> Option<Meant> {
    let dir = open_dir(bundle).ok()?;
    record::read_json(&dir, CONTAINER_FILE).ok().flatten()
}

/// The container's own OCI document.
pub(super) fn read_spec(bundle: PathBuf) -> io::Result<Spec> {
    let bytes = fs::read(bundle.join(SPEC_FILE))?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// The image of a container that was found, held so that it is not removed.
pub(super) fn hold(images: &Arc<ImageStore>, image: &Digest) -> Option<crate::images::InUse> {
    images
        .get(&image.to_string())
        .ok()
        .flatten()
        .map(|image| image.hold())
}
