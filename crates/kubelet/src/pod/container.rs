//! From a container of the API to the one the runtime is to make. Pure, given the environment and
//! where volumes are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SecurityContext, VolumeMount};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use stead_api::quantity::Quantity;
use stead_runtime::config::{
    ContainerConfig, LogConfig, Mount, MountSource, Propagation, Resources, Security, User, UserName,
};

use super::env::expand;
use super::fields::NodeFacts;
use crate::config::PodDirs;

/// The period of a processor quota, in microseconds; the kubelet's default.
const QUOTA_PERIOD_US: u64 = 100_000;
/// The smallest quota the kernel takes, in microseconds.
const MIN_QUOTA_US: i64 = 1000;
/// The smallest share of the processor the kernel takes.
const MIN_SHARES: u64 = 2;

/// Why a container cannot be made as it is asked for; shown as `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("container has runAsNonRoot and image will run as root (pod: \"{pod}\", container: {container})")]
    RunsAsRoot { pod: String, container: String },
    #[error("container's runAsUser breaks non-root policy (pod: \"{pod}\", container: {container})")]
    AsksForRoot { pod: String, container: String },
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: \"{pod}\", container: {container})"
    )]
    UserNotNumeric {
        user: String,
        pod: String,
        container: String,
    },
}

/// What a container's making needs beside the pod itself.
pub(crate) struct Given<'g> {
    pub(crate) pod: &'g Pod,
    pub(crate) container: &'g Container,
    pub(crate) attempt: u32,
    pub(crate) env: Vec<(String, String)>,
    /// Where each volume of the pod is on the host; sub-paths have been looked up.
    pub(crate) mounts: Vec<Mount>,
    pub(crate) dirs: &'g PodDirs,
    pub(crate) node: &'g NodeFacts,
    /// The image's own user, e.g. `1000:1000` or `nginx`.
    pub(crate) image_user: &'g str,
}

/// The container for the runtime.
pub(crate) fn container_config(given: Given<'_>) -> Result<ContainerConfig, ConfigError> {
    let Given { pod, container, .. } = given;
    let spec = pod.spec.as_ref();
    let pod_security = spec.and_then(|spec| spec.security_context.as_ref());
    let security = container.security_context.as_ref();
    check_non_root(&given, pod_security, security)?;
    let env: BTreeMap<&str, &str> = given
        .env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        let lookup = |name: &str| env.get(name).map(|value| (*value).to_owned());
        list.iter().flatten().map(|text| expand(text, lookup)).collect()
    };
    let (command, args) = (expanded(&container.command), expanded(&container.args));
    let mut mounts = given.mounts;
    mounts.extend(node_files(&given.dirs.clone(), container, given.attempt));
    Ok(ContainerConfig {
        name: container.name.clone(),
        attempt: given.attempt,
        image: container.image.clone().unwrap_or_default(),
        command,
        args,
        working_dir: container
            .working_dir
            .clone()
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from),
        user: user(pod_security, security),
        security: privileges(security),
        mounts,
        resources: resources(container),
        oom_score_adj: Some(oom_score(pod, container, given.node)),
        tty: container.tty.unwrap_or(false),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        log: Some(LogConfig::new(given.dirs.log(&container.name, given.attempt))),
        env: given.env,
        ..ContainerConfig::default()
    })
}

/// The files that the node writes: names, resolver, last words.
fn node_files(dirs: &PodDirs, container: &Container, attempt: u32) -> Vec<Mount> {
    let file = |source: PathBuf, target: &str| Mount {
        target: PathBuf::from(target),
        source: MountSource::Host {
            path: source,
            propagation: Propagation::Private,
            recursive_read_only: false,
        },
        read_only: false,
    };
    let taken = |target: &str| {
        container
            .volume_mounts
            .iter()
            .flatten()
            .any(|mount| mount.mount_path.trim_end_matches('/') == target)
    };
    let last_words = container
        .termination_message_path
        .as_deref()
        .unwrap_or("/dev/termination-log");
    let mut mounts: Vec<Mount> = [
        ("hosts", "/etc/hosts"),
        ("resolv.conf", "/etc/resolv.conf"),
        ("hostname", "/etc/hostname"),
    ]
    .into_iter()
    .filter(|(_, target)| !taken(target))
    .map(|(name, target)| file(dirs.file(name), target))
    .collect();
    mounts.push(file(dirs.termination_log(&container.name, attempt), last_words));
    mounts
}

fn check_non_root(
    given: &Given<'_>,
    pod_security: Option<&PodSecurityContext>,
    security: Option<&SecurityContext>,
) -> Result<(), ConfigError> {
    let required = security
        .and_then(|security| security.run_as_non_root)
        .or(pod_security.and_then(|security| security.run_as_non_root));
    if required != Some(true) {
        return Ok(());
    }
    let meta = &given.pod.metadata;
    let pod = format!(
        "{}_{}({})",
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default()
    );
    let container = given.container.name.clone();
    let asked = security
        .and_then(|security| security.run_as_user)
        .or(pod_security.and_then(|security| security.run_as_user));
    match asked {
        Some(0) => Err(ConfigError::AsksForRoot { pod, container }),
        Some(_) => Ok(()),
        None => {
            let user = given.image_user.split(':').next().unwrap_or_default();
            match user.parse::<u32>() {
                Ok(0) => Err(ConfigError::RunsAsRoot { pod, container }),
                Ok(_) => Ok(()),
                Err(_) if user.is_empty() => Err(ConfigError::RunsAsRoot { pod, container }),
                Err(_) => Err(ConfigError::UserNotNumeric {
                    user: user.to_owned(),
                    pod,
                    container,
                }),
            }
        }
    }
}

fn id(value: Option<i64>) -> Option<u32> {
    value.and_then(|value| u32::try_from(value).ok())
}

fn user(pod: Option<&PodSecurityContext>, own: Option<&SecurityContext>) -> User {
    let mut groups: Vec<u32> = pod
        .and_then(|pod| pod.supplemental_groups.as_ref())
        .into_iter()
        .flatten()
        .filter_map(|group| u32::try_from(*group).ok())
        .collect();
    groups.extend(id(pod.and_then(|pod| pod.fs_group)));
    User {
        uid: id(own
            .and_then(|own| own.run_as_user)
            .or(pod.and_then(|pod| pod.run_as_user)))
        .map(UserName::Id),
        gid: id(own
            .and_then(|own| own.run_as_group)
            .or(pod.and_then(|pod| pod.run_as_group))),
        supplementary_groups: groups,
        strict_groups: pod.and_then(|pod| pod.supplemental_groups_policy.as_deref()) == Some("Strict"),
    }
}

fn privileges(own: Option<&SecurityContext>) -> Security {
    let Some(own) = own else {
        return Security::default();
    };
    let list = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    let capabilities = own.capabilities.as_ref();
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    Security {
        privileged: own.privileged.unwrap_or(false),
        add_capabilities: list(capabilities.and_then(|capabilities| capabilities.add.as_ref())),
        drop_capabilities: list(capabilities.and_then(|capabilities| capabilities.drop.as_ref())),
        read_only_root: own.read_only_root_filesystem.unwrap_or(false),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        masked_paths: unmasked.then(Vec::new),
        read_only_paths: unmasked.then(Vec::new),
    }
}

fn quantity(list: Option<&BTreeMap<String, ApiQuantity>>, name: &str) -> Option<Quantity> {
    list.and_then(|list| list.get(name))
        .and_then(|quantity| quantity.0.parse().ok())
}

fn requests(container: &Container) -> Option<&BTreeMap<String, ApiQuantity>> {
    container
        .resources
        .as_ref()
        .and_then(|resources| resources.requests.as_ref())
}

fn limits(container: &Container) -> Option<&BTreeMap<String, ApiQuantity>> {
    container
        .resources
        .as_ref()
        .and_then(|resources| resources.limits.as_ref())
}

/// The limits of a container's cgroup.
fn resources(container: &Container) -> Resources {
    let request = quantity(requests(container), "cpu").or_else(|| quantity(limits(container), "cpu"));
    let request = request.map_or(0, Quantity::milli).max(0).unsigned_abs();
    let limit = quantity(limits(container), "cpu")
        .map(Quantity::milli)
        .filter(|milli| *milli > 0);
    let memory = quantity(limits(container), "memory")
        .map(Quantity::value)
        .filter(|bytes| *bytes > 0);
    Resources {
        cpu_shares: Some((request * 1024 / 1000).max(MIN_SHARES)),
        cpu_quota_us: limit
            .map(|milli| (milli.saturating_mul(QUOTA_PERIOD_US as i64) / 1000).max(MIN_QUOTA_US)),
        cpu_period_us: limit.map(|_| QUOTA_PERIOD_US),
        memory_limit_bytes: memory.map(i64::unsigned_abs),
        pids_limit: None,
    }
}

/// How readily the kernel kills the container when memory runs out, by the pod's quality of
/// service.
fn oom_score(pod: &Pod, container: &Container, node: &NodeFacts) -> i32 {
    match pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
        Some("Guaranteed") => -997,
        Some("Burstable") => {
            let request = quantity(requests(container), "memory").map_or(0, Quantity::value);
            let capacity = node.allocatable_memory_bytes.max(1);
            let score = 1000 - request.saturating_mul(1000) / capacity;
            i32::try_from(score.clamp(3, 999)).unwrap_or(999)
        }
        _ => 1000,
    }
}

/// A volume's mount into a container. `path` is the volume, or its sub-path, on the host.
pub(crate) fn mount(mount: &VolumeMount, path: &Path, volume_read_only: bool) -> Mount {
    let read_only = mount.read_only.unwrap_or(false) || volume_read_only;
    Mount {
        target: Path::new("/").join(&mount.mount_path),
        source: MountSource::Host {
            path: path.to_owned(),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::FromHost,
                Some("Bidirectional") => Propagation::Both,
                _ => Propagation::Private,
            },
            recursive_read_only: read_only
                && matches!(
                    mount.recursive_read_only.as_deref(),
                    Some("Enabled" | "IfPossible")
                ),
        },
        read_only,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Config;

    fn made(pod: Value, image_user: &str) -> Result<ContainerConfig, ConfigError> {
        let mut pod = pod;
        pod["metadata"] = json!({"name": "p", "namespace": "n", "uid": "u"});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let config = Config::for_tests();
        container_config(Given {
            pod: &pod,
            container: &pod.spec.as_ref().expect("a spec").containers[0],
            attempt: 2,
            env: vec![("NAME".into(), "stead".into())],
            mounts: Vec::new(),
            dirs: &config.pod_dirs("u", "n", "p"),
            node: &NodeFacts::for_tests(),
            image_user,
        })
    }

    #[test]
    fn commands_know_the_environment() {
        let config = made(
            json!({"spec": {"containers": [{"name": "c", "image": "i", "command": ["echo", "$(NAME) $(X) $$(NAME)"]}]}}),
            "",
        )
        .expect("a container");
        assert_eq!(config.command, ["echo", "stead $(X) $(NAME)"]);
        assert_eq!((config.name.as_str(), config.attempt), ("c", 2));
    }

    #[test]
    fn limits_become_those_of_a_cgroup() {
        let resources = |resources: Value| {
            let pod = json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
            made(pod, "").expect("a container").resources
        };
        let none = resources(json!({}));
        assert_eq!(
            (none.cpu_shares, none.cpu_quota_us, none.memory_limit_bytes),
            (Some(2), None, None)
        );
        let some =
            resources(json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "1500m", "memory": "64Mi"}}));
        assert_eq!((some.cpu_shares, some.cpu_quota_us), (Some(512), Some(150_000)));
        assert_eq!(some.memory_limit_bytes, Some(64 << 20));
        assert_eq!(
            resources(json!({"limits": {"cpu": "1m"}})).cpu_quota_us,
            Some(1000)
        );
    }

    #[test]
    fn a_container_may_have_to_be_someone_but_root() {
        let of = |user: Value, image_user: &str| {
            let security = json!({"runAsNonRoot": true, "runAsUser": user});
            made(
                json!({"spec": {"securityContext": security, "containers": [{"name": "c"}]}}),
                image_user,
            )
            .map(|config| config.user.uid)
            .map_err(|error| error.to_string())
        };
        assert_eq!(of(json!(1000), ""), Ok(Some(UserName::Id(1000))));
        assert_eq!(of(Value::Null, "1000"), Ok(None));
        let as_root = "container has runAsNonRoot and image will run as root (pod: \"p_n(u)\", container: c)"
            .to_owned();
        assert_eq!(of(Value::Null, ""), Err(as_root));
        let asks = "container's runAsUser breaks non-root policy (pod: \"p_n(u)\", container: c)".to_owned();
        assert_eq!(of(json!(0), "1000"), Err(asks));
        assert!(of(Value::Null, "nginx").is_err_and(|error| error.contains("non-numeric user (nginx)")));
    }

    #[test]
    fn a_mount_of_the_pods_own_hides_the_nodes_file() {
        let config = made(
            json!({"spec": {"containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/etc/hosts"}]}]}}),
            "",
        )
        .expect("a container");
        assert!(
            !config
                .mounts
                .iter()
                .any(|mount| mount.target == Path::new("/etc/hosts"))
        );
        assert!(
            config
                .mounts
                .iter()
                .any(|mount| mount.target == Path::new("/etc/resolv.conf"))
        );
        assert!(
            config
                .mounts
                .iter()
                .any(|mount| mount.target == Path::new("/dev/termination-log"))
        );
    }

    #[test]
    fn the_kernel_kills_best_effort_pods_first() {
        let score = |qos: &str| {
            let pod = json!({
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"memory": "512Mi"}}}]},
                "status": {"qosClass": qos},
            });
            made(pod, "").expect("a container").oom_score_adj
        };
        assert_eq!(
            (score("Guaranteed"), score("Burstable"), score("BestEffort")),
            (Some(-997), Some(500), Some(1000))
        );
    }
}
