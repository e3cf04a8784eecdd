//! The pod's sandbox: its namespaces, its network, and the files that all its containers share.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;

use stead_informer::EventType;
use stead_network::pod_files::{self, DnsConfig, DnsPolicy, HostAlias, PodDns, ResolvConf};
use stead_runtime::config::{IpcMode, NetworkMode, PidMode, PodConfig};

use super::{ADDRESS, Done, Jobs, with_causes};

impl Jobs {
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
}
