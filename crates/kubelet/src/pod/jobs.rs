//! What a pod's worker has done for it, each in a task of its own: volumes, sandbox, images,
//! containers, and the end of them. A job reads the pod and tells the worker what came of it
//! ([`Done`]); it changes nothing the planner reads.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, LifecycleHandler, ObjectReference, Pod, PodStatus, Secret};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use stead_informer::{EventType, Key, reference};
use stead_network::pod_files::{self, DnsConfig, DnsPolicy, HostAlias, PodDns, ResolvConf};
use stead_runtime::config::{IpcMode, Mount, NetworkMode, PidMode, PodConfig};
use stead_runtime::{ContainerInfo, ExecConfig, StartError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::container::{Given, container_config, mount};
use super::env::{Sources, environment, expand, references};
use super::observed::Image;
use super::signals;
use super::wanted::{find, wanted};
use crate::config::PodDirs;
use crate::images::{self, ImageError};
use crate::node::Node;
use crate::probe::port_number;
use crate::volume::{self, Volumes, resolve_sub_path};

/// Keeps the pod's address with its sandbox, for a server that takes it over.
pub(crate) const ADDRESS: &str = "stead.dev/address";

/// What came of a job.
pub(crate) enum Done {
    Volumes(Result<Volumes, String>),
    Sandbox(Result<(stead_runtime::Pod, Option<Ipv4Addr>), String>),
    Image(String, Result<Image, ImageError>),
    Started(String, Result<ContainerInfo, StartFailure>),
    /// The job that stops a container has nothing more to do; the exit itself is told by the runtime.
    Stopped,
    TakenDown(Result<(), String>),
    Finalized(Result<(), String>),
    StatusWritten(Box<PodStatus>, Result<(), kube::Error>),
}

/// How far a container came that was not started, or not well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotStarted {
    /// There never was one.
    Refused,
    /// It was made, but its program cannot be run; its start counts as an attempt (`StartError`).
    Command,
    /// It ran, but its hook failed, and it is told to end.
    Hook,
}

/// Why a container was not started.
pub(crate) struct StartFailure {
    /// As its waiting state shows it.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) kind: NotStarted,
    /// The image is gone, and is to be looked for again.
    pub(crate) no_image: bool,
}

/// The start of a container.
pub(crate) struct Start {
    pub(crate) sandbox: stead_runtime::Pod,
    pub(crate) name: String,
    pub(crate) attempt: u32,
    pub(crate) volumes: Volumes,
    pub(crate) address: Option<Ipv4Addr>,
    /// Cancelled when the pod begins to end: no hook is waited for then.
    pub(crate) ending: CancellationToken,
}

/// The stop of a container.
pub(crate) struct Stop {
    pub(crate) sandbox: stead_runtime::Pod,
    pub(crate) name: String,
    pub(crate) id: String,
    /// When it is killed.
    pub(crate) deadline: watch::Receiver<Instant>,
    /// Cancelled when it has ended.
    pub(crate) exited: CancellationToken,
}

/// A pod, and what its jobs need. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Jobs {
    pub(crate) node: Arc<Node>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) dirs: PodDirs,
}

impl Jobs {
    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Records an event about the pod, or about one of its containers.
    pub(crate) fn record(
        &self,
        container: Option<&str>,
        event_type: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let place =
            container.and_then(|name| find(&self.pod, name).map(|(_, list)| format!("{list}{{{name}}}")));
        let about = ObjectReference {
            field_path: place,
            ..reference(&*self.pod)
        };
        self.node.recorder.record(about, event_type, reason, message);
    }

    pub(crate) async fn set_up_volumes(self) -> Done {
        let result = volume::set_up(&self.node, &self.pod, &self.dirs).await;
        Done::Volumes(result.map_err(|error| error.to_string()))
    }

    pub(crate) async fn start_sandbox(self) -> Done {
        let result = self.sandbox().await;
        if let Err(message) = &result {
            let message = format!("Failed to create pod sandbox: {message}");
            self.record(None, EventType::Warning, "FailedCreatePodSandBox", message);
        }
        Done::Sandbox(result)
    }

    async fn sandbox(&self) -> Result<(stead_runtime::Pod, Option<Ipv4Addr>), String> {
        let spec = self.pod.spec.clone().unwrap_or_default();
        let on_host = spec.host_network.unwrap_or(false);
        let address = if on_host {
            self.node.config.node_ip
        } else {
            self.node.allocate().map_err(|e| e.to_string())?
        };
        let made = self.make_sandbox(address, on_host).await;
        if made.is_err() && !on_host {
            self.node.release(address);
        }
        made.map(|pod| (pod, Some(address)))
    }

    async fn make_sandbox(&self, address: Ipv4Addr, on_host: bool) -> Result<stead_runtime::Pod, String> {
        let spec = self.pod.spec.clone().unwrap_or_default();
        let hostname = self.hostname();
        self.write_files(address, on_host, &hostname)
            .map_err(|error| error.to_string())?;
        let mut config = PodConfig::new(self.uid(), self.namespace(), self.name());
        config.hostname = hostname;
        if on_host {
            config.network = NetworkMode::Host;
        }
        if spec.host_pid == Some(true) {
            config.pid = PidMode::Host;
        } else if spec.share_process_namespace == Some(true) {
            config.pid = PidMode::Pod;
        }
        if spec.host_ipc == Some(true) {
            config.ipc = IpcMode::Host;
        }
        let sysctls = spec
            .security_context
            .iter()
            .flat_map(|security| security.sysctls.iter().flatten());
        config.sysctls = sysctls
            .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
            .collect();
        config.annotations.insert(ADDRESS.to_owned(), address.to_string());
        let pod = self
            .node
            .runtime
            .create_pod(config)
            .await
            .map_err(|error| error.to_string())?;
        if on_host {
            return Ok(pod);
        }
        let (network, uid, sandbox) = (self.node.network.clone(), self.uid().to_owned(), pod.clone());
        let attached = tokio::task::spawn_blocking(move || {
            let netns = sandbox
                .netns()
                .ok_or_else(|| "the sandbox has no network of its own".to_owned())?;
            network
                .attach(&uid, netns, address)
                .map(|_| ())
                .map_err(|error| with_causes(&error))
        });
        match attached.await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(()) => Ok(pod),
            Err(message) => {
                // Nothing of a sandbox without network is to stay.
                if let Err(error) = pod.remove().await {
                    tracing::warn!(pod = self.name(), %error, "a sandbox without network was not removed");
                }
                Err(format!("failed to setup network for sandbox: {message}"))
            }
        }
    }

    /// The pod's host name: its own field, or its name cut to what a host name may be.
    fn hostname(&self) -> String {
        let spec = self.pod.spec.as_ref();
        let own = spec
            .and_then(|spec| spec.hostname.clone())
            .filter(|name| !name.is_empty());
        let mut name = own.unwrap_or_else(|| self.name().to_owned());
        name.truncate(63);
        let name = name.trim_end_matches(['-', '.']).to_owned();
        match (
            self.domain_name(),
            spec.and_then(|spec| spec.set_hostname_as_fqdn),
        ) {
            (Some(domain), Some(true)) => format!("{name}.{domain}"),
            _ => name,
        }
    }

    fn domain_name(&self) -> Option<String> {
        let subdomain = self
            .pod
            .spec
            .as_ref()?
            .subdomain
            .as_deref()
            .filter(|name| !name.is_empty())?;
        Some(format!(
            "{subdomain}.{}.svc.{}",
            self.namespace(),
            self.node.config.cluster_domain
        ))
    }

    /// Writes what all containers share: `hosts`, `resolv.conf`, `hostname`.
    fn write_files(&self, address: Ipv4Addr, on_host: bool, hostname: &str) -> std::io::Result<()> {
        let spec = self.pod.spec.clone().unwrap_or_default();
        let config = &self.node.config;
        let aliases: Vec<HostAlias> = spec
            .host_aliases
            .iter()
            .flatten()
            .map(|alias| HostAlias {
                ip: alias.ip.clone(),
                hostnames: alias.hostnames.clone().unwrap_or_default(),
            })
            .collect();
        let hosts = if on_host {
            pod_files::host_network_hosts(&fs::read_to_string("/etc/hosts").unwrap_or_default(), &aliases)
        } else {
            pod_files::pod_hosts(
                &[address.into()],
                hostname,
                self.domain_name().as_deref(),
                &aliases,
            )
        };
        let dns = spec.dns_config.unwrap_or_default();
        let wanted = PodDns {
            policy: match spec.dns_policy.as_deref() {
                Some("Default") => DnsPolicy::Default,
                Some("None") => DnsPolicy::None,
                Some("ClusterFirstWithHostNet") => DnsPolicy::ClusterFirstWithHostNet,
                _ => DnsPolicy::ClusterFirst,
            },
            host_network: on_host,
            namespace: self.namespace(),
            cluster_domain: &config.cluster_domain,
            cluster_dns: &[config.cluster_dns],
            config: DnsConfig {
                nameservers: dns.nameservers.unwrap_or_default(),
                searches: dns.searches.unwrap_or_default(),
                options: dns
                    .options
                    .into_iter()
                    .flatten()
                    .map(|option| (option.name.unwrap_or_default(), option.value))
                    .collect(),
            },
        };
        let (resolv_conf, _) = ResolvConf::for_pod(&config.resolv_conf, &wanted);
        let files = [
            ("hosts", hosts),
            ("resolv.conf", resolv_conf.render()),
            ("hostname", format!("{hostname}\n")),
        ];
        for (name, text) in files {
            let path = self.dirs.file(name);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        }
        Ok(())
    }

    pub(crate) async fn pull_image(self, name: String) -> Done {
        let Some((container, _)) = find(&self.pod, &name) else {
            return Done::Stopped;
        };
        let image = container.image.clone().unwrap_or_default();
        let policy = container.image_pull_policy.clone().unwrap_or_default();
        let record =
            |event_type, reason: &str, message| self.record(Some(&name), event_type, reason, message);
        let result = images::ensure(&self.node, &self.pod, &image, &policy, record).await;
        Done::Image(name, result)
    }

    pub(crate) async fn start_container(self, start: Start) -> Done {
        let result = self.start(&start).await;
        if let Err(failure) = &result
            && failure.kind != NotStarted::Hook
        {
            let message = format!("Error: {}", failure.message);
            self.record(Some(&start.name), EventType::Warning, "Failed", message);
        }
        Done::Started(start.name, result)
    }

    async fn start(&self, start: &Start) -> Result<ContainerInfo, StartFailure> {
        let Start {
            sandbox,
            name,
            attempt,
            volumes,
            address,
            ending,
        } = start;
        let attempt = *attempt;
        let refused = |message: String| StartFailure {
            reason: "CreateContainerConfigError",
            message,
            kind: NotStarted::Refused,
            no_image: false,
        };
        let (container, _) = find(&self.pod, name).ok_or_else(|| refused(format!("no container {name}")))?;
        // The address may not have reached the API yet, but variables may refer to it.
        let mut pod = Pod::clone(&self.pod);
        if let Some(address) = address {
            let status = pod.status.get_or_insert_default();
            status.pod_ip = Some(address.to_string());
            status.pod_ips = Some(vec![k8s_openapi::api::core::v1::PodIP {
                ip: address.to_string(),
            }]);
        }
        let sources = self
            .sources(container)
            .await
            .map_err(|error| refused(api_message(&error)))?;
        let env = environment(&pod, container, &sources, &self.node.facts)
            .map_err(|error| refused(error.to_string()))?;
        let mounts = self.mounts(container, volumes, &env).map_err(refused)?;
        let image = self
            .node
            .images
            .resolve(container.image.as_deref().unwrap_or_default())
            .ok()
            .flatten();
        let image_user = image.map(|image| image.config.run.user).unwrap_or_default();
        self.make_files(name, attempt)
            .map_err(|error| refused(error.to_string()))?;
        let config = container_config(Given {
            pod: &pod,
            container,
            attempt,
            env,
            mounts,
            dirs: &self.dirs,
            node: &self.node.facts,
            image_user: &image_user,
        })
        .map_err(|error| refused(error.to_string()))?;
        let info = match sandbox.start_container(config).await {
            Ok(info) => info,
            Err(error) => return Err(self.start_failure(name, error)),
        };
        self.record(
            Some(name),
            EventType::Normal,
            "Created",
            format!("Created container {name}"),
        );
        self.record(
            Some(name),
            EventType::Normal,
            "Started",
            format!("Started container {name}"),
        );
        let hook = container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.post_start.as_ref());
        let Some(hook) = hook else { return Ok(info) };
        let ran = tokio::select! {
            biased;
            () = ending.cancelled() => Ok(()),
            ran = self.run_hook(sandbox, name, &info.id, hook) => ran,
        };
        match ran {
            Ok(()) => Ok(info),
            Err(message) => {
                self.end_after_hook(sandbox, name, &info.id).await;
                let (reason, kind) = ("PostStartHookError", NotStarted::Hook);
                Err(StartFailure {
                    reason,
                    message,
                    kind,
                    no_image: false,
                })
            }
        }
    }

    /// Ends a container whose hook failed; its policy says what follows. What the hook said is not for
    /// events, as there may be secrets in it.
    async fn end_after_hook(&self, sandbox: &stead_runtime::Pod, name: &str, id: &str) {
        self.record(
            Some(name),
            EventType::Warning,
            "FailedPostStartHook",
            "PostStartHook failed",
        );
        self.record(Some(name), EventType::Normal, "Killing", "FailedPostStartHook");
        let grace = wanted(&self.pod, false, false).grace;
        let (_sender, mut deadline) = watch::channel(Instant::now() + grace);
        let exited = self.node.end_of_container(sandbox, id);
        self.ask_then_kill(sandbox, name, id, &mut deadline, &exited)
            .await;
    }

    fn start_failure(&self, name: &str, error: StartError) -> StartFailure {
        let no_image = matches!(error, StartError::NoImage(_));
        let counts = matches!(error, StartError::Command(_) | StartError::Failed(_));
        if counts {
            self.record(
                Some(name),
                EventType::Normal,
                "Created",
                format!("Created container {name}"),
            );
        }
        StartFailure {
            reason: if counts {
                "RunContainerError"
            } else {
                "CreateContainerError"
            },
            message: with_causes(&error),
            kind: if counts {
                NotStarted::Command
            } else {
                NotStarted::Refused
            },
            no_image,
        }
    }

    /// The objects that a container's environment refers to.
    async fn sources(
        &self,
        container: &k8s_openapi::api::core::v1::Container,
    ) -> Result<Sources, kube::Error> {
        let mut sources = Sources::default();
        let (config_maps, secrets) = references(container);
        let client = || self.node.client.clone();
        for name in config_maps {
            let api: Api<ConfigMap> = Api::namespaced(client(), self.namespace());
            if let Some(object) = api.get_opt(name).await? {
                sources.config_maps.insert(name.to_owned(), Arc::new(object));
            }
        }
        for name in secrets {
            let api: Api<Secret> = Api::namespaced(client(), self.namespace());
            if let Some(object) = api.get_opt(name).await? {
                sources.secrets.insert(name.to_owned(), Arc::new(object));
            }
        }
        let services = &self.node.informers.services;
        sources.services = services.in_namespace(self.namespace());
        sources
            .services
            .extend(services.get(&Key::new("default", "kubernetes")));
        Ok(sources)
    }

    fn mounts(
        &self,
        container: &k8s_openapi::api::core::v1::Container,
        volumes: &Volumes,
        env: &[(String, String)],
    ) -> Result<Vec<Mount>, String> {
        let lookup = |name: &str| {
            env.iter()
                .find(|(other, _)| other == name)
                .map(|(_, value)| value.clone())
        };
        container
            .volume_mounts
            .iter()
            .flatten()
            .map(|wanted| {
                let prepared = volumes.by_name.get(&wanted.name).ok_or_else(|| {
                    format!(
                        "cannot find volume \"{}\" to mount into container \"{}\"",
                        wanted.name, container.name
                    )
                })?;
                let sub_path = match (&wanted.sub_path_expr, &wanted.sub_path) {
                    (Some(expression), _) if !expression.is_empty() => expand(expression, lookup),
                    (_, Some(path)) => path.clone(),
                    _ => String::new(),
                };
                let path = if sub_path.is_empty() {
                    prepared.path.clone()
                } else {
                    resolve_sub_path(&prepared.path, &sub_path).map_err(|error| {
                        format!(
                            "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {error}",
                            wanted.name, container.name
                        )
                    })?
                };
                Ok(mount(wanted, &path, prepared.read_only))
            })
            .collect()
    }

    /// The files of one attempt: where it logs, and where it leaves its last words.
    fn make_files(&self, name: &str, attempt: u32) -> std::io::Result<()> {
        let log = self.dirs.log(name, attempt);
        let last_words = self.dirs.termination_log(name, attempt);
        for path in [&log, &last_words] {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
        }
        fs::write(&last_words, "")?;
        fs::set_permissions(&last_words, fs::Permissions::from_mode(0o666))?;
        // Logs and last words of attempts before the last one are of no use any more.
        if let Some(old) = attempt.checked_sub(2) {
            for path in [self.dirs.log(name, old), self.dirs.termination_log(name, old)] {
                remove_if_there(&path)?;
            }
        }
        Ok(())
    }

    /// Runs the hook, if any, then asks the container to stop, and ends it when its time is over.
    /// The time may be cut short meanwhile.
    pub(crate) async fn stop_container(self, stop: Stop) -> Done {
        let Stop {
            sandbox,
            name,
            id,
            mut deadline,
            exited,
        } = stop;
        let container = find(&self.pod, &name).map(|(container, _)| container);
        let lifecycle = container.and_then(|container| container.lifecycle.as_ref());
        if let Some(hook) = lifecycle.and_then(|lifecycle| lifecycle.pre_stop.as_ref()) {
            tokio::select! {
                biased;
                () = exited.cancelled() => {}
                () = past(&mut deadline) => {}
                result = self.run_hook(&sandbox, &name, &id, hook) => {
                    if let Err(message) = result {
                        tracing::debug!(container = name, message, "a hook failed");
                        self.record(Some(&name), EventType::Warning, "FailedPreStopHook", "PreStopHook failed");
                    }
                }
            }
        }
        self.ask_then_kill(&sandbox, &name, &id, &mut deadline, &exited)
            .await;
        Done::Stopped
    }

    /// Asks a container to stop, and ends it when its time is over.
    async fn ask_then_kill(
        &self,
        sandbox: &stead_runtime::Pod,
        name: &str,
        id: &str,
        deadline: &mut watch::Receiver<Instant>,
        exited: &CancellationToken,
    ) {
        if let Err(error) = sandbox.signal(id, self.stop_signal(name), false).await {
            tracing::debug!(container = name, %error, "a container was not asked to stop");
        }
        tokio::select! {
            biased;
            () = exited.cancelled() => {}
            () = past(deadline) => {
                if let Err(error) = sandbox.signal(id, signals::kill(), true).await {
                    tracing::debug!(container = name, %error, "a container was not killed");
                }
            }
        }
    }

    /// What asks a container to stop: its own signal, or its image's.
    fn stop_signal(&self, name: &str) -> i32 {
        let container = find(&self.pod, name).map(|(container, _)| container);
        let lifecycle = container.and_then(|container| container.lifecycle.as_ref());
        let own = lifecycle.and_then(|lifecycle| lifecycle.stop_signal.clone());
        let images = || {
            let image = container
                .and_then(|container| container.image.as_deref())
                .unwrap_or_default();
            self.node
                .images
                .resolve(image)
                .ok()
                .flatten()
                .map(|image| image.config.run.stop_signal)
        };
        own.or_else(images)
            .and_then(|signal| signals::parse(&signal))
            .unwrap_or_else(signals::term)
    }

    /// Runs a lifecycle hook in or against a container.
    pub(crate) async fn run_hook(
        &self,
        sandbox: &stead_runtime::Pod,
        name: &str,
        id: &str,
        hook: &LifecycleHandler,
    ) -> Result<(), String> {
        let failed = |kind: &str, what: &str, error: &str, output: &str| {
            format!(
                "{kind} lifecycle hook ({what}) for Container \"{name}\" in Pod \"{}_{}({})\" failed - error: {error}, message: {output:?}",
                self.name(),
                self.namespace(),
                self.uid(),
            )
        };
        if let Some(exec) = &hook.exec {
            let command = exec.command.clone().unwrap_or_default();
            let shown = command.join(" ");
            let listed = format!("[{shown}]");
            return match sandbox.exec_sync(id, ExecConfig::new(command), None, 4096).await {
                Ok(output) if output.exit_code == 0 => Ok(()),
                Ok(output) => {
                    let error = format!(
                        "command '{shown}' exited with {}: {}",
                        output.exit_code,
                        String::from_utf8_lossy(&output.stderr)
                    );
                    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
                    Err(failed("Exec", &listed, &error, &text))
                }
                Err(error) => Err(failed("Exec", &listed, &error.to_string(), "")),
            };
        }
        if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
            return Ok(());
        }
        if let Some(http) = &hook.http_get {
            let container = find(&self.pod, name).map(|(container, _)| container);
            let port = container
                .and_then(|container| port_number(&http.port, container))
                .ok_or("the hook's port is unknown")?;
            let probe = crate::probe::Probe {
                kind: crate::probe::Kind::Liveness,
                target: crate::probe::Target::Http {
                    https: http.scheme.as_deref() == Some("HTTPS"),
                    host: http.host.clone().filter(|host| !host.is_empty()),
                    port,
                    path: http.path.clone().unwrap_or_else(|| "/".to_owned()),
                    headers: http
                        .http_headers
                        .iter()
                        .flatten()
                        .map(|h| (h.name.clone(), h.value.clone()))
                        .collect(),
                },
                initial_delay: Duration::ZERO,
                period: Duration::from_secs(1),
                timeout: Duration::from_secs(30),
                success_threshold: 1,
                failure_threshold: 1,
                grace: None,
            };
            let address = sandbox
                .config()
                .annotations
                .get(ADDRESS)
                .and_then(|ip| ip.parse().ok());
            let ip = address.unwrap_or(self.node.config.node_ip);
            let prober = crate::probe::Prober {
                pod: sandbox.clone(),
                container: id.to_owned(),
                ip: ip.into(),
            };
            return match crate::probe::check(&prober, &probe).await {
                crate::probe::Outcome::Success => Ok(()),
                crate::probe::Outcome::Failure(why) => {
                    Err(failed("HTTP", http.path.as_deref().unwrap_or("/"), &why, ""))
                }
            };
        }
        Ok(())
    }

    /// Takes network, shim and mounts down; what is on disk stays.
    pub(crate) async fn take_down(self, address: Option<Ipv4Addr>) -> Done {
        let (network, uid) = (self.node.network.clone(), self.uid().to_owned());
        if let Some(sandbox) = self.node.runtime.pod(&uid)
            && let Err(error) = sandbox.stop().await
        {
            return Done::TakenDown(Err(error.to_string()));
        }
        let detached = tokio::task::spawn_blocking(move || network.detach(&uid)).await;
        if let Ok(Err(error)) = detached {
            return Done::TakenDown(Err(with_causes(&error)));
        }
        if let Some(address) = address.filter(|address| *address != self.node.config.node_ip) {
            self.node.release(address);
        }
        Done::TakenDown(volume::tear_down(&self.dirs).map_err(|error| error.to_string()))
    }

    /// Removes all that is left of the pod here, and tells the API that it is over.
    pub(crate) async fn finalize(self, gone: bool) -> Done {
        Done::Finalized(self.end(gone).await)
    }

    async fn end(&self, gone: bool) -> Result<(), String> {
        if let Some(pod) = self.node.runtime.pod(self.uid()) {
            pod.remove().await.map_err(|error| error.to_string())?;
        } else {
            self.node
                .runtime
                .remove_dead(self.uid())
                .await
                .map_err(|error| error.to_string())?;
        }
        let dirs = self.dirs.clone();
        let removed = tokio::task::spawn_blocking(move || {
            [dirs.data(), dirs.run(), dirs.logs()]
                .into_iter()
                .try_for_each(remove_dir_if_there)
        });
        removed
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        if gone {
            return Ok(());
        }
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: self.pod.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let api: Api<Pod> = Api::namespaced(self.node.client.clone(), self.namespace());
        match api.delete(self.name(), &params).await {
            Ok(_) => Ok(()),
            // Gone already, or another pod of the name is there: this one is over.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Writes a status, as a patch of what differs from the one the API is known to have.
    pub(crate) async fn write_status(self, old: PodStatus, new: PodStatus) -> Done {
        let Some(patch) = super::patch::status_patch(&self.pod, &old, &new) else {
            return Done::StatusWritten(Box::new(new), Ok(()));
        };
        let api: Api<Pod> = Api::namespaced(self.node.client.clone(), self.namespace());
        let result = api
            .patch_status(self.name(), &PatchParams::default(), &Patch::Strategic(&patch))
            .await;
        Done::StatusWritten(Box::new(new), result.map(|_| ()))
    }
}

/// Waits until a deadline that may still be moved has passed.
async fn past(deadline: &mut watch::Receiver<Instant>) {
    loop {
        let at = *deadline.borrow_and_update();
        tokio::select! {
            () = sleep_until(at) => return,
            changed = deadline.changed() => {
                if changed.is_err() {
                    return sleep_until(at).await;
                }
            }
        }
    }
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove_dir_if_there(path: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// An error with all that lies behind it.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

fn api_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
