//! From a container's configuration and its image to the OCI runtime's document. Pure: what has to be
//! looked up (the image's users, the host's devices, what capabilities there are to give) comes in.
//!
//! The defaults are those of containerd's CRI plugin, which are Docker's. What the document leaves out is
//! what the pod's shim is already in when it makes a container: network, IPC and UTS namespace, cgroup,
//! OOM score and resource limits.
//!
//! * [`process`]: program, arguments, environment;
//! * [`user`]: names to numbers;
//! * [`capabilities`]: what root may do;
//! * [`mounts`]: what is where.

pub(crate) mod capabilities;
pub(crate) mod mounts;
pub(crate) mod process;
pub(crate) mod user;

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxCapabilities, LinuxDevice, LinuxDeviceType, LinuxNamespace, LinuxNamespaceType, Process,
    Root, Spec, User,
};

use crate::cgroup::Visible;
use crate::cgroup::devices::{DeviceKind, DeviceRule};
use crate::config::{ContainerConfig, IpcMode, PidMode, PodConfig};
use crate::images::ImageConfig;
use capabilities::Available;
use user::Identity;

/// Hidden from containers: what tells about the host, or has been a way out. The kubelet's list of v1.37.
const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Not to be written by containers. The kubelet's list.
const READ_ONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Why a container cannot be described.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpecError {
    /// Neither the pod nor the image says what to run.
    #[error("no command specified")]
    NoCommand,
    /// A user or group is not in the image.
    #[error(transparent)]
    User(#[from] user::UserError),
    /// No such capability.
    #[error("unknown capability {0:?}")]
    Capability(String),
    /// A path inside the container that is not absolute.
    #[error("{what} {path:?} is not an absolute path")]
    Relative {
        /// What the path is for.
        what: &'static str,
        /// The path.
        path: PathBuf,
    },
}

/// Everything that determines the document.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    pub(crate) pod: &'a PodConfig,
    pub(crate) container: &'a ContainerConfig,
    pub(crate) image: &'a ImageConfig,
    pub(crate) identity: &'a Identity,
    pub(crate) bundle: &'a Path,
    /// The container's cgroup, as OCI wants it.
    pub(crate) cgroup: PathBuf,
    /// On v1: the parts of it to show to the container.
    pub(crate) visible: &'a [Visible],
    pub(crate) cgroup_v2: bool,
    pub(crate) available: Available,
    pub(crate) devices: &'a [Node],
}

/// A device node to make in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) path: PathBuf,
    pub(crate) rule: DeviceRule,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Builds the document for a container.
pub(crate) fn spec(input: &Input<'_>) -> Result<Spec, SpecError> {
    let mounts = mounts::all(input)?;
    let mut root = Root::default();
    root.set_path(input.bundle.join("rootfs"))
        .set_readonly(Some(input.container.security.read_only_root));
    let mut spec = Spec::default();
    spec.set_version("1.2.0".to_owned())
        .set_root(Some(root))
        .set_mounts(Some(mounts.iter().map(mounts::Entry::to_oci).collect()))
        .set_process(Some(main_process(input)?))
        .set_hostname(None)
        .set_domainname(None)
        .set_hooks(None)
        .set_annotations(None)
        .set_linux(Some(linux(input, mounts::any_shared(input.container))));
    Ok(spec)
}

fn main_process(input: &Input<'_>) -> Result<Process, SpecError> {
    let container = input.container;
    let run = &input.image.run;
    let granted = capabilities::granted(&container.security, input.available)?;
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(Some(granted.clone()))
        .set_effective(Some(granted.clone()))
        .set_permitted(Some(granted))
        .set_inheritable(None)
        .set_ambient(None);
    let mut user = User::default();
    user.set_uid(input.identity.uid)
        .set_gid(input.identity.gid)
        .set_additional_gids(Some(input.identity.groups.clone()));
    let mut process = bare_process();
    process
        .set_terminal(Some(container.tty))
        .set_user(user)
        .set_args(Some(process::arguments(
            &container.command,
            &container.args,
            &run.entrypoint,
            &run.cmd,
        )?))
        .set_env(Some(process::environment(input)))
        .set_cwd(working_dir(container, &run.working_dir)?)
        .set_capabilities(Some(capabilities))
        .set_no_new_privileges(Some(container.security.no_new_privileges));
    Ok(process)
}

/// The crate's default for a process has limits and a user's capabilities, which were not asked for.
fn bare_process() -> Process {
    let mut process = Process::default();
    process.set_rlimits(None).set_oom_score_adj(None);
    process
}

/// The directory the container's process begins in.
pub(crate) fn working_dir(container: &ContainerConfig, of_image: &str) -> Result<PathBuf, SpecError> {
    let path = match (&container.working_dir, of_image) {
        (Some(path), _) if !path.as_os_str().is_empty() => path.clone(),
        (_, "") => PathBuf::from("/"),
        (_, of_image) => PathBuf::from(of_image),
    };
    match path.is_absolute() {
        true => Ok(path),
        false => Err(SpecError::Relative {
            what: "the working directory",
            path,
        }),
    }
}

fn linux(input: &Input<'_>, shared: bool) -> Linux {
    let security = &input.container.security;
    let mut kinds = vec![LinuxNamespaceType::Mount];
    if input.pod.pid == PidMode::Container {
        kinds.push(LinuxNamespaceType::Pid);
    }
    if input.cgroup_v2 && !security.privileged {
        kinds.push(LinuxNamespaceType::Cgroup);
    }
    let namespace = |kind: &LinuxNamespaceType| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(*kind);
        namespace
    };
    let (masked, read_only) = match security.privileged {
        true => (Vec::new(), Vec::new()),
        false => (
            paths(security.masked_paths.as_deref(), &MASKED_PATHS),
            paths(security.read_only_paths.as_deref(), &READ_ONLY_PATHS),
        ),
    };
    let read_only = match input.visible.is_empty() || security.privileged {
        true => read_only,
        // On v1 the cgroups are mounted into a directory in memory.
        false => [read_only, vec!["/sys/fs/cgroup".to_owned()]].concat(),
    };
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(kinds.iter().map(namespace).collect()))
        .set_resources(None)
        .set_cgroups_path(Some(input.cgroup.clone()))
        .set_devices(Some(input.devices.iter().map(device).collect()))
        .set_masked_paths(Some(masked))
        .set_readonly_paths(Some(read_only))
        // Otherwise libcontainer turns every mount into one that only receives.
        .set_rootfs_propagation(shared.then(|| "shared".to_owned()));
    linux
}

fn paths(given: Option<&[PathBuf]>, default: &[&str]) -> Vec<String> {
    match given {
        Some(paths) => paths.iter().map(|path| path.display().to_string()).collect(),
        None => default.iter().map(|&path| path.to_owned()).collect(),
    }
}

fn device(node: &Node) -> LinuxDevice {
    let kind = match node.rule.kind {
        DeviceKind::Char => LinuxDeviceType::C,
        DeviceKind::Block => LinuxDeviceType::B,
    };
    let mut device = LinuxDevice::default();
    device
        .set_path(node.path.clone())
        .set_typ(kind)
        .set_major(node.rule.major.unwrap_or(0).into())
        .set_minor(node.rule.minor.unwrap_or(0).into())
        .set_file_mode(Some(node.mode))
        .set_uid(Some(node.uid))
        .set_gid(Some(node.gid));
    device
}

/// The document for a further process in a container: like its first, but for what is given.
pub(crate) fn exec_process(
    first: &Process,
    args: Vec<String>,
    env: &[(String, String)],
    cwd: Option<PathBuf>,
    identity: Option<&Identity>,
    tty: bool,
) -> Process {
    let mut process = first.clone();
    process.set_args(Some(args)).set_terminal(Some(tty));
    let mut all = process.env().clone().unwrap_or_default();
    env.iter()
        .for_each(|(name, value)| process::set_variable(&mut all, name, value));
    if tty && !all.iter().any(|entry| entry.starts_with("TERM=")) {
        process::set_variable(&mut all, "TERM", "xterm");
    }
    process.set_env(Some(all));
    if let Some(cwd) = cwd {
        process.set_cwd(cwd);
    }
    if let Some(identity) = identity {
        let user = process.user_mut();
        user.set_uid(identity.uid)
            .set_gid(identity.gid)
            .set_additional_gids(Some(identity.groups.clone()));
    }
    process
}

/// The IPC namespace is the host's, and so is `/dev/shm`.
pub(crate) fn host_ipc(pod: &PodConfig) -> bool {
    pod.ipc == IpcMode::Host
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{Security, UserName};
    use crate::images::RunConfig;

    fn build(pod: &PodConfig, container: &ContainerConfig, cgroup_v2: bool) -> Result<Spec, SpecError> {
        let run = RunConfig {
            cmd: vec!["sh".into()],
            user: "app".into(),
            ..RunConfig::default()
        };
        let image = ImageConfig {
            run,
            ..ImageConfig::default()
        };
        let users = user::Users {
            passwd: "app:x:7:8::/home/app:/bin/sh\n".into(),
            group: String::new(),
        };
        let identity = user::resolve(&users, &container.user, &image.run.user)?;
        let visible = [Visible {
            source: "/sys/fs/cgroup/memory/s/p/c".into(),
            name: "memory".into(),
        }];
        spec(&Input {
            pod,
            container,
            image: &image,
            identity: &identity,
            bundle: Path::new("/b"),
            cgroup: "/s/p/c".into(),
            visible: if cgroup_v2 { &[] } else { &visible },
            cgroup_v2,
            available: Available::all(),
            devices: &[],
        })
    }

    fn namespaces(spec: &Spec) -> Vec<LinuxNamespaceType> {
        let linux = spec.linux().as_ref().unwrap();
        linux
            .namespaces()
            .as_ref()
            .unwrap()
            .iter()
            .map(LinuxNamespace::typ)
            .collect()
    }

    #[test]
    fn a_plain_container_gets_dockers_defaults() {
        let spec = build(&PodConfig::new("u", "n", "p"), &ContainerConfig::default(), true).unwrap();
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.args().as_deref().unwrap(), ["sh"]);
        assert_eq!((process.user().uid(), process.user().gid()), (7, 8));
        assert_eq!(process.user().additional_gids().as_deref().unwrap(), [8]);
        assert_eq!(process.cwd(), Path::new("/"));
        let env = process.env().as_deref().unwrap();
        let expected = [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOSTNAME=p",
            "HOME=/home/app",
        ];
        assert_eq!(env, expected);
        assert_eq!(
            process
                .capabilities()
                .as_ref()
                .unwrap()
                .bounding()
                .as_ref()
                .unwrap()
                .len(),
            14
        );
        assert_eq!(process.rlimits(), &None);
        use LinuxNamespaceType::{Cgroup, Mount, Pid};
        assert_eq!(namespaces(&spec), [Mount, Pid, Cgroup]);
        let linux = spec.linux().as_ref().unwrap();
        assert_eq!(linux.masked_paths().as_ref().unwrap().len(), MASKED_PATHS.len());
        assert_eq!(linux.resources(), &None);
    }

    #[test]
    fn the_pods_choices_decide_the_namespaces() {
        use LinuxNamespaceType::{Mount, Pid};
        let mut pod = PodConfig::new("u", "n", "p");
        let container = ContainerConfig::default();
        for (mode, v2, expected) in [
            (PidMode::Container, false, &[Mount, Pid][..]),
            (PidMode::Pod, false, &[Mount]),
            (PidMode::Host, false, &[Mount]),
        ] {
            pod.pid = mode;
            assert_eq!(
                namespaces(&build(&pod, &container, v2).unwrap()),
                expected,
                "{mode:?}"
            );
        }
    }

    #[test]
    fn a_privileged_container_sees_everything() {
        let security = Security {
            privileged: true,
            ..Security::default()
        };
        let container = ContainerConfig {
            security,
            ..ContainerConfig::default()
        };
        let spec = build(&PodConfig::new("u", "n", "p"), &container, true).unwrap();
        let linux = spec.linux().as_ref().unwrap();
        assert!(linux.masked_paths().as_ref().unwrap().is_empty());
        assert!(linux.readonly_paths().as_ref().unwrap().is_empty());
        let capabilities = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
        assert_eq!(capabilities.effective().as_ref().unwrap().len(), 41);
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        let pod = PodConfig::new("u", "n", "p");
        let check = |change: fn(&mut ContainerConfig), expected: SpecError| {
            let mut container = ContainerConfig::default();
            change(&mut container);
            assert_eq!(build(&pod, &container, true).unwrap_err(), expected);
        };
        check(
            |c| c.working_dir = Some("x".into()),
            SpecError::Relative {
                what: "the working directory",
                path: "x".into(),
            },
        );
        check(
            |c| c.user.uid = Some(UserName::Name("nobody".into())),
            SpecError::User(user::UserError::NoUser("nobody".into())),
        );
        check(
            |c| c.security.add_capabilities = vec!["FLY".into()],
            SpecError::Capability("FLY".into()),
        );
    }

    #[test]
    fn a_further_process_is_like_the_first_but_for_what_is_given() {
        let spec = build(&PodConfig::new("u", "n", "p"), &ContainerConfig::default(), true).unwrap();
        let first = spec.process().as_ref().unwrap();
        let env = [("HOME".to_owned(), "/x".to_owned())];
        let process = exec_process(first, vec!["ps".into()], &env, None, None, true);
        assert_eq!(process.args().as_deref().unwrap(), ["ps"]);
        assert_eq!(
            process.env().as_ref().unwrap()[1..],
            ["HOSTNAME=p", "HOME=/x", "TERM=xterm"]
        );
        assert_eq!(process.user(), first.user());
        assert_eq!(process.terminal(), Some(true));
    }
}
